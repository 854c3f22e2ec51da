"""From a folded graph and its calibration to the spiking network: units, cells, relays, wiring.

Every value of the ANN is unit·x + constant, where x is what the SNN passes on. Units of neurons are λ·θ, of a
concatenation those of its sources, of a sum the λ of its only listener, else 1. Constants (floors of neurons) go into
their listeners' biases, as everything linear does.
"""

from typing import Any

import keras
import numpy as np

from spiking.encoding import Encoding
from spiking.folding.chain import Chain, as_map
from spiking.folding.graph import FoldedGraph, Image, Neurons, Node, Pool, ReadOut, Relay
from spiking.folding.linear import channel_vector, compact, scope_name
from spiking.network.layers import SpikingRNN
from spiking.network.model import SpikingModel, connect


def assemble(graph: FoldedGraph, code: Encoding, calibration, name: str) -> SpikingModel:
    """The spiking network of a folded one.

    Args:
        graph: the folded network.
        code: the temporal code with its settings.
        calibration: the scales, a `spiking.scaling.calibration.Calibration` of this graph.
        name: of the model.
    """
    code = code.at_depth(graph.depth)
    assembly = Assembly(graph, code, calibration)
    layers = {node.name: assembly.layer(node) for node in graph.nodes.values()}
    wiring = {node.name: (node.input,) if isinstance(node, Image) else node.sources for node in graph.nodes.values()}
    hidden = graph.hidden
    snn = connect(
        keras.tree.map_structure(_input, graph.inputs),
        layers,
        wiring,
        graph.outputs,
        name=scope_name(name),
        encoding=code,
        report=graph.report,
        scales={each: plain(assembly.units[each] / code.spike_value, hidden[each].shape) for each in hidden},
        floors={each: plain(constant, hidden[each].shape) for each, constant in assembly.constants.items()
                if each in hidden and np.any(constant)},
        calibration=calibration.rows(),
        input_range=calibration.image_range,
        fingerprint=calibration.fingerprint,
    )  # fmt: skip
    for cell, bias in assembly.biases:
        if cell.bias is not None:
            cell.bias.assign(bias)
    return snn


def _input(symbol):
    """The same input for the SNN; integers stay what they are, so that nothing is rounded."""
    floating = keras.backend.is_float_dtype(symbol.dtype)
    dtype = keras.config.floatx() if floating else symbol.dtype
    return keras.Input(tuple(symbol.shape)[1:], dtype=dtype, name=symbol.name)


def plain(values, shape: tuple[int, ...]):
    """A number, a list with one per channel, or a nested list, as small as it can be."""
    vector = channel_vector(as_map(values, len(shape)), shape[-1])
    if vector is None:
        return np.broadcast_to(values, shape).tolist()
    return float(vector[0]) if np.all(vector == vector[0]) else vector.tolist()


class Assembly:
    """Layers of the spiking network, one node after another.

    Attributes:
        units, constants: node -> maps that make the ANN's values of what the SNN passes on.
        biases: (cell, bias), to be set once the cells are built.
    """

    def __init__(self, graph: FoldedGraph, code: Encoding, calibration):
        self.graph, self.code, self.calibration = graph, code, calibration
        self.dtype = keras.config.floatx()
        self.windows, self.listeners = graph.windows(), graph.listeners()
        self.timesteps = code.total_timesteps(graph.depth)
        self.units: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.biases: list[tuple[Any, np.ndarray]] = []

    def layer(self, node: Node):
        """The Keras layer of a node whose sources have theirs."""
        kinds = {Image: self._image, Neurons: self._neurons, Pool: self._pool, Relay: self._relay}
        layer, unit, constant = kinds.get(type(node), self._read_out)(node)
        rank = len(node.shape)
        self.units[node.name], self.constants[node.name] = as_map(unit, rank), as_map(constant, rank)
        return layer

    def _image(self, node: Image):
        maximum = self.calibration.input_maximum
        layer = self.code.input_layer(self.timesteps, node.layers(self.dtype), maximum, name=node.name)
        return layer, self.code.input_value(maximum), 0.0

    def _neurons(self, node: Neurons):
        found, activation = self.calibration.layers[node.name], node.activation
        scale = limited(np.asarray(found.scale), activation, self.code.full_activity)
        own = self.code.neurons(self.windows[node.name])
        if activation.clamp:
            own |= self.code.clamp(np.broadcast_to(activation.clamp / scale, node.shape[-1:]).tolist())
        kind = self.code.neuron_conv2d if len(node.shape) == 3 else self.code.neuron
        shift = (found.shift - found.floor) / scale
        if not activation.scales:
            shift = found.shift
            own["activation"] = activation.own_function(node.shape, self.dtype)
            own |= {key: plain(values, node.shape) for key, values in (("floor", found.floor), ("scale", scale))}
        unit = unit_of_potential(found, activation, self.code.full_activity)
        cell = self._cell(kind, node, unit, shift, **own)
        return self._rnn(cell, node), scale * self.code.spike_value, found.floor

    def _read_out(self, node: ReadOut):
        own = self.code.read_out(self.windows[node.name] or 1)
        cell = self._cell(self.code.integrator, node, np.array(1.0), np.array(0.0), activation=node.activation, **own)
        return self._rnn(cell, node, return_sequences=False), 1.0, 0.0

    def _cell(self, kind, node: Node, unit, shift, **own):
        """A cell whose potential is in units of `unit`, raised by a shift in these units."""
        (source, chain), rank = node.edge, len(node.shape)
        chain = self._with_constant(source, chain).rescaled(self.units[source], unit)
        bias, values = Chain(node.shape, bias=compact(chain.bias + as_map(shift, rank))).compact_bias()
        cell = kind(chain.layers(self.dtype), bias=bias, **own)
        self.biases.append((cell, values))
        return cell

    def _with_constant(self, source: str, chain: Chain) -> Chain:
        """The chain with what it makes of its source's constant in the bias."""
        return chain.affine(1.0, chain.constant(self.constants[source]))

    def _pool(self, node: Pool):
        source, chain = node.edge
        chain, unit = self._in_source_units(source, chain)  # one unit per channel: a maximum compares no others
        pool = type(node.layer).from_config({**node.layer.get_config(), "dtype": self.dtype, "name": "pool"})
        cell = self.code.max_pool(chain.layers(self.dtype), pool=pool, sign=node.sign, **self.code.pools())
        constant = channel_vector(chain.constant(self.constants[source]), node.shape[-1])
        return self._rnn(cell, node), channel_vector(unit, node.shape[-1]), constant

    def _in_source_units(self, source: str, chain: Chain) -> tuple[Chain, np.ndarray]:
        """The chain on what the source passes on, and the unit of what it gives: 1 behind a kernel."""
        carried = Chain(chain.input_shape, scale=None if np.all(self.units[source] == 1) else self.units[source])
        for link in chain.links:
            carried = carried.put(link)
        unit = np.ones((1,) * len(chain.shape)) if carried.scale is None else carried.scale
        return carried.unscaled(), unit

    def _relay(self, node: Relay):
        shapes = [edge.chain.shape for edge in node.edges]
        constant = node.join.maps([edge.chain.constant(self.constants[edge.source]) for edge in node.edges], shapes)
        if node.join.axis is not None:
            chains, units = zip(*(self._in_source_units(*edge) for edge in node.edges), strict=True)
            unit = compact(node.join.maps(list(units), shapes))
        else:
            unit = self._unit_of_sum(node)
            chains = [chain.rescaled(self.units[source], unit) for source, chain in node.edges]
        synapses = [chain.layers(self.dtype) for chain in chains]
        return self.code.relay(synapses, node.join.axis, name=node.name), unit, constant

    def _unit_of_sum(self, node: Relay) -> np.ndarray:
        """λ of the only listener, where that takes the sum as it is; else 1."""
        listeners = [self.graph.nodes[name] for name in self.listeners[node.name]]
        if len(listeners) == 1 and isinstance(listeners[0], Neurons) and listeners[0].edge.chain.identity:
            found, activation = self.calibration.layers[listeners[0].name], listeners[0].activation
            return unit_of_potential(found, activation, self.code.full_activity)
        return np.array(1.0)

    def _rnn(self, cell, node: Node, **keywords):
        return SpikingRNN(cell, name=node.name, **keywords)


def unit_of_potential(found, activation, full: float) -> np.ndarray:
    """What a potential of 1 stands for: λ; the ANN's 1 where f does not scale, so that λ acts on what is sent."""
    unit = limited(np.asarray(found.scale), activation, full) if activation.scales else np.array(1.0)
    return unit / found.gain


def limited(scale: np.ndarray, activation, full: float) -> np.ndarray:
    """λ such that full activity, in units of λ, does not exceed the ANN's ceiling; rounded activations need it so."""
    if activation.span is None:
        return scale
    limit = activation.span / full
    return np.array(limit) if activation.levels else np.minimum(scale, limit)
