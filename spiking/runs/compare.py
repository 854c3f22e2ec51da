"""All runs of a folder in one table: single runs, the best trials of searches, the means of repetitions.

A folder below the given one is a run if it has metrics.json, a repetition if it has summary.json, a search if it has
best.json; what lies in these is theirs and is not listed again.
"""

import csv
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spiking.runs import report
from spiking.runs.files import write_csv, write_text
from spiking.runs.summaries import energy_remark
from spiking.runs.trials import as_read, is_number
from spiking.shown import Shown, plain_numbers

__all__ = ["COLUMNS", "Column", "Entry", "LEGEND", "PAGE", "READERS", "RunTable", "SETTING", "TABLE", "compare"]

logger = logging.getLogger(__name__)

TABLE, PAGE = "comparison.csv", "index.html"
SETTING = "experiment/"


class Column(NamedTuple):
    """A column of measured numbers.

    Attributes:
        name: with the unit.
        metrics: the first of these that a run has is shown.
        scale: the metric times this is in the column's unit.
        form: how it is written.
    """

    name: str
    metrics: tuple[str, ...]
    scale: float = 1
    form: str = ",.0f"


COLUMNS = (
    Column("ANN / %", ("ann/eval/test", "ann/eval/validation"), 100, ".2f"),
    Column("SNN / %", ("snn/eval/test", "snn/eval/validation"), 100, ".2f"),
    Column("SD / points", ("SD",), 100, ".2f"),
    Column("difference / points", ("snn/diff/test", "snn/diff/validation"), 100, "+.2f"),
    Column("same class / %", ("snn/same_class",), 100, ".2f"),
    Column("R²", ("snn/r_squared",), 1, ".4f"),
    Column("simulated steps", ("snn/timesteps",)),
    Column("latency / steps", ("snn/latency",)),
    Column("spikes/neuron", ("snn/spikes_per_neuron",), 1, ".3f"),
    Column("operations", ("snn/synaptic_operations",)),
    Column("energy / µJ", ("snn/energy",), 1e6, ",.3f"),
    Column("ANN energy / µJ", ("ann/energy",), 1e6, ",.3f"),
    Column("seconds", ("snn/seconds",), 1, ".1f"),
)
LEGEND = (
    "Per image of the test set, or for searches with validation of a part of the training set. difference: SNN minus "
    "ANN. same class, R²: of networks without accuracies, how their outputs agree with the ANN's. latency: the time "
    "step from which on the accuracy stays within a point of the ANN's; none where it does not. "
    "seconds: of simulating the test images on the machine of the run. Repetitions are means, SD their standard "
    "deviation; of a search the best trials are shown. Settings that are the same everywhere are left out."
)


@dataclass(frozen=True)
class Entry:
    """A row: what was measured of a network.

    Attributes:
        run: its name.
        kind: "run", "best of N trials", "mean of N runs".
        metrics: tag -> number or word, as in metrics.json.
        link: the file that tells more, from the folder of all; "" for none.
    """

    run: str
    kind: str
    metrics: Mapping[str, Any]
    link: str


class RunTable(Shown):
    """The runs of a folder, as `compare` gives them.

    Attributes:
        folder: of the runs.
        entries: in the order of their names.
        settings: the settings that differ, each a column.
    """

    def __init__(self, folder: Path, entries: Sequence[Entry]):
        self.folder, self.entries = folder, list(entries)
        found: dict[str, set] = {}
        for entry in self.entries:
            for tag, value in entry.metrics.items():
                if tag.startswith(SETTING):
                    found.setdefault(tag, set()).add(repr(value))
        self.settings = [tag for tag, values in found.items() if len(values) > 1 and tag != SETTING + "encoding"]

    def rows(self) -> list[dict[str, Any]]:
        """A dict per row, numbers in the units of the heads; None where there is none."""
        rows = []
        for entry in self.entries:
            row = {"run": entry.run, "kind": entry.kind, "code": entry.metrics.get(SETTING + "encoding")}
            for column in COLUMNS:
                value = next((entry.metrics[each] for each in column.metrics if each in entry.metrics), None)
                row[column.name] = value * column.scale if is_number(value) else None
            row |= {tag.removeprefix(SETTING): entry.metrics.get(tag) for tag in self.settings}
            rows.append(row)
        return rows

    def heading(self) -> str:
        """How many rows there are."""
        return f"{len(self)} rows of {self.folder}" if self.entries else f"No runs in {self.folder}."

    def closing(self) -> str:
        """What the energies assume."""
        return energy_remark(entry.metrics for entry in self.entries if "snn/energy" in entry.metrics)

    def to_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"folder": str(self.folder), "rows": plain_numbers(self.rows())}

    def table(self) -> list[tuple[str, ...]]:
        """The rows as texts, below a head; columns that are empty everywhere are left out."""
        if not self.entries:
            return []
        rows, forms = self.rows(), {column.name: column.form for column in COLUMNS}
        names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        text = lambda row, name: "–" if row[name] is None else format(row[name], forms[name])  # noqa: E731
        body = [tuple(text(row, n) if n in forms else report.written(row[n]) for n in names) for row in rows]
        return [tuple(names), *body]

    def __len__(self):
        return len(self.entries)

    def write(self) -> None:
        """Writes comparison.csv and index.html into the folder."""
        write_csv(self.folder / TABLE, self.rows())
        links = [entry.link for entry in self.entries]
        table = report.sortable(self.table(), links) if self.entries else report.note(str(self))
        parts = [
            "<h1>Runs</h1>",
            f"<p>{len(self)} rows, also as <a href='{TABLE}'>{TABLE}</a>. A click on a head sorts.</p>",
            table,
            report.note(LEGEND),
            report.note(self.closing()),
        ]
        write_text(self.folder / PAGE, report.page("Runs", parts, wide=True))


def compare(folder: str | os.PathLike = "experiments") -> RunTable:
    """All runs below a folder: a row for each run and code, each best trial of a search, each cell of a repetition.

    Writes `comparison.csv` and `index.html`, which links the reports and sorts without a server, into the folder.

    Args:
        folder: the `results_dir` of the experiments. Runs may lie in folders of folders.

    Returns:
        The table: print it, or take its `rows()` or `to_frame()`.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: the files cannot be written.
    """
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        remedy = "Give the results_dir of the experiments."
        raise FileNotFoundError(f"Runs lie in a folder. Received: folder={str(folder)!r}. {remedy}")
    table = RunTable(path, [entry for each in _places(path) for entry in _entries(each, path)])
    table.write()
    return table


def _places(folder: Path) -> Iterator[Path]:
    """The folders that have something to tell, by name, none inside another."""
    for each in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if any((each / name).is_file() for name in READERS):
            yield each
        else:
            yield from _places(each)


def _entries(place: Path, folder: Path) -> list[Entry]:
    """The rows of a run, a search or a repetition; none, and a warning, where its files cannot be read."""
    name = next(name for name in READERS if (place / name).is_file())
    try:
        content = as_read(json.loads((place / name).read_text("utf-8")))
        return list(READERS[name](place, place.relative_to(folder), content))
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        logger.warning("%s is left out: %s cannot be read (%s)", place, name, error)
        return []


def _of_run(place: Path, name: Path, content: Mapping[str, Mapping]) -> Iterator[Entry]:
    link = (name / "report.html").as_posix() if (place / "report.html").is_file() else ""
    for encoding, metrics in content.items():
        yield Entry(str(name), "run", {SETTING + "encoding": encoding, **metrics}, link)


def _of_search(place: Path, name: Path, content: Mapping[str, Any]) -> Iterator[Entry]:
    with (place / "trials.csv").open(encoding="utf-8", newline="") as file:
        trials = sum(1 for _ in csv.DictReader(file))
    for record in content["best"]:
        metrics = {SETTING + key: value for key, value in record["values"].items()} | record["metrics"]
        link = (name / "trials.csv").as_posix()
        yield Entry(f"{name}, trial {record['number']}", f"best of {trials} trials", metrics, link)


def _of_repetition(place: Path, name: Path, content: Mapping[str, Any]) -> Iterator[Entry]:
    cells: dict[str, list[Mapping]] = {}
    for record in content["runs"]:
        cell = {key: value for key, value in record["values"].items() if key != "seed"}
        if "metrics" in record:
            cells.setdefault(repr(cell), []).append(record)
    for records in cells.values():
        values = {SETTING + key: value for key, value in records[0]["values"].items()}
        metrics = {**values, **_means([record["metrics"] for record in records])}
        metrics.pop(SETTING + "seed", None)
        yield Entry(str(name), f"mean of {len(records)} runs", metrics, (name / "summary.csv").as_posix())


def _means(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each metric over the runs that have it, with the sample's standard deviation of the accuracy."""
    runs, found = list(runs), {}
    for tag in dict.fromkeys(tag for run in runs for tag in run):
        values = [run[tag] for run in runs if tag in run]
        setting = tag.startswith(SETTING) or not all(map(is_number, values))
        found[tag] = values[0] if setting else float(np.mean(values))
        if tag in COLUMNS[1].metrics and len(values) > 1:
            found["SD"] = float(np.std(values, ddof=1))
    return found


# The file by which a folder is known -> `(place, its name, content) -> ` rows.
READERS = {"metrics.json": _of_run, "summary.json": _of_repetition, "best.json": _of_search}
