"""The simulation on whatever device is there, with XLA and without: seconds a batch beside the ANN's forward pass.

    python benchmarks/gpu.py                  # the first GPU, the CPU where there is none
    python benchmarks/gpu.py --batch 500      # images at once
    python benchmarks/gpu.py --networks lenet5_maxpool

Wall time, medians of runs that take turns; the first run of each, which compiles, is told apart. Nothing in the loop
or in the closed forms is bound to a device: operations that would leave the accelerator are listed, none is expected.
"""

import argparse
import functools
import os
import statistics
import sys
import time
from pathlib import Path

from networks import LENET, RESNET, VGG, trained_network

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Title -> code, time steps and options.
CODES = {
    "rate": ("rate", 32, {}),
    "rate, signed": ("rate", 16, {"signed": True}),
    "ttfs": ("ttfs", 120, {}),
    "ttfs_dyn_thresh": ("ttfs_dyn_thresh", 120, {}),
    "ttfs_exact": ("ttfs_exact", 64, {}),
    "radix": ("radix", 6, {}),
}
REPEATS = 5
HOST_OPERATIONS = {"PyFunc", "EagerPyFunc", "NumpyFunction"}  # what no accelerator runs


def timed(call, images) -> float:
    """Wall seconds until the result is there."""
    start = time.perf_counter()
    call(images).numpy()
    return time.perf_counter() - start


def on_the_host(call, images) -> list[str]:
    """Operations of a traced function that are bound to the host."""
    graph = call.get_concrete_function(images).graph
    return sorted({
        node.name for node in graph.get_operations()
        if node.type in HOST_OPERATIONS or "CPU" in (node.device or "").upper()
    })  # fmt: skip


def measure(network: str, batch: int) -> list[tuple]:
    """A row for each code, without XLA and with it: title, T, XLA, first seconds, seconds, times the ANN."""
    import tensorflow as tf

    from conversion import convert_ann_to_snn

    ann, data = trained_network(network)
    images, rows = tf.constant(data.x_test[:batch]), []
    forward = tf.function(functools.partial(ann, training=False), jit_compile=False)
    timed(forward, images)
    for title, (encoding, steps, options) in CODES.items():
        snn = convert_ann_to_snn(ann, data.x_train[:1000], encoding, steps, **options)
        for compiled in (False, True):
            run = tf.function(functools.partial(snn, training=False), jit_compile=compiled)
            if found := on_the_host(run, images):
                print(f"{network}, {title}: bound to the host: {', '.join(found)}")
            first = timed(run, images)
            pairs = [(timed(run, images), timed(forward, images)) for _ in range(REPEATS)]
            seconds, base = (statistics.median(each) for each in zip(*pairs, strict=True))
            rows.append((title, steps, "XLA" if compiled else "", first, seconds, seconds / base))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=100, help="images at once (default: %(default)s)")
    parser.add_argument("--networks", nargs="+", default=[LENET, VGG, RESNET], metavar="NETWORK")
    chosen = parser.parse_args()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"
    print(f"{name}, TensorFlow {tf.__version__}, batches of {chosen.batch}")
    for network in chosen.networks:
        print(f"\n{network}\n{'code':18} {'T, N, K':>8} {'':4} {'first / s':>10} {'s':>9} {'times the ANN':>14}")
        for title, steps, compiled, first, seconds, ratio in measure(network, chosen.batch):
            print(f"{title:18} {steps:8} {compiled:4} {first:10.2f} {seconds:9.4f} {ratio:14.2f}", flush=True)


if __name__ == "__main__":
    main()
