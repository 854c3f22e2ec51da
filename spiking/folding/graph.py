"""The folded network: the ANN as a graph of nodes, before any spikes exist. The same function as the ANN.

A node has one source, which it hears through a chain of linear layers; everything that joins or is shared is a relay.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from spiking.cells import signed_max_pool
from spiking.folding.activations import Activation
from spiking.folding.chain import Chain
from spiking.folding.linear import copy_layer


class Edge(NamedTuple):
    """From a source's name, through a chain of linear layers."""

    source: str
    chain: Chain


def _potential(chain: Chain, dtype: str) -> Callable:
    layers, bias = chain.layers(dtype), tf.constant(chain.bias, dtype)
    biased = bool(np.any(chain.bias))

    def run(x):
        for layer in layers:
            x = layer(x)
        return x + bias if biased else x

    return run


# What neurons make of their potential: `(node, W∗x + b) -> activity`, tensors of shape `(batch, *node.shape)`.
Activity = Callable[["Neurons", tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Node:
    """What all nodes have.

    Attributes:
        name: of the ANN layer it stands for.
        shape: of what it gives, without the batch axis.
        edges: what it hears.
    """

    name: str
    shape: tuple[int, ...]
    edges: tuple[Edge, ...] = field(repr=False)

    @property
    def edge(self) -> Edge:
        """The only edge of a node with one source."""
        (edge,) = self.edges
        return edge

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the nodes it listens to."""
        return tuple(edge.source for edge in self.edges)

    def evaluation(self, dtype: str, neurons: Activity | None) -> Callable[[list], tf.Tensor]:
        """What the node gives, as a function of what its sources give; layers are built here, once."""
        potentials = [_potential(edge.chain, dtype) for edge in self.edges]
        finish = self.finish(dtype, neurons)
        return lambda heard: finish([run(x) for run, x in zip(potentials, heard, strict=True)])

    def finish(self, dtype: str, neurons: Activity | None) -> Callable[[list], tf.Tensor]:
        """What the node makes of W∗x + b of each of its edges, a list."""
        raise TypeError(f"{type(self).__name__} gives nothing: take one of the kinds of nodes.")


@dataclass(frozen=True)
class Image(Node):
    """An input of the ANN, behind the layers that act on it.

    Attributes:
        input: name of the input.
        preprocessing: (layer, shape of its input) of the ANN layers that act on the image.
    """

    input: str
    preprocessing: tuple[tuple[Any, tuple[int, ...]], ...] = field(default=(), repr=False)

    def layers(self, dtype: str) -> list:
        """Built copies of the layers that act on the image."""
        return [copy_layer(layer, shape, dtype) for layer, shape in self.preprocessing]

    def evaluation(self, dtype, neurons):
        layers = self.layers(dtype)

        def preprocess(heard):
            (x,) = heard
            for layer in layers:
                x = layer(x)
            return x

        return preprocess


@dataclass(frozen=True)
class Neurons(Node):
    """A synapse and neurons with an activation."""

    activation: Activation

    def finish(self, dtype, neurons):
        if neurons is None:
            activation = self.activation.computed(self.shape, dtype)
            return lambda potentials: activation(potentials[0])
        return lambda potentials: neurons(self, potentials[0])


@dataclass(frozen=True)
class Pool(Node):
    """Max pooling of spikes.

    Attributes:
        layer: the Keras layer.
        sign: +1 or −1 (minimum) per channel; None for +1 everywhere.
    """

    layer: Any
    sign: np.ndarray | None = field(repr=False)

    def finish(self, dtype, neurons):
        # A Keras layer casts its input to its own dtype: the ANN's pooling would round to that.
        pool = copy_layer(self.layer, self.edge.chain.shape, dtype)
        return lambda potentials: signed_max_pool(pool, potentials[0], self.sign)


@dataclass(frozen=True)
class Join:
    """How a relay puts together what it hears: the sum, or side by side along an axis (the batch axis is 0)."""

    axis: int | None = None

    def __call__(self, values: list[tf.Tensor]) -> tf.Tensor:
        if self.axis is not None:
            return tf.concat(values, self.axis)
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    def maps(self, maps: list[np.ndarray], shapes: list[tuple[int, ...]]) -> np.ndarray:
        """The same of maps without batch axis, which broadcast to these shapes."""
        if self.axis is None:
            return sum(maps)
        wide = [np.broadcast_to(each, shape) for each, shape in zip(maps, shapes, strict=True)]
        return np.concatenate(wide, self.axis - 1)


@dataclass(frozen=True)
class Relay(Node):
    """Passes linear values on: joins several, or shares one among several listeners. Its chains have no bias."""

    join: Join

    def finish(self, dtype, neurons):
        return self.join


@dataclass(frozen=True)
class ReadOut(Node):
    """A synapse and neurons that integrate and never fire; an output of the network.

    Attributes:
        activation: the ANN's last activation, a function.
    """

    activation: Callable

    def finish(self, dtype, neurons):
        return lambda potentials: self.activation(potentials[0])


@dataclass(frozen=True)
class FoldedGraph:
    """The ANN as nodes, BatchNorm folded: the same function, before any spikes exist.

    Attributes:
        nodes: by name, every node behind its sources.
        outputs: names of the read-outs, in the structure of the ANN's output (one, a list, a dict).
        inputs: `keras.Input`s of the ANN, as symbolic tensors, in the structure of the ANN's input.
        report: rows for the conversion report.
        name: of the ANN.
    """

    nodes: dict[str, Node]
    outputs: Any
    inputs: Any
    report: tuple[dict, ...] = field(default=(), repr=False)
    name: str = "ann"
    ann: Any = field(default=None, repr=False, compare=False)
    _functions: dict = field(default_factory=dict, repr=False, compare=False)

    def of(self, kind: type) -> dict[str, Node]:
        """The nodes of one kind, in order."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, kind)}

    @property
    def neurons(self) -> dict[str, Neurons]:
        """The layers of neurons, in order."""
        return self.of(Neurons)

    @property
    def hidden(self) -> dict[str, Node]:
        """What emits spikes: neurons and poolings, in order."""
        return self.of((Neurons, Pool))

    @property
    def read_outs(self) -> dict[str, ReadOut]:
        """The read-outs, in order."""
        return self.of(ReadOut)

    @property
    def depth(self) -> int:
        """Layers of neurons on the longest path."""
        return max(self.windows().values(), default=0)

    def windows(self) -> dict[str, int]:
        """Node -> its window: images have 0, neurons one more than the latest of their sources, others that one."""
        found = {}
        for name, node in self.nodes.items():
            found[name] = max((found[source] for source in node.sources), default=0) + isinstance(node, Neurons)
        return found

    def listeners(self) -> dict[str, list[str]]:
        """Node -> the nodes that listen to it."""
        found = {name: [] for name in self.nodes}
        for name, node in self.nodes.items():
            for source in dict.fromkeys(node.sources):
                found[source].append(name)
        return found

    def flat_images(self, images, dtype: str | None = None) -> dict[str, tf.Tensor]:
        """Images in the structure of the ANN's input (or a list, or a dict by name), as input name -> tensor."""
        specs = keras.tree.flatten(self.inputs)
        if isinstance(images, Mapping):
            flat = [images[spec.name] for spec in specs]
        elif len(specs) == 1 and not isinstance(images, list | tuple):
            flat = [images]
        else:
            flat = list(images)
        tensors = {}
        for spec, values in zip(specs, flat, strict=True):
            x = tf.convert_to_tensor(values)
            if x.shape.rank == len(spec.shape) - 1 and spec.shape[-1] == 1:
                x = x[..., None]
            tensors[spec.name] = x if dtype is None else tf.cast(x, dtype)
        return tensors

    def prepare(self, images) -> dict[str, np.ndarray]:
        """Image node -> the images as they are coded, float64: behind the layers that act on them."""
        flat, prepared = self.flat_images(images, "float64"), {}
        for name, node in self.of(Image).items():
            x = flat[node.input]
            for layer in self._preprocessing(name):
                x = layer(x)
            prepared[name] = np.asarray(x)
        return prepared

    def _preprocessing(self, name) -> list:
        key = ("preprocessing", name)
        if key not in self._functions:
            self._functions[key] = self.nodes[name].layers("float64")
        return self._functions[key]

    def function(self, dtype: str = "float32", every_node: bool = False) -> Callable:
        """The folded network as a `tf.function` from images to its output, or to node name -> what the node gives."""
        key = (dtype, every_node)
        if key not in self._functions:
            run = functools.partial(self._run, self.forward(dtype), every_node)
            # A partial is a function of its own to TensorFlow, which else takes all networks for one that is retraced.
            compiled = tf.function(run, reduce_retracing=True, autograph=False)
            self._functions[key] = lambda images: compiled(self.flat_images(images))
        return self._functions[key]

    def _run(self, forward, every_node, images):
        values = forward(images)
        return values if every_node else keras.tree.map_structure(values.__getitem__, self.outputs)

    def forward(self, dtype: str = "float32", neurons: Activity | None = None) -> Callable:
        """The folded network, uncompiled, as a function from images to {node name: what it gives}.

        Args:
            dtype: of computation and result.
            neurons: what neurons make of their potential; by default the ANN's activation. A relay gives its values
                without the constants of its sources, which are in its listeners' biases.
        """
        evaluate = {name: node.evaluation(dtype, neurons) for name, node in self.nodes.items()}

        def run(images):
            flat, values = self.flat_images(images, dtype), {}
            for name, node in self.nodes.items():
                heard = [flat[node.input]] if isinstance(node, Image) else [values[source] for source in node.sources]
                values[name] = evaluate[name](heard)
            return values

        return run


def sends_spikes(nodes, node) -> bool:
    """Whether what a node gives are spikes of neurons, each where one neuron sent it."""
    if isinstance(node, Relay):
        last = len(node.shape)
        plain = all(edge.chain.identity for edge in node.edges)
        alone = len(node.edges) == 1 or node.join.axis == last
        return plain and alone and all(sends_spikes(nodes, nodes[source]) for source in node.sources)
    return isinstance(node, Neurons | Pool)


def never_negative(nodes, node) -> bool:
    """Whether nothing that a node gives can be negative, whatever the image."""
    if isinstance(node, Neurons):
        return node.activation.floor == 0  # a floor above 0 is none that silence stands for in a zero padding
    if isinstance(node, Relay | Pool):
        plain = all(keeps_signs(edge.chain) for edge in node.edges)
        return plain and all(never_negative(nodes, nodes[source]) for source in node.sources)
    return False


def keeps_signs(chain: Chain) -> bool:
    """Whether the linear part makes nothing negative of what is not: no kernels, no negative scales."""
    return all(not link.kind.weighted and (link.scale is None or np.all(link.scale >= 0)) for link in chain.links)
