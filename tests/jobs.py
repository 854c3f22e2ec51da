"""Jobs for processes of their own, which tests kill and let race.

    process = start(probe, folder)      # a multiprocessing.Process: .kill(), .join(), .exitcode

They are forked from one server that has imported the toolbox: a fresh interpreter would need longer for that import
than for the job, and there are about twenty of them.
"""

import multiprocessing
import os
import time
from multiprocessing import forkserver
from pathlib import Path

import optimization
from optimization import DiscreteInterval, OptimizableValue, RealInterval, RepeatedExperiment, search
from spiking.checks import check_folder
from spiking.runs import study
from spiking.runs.folder import RunFolder

FORKED = multiprocessing.get_context("forkserver")
PATHS = (Path(optimization.__file__).parent, Path(__file__).parent)


def start(job, *arguments):
    """Starts a job of this module in a process of its own."""
    FORKED.set_forkserver_preload(["jobs"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, PATHS))  # the server's, which is started once
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    process = FORKED.Process(target=job, args=tuple(map(str, arguments)))
    process.start()
    return process


def finish(process, seconds=60):
    """Waits for a job, which must end well."""
    process.join(seconds)
    assert process.exitcode == 0


def sleepy_trials(folder, kind, trials, storage=""):
    """A search, or repetitions, with an objective that takes its time and writes down that it was called."""
    study.PATIENCE_SECONDS, study.HEARTBEAT_SECONDS = 1.0, 0.2

    def sleepy(x, n=0, seed=0):
        time.sleep(0.02)
        with (Path(folder).parent / "calls").open("a") as file:
            file.write(f"{x} {n} {seed}\n")
        return {"score": x * (seed % 7 + 1) + n}

    if kind == "search":
        space = [OptimizableValue("x", RealInterval("uniform", low=0, high=1)),
                 OptimizableValue("n", DiscreteInterval(0, 5))]  # fmt: skip
        search(sleepy, space, int(trials), "score", folder=folder, storage=storage or None)
    else:
        RepeatedExperiment(sleepy, int(trials) // 4, grid={"x": [1, 2], "n": [3, 4]}, folder=folder).run()


def probe(folder):
    """Asks again and again whether a folder can be written."""
    for _ in range(800):
        check_folder("folder", folder).mkdir(parents=True, exist_ok=True)


def claim(results, logs, answer):
    """Claims the folders of a run, and writes down what comes of it."""
    try:
        RunFolder.claim(Path(results), "run", Path(logs), "run")
        told = "claimed"
    except OSError as error:
        told = f"{type(error).__name__}: {error}"
    Path(answer).write_text(told, encoding="utf-8")
