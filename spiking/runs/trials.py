"""Trials: many runs, each on disk in the moment it ends.

A *trial* does something with some values. In the moment it ends it becomes a *record*, a dict of plain values, and is
on disk; whatever stops the process, the same call continues. Records lie in a `Ledger`, a file that belongs to one
process at a time, or in an Optuna study (`spiking/runs/study.py`), which any number of processes and machines share.
"""

import contextlib
import gc
import inspect
import json
import logging
import math
import numbers
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from spiking.checks import require
from spiking.runs.files import locked, plain, write_json

__all__ = [
    "FREE_SECONDS", "Ledger", "NOT_FINITE", "PASSING_ERRORS", "Pruned", "Record", "Report", "TABLE_SECONDS",
    "Task", "as_read", "attempt", "check_signature", "columns", "ending", "function_task", "in_a_line",
    "is_number", "open_ledger", "tally", "tell_found", "to_be_redone", "trial_rows",
]  # fmt: skip

logger = logging.getLogger(__name__)

TABLE_SECONDS = 10  # between two rewritings of the tables while trials run; records never wait
FREE_SECONDS = 0.5  # of a trial after which TensorFlow's graphs and networks are freed, which takes its time, too
# What may be otherwise at another time, such as a full disk, which TensorFlow reports in its own way.
PASSING_ERRORS = (OSError, MemoryError, tf.errors.ResourceExhaustedError)
NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}

# Of a trial: "number", "values", "seconds", and by how it ended "metrics", "pruned" or "error", with "passing" if
# another attempt may end otherwise.
Record = dict[str, Any]


class Pruned(Exception):
    """The trial is not worth finishing. Raised by `report`."""


# f(number, values, report) does a trial and returns its metrics. Where nothing is pruned, the report is None.
Report = Callable[[int, float], None]
Task = Callable[[int, dict, Report | None], Mapping[str, Any]]


def attempt(task: Task, number: int, values: dict, metrics: Sequence[str], report: Report | None = None) -> Record:
    """Runs a trial. Its errors become part of the record; but a missing metric, all others would lack, too."""
    record, start = {"number": number, "values": values}, time.perf_counter()
    try:
        record["metrics"] = found = as_read(plain(dict(task(number, values, report))))
    except Pruned:
        record["pruned"] = True
    except Exception as error:
        logger.warning("Trial %d failed", number, exc_info=True)
        record["error"] = f"{type(error).__name__}: {error}"
        if isinstance(error, PASSING_ERRORS):
            record["passing"] = True
    record["seconds"] = time.perf_counter() - start
    if "keras" in sys.modules and record["seconds"] > FREE_SECONDS:
        sys.modules["keras"].backend.clear_session()
        gc.collect()
    for name in metrics if "metrics" in record else ():
        numeric = [key for key, value in found.items() if is_number(value)]
        require(name in numeric, "The objective returns every metric as a number", f"metric={name!r}",
                f"Returned are {', '.join(numeric) or 'no numbers'}.")
        if math.isnan(found[name]):
            record["error"] = f"ValueError: {name} is not a number (NaN)"
    return record


def is_number(value) -> bool:
    """Whether a value of a record is one."""
    return isinstance(value, int | float)


def as_read(value):
    """A value in terms of JSON, as `plain` makes it, with the numbers that JSON has no way to write."""
    if isinstance(value, Mapping):
        return {key: as_read(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_read(each) for each in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def function_task(function: Callable, names: Sequence[str], metric: str) -> Task:
    """Trials that call a function with the values as keywords; see `search`. A number it returns is the metric."""
    takes_report = "report" in inspect.signature(function).parameters
    try:
        inspect.signature(function).bind(**dict.fromkeys([*names, *["report"] * takes_report]))
    except TypeError as error:
        rule = f"The objective takes the varied values as keywords ({error})"
        require(False, rule, f"{list(names)}", "Give it arguments of these names, and defaults to all others.", error)

    def task(number, values, report):
        extra = {"report": report or (lambda step, value: None)} if takes_report else {}
        found = function(**values, **extra)
        return {metric: found} if isinstance(found, numbers.Real) else found

    return task


# ---------------------------------------------------------------------------------------------------------------------
# Records as rows and lines


def ending(record: Record) -> str:
    """How a trial ended, in Optuna's terms."""
    return "FAIL" if "error" in record else "PRUNED" if "pruned" in record else "COMPLETE"


def to_be_redone(record: Record, retry_failed: bool) -> bool:
    """Whether a trial of an earlier call is to be done again: it failed, and this may end otherwise or is asked for."""
    return "error" in record and (retry_failed or record.get("passing", False))


def columns(values: Mapping[str, Any], taken: Iterable[str]) -> dict[str, Any]:
    """Values as columns: each under its argument's name, or where the table has such a column, "argument/<name>"."""
    return {f"argument/{name}" if name in taken else name: value for name, value in values.items()}


def trial_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Records as the rows of a table: number and ending, values, metrics (but for curves), seconds and error."""
    records, rows, fixed = list(records), [], ("number", "ended", "seconds", "error")
    taken = {*fixed, *(name for record in records for name in record.get("metrics", {}))}
    for record in records:
        found = {name: value for name, value in record.get("metrics", {}).items() if not isinstance(value, list)}
        found = {f"metric/{name}" if name in fixed else name: value for name, value in found.items()}
        row = {"number": record["number"], "ended": ending(record), **columns(record["values"], taken), **found}
        rows.append({**row, "seconds": record["seconds"], "error": record.get("error")})
    return rows


def in_a_line(record: Record, metrics: Sequence[str]) -> str:
    """A record in a line."""
    values = ", ".join(f"{name}={plain(value)}" for name, value in record["values"].items())
    results = ", ".join(f"{name}={record['metrics'][name]:.5g}" for name in metrics if "metrics" in record)
    ended = "pruned" if "pruned" in record else results or "done"
    return f"trial {record['number']}: {values}: {record.get('error') or ended}"


def tally(records: Iterable[Record]) -> str:
    """How many trials there are, and how many of them were pruned or failed."""
    ends = list(map(ending, records))
    counted = f"{len(ends)} trial{'s' * (len(ends) != 1)}"
    return f"{counted}, {ends.count('PRUNED')} pruned, {ends.count('FAIL')} failed"


# ---------------------------------------------------------------------------------------------------------------------
# Records on disk


def tell_found(place: str, records: Collection[Record], again: int) -> None:
    """Logs what a call that resumes trials has found, and how many of them it does again."""
    if records:
        logger.info("Found in %s: %s; %s", place, tally(records), f"{again} are done again" if again else "they stay")


def check_signature(kept: Mapping | None, signature: Mapping, place: str) -> None:
    """Raises a ValueError if the records of a place were made under other rules than those of now."""
    kept = plain(kept or {})  # earlier versions wrote infinity otherwise, and had fewer rules
    changed = [key for key, value in plain(signature).items() if key in kept and kept[key] != value]
    received = "; ".join(f"{key} was {kept[key]}, is {plain(signature[key])}" for key in changed)
    require(not changed, f"Trials of one place agree in {', '.join(signature)}, so that they can be compared",
            f"{place}, where {received}", "Choose another folder, or restore the old settings.")


class Ledger:
    """The records of a folder, a line each in a file. They outlive everything but the disk. See `open_ledger`.

    Attributes:
        records: number of the trial -> its last record.
    """

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
                record = as_read(json.loads(line))
                self.records[record["number"]] = record
            except (ValueError, TypeError, KeyError) as error:
                remedy = "Delete the line: its trial is then done again."
                received = f"line {number} of {file.name}"
                require(False, f"Every line is a record in JSON ({error})", received, remedy, error)

    def run(self, task: Task, plan: Iterable[dict], metrics: Sequence[str], publish: Callable,
            retry_failed: bool = False) -> None:
        """Does the trials of a plan that have no record, and from time to time calls `publish` with all records.

        Those that failed for a passing reason are done again; with `retry_failed` all that failed.
        """
        published = time.monotonic()
        done = {number for number, record in self.records.items() if not to_be_redone(record, retry_failed)}
        tell_found(self._file.name, self.records.values(), len(self.records) - len(done))
        try:
            for number, values in enumerate(plan):
                if number not in done:
                    record = attempt(task, number, values, metrics)
                    self._keep(record)
                    logger.info("%s", in_a_line(record, metrics))
                if time.monotonic() - published > TABLE_SECONDS:
                    publish(list(self.records.values()))
                    published = time.monotonic()
        finally:
            self.records = dict(sorted(self.records.items()))
            publish(list(self.records.values()))

    def _keep(self, record: Record) -> None:
        try:
            self._file.write(json.dumps(plain(record)).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())  # from here on nothing but the disk can lose it
        except OSError as error:
            raise OSError(
                f"A record could not be written ({error.strerror or error}). Received: trial {record['number']} for "
                f"{self._file.name!r}. Free some space; the same call then does this trial again, and goes on."
            ) from error
        self.records[record["number"]] = record


@contextlib.contextmanager
def open_ledger(folder: Path, signature: Mapping[str, Any]) -> Iterator[Ledger]:
    """The ledger of a folder, which no other process can open meanwhile. The signature is what all records share."""
    place = f"folder={str(folder)!r}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock") as alone, (folder / "trials.jsonl").open("a+b") as file:
        require(alone, "One process at a time runs trials in a folder", f"{place}, where one is running",
                "Wait for it, or share the work through a storage.")
        path = folder / "signature.json"
        check_signature(json.loads(path.read_text("utf-8")) if path.exists() else None, signature, place)
        write_json(path, signature)
        yield Ledger(file)
