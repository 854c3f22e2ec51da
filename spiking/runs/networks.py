"""A run's folder, report and TensorBoard log for any converted network: several inputs or outputs, maps, numbers.

An Experiment trains and tests networks that take one image and name a class. This leaves the same for all others, from
the networks and images themselves.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spiking.analysis.accuracy import ann_accuracy
from spiking.analysis.batches import BATCH_SIZE, image_batches, labelled_batches
from spiking.analysis.diagnosis import diagnose
from spiking.analysis.latency import latency
from spiking.analysis.statistics import Analysis, analyse
from spiking.analysis.verification import Verification, all_layer_activities, verify
from spiking.checks import check_name, require
from spiking.folding.graph import FoldedGraph
from spiking.folding.reader import read
from spiking.network.model import SpikingModel
from spiking.runs.figures import save_figures
from spiking.runs.folder import RunFolder
from spiking.runs.results import Ann, Result, html_report, versions
from spiking.runs.summaries import ANALYSIS_METRICS
from spiking.runs.tensorboard import log_comparison, log_to_tensorboard

__all__ = ["labels_of", "report_networks"]

logger = logging.getLogger(__name__)

ACTIVITY_IMAGES = 50  # all their activations are kept


def report_networks(
    ann,
    snns: SpikingModel | Sequence[SpikingModel],
    images,
    labels=None,
    *,
    name: str = "networks",
    results_dir: str | os.PathLike = "experiments",
    tblogs_dir: str | os.PathLike = "tblogs",
    batch_size: int = BATCH_SIZE,
) -> Path:
    """Measures converted networks against their ANN, and leaves report.html, metrics.json, figures, the networks and a
    TensorBoard log, as an Experiment does.

    Args:
        ann: the ANN, or what `conversion.read` made of it.
        snns: what `convert_ann_to_snn` made of it, one network or several.
        images: in any form that `spiking/analysis/batches.py` tells and that can be read several times.
        labels: as `labelled_batches` takes them; None for none. With those of one output that names classes the
            accuracies are told, too.
        name: of the run; a number is put behind that of one that exists.
        results_dir, tblogs_dir: where the folders go.
        batch_size: of arrays.

    Returns:
        The folder, in which report.html shows all.

    Raises:
        ValueError: images, labels and networks do not fit.
        OSError: the folders cannot be written.
    """
    snns = [snns] if isinstance(snns, SpikingModel) else list(snns)
    fits = snns and all(isinstance(snn, SpikingModel) for snn in snns)
    require(fits, "Converted networks are compared", f"snns={snns!r:.200}", "Give what convert_ann_to_snn returned.")
    check_name("name", name)
    graph = read(ann)
    found = Ann(graph.ann, "ann", folded=graph)
    folder = RunFolder.claim(Path(results_dir).absolute(), name, Path(tblogs_dir).absolute(), name)
    labelled = {label: snn for label, snn in zip(labels_of(snns), snns, strict=True)}
    folder.write_json("config.json", _configuration(name, graph, labelled))
    folder.save_model("ann.keras", graph.ann)
    finished: list[Result] = []
    for label, snn in labelled.items():
        logger.info("%s: measured against %s", label, graph.name)
        finished.append(_measured(found, label, snn, images, labels, batch_size))
        folder.save_model(f"snn-{label}.keras", snn)
        few = next(image_batches(images, snn, "images", ACTIVITY_IMAGES))
        few = keras.tree.map_structure(lambda x: x[:ACTIVITY_IMAGES], few)
        finished[-1].activities = all_layer_activities(graph, snn, [few])
        one = keras.tree.map_structure(lambda x: np.asarray(x[0]), few)
        finished[-1].figures = save_figures(folder, finished[-1], finished, one)
        log_to_tensorboard(folder.tblogs / label, finished[-1])
    log_comparison(folder.tblogs / "comparison", finished)
    folder.write_json("metrics.json", {each.encoding: each.metrics for each in finished})
    folder.write_text("report.html", html_report(folder, finished))
    return folder.path


def labels_of(snns: Iterable[SpikingModel]) -> list[str]:
    """The encoding of each, with a number behind the second and later ones."""
    labels: list[str] = []
    for snn in snns:
        times = sum(label.partition("-")[0] == snn.encoding.name for label in labels)
        labels.append(f"{snn.encoding.name}-{times + 1}" if times else snn.encoding.name)
    return labels


def _measured(ann: Ann, label: str, snn: SpikingModel, images, labels, batch_size: int) -> Result:
    """Analysis, diagnosis and numbers of one network."""
    graph, settings = ann.folded, snn.encoding.get_config()
    analysis = analyse(snn, labelled_batches(snn, images, labels, batch_size, required=False), graph)
    verification = verify(graph, snn, image_batches(images, snn, "images", batch_size))
    diagnosis = diagnose(graph, snn, labelled_batches(snn, images, labels, batch_size, required=False))
    metrics = {"experiment/encoding": snn.encoding.name, "experiment/network": graph.name}
    metrics |= {f"experiment/{key}": value for key, value in settings.items() if value is not None}
    metrics |= {"snn/timesteps": snn.timesteps, **_agreement(verification)}
    metrics |= {tag: float(getattr(analysis, attribute)) for tag, attribute in ANALYSIS_METRICS.items()}
    if analysis.accuracy is not None:
        ann.metrics = ann.metrics or {"ann/eval/test": ann_accuracy(graph.ann, images, labels, batch_size)}
        metrics |= _accuracies(analysis, ann.metrics["ann/eval/test"])
    return Result(label, settings, metrics, ann, snn, analysis, diagnosis, verification=verification)


def _agreement(verification: Verification) -> dict[str, float]:
    """The worst of the outputs, and where there are several each of them."""
    found = {"snn/r_squared": verification.r_squared, "snn/relative_error": verification.relative_error}
    if verification.same_class is not None:
        found["snn/same_class"] = verification.same_class
    for name, output in verification.outputs.items() if len(verification.outputs) > 1 else ():
        found[f"snn/r_squared/{name}"] = output.r_squared
        found[f"snn/relative_error/{name}"] = output.relative_error
        if output.same_class is not None:
            found[f"snn/same_class/{name}"] = output.same_class
    return found


def _accuracies(analysis: Analysis, of_ann: float) -> dict[str, float]:
    step = latency(analysis.accuracy_per_timestep, of_ann)
    found = {"ann/eval/test": of_ann, "snn/eval/test": analysis.accuracy, "snn/diff/test": analysis.accuracy - of_ann}
    return found | ({"snn/latency": step} if step else {})


def _configuration(name: str, graph: FoldedGraph, snns: dict[str, SpikingModel]) -> dict[str, Any]:
    """What is needed to tell what the run was."""
    return {
        "name": name,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "network": graph.name,
        "encodings": {label: {"encoding": each.encoding.name, **each.encoding.get_config()}
                      for label, each in snns.items()},
        "versions": versions(),
    }  # fmt: skip
