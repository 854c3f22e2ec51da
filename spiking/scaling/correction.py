"""Corrections of calibrated scales, without retraining: what rounding to N levels did to a network is fitted away.

Neurons that round their potential to levels make a network whose layers are all slightly off, and the errors add up. A
correction changes, per channel, three numbers and no kernel: the potential becomes gain·(W∗x + b) + shift, and λ, the
activation for which the highest level stands. It is fitted on the calibration images, without their labels, on the
folded network with its activations rounded; that is what the SNN computes (`ttfs_exact`) or comes near to (`rate`).
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from spiking.checks import check_choice
from spiking.folding.reader import FoldedNetwork
from spiking.quantisation import straight_through_levels
from spiking.scaling.calibration import Calibration

Batches = Callable[[], Iterable[np.ndarray]]

# Passes over the images and Adam's step (falling to 0 along a half cosine) for "output". Measured on VGG, 10000 images.
EPOCHS = 6
LEARNING_RATE = 3e-3

# How far two outputs are apart, by the ANN's last activation.
LOSSES = {
    keras.activations.softmax: keras.losses.kl_divergence,
    keras.activations.sigmoid: keras.losses.binary_crossentropy,
    keras.activations.linear: keras.losses.mean_squared_error,
}


class RoundedNetwork:
    """The folded network with activations rounded to N levels, and the variables of the correction.

    A potential z becomes the level clip(⌊a·z + c + ½⌋, 0, N), which stands for s times as much: a (`slopes`) and s
    (`steps`) are kept as logarithms, a, c (`offsets`) and s have shape (channels,) in each layer.

    Args:
        folded: the folded network.
        calibration: its scales.
        levels: N.
        full: full activity in units of λ.
    """

    def __init__(self, folded: FoldedNetwork, calibration: Calibration, levels: int, full: float):
        self.folded, self.calibration, self.levels, self.full = folded, calibration, levels, full
        self.stages = [stage for stage in folded.stages if stage.holds_neurons]
        self.slopes, self.steps, self.offsets = [], [], []
        for stage, layer in zip(self.stages, calibration.layers, strict=True):
            channels = stage.output_shape[-1:]
            step = np.log(np.broadcast_to(layer.scale, channels) * full / levels)
            self.slopes.append(tf.Variable(-step, dtype="float32"))
            self.steps.append(tf.Variable(step, dtype="float32"))
            self.offsets.append(tf.Variable(np.zeros(channels), dtype="float32"))
        self.potentials = []  # of the last call
        self.forward = folded.forward(rectify=self._round)

    def __call__(self, images):
        """What each stage gives."""
        self.potentials = []
        return self.forward(images)

    def _step(self, index) -> tf.Tensor:
        step, ceiling = tf.exp(self.steps[index]), self.stages[index].ceiling
        return step if ceiling is None else tf.minimum(step, ceiling / self.levels)

    def _round(self, index, stage, x):
        self.potentials.append(x)
        step = self._step(index)
        raised = x * tf.exp(self.slopes[index]) + self.offsets[index]
        value = straight_through_levels(raised, float(self.levels)) * step
        return value if not stage.clamp else tf.where(raised * step > stage.clamp, value, 0)

    @property
    def variables(self) -> list[tf.Variable]:
        """Everything that is fitted."""
        return [*self.slopes, *self.steps, *self.offsets]

    def corrected(self, name: str) -> Calibration:
        """The calibration with scales, gains and shifts as they are now."""
        layers = []
        for index, layer in enumerate(self.calibration.layers):
            step = self._step(index).numpy().astype(float)
            layers.append(
                replace(
                    layer,
                    scale=step * self.levels / self.full,
                    gain=np.exp(self.slopes[index].numpy().astype(float)) * step,
                    shift=self.offsets[index].numpy().astype(float) * step,
                )
            )
        return replace(self.calibration, layers=layers, per_channel=True, levels=self.levels, correction=name)


def fit_shifts(folded, batches: Batches, calibration, levels, full, verbose=0) -> Calibration:
    """Layer after layer: the mean potential of each channel, E[ANN] − E[rounded network], is added to its bias.

    Costs two forward passes for each layer of neurons.
    """
    network = RoundedNetwork(folded, calibration, levels, full)
    potentials = []

    def keep(index, stage, x):
        potentials.append(x)
        return stage.rectify(x)

    ann = folded.forward(rectify=keep)

    @tf.function(reduce_retracing=True)
    def differences(images):
        potentials.clear()
        ann(images), network(images)
        return [
            tf.reduce_mean(tf.reshape(expected - found, (-1, found.shape[-1])), axis=0)
            for expected, found in zip(potentials, network.potentials, strict=True)
        ]

    progress = keras.utils.Progbar(len(calibration.layers), verbose=verbose, unit_name="layer")
    for index, (slope, offset) in enumerate(zip(network.slopes, network.offsets, strict=True)):
        mean = sum(len(images) * differences(images)[index].numpy() for images in batches()) / calibration.images
        offset.assign(mean * tf.exp(slope))
        progress.add(1)
    return network.corrected("shifts")


def fit_output(folded, batches: Batches, calibration, levels, full, verbose=0) -> Calibration:
    """All layers at once: gains, shifts and λ that bring the output nearest to the ANN's, by gradient descent.

    The loss is the Kullback-Leibler divergence for softmax, the cross-entropy for sigmoid, else the squared error. A
    step of training for each batch and epoch, in the order of the images.
    """
    network = RoundedNetwork(folded, calibration, levels, full)
    ann, loss = folded.forward(), LOSSES[folded.stages[-1].activation]
    count = sum(1 for _ in batches())
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, EPOCHS * count)
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(network.variables)

    @tf.function(reduce_retracing=True)
    def step(images):
        expected = ann(images)[-1]
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(expected, network(images)[-1]))
        optimizer.apply_gradients(zip(tape.gradient(value, network.variables), network.variables, strict=True))
        return value

    progress = keras.utils.Progbar(EPOCHS * count, verbose=verbose)
    for _ in range(EPOCHS):
        for images in batches():
            progress.add(1, values=[("divergence", step(images).numpy())])
    return network.corrected("output")


# `correct(folded, batches, calibration, levels, full, verbose) -> Calibration`
CORRECTIONS = {"shifts": fit_shifts, "output": fit_output}


def correct(
    correction: str, folded: FoldedNetwork, batches: Batches, calibration: Calibration, levels: int, full: float = 1.0,
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
    rounding = [stage.name for stage in folded.stages if stage.levels]
    if rounding:
        raise ValueError(
            f"An ANN that rounds its activations itself needs no correction. Received: correction={correction!r} with "
            f"QuantisedReLU in {rounding}. Leave the correction out, and take as many time steps as levels."
        )
    return CORRECTIONS[correction](folded, batches, calibration, levels, full, verbose)
