"""Time to first spike, exact: layer after layer in windows of N steps, equal to the ANN quantised to N levels.

After Stanojevic, Woźniak, Bellec, Cherubini, Pantazi & Gerstner (2023, Neural Networks 168; 2024, Nature Communications
15), the variant in which firing is gated until the window opens and the weights stay the ANN's. A neuron decides only
when all its inputs have arrived, so nothing is lost with depth; what remains is the rounding of spike times to steps.

Potentials are in units of the step Δ = θ/N. The clock-driven cells are the reference; `simulate` is the closed form,
one synapse per layer on *levels* n = N − k, where k is the step of the spike in its window and n = 0 means silent. What
holds of levels however they are spelled stands in `spiking.windows`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import keras
import tensorflow as tf

from spiking import windows
from spiking.cells import PACKAGE, MaxPoolCell, spike


class SingleSpike(windows.Spelling):
    """Level n is one spike, n steps before the window's end; a spike switches a current on, which stays until then."""

    def highest(self, steps):
        return steps

    def spikes(self, levels, k, steps):
        return tf.cast(tf.equal(levels, tf.cast(steps - k, levels.dtype)), levels.dtype)

    def count(self, levels, steps):
        return tf.cast(levels > 0, levels.dtype)

    def first(self, levels, steps):
        return tf.where(levels > 0, steps + 1 - levels, 0)

    def said(self, levels, k, steps):
        return tf.maximum(levels - tf.cast(steps - k, levels.dtype), 0)

    def flows(self, k, steps):
        return tf.equal(k, 0)  # switched on once, it is there for N steps

    def flowed(self, k, steps):
        return k / steps


SPELLING = SingleSpike()


class NeuronState(NamedTuple):
    """`current`: g; `potential`: V in units of Δ; `fired`: 1 after the spike; `time`: steps so far. `(batch, …)`."""

    current: tf.Tensor
    potential: tf.Tensor
    fired: tf.Tensor
    time: tf.Tensor


class IntegratorState(NamedTuple):
    """`current`: g, `potential`: V in units of Δ, both `(batch, classes)`; `time`: steps so far, `(batch, 1, …)`."""

    current: tf.Tensor
    potential: tf.Tensor
    time: tf.Tensor


class WindowCell(windows.WindowCell):
    """Cells that read time: a spike at step k of its window is worth N − k by that window's end, whichever it is.

    So the current is dropped at every window's end, and the potential never.
    """

    spelling = SPELLING

    def integrated(self, current, state):
        """g ← [not the first step of a window]·g + W∗x and V ← V + g."""
        goes_on = tf.cast(tf.math.floormod(state.time, self.timesteps) != 0, current.dtype)
        current = goes_on * state.current + current
        return state._replace(current=current, potential=state.potential + current, time=state.time + 1)


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class LifNeuronCell(WindowCell, windows.WindowNeuronCell):
    """Neurons that integrate until their window opens, and fire in it.

        g ← [not the first step of a window]·g + W∗x/θ,   V ← V + g,   V(0) = bN/θ
        at step k = 0 … N−1 of the own window:   s = [u(V) + k ≥ N − ½]·[has not fired]·[V > cN/θ]

    where x are the spikes of this step, V the membrane potential in units of Δ = θ/N, u(V) what the neuron makes of it
    (V itself, if it has no activation of its own) and k the ramp; all of shape `(batch, *neurons)`. So the spike comes
    at k = clip(⌈N − ½ − u⌉, 0, N), N meaning never, and what the receiver integrates is the level N − k =
    clip(⌊u + ½⌋, 0, N). Args: as of `spiking.windows.WindowNeuronCell`.
    """

    State = NeuronState

    def step(self, current, state):
        state = self.integrated(current, state)
        k = state.time - self.window * self.timesteps - 1
        may_fire = (k >= 0) & (k < self.timesteps) & self.above_clamp(state.potential)
        reached = spike(self.sent(state.potential) + k, self.timesteps - 0.5)
        spikes = reached * (1 - state.fired) * tf.cast(may_fire, reached.dtype)
        return spikes, state._replace(fired=state.fired + spikes)


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class LifNeuronCellConv2D(LifNeuronCell):
    """`LifNeuronCell` on feature maps (rows, columns, channels)."""

    neuron_rank = 3


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class LifNeuronCellMaxPool2D(MaxPoolCell, windows.WindowPoolCell):
    """The earliest spike of each window passes (the latest where `sign` is −1); see `MaxPoolCell`."""


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class IntegratorNeuronCell(WindowCell, windows.WindowIntegratorCell):
    """The read-out: integrates all windows, in the ANN's units when the last of its inputs' closes.

        g ← [not the first step of a window]·g + W∗x,   V ← V + g,   V(0) = bN,   output = activation(V/N)

    Args: as of `spiking.windows.WindowIntegratorCell`.
    """

    State = IntegratorState


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class WindowInput(windows.WindowInput):
    """The image in window 0: a current that is on for N steps, or one spike per pixel, at step N − n for level n."""

    spelling = SPELLING


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
@dataclass(frozen=True)
class TtfsExact(windows.WindowEncoding):
    """Windows of N = `timesteps` steps. `input_coding`: "current" or "spikes"."""

    timesteps: int = 32

    name = "ttfs_exact"
    summary = "time to first spike, windows of N steps; at most one spike a neuron, the ANN's accuracy at any depth"
    neuron = LifNeuronCell
    neuron_conv2d = LifNeuronCellConv2D
    max_pool = LifNeuronCellMaxPool2D
    integrator = IntegratorNeuronCell
    tells_by = "time"
    spelling = SPELLING
    window_input = WindowInput

    def activity(self, counts, times):
        """The level of the spike in units of λ: (N − k)θ/N, 0 for silent neurons."""
        steps = self.timesteps
        return tf.where(times > 0, (steps - tf.math.floormod(times - 1, steps)) * (self.threshold / steps), 0)


ENCODING = TtfsExact()
