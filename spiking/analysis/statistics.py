"""What a simulation measures: spikes, first spike times, operations, energy; over whole data sets, streamed.

How operations are counted is told in `operations.py`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from spiking.analysis.accuracy import Scores
from spiking.analysis.energy import DEFAULT, assumptions, hardware_of
from spiking.analysis.operations import EffectiveMacs, connections, edges, fan_out, fan_outs, sends_analog
from spiking.analysis.tasks import task_of
from spiking.folding.graph import FoldedGraph
from spiking.folding.linear import is_weighted, kernels_of
from spiking.network.model import SpikingModel
from spiking.network.records import ACTIVITIES, FIRST_SPIKE_TIMES, MESSAGES, READOUTS, SPIKE_COUNTS, SPIKES_SENT
from spiking.shown import Shown, or_dash, plain_numbers

COUNTED = (SPIKE_COUNTS, FIRST_SPIKE_TIMES, ACTIVITIES, SPIKES_SENT, MESSAGES)  # as `SpikeCounter` takes them


@dataclass(frozen=True)
class LayerStatistics:
    """The spikes of one hidden layer, over its neurons and over images.

    Attributes:
        name: of the layer.
        neurons: how many.
        holds_neurons: False for max pooling, which relays the spikes of others. Fractions of spikes, which it relays
            behind an average pooling, are rounded in the histogram.
        spike_mean, spike_var: spikes per neuron and image, of either sign; of several in one step each counts.
        first_spike_time_mean, first_spike_time_var: time step (from 1) of the first spike, over those that fired;
            NaN if none did.
        silent_share: share of (neuron, image) pairs without a spike.
        saturated_share: share of pairs with the largest activity the code can express: as many spikes as a step holds
            in every time step, or for codes that tell by the time of one spike, a spike at the earliest step.
        spike_count_histogram: number of pairs with k spikes, at index k, from 0 to the most there can be.
        first_spike_time_histogram: number of pairs with their first spike at step t, at index t; silent ones at 0.
            Shape `(timesteps + 1,)`.
        synaptic_operations: additions that the layer's spikes cause behind it, Σ spikes × fan-out, mean per image;
            multiplications, too, and Σ messages × fan-out, where a neuron sends several spikes a step.
        negative_mean: negative spikes per neuron and image.
        message_mean: time steps with spikes per neuron and image: as many as spikes, unless a step holds several.
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
    negative_mean: float = 0.0
    message_mean: float = math.nan


@dataclass(frozen=True, repr=False)
class Analysis(Shown):
    """What a spiking network does and costs, over a data set. All costs are means per image.

    Attributes:
        samples: number of images.
        timesteps: T of one simulation.
        layers: of the hidden layers, in order.
        spikes_per_neuron: spikes of one neuron, of either sign, over all hidden neurons; relays (max pooling) left out.
        input_spikes: spikes of a coded input; 0 where the image enters as a current.
        synaptic_operations: effective ACs, Σ spikes × fan-out, those of input spikes included. A negative spike is
            an addition, too, as in NeuroBench; several spikes in one step are not binary and count as MACs.
        macs: MACs of the SNN: those of an analog input (pixels that are 0 skipped; once, since the current is
            constant or a single event), those of second kernels in one synapse, in every time step, and of neurons
            that send several spikes a step, Σ messages × fan-out.
        neuron_updates: neurons × time steps, the read-out's included: what a simulation by the clock does. In the
            energy only if asked for. NeuroBench leaves out updates that change nothing, so counts fewer.
        ann_macs: MACs of the ANN, dense: every activation and every weight.
        connection_sparsity: zero weights / weights, kernels only.
        activation_sparsity: share of (neuron, time step, image) without a spike. It rises with T by itself, so read
            it beside `spikes_per_neuron`.
        footprint: bytes of the weights and of the state of all cells for one image.
        ann_energy, snn_energy: joule per image, of MACs and ACs, and of the SNN's neuron updates if `updates_counted`.
        hardware: whose figures these are, see `spiking.analysis.energy.HARDWARE`.
        updates_counted: whether `snn_energy` holds the neuron updates.
        accuracy: share of images classified rightly, in [0, 1]; None without labels, with labels that are numbers,
            and for several outputs (see `snn_accuracy`).
        accuracy_per_timestep: the same had the simulation ended at each step, shape `(timesteps,)`; None without
            labels.
        ann_effective_macs: MACs of the ANN without those of activations and weights that are 0, see
            `operations.EffectiveMacs`; None if the ANN was not given.
        negative_spikes_per_neuron: of those of `spikes_per_neuron`, the negative ones.
        messages_per_neuron: time steps in which a neuron sends spikes, over the same neurons.
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
    negative_spikes_per_neuron: float = 0.0
    messages_per_neuron: float = math.nan
    hardware: str = DEFAULT
    updates_counted: bool = False

    def heading(self) -> str:
        """Accuracy, spikes, operations and energy, with their units."""
        right = "" if self.accuracy is None else f"{self.accuracy:.2%} right; "
        return (
            f"{self.samples} images, {self.timesteps} time steps: {right}per image {self.spikes_per_neuron:.3f} spikes "
            f"per neuron, {self.synaptic_operations:,.0f} operations and {self.macs:,.0f} MACs, "
            f"{self.snn_energy * 1e6:.3g} µJ (ANN {self.ann_macs:,} MACs, {self.ann_energy * 1e6:.3g} µJ)"
        )

    def closing(self) -> str:
        """What the energies assume."""
        return assumptions(self.hardware, self.updates_counted)

    def table(self) -> list[tuple[str, ...]]:
        """The hidden layers: spikes per neuron and image, first spikes in time steps, operations per image."""
        spikes = ("spikes", "variance", "first spike", "variance", "silent", "saturated")
        head = ("layer", "neurons", *spikes, "operations")
        return [
            head,
            *(
                (
                    f"{number} {layer.name}" + ("" if layer.holds_neurons else " (relays)"),
                    f"{layer.neurons:,}",
                    f"{layer.spike_mean:.3f}",
                    f"{layer.spike_var:.3f}",
                    or_dash(layer.first_spike_time_mean, ".1f"),
                    or_dash(layer.first_spike_time_var, ".1f"),
                    f"{layer.silent_share:.1%}",
                    f"{layer.saturated_share:.1%}",
                    f"{layer.synaptic_operations:,.0f}",
                )
                for number, layer in enumerate(self.layers, 1)
            ),
        ]

    def rows(self) -> list[dict]:
        """The numbers of each hidden layer, but for its histograms."""
        rows = [plain_numbers(dataclasses.asdict(layer)) for layer in self.layers]
        return [{name: value for name, value in row.items() if not isinstance(value, list)} for row in rows]


class SpikeCounter:
    """Streams the spikes of one hidden layer into histograms and totals per neuron.

    Args:
        neurons_shape: shape of the layer for one image.
        timesteps: T.
        most: spikes in one time step.
        full: the largest activity that a neuron can express, in units of λ.

    Attributes:
        sent, messages: spikes of either sign, and time steps with spikes, summed per neuron.
        negative: number of negative spikes.
        counts, times: histograms of spikes of either sign, and of first spike times.
        saturated: number of (neuron, image) pairs with full activity, whatever rounds.
    """

    def __init__(self, neurons_shape: tuple[int, ...], timesteps: int, most: int, full: float):
        self.full, self.saturated, self.negative = full * (1 - 1e-6), 0, 0.0
        self.sent, self.messages = np.zeros(neurons_shape), np.zeros(neurons_shape)
        self.counts = np.zeros(most * timesteps + 1, np.int64)
        self.times = np.zeros(timesteps + 1, np.int64)

    def update(self, counts, times, activities, sent, messages) -> None:
        """Adds one batch of what a simulation records, arrays `(batch, *neurons_shape)`."""
        self.saturated += int(np.count_nonzero(activities >= self.full))
        self.negative += float(np.sum(sent - counts, dtype=np.float64)) / 2
        self.sent += sent.sum(axis=0)
        self.messages += messages.sum(axis=0)
        for histogram, values in ((self.counts, sent + 0.5), (self.times, times)):  # + ½: averages are graded
            histogram += np.bincount(values.astype(np.intp).ravel(), minlength=len(histogram))


def _moments(histogram: np.ndarray, first: int = 0) -> tuple[float, float]:
    """Mean and variance of the values from `first` on; NaN if there are none."""
    weights, values = histogram[first:].astype(float), np.arange(first, len(histogram))
    if not weights.sum():
        return math.nan, math.nan
    mean = float(np.average(values, weights=weights))
    return mean, float(np.average((values - mean) ** 2, weights=weights))


def _layer_statistics(
    name: str, cell, counter: SpikeCounter, reached: np.ndarray, samples: int, several: bool
) -> LayerStatistics:
    pairs = samples * counter.sent.size
    caused = counter.messages if several else counter.sent
    time_mean, time_var = _moments(counter.times, first=1)
    mean, variance = _moments(counter.counts)
    return LayerStatistics(
        name=name,
        neurons=counter.sent.size,
        holds_neurons=cell.holds_neurons,
        spike_mean=mean,
        spike_var=variance,
        first_spike_time_mean=time_mean,
        first_spike_time_var=time_var,
        silent_share=float(counter.times[0] / pairs),
        saturated_share=counter.saturated / pairs,
        spike_count_histogram=counter.counts,
        first_spike_time_histogram=counter.times,
        synaptic_operations=float(np.sum(caused * reached) / samples),
        negative_mean=counter.negative / pairs,
        message_mean=float(counter.messages.sum() / pairs),
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


class Measurement:
    """What is gathered of a network while a data set goes through it.

    Args:
        snn: the network.
        graph: the ANN it came from, for its effective MACs; None to leave them out.
    """

    def __init__(self, snn: SpikingModel, graph: FoldedGraph | None):
        self.snn, plan = snn, snn.plan
        full, most = float(snn.encoding.expressible(plan.timesteps)[-1]), snn.encoding.spike_range[1]
        self.counters = {
            name: SpikeCounter(plan.cells[name].neurons_shape, plan.timesteps, most, full) for name in plan.hidden
        }
        self.coded = not snn.encoding.signed_input  # an input of spikes, which stand for intensities
        self.input_events = {name: _input_events(layer, self.coded) for name, layer in plan.inputs.items()}
        self.events = {name: np.zeros(layer.preprocessed_shape) for name, layer in plan.inputs.items()}
        self.effective = graph and EffectiveMacs(graph)
        self.samples, self.scores = 0, None

    def update(self, images, labels) -> None:
        """Simulates one batch, with labels or None."""
        if labels is not None:
            self.scores = self.scores or Scores(task_of(self.snn))
        record = (*COUNTED, READOUTS) if self.scores else COUNTED
        simulation, plan = self.snn.simulate(images, record), self.snn.plan
        for name, counter in self.counters.items():
            counter.update(*(getattr(simulation, each)[name].numpy() for each in COUNTED))
        if self.scores:
            self.scores.update(simulation.readouts, labels, moments=True)
        named = self.snn.named_images(images)
        for name, count in self.input_events.items():
            self.events[name] += count(named[plan.sources[name][0]]).numpy()
        if self.effective:
            self.effective.update(images)
        self.samples += len(keras.tree.flatten(images)[0])

    def operations(self, reached: dict[str, np.ndarray]) -> tuple[float, float]:
        """Effective ACs and MACs of one image, mean."""
        plan, samples = self.snn.plan, self.samples
        totals = {**self.events, **{name: counter.sent for name, counter in self.counters.items()}}
        analog, several = sends_analog(plan, self.coded), self.snn.encoding.spike_range[1] > 1
        graded = {name: counter.messages for name, counter in self.counters.items() if several}
        spiking = [name for name in totals if name not in analog and name not in graded]
        additions = sum(np.sum(totals[name] * reached[name]) for name in spiking if name in reached) / samples
        macs = float(sum(np.sum(graded[name] * reached[name]) for name in graded if name in reached) / samples)
        for source, _, synapse, shape in edges(plan):
            kernels = connections(synapse, shape)
            once = source in plan.on_images and not self.coded  # a current that is constant, or a single event
            if source in plan.inputs and not self.coded:
                macs += float(np.sum(self.events[source] * fan_out(synapse, shape)) / samples) + sum(kernels[1:])
            elif source in analog:
                macs += sum(kernels) * (1 if once else plan.timesteps)
            else:
                macs += sum(kernels[1:]) * plan.timesteps
        return float(additions), macs


def analyse(
    snn: SpikingModel,
    batches: Iterable[tuple],
    graph: FoldedGraph | None = None,
    hardware: str = DEFAULT,
    neuron_updates: bool = False,
) -> Analysis:
    """Simulates a data set and measures spikes, operations, energy and, with labels, accuracy.

    Memory grows neither with the number of images nor with T, but for the scores of one batch at every step, and
    those only with labels.

    Args:
        snn: the network.
        batches: (images, labels), or None in place of all labels; checked already, as
            `conversion.snn_activation_analysis` makes them.
        graph: the ANN it came from, folded, for its effective MACs; None to leave them out.
        hardware: whose operations the energies are of, a name of `spiking.analysis.energy.HARDWARE`.
        neuron_updates: whether the SNN's energy holds those of its neurons.

    Raises:
        ValueError: there is no image, or no such hardware.
    """
    hardware_of(hardware)
    found = Measurement(snn, graph)
    for images, labels in batches:
        found.update(images, labels)
    if not found.samples:
        raise ValueError("The analysis needs at least one image. Received: none.")
    return _analysis(snn, found, hardware, neuron_updates)


def _analysis(snn: SpikingModel, found: Measurement, hardware: str, neuron_updates: bool) -> Analysis:
    """All numbers, from what was gathered."""
    plan, samples, timesteps, row = snn.plan, found.samples, snn.timesteps, hardware_of(hardware)
    accuracies = found.scores.shares() if found.scores else None
    reached = fan_outs(plan, found.coded)
    layers = [
        _layer_statistics(name, plan.cells[name], counter, reached[name], samples, snn.encoding.spike_range[1] > 1)
        for name, counter in found.counters.items()
    ]
    operations, macs = found.operations(reached)
    dense = sum(sum(connections(synapse, shape, dense=True)) for _, _, synapse, shape in edges(plan))
    neurons = sum(layer.neurons for layer in layers if layer.holds_neurons)
    spikes, negative, messages = (
        sum(getattr(layer, name) * layer.neurons for layer in layers if layer.holds_neurons)
        for name in ("spike_mean", "negative_mean", "message_mean")
    )
    updated = neurons + sum(math.prod(plan.cells[name].neurons_shape) for name in plan.read_outs)
    kernels = [kernel for edge in edges(plan) for layer in edge.synapse if is_weighted(layer)
               for kernel in kernels_of(layer)]  # fmt: skip
    weights, zeros = sum(kernel.size for kernel in kernels), sum(int(np.sum(kernel == 0)) for kernel in kernels)
    events = sum(float(each.sum()) for each in found.events.values())
    return Analysis(
        samples=samples,
        timesteps=timesteps,
        layers=layers,
        spikes_per_neuron=spikes / neurons if neurons else 0.0,
        input_spikes=events / samples if found.coded else 0.0,
        synaptic_operations=operations,
        macs=float(macs),
        neuron_updates=updated * timesteps,
        ann_macs=dense,
        connection_sparsity=zeros / weights if weights else 0.0,
        activation_sparsity=1 - messages / (neurons * timesteps) if neurons else 1.0,
        footprint=_footprint(snn),
        ann_energy=row.energy(dense),
        snn_energy=row.energy(macs, operations, updated * timesteps if neuron_updates else 0),
        accuracy=None if accuracies is None else float(accuracies[-1]),
        accuracy_per_timestep=accuracies,
        ann_effective_macs=found.effective.total() / samples if found.effective else None,
        negative_spikes_per_neuron=negative / neurons if neurons else 0.0,
        messages_per_neuron=messages / neurons if neurons else 0.0,
        hardware=hardware,
        updates_counted=neuron_updates,
    )


def _footprint(snn) -> int:
    """Bytes of all weights and of the cells' state for one image."""
    held = [*snn.weights, *(tensor for cell in snn.plan.cells.values() for tensor in cell.get_initial_state(1))]
    return sum(np.asarray(values).nbytes for values in held)
