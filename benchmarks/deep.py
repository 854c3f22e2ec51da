"""Deep networks on CIFAR-10, full test set: every code, calibration and correction. Makes docs/DEEP.md.

    python benchmarks/deep.py                                   # everything; some hours on two cores
    python benchmarks/deep.py --networks vgg16_slim_cifar10 --encodings ttfs_exact

Every finished measurement is a line of docs/deep.jsonl; started again, the script goes on where it stopped. Calibration
and corrections see training images alone. The page is written anew from all lines at the end, and with `--page` alone
at any time.
"""

import argparse
import functools
import json
import math
import os
import resource
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import numpy as np  # noqa: E402
import signed  # noqa: E402
import tensorflow as tf  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from ann_training import load_dataset  # noqa: E402
from conversion import (  # noqa: E402
    ann_and_snn_activations_per_layer,
    calibrate,
    convert_ann_to_snn,
    diagnose,
    snn_activation_analysis,
)
from spiking import rate, ttfs  # noqa: E402
from spiking.network.precision import reduce_precision  # noqa: E402
from spiking.quantisation import QuantisedReLU  # noqa: E402

RESULTS, PAGE = ROOT / "docs" / "deep.jsonl", ROOT / "docs" / "DEEP.md"
COST = ROOT / "docs" / "deep_cost.json"
PICTURE = ROOT / "docs" / "pictures" / "deep.png"
CALIBRATION_IMAGES = 10000
COSTS = {"percentile": {}, "percentile per channel": {"per_channel": True}, "mse per channel": {"method": "mse",
         "per_channel": True, "levels": 16}}  # fmt: skip
ANALYSED_IMAGES = 500  # for spikes, operations, energy and diagnosis, which hardly vary
BATCH = 250
CLOSED = ("ttfs_exact", "radix")  # one forward pass, however many time steps
DIAGNOSED = ("ttfs", "ttfs_dyn_thresh", "ttfs_clamped")  # at chance or near it: a thousand images show it
LEVELS = 8  # of the network trained with rounded activations


class Mirrored:
    """Calibration images in batches, in another order in every pass, each mirrored or not by chance."""

    def __init__(self, images: np.ndarray, seed: int = 0, batch: int = 100):
        self.images, self.random, self.batch = images, np.random.default_rng(seed), batch

    def __call__(self):
        for chosen in np.array_split(self.random.permutation(len(self.images)), len(self.images) // self.batch):
            mirror = self.random.random(len(chosen)) < 0.5
            yield np.where(mirror[:, None, None, None], self.images[chosen, :, ::-1], self.images[chosen])


# Recipe: settings of the conversion, given the number of time steps.
RECIPES = {
    "default": lambda steps: {},
    "classic": lambda steps: rate.classic(),
    "classic, θ per layer": lambda steps: {**rate.classic(), "per_channel": False},
    "classic, single spikes": lambda steps: ttfs.classic(),
    "θ per layer": lambda steps: {"per_channel": False},
    "99.9% percentile": lambda steps: {"normalisation": "percentile"},
    "maximum": lambda steps: {"normalisation": "max"},
    "shifts": lambda steps: {"correction": "shifts"},
    "output": lambda steps: {"correction": "output"},
    "output, mirrored": lambda steps: {"correction": "output"},
    "output, second draw": lambda steps: {"correction": "output"},
    "output, third draw": lambda steps: {"correction": "output"},
    "low latency": rate.low_latency,
    "low latency, bfloat16": rate.low_latency,
    "low latency, mse": lambda steps: {**rate.low_latency(steps), "normalisation": "mse"},
}
# Recipe: its calibration images, out of the training images; by default the first.
CALIBRATED_ON = {
    "output, mirrored": lambda images: Mirrored(images[:CALIBRATION_IMAGES]),
    "output, second draw": lambda images: images[CALIBRATION_IMAGES:][:CALIBRATION_IMAGES],
    "output, third draw": lambda images: images[2 * CALIBRATION_IMAGES :][:CALIBRATION_IMAGES],
}
REDUCED = {"low latency, bfloat16": "bfloat16"}  # recipe -> dtype of the synapses between hidden layers
DIGITS = [("radix", "default", digits) for digits in (6, 5, 4, 8)]
# (encoding, recipe, time steps)
RUNS = [
    *(
        ("ttfs_exact", recipe, steps)
        for steps in (64, 32, 16, 8)
        for recipe in ("default", "output", "output, second draw", "output, third draw", "output, mirrored", "shifts")
    ),
    *(("ttfs_exact", recipe, 16) for recipe in ("θ per layer", "99.9% percentile", "maximum")),
    *(("rate", "low latency", steps) for steps in (32, 64, 128)),
    *(("rate", "default", steps) for steps in (32, 64)),
    *(("rate", "classic", steps) for steps in (32, 64)),
    *(("rate", "classic, θ per layer", steps) for steps in (32, 64)),
    ("rate", "low latency, mse", 64),
    ("rate", "low latency, bfloat16", 32),
    *((encoding, recipe, 120) for recipe in ("default", "classic, single spikes") for encoding in DIAGNOSED),
    *DIGITS,
]
RUNS_QUANTISED = [
    *(("ttfs_exact", "default", steps) for steps in (LEVELS, 4 * LEVELS)),
    *(("rate", "low latency", steps) for steps in (LEVELS, 4 * LEVELS)),
]
# Where networks lie: in the repository, or beside it (trained elsewhere).
FOLDERS = (ROOT / "benchmarks" / "models", ROOT.parent / "shared" / "models")
# File name: (title, runs).
NETWORKS = {
    "vgg16_slim_cifar10": ("VGG-16, quarter width, max pooling, BatchNorm before the activation", RUNS),
    "strided_cifar10": (
        "13 layers, strided convolutions, average pooling, BatchNorm behind the activation",
        [run for run in RUNS if "draw" not in run[1]],
    ),
    "quantised_cifar10": (f"a small VGG, trained with activations of {LEVELS} levels", RUNS_QUANTISED),
    "resnet20_cifar10": (
        "ResNet-20, identity and projection shortcuts",
        [*DIGITS, *(("ttfs_exact", "default", steps) for steps in (64, 32, 16))],
    ),
}


# (encoding, time steps): the loss in points that a recipe is to stay within.
AIMS = {("ttfs_exact", 64): 0.1, ("ttfs_exact", 32): 0.15, ("ttfs_exact", 16): 0.3, ("ttfs_exact", 8): 1.0}
AIMS |= {("radix", 6): 0.1}
AIMS |= {("rate", 128): 0.2, ("rate", 64): 0.6, ("rate", 32): 1.5}


# (encoding, recipe): its line in the picture.
DRAWN = {
    ("rate", "classic"): "C0o-",
    ("rate", "default"): "C8p-",
    ("rate", "low latency"): "C1s-",
    ("rate", "low latency, bfloat16"): "C1x",
    ("ttfs_exact", "default"): "C2*-",
    ("ttfs_exact", "output"): "C3^--",
    ("ttfs_exact", "shifts"): "C4v:",
    ("radix", "default"): "C9h-",
    ("ttfs", "default"): "C5P",
    ("ttfs_dyn_thresh", "default"): "C6D",
    ("ttfs_clamped", "default"): "C7+",
}


def read_results() -> list[dict]:
    """All finished measurements."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def scores(model, images) -> np.ndarray:
    """The model's output for all images."""
    return np.concatenate(
        [model.predict_on_batch(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    )


def rounding_ties(ann, snn, images) -> float:
    """Share of the activations in which SNN and ANN are more than half a level apart."""
    pairs = ann_and_snn_activations_per_layer(ann, snn, images)
    apart = [
        np.abs(expected - found).ravel() > np.min(scale) / snn.timesteps / 2
        for (expected, found), scale in zip(pairs.values(), snn.scales, strict=True)
    ]
    return float(np.mean(np.concatenate(apart)))


def forward_ratio(ann, snn, images, batches: int = 20) -> float:
    """Seconds of the SNN over seconds of the ANN, batch by batch in turn, both as a `tf.function`; the median."""
    forward, ratios = tf.function(ann), []
    for start in range(0, batches * BATCH, BATCH):
        batch, seconds = tf.constant(images[start : start + BATCH]), []
        for run in (lambda x: snn.simulate(x).output, forward):
            before = time.perf_counter()
            run(batch).numpy()
            seconds.append(time.perf_counter() - before)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def measure(ann, data, encoding: str, recipe: str, steps: int, images: int) -> dict:
    """One line of the results: converts and evaluates on the first test images."""
    x, y = data.x_test[:images], data.y_test[:images]
    started = time.perf_counter()
    calibration = CALIBRATED_ON.get(recipe, lambda images: images[:CALIBRATION_IMAGES])(data.x_train)
    snn = convert_ann_to_snn(ann, calibration, encoding, steps, **RECIPES[recipe](steps))
    reduce_precision(snn, REDUCED.get(recipe))
    converted = time.perf_counter()
    expected, found = scores(ann, x).argmax(-1), scores(snn, x).argmax(-1)
    finished = time.perf_counter()
    analysis = snn_activation_analysis(snn, x[:ANALYSED_IMAGES])
    most = max(int(np.flatnonzero(layer.spike_count_histogram)[-1]) for layer in analysis.layers if layer.holds_neurons)
    levels = {layer.levels for layer in ann.layers if isinstance(layer, QuantisedReLU)}
    return {
        "encoding": encoding,
        "recipe": recipe,
        "timesteps": steps,
        "images": images,
        "ann": float(np.mean(expected == y)),
        "snn": float(np.mean(found == y)),
        "same_class": float(np.mean(expected == found)),
        "spikes_per_neuron": analysis.spikes_per_neuron,
        "most_spikes": most,
        "synaptic_operations": analysis.synaptic_operations,
        "ann_macs": analysis.ann_macs,
        "energy_ratio": analysis.snn_energy / analysis.ann_energy,
        "latency": snn.timesteps,
        "forward_ratio": forward_ratio(ann, snn, x) if encoding in CLOSED else None,
        "conversion_seconds": converted - started,
        "evaluation_seconds": finished - converted,
        "ties": rounding_ties(ann, snn, x[:100]) if encoding == "ttfs_exact" and steps in levels else None,
        "diagnosis": str(diagnose(ann, snn, x[:100])) if encoding in DIAGNOSED else None,
        "keras": keras.__version__,
    }


def time_ratio(row: dict) -> str:
    """Of a closed form, where it was measured."""
    return f"{row['forward_ratio']:.2f}" if row.get("forward_ratio") else ""


def cost() -> dict:
    """Seconds and peak memory of calibration and corrections on the VGG, on one core of a process of its own."""
    from speed import one_core

    one_core()
    ann = keras.models.load_model(ROOT / "benchmarks" / "models" / "vgg16_slim_cifar10.keras", compile=False)
    images = load_dataset("cifar10", max_images=CALIBRATION_IMAGES).x_train
    forward = tf.function(ann)

    def seconds(work, repetitions=3):
        times = []
        for _ in range(repetitions):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def forward_pass():
        for start in range(0, len(images), BATCH):
            forward(tf.constant(images[start : start + BATCH]))

    forward_pass()  # traces
    before = peak_memory()
    found = {"forward": seconds(forward_pass)}
    for name, settings in COSTS.items():
        found[name] = seconds(functools.partial(calibrate, ann, images, **settings))
        found[f"{name}, 100 images"] = seconds(functools.partial(calibrate, ann, images[:100], **settings))
    found |= {"MiB before": before, "MiB": peak_memory()}
    convert = functools.partial(convert_ann_to_snn, ann, images[:1000], "ttfs_exact", 16)
    for correction in ("shifts", "output"):
        found[correction] = seconds(functools.partial(convert, correction=correction), 1)
    return found


def peak_memory() -> float:
    """Peak resident set of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cost_table(found: dict) -> list[str]:
    """The section on what calibration costs."""
    rows = [
        f"| {name} | {found[name]:.1f} | {found[name] / found['forward']:.1f} | {found[f'{name}, 100 images']:.1f} |"
        for name in COSTS
    ]
    return [
        "",
        "## What calibration costs",
        "",
        f"`python benchmarks/deep.py --cost`, the VGG, {CALIBRATION_IMAGES} images, one core; median of 3. "
        f"A forward pass of the ANN over them takes {found['forward']:.1f} s. "
        f"Peak memory of the process, with TensorFlow and the data set: {found['MiB']:.0f} MiB, "
        f"of which {found['MiB before']:.0f} MiB stood before the first calibration.",
        "",
        "| method | seconds | forward passes | on 100 images, seconds: the constant |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        f"Conversion with a correction, on 1000 images: `shifts`, layer after layer, {found['shifts']:.1f} s; "
        f"`output`, all layers at once, {found['output']:.1f} s.",
    ]


def first_findings(diagnosis: str, most: int = 3) -> list[str]:
    """A diagnosis cut behind its first findings."""
    lines = diagnosis.splitlines()
    cut = next((n for n, line in enumerate(lines) if line.startswith(f"{most + 1}. ")), len(lines))
    return lines[:cut]


def loss(row: dict) -> str:
    """Points of accuracy lost, and the most their standard error can be."""
    error = math.sqrt((1 - row["same_class"]) / row["images"])
    return f"{100 * (row['ann'] - row['snn']):.2f} ± {100 * error:.2f}"


def aim(network: str, row: dict) -> str:
    """What the loss should be, for networks that were not trained for conversion."""
    known = None if network == "quantised_cifar10" else AIMS.get((row["encoding"], row["timesteps"]))
    return "" if known is None else str(known)


def page(lines: list[dict]) -> str:
    """docs/DEEP.md."""
    text = [
        "# Deep networks",
        "",
        "Made by `python benchmarks/deep.py` from docs/deep.jsonl; CIFAR-10, test images as given in the table, "
        f"{CALIBRATION_IMAGES} training images for calibration and corrections. Loss: points of accuracy below the "
        "ANN, ± the most that its standard error can be, the root of (1 − same class) / images. Aim: what it should be "
        "without retraining. Same class: share of images on which ANN and SNN agree. Operations: effective additions "
        f"per image; energy as in `spiking/analysis/statistics.py`, both from {ANALYSED_IMAGES} images. The equally "
        "quantised ANN is `ttfs_exact` itself: its closed form is the ANN with activations rounded to N levels. "
        "`radix` equals it level for level at N = 2^K − 1, K being the digits of a window. Steps in all: of the whole "
        "simulation. Time/ANN: of the closed form over a forward pass of the ANN, batch by batch in turn, the median. "
        "`ttfs_clamped` stands here on an ANN that was not trained for it. The networks: benchmarks/train_models.py.",
        "",
        "Recipes: `default` is the code's own calibration (`ttfs_exact`, `radix`: θ per channel by least mean square "
        "error; `rate`: 99.9% percentile per channel; the others: 99%) and settings. `classic` is "
        "`spiking.rate.classic()`, `classic, single spikes` is `spiking.ttfs.classic()`: what was the default until "
        "version 0.1. `shifts` and `output` are `correction=` of `convert_ann_to_snn`; the draws take other training "
        "images, `output, mirrored` the first in a new order in every pass, each mirrored or not by chance. "
        "`low latency` is V(0) = θ/2, percentile per "
        "channel, and a read-out that ignores the first half of the steps. With `bfloat16` the synapses between hidden "
        "layers compute in that dtype (`spiking.network.precision.reduce_precision`).",
        "",
        "![Loss of accuracy over time steps](pictures/deep.png)",
    ]
    for network, (title, _) in NETWORKS.items():
        rows = [line for line in lines if line["network"] == network]
        if not rows:
            continue
        full = max(rows, key=lambda row: row["images"])
        text += ["", f"## {network}: {title}", "", f"ANN: {full['ann']:.2%} on {full['images']} images.", ""]
        text += [
            "| code | recipe | T, N or K | steps in all | images | loss | aim | same class | spikes a neuron "
            "| at most | operations | energy/ANN | time/ANN |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        text += [
            f"| {row['encoding']} | {row['recipe']} | {row['timesteps']} | {row.get('latency', '')} "
            f"| {row['images']} | {loss(row)} | {aim(network, row)} | {row['same_class']:.2%} "
            f"| {row['spikes_per_neuron']:.2f} | {row['most_spikes']} | {row['synaptic_operations'] / 1e6:.1f} M "
            f"| {row['energy_ratio']:.2f} | {time_ratio(row)} |"
            for row in sorted(rows, key=lambda row: (row["encoding"], row["recipe"], row["timesteps"]))
        ]
        told = {}  # diagnosis: the code it was told of
        for row in rows:
            if row.get("ties") is not None:
                text += ["", f"N={row['timesteps']}: {row['ties']:.2g} of all activations of 100 images lie more than "
                         "half a level beside the ANN's."]  # fmt: skip
            if row.get("diagnosis") in told:
                text += ["", f"`{row['encoding']}` is `{told[row['diagnosis']]}` on this ANN."]
            elif row.get("diagnosis"):
                told[row["diagnosis"]] = row["encoding"]
                text += ["", f"Why `{row['encoding']}` fails, `conversion.diagnose` on 100 images:", "", "```"]
                text += [*first_findings(row["diagnosis"]), "```"]
    if COST.exists():
        text += cost_table(json.loads(COST.read_text()))
    text += signed.section()
    return "\n".join(text) + "\n"


def picture(lines: list[dict]) -> Figure:
    """Loss over time steps, a panel for each network, a line for each code and recipe that is drawn."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, len(NETWORKS), sharey=True)
    for axes, network in zip(panels, NETWORKS, strict=True):
        for (encoding, recipe), style in DRAWN.items():
            points = sorted(
                (line["timesteps"], 100 * (line["ann"] - line["snn"]))
                for line in lines
                if (line["network"], line["encoding"], line["recipe"]) == (network, encoding, recipe)
            )
            if points:
                axes.plot(*zip(*points, strict=True), style, label=f"{encoding}, {recipe}")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_xlabel("time steps T, or of a window N, K")
        axes.set_title(network, fontsize=10)
    panels[0].set_ylabel("loss of accuracy (points)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--encodings", nargs="+", default=sorted({run[0] for run in RUNS}))
    parser.add_argument("--most-steps", type=int, default=1024, help="leave out runs with more time steps")
    parser.add_argument("--cost", action="store_true", help="measure what calibration costs, and nothing else")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if args.cost:
        COST.write_text(json.dumps(cost(), indent=1) + "\n")
    idle = args.page or args.cost
    data = None if idle else load_dataset("cifar10")
    done = {(line["network"], line["encoding"], line["recipe"], line["timesteps"]) for line in read_results()}
    for network in [] if idle else args.networks:
        (path, *_) = [path for path in (folder / f"{network}.keras" for folder in FOLDERS) if path.exists()]
        ann = keras.models.load_model(path, compile=False)
        for encoding, recipe, steps in NETWORKS[network][1]:
            if (network, encoding, recipe, steps) in done or encoding not in args.encodings or steps > args.most_steps:
                continue
            images = 1000 if encoding in DIAGNOSED else len(data.x_test)
            line = {"network": network, **measure(ann, data, encoding, recipe, steps, images)}
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(network, encoding, recipe, steps, f"{100 * (line['ann'] - line['snn']):.2f}", flush=True)
    lines = read_results()
    PAGE.write_text(page(lines), encoding="utf-8")
    picture(lines).savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
