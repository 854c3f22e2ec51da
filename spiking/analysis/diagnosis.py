"""Why a spiking network differs from its ANN: the error of each layer split by cause, and what to change.

How errors are measured and split is told in `layer_errors.py`; how they become findings, causes with advice, in
`advice.py`.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from spiking.analysis.advice import BATCH_NORM, Conversion, Finding, best_step, in_order, of_curve, of_layers
from spiking.analysis.layer_errors import PARTS, LayerErrors, LayerErrorSums
from spiking.analysis.tasks import Task, task_of
from spiking.analysis.verification import Comparison, OutputDifference, described, least_same_class
from spiking.folding.graph import FoldedGraph, Image
from spiking.folding.reader import rerun
from spiking.network.model import SpikingModel
from spiking.network.records import ACTIVITIES, READOUTS
from spiking.shown import Shown, or_dash

# From what size wrong statistics are reported: of the mean in standard deviations, of these as ln of their ratio.
BATCH_NORM_LIMIT = 0.5
SMALL_BATCH = 32  # statistics over fewer images say little


@dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """What is wrong with a converted network.

    Attributes:
        outputs: output -> how it differs, see `spiking/analysis/verification.py`.
        layers: the split error of each layer of neurons, in order.
        findings: what to cure first comes first: where time harms or lacks, as measured on the whole network, then the
            worst layer. Empty for a healthy network.
        per_step: the share of the images that are right, or without labels of the same class as the ANN's, had the
            simulation ended at each step, `(timesteps,)`; None without classes.
        labelled: whether `per_step` is the share that is right.
    """

    images: int
    outputs: dict[str, OutputDifference]
    layers: list[LayerErrors]
    findings: list[Finding]
    per_step: np.ndarray | None = None
    labelled: bool = False

    @property
    def share(self) -> str:
        """What `per_step` is the share of."""
        return "right on" if self.labelled else "the same class on"

    @property
    def same_class(self) -> float | None:
        """Share of the images on which ANN and SNN name the same class, of several outputs the smallest; None without
        classes."""
        return least_same_class(self.outputs)

    def heading(self) -> str:
        """How the outputs differ, and how many are right after the last and the best step."""
        head = f"{self.images} images, {described(self.outputs)}"
        if self.per_step is not None:
            step = best_step(self.per_step)
            head += f"; {self.share} {self.per_step[-1]:.1%} at the end, {self.per_step[step - 1]:.1%} at the best "
            head += f"step, {step} of {len(self.per_step)}"
        return head

    def table(self) -> list[tuple[str, ...]]:
        """The error of each layer of neurons, split by cause."""
        rows = [(each.name, *(or_dash(getattr(each, part), ".1%") for part in PARTS)) for each in self.layers]
        return [("layer", *PARTS), *rows]

    def closing(self) -> str:
        """The findings."""
        found = [f"{number}. {finding}" for number, finding in enumerate(self.findings, 1)] or ["none"]
        return "\n".join(["Findings, what to cure first:", *found])

    def rows(self) -> list[dict]:
        """The error of each layer, in shares."""
        return [{"layer": each.name, **{part: getattr(each, part) for part in PARTS}} for each in self.layers]


class BatchNormCheck:
    """Compares the moving statistics of BatchNorm layers with those of their inputs.

    The ANN's graph is run with every BatchNorm normalising by its batch's own statistics, so that one wrong layer does
    not spoil what the next ones get.

    Args:
        ann: the ANN; None for no check.
    """

    def __init__(self, ann):
        self.layers = batch_normalizations(ann) if ann is not None else {}
        self.ann = ann
        self.sums = {}  # id of a layer -> number of images, Σ mean, Σ square per channel, weighted by the images

    def update(self, images) -> None:
        """Adds a batch of images."""
        count = len(keras.tree.flatten(images)[0])
        if not self.layers or (self.sums and count < SMALL_BATCH):
            return
        rerun(self.ann, images, {kl.BatchNormalization: self._observe})

    def _observe(self, layer, x):
        """What a BatchNorm gives for its batch; its statistics are taken down."""
        axis = layer.axis % x.shape.rank
        x = tf.cast(x, layer.compute_dtype)
        mean, variance = tf.nn.moments(x, [n for n in range(x.shape.rank) if n != axis], keepdims=True)
        count, means, squares = self.sums.get(id(layer), (0, 0.0, 0.0))
        mu, var = (values.numpy().astype(np.float64).ravel() for values in (mean, variance))
        n = int(x.shape[0])
        self.sums[id(layer)] = (count + n, means + n * mu, squares + n * (var + mu**2))
        gamma, beta = (None if w is None else tf.reshape(w, mean.shape) for w in (layer.gamma, layer.beta))
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, layer.epsilon)

    def findings(self) -> list[Finding]:
        """The BatchNorm layers whose statistics are not those of their inputs."""
        found = []
        for name, layer in self.layers.items():
            if id(layer) not in self.sums:
                continue
            count, means, squares = self.sums[id(layer)]
            mean = means / count
            variance = np.maximum(squares / count - mean**2, 0) + layer.epsilon
            stored = np.asarray(layer.moving_variance, np.float64) + layer.epsilon
            shift = float(np.sqrt(np.mean((np.asarray(layer.moving_mean) - mean) ** 2 / variance)))
            stretch = float(np.sqrt(np.mean((np.log(stored / variance) / 2) ** 2)))
            if max(shift, stretch) > BATCH_NORM_LIMIT:
                evidence = (
                    f"Its moving mean is {shift:.2g} standard deviations away from the mean of its inputs, its "
                    f"standard deviation wrong by a factor of {math.exp(stretch):.3g}."
                )
                advice = "Set its moving statistics anew on training images, or train on, with a smaller momentum."
                found.append(Finding(name, BATCH_NORM, max(shift, stretch), evidence, advice))
        return found


def batch_normalizations(model) -> dict[str, kl.BatchNormalization]:
    """The BatchNorm layers of a model and of the models in it, by name."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, kl.BatchNormalization)]
    return {layer.name: layer for layer in layers if isinstance(layer.axis, int)}


class AnswerSums:
    """Streams the share of right answers, or of answers like the ANN's, after each step.

    Args:
        task: what the network answers; its steps are asked for where it names one class, the largest of a vector.
    """

    def __init__(self, task: Task):
        output, *others = task.outputs.values()
        self.asked = not others and output.flat and output.names_classes
        self.right, self.labelled = 0, False

    def update(self, scores: np.ndarray, readouts: np.ndarray, labels) -> None:
        """Adds a batch of the ANN's scores `(batch, classes)`, the SNN's `(timesteps, batch, classes)`, and labels."""
        self.labelled = labels is not None and labels.shape == scores.shape[:1]  # else they are numbers
        wanted = labels if self.labelled else scores.argmax(-1)
        self.right = self.right + np.sum(readouts.argmax(-1) == wanted, axis=1)


def diagnose(graph: FoldedGraph, snn: SpikingModel, batches: Iterable) -> Diagnosis:
    """Compares a spiking network with its ANN layer by layer, in one pass; memory does not grow with the images.

    Args:
        graph: the ANN, folded.
        snn: the network made of it.
        batches: (images, labels) with images `(batch, …)` and class numbers `(batch,)`, or None in place of all labels;
            checked. `conversion.diagnose` makes them.

    Raises:
        ValueError: the two networks do not belong together, or there is no image.
    """
    if list(snn.plan.hidden) != list(graph.hidden):
        raise ValueError(
            f"The SNN must have been converted from this ANN. Received: hidden layers {list(snn.plan.hidden)} for "
            f"{list(graph.hidden)}. Convert it anew."
        )
    code, task = snn.encoding, task_of(snn)
    grid = code.expressible(snn.timesteps)
    sums = {name: LayerErrorSums(name, grid, snn.scales[name]) for name in graph.neurons}
    ann, responses = graph.function(every_node=True), _responses(graph)
    check, comparison, answers, seen = BatchNormCheck(graph.ann), Comparison(task), AnswerSums(task), 0
    record = (ACTIVITIES, READOUTS) if answers.asked else (ACTIVITIES,)
    for images, labels in batches:
        simulation, targets = snn.simulate(images, record), ann(images)
        _add_layers(sums, snn, simulation, targets, functools.partial(responses, graph.flat_images(images)))
        scores = keras.tree.map_structure(targets.__getitem__, graph.outputs)
        comparison.update(scores, simulation.output)
        if answers.asked:
            answers.update(scores.numpy(), simulation.readouts.numpy(), labels)
        check.update(images)
        seen += len(keras.tree.flatten(images)[0])
    if not seen:
        raise ValueError("The diagnosis needs at least one image. Received: none.")
    layers = [each.result() for each in sums.values()]
    corrected = any(row.get("correction") for row in snn.calibration)
    conversion = Conversion(type(code)(), code.get_config(), graph.depth, code.tells_by == "time", corrected)
    per_step = answers.right / seen if answers.asked else None
    found = Diagnosis(seen, comparison.result(), layers, [], per_step, answers.labelled)
    findings = check.findings() + of_layers(layers, conversion)
    if answers.asked and snn.timesteps == code.timesteps:  # one timeline, that may be stopped
        findings += of_curve(per_step, found.same_class, seen, f"The network is {found.share}", conversion)
    return dataclasses.replace(found, findings=in_order(findings, conversion.single_spike))


def _add_layers(sums: dict[str, LayerErrorSums], snn: SpikingModel, simulation, targets, responses) -> None:
    """Adds a batch to the error of every layer of neurons, in units above the layer's floor."""
    activity = {name: snn.activity(name, activities) for name, activities in simulation.activities.items()}
    expected = responses(activity)
    for name, each in sums.items():
        floor = np.asarray(snn.floors.get(name, 0.0), np.float32)
        each.update(*(np.asarray(values) - floor for values in (targets[name], activity[name], expected[name])))


def _responses(graph: FoldedGraph):
    """A function from (images, layer -> SNN activity) to what each layer of the ANN would give for the SNN's inputs."""
    evaluate = {name: node.evaluation("float32", None) for name, node in graph.nodes.items()}

    def run(images, activity):
        values, given = {}, {}
        for name, node in graph.nodes.items():
            heard = [images[node.input]] if isinstance(node, Image) else [values[source] for source in node.sources]
            given[name] = evaluate[name]([tf.cast(x, "float32") for x in heard])
            values[name] = tf.convert_to_tensor(activity[name]) if name in activity else given[name]
        return given

    return tf.function(functools.partial(run), reduce_retracing=True, autograph=False)
