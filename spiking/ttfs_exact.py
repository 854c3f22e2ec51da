"""Time to first spike, exact: layer after layer in windows of N steps, equal to the ANN quantised to N levels.

After Stanojevic, Woźniak, Bellec, Cherubini, Pantazi & Gerstner (2023, Neural Networks 168; 2024, Nature Communications
15), the variant in which firing is gated until the window opens and the weights stay the ANN's. A neuron decides only
when all its inputs have arrived, so nothing is lost with depth; what remains is the rounding of spike times to steps.

Potentials are in units of the step Δ = θ/N. The clock-driven cells are the reference; `simulate` is the closed form,
one synapse per layer on *levels* n = N − k, where k is the step of the spike in its window and n = 0 means silent.
"""

from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from spiking.cells import PACKAGE, MaxPoolCell, SpikingCell, activation_of, signed_max_pool, spike, traced_once
from spiking.checks import check_choice, check_threshold, check_timesteps
from spiking.encoding import Encoding
from spiking.network.inputs import SpikingInput
from spiking.network.layers import Relay
from spiking.network.records import FIRST_SPIKE_TIMES, RASTERS, READOUTS, SPIKE_COUNTS, Simulation

INPUT_CODINGS = ("current", "spikes")


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


@traced_once
def straight_through_floor(x: tf.Tensor) -> tf.Tensor:
    """⌊x⌋, with the derivative of the identity."""
    return tf.floor(x), lambda upstream: upstream


class WindowCell(SpikingCell):
    """Base of the cells that read their inputs in windows of N steps.

    A spike at step k of its own window is worth N − k by that window's end, whichever window it is: so the current is
    dropped at every window's end, and nothing needs to know the senders' windows.

    Args:
        timesteps: N, steps of one window.
    """

    def __init__(self, synapse=(), timesteps: int = 32, **kwargs):
        super().__init__(synapse, **kwargs)
        self.timesteps = check_timesteps(timesteps)

    current = SpikingCell.synapse  # the bias is in the initial potential

    def bias_in_steps(self, threshold: float) -> tf.Tensor | float:
        """b in units of Δ."""
        return 0.0 if self.bias is None else tf.convert_to_tensor(self.bias) * (self.timesteps / threshold)

    def integrate(self, current, state, time):
        """g ← [not the first step of a window]·g + W∗x and V ← V + g; `time` counts steps from 1."""
        goes_on = tf.cast(tf.math.floormod(time - 1, self.timesteps) != 0, current.dtype)
        current = goes_on * state.current + current
        return current, state.potential + current

    def get_config(self):
        return {**super().get_config(), "timesteps": self.timesteps}


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class LifNeuronCell(WindowCell):
    """Neurons that integrate until their window opens, and fire in it.

        g ← [not the first step of a window]·g + W∗x/θ,   V ← V + g,   V(0) = bN/θ
        at step k = 0 … N−1 of the own window:   s = [V + k ≥ N − ½]·[has not fired]·[V > cN/θ]

    where x are the spikes of this step, V the membrane potential in units of Δ = θ/N and k the ramp; all of shape
    `(batch, *neurons)`. So the spike comes at k = clip(⌈N − ½ − V⌉, 0, N), N meaning never, and what the receiver
    integrates is the level N − k = clip(⌊V + ½⌋, 0, N).

    Args:
        window: number of the own window, one more than the latest of the inputs'; the image has number 0.
        threshold: θ.
        clamp: c, activations up to here are silent (ReLU's `threshold`): None, or one value per channel.
    """

    State = NeuronState

    def __init__(self, synapse=(), window: int = 1, threshold: float = 1.0, clamp=None, **kwargs):
        super().__init__(synapse, **kwargs)
        self.window = int(window)
        self.threshold = check_threshold(threshold)
        self.clamp = None if clamp is None else tuple(float(value) for value in clamp)

    def get_initial_state(self, batch_size):
        potential = self.filled(batch_size, self.bias_in_steps(self.threshold))
        # One clock per neuron: a scalar clock would be cheaper, but RNN wants states with the batch as first axis.
        clock = self.filled(batch_size, shape=(1,) * len(self.current_shape))
        return NeuronState(self.filled(batch_size), potential, self.filled(batch_size), clock)

    def synapse(self, x):
        weighted = super().synapse(x)
        return weighted if self.threshold == 1 else weighted / self.threshold

    current = synapse

    def step(self, current, state):
        time = state.time + 1
        current, potential = self.integrate(current, state, time)
        k = time - self.window * self.timesteps - 1
        may_fire = (k >= 0) & (k < self.timesteps) & self.above_clamp(potential)
        spikes = spike(potential + k, self.timesteps - 0.5) * (1 - state.fired) * tf.cast(may_fire, potential.dtype)
        return spikes, NeuronState(current, potential, state.fired + spikes, time)

    def above_clamp(self, potential):
        """Whether the activation is larger than the clamp."""
        if self.clamp is None:
            return True
        return potential > tf.constant(self.clamp, potential.dtype) * (self.timesteps / self.threshold)

    def levels(self, levels: tf.Tensor) -> tf.Tensor:
        """The closed form: levels N − k of the neurons from those of their inputs, clip(⌊V + ½⌋, 0, N)."""
        half = self.bias_in_steps(self.threshold) + 0.5
        current = self.current(levels)
        if self.bias_kind == "vector":
            raised = tf.nn.bias_add(current, half)  # TensorFlow fuses kernel, bias and ReLU into one operation
        else:
            raised = current + half
        fired = straight_through_floor(tf.minimum(tf.nn.relu(raised), float(self.timesteps)))
        if self.clamp is None:
            return fired
        return fired * tf.cast(self.above_clamp(raised - 0.5), fired.dtype)

    def get_config(self):
        own = {key: getattr(self, key) for key in ("window", "threshold", "clamp")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class LifNeuronCellConv2D(LifNeuronCell):
    """`LifNeuronCell` on feature maps (rows, columns, channels)."""

    neuron_rank = 3


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class LifNeuronCellMaxPool2D(MaxPoolCell):
    """The earliest spike of each window passes (the latest where `sign` is −1); see `MaxPoolCell`."""

    def levels(self, levels):
        """The closed form: the largest level of each window."""
        return signed_max_pool(self.pool, self.synapse(levels), self.sign)


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class IntegratorNeuronCell(WindowCell):
    """The read-out: integrates all windows, in the ANN's units when the last of its inputs' closes.

        g ← [not the first step of a window]·g + W∗x,   V ← V + g,   V(0) = bN,   output = activation(V/N)

    Args:
        activation: the ANN's last activation, a Keras name; "linear" for none.
    """

    State = IntegratorState

    def __init__(self, synapse=(), activation="linear", **kwargs):
        super().__init__(synapse, **kwargs)
        self.activation = activation_of(activation)

    def get_initial_state(self, batch_size):
        clock = self.filled(batch_size, shape=(1,) * len(self.current_shape))
        return IntegratorState(self.filled(batch_size), self.filled(batch_size, self.bias_in_steps(1.0)), clock)

    def step(self, current, state):
        time = state.time + 1
        current, potential = self.integrate(current, state, time)
        return self.activation(potential / self.timesteps), IntegratorState(current, potential, time)

    def scores(self, levels: tf.Tensor) -> tf.Tensor:
        """The closed form: the output from the levels of the last layer."""
        return self.activation((self.current(levels) + self.bias_in_steps(1.0)) / self.timesteps)

    def get_config(self):
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class WindowInput(SpikingInput):
    """The image in window 0: a current that is on for N steps, or one spike per pixel.

    Args:
        timesteps: of all windows together.
        window_steps: N.
        coding: "current", or "spikes": a pixel of level n = clip(⌊N·x/scale + ½⌋, 0, N) fires at step N − n.
        scale: intensity of level N.
    """

    def __init__(self, timesteps, preprocessing=(), window_steps: int = 32, coding="current", scale=1.0, **kwargs):
        super().__init__(timesteps, preprocessing, **kwargs)
        self.window_steps = check_timesteps(window_steps)
        self.coding = check_choice("input_coding", coding, INPUT_CODINGS)
        self.scale = float(scale)

    def levels(self, image: tf.Tensor) -> tf.Tensor:
        """What the first layer integrates over the window: N·x, or the levels of the pixels' spikes."""
        if self.coding == "current":
            return image * self.window_steps
        return tf.clip_by_value(tf.floor(image * (self.window_steps / self.scale) + 0.5), 0, self.window_steps)

    def at_step(self, image, t):
        if self.coding == "spikes":
            fires = tf.equal(self.levels(image), tf.cast(self.window_steps - t, image.dtype)) & (t < self.window_steps)
            return tf.cast(fires, image.dtype)
        # The receiver's current g adds up what arrives and stays on: switched on once, it is there for N steps.
        return image * tf.cast(t == 0, image.dtype)

    def get_config(self):
        own = {"window_steps": self.window_steps, "coding": self.coding, "scale": self.scale}
        return {**super().get_config(), **own}


def closed_form(plan, images, record, steps: int) -> Simulation:
    """One synapse per layer on levels; the number of time steps costs nothing.

    Args, Returns: as `spiking.network.clock.simulate`; `steps`: N.
    """
    levels, outputs = {}, {}
    for name in plan.order:
        heard = [levels[source] for source in plan.sources[name] if source in levels]
        if name in plan.inputs:
            layer = plan.inputs[name]
            levels[name] = layer.levels(layer.preprocess(images[plan.sources[name][0]]))
        elif name in plan.relays:
            levels[name] = plan.relays[name].join(heard)
        elif name in plan.read_outs:
            outputs[name] = plan.cells[name].scores(*heard)
        else:
            levels[name] = plan.cells[name].levels(*heard)
    result = Simulation(plan.packed(outputs))
    if not record:
        return result
    numbers = windows(plan)
    hidden = {name: levels[name] for name in plan.hidden}
    times = {name: spike_times(n, numbers[name], steps) for name, n in hidden.items()}
    if SPIKE_COUNTS in record:
        result = result._replace(spike_counts={name: tf.cast(n > 0, n.dtype) for name, n in hidden.items()})
    if FIRST_SPIKE_TIMES in record:
        result = result._replace(first_spike_times=times)
    if RASTERS in record:
        result = result._replace(rasters={name: raster(each, plan.timesteps) for name, each in times.items()})
    if READOUTS in record:
        result = result._replace(readouts=plan.packed(readouts(plan, levels, numbers, steps)))
    return result


def windows(plan) -> dict[str, np.ndarray]:
    """Node -> the window in which it emits, one number or one per channel.

    What holds no neurons passes on in the windows of its sources, which stand side by side in a concatenation.
    """
    numbers = {}
    for name in plan.order:
        heard = [numbers[source] for source in plan.sources[name] if source in numbers]
        cell, relay = plan.cells.get(name), plan.relays.get(name)
        if isinstance(cell, LifNeuronCell):
            numbers[name] = np.array(cell.window)
        elif relay is not None and relay.axis == len(relay.step_shape) and relay.passes_spikes:
            sizes = [shape[-1] for shape in relay.source_shapes]
            numbers[name] = np.concatenate([np.broadcast_to(n, size) for n, size in zip(heard, sizes, strict=True)])
        elif isinstance(cell, MaxPoolCell):
            (numbers[name],) = heard
        else:
            numbers[name] = np.array(max((n.max() for n in heard), default=0))
    return numbers


def spike_times(levels: tf.Tensor, window: np.ndarray, timesteps: int) -> tf.Tensor:
    """Global time steps (from 1) of spikes of these levels, 0 for silent neurons."""
    return tf.where(levels > 0, tf.constant((window + 1) * timesteps + 1, levels.dtype) - levels, 0)


def raster(times: tf.Tensor, timesteps: int) -> tf.Tensor:
    """Spikes step by step, `(timesteps, batch, …)`, from first spike times."""
    steps = tf.reshape(tf.range(1, timesteps + 1, dtype=times.dtype), [-1] + [1] * times.shape.rank)
    return tf.cast(times[None] == steps, times.dtype)


def readouts(plan, levels: dict[str, tf.Tensor], numbers: dict[str, np.ndarray], steps: int) -> dict[str, tf.Tensor]:
    """The outputs after every step, `(timesteps, batch, …)`: what has been integrated of each spike by then."""

    def arrived(name, t):
        """What a node has sent by step t, as levels."""
        if name in plan.relays:
            return plan.relays[name].join([arrived(source, t) for source in plan.sources[name]])
        begin = tf.constant(numbers[name] * steps, tf.int32)
        over = tf.cast(tf.clip_by_value(t - begin, 0, steps), levels[name].dtype)  # steps of its window
        if name in plan.inputs and plan.inputs[name].coding == "current":
            return levels[name] * (over / steps)
        return tf.maximum(levels[name] - (steps - over), 0)

    def at(t):
        return {name: plan.cells[name].scores(arrived(plan.sources[name][0], t)) for name in plan.read_outs}

    signature = {name: tf.TensorSpec(None, plan.cells[name].compute_dtype) for name in plan.read_outs}
    return tf.map_fn(at, tf.range(1, plan.timesteps + 1), fn_output_signature=signature)


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
@dataclass(frozen=True)
class TtfsExact(Encoding):
    """Windows of N = `timesteps` steps. `input_coding`: as of `WindowInput`."""

    timesteps: int = 32
    threshold: float = 1.0
    input_coding: str = "current"

    name = "ttfs_exact"
    summary = "time to first spike, windows of N steps; at most one spike a neuron, the ANN's accuracy at any depth"
    neuron = LifNeuronCell
    neuron_conv2d = LifNeuronCellConv2D
    max_pool = LifNeuronCellMaxPool2D
    integrator = IntegratorNeuronCell
    relay = Relay
    tells_by = "time"
    normalisation = "mse"
    per_channel = True

    def neurons(self, window):
        return {"timesteps": self.timesteps, "threshold": self.threshold, "window": window}

    def read_out(self, window):
        return {"timesteps": self.timesteps}

    def input_layer(self, timesteps, preprocessing=(), maximum=1.0, **keywords):
        own = {"window_steps": self.timesteps, "coding": self.input_coding, "scale": maximum}
        return WindowInput(timesteps, preprocessing, **own, **keywords)

    def total_timesteps(self, depth):
        return check_timesteps(self.timesteps, depth + 1) * (depth + 1)

    @property
    def rounding_levels(self):
        return self.timesteps

    def clamp(self, values):
        return {"clamp": values}

    @property
    def spike_value(self):
        return self.threshold

    def input_value(self, maximum):
        return 1.0 if self.signed_input else maximum

    @property
    def signed_input(self):
        return self.input_coding == "current"

    def activity(self, counts, times):
        """The level of the spike in units of λ: (N − k)θ/N, 0 for silent neurons."""
        steps = self.timesteps
        return tf.where(times > 0, (steps - tf.math.floormod(times - 1, steps)) * (self.threshold / steps), 0)

    def simulate(self, plan, images, record=(), training=False):
        return closed_form(plan, images, record, self.timesteps)


ENCODING = TtfsExact()
