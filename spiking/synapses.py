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


class Chain:
    """A linear chain under construction: x ↦ pending·layers(x) + bias, all in float64.

    Args:
        input_shape: shape of x without the batch axis.
        scale: a map by which x is multiplied first; None for 1.
        bias: a map that is added to x first (and scaled with nothing); None for 0.
    """

    def __init__(self, input_shape, scale: np.ndarray | None = None, bias: np.ndarray | None = None):
        self.input_shape = self.shape = tuple(input_shape)
        self.layers = []
        self.pending = scale
        self.bias = np.zeros(self.shape) if bias is None else bias

    @property
    def weighted(self) -> bool:
        """Whether any layer of the chain has a kernel, so that its values may have either sign."""
        return any(LINEAR[type(layer)].weighted for layer in self.layers if type(layer) in LINEAR)

    def append(self, layer) -> None:
        """Puts the linear part of a built layer behind the chain, and its bias."""
        linear, bias = linear_part(layer, self.shape), getattr(layer, "bias", None)
        self.bias = apply([linear], self.bias) + (0 if bias is None else np.asarray(bias, np.float64))
        self._append_linear(linear)

    def _append_linear(self, linear) -> None:
        if isinstance(linear, Diagonal):
            self.multiply(np.asarray(linear.scale, np.float64))
            return
        kind = LINEAR[type(linear)]
        if self.pending is not None:
            self._move_pending_past(linear, kind)
        self.layers.append(linear)
        self.shape = tuple(linear.compute_output_shape((None, *self.shape)))[1:]

    def _move_pending_past(self, linear, kind) -> None:
        vector = channel_vector(self.pending)
        if kind.scale_input and vector is not None:
            linear.set_weights(kind.scale_input(kernels_of(linear), vector, linear))
            self.pending = None
            return
        behind = kind.pass_scale(linear, self.pending) if kind.pass_scale else None
        if behind is None:
            self.settle()
        self.pending = behind

    def affine(self, scale: np.ndarray, shift: np.ndarray) -> None:
        """Multiplies and shifts what the chain gives; both maps in its shape."""
        self.bias = self.bias * scale + shift
        self.multiply(scale)

    def multiply(self, scale: np.ndarray) -> None:
        """Multiplies the linear part by a map, into the last kernel where that is possible."""
        if self.pending is not None:
            self.pending = self.pending * scale
        elif not self._absorb_backwards(scale):
            self.pending = scale

    def _absorb_backwards(self, scale) -> bool:
        if np.all(scale == 1):
            return True
        vector = channel_vector(scale)
        if vector is None:
            return False
        uniform = np.all(vector == vector[0])
        for position in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[position]
            kind = LINEAR.get(type(layer), LinearKind())
            if kind.scale_output:
                if uniform:
                    layer.set_weights([kernels_of(layer)[0] * vector[0], *kernels_of(layer)[1:]])
                else:
                    layer.set_weights(kind.scale_output(kernels_of(layer), vector, layer))
                return True
            if not (kind.keeps_channels or uniform):
                return False
        return False

    def settle(self) -> None:
        """Turns a scale that waits at the end into a layer."""
        if self.pending is not None:
            diagonal = Diagonal(dtype="float64")
            diagonal.build((None, *self.shape))
            diagonal.set_weights([np.broadcast_to(self.pending, self.shape)])
            self.layers.append(diagonal)
            self.pending = None

    def rescaled(self, input_scale: np.ndarray, output_scale: np.ndarray) -> "Chain":
        """The chain for inputs in units of `input_scale` and a result in units of `output_scale` .

        Args:
            input_scale, output_scale: numbers, vectors per channel, or maps.
        """
        unit = None if np.all(input_scale == 1) else np.broadcast_to(input_scale, self.input_shape).copy()
        chain = Chain(self.input_shape, scale=unit)
        shape = self.input_shape
        for layer in self.layers:
            copied = copy_layer(layer, shape, "float64")
            shape = tuple(layer.compute_output_shape((None, *shape)))[1:]
            chain._append_linear(copied)
        chain.multiply(1 / np.broadcast_to(output_scale, chain.shape))
        chain.settle()
        chain.bias = self.bias / output_scale
        return chain

    def copies(self, dtype: str) -> list:
        """Built copies of the layers in `dtype`."""
        copied, shape = [], self.input_shape
        for layer in self.layers:
            copied.append(copy_layer(layer, shape, dtype))
            shape = tuple(layer.compute_output_shape((None, *shape)))[1:]
        return copied

    def compact_bias(self) -> tuple[str | None, np.ndarray]:
        """The kind of bias a cell needs (None, "vector" or "map") and its values."""
        if not np.any(self.bias):
            return None, self.bias
        vector = channel_vector(self.bias)
        return ("map", self.bias) if vector is None else ("vector", vector)
