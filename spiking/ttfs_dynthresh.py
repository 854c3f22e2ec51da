"""Time to first spike with dynamic thresholds: a neuron waits while much may still arrive.

Rueckauer & Liu (2018), section "Dynamic threshold"; the running estimate of what is pending after the SNN toolbox of
Rueckauer et al. Beside its spikes a layer emits p, 1 for neurons that may still fire, on a trailing axis: outputs have
shape `(batch, …, 2)`.
"""

from dataclasses import dataclass

import keras
import tensorflow as tf

from spiking import ttfs
from spiking.cells import PACKAGE, MaxPoolCell, SpikingCell, signed_max_pool
from spiking.network.inputs import SingleEvent
from spiking.network.layers import Relay

serializable = keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_dynthresh")


def bound(layers, pending):
    """|W|∗p of linear layers in a row."""
    for layer in layers:
        magnitudes = [tf.abs(weight) for weight in layer.trainable_variables]
        pending, _ = layer.stateless_call(magnitudes, layer.non_trainable_variables, pending)
    return pending


class TwoStreamCell(SpikingCell):
    """Base of the cells whose input holds spikes and pending flags.

    Between `current` and `step` of several cells the two streams are a pair of tensors; only where Keras needs a single
    tensor, in `call`, they lie on a trailing axis.
    """

    def build(self, input_shape):
        super().build(tuple(input_shape)[:-1])

    def call(self, inputs, states):
        return super().call(tuple(tf.unstack(inputs, num=2, axis=-1)), states)


class TwoStreamNeurons(TwoStreamCell):
    """Base of those that emit both as well."""

    def call(self, inputs, states):
        output, state = super().call(inputs, states)
        return tf.stack(output, axis=-1), state

    def spikes_of(self, output):
        spikes, _ = output
        return spikes

    @property
    def output_shape(self):
        return (*self.neurons_shape, 2)


@serializable
class LifNeuronCell(ttfs.LifNeuronCell, TwoStreamNeurons):
    """The neurons of `ttfs`, at a threshold that counts what may still arrive.

        s = [V ≥ θ + |W|∗p]·[has not fired]
        emitted: s, and [g > 0]·[has not fired, this step included]

    where p are the pending flags of the senders in this step, `(batch, …)`. |W| of a chain of linear layers is the
    product of the layers' |W|, an upper bound.
    """

    # Where the drive is constant nothing is pending, so this `step` is the parent's.
    closed_form = ttfs.CLOSED_FORM

    def current(self, x):
        """W∗x of the spikes and |W|∗p of the pending flags."""
        spikes, pending = x
        return self.synapse(spikes), self.bound(pending)

    def bound(self, pending):
        """|W|∗p, the most that the pending inputs can still switch on."""
        return tf.cast(bound(self.synapse_layers, pending), self.compute_dtype)

    def step(self, current, state):
        arrived, bound = (None, 0) if current is None else current
        spikes, state = self.fire(arrived, state, self.threshold + bound)
        pending = state.armed * tf.cast(state.current > 0, spikes.dtype)
        return (spikes, pending), state



@serializable
class LifNeuronCellConv2D(LifNeuronCell):
    """`LifNeuronCell` on feature maps (rows, columns, channels)."""

    neuron_rank = 3


@serializable
class LifNeuronCellMaxPool2D(MaxPoolCell, TwoStreamNeurons):
    """The first spike of each window passes (the latest where `sign` is −1), pending flags beside it.

    A window is pending while it has not fired and its neurons still may: for the first spike one of them, for the
    latest all that have not fired.
    """

    def current(self, x):
        spikes, pending = x
        return self.synapse(spikes), self.synapse(pending)

    def step(self, current, state):
        arrived, pending = current
        spikes, state = super().step(arrived, state)
        may_come = signed_max_pool(self.pool, tf.maximum(pending, state.received), self.sign)
        return (spikes, tf.maximum(may_come - state.passed, 0)), state


@serializable
class IntegratorNeuronCell(ttfs.IntegratorNeuronCell, TwoStreamCell):
    """The read-out of `ttfs`; it fires never, so what is pending does not matter to it."""

    def current(self, x):
        spikes, _ = x
        return self.synapse(spikes)


@serializable
class SingleEventNothingPending(SingleEvent):
    """The image as one graded event in the first time step; after it nothing more comes, so nothing is pending."""

    def at_step(self, image, t):
        return tf.stack(self.message(image, t), axis=-1)

    def message(self, image, t):
        event = super().at_step(image, t)
        return event, tf.zeros_like(event)

    def compute_output_shape(self, input_shape):
        return (*super().compute_output_shape(input_shape), 2)


@serializable
class TwoStreamRelay(Relay):
    """A relay that joins W∗x of the spikes and, beside it, |W|∗p of the pending flags."""

    def _step_shape(self, shape):
        return (shape[0], *shape[2:-1])

    def join(self, messages):
        spikes, pending = zip(*messages, strict=True)
        bounds = [bound(layers, flags) for layers, flags in zip(self.synapses, pending, strict=True)]
        return self.analog(spikes), self.together([tf.cast(each, self.compute_dtype) for each in bounds])

    def unpacked(self, message):
        return tuple(tf.unstack(message, num=2, axis=-1))

    def packed(self, message):
        return tf.stack(message, axis=-1)

    def _sequence_shape(self, shape, step_shape):
        return (*shape[:2], *step_shape, 2)


@serializable
@dataclass(frozen=True)
class TtfsDynThresh(ttfs.Ttfs):
    """As `ttfs`, at thresholds that count what may still arrive."""

    name = "ttfs_dyn_thresh"
    summary = "as ttfs, but neurons wait while much may still arrive; fewer wrong early spikes, later answers"
    neuron = LifNeuronCell
    neuron_conv2d = LifNeuronCellConv2D
    max_pool = LifNeuronCellMaxPool2D
    integrator = IntegratorNeuronCell
    relay = TwoStreamRelay
    event = SingleEventNothingPending


ENCODING = TtfsDynThresh()
