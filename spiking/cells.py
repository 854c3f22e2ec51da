"""The common cell: a linear synapse, then a neuron.

A cell is what `SpikingRNN` steps through time. It has two parts:

* `synapse(x)`: W∗x, a chain of linear Keras layers without bias, stateless;
* `step(current, state) -> (spikes, state)`: the neuron, pure. Everything that changes in time is in `state`.

The bias is a weight of the cell: a vector over the channels, or a map where zero padding makes it depend on the
position. `current(x)` is what enters `step`: W∗x + b, or W∗x in codes that keep the bias in their initial state. The
codes (`rate.py`, `ttfs.py`, …) supply `State`, `get_initial_state` and `step`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

PACKAGE = "spiking"  # under which Keras registers what is saved


def traced_once(function: Callable) -> Callable:
    """Decorator for functions as `tf.custom_gradient` takes them that work element by element.

    TensorFlow keeps every graph in which a custom gradient was traced as long as the process lives: traced in the graph
    of a network, it would keep that, too. So it gets a graph of its own, one for all shapes, whose nodes TensorFlow
    copies into the caller's.

    Args:
        function: `f(x, *others)`, tensors of one type; the result has the shape and type of `x`.
    """

    @functools.cache
    def traced(count: int, dtype: tf.DType) -> Callable:
        return tf.function(tf.custom_gradient(function), input_signature=[tf.TensorSpec(None, dtype)] * count)

    @functools.wraps(function)
    def call(x, *others):
        result = traced(1 + len(others), x.dtype)(x, *(tf.convert_to_tensor(other, x.dtype) for other in others))
        result.set_shape(x.shape)
        return result

    return call


@traced_once
def spike(potential: tf.Tensor, threshold) -> tf.Tensor:
    """1 where the membrane potential has reached the threshold, else 0, with a surrogate derivative.

    Args:
        potential: V, any shape.
        threshold: θ, a number or a tensor that broadcasts to it.

    Returns:
        0 or 1, shape and type of `potential`. Backward, the derivative of the step function is replaced by that of a
        fast sigmoid, 1/(1 + |V/θ − 1|)²/θ (Zenke & Ganguli 2018, SuperSpike, eq. 6, with slope 1 in units of θ).
    """

    def gradient(upstream):
        return upstream / (threshold * tf.square(1 + tf.abs(potential / threshold - 1))), None

    return tf.cast(potential >= threshold, potential.dtype), gradient


def decay(tau: float) -> float:
    """The factor α = exp(−1/τ) by which a membrane potential leaks in one time step; 1 for τ = ∞.

    Args:
        tau: time constant of the membrane, in time steps; positive, `math.inf` for no leak.

    Raises:
        ValueError: `tau` is not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau is a time constant in time steps and must be positive (or inf). Received: tau={tau}")
    return math.exp(-1 / tau)


def activation_of(identifier):
    """The activation of a name, a function, a layer or its configuration, which older versions of Keras do not take."""
    if isinstance(identifier, dict) and identifier.get("class_name") != "function":
        return keras.saving.deserialize_keras_object(identifier)
    return keras.activations.get(identifier)


def build_in_row(layers, input_shape) -> tuple:
    """Builds layers that follow one another; returns the shape of what the last one gives, batch axis included."""
    shape = tuple(input_shape)
    for layer in layers:
        if not layer.built:
            layer.build(shape)
        shape = tuple(layer.compute_output_shape(shape))
    return shape


class ClosedForm(NamedTuple):
    """What neurons under a current that stays the same do, without stepping them.

    Attributes:
        holds: `cell -> ` whether neurons with more current are never behind in spikes, so that this tells all of them.
        spikes: `(cell, current, state, timesteps) -> ` spike counts and first spike times (0: none) after these steps.
    """

    holds: Callable
    spikes: Callable


class SpikingCell(keras.layers.Layer):
    """Base of all cells: builds and applies the synapse, keeps the bias, unwraps the state.

    Args:
        synapse: the Keras layers that make up W∗x, in order; each linear and without bias. Empty: the input itself.
        bias: `None`, `"vector"` (one value a channel) or `"map"` (one value a neuron).

    Call arguments:
        inputs: what arrives in this time step, shape `(batch, …)`.
        states: the fields of `State`, each a tensor of shape `(batch, …)`.
    """

    State: type[tuple]
    # The state has the shape of the neurons, which is known once the cell is built, as in Keras' ConvLSTMCell.
    state_size = -1
    # Rank of the neurons' array without the batch axis; None for any.
    neuron_rank: int | None = None
    # What happens under a constant current; a subclass that steps otherwise drops it.
    closed_form: ClosedForm | None = None
    # Whether what the cell emits are spikes of neurons of its own, 0 or 1; a relay may pass on graded values.
    holds_neurons = True
    # Whether there are negative spikes, so that a count may fall again.
    takes_back = False
    # First time steps that a read-out ignores.
    readout_delay = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "step" in vars(cls) and "closed_form" not in vars(cls):
            cls.closed_form = None

    def __init__(self, synapse=(), bias: str | None = "vector", **kwargs):
        # The state must not lose steps or spikes to reduced precision, whatever the global policy is.
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**kwargs)
        if bias not in (None, "vector", "map"):
            raise ValueError(f'bias must be None, "vector" or "map". Received: bias={bias!r}')
        self.synapse_layers = list(synapse)
        self.bias_kind = bias
        self.bias = None

    def build(self, input_shape):
        self.current_shape = build_in_row(self.synapse_layers, input_shape)[1:]
        if self.neuron_rank is not None and len(self.current_shape) != self.neuron_rank:
            raise ValueError(
                f"{type(self).__name__} holds neurons in an array of rank {self.neuron_rank}. Received: a synapse "
                f"whose current has shape {self.current_shape}. Take LifNeuronCell for other ranks."
            )
        if self.bias_kind is not None:
            self.bias = self.add_weight(
                name="bias",
                shape=self.current_shape if self.bias_kind == "map" else self.current_shape[-1:],
                initializer="zeros",
            )
        self.built = True

    @property
    def neurons_shape(self) -> tuple[int, ...]:
        """Shape of the cell's spikes for one sample, the batch axis left out."""
        return self.current_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what the cell emits for one sample: the spikes, and in some codes a second stream beside them."""
        return self.neurons_shape

    def synapse(self, x: Any) -> Any:
        """W∗x, shape `(batch, *current_shape)`."""
        for layer in self.synapse_layers:
            x = layer(x)
        return tf.cast(x, self.compute_dtype)

    def step(self, current, state):
        """One time step of the neurons: `(current, state) -> (spikes, state)`. Pure."""
        raise TypeError(f"{type(self).__name__} defines no neuron: use a cell of one of the encodings.")

    def current(self, x: Any) -> Any:
        """The current of one time step, W∗x + b."""
        current = self.synapse(x)
        if self.bias_kind == "vector":
            return tf.nn.bias_add(current, tf.convert_to_tensor(self.bias))  # fused into the kernel by TensorFlow
        return current if self.bias is None else current + self.bias

    def call(self, inputs, states):
        output, state = self.step(self.current(inputs), self.State(*states))
        return output, tuple(state)

    def filled(self, batch_size, value=0.0, shape: tuple[int, ...] | None = None) -> tf.Tensor:
        """A state field, `value` in every neuron; `shape` for fields that are not one value a neuron."""
        shape = (batch_size, *(self.current_shape if shape is None else shape))
        return tf.broadcast_to(tf.cast(value, self.compute_dtype), shape)

    def evidence(self, spikes: tf.Tensor, steps_left) -> tf.Tensor | None:
        """What a read-out needs to know of spikes whose effect lasts for `steps_left` steps, their own included.

        Read-outs are linear up to their activation. One that returns a value here is given the sum of these values
        over all time steps that it does not ignore, T in number, and its result is activation((W∗sum + Tb)/T). None:
        it must be stepped.
        """
        return None

    def spikes_in(self, state) -> tf.Tensor:
        """A field of the state that has the shape of the spikes."""
        return state.potential

    def spike_count(self, state) -> tf.Tensor | None:
        """Spikes of each neuron so far, if the state tells; None where they must be counted."""
        return None

    def spikes_of(self, output: tf.Tensor) -> tf.Tensor:
        """The spikes in what `step` returned; codes with a second stream pick theirs."""
        return output

    def get_config(self):
        synapse = [keras.saving.serialize_keras_object(layer) for layer in self.synapse_layers]
        return {**super().get_config(), "synapse": synapse, "bias": self.bias_kind}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["synapse"] = [
            keras.saving.deserialize_keras_object(layer, custom_objects=custom_objects)
            for layer in config["synapse"]
        ]
        return cls(**config)


class ActiveCell(SpikingCell):
    """Base of cells whose neurons apply a function f of their own to the potential z, in the ANN's units.

    What they send is (f(z) − c)/λ; without f it is z itself, which the synapse has brought to units of λ, above c.

    Args:
        activation: f, of Keras or registered with it, a function or a layer (with weights); None for none.
        floor: c, what silence stands for; a number, or one per channel.
        scale: λ; a number, or one per channel.
    """

    def __init__(self, synapse=(), activation=None, floor=0.0, scale=1.0, **kwargs):
        super().__init__(synapse, **kwargs)
        self.activation = None if activation is None else activation_of(activation)
        self.floor, self.scale = floor, scale

    def build(self, input_shape):
        super().build(input_shape)
        if isinstance(self.activation, keras.layers.Layer):
            build_in_row([self.activation], (None, *self.current_shape))

    def own_activation(self, potential: tf.Tensor, step: float) -> tf.Tensor:
        """What neurons make of a potential, both in units of the step Δ; shape as `potential`.

        Args:
            step: Δ, in units of λ.
        """
        if self.activation is None:
            return potential
        # A product, because TensorFlow divides by a constant otherwise in a graph than outside.
        per_step = 1 / (np.asarray(self.scale, np.float64) * step)
        value = self.activation(potential * step) - tf.constant(self.floor, potential.dtype)
        return value * tf.constant(per_step, potential.dtype)

    def get_config(self):
        activation = None if self.activation is None else keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation, "floor": self.floor, "scale": self.scale}


class PoolState(NamedTuple):
    """`received`: sum of the inputs so far, `(batch, *map)`; `passed`: what was passed on, `(batch, *pooled)`."""

    received: tf.Tensor
    passed: tf.Tensor


class PoolCell(SpikingCell):
    """Base of the cells that pool spikes: how they are compared is up to the code.

    Args:
        pool: the Keras max-pooling layer that defines window, strides and padding.
        sign: +1 or −1 per channel, `None` for +1 everywhere. Channels with −1 pass the smallest instead: there a
            negative scale between the neurons and the pooling turned the maximum into a minimum.
    """

    holds_neurons = False

    def __init__(self, synapse=(), pool=None, sign=None, **kwargs):
        if pool is None:
            raise ValueError("A max pooling cell needs the Keras pooling layer it follows. Received: pool=None")
        super().__init__(synapse, **{**kwargs, "bias": None})
        self.pool = pool
        self.sign = None if sign is None else tuple(float(s) for s in sign)

    def build(self, input_shape):
        super().build(input_shape)
        self.pooled_shape = tuple(self.pool.compute_output_shape((None, *self.current_shape)))[1:]

    @property
    def neurons_shape(self):
        return self.pooled_shape

    @property
    def smallest(self) -> bool:
        """Whether some channels pass the smallest count on."""
        return self.sign is not None and min(self.sign) < 0

    def spikes_in(self, state):
        return state.passed

    def get_config(self):
        return {
            **super().get_config(),
            "pool": keras.saving.serialize_keras_object(self.pool),
            "sign": self.sign,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["pool"] = keras.saving.deserialize_keras_object(config["pool"], custom_objects=custom_objects)
        return super().from_config(config, custom_objects)


class MaxPoolCell(PoolCell):
    """Max pooling on spikes: passes on the increments of the largest cumulated input of each window.

        c ← c + x,   m = max over the window of c,   output m − m_before.

    With one spike per input at most (ttfs) that is the first spike of the window; with rates it is exact on the
    counts. Channels with `sign` −1 pass the increments of the smallest count instead (in ttfs: the latest spike).
    """

    State = PoolState

    def get_initial_state(self, batch_size):
        return PoolState(self.filled(batch_size), self.filled(batch_size, shape=self.pooled_shape))

    def spike_count(self, state):
        return state.passed

    def step(self, current, state):
        received = state.received + current
        passed = signed_max_pool(self.pool, received, self.sign)
        return passed - state.passed, PoolState(received, passed)


def signed_max_pool(pool, x: tf.Tensor, sign=None) -> tf.Tensor:
    """Max pooling where `sign` is +1, min pooling where it is −1 (`sign`: one value per channel, or None)."""
    if sign is None:
        return pool(x)
    sign = tf.constant(sign, x.dtype)
    return sign * pool(sign * x)
