"""Time to first spike: a neuron fires once at most, and the earlier the larger its activity.

Rueckauer & Liu (2018), Conversion of analog to spiking neural networks using sparse temporal coding, the base method.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import keras
import tensorflow as tf

from spiking.cells import PACKAGE, ClosedForm, MaxPoolCell, SpikingCell, activation_of, decay, spike
from spiking.checks import check_threshold
from spiking.encoding import Encoding
from spiking.network.clock import simulate
from spiking.network.inputs import SingleEvent
from spiking.network.layers import Relay


class NeuronState(NamedTuple):
    """`current`: synaptic current g; `potential`: V; `armed`: 1 until the neuron fires, then 0. Each `(batch, …)`."""

    current: tf.Tensor
    potential: tf.Tensor
    armed: tf.Tensor


class IntegratorState(NamedTuple):
    """`current`: g, `potential`: V, both `(batch, classes)`; `time`: steps so far, `(batch, 1, …)`."""

    current: tf.Tensor
    potential: tf.Tensor
    time: tf.Tensor


def initial_current(cell: SpikingCell, batch_size) -> tf.Tensor:
    """g(0) = b: the bias is a current that is on from the start."""
    return cell.filled(batch_size, 0.0 if cell.bias is None else cell.bias)


def counts_and_times(cell, current, state, timesteps):
    """t = ⌈θ/g⌉ under a constant current, which is in the state."""
    times = tf.math.ceil(cell.threshold / state.current)
    fires = (state.current > 0) & (times <= timesteps)
    return tf.cast(fires, times.dtype), tf.where(fires, times, 0)


CLOSED_FORM = ClosedForm(lambda cell: cell.alpha == 1, counts_and_times)


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs")
class LifNeuronCell(SpikingCell):
    """Neurons that fire once, on currents that stay on.

        g ← g + W∗x,   g(0) = b,   V ← αV + g,   s = [V ≥ θ]·[has not fired]

    where x are the spikes of this time step, g the current that is on so far, from the start that of the bias b, V the
    membrane potential, s the spikes, all of shape `(batch, *neurons)`; α = exp(−1/τ), 1 for τ = ∞. After its spike a
    neuron is silent for ever. In continuous time and without leak it fires at t_i = (θ + Σ w_ij t_j)/(Σ w_ij + b_i),
    the sums over the inputs j that came before t_i (Rueckauer & Liu 2018, eq. 4).

    A neuron decides on what has arrived so far: one that crosses its threshold before its late, negative inputs come
    stays wrong. So this code is not equal to the ReLU network, not even in continuous time, and its error grows with
    depth.

    Args:
        threshold: θ.
        tau: τ, membrane time constant in time steps.
    """

    State = NeuronState
    closed_form = CLOSED_FORM

    def __init__(self, synapse=(), threshold=1.0, tau=float("inf"), **kwargs):
        super().__init__(synapse, **kwargs)
        self.threshold = check_threshold(threshold)
        self.tau = float(tau)
        self.alpha = decay(tau)

    def get_initial_state(self, batch_size):
        return NeuronState(initial_current(self, batch_size), self.filled(batch_size), self.filled(batch_size, 1))

    current = SpikingCell.synapse

    def spike_count(self, state):
        return 1 - state.armed

    def step(self, current, state):
        return self.fire(current, state, self.threshold)

    def fire(self, current, state, threshold):
        """The step at a given threshold, a number or one value a neuron; `current` None if nothing arrives."""
        current = state.current if current is None else state.current + current
        potential = current + (state.potential if self.alpha == 1 else self.alpha * state.potential)
        spikes = spike(potential, threshold) * state.armed
        return spikes, NeuronState(current, potential, state.armed - spikes)

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold, "tau": self.tau}


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs")
class LifNeuronCellConv2D(LifNeuronCell):
    """`LifNeuronCell` on feature maps (rows, columns, channels)."""

    neuron_rank = 3


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs")
class LifNeuronCellMaxPool2D(MaxPoolCell):
    """The first spike of each window passes (the latest where `sign` is −1); see `MaxPoolCell`."""


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs")
class IntegratorNeuronCell(SpikingCell):
    """The read-out: neurons that integrate the currents and never fire.

        g ← g + W∗x,   g(0) = b,   V ← V + g,   output = activation(V/t)

    Good for ranking the classes; not in the ANN's units, because the spikes of a layer come late by the time its
    inputs took.

    Args:
        activation: the ANN's last activation, a Keras name; "linear" for none.
    """

    State = IntegratorState

    def __init__(self, synapse=(), activation="linear", **kwargs):
        super().__init__(synapse, **kwargs)
        self.activation = activation_of(activation)

    def get_initial_state(self, batch_size):
        time = self.filled(batch_size, shape=(1,) * len(self.current_shape))
        return IntegratorState(initial_current(self, batch_size), self.filled(batch_size), time)

    current = SpikingCell.synapse

    def evidence(self, spikes, steps_left):
        # A spike's current is part of V once for every step from then on.
        return spikes * steps_left

    def step(self, current, state):
        time = state.time + 1
        current = state.current if current is None else state.current + current
        potential = state.potential + current
        return self.activation(potential / time), IntegratorState(current, potential, time)

    def get_config(self):
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}


def classic() -> dict:
    """The settings that were the default until version 0.1, for `convert_ann_to_snn(ann, images, "ttfs", **classic())`.

    They hold for all three base codes. On LeNet-5 they lose several points more than the defaults, docs/DEFAULTS.md.
    """
    return {"threshold": 10.0, "norm_percentile": 99.9, "per_channel": False}


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs")
@dataclass(frozen=True)
class Ttfs(Encoding):
    """Time to first spike. Settings beside time steps and threshold: `tau`, as of the cells of this module.

    The threshold follows from the depth by default: T/θ = 4 + depth, where networks lose least, for all three base
    codes (docs/DEFAULTS.md). With less the last layers have not answered yet; with more neurons that should be silent
    fire late, and their currents come to matter.
    """

    timesteps: int = 120
    threshold: float | None = None
    tau: float = math.inf

    name = "ttfs"
    summary = "time to first spike, base method; at most one spike a neuron, loses accuracy with depth"
    neuron = LifNeuronCell
    neuron_conv2d = LifNeuronCellConv2D
    max_pool = LifNeuronCellMaxPool2D
    integrator = IntegratorNeuronCell
    relay = Relay
    tells_by = "time"
    norm_percentile = 99.0
    per_channel = True
    event = SingleEvent

    def by_depth(self, depth):
        return {"threshold": self.timesteps / (4.0 + depth)}

    def neurons(self, window):
        return {"threshold": self.threshold, "tau": self.tau}

    def read_out(self, window):
        return {}

    def input_layer(self, timesteps, preprocessing=(), maximum=1.0, **keywords):
        return self.event(timesteps, preprocessing, **keywords)

    def activity(self, counts, times):
        """The share of the simulation during which the receiver was supplied: (T − t + 1)/T, 0 for silent neurons."""
        return tf.where(times > 0, (self.timesteps + 1 - times) / self.timesteps, 0)

    def remarks(self, depth):
        """A layer takes about θ steps to its threshold, so T/θ layers is all there is time for. At twice the T/θ that
        loses least, points are lost to what fires late (docs/DEFAULTS.md)."""
        reach, best = self.timesteps / self.threshold, 4.0 + depth
        if depth <= reach <= 2 * best:
            return []
        if reach > best:
            return [
                f"threshold={self.threshold:g} at timesteps={self.timesteps}: {depth} layers of neurons lose least at "
                f"a threshold of {self.timesteps / best:.3g}; with one so low, neurons that should be silent fire: "
                f"take threshold=None, which follows from the steps, or about {self.threshold * best:.3g} time steps."
            ]
        return [
            f"{depth} layers of neurons need about threshold={self.threshold:g} time steps each, but "
            f"timesteps={self.timesteps} is enough for {reach:.0f}: the last layers will stay silent. Take more time "
            "steps, a lower threshold, or another encoding."
        ]

    def simulate(self, plan, images, record=(), training=False):
        return simulate(plan, images, record, training)


ENCODING = Ttfs()
