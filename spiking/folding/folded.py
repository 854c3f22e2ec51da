"""What a tensor of the ANN is while it is read: a chain from one node, and what waits behind it.

`Folded` values are frozen; their methods return new ones. `Reading` collects what they lead to: nodes, the rows of the
conversion report, and refusals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from spiking.folding.activations import IDENTITY, RELU, Activation, moves_behind
from spiking.folding.chain import Chain, as_map
from spiking.folding.graph import (
    Edge,
    Image,
    Join,
    Neurons,
    Node,
    Pool,
    ReadOut,
    Relay,
    keeps_signs,
    never_negative,
    sends_spikes,
)
from spiking.folding.linear import PADDING, Diagonal, Offset, channel_vector, is_weighted
from spiking.folding.rows import Refusal, Row, WaitingActivation, WaitingPool


class Reading:
    """Collects nodes, rows and refusals while the ANN is read."""

    def __init__(self):
        self.nodes: dict[str, Node] = {}
        self.rows: list[Row] = []
        self.refusals: list[Refusal] = []
        self._names: set[str] = set()

    def unique(self, name: str, path: Sequence[str] = ()) -> str:
        """The name, or one that tells it from those that are taken."""
        candidates = [name, "_".join((*path[1:], name))]
        number = 2
        while candidates[0] in self._names:
            candidates = candidates[1:] or [f"{name}_{number}"]
            number += not candidates[1:]
        self._names.add(candidates[0])
        return candidates[0]

    def row(self, layer, path: Sequence[str], listed: bool = True) -> Row:
        """The row of a layer; models whose layers have rows of their own are not listed."""
        if not listed:
            return Row(layer.name, type(layer).__name__)
        row = Row(self.unique(layer.name, path), type(layer).__name__, is_weighted(layer))
        self.rows.append(row)
        return row

    def refuse(self, refusal: Refusal) -> None:
        """One fault more."""
        self.refusals.append(refusal)

    def graph(self, outputs: Sequence[str]) -> dict[str, Node]:
        """The nodes that the outputs need, images under their final names."""
        needed = set(outputs)
        for name, node in reversed(self.nodes.items()):
            if name in needed:
                needed.update(node.sources)
        nodes = {name: node for name, node in self.nodes.items() if name in needed}
        images = [node for node in nodes.values() if isinstance(node, Image)]
        names = {
            node.name: self.unique("input_spikes" if len(images) == 1 else f"{node.input}_spikes") for node in images
        }

        def renamed(node):
            edges = tuple(Edge(names.get(edge.source, edge.source), edge.chain) for edge in node.edges)
            return replace(node, name=names.get(node.name, node.name), edges=edges)

        return {node.name: node for node in map(renamed, nodes.values())}

    def report(self) -> list[dict]:
        """A row per ANN layer: "layer", "type", "result"."""
        return [{"layer": row.name, "type": row.kind, "result": "; ".join(row.results)} for row in self.rows]

    def image(self, input_name: str, shape: tuple[int, ...], preprocessing: tuple = ()) -> "Folded":
        """The value of a new image node; it gets its name in the end, a slash keeps it from those of layers."""
        name = f"/image {sum(isinstance(node, Image) for node in self.nodes.values())}"
        return self._value(Image(name, shape, (), input_name, preprocessing))

    def shared(self, value: "Folded") -> "Folded":
        """A value that several listen to: what has a kernel becomes a relay, so that it is computed once."""
        if not isinstance(value, Folded) or value.final:
            return value
        value = value.settled()
        return value.relayed() if value.chain.weighted else value

    def neurons(self, name: str, chain: Chain, source: str, activation: Activation) -> "Folded":
        """Neurons behind a chain."""
        return self._value(Neurons(name, chain.shape, (Edge(source, chain.settled()),), activation))

    def pool(self, name: str, layer, source: str, chain: Chain, sign: np.ndarray) -> "Folded":
        """A max pooling of spikes, shifted and scaled behind it."""
        shape = tuple(layer.compute_output_shape((None, *chain.shape)))[1:]
        sign = None if np.all(sign > 0) else sign
        return self._value(Pool(name, shape, (Edge(source, chain),), layer, sign))

    def relay(self, name: str, values: Sequence["Folded"], join: Join) -> "Folded":
        """What values joined give; their constants start its listeners' chains."""
        edges = [Edge(value.source, value.chain.without_bias().settled()) for value in values]
        shapes = [value.shape for value in values]
        shape = tuple(np.broadcast_shapes(*shapes)) if join.axis is None else _side_by_side(shapes, join.axis)
        bias = join.maps([value.chain.bias for value in values], shapes)
        value = self._value(Relay(name, shape, tuple(edges), join))
        return replace(value, chain=replace(value.chain, bias=bias))

    def read_out(self, value: "Folded") -> str:
        """Makes an output of a value; returns the node's name."""
        final, activation = value.final, keras.activations.linear
        value, activation = final.at_the_end(value.since_final) if final else (value.settled(), activation)
        named = value.stage_name() or (final.row.name if final else "scores")
        name = named if named not in self.nodes else self.unique(f"{named}_scores")
        value.end(name, "read-out")
        self._value(ReadOut(name, value.shape, (Edge(value.source, value.chain.settled()),), activation))
        return name

    def stand_in(self, row: Row, shape: tuple[int, ...]) -> "Folded":
        """A value in place of what was refused."""
        source = next(iter(self.nodes))
        return self._value(Neurons(self.unique(f"{row.name}_refused"), shape, (Edge(source, Chain(shape)),), RELU))

    def _value(self, node: Node) -> "Folded":
        self.nodes[node.name] = node
        self._names.add(node.name)
        return Folded(self, node.name, Chain(node.shape))


def _side_by_side(shapes, axis) -> tuple[int, ...]:
    shape = list(shapes[0])
    shape[axis - 1] = sum(each[axis - 1] for each in shapes)
    return tuple(shape)


@dataclass(frozen=True, eq=False)
class Folded:
    """A tensor of the ANN: a chain from a node.

    Attributes:
        reading: where nodes go.
        source: name of the node.
        chain: from what the node gives to the value, up to the poolings that wait.
        rows: of the ANN layers the value went through since the node.
        image_layers: (layer, input shape) of these layers while they act on the image alone.
        pools: max poolings behind the chain that wait for an activation.
        final: an activation of which nothing is computed yet.
    """

    reading: Reading
    source: str
    chain: Chain
    rows: tuple[Row, ...] = ()
    image_layers: tuple = ()
    pools: tuple[WaitingPool, ...] = ()
    final: WaitingActivation | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the batch axis."""
        if self.final:
            return self.final.shape
        return self.pools[-1].shape if self.pools else self.chain.shape

    @property
    def row(self) -> Row:
        """Of the layer that the value is going through."""
        return self.rows[-1]

    @property
    def since_final(self) -> tuple[Row, ...]:
        """Of the layers behind the activation that waits."""
        return self.rows[self.rows.index(self.final.row) + 1 :]

    @property
    def node(self) -> Node:
        """The node it comes from."""
        return self.reading.nodes[self.source]

    @property
    def on_image(self) -> bool:
        """Whether everything so far acts on an input itself: no neurons yet, no kernel."""
        return isinstance(self.node, Image) and not (self.pools or self.chain.weighted or self.final)

    def through(self, row: Row) -> "Folded":
        """The value on its way through one layer more."""
        return replace(self, rows=(*self.rows, row))

    # What converters call

    def linear(self, layer) -> "Folded":
        """A linear layer becomes part of the next synapse."""
        if self.final and moves_behind(self.final.function, layer, self.shape):
            return replace(self, final=self.final.moving(self.row, layer))
        x = self._ready()
        if is_weighted(layer) and x.on_image and x.chain.links + x.image_layers and not x.chain.held_in_float32:
            x = x._acted_on_image(x.image_layers, x.rows[:-1], x.rows[-1:])
        self.row.template = "synapse of '{node}'"
        if x.on_image:
            x = replace(x, image_layers=(*x.image_layers, (layer, x.chain.shape)))
        return replace(x, chain=x.chain.append(layer))

    def average_pool(self, layer) -> "Folded":
        """Average pooling: part of the next synapse, or done to the image."""
        return self.act_on_image(layer) if self.on_image else self.linear(layer)

    def affine(self, scale, shift, layer=None) -> "Folded":
        """A fixed scale and shift (BatchNorm, Rescaling), numbers that broadcast to the value.

        Args:
            layer: the Keras layer that computes it, for images; None where an operation does.
        """
        if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
            raise Refusal(
                "its scale or shift is not finite (a negative variance, or a variance and epsilon of 0)",
                "Set its statistics anew on training images.",
            )
        self.row.template = "folded into '{node}'"
        if self.pools and not self.final:
            x = self._affine_behind_pools(scale, shift)
            if x is not None:
                return x
        x = self._ready()
        if x.on_image:
            steps = ((layer, x.chain.shape),) if layer else _affine_layers(scale, shift, x.chain.shape)
            x = replace(x, image_layers=(*x.image_layers, *steps))
        return replace(x, chain=x.chain.affine(scale, shift))

    def _affine_behind_pools(self, scale, shift) -> "Folded | None":
        """Scale and shift moved in front of the poolings; None where they are not the same at all positions."""
        rank = len(self.shape)
        vectors = [channel_vector(as_map(values, rank), self.shape[-1]) for values in (scale, shift)]
        if any(vector is None for vector in vectors):
            return None
        sign = np.where(vectors[0] < 0, -1.0, 1.0)
        pools = tuple(replace(pool, sign=pool.sign * sign) for pool in self.pools)
        return replace(self, pools=pools, chain=self.chain.affine(*vectors))

    def scaled(self, factor: float) -> "Folded":
        """The value times a number."""
        x = self._ready()
        return replace(x, chain=x.chain.affine(factor, 0.0))

    def neurons(self, activation: Activation) -> "Folded":
        """An activation ends a synapse: here are neurons."""
        x = self.nothing_final() if activation.monotone else self._ready()
        x, pools = replace(x, pools=()), x.pools
        self.row.template = self.row.template or "threshold of '{node}'"
        name = x.stage_name() or self.reading.unique(f"{self.source}_neurons")
        if name in self.reading.nodes:
            name = self.reading.unique(self.row.name if self.row.name not in self.reading.nodes else f"{name}_neurons")
        kept = [pool.row for pool in pools]
        replace(x, rows=tuple(row for row in x.rows if row not in kept)).end(name, "spiking layer")
        value = self.reading.neurons(name, x.chain, x.source, activation)
        for pool in pools:
            value = value._pooled(pool.layer, pool.row, Chain(pool.input_shape), pool.sign)
        return value

    def max_pool(self, layer) -> "Folded":
        """Max pooling: of the image, of spikes, or waiting for the activation behind it."""
        x = self.nothing_final()
        if x.on_image:
            return self.act_on_image(layer)
        scale = np.ones(1) if x.chain.scale is None else x.chain.scale
        vectors = [channel_vector(values, x.shape[-1]) for values in (scale, x.chain.bias)]
        if x.pools or not x._poolable() or any(vector is None for vector in vectors):
            return replace(x, pools=(*x.pools, WaitingPool(layer, self.row, x.shape, np.ones(x.shape[-1]))))
        x.end(self.row.name, "max pooling", but=self.row)
        moved = replace(x.chain, scale=None).without_bias()
        value = x._pooled(layer, self.row, moved, np.where(vectors[0] < 0, -1.0, 1.0))
        return replace(value, chain=value.chain.affine(*vectors))

    def activation(self, activation) -> "Folded":
        """An activation that a read-out applies, or neurons if anything follows that computes with it."""
        x = self.nothing_final()
        self.row.template = self.row.template or "activation of '{node}'"
        return replace(x, final=WaitingActivation(self.row, activation, x, x.shape))

    def drop(self, why: str = "active in training only") -> "Folded":
        """A layer that does nothing outside training."""
        self.row.template = self.row.template or f"dropped ({why})"
        return self

    def act_on_image(self, layer) -> "Folded":
        """A layer that acts on the image itself, before it is coded."""
        return self._acted_on_image((*self.image_layers, (layer, self.chain.shape)), self.rows, ())

    def joined(self, others: Sequence["Folded"], join: Join) -> "Folded":
        """This value and others, joined by a relay."""
        values = [each._ready() for each in (self, *others)]
        name = self.row.name
        for value in values:
            value.end(name, "relay", but=self.row)
        self.row.ended(f"relay '{name}'")
        return self.reading.relay(name, values, join)

    def relayed(self) -> "Folded":
        """The value as a relay that several listen to."""
        name = self.stage_name() or self.row.name
        name = name if name not in self.reading.nodes else self.reading.unique(f"{name}_relay")
        self.end(name, "relay")
        return self.reading.relay(name, [self], Join())

    def settled(self) -> "Folded":
        """The value without waiting poolings: in front of them neurons are inserted that compute the identity."""
        if not self.pools:
            return self
        first, kept = self.pools[0], [pool.row for pool in self.pools]
        activation = RELU if self._stays_positive() else IDENTITY
        name = self.reading.unique(f"{first.row.name}_neurons")
        last = self.rows.index(self.pools[-1].row)
        before = tuple(row for row in self.rows[:last] if row not in kept)
        replace(self, pools=(), rows=before).end(name, "inserted neurons")
        what = "max(0, x)" if activation is RELU else "the identity"
        row = Row(name, "inserted", results=[f"neurons that compute {what} in front of '{first.row.name}'"])
        self.reading.rows.insert(self.reading.rows.index(first.row), row)
        value = self.reading.neurons(name, self.chain, self.source, activation)
        for pool in self.pools:
            value = value._pooled(pool.layer, pool.row, Chain(pool.input_shape), pool.sign)
        return replace(value, rows=self.rows[last + 1 :])

    # What they share

    def _ready(self) -> "Folded":
        """The value for a layer that computes with it: no activation that waits before it, no poolings."""
        return self.nothing_final().settled()

    def nothing_final(self) -> "Folded":
        """The value with neurons for an activation that waits; refused if neurons cannot compute it."""
        return self.final.computed(self.since_final) if self.final else self

    def stage_name(self) -> str | None:
        """The name of the ANN layer that holds the neurons: the last one with a kernel, else the last one."""
        rows = [row for row in self.rows if row not in [pool.row for pool in self.pools]]
        weighted = [row.name for row in rows if row.weighted]
        return weighted[-1] if weighted else rows[-1].name if rows else None

    def end(self, node: str, role: str, but: Row | None = None) -> None:
        """Writes down what became of the layers on the way to a node."""
        for row in self.rows:
            if row is not but:
                own = row.name == node
                row.ended(f"{role} '{node}'" if own else row.template.format(node=node))

    def _pooled(self, layer, row: Row, chain: Chain, sign: np.ndarray) -> "Folded":
        upright = bool(np.all(sign > 0))
        row.ended("max pooling of spikes" + ("" if upright else ", minimum where BatchNorm scales by < 0"))
        return self.reading.pool(row.name, layer, self.source, chain, sign)

    def _acted_on_image(self, layers, rows, kept) -> "Folded":
        """A new image node behind layers, whose rows are done; the kept rows go on."""
        for row in rows:
            row.ended(row.template if row.template.startswith("dropped") else "acts on the image")
        shape = self.chain.input_shape
        for layer, _ in layers:
            shape = tuple(layer.compute_output_shape((None, *shape)))[1:]
        node = self.node
        image = self.reading.image(node.input, shape, (*node.preprocessing, *layers))
        return replace(image, rows=tuple(kept))

    def _poolable(self) -> bool:
        """Whether every value is that of one neuron, moved, or 0: nothing mixed since the neurons.

        Not where channels meet in a maximum: their spikes stand for λ of their own, and behind a concatenation come in
        windows of their own. Silence stands for 0 in the padding, and in neurons with a floor for that: the two must
        not meet either.
        """
        if not (self.chain.moves_in_channels and sends_spikes(self.reading.nodes, self.node)):
            return False
        padded = any(link.kind is PADDING for link in self.chain.links)
        return not padded or never_negative(self.reading.nodes, self.node)

    def _stays_positive(self) -> bool:
        """Whether no value can be negative, whatever the image."""
        positive = keeps_signs(self.chain.settled()) and bool(np.all(self.chain.bias >= 0))
        return positive and never_negative(self.reading.nodes, self.node)


def _affine_layers(scale, shift, shape) -> Iterator[tuple]:
    """Image layers that scale, then shift."""
    for kind, values, neutral in ((Diagonal, scale, 1.0), (Offset, shift, 0.0)):
        values = as_map(values, len(shape))
        if np.any(values != neutral):
            layer = kind(map_shape=values.shape, dtype="float64")
            layer.build((None, *shape))
            layer.scale.assign(values)
            yield layer, shape
