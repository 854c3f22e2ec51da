"""What NeuroBench's harness counts in a converted network, beside what `snn_activation_analysis` counts.

    python benchmarks/neurobench.py make       # trains two small networks, converts and analyses them
    python benchmarks/neurobench.py install    # an environment with torch for CPUs and neurobench (1 GB)
    python benchmarks/neurobench.py run        # the same networks in torch, through the harness; a row of JSON each
    python benchmarks/neurobench.py table      # the rows as the tables of docs/guides/energy.md

NeuroBench measures torch modules. So `make` writes each network as NIR; `run`, in the environment of `install`, makes
a torch module of its nodes: `Conv2d`, `Linear`, pooling, and snnTorch's neurons with our settings (no leak, reset by
subtraction). It gets the same currents or the same input spikes. Rows go to docs/neurobench.jsonl.

Yik et al. (2025), The NeuroBench framework for benchmarking neuromorphic computing algorithms and systems.
"""

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FOLDER, ROWS = ROOT / "experiments" / "neurobench", ROOT / "docs" / "neurobench.jsonl"
PACKAGES = ["torch", "neurobench>=2.3", "snntorch", "nir>=1.0.8", "h5py"]
NETWORKS, CODINGS = ("lenet5", "lenet5_averagepool"), ("current", "poisson")
IMAGES, TIMESTEPS = 100, 32


# ---------------------------------------------------------------------------------------------------------------------
# With this toolbox


def make(arguments) -> None:
    """Writes each network with what enters it, what it answers and what the analysis counts."""
    sys.path.insert(0, str(ROOT))
    import ann_training
    import conversion
    from spiking.exchange.nir import host_input

    data = ann_training.load_dataset("mnist_sample")
    training = ann_training.Training(epochs=5, ann_cache_dir=ROOT / "experiments" / "anns")
    images, labels = (each[:IMAGES] for each in data.test)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for network in NETWORKS:
        ann = ann_training.train_network(network, training, data.train, data.test)
        for coding in CODINGS:
            # V(0) of 0, which NIR has no word for, and a read-out that misses no step.
            own = {"input_coding": coding, "initial_potential": 0.0, "readout_delay": 0}
            snn = conversion.convert_ann_to_snn(ann, data.train[0][:500], "rate", TIMESTEPS, **own)
            path = FOLDER / f"{network}_{coding}.nir"
            conversion.export_nir(snn, path)
            found = conversion.snn_activation_analysis(snn, images, labels, ann=ann)
            told = {
                "accuracy": found.accuracy, "footprint": found.footprint, "weights": 4 * snn.count_params(),
                "connection_sparsity": found.connection_sparsity, "activation_sparsity": found.activation_sparsity,
                "acs": found.synaptic_operations, "macs": found.macs, "dense": found.ann_macs,
                "updates": found.neuron_updates, "neurons": sum(each.neurons for each in found.layers),
            }  # fmt: skip
            path.with_suffix(".json").write_text(json.dumps(told))
            (steps,) = host_input(snn, images)
            answers = snn.predict(images, verbose=0).argmax(-1)
            np.savez(path.with_suffix(".npz"), steps=steps, labels=labels, answers=answers)
            print(path.stem, told)


def install(arguments) -> None:
    """An environment for torch and neurobench."""
    venv.create(arguments.environment, with_pip=True)
    subprocess.run([str(arguments.environment / "bin" / "python"), "-m", "pip", "install", *PACKAGES], check=True)


def run(arguments) -> None:
    """Runs `measure` in the other environment, for each file."""
    python = arguments.environment / "bin" / "python"
    lines = []
    for path in sorted(FOLDER.glob("*.nir")):
        done = subprocess.run([str(python), __file__, "measure", str(path)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        lines.append(done.stdout.strip().splitlines()[-1])
        print(lines[-1], flush=True)
    ROWS.write_text("\n".join(lines) + "\n")


# ---------------------------------------------------------------------------------------------------------------------
# In the environment of torch and neurobench: no TensorFlow


def module_of(node, factors: dict, name: str):
    """A node of a NIR file as a torch module."""
    import snntorch
    import torch

    kind = type(node).__name__
    if kind in ("Conv2d", "Affine"):
        weight = torch.from_numpy(node.weight * np.float32(factors.pop("pooled", 1)))
        if kind == "Conv2d":
            size, geometry = weight.shape, {"stride": node.stride, "padding": node.padding, "dilation": node.dilation}
            geometry = {key: tuple(int(each) for each in value) for key, value in geometry.items()}
            module = torch.nn.Conv2d(size[1], size[0], tuple(size[2:]), **geometry)
        else:
            module = torch.nn.Linear(weight.shape[1], weight.shape[0])
        module.weight.data, module.bias.data = weight, torch.from_numpy(node.bias)
        return module
    if kind == "IF":
        threshold = float(np.unique(node.v_threshold).item())
        return snntorch.Leaky(beta=1.0, threshold=threshold, init_hidden=True, reset_delay=True)
    if kind == "SumPool2d":  # torch has averages, which are as many times smaller
        factors["pooled"] = factors.get("pooled", 1) * int(np.prod(node.kernel_size))
        return torch.nn.AvgPool2d(tuple(map(int, node.kernel_size)), tuple(map(int, node.stride)))
    if kind == "Flatten":
        return torch.nn.Flatten()
    if kind in ("Input", "Output"):
        return None
    raise ValueError(f"A network of this benchmark has no {kind}: {name}")


def torch_network(path: Path):
    """The chain of a NIR file as a torch module."""
    import nir
    import torch

    graph, factors, modules = nir.read(path), {}, []
    ahead, name = dict(graph.edges), "input"
    while name in graph.nodes:
        module = module_of(graph.nodes[name], factors, name)
        modules += [module] if module is not None else []
        name = ahead.get(name)
    return torch.nn.Sequential(*modules)


def measure(arguments) -> None:
    """Prints one row: the harness' counts beside ours."""
    sys.path.pop(0)  # this file's folder, where `neurobench` is this file
    import torch
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.static import ConnectionSparsity, Footprint
    from neurobench.metrics.workload import ActivationSparsity, MembraneUpdates, SynapticOperations
    from neurobench.models import SNNTorchModel

    class Network(SNNTorchModel):
        """Ends in a current, not in neurons; gives its sum over time."""

        def __call__(self, data):
            for module in self.net.modules():
                if hasattr(module, "reset_mem"):
                    module.reset_mem()
            self.given = sum(self.net(data[:, step]) for step in range(data.shape[1]))
            return self.given

    path, held = Path(arguments.file), np.load(Path(arguments.file).with_suffix(".npz"))
    ours = json.loads(path.with_suffix(".json").read_text())
    steps, labels = torch.from_numpy(np.moveaxis(held["steps"], 0, 1).copy()), torch.from_numpy(held["labels"])
    model = Network(torch_network(path))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(steps, labels), batch_size=len(labels))
    metrics = [[Footprint, ConnectionSparsity], [ActivationSparsity, SynapticOperations, MembraneUpdates]]
    with torch.no_grad():
        found = Benchmark(model, data, [], [], metrics).run(quiet=True)
    operations = found["SynapticOperations"]
    theirs = {
        "accuracy": float((model.given.argmax(-1) == labels).float().mean()), "footprint": found["Footprint"],
        "weights": sum(each.numel() * 4 for each in model.net.parameters()),
        "connection_sparsity": found["ConnectionSparsity"], "activation_sparsity": found["ActivationSparsity"],
        "acs": float(operations["Effective_ACs"]), "macs": float(operations["Effective_MACs"]),
        "dense": float(operations["Dense"]), "updates": float(found["MembraneUpdates"]),
    }  # fmt: skip
    same = float(np.mean(model.given.argmax(-1).numpy() == held["answers"]))
    network, _, coding = path.stem.rpartition("_")
    row = {"network": network, "input": coding, "images": len(labels), "timesteps": int(steps.shape[1])}
    print(json.dumps({**row, "same_class": same, "ours": ours, "neurobench": theirs}))


# ---------------------------------------------------------------------------------------------------------------------
# The table


def table(arguments) -> None:
    """Prints the rows as a table."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    print("| | " + " | ".join(f"{row['network']}, {row['input']}: ours | NeuroBench" for row in rows) + " |")
    print("| --- |" + " ---: | ---: |" * len(rows))
    for key, name, form in (
        ("footprint", "footprint / bytes", ",.0f"), ("weights", "of that, weights", ",.0f"),
        ("connection_sparsity", "connection sparsity", ".4f"), ("activation_sparsity", "activation sparsity", ".5f"),
        ("acs", "effective ACs", ",.1f"), ("macs", "effective MACs", ",.1f"), ("dense", "dense", ",.0f"),
        ("updates", "neuron updates", ",.0f"), ("accuracy", "accuracy", ".2f"),
    ):  # fmt: skip
        values = [format(row[whose][key], form) for row in rows for whose in ("ours", "neurobench")]
        print(f"| {name} | " + " | ".join(values) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for task in (make, install, run, measure, table):
        command = commands.add_parser(task.__name__)
        command.set_defaults(task=task)
        command.add_argument("--environment", type=Path, default=FOLDER / "venv")
        if task is measure:
            command.add_argument("file")
    arguments = parser.parse_args()
    arguments.task(arguments)


if __name__ == "__main__":
    main()
