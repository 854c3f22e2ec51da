"""Linear Keras layers as the nodes of a NIR file: plain data, channels first.

A node of the file is a kind and its arguments; several edges into one node are added. What NIR has no node for waits on
the *wire* until a node can take it: a factor (1/k² of an average pooling) until the next kernel, zeros around a map
until the next kernel or pooling, the order of a flattened map until the next dense layer.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from keras import layers as kl

from spiking.folding.linear import Diagonal, channel_vector, kernels_of

CONVOLUTIONS = {2: "Conv1d", 3: "Conv2d"}  # rank of a map without the batch axis -> kind


class NotInNir(Exception):
    """Something that a NIR file cannot hold: what, and the remedy."""

    def __init__(self, what: str, remedy: str):
        super().__init__(what)
        self.what, self.remedy = what, remedy


@dataclass(frozen=True)
class Wire:
    """What runs into the next node.

    Attributes:
        outlets: names of the nodes whose sum it is.
        shape: channels last, as Keras has it, without the batch axis.
        factor: waits for a kernel; a map that broadcasts to `shape`.
        padding: zeros that wait, per axis of positions (before, behind).
        order: of a flattened map: place in the file -> place in Keras; None where they are the same.
        kernel: name of the node that ends the wire, if it has a kernel and nobody else hears it.
    """

    outlets: tuple[str, ...]
    shape: tuple[int, ...]
    factor: np.ndarray | float = 1.0
    padding: tuple[tuple[int, int], ...] = ()
    order: np.ndarray | None = None
    kernel: str | None = None

    def channels(self) -> np.ndarray:
        """The factor per channel, shape (channels,)."""
        factor = np.asarray(self.factor, np.float64)
        vector = channel_vector(factor.reshape((1,) * (len(self.shape) - factor.ndim) + factor.shape), self.shape[-1])
        if vector is None:
            raise NotInNir(
                "a scale that differs by position waits in front of its kernel",
                "NIR's kernels hold one per channel: leave out the layer that scales positions.",
            )
        return vector


@dataclass(frozen=True)
class Kernel:
    """A convolution as NIR has it: the same number of zeros on both sides, the same size on all axes.

    Attributes:
        weight: (filters, channels, *size).
        padding: zeros on either side, per axis.
    """

    weight: np.ndarray
    padding: tuple[int, ...]


def grown(kernel: np.ndarray, positions, outputs, strides, dilation, before) -> Kernel:
    """A kernel grown with zeros until equal zeros on both sides of the map give the same values.

    TensorFlow's "same" puts the odd zero behind the map, at stride 2 on every even map. NIR's shape formula also takes
    a kernel's first size for all axes, so the kernel becomes square.

    Args:
        kernel: (*size, channels, filters), as Keras has it.
        positions, outputs: sizes of the map in front and behind.
        strides, dilation: per axis.
        before: zeros in front of the map, per axis.
    """
    axes = list(zip(kernel.shape, positions, outputs, strides, dilation, before, strict=False))
    longest = max(kernel.shape[: len(positions)])
    for size in range(longest, 4 * longest + 4 * max(strides)):
        leads = [_lead(size, *axis) for axis in axes]
        if None not in leads:
            zeros = [(lead, size - axis[0] - lead) for lead, axis in zip(leads, axes, strict=True)]
            weight = np.moveaxis(np.pad(kernel, [*zeros, (0, 0), (0, 0)]), (-1, -2), (0, 1))
            padding = tuple(int(axis[5] + lead * axis[4]) for lead, axis in zip(leads, axes, strict=True))
            return Kernel(np.ascontiguousarray(weight), padding)
    raise NotInNir(
        f"its kernel of {kernel.shape[: len(positions)]} has no square equal with as many zeros on both sides, and NIR "
        "1.0.8 knows the shapes of square kernels alone",
        'Take kernels of odd sizes and padding="same".',
    )


def _lead(size: int, own: int, positions: int, outputs: int, stride: int, dilation: int, before: int) -> int | None:
    """Zeros to put in front of a kernel that grows to `size`, on one axis; None where none will do."""
    for lead in range(size - own + 1):
        padding = before + lead * dilation
        if padding >= 0 and (positions + 2 * padding - dilation * (size - 1) - 1) // stride + 1 == outputs:
            return lead
    return None


class Nodes:
    """The nodes and edges of a file, in the order in which they come up."""

    def __init__(self):
        self.nodes: dict[str, tuple[str, dict]] = {}
        self.edges: list[tuple[str, str]] = []

    def add(self, name: str, kind: str, arguments: dict, sources: Sequence[str]) -> str:
        """A further node; returns its name, which has a number behind it where it was taken."""
        name = re.sub(r"\W", "_", name)  # readers make attributes of it
        unique, number = name, 1
        while unique in self.nodes:
            number += 1
            unique = f"{name}_{number}"
        if len(set(sources)) < len(sources):
            raise NotInNir("it hears one layer twice", "NIR has one edge between two nodes: double the weights.")
        self.nodes[unique] = kind, arguments
        self.edges += [(source, unique) for source in sources]
        return unique

    def put(self, layer, wire: Wire, name: str) -> Wire:
        """A linear Keras layer behind a wire.

        Raises:
            NotInNir: NIR has nothing for it.
        """
        if type(layer) not in TRANSLATORS:
            raise NotInNir(
                f"'{layer.name}' is a {type(layer).__name__}, for which NIR has no node",
                f"NIR takes {', '.join(kind.__name__ for kind in TRANSLATORS if kind is not Diagonal)}.",
            )
        return TRANSLATORS[type(layer)](self, layer, wire, name)

    def linear(self, weight: np.ndarray, wire: Wire, shape, name: str, **geometry) -> Wire:
        """A node with a kernel, (filters, channels, …), and a bias of zeros."""
        kind = CONVOLUTIONS.get(len(wire.shape), "Affine")
        arguments = {"weight": weight.astype(np.float32), "bias": np.zeros(len(weight), np.float32), **geometry}
        unique = self.add(f"{name}_{kind.lower()}", kind, arguments, wire.outlets)
        return Wire((unique,), tuple(shape), kernel=unique)

    def convolve(self, kernel, wire: Wire, shape, name, strides=1, dilation=1, before=None) -> Wire:
        """A convolution with a kernel (*size, channels, filters), the wire's factor in it; one group.

        NIR 1.0.8 takes the channels of one group for those of the input, so groups are written as zeros.
        """
        positions = wire.shape[:-1]
        strides, dilation = (np.broadcast_to(each, len(positions)).tolist() for each in (strides, dilation))
        ahead = np.zeros(len(positions), int) if before is None else np.asarray(before)
        ahead = (ahead + [pair[0] for pair in wire.padding] if wire.padding else ahead).tolist()
        full = grown(kernel * wire.channels()[:, None], positions, shape[:-1], strides, dilation, ahead)
        geometry = {"stride": strides, "padding": list(full.padding), "dilation": dilation}
        if len(positions) == 1:
            geometry = {key: value[0] for key, value in geometry.items()} | {"input_shape": positions[0]}
        else:
            geometry = {key: tuple(value) for key, value in geometry.items()} | {"input_shape": tuple(positions)}
        return self.linear(full.weight, replace(wire, padding=()), shape, name, groups=1, **geometry)

    def identity(self, wire: Wire, name: str) -> Wire:
        """A node with a kernel that gives what it gets, with the factor and the zeros that wait."""
        channels = wire.shape[-1]
        if len(wire.shape) == 1:
            return self.linear(np.diag(wire.channels()), replace(wire, factor=1.0), wire.shape, name)
        kernel = np.eye(channels).reshape((1,) * (len(wire.shape) - 1) + (channels, channels))
        return self.convolve(kernel, wire, _padded(wire), name)

    def biased(self, wire: Wire, factor: float, bias: np.ndarray, name: str) -> Wire:
        """The wire times a factor, plus a bias per channel; in the kernel that ends it, where it has one."""
        if wire.order is not None:
            raise NotInNir(
                "a flattened map has no dense layer behind it", "Put Flatten right in front of a dense layer."
            )
        plain = not (wire.kernel or wire.padding or np.any(bias)) and np.all(np.asarray(wire.factor) * factor == 1)
        if plain:
            return wire
        if wire.kernel is None:
            wire = self.identity(wire, name)
        kind, arguments = self.nodes[wire.kernel]
        weight = (arguments["weight"].astype(np.float64) * factor).astype(np.float32)
        self.nodes[wire.kernel] = kind, {**arguments, "weight": weight, "bias": bias.astype(np.float32)}
        return replace(wire, kernel=None)


def channels_first(shape: Sequence[int]) -> tuple[int, ...]:
    """(rows, columns, channels) as (channels, rows, columns)."""
    return (shape[-1], *shape[:-1])


def _padded(wire: Wire) -> list[int]:
    """A wire's shape, the zeros that wait counted."""
    around = [sum(pair) for pair in wire.padding] or [0] * (len(wire.shape) - 1)
    return [size + zeros for size, zeros in zip(wire.shape, [*around, 0], strict=True)]


def _behind(layer, wire: Wire) -> tuple[int, ...]:
    """The shape of what a layer makes of a wire."""
    return tuple(layer.compute_output_shape((None, *_padded(wire))))[1:]


def _dense(nodes: Nodes, layer, wire: Wire, name: str) -> Wire:
    (kernel,) = kernels_of(layer)
    if len(wire.shape) > 1:
        shape = _behind(layer, wire)
        if len(wire.shape) not in CONVOLUTIONS:
            raise NotInNir("it acts on an array of rank 4", "NIR has convolutions in one and two dimensions.")
        return nodes.convolve(kernel.reshape((1,) * (len(shape) - 1) + kernel.shape), wire, shape, name)
    weight = (kernel * np.broadcast_to(np.asarray(wire.factor), wire.shape)[:, None]).T
    if wire.order is not None:
        weight = weight[:, wire.order]
    return nodes.linear(weight, wire, (len(weight),), name)


def _same(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Zeros that "same" puts in front of an axis."""
    return max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0) // 2


def _convolution(kernel_of: Callable) -> Callable:
    """The translator of a kind of convolution, from its kernel as one of a single group."""

    def translate(nodes: Nodes, layer, wire: Wire, name: str) -> Wire:
        kernel, shape = kernel_of(layer), _behind(layer, wire)
        before = [0] * (len(wire.shape) - 1)
        if layer.padding == "same":
            axes = zip(_padded(wire), kernel.shape, layer.strides, layer.dilation_rate, strict=False)
            before = [_same(*axis) for axis in axes][: len(before)]
        elif layer.padding == "causal":
            before = [layer.dilation_rate[0] * (kernel.shape[0] - 1)]
        return nodes.convolve(kernel, wire, shape, name, layer.strides, layer.dilation_rate, before)

    return translate


def _of_groups(layer) -> np.ndarray:
    (kernel,) = kernels_of(layer)
    *size, own, filters = kernel.shape
    full = np.zeros((*size, own * layer.groups, filters))
    for group in range(layer.groups):
        into = slice(group * filters // layer.groups, (group + 1) * filters // layer.groups)
        full[..., group * own : (group + 1) * own, into] = kernel[..., into]
    return full


def _of_channels(kernel: np.ndarray) -> np.ndarray:
    """A depthwise kernel (*size, channels, multiplier) as (*size, channels, channels·multiplier)."""
    *size, channels, multiplier = kernel.shape
    full = np.zeros((*size, channels, channels, multiplier))
    full[..., np.arange(channels), np.arange(channels), :] = kernel
    return full.reshape(*size, channels, channels * multiplier)


def _of_both(layer) -> np.ndarray:
    depthwise, pointwise = kernels_of(layer)
    return _of_channels(depthwise) @ pointwise.reshape(pointwise.shape[-2:])


def _flatten(nodes: Nodes, layer, wire: Wire, name: str) -> Wire:
    shape = _behind(layer, wire)
    if len(shape) > 1:
        if shape == wire.shape:
            return wire
        raise NotInNir(f"'{layer.name}' gives another shape, {shape}", "NIR can flatten only: take keras' Flatten.")
    if len(wire.shape) == 1:
        return wire
    wire = nodes.identity(wire, name) if wire.padding else wire
    order = np.moveaxis(np.arange(np.prod(wire.shape)).reshape(wire.shape), -1, 0).reshape(-1)
    size = np.array(channels_first(wire.shape))
    unique = nodes.add(
        f"{name}_flatten", "Flatten", {"input_type": {"input": size}, "start_dim": 0, "end_dim": -1}, wire.outlets
    )
    factor = np.asarray(wire.factor)
    factor = factor if factor.size == 1 else np.broadcast_to(factor, wire.shape).reshape(-1)
    same = np.array_equal(order, np.arange(len(order)))
    return Wire((unique,), shape, factor.reshape(-1) if factor.size > 1 else float(factor.reshape(())),
                order=None if same else order)  # fmt: skip


def _pad(nodes: Nodes, layer, wire: Wire, name: str) -> Wire:
    pairs = np.reshape(layer.padding, (-1, 2))
    before = np.reshape(wire.padding, (-1, 2)) if wire.padding else np.zeros_like(pairs)
    return replace(wire, padding=tuple(map(tuple, (pairs + before).tolist())), kernel=None)


def _sum(nodes: Nodes, wire: Wire, name: str, size, strides, shape) -> Wire:
    """A SumPool2d; its mean's divisor waits on the wire."""
    arguments = {"kernel_size": size, "stride": strides, "padding": (0, 0)}
    arguments = {key: np.array(value) for key, value in arguments.items()}
    unique = nodes.add(f"{name}_sumpool2d", "SumPool2d", arguments, wire.outlets)
    return Wire((unique,), shape, np.asarray(wire.channels()) / np.prod(size))


def _average(nodes: Nodes, layer, wire: Wire, name: str) -> Wire:
    wire, shape = nodes.identity(wire, name) if wire.padding else wire, _behind(layer, wire)  # sinabs drops its zeros
    sides = zip(wire.shape, layer.pool_size, layer.strides, strict=False)
    if layer.padding == "same" and any(_total(*side) for side in sides):
        raise NotInNir(
            f"'{layer.name}' pads, and averages fewer values at the border",
            'NIR sums the same number everywhere: take padding="valid", or a size that divides the map.',
        )
    return _sum(nodes, wire, name, layer.pool_size, layer.strides, shape)


def _total(size: int, kernel: int, stride: int) -> int:
    """Zeros that "same" puts around an axis."""
    return max((-(-size // stride) - 1) * stride + kernel - size, 0)


def _average_all(nodes: Nodes, layer, wire: Wire, name: str) -> Wire:
    wire = nodes.identity(wire, name) if wire.padding else wire
    size = wire.shape[:2]
    pooled = _sum(nodes, wire, name, size, size, (1, 1, wire.shape[-1]))
    return pooled if layer.keepdims else _flatten(nodes, kl.Flatten(), pooled, name)


def _scale(nodes: Nodes, layer, wire: Wire, name: str) -> Wire:
    scale = np.asarray(layer.scale.value, np.float64)
    return replace(wire, factor=np.asarray(wire.factor) * scale, kernel=None)


# Linear Keras layer -> `(nodes, layer, wire, name) -> wire`.
TRANSLATORS: dict[type, Callable] = {
    kl.Dense: _dense,
    kl.Conv1D: _convolution(_of_groups),
    kl.Conv2D: _convolution(_of_groups),
    kl.DepthwiseConv1D: _convolution(lambda layer: _of_channels(*kernels_of(layer))),
    kl.DepthwiseConv2D: _convolution(lambda layer: _of_channels(*kernels_of(layer))),
    kl.SeparableConv1D: _convolution(_of_both),
    kl.SeparableConv2D: _convolution(_of_both),
    kl.Flatten: _flatten,
    kl.Reshape: _flatten,
    kl.ZeroPadding1D: _pad,
    kl.ZeroPadding2D: _pad,
    kl.AveragePooling2D: _average,
    kl.GlobalAveragePooling2D: _average_all,
    Diagonal: _scale,
}
