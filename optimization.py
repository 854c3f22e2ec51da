"""Search: many trials of an Experiment with other settings, each on disk in the moment it ends. Random, or by Optuna.

    space = [
        OptimizableValue("threshold", DiscreteInterval(1, 20, 1)),
        OptimizableValue("norm_percentile", RealInterval("uniform", low=95, high=100)),
    ]
    found = search({"encoding": "ttfs"}, space, 100, "snn/eval/validation", validation=0.1, folder="experiments/ttfs")
    Experiment(**found.best[0]["arguments"]).run()

or `python optimization.py --encoding ttfs --vary threshold=1:20:1 --folder experiments/ttfs`.

A *trial* calls a function, or runs an Experiment, with some values (`spiking/runs/spaces.py`). In the moment it ends it
becomes a *record*; whatever stops the process, the same command continues (`spiking/runs/trials.py`). Any number of
processes and machines can share a search (`spiking/runs/study.py`).
"""

import argparse
import ast
import csv
import functools
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spiking.checks import check_whole, require
from spiking.runs import screen
from spiking.runs.files import write_csv, write_json
from spiking.runs.repetition import statistics
from spiking.runs.siblings import own, require_own
from spiking.runs.spaces import (
    DiscreteInterval,
    DiscreteValues,
    Distribution,
    OptimizableValue,
    RealInterval,
    derived_seed,
    drawn_values,
)
from spiking.runs.study import records_of, run_shared, shared_study, to_replace
from spiking.runs.trials import Pruned, Record, ending, in_a_line, open_ledger, tally, tell_found, trial_rows
from spiking.shown import html_lines

require_own("experiment")  # a file of the user's may have this name
from experiment import Experiment, ExperimentTask, RepeatedExperiment, as_task  # noqa: E402

__all__ = ["DiscreteInterval", "DiscreteValues", "Distribution", "ExperimentTask", "OptimizableValue", "Pruned"]
__all__ += ["RealInterval", "Record", "RepeatedExperiment", "SearchResult", "derived_seed", "drawn_values", "main"]
__all__ += ["open_ledger", "parse_vary", "search", "statistics"]

logger = logging.getLogger(__name__)

TABLE = "trials.csv"
# Option of the command line -> the argument of Experiment that it stands for.
NAMED = {"network": "training_function", "dataset": "dataset", "encoding": "encoding"}


@dataclass(frozen=True, repr=False)
class SearchResult:
    """What a search has found: the records of all trials, by number, for these objectives.

    `arguments` are those of an Experiment that were not varied, `data` its data set: name and fingerprint, or `None`.
    `folder` holds `trials.csv`, `best.json`, and `pareto.png` if three objectives were accuracy, latency and synaptic
    operations of Experiments, in this order.
    """

    records: list[Record]
    metrics: list[str]
    directions: list[str]
    arguments: Mapping[str, Any]
    data: Mapping[str, str] | None
    folder: Path

    def __repr__(self):
        return f"<SearchResult: {tally(self.records)}, {', '.join(self.metrics)}, in {self.folder}>"

    def __str__(self):
        return self.table()

    def _repr_html_(self) -> str:
        return html_lines(self.table())

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
        """The trials, best first, printable: for several objectives those that no other one beats come first."""
        unbeaten = {record["number"] for record in self.best}
        sign, metric = 1 if self.directions[0] == "minimize" else -1, self.metrics[0]
        ended = [record for record in self.records if ending(record) == "COMPLETE"]
        ranked = sorted(ended, key=lambda each: (each["number"] not in unbeaten, sign * each["metrics"][metric]))
        ranked += [record for record in self.records if ending(record) != "COMPLETE"]
        rows = [(in_a_line(each, self.metrics), " (best)" * (each["number"] in unbeaten)) for each in ranked[:limit]]
        rest = [f"… and {len(ranked) - limit} more, see {TABLE}"] if len(ranked) > limit else []
        return "\n".join([f"{tally(self.records)}. Best first:", *map("".join, rows), *rest])

    def write(self) -> None:
        """Writes the files of the folder."""
        write_csv(self.folder / TABLE, trial_rows(self.records))
        found = {"metric": self.metrics, "direction": self.directions, "data": self.data, "best": self.best}
        write_json(self.folder / "best.json", found)
        drawable = self.directions == ["maximize", "minimize", "minimize"]
        if drawable and any("experiment/encoding" in record["metrics"] for record in self.best):
            plotting = own("plotting")  # matplotlib is needed here only

            found = [record["metrics"] for record in self.records if ending(record) == "COMPLETE"]
            columns = ([metrics[name] for metrics in found] for name in self.metrics)
            figure = plotting.pareto_front(*columns, [metrics["experiment/encoding"] for metrics in found])
            plotting.save(figure, self.folder / "pareto.png")


def search(objective: Callable[..., Any] | Mapping[str, Any], space: Iterable[OptimizableValue], trials: int,
           metric: str | Sequence[str], direction: str | Sequence[str] = "maximize", *, seed: int = 0,
           folder: str | os.PathLike = "experiments/search", storage: str | None = None,
           validation: float = 0.0, retry_failed: bool = False) -> SearchResult:
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
        retry_failed: do again what failed in earlier calls; in a storage, others take their places. Trials that an
            error of the system ended (OSError), such as a full disk, are done again in any case.
    """
    space, metrics = list(space), [metric] if isinstance(metric, str) else list(metric)
    directions = checked_directions(metrics, direction)
    names = [each.name for each in space]
    require(names and len(set(names)) == len(names), "A space has values, each of a name of its own", f"{names}",
            "Add or rename some.")
    check_whole("trials", trials, 1)
    check_whole("seed", seed)
    folder = Path(folder).expanduser().absolute()
    task, facts = as_task(objective, names, metrics[0], folder, validation)
    shared_facts = {"metrics": metrics, "directions": directions, "folder": folder}
    result = functools.partial(SearchResult, **shared_facts, arguments=facts["arguments"], data=facts.get("data"))
    signature = {"space": {value.name: repr(value.distribution) for value in space}, "seed": seed, **facts}
    signature["validation"] = validation
    if storage is None:
        plan = (drawn_values(space, seed, number) for number in range(trials))
        with open_ledger(folder, signature) as ledger:
            ledger.run(task, plan, metrics, lambda records: result(records).write(), retry_failed)
            return result(list(ledger.records.values()))
    folder.mkdir(parents=True, exist_ok=True)
    signature |= {"metric": metrics, "direction": directions}
    with shared_study(storage, folder.name, signature, directions) as study:
        replaced = to_replace(study, retry_failed)
        tell_found(f"study {folder.name!r}", records_of(study, ()), len(replaced))
        try:
            run_shared(study, task, space, trials, metrics, seed, replaced)
        finally:
            found = result(records_of(study, replaced))
            found.write()
    return found


def checked_directions(metrics: Sequence[str], direction: str | Sequence[str]) -> list[str]:
    """A direction for each metric; one holds for all."""
    directions = [direction] if isinstance(direction, str) else list(direction)
    directions *= len(metrics) if len(directions) == 1 else 1
    require(metrics and len(metrics) == len(directions) and set(directions) <= {"maximize", "minimize"},
            "A metric has the direction 'maximize' or 'minimize'", f"metric={metrics}, {direction=}",
            "Give one for each.")
    return directions


# ---------------------------------------------------------------------------------------------------------------------
# The command line

def literal(text: str):
    """A number, a truth value or None, as Python writes it; anything else is text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_setting(text: str) -> tuple[str, Any]:
    """`NAME=VALUE`."""
    name, _, value = text.partition("=")
    require(name.isidentifier() and value, "A setting is NAME=VALUE", text, "Such as max_images=1000.")
    return name, literal(value)


def parse_vary(text: str) -> OptimizableValue:
    """`threshold=1:20:1`, `norm_percentile=uniform(low=95, high=100)` or `encoding=rate,ttfs`."""
    name, _, values = text.partition("=")
    require(name and values, "What is varied is NAME=VALUES", text, "Such as threshold=1:20:1.")
    if call := re.fullmatch(r"(\w+)\((.*)\)", values):
        keywords = dict(parse_setting(each.strip()) for each in call[2].split(",") if each.strip())
        return OptimizableValue(name, RealInterval(call[1], **keywords))
    if ":" in values:
        bounds = [literal(each) for each in values.split(":")]
        require(len(bounds) in (2, 3), "An interval is START:STOP or START:STOP:STEP", text, "Such as 1:20:1.")
        return OptimizableValue(name, DiscreteInterval(*bounds))
    return OptimizableValue(name, DiscreteValues([literal(each) for each in values.split(",")]))


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Searches settings of an Experiment. The same command continues a search, and shares it, with --storage."
    parser = argparse.ArgumentParser("optimization", description=about)
    add, defaults = parser.add_argument, inspect.signature(Experiment).parameters
    for name, argument in NAMED.items():
        known = f"see experiment.py --help (default: {defaults[argument].default})"
        add(f"--{name}", dest=argument, metavar="NAME", default=argparse.SUPPRESS, help=known)
    add("--set", metavar="NAME=VALUE", nargs="+", action="extend", default=[], help="other arguments of Experiment")
    add("--vary", metavar="NAME=VALUES", nargs="+", action="extend", required=True, help="threshold=1:20:1 (without "
        "the end), encoding=rate,ttfs, 'norm_percentile=uniform(low=95, high=100)', or normal, poisson, beta")
    add("--trials", type=int, default=20, metavar="N", help="of all processes and calls together (default: 20)")
    add("--metric", nargs="+", metavar="NAME", help="default: snn/eval/validation, or with --validation 0 "
        "snn/eval/test")
    add("--direction", nargs="+", metavar="WAY", default=["maximize"], help="maximize (default) or minimize, for each")
    add("--validation", type=float, default=0.1, metavar="SHARE", help="of the training images, which trials are "
        "compared on and not trained with (default: 0.1); 0 compares on the test images")
    add("--storage", metavar="PLACE", help="of an Optuna study: a journal file, an SQLite file (.db), or a URL such as "
        "postgresql://user@host/database (default: random search, in one process)")
    add("--folder", default="experiments/search", metavar="DIR", help="default: experiments/search")
    add("--seed", type=int, default=0, metavar="N", help="of the choice of values (default: 0); that of the "
        "Experiments is --set seed=N")
    add("--retry-failed", action="store_true", help="do again what failed in earlier calls (default: only what an "
        "error of the system ended, such as a full disk)")
    return parser


def left(folder: str | os.PathLike) -> str:
    """A sentence that says what there is of a search."""
    path = Path(folder).expanduser().absolute() / TABLE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            ended = sum(1 for _ in csv.DictReader(file))
    except OSError:
        ended = 0
    if not ended:
        return "No trial has ended, so there is nothing to keep."
    trials = "trial has ended and stays" if ended == 1 else "trials have ended and stay"
    return f"{ended} {trials}, see {path}. The same command continues."


def main(argv: Sequence[str] | None = None) -> None:
    """`python optimization.py`: runs or continues a search and prints what is best."""
    parser = argument_parser()
    options = vars(parser.parse_args(argv))
    screen.show_messages()
    try:
        arguments = {name: options.pop(name) for name in NAMED.values() if name in options}
        arguments |= map(parse_setting, options.pop("set"))
        metric = options.pop("metric") or f"snn/eval/{'validation' if options['validation'] else 'test'}"
        result = search(arguments, list(map(parse_vary, options.pop("vary"))), metric=metric, **options)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {left(options['folder'])}")
        sys.exit(130)  # 128 + SIGINT, as shells have it
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    print(f"\n{result.table()}\n\nResults: {result.folder}")
    if all(ending(record) == "FAIL" for record in result.records):
        sys.exit(1)


if __name__ == "__main__":
    main()
