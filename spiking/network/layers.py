"""The layers of a spiking network behind its input."""

import keras

from spiking.cells import PACKAGE


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
