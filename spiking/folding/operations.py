"""Converters of Keras' operations: `x + y`, `x / 255`, `keras.ops.relu`, … as they stand in a functional model."""

import keras
import numpy as np
from keras import layers as kl
from keras.src.activations import activations as ka
from keras.src.ops import core as kc
from keras.src.ops import nn as kn
from keras.src.ops import numpy as knp

from spiking.folding.activations import ELEMENTWISE, RECTIFIERS, tanh_gelu, with_arguments
from spiking.folding.converters import CONVERTERS, activated, converts, negative
from spiking.folding.folded import Folded
from spiking.folding.graph import Join
from spiking.folding.linear import Pick
from spiking.folding.rows import Refusal


@converts(kn.Softmax)
def _softmax_operation(operation, x):
    return CONVERTERS[kl.Softmax](operation, x)


@converts(kc.Cast, *filter(None, [getattr(kc, "ConvertToTensor", None)]))  # Keras 3.3 has no operation for the latter
def _same(operation, x):
    return x.drop("identity")


@converts(ka.ReLU)
def _relu(operation, x):
    arguments = {name: getattr(operation, name) for name in ("max_value", "negative_slope", "threshold")}
    return CONVERTERS[kl.ReLU](built(kl.ReLU(**arguments), x), x)


# Operations that are an activation: operation type -> the function, whose arguments they have as attributes.
ACTIVATION_OPERATIONS = {
    operation: function
    for function in (*RECTIFIERS, *ELEMENTWISE)
    if (operation := getattr(kn, function.__name__.title().replace("_", ""), None))
} | {knp.Tanh: keras.activations.tanh, knp.Exp: keras.activations.exponential}


@converts(*ACTIVATION_OPERATIONS)
def _activation_operation(operation, x):
    return activated(with_arguments(ACTIVATION_OPERATIONS[type(operation)], operation), x)


@converts(kn.Gelu)
def _gelu(operation, x):
    return activated(tanh_gelu if operation.approximate else keras.activations.gelu, x)


@converts(knp.Maximum)
def _maximum(operation, first, second):
    x, constant = (first, second) if isinstance(first, Folded) else (second, first)
    if isinstance(constant, Folded) or np.any(np.asarray(constant) != 0):
        raise Refusal("a maximum of two values", "Only max(x, 0), a ReLU, can be converted.")
    return activated(keras.activations.relu, x)


@converts(knp.Concatenate)
def _concatenation(operation, values):
    return CONVERTERS[kl.Concatenate](operation, values)


@converts(knp.Add, knp.Subtract)
def _sum(operation, first, second):
    sign = -1.0 if isinstance(operation, knp.Subtract) else 1.0
    if isinstance(first, Folded) and isinstance(second, Folded):
        return first.joined([second if sign > 0 else negative(second)], Join())
    if isinstance(first, Folded):
        return first.affine(1.0, sign * constant(second))
    return second.affine(sign, constant(first))


@converts(knp.Multiply)
def _product(operation, first, second):
    if isinstance(first, Folded) and isinstance(second, Folded):
        raise Refusal("a product of two values that the network computes", "Spikes add; take a sum, or leave it out.")
    x, factor = (first, second) if isinstance(first, Folded) else (second, first)
    return x.affine(constant(factor), 0.0)


@converts(knp.TrueDivide, knp.Divide)
def _quotient(operation, first, second):
    if isinstance(second, Folded):
        raise Refusal("a division by a value that the network computes", "Leave it out.")
    return first.affine(1 / constant(second), 0.0)


@converts(knp.Negative)
def _negative(operation, x):
    return x.affine(-1.0, 0.0)


def constant(value) -> np.ndarray:
    """A constant of an operation, without the batch axis."""
    array = np.asarray(getattr(value, "value", value), np.float64)
    return array[0] if array.ndim > 1 and array.shape[0] == 1 else array


# --- Operations that move values -------------------------------------------------------------------------------------


@converts(knp.Reshape)
def _reshape(operation, x, *_):
    return CONVERTERS[kl.Reshape](built(kl.Reshape(operation.newshape[1:]), x), x)


@converts(knp.Transpose)
def _transpose(operation, x):
    axes = operation.axes
    if not axes or axes[0] != 0:
        raise Refusal(f"axes={axes}", "The batch axis must stay the first.")
    return CONVERTERS[kl.Reshape](built(kl.Permute(tuple(axes[1:])), x), x)


@converts(knp.GetItem)
def _get_item(operation, x, key):
    key = key if isinstance(key, tuple) else (key,)
    rank = len(x.shape) + 1
    if Ellipsis in key:
        at = key.index(Ellipsis)
        key = key[:at] + (slice(None),) * (rank - len(key) + 1) + key[at + 1 :]
    key = key + (slice(None),) * (rank - len(key))
    if key[0] != slice(None) or not all(isinstance(each, slice) for each in key):
        raise Refusal(f"the index {key}", "Only slices of the axes behind the batch axis can be converted.")
    return x.linear(built(Pick([(each.start, each.stop, each.step) for each in key[1:]]), x))


@converts(knp.Mean)
def _mean(operation, x):
    axes = operation.axis if isinstance(operation.axis, list | tuple) else [operation.axis]
    positions = list(range(1, len(x.shape)))
    if None in axes or sorted(axis % (len(x.shape) + 1) for axis in axes) != positions or len(positions) > 3:
        raise Refusal(f"a mean over axis={operation.axis}", "Only the mean over all positions can be converted.")
    kind = (kl.GlobalAveragePooling1D, kl.GlobalAveragePooling2D, kl.GlobalAveragePooling3D)[len(positions) - 1]
    return x.average_pool(built(kind(keepdims=operation.keepdims), x))


def built(layer, x: Folded):
    """A layer of our own in place of an operation, built."""
    layer.build((None, *x.shape))
    return layer
