"""A linear chain of layers: how scales travel until a kernel absorbs them, in float64.

Nothing is copied while a chain grows: it holds the ANN's own kernels and, beside each, the scales that its copy will
absorb. Biases are not moved symbolically: the bias of a synapse is what the chain makes of the constant image in front
of it, position by position, so zero padding comes out exactly.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

from spiking.folding.linear import (
    LINEAR,
    Diagonal,
    LinearKind,
    apply,
    channel_vector,
    compact,
    copy_layer,
    kernel_arrays,
    linear_changes,
)

ROUNDING = 4 * np.finfo(np.float64).eps  # a scale and its inverse make 1 but for this


@dataclass(frozen=True)
class Link:
    """One linear layer of a chain, without bias and activation: outward·(K∗(inward·x)).

    Attributes:
        layer: the Keras layer; only its configuration counts.
        kernels: K, as the ANN has them.
        inward, outward: scales per channel, float64; None for 1.
        scale: of a `Diagonal`, its map.
        input_shape, output_shape: without the batch axis.
    """

    layer: object
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernels: tuple[np.ndarray, ...] = field(default=(), repr=False)
    inward: np.ndarray | None = field(default=None, repr=False)
    outward: np.ndarray | None = field(default=None, repr=False)
    scale: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def of(cls, layer, input_shape) -> "Link":
        """The linear part of a built layer."""
        output_shape = tuple(layer.compute_output_shape((None, *input_shape)))[1:]
        return cls(layer, tuple(input_shape), output_shape, tuple(kernel_arrays(layer)))

    @property
    def kind(self) -> LinearKind:
        """How the layer behaves."""
        return LINEAR[type(self.layer)]

    def scaled_inward(self, vector: np.ndarray) -> "Link":
        return replace(self, inward=vector if self.inward is None else self.inward * vector)

    def scaled_outward(self, vector: np.ndarray) -> "Link":
        return replace(self, outward=vector if self.outward is None else self.outward * vector)

    def built(self, dtype: str):
        """A Keras layer of its own that computes it."""
        if self.scale is not None:
            return copy_layer(self.layer, self.input_shape, dtype, [self.scale])
        kernels = self.kernels
        if self.inward is not None or self.outward is not None:
            kernels = [kernel.astype(np.float64) for kernel in kernels]
            if self.inward is not None:
                self.kind.scale_input(kernels, self.inward, self.layer)
            if self.outward is not None:
                self.kind.scale_output(kernels, self.outward, self.layer)
            kernels = [kernel.astype(tf.as_dtype(dtype).as_numpy_dtype, copy=False) for kernel in kernels]
        return copy_layer(self.layer, self.input_shape, dtype, kernels, **linear_changes(self.layer))


def _diagonal(scale: np.ndarray, shape: tuple[int, ...]) -> Link:
    layer = Diagonal(map_shape=scale.shape, dtype="float64")
    layer.build((None, *shape))
    return Link(layer, shape, shape, scale=scale)


def as_map(values, rank: int) -> np.ndarray:
    """Numbers that broadcast to an activation of that rank, as a map."""
    values = np.asarray(values, np.float64)
    return compact(values.reshape((1,) * (rank - values.ndim) + values.shape))


@dataclass(frozen=True)
class Chain:
    """x ↦ scale·links(x) + bias, linear but for the bias, in float64.

    Attributes:
        input_shape: shape of x without the batch axis.
        links: the layers, in order.
        scale: a map that waits at the end for a kernel to absorb it; None for 1.
        bias: a map.
    """

    input_shape: tuple[int, ...]
    links: tuple[Link, ...] = ()
    scale: np.ndarray | None = field(default=None, repr=False)
    bias: np.ndarray = field(default=None, repr=False)

    def __post_init__(self):
        if self.bias is None:
            object.__setattr__(self, "bias", np.zeros((1,) * len(self.shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the chain gives, without the batch axis."""
        return self.links[-1].output_shape if self.links else tuple(self.input_shape)

    @property
    def weighted(self) -> bool:
        """Whether any layer of the chain has a kernel."""
        return any(link.kind.weighted for link in self.links)

    @property
    def moves_in_channels(self) -> bool:
        """Whether every value it gives is one of its inputs of the same channel, or 0, but for the scale that waits and
        the bias."""
        return all(link.kind.moves and link.kind.keeps_channels for link in self.links)

    @property
    def identity(self) -> bool:
        """Whether it gives what it gets, but for the bias."""
        return not self.links and self.scale is None

    def append(self, layer) -> "Chain":
        """The chain with the linear part of a built layer behind it, and its bias."""
        link, bias = Link.of(layer, self.shape), getattr(layer, "bias", None)
        carried = self._carried(link)
        if bias is not None:
            carried = carried + as_map(np.asarray(getattr(bias, "value", bias)), len(link.output_shape))
        return replace(self.put(link), bias=carried)

    def _carried(self, link: Link) -> np.ndarray:
        """The bias behind a link."""
        if not np.any(self.bias):
            return np.zeros((1,) * len(link.output_shape))
        return compact(apply([link.built("float64")], np.broadcast_to(self.bias, self.shape)))

    def put(self, link: Link) -> "Chain":
        """The linear part of the chain with one link more."""
        if link.scale is not None:
            return self.multiplied(link.scale)
        scale = self.scale
        if scale is not None:
            vector = channel_vector(scale, self.shape[-1])
            if link.kind.weighted and vector is not None:
                link, scale = link.scaled_inward(vector), None
            elif scale.size == 1:
                scale = scale.reshape((1,) * len(link.output_shape))
            else:
                scale = link.kind.pass_scale(link.layer, scale, self.shape) if link.kind.pass_scale else None
                if scale is None:
                    return self.settled().put(link)
        bias = np.zeros((1,) * len(link.output_shape))
        return Chain(self.input_shape, (*self.links, link), scale, bias)

    def affine(self, scale, shift) -> "Chain":
        """What the chain gives times a scale plus a shift, both numbers that broadcast to its shape."""
        scale, shift = (as_map(values, len(self.shape)) for values in (scale, shift))
        return replace(self.multiplied(scale), bias=compact(self.bias * scale + shift))

    def multiplied(self, scale) -> "Chain":
        """The linear part times a map, in the last kernel where that is possible; the bias stays."""
        scale = as_map(scale, len(self.shape))
        if np.all(scale == 1):
            return self
        if self.scale is not None:
            product = self.scale * scale
            return replace(self, scale=None if np.all(np.abs(product - 1) <= ROUNDING) else compact(product))
        vector = channel_vector(scale, self.shape[-1])
        for position in range(len(self.links) - 1, -1, -1) if vector is not None else ():
            link = self.links[position]
            if link.kind.weighted:
                if scale.size == 1:
                    vector = np.broadcast_to(scale.reshape(-1), link.output_shape[-1:])
                links = (*self.links[:position], link.scaled_outward(vector), *self.links[position + 1 :])
                return replace(self, links=links)
            if not (link.kind.keeps_channels or scale.size == 1):
                break
        return replace(self, scale=scale)

    def settled(self) -> "Chain":
        """The chain with a scale that waits at the end turned into a layer."""
        if self.scale is None:
            return self
        return replace(self, links=(*self.links, _diagonal(self.scale, self.shape)), scale=None)

    def rescaled(self, input_scale, output_scale) -> "Chain":
        """The chain for inputs in units of `input_scale` and a result in units of `output_scale`, settled.

        Args:
            input_scale, output_scale: numbers, vectors per channel, or maps.
        """
        unit = as_map(input_scale, len(self.input_shape))
        chain = Chain(self.input_shape, scale=None if np.all(unit == 1) else unit)
        for link in self.links:
            chain = chain.put(link)
        if self.scale is not None:
            chain = chain.multiplied(self.scale)
        inverse = 1 / as_map(output_scale, len(self.shape))
        return replace(chain.multiplied(inverse).settled(), bias=compact(self.bias * inverse))

    def unscaled(self) -> "Chain":
        """The links alone, without the scale that waits and the bias."""
        return Chain(self.input_shape, self.links)

    def without_bias(self) -> "Chain":
        """The linear part alone."""
        return replace(self, bias=np.zeros((1,) * len(self.shape)))

    def constant(self, values) -> np.ndarray:
        """The map that the linear part makes of a constant input, numbers that broadcast to the input's shape."""
        values = as_map(values, len(self.input_shape))
        if not np.any(values):
            return np.zeros((1,) * len(self.shape))
        layers = [link.built("float64") for link in self.settled().links]
        return compact(apply(layers, np.broadcast_to(values, self.input_shape)))

    def layers(self, dtype: str) -> list:
        """Built Keras layers of its own, in `dtype`, that compute the linear part."""
        return [link.built(dtype) for link in self.settled().links]

    def compact_bias(self) -> tuple[str | None, np.ndarray]:
        """The kind of bias a cell needs (None, "vector" or "map") and its values."""
        if not np.any(self.bias):
            return None, self.bias
        vector = channel_vector(self.bias, self.shape[-1])
        return ("map", np.broadcast_to(self.bias, self.shape)) if vector is None else ("vector", vector)

    @property
    def held_in_float32(self) -> bool:
        """Whether scale and bias can be folded into float32 kernels without losing digits.

        A shift much larger than what remains of it (a normalisation of values that hardly differ) cancels only where
        it stands: 64 times costs at most six of the 24 binary digits.
        """
        scale = np.abs(self.scale) if self.scale is not None else np.ones(1)
        largest = np.max(np.abs(self.bias), initial=0.0)
        return bool(largest <= 64 and np.all((scale == 0) | ((scale > 1e-30) & (scale < 1e30))))
