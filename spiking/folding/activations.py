"""What neurons compute: activations of the ANN as data.

A spike train stands for a value that is not negative. A neuron with the activation f and the floor c therefore sends
f(z) − c, and c, a constant, is folded into its listeners as the shift of a BatchNorm is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf
from keras import layers as kl

from spiking.folding.linear import LINEAR, PADDING
from spiking.quantisation import quantised_relu


@dataclass(frozen=True)
class Activation:
    """The activation of a layer of neurons: min(ceiling, z·[z > clamp]), or z itself where `identity`.

    Attributes:
        ceiling: largest activation (ReLU's `max_value`); None for no limit.
        clamp: activations up to here are 0 (ReLU's `threshold`).
        levels: steps from 0 to the ceiling to which activations are rounded; None for no rounding.
        identity: z above a floor that calibration finds, per channel; what neurons in front of a pooling compute.
    """

    ceiling: float | None = None
    clamp: float = 0.0
    levels: int | None = None
    identity: bool = False

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The activation, shape as `x`."""
        if self.identity:
            return x
        if self.levels:
            return quantised_relu(x, tf.constant(self.ceiling, x.dtype), self.levels)
        x = tf.nn.relu(x) if not self.clamp else tf.where(x > self.clamp, x, 0)
        return x if self.ceiling is None else tf.minimum(x, tf.constant(self.ceiling, x.dtype))


RELU = Activation()
IDENTITY = Activation(identity=True)

# Activation functions that neurons compute.
RECTIFIERS: dict[Callable, Activation] = {keras.activations.relu: RELU, keras.activations.relu6: Activation(6.0)}



@keras.saving.register_keras_serializable("spiking")
def tanh_gelu(x):
    """GELU in its tanh form, which is what `keras.ops.gelu` computes by default."""
    return keras.activations.gelu(x, approximate=True)


# Functions of TensorFlow and `keras.ops` that are one of Keras' activations; by name, but for those that differ.
SAME_FUNCTION: dict[Callable, Callable] = {
    theirs: ours
    for module in (tf.nn, keras.ops)
    for name, ours in vars(keras.activations).items()
    if callable(ours) and callable(theirs := getattr(module, name, None))
} | {
    tf.math.tanh: keras.activations.tanh,
    tf.math.sigmoid: keras.activations.sigmoid,
    tf.math.exp: keras.activations.exponential,
    keras.ops.exp: keras.activations.exponential,
    keras.ops.gelu: tanh_gelu,
}


def known_activation(activation):
    """The Keras activation that a function is, if it is one under another name; else the function."""
    return SAME_FUNCTION.get(activation, activation)


# Activations that compare the values on the last axis; all others act on each value by itself.
OVER_CHANNELS = (
    keras.activations.softmax,
    keras.activations.log_softmax,
    getattr(keras.activations, "sparsemax", None),
)


def moves_behind(activation, layer, shape: tuple[int, ...]) -> bool:
    """Whether a layer behind an activation only moves its values, so that it may as well move them in front of it.

    Args:
        shape: of what the layer gets, without the batch axis.
    """
    kind = LINEAR.get(type(layer))
    if kind is None or not kind.moves or kind is PADDING:
        return False
    if activation not in OVER_CHANNELS:
        return True
    same_rows = isinstance(layer, kl.Reshape) and tuple(layer.compute_output_shape((None, *shape)))[-1] == shape[-1]
    return kind.keeps_channels or same_rows
