"""Rate code: a neuron's activity is its number of spikes.

Rueckauer, Lungu, Hu, Pfeiffer & Liu (2017), Conversion of continuous-valued deep networks to efficient event-driven
networks for image classification, eqs. 2 to 5. Negative spikes that take back what was sent too early: Wang, Zhang,
Chen & Qu (2022), Signed neuron with memory: towards simple, accurate and high-efficient ANN-SNN conversion, IJCAI.
Several spikes a step: Li & Zeng (2022), Efficient and accurate conversion of spiking neural network with burst spikes,
IJCAI.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import keras
import tensorflow as tf

from spiking.cells import (
    PACKAGE,
    ClosedForm,
    MaxPoolCell,
    SpikingCell,
    activation_of,
    decay,
    spike,
    traced_once,
)
from spiking.checks import check_choice, check_threshold, check_whole
from spiking.encoding import Encoding
from spiking.network.clock import simulate
from spiking.network.inputs import ConstantCurrent, PoissonSpikes
from spiking.network.layers import Relay

RESETS = ("subtract", "zero")
INPUT_CODINGS = ("current", "poisson")
NEURON = ("tau", "reset", "initial_potential", "signed", "max_spikes")  # settings of the neurons beside the threshold


class NeuronState(NamedTuple):
    """`potential`: membrane potential V, `(batch, …)`."""

    potential: tf.Tensor


class SignedState(NamedTuple):
    """`potential`: membrane potential V; `least`: −n, where n is what was sent so far; both `(batch, …)`."""

    potential: tf.Tensor
    least: tf.Tensor


class IntegratorState(NamedTuple):
    """`potential`: V, `(batch, classes)`; `time`: steps so far, `(batch, 1, …)`."""

    potential: tf.Tensor
    time: tf.Tensor


def counts_and_times(cell, current, state, timesteps):
    """count = clip(⌊(zT + V(0))/θ⌋, 0, ΓT), first spike at ⌈(θ − V(0))/z⌉ under a constant current z."""
    counts = tf.floor((current * timesteps + state.potential) / cell.threshold)
    counts = tf.clip_by_value(counts, 0.0, float(cell.max_spikes * timesteps))
    times = tf.math.ceil((cell.threshold - state.potential) / current)
    return counts, tf.where(counts > 0, tf.clip_by_value(times, 1.0, float(timesteps)), 0)


@traced_once
def several_spikes(potential: tf.Tensor, least, most) -> tf.Tensor:
    """max(clip(⌊V⌋, −1, most), least), with the surrogate derivative of `spike` at the nearest of the thresholds.

    Args:
        potential: V in units of θ, any shape; the thresholds are max(least, −1) + 1, …, most.
        least: the fewest spikes, at most 0; a number or a tensor that broadcasts to V.
        most: the most spikes, a number.
    """

    def gradient(upstream):
        nearest = tf.clip_by_value(tf.round(potential), tf.maximum(least, -1) + 1, most)
        return upstream / tf.square(1 + tf.abs(potential - nearest)), None, None

    return tf.maximum(tf.clip_by_value(tf.floor(potential), -1, most), least), gradient


@keras.saving.register_keras_serializable(f"{PACKAGE}.rate")
class LifNeuronCell(SpikingCell):
    """Leaky integrate-and-fire neurons.

        V ← αV + I,   s = [V ≥ θ],   V ← V − θs   (reset="subtract")   or   V ← (1 − s)V   (reset="zero")

    where V is the membrane potential, I = W∗x + b the current of this time step, s the spikes, all of shape
    `(batch, *neurons)`; α = exp(−1/τ) is the leak in one step (1 for τ = ∞). With Γ spikes a step, and negative ones,

        s = clip(⌊V/θ⌋, −[n > 0], Γ),   V ← V − θs,   n ← n + s,

    where n is what the neuron has sent so far: where V < 0, one spike is taken back, but never more than were sent.

    Args:
        threshold: θ.
        tau: τ, membrane time constant in time steps.
        reset: "subtract" keeps the rest of the potential, "zero" throws it away (and with it accuracy).
        initial_potential: V(0) in units of θ; 0.5 turns the rounding down of spike counts into rounding to nearest.
        signed: whether there are negative spikes.
        max_spikes: Γ, the most spikes in one time step.
    """

    State = NeuronState
    closed_form = ClosedForm(lambda cell: cell.alpha == 1 and cell.reset == "subtract", counts_and_times)

    def __init__(
        self,
        synapse=(),
        threshold=1.0,
        tau=float("inf"),
        reset="subtract",
        initial_potential=0.0,
        signed=False,
        max_spikes=1,
        **kwargs,
    ):
        super().__init__(synapse, **kwargs)
        if not 0 <= initial_potential < 1:
            raise ValueError(
                "initial_potential is V(0) in units of the threshold and must lie in [0, 1). "
                f"Received: initial_potential={initial_potential}"
            )
        self.threshold = check_threshold(threshold)
        self.tau = float(tau)
        self.alpha = decay(tau)
        self.reset = check_choice("reset", reset, RESETS)
        self.initial_potential = float(initial_potential)
        self.signed = bool(check_choice("signed", signed, (False, True)))
        self.max_spikes = check_whole("max_spikes", max_spikes, 1)
        if (self.signed or self.max_spikes > 1) and reset != "subtract":
            raise ValueError(
                "Negative spikes, and several a step, take their number of thresholds off the potential. Received: "
                f"signed={signed} and max_spikes={max_spikes} with reset={reset!r}. Take reset='subtract'."
            )
        if self.signed:
            self.State = SignedState

    @property
    def takes_back(self):
        return self.signed

    def get_initial_state(self, batch_size):
        potential = self.filled(batch_size, self.initial_potential * self.threshold)
        return SignedState(potential, self.filled(batch_size)) if self.signed else NeuronState(potential)

    def spike_count(self, state):
        return -state.least if self.signed else None

    def spikes(self, potential, state):
        """What the neurons send at a potential."""
        if not self.signed and self.max_spikes == 1:
            return spike(potential, self.threshold)
        levels = potential if self.threshold == 1 else potential / self.threshold
        return several_spikes(levels, state.least if self.signed else 0, self.max_spikes)

    def step(self, current, state):
        kept = state.potential if self.alpha == 1 else self.alpha * state.potential
        potential = kept + current
        spikes = self.spikes(potential, state)
        if self.reset == "subtract":
            potential -= spikes if self.threshold == 1 else self.threshold * spikes
        else:
            potential *= 1 - spikes
        return spikes, SignedState(potential, state.least - spikes) if self.signed else NeuronState(potential)

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold, **{key: getattr(self, key) for key in NEURON}}


@keras.saving.register_keras_serializable(f"{PACKAGE}.rate")
class LifNeuronCellConv2D(LifNeuronCell):
    """`LifNeuronCell` on feature maps (rows, columns, channels)."""

    neuron_rank = 3


@keras.saving.register_keras_serializable(f"{PACKAGE}.rate")
class LifNeuronCellMaxPool2D(MaxPoolCell):
    """Max pooling that is exact on spike counts; see `MaxPoolCell`."""


@keras.saving.register_keras_serializable(f"{PACKAGE}.rate")
class IntegratorNeuronCell(SpikingCell):
    """The read-out: neurons that integrate and never fire.

        V ← V + I   (after the first `readout_delay` steps),   output = activation(V/(t − readout_delay))

    in the ANN's units at every step t, so the last one is the result.

    Args:
        activation: the ANN's last activation, a Keras name; "linear" for none.
        readout_delay: number of first steps to ignore, while the spikes have not come through yet.
    """

    State = IntegratorState

    def __init__(self, synapse=(), activation="linear", readout_delay: int = 0, **kwargs):
        super().__init__(synapse, **kwargs)
        self.activation = activation_of(activation)
        self.readout_delay = check_whole("readout_delay", readout_delay)

    def get_initial_state(self, batch_size):
        time = self.filled(batch_size, shape=(1,) * len(self.current_shape))
        return IntegratorState(self.filled(batch_size), time)

    def evidence(self, spikes, steps_left):
        return spikes

    def step(self, current, state):
        time = state.time + 1
        if self.readout_delay:
            current *= tf.cast(time > self.readout_delay, current.dtype)
        potential = state.potential + current
        output = self.activation(potential / tf.maximum(time - self.readout_delay, 1))
        return output, IntegratorState(potential, time)

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation, "readout_delay": self.readout_delay}


def classic() -> dict:
    """The settings of Rueckauer et al. (2017), for `convert_ann_to_snn(ann, images, "rate", **classic())`.

    Spike counts are rounded down and all time steps are read out. On the VGG-16 of docs/DEEP.md it loses 8 points at
    T = 64; the default loses 0.3 on 300 training images (docs/DEFAULTS.md).
    """
    return {"initial_potential": 0.0, "readout_delay": 0}


def low_latency(timesteps: int, signed: bool = False, max_spikes: int = 1) -> dict:
    """The settings for few time steps, for `convert_ann_to_snn(ann, images, "rate", T, **low_latency(T, signed=True))`.

    Neurons with negative spikes are read out from the first step on: best at T = 4 and 8, within 0.4 points of the
    best at 16 and 32 (1000 images); without them the read-out ignores the first half, in which the spikes of deep
    layers are still wrong. Measured on two
    networks of 14 layers, docs/DEEP.md: a loss near 1 point takes 32 steps of single spikes and 8 to 16 of signed ones.

    Args:
        timesteps: T.
        signed: whether the hardware can send negative spikes.
        max_spikes: the most spikes that it can send in one step.
    """
    delay = 0 if signed else timesteps // 2
    return {"initial_potential": 0.5, "signed": signed, "max_spikes": max_spikes, "readout_delay": delay}


@keras.saving.register_keras_serializable(f"{PACKAGE}.rate")
@dataclass(frozen=True)
class Rate(Encoding):
    """Spike counts. Settings beside time steps and threshold: as of the cells and input layers of this module.

    A neuron that may send `max_spikes` Γ in a step has full activity with all of them: each is worth θ/Γ.
    """

    timesteps: int = 64
    threshold: float = 1.0
    tau: float = math.inf
    reset: str = "subtract"
    initial_potential: float = 0.5
    readout_delay: int | None = None
    signed: bool = False
    max_spikes: int = 1
    input_coding: str = "current"
    max_rate: float = 1.0
    seed: int = 0

    name = "rate"
    summary = "spike counts; accurate at any depth, many spikes"
    neuron = LifNeuronCell
    neuron_conv2d = LifNeuronCellConv2D
    max_pool = LifNeuronCellMaxPool2D
    integrator = IntegratorNeuronCell
    relay = Relay
    tells_by = "count"
    per_channel = True  # 8.0 against 8.9 points lost by a VGG-16 at T = 64, 4.9 against 6.6 by another: docs/DEEP.md

    def __post_init__(self):
        check_choice("input_coding", self.input_coding, INPUT_CODINGS)
        check_whole("max_spikes", self.max_spikes, 1)
        super().__post_init__()
        if self.readout_delay is not None and self.readout_delay >= self.timesteps:
            raise ValueError(
                "readout_delay is the number of first steps that the read-out ignores and must lie in [0, timesteps). "
                f"Received: readout_delay={self.readout_delay} with timesteps={self.timesteps}"
            )

    def by_depth(self, depth):
        """Behind many layers the first spikes are late, so the read-out ignores the first steps; docs/DEFAULTS.md.
        Not with negative spikes, which take back what is wrong in them; docs/DEEP.md."""
        return {"readout_delay": 0 if self.signed else min(2 * max(depth - 4, 0), self.timesteps // 2)}

    def neurons(self, window):
        return {"threshold": self.spike_value, **{key: getattr(self, key) for key in NEURON}}

    def read_out(self, window):
        return {"readout_delay": self.readout_delay}

    def input_layer(self, timesteps, preprocessing=(), maximum=1.0, **keywords):
        if self.signed_input:
            return ConstantCurrent(timesteps, preprocessing, **keywords)
        own = {"max_rate": self.max_rate, "scale": maximum, "seed": self.seed}
        return PoissonSpikes(timesteps, preprocessing, **own, **keywords)

    @property
    def rounding_levels(self):
        rounds = self.initial_potential == 0.5 and self.reset == "subtract" and self.tau == math.inf
        return self.max_spikes * self.timesteps if rounds else None

    @property
    def spike_value(self):
        return self.threshold / self.max_spikes

    @property
    def spike_range(self):
        return -int(self.signed), self.max_spikes

    def input_value(self, maximum):
        return 1.0 if self.signed_input else maximum / self.max_rate

    @property
    def signed_input(self):
        return self.input_coding == "current"

    def activity(self, counts, times):
        return counts * (self.spike_value / self.timesteps)

    def simulate(self, plan, images, record=(), training=False):
        return simulate(plan, images, record, training)


ENCODING = Rate()
