"""What a simulation returns, and what is kept of it step by step: each record is an object of three methods."""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from spiking.shown import html_table, text_table

# What a simulation can record beside its output.
SPIKE_COUNTS = "spike_counts"
FIRST_SPIKE_TIMES = "first_spike_times"
RASTERS = "rasters"
READOUTS = "readouts"
ACTIVITIES = "activities"
SPIKES_SENT = "spikes_sent"
MESSAGES = "messages"
RECORDS = (SPIKE_COUNTS, FIRST_SPIKE_TIMES, RASTERS, READOUTS, ACTIVITIES, SPIKES_SENT, MESSAGES)


class Simulation(NamedTuple):
    """What a simulation returns; what was not asked for is empty. Dicts go by the layers' names, in their order.

    Attributes:
        output: when the simulation ends, in the structure of the ANN's output, `(batch, …)` each.
        spike_counts: per hidden layer, spikes of each neuron, `(batch, …)`; negative ones, which take back, count −1.
        first_spike_times: per hidden layer, time step (from 1) of the first spike, 0 for none, `(batch, …)`.
        rasters: per hidden layer, what was emitted at each step, `(T, batch, …)`. Memory grows with T.
        readouts: the output after each step, `(T, batch, …)` each.
        activities: per hidden layer, what its spikes stand for, in units of λ, `(batch, …)`.
        spikes_sent: as `spike_counts`, but negative spikes count 1.
        messages: time steps with one spike or several, of either sign, `(batch, …)`.
    """

    output: Any
    spike_counts: dict[str, tf.Tensor] = {}
    first_spike_times: dict[str, tf.Tensor] = {}
    rasters: dict[str, tf.Tensor] = {}
    readouts: Any = ()
    activities: dict[str, tf.Tensor] = {}
    spikes_sent: dict[str, tf.Tensor] = {}
    messages: dict[str, tf.Tensor] = {}

    def table(self) -> list[tuple[str, str]]:
        """What is there, with shapes; the tensors themselves would fill pages."""
        rows = []
        for name, value in self._asdict().items():
            for key, tensor in value.items() if isinstance(value, dict) else [("", value)]:
                shapes = [str(tuple(each.shape)) for each in keras.tree.flatten(tensor)]
                rows += [(f"{name}['{key}']" if key else name, ", ".join(shapes))] if shapes else []
        return [("what", "shape"), *rows]

    def __repr__(self):
        recorded = [name for name, value in self._asdict().items() if keras.tree.flatten(value)]
        return f"<Simulation: {', '.join(recorded)}>"

    def __str__(self):
        return text_table(self.table())

    def _repr_html_(self) -> str:
        return html_table(self.table())


def check_record(record: str | Sequence[str]) -> tuple[str, ...]:
    """`record` in canonical order, once every name in it is known."""
    record = (record,) if isinstance(record, str) else tuple(record)
    unknown = [name for name in record if name not in RECORDS]
    if unknown:
        raise ValueError(f"record is a name or a sequence of names out of {RECORDS}. Received: record={record!r}")
    return tuple(name for name in RECORDS if name in record)


class Moment(NamedTuple):
    """What a record sees of one time step.

    Attributes:
        t: the step, from 0.
        steps_left: T − t, as a float.
        spikes: hidden layer -> its spikes, `(batch, …)`.
        outputs: read-out -> its output.
    """

    t: tf.Tensor
    steps_left: tf.Tensor
    spikes: dict[str, tf.Tensor]
    outputs: dict[str, tf.Tensor]


class Record(abc.ABC):
    """What is kept of some layers.

    Args:
        blank: layer -> zeros of the shape of what it gives in one step.
        timesteps: T.
    """

    def __init__(self, blank: dict[str, tf.Tensor], timesteps: int):
        self.blank, self.timesteps = blank, timesteps

    def start(self) -> dict[str, Any]:
        """What is kept before the first step."""
        return dict(self.blank)

    @abc.abstractmethod
    def update(self, kept: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """What is kept after a step."""

    def finish(self, kept: dict[str, Any]) -> dict[str, tf.Tensor]:
        """The record."""
        return kept


class SpikeCounts(Record):
    """Number of spikes, less negative ones."""

    def update(self, kept, moment):
        return {name: count + moment.spikes[name] for name, count in kept.items()}


class SpikesSent(Record):
    """Number of spikes of either sign."""

    def update(self, kept, moment):
        return {name: count + tf.abs(moment.spikes[name]) for name, count in kept.items()}


class Messages(Record):
    """Number of steps with spikes."""

    def update(self, kept, moment):
        return {name: count + tf.abs(tf.sign(moment.spikes[name])) for name, count in kept.items()}


class FirstSpikeTimes(Record):
    """Steps left at the first spike, which `finish` turns into times. Graded values count as spikes."""

    def update(self, kept, moment):
        return {name: tf.maximum(left, tf.sign(moment.spikes[name]) * moment.steps_left) for name, left in kept.items()}

    def finish(self, kept):
        return {name: tf.where(left > 0, self.timesteps + 1 - left, 0) for name, left in kept.items()}


class Stacked(Record):
    """What is given at every step, `(T, batch, …)`."""

    def start(self):
        return {
            name: tf.TensorArray(zeros.dtype, self.timesteps, element_shape=zeros.shape)
            for name, zeros in self.blank.items()
        }

    def update(self, kept, moment):
        given = {**moment.spikes, **moment.outputs}
        return {name: array.write(moment.t, given[name]) for name, array in kept.items()}

    def finish(self, kept):
        return {name: array.stack() for name, array in kept.items()}


# Name -> its class.
RECORD_CLASSES = {
    SPIKE_COUNTS: SpikeCounts,
    FIRST_SPIKE_TIMES: FirstSpikeTimes,
    RASTERS: Stacked,
    READOUTS: Stacked,
    SPIKES_SENT: SpikesSent,
    MESSAGES: Messages,
}
