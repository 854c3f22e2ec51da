"""A NIR file of feed-forward integrate-and-fire neurons as a spiking network."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import layers as kl

from spiking.checks import check_choice, require
from spiking.exchange.nir import ExportError, nir_package
from spiking.folding.activations import RELU
from spiking.folding.chain import Chain
from spiking.folding.graph import Edge, FoldedGraph, Image, Join, Neurons, Node, ReadOut, Relay
from spiking.network.assembly import assemble
from spiking.network.model import SpikingModel
from spiking.rate import RESETS, Rate
from spiking.scaling.calibration import Calibration, LayerCalibration


@dataclass(frozen=True)
class Signal:
    """What a node of the file gives: a chain behind a node of the network.

    Attributes:
        source: name of an image, of neurons or of a relay.
        chain: what is linear behind it, channels last, with bias.
        order: of a flattened map: place in the file -> place in Keras; None where they are the same.
    """

    source: str
    chain: Chain
    order: np.ndarray | None = None

    def behind(self, layer, weights=()) -> "Signal":
        """The signal behind a Keras layer with these weights."""
        layer.build((None, *self.chain.shape))
        layer.set_weights(list(weights))
        return replace(self, chain=self.chain.append(layer))


class Unreadable(Exception):
    """What of a node this toolbox has nothing for."""


def read_nir(path: str | os.PathLike, timesteps: int | None = None, reset: str | None = None) -> SpikingModel:
    """A rate-coded network from a NIR file, of ours or of other tools: `IF` neurons, feed-forward, on chains or graphs.

    Neurons fire from their threshold on, not above it. NIR itself resets to zero; files of ours tell their reset, time
    steps, V(0) and input among the metadata, and the network is equal to the one that was written.

    Args:
        path: of the file.
        timesteps: T; None for what the file tells.
        reset: "subtract" or "zero"; None for what the file tells, else "zero", as NIR has it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no NIR file; or does not tell T, and `timesteps` is None.
        ExportError: the file holds nodes that the toolbox has nothing for; all are listed.
    """
    nir = nir_package()
    if not os.path.exists(path):
        raise FileNotFoundError(f"A NIR file is read. Received: {str(path)!r}, where there is none. Give its path.")
    try:
        graph = nir.read(path, type_check=False)
    except (OSError, KeyError, AttributeError) as error:  # of HDF5, of a file of another kind
        remedy = "Write it with export_nir, or with nir.write."
        require(False, f"A NIR file is one that the package nir reads ({error})", f"{str(path)!r}", remedy, error)
    told = graph.metadata
    timesteps = int(told["timesteps"]) if timesteps is None and "timesteps" in told else timesteps
    require(timesteps is not None, "A simulation has a number of time steps", f"timesteps=None with {str(path)!r}, "
            "which tells none", "Give timesteps.")  # fmt: skip
    reset = check_choice("reset", reset or told.get("reset", "zero"), RESETS)
    code = Rate(
        timesteps=timesteps,
        reset=reset,
        initial_potential=float(told.get("initial_potential", 0.0)),
        readout_delay=min(int(told.get("readout_delay", 0)), timesteps - 1),
        input_coding=told.get("input", "current"),
        max_rate=float(told.get("max_rate", 1.0)),
        seed=int(told.get("seed", 0)),
    )
    maximum = float(told.get("input_maximum", 1.0))
    reading = Reading(graph, code.input_value(maximum))
    folded = reading.folded(told)
    found = Calibration(told.get("ann", ""), "max", 100.0, timesteps, False, 0, 0.0, maximum, reading.neurons)
    return assemble(folded, code, found, folded.name)


class Reading:
    """One file on its way into a network.

    Args:
        graph: the file's graph.
        input_value: what a coded input of 1 stands for, in the file 1.

    Attributes:
        neurons: what calibration would have found of each layer: all is told in the file's own units.
    """

    def __init__(self, graph, input_value: float):
        self.graph, self.input_value = graph, input_value
        self.sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
        self.listeners = {name: [b for a, b in graph.edges if a == name] for name in graph.nodes}
        self.nodes: dict[str, Node] = {}
        self.neurons: dict[str, LayerCalibration] = {}
        self.inputs, self.signals = {}, {}

    def folded(self, told: dict) -> FoldedGraph:
        """The file as a folded network, whose activations are the neurons' rates.

        Args:
            told: the metadata.

        Raises:
            ExportError: with all that cannot be read.
        """
        faults, outputs = [], {}
        inputs, names, activations = (told.get(key, "").split(", ") for key in ("inputs", "outputs", "activation"))
        for each in self._order():
            node, kind = self.graph.nodes[each], type(self.graph.nodes[each]).__name__
            try:
                if kind == "Output":
                    activation = activations[names.index(each)] if each in names else "linear"
                    outputs[each] = self._read_out(each, activation)
                else:
                    self.signals[each] = self._signal(each, node, kind)
            except Unreadable as fault:
                faults.append(f"'{each}' ({kind}): {fault}")
                self.signals[each] = None
            except KeyError:  # behind a fault that is told already
                self.signals[each] = None
        if faults:
            raise ExportError("The NIR file cannot be read:\n- " + "\n- ".join(faults))
        inputs, outputs = _in_order(self.inputs, inputs), _in_order(outputs, names)
        return FoldedGraph(self.nodes, outputs, inputs, (), told.get("network", "nir"))

    def _order(self) -> list[str]:
        """The nodes, each behind its sources."""
        order, left = [], dict(self.sources)
        while left:
            ready = [name for name, heard in left.items() if set(heard) <= set(order)]
            if not ready:
                raise ExportError(
                    f"The NIR file cannot be read:\n- {', '.join(map(repr, left))}: they lie in or behind a loop, and "
                    "the toolbox is for feed-forward networks."
                )
            order += ready
            left = {name: heard for name, heard in left.items() if name not in ready}
        return order

    def _signal(self, name: str, node, kind: str) -> Signal:
        if kind == "Input":
            return self._image(name, node)
        if kind != "IF" and kind not in READERS:
            raise Unreadable(f"the toolbox reads {', '.join(['Input', 'Output', 'IF', *READERS])}.")
        heard = self._heard(name)
        if kind == "IF":
            return self._layer(name, node, heard)
        signal = READERS[kind](node, heard)
        return self._relay(name, [signal]) if signal.chain.weighted and len(self.listeners[name]) > 1 else signal

    def _image(self, name: str, node) -> Signal:
        size = [int(each) for each in node.input_type["input"]]
        shape = (*size[1:], size[0])
        self.inputs[name] = keras.Input(shape, name=f"{name}_image")
        self.nodes[name] = Image(name, shape, (), f"{name}_image")
        unit = None if self.input_value == 1 else np.full((1,) * len(shape), 1 / self.input_value)
        return Signal(name, Chain(shape, scale=unit))

    def _heard(self, name: str) -> Signal:
        """The sum of what a node hears."""
        heard = [self.signals[source] for source in self.sources[name]]
        if None in heard:
            raise KeyError(name)
        if not heard:
            raise Unreadable("it hears nothing.")
        return heard[0] if len(heard) == 1 else self._relay(f"{name}_sum", heard)

    def _relay(self, name: str, heard: list[Signal]) -> Signal:
        shapes = {signal.chain.shape for signal in heard}
        if len(shapes) > 1 or len({None if each.order is None else tuple(each.order) for each in heard}) > 1:
            raise Unreadable(f"it adds maps of the shapes {sorted(shapes)}, or maps and flattened maps.")
        edges = tuple(Edge(signal.source, signal.chain.without_bias()) for signal in heard)
        self.nodes[name] = Relay(name, heard[0].chain.shape, edges, Join())
        bias = sum(signal.chain.bias for signal in heard)
        return Signal(name, Chain(heard[0].chain.shape, bias=bias), heard[0].order)

    def _layer(self, name: str, node, heard: Signal) -> Signal:
        shape = heard.chain.shape
        if heard.order is not None:
            raise Unreadable("a flattened map reaches neurons with no Affine between them.")
        if np.any(node.v_reset):
            raise Unreadable("v_reset must be 0.")
        units = np.moveaxis(np.broadcast_to(node.v_threshold / node.r, (shape[-1], *shape[:-1])), 0, -1)
        if np.any(units != units[(0,) * (units.ndim - 1)]) or np.any(units <= 0):
            raise Unreadable("v_threshold / r must be positive and the same for all neurons of a channel.")
        unit = units.reshape(-1, shape[-1])[0].astype(np.float64)
        unit = np.where(unit == np.nextafter(np.float32(1), np.float32(0)), 1.0, unit)  # "above" it is "from 1 on"
        self.neurons[name] = LayerCalibration(np.array(1.0), 1.0, 0.0, 0, gain=1 / unit)
        self.nodes[name] = Neurons(name, shape, (Edge(heard.source, heard.chain),), RELU)
        return Signal(name, Chain(shape))

    def _read_out(self, name: str, activation: str) -> str:
        heard = self._heard(name)
        if heard.order is not None:
            raise Unreadable("a flattened map is the output: let an Affine follow it.")
        function = getattr(keras.activations, activation, keras.activations.linear)
        self.nodes[name] = ReadOut(name, heard.chain.shape, (Edge(heard.source, heard.chain),), function)
        return name


def _in_order(found: dict, names: list[str]):
    """Values in the order of these names, if they are all there; one alone is no list."""
    names = names if set(names) == set(found) else list(found)
    values = [found[name] for name in names]
    return values[0] if len(values) == 1 else values


def _affine(node, heard: Signal) -> Signal:
    weight, bias = np.asarray(node.weight), getattr(node, "bias", None)
    if weight.ndim != 2 or len(heard.chain.shape) != 1:
        raise Unreadable(f"its weight has the shape {weight.shape}, its input {heard.chain.shape}: flat ones are read.")
    if heard.order is not None:
        into = np.empty_like(weight)
        into[:, heard.order] = weight
        weight, heard = into, replace(heard, order=None)
    layer = kl.Dense(len(weight), use_bias=bias is not None, dtype="float64")
    return heard.behind(layer, [weight.T] if bias is None else [weight.T, bias])


def _padded(node, heard: Signal, rank: int) -> Signal:
    zeros = [int(each) for each in np.broadcast_to(node.padding, rank)]
    if not any(zeros):
        return heard
    return heard.behind(kl.ZeroPadding1D(zeros[0]) if rank == 1 else kl.ZeroPadding2D(tuple(zeros)))


def _convolution(kind: type, rank: int) -> Callable:
    def read(node, heard: Signal) -> Signal:
        weight, same = np.asarray(node.weight), isinstance(node.padding, str) and node.padding == "same"
        if not isinstance(node.padding, str):
            heard = _padded(node, heard, rank)
        steps = {key: tuple(int(each) for each in np.broadcast_to(value, rank))
                 for key, value in (("strides", node.stride), ("dilation_rate", node.dilation))}  # fmt: skip
        layer = kind(len(weight), weight.shape[2:], padding="same" if same else "valid", groups=int(node.groups),
                     dtype="float64", **steps)  # fmt: skip
        return heard.behind(layer, [np.moveaxis(weight, (0, 1), (-1, -2)), node.bias])

    return read


def _pooling(node, heard: Signal) -> Signal:
    size, strides = (tuple(map(int, np.broadcast_to(value, 2))) for value in (node.kernel_size, node.stride))
    return _padded(node, heard, 2).behind(kl.AveragePooling2D(size, strides))


def _sum_pooling(node, heard: Signal) -> Signal:
    pooled = _pooling(node, heard)
    return replace(pooled, chain=pooled.chain.affine(float(np.prod(np.broadcast_to(node.kernel_size, 2))), 0.0))


def _flatten(node, heard: Signal) -> Signal:
    shape = heard.chain.shape
    if len(shape) == 1:
        return heard
    if int(node.start_dim) != 0 and shape[-1] != 1:
        raise Unreadable("it flattens part of the axes; the toolbox reads start_dim=0.")
    order = np.moveaxis(np.arange(np.prod(shape)).reshape(shape), -1, 0).reshape(-1)
    same = np.array_equal(order, np.arange(len(order)))
    return replace(heard.behind(kl.Flatten()), order=None if same else order)


def _scale(node, heard: Signal) -> Signal:
    if heard.order is not None:
        raise Unreadable("it scales a flattened map.")
    scale = np.asarray(node.scale)
    return replace(heard, chain=heard.chain.affine(np.moveaxis(scale, 0, -1) if scale.ndim else scale, 0.0))


# Kind of node -> `(node, signal) -> signal`.
READERS: dict[str, Callable] = {
    "Affine": _affine,
    "Linear": _affine,
    "Conv1d": _convolution(kl.Conv1D, 1),
    "Conv2d": _convolution(kl.Conv2D, 2),
    "SumPool2d": _sum_pooling,
    "AvgPool2d": _pooling,
    "Flatten": _flatten,
    "Scale": _scale,
}
