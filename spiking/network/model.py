"""The spiking network as a Keras model, functional, made of its layers."""

import copy
import functools
import importlib.util
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.models import Functional
from keras.src.models.functional import functional_from_config

from spiking.cells import PACKAGE
from spiking.encoding import Encoding
from spiking.network.inputs import PoissonSpikes, SpikingInput
from spiking.network.layers import Relay, SpikingRNN
from spiking.network.plan import Plan
from spiking.network.records import (
    ACTIVITIES,
    FIRST_SPIKE_TIMES,
    MESSAGES,
    RECORDS,
    SPIKE_COUNTS,
    SPIKES_SENT,
    Simulation,
    check_record,
)
from spiking.shown import Shown, plain_numbers


@keras.saving.register_keras_serializable(PACKAGE)
class SpikingModel(Shown, Functional):
    """A converted network: takes the ANN's inputs, returns its kind of output, simulates in one loop.

    Its layers are an input layer per image and one `SpikingRNN` per layer of neurons, wired as the ANN is, with
    `Relay`s where that joins; run by stock Keras (`keras.Model(snn.input, snn.output)`) they give the same result,
    more slowly.

    Args:
        inputs, outputs: as of `keras.Model`.
        encoding: the temporal code with its settings.
        wiring: name of a layer -> names of the layers it listens to; each behind its sources.
        read_outs: names of the read-outs, in the structure of the output.
        report: the conversion report, a list of rows (see `conversion.conversion_report`).
        scales: for each hidden layer the λ by which its activity is multiplied to get the ANN's units: a number, or a
            list with one per channel.
        floors: for hidden layers whose spikes stand for what exceeds a floor, the floor; as `scales`.
        calibration: rows of the calibration's report, see `Calibration.rows`.
        input_range: smallest and largest input of the calibration images, or None.
        fingerprint: of the folded ANN, see `spiking.scaling.fingerprint`; or None.
    """

    def __init__(
        self, *args, encoding=None, wiring=None, read_outs=None, report=(), scales=None, floors=None, calibration=(),
        input_range=None, fingerprint=None, **kwargs,
    ):  # fmt: skip
        super().__init__(*args, **kwargs)
        # In an object of its own, because Keras would wrap lists and dicts among a layer's attributes.
        self._description = SimpleNamespace(
            encoding=encoding,
            wiring={name: tuple(sources) for name, sources in (wiring or {}).items()},
            read_outs=read_outs,
            report=[dict(row) for row in report],
            scales=dict(scales or {}),
            floors=dict(floors or {}),
            calibration=[dict(row) for row in calibration],
            input_range=input_range,
            fingerprint=fingerprint,
        )
        self._traced = SimpleNamespace(simulations={})  # a dict among the attributes would be exported, too
        # Under a mixed policy Keras would cast the cells' weights to float16, and spikes would be lost.
        self.dtype_policy = keras.DTypePolicy(keras.config.floatx())
        # `predict` would compile with XLA by default, anew for every batch size; on CPUs that made LeNet-5 slower.
        self.supports_jit = False

    @property
    def encoding(self) -> Encoding:
        """The temporal code with its settings."""
        return self._description.encoding

    @property
    def wiring(self) -> dict[str, tuple[str, ...]]:
        """Name of a layer -> names of the layers it listens to, or of the input of the network."""
        return self._description.wiring

    @property
    def report(self) -> list[dict]:
        """The conversion report, a row per ANN layer."""
        return self._description.report

    @property
    def scales(self) -> dict[str, Any]:
        """λ of each hidden layer by name, a number or a list with one per channel."""
        return self._description.scales

    @property
    def floors(self) -> dict[str, Any]:
        """What the silence of a hidden layer stands for, where that is not 0."""
        return self._description.floors

    @property
    def calibration(self) -> list[dict]:
        """What calibration found, a row per layer of neurons."""
        return self._description.calibration

    @property
    def input_range(self) -> tuple[float, float] | None:
        """The smallest and largest input of the calibration images."""
        return self._description.input_range

    @property
    def fingerprint(self) -> str | None:
        """Of the folded ANN that it came from."""
        return self._description.fingerprint

    @property
    def timesteps(self) -> int:
        """Number of time steps of one simulation."""
        return self.plan.timesteps

    @functools.cached_property
    def plan(self) -> Plan:
        """The layers by name, as the simulation sees them."""
        layers = {name: self.get_layer(name) for name in self.wiring}
        inputs = {name: layer for name, layer in layers.items() if isinstance(layer, SpikingInput)}
        relays = {name: layer for name, layer in layers.items() if isinstance(layer, Relay)}
        cells = {name: layer.cell for name, layer in layers.items() if isinstance(layer, SpikingRNN)}
        timesteps = next(iter(inputs.values())).timesteps
        return Plan(timesteps, inputs, relays, cells, self.wiring, self._description.read_outs)

    def heading(self) -> str:
        """Name, code and size."""
        cells = [self.plan.cells[name] for name in self.plan.hidden]
        neurons = [math.prod(cell.neurons_shape) for cell in cells if cell.holds_neurons]
        plural = "s" * (len(neurons) != 1)
        return (
            f"{self.name}, {self.encoding.name}: {len(neurons)} layer{plural} of {sum(neurons):,} neurons, "
            f"{self.count_params():,} weights, {self.timesteps} time steps"
        )

    def table(self) -> list[tuple[str, str, str]]:
        """What became of each layer of the ANN; empty for a network that was read from elsewhere."""
        if not self.report:
            return []
        return [("ANN layer", "type", "became"), *((row["layer"], row["type"], row["result"]) for row in self.report)]

    def to_dict(self) -> dict[str, Any]:
        """The code with its settings, the report of the conversion and that of the calibration."""
        code = {"encoding": self.encoding.name, **self.encoding.get_config()}
        return plain_numbers({"name": self.name, **code, "report": self.report, "calibration": self.calibration})

    @property
    def hidden_layers(self) -> list[SpikingRNN]:
        """The layers that emit spikes, in order."""
        return [self.get_layer(name) for name in self.plan.hidden]

    def simulate(self, images, record: str | Sequence[str] = (), training: bool = False) -> Simulation:
        """Simulates and records.

        Args:
            images: as the ANN takes them, `(batch, …)`.
            record: any of `spiking.network.records.RECORDS`, e.g. "spike_counts".
            training: whether gradients through the spikes are wanted.

        Returns:
            The output and what was asked for; see `Simulation`.
        """
        record, images = check_record(record), self.named_images(images)
        if not tf.executing_eagerly():
            return self._simulate(record, training, images)
        key = (record, bool(training))
        simulations = self._traced.simulations
        if key not in simulations:
            # A partial is a function of its own to TensorFlow, which else takes all networks for one that is retraced.
            run = functools.partial(self._simulate, *key)
            simulations[key] = tf.function(run, reduce_retracing=True, autograph=False)
        return simulations[key](images)

    def activity(self, name: str, activities) -> np.ndarray:
        """What a hidden layer's spikes stand for, in the ANN's units, `(batch, …)`.

        Args:
            name: of the layer.
            activities: the same in units of λ, as `simulate` records them.
        """
        activity = np.asarray(activities) * np.asarray(self.scales[name], np.float32)
        return activity + np.asarray(self.floors.get(name, 0.0), np.float32)

    def named_images(self, images) -> dict[str, tf.Tensor]:
        """Images in any form that the ANN takes, as input name -> tensor of the input's dtype.

        Raises:
            ValueError: images of another shape than the ANN's.
        """
        images = keras.tree.map_structure(lambda x: x if tf.is_tensor(x) else tf.convert_to_tensor(x), images)
        if isinstance(images, Mapping):
            images = {name: images[name] for name in images if name in {spec.name for spec in self.inputs}}
        flat = self._standardize_inputs(images)
        for x, spec in zip(flat, self.inputs, strict=True):
            if not x.shape[1:].is_compatible_with(spec.shape[1:]):
                raise ValueError(
                    f"Images of the input '{spec.name}' have shape {tuple(spec.shape[1:])}. Received: shape "
                    f"{tuple(x.shape[1:])}. Resize them."
                )
        return {spec.name: x for spec, x in zip(self.inputs, flat, strict=True)}

    def forget_traces(self) -> None:
        """Lets the next call trace anew; needed when layers were changed in place."""
        self._traced.simulations.clear()
        self.predict_function = self.test_function = self.train_function = None

    def _simulate(self, record, training, images) -> Simulation:
        """The code's own simulation, and the records that follow from others."""
        code, plan = self.encoding, self.plan
        derived = {}  # record -> `(counts, times) -> ` it
        if code.tells_by != "pattern":
            derived[ACTIVITIES] = code.activity
        if code.spike_range == (0, 1):  # all that was sent is counted, and each spike is a message
            derived |= dict.fromkeys((SPIKES_SENT, MESSAGES), lambda counts, times: counts)
        wanted = {name: derived[name] for name in record if name in derived}
        if not wanted:
            return code.simulate(plan, images, record, training)
        told = tuple(name for name in RECORDS if name in {*record, SPIKE_COUNTS, FIRST_SPIKE_TIMES} - set(wanted))
        simulation = code.simulate(plan, images, told, training)
        counts, times = simulation.spike_counts, simulation.first_spike_times
        found = {
            what: {name: of(counts[name], times[name]) for name in plan.hidden} for what, of in wanted.items()
        }
        return simulation._replace(**found, **{name: {} for name in told if name not in record})

    def call(self, inputs, training=None, mask=None):
        return self.simulate(inputs, training=bool(training)).output

    def save(self, filepath, *args, **kwargs):
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "A spiking network is saved in Keras' own format; HDF5 cannot hold its cells. Received: "
                f"filepath={str(filepath)!r}. Let the name end in .keras."
            )
        return super().save(filepath, *args, **kwargs)

    def export(self, filepath, format: str = "tf_saved_model", **kwargs):
        """Writes the network for use without this toolbox, as `keras.Model.export` does: with all codes, closed forms
        and the clock's loop alike.

        Args:
            filepath: of the file or folder; for "litert" it ends in .tflite.
            format: "tf_saved_model", "litert" or "onnx" (extra `onnx`).
            **kwargs: of `keras.Model.export`.

        Raises:
            ValueError: Poisson spikes in a format that cannot draw them.
            ImportError: "onnx" without the extra.
        """
        drawn = [name for name, layer in self.plan.inputs.items() if isinstance(layer, PoissonSpikes)]
        if drawn and format != "tf_saved_model":
            raise ValueError(
                f"Poisson spikes are drawn with random numbers that only TensorFlow has. Received: format={format!r} "
                f"with Poisson input {drawn}. Take format='tf_saved_model', or convert with input_coding='current'."
            )
        if format == "onnx":
            if importlib.util.find_spec("tf2onnx") is None:
                raise ImportError(
                    "ONNX files are written with the package tf2onnx. Received: an environment without it. Install it: "
                    'pip install "spiking-toolbox[onnx]".'
                )
            if not self._called:  # else Keras refuses to
                self(self.inputs if len(self.inputs) > 1 else self.inputs[0])
        return super().export(filepath, format=format, **kwargs)

    def get_config(self):
        description = {**vars(self._description), "encoding": keras.saving.serialize_keras_object(self.encoding)}
        return {**super().get_config(), "description": copy.deepcopy(description)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        description = config.pop("description")
        model = functional_from_config(cls, config, custom_objects)
        vars(model._description).update(description)
        encoding = keras.saving.deserialize_keras_object(description["encoding"], custom_objects=custom_objects)
        wiring = {name: tuple(sources) for name, sources in description["wiring"].items()}
        input_range = description["input_range"] and tuple(description["input_range"])  # JSON has no tuples
        vars(model._description).update(encoding=encoding, wiring=wiring, input_range=input_range)
        return model


def connect(inputs, layers: Mapping[str, Any], wiring: Mapping[str, Sequence[str]], read_outs, **description):
    """A spiking network from its layers.

    Args:
        inputs: symbolic `keras.Input`s, in the structure that the network takes.
        layers: name -> layer: input layers, relays, and `SpikingRNN`s.
        wiring: name -> names of what it listens to (input layers: of the network's input), each behind its sources.
        read_outs: names of the read-outs, in the structure of the network's output.
        **description: further arguments of `SpikingModel`.
    """
    values = {symbol.name: symbol for symbol in keras.tree.flatten(inputs)}
    for name, sources in wiring.items():
        heard = [values[source] for source in sources]
        values[name] = layers[name](heard[0] if len(heard) == 1 else heard)
    outputs = keras.tree.map_structure(values.__getitem__, read_outs)
    return SpikingModel(inputs, outputs, wiring=wiring, read_outs=read_outs, **description)
