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

import numpy as np
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
RUNS = {"denseonly1": (100, 1000), "lenet5_maxpool": (100, 1000), "vgg16_slim_cifar10": (32, 200),
        "resnet20_cifar10": (32, 200)}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# The network as plain data


def describe(snn) -> tuple[list[dict], dict]:
    """A converted network as a list of nodes and a dict of arrays, for those that have no Keras.

    Returns:
        Nodes, each behind its sources, as dicts: `name`, `sources`, `kind` ("image", "sum", "pool", "neurons",
        "scores"), `synapses` (one list of operations for each source), `bias` (name of an array or None). Arrays of
        convolutions and dense layers as torch has them, channels first.
    """
    plan, arrays, nodes, shapes = snn.plan, {}, [], {}

    def kept(values) -> str:
        arrays[name := f"A{len(arrays)}"] = values
        return name

    for name, sources in plan.sources.items():
        node = {"name": name, "sources": sources, "kind": "image", "synapses": [], "bias": None}
        if name in plan.inputs:
            shapes[name] = snn.input_shape[1:]
        else:
            layer = plan.relays.get(name) or plan.cells[name]
            synapses = layer.synapses if name in plan.relays else [layer.synapse_layers]
            found = [operations(each, shapes[source], kept) for each, source in zip(synapses, sources, strict=True)]
            node["synapses"], (shapes[name], *_) = map(list, zip(*found, strict=True))
            node["kind"] = "sum" if name in plan.relays else "scores" if name in plan.read_outs else "neurons"
            if getattr(layer, "pool", None) is not None:
                node |= {"kind": "pool", "size": layer.pool.pool_size[0]}
                shapes[name] = layer.neurons_shape
            if getattr(layer, "bias", None) is not None:
                node["bias"] = kept(np.asarray(layer.bias))
        nodes.append(node)
    return nodes, arrays


def operations(layers, shape, kept) -> tuple[list[dict], tuple]:
    """The linear layers of a synapse as operations, and the shape of what they give."""
    found, flattened = [], None
    for layer in layers:
        given = tuple(layer.compute_output_shape((None, *shape)))[1:]
        kind = type(layer).__name__
        if kind == "Conv2D":
            size, stride = layer.kernel_size[0], layer.strides[0]
            lost = max((given[0] - 1) * stride + size - shape[0], 0) if layer.padding == "same" else 0
            found.append({"kind": "conv", "stride": stride, "padding": [lost // 2, lost - lost // 2],
                          "array": kept(np.asarray(layer.kernel).transpose(3, 2, 0, 1).copy())})  # fmt: skip
        elif kind == "Dense":
            kernel = np.asarray(layer.kernel)
            if flattened is not None:  # Keras flattens with channels last, torch with channels first
                kernel = kernel[np.arange(len(kernel)).reshape(flattened).transpose(2, 0, 1).ravel()]
            found.append({"kind": "dense", "array": kept(kernel.T.copy())})
        elif kind == "Diagonal":
            found.append({"kind": "scale", "array": kept(np.asarray(layer.weights[0]).reshape(-1))})
        elif kind in ("Flatten", "GlobalAveragePooling2D"):
            found.append({"kind": {"Flatten": "flatten"}.get(kind, "average")})
            flattened = shape if kind == "Flatten" and len(shape) == 3 else None
        else:
            raise ValueError(f"The peers are given no {kind}. Received: {layer.name}")
        shape = given
    return found, shape


def prepare(name: str, timesteps: int, images: int, folder: Path) -> None:
    """Writes the converted network, images and labels: snn.keras for this toolbox, network.npz for the peers."""
    from conversion import convert_ann_to_snn
    from spiking import rate

    ann, data = trained_network(name)
    snn = convert_ann_to_snn(ann, data.x_train[:1000], "rate", timesteps, **rate.classic())  # which all can simulate
    nodes, arrays = describe(snn)
    snn.save(folder / "snn.keras")
    np.savez(
        folder / "network.npz",
        **arrays,
        nodes=json.dumps(nodes),
        timesteps=timesteps,
        x=data.x_test[:images],
        y=data.y_test[:images],
    )


# ---------------------------------------------------------------------------------------------------------------------
# The simulators: each returns a function from a batch of images (NumPy, channels last) to class scores (NumPy)


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
    from peers_torch import Network
    from spikingjelly.activation_based import functional, layer, neuron

    one_thread()
    make = {
        "conv": layer.Conv2d,
        "dense": layer.Linear,
        "flatten": layer.Flatten,
        "pool": layer.MaxPool2d,
        "neurons": lambda: neuron.IFNode(v_threshold=1.0, v_reset=None),
    }
    network, timesteps = Network(file, make).eval(), int(file["timesteps"])

    @torch.inference_mode()
    def run(batch):
        functional.set_step_mode(network, "s")
        functional.reset_net(network)
        drives = network.drives(torch_images(batch))
        if mode == "m":
            functional.set_step_mode(network, "m")
            every = {name: each.unsqueeze(0).expand(timesteps, *each.shape) for name, each in drives.items()}
            return network(every).mean(0).numpy()
        return (sum(network(drives) for _ in range(timesteps)) / timesteps).numpy()

    return run


def snntorch(file):
    """snnTorch: Leaky neurons with beta = 1 (no leak), reset by subtraction in the step of the spike."""
    import snntorch as snn
    import torch
    from peers_torch import Network
    from snntorch import utils

    one_thread()
    make = {
        "conv": torch.nn.Conv2d,
        "dense": torch.nn.Linear,
        "flatten": torch.nn.Flatten,
        "pool": torch.nn.MaxPool2d,
        "neurons": lambda: snn.Leaky(beta=1.0, reset_mechanism="subtract", init_hidden=True, reset_delay=False),
    }
    network, timesteps = Network(file, make).eval(), int(file["timesteps"])

    @torch.inference_mode()
    def run(batch):
        utils.reset(network.cells)  # it looks at children alone
        drives = network.drives(torch_images(batch))
        return (sum(network(drives) for _ in range(timesteps)) / timesteps).numpy()

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
