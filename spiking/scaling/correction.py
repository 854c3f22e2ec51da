"""Corrections of calibrated scales, without retraining: what rounding to N levels did to a network is fitted away.

Neurons that round their potential to levels make a network whose layers are all slightly off, and the errors add up. A
correction changes, per channel, three numbers and no kernel: the potential becomes gain·(W∗x + b) + shift, and λ, the
activation for which the highest level stands. It is fitted on the calibration images, without their labels, on the
folded network with its activations rounded; that is what the SNN computes (`ttfs_exact`) or comes near to (`rate`).
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from spiking.checks import check_choice
from spiking.folding.activations import straight_through_levels
from spiking.folding.graph import FoldedGraph
from spiking.scaling.calibration import Calibration
from spiking.scaling.portions import length, portions

logger = logging.getLogger(__name__)

Batches = Callable[[], Iterable[np.ndarray]]

# Passes over the images and Adam's step (falling to 0 along a half cosine) for "output". Measured on VGG, 10000 images.
EPOCHS = 6
LEARNING_RATE = 3e-3
# How often all activations are held at once: ANN and rounded network, and what the gradient needs of the rounding.
COPIES = 4

# How far two outputs are apart, by the ANN's last activation.
LOSSES = {
    keras.activations.softmax: keras.losses.kl_divergence,
    keras.activations.sigmoid: keras.losses.binary_crossentropy,
    keras.activations.linear: keras.losses.mean_squared_error,
}


class RoundedNetwork:
    """The folded network with activations rounded to N levels, and the variables of the correction.

    A potential z becomes p = a·z + c, and that the level clip(⌊(f(p) − floor)/s + ½⌋, 0, N), which stands for s times
    as much above the floor; for f that scale, p is in units of s. a (`slopes`) and s (`steps`) are kept as logarithms,
    a, c (`offsets`) and s have shape (channels,); one variable each by layer name.

    Args:
        folded: the folded network.
        calibration: its scales.
        levels: N.
        full: full activity in units of λ.
    """

    def __init__(self, folded: FoldedGraph, calibration: Calibration, levels: int, full: float):
        self.calibration, self.levels, self.full = calibration, levels, full
        self.spans = {name: node.activation.span for name, node in folded.neurons.items()}
        self.functions = {
            name: node.activation.own_function(node.shape, "float32")
            for name, node in folded.neurons.items()
            if not node.activation.scales
        }
        self.slopes, self.steps, self.offsets = {}, {}, {}
        for name, node in folded.neurons.items():
            channels = node.shape[-1:]
            step = np.log(np.broadcast_to(calibration.layers[name].scale, channels) * full / levels)
            self.slopes[name] = tf.Variable(0 * step if name in self.functions else -step, dtype="float32")
            self.steps[name] = tf.Variable(step, dtype="float32")
            self.offsets[name] = tf.Variable(np.zeros(channels), dtype="float32")
        self.potentials = {}  # of the last call
        self.forward = folded.forward(neurons=self._round)

    def __call__(self, images):
        """What each node gives."""
        self.potentials = {}
        return self.forward(images)

    def _step(self, name) -> tf.Tensor:
        step, span = tf.exp(self.steps[name]), self.spans[name]
        return step if span is None else tf.minimum(step, span / self.levels)

    def _round(self, node, x):
        self.potentials[node.name] = x
        floor = tf.constant(self.calibration.layers[node.name].floor, x.dtype)
        step, clamp = self._step(node.name), node.activation.clamp
        raised = x * tf.exp(self.slopes[node.name]) + self.offsets[node.name]
        if node.name in self.functions:
            raised = (self.functions[node.name](raised) - floor) / step
        else:
            raised -= floor / step
        value = straight_through_levels(raised, float(self.levels)) * step
        return floor + (value if not clamp else tf.where(raised * step > clamp, value, 0))

    @property
    def variables(self) -> list[tf.Variable]:
        """Everything that is fitted."""
        return [*self.slopes.values(), *self.steps.values(), *self.offsets.values()]

    def corrected(self, name: str) -> Calibration:
        """The calibration with scales, gains and shifts as they are now."""
        layers = {}
        for layer, found in self.calibration.layers.items():
            step = self._step(layer).numpy().astype(float)
            unit = 1.0 if layer in self.functions else step
            layers[layer] = replace(
                found,
                scale=step * self.levels / self.full,
                gain=np.exp(self.slopes[layer].numpy().astype(float)) * unit,
                shift=self.offsets[layer].numpy().astype(float) * unit,
            )
        return replace(self.calibration, layers=layers, per_channel=True, levels=self.levels, correction=name)


def fit_shifts(folded, batches: Batches, calibration, levels, full, verbose=0) -> Calibration:
    """Layer after layer: the mean potential of each channel, E[ANN] − E[rounded network], is added to its bias.

    Costs two forward passes for each layer of neurons.
    """
    network = RoundedNetwork(folded, calibration, levels, full)
    potentials = {}
    activations = {name: node.activation.computed(node.shape, "float32") for name, node in folded.neurons.items()}

    def keep(node, x):
        potentials[node.name] = x
        return activations[node.name](x)

    ann = folded.forward(neurons=keep)

    @tf.function(reduce_retracing=True)
    def differences(images):
        potentials.clear()
        ann(images), network(images)
        return {
            name: tf.reduce_mean(tf.reshape(potentials[name] - found, (-1, found.shape[-1])), axis=0)
            for name, found in network.potentials.items()
        }

    progress = keras.utils.Progbar(len(calibration.layers), verbose=verbose, unit_name="layer")
    for name, offset in network.offsets.items():
        mean = 0.0
        for batch in batches():
            for images in portions(batch, folded, COPIES):
                mean += differences(images)[name].numpy() * (length(images) / calibration.images)
        offset.assign(mean * tf.exp(network.slopes[name]))
        progress.add(1)
    return network.corrected("shifts")


def fit_output(folded, batches: Batches, calibration, levels, full, verbose=0) -> Calibration:
    """All layers at once: gains, shifts and λ that bring the output nearest to the ANN's, by gradient descent.

    The loss is the Kullback-Leibler divergence for softmax, the cross-entropy for sigmoid, else the squared error in
    units of the ANN's mean squared output. A step of training for each batch and epoch, in the order of the images.
    What does not come nearer on these images is given back as it was, with a warning.
    """
    network = RoundedNetwork(folded, calibration, levels, full)
    ann = folded.forward()
    count = sum(1 for _ in batches())
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, EPOCHS * count)
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(network.variables)
    units = _output_units(folded, batches)

    def distance(images):
        expected, found = ann(images), network(images)
        return tf.add_n([
            tf.reduce_mean(_loss(node)(expected[name] / units[name], found[name] / units[name]))
            for name, node in folded.read_outs.items()
        ])

    @tf.function(reduce_retracing=True)
    def gradients(images):
        with tf.GradientTape() as tape:
            value = distance(images)
        return value, tape.gradient(value, network.variables)

    @tf.function(autograph=False)
    def step(*sums):  # traced, because one operation after another takes longer than the gradients of a small network
        optimizer.apply_gradients(zip(sums, network.variables, strict=True))

    measured = tf.function(distance, reduce_retracing=True)
    before = _mean(measured, folded, batches)
    progress = keras.utils.Progbar(EPOCHS * count, verbose=verbose)
    for _ in range(EPOCHS):
        for batch in batches():
            total, sums = 0.0, [0.0] * len(network.variables)
            for images in portions(batch, folded, COPIES):
                share = length(images) / length(batch)
                value, found = gradients(images)
                total += share * float(value)
                sums = [before + share * each for before, each in zip(sums, found, strict=True)]
            step(*sums)
            progress.add(1, values=[("divergence", total)])
    after = _mean(measured, folded, batches)
    if not after < before:
        logger.warning("The correction 'output' is left out: its distance from the ANN's output on the calibration "
                       "images is %.3g, without it %.3g.", after, before)  # fmt: skip
        return calibration
    return network.corrected("output")


def _mean(measured, folded, batches: Batches) -> float:
    """The mean over all images of what is measured of some."""
    total, count = 0.0, 0
    for batch in batches():
        for images in portions(batch, folded, COPIES):
            total, count = total + float(measured(images)) * length(images), count + length(images)
    return total / count


def _loss(node) -> Callable:
    """How far two outputs of a read-out are apart."""
    return LOSSES.get(node.activation, keras.losses.mean_squared_error)


def _output_units(folded, batches: Batches) -> dict[str, float]:
    """Read-out -> the root of its mean squared output where squares are compared, else 1: Adam takes gradients near its
    ε, 1e-7, for none, so they must not depend on the output's unit."""
    squared = [name for name, node in folded.read_outs.items() if _loss(node) is keras.losses.mean_squared_error]
    total, count = dict.fromkeys(squared, 0.0), dict.fromkeys(squared, 0)
    run = folded.function(every_node=True)
    for batch in batches() if squared else ():
        for images in portions(batch, folded):
            outputs = run(images)
            for name in squared:
                values = outputs[name].numpy().astype(float)
                total[name] += np.sum(values**2)
                count[name] += values.size
    found = {name: float(np.sqrt(total[name] / count[name])) or 1.0 for name in squared}
    return {name: found.get(name, 1.0) for name in folded.read_outs}


# `correct(folded, batches, calibration, levels, full, verbose) -> Calibration`
CORRECTIONS = {"shifts": fit_shifts, "output": fit_output}
NONE = "none"
CHOICES = (NONE, *CORRECTIONS)
# What is fitted where nobody has chosen and the levels are few, and how many images it takes not to fit chance.
DEFAULT, ENOUGH = "output", 500


def default_correction(code, folded: FoldedGraph, calibration: Calibration) -> str:
    """What is fitted if nothing is said: `DEFAULT` for few levels on enough images, unless the ANN rounds itself.

    Args:
        code: the temporal code, a `spiking.encoding.Encoding`.
        folded: the folded network.
        calibration: made of the images of which the correction would be.
    """
    levels = code.rounding_levels
    if levels is None or levels > code.few_levels or calibration.images < ENOUGH or rounding(folded):
        return NONE
    if tf.distribute.has_strategy():
        logger.warning("Nothing is corrected in the scope of a strategy: take conversion.scales_of outside of it.")
        return NONE
    return DEFAULT


def rounding(folded: FoldedGraph) -> list[str]:
    """The layers of neurons whose ANN rounds its activations itself."""
    return [name for name, node in folded.neurons.items() if node.activation.levels]


def correct(
    correction: str, folded: FoldedGraph, batches: Batches, calibration: Calibration, levels: int, full: float = 1.0,
    verbose: int = 0,
) -> Calibration:  # fmt: skip
    """Fits a correction.

    Args:
        correction: "shifts" or "output".
        folded: the folded network.
        batches: called for each pass, gives the calibration images in batches.
        calibration: the scales to start from.
        levels: N, the number of levels above 0 of a neuron.
        full: full activity in units of λ (the threshold).
        verbose: 1 for a progress bar.

    Returns:
        The calibration with corrected scales, gains and shifts, per channel.

    Raises:
        ValueError: the correction is unknown, or the ANN rounds its activations itself.
    """
    check_choice("correction", correction, tuple(CORRECTIONS))
    if tf.distribute.has_strategy():
        raise ValueError(
            "A correction is fitted on one device, outside the scope of a tf.distribute strategy. Received: "
            f"correction={correction!r} in that of {tf.distribute.get_strategy()}. Call conversion.scales_of outside, "
            "and give what it returns in place of the images."
        )
    if found := rounding(folded):
        raise ValueError(
            f"An ANN that rounds its activations itself needs no correction. Received: correction={correction!r} with "
            f"QuantisedReLU in {found}. Leave the correction out, and take as many time steps as levels."
        )
    return CORRECTIONS[correction](folded, batches, calibration, levels, full, verbose)
