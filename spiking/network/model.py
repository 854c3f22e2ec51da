"""The spiking network as a Keras model."""

import copy
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

from spiking.cells import PACKAGE
from spiking.network.clock import Simulation, check_record
from spiking.network.layers import SpikingRNN


@keras.saving.register_keras_serializable(PACKAGE)
class SpikingSequential(keras.Sequential):
    """A converted network: takes images, returns class scores, simulates in one loop.

    Its layers are an input layer and one `SpikingRNN` per layer of neurons; run one after another by stock Keras
    (`keras.Sequential([keras.Input(shape), *snn.layers])`) they give the same result, more slowly.

    Args:
        layers: `keras.Input`, the spiking input layer, the `SpikingRNN` layers.
        encoding: name of the temporal code.
        settings: the code's settings, as `Encoding.settings` returned them.
        report: the conversion report, a list of rows (see `conversion.ConversionReport`).
        scales: for each hidden layer the λ by which its activity is multiplied to get the ANN's units: a number, or
            a list with one per channel.
        calibration: rows of the calibration's report, see `calibration.Calibration.rows`.
        input_range: smallest and largest value of the calibration images, or None.
    """

    def __init__(
        self, layers=None, encoding=None, settings=None, report=(), scales=(), calibration=(), input_range=None,
        **kwargs,
    ):  # fmt: skip
        super().__init__(layers, **kwargs)
        # In an object of its own, because Keras would wrap lists and dicts among a layer's attributes.
        self._description = SimpleNamespace(
            encoding=encoding,
            settings=dict(settings or {}),
            report=[dict(row) for row in report],
            scales=[scale if np.isscalar(scale) else list(scale) for scale in scales],
            calibration=[dict(row) for row in calibration],
            input_range=input_range and tuple(input_range),
        )
        self._simulations = {}

    @property
    def encoding(self) -> str:
        """Name of the temporal code."""
        return self._description.encoding

    @property
    def settings(self) -> dict:
        """The code's settings."""
        return self._description.settings

    @property
    def report(self) -> list[dict]:
        """The conversion report, a row per ANN layer."""
        return self._description.report

    @property
    def scales(self) -> list:
        """λ of each hidden layer, a number or one per channel."""
        return self._description.scales

    @property
    def calibration(self) -> list[dict]:
        """What calibration found, a row per layer of neurons."""
        return self._description.calibration

    @property
    def input_range(self) -> tuple[float, float] | None:
        """The smallest and largest value of the calibration images."""
        return self._description.input_range

    @property
    def timesteps(self) -> int:
        """Number of time steps of one simulation."""
        return self.layers[0].timesteps

    @property
    def hidden_layers(self) -> list[SpikingRNN]:
        """The layers that emit spikes, in order."""
        return self.layers[1:-1]

    def simulate(self, images, record=(), training: bool = False) -> Simulation:
        """Simulates and records.

        Args:
            images: `(batch, …)`.
            record: any of "spike_counts", "first_spike_times", "rasters", "readouts".
            training: whether gradients through the spikes are wanted.

        Returns:
            The output and what was asked for; see `Simulation`.
        """
        record = check_record(record)
        images = tf.convert_to_tensor(images, self.compute_dtype)
        if not tf.executing_eagerly():
            return self._simulate(images, record, training)
        key = (record, bool(training))
        if key not in self._simulations:
            self._simulations[key] = tf.function(lambda x: self._simulate(x, *key), reduce_retracing=True)
        return self._simulations[key](images)

    def forget_traces(self) -> None:
        """Lets the next call trace anew; needed when layers were changed in place."""
        self._simulations.clear()
        self.predict_function = self.test_function = self.train_function = None

    def _simulate(self, images, record, training):
        from spiking.registry import get_encoding  # the table imports the codes, and those import this module

        return get_encoding(self.encoding).simulate(self.layers, images, record, training)

    def call(self, inputs, training=None, mask=None):
        return self.simulate(inputs, training=bool(training)).output

    def get_config(self):
        return {**super().get_config(), **copy.deepcopy(vars(self._description))}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("build_input_shape", "dtype"):  # Keras writes them; a Sequential takes neither
            config.pop(key, None)
        config["layers"] = [
            keras.saving.deserialize_keras_object(layer, custom_objects=custom_objects)
            for layer in config["layers"]
        ]
        return cls(**config)
