"""Why a spiking network differs from its ANN: the error of each layer split by cause, and what to change.

How errors are measured and split is told in `layer_errors.py`; how they become findings, causes with advice, in
`advice.py`.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from keras import layers as kl

import spiking
from spiking.analysis.advice import BATCH_NORM, Conversion, Finding, best_step, in_order, of_curve, of_layers
from spiking.analysis.layer_errors import PARTS, LayerErrors, LayerErrorSums, levels
from spiking.analysis.tasks import Task, task_of
from spiking.analysis.verification import Comparison, OutputDifference, described, least_same_class
from spiking.folding.reader import FoldedNetwork
from spiking.network.clock import FIRST_SPIKE_TIMES, READOUTS, SPIKE_COUNTS
from spiking.network.model import SpikingSequential

# From what size wrong statistics are reported: of the mean in standard deviations, of these as ln of their ratio.
BATCH_NORM_LIMIT = 0.5
SMALL_BATCH = 32  # statistics over fewer images say little


@dataclass(frozen=True)
class Diagnosis:
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

    def __str__(self):
        width = max([5, *(len(layer.name) for layer in self.layers)])
        rows = [f"{'layer':<{width}}" + "".join(f"{part:>14}" for part in PARTS)]
        for layer in self.layers:
            rows.append(f"{layer.name:<{width}}" + "".join(f"{getattr(layer, part):>14.1%}" for part in PARTS))
        found = [f"{number}. {finding}" for number, finding in enumerate(self.findings, 1)] or ["none"]
        head = f"{self.images} images, {described(self.outputs)}"
        if self.per_step is not None:
            step = best_step(self.per_step)
            head += f"; {self.share} {self.per_step[-1]:.1%} at the end, {self.per_step[step - 1]:.1%} at the best "
            head += f"step, {step} of {len(self.per_step)}"
        return "\n".join([head, *rows, "Findings, what to cure first:", *found])


class BatchNormCheck:
    """Compares the moving statistics of BatchNorm layers with those of their inputs.

    Every BatchNorm passes its batch on normalised by the batch's own statistics, so that one wrong layer does not
    spoil what the next ones get.

    Args:
        chain: (name, layer) of the ANN's layers, in order.
    """

    def __init__(self, chain: Sequence[tuple]):
        last = max((n for n, (_, layer) in enumerate(chain) if isinstance(layer, kl.BatchNormalization)), default=-1)
        self.chain = chain[: last + 1]
        self.sums = {}  # name -> number of images, Σ mean, Σ square per channel, weighted by the images

    def update(self, images: np.ndarray) -> None:
        if not self.chain or (self.sums and len(images) < SMALL_BATCH):
            return
        x = tf.convert_to_tensor(images)
        for name, layer in self.chain:
            if not isinstance(layer, kl.BatchNormalization):
                x = layer(x, training=False) if layer._call_has_training_arg else layer(x)
                continue
            axis = layer.axis % x.shape.rank
            mean, variance = tf.nn.moments(x, [n for n in range(x.shape.rank) if n != axis], keepdims=True)
            count, means, squares = self.sums.get(name, (0, 0.0, 0.0))
            mu, var = (values.numpy().astype(np.float64).ravel() for values in (mean, variance))
            n = len(images)
            self.sums[name] = (count + n, means + n * mu, squares + n * (var + mu**2))
            gamma, beta = (None if w is None else tf.reshape(w, mean.shape) for w in (layer.gamma, layer.beta))
            x = tf.nn.batch_normalization(x, mean, variance, beta, gamma, layer.epsilon)

    def findings(self) -> list[Finding]:
        """The BatchNorm layers whose statistics are not those of their inputs."""
        found = []
        for name, layer in self.chain:
            if name not in self.sums or not isinstance(layer, kl.BatchNormalization):
                continue
            count, means, squares = self.sums[name]
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


def diagnose(folded: FoldedNetwork, snn: SpikingSequential, chain: Sequence[tuple], batches: Iterable) -> Diagnosis:
    """Compares a spiking network with its ANN layer by layer, in one pass; memory does not grow with the images.

    Args:
        folded: the ANN, folded.
        snn: the network made of it.
        chain: (name, layer) of the ANN's own layers, in order, for their BatchNorm statistics.
        batches: (images, labels) with images `(batch, …)` and class numbers `(batch,)`, or None in place of all labels;
            checked. `conversion.diagnose` makes them.

    Raises:
        ValueError: the two networks do not belong together, or there is no image.
    """
    hidden, stages = snn.hidden_layers, folded.stages[:-1]
    if [layer.name for layer in hidden] != [stage.name for stage in stages]:
        raise ValueError(
            "The SNN must have been converted from this ANN. Received: hidden layers "
            f"{[layer.name for layer in hidden]} for {[stage.name for stage in stages]}. Convert it anew."
        )
    code, settings = spiking.get_encoding(snn.encoding), snn.settings
    grid = levels(code, settings, snn.timesteps)
    every_stage = folded.function(every_stage=True)
    alone = [FoldedNetwork(stage.chain.input_shape, [], [stage]).function() for stage in stages]
    sums = [LayerErrorSums(stage.name, grid, scale) for stage, scale in zip(stages, snn.scales, strict=True)]
    check, seen, comparison, answers = BatchNormCheck(chain), 0, Comparison(task_of(snn)), AnswerSums(task_of(snn))
    record = (SPIKE_COUNTS, FIRST_SPIKE_TIMES, READOUTS)[: 3 if answers.asked else 2]
    for images, labels in batches:
        simulation = snn.simulate(images, record)
        *targets, scores = (values.numpy() for values in every_stage(images))
        inputs = snn.layers[0].preprocess(tf.convert_to_tensor(images, snn.compute_dtype))
        spikes = zip(simulation.spike_counts, simulation.first_spike_times, strict=True)
        for each, stage, run, target, (counts, times) in zip(sums, stages, alone, targets, spikes, strict=True):
            activity = np.asarray(code.activity(counts, times, settings)) * each.scale
            if stage.holds_neurons:
                each.update(target, activity, run(inputs).numpy())
            inputs = tf.convert_to_tensor(activity, snn.compute_dtype)
        comparison.update(scores, simulation.output)
        if answers.asked:
            answers.update(scores, simulation.readouts.numpy(), labels)
        check.update(images)
        seen += len(images)
    if not seen:
        raise ValueError("The diagnosis needs at least one image. Received: none.")
    layers = [each.result() for each, stage in zip(sums, stages, strict=True) if stage.holds_neurons]
    single_spike = bool(np.ptp(np.asarray(code.activity(np.arange(1.0, 3.0), np.ones(2), settings))) == 0)
    conversion = Conversion(code, settings, folded.depth, single_spike)
    per_step = answers.right / seen if answers.asked else None
    found = Diagnosis(seen, comparison.result(), layers, [], per_step, answers.labelled)
    findings = check.findings() + of_layers(layers, conversion)
    if answers.asked and snn.timesteps == settings["timesteps"]:  # one timeline, that may be stopped
        findings += of_curve(per_step, found.same_class, seen, f"The network is {found.share}", conversion)
    return dataclasses.replace(found, findings=in_order(findings, single_spike))
