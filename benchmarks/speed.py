"""Speed and memory of the simulation: makes docs/PERFORMANCE.md.

    python benchmarks/speed.py

Speed is a ratio to the ANN's own forward pass (`tf.function` of the ANN, jit off) on the same images, batch and core,
in CPU seconds of one process that is pinned to one core with one thread; runs interleaved, medians. Memory is the peak
resident set of a fresh process.
"""

import argparse
import functools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "PERFORMANCE.md"

NETWORKS = {"denseonly1": "MLP 784-600-10", "lenet5_maxpool": "LeNet-5, max pooling"}
RUNS = [
    ("rate", 100),
    ("ttfs", 120),
    ("ttfs_clamped", 120),
    ("ttfs_dyn_thresh", 120),
    ("ttfs_exact", 16),
    ("ttfs_exact", 1024),
]
BATCH, IMAGES, REPEATS = 100, 1000, 7
REPEATS_OF_PASS = 10  # one forward pass is too short to time


def trained_network(name: str):
    """A trained network by its name, and its data; the VGG is in the repository, the others are trained once."""
    import keras

    import ann_training

    if name == "vgg16_slim_cifar10":
        network = keras.models.load_model(ROOT / "benchmarks" / "models" / f"{name}.keras")
        return network, ann_training.load_dataset("cifar10", max_images=4000)
    data = ann_training.load_dataset("mnist_sample")
    training = ann_training.Training(epochs=3, ann_cache_dir=ROOT / "experiments" / "anns")
    return ann_training.train_network(name, training, data.train, data.test), data


def networks_and_images():
    """The trained networks, and test images; TensorFlow is imported here, once threads and cores are set."""
    import ann_training

    data = ann_training.load_dataset("mnist_sample")
    training = ann_training.Training(epochs=3, ann_cache_dir=ROOT / "experiments" / "anns")
    anns = {name: ann_training.train_network(name, training, data.train, data.test) for name in NETWORKS}
    return anns, data


def simulate_all(model, batches, again: int) -> None:
    """All batches through a model, `again` times."""
    for _ in range(again):
        for batch in batches:
            model(batch)


def seconds_interleaved(calls: list, repeats: int = REPEATS) -> list[list[float]]:
    """CPU seconds of each call, run in turn, after one warm-up."""
    seconds = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(repeats):
        for spent, call in zip(seconds, calls, strict=True):
            start = time.process_time()
            call()
            spent.append(time.process_time() - start)
    return seconds


def measure_speed() -> list[dict]:
    """A row per network and run: the ratio to the ANN's forward pass, and per time step."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from conversion import convert_ann_to_snn

    anns, data = networks_and_images()
    images = data.x_test[:IMAGES]
    batches = [tf.constant(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    rows = []
    for name, ann in anns.items():
        forward = tf.function(functools.partial(ann, training=False), jit_compile=False)
        for encoding, timesteps in RUNS:
            snn = convert_ann_to_snn(ann, data.x_train[:1000], encoding, timesteps)
            single = encoding == "ttfs_exact"  # about as short as the ANN's pass: repeat it as often
            again = REPEATS_OF_PASS if single else 1
            ann_seconds, snn_seconds = seconds_interleaved(
                [
                    functools.partial(simulate_all, forward, batches, REPEATS_OF_PASS),
                    functools.partial(simulate_all, snn.simulate, batches, again),
                ]
            )
            ratio = np.array(snn_seconds) / again / (np.array(ann_seconds) / REPEATS_OF_PASS)
            steps = 1 if single else timesteps
            rows.append(
                {
                    "network": NETWORKS[name],
                    "encoding": encoding,
                    "timesteps": timesteps,
                    "ratio": float(np.median(ratio)),
                    "per_step": float(np.median(ratio) / steps),
                    "least": float(ratio.min() / steps),
                    "most": float(ratio.max() / steps),
                    "seconds": float(np.median(snn_seconds) / again),
                }
            )
    return rows


def measure_memory(encoding: str, timesteps: int) -> dict:
    """Peak resident set of this process after simulating, in MiB."""
    from conversion import convert_ann_to_snn

    anns, data = networks_and_images()
    snn = convert_ann_to_snn(anns["lenet5_maxpool"], data.x_train[:1000], encoding, timesteps)
    for start in range(0, 300, BATCH):
        snn.simulate(data.x_test[start : start + BATCH], ["spike_counts", "first_spike_times"])
    return {
        "encoding": encoding,
        "timesteps": timesteps,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_job() -> dict:
    """Wall seconds and peak MiB of the main job, `python experiment.py`, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        job = subprocess.Popen(
            [sys.executable, ROOT / "experiment.py"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(job.pid, 0)
    if status:
        raise RuntimeError(f"The main job failed with status {status}.")
    return {
        "wall": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "mib": usage.ru_maxrss / 1024,
        "cores": len(os.sched_getaffinity(0)),
    }


def in_fresh_process(*arguments: str):
    """What this script prints as its last line when called with these arguments."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def page(speed: list[dict], memory: list[dict], job: dict) -> str:
    """docs/PERFORMANCE.md."""
    import keras
    import numpy as np
    import tensorflow as tf

    lines = [
        "# Speed and memory",
        "",
        f"Made by `python benchmarks/speed.py`; Python {platform.python_version()}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, numpy {np.__version__}.",
        "",
        f"{IMAGES} images, batches of {BATCH}, one pinned core, one thread, CPU seconds, {REPEATS} interleaved runs. "
        "Ratio: simulation to the ANN's forward pass. Per step: the ratio divided by the number of time steps (for "
        "`ttfs_exact`, which is a closed form, the ratio itself), with its range over the runs.",
        "",
        "| network | encoding | T or N | ratio | per step | range | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['network']} | {row['encoding']} | {row['timesteps']} | {row['ratio']:.2f} | {row['per_step']:.3f} | "
        f"{row['least']:.3f} to {row['most']:.3f} | {row['seconds']:.3f} |"
        for row in speed
    ]
    lines += [
        "",
        "Peak resident set of a fresh process that simulates 300 images with LeNet-5, statistics included:",
        "",
        "| encoding | T or N | MiB |",
        "| --- | --- | --- |",
        *(f"| {row['encoding']} | {row['timesteps']} | {row['mib']:.0f} |" for row in memory),
    ]
    lines += [
        "",
        f"The main job, `python experiment.py` (training, all encodings, figures, TensorBoard), on {job['cores']} "
        f"cores: {job['wall']:.0f} s ({job['cpu']:.0f} CPU seconds), peak resident set {job['mib']:.0f} MiB.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=2, metavar=("ENCODING", "T"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.speed:
        print(json.dumps(measure_speed()))
    elif args.memory:
        print(json.dumps(measure_memory(args.memory[0], int(args.memory[1]))))
    else:
        speed = in_fresh_process("--speed")
        memory = [
            in_fresh_process("--memory", encoding, str(timesteps))
            for encoding in dict.fromkeys(encoding for encoding, _ in RUNS)
            for timesteps in (100, 1000)
        ]
        PAGE.write_text(page(speed, memory, measure_job()))
        print(PAGE.read_text())


if __name__ == "__main__":
    main()
