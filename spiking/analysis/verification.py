"""How a spiking network differs from its ANN: output by output as the task wants it, and layer by layer."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np

from spiking.analysis.accuracy import Spread
from spiking.analysis.tasks import LINEAR, SIGMOID, Output, Task, task_of
from spiking.folding.graph import FoldedGraph
from spiking.network.model import SpikingModel
from spiking.network.records import ACTIVITIES
from spiking.shown import Shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputDifference:
    """How one output of a spiking network differs from the ANN's; NaN where there was nothing to compare.

    Attributes:
        images: how many were compared: those for which the ANN gives finite numbers.
        ann_invalid: images for which the ANN gives NaN or infinity, not compared.
        snn_invalid: compared images for which the SNN gives NaN or infinity.
        same_class: share of images (for maps: of positions) with the same class; for units that say yes or no the
            share that says the same. None where the output names no classes: see `spiking/analysis/tasks.py`; and for
            one unit without sigmoid if the ANN's outputs lie all on one side of 0.
        r_squared: 1 − Σ(ANN − SNN)²/Σ(ANN − its mean)², summed over units, the mean per unit.
        relative_error: Σ|SNN − ANN|/Σ|ANN|.
        mean_difference, largest_difference: |SNN − ANN|.
        per: what `same_class` is a share of.
    """

    images: int
    ann_invalid: int
    snn_invalid: int
    same_class: float | None
    r_squared: float
    relative_error: float
    mean_difference: float
    largest_difference: float
    per: str

    def __str__(self):
        told = [] if self.same_class is None else [f"{self.per} {self.same_class:.2%}"]
        told += [f"R² {self.r_squared:.4g}", f"relative error {self.relative_error:.2%}"]
        if self.ann_invalid:
            told.append(f"the ANN gives NaN or infinity for {self.ann_invalid} images, which are left out")
        if self.snn_invalid:
            told.append(f"the SNN gives NaN or infinity for {self.snn_invalid} images")
        return ", ".join(told)


class OutputComparison:
    """Compares one output of two networks, streamed.

    Args:
        output: what it says.
    """

    def __init__(self, output: Output):
        self.output = output
        self.images = self.ann_invalid = self.snn_invalid = 0
        self.same = self.compared = 0
        self.sides = set()
        self.spread = Spread()
        self.absolute = self.squared = self.size = self.largest = 0.0
        self.values = 0

    def update(self, expected, actual) -> None:
        """Takes one batch in: what the ANN gave and what the SNN gave, `(batch, *shape)`."""
        expected, actual = self.output.values(expected), self.output.values(actual)
        valid = np.isfinite(expected.reshape(len(expected), -1)).all(axis=1)
        self.ann_invalid += int(np.sum(~valid))
        expected, actual = expected[valid].astype(np.float64), actual[valid].astype(np.float64)
        if not len(expected):
            return
        self.images += len(expected)
        self.snn_invalid += int(np.sum(~np.isfinite(actual.reshape(len(actual), -1)).all(axis=1)))
        same = self._same(expected, actual)
        if same is not None:
            self.same += int(same.sum())
            self.compared += same.size
        difference = np.abs(actual - expected)
        self.spread.update(expected)
        self.absolute += float(difference.sum())
        self.squared += float((difference**2).sum())
        self.size += float(np.abs(expected).sum())
        self.largest = float(np.maximum(self.largest, difference.max()))  # NaN stays
        self.values += difference.size

    @property
    def says_yes_or_no(self) -> bool:
        """Whether each unit is compared with its threshold."""
        return self.output.group == SIGMOID or (
            self.output.flat and self.output.units == 1 and self.output.group == LINEAR
        )

    def _same(self, expected, actual) -> np.ndarray | None:
        """Where both say the same; None for outputs that name no classes."""
        if self.output.names_classes:
            return (expected.argmax(-1) == actual.argmax(-1)) & ~np.isnan(actual).any(-1)
        if not self.says_yes_or_no:
            return None
        yes = expected > self.output.threshold
        self.sides |= set(np.unique(yes))
        return (yes == (actual > self.output.threshold)) & ~np.isnan(actual)

    def result(self) -> OutputDifference:
        """The difference over all batches."""
        both_sides = self.output.group == SIGMOID or len(self.sides) > 1
        names = self.output.names_classes or (self.says_yes_or_no and both_sides)
        per = "the same class on" if self.output.flat else "the same class at positions:"
        if self.says_yes_or_no:
            per = f"on the same side of {self.output.threshold:g}:"
        count = self.values or np.nan
        return OutputDifference(
            images=self.images,
            ann_invalid=self.ann_invalid,
            snn_invalid=self.snn_invalid,
            same_class=(self.same / self.compared if self.compared else np.nan) if names else None,
            r_squared=float(self.spread.explained(self.squared)),
            relative_error=self.absolute / (self.size or np.nan),
            mean_difference=self.absolute / count,
            largest_difference=self.largest if self.values else np.nan,
            per=per,
        )


class Comparison:
    """Compares the outputs of two networks, streamed.

    Args:
        task: what they answer.
    """

    def __init__(self, task: Task):
        self.task = task
        self.outputs = {name: OutputComparison(output) for name, output in task.outputs.items()}

    def update(self, expected, actual) -> None:
        """Takes one batch in: what ANN and SNN gave, in the structure of the outputs."""
        expected, actual = self.task.named(expected), self.task.named(actual)
        for name, comparison in self.outputs.items():
            comparison.update(expected[name], actual[name])

    def result(self) -> dict[str, OutputDifference]:
        """Output -> its difference; warns of what the ANN cannot say."""
        found = {name: comparison.result() for name, comparison in self.outputs.items()}
        for name, output in found.items():
            if output.ann_invalid:
                logger.warning(
                    "The ANN gives NaN or infinity in output '%s' for %d images, which are not compared.",
                    name, output.ann_invalid,
                )  # fmt: skip
        return found


def least_same_class(outputs: dict[str, OutputDifference]) -> float | None:
    """The smallest `same_class` of outputs that name classes; None if none does."""
    shares = [output.same_class for output in outputs.values() if output.same_class is not None]
    return float(np.min(shares)) if shares else None


def described(outputs: dict[str, OutputDifference]) -> str:
    """The differences in words, a line for each output where there are several."""
    if len(outputs) == 1:
        return str(next(iter(outputs.values())))
    return "\n" + "\n".join(f"  {name}: {output}" for name, output in outputs.items())


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """How a spiking network differs from its ANN on some images.

    Attributes:
        images: how many.
        outputs: output -> how it differs.
        folding_error: largest difference between the folded network's output and the ANN's, relative to the largest
            output; it is rounding.
        layers: for each hidden layer, the mean absolute difference between SNN activity and ANN activation, relative
            to the mean activation.
    """

    images: int
    outputs: dict[str, OutputDifference]
    folding_error: float
    layers: dict[str, float]

    @property
    def same_class(self) -> float | None:
        """Share of images on which both name the same class, of several outputs the smallest; None without classes."""
        return least_same_class(self.outputs)

    @property
    def r_squared(self) -> float:
        """How much of the ANN's output the SNN explains, at most 1; of several outputs the smallest."""
        return float(np.min([output.r_squared for output in self.outputs.values()]))

    @property
    def relative_error(self) -> float:
        """Σ|SNN − ANN|/Σ|ANN|; of several outputs the largest."""
        return float(np.max([output.relative_error for output in self.outputs.values()]))

    @property
    def largest_difference(self) -> float:
        """Of the outputs, absolute."""
        return float(np.max([output.largest_difference for output in self.outputs.values()]))

    @property
    def mean_difference(self) -> float:
        """Of the outputs, absolute; of several the largest."""
        return float(np.max([output.mean_difference for output in self.outputs.values()]))

    def heading(self) -> str:
        """How the outputs differ."""
        return (
            f"{self.images} images: {described(self.outputs)}\n"
            f"outputs differ by {self.mean_difference:.2g} on average, {self.largest_difference:.2g} at most; "
            f"folding error {self.folding_error:.1g}"
        )

    def table(self) -> list[tuple[str, str]]:
        """The error of each layer's activity."""
        rows = [(name, f"{error:.2%}") for name, error in self.layers.items()]
        return [("layer", "error of the activity / mean activation"), *rows] if rows else []

    def rows(self) -> list[dict]:
        """The error of each layer's activity, in shares of the mean activation."""
        return [{"layer": name, "error": error} for name, error in self.layers.items()]


def verify(graph: FoldedGraph, snn: SpikingModel, batches: Iterable) -> Verification:
    """Compares a spiking network with the ANN it came from, in one pass; memory does not grow with the images.

    Args:
        graph: the ANN, folded.
        snn: the network made of it.
        batches: of images, checked; `conversion.verify` makes them.
    """
    task = task_of(snn)
    comparison, folding = Comparison(task), FoldingError(task)
    refold = graph.function()
    errors, sizes, images = {}, {}, 0
    for batch in batches:
        expected = keras.tree.map_structure(np.asarray, graph.ann(batch, training=False))
        activities, actual = layer_activities(graph, snn, batch)
        comparison.update(expected, actual)
        folding.update(expected, refold(batch))
        for name, (target, activity) in activities.items():
            errors[name] = errors.get(name, 0.0) + float(np.abs(activity - target).sum(dtype=np.float64))
            sizes[name] = sizes.get(name, 0.0) + float(np.abs(target).sum(dtype=np.float64))
        images += len(keras.tree.flatten(batch)[0])
    layers = {name: errors[name] / (sizes[name] or 1.0) for name in errors}
    return Verification(images, comparison.result(), folding.result(), layers)


class FoldingError:
    """The largest difference between folded network and ANN, relative to the ANN's largest output; streamed."""

    def __init__(self, task: Task):
        self.task = task
        self.difference = self.size = 0.0

    def update(self, expected, refolded) -> None:
        """Takes one batch in; what is not finite in the ANN is left out."""
        expected, refolded = self.task.named(expected), self.task.named(refolded)
        for name, output in self.task.outputs.items():
            target, found = output.values(expected[name]), output.values(refolded[name])
            finite = np.isfinite(target)
            if finite.any():
                self.difference = float(np.maximum(self.difference, np.abs(found - target)[finite].max()))
                self.size = max(self.size, float(np.abs(target[finite]).max()))

    def result(self) -> float:
        """Of all outputs together."""
        return self.difference / max(self.size, 1e-30)


def layer_activities(graph, snn: SpikingModel, images) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], object]:
    """ANN and SNN side by side for one batch.

    Returns:
        Hidden layer that both have -> (ANN activation, SNN activity), in the ANN's units, `(batch, …)`; and the SNN's
        output.
    """
    simulation = snn.simulate(images, ACTIVITIES)
    targets = graph.function(every_node=True)(images)
    pairs = {
        name: (targets[name].numpy(), snn.activity(name, activities))
        for name, activities in simulation.activities.items()
        if name in targets
    }
    return pairs, simulation.output


def all_layer_activities(graph, snn: SpikingModel, batches: Iterable) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`layer_activities` of all batches, concatenated: everything is kept."""
    parts = [layer_activities(graph, snn, batch)[0] for batch in batches]
    return {name: tuple(np.concatenate([part[name][k] for part in parts]) for k in (0, 1)) for name in parts[0]}
