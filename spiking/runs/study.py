"""A search that processes share: an Optuna study. Optuna is imported where it is used."""

import contextlib
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from spiking.runs.files import plain
from spiking.runs.spaces import derived_seed
from spiking.runs.trials import (
    Pruned,
    Record,
    Task,
    as_read,
    attempt,
    check_signature,
    ending,
    in_a_line,
    to_be_redone,
)

__all__ = [
    "HEARTBEAT_SECONDS", "PATIENCE_SECONDS", "POLL_SECONDS", "counts", "fail_the_dead", "heartbeat",
    "open_storage", "record_of", "records_of", "run_one", "run_shared", "shared_study", "to_replace",
]  # fmt: skip

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5  # between two signs of life of a worker
PATIENCE_SECONDS = 30  # a worker without a sign of life for so long is taken for dead
POLL_SECONDS = 0.2  # between two looks at a study while other workers finish the last trials


def open_storage(storage: str):
    """The Optuna storage of that name; see `optimization.search`."""
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
        raise ImportError(
            f"A storage is one of Optuna's, which is not installed. Received: {storage=}. "
            "pip install 'spiking-toolbox[search]', or search without a storage."
        ) from error
    backend = open_storage(storage)
    try:
        study = optuna.create_study(storage=backend, study_name=name, directions=directions, load_if_exists=True)
        check_signature(study.user_attrs.get("search"), signature, f"{storage=}, study {name!r}")
        study.set_user_attr("search", plain(signature))
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


def counts(trial, replaced: Collection[int] = ()) -> bool:
    """Whether a trial ended, did not fail only because its worker was killed, and is not replaced by another one."""
    if trial.number in replaced or "record" not in trial.user_attrs:
        return False
    return trial.state.name == ending(trial.user_attrs["record"])


def record_of(trial) -> Record:
    """The record of a trial that `counts`."""
    return as_read(trial.user_attrs["record"])


def to_replace(study, retry_failed: bool) -> set[int]:
    """The trials of earlier calls that other ones shall take the place of: those that `to_be_redone` names."""
    ended = filter(counts, study.get_trials(deepcopy=False))
    return {trial.number for trial in ended if to_be_redone(record_of(trial), retry_failed)}


def records_of(study, replaced: Collection[int]) -> list[Record]:
    """The records of the trials that ended and are not replaced, by number."""
    return [record_of(each) for each in study.get_trials(deepcopy=False) if counts(each, replaced)]


def run_shared(
    study, task: Task, space, trials: int, metrics: Sequence[str], seed: int, replaced: Collection[int] = ()
) -> None:
    """Does trials of a study, beside other workers, until all together have done as many as wanted.

    `replaced`: numbers of trials that do not count.
    """
    from optuna.trial import TrialState

    seen = {}
    while True:
        fail_the_dead(study, seen)
        known = study.get_trials(deepcopy=False)
        ended = sum(counts(trial, replaced) for trial in known)
        if ended >= trials:
            return
        if ended + sum(trial.state == TrialState.RUNNING for trial in known) >= trials:
            time.sleep(POLL_SECONDS)
            continue
        trial = study.ask()
        try:
            before = [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]
            if sum(other.state == TrialState.RUNNING or counts(other, replaced) for other in before) < trials:
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
        trial.set_user_attr("record", plain(record))
        state = ending(record)
        study.tell(trial, [record["metrics"][name] for name in metrics] if state == "COMPLETE" else None,
                   state=optuna.trial.TrialState[state])
    except optuna.exceptions.UpdateFinishedTrialError:
        logger.warning("Trial %d was taken for dead by another worker, and does not count", trial.number)
