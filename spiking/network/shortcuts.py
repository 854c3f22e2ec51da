"""Shortcuts: named rewrites of a run before the loop, which nobody can tell from the loop by the result.

- `driven`: cells that hear nothing but images are prepared once, see `SpikingInput.drive`.
- `pooled_ahead`: first neurons under a constant current that the max pooling behind them does not choose are left out.
- `deferred`: read-outs are linear, and are applied once, to what their source has sent in all time steps.
- `closed`: first neurons under a constant current whose listeners are deferred read-outs need no loop at all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import tensorflow as tf

from spiking.cells import MaxPoolCell, signed_max_pool
from spiking.network.plan import Plan
from spiking.network.records import RASTERS, READOUTS


@dataclass(frozen=True)
class Run:
    """A simulation that has not begun.

    Attributes:
        plan: the network.
        images: input layer -> the image as it is coded; a relay of images -> what it makes of them.
        states: cell -> its initial state.
        order: what the loop goes through; every name stands behind its sources.
        sources: of these.
        drives: cell that hears nothing but images -> its current as a function of the step.
        deferred: read-out that is applied once -> the evidence for it, None if the loop gathers it.
        told: layer -> (spike counts, first spike times), known before the loop.
    """

    plan: Plan
    images: dict[str, tf.Tensor]
    states: dict[str, tuple]
    order: tuple[str, ...]
    sources: dict[str, tuple[str, ...]]
    drives: dict[str, Callable] = field(default_factory=dict)
    deferred: dict[str, tf.Tensor | None] = field(default_factory=dict)
    told: dict[str, tuple] = field(default_factory=dict)

    @classmethod
    def start(cls, plan: Plan, images: dict[str, tf.Tensor]) -> "Run":
        """The images, preprocessed, and the initial states."""
        coded = {name: layer.preprocess(images[plan.sources[name][0]]) for name, layer in plan.inputs.items()}
        batch = tf.shape(next(iter(coded.values())))[0]
        states = {name: cell.get_initial_state(batch) for name, cell in plan.cells.items()}
        return cls(plan, coded, states, plan.order, plan.sources)

    @property
    def stepped(self) -> list[str]:
        """The cells that the loop steps."""
        return [name for name in self.order if name in self.plan.cells and name not in self.deferred]

    @property
    def dtype(self):
        """Of the simulation."""
        return next(iter(self.plan.cells.values())).compute_dtype

    def blank(self, name: str) -> tf.Tensor:
        """Zeros in the shape of what a layer gives in one step."""
        cell = self.plan.cells[name]
        return tf.zeros_like(cell.spikes_in(self.states[name]))

    def without(self, names) -> "Run":
        """The run without layers, and without what only they listened to."""
        order = [name for name in self.order if name not in names]
        heard = {source for name in order if name not in self.drives for source in self.sources[name]}
        order = tuple(name for name in order if name in self.plan.cells or name in heard)
        return self if order == self.order else replace(self, order=order).without(())


def shortened(run: Run, record: tuple[str, ...], training: bool) -> Run:
    """The run with all shortcuts that hold; gradients go through every neuron, so training takes the first only."""
    run = driven(run)
    if training:
        return run
    return closed(deferred(pooled_ahead(run, record), record))


def driven(run: Run) -> Run:
    """Cells that hear nothing but images, prepared."""
    plan, images, states, drives = run.plan, dict(run.images), dict(run.states), {}
    constant = all(layer.constant for layer in plan.inputs.values())
    for name in plan.relays:
        if name in plan.on_images:
            images[name] = plan.relays[name].analog([images[source] for source in plan.sources[name]])
    for name, cell in plan.cells.items():
        source = plan.sources[name][0]
        if source in plan.inputs or (constant and source in plan.on_images):
            layer = plan.inputs.get(source) or next(iter(plan.inputs.values()))
            states[name], drives[name] = layer.drive(images[source], cell, states[name])
    return replace(run, images=images, states=states, drives=drives).without(())


def _regular(run: Run, name: str) -> bool:
    """Whether a cell's spikes follow at once from its drive, which is constant."""
    cell, constant = run.plan.cells[name], all(layer.constant for layer in run.plan.inputs.values())
    return constant and name in run.drives and cell.closed_form is not None and cell.closed_form.holds(cell)


def pooled_ahead(run: Run, record: tuple[str, ...]) -> Run:
    """First neurons left out but for the one of each window that decides.

    Under a constant current regular neurons spike the earlier and the more often the larger it is, so a max pooling
    right behind them passes what the neuron with the largest current emits: pool the currents, once, instead of the
    spikes in every step. Not with rasters, which make a run the reference: every cell stepped.
    """
    for name in run.drives if RASTERS not in record else ():
        behind = run.plan.pool_behind(name)
        if behind and _regular(run, name):
            run = _pool(run, name, behind, told=bool(record))
    return run


def _pool(run: Run, name: str, behind: str, told: bool) -> Run:
    """The pooling moved in front of the neurons; in the loop their name stands for both."""
    cell, pool, current = run.plan.cells[name], run.plan.cells[behind], run.drives[name](0)
    known = dict(run.told)
    if told:
        counts, times = known[name] = cell.closed_form.spikes(cell, current, run.states[name], run.plan.timesteps)
        pooled_counts = signed_max_pool(pool.pool, counts, pool.sign)
        known[behind] = pooled_counts, pooled_times(pool, times, run.plan.timesteps)

    def largest(values):
        return signed_max_pool(pool.pool, values, pool.sign)

    pooled = None if current is None else largest(current)
    states = {**run.states, name: type(run.states[name])(*map(largest, run.states[name]))}
    sources = {each: tuple(name if s == behind else s for s in heard) for each, heard in run.sources.items()}
    drives = {**run.drives, name: lambda t: pooled}
    return replace(run, states=states, sources=sources, drives=drives, told=known).without([behind])


def deferred(run: Run, record: tuple[str, ...]) -> Run:
    """Read-outs that are applied once; not where the output of every step is asked for, nor with rasters."""
    if READOUTS in record or RASTERS in record:
        return run
    found = {}
    for name in run.plan.read_outs:
        takes = run.plan.cells[name].evidence(tf.zeros(()), 1) is not None
        if takes and run.sources[name][0] in run.plan.cells:
            found[name] = None
    return replace(run, deferred=found)


def closed(run: Run) -> Run:
    """No loop: every cell it would step is regular, and read-outs that are applied once listen to nothing else."""
    if not run.stepped or len(run.deferred) < len(run.plan.read_outs):
        return run
    if any(run.plan.cells[name].readout_delay for name in run.deferred):
        return run
    if not all(_regular(run, name) for name in run.stepped):
        return run
    timesteps, told, evidence = run.plan.timesteps, dict(run.told), {}
    spikes = {}
    for name in run.stepped:
        cell = run.plan.cells[name]
        spikes[name] = cell.closed_form.spikes(cell, run.drives[name](0), run.states[name], timesteps)
        told.setdefault(name, spikes[name])
    for name in run.deferred:
        counts, times = spikes[run.sources[name][0]]
        evidence[name] = run.plan.cells[name].evidence(counts, timesteps + 1 - times)
    return replace(run, deferred=evidence, told=told).without(run.stepped)


def counts_told(run: Run, states: dict[str, tuple]) -> dict[str, tf.Tensor]:
    """Layer -> spikes of each neuron so far, where its state or that of the pooling behind it tells."""
    counts, plan = {}, run.plan
    for name in plan.hidden:
        if name in run.told:
            continue
        behind = plan.pool_behind(name)
        if (told := plan.cells[name].spike_count(states[name])) is not None:
            counts[name] = told
        elif behind:
            counts[name] = states[behind].received
    return counts


def pooled_times(cell: MaxPoolCell, times: tf.Tensor, timesteps: int) -> tf.Tensor:
    """First spike times behind a max pooling, from those before it (0: none)."""
    left = signed_max_pool(cell.pool, tf.where(times > 0, timesteps + 1 - times, 0), cell.sign)
    return tf.where(left > 0, timesteps + 1 - left, 0)
