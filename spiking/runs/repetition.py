"""The same runs several times, with seeds derived from one: what they have in common, and how much they differ."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spiking.checks import check_whole, require
from spiking.runs.files import plain, write_csv, write_json
from spiking.runs.siblings import own
from spiking.runs.spaces import checked_values, derived_seed
from spiking.runs.trials import Record, Task, as_read, columns, is_number, open_ledger, trial_rows
from spiking.shown import Shown, or_dash, plain_numbers

__all__ = ["Repetition", "STATISTICS", "checked_axes", "statistics"]

STATISTICS = ("metric", "n", "mean", "sd", "low", "high")  # columns of a summary, beside those of the grid


def checked_axes(timesteps: int | Sequence[int] | None, grid: Mapping[str, Sequence] | None) -> dict[str, list]:
    """Argument -> its values: those of a grid, and the time steps, see `Repetition`."""
    axes = {name: checked_values(values) for name, values in (grid or {}).items()}
    if timesteps is not None:
        series = list(timesteps) if isinstance(timesteps, Sequence | np.ndarray) else [timesteps, timesteps]
        try:
            start, stop, step = [check_whole("timesteps", each, 1) for each in (*series, 1)[:3]]
            fits = len(series) in (2, 3) and start <= stop and "timesteps" not in axes
        except ValueError:
            fits = False
        rule = "timesteps is a number, [start, stop] or [start, stop, step], whole numbers above 0, start first, and "
        require(fits, rule + "no part of the grid", f"{timesteps=}, {grid=}", "Put other series into the grid.")
        axes["timesteps"] = list(range(start, stop + 1, step))
    require("seed" not in axes, "Seeds of runs are derived", "a seed in the grid",
            "Give the one to derive them from: RepeatedExperiment(…, seed=…).")
    return axes


class Repetition(Shown):
    """The same trials several times; resumable as a search is.

    The folder gets `runs.csv`, a row per run; `summary.csv` and `summary.json`, all numbers of each cell of the grid
    with mean, standard deviation and 95% confidence interval of the mean (Student's t). A column of the grid whose name
    a table has already becomes "argument/<name>".

    Args:
        task: `(number, values, None) -> ` metrics; does a run. The values are the cell's and the "seed".
        repetitions: how often each cell of the grid is run, with one seed per repetition, the same in all cells. It
            may be raised later: the runs that are there stay.
        axes: argument -> its values. All combinations are run, the `cells`.
        seed: from which those of the repetitions are derived.
        folder: for the `records` and tables.
        facts: what all runs share, in terms of JSON; a folder is for runs that share it.
    """

    def __init__(self, task: Task, repetitions: int, axes: Mapping[str, Sequence], seed: int, folder: Path,
                 facts: Mapping[str, Any]):
        self.repetitions = check_whole("repetitions", repetitions, 1)
        self.seed = check_whole("seed", seed)
        self.task, self.axes, self.folder, self.facts = task, dict(axes), folder, facts
        self.cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        self.records: list[Record] = []

    def run(self, retry_failed: bool = False) -> list[dict[str, Any]]:
        """Does the runs that have not been done. Returns the `summary`.

        Args:
            retry_failed: do again what failed in an earlier call. Runs that an error of the system ended, such as a
                full disk, are done again in any case.
        """
        signature = {"grid": plain(self.axes), "seed": self.seed, **self.facts}
        # Repetition by repetition: what is there first can be compared, and further repetitions come at the end.
        seeds = (derived_seed(self.seed, repetition) for repetition in range(self.repetitions))
        plan = ({**cell, "seed": seed} for seed in seeds for cell in self.cells)
        with open_ledger(self.folder, signature) as ledger:
            ledger.run(self.task, plan, (), self._publish, retry_failed)
        return self.summary()

    def heading(self) -> str:
        """How many runs there are of how many, and where."""
        wanted = self.repetitions * len(self.cells)
        done = f"{len(self.records)} of {wanted} runs done, {sum('error' in each for each in self.records)} failed"
        return f"{self.repetitions} repetitions of {len(self.cells)} cells: {done}, in {self.folder}"

    def table(self) -> list[tuple[str, ...]]:
        """Mean and standard deviation of each metric and cell; the `summary` has more, the settings among it."""
        rows = []
        for metric in (each for each in self.metrics() if not each.startswith("experiment/")):
            for label, runs in self.values(metric).items():
                found = statistics(runs)
                written = (or_dash(np.nan if found[name] is None else found[name], ".5g") for name in ("mean", "sd"))
                rows.append((label, metric, str(found["n"]), *written))
        return [("cell", "metric", "n", "mean", "sd"), *rows] if rows else []

    def rows(self) -> list[dict[str, Any]]:
        """The `summary`."""
        return self.summary()

    def to_dict(self) -> dict[str, Any]:
        """The summary and the runs, plain."""
        return plain_numbers({"summary": self.summary(), "runs": self.records})

    def summary(self) -> list[dict[str, Any]]:
        """A row per cell and metric: n, mean, sd, and the 95% confidence interval from low to high."""
        return [
            {**columns(cell, STATISTICS), "metric": metric, **statistics(runs[~np.isnan(runs)])}
            for metric in self.metrics()
            for cell, runs in zip(self.cells, self._numbers(metric).T, strict=True)
        ]

    def metrics(self) -> list[str]:
        """The names of all numbers that runs returned."""
        found = (record.get("metrics", {}).items() for record in self.records)
        return list(dict.fromkeys(name for each in found for name, value in each if is_number(value)))

    def values(self, metric: str) -> dict[str, np.ndarray]:
        """Label of a cell -> its values, `(runs,)`, as `plotting.repeated_box_plot` takes them."""
        numbers = zip(self.cells, self._numbers(metric).T, strict=True)
        return {self._label(cell): runs[~np.isnan(runs)] for cell, runs in numbers if not np.isnan(runs).all()}

    def curves(self, metric: str, over: str = "timesteps") -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Values of an axis of numbers, and label -> `(whole repetitions, values)`; see `plotting.repeated_curves`."""
        require(over in self.axes, "Curves go along an axis of the grid", f"{over=}", f"It has {list(self.axes)}.")
        x, order = np.unique(self.axes[over], return_index=True)
        grid = self._numbers(metric).reshape(self.repetitions, *map(len, self.axes.values()))
        lines = np.moveaxis(grid, 1 + list(self.axes).index(over), -1)[..., order].reshape(self.repetitions, -1, len(x))
        curves = zip(dict.fromkeys(self._label(cell, over) for cell in self.cells), lines.swapaxes(0, 1), strict=True)
        return x, {label: each[whole] for label, each in curves if (whole := ~np.isnan(each).any(axis=1)).any()}

    def series(self, metric: str) -> dict[str, np.ndarray]:
        """Label of a cell -> `(runs, values)` of a metric that is a list of numbers in each run."""
        found = {}
        for record in self.records:
            if isinstance(record.get("metrics", {}).get(metric), list):
                cell = self.cells[record["number"] % len(self.cells)]
                found.setdefault(self._label(cell), []).append(record["metrics"][metric])
        return {label: np.array(runs) for label, runs in found.items()}

    def _numbers(self, metric: str) -> np.ndarray:
        """The metric of all runs, `(repetitions, cells)`; NaN where there is none."""
        require(metric in self.metrics(), "A metric is a number that runs returned", f"{metric=}",
                f"Known: {', '.join(self.metrics()) or 'none yet'}.")
        numbers = np.full((self.repetitions, len(self.cells)), np.nan)
        for record in self.records:
            value = record.get("metrics", {}).get(metric)
            numbers.flat[record["number"]] = value if is_number(value) else np.nan
        return numbers

    def _label(self, cell: Mapping, without: str = "") -> str:
        """What tells a cell from the others."""
        telling = [name for name, values in self.axes.items() if len(values) > 1 and name != without]
        return ", ".join(f"{name}={plain(cell[name])}" for name in telling) or "all runs"

    def _publish(self, records: list[Record]) -> None:
        self.records = [record for record in records if record["number"] < self.repetitions * len(self.cells)]
        write_csv(self.folder / "runs.csv", trial_rows(self.records))
        write_csv(self.folder / "summary.csv", self.summary())
        write_json(self.folder / "summary.json", {"summary": self.summary(), "runs": self.records})


def statistics(values: np.ndarray) -> dict[str, Any]:
    """Number, mean, standard deviation of a sample, and 95% confidence interval of the mean; `None` for too few."""
    found = {"n": len(values), "mean": values.mean() if len(values) else None, "sd": None, "low": None, "high": None}
    if len(values) > 1 and np.isfinite(values).all():
        plotting = own("plotting")  # matplotlib is needed here only
        found["sd"], (found["low"], found["high"]) = values.std(ddof=1), plotting.confidence_95(values)
    return as_read(plain(found))
