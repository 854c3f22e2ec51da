"""Codes whose layers take turns: each waits for its inputs, and then speaks in a window of its own.

What a neuron says in its window is a *level* n = 0, 1, …, N, the activation rounded; a code spells it in spikes
(`Spelling`). Everything that depends on levels alone stands here once: what neurons make of their potential, pooling,
the closed form with one synapse per layer, and what is recorded of it. Potentials are in units of the step Δ = θ/N.
"""

import abc
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from spiking.cells import ActiveCell, PoolCell, SpikingCell, activation_of, signed_max_pool, traced_once
from spiking.checks import check_choice, check_threshold, check_timesteps
from spiking.encoding import Encoding
from spiking.network.inputs import SpikingInput
from spiking.network.layers import Relay
from spiking.network.records import (
    ACTIVITIES,
    FIRST_SPIKE_TIMES,
    RASTERS,
    READOUTS,
    SPIKE_COUNTS,
    Simulation,
)

INPUT_CODINGS = ("current", "spikes")


class Spelling(abc.ABC):
    """How a level is said by spikes in the steps k = 0, 1, … of one window; arrays of levels have any shape."""

    @abc.abstractmethod
    def highest(self, steps: int) -> int:
        """N, the highest level that so many steps can say."""

    @abc.abstractmethod
    def spikes(self, levels: tf.Tensor, k: tf.Tensor, steps: int) -> tf.Tensor:
        """What is sent in step k, 0 or 1; `k` whole numbers that broadcast to the levels."""

    @abc.abstractmethod
    def count(self, levels: tf.Tensor, steps: int) -> tf.Tensor:
        """Number of spikes."""

    @abc.abstractmethod
    def first(self, levels: tf.Tensor, steps: int) -> tf.Tensor:
        """Step of the first spike, from 1; 0 for none."""

    @abc.abstractmethod
    def said(self, levels: tf.Tensor, k: tf.Tensor, steps: int) -> tf.Tensor:
        """What the receiver has integrated of the levels after k steps."""

    @abc.abstractmethod
    def flows(self, k: tf.Tensor, steps: int) -> tf.Tensor:
        """Whether a constant input must be sent in step k to be worth N by the window's end."""

    @abc.abstractmethod
    def flowed(self, k: tf.Tensor, steps: int) -> tf.Tensor:
        """Share of a constant input that has been integrated after k steps, a float."""


@traced_once
def straight_through_floor(x: tf.Tensor) -> tf.Tensor:
    """⌊x⌋, with the derivative of the identity."""
    return tf.floor(x), lambda upstream: upstream


class WindowCell(SpikingCell):
    """Base of the cells that read their inputs in windows.

    Args:
        timesteps: steps of one window.

    Its `State` has the fields `potential`, V in units of Δ, `time`, steps so far, and others that begin at 0.
    """

    spelling: ClassVar[Spelling]
    threshold = 1.0

    def __init__(self, synapse=(), timesteps: int = 32, **kwargs):
        super().__init__(synapse, **kwargs)
        self.timesteps = check_timesteps(timesteps)

    current = SpikingCell.synapse  # the bias is in the initial potential

    @property
    def highest(self) -> int:
        """N, the highest level."""
        return self.spelling.highest(self.timesteps)

    def bias_in_steps(self) -> tf.Tensor | float:
        """b in units of Δ."""
        return 0.0 if self.bias is None else tf.convert_to_tensor(self.bias) * (self.highest / self.threshold)

    def get_initial_state(self, batch_size):
        state = self.State(*[self.filled(batch_size)] * len(self.State._fields))
        # One clock per neuron: a scalar clock would be cheaper, but RNN wants states with the batch as first axis.
        clock = self.filled(batch_size, shape=(1,) * len(self.current_shape))
        return state._replace(potential=self.filled(batch_size, self.bias_in_steps()), time=clock)

    def integrated(self, current, state):
        """The state after one more step, with what has arrived in it; nothing needs to know the senders' windows."""
        raise TypeError(f"{type(self).__name__} integrates nothing: use a cell of one of the encodings.")

    def get_config(self):
        return {**super().get_config(), "timesteps": self.timesteps}


class WindowNeuronCell(WindowCell, ActiveCell):
    """Neurons that integrate until their window opens, and say the level clip(⌊u(V) + ½⌋, 0, N) in it.

    u(V) = V; or, of neurons with an activation f of their own, (f(VΔ) − floor)/λΔ.

    Args:
        window: number of the own window, one more than the latest of the inputs'; the image has number 0.
        threshold: θ.
        clamp: c, activations up to here are silent (ReLU's `threshold`): None, or one value per channel.
        activation, floor, scale: f, its floor and λ, as of `spiking.cells.ActiveCell`.
    """

    def __init__(self, synapse=(), window: int = 1, threshold: float = 1.0, clamp=None, **kwargs):
        super().__init__(synapse, **kwargs)
        self.window = int(window)
        self.threshold = check_threshold(threshold)
        self.clamp = None if clamp is None else tuple(float(value) for value in clamp)

    def synapse(self, x):
        weighted = super().synapse(x)
        return weighted if self.threshold == 1 else weighted / self.threshold

    current = synapse

    def above_clamp(self, potential):
        """Whether the activation is larger than the clamp."""
        if self.clamp is None:
            return True
        return potential > tf.constant(self.clamp, potential.dtype) * (self.highest / self.threshold)

    def sent(self, potential: tf.Tensor) -> tf.Tensor:
        """u(V), in units of Δ, of a potential that is complete."""
        return self.own_activation(potential, self.threshold / self.highest)

    def levels(self, levels: tf.Tensor) -> tf.Tensor:
        """The closed form: the neurons' levels from those of their inputs."""
        if self.activation is not None:
            return self.level(self.sent(self.current(levels) + self.bias_in_steps()) + 0.5)
        half = self.bias_in_steps() + 0.5
        current = self.current(levels)
        if self.bias_kind == "vector":
            return self.level(tf.nn.bias_add(current, half))  # TensorFlow fuses kernel, bias and ReLU into one
        return self.level(current + half)

    def level(self, raised: tf.Tensor) -> tf.Tensor:
        """The level, from u + ½: clip(⌊u + ½⌋, 0, N), or 0 up to the clamp."""
        level = straight_through_floor(tf.minimum(tf.nn.relu(raised), float(self.highest)))
        if self.clamp is None:
            return level
        return level * tf.cast(self.above_clamp(raised - 0.5), level.dtype)

    def get_config(self):
        own = {key: getattr(self, key) for key in ("window", "threshold", "clamp")}
        return {**super().get_config(), **own}


class WindowPoolCell(PoolCell):
    """Max pooling whose spikes spell the largest level of each window of positions (the smallest for `sign` −1)."""

    def levels(self, levels):
        """The closed form."""
        return signed_max_pool(self.pool, self.synapse(levels), self.sign)


class WindowIntegratorCell(WindowCell):
    """The read-out: V(0) = bN, integrates all windows; its output, activation(V/N), is the ANN's after the last one.

    Args:
        activation: the ANN's last activation, a Keras name; "linear" for none.
    """

    def __init__(self, synapse=(), activation="linear", **kwargs):
        super().__init__(synapse, **kwargs)
        self.activation = activation_of(activation)

    def step(self, current, state):
        state = self.integrated(current, state)
        return self.output(state.potential), state

    def scores(self, levels: tf.Tensor) -> tf.Tensor:
        """The closed form: the output from the levels of the last layer."""
        return self.output(self.current(levels) + self.bias_in_steps())

    def output(self, potential: tf.Tensor) -> tf.Tensor:
        """activation(V/N); a product, because TensorFlow divides by a constant otherwise in a graph than outside."""
        return self.activation(potential * (1 / self.highest))

    def get_config(self):
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}


class WindowInput(SpikingInput):
    """The image in window 0, as a constant current or spelled in spikes.

    Args:
        timesteps: of all windows together.
        window_steps: steps of one window.
        coding: "current", or "spikes": a pixel says the level clip(⌊N·x/scale + ½⌋, 0, N).
        scale: intensity of level N.
    """

    spelling: ClassVar[Spelling]

    def __init__(self, timesteps, preprocessing=(), window_steps: int = 32, coding="current", scale=1.0, **kwargs):
        super().__init__(timesteps, preprocessing, **kwargs)
        self.window_steps = check_timesteps(window_steps)
        self.coding = check_choice("input_coding", coding, INPUT_CODINGS)
        self.scale = float(scale)

    def levels(self, image: tf.Tensor) -> tf.Tensor:
        """What the first layer integrates over the window: N·x, or the levels of the pixels."""
        highest = self.spelling.highest(self.window_steps)
        if self.coding == "current":
            return image * highest
        return tf.clip_by_value(tf.floor(image * (highest / self.scale) + 0.5), 0, highest)

    def at_step(self, image, t):
        if self.coding == "spikes":
            return window_spikes(self.spelling, self.levels(image), t, self.window_steps)
        return image * tf.cast((t < self.window_steps) & self.spelling.flows(t, self.window_steps), image.dtype)

    def get_config(self):
        own = {"window_steps": self.window_steps, "coding": self.coding, "scale": self.scale}
        return {**super().get_config(), **own}


def window_spikes(spelling: Spelling, levels: tf.Tensor, k: tf.Tensor, steps: int) -> tf.Tensor:
    """The spikes of step k after the opening of a window; none before that and behind its end."""
    inside = tf.cast((k >= 0) & (k < steps), levels.dtype)
    return spelling.spikes(levels, tf.clip_by_value(k, 0, steps - 1), steps) * inside


def windows(plan) -> dict[str, np.ndarray]:
    """Node -> the window in which it emits, one number or one per channel.

    What holds no neurons passes on in the windows of its sources, which stand side by side in a concatenation.
    """
    numbers = {}
    for name in plan.order:
        heard = [numbers[source] for source in plan.sources[name] if source in numbers]
        cell, relay = plan.cells.get(name), plan.relays.get(name)
        if isinstance(cell, WindowNeuronCell):
            numbers[name] = np.array(cell.window)
        elif relay is not None and relay.axis == len(relay.step_shape) and relay.passes_spikes:
            sizes = [shape[-1] for shape in relay.source_shapes]
            numbers[name] = np.concatenate([np.broadcast_to(n, size) for n, size in zip(heard, sizes, strict=True)])
        elif isinstance(cell, PoolCell):
            (numbers[name],) = heard
        else:
            numbers[name] = np.array(max((n.max() for n in heard), default=0))
    return numbers


def closed_form(plan, images, record, code: "WindowEncoding") -> Simulation:
    """One synapse per layer on levels; the number of time steps costs nothing.

    Args, Returns: as `spiking.network.clock.simulate`; `code`: of the network.
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
    return result._replace(**Records(plan, code, levels).kept(record)) if record else result


class Records:
    """What is recorded of levels.

    Args:
        plan: the network.
        code: its code.
        levels: node -> levels, `(batch, …)`.
    """

    def __init__(self, plan, code: "WindowEncoding", levels: dict[str, tf.Tensor]):
        self.plan, self.spelling, self.steps = plan, code.spelling, code.timesteps
        self.step = code.threshold / code.rounding_levels  # Δ
        self.every, self.levels = levels, {name: levels[name] for name in plan.hidden}
        self.numbers = windows(plan)

    def kept(self, record) -> dict:
        """The records asked for, by name."""
        each = {
            SPIKE_COUNTS: lambda name, n: self.spelling.count(n, self.steps),
            FIRST_SPIKE_TIMES: self.first_times,
            RASTERS: self.raster,
            ACTIVITIES: lambda name, n: n * self.step,
        }
        kept = {key: {name: each[key](name, n) for name, n in self.levels.items()} for key in record if key in each}
        return kept | ({READOUTS: self.plan.packed(self.readouts())} if READOUTS in record else {})

    def first_times(self, name: str, levels: tf.Tensor) -> tf.Tensor:
        """Global time steps (from 1) of the first spikes, 0 for silent neurons."""
        begin = tf.constant(self.numbers[name] * self.steps, levels.dtype)
        return tf.where(levels > 0, begin + self.spelling.first(levels, self.steps), 0)

    def raster(self, name: str, levels: tf.Tensor) -> tf.Tensor:
        """Spikes step by step, `(timesteps, batch, …)`."""
        t = tf.reshape(tf.range(self.plan.timesteps), [-1] + [1] * levels.shape.rank)
        k = t - tf.constant(self.numbers[name] * self.steps, tf.int32)
        return window_spikes(self.spelling, levels[None], k, self.steps)

    def arrived(self, name: str, t: tf.Tensor) -> tf.Tensor:
        """What a node has sent by step t, as levels."""
        if name in self.plan.relays:
            return self.plan.relays[name].join([self.arrived(source, t) for source in self.plan.sources[name]])
        k = tf.clip_by_value(t - tf.constant(self.numbers[name] * self.steps, tf.int32), 0, self.steps)
        levels = self.every[name]
        if name in self.plan.inputs and self.plan.inputs[name].coding == "current":
            return levels * tf.cast(self.spelling.flowed(k, self.steps), levels.dtype)
        return self.spelling.said(levels, k, self.steps)

    def readouts(self) -> dict[str, tf.Tensor]:
        """The outputs after every step, `(timesteps, batch, …)`: what has been integrated of each spike by then."""
        cells, sources = self.plan.cells, self.plan.sources

        def at(t):
            return {name: cells[name].scores(self.arrived(sources[name][0], t)) for name in self.plan.read_outs}

        signature = {name: tf.TensorSpec(None, cells[name].compute_dtype) for name in self.plan.read_outs}
        return tf.map_fn(at, tf.range(1, self.plan.timesteps + 1), fn_output_signature=signature)


@dataclass(frozen=True)
class WindowEncoding(Encoding):
    """A code in windows of `timesteps` steps. `input_coding`: as of `WindowInput`.

    Class attributes: `spelling` and `window_input`, the input layer.
    """

    timesteps: int
    threshold: float = 1.0
    input_coding: str = "current"

    relay = Relay
    normalisation, per_channel = "mse", True
    few_levels = 8  # a correction gains most there, and nothing that is sure above: docs/CALIBRATION.md
    spelling: ClassVar[Spelling]
    window_input: ClassVar[type[WindowInput]]

    def neurons(self, window):
        return {"timesteps": self.timesteps, "threshold": self.threshold, "window": window}

    def read_out(self, window):
        return {"timesteps": self.timesteps}

    def input_layer(self, timesteps, preprocessing=(), maximum=1.0, **keywords):
        own = {"window_steps": self.timesteps, "coding": self.input_coding, "scale": maximum}
        return self.window_input(timesteps, preprocessing, **own, **keywords)

    def total_timesteps(self, depth):
        return check_timesteps(self.timesteps, depth + 1) * (depth + 1)

    @property
    def rounding_levels(self):
        return self.spelling.highest(self.timesteps)

    def expressible(self, timesteps):
        """The levels 0, 1, …, N."""
        return np.arange(self.rounding_levels + 1) * (self.threshold / self.rounding_levels)

    def clamp(self, values):
        return {"clamp": values}

    def carries(self, activation):
        return True

    @property
    def spike_value(self):
        return self.threshold

    def input_value(self, maximum):
        return 1.0 if self.signed_input else maximum

    @property
    def signed_input(self):
        return self.input_coding == "current"

    def simulate(self, plan, images, record=(), training=False):
        return closed_form(plan, images, record, self)
