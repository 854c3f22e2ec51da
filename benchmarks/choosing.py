"""Which code for which purpose: accuracy against latency, spikes and operations on LeNet-5, VGG-16 and ResNet-20.

    python benchmarks/choosing.py                     # everything; about an hour on a free core
    python benchmarks/choosing.py --networks lenet5 --images 200
    python benchmarks/choosing.py --page              # page and picture anew, from what is measured

Makes docs/CHOOSING.md. Every finished measurement is a line of docs/choosing.jsonl; started again, the script goes on
where it stopped. LeNet-5 is trained on the digits in the package; the others are files of `--models`, where
`benchmarks/train_models.py` puts them.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # noqa: E402

from ann_training import Training, load_dataset, train_network_lenet5_maxpool  # noqa: E402
from conversion import convert_ann_to_snn, read, snn_activation_analysis  # noqa: E402
from spiking.rate import low_latency  # noqa: E402

RESULTS, PAGE = ROOT / "docs" / "choosing.jsonl", ROOT / "docs" / "CHOOSING.md"
PICTURE = ROOT / "docs" / "pictures" / "choosing.png"
BATCH = 50
ANALYSED_IMAGES = 50  # for spikes and operations, which hardly vary
CALIBRATION_IMAGES = 4000

# Network -> data set, its name on the page, and test images: for all codes, and for those that are at chance on it.
NETWORKS = {
    "lenet5": ("mnist_sample", "LeNet-5, digits", 1000, 1000),
    "vgg16_slim_cifar10": ("cifar10", "VGG-16, CIFAR-10", 1000, 100),
    "resnet20_cifar10": ("cifar10", "ResNet-20, CIFAR-10", 500, 100),
}
# What the picture says; to be read anew when the lines are measured anew.
READING = (
    "- `ttfs_exact` takes the fewest spikes and operations, about half an addition for each MAC of the ANN, and the "
    "most time steps.",
    "- `radix` is there ten times sooner (90 steps in place of 960 on the VGG) for twice the spikes.",
    "- `rate` with single spikes takes about as many steps as `radix`, and six times its spikes. Negative spikes halve "
    "its steps. With eight spikes a step four steps are enough, but then operations are multiplications.",
    "- The base codes lose a point on LeNet-5 and are at chance on deep networks.",
)
BASE = ("ttfs", "ttfs_dyn_thresh", "ttfs_clamped")

# What is compared -> (code, time steps, settings given those). Cheap ones come first.
CHOICES = {
    "ttfs_exact": ("ttfs_exact", (8, 16, 32, 64), lambda steps: {"correction": "none"}),
    "radix": ("radix", (3, 4, 5, 6), lambda steps: {"correction": "none"}),
    "rate": ("rate", (16, 32, 64), lambda steps: {}),
    "rate, signed": ("rate", (8, 16, 32), lambda steps: low_latency(steps, signed=True)),
    "rate, signed, 8 a step": ("rate", (4, 8), lambda steps: low_latency(steps, signed=True, max_spikes=8)),
    "ttfs": ("ttfs", (60, 120), lambda steps: {}),
    "ttfs_dyn_thresh": ("ttfs_dyn_thresh", (60, 120), lambda steps: {}),
    "ttfs_clamped": ("ttfs_clamped", (60, 120), lambda steps: {}),
}
LOOKS = {
    "ttfs_exact": ("#0072b2", "o"), "radix": ("#009e73", "s"), "rate": ("#d55e00", "^"),
    "rate, signed": ("#e69f00", "v"), "rate, signed, 8 a step": ("#cc79a7", "D"), "ttfs": ("#888888", "x"),
    "ttfs_dyn_thresh": ("#888888", "+"), "ttfs_clamped": ("#888888", "1"),
}  # fmt: skip
COSTS = {
    "timesteps": "latency / time steps", "spikes_per_neuron": "spikes per neuron and image",
    "operations_per_mac": "operations per MAC of the ANN",
}  # fmt: skip


def network(name: str, models: Path):
    """The trained ANN and its data; LeNet-5 is trained here, in half a minute."""
    data = load_dataset(NETWORKS[name][0])
    if name == "lenet5":
        keras.utils.set_random_seed(0)
        return train_network_lenet5_maxpool(Training(epochs=10), data.train, data.test), data
    return keras.models.load_model(models / f"{name}.keras", compile=False), data


def classes(model, images: np.ndarray) -> np.ndarray:
    return model.predict(images, batch_size=BATCH, verbose=0).argmax(axis=-1)


def measure(ann, graph, data, choice: str, steps: int, images: int) -> dict:
    """One line: how many images ANN and SNN classify rightly, and what the SNN costs."""
    code, _, settings = CHOICES[choice]
    snn = convert_ann_to_snn(graph, data.x_train[:CALIBRATION_IMAGES], code, steps, **settings(steps))
    x, y = data.x_test[:images], data.y_test[:images]
    started = time.perf_counter()
    said, expected = classes(snn, x), classes(ann, x)
    seconds = time.perf_counter() - started
    found = snn_activation_analysis(snn, x[:ANALYSED_IMAGES])
    return {
        "choice": choice, "steps": steps, "images": len(x), "ann": int(np.sum(expected == y)),
        "snn": int(np.sum(said == y)), "differ": int(np.sum((said == y) != (expected == y))),
        "timesteps": found.timesteps, "spikes_per_neuron": found.spikes_per_neuron,
        "operations": found.synaptic_operations, "macs": found.macs, "ann_macs": found.ann_macs,
        "energy": found.snn_energy, "ann_energy": found.ann_energy, "seconds": seconds,
    }  # fmt: skip


def lines() -> list[dict]:
    """All finished measurements."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def run(networks, most: int, models: Path) -> None:
    """Measures what is missing, on so many images at most."""
    done = {(line["network"], line["choice"], line["steps"]) for line in lines()}
    for name in networks:
        missing = [(choice, steps) for choice, (_, all_steps, _) in CHOICES.items() for steps in all_steps
                   if (name, choice, steps) not in done]  # fmt: skip
        if missing:
            ann, data = network(name, models)
            graph = read(ann)
        for choice, steps in missing:
            images = min(most, NETWORKS[name][3 if choice in BASE else 2])
            line = {"network": name, **measure(ann, graph, data, choice, steps, images)}
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)


def loss(line: dict) -> tuple[float, float]:
    """Points lost against the ANN on the same images, and their standard error."""
    lost = (line["ann"] - line["snn"]) / line["images"]
    return 100 * lost, 100 * math.sqrt(max(line["differ"] / line["images"] - lost**2, 0) / line["images"])


def picture(found: list[dict]) -> Figure:
    """Points lost against each cost: a row per network, a column per cost, a line per choice."""
    names = [name for name in NETWORKS if any(line["network"] == name for line in found)]
    figure = Figure(figsize=(11, 3.1 * len(names) + 0.9), layout="constrained")
    for row, axes in zip(names, figure.subplots(len(names), len(COSTS), squeeze=False), strict=True):
        for ax, (cost, label) in zip(axes, COSTS.items(), strict=True):
            for choice, (colour, marker) in LOOKS.items():
                points = [line for line in found if line["network"] == row and line["choice"] == choice]
                x = [line[cost] if cost in line else (line["operations"] + line["macs"]) / line["ann_macs"]
                     for line in points]  # fmt: skip
                ax.plot(x, [loss(line)[0] for line in points], marker=marker, color=colour, label=choice, ms=5, lw=1)
            ax.set(xscale="log", xlabel=label, ylim=(100, -0.7))
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_yscale("symlog", linthresh=1, linscale=0.8)
            ax.set_yticks([0, 0.5, 1, 2, 5, 10, 20, 50, 100], ["0", "0.5", "1", "2", "5", "10", "20", "50", "100"])
            ax.grid(alpha=0.3)
        axes[0].set_ylabel(f"{NETWORKS[row][1]}\npoints lost (0 is on top)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def table(found: list[dict]) -> list[str]:
    """The rows of one network."""
    rows = ["| code | steps | latency | SNN / % | lost / points | spikes/neuron | operations + MACs per ANN's MAC | "
            "energy / ANN's |", "| --- | --: | --: | --: | --: | --: | --: | --: |"]  # fmt: skip
    for line in found:
        lost, error = loss(line)
        operations = (line["operations"] + line["macs"]) / line["ann_macs"]
        rows.append(
            f"| {line['choice']} | {line['steps']} | {line['timesteps']} | {100 * line['snn'] / line['images']:.1f} | "
            f"{lost:+.2f} ± {error:.2f} | {line['spikes_per_neuron']:.2f} | {operations:.2f} | "
            f"{line['energy'] / line['ann_energy']:.2f} |"
        )
    return rows


def page(found: list[dict]) -> str:
    """docs/CHOOSING.md."""
    text = [
        "# Codes compared", "",
        "Three trained networks under every code: what is lost, and what it costs. The advice that follows from it is "
        "in [Choose a code](guides/code.md).", "",
        "![Points lost against latency, spikes and operations, for three networks and all codes]"
        "(pictures/choosing.png)", "",
        "*Up and to the left is better. Each line is a code, its points are numbers of time steps.*", "", *READING, "",
        "Made by `python benchmarks/choosing.py`, raw lines in docs/choosing.jsonl. First test images; full activity "
        f"from {CALIBRATION_IMAGES} training images, settings as the code has them (`rate, signed`: "
        "`spiking.rate.low_latency`), without the correction that `ttfs_exact` and `radix` have by default at 16 "
        "levels and fewer, and which takes back part of their loss there ([deep networks](DEEP.md)). Lost: the ANN's "
        "accuracy minus the SNN's on the same images, ± its standard error. Spikes and operations: means of "
        f"{ANALYSED_IMAGES} images. Latency: the time steps after which the answer is read. Energy: 45 nm, 32 bit, "
        "4.6 pJ a MAC and 0.9 pJ an addition, memory and neuron updates left "
        "out. `ttfs_clamped` is shown on networks that were trained with a plain ReLU, as it is not meant.",
    ]  # fmt: skip
    for name, (_, title, *_) in NETWORKS.items():
        own = [line for line in found if line["network"] == name]
        if own:
            numbers = sorted({line["images"] for line in own})
            right = ", ".join(f"{100 * next(e['ann'] for e in own if e['images'] == n) / n:.1f}% of {n} images"
                              for n in numbers)  # fmt: skip
            text += ["", f"## {title}", "", f"The ANN: {right}, {own[0]['ann_macs'] / 1e6:.2f} million MACs.", "",
                     *table(own)]  # fmt: skip
            done = {(line["choice"], line["steps"]) for line in own}
            missing = [f"{choice} at {steps}" for choice, (_, all_steps, _) in CHOICES.items() for steps in all_steps
                       if (choice, steps) not in done]  # fmt: skip
            text += ["", f"Not measured yet: {', '.join(missing)}."] if missing else []
    return "\n".join(text) + "\n"


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=1000, help="test images at most")
    parser.add_argument("--models", type=Path, default=ROOT / "benchmarks" / "models", help="where the networks are")
    parser.add_argument("--page", action="store_true", help="only write page and picture anew")
    given = parser.parse_args(arguments)
    if not given.page:
        run(given.networks, given.images, given.models)
    order = list(CHOICES)
    found = sorted(lines(), key=lambda line: (order.index(line["choice"]), line["steps"]))
    picture(found).savefig(PICTURE, dpi=110)
    PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
