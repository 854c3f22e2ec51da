"""Trials: hundreds of runs, each on disk in the moment it ends. Search (random, Optuna) and repetition.

    space = [
        OptimizableValue("threshold", DiscreteInterval(1, 20, 1)),
        OptimizableValue("norm_percentile", RealInterval("uniform", low=95, high=100)),
    ]
    found = search({"encoding": "ttfs"}, space, 100, "snn/eval/validation", validation=0.1, folder="experiments/ttfs")
    Experiment(**found.best[0]["arguments"]).run()

or `python optimization.py --encoding ttfs --vary threshold=1:20:1 --folder experiments/ttfs`.

A *trial* calls a function, or runs an Experiment, with some values. In the moment it ends it becomes a *record*, a dict
of plain values, and is on disk; whatever stops the process, the same command continues. Records lie in a `Ledger`, a
file that belongs to one process at a time, or in an Optuna study, which any number of processes and machines share.
"""

import abc
import argparse
import ast
import contextlib
import csv
import functools
import gc
import hashlib
import inspect
import io
import itertools
import json
import logging
import math
import numbers
import os
import re
import shutil
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows: only its user keeps a second process out of a folder
    fcntl = None

logger = logging.getLogger(__name__)

TABLE_SECONDS = 10  # between two rewritings of the tables while trials run; records never wait
FREE_SECONDS = 0.5  # of a trial after which TensorFlow's graphs and networks are freed, which takes its time, too
REPORTED_SHARES = (0.1, 0.3)  # of the images, after which a trial that is an Experiment may be pruned
HEARTBEAT_SECONDS = 5  # between two signs of life of a worker
PATIENCE_SECONDS = 30  # a worker without a sign of life for so long is taken for dead
POLL_SECONDS = 0.2  # between two looks at a study while other workers finish the last trials
QUANTILE_DRAWS = 2**16

Record = dict[str, Any]  # of a trial: "number", "values", "seconds", and by how it ended "metrics", "error", "pruned"


def require(holds, rule: str, received: str, remedy: str) -> None:
    """Raises a ValueError, in the form all errors of the project have, unless the rule holds."""
    if not holds:
        raise ValueError(f"{rule} Received: {received}. {remedy}")


def require_number(name: str, value, kind: type = numbers.Real, least: float = -math.inf) -> None:
    """Raises a ValueError unless the value is a finite number of that kind."""
    fits = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and value >= least
    rule = f"{name} must be a " + ("finite number." if kind is numbers.Real else f"whole number of at least {least}.")
    require(fits, rule, f"{name}={value!r}", "Take such a number.")


def checked_values(values: Sequence) -> list:
    """The values as a list, once they are known to be at least one."""
    fits = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) and len(values) > 0
    require(fits, "Values are a list of one value or more.", repr(values), "Put them into [ ].")
    return list(values)


def derived_seed(seed: int, number: int) -> int:
    """The seed of repetition or trial `number`, from 0 to 2**32 - 1."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


# --- A trial ---------------------------------------------------------------------------------------------------

class Pruned(Exception):
    """The trial is not worth finishing. Raised by `report`."""


# f(number, values, report) does a trial and returns its metrics. Where nothing is pruned, the report is None.
Report = Callable[[int, float], None]
Task = Callable[[int, dict, Report | None], Mapping[str, Any]]


def attempt(task: Task, number: int, values: dict, metrics: Sequence[str], report: Report | None = None) -> Record:
    """Runs a trial. Its errors become part of the record; but a missing metric, all others would lack, too."""
    record, start = {"number": number, "values": values}, time.perf_counter()
    try:
        record["metrics"] = found = {name: plain(value) for name, value in task(number, values, report).items()}
    except Pruned:
        record["pruned"] = True
    except Exception as error:
        logger.warning("Trial %d failed", number, exc_info=True)
        record["error"] = f"{type(error).__name__}: {error}"
    record["seconds"] = time.perf_counter() - start
    if "keras" in sys.modules and record["seconds"] > FREE_SECONDS:
        sys.modules["keras"].backend.clear_session()
        gc.collect()
    for name in metrics if "metrics" in record else ():
        numeric = [key for key, value in found.items() if isinstance(value, int | float)]
        require(name in numeric, "The objective returns every metric as a number.", f"metric={name!r}",
                f"Returned are {', '.join(numeric) or 'no numbers'}.")
        if math.isnan(found[name]):
            record["error"] = f"ValueError: {name} is not a number (NaN)"
    return record


def plain(value):
    """The value in terms of JSON. Functions become their names, arrays a digest, what JSON does not know its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {hashlib.sha256(np.ascontiguousarray(value)).hexdigest()[:16]}"
    if isinstance(value, np.generic):
        return value.item()
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def function_task(function: Callable, names: Sequence[str], metric: str) -> Task:
    """Trials that call a function with the values as keywords; see `search`. A number it returns is the metric."""
    takes_report = "report" in inspect.signature(function).parameters
    try:
        inspect.signature(function).bind(**dict.fromkeys([*names, *["report"] * takes_report]))
    except TypeError as error:
        rule = f"The objective takes the varied values as keywords ({error}). Received: {list(names)}."
        raise ValueError(f"{rule} Give it arguments of these names, and defaults to all others.") from error

    def task(number, values, report):
        extra = {"report": report or (lambda step, value: None)} if takes_report else {}
        found = function(**values, **extra)
        return {metric: found} if isinstance(found, numbers.Real) else found

    return task


class ExperimentTask:
    """A trial that is an Experiment with one encoding, without figures and saved SNNs. In the folder lie `runs/`,
    with the trained ANNs in `runs/anns/`, and `tblogs/`, with the hyperparameters.

    Args:
        arguments: of the Experiment, those that are not varied; `names` are those that are.
        metric: an accuracy of the SNN is reported early; for one of the test images, those of training are left out.
        validation: share of the training images on which trials are evaluated in place of the test images; metrics
            then end in "validation" in place of "test". With 0 the test images choose the best configuration, and are
            no longer fit to report its accuracy.
    """

    # What has a say in the training of the ANN, beside the activation.
    TRAINING = ("training_function", "dataset", "data_dir", "epochs", "batch_size_ann_training", "seed")
    TRAINING += ("image_size_rescale", "image_depth_increase")

    def __init__(self, arguments: Mapping, names: Iterable[str], metric: str, folder: Path, validation: float):
        from experiment import Experiment

        known = set(inspect.signature(Experiment).parameters) - {"name", "tensorboard_title"}
        unknown = (set(arguments) | set(names)) - known
        require(not unknown, "Trials are given arguments of Experiment.", ", ".join(sorted(unknown)),
                f"Known are {', '.join(sorted(known))}.")
        encoding, rule = arguments.get("encoding", "rate"), "A trial has one encoding."
        require(isinstance(encoding, str), rule, f"{encoding=}", "Vary it, as DiscreteValues.")
        require(0 <= validation < 1, "validation is a share in [0, 1).", f"{validation=}", "0.1 is usual.")
        self.arguments = {"results_dir": folder / "runs", "tblogs_dir": folder / "tblogs", **arguments}
        self.arguments.setdefault("disable_training_accuracy", metric.endswith(("/test", "/validation")))
        self.metric, self.folder, self.validation = metric, folder, validation
        # Wrong arguments shall show now. Options belong to an encoding, which may be among what is varied.
        Experiment(**{name: value for name, value in self.arguments.items() if name != "encoding_options"})

    def __call__(self, number, values, report):
        from conversion import snn_accuracy
        from experiment import Experiment, log_to_tensorboard

        arguments = {**self.arguments, **values, "name": f"trial-{number:05d}"}
        training = plain([arguments.get(name) for name in self.TRAINING])
        if self.validation:
            arguments["dataset"] = self._split(arguments)
        for parent in (Path(arguments["results_dir"]), Path(arguments["tblogs_dir"])):
            if self.folder in parent.parents:  # an interrupted trial of this number may have left something
                shutil.rmtree(parent / arguments["name"], ignore_errors=True)
        experiment = Experiment(**arguments)
        training.append(str(experiment.ann_activation(experiment.encoding)))
        digest = hashlib.sha256(json.dumps(training).encode()).hexdigest()[:16]
        with locked(self.folder / f".training-{digest}.lock", wait=True):
            experiment.train()  # other processes wait for this ANN, then find it in the cache
        experiment.convert()
        early = REPORTED_SHARES if report is not None and self.metric == self._named("snn/eval/test") else ()
        images, labels = (part[: experiment.max_images] for part in experiment.data.test)
        for count in (math.ceil(share * len(images)) for share in early):
            report(count, snn_accuracy(experiment.result().snn, images[:count], labels[:count]))
        experiment.ann_accuracy()
        experiment.snn_accuracy()
        experiment.snn_activation_analysis()
        result = experiment.result()
        result.metrics = {self._named(metric): value for metric, value in result.metrics.items()}
        log_to_tensorboard(experiment.folder.tblogs / result.encoding, result)
        experiment.folder.write_json("metrics.json", experiment.metrics)
        return result.metrics

    def _named(self, metric: str) -> str:
        return re.sub("/test$", "/validation", metric) if self.validation else metric

    def _split(self, arguments) -> tuple:
        """The training images in two parts: for training, and for validation."""
        import ann_training

        source = arguments.get("dataset", "mnist_sample")
        images, labels = ann_training.load_dataset(source, data_dir=arguments.get("data_dir")).train
        order = np.random.default_rng(0).permutation(len(images))  # files are often sorted by class
        parts = np.split(order, [len(images) - max(1, round(self.validation * len(images)))])
        return tuple((images[part], labels[part]) for part in parts)


def as_task(objective, names: Sequence[str], metric: str, folder: Path, validation: float = 0) -> Task:
    """The trials of an objective: a function, or a dict of arguments of an Experiment."""
    if isinstance(objective, Mapping):
        return ExperimentTask(objective, names, metric, folder, validation)
    fits, rule = callable(objective) and not validation, "An objective is a function, or Experiment's arguments."
    require(fits, rule, f"{objective!r}, {validation=}", "Only Experiments have validation.")
    return function_task(objective, names, metric)


def plain_arguments(objective) -> dict[str, Any]:
    """The arguments that trials have in common, in terms of JSON, but for the devices, which change no result."""
    return {} if callable(objective) else plain({k: v for k, v in objective.items() if k != "strategy"})


# --- Records on disk -------------------------------------------------------------------------------------------

@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Holds the lock of a file; yields whether it does. However the process ends, the system takes the lock back."""
    with path.open("a") as file:
        held = True
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        yield held


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        unfinished.write_bytes(text.encode())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content) -> None:
    """Writes strict JSON: numbers that are infinite or NaN become null."""
    strict = json.loads(json.dumps(plain(content)), parse_constant=lambda _: None)
    write_atomically(path, json.dumps(strict, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows; the columns are all keys, in the order in which they come up."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: plain(value) for key, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def ending(record: Record) -> str:
    """How a trial ended, in Optuna's terms."""
    return "FAIL" if "error" in record else "PRUNED" if "pruned" in record else "COMPLETE"


def table_row(record: Record) -> dict[str, Any]:
    """A record as a row of a table."""
    row = {"number": record["number"], "ended": ending(record), **record["values"], **record.get("metrics", {})}
    return {**row, "seconds": record["seconds"], "error": record.get("error")}


def in_a_line(record: Record, metrics: Sequence[str]) -> str:
    """A record in a line."""
    values = ", ".join(f"{name}={plain(value)}" for name, value in record["values"].items())
    results = ", ".join(f"{name}={record['metrics'][name]:.5g}" for name in metrics if "metrics" in record)
    return f"trial {record['number']}: {values}: {record.get('error') or results or 'done'}"


def check_signature(kept: Mapping | None, signature: Mapping, place: str) -> None:
    """Raises a ValueError if the records of a place were made under other rules than those of now."""
    changed = [key for key, value in json.loads(json.dumps(signature)).items() if kept and kept.get(key) != value]
    received = "; ".join(f"{key} was {kept.get(key)}, is {signature[key]}" for key in changed)
    require(not changed, f"Trials of one place agree in {', '.join(signature)}, so that they can be compared.",
            f"{place}, where {received}", "Choose another folder, or restore the old settings.")


class Ledger:
    """The records of a folder, a line each in a file. They outlive everything but the disk. See `open_ledger`."""

    def __init__(self, file):
        self._file, self.records = file, {}
        file.seek(0)
        text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            logger.warning("The last record in %s is incomplete; its trial is done again", file.name)
            file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                self.records[record["number"]] = record
            except (ValueError, TypeError, KeyError) as error:
                rule = f"Every line is a record in JSON ({error}). Received: line {number} of {file.name}."
                raise ValueError(f"{rule} Delete the line: its trial is then done again.") from error

    def run(self, task: Task, plan: Iterable[dict], metrics: Sequence[str], publish: Callable):
        """Does the trials of a plan that have no record, and from time to time calls `publish` with all records."""
        published = time.monotonic()
        try:
            for number, values in enumerate(plan):
                if number not in self.records:
                    record = attempt(task, number, values, metrics)
                    self._file.write(json.dumps(record, default=plain).encode() + b"\n")
                    self._file.flush()
                    os.fsync(self._file.fileno())  # from here on nothing but the disk can lose it
                    self.records[number] = record
                    logger.info("%s", in_a_line(record, metrics))
                if time.monotonic() - published > TABLE_SECONDS:
                    publish(list(self.records.values()))
                    published = time.monotonic()
        finally:
            self.records = dict(sorted(self.records.items()))
            publish(list(self.records.values()))


@contextlib.contextmanager
def open_ledger(folder: Path, signature: Mapping[str, Any]) -> Iterator[Ledger]:
    """The ledger of a folder, which no other process can open meanwhile. The signature is what all records share."""
    place = f"folder={str(folder)!r}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock") as alone, (folder / "trials.jsonl").open("a+b") as file:
        require(alone, "One process at a time runs trials in a folder.", f"{place}, where one is running",
                "Wait for it, or share the work through a storage.")
        path = folder / "signature.json"
        check_signature(json.loads(path.read_text("utf-8")) if path.exists() else None, signature, place)
        write_atomically(path, json.dumps(signature, indent=1))
        yield Ledger(file)


# --- Repetition ------------------------------------------------------------------------------------------------

class RepeatedExperiment:
    """The same experiments several times, with seeds derived from one; resumable as `search` is.

    The folder gets `runs.csv`, a row per run; `summary.csv` and `summary.json`, all numbers of each cell of the grid
    with mean, standard deviation and 95% confidence interval of the mean (Student's t).

    Args:
        objective: arguments of an Experiment; or a function of `seed` and the arguments of the grid, as `search` has.
        repetitions: how often each cell of the grid is run, with one seed per repetition, the same in all cells. It
            may be raised later: the runs that are there stay.
        timesteps: `[start, stop]` or `[start, stop, step]`: an axis of the grid, `stop` included.
        grid: argument -> its values. All combinations are run, the `cells`.
        seed: from which those of the repetitions are derived; `folder` is for the `records` and tables.
    """

    def __init__(self, objective: Callable[..., Any] | Mapping[str, Any], repetitions: int = 1,
                 timesteps: Sequence[int] | None = None, grid: Mapping[str, Sequence] | None = None, *, seed: int = 0,
                 folder: str | os.PathLike = "experiments/repeated"):
        axes = {name: checked_values(values) for name, values in (grid or {}).items()}
        if timesteps is not None:
            fits = len(timesteps) in (2, 3) and all(isinstance(n, numbers.Integral) and n > 0 for n in timesteps)
            rule = "timesteps is [start, stop] or [start, stop, step], whole numbers above 0, and no part of the grid."
            require(fits and timesteps[0] <= timesteps[1] and "timesteps" not in axes, rule, f"{timesteps=}, {grid=}",
                    "Put other series into the grid.")
            axes["timesteps"] = list(range(timesteps[0], timesteps[1] + 1, *timesteps[2:]))
        require("seed" not in axes and (callable(objective) or "seed" not in objective), "Seeds of runs are derived.",
                "a seed among the arguments", "Give the one to derive them from: RepeatedExperiment(…, seed=…).")
        require_number("repetitions", repetitions, numbers.Integral, 1)
        require_number("seed", seed, numbers.Integral, 0)
        self.objective, self.axes, self.repetitions, self.seed = objective, axes, repetitions, seed
        self.cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        self.folder = Path(folder).expanduser().absolute()
        self.records: list[Record] = []

    def run(self) -> list[dict[str, Any]]:
        """Does the runs that have not been done. Returns the `summary`."""
        task = as_task(self.objective, ["seed", *self.axes], "value", self.folder)
        signature = {"grid": plain(self.axes), "seed": self.seed, "arguments": plain_arguments(self.objective)}
        # Repetition by repetition: what is there first can be compared, and further repetitions come at the end.
        seeds = (derived_seed(self.seed, repetition) for repetition in range(self.repetitions))
        plan = ({**cell, "seed": seed} for seed in seeds for cell in self.cells)
        with open_ledger(self.folder, signature) as ledger:
            ledger.run(task, plan, (), self._publish)
        return self.summary()

    def summary(self) -> list[dict[str, Any]]:
        """A row per cell and metric: n, mean, sd, and the 95% confidence interval from low to high."""
        return [
            {**cell, "metric": metric, **statistics(runs[~np.isnan(runs)])}
            for metric in self.metrics()
            for cell, runs in zip(self.cells, self._numbers(metric).T, strict=True)
        ]

    def metrics(self) -> list[str]:
        """The names of all numbers that runs returned."""
        found = (record.get("metrics", {}).items() for record in self.records)
        return list(dict.fromkeys(name for each in found for name, value in each if isinstance(value, int | float)))

    def values(self, metric: str) -> dict[str, np.ndarray]:
        """Label of a cell -> its values, `(runs,)`, as `plotting.repeated_box_plot` takes them."""
        numbers = zip(self.cells, self._numbers(metric).T, strict=True)
        return {self._label(cell): runs[~np.isnan(runs)] for cell, runs in numbers if not np.isnan(runs).all()}

    def curves(self, metric: str, over: str = "timesteps") -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Values of an axis of numbers, and label -> `(whole repetitions, values)`; see `plotting.repeated_curves`."""
        require(over in self.axes, "Curves go along an axis of the grid.", f"{over=}", f"It has {list(self.axes)}.")
        x, order = np.unique(self.axes[over], return_index=True)
        grid = self._numbers(metric).reshape(self.repetitions, *map(len, self.axes.values()))
        lines = np.moveaxis(grid, 1 + list(self.axes).index(over), -1)[..., order].reshape(self.repetitions, -1, len(x))
        curves = zip(dict.fromkeys(self._label(cell, over) for cell in self.cells), lines.swapaxes(0, 1), strict=True)
        return x, {label: each[whole] for label, each in curves if (whole := ~np.isnan(each).any(axis=1)).any()}

    def _numbers(self, metric: str) -> np.ndarray:
        """The metric of all runs, `(repetitions, cells)`; NaN where there is none."""
        require(metric in self.metrics(), "A metric is a number that runs returned.", f"{metric=}",
                f"Known: {', '.join(self.metrics()) or 'none yet'}.")
        numbers = np.full((self.repetitions, len(self.cells)), np.nan)
        for record in self.records:
            value = record.get("metrics", {}).get(metric)
            numbers.flat[record["number"]] = value if isinstance(value, int | float) else np.nan
        return numbers

    def _label(self, cell: Mapping, without: str = "") -> str:
        """What tells a cell from the others."""
        telling = [name for name, values in self.axes.items() if len(values) > 1 and name != without]
        return ", ".join(f"{name}={plain(cell[name])}" for name in telling) or "all runs"

    def _publish(self, records: list[Record]) -> None:
        self.records = [record for record in records if record["number"] < self.repetitions * len(self.cells)]
        write_csv(self.folder / "runs.csv", [table_row(record) for record in self.records])
        write_csv(self.folder / "summary.csv", self.summary())
        write_json(self.folder / "summary.json", {"summary": self.summary(), "runs": self.records})


def statistics(values: np.ndarray) -> dict[str, Any]:
    """Number, mean, standard deviation of a sample, and 95% confidence interval of the mean; `None` for too few."""
    found = {"n": len(values), "mean": values.mean() if len(values) else None, "sd": None, "low": None, "high": None}
    if len(values) > 1 and np.isfinite(values).all():
        from plotting import confidence_95

        found["sd"], (found["low"], found["high"]) = values.std(ddof=1), confidence_95(values)
    return plain(found)


# --- Search spaces ---------------------------------------------------------------------------------------------

class Distribution(abc.ABC):
    """What a value is drawn from. Its `repr` is the call that makes it: equal texts, equal distributions."""

    @abc.abstractmethod
    def draw(self, random: np.random.Generator):
        """A value drawn at random."""

    @abc.abstractmethod
    def suggest(self, trial, name: str):
        """The value that Optuna wants to see tried as parameter `name` of a trial."""


class DiscreteInterval(Distribution):
    """`start`, `start + step`, … below `stop`, all equally likely: `DiscreteInterval(1, 5, 1)` holds 1, 2, 3 and 4.

    Ints if `start` and `step` are; fractions as written: `DiscreteInterval(0.1, 0.4, 0.1)` holds 0.1, 0.2 and 0.3.
    """

    def __init__(self, start: float, stop: float, step: float = 1):
        self.start, self.stop, self.step = start, stop, step
        for name, value in {"start": start, "stop": stop, "step": step}.items():
            require_number(name, value)
        rule = "An interval goes from start up to stop in steps above 0."
        require(step > 0 and start < stop, rule, f"{self}", "Swap start and stop, or change the step.")
        self._first, end, self._step = (Fraction(str(value)) for value in (start, stop, step))
        self.count = math.ceil((end - self._first) / self._step)
        self._kind = int if all(isinstance(value, numbers.Integral) for value in (start, step)) else float

    def __getitem__(self, index: int):
        return self._kind(self._first + index * self._step)

    def draw(self, random):
        return self[int(random.integers(self.count))]

    def suggest(self, trial, name):
        suggest = trial.suggest_int if self._kind is int else trial.suggest_float
        suggested = suggest(name, self[0], self[self.count - 1], step=self._kind(self._step))
        return self[round((suggested - self.start) / self.step)]  # without the rounding errors of adding steps

    def __repr__(self):
        return f"DiscreteInterval({self.start}, {self.stop}, {self.step})"


class RealInterval(Distribution):
    """A random number of NumPy's Generator, whose method of that name takes the keywords.

    Optuna knows uniform numbers only: of the others it varies the quantile, in [0, 1]. The quantiles are those of
    `QUANTILE_DRAWS` draws with a fixed seed, so that every process finds the same.
    """

    # Distribution -> the method of `numpy.quantile` that finds only values it can have.
    DISTRIBUTIONS = {"normal": "linear", "uniform": "linear", "poisson": "inverted_cdf", "beta": "linear"}

    def __init__(self, distribution: str, **keywords: float):
        self.distribution, self.keywords = distribution, keywords
        require(distribution in self.DISTRIBUTIONS, "Unknown distribution.", f"{distribution!r}",
                f"Choose one of {', '.join(self.DISTRIBUTIONS)}.")
        for name, value in keywords.items():
            require_number(name, value)
        self.bounds = keywords.get("low", 0.0), keywords.get("high", 1.0)  # of a uniform distribution
        require(self.bounds[0] < self.bounds[1], "low must be below high.", f"{self}", "Swap them.")
        try:
            require_number("a draw", self.draw(np.random.default_rng(0)))
        except (TypeError, ValueError) as error:
            rule = f"NumPy's {distribution} must accept the keywords, and draw a number ({error})."
            raise ValueError(f"{rule} Received: {self}. See numpy.random.Generator.{distribution}.") from error

    def draw(self, random):
        return plain(getattr(random, self.distribution)(**self.keywords))

    def suggest(self, trial, name):
        if self.distribution == "uniform":
            return trial.suggest_float(name, *self.bounds)
        draws = getattr(np.random.default_rng(0), self.distribution)(**self.keywords, size=QUANTILE_DRAWS)
        return np.quantile(draws, trial.suggest_float(name, 0, 1), method=self.DISTRIBUTIONS[self.distribution]).item()

    def __repr__(self):
        return f"RealInterval({self.distribution!r}{''.join(f', {k}={v}' for k, v in sorted(self.keywords.items()))})"


class DiscreteValues(Distribution):
    """One of a list of values, all equally likely. To Optuna they are categories, without an order."""

    def __init__(self, values: Sequence):
        self.values = checked_values(values)

    def draw(self, random):
        return self.values[int(random.integers(len(self.values)))]

    def suggest(self, trial, name):
        named = {repr(plain(value)): value for value in self.values}
        return named[trial.suggest_categorical(name, list(named))]

    def __repr__(self):
        return f"DiscreteValues({plain(self.values)})"


class OptimizableValue:
    """An argument that is varied: its name, and what its values are drawn from.

    The seed is that of `get`; `None` gives other values in each process. A search has a seed of its own.
    """

    def __init__(self, name: str, distribution: Distribution, seed: int | None = None):
        fits = isinstance(name, str) and name.isidentifier() and isinstance(distribution, Distribution)
        require(fits, "A value has the name of an argument, and a distribution.", f"{name=}, {distribution=}",
                "Make a DiscreteInterval, RealInterval or DiscreteValues.")
        require_number("seed", seed or 0, numbers.Integral, 0)
        self.name, self.distribution, self._random = name, distribution, np.random.default_rng(seed)

    def get(self):
        """The next value; there is no last one."""
        return self.distribution.draw(self._random)


def drawn_values(space: Iterable[OptimizableValue], seed: int, number: int) -> dict[str, Any]:
    """The values of a trial of a random search. They depend on seed, number and the value's name alone."""
    own = {value: np.random.default_rng([seed, number, zlib.crc32(value.name.encode())]) for value in space}
    return {value.name: value.distribution.draw(random) for value, random in own.items()}


# --- Search ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class SearchResult:
    """What a search has found: the records of all trials, by number, for these objectives.

    `arguments` are those of an Experiment that were not varied. `folder` holds `trials.csv`, `best.json`, and
    `pareto.png` if three objectives were accuracy, latency and synaptic operations of Experiments, in this order.
    """

    records: list[Record]
    metrics: list[str]
    directions: list[str]
    arguments: Mapping[str, Any]
    folder: Path

    @functools.cached_property
    def best(self) -> list[Record]:
        """The trials that no other one beats, the earliest of equals, each with the "arguments" to run it again.

        At most one for one objective; for several the Pareto front: no other is at least as good in all, better in one.
        """
        finished = [record for record in self.records if ending(record) == "COMPLETE"]
        signs = [1 if direction == "minimize" else -1 for direction in self.directions]
        costs = np.array([[record["metrics"][name] for name in self.metrics] for record in finished]) * signs
        first = sorted(np.unique(costs, axis=0, return_index=True)[1]) if finished else []
        unbeaten = [i for i in first if not ((costs <= costs[i]).all(axis=1) & (costs < costs[i]).any(axis=1)).any()]
        return [{**finished[i], "arguments": {**self.arguments, **finished[i]["values"]}} for i in unbeaten]

    def table(self, limit: int = 10) -> str:
        """The best trials, printable."""
        ends = list(map(ending, self.records))
        head = f"{len(ends)} trials, {ends.count('PRUNED')} pruned, {ends.count('FAIL')} failed. Best:"
        return "\n".join([head, *(in_a_line(record, self.metrics) for record in self.best[:limit])])

    def write(self) -> None:
        """Writes the files of the folder."""
        write_csv(self.folder / "trials.csv", [table_row(record) for record in self.records])
        write_json(self.folder / "best.json", {"metric": self.metrics, "direction": self.directions, "best": self.best})
        drawable = self.directions == ["maximize", "minimize", "minimize"]
        if drawable and any("experiment/encoding" in record["metrics"] for record in self.best):
            import plotting

            found = [record["metrics"] for record in self.records if ending(record) == "COMPLETE"]
            columns = ([metrics[name] for metrics in found] for name in self.metrics)
            figure = plotting.pareto_front(*columns, [metrics["experiment/encoding"] for metrics in found])
            plotting.save(figure, self.folder / "pareto.png")


def search(objective: Callable[..., Any] | Mapping[str, Any], space: Iterable[OptimizableValue], trials: int,
           metric: str | Sequence[str], direction: str | Sequence[str] = "maximize", *, seed: int = 0,
           folder: str | os.PathLike = "experiments/search", storage: str | None = None,
           validation: float = 0.0) -> SearchResult:
    """Tries configurations until there are `trials` of them, counting those of earlier calls with the same folder.

    Without a storage this is a random search: the values of a trial depend on `seed` and its number alone, so that an
    interrupted search and its continuation give what one search gives. With a storage, Optuna's TPE sampler chooses
    the values, and all processes with the same storage and folder name share the trials. With one objective, trials
    are pruned whose reported value is worse than the median of the earlier ones at the same step.

    Args:
        objective: arguments of an Experiment, see `ExperimentTask`; or a function that takes the values as keywords
            and returns a dict of metrics, or the metric. If it has an argument `report`, it can call
            `report(step, value)` with values of the metric on the way; this raises `Pruned` where Optuna advises it.
        trials: number of trials that end, all processes together; failed and pruned ones count.
        metric: the objective, or several of them, each with the direction "maximize" or "minimize".
        folder: for records and tables. Its name is that of the Optuna study.
        storage: `None`; or the file of a journal; or an SQLite file (.db, .sqlite, .sqlite3); or a database URL, such
            as postgresql://user@host/database.
        validation: see `ExperimentTask`.
    """
    space, metrics = list(space), [metric] if isinstance(metric, str) else list(metric)
    directions, names = [direction] if isinstance(direction, str) else list(direction), [each.name for each in space]
    directions *= len(metrics) if len(directions) == 1 else 1
    require(names and len(set(names)) == len(names), "A space has values, each of a name of its own.", f"{names}",
            "Add or rename some.")
    require(metrics and len(metrics) == len(directions) and set(directions) <= {"maximize", "minimize"},
            "A metric has the direction 'maximize' or 'minimize'.", f"{metric=}, {direction=}", "Give one for each.")
    require_number("trials", trials, numbers.Integral, 1)
    require_number("seed", seed, numbers.Integral, 0)
    folder = Path(folder).expanduser().absolute()
    task = as_task(objective, names, metrics[0], folder, validation)
    arguments = plain_arguments(objective)
    result = functools.partial(SearchResult, metrics=metrics, directions=directions, arguments=arguments, folder=folder)
    signature = {"space": {value.name: repr(value.distribution) for value in space}, "seed": seed}
    signature |= {"arguments": arguments, "validation": validation}
    if storage is None:
        plan = (drawn_values(space, seed, number) for number in range(trials))
        with open_ledger(folder, signature) as ledger:
            ledger.run(task, plan, metrics, lambda records: result(records).write())
            found = result(list(ledger.records.values()))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        signature |= {"metric": metrics, "direction": directions}
        with shared_study(storage, folder.name, signature, directions) as study:
            found = result(run_shared(study, task, space, trials, metrics, seed))
            found.write()
    return found


# --- Search shared by processes: an Optuna study ---------------------------------------------------------------

def open_storage(storage: str):
    """The Optuna storage of that name; see `search`. Optuna is imported where it is used."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = Path(storage).expanduser().absolute()
    if "://" not in storage:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix not in (".db", ".sqlite", ".sqlite3"):
            lock = JournalFileOpenLock(str(path), grace_period=10)  # seconds, if a killed process leaves it behind
            return JournalStorage(JournalFileBackend(str(path), lock))
        storage = f"sqlite:///{path}"
    waiting = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {"pool_pre_ping": True}
    for _ in range(4):  # two processes that make the tables of a new database at once disturb one another
        with contextlib.suppress(Exception):
            return RDBStorage(storage, engine_kwargs=waiting)
        time.sleep(0.5)
    return RDBStorage(storage, engine_kwargs=waiting)


@contextlib.contextmanager
def shared_study(storage: str, name: str, signature: Mapping, directions: Sequence[str]) -> Iterator:
    """The Optuna study of a search, in which other processes may be working, too."""
    try:
        import optuna
    except ImportError as error:
        rule = f"A storage is one of Optuna's, which is not installed. Received: {storage=}."
        raise ImportError(f"{rule} pip install 'spiking-toolbox[search]', or search without a storage.") from error
    backend = open_storage(storage)
    try:
        study = optuna.create_study(storage=backend, study_name=name, directions=directions, load_if_exists=True)
        check_signature(study.user_attrs.get("search"), signature, f"{storage=}, study {name!r}")
        study.set_user_attr("search", signature)
        yield study
    finally:
        if hasattr(backend, "engine"):
            backend.engine.dispose()


@contextlib.contextmanager
def heartbeat(trial) -> Iterator[None]:
    """Gives signs of life of a running trial, as long as this process lives."""
    stop = threading.Event()

    def beat():
        while not stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(Exception):  # the trial was taken for dead, or the database is away for a while
                trial.set_user_attr("beat", time.time())

    (thread := threading.Thread(target=beat, daemon=True)).start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def fail_the_dead(study, seen: dict[int, tuple]) -> None:
    """Fails the trials of killed workers, which look as if they were running, but whose heartbeat stands still.

    `seen` is kept between calls: trial -> its last beat, and since when this process has seen it, by its own clock.
    """
    import optuna

    now = time.monotonic()
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        beat, since = seen.get(trial.number, (None, now))
        if beat != trial.user_attrs.get("beat"):
            beat, since = trial.user_attrs["beat"], now
        seen[trial.number] = beat, since
        if now - since > PATIENCE_SECONDS:
            logger.warning("The worker of trial %d has died; another trial takes its place", trial.number)
            with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # it has ended meanwhile
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def counts(trial) -> bool:
    """Whether a trial ended, and did not fail only because its worker was killed."""
    return "record" in trial.user_attrs and trial.state.name == ending(trial.user_attrs["record"])


def run_shared(study, task: Task, space, trials: int, metrics: Sequence[str], seed: int) -> list[Record]:
    """Does trials of a study, beside other workers, until all together have done as many as wanted."""
    from optuna.trial import TrialState

    seen = {}
    while True:
        fail_the_dead(study, seen)
        known = study.get_trials(deepcopy=False)
        ended = [trial for trial in known if counts(trial)]
        if len(ended) >= trials:
            return sorted((trial.user_attrs["record"] for trial in ended), key=lambda record: record["number"])
        if len(ended) + sum(trial.state == TrialState.RUNNING for trial in known) >= trials:
            time.sleep(POLL_SECONDS)
            continue
        trial = study.ask()
        try:
            before = [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]
            if sum(other.state == TrialState.RUNNING or counts(other) for other in before) < trials:
                run_one(study, trial, task, space, metrics, seed)
            else:  # two workers began the last trial at the same time
                study.tell(trial, state=TrialState.FAIL)
        except BaseException:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise


def run_one(study, trial, task: Task, space, metrics: Sequence[str], seed: int) -> None:
    """Does a trial of a study and tells the study how it ended."""
    import optuna

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise Pruned

    # One for each trial: workers that begin with the same seed would make the same suggestions.
    study.sampler = optuna.samplers.TPESampler(seed=derived_seed(seed, trial.number), multivariate=False)
    values = {value.name: value.distribution.suggest(trial, value.name) for value in space}
    with heartbeat(trial):
        record = attempt(task, trial.number, values, metrics, report if len(metrics) == 1 else None)
    logger.info("%s", in_a_line(record, metrics))
    try:
        trial.set_user_attr("record", json.loads(json.dumps(record, default=plain)))
        state = ending(record)
        study.tell(trial, [record["metrics"][name] for name in metrics] if state == "COMPLETE" else None,
                   state=optuna.trial.TrialState[state])
    except optuna.exceptions.UpdateFinishedTrialError:
        logger.warning("Trial %d was taken for dead by another worker, and does not count", trial.number)


# --- The command line ------------------------------------------------------------------------------------------

def literal(text: str):
    """A number, a truth value or None, as Python writes it; anything else is text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_setting(text: str) -> tuple[str, Any]:
    """`NAME=VALUE`."""
    name, _, value = text.partition("=")
    require(name.isidentifier() and value, "A setting is NAME=VALUE.", text, "Such as max_images=1000.")
    return name, literal(value)


def parse_vary(text: str) -> OptimizableValue:
    """`threshold=1:20:1`, `norm_percentile=uniform(low=95, high=100)` or `encoding=rate,ttfs`."""
    name, _, values = text.partition("=")
    require(name and values, "What is varied is NAME=VALUES.", text, "Such as threshold=1:20:1.")
    if call := re.fullmatch(r"(\w+)\((.*)\)", values):
        keywords = dict(parse_setting(each.strip()) for each in call[2].split(",") if each.strip())
        return OptimizableValue(name, RealInterval(call[1], **keywords))
    if ":" in values:
        bounds = [literal(each) for each in values.split(":")]
        require(len(bounds) in (2, 3), "An interval is START:STOP or START:STOP:STEP.", text, "Such as 1:20:1.")
        return OptimizableValue(name, DiscreteInterval(*bounds))
    return OptimizableValue(name, DiscreteValues([literal(each) for each in values.split(",")]))


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Searches settings of an Experiment. The same command continues a search, and shares it, with --storage."
    parser = argparse.ArgumentParser("optimization", description=about)
    add = parser.add_argument
    for name, argument in {"network": "training_function", "dataset": "dataset", "encoding": "encoding"}.items():
        add(f"--{name}", dest=argument, metavar="NAME", default=argparse.SUPPRESS, help="see experiment.py --help")
    add("--set", metavar="NAME=VALUE", nargs="+", action="extend", default=[], help="other arguments of Experiment")
    add("--vary", metavar="NAME=VALUES", nargs="+", action="extend", required=True, help="threshold=1:20:1 (without "
        "the end), encoding=rate,ttfs, 'norm_percentile=uniform(low=95, high=100)', or normal, poisson, beta")
    add("--trials", type=int, default=20, metavar="N", help="of all processes and calls together (default: 20)")
    add("--metric", nargs="+", metavar="NAME", default=["snn/eval/validation"], help="default: snn/eval/validation")
    add("--direction", nargs="+", metavar="WAY", default=["maximize"], help="maximize (default) or minimize, for each")
    add("--validation", type=float, default=0.1, metavar="SHARE", help="of the training images, to compare trials on "
        "(default: 0.1); 0 compares on the test images, as snn/eval/test")
    add("--storage", metavar="PLACE", help="of an Optuna study: a journal file, an SQLite file (.db), or a URL such as "
        "postgresql://user@host/database (default: random search, in one process)")
    add("--folder", default="experiments/search", metavar="DIR", help="default: experiments/search")
    add("--seed", type=int, default=0, metavar="N", help="of the choice of values (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """`python optimization.py`: runs or continues a search and prints what is best."""
    parser = argument_parser()
    options = vars(parser.parse_args(argv))
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        named = ("training_function", "dataset", "encoding")
        arguments = {name: options.pop(name) for name in named if name in options}
        arguments |= map(parse_setting, options.pop("set"))
        result = search(arguments, list(map(parse_vary, options.pop("vary"))), **options)
    except KeyboardInterrupt:
        print("\nInterrupted. What was finished stays; the same command continues.")
        sys.exit(130)  # 128 + SIGINT, as shells have it
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    print(f"\n{result.table()}\n\nResults: {result.folder}")


if __name__ == "__main__":
    main()
