"""Which threshold, number of time steps and read-out serve best? Makes docs/DEFAULTS.md, the choice of the defaults.

    python benchmarks/defaults.py                         # everything; about half an hour on two cores
    python benchmarks/defaults.py --networks lenet5_maxpool --encodings rate

All images are training images that the calibration has not seen, and, but for the two networks on CIFAR-10, that the
ANN has not been trained on. Every finished measurement is a line of docs/defaults.jsonl; started again, the script goes
on where it stopped. One simulation gives all numbers of time steps up to its own, since no neuron knows how long it
will go on.
"""

import argparse
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import numpy as np  # noqa: E402

from ann_training import Training, load_dataset, train_network  # noqa: E402
from conversion import ann_accuracy, convert_ann_to_snn, read  # noqa: E402

RESULTS, PAGE = ROOT / "docs" / "defaults.jsonl", ROOT / "docs" / "DEFAULTS.md"
CALIBRATION_IMAGES = 1000
EPOCHS = 4
BATCH = 250
REACHES, REACHES_DEEP = np.arange(2, 14.5, 0.5).tolist(), np.arange(4, 21.0).tolist()  # T/θ
RATE_STEPS = (8, 16, 32, 64, 100, 128)
# Steps that the read-out of `rate` ignores, of T time steps behind `depth` layers of neurons.
DELAYS: dict[str, Callable[[int, int], int]] = {
    "0": lambda steps, depth: 0,
    "depth/2": lambda steps, depth: depth // 2,
    "depth/2, T/4 at most": lambda steps, depth: min(depth // 2, steps // 4),
    "depth": lambda steps, depth: depth,
    "depth, T/4 at most": lambda steps, depth: min(depth, steps // 4),
    "depth, T/2 at most": lambda steps, depth: min(depth, steps // 2),
    "depth - 4, T/2 at most": lambda steps, depth: min(max(depth - 4, 0), steps // 2),
    "2 (depth - 4), T/2 at most": lambda steps, depth: min(2 * max(depth - 4, 0), steps // 2),
    "2 depth, T/2 at most": lambda steps, depth: min(2 * depth, steps // 2),
    "T/4": lambda steps, depth: steps // 4,
    "T/2": lambda steps, depth: steps // 2,
}
DEFAULT_DELAY = "2 (depth - 4), T/2 at most"


class Subject(NamedTuple):
    """A network with its data: `network` a name of `ann_training` or a model's file, `held_out` images to choose on."""

    network: str
    dataset: str
    held_out: int

    @property
    def trained_here(self) -> bool:
        return not self.network.endswith("cifar10")

    @property
    def key(self) -> str:
        return f"{self.network}, {self.dataset}"


SUBJECTS = [
    *(Subject(name, "mnist_sample", 1000) for name in (
        "denseonly1", "base", "lenet5", "lenet5_averagepool", "lenet5_maxpool")),
    Subject("lenet5_maxpool", "fashion_mnist", 1000),
    Subject("lenet5_maxpool_extensions", "mnist_sample", 300),
    Subject("strided_cifar10", "cifar10", 300),
    Subject("quantised_cifar10", "cifar10", 300),
    Subject("vgg16_slim_cifar10", "cifar10", 300),
]  # fmt: skip


@functools.cache
def data(subject: Subject):
    """Images to train on, images to calibrate on, images and labels to choose on."""
    x, y = load_dataset(subject.dataset).train
    training = 5000 if subject.dataset == "mnist_sample" else 10000
    calibration, chosen = x[:CALIBRATION_IMAGES], slice(training, training + subject.held_out)
    return (x[:training], y[:training]), calibration, (x[chosen], y[chosen])


@functools.cache
def ann_of(subject: Subject, beta: float | None) -> keras.Model:
    """The ANN; with `beta` trained with the clamped ReLU."""
    if not subject.trained_here:
        return keras.models.load_model(ROOT / "benchmarks" / "models" / f"{subject.network}.keras", compile=False)
    train, _, held_out = data(subject)
    activation = "relu" if beta is None else functools.partial(keras.layers.ReLU, threshold=beta)
    training = Training(epochs=EPOCHS, seed=0, activation=activation, ann_cache_dir=ROOT / "experiments" / "anns")
    return train_network(subject.network, training, train, held_out)


def scores_per_step(snn, images) -> np.ndarray:
    """What the read-out has integrated after each step, `(timesteps, images, classes)`."""
    snn.layers[-1].cell.activation = keras.activations.linear
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    means = np.concatenate([snn.simulate(part, ("readouts",)).readouts.numpy() for part in parts], axis=1)
    return means * np.arange(1, len(means) + 1)[:, None, None]


def right(scores: np.ndarray, labels) -> float:
    return float(np.mean(scores.argmax(-1) == labels))


def measure_reach(subject, snn, settings) -> dict:
    """Accuracy for every T/θ."""
    images, labels = data(subject)[2]
    scores = scores_per_step(snn, images)
    reaches = REACHES if subject.trained_here else REACHES_DEEP
    return {f"{reach:g}": right(scores[round(reach * settings["threshold"]) - 1], labels) for reach in reaches}


def measure_delays(subject, snn, settings) -> dict:
    """Accuracy for every T and every way to set the read-out's delay; None where the delay leaves nothing."""
    images, labels = data(subject)[2]
    scores, depth = scores_per_step(snn, images), read(ann_of(subject, None)).depth
    before = np.concatenate([np.zeros_like(scores[:1]), scores])  # what has been integrated before each step
    found = {}
    for steps, (name, delay) in itertools.product(RATE_STEPS, DELAYS.items()):
        ignored = delay(steps, depth)
        found[f"T={steps}, {name}"] = right(before[steps] - before[ignored], labels) if ignored < steps else None
    return found


def runs(subject: Subject) -> list[dict]:
    """The settings to try on a network."""
    deep = not subject.trained_here
    scales = [{"per_channel": channel, "norm_percentile": percentile}
              for channel, percentile in itertools.product((True, False), (99.9, 99.0))]  # fmt: skip
    tried = [{"encoding": "rate", "initial_potential": start, **scale}
             for start, scale in itertools.product((0.5, 0.0), scales) if start or scale["norm_percentile"] == 99.9]
    if subject.network.startswith("quantised"):
        return tried
    # At the same T/θ another θ is another step width: it changes little, as one network shows.
    thresholds = (10, 14, 20) if subject.key == "lenet5_maxpool, mnist_sample" else (10,) if deep else (14,)
    scales = scales[1:2] if deep else scales  # the best of the others: it takes long
    for encoding, threshold, scale in itertools.product(("ttfs", "ttfs_dyn_thresh"), thresholds, scales):
        tried.append({"encoding": encoding, "threshold": threshold, **scale})
    for beta, threshold, scale in itertools.product((0.1, 0.25), thresholds, scales):
        if not deep:
            tried.append({"encoding": "ttfs_clamped", "beta": beta, "threshold": threshold, **scale})
    return tried


def measure(subject: Subject, run: dict) -> dict:
    """One line of the results."""
    settings = dict(run)
    ann = ann_of(subject, settings.pop("beta", None))
    _, calibration, held_out = data(subject)
    started, is_rate = time.perf_counter(), run["encoding"] == "rate"
    reach = (REACHES if subject.trained_here else REACHES_DEEP)[-1]
    settings["timesteps"] = RATE_STEPS[-1] if is_rate else round(reach * settings["threshold"])
    if is_rate:
        settings["readout_delay"] = 0
    snn = convert_ann_to_snn(ann, calibration, **settings)
    found = (measure_delays if is_rate else measure_reach)(subject, snn, settings)
    keras.backend.clear_session()
    return {
        "network": subject.key, "images": subject.held_out, "depth": read(ann).depth,
        "ann": ann_accuracy(ann, *held_out), **run, "accuracy": found,
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def read_results() -> list[dict]:
    """All finished measurements."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def loss(row: dict, key: str) -> str:
    """Points of accuracy below the ANN; "–" where it was not measured."""
    found = row["accuracy"].get(key)
    return "–" if found is None else f"{100 * (row['ann'] - found):.1f}"


def table(head: list[str], lines: list[list]) -> list[str]:
    return ["", *("| " + " | ".join(map(str, line)) + " |" for line in [head, ["---"] * len(head), *lines]), ""]


def scale_of(row: dict) -> str:
    return f"{row['norm_percentile']:g}% per {'channel' if row['per_channel'] else 'layer'}"


def reach_tables(rows: list[dict], encoding: str) -> list[str]:
    """Loss over T/θ: every network with the default scale, then one network with all of them."""
    shown = [f"{reach:g}" for reach in REACHES if reach >= 4 and (reach % 1 == 0 or 5 < reach < 9)]
    own = [row for row in rows if row["encoding"] == encoding and row["threshold"] in (10, 14)]
    chosen = [row for row in own if row["per_channel"] and row["norm_percentile"] == 99.0]
    lines = [
        [row["network"], row["depth"], *([row["beta"]] if "beta" in row else []), row["threshold"],
         *(loss(row, key) for key in shown)]
        for row in chosen
    ]  # fmt: skip
    more = ["β"] if encoding == "ttfs_clamped" else []
    text = [f"### {encoding}", "", "99% per channel:", *table(["network", "depth", *more, "θ", *shown], lines)]
    others = [
        [row["network"], *([row["beta"]] if more else []), scale_of(row), loss(row, f"{4 + row['depth']}"),
         loss(row, "12")]
        for row in own if row["threshold"] == 14
    ]  # fmt: skip
    return [*text, "Other scales, at T/θ = 4 + depth and at 12:",
            *table(["network", *more, "scale", "4 + depth", "12"], others)]  # fmt: skip


def rate_tables(rows: list[dict]) -> list[str]:
    """Loss over T: how the read-out's delay is set, V(0), the scale."""
    own = [row for row in rows if row["encoding"] == "rate"]
    steps = [f"T = {steps}" for steps in RATE_STEPS]
    losses = lambda row, delay: [loss(row, f"T={steps}, {delay}") for steps in RATE_STEPS]  # noqa: E731
    text = ["99.9% per channel, V(0) = θ/2, by what the read-out ignores:"]
    best = [row for row in own if row["per_channel"] and row["norm_percentile"] == 99.9]
    lines = [[row["network"], row["depth"], delay, *losses(row, delay)]
             for row in best if row["initial_potential"] for delay in DELAYS]  # fmt: skip
    text += table(["network", "depth", "steps ignored", *steps], lines)
    text += ["V(0) = 0 and nothing ignored, the classic settings:"]
    lines = [[row["network"], row["depth"], *losses(row, "0")] for row in best if not row["initial_potential"]]
    text += table(["network", "depth", *steps], lines)
    text += [f"Other scales, V(0) = θ/2, {DEFAULT_DELAY}:"]
    lines = [[row["network"], scale_of(row), *losses(row, DEFAULT_DELAY)] for row in own if row["initial_potential"]]
    return text + table(["network", "scale", *steps], lines)


def page(rows: list[dict]) -> str:
    """docs/DEFAULTS.md."""
    order = [subject.key for subject in SUBJECTS]
    rows = sorted(rows, key=lambda row: order.index(row["network"]))
    networks = list(dict.fromkeys((row["network"], row["depth"], row["images"]) for row in rows))
    listed = "; ".join(f"{name} ({depth} layers of neurons, {images} images)" for name, depth, images in networks)
    return "\n".join([
        "# How the defaults were chosen",
        "",
        "Made by `python benchmarks/defaults.py` from docs/defaults.jsonl. Points of accuracy below the ANN, on "
        f"training images that the calibration ({CALIBRATION_IMAGES} images) has not seen, and, but for CIFAR-10, that "
        f"the ANN has not been trained on: {listed}. No test image has been used. With 1000 images a loss of 2 points "
        "has a standard error of about half a point, with 300 of nearly one.",
        "",
        "| code | default | was, until 0.1 |",
        "| --- | --- | --- |",
        "| `ttfs`, `ttfs_dyn_thresh`, `ttfs_clamped` | T = 120, θ = T/(4 + depth), 99% per channel | "
        "θ = 10, 99.9% per layer: `spiking.ttfs.classic()` |",
        "| `ttfs_clamped` | the ANN trained with β = 0.1 | β = 0.25 |",
        "| `rate` | T = 64, V(0) = θ/2, a read-out that ignores two steps for every layer of neurons behind the "
        "fourth, T/2 at most | T = 100, V(0) = 0, nothing ignored: `spiking.rate.classic()` |",
        "",
        "`depth` is the number of layers of neurons.",
        "",
        "## Base codes: T/θ",
        "",
        "What counts is T/θ. Too few steps and the last layers have not answered; too many, and neurons that should be "
        "silent fire late. The best T/θ grows with depth; at the same T/θ another θ, a finer or coarser time step, "
        "changes half a point (see lenet5_maxpool). A lower percentile per channel makes weak channels fire in time. "
        "Networks of 12 and 14 layers stay at chance whatever T/θ is: take another code there.",
        "",
        *(line for encoding in ("ttfs", "ttfs_dyn_thresh", "ttfs_clamped") for line in reach_tables(rows, encoding)),
        "## rate",
        "",
        "Networks of up to four layers need V(0) = θ/2 alone, and at T = 8 every step that is ignored costs; deep ones "
        "need both.",
        "",
        *rate_tables(rows),
    ]).rstrip() + "\n"  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=sorted({subject.network for subject in SUBJECTS}))
    parser.add_argument("--encodings", nargs="+", choices=["rate", "ttfs", "ttfs_dyn_thresh", "ttfs_clamped"])
    parser.add_argument("--page", action="store_true", help="write the page anew and measure nothing")
    args = parser.parse_args()
    names = ("network", "encoding", "threshold", "beta", "initial_potential", "per_channel", "norm_percentile")
    done = {tuple(row.get(name) for name in names) for row in read_results()}
    for subject in [] if args.page else SUBJECTS:
        for run in sorted(runs(subject), key=lambda run: run["encoding"] != "rate"):
            key = tuple({"network": subject.key, **run}.get(name) for name in names)
            wanted = subject.network in (args.networks or [subject.network])
            if key in done or not wanted or run["encoding"] not in (args.encodings or [run["encoding"]]):
                continue
            row = measure(subject, run)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(subject.key, run, row["seconds"], "s", flush=True)
    PAGE.write_text(page(read_results()))


if __name__ == "__main__":
    main()
