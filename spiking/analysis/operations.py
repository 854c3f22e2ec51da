"""Counting operations: the connections that a spike or an activation takes effect through.

As NeuroBench defines them (Yik et al. 2025, The NeuroBench framework for benchmarking neuromorphic computing algorithms
and systems): synaptic operations are dense, all activations and all weights; or effective, where activations that are 0
and weights that are 0 are skipped. Effective ones are accumulates (ACs) where the activation is binary, a spike, and
multiply-accumulates (MACs) where it is analog: a negative spike is an addition, too, several spikes in one step are a
number to multiply by. Biases, pooling and normalisation are not counted, updates of neurons
apart. What differs here, for the SNN and the ANN alike:

- BatchNorm is folded into the kernels; what is counted are the folded networks.
- Connections into zero padding do not exist and are not counted.
- A spike that reaches a kernel through an average pooling stays a spike: one addition per weight, once for every window
  that it lies in. NeuroBench would call the pooled value analog and count a MAC.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from spiking.folding.graph import FoldedGraph
from spiking.folding.linear import Diagonal, copy_layer, is_weighted, kernels_of
from spiking.network.plan import Plan

AVERAGE_POOLING = (kl.AveragePooling1D, kl.AveragePooling2D, kl.AveragePooling3D)
GLOBAL_AVERAGE_POOLING = (kl.GlobalAveragePooling1D, kl.GlobalAveragePooling2D, kl.GlobalAveragePooling3D)
SEPARABLE = {
    kl.SeparableConv1D: (kl.DepthwiseConv1D, kl.Conv1D),
    kl.SeparableConv2D: (kl.DepthwiseConv2D, kl.Conv2D),
}


class Link(NamedTuple):
    """A linear layer turned into one that counts connections.

    Attributes:
        count: `(batch, *input_shape) -> (batch, …)`, float64: each output is the sum over the inputs connected to it.
        weighted: whether the layer has a kernel.
        input_shape: without the batch axis.
    """

    count: Callable
    weighted: bool
    input_shape: tuple[int, ...]


def _parts(layer) -> list[tuple]:
    """(layer, kernels) with one kernel each: a separable convolution is a depthwise one, then a pointwise one."""
    if type(layer) not in SEPARABLE:
        return [(layer, kernels_of(layer))]
    config, (depthwise, pointwise) = layer.get_config(), kernels_of(layer)
    shared = ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")
    first, second = SEPARABLE[type(layer)]
    return [
        (first(use_bias=False, **{key: config[key] for key in shared}), [depthwise]),
        (second(config["filters"], 1, use_bias=False), [pointwise]),
    ]


def _sum_pooling(layer) -> Callable:
    """The sum over each window of an average pooling; the channels go into the batch."""
    window = tf.ones((*layer.pool_size, 1, 1), tf.float64)

    def pool(x):
        channels = x.shape[-1]
        x = tf.reshape(tf.stack(tf.unstack(x, axis=-1)), (-1, *x.shape[1:-1], 1))
        x = tf.nn.convolution(x, window, strides=layer.strides, padding=layer.padding.upper())
        return tf.stack(tf.split(x[..., 0], channels), axis=-1)

    return pool


def links(synapse: Sequence, input_shape: tuple[int, ...], dense: bool = False) -> Iterator[Link]:
    """The layers of a synapse as layers that count connections.

    Args:
        synapse: linear Keras layers, in order, as in `SpikingCell.synapse_layers`.
        input_shape: of what enters the first, without the batch axis.
        dense: count the weights that are zero, too.
    """
    shape = tuple(input_shape)
    for layer in synapse:
        for part, kernels in _parts(layer):
            weighted = is_weighted(part)
            if isinstance(part, Diagonal):
                count = tf.identity
            elif isinstance(part, AVERAGE_POOLING):
                count = _sum_pooling(part)
            elif isinstance(part, GLOBAL_AVERAGE_POOLING):
                axes, keep = list(range(1, len(shape))), part.keepdims
                count = lambda x, axes=axes, keep=keep: tf.reduce_sum(x, axes, keepdims=keep)  # noqa: E731
            else:
                count = copy_layer(part, shape, "float64", [np.ones_like(k) if dense else k != 0 for k in kernels])
            yield Link(count, weighted, shape)
            shape = tuple(part.compute_output_shape((None, *shape)))[1:]


def _reached(chain: Sequence[Link]) -> np.ndarray:
    """How many outputs of the chain each of its inputs reaches: the gradient of their sum, float64."""
    x = tf.zeros((1, *chain[0].input_shape), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = x
        for link in chain:
            y = link.count(y)
        total = tf.reduce_sum(y)
    return tape.gradient(total, x).numpy()[0]


def fan_out(synapse: Sequence, input_shape: tuple[int, ...], dense: bool = False) -> np.ndarray:
    """The number of synapses that one spike of each input unit takes effect through.

    They are those of the synapse's first kernel; behind it the values are analog and are counted by `connections`. A
    pooling on the way is not counted itself, but a spike enters every window it lies in.

    Args:
        synapse: linear Keras layers, in order, as in `SpikingCell.synapse_layers`.
        input_shape: of what enters the first, without the batch axis.
        dense: count the weights that are zero, too.

    Returns:
        Float64 array of shape `input_shape`; zeros where the synapse has no kernel (pooling costs nothing).
    """
    chain = []
    for link in links(synapse, input_shape, dense):
        chain.append(link)
        if link.weighted:
            return _reached(chain)
    return np.zeros(input_shape)


def connections(synapse: Sequence, input_shape: tuple[int, ...], dense: bool = False) -> list[int]:
    """The number of connections through each kernel of a synapse, which are its MACs for a dense analog input.

    Args: as of `fan_out`.
    """
    return [int(_reached([link]).sum()) for link in links(synapse, input_shape, dense) if link.weighted]


class Connections(NamedTuple):
    """One way on which a layer of a spiking network is heard.

    Attributes:
        source, listener: names.
        synapse: linear Keras layers, in order.
        shape: of what the source sends, without the batch axis.
    """

    source: str
    listener: str
    synapse: list
    shape: tuple[int, ...]


def edges(plan: Plan) -> list[Connections]:
    """All connections of a network, in the order of its listeners."""
    shapes, found = {}, []
    for name, layer in plan.inputs.items():
        shapes[name] = tuple(layer.preprocessed_shape)
    for name in plan.order:
        if name in plan.inputs:
            continue
        cell = plan.cells.get(name)
        synapses = [cell.synapse_layers] if cell else plan.relays[name].synapses
        for source, synapse in zip(plan.sources[name], synapses, strict=True):
            found.append(Connections(source, name, synapse, shapes[source]))
        shapes[name] = tuple(cell.neurons_shape) if cell else plan.relays[name].step_shape
    return found


def sends_analog(plan: Plan, coded: bool) -> set[str]:
    """Names of what sends no spikes: images as currents, and relays behind a kernel or behind one of these.

    Args:
        coded: whether images enter as spikes.
    """
    found = set() if coded else set(plan.inputs)
    for name, relay in plan.relays.items():
        if any(map(is_weighted, relay.synapse_layers)) or found.intersection(plan.sources[name]):
            found.add(name)
    return found


def fan_outs(plan: Plan, coded: bool) -> dict[str, np.ndarray]:
    """Layer -> the number of synapses that a spike of each of its units takes effect through, float64 of its shape.

    Over a graph fan-out is the adjoint: what has no kernel, an identity into a sum or a concatenation, hands on the
    fan-out of its listeners. What enters a relay that sends analog values takes effect up to there.

    Args:
        plan: the network.
        coded: whether images enter as spikes.
    """
    analog, reached = sends_analog(plan, coded), {}
    for edge in reversed(edges(plan)):
        total = reached.setdefault(edge.source, np.zeros(edge.shape))
        if any(map(is_weighted, edge.synapse)):
            total += fan_out(edge.synapse, edge.shape)
        elif edge.listener in plan.relays and edge.listener not in analog:
            total += _handed_on(plan, edge, reached)
    return reached


def _handed_on(plan: Plan, edge: Connections, reached: dict[str, np.ndarray]) -> np.ndarray:
    """The fan-out behind a relay, as it reaches the units of one of its sources."""
    relay = plan.relays[edge.listener]
    behind = reached.get(edge.listener)
    if behind is None:
        return np.zeros(edge.shape)
    position = plan.sources[edge.listener].index(edge.source)
    variables = [tf.zeros((1, *each.shape), tf.float64) for each in edges(plan) if each.listener == edge.listener]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        values = [_counted(each, x) for each, x in zip(_into(plan, edge.listener), variables, strict=True)]
        total = tf.reduce_sum(relay.together(values) * tf.constant(behind[None]))
    return tape.gradient(total, variables[position]).numpy()[0]


def _into(plan: Plan, listener: str) -> list[Connections]:
    return [edge for edge in edges(plan) if edge.listener == listener]


def _counted(edge: Connections, x: tf.Tensor) -> tf.Tensor:
    for link in links(edge.synapse, edge.shape):
        x = link.count(x)
    return x


class EffectiveMacs:
    """Streams the MACs of an ANN that are effective: neither the activation nor the weight is 0.

    On each edge the nonzero inputs of the first kernel count, as they come, behind a pooling in front of it; inputs of
    further kernels on one edge (a separable convolution's second) are sums and count as nonzero.

    Args:
        graph: the ANN, folded.
    """

    def __init__(self, graph: FoldedGraph):
        self.reached, self.further, self.samples = [], 0, 0
        run, leads = graph.forward(), []  # (source, the layers in front of the first kernel)
        for node in graph.nodes.values():
            for source, chain in node.edges:
                if chain.weighted:
                    synapse = chain.layers("float32")
                    counted = list(links(synapse, chain.input_shape))
                    first = next(n for n, link in enumerate(counted) if link.weighted)
                    leads.append((source, synapse[:first]))
                    self.reached.append(_reached([counted[first]]))
                    self.further += sum(int(_reached([link]).sum()) for link in counted[first + 1 :] if link.weighted)
        self.active = [np.zeros(reached.shape, np.int64) for reached in self.reached]

        def count(images):
            given, counts = run(images), []
            for source, lead in leads:
                x = given[source]
                for layer in lead:
                    x = layer(x)
                counts.append(tf.math.count_nonzero(x, axis=0))
            return counts

        compiled = tf.function(functools.partial(count), reduce_retracing=True, autograph=False)
        self.count = lambda images: compiled(graph.flat_images(images))

    def update(self, images) -> None:
        """Adds a batch of images `(batch, …)`."""
        for active, counts in zip(self.active, self.count(images), strict=True):
            active += counts.numpy()
        self.samples += len(keras.tree.flatten(images)[0])

    def total(self) -> float:
        """Effective MACs of all images together."""
        pairs = zip(self.active, self.reached, strict=True)
        return float(sum(np.sum(active * reached) for active, reached in pairs) + self.samples * self.further)
