"""The clock-driven simulation: one loop, time outermost, all layers stepped inside one `tf.while_loop`.

Memory does not grow with the number of time steps: what is alive is the state of every cell and, where asked for,
spike counts and first spike times, one number a neuron.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from spiking.cells import MaxPoolCell, signed_max_pool

# What a simulation can record beside its output.
SPIKE_COUNTS = "spike_counts"
FIRST_SPIKE_TIMES = "first_spike_times"
RASTERS = "rasters"
READOUTS = "readouts"
RECORDS = (SPIKE_COUNTS, FIRST_SPIKE_TIMES, RASTERS, READOUTS)


class Simulation(NamedTuple):
    """What a simulation returns; what was not asked for is an empty tuple.

    Attributes:
        output: class scores when the simulation ends, `(batch, classes)`.
        spike_counts: per hidden layer, spikes of each neuron, `(batch, …)`.
        first_spike_times: per hidden layer, time step (from 1) of the first spike, 0 for none, `(batch, …)`.
        rasters: per hidden layer, what was emitted at each step, `(T, batch, …)`. Memory grows with T.
        readouts: the output after each step, `(T, batch, classes)`.
    """

    output: tf.Tensor
    spike_counts: tuple[tf.Tensor, ...] = ()
    first_spike_times: tuple[tf.Tensor, ...] = ()
    rasters: tuple[tf.Tensor, ...] = ()
    readouts: tf.Tensor | tuple = ()


def check_record(record: Sequence[str]) -> tuple[str, ...]:
    """`record` in canonical order, once every name in it is known."""
    unknown = [name for name in record if name not in RECORDS]
    if unknown or isinstance(record, str):
        raise ValueError(f"record is a sequence of names out of {RECORDS}. Received: record={record!r}")
    return tuple(name for name in RECORDS if name in record)


def simulate_clock(
    layers: Sequence, images: tf.Tensor, record: tuple[str, ...] = (), training: bool = False
) -> Simulation:
    """Steps all cells through all time steps, in one loop.

    Two things are left out of it where nobody can tell: first neurons under a constant current that a max pooling
    does not choose (`can_pool_ahead`), and the read-out, which is linear and is applied once (`can_defer`). If nothing
    remains between the two, there is no loop.

    Args:
        layers: the input layer, then the `SpikingRNN` layers, the integrator last.
        images: `(batch, …)`, the same images the ANN takes.
        record: names out of `RECORDS`.
        training: whether gradients are wanted; every neuron is stepped then.

    Returns:
        The output and what was asked for. Equal to calling the layers one after another as stock Keras does.
    """
    source, cells = layers[0], [layer.cell for layer in layers[1:]]
    batch = tf.shape(images)[0]
    states = [cell.get_initial_state(batch) for cell in cells]
    states[0], first_current = source.start(images, cells[0], states[0])
    first_records, told = None, None
    if not training and can_pool_ahead(source, cells, record):
        current, pool = first_current(0), cells.pop(1)
        del states[1]
        if record:
            first_records = counts, times = cells[0].under_constant(current, states[0], source.timesteps)
            told = signed_max_pool(pool.pool, counts, pool.sign), pooled_times(pool, times, source.timesteps)
        pooled, states[0] = pool_ahead(pool, current, states[0])
        first_current = lambda t: pooled  # noqa: E731  as the source's own
    defers = not training and can_defer(cells, record)
    if defers and len(cells) == 2 and has_closed_form(source, cells[0]):
        run = _closed(cells, states, first_current(0), source.timesteps, record)
    else:
        run = _run(cells, states, first_current, source.timesteps, record, defers, told)
    if first_records is None:
        return run
    counts, times = first_records
    return run._replace(
        spike_counts=(counts, *run.spike_counts) if SPIKE_COUNTS in record else (),
        first_spike_times=(times, *run.first_spike_times) if FIRST_SPIKE_TIMES in record else (),
    )


def can_defer(cells, record) -> bool:
    """Whether the read-out's synapse can be applied once, to what the last hidden layer sent in all time steps.

    Not where the output of every step is asked for; nor with rasters, which make a run the reference: every cell
    stepped.
    """
    if READOUTS in record or RASTERS in record or len(cells) < 2:
        return False
    return cells[-1].evidence(tf.zeros(()), 1) is not None


def read_out(integrator, evidence: tf.Tensor, timesteps: int) -> tf.Tensor:
    """The output after all time steps, from the evidence of them all: activation((W∗evidence + Tb)/T)."""
    potential = integrator.synapse(evidence)
    if integrator.bias is not None:
        potential += timesteps * integrator.bias
    # Behind a placeholder, because TensorFlow multiplies by the reciprocal of a constant, which rounds once more.
    steps = tf.compat.v1.placeholder_with_default(tf.constant(timesteps, potential.dtype), ())
    return integrator.activation(potential / steps)


def _closed(cells, states, current, timesteps: int, record) -> Simulation:
    """One layer of regular neurons under a constant current, and a read-out: no loop at all."""
    neurons, integrator = cells
    counts, times = neurons.under_constant(current, states[0], timesteps)
    return Simulation(
        read_out(integrator, integrator.evidence(counts, timesteps + 1 - times), timesteps),
        (counts,) if SPIKE_COUNTS in record else (),
        (times,) if FIRST_SPIKE_TIMES in record else (),
    )


def has_closed_form(source, cell) -> bool:
    """Whether the first cell's spikes follow at once from its drive, which is constant.

    A subclass that steps otherwise does not inherit this: `under_constant` must come with the `step` it stands for.
    """

    def owner(method: str) -> type:
        return next(kind for kind in type(cell).__mro__ if method in vars(kind))

    return source.constant and cell.regular and issubclass(owner("under_constant"), owner("step"))


def can_pool_ahead(source, cells, record) -> bool:
    """Whether the first layer's neurons can be left out but for the one of each window that decides.

    Under a constant current regular neurons spike the earlier and the more often the larger it is, so a max pooling
    right behind them passes what the neuron with the largest current emits: pool the currents, once, instead of the
    spikes in every step.
    """
    if len(cells) < 2 or not pools_directly(cells[1]):
        return False
    return has_closed_form(source, cells[0]) and RASTERS not in record


def pool_ahead(cell: MaxPoolCell, current, state):
    """The first layer's current and state, pooled; what is the same in all neurons stays as it is."""

    def pool(values):
        return signed_max_pool(cell.pool, values, cell.sign)

    return None if current is None else pool(current), type(state)(*map(pool, state))


def known_counts(hidden, states) -> list:
    """Per hidden cell the spikes of each neuron so far, where its state or that of the pooling behind it tells."""
    counts = []
    following = zip([*hidden[1:], None], [*states[1:], None], strict=False)
    for cell, state, (behind, pooled) in zip(hidden, states, following, strict=False):
        told = cell.spike_count(state)
        counts.append(pooled.received if told is None and pools_directly(behind) else told)
    return counts


def pools_directly(cell) -> bool:
    """Whether the cell is a max pooling of the spikes before it as they are."""
    return isinstance(cell, MaxPoolCell) and not cell.synapse_layers


def pooled_times(cell: MaxPoolCell, times: tf.Tensor, timesteps: int) -> tf.Tensor:
    """First spike times behind a max pooling, from those before it (0: none)."""
    left = signed_max_pool(cell.pool, tf.where(times > 0, timesteps + 1 - times, 0), cell.sign)
    return tf.where(left > 0, timesteps + 1 - left, 0)


def reduce_precision(snn, dtype: str | None = "bfloat16") -> None:
    """Lets the synapses between the hidden layers of a converted network compute in another dtype, in place.

    Spikes are exact in it; weights and currents are rounded. States, biases, the first layer's current (computed once)
    and the read-out stay as they are. Kept when the network is saved.

    Args:
        snn: a `SpikingSequential`.
        dtype: "bfloat16" or "float16"; None takes the choice back.
    """
    if dtype not in (None, "bfloat16", "float16"):
        raise ValueError(f'dtype must be "bfloat16", "float16" or None. Received: dtype={dtype!r}')
    for rnn in snn.layers[2:-1]:
        policy = rnn.cell.dtype_policy if dtype is None else keras.DTypePolicy(f"mixed_{dtype}")
        for layer in rnn.cell.synapse_layers:
            layer.dtype_policy = policy
    snn.forget_traces()


def passes_averages(cell) -> bool:
    """Whether the cell emits graded values: a max pooling of pooled averages."""
    return not cell.holds_neurons and bool(cell.synapse_layers)


def _run(cells, states, first_current, timesteps: int, record, defers: bool, told=None) -> Simulation:
    """The loop, from the initial states.

    Args:
        first_current: the first cell's current as a function of the step.
        defers: the read-out is not stepped, the loop carries its evidence in place of the output.
        told: spike counts and first spike times of the first cell, where they are known already; None if not.
    """
    hidden, integrator = cells[:-1], cells[-1]
    stepped = hidden if defers else cells
    dtype = cells[-1].compute_dtype
    # The first cell may hold pooled neurons, so shapes come from the states.
    blank = [tf.zeros_like(cell.spikes_in(state)) for cell, state in zip(cells, states, strict=True)]
    rasters, readouts = (), ()
    if RASTERS in record:
        rasters = tuple(
            tf.TensorArray(dtype, timesteps, element_shape=each.shape) for each in blank[:-1]
        )
    if READOUTS in record:
        readouts = tf.TensorArray(dtype, timesteps, element_shape=blank[-1].shape)

    # Counts that no state tells are kept in the loop, and first spike times that no pooling tells, these as steps left
    # at the first spike.
    counted = [SPIKE_COUNTS in record and count is None for count in known_counts(hidden, states)]
    timed = [FIRST_SPIKE_TIMES in record and not (n and pools_directly(cell)) for n, cell in enumerate(hidden)]
    if told is not None:
        counted[0] = timed[0] = False

    def zeros(wanted):
        return tuple(each if want else () for each, want in zip(blank, wanted, strict=False))

    def step(t, output, states, counts, left, rasters, readouts):
        x, new_states, spikes = None, [], []
        for cell, state in zip(stepped, states, strict=True):
            current = first_current(t) if x is None else cell.current(x)
            x, state = cell.step(current, state)
            new_states.append(state)
            spikes.append(cell.spikes_of(x))
        steps_left = tf.cast(timesteps - t, dtype)
        output = output + integrator.evidence(spikes[-1], steps_left) if defers else x
        counts = tuple(count + s if want else () for count, s, want in zip(counts, spikes, counted, strict=False))
        left = tuple(
            tf.maximum(time, (tf.sign(s) if passes_averages(cell) else s) * steps_left) if want else ()
            for cell, time, s, want in zip(hidden, left, spikes, timed, strict=False)
        )
        rasters = tuple(raster.write(t, s) for raster, s in zip(rasters, spikes, strict=False))
        readouts = readouts.write(t, output) if READOUTS in record else ()
        return t + 1, output, tuple(new_states), counts, left, rasters, readouts

    start = (
        tf.constant(0),
        blank[-2 if defers else -1],
        tuple(states[: len(stepped)]),
        zeros(counted),
        zeros(timed),
        rasters,
        readouts,
    )
    # maximum_iterations is what lets XLA bound the loop and gradients run through it.
    _, output, states, counts, left, rasters, readouts = tf.while_loop(
        lambda t, *_: t < timesteps, step, start, maximum_iterations=timesteps
    )
    if defers:
        output = read_out(integrator, output, timesteps)
    rasters = tuple(raster.stack() for raster in rasters)
    if SPIKE_COUNTS in record:
        known = known_counts(hidden, states)
        if told is not None:
            known[0] = told[0]
        counts = tuple(count if want else other for count, other, want in zip(counts, known, counted, strict=True))
    times = []
    for number, (cell, steps) in enumerate(zip(hidden, left, strict=True) if FIRST_SPIKE_TIMES in record else ()):
        if timed[number]:
            times.append(tf.where(steps > 0, timesteps + 1 - steps, 0))
        else:
            times.append(pooled_times(cell, times[-1], timesteps) if number else told[1])
    return Simulation(
        output,
        counts if SPIKE_COUNTS in record else (),
        tuple(times),
        rasters,
        readouts.stack() if READOUTS in record else (),
    )
