"""A linear chain of layers under construction: how scales travel until a kernel absorbs them, in float64."""

import numpy as np

from spiking.folding.linear import (
    LINEAR,
    Diagonal,
    LinearKind,
    apply,
    channel_vector,
    copy_layer,
    kernels_of,
    linear_part,
)


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
