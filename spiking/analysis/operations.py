"""Counting operations: the connections that a spike or an activation takes effect through.

As NeuroBench defines them (Yik et al. 2025, The NeuroBench framework for benchmarking neuromorphic computing algorithms
and systems): synaptic operations are dense, all activations and all weights; or effective, where activations that are 0
and weights that are 0 are skipped. Effective ones are accumulates (ACs) where the activation is binary, a spike, and
multiply-accumulates (MACs) where it is analog. Biases, pooling and normalisation are not counted, updates of neurons
apart. What differs here, for the SNN and the ANN alike:

- BatchNorm is folded into the kernels; what is counted are the folded networks.
- Connections into zero padding do not exist and are not counted.
- A spike that reaches a kernel through an average pooling stays a spike: one addition per weight, once for every window
  that it lies in. NeuroBench would call the pooled value analog and count a MAC.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from keras import layers as kl

from spiking.folding.linear import LINEAR, Diagonal, copy_layer, kernels_of
from spiking.folding.reader import FoldedNetwork

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
            weighted = type(part) in LINEAR and LINEAR[type(part)].weighted
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


class EffectiveMacs:
    """Streams the MACs of an ANN that are effective: neither the activation nor the weight is 0.

    In each stage the nonzero inputs of the first kernel count, as they come, behind a pooling in front of it; inputs of
    further kernels in one stage (a separable convolution's second) are sums and count as nonzero.

    Args:
        folded: the ANN, folded.
    """

    def __init__(self, folded: FoldedNetwork):
        before, every_stage = folded.image_copies("float32"), folded.function(every_stage=True)
        leads = []  # of each stage the layers in front of its first kernel; None for stages without one
        self.reached, self.further, self.samples = [], 0, 0
        for stage in folded.stages:
            synapse, shape = stage.chain.copies("float32"), stage.chain.input_shape
            chain = list(links(synapse, shape))
            first = next((n for n, link in enumerate(chain) if link.weighted), None)
            leads.append(None if first is None else synapse[:first])
            if first is not None:
                self.reached.append(_reached([chain[first]]))
                self.further += sum(connections(synapse, shape)[1:])
        self.active = [np.zeros(reached.shape, np.int64) for reached in self.reached]

        @tf.function(reduce_retracing=True)
        def count(images):
            x = images
            for layer in before:
                x = layer(x)
            counts = []
            for values, lead in zip([x, *every_stage(images)[:-1]], leads, strict=True):
                if lead is not None:
                    for layer in lead:
                        values = layer(values)
                    counts.append(tf.math.count_nonzero(values, axis=0))
            return counts

        self.count = count

    def update(self, images: np.ndarray) -> None:
        """Adds a batch of images `(batch, …)`."""
        for active, counts in zip(self.active, self.count(tf.convert_to_tensor(images, tf.float32)), strict=True):
            active += counts.numpy()
        self.samples += len(images)

    def total(self) -> float:
        """Effective MACs of all images together."""
        pairs = zip(self.active, self.reached, strict=True)
        return float(sum(np.sum(active * reached) for active, reached in pairs) + self.samples * self.further)
