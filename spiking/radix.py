"""Few spikes, the digits of a number: layer after layer in windows of K steps, equal to the ANN with 2^K − 1 levels.

After Stöckl & Maass (2021, Optimized spiking neurons can classify images with high accuracy through temporal coding
with two spikes, Nature Machine Intelligence 3, 230–238): few-spikes neurons with the ReLU's tables T = h = d, each half
the one before; known as radix coding and as bit planes, too. A neuron sends the binary digits of its activation, the
highest first: the step in which a spike comes says what it is worth. So K steps say as much as 2^K − 1 steps of
`ttfs_exact`, which it equals level for level.

Potentials are in units of the step Δ = θ/N, N = 2^K − 1. The clock-driven cells are the reference; `simulate` is the
closed form of `spiking.windows`, one synapse per layer on levels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import keras
import tensorflow as tf

from spiking import windows
from spiking.cells import PACKAGE, signed_max_pool, spike
from spiking.checks import check_timesteps, check_whole

MOST_DIGITS = 24  # float32 holds no larger whole number exactly


class Digits(windows.Spelling):
    """Level n is its K binary digits, the highest first: a spike at step k = 0, 1, … is worth 2^(K−1−k)."""

    def highest(self, steps):
        return 2**steps - 1

    def worth(self, k: tf.Tensor, steps: int, dtype, power: int = 1) -> tf.Tensor:
        """2^(K−1−k), or its power, ½ behind the last digit; from a table, because powers and quotients may round."""
        table = tf.constant([2.0 ** (power * (steps - 1 - each)) for each in range(steps + 1)], dtype)
        return tf.gather(table, tf.cast(k, tf.int32))

    def spikes(self, levels, k, steps):
        return tf.math.floormod(tf.floor(levels * self.worth(k, steps, levels.dtype, -1)), 2)

    def count(self, levels, steps):
        return tf.add_n([self.spikes(levels, tf.constant(k), steps) for k in range(steps)])

    def first(self, levels, steps):
        smaller = [tf.cast(levels < 2.0**digit, levels.dtype) for digit in range(steps)]  # digits above the first 1
        return tf.where(levels > 0, 1 + tf.add_n(smaller), 0)

    def said(self, levels, k, steps):
        unit = 2 * self.worth(k, steps, levels.dtype)  # 1 more than what the digits to come add up to
        return tf.floor(levels * (0.5 * self.worth(k, steps, levels.dtype, -1))) * unit

    def flows(self, k, steps):
        return tf.constant(True)  # Σ 2^(K−1−k) = N

    def flowed(self, k, steps):
        return (2.0**steps - 2 * self.worth(k, steps, "float64")) / self.highest(steps)


SPELLING = Digits()


class NeuronState(NamedTuple):
    """`potential`: V in units of Δ, `(batch, …)`; `time`: steps so far, `(batch, 1, …)`."""

    potential: tf.Tensor
    time: tf.Tensor


class PoolState(NamedTuple):
    """`received`: c `(batch, *map)`; `passed`: m `(batch, *pooled)`; `time`: steps so far, `(batch, 1, …)`."""

    received: tf.Tensor
    passed: tf.Tensor
    time: tf.Tensor


class DigitCell(windows.WindowCell):
    """Cells that read digits: a spike at step k = 0 … K−1 of its window is worth 2^(K−1−k), whichever window it is."""

    spelling = SPELLING

    def worth(self, time: tf.Tensor) -> tf.Tensor:
        """2^(K−1−k) in the step behind so many."""
        return SPELLING.worth(tf.math.floormod(time, self.timesteps), self.timesteps, self.compute_dtype)

    def integrated(self, current, state):
        """V ← V + 2^(K−1−k)·W∗x."""
        potential = state.potential + self.worth(state.time) * current
        return state._replace(potential=potential, time=state.time + 1)


@keras.saving.register_keras_serializable(f"{PACKAGE}.radix")
class LifNeuronCell(DigitCell, windows.WindowNeuronCell):
    """Neurons that integrate until their window opens, and send the digits of what they have in it.

        V ← V + h·W∗x/θ,   V(0) = bN/θ,   h = 2^(K−1−k) at step k = 0 … K−1 of any window
        own window:   V ← [V > cN/θ]·(u(V) + ½) at its opening,   s = [V ≥ h],   V ← V − s·h

    where x are the spikes of this step and V the membrane potential in units of Δ = θ/N, N = 2^K − 1; all of shape
    `(batch, *neurons)`. So the receiver integrates the level clip(⌊u + ½⌋, 0, N), u as of
    `spiking.windows.WindowNeuronCell`, `timesteps` being K.
    """

    State = NeuronState

    def step(self, current, state):
        height, k = self.worth(state.time), state.time - self.window * self.timesteps
        state = self.integrated(current, state)
        opened = tf.where(self.above_clamp(state.potential), self.sent(state.potential) + 0.5, 0)
        potential = tf.where(tf.equal(k, 0), opened, state.potential)
        spikes = spike(potential, height) * tf.cast((k >= 0) & (k < self.timesteps), potential.dtype)
        return spikes, state._replace(potential=potential - spikes * height)


@keras.saving.register_keras_serializable(f"{PACKAGE}.radix")
class LifNeuronCellConv2D(LifNeuronCell):
    """`LifNeuronCell` on feature maps (rows, columns, channels)."""

    neuron_rank = 3


@keras.saving.register_keras_serializable(f"{PACKAGE}.radix")
class LifNeuronCellMaxPool2D(windows.WindowPoolCell):
    """The digits of the largest level among several positions, sent as they come in; the smallest for `sign` −1.

        c ← 2c + x from 0 at every window's opening,   m = max of c,   output m − 2·m_before

    which is 0 or 1, because numbers are compared from the highest digit down: the largest one so far stays among the
    largest. Args: as of `spiking.cells.PoolCell`, and K = `timesteps`.
    """

    State = PoolState

    def __init__(self, synapse=(), timesteps: int = 6, **kwargs):
        super().__init__(synapse, **kwargs)
        self.timesteps = check_timesteps(timesteps)

    def get_initial_state(self, batch_size):
        clock = self.filled(batch_size, shape=(1,) * len(self.current_shape))
        return PoolState(self.filled(batch_size), self.filled(batch_size, shape=self.pooled_shape), clock)

    def step(self, current, state):
        doubled = 2 * tf.cast(tf.math.floormod(state.time, self.timesteps) != 0, current.dtype)
        received = doubled * state.received + current
        passed = signed_max_pool(self.pool, received, self.sign)
        doubled = tf.reshape(doubled, (-1, *(1 for _ in self.pooled_shape)))  # a global pooling has fewer axes
        return passed - doubled * state.passed, PoolState(received, passed, state.time + 1)

    def get_config(self):
        return {**super().get_config(), "timesteps": self.timesteps}


@keras.saving.register_keras_serializable(f"{PACKAGE}.radix")
class IntegratorNeuronCell(DigitCell, windows.WindowIntegratorCell):
    """The read-out: integrates all windows, in the ANN's units when the last of its inputs' closes.

        V ← V + 2^(K−1−k)·W∗x,   V(0) = bN,   output = activation(V/N)

    Args: as of `spiking.windows.WindowIntegratorCell`.
    """

    State = NeuronState


@keras.saving.register_keras_serializable(f"{PACKAGE}.radix")
class WindowInput(windows.WindowInput):
    """The image in window 0: a current that is on for K steps, or the pixels' digits, at K = 8 all 8 bits of them."""

    spelling = SPELLING


@keras.saving.register_keras_serializable(f"{PACKAGE}.radix")
@dataclass(frozen=True)
class Radix(windows.WindowEncoding):
    """Windows of K = `timesteps` steps, 2^K − 1 levels. `input_coding`: "current" or "spikes"."""

    timesteps: int = 6

    name = "radix"
    summary = "binary digits, windows of K steps for 2^K − 1 levels; few spikes a neuron, accurate at any depth"
    neuron = LifNeuronCell
    neuron_conv2d = LifNeuronCellConv2D
    max_pool = LifNeuronCellMaxPool2D
    integrator = IntegratorNeuronCell
    tells_by = "pattern"
    spelling = SPELLING
    window_input = WindowInput

    def __post_init__(self):
        super().__post_init__()
        check_whole("timesteps", self.timesteps, 1, MOST_DIGITS, "They are binary digits of one number; take about 6.")

    def pools(self):
        return {"timesteps": self.timesteps}

    def finer(self, factor):
        return min(self.timesteps + math.ceil(math.log2(factor)), MOST_DIGITS)


ENCODING = Radix()
