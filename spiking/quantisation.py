"""Quantised activations: what a layer of spiking neurons with N levels makes of its potential, for training with it.

A neuron that can express the levels 0, 1, …, N, from the activation c (the floor, silence) to C (the ceiling), gives

    y = c + λ/N · clip(⌊(f(x) − c)N/λ + ½⌋, 0, N),   λ = C − c

For f the ReLU, c = 0: Bu, Fang, Ding, Dai, Yu & Huang 2022, Optimal ANN-SNN conversion for high-accuracy and
ultra-low-latency spiking neural networks, eq. 10, the quantised clip-floor-shift activation. `ttfs_exact` computes it
exactly with N time steps, `radix` with K for N = 2^K − 1, `rate` with V(0) = θ/2 nearly, if f is the ReLU.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from spiking.cells import activation_of, build_in_row
from spiking.checks import check_whole
from spiking.folding.activations import RECTIFIERS, Activation, elementwise, known_activation, quantised_relu
from spiking.folding.converters import ACTIVATION_LAYERS, converts
from spiking.folding.rows import Refusal

__all__ = ["QuantisedActivation", "QuantisedReLU", "quantised_relu"]


@keras.saving.register_keras_serializable("spiking")
class QuantisedActivation(keras.layers.Layer):
    """An activation rounded to N levels between a floor and a trained ceiling: converts without loss at N levels.

        y = c + λ/N · clip(⌊(f(x) − c)N/λ + ½⌋, 0, N),   λ = C − c

    Backward the rounding counts as the identity. Input and output shape `(batch, …)`; c and C are one number a layer.
    c is the infimum of f; where it has none (leaky ReLU), c is trained, too.

    Args:
        activation: f, an elementwise activation as Keras takes it: a name, a function, or a layer, whose own weights
            (the slopes of PReLU) are trained.
        levels: N.
        ceiling: C at the start of training, positive; f(ceiling) if that is smaller. A trained c begins at the larger
            one of −ceiling and f(−ceiling).
    """

    def __init__(self, activation="relu", levels: int = 8, ceiling: float = 4.0, **kwargs):
        super().__init__(**kwargs)
        self.levels = check_whole("levels", levels, 1)
        if not ceiling > 0:
            raise ValueError(f"ceiling is the largest activation and must be positive. Received: ceiling={ceiling}")
        self.initial_ceiling = float(ceiling)
        self.function = known_activation(activation_of(activation))
        if not isinstance(self.function, keras.layers.Layer):
            self._known()  # refuses at once what is not elementwise

    def _known(self) -> Activation:
        """What neurons compute in the activation's place, not rounded."""
        known = RECTIFIERS.get(self.function) or elementwise(self.function)
        if known is None:
            raise ValueError(
                "activation must act on each value by itself, as those of `folding.activations.ELEMENTWISE` do. "
                f"Received: activation={self.function!r}. Take another one, or enter yours there."
            )
        return known

    def build(self, input_shape):
        if isinstance(self.function, keras.layers.Layer):
            build_in_row([self.function], input_shape)
        floor, limit = self._known().floor, self.initial_ceiling
        with tf.init_scope():
            ends = np.full((2, *(size or 1 for size in input_shape[1:])), limit, np.float32)
            values = np.asarray(self.activation(ends * np.float32([-1, 1]).reshape(2, *[1] * (ends.ndim - 1))))

        def number(name, value):
            return self.add_weight(name=name, shape=(), initializer=keras.initializers.Constant(float(value)))

        self.ceiling = number("ceiling", min(values[1].max(), limit))
        self.floor = number("floor", max(values[0].min(), -limit)) if floor is None else floor
        self.built = True

    def activation(self, x):
        """f, not rounded."""
        known = RECTIFIERS.get(self.function)
        return self.function(x) if known is None else keras.ops.relu(x)  # the ceiling is the layer's own

    def call(self, x):
        floor, ceiling = (tf.cast(each, x.dtype) for each in (self.floor, self.ceiling))
        return floor + quantised_relu(self.activation(x) - floor, ceiling - floor, self.levels)

    def rounded(self) -> Activation:
        """What neurons compute in the layer's place, with floor and ceiling as they are now."""
        floor, ceiling = (float(np.asarray(each)) for each in (self.floor, self.ceiling))
        return dataclasses.replace(self._known(), floor=floor, ceiling=ceiling, levels=self.levels)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {"activation": keras.activations.serialize(self.function), "levels": self.levels}
        return {**super().get_config(), **own, "ceiling": self.initial_ceiling}


@keras.saving.register_keras_serializable("spiking")
class QuantisedReLU(QuantisedActivation):
    """ReLU rounded to N levels, with a trained ceiling λ: train with it what is to be converted with N time steps.

        y = λ/N · clip(⌊xN/λ + ½⌋, 0, N)

    Args:
        levels: N.
        ceiling: λ at the start of training.
    """

    def __init__(self, levels: int = 8, ceiling: float = 4.0, **kwargs):
        super().__init__("relu", levels, ceiling, **kwargs)

    def get_config(self):
        return {key: value for key, value in super().get_config().items() if key != "activation"}


QUANTISED = (QuantisedActivation, QuantisedReLU)
ACTIVATION_LAYERS.extend(QUANTISED)


@converts(*QUANTISED)
def _quantised(layer, x):
    activation = layer.rounded()
    if not activation.span > 0:
        raise Refusal(
            f"its trained ceiling is {activation.ceiling:g}, its floor {activation.floor:g}",
            "The ceiling must lie above the floor: train anew.",
        )
    return x.neurons(activation)
