"""Time to first spike, exact: layer after layer in windows of N steps, equal to the ANN quantised to N levels.

After Stanojevic, Woźniak, Bellec, Cherubini, Pantazi & Gerstner (2023, Neural Networks 168; 2024, Nature Communications
15), the variant in which firing is gated until the window opens and the weights stay the ANN's. A neuron decides only
when all its inputs have arrived, so nothing is lost with depth; what remains is the rounding of spike times to steps.

Potentials are in units of the step Δ = θ/N. The clock-driven cells are the reference; `simulate` is the closed form,
one synapse per layer on *levels* n = N − k, where k is the step of the spike in its window and n = 0 means silent.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from spiking.cells import PACKAGE, MaxPoolCell, SpikingCell, signed_max_pool, spike, traced_once
from spiking.checks import check_choice, check_threshold, check_timesteps
from spiking.encoding import Encoding
from spiking.network.clock import FIRST_SPIKE_TIMES, RASTERS, READOUTS, SPIKE_COUNTS, Simulation
from spiking.network.inputs import SpikingInput

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
    """Base of the cells that read their inputs in the window before their own.

    Args:
        timesteps: N, steps of one window.
        window: number of the own window; the input has number 0. The inputs arrive in window − 1.
    """

    def __init__(self, synapse=(), timesteps: int = 32, window: int = 1, **kwargs):
        super().__init__(synapse, **kwargs)
        self.timesteps = check_timesteps(timesteps)
        self.window = int(window)

    current = SpikingCell.synapse  # the bias is in the initial potential

    def bias_in_steps(self, threshold: float) -> tf.Tensor | float:
        """b in units of Δ."""
        return 0.0 if self.bias is None else tf.convert_to_tensor(self.bias) * (self.timesteps / threshold)

    def integrate(self, current, state, time, window):
        """g and V after a step in which inputs count only while their window is open."""
        opened = tf.cast((time > window * self.timesteps) & (time <= (window + 1) * self.timesteps), current.dtype)
        current = opened * (state.current + current)
        return current, state.potential + current

    def get_config(self):
        return {**super().get_config(), "timesteps": self.timesteps, "window": self.window}


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_exact")
class LifNeuronCell(WindowCell):
    """Neurons that integrate in one window and fire in the next.

        while the inputs' window is open:   g ← g + W∗x/θ,   V ← V + g,   V(0) = bN/θ
        at step k = 0 … N−1 of the own window:   s = [V + k ≥ N − ½]·[has not fired]·[V > cN/θ]

    where x are the spikes of this step, V the membrane potential in units of Δ = θ/N and k the ramp; all of shape
    `(batch, *neurons)`. So the spike comes at k = clip(⌈N − ½ − V⌉, 0, N), N meaning never, and what the receiver
    integrates is the level N − k = clip(⌊V + ½⌋, 0, N).

    Args:
        threshold: θ.
        clamp: c, activations up to here are silent (ReLU's `threshold`): None, or one value per channel.
    """

    State = NeuronState

    def __init__(self, synapse=(), threshold: float = 1.0, clamp=None, **kwargs):
        super().__init__(synapse, **kwargs)
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
        current, potential = self.integrate(current, state, time, self.window - 1)
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
        return {**super().get_config(), "threshold": self.threshold, "clamp": self.clamp}


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
    """The read-out: integrates the last window, in the ANN's units when that closes.

        while the inputs' window is open:   g ← g + W∗x,   V ← V + g,   V(0) = bN,   output = activation(V/N)

    Args:
        activation: the ANN's last activation, a Keras name; "linear" for none.
        window: number of the window it reads.
    """

    State = IntegratorState

    def __init__(self, synapse=(), activation="linear", **kwargs):
        super().__init__(synapse, **kwargs)
        self.activation = keras.activations.get(activation)

    def get_initial_state(self, batch_size):
        clock = self.filled(batch_size, shape=(1,) * len(self.current_shape))
        return IntegratorState(self.filled(batch_size), self.filled(batch_size, self.bias_in_steps(1.0)), clock)

    def step(self, current, state):
        time = state.time + 1
        current, potential = self.integrate(current, state, time, self.window)
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


def simulate(layers, images, record=(), training=False) -> Simulation:
    """The closed form: one synapse per layer on levels; the number of time steps costs nothing.

    Args, Returns: as `simulation.simulate_clock`.
    """
    source, cells = layers[0], [layer.cell for layer in layers[1:]]
    *hidden, integrator = cells
    levels = source.levels(source.preprocess(images))
    per_layer = []
    for cell in hidden:
        levels = cell.levels(levels)
        per_layer.append(levels)
    result = Simulation(integrator.scores(levels))
    times = [spike_times(n, window, integrator.timesteps) for n, window in zip(per_layer, windows(hidden), strict=True)]
    if SPIKE_COUNTS in record:
        result = result._replace(spike_counts=tuple(tf.cast(n > 0, n.dtype) for n in per_layer))
    if FIRST_SPIKE_TIMES in record:
        result = result._replace(first_spike_times=tuple(times))
    if RASTERS in record:
        result = result._replace(rasters=tuple(raster(each, source.timesteps) for each in times))
    if READOUTS in record:
        result = result._replace(readouts=readouts(integrator, levels, source.timesteps))
    return result


def windows(hidden) -> list[int]:
    """The window in which each hidden layer emits: pooling passes spikes on in the window of their neurons."""
    numbers, window = [], 0
    for cell in hidden:
        window = cell.window if isinstance(cell, WindowCell) else window
        numbers.append(window)
    return numbers


def spike_times(levels: tf.Tensor, window: int, timesteps: int) -> tf.Tensor:
    """Global time steps (from 1) of spikes of these levels, 0 for silent neurons."""
    return tf.where(levels > 0, (window + 1) * timesteps + 1 - levels, 0)


def raster(times: tf.Tensor, timesteps: int) -> tf.Tensor:
    """Spikes step by step, `(timesteps, batch, …)`, from first spike times."""
    steps = tf.reshape(tf.range(1, timesteps + 1, dtype=times.dtype), [-1] + [1] * times.shape.rank)
    return tf.cast(times[None] == steps, times.dtype)


def readouts(integrator: IntegratorNeuronCell, levels: tf.Tensor, timesteps: int) -> tf.Tensor:
    """The output after every step: what has been integrated of each spike by then, `(timesteps, batch, classes)`."""

    def at(t):  # steps of the last window that are over after step t
        over = tf.clip_by_value(t - integrator.window * integrator.timesteps, 0, integrator.timesteps)
        late = integrator.timesteps - tf.cast(over, levels.dtype)
        return integrator.scores(tf.maximum(levels - late, 0))

    return tf.map_fn(at, tf.range(1, timesteps + 1), fn_output_signature=levels.dtype)


def activity(counts, times, settings):
    """The level of the spike in units of λ: (N − k)θ/N, 0 for silent neurons."""
    steps = settings["timesteps"]
    return tf.where(times > 0, (steps - tf.math.floormod(times - 1, steps)) * (settings["threshold"] / steps), 0)


ENCODING = Encoding(
    name="ttfs_exact",
    summary="time to first spike, windows of N steps; at most one spike a neuron, the ANN's accuracy at any depth",
    timesteps=32,
    threshold=1.0,
    options={"input_coding": "current"},
    normalisation="mse",
    per_channel=True,
    rounding_levels=lambda settings: settings["timesteps"],
    clamp_options=lambda clamp: {"clamp": clamp},
    neuron=LifNeuronCell,
    neuron_conv2d=LifNeuronCellConv2D,
    max_pool=LifNeuronCellMaxPool2D,
    integrator=IntegratorNeuronCell,
    input_layer=lambda settings, depth, preprocessing, input_maximum: WindowInput(
        timesteps=check_timesteps(settings["timesteps"], depth + 1) * (depth + 1),
        preprocessing=preprocessing,
        window_steps=settings["timesteps"],
        coding=settings["input_coding"],
        scale=input_maximum,
        name="input_spikes",
    ),
    neuron_options=lambda settings, index: {
        "timesteps": settings["timesteps"],
        "threshold": settings["threshold"],
        "window": index + 1,
    },
    integrator_options=lambda settings, depth: {"timesteps": settings["timesteps"], "window": depth},
    spike_value=lambda settings: settings["threshold"],
    input_value=lambda settings, input_maximum: input_maximum if settings["input_coding"] == "spikes" else 1.0,
    signed_input=lambda settings: settings["input_coding"] == "current",
    activity=activity,
    simulate=simulate,
)
