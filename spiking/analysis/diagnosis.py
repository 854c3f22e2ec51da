"""Why a spiking network differs from its ANN: the error of each layer split by cause, and what to change.

How errors are measured and split is told in `layer_errors.py`; here they become findings: causes with advice.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from spiking.analysis.layer_errors import PARTS, LayerErrors, LayerErrorSums, levels
from spiking.analysis.tasks import task_of
from spiking.analysis.verification import Comparison, OutputDifference, described, least_same_class
from spiking.encoding import Encoding
from spiking.folding.graph import FoldedGraph, Image
from spiking.folding.reader import rerun
from spiking.network.model import SpikingModel
from spiking.network.records import FIRST_SPIKE_TIMES, SPIKE_COUNTS

# What a finding can name.
BATCH_NORM = "batch_norm"
DEAD = "dead"
CLIPPING = "clipping"
SCALE = "scale"
THRESHOLD = "threshold"
TIMESTEPS = "timesteps"
ARRIVAL = "arrival"
CODE = "code"
ACCUMULATED = "accumulated"
CAUSES = (BATCH_NORM, DEAD, CLIPPING, SCALE, THRESHOLD, TIMESTEPS, ARRIVAL, CODE, ACCUMULATED)

# From what size a local error is reported, and the whole error of the last layer, relative to the layer's activation.
# In networks that keep the ANN's accuracy they are half that or less (benchmarks/diagnosis.py).
LIMIT = 0.1
ACCUMULATED_LIMIT = 0.2
# From what share of lost activation a layer is reported as silent, though its inputs may be too wrong to lose much.
SILENT_LIMIT = 0.5
# λ is to blame from this many times the largest activation on; on other images than those of calibration it varies.
SCALE_LIMIT = 1.5
# The same for BatchNorm, in standard deviations (of the mean) and as ln of the ratio of standard deviations.
BATCH_NORM_LIMIT = 0.5
SMALL_BATCH = 32  # statistics over fewer images say little


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        cause: one of `CAUSES`.
        severity: size of the error, relative to the layer's activation; for BatchNorm in standard deviations.
        evidence: the numbers it rests on.
        advice: what to change.
    """

    layer: str
    cause: str
    severity: float
    evidence: str
    advice: str

    def __str__(self):
        return f"{self.layer}: {self.cause} ({self.severity:.2g}). {self.evidence} {self.advice}"


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a converted network.

    Attributes:
        outputs: output -> how it differs, see `spiking/analysis/verification.py`.
        layers: the split error of each layer of neurons, in order.
        findings: worst first; empty for a healthy network.
    """

    images: int
    outputs: dict[str, OutputDifference]
    layers: list[LayerErrors]
    findings: list[Finding]

    @property
    def same_class(self) -> float | None:
        """Share of the images on which ANN and SNN name the same class, of several outputs the smallest; None without
        classes."""
        return least_same_class(self.outputs)

    def __str__(self):
        width = max([5, *(len(layer.name) for layer in self.layers)])
        rows = [f"{'layer':<{width}}" + "".join(f"{part:>14}" for part in PARTS)]
        for layer in self.layers:
            rows.append(f"{layer.name:<{width}}" + "".join(f"{getattr(layer, part):>14.1%}" for part in PARTS))
        found = [f"{number}. {finding}" for number, finding in enumerate(self.findings, 1)] or ["none"]
        head = f"{self.images} images, {described(self.outputs)}"
        return "\n".join([head, *rows, "Findings, worst first:", *found])


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


def _dead(layer: LayerErrors) -> Finding:
    return Finding(
        layer.name, DEAD, 1.0, "No neuron of it is active in the ANN on any image.",
        "Look at its weights and biases; train the ANN anew.",
    )  # fmt: skip


def _clipping(layer: LayerErrors) -> Finding:
    covered = 100 * (1 - layer.clipped_share)
    return Finding(
        layer.name, CLIPPING, layer.clipping,
        f"Its ceiling is {layer.ceiling:.3g}, the {covered:.4g}th percentile of its activations, which reach "
        f"{layer.largest:.3g}.",
        f"Convert with a norm_percentile of at least {min(100.0, max(99.9, 100 - layer.clipped_share)):.4g} and with "
        "calibration images like these.",
    )  # fmt: skip


def _coarseness(layer: LayerErrors) -> float:
    """What too few levels and too little time cost a layer, relative to its activation."""
    return max(layer.quantisation, layer.lost, layer.lost_share if layer.lost_share > SILENT_LIMIT else 0.0)


def _resolution(layer: LayerErrors, code: Encoding) -> Finding:
    """Too few levels where the activations are: which setting is farthest from where it should be?"""
    threshold, timesteps, usual = code.threshold, code.timesteps, type(code)()
    farthest = {
        THRESHOLD: threshold / usual.threshold,
        TIMESTEPS: usual.timesteps / timesteps,
        SCALE: layer.scale / layer.largest / SCALE_LIMIT,
    }
    cause = max(farthest, key=farthest.get) if max(farthest.values()) > 1 else TIMESTEPS
    severity = _coarseness(layer)  # above the limit, or there were no finding
    needed = math.ceil(timesteps * severity / LIMIT)
    advice = {
        THRESHOLD: f"Lower threshold={threshold:g} towards {usual.threshold:g}, or take more time steps than "
        f"{timesteps}.",
        TIMESTEPS: f"Take about {max(needed, usual.timesteps)} time steps.",
        SCALE: f"Its full activity, {layer.scale:.3g}, is {layer.scale / layer.largest:.2g} times the largest "
        "activation: convert with a lower norm_percentile, or with calibration images like these.",
    }
    return Finding(
        layer.name, cause, severity,
        f"Rounding to what threshold={threshold:g} and {timesteps} time steps can express costs "
        f"{layer.quantisation:.1%}; neurons that stay silent cost {layer.lost:.1%}, {layer.lost_share:.1%} of the "
        "activation belongs to them.",
        advice[cause],
    )  # fmt: skip


def _arrival(layer: LayerErrors, single_spike: bool, code: Encoding) -> Finding:
    advice, settings = [], code.get_config()
    if settings.get("reset", "subtract") != "subtract":
        advice.append('Take reset="subtract", which keeps what is above the threshold.')
    if settings.get("tau", math.inf) < math.inf:
        advice.append("Take tau=inf: the leak loses what comes early.")
    if settings.get("max_rate", 1.0) < 1:
        advice.append(f"Raise max_rate={settings['max_rate']:g}: few input spikes make noise.")
    if single_spike:
        advice.append("Neurons fire before all their inputs have come: take a code that waits, such as ttfs_exact.")
    elif not advice:
        advice.append(f"Take more than {code.timesteps} time steps, or initial_potential=0.5.")
    return Finding(
        layer.name, ARRIVAL, layer.arrival,
        f"Given its own inputs it errs by {layer.arrival:.1%} beyond rounding, {layer.scatter:.1%} of the activation "
        "without being consistent, so they come unevenly or too early.",
        " ".join(advice),
    )  # fmt: skip


def _code(layer: LayerErrors) -> Finding:
    return Finding(
        layer.name, CODE, layer.arrival,
        f"Given its own inputs it errs by {layer.arrival:.1%} beyond rounding, but all neurons alike (scatter "
        f"{layer.scatter:.1%}): the time of its spikes keeps the order of the activations, not their proportion.",
        "No setting changes it; take a code in proportion to the activation, such as ttfs_exact.",
    )  # fmt: skip


def _accumulated(layers: Sequence[LayerErrors], code: Encoding) -> Finding:
    """No layer errs much by itself, but together they do: the layer that adds most, and by which part."""
    parts = ("clipping", "quantisation", "lost", "arrival")
    worst = max(layers, key=lambda layer: max(getattr(layer, part) for part in parts))
    part = max(parts, key=lambda part: getattr(worst, part))
    remedy = "raise norm_percentile" if part == CLIPPING else f"take more than {code.timesteps} time steps"
    return Finding(
        worst.name, ACCUMULATED, layers[-1].error,
        f"Small errors add up to {layers[-1].error:.1%} in '{layers[-1].name}'; this layer adds most, "
        f"{getattr(worst, part):.1%} by {part}.",
        f"In the first place {remedy}; set full activity per channel (per_channel=True); or take another encoding.",
    )  # fmt: skip


def findings(layers: Sequence[LayerErrors], code: Encoding) -> list[Finding]:
    """The faults of the layers of neurons, worst first.

    What follows from another fault is left out: uneven arrival behind a layer that speaks too coarsely (few, heavy
    spikes; a single spike is none the heavier for being rounded), the curve of a code where a high threshold or
    few time steps bend it, and clipping no larger than the rounding, which a λ
    of least square error chooses for few levels.

    Args:
        layers: in order.
        code: of the conversion, with its settings; single spikes tell by their time.
    """
    usual, single_spike = type(code)(), code.tells_by == "time"
    unusual = code.threshold > usual.threshold or code.timesteps < usual.timesteps
    found, coarse = [], False
    for layer in layers:
        if not layer.activation:
            found.append(_dead(layer))
            continue
        if layer.clipping > max(LIMIT, layer.quantisation):
            found.append(_clipping(layer))
        if _coarseness(layer) > LIMIT:
            found.append(_resolution(layer, code))
            coarse = True
        if layer.arrival > LIMIT and single_spike and layer.scatter <= LIMIT:
            found += [] if coarse and unusual else [_code(layer)]
        elif layer.arrival > LIMIT and (single_spike or not coarse):
            found.append(_arrival(layer, single_spike, code))
    if not found and layers and layers[-1].error > ACCUMULATED_LIMIT:
        found.append(_accumulated(layers, code))
    return sorted(found, key=lambda finding: -finding.severity)


def diagnose(graph: FoldedGraph, snn: SpikingModel, batches: Iterable) -> Diagnosis:
    """Compares a spiking network with its ANN layer by layer, in one pass; memory does not grow with the images.

    Args:
        graph: the ANN, folded.
        snn: the network made of it.
        batches: of images `(batch, …)`, checked; `conversion.diagnose` makes them.

    Raises:
        ValueError: the two networks do not belong together, or there is no image.
    """
    if list(snn.plan.hidden) != list(graph.hidden):
        raise ValueError(
            f"The SNN must have been converted from this ANN. Received: hidden layers {list(snn.plan.hidden)} for "
            f"{list(graph.hidden)}. Convert it anew."
        )
    code = snn.encoding
    grid = levels(code, snn.timesteps)
    sums = {name: LayerErrorSums(name, grid, snn.scales[name]) for name in graph.neurons}
    ann, check, seen = graph.function(every_node=True), BatchNormCheck(graph.ann), 0
    comparison = Comparison(task_of(snn))
    responses = _responses(graph)
    for images in batches:
        simulation, targets = snn.simulate(images, (SPIKE_COUNTS, FIRST_SPIKE_TIMES)), ann(images)
        activity = {
            name: snn.activity(name, counts, simulation.first_spike_times[name])
            for name, counts in simulation.spike_counts.items()
        }
        expected = responses(graph.flat_images(images), activity)
        for name, each in sums.items():
            floor = np.asarray(snn.floors.get(name, 0.0), np.float32)
            each.update(*(np.asarray(x) - floor for x in (targets[name], activity[name], expected[name])))
        comparison.update(keras.tree.map_structure(targets.__getitem__, graph.outputs), simulation.output)
        check.update(images)
        seen += len(keras.tree.flatten(images)[0])
    if not seen:
        raise ValueError("The diagnosis needs at least one image. Received: none.")
    layers = [each.result() for each in sums.values()]
    found = check.findings() + findings(layers, code)
    return Diagnosis(seen, comparison.result(), layers, sorted(found, key=lambda finding: -finding.severity))


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
