"""Trials: done one after the other, recorded in the moment they end, and never lost. Repetition of experiments.

    repeated = RepeatedExperiment({"encoding": "ttfs"}, repetitions=5, timesteps=[60, 120, 20], folder="experiments/t")
    repeated.run()
    plotting.repeated_curves(*repeated.curves("snn/eval/test"))

A *trial* calls a function, or runs an Experiment, with some values. In the moment it ends it becomes a *record*, a dict
of plain values, and is on disk; whatever stops the process, the same command continues. Records lie in a `Ledger`, a
file that belongs to one process at a time, or in an Optuna study, see `optimization.py`. `RepeatedExperiment` does the
trials of a grid, `optimization.search` those of a search. TensorFlow is imported when the first Experiment is made.
"""

import contextlib
import csv
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
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
