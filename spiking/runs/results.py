"""What the steps of an experiment have given so far, and the settings behind it."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spiking.analysis.diagnosis import Diagnosis
from spiking.analysis.statistics import Analysis
from spiking.analysis.verification import Verification
from spiking.encoding import Encoding
from spiking.folding.graph import FoldedGraph
from spiking.network.model import SpikingModel
from spiking.runs import report
from spiking.runs.answers import Answers
from spiking.runs.folder import RunFolder

__all__ = [
    "Ann", "COMPARISON_FIGURE", "COSTS_FIGURE", "HYPERPARAMETERS", "LEARNING_FIGURE", "Result", "activation_key",
    "html_report", "hyperparameters", "is_shared", "versions",
]  # fmt: skip

COMPARISON_FIGURE, COSTS_FIGURE, LEARNING_FIGURE = "accuracy_per_timestep", "costs", "learning"

# Arguments of an experiment that may influence every result; those that are None, for "not used here", are left out.
HYPERPARAMETERS = (
    *("batch_size_ann_training", "batch_size_snn_eval", "epochs", "image_size_rescale"),
    *("image_depth_increase", "max_images", "seed", "hardware", "neuron_updates"),
)


def is_shared(figure: str) -> bool:
    """Whether a figure concerns more than one encoding."""
    return figure in (COMPARISON_FIGURE, COSTS_FIGURE) or figure.startswith(LEARNING_FIGURE)


@dataclass
class Ann:
    """A trained ANN.

    Attributes:
        model: the network.
        name: "ann", or "ann-<encoding>" for the ANN of an encoding that shares none with those before it.
        metrics: its accuracies, once they are measured.
        folded: the network read and folded, once it has been.
        logged_by: the encoding whose TensorBoard log has this network's histograms.
        history: name of a number -> its value after each epoch; empty if the network was not trained now.
    """

    model: keras.Model
    name: str
    metrics: dict[str, float] = field(default_factory=dict)
    folded: FoldedGraph | None = None
    logged_by: str | None = None
    history: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Result:
    """What the steps of the work have given so far for one encoding; `None`: the step has not been taken.

    Attributes:
        encoding: its name.
        settings: of the conversion, completed with the encoding's defaults.
        ann, snn: the networks.
        metrics: tag -> number (settings may be words).
        analysis: what `conversion.snn_activation_analysis` returned.
        diagnosis: what `conversion.diagnose` returned.
        activities: hidden layer -> (ANN, SNN) activations on a few images, while they are logged only.
        figures: name -> the file of a figure.
        answers: of ANN and SNN on some test images.
        verification: how the outputs differ; for networks that an Experiment does not take.
    """

    encoding: str
    settings: dict[str, Any]
    metrics: dict[str, Any]
    ann: Ann | None = None
    snn: SpikingModel | None = None
    analysis: Analysis | None = None
    diagnosis: Diagnosis | None = None
    activities: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)
    answers: Answers | None = None
    verification: Verification | None = None


def activation_key(activation) -> str:
    """Equal keys, equal activations: a name, a Keras layer (whatever its name), or its configuration."""
    if isinstance(activation, keras.layers.Layer):
        activation = [type(activation).__name__, {**activation.get_config(), "name": None}]
    return json.dumps(activation, sort_keys=True, default=str)


def hyperparameters(arguments: Mapping[str, Any], code: Encoding, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in effect for one encoding: those of the conversion, the code's own where the experiment has none,
    and nothing that this code does not use.

    Args:
        arguments: of the experiment, checked.
        code: the encoding.
        settings: of the conversion, as the code has completed them.
    """
    found = {name: arguments[name] for name in HYPERPARAMETERS if arguments[name] is not None}
    for name in ("norm_percentile", "normalisation", "per_channel"):
        found[name] = getattr(code, name) if arguments[name] is None else arguments[name]
    if code.needs_clamp:
        found["beta"] = arguments["beta"]
    rounds = code.configured(**settings).rounding_levels is not None
    found |= {name: arguments[name] for name in ("correction", "training_levels") if rounds and arguments[name]}
    found |= {"activation": arguments["activation"]} if arguments["activation"] else {}
    return {**found, "encoding": code.name, **{name: value for name, value in settings.items() if value is not None}}


def versions() -> dict[str, str]:
    """Versions of what has a say in the numbers."""
    packages = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
    try:
        packages["spiking-toolbox"] = importlib.metadata.version("spiking-toolbox")
    except importlib.metadata.PackageNotFoundError:
        packages["spiking-toolbox"] = "not installed, run from its sources"
    return {"python": platform.python_version(), **packages}


def html_report(folder: RunFolder, finished: Sequence[Result]) -> str:
    """The run as one HTML page; see `spiking/runs/report.py`."""
    sections, common, configuration = [], {}, json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    for each in finished:
        figures = {name: path.read_bytes() for name, path in each.figures.items()}
        common |= {name: figures.pop(name) for name in list(figures) if is_shared(name)}
        found = (each.metrics, each.analysis, each.diagnosis, figures, each.answers, each.verification)
        sections.append(report.section(each.encoding, each.snn, *found))
    first = [name for name in (COMPARISON_FIGURE, COSTS_FIGURE) if name in common]
    common = {name: common[name] for name in dict.fromkeys([*first, *common])}
    return report.render(folder.path.name, sections, common, configuration)
