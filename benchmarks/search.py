"""Searches and repetitions under load: memory, kill -9, processes that share a study. Makes docs/SEARCH.md.

    python benchmarks/search.py                  # everything, about a quarter of an hour on two cores
    python benchmarks/search.py --trials 30 --kills 3 --parts kill,share

Needs the extra `search`. PostgreSQL is started by the script, in a temporary folder, if its programs are installed
(Debian: apt install postgresql); otherwise the table says so.
"""

import argparse
import csv
import glob
import json
import logging
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the path comes first

from optimization import DiscreteInterval, OptimizableValue, RealInterval, RepeatedExperiment, search  # noqa: E402
from spiking.runs import study  # noqa: E402
from spiking.runs import trials as trial_records  # noqa: E402

REPORT = ROOT / "docs" / "SEARCH.md"
BUSY_SECONDS = 0.25
SPACE = [OptimizableValue("x", RealInterval("uniform", low=0, high=1)), OptimizableValue("n", DiscreteInterval(0, 5))]
PATIENCE_SECONDS, HEARTBEAT_SECONDS = 5, 1  # shorter than usual, so that a dead worker does not cost half a minute


# --- what the processes do, `python benchmarks/search.py --role ROLE FOLDER TRIALS STORAGE` --------------------------

def busy(x, n=0, seed=0):
    """An objective that computes for a while, on one core."""
    until = time.process_time() + BUSY_SECONDS
    while time.process_time() < until:
        pass
    return {"score": x * (seed % 7 + 1) + n}


def quick(x, n=0, seed=0, wait=0.05):
    """An objective that waits a little."""
    time.sleep(wait)
    return {"score": x * (seed % 7 + 1) + n}


def waiting(x, n):
    """An objective that leaves the cores alone, so that only the storage can slow it down."""
    return quick(x, n, wait=BUSY_SECONDS)


def tiny_arguments() -> dict:
    """Arguments of an Experiment that takes about a second: 300 images of 9 x 9, three classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    images = rng.integers(0, 80, (300, 9, 9, 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 3] += 150
    data = ((images, labels), (images, labels))
    return {"dataset": data, "training_function": "base", "epochs": 2, "disable_training_accuracy": True}


class Memory(logging.Handler):
    """Notes the time and the resident memory, in seconds and bytes, at each log message, or when asked."""

    def __init__(self):
        super().__init__()
        self.points, self._start = [], time.perf_counter()

    def note(self):
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.points.append((time.perf_counter() - self._start, resident))

    def emit(self, record):
        self.note()


def tiny_search(folder: Path, trials: int) -> list:
    """A random search with real Experiments. Returns time and memory after each trial."""
    memory = Memory()
    trial_records.logger.addHandler(memory)
    trial_records.logger.setLevel(logging.INFO)
    trial_records.logger.propagate = False
    space = [OptimizableValue("timesteps", DiscreteInterval(5, 40))]
    space += [OptimizableValue("threshold", RealInterval("uniform", low=0.5, high=2))]
    search(tiny_arguments(), space, trials, "snn/eval/validation", validation=0.2, folder=folder)
    return memory.points


def tiny_loop(folder: Path, trials: int) -> list:
    """The documented loop, with all that a run writes. Returns time and memory after each trial."""
    from experiment import Experiment

    memory, timesteps = Memory(), OptimizableValue("timesteps", DiscreteInterval(5, 40), seed=0)
    places = {"results_dir": folder / "runs", "tblogs_dir": folder / "tblogs"}
    while len(memory.points) < trials:
        Experiment(timesteps=timesteps.get(), **tiny_arguments(), **places).run()
        memory.note()
    return memory.points


MEASURED = {"search": tiny_search, "loop": tiny_loop}


def play(role: str, folder: Path, trials: int, storage: str | None) -> None:
    """What one process does."""
    study.PATIENCE_SECONDS, study.HEARTBEAT_SECONDS = PATIENCE_SECONDS, HEARTBEAT_SECONDS
    if role in MEASURED:
        points = MEASURED[role](folder, trials)
        (folder / "memory.json").write_text(json.dumps(points))
    elif role == "repeat":
        RepeatedExperiment(quick, trials // 4, grid={"x": [1, 2], "n": [3, 4]}, folder=folder).run()
    else:
        objective = {"kill": quick, "busy": busy, "waiting": waiting}[role]
        search(objective, SPACE, trials, "score", folder=folder, storage=storage)


def start(role: str, folder: Path, trials: int, storage: str = "") -> subprocess.Popen:
    command = [sys.executable, __file__, "--role", role, str(folder), str(trials), storage]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(process: subprocess.Popen) -> None:
    if process.wait() != 0:
        raise RuntimeError(f"A process of the benchmark failed. Received: {process.args}. Run it by hand.")


# --- the parts ------------------------------------------------------------------------------------------------------

def memory(folder: Path, trials: int) -> list[str]:
    """Is memory flat over many trials with TensorFlow in one process?"""
    for role in MEASURED:
        finish(start(role, folder / role, trials))
    return memory_section(folder, trials)


def memory_section(folder: Path, trials: int) -> list[str]:
    """The page's section, from what the processes have left in the folder."""
    windows = {"20 to 70": slice(20, 70), f"{trials - 50} to {trials}": slice(-50, None)}
    lines = ["| | trials | resident memory, mean / MiB | trials per second |", "| --- | --- | --- | --- |"]
    growth = []
    for role in MEASURED:
        seconds, resident = np.array(json.loads((folder / role / "memory.json").read_text())).T
        for name, part in windows.items():
            times = seconds[part]
            rate = (len(times) - 1) / (times[-1] - times[0])
            lines.append(f"| {role} | {name} | {resident[part].mean() / 2**20:.0f} | {rate:.2f} |")
        early, late = (resident[part].mean() for part in windows.values())
        anns = len(list((folder / role / "runs" / "anns").glob("*.keras")))
        growth.append(f"{role} {100 * (late / early - 1):+.1f}%, trained ANNs: {anns}")
    return [
        f"{trials} trials in one process, each a real Experiment (MLP, 300 images of 9 x 9). search: a random search "
        "over time steps and threshold. loop: `while True: Experiment(timesteps=opt.get(), …).run()`, which also draws "
        "the figures and writes the report. Load of the machine at the end, these processes and others: "
        f"{os.getloadavg()[0]:.1f}.", "", *lines, "",
        f"Memory, last 50 trials against trials 20 to 70: {'; '.join(growth)}.",
    ]


def table(path: Path) -> list[dict]:
    with path.open() as file:
        return [{**row, "seconds": None} for row in csv.DictReader(file)]


def kill(folder: Path, kills: int) -> list[str]:
    """Does kill -9 lose or double anything?"""
    moments, trials = random.Random(1), 20 * kills
    lines = ["| | kills | trials | in the ledger | doubled | lost after a kill | equal to an uninterrupted run |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for role, name in (("kill", "search"), ("repeat", "RepeatedExperiment")):
        whole, killed, lost = folder / f"{role}-whole", folder / f"{role}-killed", 0
        ledger = killed / "trials.jsonl"
        finish(start(role, whole, trials))
        for number in range(1, kills + 1):
            process = start(role, killed, trials)
            wanted = trials * number // (kills + 1)
            while len(ledger.read_text().splitlines() if ledger.exists() else ()) < wanted:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
            process.wait()
            before = ledger.read_text().splitlines(keepends=True)
            process = start(role, killed, trials)  # a restart that does nothing more than one trial keeps all lines
            while len(ledger.read_text().splitlines()) <= len(before):
                time.sleep(0.005)
            process.kill()
            process.wait()
            now = ledger.read_text()
            lost += sum(line not in now for line in before if line.endswith("\n"))
        finish(start(role, killed, trials))
        numbers = [json.loads(line)["number"] for line in ledger.read_text().splitlines()]
        file = "trials.csv" if role == "kill" else "runs.csv"
        equal = "yes" if table(whole / file) == table(killed / file) else "NO"
        doubled = len(numbers) - len(set(numbers))
        lines.append(f"| {name} | {2 * kills} | {trials} | {len(numbers)} | {doubled} | {lost} | {equal} |")
    return ["Processes killed by SIGKILL at random moments, then the same command again:", "", *lines]


class PostgreSQL:
    """A server in a temporary folder, reached through a socket there. Root runs it as the user postgres."""

    def __init__(self, folder: Path):
        found = [*map(Path, sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True))]
        program = shutil.which("initdb")
        self.programs = Path(program).resolve().parent if program else found[0] if found else None
        self.folder = folder

    def __enter__(self):
        if self.programs is None:
            return None
        self.user = {"user": "postgres"} if os.geteuid() == 0 else {}
        self.folder.mkdir()
        if self.user:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-D", self.folder / "data", "-U", "postgres", "-A", "trust")
        options = f"-k {self.folder} -c listen_addresses=''"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-o", options, "-l", self.folder / "log", "start")
        return f"postgresql+psycopg2://postgres@/postgres?host={self.folder}"

    def __exit__(self, *_):
        if self.programs is not None:
            self._run("pg_ctl", "-D", self.folder / "data", "-m", "fast", "stop")

    def _run(self, program, *arguments):
        command = [self.programs / program, *arguments]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, **self.user)


def share(folder: Path, trials: int) -> list[str]:
    """How do processes share a study?"""
    lines = ["| storage | objective | processes | trials wanted | counted | trials per second | against one |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="pg") as short:  # the path of a socket is limited to some 100 letters
        Path(short).chmod(0o755)
        with PostgreSQL(Path(short) / "server") as server:
            storages = {"journal": str(folder / "journal.log"), "SQLite": str(folder / "study.db")}
            storages["PostgreSQL"] = server
            for name, storage in storages.items():
                if storage is None:
                    lines.append(f"| {name} | not installed here | | | | | |")
                    continue
                for role in ("busy", "waiting"):
                    alone = None
                    for workers in (1, 2, 4):
                        place = folder / f"{name}-{role}-{workers}"
                        counted, rate, _ = shared(role, place, storage, trials, workers)
                        alone = alone or rate
                        cells = name, role, workers, trials, counted, f"{rate:.2f}", f"{rate / alone:.2f}"
                        lines.append(f"| {' | '.join(map(str, cells))} |")
                counted, _, lost = shared("busy", folder / f"{name}-killed", storage, trials, 2, killing=True)
                note = f"2, one killed midway, {lost} trial failed and replaced"
                lines.append(f"| {name} | busy | {note} | {trials} | {counted} | | |")
    text = f"TPE, an objective that takes {BUSY_SECONDS} s and keeps a core busy for that time, or only waits."
    return [f"{text} Load of the machine at the end, these processes and others: {os.getloadavg()[0]:.1f}.", "", *lines]


def shared(role, folder: Path, storage: str, trials: int, workers: int, killing: bool = False) -> tuple:
    """Runs a study. Returns the trials counted, their rate from the first start to the last end, the trials lost."""
    import optuna

    processes = [start(role, folder, trials, storage) for _ in range(workers)]
    if killing:
        time.sleep(3 + trials * BUSY_SECONDS / 4)
        processes.pop().kill()
    for process in processes:
        finish(process)
    backend = study.open_storage(storage)
    seen = optuna.load_study(study_name=folder.name, storage=backend).trials
    ended = [trial for trial in seen if study.counts(trial)]
    lost = [trial for trial in seen if not study.counts(trial)]
    begin, end = min(trial.datetime_start for trial in ended), max(trial.datetime_complete for trial in ended)
    if hasattr(backend, "engine"):
        backend.engine.dispose()
    return len({trial.number for trial in ended}), len(ended) / (end - begin).total_seconds(), len(lost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--role", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, default=200, help="of the search whose memory is measured (default: 200)")
    parser.add_argument("--shared-trials", type=int, default=40, help="of each shared study (default: 40)")
    parser.add_argument("--kills", type=int, default=10, help="moments of killing (default: 10)")
    parser.add_argument("--parts", default="kill,share,memory", help="(default: kill,share,memory)")
    options = parser.parse_args()
    if options.role:
        role, folder, trials, storage = options.role
        play(role, Path(folder), int(trials), storage or None)
        return
    parts = {
        "memory": ("Memory over many trials", lambda folder: memory(folder, options.trials)),
        "kill": ("kill -9", lambda folder: kill(folder, options.kills)),
        "share": ("Processes that share a study", lambda folder: share(folder, options.shared_trials)),
    }
    sections = (REPORT.read_text("utf-8") if REPORT.exists() else "").split("\n## ")[1:]
    kept = {section.split("\n")[0]: section.partition("\n")[2].strip("\n") for section in sections}
    report = ["# Searches under load", ""]
    report += [f"Made by `python benchmarks/search.py` on {os.cpu_count()} cores, {platform.system()}, "
               f"Python {platform.python_version()}. Parts can be run one by one."]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.parts.split(","):
            title, part = parts[name]
            kept[title] = "\n".join(part(Path(folder)))
            print(f"## {title}\n\n{kept[title]}\n", flush=True)
            sections = [f"## {title}\n\n{kept[title]}" for title, _ in parts.values() if title in kept]
            REPORT.write_text("\n\n".join(["\n".join(report), *sections]) + "\n", encoding="utf-8")



if __name__ == "__main__":
    main()
