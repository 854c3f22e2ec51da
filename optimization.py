"""Search: spaces of values, random search, Optuna. What has finished is never lost.

    space = [
        OptimizableValue("threshold", DiscreteInterval(1, 20, 1)),
        OptimizableValue("norm_percentile", RealInterval("uniform", low=95, high=100)),
    ]
    found = search({"encoding": "ttfs"}, space, 100, "snn/eval/validation", validation=0.1, folder="experiments/ttfs")
    Experiment(**found.best[0]["arguments"]).run()

or `python optimization.py --encoding ttfs --vary threshold=1:20:1 --folder experiments/ttfs`.

The trials of a search are recorded as `trials.py` tells: in the file of a folder, one process at a time, or in an
Optuna study, which any number of processes and machines share. Optuna is imported when a storage is named.
"""

import abc
import argparse
import ast
import contextlib
import functools
import json
import logging
import math
import numbers
import os
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from trials import (
    Pruned,
    Record,
    RepeatedExperiment,
    Task,
    as_task,
    attempt,
    check_signature,
    checked_values,
    derived_seed,
    ending,
    in_a_line,
    open_ledger,
    plain,
    plain_arguments,
    require,
    require_number,
    table_row,
    write_csv,
    write_json,
)

__all__ = ["DiscreteInterval", "DiscreteValues", "OptimizableValue", "RealInterval", "RepeatedExperiment", "search"]

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5  # between two signs of life of a worker
PATIENCE_SECONDS = 30  # a worker without a sign of life for so long is taken for dead
POLL_SECONDS = 0.2  # between two looks at a study while other workers finish the last trials
QUANTILE_DRAWS = 2**16


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
    """The Optuna storage of that name; see `search`."""
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
