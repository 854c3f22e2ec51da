"""What a simulation measures: spikes, first spike times, operations, energy; over whole data sets, streamed.

How operations are counted is told in `operations.py`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

import spiking
from spiking.analysis.accuracy import Scores
from spiking.analysis.operations import EffectiveMacs, connections, fan_out
from spiking.analysis.tasks import task_of
from spiking.folding.linear import Diagonal, kernels_of
from spiking.folding.reader import FoldedNetwork
from spiking.network.clock import FIRST_SPIKE_TIMES, READOUTS, SPIKE_COUNTS
from spiking.network.model import SpikingSequential

# Joule, 32-bit floating point, 45 nm CMOS at 0.9 V: a multiplication 3.7 pJ, an addition 0.9 pJ.
# Horowitz (2014), Computing's energy problem (and what we can do about it), ISSCC, fig. 1.1.9.
ENERGY_PER_MAC = 4.6e-12
ENERGY_PER_AC = 0.9e-12

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
        neuron_updates: neurons × time steps, the read-out's included: what a simulation by the clock does. Not part of
            the energy. NeuroBench's membrane updates leave out those that change nothing, so they are fewer.
        ann_macs: MACs of the ANN, dense: every activation and every weight.
        connection_sparsity: zero weights / weights, kernels only.
        activation_sparsity: share of (neuron, time step, image) without a spike. It rises with T by itself, so read
            it beside `spikes_per_neuron`.
        footprint: bytes of the weights and of the state of all cells for one image.
        ann_energy, snn_energy: joule per image, of MACs and ACs alone.
        accuracy: share of images classified rightly, in [0, 1]; None without labels, with labels that are numbers,
            and for several outputs (see `snn_accuracy`).
        accuracy_per_timestep: the same had the simulation ended at each step, shape `(timesteps,)`; None without
            labels.
        ann_effective_macs: MACs of the ANN without those of activations and weights that are 0, see
            `operations.EffectiveMacs`; None if the ANN was not given.
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
    ann_effective_macs: float | None = None

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


def analyse(snn: SpikingSequential, batches: Iterable[tuple], folded: FoldedNetwork | None = None) -> Analysis:
    """Simulates a data set and measures spikes, operations, energy and, with labels, accuracy.

    Memory grows neither with the number of images nor with T, but for the scores of one batch at every step, and
    those only with labels.

    Args:
        snn: the network.
        batches: (images, labels), or None in place of all labels; checked already, as
            `conversion.snn_activation_analysis` makes them.
        folded: the ANN it came from, for its effective MACs; None to leave them out.

    Raises:
        ValueError: there is no image.
    """
    effective = folded and EffectiveMacs(folded)
    source, rnns, timesteps = snn.layers[0], snn.layers[1:], snn.timesteps
    counters = [SpikeCounter(layer.cell.neurons_shape, timesteps) for layer in snn.hidden_layers]
    code = spiking.get_encoding(snn.encoding)
    coded = not code.signed_input(snn.settings)  # an input of spikes, which stand for intensities
    input_shape = snn.input_shape[1:]
    for layer in source.preprocessing:
        input_shape = tuple(layer.compute_output_shape((None, *input_shape)))[1:]
    events, input_events = np.zeros(input_shape), _input_events(source, coded)
    samples, scores = 0, None
    for images, labels in batches:
        if labels is not None:
            scores = scores or Scores(task_of(snn))
        record = (SPIKE_COUNTS, FIRST_SPIKE_TIMES, READOUTS)[: 3 if scores else 2]
        simulation = snn.simulate(images, record)
        for counter, counts, times in zip(
            counters, simulation.spike_counts, simulation.first_spike_times, strict=True
        ):
            counter.update(counts.numpy(), times.numpy())
        if scores:
            scores.update(simulation.readouts, labels, moments=True)
        events += input_events(tf.convert_to_tensor(images, snn.compute_dtype)).numpy()
        if effective:
            effective.update(images)
        samples += len(images)
    if not samples:
        raise ValueError("The analysis needs at least one image. Received: none.")

    accuracies = scores.shares() if scores else None
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
        accuracy=None if accuracies is None else float(accuracies[-1]),
        accuracy_per_timestep=accuracies,
        ann_effective_macs=effective.total() / samples if effective else None,
    )


def _footprint(snn) -> int:
    """Bytes of all weights and of the cells' state for one image."""
    held = [*snn.weights, *(tensor for layer in snn.layers[1:] for tensor in layer.cell.get_initial_state(1))]
    return sum(np.asarray(values).nbytes for values in held)
