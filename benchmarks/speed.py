"""Speed and memory of the simulation: makes docs/PERFORMANCE.md.

    python benchmarks/speed.py            # what is missing in docs/performance.json, then the page
    python benchmarks/speed.py --again    # everything anew
    python benchmarks/speed.py --page     # only the page, from what there is
    python benchmarks/speed.py --parts versions_before conversion_before job_before    # version 0.1, checked out beside
                                                             # this folder: git worktree add ../v0.1 294fd50

Speed is a ratio to the ANN's own forward pass (`tf.function` of the ANN, jit off) on the same images, batch and core,
in CPU seconds of one process that is pinned to one core with one thread; runs interleaved, medians. Memory is the peak
resident set of a fresh process. Each part is written to docs/performance.json as soon as it is measured. The peers are
measured by benchmarks/peers.py, whose table this page takes in.
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

from networks import LENET, MLP, MOBILENET, RESNET, VGG, trained_network

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAGE, RESULTS = ROOT / "docs" / "PERFORMANCE.md", ROOT / "docs" / "performance.json"

# Network: its title, and the images of one run.
NETWORKS = {
    MLP: ("MLP 784-600-10", 1000), LENET: ("LeNet-5, max pooling", 500), VGG: ("VGG-16, quarter width", 100),
    RESNET: ("ResNet-20", 100), MOBILENET: ("MobileNetV2-slim", 100),
}  # fmt: skip
ENCODINGS = {"rate": 100, "ttfs": 120, "ttfs_clamped": 120, "ttfs_dyn_thresh": 120, "ttfs_exact": 32, "radix": 6}
# What is measured beside the encodings as they are: title -> encoding and options.
VARIANTS = {"rate, signed": ("rate", {"signed": True}), "rate, 8 a step": ("rate", {"max_spikes": 8})}
DEEP = {"rate": 32, "ttfs_exact": 32, "radix": 6}  # of deep networks the others are left out, but for the VGG
CLOSED = ("ttfs_exact", "radix")
STEPS = (8, 32, 128, 1024)
BATCHES = (1, 32, 256)
BATCH = 100


# ---------------------------------------------------------------------------------------------------------------------
# Timing


def one_core() -> None:
    """One pinned core, one thread; to be called before TensorFlow has done anything."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def forward_pass(ann):
    """The ANN as a plain function: what a simulation is measured against."""
    import tensorflow as tf

    return tf.function(functools.partial(ann, training=False), jit_compile=False)


def stock_stack(snn):
    """The same layers, run one after another by stock Keras."""
    import keras
    import tensorflow as tf

    stack = keras.Sequential([keras.Input(snn.input_shape[1:]), *snn.layers])
    return tf.function(functools.partial(stack, training=False), jit_compile=False)


def batches_of(images, size: int, number: int) -> list:
    """The first `number` images as tensors of `size` images each, at least one."""
    import tensorflow as tf

    return [tf.constant(images[start : start + size]) for start in range(0, max(number, 1), size)]


def interleaved(calls: dict, batches, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of all batches through each call, in turn, after a warm-up; short calls are repeated and divided."""

    def run(call, again):
        start = time.process_time()
        for _ in range(again):
            for batch in batches:
                call(batch)
        return (time.process_time() - start) / again

    again = {}
    for name, call in calls.items():
        call(batches[0])
        again[name] = max(1, int(0.1 / max(run(call, 1), 1e-4)))
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(run(call, again[name]))
    return seconds


def ratios(seconds: dict, base: str, steps: int) -> dict:
    """Of each call to the base, per time step: median, least and most; and median seconds."""
    import numpy as np

    found = {}
    for name, spent in seconds.items():
        ratio = np.array(spent) / np.array(seconds[base]) / steps
        found[name] = {
            "per_step": float(np.median(ratio)),
            "range": [float(ratio.min()), float(ratio.max())],
            "seconds": float(np.median(spent)),
        }
    return found


def converted(ann, data, encoding: str, timesteps: int, **options):
    from conversion import convert_ann_to_snn

    return convert_ann_to_snn(ann, data.x_train[:1000], encoding, timesteps, **options)


def priced_steps(encoding: str, timesteps: int) -> int:
    """The number of steps a ratio is divided by: a closed form has none."""
    return 1 if encoding in CLOSED else timesteps


# ---------------------------------------------------------------------------------------------------------------------
# The parts: each runs in a fresh process and returns rows


def measure_speed(network: str) -> list[dict]:
    """Encodings at their usual number of steps, against the ANN and the stock stack."""
    one_core()
    title, images = NETWORKS[network]
    ann, data = trained_network(network)
    batches = batches_of(data.x_test, BATCH, images)
    deep = network not in (MLP, LENET)
    steps = {**(ENCODINGS if network in (MLP, LENET, VGG) else {}), **(DEEP if deep else {})}
    rows = []
    for encoding, timesteps in steps.items():
        snn = converted(ann, data, encoding, timesteps)
        calls = {"ann": forward_pass(ann), "loop": snn.simulate}
        rows.append(_row(title, encoding, timesteps, BATCH, calls, batches, 5))
        if not deep and encoding not in CLOSED:
            calls["stack"] = stock_stack(snn)
            rows[-1]["stack"] = _row(title, encoding, timesteps, BATCH, calls, batches[:1], 3)["stack"]
    for variant, (encoding, options) in VARIANTS.items():
        snns = {"plain": converted(ann, data, encoding, steps[encoding], readout_delay=0),
                "loop": converted(ann, data, encoding, steps[encoding], readout_delay=0, **options)}  # fmt: skip
        calls = {"ann": forward_pass(ann), **{name: snn.simulate for name, snn in snns.items()}}
        rows.append(_row(title, variant, steps[encoding], BATCH, calls, batches, 5))
    return rows + (_reduced(title, ann, data, batches) if deep else [])


def _reduced(title, ann, data, batches) -> list[dict]:
    """`rate` with synapses in bfloat16."""
    from spiking.network.precision import reduce_precision

    snn = converted(ann, data, "rate", DEEP["rate"])
    reduce_precision(snn)
    calls = {"ann": forward_pass(ann), "loop": snn.simulate}
    return [_row(title, "rate, bfloat16", DEEP["rate"], BATCH, calls, batches, 5)]


def converter_of(checkout: str):
    """`convert_ann_to_snn` of a checkout, imported beside that of another one."""
    own = ("spiking", "conversion", "ann_training", "experiment", "optimization", "plotting")
    for name in [name for name in sys.modules if name.split(".")[0] in own]:
        del sys.modules[name]
    sys.path.insert(0, checkout)
    import conversion

    return conversion.convert_ann_to_snn


def measure_versions(network: str, checkout: str) -> list[dict]:
    """CPU seconds of version 0.1 and today in one process, in turn; peak memory is measured apart."""
    one_core()
    title, images = NETWORKS[network]
    ann, data = trained_network(network)
    batches = batches_of(data.x_test, BATCH, images)
    rows, simulate = [], {}
    for version, path in (("0.1", checkout), ("today", str(ROOT))):
        convert = converter_of(path)
        for encoding, steps in (DEEP if network == VGG else ENCODINGS).items():
            if version == "0.1" and encoding == "radix":
                continue
            steps = DEEP.get(encoding, steps) if network == VGG else steps
            snn = convert(ann, data.x_train[:1000], encoding, steps)
            snn.simulate(batches[0])  # traced while its own modules are the ones that Python finds
            simulate.setdefault((encoding, steps), {})[version] = snn.simulate
    for (encoding, steps), calls in simulate.items():
        if "0.1" in calls:
            seconds = interleaved(calls, batches, 7)
            rows.append({"network": title, "encoding": encoding, "timesteps": steps, **ratios(seconds, "0.1", 1)})
    return rows


def _row(title, encoding, timesteps, batch, calls, batches, repeats) -> dict:
    measured = ratios(interleaved(calls, batches, repeats), "ann", priced_steps(encoding, timesteps))
    return {"network": title, "encoding": encoding, "timesteps": timesteps, "batch": batch, **measured}


def measure_steps() -> list[dict]:
    """LeNet-5 and, for the closed form, the VGG over T or N."""
    one_core()
    rows = []
    for network in (LENET, VGG):
        ann, data = trained_network(network)
        batches = batches_of(data.x_test, BATCH, BATCH)
        for encoding in ENCODINGS if network == LENET else ["ttfs_exact"]:
            for steps in STEPS:
                calls = {"ann": forward_pass(ann), "loop": converted(ann, data, encoding, steps).simulate}
                rows.append(_row(NETWORKS[network][0], encoding, steps, BATCH, calls, batches, 3))
    return rows


def measure_batches() -> list[dict]:
    """LeNet-5 over batch sizes; with a batch of one also compiled by XLA."""
    one_core()
    import tensorflow as tf

    ann, data = trained_network(LENET)
    rows = []
    for encoding, steps in ENCODINGS.items():
        snn = converted(ann, data, encoding, steps)
        for size in BATCHES:
            calls = {"ann": forward_pass(ann), "loop": snn.simulate}
            if encoding == "rate":
                calls["stepped"] = functools.partial(snn.simulate, record=["readouts"])
                calls["xla"] = tf.function(snn, jit_compile=True)
            batches = batches_of(data.x_test, size, 10 if size == 1 else size)
            rows.append(_row(NETWORKS[LENET][0], encoding, steps, size, calls, batches, 3))
    return rows


def measure_memory(encoding: str, timesteps: str, batch: str, checkout: str = str(ROOT)) -> dict:
    """Peak resident set of this process after simulating LeNet-5 with statistics, in MiB."""
    sys.path.insert(0, checkout)
    ann, data = trained_network(LENET)
    snn = converted(ann, data, encoding, int(timesteps))
    for start in range(0, 3 * int(batch), int(batch)):
        snn.simulate(data.x_test[start : start + int(batch)], ["spike_counts", "first_spike_times"])
    return {"encoding": encoding, "timesteps": int(timesteps), "batch": int(batch), "mib": peak()}


def peak() -> float:
    """Peak resident set of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_depth(depth: str) -> dict:
    """CPU seconds and peak MiB: 100 images, so many convolutions of 16 filters, random weights; `rate`, T = 32."""
    one_core()
    import keras
    import numpy as np
    from keras import layers as kl

    from conversion import convert_ann_to_snn

    keras.utils.set_random_seed(0)
    hidden = [kl.Conv2D(16, 3, padding="same", activation="relu") for _ in range(int(depth))]
    ann = keras.Sequential([keras.Input((28, 28, 1)), *hidden, kl.Flatten(), kl.Dense(10)])
    images = np.random.default_rng(0).random((BATCH, 28, 28, 1), np.float32)
    snn = convert_ann_to_snn(ann, images, "rate", 32)
    calls = {"ann": forward_pass(ann), "loop": snn.simulate}
    seconds = interleaved(calls, batches_of(images, BATCH, BATCH), 3)
    return {"depth": int(depth), **{name: float(np.median(spent)) for name, spent in seconds.items()}, "mib": peak()}


def measure_images(number: str) -> dict:
    """CPU seconds and peak MiB of an accuracy on so many images, LeNet-5, `rate`, T=20; and of the input pipeline."""
    one_core()
    import numpy as np

    from conversion import labelled_batches, snn_accuracy

    ann, data = trained_network(LENET)
    snn = converted(ann, data, "rate", 20)
    repeated = -(-int(number) // len(data.x_test))
    x, y = (np.concatenate([part] * repeated)[: int(number)] for part in data.test)
    snn_accuracy(snn, x[:BATCH], y[:BATCH], batch_size=BATCH)
    found = {"images": int(number)}
    for name, work in (
        ("evaluation", lambda: snn_accuracy(snn, x, y, batch_size=BATCH)),
        ("pipeline", lambda: list(labelled_batches(snn, x, y, BATCH))),
    ):
        start = time.process_time()
        work()
        found[name] = time.process_time() - start
    return {**found, "mib": peak()}


def measure_full_size(network: str, encoding: str) -> dict:
    """A network of `keras.applications` at 224 × 224 with random weights, batch 8."""
    import keras
    import numpy as np

    from conversion import convert_ann_to_snn

    keras.utils.set_random_seed(0)
    ann = getattr(keras.applications, network)(weights=None)
    images = np.random.default_rng(0).random((8, 224, 224, 3), np.float32)
    start = time.perf_counter()
    snn = convert_ann_to_snn(ann, images, encoding, 4)
    conversion = time.perf_counter() - start
    start = time.perf_counter()
    snn.simulate(images)
    found = {"network": network, "encoding": encoding, "conversion": conversion}
    return {**found, "run": time.perf_counter() - start, "mib": peak()}


def network_to_convert(name: str):
    """(ANN with random weights, images) of a network that asks for memory."""
    import keras
    import numpy as np
    from keras import layers as kl

    def conv(filters):
        return kl.Conv2D(filters, 3, padding="same", activation="relu")

    keras.utils.set_random_seed(0)
    wide = [keras.Input((100,)), kl.Dense(16384, "relu"), kl.Dense(10)]
    convolutions = [keras.Input((224, 224, 3)), conv(32), kl.MaxPooling2D(), conv(64), kl.MaxPooling2D(), conv(128)]
    build, number = {
        "Dense(16384)": (lambda: keras.Sequential(wide), 1000),
        "3 convolutions, 224 × 224": (
            lambda: keras.Sequential([*convolutions, kl.GlobalAveragePooling2D(), kl.Dense(10)]),
            64,
        ),
        "VGG-16, 224 × 224": (lambda: keras.applications.VGG16(weights=None), 16),
    }[name]
    ann = build()
    return ann, np.random.default_rng(0).random((number, *ann.input_shape[1:]), np.float32)


CONVERTED = ("Dense(16384)", "3 convolutions, 224 × 224", "VGG-16, 224 × 224")


def measure_conversion(name: str, work: str, checkout: str = str(ROOT)) -> dict:
    """CPU seconds and peak MiB of `ann.predict` of some images, or of a conversion that they calibrate."""
    sys.path.insert(0, checkout)
    from conversion import convert_ann_to_snn

    ann, images = network_to_convert(name)
    start = time.process_time()
    if work == "predict":
        ann.predict(images, verbose=0)
    else:
        convert_ann_to_snn(ann, images, "ttfs_exact", 32)
    found = {"network": name, "images": len(images), "work": work}
    return {**found, "seconds": time.process_time() - start, "mib": peak()}


def measure_start() -> dict:
    """Seconds until the first batch of LeNet-5 is simulated, from an empty process."""
    start = time.perf_counter()
    import conversion  # noqa: F401

    imported = time.perf_counter()
    ann, data = trained_network(LENET)
    ready = time.perf_counter()
    snn = converted(ann, data, "rate", 100)
    done = time.perf_counter()
    snn.simulate(data.x_test[:BATCH])
    first = time.perf_counter()
    return {"import": imported - start, "conversion": done - ready, "first batch": first - done}


def measure_cores(number: str) -> dict:
    """Images a second, wall time, with so many cores; LeNet-5 in small and large batches and the VGG, `rate`."""
    cores = sorted(os.sched_getaffinity(0))[: int(number)]
    os.sched_setaffinity(0, set(cores))
    import numpy as np

    speeds = {}
    for network, steps, batch in ((LENET, 100, BATCH), (LENET, 100, 500), (VGG, 32, BATCH), (RESNET, 32, BATCH)):
        ann, data = trained_network(network)
        snn, seconds = converted(ann, data, "rate", steps), []
        for _ in range(16):
            start = time.perf_counter()
            snn.simulate(data.x_test[:batch])
            seconds.append(time.perf_counter() - start)
        speeds[f"{NETWORKS[network][0]}, batch {batch}"] = batch / float(np.median(seconds[1:]))
    return {"cores": len(cores), **speeds}


def measure_job(checkout: str = str(ROOT)) -> dict:
    """The main job, `python experiment.py`, in an empty folder: wall and CPU seconds, peak MiB, lines of warnings on
    stderr, other programs that want the cores (load), and accuracies in percent and time steps of each encoding."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        start, before = time.perf_counter(), os.getloadavg()[0]
        command = [sys.executable, Path(checkout) / "experiment.py"]
        job = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(job.pid, 0)
        wall, load = time.perf_counter() - start, (before + os.getloadavg()[0]) / 2
        said.seek(0)
        lines = said.read().splitlines()
        if status:
            raise RuntimeError(f"The main job failed with status {status}: {lines[-1:]}")
        (path,) = (found for found in Path(folder, "experiments").glob("*/metrics.json"))
        metrics = json.loads(path.read_text(encoding="utf-8"))
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "mib": usage.ru_maxrss / 1024,
        "cores": len(os.sched_getaffinity(0)),
        "load": load,
        "warnings": sum("warn" in line.lower() or "retracing" in line for line in lines),
        "encodings": {
            name: [100 * found["ann/eval/test"], 100 * found["snn/eval/test"], found["experiment/timesteps"]]
            for name, found in metrics.items()
        },
    }


MEASURES = {
    "speed": measure_speed,
    "versions_before": measure_versions,
    "steps": measure_steps,
    "batches": measure_batches,
    "memory": measure_memory,
    "memory_before": measure_memory,
    "depth": measure_depth,
    "images": measure_images,
    "full_size": measure_full_size,
    "conversion": measure_conversion,
    "conversion_before": measure_conversion,
    "start": measure_start,
    "cores": measure_cores,
    "job": measure_job,
    "job_before": measure_job,
}
BEFORE = os.environ.get("SPIKING_BEFORE", str(ROOT.parent / "v0.1"))  # where version 0.1 is checked out
# Part: the calls of its measure, each in a fresh process. Trains the networks first, so that no part has to.
PARTS = {
    "speed": [(network,) for network in NETWORKS],
    "versions_before": [(network, BEFORE) for network in (LENET, VGG)],
    "steps": [()],
    "batches": [()],
    "memory": [(encoding, steps, "100") for encoding in ENCODINGS for steps in ("8", "1024")]
    + [("rate", "100", str(size)) for size in BATCHES],
    "memory_before": [(encoding, "1024", "100", BEFORE) for encoding in ENCODINGS if encoding != "radix"],
    "depth": [(str(depth),) for depth in (2, 4, 8, 16, 32)],
    "images": [(str(number),) for number in (100, 1000, 10000, 50000)],
    "full_size": [("VGG16", encoding) for encoding in ENCODINGS] + [("ResNet50", encoding) for encoding in DEEP],
    "conversion": [(name, work) for name in CONVERTED for work in ("predict", "convert")],
    "conversion_before": [(name, "convert", BEFORE) for name in CONVERTED],
    "start": [()],
    "cores": [("1",), ("2",)],
    "job": [()],
    "job_before": [(BEFORE,)],
}


DEFAULT_PARTS = [part for part in PARTS if not part.endswith("_before")]  # which need another checkout


def in_fresh_process(part: str, *arguments: str):
    """What a measure returns, run in a process of its own."""
    command = [sys.executable, __file__, "--measure", part, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments=None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=DEFAULT_PARTS, metavar="PART")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.measure:
        print("\n" + json.dumps(MEASURES[chosen.measure[0]](*chosen.measure[1:])))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in [] if chosen.page else chosen.parts:
        if chosen.again or part not in results:
            print(f"{time.strftime('%H:%M:%S')} {part}", flush=True)
            results[part] = [in_fresh_process(part, *call) for call in PARTS[part]]
            results["versions"] = versions()
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    from speed_page import page

    PAGE.write_text(page(results), encoding="utf-8")


def versions() -> str:
    from importlib.metadata import version

    named = ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras", "numpy"))
    return f"Python {platform.python_version()}, {named}, {platform.machine()}"


if __name__ == "__main__":
    main()
