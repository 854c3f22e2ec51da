"""Quantised activations: what a layer of spiking neurons with N levels makes of its potential.

A neuron that can express the levels 0, 1, …, N, with N standing for the activation λ, gives

    y = λ/N · clip(⌊xN/λ + ½⌋, 0, N)

(Bu, Fang, Ding, Dai, Yu & Huang 2022, Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural
networks, eq. 10, the quantised clip-floor-shift activation). `ttfs_exact` computes it exactly with N time steps,
`radix` with K for N = 2^K − 1, `rate` with V(0) = θ/2 nearly.
"""

import keras
import tensorflow as tf

from spiking.checks import check_whole


def straight_through_levels(x: tf.Tensor, levels: float) -> tf.Tensor:
    """clip(⌊x + ½⌋, 0, N), with the derivative of clip(x, 0, N); shape of `x`."""
    clipped = tf.clip_by_value(x, 0.0, levels)
    rounded = tf.clip_by_value(tf.floor(x + 0.5), 0.0, levels)
    return rounded + (clipped - tf.stop_gradient(clipped))  # the difference is 0: the value is exactly `rounded`


def quantised_relu(x: tf.Tensor, ceiling: tf.Tensor, levels: int) -> tf.Tensor:
    """λ/N · clip(⌊xN/λ + ½⌋, 0, N), differentiable in x and λ (`ceiling`, broadcasting to x); shape of `x`."""
    return straight_through_levels(x * (levels / ceiling), float(levels)) * (ceiling / levels)


@keras.saving.register_keras_serializable("spiking")
class QuantisedReLU(keras.layers.Layer):
    """ReLU rounded to N levels, with a trained ceiling λ: train with it what is to be converted with N time steps.

        y = λ/N · clip(⌊xN/λ + ½⌋, 0, N)

    Backward the rounding counts as the identity. Input and output shape `(batch, …)`; λ is one number a layer.

    Args:
        levels: N.
        ceiling: λ at the start of training.
    """

    def __init__(self, levels: int = 8, ceiling: float = 4.0, **kwargs):
        super().__init__(**kwargs)
        self.levels = check_whole("levels", levels, 1)
        if not ceiling > 0:
            raise ValueError(f"ceiling is the largest activation and must be positive. Received: ceiling={ceiling}")
        self.initial_ceiling = float(ceiling)

    def build(self, input_shape):
        start = keras.initializers.Constant(self.initial_ceiling)
        self.ceiling = self.add_weight(name="ceiling", shape=(), initializer=start)
        self.built = True

    def call(self, x):
        return quantised_relu(x, tf.cast(self.ceiling, x.dtype), self.levels)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "levels": self.levels, "ceiling": self.initial_ceiling}
