"""The same networks, simulated by this toolbox and by its peers, side by side.

    python benchmarks/peers.py            # about ten minutes; the first run makes the peers' environments as well

Every simulator is a process of its own, in a virtual environment of its own (benchmarks/.venvs), pinned to the same
core, with one thread. The processes wait for their turn: all simulate the same images once, one after another, then
all again. A figure is the median of the CPU seconds. What they simulate is one converted network, `rate`: the
weights, folded and normalised, go to the peers as an .npz file.

The peers get the fast ways they have: inference mode, the current of the first layer computed once, SpikingJelly both
in multi-step mode (a layer takes all time steps at once) and in single-step mode.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from networks import trained_network

ROOT = Path(__file__).resolve().parents[1]
VENVS = ROOT / "benchmarks" / ".venvs"
RESULTS = ROOT / "docs" / "peers.json"

# What each environment holds. The CPU build of torch lies on PyTorch's own index: where pip knows it not, set
# PIP_EXTRA_INDEX_URL naming its own index of CPU builds. Its plain build brings gigabytes for GPUs along.
TORCH = "torch==2.13.0+cpu"
REQUIREMENTS = {
    "spikingjelly": [TORCH, "spikingjelly==2.0.0"],
    "snntorch": [TORCH, "snntorch==1.0.0", "numpy"],
}
# Simulator: its environment (None: the one that runs this script).
SIMULATORS = {
    "this toolbox": None,
    "SpikingJelly, multi-step": "spikingjelly",
    "SpikingJelly, single-step": "spikingjelly",
    "snnTorch": "snntorch",
}
BATCH, REPEATS = 100, 5
# Network: number of time steps, number of images.
RUNS = {"denseonly1": (100, 1000), "lenet5_maxpool": (100, 1000), "vgg16_slim_cifar10": (32, 200)}


# ---------------------------------------------------------------------------------------------------------------------
# The network as plain data


def describe(snn) -> tuple[list[dict], dict]:
    """A converted network as a list of operations and a dict of arrays, for those that have no Keras.

    Returns:
        Operations in order, each a dict with `kind`: "conv" (`same`: zero padding or none), "dense", "flatten",
        "pool" (`size`), "neurons"; and the arrays "W0", "b0", … of the weighted ones, in order.
    """
    import keras
    import numpy as np

    operations, arrays = [], {}
    for rnn in snn.layers[1:]:
        cell = rnn.cell
        for layer in cell.synapse_layers:
            if isinstance(layer, keras.layers.Flatten):
                operations.append({"kind": "flatten"})
                continue
            number = sum(key.startswith("W") for key in arrays)
            arrays[f"W{number}"], arrays[f"b{number}"] = np.asarray(layer.kernel), np.asarray(cell.bias)
            convolution = isinstance(layer, keras.layers.Conv2D)
            operations.append({"kind": "conv", "same": layer.padding == "same"} if convolution else {"kind": "dense"})
        if hasattr(cell, "pool"):
            operations.append({"kind": "pool", "size": cell.pool.pool_size[0]})
        elif rnn is not snn.layers[-1]:
            operations.append({"kind": "neurons"})
    return operations, arrays


def prepare(name: str, timesteps: int, images: int, folder: Path) -> None:
    """Writes the converted network, images and labels: snn.keras for this toolbox, network.npz for the peers."""
    import numpy as np

    from conversion import convert_ann_to_snn

    ann, data = trained_network(name)
    snn = convert_ann_to_snn(ann, data.x_train[:1000], "rate", timesteps)
    operations, arrays = describe(snn)
    snn.save(folder / "snn.keras")
    np.savez(
        folder / "network.npz",
        **arrays,
        operations=json.dumps(operations),
        timesteps=timesteps,
        x=data.x_test[:images],
        y=data.y_test[:images],
    )


# ---------------------------------------------------------------------------------------------------------------------
# The simulators: each returns a function from a batch of images (NumPy, channels last) to class scores (NumPy)


def torch_stages(file, make):
    """The network in torch: what computes the constant first current, and the stages behind it.

    Args:
        file: the opened network.npz.
        make: kind to `(arguments) -> module`, for "conv", "dense", "flatten", "pool" and "neurons".
    """
    import numpy as np
    import torch

    stages, number, shape, flattened = [], 0, file["x"].shape[1:], None
    for operation in json.loads(str(file["operations"])):
        kind = operation["kind"]
        if kind in ("conv", "dense"):
            kernel, bias = file[f"W{number}"], file[f"b{number}"]
            number += 1
            if kind == "conv":
                rows, columns, inputs, filters = kernel.shape
                padding = rows // 2 if operation["same"] else 0
                module = make["conv"](inputs, filters, rows, padding)
                kernel = kernel.transpose(3, 2, 0, 1)
                lost = 0 if operation["same"] else rows - 1
                shape = (shape[0] - lost, shape[1] - lost, filters)
            else:
                if flattened is not None:  # Keras flattens with channels last, torch with channels first
                    order = np.arange(kernel.shape[0]).reshape(flattened).transpose(2, 0, 1).ravel()
                    kernel, flattened = kernel[order], None
                module = make["dense"](*kernel.shape)
                kernel = kernel.T
                shape = kernel.shape[:1]
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
                module.bias.copy_(torch.from_numpy(bias))
        elif kind == "flatten":
            module, flattened = make["flatten"](), shape if len(shape) == 3 else None
        elif kind == "pool":
            module = make["pool"](operation["size"])
            shape = (shape[0] // operation["size"], shape[1] // operation["size"], shape[2])
        else:
            module = make["neurons"]()
        stages.append(module)
    first = next(index for index, stage in enumerate(stages) if hasattr(stage, "weight")) + 1
    return stages[:first], stages[first:]


def torch_images(batch):
    """Images with channels first."""
    import torch

    return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()


def one_thread():
    import torch

    torch.set_num_threads(1)


def spikingjelly(file, mode: str):
    """SpikingJelly; mode "m": each layer takes all time steps at once, "s": one step after another."""
    import torch
    from spikingjelly.activation_based import functional, layer, neuron

    one_thread()
    make = {
        "conv": lambda inputs, filters, size, padding: layer.Conv2d(inputs, filters, size, padding=padding),
        "dense": layer.Linear,
        "flatten": layer.Flatten,
        "pool": layer.MaxPool2d,
        "neurons": lambda: neuron.IFNode(v_threshold=1.0, v_reset=None),
    }
    head, tail = torch_stages(file, make)
    network, timesteps = torch.nn.Sequential(*tail).eval(), int(file["timesteps"])
    functional.set_step_mode(network, mode)

    @torch.inference_mode()
    def run(batch):
        functional.reset_net(network)
        current = torch_images(batch)
        for stage in head:
            current = stage(current)
        if mode == "m":
            return network(current.unsqueeze(0).expand(timesteps, *current.shape)).mean(0).numpy()
        return (sum(network(current) for _ in range(timesteps)) / timesteps).numpy()

    return run


def snntorch(file):
    """snnTorch: Leaky neurons with beta = 1 (no leak), reset by subtraction in the step of the spike."""
    import snntorch as snn
    import torch
    from snntorch import utils

    one_thread()
    make = {
        "conv": lambda inputs, filters, size, padding: torch.nn.Conv2d(inputs, filters, size, padding=padding),
        "dense": torch.nn.Linear,
        "flatten": torch.nn.Flatten,
        "pool": torch.nn.MaxPool2d,
        "neurons": lambda: snn.Leaky(beta=1.0, reset_mechanism="subtract", init_hidden=True, reset_delay=False),
    }
    head, tail = torch_stages(file, make)
    network, timesteps = torch.nn.Sequential(*tail).eval(), int(file["timesteps"])

    @torch.inference_mode()
    def run(batch):
        utils.reset(network)
        current = torch_images(batch)
        for stage in head:
            current = stage(current)
        return (sum(network(current) for _ in range(timesteps)) / timesteps).numpy()

    return run


def this_toolbox(folder: Path):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path.insert(0, str(ROOT))
    import keras
    import tensorflow as tf

    import spiking  # noqa: F401  registers the layers

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    snn = keras.models.load_model(folder / "snn.keras")
    return lambda batch: snn.simulate(batch).output.numpy()


def work(name: str, folder: Path) -> None:
    """A simulator's process: simulates all images once for every line it reads, and answers in JSON."""
    import numpy as np

    with np.load(folder / "network.npz") as file:
        x, y = file["x"], file["y"]
        run = {
            "this toolbox": lambda: this_toolbox(folder),
            "SpikingJelly, multi-step": lambda: spikingjelly(file, "m"),
            "SpikingJelly, single-step": lambda: spikingjelly(file, "s"),
            "snnTorch": lambda: snntorch(file),
        }[name]()
    batches = [x[start : start + BATCH] for start in range(0, len(x), BATCH)]
    run(batches[0])
    for _ in sys.stdin:
        start = time.process_time()
        scores = np.concatenate([run(batch) for batch in batches])
        answer = {
            "seconds": time.process_time() - start,
            "accuracy": float(np.mean(scores.argmax(1) == y)),
            "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(answer), flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# The comparison


def environment(name: str | None) -> str:
    """The Python of a simulator's environment, which is made if it is not there."""
    if name is None:
        return sys.executable
    python = VENVS / name / "bin" / "python"
    done = VENVS / name / "done.json"
    wanted = json.dumps(REQUIREMENTS[name])
    if not done.exists() or done.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENVS / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS[name]], check=True)
        done.write_text(wanted)
    return str(python)


def compare(name: str, repeats: int = REPEATS, images: int | None = None) -> dict:
    """One network through all simulators: a row with, per simulator, median and range of the seconds, accuracy, MiB."""
    timesteps, all_images = RUNS[name]
    images = images or all_images
    pythons = {simulator: environment(venv) for simulator, venv in SIMULATORS.items()}
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: this one must stay small, and TensorFlow's threads out of the way.
        command = [sys.executable, __file__, "--prepare", name, str(timesteps), str(images), folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        workers = {
            simulator: subprocess.Popen(
                [python, __file__, "--work", simulator, folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for simulator, python in pythons.items()
        }
        try:
            answers = {simulator: [] for simulator in workers}
            for _ in range(repeats):
                for simulator, worker in workers.items():
                    worker.stdin.write("run\n")
                    worker.stdin.flush()
                    answers[simulator].append(json.loads(worker.stdout.readline()))
        finally:
            for worker in workers.values():
                worker.stdin.close()
                worker.wait(60)
    rows = {}
    for simulator, runs in answers.items():
        seconds = sorted(run["seconds"] for run in runs)
        rows[simulator] = {
            "seconds": seconds[len(seconds) // 2],
            "range": [seconds[0], seconds[-1]],
            "accuracy": runs[-1]["accuracy"],
            "mib": runs[-1]["mib"],
        }
    return {"network": name, "timesteps": timesteps, "images": images, "batch": BATCH, "simulators": rows}


def table(results: list[dict]) -> list[str]:
    """The comparison as lines of Markdown."""
    lines = [
        "| network, T, images | simulator | CPU s (range) | images/s | toolbox is faster by | accuracy | peak MiB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        own = result["simulators"]["this toolbox"]["seconds"]
        for simulator, row in result["simulators"].items():
            low, high = row["range"]
            lines.append(
                f"| {result['network']}, {result['timesteps']}, {result['images']} | {simulator} | "
                f"{row['seconds']:.3f} ({low:.3f} to {high:.3f}) | {result['images'] / row['seconds']:.0f} | "
                f"{row['seconds'] / own:.1f} | {row['accuracy']:.1%} | {row['mib']:.0f} |"
            )
    return lines


def main(arguments=None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--images", type=int, help="fewer images, for a quick look")
    parser.add_argument("--prepare", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if chosen.prepare:
        sys.path.insert(0, str(ROOT))
        name, timesteps, images, folder = chosen.prepare
        prepare(name, int(timesteps), int(images), Path(folder))
    elif chosen.work:
        work(chosen.work[0], Path(chosen.work[1]))
    else:
        results = [compare(name, chosen.repeats, chosen.images) for name in chosen.networks]
        quick = chosen.images or len(chosen.networks) < len(RUNS)
        if not quick:
            record = {"python": platform.python_version(), "requirements": REQUIREMENTS, "results": results}
            RESULTS.write_text(json.dumps(record, indent=1) + "\n")
        print("\n".join(table(results)))


if __name__ == "__main__":
    main()
