"""What the analysis costs beside the plain evaluation, in time and in memory: makes docs/ANALYSIS.md.

    python benchmarks/analysis.py

Time: `snn_activation_analysis` (spikes, spike times, operations, energy, accuracy at every time step) against
`snn_accuracy` on the same 10000 images of MNIST, in CPU seconds of one process that is pinned to one core with one
thread; runs interleaved, medians. Memory: the peak resident set of a fresh process per line.
"""

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "ANALYSIS.md"

ARCHITECTURE, ENCODING = "lenet5_maxpool", "rate"
BATCH, IMAGES, TIMESTEPS, REPEATS = 100, 10000, 100, 3
MEMORY_RUNS = [(1000, 100), (10000, 100), (1000, 1000)]  # images, T
BOUND = 1.3


def network_and_data(timesteps: int):
    """The converted network and MNIST; TensorFlow is imported here, once threads and cores are set."""
    import ann_training
    from conversion import convert_ann_to_snn

    sample, data = ann_training.load_dataset("mnist_sample"), ann_training.load_dataset("mnist")
    training = ann_training.Training(epochs=3, ann_cache_dir=ROOT / "experiments" / "anns")
    ann = ann_training.train_network(ARCHITECTURE, training, sample.train, sample.test)
    return convert_ann_to_snn(ann, sample.x_train[:1000], ENCODING, timesteps), data


def use_one_core() -> None:
    """Pins this process to one core and TensorFlow to one thread."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def cpu_seconds(call) -> float:
    """CPU seconds of this process in a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure_time(images: int, repeats: int) -> dict:
    """CPU seconds of both, first call apart, and their ratio run by run."""
    use_one_core()
    import conversion

    snn, data = network_and_data(TIMESTEPS)
    arguments = (snn, data.x_test[:images], data.y_test[:images], BATCH)
    calls = {
        "evaluation": functools.partial(conversion.snn_accuracy, *arguments),
        "analysis": functools.partial(conversion.snn_activation_analysis, *arguments),
    }
    first = {name: cpu_seconds(call) for name, call in calls.items()}
    runs = [{name: cpu_seconds(call) for name, call in calls.items()} for _ in range(repeats)]
    return {"images": images, "first": first, "runs": runs}


def resident(what: str) -> float:
    """Resident set of this process, in MiB, as Linux tells it: `VmRSS` now, `VmHWM` at most since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(what)).split()[1]) / 1024


def measure_memory(images: int, timesteps: int) -> dict:
    """Resident set of this process before the analysis, and at most during it, in MiB."""
    import conversion

    snn, data = network_and_data(timesteps)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = resident("VmRSS")
    conversion.snn_activation_analysis(snn, data.x_test[:images], data.y_test[:images], BATCH)
    return {"images": images, "timesteps": timesteps, "before": before, "after": resident("VmHWM")}


def in_fresh_process(*arguments):
    """What this script prints as its last line when called with these arguments."""
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def page(cost: dict, memory: list[dict]) -> str:
    """docs/ANALYSIS.md."""
    import keras
    import numpy as np
    import tensorflow as tf

    ratios = [run["analysis"] / run["evaluation"] for run in cost["runs"]]
    lines = [
        "# What the analysis costs",
        "",
        f"Made by `python benchmarks/analysis.py`; Python {platform.python_version()}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, numpy {np.__version__}.",
        "",
        f"LeNet-5 with max pooling, {ENCODING}, batches of {BATCH}. `snn_activation_analysis` measures spikes, first "
        "spike times, operations, energy and the accuracy at every time step in one pass; `snn_accuracy` only the "
        "accuracy.",
        "",
        f"CPU seconds for {cost['images']} images of MNIST, T = {TIMESTEPS}, one pinned core, one thread, runs "
        f"interleaved, the first call of each (which compiles) apart. Median ratio: **{np.median(ratios):.2f}** "
        f"(at most {BOUND} is asked).",
        "",
        "| run | `snn_accuracy` | `snn_activation_analysis` | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for name, run in [("first", cost["first"]), *enumerate(cost["runs"], 1)]:
        seconds, analysis = run["evaluation"], run["analysis"]
        lines.append(f"| {name} | {seconds:.2f} | {analysis:.2f} | {analysis / seconds:.2f} |")
    lines += [
        "",
        "Resident set of a fresh process per line, in MiB, once the data are loaded and the network is converted, and "
        "the largest during the analysis:",
        "",
        "| images | T | before | peak | difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['images']} | {row['timesteps']} | {row['before']:.0f} | {row['after']:.0f} | "
        f"{row['after'] - row['before']:.0f} |"
        for row in memory
    ]
    lines += [
        "",
        "What is kept of all images is a histogram of counts and one of times per layer, T + 1 numbers each, and one "
        "total per neuron. Of one batch the scores at every step are kept: T × batch × classes numbers, "
        f"{1000 * BATCH * 10 * 4 / 2**20:.1f} MiB at T = 1000.",
    ]
    return "\n".join(lines) + "\n"


MEASURES = {"time": measure_time, "memory": measure_memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args().measure
    if chosen:
        print(json.dumps(MEASURES[chosen[0]](*map(int, chosen[1:]))))
        return
    cost = in_fresh_process("time", IMAGES, REPEATS)
    memory = [in_fresh_process("memory", *run) for run in MEMORY_RUNS]
    PAGE.write_text(page(cost, memory))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
