"""What neurons compute: activations of the ANN as data.

A spike train stands for a value that is not negative. A neuron with the activation f and the floor c therefore sends
f(z) − c, and c, a constant, is folded into its listeners as the shift of a BatchNorm is.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from spiking.folding.linear import LINEAR, PADDING, copy_layer


def straight_through_levels(x: tf.Tensor, levels: float) -> tf.Tensor:
    """clip(⌊x + ½⌋, 0, N), with the derivative of clip(x, 0, N); shape of `x`."""
    clipped = tf.clip_by_value(x, 0.0, levels)
    rounded = tf.clip_by_value(tf.floor(x + 0.5), 0.0, levels)
    return rounded + (clipped - tf.stop_gradient(clipped))  # the difference is 0: the value is exactly `rounded`


def quantised_relu(x: tf.Tensor, ceiling: tf.Tensor, levels: int) -> tf.Tensor:
    """λ/N · clip(⌊xN/λ + ½⌋, 0, N), differentiable in x and λ (`ceiling`, broadcasting to x); shape of `x`."""
    return straight_through_levels(x * (levels / ceiling), float(levels)) * (ceiling / levels)


@dataclass(frozen=True)
class Activation:
    """The activation of a layer of neurons: f(z), or min(ceiling, z·[z > clamp]) for the ReLU.

    Attributes:
        function: f, of Keras or registered with it: a function, or a layer (with weights of its own, as PReLU).
        floor: what silence stands for: the infimum of f; None where calibration finds the smallest value, per channel.
        ceiling: largest activation (ReLU's `max_value`); None for no limit.
        clamp: activations up to here are 0 (ReLU's `threshold`).
        levels: steps from the floor to the ceiling to which activations are rounded; None for no rounding.
        monotone: whether f never falls and is the same at all positions, so that a maximum may be taken before it.
    """

    function: Any = keras.activations.relu
    floor: float | None = 0.0
    ceiling: float | None = None
    clamp: float = 0.0
    levels: int | None = None
    monotone: bool = True

    @property
    def scales(self) -> bool:
        """Whether f(az) = a·f(z) for all a > 0 above the floor: λ may act on what the neuron integrates."""
        return self.function in (keras.activations.relu, keras.activations.linear)

    @property
    def name(self) -> str:
        """Of the function, as messages show it."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def span(self) -> float | None:
        """From the floor to the ceiling; None for no limit."""
        return None if self.ceiling is None else self.ceiling - (self.floor or 0.0)

    def own_function(self, shape: tuple[int, ...], dtype: str):
        """f for values of that shape, without the batch axis: of a layer a built copy, which computes in `dtype`."""
        return copy_layer(self.function, shape, dtype) if isinstance(self.function, kl.Layer) else self.function

    def computed(self, shape: tuple[int, ...], dtype: str) -> Callable[[tf.Tensor], tf.Tensor]:
        """The whole activation for tensors `(batch, *shape)` of that type."""
        function = self.own_function(shape, dtype)
        if self.levels:
            floor = self.floor or 0.0
            return lambda x: floor + quantised_relu(function(x) - floor, tf.constant(self.span, x.dtype), self.levels)
        if function is not keras.activations.relu:
            return function
        return self._rectified

    def _rectified(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.nn.relu(x) if not self.clamp else tf.where(x > self.clamp, x, 0)
        return x if self.ceiling is None else tf.minimum(x, tf.constant(self.ceiling, x.dtype))

    def fingerprint(self) -> bytes:
        """What tells it from others: function, its settings and weights, and the numbers."""
        settings, weights = {}, b""
        if isinstance(self.function, kl.Layer):
            settings = {key: value for key, value in self.function.get_config().items() if key not in ("name", "dtype")}
            weights = b"".join(np.asarray(weight.value).tobytes() for weight in self.function.weights)
        numbers = (self.floor, self.ceiling, self.clamp, self.levels)
        return repr((self.name, settings, numbers)).encode() + weights


RELU = Activation()
IDENTITY = Activation(keras.activations.linear, floor=None)

# Activation functions that neurons of all codes compute.
RECTIFIERS = {keras.activations.relu: RELU, keras.activations.relu6: Activation(ceiling=6.0)}


@keras.saving.register_keras_serializable("spiking")
class WithArguments(kl.Layer):
    """An activation function with arguments: f(x, **arguments), shape as x.

    Args:
        function: name of the activation, as Keras knows it.
        arguments: plain numbers by name.
    """

    def __init__(self, function: str, arguments: dict, **kwargs):
        super().__init__(**kwargs)
        self.function, self.arguments = function, dict(arguments)
        self.built = True

    @property
    def __name__(self):
        return self.function

    def call(self, x):
        return keras.activations.get(self.function)(x, **self.arguments)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "function": self.function, "arguments": self.arguments}


def with_arguments(function: Callable, holder):
    """The activation with those of its arguments that an object has as attributes; itself, if they are the default."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    default = {each.name: each.default for each in parameters}
    given = {name: getattr(holder, name, value) for name, value in default.items()}
    return function if given == default else WithArguments(function.__name__, given)


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
    getattr(keras.activations, "glu", None),
)


# Infima of activations that have one, and whether they never fall; the others' floors are calibrated. Where the infimum
# lies inside, it was found in float64.
_RISING = {
    "celu": -1.0,
    "elu": -1.0,
    "exponential": 0.0,
    "hard_shrink": None,
    "hard_sigmoid": 0.0,
    "hard_tanh": -1.0,
    "leaky_relu": None,
    "log_sigmoid": None,
    "selu": -1.7580993408473766,
    "sigmoid": 0.0,
    "soft_shrink": None,
    "softplus": 0.0,
    "softsign": -1.0,
    "sparse_plus": 0.0,
    "sparse_sigmoid": 0.0,
    "squareplus": 0.0,
    "tanh": -1.0,
    "tanh_shrink": None,
}
_BENT = {"gelu": -0.16997120747990369, "hard_silu": -0.375, "mish": -0.3088434130172504, "silu": -0.2784645427610738}

# Activation functions that act on each value by itself: what neurons compute of their potential. Open for more.
ELEMENTWISE: dict[Callable, Activation] = {
    function: Activation(function, floor, monotone=monotone)
    for floors, monotone in ((_RISING, True), (_BENT, False))
    for name, floor in floors.items()
    if (function := getattr(keras.activations, name, None))  # Keras 3.3 lacks some
} | {tanh_gelu: Activation(tanh_gelu, -0.17004075057125403, monotone=False)}


def elementwise(function) -> Activation | None:
    """What neurons compute of an activation, a function or a layer; None for what is not known to be elementwise."""
    if not isinstance(function, kl.Layer):
        return ELEMENTWISE.get(function)
    return _OF_LAYERS[type(function)](function) if type(function) in _OF_LAYERS else None


def _leaky(layer) -> Activation:
    return Activation(layer, None, monotone=float(layer.negative_slope) >= 0)


def _elu(layer) -> Activation:
    alpha = float(layer.alpha)
    return Activation(layer, -alpha if alpha > 0 else 0.0, monotone=alpha >= 0)


def _prelu(layer) -> Activation:
    slopes = np.asarray(layer.alpha.value)
    # By its settings: slopes of one position, or of none, are not those of the map in front of a pooling that left it.
    shared = slopes.ndim > 1 and set(range(1, slopes.ndim)) <= set(layer.shared_axes or ())
    return Activation(layer, None, monotone=shared and bool(np.all(slopes >= 0)))


def _of_function(layer) -> Activation:
    known = ELEMENTWISE.get(keras.activations.get(layer.function))
    rising = known is not None and known.monotone and all(value >= 0 for value in layer.arguments.values())
    return Activation(layer, None, monotone=rising)


# Layer type -> what neurons compute in its place. With arguments of its own a function's infimum is another.
_OF_LAYERS = {kl.LeakyReLU: _leaky, kl.ELU: _elu, kl.ReLU: _leaky, kl.PReLU: _prelu, WithArguments: _of_function}


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
