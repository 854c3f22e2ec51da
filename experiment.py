"""One experiment: train an ANN, convert it, evaluate and analyse the spiking networks, leave everything on disk.

    metrics = Experiment(encoding="rate", timesteps=100).run()
    metrics["snn/eval/test"]

or, on the command line, `python experiment.py --encoding rate --timesteps 100`.

A run leaves two folders, both named after it:

- `experiments/<run>/`: report.html to read, config.json, metrics.json (a set of metrics per encoding), ann.keras,
  snn-<encoding>.keras and figures/; trained ANNs are shared by all runs through the cache `experiments/anns/`.
- `tblogs/<run>/<encoding>/` and, with the training, `tblogs/<run>/ann/` for TensorBoard: see docs/TENSORBOARD.md.

Files appear whole or not at all, and after each encoding, so that an interrupted run leaves what it has finished.
An existing run is never overwritten: a second run of the same name becomes `<name>-2`.
"""

import os

# Ahead of the import of TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import contextlib
import copy
import importlib.metadata
import itertools
import json
import logging
import math
import numbers
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import ann_training
import conversion
import spiking
from spiking.analysis.diagnosis import Diagnosis
from spiking.analysis.statistics import Analysis
from spiking.quantisation import QuantisedReLU
from spiking.runs import report, summaries
from spiking.runs.report import plain
from spiking.runs.summaries import ANALYSIS_METRICS
from spiking.scaling.calibration import METHODS
from spiking.scaling.correction import CORRECTIONS

logger = logging.getLogger(__name__)


def __getattr__(name: str):
    """`RepeatedExperiment` belongs here too, but stands in a module of its own, which needs this one."""
    if name == "RepeatedExperiment":
        from optimization import RepeatedExperiment

        return RepeatedExperiment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


ANN_CACHE = "anns"  # in the results folder
CALIBRATION_IMAGES = 1000  # of the training set; a percentile over all their activations needs no more
DIAGNOSIS_IMAGES = 200  # of the training set: settings are not to be chosen by the test images
ACTIVITY_IMAGES = 50  # of the test set, for the activities' figure and histograms: all their activations are kept
DEFAULT_NETWORK = "lenet5_maxpool"
COMPARISON_FIGURE = "accuracy_per_timestep"


# ---------------------------------------------------------------------------------------------------------------------
# The experiment


@dataclass
class Ann:
    """A trained ANN.

    Attributes:
        model: the network.
        name: "ann", or "ann-<encoding>" for the ANN of an encoding that shares none with those before it.
        metrics: its accuracies, once they are measured.
    """

    model: keras.Model
    name: str
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Result:
    """What the steps of the work have given so far for one encoding; `None`: the step has not been taken.

    Attributes:
        encoding: its name.
        settings: of the conversion, completed with the encoding's defaults.
        ann, snn: the networks.
        metrics: tag -> number (settings may be words).
        analysis: what `conversion.snn_activation_analysis` returned.
        diagnosis: what `conversion.diagnose` returned.
        activities: hidden layer -> (ANN, SNN) activations on a few images, while they are logged only.
        figures: name -> the file of a figure.
    """

    encoding: str
    settings: dict[str, Any]
    metrics: dict[str, Any]
    ann: Ann | None = None
    snn: spiking.SpikingSequential | None = None
    analysis: Analysis | None = None
    diagnosis: Diagnosis | None = None
    activities: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)


def activation_key(activation) -> str:
    """Equal keys, equal activations: a name, a Keras layer (whatever its name), or its configuration."""
    if isinstance(activation, keras.layers.Layer):
        activation = [type(activation).__name__, {**activation.get_config(), "name": None}]
    return json.dumps(activation, sort_keys=True, default=str)


class Experiment:
    """Trains an ANN, converts it with one or more encodings, evaluates, analyses and logs.

    All arguments are checked here, and the data is read, before anything is trained or written.

    Args:
        name: of the run and its folder. Default: network, data set and the time.
        batch_size_ann_training: images per training step.
        batch_size_snn_eval: images that are simulated at once.
        timesteps: number of time steps; `None` for the encoding's own.
        max_rate: probability of an input spike per step at full intensity, in (0, 1].
        epochs: of the ANN's training.
        norm_percentile: percentile of a layer's activations that becomes full activity, in (0, 100].
        tau: time constant of the neurons' leak, in time steps, `math.inf` for none. `max_rate` and `tau` reach only the
            encodings that know them; `None` for the encoding's own.
        threshold: firing threshold; `None` for the encoding's own.
        beta: threshold of the clamped ReLU, for the encodings whose ANN is trained with it.
        encoding: name of a temporal code in `spiking.ENCODINGS`, or a sequence of names.
        image_size_rescale: factor on the images' height and width.
        image_depth_increase: how many times the images' channels are repeated.
        tensorboard_title: name of the run in TensorBoard, its folder in `tblogs_dir`. Default: `name`.
        dataset: name, path or arrays, as `ann_training.load_dataset` takes them.
        training_function: `f(experiment, ds_train, ds_test, force_training=False)` that returns a trained
            `keras.Sequential`, or the name of a network in `ann_training.TRAINING_FUNCTIONS`.
        force_training: train even if the same ANN has been trained before.
        max_images: evaluate on the first so many training and test images only; `None` for all.
        disable_training_accuracy: skip the accuracies on the training images; their metrics are then absent.
        seed: of everything random.
        data_dir: folder that is searched first for the data set.
        results_dir, tblogs_dir: where the folders of the runs go.
        encoding_options: further settings, each for those encodings that know it.
        normalisation: how the activation that becomes full activity is chosen: "percentile", "max" or "mse"; `None`
            for the encoding's own.
        per_channel: whether it is chosen per channel or per layer; `None` for the encoding's own.
        correction: "shifts" or "output", fitted on the calibration images for those encodings that round to the
            nearest level, see `spiking.correction`; `None` for none.
        training_levels: trains the ANN of those encodings with activations rounded to so many levels
            (`spiking.quantisation.QuantisedReLU`); with as many time steps its conversion is exact. `None` for ReLU.
        strategy: a `tf.distribute.MirroredStrategy` whose devices share the images of each batch, in training and for
            the accuracies of ANN and SNN; the analysis runs on one of them. The numbers are those of a single device
            but for rounding, under the conditions that `ann_training.train_network` states. `None`: no sharing.

    Attributes:
        results: encoding -> `Result`.
        metrics: encoding -> its metrics: accuracies in [0, 1] as `{ann,snn}/eval/{train,test}`, their differences SNN
            minus ANN as `snn/diff/{train,test}`, `experiment/<setting>`, `snn/seconds` for simulating the test
            images, `snn/timesteps` of one simulation, and what `summaries.ANALYSIS_METRICS` lists.

    Raises:
        ValueError: an argument or the data breaks a rule.
        OSError: a folder cannot be written, or the data set is not there.
    """

    def __init__(
        self,
        name: str | None = None,
        batch_size_ann_training: int = 64,
        batch_size_snn_eval: int = 100,
        timesteps: int | None = None,
        max_rate: float | None = None,
        epochs: int = 10,
        norm_percentile: float = 99.9,
        tau: float | None = None,
        threshold: float | None = None,
        beta: float = 0.25,
        encoding: str | Sequence[str] = "rate",
        image_size_rescale: float = 1.0,
        image_depth_increase: int = 1,
        tensorboard_title: str | None = None,
        dataset="mnist_sample",
        training_function: str | Callable[..., keras.Model] = DEFAULT_NETWORK,
        force_training: bool = False,
        max_images: int | None = None,
        disable_training_accuracy: bool = False,
        *,
        seed: int = 0,
        data_dir: str | os.PathLike | None = None,
        results_dir: str | os.PathLike = "experiments",
        tblogs_dir: str | os.PathLike = "tblogs",
        encoding_options: Mapping[str, Any] | None = None,
        normalisation: str | None = None,
        per_channel: bool | None = None,
        correction: str | None = None,
        training_levels: int | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self.batch_size_ann_training = check_count("batch_size_ann_training", batch_size_ann_training)
        self.batch_size_snn_eval = check_count("batch_size_snn_eval", batch_size_snn_eval)
        self.epochs = check_count("epochs", epochs)
        self.seed = check_count("seed", seed, least=0, most=2**32 - 1)
        self.max_images = None if max_images is None else check_count("max_images", max_images)
        self.timesteps = None if timesteps is None else check_count("timesteps", timesteps)
        self.norm_percentile = check_real("norm_percentile", norm_percentile, 0, 100)
        self.max_rate = None if max_rate is None else check_real("max_rate", max_rate, 0, 1)
        self.tau = None if tau is None else check_real("tau", tau, 0)
        self.threshold = None if threshold is None else check_real("threshold", threshold, 0)
        self.beta = check_real("beta", beta, 0)
        self.image_size_rescale = image_size_rescale
        self.image_depth_increase = image_depth_increase
        self.force_training = bool(force_training)
        self.disable_training_accuracy = bool(disable_training_accuracy)
        self.encoding_options = dict(encoding_options or {})
        self.normalisation = check_option("normalisation", normalisation, (None, *METHODS))
        self.per_channel = check_option("per_channel", per_channel, (None, True, False))
        self.strategy = check_strategy(strategy)
        self.correction = check_option("correction", correction, (None, *CORRECTIONS))
        self.settings = self._settings_per_encoding(encoding)
        self.training_levels = None if training_levels is None else check_count("training_levels", training_levels)
        if self.correction and self.training_levels:
            raise ValueError(
                "An ANN trained with rounded activations needs no correction. Received: "
                f"training_levels={training_levels} with correction={correction!r}. Leave one of them out."
            )
        for argument in ("correction", "training_levels"):
            if getattr(self, argument) and not any(map(self._rounds, self.settings)):
                raise ValueError(
                    f"{argument} is for encodings that round to the nearest level: 'ttfs_exact', or 'rate' with "
                    f"encoding_options={{'initial_potential': 0.5}}. Received: "
                    f"{argument}={getattr(self, argument)!r} with encoding={list(self.settings)}"
                )
        self.encoding = next(iter(self.settings))
        self.training_function = check_training_function(training_function)
        function_name = getattr(self.training_function, "__name__", type(self.training_function).__name__)
        self.network = function_name.removeprefix("train_network_")
        self.name = None if name is None else check_name("name", name)
        self.results_dir = check_folder("results_dir", results_dir)
        self.tblogs_dir = check_folder("tblogs_dir", tblogs_dir)
        self.data_dir = data_dir
        self.data = ann_training.load_dataset(
            dataset, data_dir=data_dir, image_size_rescale=image_size_rescale, image_depth_increase=image_depth_increase
        )
        check_fit(self.training_function, self.data)
        if self.name is None:
            started = f"{datetime.now():%Y%m%d-%H%M%S}"
            self.name = re.sub(r"[^\w.-]", "_", f"{self.network}-{self.data.name}-{started}")
        self.tensorboard_title = check_name("tensorboard_title", tensorboard_title or self.name)
        # Read by the training, see `ann_training.TrainingSettings`; set for each training.
        self.activation, self.callbacks = "relu", ()
        self.ann_cache_dir = self.results_dir / ANN_CACHE
        self._start_anew()

    def run(self) -> dict[str, Any]:
        """Does all the work, for one encoding after the other.

        Returns:
            The metrics of the (first) encoding; with several, those of each one under "per_encoding".
        """
        self._start_anew()
        for encoding in self.settings:
            self.train(encoding)
            self.convert(encoding)
            self.ann_accuracy(encoding)
            self.snn_accuracy(encoding)
            self.snn_activation_analysis(encoding)
            self.log(encoding)
        metrics = dict(self.metrics[self.encoding])
        return metrics if len(self.settings) == 1 else {**metrics, "per_encoding": self.metrics}

    # The steps. Each takes the name of an encoding, by default the (first) one of the experiment.

    def train(self, encoding: str | None = None) -> keras.Model:
        """Trains the ANN, or loads it if the same training has been done before."""
        result = self.result(encoding)
        activation = self.ann_activation(result.encoding)
        key = activation_key(activation)
        if key not in self._anns:
            name = f"ann-{result.encoding}" if self._anns else "ann"
            view = copy.copy(self)  # the experiment as this training sees it
            view.activation = activation
            view.callbacks = (keras.callbacks.TensorBoard(str(self.folder.tblogs / name), write_graph=False),)
            keras.utils.set_random_seed(self.seed)
            with self._shared():
                model = self.training_function(
                    view, self.data.train, self.data.test, force_training=self.force_training
                )
            self.folder.save_model(f"{name}.keras", model)
            self._anns[key] = Ann(model, name)
        result.ann = self._anns[key]
        return result.ann.model

    def ann_activation(self, encoding: str):
        """Hidden activation of the ANN for this encoding: a name, a Keras layer or its configuration.

        Encodings whose activations are equal share one ANN.
        """
        if self.training_levels and self._rounds(encoding):
            return QuantisedReLU(self.training_levels)
        return spiking.get_encoding(encoding).hidden_activation(self.beta)

    def convert(self, encoding: str | None = None) -> spiking.SpikingSequential:
        """Converts the ANN, calibrated on a random choice of training images."""
        result = self.result(encoding)
        ann = result.ann.model if result.ann else self.train(encoding)
        chosen = np.random.default_rng(self.seed).permutation(len(self.data.x_train))[:CALIBRATION_IMAGES]
        with self._shared():
            result.snn = conversion.convert_ann_to_snn(
                ann,
                self.data.x_train[np.sort(chosen)],
                result.encoding,
                norm_percentile=self.norm_percentile,
                normalisation=self.normalisation,
                per_channel=self.per_channel,
                correction=self.correction if self._rounds(result.encoding) else None,
                **result.settings,
            )
        return result.snn

    def ann_accuracy(self, encoding: str | None = None) -> dict[str, float]:
        """Accuracies of the ANN; trains or loads it first if need be."""
        result = self.result(encoding)
        if not result.ann:
            self.train(encoding)
        if not result.ann.metrics:
            for part, (images, labels) in self._evaluation_data().items():
                logger.info("Accuracy of the ANN, %s images", part)
                result.ann.metrics[f"ann/eval/{part}"] = conversion.ann_accuracy(
                    result.ann.model, images, labels, verbose=1
                )
        result.metrics.update(result.ann.metrics)
        return dict(result.ann.metrics)

    def snn_accuracy(self, encoding: str | None = None) -> dict[str, float]:
        """Accuracies of the SNN and their differences to the ANN's; takes the steps before it if need be."""
        result = self.result(encoding)
        if not result.snn:
            self.convert(encoding)
        ann = self.ann_accuracy(encoding)
        found, batch_size = {"snn/timesteps": result.snn.timesteps}, self.batch_size_snn_eval
        conversion.predict_batch(result.snn, self.data.x_test[:batch_size])  # traced before the clock starts
        for part, (images, labels) in self._evaluation_data().items():
            logger.info("Accuracy of the SNN (%s), %s images", result.encoding, part)
            start = time.perf_counter()
            accuracy = conversion.snn_accuracy(result.snn, images, labels, batch_size, verbose=1)
            found["snn/seconds"] = time.perf_counter() - start  # the test images come last
            found[f"snn/eval/{part}"] = accuracy
            found[f"snn/diff/{part}"] = accuracy - ann[f"ann/eval/{part}"]
        result.metrics.update(found)
        return found

    def snn_activation_analysis(self, encoding: str | None = None) -> Analysis:
        """Where the spikes go and what they cost, over the test images; see `spiking/analysis/statistics.py`.

        Raises:
            RuntimeError: `snn_accuracy` has not been called.
        """
        result = self.result(encoding)
        if "snn/eval/test" not in result.metrics:
            raise RuntimeError(
                "The analysis explains an accuracy that has been measured. Received: snn_activation_analysis() "
                "before snn_accuracy(). Call snn_accuracy() first, or run()."
            )
        images, labels = self._evaluation_data()["test"]
        result.analysis = conversion.snn_activation_analysis(
            result.snn, images, labels, self.batch_size_snn_eval, result.ann.model
        )
        result.metrics |= {tag: float(getattr(result.analysis, name)) for tag, name in ANALYSIS_METRICS.items()}
        return result.analysis

    def diagnose(self, encoding: str | None = None) -> Diagnosis:
        """What is lost where, why, and what to change, on some training images; converts first if need be."""
        result = self.result(encoding)
        if not result.snn:
            self.convert(encoding)
        images = self.data.x_train[:DIAGNOSIS_IMAGES]
        result.diagnosis = conversion.diagnose(result.ann.model, result.snn, images, self.batch_size_snn_eval)
        return result.diagnosis

    def log(self, encoding: str | None = None) -> Path:
        """Writes networks, figures, metrics, the TensorBoard log and the report. Returns the folder of the run.

        Raises:
            RuntimeError: `snn_activation_analysis` has not been called.
        """
        result = self.result(encoding)
        if result.analysis is None:
            raise RuntimeError(
                "A finished analysis is logged. Received: log() before snn_activation_analysis(). "
                "Call snn_activation_analysis() first, or run()."
            )
        folder, images = self.folder, self._evaluation_data()["test"][0][:ACTIVITY_IMAGES]
        if not result.diagnosis:
            self.diagnose(encoding)
        folder.save_model(f"snn-{result.encoding}.keras", result.snn)
        result.activities = conversion.ann_and_snn_activations_per_layer(result.ann.model, result.snn, images)
        result.figures = save_figures(folder, result, self._finished(), images[0])
        log_to_tensorboard(folder.tblogs / result.encoding, result)
        result.activities = {}
        folder.write_json("metrics.json", {each.encoding: each.metrics for each in self._finished()})
        folder.write_text("report.html", html_report(folder, self._finished()))
        return folder.path

    # What the steps share.

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Encoding -> its metrics so far."""
        return {encoding: result.metrics for encoding, result in self.results.items()}

    @property
    def folder(self) -> "RunFolder":
        """The folders of this run. They are made, and the configuration is written, when first asked for."""
        if self._folder is None:
            self._folder = RunFolder.claim(self.results_dir, self.name, self.tblogs_dir, self.tensorboard_title)
            self._folder.write_json("config.json", self.configuration())
        return self._folder

    def result(self, encoding: str | None = None) -> Result:
        """What there is for an encoding of this experiment."""
        name = self.encoding if encoding is None else spiking.get_encoding(encoding).name
        if name not in self.results:
            raise ValueError(
                f"This experiment is about {list(self.results)}. Received: encoding={encoding!r}. "
                "Name it when making the Experiment."
            )
        return self.results[name]

    def _rounds(self, encoding: str) -> bool:
        """Whether the encoding's neurons round to the nearest level, so that there is something to correct."""
        return spiking.get_encoding(encoding).rounding_levels(self.settings[encoding]) is not None

    def hyperparameters(self, encoding: str) -> dict[str, Any]:
        """All settings that may influence the result; those that are `None`, for "not used here", are left out."""
        names = ("batch_size_ann_training", "batch_size_snn_eval", "timesteps", "max_rate", "epochs", "norm_percentile")
        names += ("tau", "threshold", "beta", "image_size_rescale", "image_depth_increase", "max_images", "seed")
        names += ("normalisation", "per_channel", "correction", "training_levels")
        values = {name: getattr(self, name) for name in names}
        values |= {"encoding": encoding, "dataset": self.data.name, "training_function": self.network}
        values |= self.settings[encoding]
        return {name: value for name, value in values.items() if value is not None}

    def configuration(self) -> dict[str, Any]:
        """Everything needed to find or repeat the run."""
        return {
            "name": self.name,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seed": self.seed,
            "encodings": list(self.settings),
            "hyperparameters": {encoding: self.hyperparameters(encoding) for encoding in self.settings},
            "force_training": self.force_training,
            "disable_training_accuracy": self.disable_training_accuracy,
            "tensorboard_title": self.tensorboard_title,
            "devices": self.strategy.num_replicas_in_sync if self.strategy else 1,
            "dataset": {
                "name": self.data.name,
                "fingerprint": self.data.fingerprint,
                "training images": len(self.data.x_train),
                "test images": len(self.data.x_test),
                "image shape": self.data.input_shape,
                "classes": self.data.classes,
            },
            "versions": versions(),
        }

    def _shared(self):
        """The scope in which networks are made for all devices."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def _start_anew(self) -> None:
        self._folder: RunFolder | None = None
        self._anns: dict[str, Ann] = {}
        self.results = {
            encoding: Result(
                encoding, settings, {f"experiment/{k}": v for k, v in self.hyperparameters(encoding).items()}
            )
            for encoding, settings in self.settings.items()
        }

    def _finished(self) -> list[Result]:
        return [result for result in self.results.values() if result.analysis is not None]

    def _evaluation_data(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        parts = {} if self.disable_training_accuracy else {"train": self.data.train}
        parts["test"] = self.data.test
        return {part: (x[: self.max_images], y[: self.max_images]) for part, (x, y) in parts.items()}

    def _settings_per_encoding(self, encoding) -> dict[str, dict[str, Any]]:
        """Encoding -> its settings, checked and completed by the encoding."""
        names = encoding if isinstance(encoding, list | tuple) else [encoding]
        if not names:
            raise ValueError(f"encoding names at least one of {list(spiking.ENCODINGS)}. Received: encoding={encoding}")
        codes = [spiking.get_encoding(name) for name in names]
        unknown = set(self.encoding_options) - {option for code in codes for option in code.options}
        if unknown:
            known = {code.name: list(code.options) for code in codes}
            raise ValueError(
                f"encoding_options are settings of the chosen encodings: {known}. "
                f"Received: {', '.join(sorted(unknown))}. Leave these out, or take another encoding."
            )
        common = {"tau": self.tau, "max_rate": self.max_rate, "seed": self.seed}
        options = {k: v for k, v in common.items() if v is not None} | self.encoding_options
        found = {}
        for code in codes:
            known = {k: v for k, v in options.items() if k in code.options}
            found[code.name] = code.settings(self.timesteps, self.threshold, **known)
        return found


# ---------------------------------------------------------------------------------------------------------------------
# Checks of the arguments


def check_count(name: str, value, least: int = 1, most: float = math.inf) -> int:
    """The value as an int, once it is known to be a whole number in the range."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        limit = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {limit}. Received: {name}={value!r}. Take such a number.")
    return int(value)


def check_real(name: str, value, above: float, most: float = math.inf) -> float:
    """The value as a float, once it is known to be a number in the range."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not above < value <= most:
        limit = f"above {above}" if most == math.inf else f"in ({above}, {most}]"
        raise ValueError(f"{name} must be a number {limit}. Received: {name}={value!r}. Take such a number.")
    return float(value)


def check_option(name: str, value, options: tuple):
    """The value, once it is known to be one of the options."""
    if value not in options:
        raise ValueError(f"{name} must be one of {options}. Received: {name}={value!r}. Take one of these.")
    return value


def check_strategy(strategy) -> tf.distribute.Strategy | None:
    """The strategy, once it is known to be one that Keras can share batches with."""
    if strategy is not None and not isinstance(strategy, tf.distribute.MirroredStrategy):
        raise ValueError(
            "strategy shares batches among the devices of one machine: a tf.distribute.MirroredStrategy, or None. "
            f"Received: strategy={strategy!r}. Several machines can share a search: see optimization.py, --storage."
        )
    return strategy


def mirrored_strategy(devices: int) -> tf.distribute.Strategy | None:
    """The strategy for so many GPUs of this machine or, if there are fewer, as many logical CPU devices; None for one.

    Raises:
        ValueError: it is no number of devices, or TensorFlow is running and cannot have more of them.
    """
    if check_count("devices", devices) == 1:
        return None
    kind = "GPU" if len(tf.config.list_physical_devices("GPU")) >= devices else "CPU"
    cpu = tf.config.list_physical_devices("CPU")[0]
    if kind == "CPU" and len(tf.config.get_logical_device_configuration(cpu) or ()) < devices:
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
        except RuntimeError as error:
            raise ValueError(
                f"Logical devices are made before TensorFlow is first used. Received: devices={devices} ({error}). "
                "Call mirrored_strategy first, or in a new process."
            ) from error
    return tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(devices)])


def check_name(argument: str, name: str) -> str:
    """The name, once it is known to be fit for a folder of its own."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w .,=+-]{0,199}", name) or name == ANN_CACHE:
        raise ValueError(
            f"{argument} names a folder: up to 200 letters, digits, blanks and any of '_.,=+-', beginning with a "
            f"letter or digit, but not {ANN_CACHE!r}. Received: {argument}={name!r}. Choose another one."
        )
    return name


def check_folder(argument: str, folder: str | os.PathLike) -> Path:
    """The folder's path, once it is known that files can be written there. Leaves no trace."""
    try:
        path = Path(folder).expanduser().absolute()
        existing = next(each for each in (path, *path.parents) if each.exists())
        with tempfile.TemporaryFile(dir=existing):
            return path
    except (OSError, TypeError) as error:
        raise OSError(
            f"{argument} must be a folder that can be written ({error}). Received: {argument}={str(folder)!r}. "
            "Choose another one, or change its permissions."
        ) from error


def check_training_function(function) -> Callable[..., keras.Model]:
    """The training function of that name, or the one given."""
    known = ann_training.TRAINING_FUNCTIONS
    if isinstance(function, str) and function.removeprefix("train_network_") in known:
        return known[function.removeprefix("train_network_")]
    if not callable(function):
        raise ValueError(
            "training_function is f(experiment, ds_train, ds_test, force_training=False), or the name of a network. "
            f"Received: training_function={function!r}. Known networks: {', '.join(known)}."
        )
    return function


def check_fit(function: Callable[..., keras.Model], data: ann_training.Dataset) -> None:
    """Checks that the network can be trained and tested on the data."""
    if data.classes < 2 or data.y_test.max() >= data.classes:
        raise ValueError(
            "Labels number two classes or more, and the test images have no class that the training images lack. "
            f"Received: labels up to {data.y_train.max()} in training and {data.y_test.max()} in test. "
            "Correct the labels, or add training images."
        )
    for network, known in ann_training.TRAINING_FUNCTIONS.items():
        if function is known:
            ann_training.ARCHITECTURES[network](data.input_shape, data.classes)  # refuses images that are too small


# ---------------------------------------------------------------------------------------------------------------------
# What a run leaves on disk


@dataclass(frozen=True)
class RunFolder:
    """The two folders of a run. Every file appears whole or not at all.

    Attributes:
        path: `<results_dir>/<run>`.
        tblogs: `<tblogs_dir>/<run>`.
    """

    path: Path
    tblogs: Path

    @classmethod
    def claim(cls, results_dir: Path, name: str, tblogs_dir: Path, title: str) -> "RunFolder":
        """Makes the folders of a new run, with the first number behind the names that makes them new."""
        for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
            folder = cls(results_dir / (name + suffix), tblogs_dir / (title + suffix))
            if folder.tblogs.exists():
                continue
            try:
                folder.path.mkdir(parents=True)
            except FileExistsError:
                continue
            folder.tblogs.mkdir(parents=True, exist_ok=True)
            return folder

    def write_json(self, name: str, content) -> None:
        """Writes strict JSON: infinite numbers as "inf" and "-inf", NaN as "nan"."""
        self.write_text(name, json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Writes a text."""
        ann_training.write_atomically(self.path / name, lambda path: path.write_text(text, encoding="utf-8"))

    def save_model(self, name: str, model: keras.Model) -> None:
        """Saves a Keras model."""
        ann_training.write_atomically(self.path / name, model.save)


def versions() -> dict[str, str]:
    """Versions of what has a say in the numbers."""
    packages = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
    try:
        packages["spiking-toolbox"] = importlib.metadata.version("spiking-toolbox")
    except importlib.metadata.PackageNotFoundError:
        packages["spiking-toolbox"] = "not installed, run from its sources"
    return {"python": platform.python_version(), **packages}


def save_figures(folder: RunFolder, result: Result, finished: Sequence[Result], image: np.ndarray) -> dict[str, Path]:
    """Draws an encoding's figures, and anew the one that compares all encodings finished so far.

    Returns:
        Name -> file.
    """
    import plotting  # matplotlib is needed here only

    encoding, rasters = result.encoding, summaries.rasters(result.snn, image)
    seen = len(next(iter(result.activities.values()))[0])
    curves = {each.encoding: each.analysis.accuracy_per_timestep for each in finished}
    first_of = {each.ann.name: each for each in reversed(finished)}  # so that each ANN gets one line
    references = {each.encoding: each.metrics["ann/eval/test"] for each in first_of.values()}
    figures = {
        f"raster-{encoding}": plotting.plot_spikes_as_eventplot(rasters, title=f"{encoding}: spikes, one test image"),
        f"activity-{encoding}": plotting.ann_snn_correlation(
            result.activities, title=f"{encoding}: activity of ANN and SNN, {seen} test images"
        ),
        COMPARISON_FIGURE: plotting.accuracy_per_timestep(
            curves,
            references if len(references) > 1 else result.metrics["ann/eval/test"],
            title="Accuracy on the test images",
        ),
    }
    return {name: plotting.save(figure, folder.path / "figures" / f"{name}.png") for name, figure in figures.items()}


def html_report(folder: RunFolder, finished: Sequence[Result]) -> str:
    """The run as one HTML page; see `spiking/report.py`."""
    sections, common, configuration = [], {}, json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    for each in finished:
        figures = {name: path.read_bytes() for name, path in each.figures.items()}
        common |= {name: figures.pop(name) for name in (COMPARISON_FIGURE,) if name in figures}
        sections.append(report.section(each.snn, each.metrics, each.analysis, each.diagnosis, figures))
    return report.render(folder.path.name, sections, common, configuration)


# ---------------------------------------------------------------------------------------------------------------------
# The TensorBoard log. A new tag is a line in the function of its kind.


def scalar_entries(result: Result) -> dict[str, float]:
    """Tag -> number: all metrics that are numbers."""
    return {tag: float(value) for tag, value in result.metrics.items() if isinstance(value, numbers.Real)}


def curve_entries(result: Result) -> dict[str, tuple[np.ndarray, str]]:
    """Tag -> one number per step, the first step being 1, and what a step is."""
    curves, legend = summaries.layer_curves(result.analysis), summaries.layer_legend(result.analysis)
    accuracy = {"snn/accuracy_per_timestep": (result.analysis.accuracy_per_timestep, "Step is the time step.")}
    return accuracy | {tag: (curve, legend) for tag, curve in curves.items()}


def histogram_entries(result: Result) -> dict[str, np.ndarray]:
    """Tag -> histogram, `(bins, 3)`: left edge, right edge, count."""
    return {
        **summaries.weight_histograms(result.ann.model, result.snn),
        **summaries.spike_histograms(result.analysis),
        **summaries.activity_histograms(result.activities),
    }


def text_entries(result: Result) -> dict[str, str]:
    """Tag -> text, shown as it stands."""
    return {
        "snn/conversion_report": conversion.conversion_report(result.snn),
        "snn/layers": summaries.text_table(summaries.layer_table(result.analysis)),
        **({"snn/diagnosis": str(result.diagnosis)} if result.diagnosis else {}),
    }


def image_entries(result: Result) -> dict[str, tf.Tensor]:
    """Tag -> image, `(1, height, width, 4)`."""
    files = result.figures.items()
    return {f"figures/{name}": tf.io.decode_png(path.read_bytes(), channels=4)[None] for name, path in files}


def log_to_tensorboard(folder: Path, result: Result) -> None:
    """Writes all entries of one encoding, and its settings for the HParams plugin."""
    from tensorboard.plugins.histogram.metadata import create_summary_metadata
    from tensorboard.plugins.hparams import api as hparams

    settings = {tag: value for tag, value in result.metrics.items() if tag.startswith("experiment/")}
    with tf.summary.create_file_writer(str(folder)).as_default():
        # The plugin collects the columns of its table from what the runs hold, so there is nothing else to declare.
        hparams.hparams(
            {tag.removeprefix("experiment/"): plain(value) for tag, value in settings.items()},
            trial_id=f"{folder.parent.name}/{folder.name}",
        )
        for tag, value in scalar_entries(result).items():
            tf.summary.scalar(tag, value, step=0)
        for tag, (curve, meaning) in curve_entries(result).items():
            for step in np.flatnonzero(np.isfinite(curve)):
                tf.summary.scalar(tag, curve[step], step=step + 1, description=meaning)
        for tag, bins in histogram_entries(result).items():  # tf.summary.histogram takes values, which are not kept
            tf.summary.write(tag, tf.constant(bins), step=0, metadata=create_summary_metadata(None, None))
        for tag, text in text_entries(result).items():
            tf.summary.text(tag, "\n".join("    " + line for line in text.splitlines()), step=0)
        for tag, image in image_entries(result).items():
            tf.summary.image(tag, image, step=0)


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def number(text: str):
    """A number of the command line; what is none goes on as it is, for the experiment to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def argument_parser() -> argparse.ArgumentParser:
    """The command line. Its arguments are named after those of `Experiment`."""
    parser = argparse.ArgumentParser(
        prog="experiment",
        description="Trains a network, converts it into spiking networks, and compares them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,  # what is not given, Experiment decides
    )
    add = parser.add_argument
    networks, datasets = ", ".join(ann_training.TRAINING_FUNCTIONS), ", ".join(ann_training.DATASETS)
    codes = "; ".join(f"{code.name}: {code.summary}" for code in spiking.ENCODINGS.values())
    add("--network", dest="training_function", metavar="NAME", default=DEFAULT_NETWORK, help=networks)
    add("--dataset", metavar="NAME", default="mnist_sample", help=f"{datasets}, or the path of an .npz file")
    add("--encoding", nargs="+", metavar="NAME", default=list(spiking.ENCODINGS), help=codes)
    add("--timesteps", type=number, metavar="T", help="number of time steps (default: the encoding's own)")
    add("--epochs", type=number, metavar="N", help="of the ANN's training (default: 10)")
    add("--norm-percentile", type=number, metavar="P", help="of the activations, becomes full activity (default: 99.9)")
    add("--normalisation", metavar="NAME", help=f"its choice: {', '.join(METHODS)} (default: the encoding's own)")
    add("--per-channel", action=argparse.BooleanOptionalAction, help="per channel, or per layer (default: the same)")
    add("--correction", metavar="NAME", help=f"of what rounds: {', '.join(CORRECTIONS)} (default: none)")
    add("--training-levels", type=int, metavar="L", help="train with activations of L levels, for what rounds")
    add("--threshold", type=number, metavar="V", help="firing threshold (default: the encoding's own)")
    add("--tau", type=number, metavar="STEPS", help="time constant of the leak (default: the encoding's own)")
    add("--beta", type=number, metavar="X", help="threshold of the clamped ReLU (default: 0.25)")
    add("--max-images", type=number, metavar="N", help="evaluate on the first N images (default: all)")
    add("--seed", type=number, metavar="N", help="of everything random (default: 0)")
    add("--name", metavar="RUN", help="of the run's folder (default: network, data set and time)")
    devices = "share each batch among N GPUs or, if there are fewer, N logical CPU devices"
    add("--devices", type=number, metavar="N", default=1, help=devices)
    add("--data-dir", metavar="DIR", help="folder that is searched first for the data set")
    add("--results-dir", metavar="DIR", help="where the run's folder goes (default: experiments)")
    add("--tblogs-dir", metavar="DIR", help="where the TensorBoard log goes (default: tblogs)")
    add("--force-training", action="store_true", help="train even if the same ANN has been trained before")
    slow = {"dest": "disable_training_accuracy", "action": "store_false", "default": True}
    add("--training-accuracy", **slow, help="evaluate on the training images too, which takes long")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """`python experiment.py`: runs one experiment and prints how the encodings compare."""
    parser = argument_parser()
    arguments = vars(parser.parse_args(argv))
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        strategy = mirrored_strategy(arguments.pop("devices"))
        experiment = Experiment(**arguments, strategy=strategy)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    try:
        experiment.run()
        interrupted = False
    except KeyboardInterrupt:
        interrupted = True
        print("\nInterrupted. What was finished stays:")
    print(f"\n{summaries.text_table(summaries.comparison(experiment.metrics))}\n")
    print(f"Results:     {experiment.folder.path}, of which report.html shows all")
    print(f"TensorBoard: {sys.executable} -m tensorboard.main --logdir {experiment.tblogs_dir}")
    if interrupted:
        sys.exit(130)  # 128 + SIGINT, as shells have it


if __name__ == "__main__":
    main()
