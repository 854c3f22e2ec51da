"""Accuracy against time: how soon a spiking network is as good as its ANN, and what it gains by stopping early."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from spiking.analysis.tasks import task_of
from spiking.network.model import SpikingModel
from spiking.network.records import READOUTS


def latency(accuracy_per_timestep: np.ndarray, ann_accuracy: float, points: float = 1.0) -> int | None:
    """The time step from which on the SNN stays within some points of the ANN.

    Args:
        accuracy_per_timestep: in [0, 1], shape `(timesteps,)`.
        ann_accuracy: in [0, 1].
        points: of accuracy that may be lost, in percent.

    Returns:
        The step, from 1; None if the accuracy at the end is not within.

    Raises:
        ValueError: an accuracy is not in [0, 1], or `points` is negative.
    """
    accuracies = np.asarray(accuracy_per_timestep, float)
    for name, values in (("accuracy_per_timestep", accuracies), ("ann_accuracy", np.asarray(ann_accuracy))):
        if not np.all((values >= 0) & (values <= 1)):
            raise ValueError(
                f"Accuracies are shares in [0, 1], not percentages. Received: {name} from {values.min():g} to "
                f"{values.max():g}. Divide by 100."
            )
    if not points >= 0:
        raise ValueError(f"points are the points of accuracy that may be lost, at least 0. Received: points={points}")
    # One image in 10⁹ is no difference: 0.98 − 0.97 must count as 1 point.
    outside = np.flatnonzero(accuracies < ann_accuracy - points / 100 - 1e-9)
    step = int(outside[-1]) + 2 if len(outside) else 1
    return step if step <= len(accuracies) else None


@dataclass(frozen=True)
class EarlyExit:
    """What it gives to stop each sample as soon as the margin between its two best scores is safe.

    Attributes:
        margin: difference of the two best scores from which on a sample stops, in the network's output units.
        accuracy: share of samples classified rightly at their own last step, in [0, 1].
        mean_latency: time steps a sample takes, mean.
        stopped_share: share of samples that stop before the simulation ends.
    """

    margin: float
    accuracy: float
    mean_latency: float
    stopped_share: float


def check_margins(margins: float | Sequence[float]) -> np.ndarray:
    """The margins as an array `(margins,)`, once they are known to be positive."""
    values = np.atleast_1d(np.asarray(margins, float))
    if values.ndim != 1 or not len(values) or not np.all(values > 0):
        raise ValueError(
            "A margin is the lead of the best score over the second, a positive number (inf: never stop early). "
            f"Received: margins={margins!r}"
        )
    return values


def exit_steps(readouts: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """The index of the step at which each sample stops.

    Args:
        readouts: the scores after each step, `(timesteps, batch, classes)`, two classes at least.
        margins: shape `(margins,)`.

    Returns:
        Shape `(margins, batch)`; the last step for samples that never lead by the margin.
    """
    two_best = np.partition(readouts, -2, axis=-1)[..., -2:]
    lead = two_best[..., 1] - two_best[..., 0]
    safe = lead[None] >= margins[:, None, None]
    return np.where(safe.any(axis=1), safe.argmax(axis=1), len(readouts) - 1)


def early_exit(
    snn: SpikingModel, batches: Iterable[tuple], margins: float | Sequence[float]
) -> EarlyExit | list[EarlyExit]:
    """Accuracy and mean latency if every sample stops as soon as its margin is safe, for all margins in one pass.

    Memory does not grow with the number of samples; the scores of one batch are kept at every step.

    Args:
        snn: the network, with two classes at least.
        batches: (images, labels), checked; `conversion.snn_early_exit` makes them from arrays and data sets.
        margins: one, or several. In the units of the output: with softmax they are differences of probabilities.

    Returns:
        An `EarlyExit`, or a list with one per margin.

    Raises:
        ValueError: a margin is not positive, there is one class only, or there is no image.
    """
    values = check_margins(margins)
    outputs = list(task_of(snn).outputs.values())
    if len(outputs) > 1 or not outputs[0].flat or outputs[0].units < 2:
        raise ValueError(
            "An early exit compares the two best classes. Received: a network with "
            f"{', '.join(map(str, outputs))}. Take one with one flat output of two or more classes."
        )
    right, steps, stopped, samples = np.zeros(len(values)), np.zeros(len(values)), np.zeros(len(values)), 0
    for images, labels in batches:
        if labels.ndim > 1 or labels.dtype.kind == "f":
            raise ValueError(
                f"An early exit is right or wrong about a class. Received: labels of shape {labels.shape} and dtype "
                f"{labels.dtype}. Give class numbers, one per image."
            )
        readouts = snn.simulate(images, (READOUTS,)).readouts.numpy()
        exits = exit_steps(readouts, values)
        classes = readouts.argmax(-1)
        right += np.sum(classes[exits, np.arange(len(labels))] == labels, axis=1)
        steps += np.sum(exits + 1, axis=1)
        stopped += np.sum(exits < len(readouts) - 1, axis=1)
        samples += len(labels)
    if not samples:
        raise ValueError("An early exit needs at least one image. Received: none.")
    results = [
        EarlyExit(*(float(number) for number in row))
        for row in zip(values, right / samples, steps / samples, stopped / samples, strict=True)
    ]
    return results[0] if np.ndim(margins) == 0 else results
