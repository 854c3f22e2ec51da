"""What the readers of NIR make of the files of `export_nir`: accuracy, and share of equal spike counts.

    python benchmarks/nir_readers.py make                       # trains, converts, writes into experiments/nir
    python benchmarks/nir_readers.py make --resnet FILE.keras   # a ResNet-20 for CIFAR-10 instead
    python benchmarks/nir_readers.py install                    # an environment for the readers (torch for CPUs: 1 GB)
    python benchmarks/nir_readers.py read                       # loads every file into every reader; a row of JSON each
    python benchmarks/nir_readers.py table                      # docs/nir_readers.jsonl as the table of docs/EXPORT.md

`make` needs this toolbox, `read` runs itself again in the environment of `install`. Each reader gets the file of the
reset that it has; tuned, that of the network that subtracts. What must be changed for a reader to take a file at all,
or to have our neurons, is in `READERS`. A file whose V(0) is left to the host (`make --start host`) is for tuned
readers, whose potentials start there.
"""

import argparse
import functools
import importlib.metadata
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "experiments" / "nir"
PACKAGES = ["torch", "nir>=1.0.8", "nirtorch", "sinabs", "norse", "snntorch", "spikingjelly"]
COUNTED = 200  # images whose spikes are compared, neuron by neuron
RESETS = ("subtract", "zero")


# ---------------------------------------------------------------------------------------------------------------------
# With this toolbox: the files, and what they must give


def make(arguments) -> None:
    """Writes a network as two files, one per reset, with images, labels and what the SNN answers."""
    sys.path.insert(0, str(ROOT))
    import keras

    import ann_training
    import conversion

    if arguments.resnet:
        name, data = "resnet20", ann_training.load_dataset("cifar10")
        ann = keras.models.load_model(arguments.resnet)
    else:
        name, data = "lenet5_averagepool", ann_training.load_dataset("mnist")
        training = ann_training.Training(epochs=3, ann_cache_dir=ROOT / "experiments" / "anns")
        ann = ann_training.train_network(name, training, data.train, data.test)
    images, labels = (each[: arguments.images] for each in data.test)
    graph = conversion.read(ann)
    found = conversion.calibrate(graph, data.train[0][:2000], "percentile", percentile=99.9, per_channel=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    ann_accuracy = float(np.mean(ann.predict(images, verbose=0).argmax(-1) == labels))
    for reset in RESETS:
        own = {"reset": reset, "initial_potential": arguments.initial_potential}
        snn = conversion.convert_ann_to_snn(graph, found, "rate", arguments.timesteps, **own)
        path = FOLDER / f"{name}_v{arguments.initial_potential:g}_{arguments.start}_{reset}.nir"
        conversion.export_nir(snn, path, arguments.start)
        answers = snn.predict(images, batch_size=200, verbose=0).argmax(-1)
        counts = snn.simulate(images[:COUNTED], "spike_counts").spike_counts
        first = np.moveaxis(np.asarray(next(iter(snn.plan.inputs.values())).preprocess(images)), -1, 1)
        arrays = {f"count/{layer}": np.moveaxis(count.numpy(), -1, 1) for layer, count in counts.items()}
        np.savez(path.with_suffix(".npz"), images=first, labels=labels, answers=answers, ann=ann_accuracy, **arrays)
        print(f"{path.name}: ANN {ann_accuracy:.4f}, SNN {np.mean(answers == labels):.4f}, {len(labels)} images")


def install(arguments) -> None:
    """An environment for the readers."""
    venv.create(arguments.environment, with_pip=True)
    pip = [str(arguments.environment / "bin" / "python"), "-m", "pip", "install"]
    subprocess.run([*pip, *PACKAGES], check=True)


# ---------------------------------------------------------------------------------------------------------------------
# In the readers' environment: no TensorFlow


def average_pooling(graph):
    """SumPool2d as AvgPool2d, the number of values in the next kernels: for readers that know no sums."""
    import nir

    for name, node in list(graph.nodes.items()):
        if isinstance(node, nir.SumPool2d):
            graph.nodes[name] = nir.AvgPool2d(node.kernel_size, node.stride, node.padding)
            graph.nodes[name].input_type, graph.nodes[name].output_type = node.input_type, node.output_type
            ahead = [name]
            while ahead:
                heard = ahead.pop()
                for listener in [b for a, b in graph.edges if a == heard]:
                    kernel = graph.nodes[listener]
                    if hasattr(kernel, "weight"):
                        kernel.weight = kernel.weight * np.float32(np.prod(node.kernel_size))
                    else:
                        ahead.append(listener)


def flatten_behind_the_batch(graph):
    """Flatten's start_dim counts the batch axis, as torch does: for readers that hand it on as it is."""
    for node in graph.nodes.values():
        if type(node).__name__ == "Flatten":
            node.start_dim = node.start_dim + 1


def load_sinabs(graph, steps, batch):
    import sinabs.nir

    return sinabs.nir.from_nir(graph, batch_size=batch)


def load_norse(graph, steps, batch):
    import norse

    return norse.torch.from_nir(graph, dt=1.0)


def load_snntorch(graph, steps, batch):
    from snntorch.import_nir import import_from_nir

    return import_from_nir(graph)


def load_spikingjelly(graph, steps, batch):
    from spikingjelly.activation_based import nir_exchange

    return nir_exchange.import_from_nir(graph, dt=1.0)


def in_order(network):
    """nirtorch.load executes nodes in an order in which a sum may stand ahead of a summand, which is then left out."""
    graph, ordered = network.graph, []
    while len(ordered) < len(graph.node_list):
        for node in graph.node_list:
            if node not in ordered and all(source in ordered for source in graph.find_source_nodes_of(node)):
                ordered.append(node)
    network.execution_order = [node for node in ordered if node.elem is not None]


def states_inside(network):
    """snnTorch: neurons keep their potential and give spikes alone; nirtorch 2.6 hands on (spikes, potential) else."""
    for module in network.modules():
        if hasattr(module, "init_hidden"):
            module.init_hidden = True


def one_spike_no_floor(network):
    """sinabs: one spike a step at most, no lower limit of the potential."""
    from sinabs.activation import SingleSpike

    for module in network.modules():
        if hasattr(module, "min_v_mem"):
            module.min_v_mem, module.spike_fn = None, SingleSpike


def subtracting_norse(network):
    """Norse's integrate-and-fire neurons know reset to a value alone: its step with its own `reset_subtract`."""
    from norse.torch.functional.iaf import IAFFeedForwardState
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.functional.threshold import threshold

    def step(current, state, p, dt):
        potential = state.v + current
        spikes = threshold(potential - p.v_th, p.method, p.alpha)
        return spikes, IAFFeedForwardState(v=reset_subtract(spikes, potential, p.v_reset, p.v_th))

    for module in network.modules():
        if hasattr(module, "activation"):
            module.activation = step


def subtracting_spikingjelly(network):
    """SpikingJelly: a neuron without v_reset subtracts."""
    for module in network.modules():
        if hasattr(module, "v_reset"):
            module.v_reset = None


def no_leak(network):
    """snnTorch: IF is read as Leaky with beta = 0.9, and a neuron that stays above its threshold loses spikes."""
    for module in network.modules():
        if hasattr(module, "beta"):
            module.beta.fill_(1.0)
            module.reset_delay = True


# Where the potentials start. A network is made anew for each batch.


def start_sinabs(network, value, batch):
    def set_potential(module, inputs):
        module.init_state_with_shape((batch, *inputs[0].shape[1:]))
        module.v_mem.fill_(value)

    for module in network.modules():
        if hasattr(module, "min_v_mem"):
            module.register_forward_pre_hook(set_potential)


def start_norse(network, value, batch):
    import torch

    for module in network.modules():  # a neuron that subtracts knows no other use of it
        if hasattr(module, "activation"):
            module.p = module.p._replace(v_reset=torch.tensor(value))


def start_snntorch(network, value, batch):
    import torch

    def set_potential(module, inputs):
        if module.mem.shape != inputs[0].shape:
            module.mem = torch.full_like(inputs[0], value)

    for module in network.modules():
        if hasattr(module, "init_hidden"):
            module.register_forward_pre_hook(set_potential)


def start_spikingjelly(network, value, batch):
    for module in network.modules():
        if hasattr(module, "v_reset"):
            module.v = value


class Reader(NamedTuple):
    """One reader, as it is used here.

    Attributes:
        load: `(graph, timesteps, batch) -> ` a torch module.
        reset: that it has, whatever the file says.
        changes: to the graph, without which it does not run.
        mends: to the network, without which it does not run, or leaves nodes out.
        tuned: what gives it our neurons, which subtract.
        start: sets the potentials, `(network, value, batch)`.
        squeezed: whether it takes all steps at once, time within the batch axis.
        reason: for what differs, as read.
    """

    load: Callable
    reset: str
    changes: tuple[Callable, ...]
    mends: tuple[Callable, ...]
    tuned: Callable
    start: Callable
    squeezed: bool
    reason: str


READERS = {
    "sinabs": Reader(load_sinabs, "subtract", (), (in_order,), one_spike_no_floor, start_sinabs, True,
                     "several spikes a step, potentials end at -threshold"),
    "norse": Reader(load_norse, "zero", (flatten_behind_the_batch,), (in_order,), subtracting_norse, start_norse, False,
                    "reset to zero, as the file's network"),
    "snntorch": Reader(load_snntorch, "subtract", (flatten_behind_the_batch, average_pooling), (states_inside,),
                       no_leak, start_snntorch, False, "IF is read as leaky, beta = 0.9"),
    "spikingjelly": Reader(load_spikingjelly, "zero", (average_pooling,), (), subtracting_spikingjelly,
                           start_spikingjelly, False, "reset to zero, as the file's network"),
}  # fmt: skip


class Counter:
    """Adds up what modules give, by the name of their node."""

    def __init__(self, network, names, batch):
        self.totals, self.batch = {}, batch
        for path, module in network.named_modules():
            node = path.rpartition(".")[2]
            if node in names:
                module.register_forward_hook(functools.partial(self.add, node))

    def add(self, node, module, inputs, output):
        spikes = (output[0] if isinstance(output, tuple) else output).detach().numpy()
        spikes = spikes.reshape(self.batch, -1, *spikes.shape[1:]).sum(1)
        self.totals[node] = self.totals.get(node, 0) + spikes


def simulated(reader: Reader, path: Path, images, steps: int, delay: int, names=(), tuned=False, start=0.0):
    """Sums of the outputs behind the first steps, and spike counts by node, of one batch of images."""
    import nir
    import torch

    graph = nir.read(path)
    for change in reader.changes:
        change(graph)
    network = reader.load(graph, steps, len(images)).eval()
    for change in (*reader.mends, *[reader.tuned] * tuned):
        change(network)
    if start:
        reader.start(network, start, len(images))
    counter, x = Counter(network, names, len(images)), torch.from_numpy(images)
    with torch.no_grad():
        if reader.squeezed:
            outputs = network(x.repeat_interleave(steps, 0))
            outputs = outputs[0] if isinstance(outputs, tuple) else outputs
            return outputs.reshape(len(images), steps, -1)[:, delay:].sum(1).numpy(), counter.totals
        total, state = 0, None
        for step in range(steps):
            output, state = network(x, state) if state is not None else network(x)
            total = total + (output if step >= delay else 0 * output)
    return total.reshape(len(images), -1).numpy(), counter.totals


def standard_error(values) -> float:
    return float(np.std(values) / np.sqrt(len(values)))


def measure(arguments) -> None:
    """Prints one row: a reader on one file."""
    import nir

    reader, path = READERS[arguments.reader], Path(arguments.file)
    told, held = nir.read(path).metadata, np.load(path.with_suffix(".npz"))
    run = functools.partial(simulated, reader, path, steps=int(told["timesteps"]), delay=int(told["readout_delay"]),
                            tuned=arguments.tuned, start=float(told.get("initial_potential", 0.0)))  # fmt: skip
    images, labels, answers = (held[key][: arguments.images] for key in ("images", "labels", "answers"))
    counts = {key[6:]: held[key] for key in held.files if key.startswith("count/")}
    equal, found, begun = {name: [] for name in counts}, [], time.time()
    for start in range(0, len(images), arguments.batch):
        part = slice(start, min(start + arguments.batch, len(images) if start >= COUNTED else COUNTED))
        sums, counted = run(images=images[part], names=counts if start < COUNTED else ())
        found.append(sums.argmax(-1))
        for name, count in counted.items():
            equal[name].append(count == counts[name][part])
    found, equal = np.concatenate(found), {name: np.concatenate(each) for name, each in equal.items()}
    better = (found == labels).astype(float) - (answers == labels)  # image by image
    row = {
        "file": path.stem, "reader": arguments.reader, "version": importlib.metadata.version(arguments.reader),
        "tuned": arguments.tuned, "images": len(labels),
        "timesteps": int(told["timesteps"]), "ann": float(held["ann"]), "snn": float(np.mean(answers == labels)),
        "accuracy": float(np.mean(found == labels)), "same_class": float(np.mean(found == answers)),
        "accuracy_se": standard_error(found == labels), "difference_se": standard_error(better),
        "counted": len(next(iter(equal.values()))),
        "equal_counts": sum(int(each.sum()) for each in equal.values()) / sum(each.size for each in equal.values()),
        "worst_layer": min(float(each.mean()) for each in equal.values()), "seconds": round(time.time() - begun, 1),
        "changes": [each.__name__ for each in (*reader.changes, *reader.mends, *[reader.tuned] * arguments.tuned)],
        "reason": "" if arguments.tuned else reader.reason,
    }  # fmt: skip
    print(json.dumps(row))


def read(arguments) -> None:
    """Runs `measure` in the readers' environment, for every reader and file; rows go to experiments/nir/rows.jsonl."""
    python, rows = arguments.environment / "bin" / "python", FOLDER / "rows.jsonl"
    for path in sorted(FOLDER.glob("*.nir")):
        for name, reader in READERS.items():
            for tuned in (False, True):
                fits = tuned or "_host_" not in path.stem
                if not fits or not path.stem.endswith("subtract" if tuned else reader.reset):
                    continue
                command = [str(python), __file__, "measure", name, str(path), "--batch", str(arguments.batch)]
                command += ["--images", str(arguments.images), *["--tuned"] * tuned]
                done = subprocess.run(command, capture_output=True, text=True)
                line = (done.stdout.strip().splitlines() or [""])[-1]
                if done.returncode:
                    error = (done.stderr.strip().splitlines() or ["?"])[-1]
                    line = json.dumps({"file": path.stem, "reader": name, "tuned": tuned, "error": error})
                print(line, flush=True)
                with rows.open("a") as file:
                    file.write(line + "\n")


def table(arguments) -> None:
    """Prints the rows that are kept."""
    print("| file | reader | mended, tuned | images | SNN | reader | difference | same class | equal counts |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in map(json.loads, (ROOT / "docs" / "nir_readers.jsonl").read_text().splitlines()):
        file, changed = row["file"].replace("lenet5_averagepool", "lenet5"), ", ".join(row["changes"]) or "nothing"
        off = f"{100 * (row['accuracy'] - row['snn']):+.2f} ± {100 * row['difference_se']:.2f}"
        shares = f"{row['same_class']:.2%} | {row['equal_counts']:.3%}"
        print(f"| {file} | {row['reader']} | {changed} | {row['images']} | {100 * row['snn']:.2f} | "
              f"{100 * row['accuracy']:.2f} | {off} | {shares} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for task in (make, install, read, measure, table):
        command = commands.add_parser(task.__name__)
        command.set_defaults(task=task)
        command.add_argument("--environment", type=Path, default=FOLDER / "venv")
        command.add_argument("--batch", type=int, default=100)
        command.add_argument("--images", type=int, default=10000)
        if task is make:
            command.add_argument("--resnet", type=Path)
            command.add_argument("--timesteps", type=int, default=32)
            command.add_argument("--initial-potential", type=float, default=0.5)
            command.add_argument("--start", choices=("bias", "host"), default="bias")
        if task is measure:
            command.add_argument("reader", choices=READERS)
            command.add_argument("file")
            command.add_argument("--tuned", action="store_true")
    arguments = parser.parse_args()
    arguments.task(arguments)


if __name__ == "__main__":
    main()
