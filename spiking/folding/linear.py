"""Synapses: chains of linear Keras layers, and how scales travel through them.

Folding BatchNorm and normalising weights are both diagonal scalings in front of or behind a synapse. A scale is kept
as a map in the shape of the activation it belongs to and moves along the chain until a kernel absorbs it; what no
kernel can absorb becomes a `Diagonal` layer. Biases are not moved symbolically: the bias of a synapse is what the
chain makes of the constant image in front of it, position by position, so zero padding comes out exactly.

All of this happens in float64; `copy_layer` brings the result into the dtype of the simulation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl


@keras.saving.register_keras_serializable("spiking")
class Diagonal(keras.layers.Layer):
    """Multiplies by a constant map; the scale that no kernel could absorb. Input and output shape `(batch, *map)`."""

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=tuple(input_shape)[1:], initializer="ones")
        self.built = True

    def call(self, x):
        return x * self.scale

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


@dataclass(frozen=True)
class LinearKind:
    """How one linear Keras layer type behaves.

    Attributes:
        scale_input: `(kernels, v, layer) -> kernels` of the layer that first multiplies its input channels by v.
        scale_output: the same for its output channels.
        pass_scale: `(layer, map) -> ` the map behind the layer that equals the given one in front of it, or None
            where there is none.
        keeps_channels: whether a scale per channel is the same in front of the layer and behind it.
    """

    scale_input: Callable | None = None
    scale_output: Callable | None = None
    pass_scale: Callable | None = None
    keeps_channels: bool = False

    @property
    def weighted(self) -> bool:
        """Whether the layer has a kernel."""
        return self.scale_input is not None


def channel_vector(scale: np.ndarray) -> np.ndarray | None:
    """The scale per channel (last axis) if the map is the same at all positions, else None."""
    rows = scale.reshape(-1, scale.shape[-1]) if scale.ndim else scale.reshape(1, 1)
    return rows[0] if np.array_equal(rows, np.broadcast_to(rows[0], rows.shape)) else None


def _selects(layer, scale):
    """Layers that only pick and move values: the map goes the way of the values."""
    return apply([layer], scale)


def _averages(layer, scale):
    """Layers that mix positions but not channels."""
    vector = channel_vector(scale)
    if vector is None:
        return None
    return np.broadcast_to(vector, layer.compute_output_shape((None, *scale.shape))[1:]).copy()


def _convolution(kernels, vector, layer):
    """Input channels of a (grouped) convolution: kernel (…, channels/groups, filters), the filters group by group."""
    (kernel,) = kernels
    per_group = vector.reshape(layer.groups, -1)  # (groups, channels of a group)
    by_filter = np.repeat(per_group, kernel.shape[-1] // layer.groups, axis=0).T  # (channels of a group, filters)
    return [kernel * by_filter]


def _depthwise_output(kernels, vector, layer):
    (kernel,) = kernels
    return [kernel * vector.reshape(kernel.shape[-2:])]


DENSE = LinearKind(
    scale_input=lambda kernels, v, layer: [kernels[0] * v[:, None]],
    scale_output=lambda kernels, v, layer: [kernels[0] * v],
)
CONVOLUTION = LinearKind(scale_input=_convolution, scale_output=lambda kernels, v, layer: [kernels[0] * v])
TRANSPOSED = LinearKind(
    scale_input=lambda kernels, v, layer: [kernels[0] * v],
    scale_output=lambda kernels, v, layer: [kernels[0] * v[:, None]],
)
DEPTHWISE = LinearKind(
    scale_input=lambda kernels, v, layer: [kernels[0] * v[:, None]],
    scale_output=_depthwise_output,
)
SEPARABLE = LinearKind(
    scale_input=lambda kernels, v, layer: [kernels[0] * v[:, None], kernels[1]],
    scale_output=lambda kernels, v, layer: [kernels[0], kernels[1] * v],
)
SELECTION = LinearKind(pass_scale=_selects)
RESAMPLING = LinearKind(pass_scale=_selects, keeps_channels=True)
AVERAGE = LinearKind(pass_scale=_averages, keeps_channels=True)

# The linear layers a synapse may hold. A new one is a line here and one in the converters of `conversion.py`.
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
    kl.Cropping1D: RESAMPLING,
    kl.Cropping2D: RESAMPLING,
    kl.Cropping3D: RESAMPLING,
    kl.UpSampling1D: RESAMPLING,
    kl.UpSampling2D: RESAMPLING,
    kl.UpSampling3D: RESAMPLING,
    kl.ZeroPadding1D: AVERAGE,
    kl.ZeroPadding2D: AVERAGE,
    kl.ZeroPadding3D: AVERAGE,
    kl.AveragePooling1D: AVERAGE,
    kl.AveragePooling2D: AVERAGE,
    kl.GlobalAveragePooling1D: AVERAGE,
    kl.GlobalAveragePooling2D: AVERAGE,
    kl.GlobalAveragePooling3D: AVERAGE,
}


def kernel_variables(layer) -> list:
    """The weights of a layer but its bias."""
    bias = getattr(layer, "bias", None)
    return [weight for weight in layer.weights if weight is not bias]


def kernels_of(layer) -> list[np.ndarray]:
    """The same, in float64."""
    return [np.asarray(weight, np.float64) for weight in kernel_variables(layer)]


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
    config = {**layer.get_config(), "dtype": dtype, **changes}
    config |= {key: None for key in config if key.endswith(("_regularizer", "_constraint"))}
    config |= {key: "zeros" for key in config if key.endswith("_initializer")}
    copied = type(layer).from_config(config)
    copied.build((None, *input_shape))
    for own, weight in zip(copied.weights, layer.weights if kernels is None else kernels, strict=True):
        own.assign(keras.ops.cast(weight, own.dtype))
    return copied


def linear_part(layer, input_shape):
    """The linear part of an ANN layer: a float64 copy without bias and activation."""
    changes = {key: value for key, value in (("use_bias", False), ("activation", None)) if key in layer.get_config()}
    return copy_layer(layer, input_shape, "float64", kernel_variables(layer), **changes)


def apply(layers, values: np.ndarray) -> np.ndarray:
    """One array without batch axis through a chain of layers, in float64."""
    x = tf.constant(values[None], tf.float64)
    for layer in layers:
        x = layer(x)
    return x.numpy()[0]
