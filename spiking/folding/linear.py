"""Linear layers: what a synapse may hold, and how a scale per channel gets into a kernel or past a layer.

Folding BatchNorm and normalising weights are both diagonal scalings in front of or behind a synapse. A scale is a
*map*: an array of the rank of the activation it belongs to, whose axes have the activation's length or 1, where it is
the same all along. A map that is 1 on all axes but the last is a scale per channel, which kernels absorb.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

PACKAGE = "spiking"


@keras.saving.register_keras_serializable(PACKAGE)
class Diagonal(keras.layers.Layer):
    """Multiplies by a constant map; the scale that no kernel could absorb. Input and output shape `(batch, …)`.

    Args:
        map_shape: of the map, without the batch axis: the smallest that broadcasts to the input; None for the input's.
    """

    def __init__(self, map_shape=None, **kwargs):
        super().__init__(**kwargs)
        self.map_shape = None if map_shape is None else tuple(map_shape)

    def build(self, input_shape):
        shape = tuple(input_shape)[1:] if self.map_shape is None else self.map_shape
        self.scale = self.add_weight(name="scale", shape=shape, initializer="ones")
        self.built = True

    def call(self, x):
        return x * self.scale

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "map_shape": self.map_shape}


@keras.saving.register_keras_serializable(PACKAGE)
class Offset(Diagonal):
    """Adds a constant map to an image. Input and output shape `(batch, …)`; arguments as `Diagonal`."""

    def call(self, x):
        return x + self.scale


@keras.saving.register_keras_serializable(PACKAGE)
class Interpolation(keras.layers.Layer):
    """Resizes images linearly: row and column weights as matrices, `y = R x Cᵀ` in every channel.

    TensorFlow resizes in float32 whatever the dtype, which is not exact enough to fold through; a matrix is.
    Input `(batch, rows, columns, channels)`, output `(batch, new rows, new columns, channels)`.

    Args:
        rows, columns: matrices `(new, old)`, as nested lists.
    """

    def __init__(self, rows, columns, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.columns = np.asarray(rows, float), np.asarray(columns, float)

    def call(self, x):
        rows, columns = (tf.constant(matrix, x.dtype) for matrix in (self.rows, self.columns))
        return tf.einsum("pi,bijc,qj->bpqc", rows, x, columns)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], len(self.rows), len(self.columns), input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "rows": self.rows.tolist(), "columns": self.columns.tolist()}


@keras.saving.register_keras_serializable(PACKAGE)
class Pick(keras.layers.Layer):
    """Takes a slice of every axis: `x[:, start:stop:step, …]`. Input and output `(batch, …)`.

    Args:
        slices: one `(start, stop, step)` per axis behind the batch axis; None as in Python.
    """

    def __init__(self, slices, **kwargs):
        super().__init__(**kwargs)
        self.slices = [tuple(each) for each in slices]

    def call(self, x):
        return x[(slice(None), *(slice(*each) for each in self.slices))]

    def compute_output_shape(self, input_shape):
        axes = zip(self.slices, input_shape[1:], strict=True)
        return (input_shape[0], *(len(range(*slice(*each).indices(size))) for each, size in axes))

    def get_config(self):
        return {**super().get_config(), "slices": self.slices}


@keras.saving.register_keras_serializable(PACKAGE)
class AveragePooling3DFloat64(kl.AveragePooling3D):
    """Average pooling in float64, for which TensorFlow has no kernel on CPUs: rows and columns first, then planes.

    Input and output `(batch, planes, rows, columns, channels)`. The border of "same" padding counts in neither mean.
    """

    def call(self, x):
        (depth, *size), (stride, *strides), padding = self.pool_size, self.strides, self.padding.upper()
        _, planes, *_, channels = x.shape
        x = tf.nn.avg_pool2d(tf.reshape(x, (-1, *x.shape[2:])), size, strides, padding)
        rows, columns = x.shape[1:3]
        x = tf.reshape(x, (-1, planes, rows * columns, channels))
        x = tf.nn.avg_pool2d(x, (depth, 1), (stride, 1), padding)
        return tf.reshape(x, (-1, x.shape[1], rows, columns, channels))


# Layers without a float64 kernel -> those that compute the same.
IN_FLOAT64: dict[type, type] = {kl.AveragePooling3D: AveragePooling3DFloat64}


@dataclass(frozen=True)
class LinearKind:
    """How one linear Keras layer type behaves.

    Attributes:
        kernels: names of the layer's attributes that are its kernels.
        scale_input: `(kernels, v, layer)` makes of the kernels, in place, those of the layer that first multiplies its
            input channels by v. In place, because the largest kernel of a network may be most of its weights.
        scale_output: the same for its output channels.
        pass_scale: `(layer, map, shape) -> ` the map behind the layer that equals the given one in front of it, whose
            activation has that shape; or None where there is none.
        keeps_channels: whether a scale per channel is the same in front of the layer and behind it.
        moves: whether every output is one of the inputs, or 0: nothing is mixed.
    """

    kernels: tuple[str, ...] = ()
    scale_input: Callable | None = None
    scale_output: Callable | None = None
    pass_scale: Callable | None = None
    keeps_channels: bool = False
    moves: bool = False

    @property
    def weighted(self) -> bool:
        """Whether the layer has a kernel."""
        return bool(self.kernels)


def compact(values: np.ndarray) -> np.ndarray:
    """The smallest map that broadcasts to these values: axes along which nothing changes get the length 1."""
    for axis in range(values.ndim):
        first = np.take(values, [0], axis)
        if values.shape[axis] > 1 and np.array_equal(values, np.broadcast_to(first, values.shape)):
            values = first
    return values


def channel_vector(scale: np.ndarray, channels: int) -> np.ndarray | None:
    """The scale per channel (last axis), shape (channels,), if the map is the same at all positions, else None."""
    scale = compact(np.asarray(scale))
    if any(size > 1 for size in scale.shape[:-1]):
        return None
    return np.broadcast_to(scale.reshape(-1), (channels,))


def _selects(layer, scale, shape):
    """Layers that only pick and move values: the map goes the way of the values."""
    return compact(apply([layer], np.broadcast_to(scale, shape)))


def _averages(layer, scale, shape):
    """Layers that mix positions but not channels."""
    vector = channel_vector(scale, shape[-1])
    rank = len(layer.compute_output_shape((None, *shape))) - 1
    return None if vector is None else vector.reshape((1,) * (rank - 1) + (-1,))


def _convolution(kernels, vector, layer):
    """Input channels of a (grouped) convolution: kernel (…, channels/groups, filters), the filters group by group."""
    (kernel,) = kernels
    per_group = vector.reshape(layer.groups, -1)  # (groups, channels of a group)
    by_filter = np.repeat(per_group, kernel.shape[-1] // layer.groups, axis=0).T  # (channels of a group, filters)
    kernel *= by_filter


def _depthwise_output(kernels, vector, layer):
    (kernel,) = kernels
    kernel *= vector.reshape(kernel.shape[-2:])


def _rows(kernels, vector, layer):
    kernels[0] *= vector[:, None]


def _columns(kernels, vector, layer):
    kernels[-1] *= vector


DENSE = LinearKind(kernels=("kernel",), scale_input=_rows, scale_output=_columns)
CONVOLUTION = LinearKind(kernels=("kernel",), scale_input=_convolution, scale_output=_columns)
TRANSPOSED = LinearKind(kernels=("kernel",), scale_input=_columns, scale_output=_rows)
DEPTHWISE = LinearKind(kernels=("kernel",), scale_input=_rows, scale_output=_depthwise_output)
SEPARABLE = LinearKind(kernels=("depthwise_kernel", "pointwise_kernel"), scale_input=_rows, scale_output=_columns)
SELECTION = LinearKind(pass_scale=_selects, moves=True)
RESAMPLING = LinearKind(pass_scale=_selects, keeps_channels=True, moves=True)
PADDING = LinearKind(pass_scale=_averages, keeps_channels=True, moves=True)
AVERAGE = LinearKind(pass_scale=_averages, keeps_channels=True)
DIAGONAL = LinearKind()

# The linear layers a synapse may hold. A new one is a line here and one in `converters.py`.
LINEAR: dict[type, LinearKind] = {
    kl.Dense: DENSE,
    kl.Conv1D: CONVOLUTION,
    kl.Conv2D: CONVOLUTION,
    kl.Conv3D: CONVOLUTION,
    kl.Conv1DTranspose: TRANSPOSED,
    kl.Conv2DTranspose: TRANSPOSED,
    kl.Conv3DTranspose: TRANSPOSED,
    kl.DepthwiseConv1D: DEPTHWISE,
    kl.DepthwiseConv2D: DEPTHWISE,
    kl.SeparableConv1D: SEPARABLE,
    kl.SeparableConv2D: SEPARABLE,
    kl.Flatten: SELECTION,
    kl.Reshape: SELECTION,
    kl.Permute: SELECTION,
    kl.RepeatVector: SELECTION,
    Pick: SELECTION,
    kl.Cropping1D: RESAMPLING,
    kl.Cropping2D: RESAMPLING,
    kl.Cropping3D: RESAMPLING,
    kl.UpSampling1D: RESAMPLING,
    kl.UpSampling2D: RESAMPLING,
    kl.UpSampling3D: RESAMPLING,
    kl.ZeroPadding1D: PADDING,
    kl.ZeroPadding2D: PADDING,
    kl.ZeroPadding3D: PADDING,
    kl.AveragePooling1D: AVERAGE,
    kl.AveragePooling2D: AVERAGE,
    kl.AveragePooling3D: AVERAGE,
    AveragePooling3DFloat64: AVERAGE,
    kl.GlobalAveragePooling1D: AVERAGE,
    kl.GlobalAveragePooling2D: AVERAGE,
    kl.GlobalAveragePooling3D: AVERAGE,
    Interpolation: AVERAGE,
    Diagonal: DIAGONAL,
}


def is_weighted(layer) -> bool:
    """Whether a layer is linear with a kernel."""
    return type(layer) in LINEAR and LINEAR[type(layer)].weighted


def kernel_arrays(layer) -> list[np.ndarray]:
    """The kernels of a built layer, without copying where they can be viewed; LoRA's parts are merged."""
    kernels = (getattr(layer, name) for name in LINEAR[type(layer)].kernels)
    return [np.asarray(getattr(kernel, "value", kernel)) for kernel in kernels]


def kernels_of(layer) -> list[np.ndarray]:
    """The same, in float64."""
    return [kernel.astype(np.float64) for kernel in kernel_arrays(layer)]


def scope_name(name: str) -> str:
    """The name as TensorFlow takes it for a scope: layers of Keras models may also begin with _ or hold blanks."""
    return re.sub(r"^(?=[^A-Za-z0-9.])", "layer", re.sub(r"[^\w.>-]|[^\x00-\x7f]", "_", name))


def copy_layer(layer, input_shape, dtype: str, kernels=None, **changes):
    """A built copy of a layer: its own variables, in `dtype`, without regularisers, and with initializers that cost
    nothing, because the weights follow.

    Args:
        layer: a built Keras layer.
        input_shape: without the batch axis.
        dtype: of variables and computation.
        kernels: the weights of the copy, by default those of `layer`.
        **changes: to its configuration.
    """
    config = {**layer.get_config(), "dtype": dtype, "name": scope_name(layer.name), **changes}
    config |= {key: None for key in config if key.endswith(("_regularizer", "_constraint")) or key == "lora_rank"}
    config |= {key: "zeros" for key in config if key.endswith("_initializer")}
    kind = IN_FLOAT64.get(type(layer), type(layer)) if dtype == "float64" else type(layer)
    copied = kind.from_config(config)
    copied.build((None, *input_shape))
    for own, weight in zip(copied.weights, layer.weights if kernels is None else kernels, strict=True):
        own.assign(keras.ops.cast(weight, own.dtype))
    if hasattr(copied, "finalize_state"):  # Normalization computes with constants that it makes of its weights
        copied.finalize_state()
    return copied


def linear_changes(layer) -> dict:
    """Changes to a layer's configuration that leave its linear part."""
    config = layer.get_config()
    return {key: value for key, value in (("use_bias", False), ("activation", None)) if key in config}


def apply(layers, values: np.ndarray) -> np.ndarray:
    """One array without batch axis through layers, in float64."""
    x = tf.constant(values[None], tf.float64)
    for layer in layers:
        # A Keras layer casts its input to its own dtype, which would round.
        x = (layer if layer.compute_dtype == "float64" else copy_layer(layer, x.shape[1:], "float64"))(x)
    return x.numpy()[0]
