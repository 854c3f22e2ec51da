"""The layers of a spiking network behind its inputs: cells spread over time, and relays."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from spiking.cells import PACKAGE, build_in_row
from spiking.folding.graph import Join


@keras.saving.register_keras_serializable(PACKAGE)
class SpikingRNN(keras.layers.RNN):
    """`keras.layers.RNN` over a `SpikingCell`, whose state may have any shape.

    Args:
        cell: a `SpikingCell`.
        return_sequences: True for layers of neurons, False for the integrator, whose last output is the result.
    """

    def __init__(self, cell, return_sequences: bool = True, **kwargs):
        kwargs.setdefault("dtype", cell.dtype_policy)
        super().__init__(cell, return_sequences=return_sequences, **kwargs)

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        batch, timesteps = sequences_shape[:2]
        if not self.cell.built:
            self.cell.build((batch, *sequences_shape[2:]))
        time = (timesteps,) if self.return_sequences else ()
        return (batch, *time, *self.cell.output_shape)


@keras.saving.register_keras_serializable(PACKAGE)
class Relay(keras.layers.Layer):
    """Passes linear values on, step by step: joins several, or shares one among several listeners. Has no state.

    What comes from a source goes through linear layers, and is then added, or put side by side along an axis. A relay
    without layers that puts side by side passes spikes as they are; else it sends sums of currents.

    Args:
        synapses: per source the linear Keras layers, in order.
        axis: along which values are put side by side, the batch axis being 0; None: they are added.

    Call arguments:
        sequences: one `(batch, timesteps, …)` or a list of them.
    """

    def __init__(self, synapses: Sequence[Sequence] = (), axis: int | None = None, **kwargs):
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**kwargs)
        # Keras tracks layers in one list; in nested ones some versions lose their weights.
        self.synapse_layers = [layer for synapse in synapses for layer in synapse]
        self.lengths = [len(synapse) for synapse in synapses]
        self.axis = axis
        self.supports_jit = False

    @property
    def synapses(self) -> list[list]:
        """Per source its layers."""
        layers = iter(self.synapse_layers)
        return [[next(layers) for _ in range(length)] for length in self.lengths]

    def build(self, input_shape):
        shapes = []
        for synapse, shape in zip(self.synapses, _shapes(input_shape), strict=True):
            shapes.append(build_in_row(synapse, self._step_shape(shape))[1:])
        self.source_shapes = shapes  # of what is joined, without the batch axis
        self.step_shape = self._joined(shapes)  # of what goes out in one time step, without the batch axis
        self.built = True

    def _joined(self, shapes) -> tuple[int, ...]:
        joined = list(shapes[0])
        for shape in shapes[1:]:
            for axis, size in enumerate(shape):
                joined[axis] = joined[axis] + size if axis + 1 == self.axis else max(joined[axis], size)
        return tuple(joined)

    @property
    def passes_spikes(self) -> bool:
        """Whether it puts spikes side by side as they are."""
        return self.axis is not None and not self.synapse_layers

    def _step_shape(self, shape) -> tuple:
        """Of one message of a sequence, the batch axis in front."""
        return (shape[0], *shape[2:])

    def through(self, synapse: Sequence, x):
        """One message through the layers of one source."""
        for layer in synapse:
            x = layer(x)
        return tf.cast(x, self.compute_dtype)

    def join(self, messages: Sequence):
        """What goes out in one time step for the messages of all sources, `(batch, …)` each."""
        return self.analog(messages)

    def analog(self, values: Sequence) -> tf.Tensor:
        """The values of all sources, `(batch, …)` each, through their layers and together."""
        return self.together([self.through(synapse, x) for synapse, x in zip(self.synapses, values, strict=True)])

    def together(self, values: list[tf.Tensor]) -> tf.Tensor:
        """Added, or side by side."""
        return Join(self.axis)(values)

    def call(self, sequences):
        sequences = list(sequences) if isinstance(sequences, list | tuple) else [sequences]
        batch, steps = tf.shape(sequences[0])[0], sequences[0].shape[1]
        messages = [tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0)) for x in sequences]
        for message, x in zip(messages, sequences, strict=True):
            message.set_shape((None, *x.shape[2:]))
        joined = self.packed(self.join([self.unpacked(message) for message in messages]))
        return tf.reshape(joined, tf.concat([[batch, steps], tf.shape(joined)[1:]], 0))

    def unpacked(self, message: tf.Tensor):
        """A message of a sequence as `join` takes it."""
        return message

    def packed(self, message) -> tf.Tensor:
        """What `join` gave, as one tensor."""
        return message

    def compute_output_shape(self, input_shape):
        if not self.built:
            self.build(input_shape)
        return self._sequence_shape(_shapes(input_shape)[0], self.step_shape)

    def _sequence_shape(self, shape, step_shape) -> tuple:
        return (*shape[:2], *step_shape)

    def get_config(self):
        layers = [[keras.saving.serialize_keras_object(layer) for layer in synapse] for synapse in self.synapses]
        return {**super().get_config(), "synapses": layers, "axis": self.axis}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["synapses"] = [
            [keras.saving.deserialize_keras_object(layer, custom_objects=custom_objects) for layer in synapse]
            for synapse in config["synapses"]
        ]
        return cls(**config)


def _shapes(input_shape) -> list[tuple]:
    """The shapes of one input or several, as a list."""
    return [tuple(shape) for shape in input_shape] if isinstance(input_shape[0], list | tuple) else [tuple(input_shape)]
