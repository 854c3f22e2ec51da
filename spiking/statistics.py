"""What a simulation measures: spikes, first spike times, operations, energy; over whole data sets, streamed.

Operations follow NeuroBench (Yik et al. 2025, The NeuroBench framework for benchmarking neuromorphic computing
algorithms and systems): effective accumulates (ACs) for binary inputs, effective multiply-accumulates (MACs) for
analog ones, zeros skipped; biases, pooling and normalisation are not counted, updates of neurons apart. Connections
into zero padding do not exist and are not counted, neither for the SNN nor for the ANN.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from keras import layers as kl

import spiking
from spiking.layers import SpikingSequential
from spiking.simulation import FIRST_SPIKE_TIMES, READOUTS, SPIKE_COUNTS
from spiking.synapses import LINEAR, Diagonal, copy_layer, kernels_of

# Joule, 32-bit floating point, 45 nm CMOS at 0.9 V: a multiplication 3.7 pJ, an addition 0.9 pJ.
# Horowitz (2014), Computing's energy problem (and what we can do about it), ISSCC, fig. 1.1.9.
ENERGY_PER_MAC = 4.6e-12
ENERGY_PER_AC = 0.9e-12

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


@dataclass(frozen=True)
class LayerStatistics:
    """The spikes of one hidden layer, over its neurons and over images.

    Attributes:
        name: of the layer.
        neurons: how many.
        holds_neurons: False for max pooling, which relays the spikes of others. Fractions of spikes, which it relays
            behind an average pooling, are rounded in the histogram.
        spike_mean, spike_var: spikes per neuron and image.
        first_spike_time_mean, first_spike_time_var: time step (from 1) of the first spike, over those that fired;
            NaN if none did.
        silent_share: share of (neuron, image) pairs without a spike.
        saturated_share: share of pairs with the largest activity the code can express: a spike in every time step, or
            for codes that tell by the time of one spike, a spike at the earliest step.
        spike_count_histogram: number of pairs with k spikes, at index k, shape `(timesteps + 1,)`.
        first_spike_time_histogram: number of pairs with their first spike at step t, at index t; silent ones at 0.
            Shape `(timesteps + 1,)`.
        synaptic_operations: additions that the layer's spikes cause behind it, Σ spikes × fan-out, mean per image.
    """

    name: str
    neurons: int
    holds_neurons: bool
    spike_mean: float
    spike_var: float
    first_spike_time_mean: float
    first_spike_time_var: float
    silent_share: float
    saturated_share: float
    spike_count_histogram: np.ndarray
    first_spike_time_histogram: np.ndarray
    synaptic_operations: float


@dataclass(frozen=True)
class Analysis:
    """What a spiking network does and costs, over a data set. All costs are means per image.

    Attributes:
        samples: number of images.
        timesteps: T of one simulation.
        layers: of the hidden layers, in order.
        spikes_per_neuron: spikes of one neuron, over all hidden neurons; relays (max pooling) left out.
        input_spikes: spikes of a coded input; 0 where the image enters as a current.
        synaptic_operations: effective ACs, Σ spikes × fan-out, those of input spikes included.
        macs: MACs of the SNN: those of an analog input (pixels that are 0 skipped; once, since the current is
            constant or a single event), and those of second kernels in one synapse, in every time step.
        neuron_updates: neurons × time steps, the read-out's included. Not part of the energy.
        ann_macs: MACs of the ANN, dense.
        connection_sparsity: zero weights / weights, kernels only.
        activation_sparsity: share of (neuron, time step, image) without a spike. It rises with T by itself, so read
            it beside `spikes_per_neuron`.
        footprint: bytes of the weights and of the state of all cells for one image.
        ann_energy, snn_energy: joule per image, of MACs and ACs alone.
        accuracy: share of images classified rightly, in [0, 1]; None without labels.
        accuracy_per_timestep: the same had the simulation ended at each step, shape `(timesteps,)`; None without
            labels.
    """

    samples: int
    timesteps: int
    layers: list[LayerStatistics]
    spikes_per_neuron: float
    input_spikes: float
    synaptic_operations: float
    macs: float
    neuron_updates: int
    ann_macs: int
    connection_sparsity: float
    activation_sparsity: float
    footprint: int
    ann_energy: float
    snn_energy: float
    accuracy: float | None = None
    accuracy_per_timestep: np.ndarray | None = None

    def to_dict(self) -> dict:
        """All of it as plain numbers, strings, lists and dicts, for JSON; None in place of NaN."""
        return _plain(dataclasses.asdict(self))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value


class SpikeCounter:
    """Streams the spikes of one hidden layer into histograms and one total per neuron.

    Args:
        neurons_shape: shape of the layer for one image.
        timesteps: T.
    """

    def __init__(self, neurons_shape: tuple[int, ...], timesteps: int):
        self.totals = np.zeros(neurons_shape)
        self.counts = np.zeros(timesteps + 1, np.int64)
        self.times = np.zeros(timesteps + 1, np.int64)

    def update(self, counts: np.ndarray, times: np.ndarray) -> None:
        """Adds one batch of spike counts and first spike times, both `(batch, *neurons_shape)`."""
        self.totals += counts.sum(axis=0)
        for histogram, values in ((self.counts, counts + 0.5), (self.times, times)):  # + ½: averages are graded
            histogram += np.bincount(values.astype(np.intp).ravel(), minlength=len(histogram))


def _moments(histogram: np.ndarray, first: int = 0) -> tuple[float, float]:
    """Mean and variance of the values from `first` on; NaN if there are none."""
    weights, values = histogram[first:].astype(float), np.arange(first, len(histogram))
    if not weights.sum():
        return math.nan, math.nan
    mean = float(np.average(values, weights=weights))
    return mean, float(np.average((values - mean) ** 2, weights=weights))


def _saturated(activity: Callable, counter: SpikeCounter) -> int:
    """Number of (neuron, image) pairs with the largest activity that the code can express.

    Args:
        activity: `(counts, times) -> activity`, the code's; it may depend on the one or on the other.
        counter: of the layer.
    """
    steps = np.arange(1, len(counter.counts), dtype=np.float32)
    once, first = np.ones_like(steps), np.ones_like(steps)
    by_count, by_time = np.asarray(activity(steps, first)), np.asarray(activity(once, steps))
    if np.ptp(by_time) == 0:
        return int(counter.counts[1:][by_count == by_count.max()].sum())
    return int(counter.times[1:][by_time == by_time.max()].sum())


def _layer_statistics(layer, counter: SpikeCounter, reached: np.ndarray, samples: int, activity) -> LayerStatistics:
    pairs = samples * counter.totals.size
    time_mean, time_var = _moments(counter.times, first=1)
    mean, variance = _moments(counter.counts)
    return LayerStatistics(
        name=layer.name,
        neurons=counter.totals.size,
        holds_neurons=layer.cell.holds_neurons,
        spike_mean=mean,
        spike_var=variance,
        first_spike_time_mean=time_mean,
        first_spike_time_var=time_var,
        silent_share=float(counter.times[0] / pairs),
        saturated_share=_saturated(activity, counter) / pairs,
        spike_count_histogram=counter.counts,
        first_spike_time_histogram=counter.times,
        synaptic_operations=float(np.sum(counter.totals * reached) / samples),
    )


def _input_events(source, coded: bool) -> Callable:
    """`images -> ` events per input unit summed over the batch: its spikes, or 1 where a current is not zero."""

    def analog(images):
        return tf.cast(tf.math.count_nonzero(source.preprocess(images), axis=0), tf.float64)

    @tf.function(reduce_retracing=True)
    def spikes(images):
        image = source.preprocess(images)
        total = tf.zeros(tf.shape(image)[1:], tf.float64)
        for t in tf.range(source.timesteps):
            total += tf.reduce_sum(tf.cast(source.at_step(image, t), tf.float64), axis=0)
        return total

    return spikes if coded else analog


def analyse(snn: SpikingSequential, batches: Iterable[tuple]) -> Analysis:
    """Simulates a data set and measures spikes, operations, energy and, with labels, accuracy.

    Memory grows neither with the number of images nor with T, but for the scores of one batch at every step, and
    those only with labels.

    Args:
        snn: the network.
        batches: (images, labels) with images `(batch, …)` and class numbers `(batch,)`, or None in place of all
            labels; checked already. `conversion.snn_activation_analysis` makes them from arrays and data sets.

    Raises:
        ValueError: there is no image.
    """
    source, rnns, timesteps = snn.layers[0], snn.layers[1:], snn.timesteps
    counters = [SpikeCounter(layer.cell.neurons_shape, timesteps) for layer in snn.hidden_layers]
    code = spiking.get_encoding(snn.encoding)
    coded = not code.signed_input(snn.settings)  # an input of spikes, which stand for intensities
    input_shape = snn.input_shape[1:]
    for layer in source.preprocessing:
        input_shape = tuple(layer.compute_output_shape((None, *input_shape)))[1:]
    events, input_events = np.zeros(input_shape), _input_events(source, coded)
    samples, right, labelled = 0, np.zeros(timesteps, np.int64), False
    for images, labels in batches:
        labelled = labels is not None
        record = (SPIKE_COUNTS, FIRST_SPIKE_TIMES, READOUTS)[: 3 if labelled else 2]
        simulation = snn.simulate(images, record)
        for counter, counts, times in zip(
            counters, simulation.spike_counts, simulation.first_spike_times, strict=True
        ):
            counter.update(counts.numpy(), times.numpy())
        if labelled:
            right += np.sum(simulation.readouts.numpy().argmax(-1) == np.asarray(labels), axis=1)
        events += input_events(tf.convert_to_tensor(images, snn.compute_dtype)).numpy()
        samples += len(images)
    if not samples:
        raise ValueError("The analysis needs at least one image. Received: none.")

    shapes = [input_shape, *(counter.totals.shape for counter in counters)]
    synapses = [layer.cell.synapse_layers for layer in rnns]
    reached = [fan_out(synapse, shape) for synapse, shape in zip(synapses, shapes, strict=True)]
    through = [connections(synapse, shape) for synapse, shape in zip(synapses, shapes, strict=True)]
    dense = [connections(synapse, shape, dense=True) for synapse, shape in zip(synapses, shapes, strict=True)]

    activity = lambda counts, times: code.activity(counts, times, snn.settings)  # noqa: E731
    layers = [
        _layer_statistics(layer, counter, outwards, samples, activity)
        for layer, counter, outwards in zip(snn.hidden_layers, counters, reached[1:], strict=True)
    ]
    input_operations = float(np.sum(events * reached[0]) / samples)
    operations = sum(layer.synaptic_operations for layer in layers) + (input_operations if coded else 0)
    macs = (0 if coded else input_operations) + sum(through[0][1:]) * (timesteps if coded else 1)
    macs += sum(sum(further[1:]) for further in through[1:]) * timesteps

    neurons = sum(layer.neurons for layer in layers if layer.holds_neurons)
    spikes = sum(layer.spike_mean * layer.neurons for layer in layers if layer.holds_neurons)
    updated = neurons + math.prod(rnns[-1].cell.neurons_shape)
    kernels = [kernel for synapse in synapses for each in synapse if not isinstance(each, Diagonal)
               for kernel in kernels_of(each)]  # fmt: skip
    weights, zeros = sum(kernel.size for kernel in kernels), sum(int(np.sum(kernel == 0)) for kernel in kernels)
    return Analysis(
        samples=samples,
        timesteps=timesteps,
        layers=layers,
        spikes_per_neuron=spikes / neurons if neurons else 0.0,
        input_spikes=float(events.sum() / samples) if coded else 0.0,
        synaptic_operations=operations,
        macs=float(macs),
        neuron_updates=updated * timesteps,
        ann_macs=sum(map(sum, dense)),
        connection_sparsity=zeros / weights if weights else 0.0,
        activation_sparsity=1 - spikes / (neurons * timesteps) if neurons else 1.0,
        footprint=_footprint(snn),
        ann_energy=ENERGY_PER_MAC * sum(map(sum, dense)),
        snn_energy=ENERGY_PER_MAC * macs + ENERGY_PER_AC * operations,
        accuracy=float(right[-1] / samples) if labelled else None,
        accuracy_per_timestep=right / samples if labelled else None,
    )


def _footprint(snn) -> int:
    """Bytes of all weights and of the cells' state for one image."""
    held = [*snn.weights, *(tensor for layer in snn.layers[1:] for tensor in layer.cell.get_initial_state(1))]
    return sum(np.asarray(values).nbytes for values in held)
