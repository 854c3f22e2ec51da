"""The figures of a run, drawn as each encoding is finished."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spiking.runs import summaries
from spiking.runs.folder import RunFolder
from spiking.runs.results import COMPARISON_FIGURE, COSTS_FIGURE, LEARNING_FIGURE, Result
from spiking.runs.siblings import own

__all__ = ["compared", "costs", "save_figures"]


def save_figures(folder: RunFolder, result: Result, finished: Sequence[Result], image) -> dict[str, Path]:
    """Draws an encoding's figures, and anew the one that compares all encodings finished so far.

    Returns:
        Name -> file.
    """
    plotting = own("plotting")  # matplotlib is needed here only

    encoding, rasters = result.encoding, summaries.rasters(result.snn, image)
    seen = len(next(iter(result.activities.values()))[0])
    figures = {
        f"raster-{encoding}": plotting.plot_spikes_as_eventplot(rasters, title=f"{encoding}: spikes, one test image"),
        f"activity-{encoding}": plotting.ann_snn_correlation(
            result.activities, title=f"{encoding}: activity of ANN and SNN, {seen} test images"
        ),
    }
    if all(each.analysis.accuracy_per_timestep is not None for each in finished):
        figures |= compared(finished)
    curves = {
        label: np.multiply(100, result.ann.history[name])
        for label, name in (("training images", "accuracy"), ("test images", "val_accuracy"))
        if len(result.ann.history.get(name, ())) > 1
    }
    if curves:
        epochs = np.arange(1, 1 + len(next(iter(curves.values()))))
        figures[f"{LEARNING_FIGURE}-{result.ann.name}"] = plotting.repeated_curves(
            epochs, curves, "epoch", "accuracy / %", title=f"Training of the {result.ann.name.replace('ann', 'ANN', 1)}"
        )
    return {name: plotting.save(figure, folder.path / "figures" / f"{name}.png") for name, figure in figures.items()}


def compared(finished: Sequence[Result]) -> dict:
    """The figures that compare encodings: accuracy against the time step, and against what it costs."""
    curves = {each.encoding: each.analysis.accuracy_per_timestep for each in finished}
    first_of = {each.ann.name: each for each in reversed(finished)}  # so that each ANN gets one line
    references = {each.encoding: each.metrics["ann/eval/test"] for each in first_of.values()}
    reference = references if len(references) > 1 else finished[-1].metrics["ann/eval/test"]
    title = "Accuracy on the test images"
    drawn = {COMPARISON_FIGURE: own("plotting").accuracy_per_timestep(curves, reference, title=title)}
    return drawn | ({COSTS_FIGURE: costs(finished)} if len(finished) > 1 else {})


def costs(finished: Sequence[Result]):
    """Accuracy against what it costs; the logarithmic axes show codes with many spikes beside those with few."""
    found = [each.metrics for each in finished]
    latency, operations, accuracy = (
        [each[tag] for each in found] for tag in ("snn/timesteps", "snn/synaptic_operations", "snn/eval/test")
    )
    return own("plotting").pareto_front(
        accuracy,
        latency,
        np.maximum(operations, 1),
        [each.encoding for each in finished],
        title="Accuracy and cost on the test images",
        energy=[1e6 * each["snn/energy"] for each in found],
    )
