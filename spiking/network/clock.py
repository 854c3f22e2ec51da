"""The clock-driven simulation: one loop, time outermost, all layers stepped inside one `tf.while_loop`.

Memory does not grow with the number of time steps: what is alive is the state of every cell and, where asked for,
spike counts and first spike times, one number a neuron.
"""

import functools
import itertools
from typing import Any, NamedTuple

import tensorflow as tf

from spiking.network.plan import Plan
from spiking.network.records import (
    FIRST_SPIKE_TIMES,
    MESSAGES,
    RASTERS,
    READOUTS,
    RECORD_CLASSES,
    SPIKE_COUNTS,
    SPIKES_SENT,
    Moment,
    Simulation,
)
from spiking.network.shortcuts import Run, counts_told, pooled_times, shortened

# Time steps of a small batch that go through a synapse together: as many, of so many images in all. LeNet-5 takes 0.79
# times the CPU seconds for single images; 16 steps gain 0.06 more and take three times as long to trace.
STEPS_TOGETHER, IMAGES_TOGETHER = 4, 8


class Carry(NamedTuple):
    """What the loop carries from step to step.

    Attributes:
        t: steps so far.
        states: cell -> its state.
        outputs: read-out -> its output after this step; of those that are applied once, the evidence for it.
        kept: record -> what it keeps.
    """

    t: tf.Tensor
    states: dict[str, tuple]
    outputs: dict[str, tf.Tensor]
    kept: dict[str, dict[str, Any]]


def simulate(plan: Plan, images: dict[str, tf.Tensor], record: tuple[str, ...] = (), training: bool = False):
    """Steps all cells through all time steps, in one loop.

    Args:
        plan: the network.
        images: input of the network -> `(batch, …)`, the same images the ANN takes.
        record: names out of `RECORDS`.
        training: whether gradients are wanted; every neuron is stepped then, without the shortcuts of `shortcuts.py`.

    Returns:
        A `Simulation`. Equal to calling the layers one after another as stock Keras does.
    """
    run = shortened(Run.start(plan, images), record, training)
    records = _records(run, record)
    carry = Carry(
        tf.constant(0),
        {name: run.states[name] for name in run.stepped},
        {name: run.blank(run.sources[name][0] if name in run.deferred else name) for name in plan.read_outs},
        {name: each.start() for name, each in records.items()},
    )
    if run.stepped:
        size = 1 if training else _block_size(run)
        blocks, rest = divmod(plan.timesteps, size)
        # maximum_iterations is what lets XLA bound the loop and gradients run through it.
        carry = tf.while_loop(
            lambda *carry: carry[0] < blocks * size,
            lambda *carry: _block(run, records, Carry(*carry), size),
            carry,
            maximum_iterations=blocks,
        )
        carry = Carry(*carry)
        carry = _block(run, records, carry, rest) if rest else carry
    return _result(run, record, records, carry)


def _block_size(run: Run) -> int:
    """Time steps taken together; one where the size of the batch is not known."""
    batch = next(iter(run.images.values())).shape[0]
    return max(1, min(STEPS_TOGETHER, IMAGES_TOGETHER // batch)) if batch else 1


def _records(run: Run, record) -> dict:
    """The records to keep, each of the layers that nothing else tells of."""
    plan, records = run.plan, {}
    told = set(counts_told(run, run.states)) | set(run.told)
    untold = {
        SPIKE_COUNTS: [name for name in plan.hidden if name not in told],
        FIRST_SPIKE_TIMES: [name for name in plan.hidden if name not in run.told and not _times_pooled(run, name)],
        SPIKES_SENT: [name for name in plan.hidden if name not in run.told],
        MESSAGES: [name for name in plan.hidden if name not in run.told],
        RASTERS: plan.hidden,
        READOUTS: plan.read_outs,
    }
    for name in record:
        records[name] = RECORD_CLASSES[name]({each: run.blank(each) for each in untold[name]}, plan.timesteps)
    return records


def _times_pooled(run: Run, name: str) -> bool:
    """Whether the first spikes of a pooling follow from those of the one layer before it.

    The smallest count of a window is above 0 once all its neurons have spiked, unless one was taken back meanwhile.
    """
    plan = run.plan
    if not plan.pools_directly(name) or plan.sources[name][0] not in plan.hidden:
        return False
    return not plan.cells[name].smallest or not any(cell.takes_back for cell in plan.cells.values())


def _block(run: Run, records: dict, carry: Carry, size: int) -> Carry:
    """Some time steps of all layers, layer after layer: no step depends on what a later layer did in one before it."""
    plan, times = run.plan, [carry.t + step for step in range(size)]
    steps_left = [tf.cast(plan.timesteps - t, run.dtype) for t in times]
    messages, states, spikes, outputs = {}, {}, {}, {}  # of every step, but for the states
    for name in run.order:
        heard = [messages[source] for source in run.sources[name] if source in messages]
        if name in plan.inputs:
            messages[name] = [plan.inputs[name].message(run.images[name], t) for t in times]
        elif name in plan.relays:
            messages[name] = [plan.relays[name].join(list(each)) for each in zip(*heard, strict=True)]
        elif name in run.deferred:
            sent = map(plan.cells[run.sources[name][0]].spikes_of, heard[0])
            given = map(functools.partial(_evidence, plan.cells[name]), sent, times, steps_left)
            outputs[name] = list(itertools.accumulate(given, initial=carry.outputs[name]))[1:]
        else:
            cell, state, messages[name] = plan.cells[name], carry.states[name], []
            for current in _currents(cell, heard, run.drives.get(name), times):
                message, state = cell.step(current, state)
                messages[name].append(message)
            states[name] = state
            given = outputs if name in plan.read_outs else spikes
            given[name] = list(map(cell.spikes_of, messages[name]))
    kept = carry.kept
    for step, (t, left) in enumerate(zip(times, steps_left, strict=True)):
        moment = Moment(t, left, *({name: each[step] for name, each in of.items()} for of in (spikes, outputs)))
        kept = {name: each.update(kept[name], moment) for name, each in records.items()}
    return Carry(carry.t + size, states, {name: each[-1] for name, each in outputs.items()}, kept)


def _currents(cell, heard, drive, times) -> list:
    """The current of a cell in some time steps; what it hears in them goes through its synapse as one larger batch."""
    if drive is not None:
        return [drive(t) for t in times]
    (messages,) = heard
    if len(messages) == 1:
        return [cell.current(messages[0])]
    together = cell.current(tf.nest.map_structure(lambda *each: tf.concat(each, axis=0), *messages))
    parts = zip(*(tf.split(stream, len(messages)) for stream in tf.nest.flatten(together)), strict=True)
    return [tf.nest.pack_sequence_as(together, part) for part in parts]


def _evidence(integrator, spikes: tf.Tensor, t: tf.Tensor, steps_left: tf.Tensor) -> tf.Tensor:
    """What a read-out that is applied once needs of step t, from 0."""
    evidence = integrator.evidence(spikes, steps_left)
    delay = integrator.readout_delay
    return evidence * tf.cast(t >= delay, evidence.dtype) if delay else evidence


def _result(run: Run, record, records, carry: Carry) -> Simulation:
    """The simulation's result: what was kept, and what follows from it."""
    plan, outputs = run.plan, dict(carry.outputs)
    for name, evidence in run.deferred.items():
        evidence = outputs[name] if evidence is None else evidence
        outputs[name] = read_out(plan.cells[name], evidence, plan.timesteps)
    finished = {name: each.finish(carry.kept[name]) for name, each in records.items()}
    result = Simulation(plan.packed(outputs))
    if SPIKE_COUNTS in record:
        states = {**run.states, **carry.states}
        counts = {**counts_told(run, states), **{name: told[0] for name, told in run.told.items()}}
        result = result._replace(spike_counts=_ordered(plan, counts | finished[SPIKE_COUNTS]))
    if FIRST_SPIKE_TIMES in record:
        times = {name: told[1] for name, told in run.told.items()} | finished[FIRST_SPIKE_TIMES]
        for name in plan.hidden:
            if name not in times:
                times[name] = pooled_times(plan.cells[name], times[plan.sources[name][0]], plan.timesteps)
        result = result._replace(first_spike_times=_ordered(plan, times))
    # What is told before the loop has a constant current: no spikes are taken back, and several in one step only where
    # there are some in every step.
    for name, of_counts in ((SPIKES_SENT, tf.identity), (MESSAGES, lambda counts: tf.minimum(counts, plan.timesteps))):
        if name in record:
            told = {layer: of_counts(counts) for layer, (counts, _) in run.told.items()}
            result = result._replace(**{name: _ordered(plan, told | finished[name])})
    if RASTERS in record:
        result = result._replace(rasters=_ordered(plan, finished[RASTERS]))
    if READOUTS in record:
        result = result._replace(readouts=plan.packed(finished[READOUTS]))
    return result


def _ordered(plan: Plan, values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: values[name] for name in plan.hidden}


def read_out(integrator, evidence: tf.Tensor, timesteps: int) -> tf.Tensor:
    """The output after all time steps, from the evidence of them all: activation((W∗evidence + Tb)/T).

    T is without the steps that it ignores.
    """
    timesteps -= integrator.readout_delay
    potential = integrator.synapse(evidence)
    if integrator.bias is not None:
        potential += timesteps * integrator.bias
    # Behind a placeholder, because TensorFlow multiplies by the reciprocal of a constant, which rounds once more.
    steps = tf.compat.v1.placeholder_with_default(tf.constant(timesteps, potential.dtype), ())
    return integrator.activation(potential / steps)
