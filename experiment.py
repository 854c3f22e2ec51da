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
import sys

# Ahead of the import of TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The installed command, spiking-experiment, imports this module before it calls `main`.
if __name__ == "__main__" or os.path.basename(sys.argv[0]).startswith("spiking-experiment"):
    # TensorFlow gives notices of its start before it reads that, one of them headed WARNING: they are sieved out, in a
    # process of its own, so that what it says before it gives up is shown.
    import subprocess

    SIEVE = """import re, sys
for line in sys.stdin:
    if not re.match("I0000 |WARNING: All log messages before absl::InitializeLog", line):
        print(line, end="", file=sys.stderr, flush=True)"""
    with subprocess.Popen([sys.executable, "-c", SIEVE], stdin=subprocess.PIPE) as sieve:
        shown = os.dup(2)
        os.dup2(sieve.stdin.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(shown, 2)
            os.close(shown)

import contextlib
import functools
import hashlib
import inspect
import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import spiking
from spiking.analysis import energy
from spiking.analysis.diagnosis import Diagnosis
from spiking.analysis.latency import latency
from spiking.analysis.statistics import Analysis, analyse
from spiking.checks import LONGEST_NAME, check_name, check_real, check_text, check_whole, require
from spiking.quantisation import QuantisedActivation
from spiking.runs import arguments, screen, summaries
from spiking.runs.answers import ANSWERED_IMAGES, answers
from spiking.runs.command_line import argument_parser, typed_options
from spiking.runs.compare import PAGE, TABLE, compare
from spiking.runs.devices import mirrored_strategy, shared
from spiking.runs.figures import save_figures
from spiking.runs.files import locked, plain
from spiking.runs.folder import RunFolder
from spiking.runs.networks import report_networks
from spiking.runs.repetition import Repetition, checked_axes
from spiking.runs.results import Ann, Result, activation_key, html_report, hyperparameters, versions
from spiking.runs.siblings import require_own
from spiking.runs.summaries import ANALYSIS_METRICS
from spiking.runs.tensorboard import TrainingLog, log_comparison, log_to_tensorboard
from spiking.runs.trained import OF_TRAINING, check_network, network_key, trained_network
from spiking.runs.trials import Report, Task, function_task
from spiking.shown import Shown, plain_numbers, text_table

require_own("ann_training", "conversion")  # files of the user's may have these names
import ann_training  # noqa: E402
import conversion  # noqa: E402

__all__ = [
    "Experiment", "ExperimentTask", "RepeatedExperiment", "as_task", "command_line", "compare", "main",
    "report_networks",
]  # fmt: skip

logger = logging.getLogger(__name__)


ANN_CACHE = "anns"  # in the results folder
CALIBRATION_IMAGES = 1000  # of the training set; a percentile over all their activations needs no more
DIAGNOSIS_IMAGES = 200  # of the training set: settings are not to be chosen by the test images
REPORTED_SHARES = (0.1, 0.3)  # of the test images, after which `measure` tells how it is going
ACTIVITY_IMAGES = 50  # of the test set, for the activities' figure and histograms: all their activations are kept
SHOWN_RUNS = 40  # of more TensorBoard shows none until one ticks some
DEFAULT_NETWORK = "lenet5_maxpool"
CURVE = "accuracy_per_timestep"  # of a run that is repeated, a list in its record


# ---------------------------------------------------------------------------------------------------------------------
# The arguments


def check_training_function(argument: str, function) -> Callable[..., keras.Model]:
    """The training function of that name, or the one given."""
    known = ann_training.TRAINING_FUNCTIONS
    if isinstance(function, str) and function.removeprefix("train_network_") in known:
        return known[function.removeprefix("train_network_")]
    if not callable(function):
        raise ValueError(
            f"{argument} is f(experiment, ds_train, ds_test, force_training=False), or the name of a network. "
            f"Received: {argument}={function!r}. Known networks: {', '.join(known)}."
        )
    return function


def check_fit(function: Callable[..., keras.Model] | None, data: ann_training.Dataset) -> None:
    """Checks that the network can be trained and tested on the data; None: a network that is there."""
    if data.classes < 2 or data.y_test.max() >= data.classes:
        raise ValueError(
            "Labels number two classes or more, and the test images have no class that the training images lack. "
            f"Received: labels up to {data.y_train.max()} in training and {data.y_test.max()} in test. "
            "Correct the labels, or add training images."
        )
    for network, known in ann_training.TRAINING_FUNCTIONS.items():
        if function is known:
            ann_training.ARCHITECTURES[network](data.input_shape, data.classes)  # refuses images that are too small


# Argument -> `(argument, value) -> ` the value, checked; those of `spiking/runs/arguments.py`, and those that need a
# data set or a network.
CHECKS = arguments.CHECKS | {
    "model": trained_network,
    "training_function": check_training_function,
    "name": functools.partial(check_name, reserved=(ANN_CACHE,)),
    "tensorboard_title": lambda argument, value: check_name(argument, value, (ANN_CACHE,)) if value != "" else None,
}


class TrainingView:
    """The experiment as one training sees it: with the activation and the callbacks of this training.

    It has what `ann_training.TrainingSettings` names and all else that the experiment has.
    """

    def __init__(self, experiment: "Experiment", activation, callbacks: Sequence[keras.callbacks.Callback]):
        self.experiment, self.activation, self.callbacks = experiment, activation, callbacks

    def __getattr__(self, name):
        return getattr(self.experiment, name)


# ---------------------------------------------------------------------------------------------------------------------
# The experiment

class Experiment(Shown):
    """Trains an ANN, converts it with one or more encodings, evaluates, analyses and logs.

    All arguments are checked here, and the data is read, before anything is trained or written.

    Args:
        name: of the run and its folder. Default: network, data set and the time.
        batch_size_ann_training: images per training step.
        batch_size_snn_eval: images that are simulated at once.
        timesteps: number of time steps; `None` for the encoding's own.
        max_rate: probability of an input spike per step at full intensity; above 1 all intensities from 1/max_rate on
            are full. Only Poisson input uses it.
        epochs: of the ANN's training.
        norm_percentile: percentile of a layer's activations that becomes full activity, in (0, 100]; `None` for the
            encoding's own.
        tau: time constant of the neurons' leak, in time steps, `math.inf` for none; it reaches the encodings that know
            a leak. `None` for the encoding's own.
        threshold: firing threshold; `None` for the encoding's own.
        beta: threshold of the clamped ReLU, for the encodings whose ANN is trained with it.
        encoding: name of a temporal code in `spiking.ENCODINGS`, or a sequence of names.
        image_size_rescale: the images' new `[height, width]`, or a factor on both; `None` keeps their size.
        image_depth_increase: how many times the images' channels are repeated; True is 3, None or False keeps them.
        tensorboard_title: name of the run in TensorBoard, its folder in `tblogs_dir`. Default: `name`.
        dataset: name, path or arrays, as `ann_training.load_dataset` takes them.
        training_function: `f(experiment, ds_train, ds_test, force_training=False)` that returns a trained
            `keras.Sequential`, or the name of a network in `ann_training.TRAINING_FUNCTIONS`.
        force_training: train even if the same ANN has been trained before.
        max_images: evaluate on the first so many training and test images only; `None` for all.
        disable_training_accuracy: skip the accuracies on the training images; their metrics are then absent.
        seed: of everything random.
        data_dir: folder of the data set's file, in place of those that are searched for it.
        results_dir, tblogs_dir: where the folders of the runs go.
        encoding_options: further settings, each for those encodings that know it; one of them must.
        normalisation: how the activation that becomes full activity is chosen: "percentile", "max" or "mse"; `None`
            for the encoding's own.
        per_channel: whether it is chosen per channel or per layer; `None` for the encoding's own.
        correction: "shifts" or "output", fitted on the calibration images for those encodings that round to the
            nearest level, see `spiking.scaling.correction`; "none" for none, `None` for the encoding's own.
        training_levels: trains the ANN of those encodings with activations rounded to so many levels
            (`spiking.quantisation.QuantisedActivation`); with as many time steps (`radix`: K for 2^K − 1 levels) its
            conversion is exact. `None` for no rounding.
        activation: hidden activation of the ANN, a name that Keras knows; all encodings must carry it. `None` for the
            encoding's own, ReLU.
        strategy: a `tf.distribute.MirroredStrategy` whose devices share the images of each batch, in training and for
            the accuracies of ANN and SNN; the analysis runs on one of them. The numbers are those of a single device
            but for rounding, under the conditions that `ann_training.train_network` states. `None`: no sharing.
        model: a trained network of one's own, a `keras.Model` or the path of a file that Keras saved; nothing is
            trained then. It takes the images as `ann_training.load_dataset` gives them, float32 in [0, 1].
        hardware: whose energies are told, a name of `spiking.analysis.energy.HARDWARE`.
        neuron_updates: whether the SNN's energy holds the updates of its neurons, too.

    All arguments but `dataset` are attributes, as checked; `encoding` is the (first) one.

    Attributes:
        data: the data set that was read.
        network: name of the network or of the training function.
        settings: encoding -> its settings, completed with the encoding's defaults.
        results: encoding -> `Result`.
        metrics: encoding -> its metrics: accuracies in [0, 1] as `{ann,snn}/eval/{train,test}`, their differences SNN
            minus ANN as `snn/diff/{train,test}`, `experiment/<setting>`, `snn/seconds` for simulating the test
            images (from the time of one batch), `snn/timesteps` of one simulation, `snn/latency`, the step from which
            on it stays within a point of the ANN's accuracy (absent if it does not), and what
            `summaries.ANALYSIS_METRICS` lists.
        problems: what could not be written, in sentences; the rest is there.

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
        norm_percentile: float | None = None,
        tau: float | None = None,
        threshold: float | None = None,
        beta: float = 0.1,
        encoding: str | Sequence[str] = "rate",
        image_size_rescale: float | Sequence[int] | None = None,
        image_depth_increase: int | bool | None = None,
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
        activation: str | None = None,
        strategy: tf.distribute.Strategy | None = None,
        model: keras.Model | str | os.PathLike | None = None,
        hardware: str = energy.DEFAULT,
        neuron_updates: bool = False,
    ):
        given = {name: value for name, value in locals().items() if name not in ("self", "dataset")}
        vars(self).update(arguments.checked(given, Experiment, CHECKS))
        self.settings = arguments.settings_per_encoding(vars(self))
        arguments.check_rounding(vars(self), self.settings)
        arguments.check_activation(self.activation, self.settings)
        self.encoding = next(iter(self.settings))
        function_name = getattr(self.training_function, "__name__", type(self.training_function).__name__)
        self.network = self.model.name if self.model else function_name.removeprefix("train_network_")
        if isinstance(dataset, str | os.PathLike):
            check_text("dataset", os.fspath(dataset))
        self.data = ann_training.load_dataset(
            dataset, data_dir=data_dir, image_size_rescale=image_size_rescale, image_depth_increase=image_depth_increase
        )
        check_fit(None if self.model else self.training_function, self.data)
        if self.model:
            usual = ann_training.TRAINING_FUNCTIONS[DEFAULT_NETWORK]
            asked = {name: given[name] for name in ("training_levels", "activation", "force_training")}
            shape, classes = self.data.input_shape, self.data.classes
            check_network(self.model, self.training_function, usual, asked, shape, classes)
        self.name = self.name or default_name(self.network, self.data.name)
        self.tensorboard_title = self.tensorboard_title or self.name
        self.ann_cache_dir = self.results_dir / ANN_CACHE
        self._start_anew()

    def heading(self) -> str:
        """Network, data set and codes, and where the results are."""
        place = f", results in {self._folder.path}" if self._folder else ", not run yet"
        return f"{self.network} on {self.data.name}, {', '.join(self.settings)}{place}"

    def table(self) -> list[tuple[str, ...]]:
        """How the codes compare, as far as they are measured."""
        rows = summaries.comparison(self.metrics)
        return rows if len(rows) > 1 else []

    def to_dict(self) -> dict[str, Any]:
        """The configuration, and encoding -> its metrics so far."""
        return plain_numbers(plain({"configuration": self.configuration(), "metrics": self.metrics}))

    def rows(self) -> list[dict[str, Any]]:
        """Encoding and metrics, a row per encoding."""
        return [{"encoding": encoding, **metrics} for encoding, metrics in self.metrics.items()]

    def run(self, timestep_analysis: bool = False):
        """Does all the work, for one encoding after the other.

        Args:
            timestep_analysis: whether the accuracy had the simulation ended at each step is wanted, too.

        Returns:
            The metrics of the (first) encoding; with several, those of each one under "per_encoding". With
            `timestep_analysis` a pair of these and of the accuracies, shape `(timesteps,)`; with several encodings a
            dict of such arrays.
        """
        screen.show_in_notebooks()
        self._start_anew()
        for encoding in self.settings:
            self.measure(encoding)
            self.log(encoding)
        for problem in self.problems:
            logger.error("%s", problem)
        several = len(self.settings) > 1
        metrics = {**self.metrics[self.encoding], **({"per_encoding": self.metrics} if several else {})}
        if not timestep_analysis:
            return metrics
        curves = {encoding: each.analysis.accuracy_per_timestep for encoding, each in self.results.items()}
        return metrics, curves if several else curves[self.encoding]

    # The steps. Each takes the name of an encoding, by default the (first) one of the experiment.

    def measure(self, encoding: str | None = None, report: Callable[[int, float], None] | None = None) -> dict:
        """All steps but the last: training, conversion, accuracies, analysis.

        Args:
            report: called with a number of test images and the SNN's accuracy on them, after a tenth and after three
                tenths of them; what it raises ends the work.

        Returns:
            The metrics.
        """
        self.train(encoding)
        snn = self.convert(encoding)
        images, labels = self._evaluation_data()["test"]
        for count in (math.ceil(share * len(images)) for share in REPORTED_SHARES if report):
            report(count, conversion.snn_accuracy(snn, images[:count], labels[:count], self.batch_size_snn_eval))
        self.ann_accuracy(encoding)
        self.snn_accuracy(encoding)
        self.snn_activation_analysis(encoding)
        return self.result(encoding).metrics

    def train(self, encoding: str | None = None) -> keras.Model:
        """Trains the ANN, or loads it if the same training has been done before; a network of one's own is taken."""
        result = self.result(encoding)
        activation = None if self.model else self.ann_activation(result.encoding)
        key = activation_key(activation)
        if key not in self._anns:
            name = f"ann-{result.encoding}" if self._anns else "ann"
            self._anns[key] = Ann(self.model, name) if self.model else self._trained(activation, name)
            model = self._anns[key].model
            with self._reported(f"{name}.keras"):
                self.folder.save_model(f"{name}.keras", model)
        result.ann = self._anns[key]
        return result.ann.model

    def _trained(self, activation, name: str) -> Ann:
        log = TrainingLog(self.folder.tblogs / name)
        keras.utils.set_random_seed(self.seed)
        with shared(self.strategy):
            view = TrainingView(self, activation, (log,))
            model = self.training_function(view, self.data.train, self.data.test, force_training=self.force_training)
        with self._reported(f"TensorBoard log of the training of {name}"):
            log.check()
        return Ann(model, name, history=log.history)

    def training_key(self, encoding: str | None = None) -> str:
        """Equal keys, equal trainings: a hash of what has a say in the ANN of an encoding."""
        if self.model:
            return network_key(self.model)
        activation = activation_key(self.ann_activation(self.result(encoding).encoding))
        settings = self.epochs, self.batch_size_ann_training, self.seed
        subject = repr((self.network, self.data.fingerprint, settings, activation))
        return hashlib.sha256(subject.encode()).hexdigest()[:16]

    def ann_activation(self, encoding: str):
        """Hidden activation of the ANN for this encoding: a name, a Keras layer or its configuration.

        Encodings whose activations are equal share one ANN.
        """
        if self.training_levels and arguments.rounds(encoding, self.settings[encoding]):
            return QuantisedActivation(self.activation or "relu", self.training_levels)
        return self.activation or spiking.get_encoding(encoding).hidden_activation(self.beta)

    def convert(self, encoding: str | None = None) -> spiking.SpikingModel:
        """Converts the ANN, calibrated on a random choice of training images."""
        result = self.result(encoding)
        if not result.ann:
            self.train(encoding)
        chosen = np.random.default_rng(self.seed).permutation(len(self.data.x_train))[:CALIBRATION_IMAGES]
        logger.info("%s: conversion, calibrated on %d training images", result.encoding, len(chosen))
        with shared(self.strategy):
            result.ann.folded = result.ann.folded or conversion.read(result.ann.model)
        scales = conversion.scales_of(
            result.ann.folded,
            self.data.x_train[np.sort(chosen)],
            result.encoding,
            norm_percentile=self.norm_percentile,
            normalisation=self.normalisation,
            per_channel=self.per_channel,
            correction=self.correction if arguments.rounds(result.encoding, result.settings) else None,
            **result.settings,
        )
        with shared(self.strategy):
            result.snn = conversion.convert_ann_to_snn(result.ann.folded, scales, result.encoding, **result.settings)
        self._in_effect(result)
        return result.snn

    def _in_effect(self, result: Result) -> None:
        """Takes over the settings that followed from the depth of the network."""
        self.settings[result.encoding] = result.settings = result.snn.encoding.get_config()
        found = self.hyperparameters(result.encoding)
        if fitted := {row["correction"] for row in result.snn.calibration} - {None}:
            (found["correction"],) = fitted
        result.metrics.update({f"experiment/{name}": value for name, value in found.items()})

    def ann_accuracy(self, encoding: str | None = None) -> dict[str, float]:
        """Accuracies of the ANN; trains or loads it first if need be."""
        result = self.result(encoding)
        if not result.ann:
            self.train(encoding)
        if not result.ann.metrics:
            for part, (images, labels) in self._evaluation_data().items():
                logger.info("%s: accuracy of the ANN, %d %s images", result.encoding, len(images), part)
                result.ann.metrics[f"ann/eval/{part}"] = conversion.ann_accuracy(
                    result.ann.model, images, labels, verbose=1
                )
        result.metrics.update(result.ann.metrics)
        return dict(result.ann.metrics)

    def snn_accuracy(self, encoding: str | None = None) -> dict[str, float]:
        """Accuracies of the SNN and their differences to the ANN's; takes the steps before it if need be.

        The test images are simulated once, for their accuracy and for the analysis.
        """
        result = self.result(encoding)
        if not result.snn:
            self.convert(encoding)
        ann, batch_size, data = self.ann_accuracy(encoding), self.batch_size_snn_eval, self._evaluation_data()
        found = {"snn/timesteps": result.snn.timesteps, "snn/seconds": self._seconds(result.snn, data["test"][0])}
        for part, (images, labels) in data.items():
            also = " and analysis" if part == "test" else ""
            logger.info("%s: accuracy of the SNN%s, %d %s images", result.encoding, also, len(images), part)
            if part == "test":
                batches = conversion.labelled_batches(result.snn, images, labels, batch_size)
                counted, told = screen.counted(batches, len(images)), (self.hardware, self.neuron_updates)
                result.analysis = analyse(result.snn, counted, result.ann.folded, *told)
                accuracy = result.analysis.accuracy
            else:
                accuracy = conversion.snn_accuracy(result.snn, images, labels, batch_size, verbose=1)
            found[f"snn/eval/{part}"] = accuracy
            found[f"snn/diff/{part}"] = accuracy - ann[f"ann/eval/{part}"]
        step = latency(result.analysis.accuracy_per_timestep, ann["ann/eval/test"])
        result.metrics.update(found, **({"snn/latency": step} if step else {}))
        result.metrics |= {tag: float(getattr(result.analysis, name)) for tag, name in ANALYSIS_METRICS.items()}
        return found

    def _seconds(self, snn: spiking.SpikingModel, images: np.ndarray) -> float:
        """Seconds for simulating the images, from the time of their first batch."""
        batch = images[: self.batch_size_snn_eval]
        conversion.predict_batch(snn, batch)  # traced before the clock starts
        start = time.perf_counter()
        conversion.predict_batch(snn, batch)
        return (time.perf_counter() - start) * len(images) / len(batch)

    def snn_activation_analysis(self, encoding: str | None = None) -> Analysis:
        """Where the spikes go and what they cost, over the test images; see `spiking/analysis/statistics.py`.

        Raises:
            RuntimeError: `snn_accuracy`, which simulates them, has not been called.
        """
        result = self.result(encoding)
        if result.analysis is None:
            raise RuntimeError(
                "The analysis explains an accuracy that has been measured. Received: snn_activation_analysis() "
                "before snn_accuracy(). Call snn_accuracy() first, or run()."
            )
        return result.analysis

    def diagnose(self, encoding: str | None = None) -> Diagnosis:
        """What is lost where, why, and what to change, on some training images; converts first if need be."""
        result = self.result(encoding)
        if not result.snn:
            self.convert(encoding)
        images, labels = (each[:DIAGNOSIS_IMAGES] for each in self.data.train)
        logger.info("%s: diagnosis, %d training images", result.encoding, len(images))
        result.diagnosis = conversion.diagnose(result.ann.folded, result.snn, images, labels, self.batch_size_snn_eval)
        return result.diagnosis

    def log(self, encoding: str | None = None) -> Path:
        """Writes metrics, networks, figures, the TensorBoard log and the report. Returns the folder of the run.

        The metrics come first; what of the others cannot be written is told in `problems`.

        Raises:
            RuntimeError: `snn_activation_analysis` has not been called.
            OSError: the metrics cannot be written.
        """
        result = self._analysed(encoding)
        folder, name, images = self.folder, result.encoding, self._evaluation_data()["test"][0][:ACTIVITY_IMAGES]
        self._write_metrics()
        with self._reported(f"diagnosis of {name}"):
            if not result.diagnosis:
                self.diagnose(name)
        with self._reported(f"snn-{name}.keras"):
            folder.save_model(f"snn-{name}.keras", result.snn)
        with self._reported(f"answers of {name}"):
            asked = (each[:ANSWERED_IMAGES] for each in self._evaluation_data()["test"])
            result.answers = answers(result.ann.model, result.snn, *asked)
        with self._reported(f"figures of {name}"):
            logger.info("%s: figures", name)
            result.activities = conversion.ann_and_snn_activations_per_layer(result.ann.folded, result.snn, images)
            result.figures = save_figures(folder, result, self._finished(), images[0])
        self._log_to_tensorboard(result)
        with self._reported("TensorBoard log of the comparison"):
            log_comparison(folder.tblogs / "comparison", self._finished())
        result.activities = {}
        with self._reported("report.html"):
            folder.write_text("report.html", html_report(folder, self._finished()))
        self._logged.add(name)
        return folder.path

    def log_metrics(self, encoding: str | None = None) -> None:
        """The short form of `log`, for hundreds of runs: the metrics, and what TensorBoard shows without figures.

        Raises:
            RuntimeError, OSError: as `log` does.
        """
        result = self._analysed(encoding)
        self._write_metrics()
        self._log_to_tensorboard(result)

    # What the steps share.

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Encoding -> its metrics so far."""
        return {encoding: result.metrics for encoding, result in self.results.items()}

    @property
    def folder(self) -> RunFolder:
        """The folders of this run. They are made, and the configuration is written, when first asked for."""
        if self._folder is None:
            self._folder = RunFolder.claim(self.results_dir, self.name, self.tblogs_dir, self.tensorboard_title)
            self._folder.write_json("config.json", self.configuration())
        return self._folder

    def left(self) -> list[str]:
        """Lines that say what there is of this run so far: the table, the files."""
        if self._folder is None:
            return ["Nothing was written."]
        rows, missing = self.table(), [each for each in self.results if each not in self._logged]
        lines = ["", text_table(rows), summaries.energy_remark(self.metrics.values()), ""] if rows else []
        lines += [f"Not finished: {', '.join(missing)}"] if missing else []
        path, tblogs = self._folder.path, self._folder.tblogs
        page = ", of which report.html shows all" if (path / "report.html").is_file() else ""
        files = sorted(str(each.relative_to(path)) for each in path.rglob("*") if each.is_file())
        lines.append(f"Results:     {path}{page or ': ' + ', '.join(files)}")
        if any(tblogs.iterdir()):
            many = sum(1 for _ in self.tblogs_dir.glob("*/*")) > SHOWN_RUNS
            logs = tblogs if many else self.tblogs_dir
            lines.append(f"TensorBoard: {sys.executable} -m tensorboard.main --logdir {logs}")
        return lines

    def result(self, encoding: str | None = None) -> Result:
        """What there is for an encoding of this experiment."""
        name = self.encoding if encoding is None else spiking.get_encoding(encoding).name
        if name not in self.results:
            raise ValueError(
                f"This experiment is about {list(self.results)}. Received: encoding={encoding!r}. "
                "Name it when making the Experiment."
            )
        return self.results[name]

    def hyperparameters(self, encoding: str) -> dict[str, Any]:
        """The settings in effect for an encoding; see `spiking.runs.results.hyperparameters`."""
        found = hyperparameters(vars(self), spiking.get_encoding(encoding), self.settings[encoding])
        found["image_size_rescale"] = 1.0 if self.image_size_rescale is None else self.image_size_rescale
        found["image_depth_increase"] = ann_training.channel_repeats(self.image_depth_increase)
        if self.model:
            kept = {name: value for name, value in found.items() if name not in OF_TRAINING}
            return {**kept, "dataset": self.data.name, "model": self.network}
        return {**found, "dataset": self.data.name, "training_function": self.network}

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
            **({"model": {"name": self.network, "key": network_key(self.model)}} if self.model else {}),
            "devices": self.strategy.num_replicas_in_sync if self.strategy else 1,
            "dataset": {
                "name": self.data.name,
                "source": self.data.source,
                "fingerprint": self.data.fingerprint,
                "training images": len(self.data.x_train),
                "test images": len(self.data.x_test),
                "image shape": self.data.input_shape,
                "classes": self.data.classes,
            },
            "versions": versions(),
        }

    def _start_anew(self) -> None:
        self._folder: RunFolder | None = None
        self.problems: list[str] = []
        self._logged: set[str] = set()
        self._anns: dict[str, Ann] = {}
        self.results = {
            encoding: Result(
                encoding, settings, {f"experiment/{k}": v for k, v in self.hyperparameters(encoding).items()}
            )
            for encoding, settings in self.settings.items()
        }

    def _analysed(self, encoding: str | None) -> Result:
        result = self.result(encoding)
        if result.analysis is None:
            raise RuntimeError(
                "A finished analysis is logged. Received: log() before snn_activation_analysis(). "
                "Call snn_activation_analysis() first, or run()."
            )
        return result

    def _write_metrics(self) -> None:
        self.folder.write_json("metrics.json", {each.encoding: each.metrics for each in self._finished()})

    def _log_to_tensorboard(self, result: Result) -> None:
        with self._reported(f"TensorBoard log of {result.encoding}"):
            logger.info("%s: TensorBoard log", result.encoding)
            log_to_tensorboard(self.folder.tblogs / result.encoding, result)

    def _finished(self) -> list[Result]:
        return [result for result in self.results.values() if result.analysis is not None]

    def _evaluation_data(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        parts = {} if self.disable_training_accuracy else {"train": self.data.train}
        parts["test"] = self.data.test
        return {part: (x[: self.max_images], y[: self.max_images]) for part, (x, y) in parts.items()}

    @contextlib.contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """For what may fail, whatever the reason, without losing what has been measured."""
        try:
            yield
        except Exception as error:
            self.problems.append(f"Not written: {what} ({type(error).__name__}: {' '.join(str(error).split())})")
            logger.debug("%s", what, exc_info=True)


def default_name(network: str, dataset: str) -> str:
    """Network, data set and time, fit for a folder."""
    named = re.sub(r"[^\w.-]", "_", f"{network}-{dataset}").encode()[: LONGEST_NAME - 16].decode(errors="ignore")
    return f"{named}-{datetime.now():%Y%m%d-%H%M%S}"


# ---------------------------------------------------------------------------------------------------------------------
# Experiments as trials


class ExperimentTask:
    """A trial that is an Experiment with one encoding, without figures and saved SNNs. In the folder lie `runs/`,
    with the trained ANNs in `runs/anns/`, and `tblogs/`, with the hyperparameters.

    Args:
        arguments: of the Experiment, those that are not varied; `names` are those that are.
        metric: an accuracy of the SNN is reported early; for one of the test images, those of training are left out.
        validation: share of the training images on which trials are evaluated in place of the test images; metrics
            then end in "validation" in place of "test". With 0 the test images choose the best configuration, and are
            no longer fit to report its accuracy.
        curve: whether the metrics have the accuracy at each step, too, a list.

    Attributes:
        data: name and fingerprint of the data set, if it is not varied.
        model: key of the trained network that all trials convert; None if each has its own.
    """

    def __init__(self, arguments: Mapping, names: Iterable[str], metric: str, folder: Path, validation: float = 0,
                 curve: bool = False):
        known = set(inspect.signature(Experiment).parameters) - {"name", "tensorboard_title"}
        unknown = (set(arguments) | set(names)) - known
        require(not unknown, "Trials are given arguments of Experiment", ", ".join(sorted(unknown)),
                f"Known are {', '.join(sorted(known))}.")
        encoding, rule = arguments.get("encoding", "rate"), "A trial has one encoding"
        require(isinstance(encoding, str), rule, f"{encoding=}", "Vary it, as DiscreteValues.")
        check_real("validation", validation, "[0, 1)", "It is a share of the training images; 0.1 is usual.")
        self._own = {"results_dir": folder / "runs", "tblogs_dir": folder / "tblogs"}
        self._own = {name: place for name, place in self._own.items() if name not in arguments}
        self.arguments = {**self._own, **arguments}
        self.arguments.setdefault("disable_training_accuracy", metric.endswith(("/test", "/validation")))
        self.metric, self.folder, self.validation, self.curve = metric, folder, validation, curve
        # Wrong arguments shall show now. Options belong to an encoding, which may be among what is varied.
        tried = Experiment(**{name: value for name, value in self.arguments.items() if name != "encoding_options"})
        fixed = not {"dataset", "data_dir", "image_size_rescale", "image_depth_increase"} & set(names)
        self.data = {"name": tried.data.name, "fingerprint": tried.data.fingerprint} if fixed else None
        self.model = tried.training_key() if tried.model and "model" not in names else None

    def __call__(self, number: int, values: Mapping, report: Report | None = None) -> dict[str, Any]:
        arguments = {**self.arguments, **values, "name": f"trial-{number:05d}"}
        if self.validation:
            source, place = arguments.get("dataset", "mnist_sample"), arguments.get("data_dir")
            data = ann_training.load_dataset(source, data_dir=place)
            arguments["dataset"] = data.for_validation(self.validation)
        for place in self._own.values():  # an interrupted trial of this number may have left something
            shutil.rmtree(place / arguments["name"], ignore_errors=True)
        experiment = Experiment(**arguments)
        with locked(self.folder / f".training-{experiment.training_key()}.lock", wait=True):
            experiment.train()  # other processes wait for this ANN, then find it in the cache
        experiment.measure(report=report if self.metric == self._named("snn/eval/test") else None)
        result = experiment.result()
        result.metrics = {self._named(metric): value for metric, value in result.metrics.items()}
        experiment.log_metrics()
        for problem in experiment.problems:
            logger.warning("Trial %d: %s", number, problem)
        curve = {CURVE: list(result.analysis.accuracy_per_timestep)} if self.curve else {}
        return {**result.metrics, **curve}

    def _named(self, metric: str) -> str:
        return re.sub("/test$", "/validation", metric) if self.validation else metric


def as_task(objective, names: Sequence[str], metric: str, folder: Path, validation: float = 0,
            curve: bool = False) -> tuple[Task, dict[str, Any]]:
    """The trials of an objective: a function, or a dict of arguments of an Experiment; and what they have in common."""
    if isinstance(objective, Mapping):
        task = ExperimentTask(objective, names, metric, folder, validation, curve)
        common = {name: value for name, value in objective.items() if name != "strategy"}  # devices change no result
        data, model = {"data": task.data} if task.data else {}, {"model": task.model} if task.model else {}
        return task, {"arguments": plain(common), **data, **model}
    fits, rule = callable(objective) and not validation, "An objective is a function, or Experiment's arguments"
    require(fits, rule, f"{objective!r}, {validation=}", "Only Experiments have validation; give arguments by name.")
    return function_task(objective, names, metric), {"arguments": {}}


class RepeatedExperiment(Repetition):
    """The same experiments several times, with seeds derived from one; resumable, see `Repetition`.

        RepeatedExperiment(encoding="ttfs", timesteps=[60, 120], repetitions=25).run_repeat()
        RepeatedExperiment({"encoding": "ttfs"}, 25, timesteps=[60, 120], folder="experiments/ttfs").run()

    Args:
        objective: arguments of an Experiment; or a function of `seed` and the arguments of the grid, as
            `optimization.search` takes it; or `None`, and an Experiment's arguments are given by name.
        repetitions: how often each cell of the grid is run, with one seed per repetition, the same in all cells.
        timesteps: a number; or `[start, stop]` or `[start, stop, step]`, an axis of the grid, `stop` included.
        grid: argument -> its values. All combinations are run, the `cells`.
        seed: from which those of the repetitions are derived.
        folder: for the `records` and tables, and for the runs. Default: "experiments/repeated", or as `name` and
            `results_dir` among the arguments say.
        arguments: of an Experiment. Several encodings are an axis of the grid; the logs for TensorBoard are in the
            folder, or where `tblogs_dir` and `tensorboard_title` say.
    """

    def __init__(self, objective: Callable[..., Any] | Mapping[str, Any] | None = None, repetitions: int = 1,
                 timesteps: int | Sequence[int] | None = None, grid: Mapping[str, Sequence] | None = None, *,
                 seed: int = 0, folder: str | os.PathLike | None = None, **arguments):
        require(objective is None or not arguments, "An experiment's arguments are given by name, or as one dict",
                f"a {type(objective).__name__}, and {', '.join(arguments)}", "Put all into the dict, or leave it out.")
        if objective is None:
            objective, grid, folder = arguments_as_given(arguments, grid, folder)
        axes = checked_axes(timesteps, grid)
        require(callable(objective) or "seed" not in objective, "Seeds of runs are derived",
                "a seed among the arguments", "Give the one to derive them from: RepeatedExperiment(…, seed=…).")
        check_whole("repetitions", repetitions, 1)
        check_whole("seed", seed)
        folder = Path(folder or Path("experiments", "repeated")).expanduser().absolute()
        task, facts = as_task(objective, ["seed", *axes], "value", folder, curve=True)
        super().__init__(task, repetitions, axes, seed, folder, facts)

    def run_repeat(self, timestep_analysis: bool = False, retry_failed: bool = False):
        """Does the runs that have not been done.

        Args:
            timestep_analysis: whether the accuracy had the simulation ended at each step is wanted, too.
            retry_failed: see `run`.

        Returns:
            The `summary`; with `timestep_analysis` a pair of it and of the accuracies, label of a cell ->
            `(runs, timesteps)`.
        """
        summary = self.run(retry_failed)
        return (summary, self.series(CURVE)) if timestep_analysis else summary


def arguments_as_given(arguments: Mapping, grid: Mapping | None, folder) -> tuple[dict, dict, Path]:
    """An Experiment's arguments as those of trials, with the grid and the folder that they ask for."""
    arguments, grid = dict(arguments), dict(grid or {})
    name, results_dir = arguments.pop("name", None), arguments.pop("results_dir", "experiments")
    title, tblogs_dir = arguments.pop("tensorboard_title", None), arguments.pop("tblogs_dir", None)
    folder = Path(folder or Path(results_dir) / check_name("name", name or "repeated"))
    if title or tblogs_dir:
        arguments["tblogs_dir"] = Path(tblogs_dir or "tblogs") / check_name("tensorboard_title", title or folder.name)
    if not isinstance(arguments.get("encoding", ""), str):
        grid["encoding"] = arguments.pop("encoding")
    return arguments, grid, folder


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def arguments_of(argv: Sequence[str] | None) -> dict[str, Any]:
    """What the command line gives, by name."""
    parser = argument_parser(ann_training.TRAINING_FUNCTIONS, ann_training.DATASETS, DEFAULT_NETWORK)
    return vars(parser.parse_args(argv))


def command_line(given: dict[str, Any]) -> "Experiment":
    """The experiment that the command line describes.

    Raises:
        ValueError, OSError: as `Experiment` does.
    """
    given = {name: value for name, value in given.items() if name != "compare"}
    options = typed_options(given.pop("options"), given["encoding"])
    accuracy = given.pop("training_accuracy")
    strategy = mirrored_strategy(given.pop("devices"))
    return Experiment(**given, encoding_options=options, disable_training_accuracy=not accuracy, strategy=strategy)


def main(argv: Sequence[str] | None = None) -> None:
    """`python experiment.py`: runs one experiment and prints how the encodings compare; or compares all runs."""
    given = arguments_of(argv)
    screen.show_messages()
    experiment, code, lines = None, 0, []
    try:
        if given["compare"]:
            table = compare(given["results_dir"]) if "results_dir" in given else compare()
            print(f"{table}\n\nPage:  {table.folder / PAGE}\nTable: {table.folder / TABLE}")
            return
        experiment = command_line(given)
        experiment.run()
        code = 1 if experiment.problems else 0
    except KeyboardInterrupt:
        code, lines = 130, ["", "Interrupted."]  # 128 + SIGINT, as shells have it
    except (ValueError, OSError, tf.errors.OpError) as error:
        code = 2 if experiment is None else 1
        print(f"experiment: error: {' '.join(str(error).split())}", file=sys.stderr)
    lines += experiment.left() if experiment else ["Nothing was written."] if lines else []
    if lines:
        print("\n".join(lines))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
