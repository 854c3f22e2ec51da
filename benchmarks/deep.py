"""Deep networks at few steps: codes and recipes over several networks, full test sets. Makes docs/DEEP.md.

    python benchmarks/deep.py                                   # everything that is missing; hours on one core
    python benchmarks/deep.py --networks resnet20_cifar10 --encodings ttfs_exact radix --models FOLDER
    python benchmarks/deep.py --pictures FOLDER                 # wheels of scikit-image and scikit-learn, if there
    python benchmarks/deep.py --cost                            # seconds of calibrations and corrections, on the VGG
    python benchmarks/deep.py --page                            # measures nothing

Every finished portion of images is a line of docs/deep.jsonl, what a setting sends and costs another; started again,
the script goes on where it stopped. Calibration and corrections see training images alone (of networks without a
training set here: other crops, other tones), without labels. The page and its plots: benchmarks/deep_page.py.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import deep_page  # noqa: E402  the path and TensorFlow's log level come first
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from ann_training import load_dataset  # noqa: E402
from conversion import calibrate, convert_ann_to_snn, diagnose, read, snn_activation_analysis  # noqa: E402
from spiking import rate, ttfs  # noqa: E402

RESULTS, COST = deep_page.RESULTS, deep_page.COST
CALIBRATION, CALIBRATION_RATE = 1000, 10000  # training images; a percentile needs more of them
ANALYSED = {"rate": 100}  # images for spikes and operations, which hardly vary; of a closed form more
CLOSED = ("ttfs_exact", "radix")  # one forward pass, however many time steps
DIAGNOSED = ("ttfs", "ttfs_dyn_thresh", "ttfs_clamped")  # near chance: a thousand images show it
BATCH = 250
# Where networks lie: in the repository, or beside it (trained elsewhere).
FOLDERS = [ROOT / "benchmarks" / "models", ROOT.parent / "shared" / "models"]

# Recipe -> settings of the conversion, given the number of time steps.
RECIPES: dict[str, Callable[[int], dict]] = {
    "default": lambda steps: {},
    "second draw": lambda steps: {},
    "third draw": lambda steps: {},
    "uncorrected": lambda steps: {"correction": "none"},
    "shifts": lambda steps: {"correction": "shifts"},
    "output": lambda steps: {"correction": "output"},
    "low latency": rate.low_latency,
    "low latency, mse": lambda steps: {**rate.low_latency(steps), "normalisation": "mse"},
    "4 a step": lambda steps: rate.low_latency(steps, max_spikes=4),
    "8 a step": lambda steps: rate.low_latency(steps, max_spikes=8),
    "signed": lambda steps: rate.low_latency(steps, signed=True),
    "signed, 4 a step": lambda steps: rate.low_latency(steps, signed=True, max_spikes=4),
    "signed, 8 a step": lambda steps: rate.low_latency(steps, signed=True, max_spikes=8),
    "classic": lambda steps: rate.classic(),
    "classic, single spikes": lambda steps: ttfs.classic(),
}
DRAWS = {"second draw": 1, "third draw": 2}  # recipe -> which thousand of the training images calibrates


class Run(NamedTuple):
    """A setting to measure: on so many images, from the first."""

    encoding: str
    recipe: str
    steps: int
    images: int = 10000


class Data(NamedTuple):
    """Calibration images of a run, images, and what they show (None: compare with the ANN)."""

    calibration: Callable[[Run], np.ndarray]
    images: np.ndarray
    truth: np.ndarray | None


@functools.cache
def cifar10() -> Data:
    data = load_dataset("cifar10")

    def calibration(run: Run) -> np.ndarray:
        number = CALIBRATION if run.encoding in CLOSED else CALIBRATION_RATE
        return data.x_train[DRAWS.get(run.recipe, 0) * number :][:number]

    return Data(calibration, data.x_test, data.y_test)


def crops(folder: Path) -> Data:
    """Natural images as EfficientNet takes them; calibration from other crops."""
    import real_models

    made = [real_models.imagenet(real_models.crops(folder, number, seed, 224)) for seed, number in enumerate((64, 500))]
    return Data(lambda run: made[0], made[1], None)


def tones(folder: Path) -> Data:
    """Synthetic tones and their pitch in cents above 10 Hz."""
    import real_models

    made = [real_models.tones(folder, number, seed, 1024) for seed, number in enumerate((64, 500))]
    return Data(lambda run: made[0], made[1], 1200 * np.log2(real_models.pitches(500, 1) / 10))


def class_right(outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return outputs.argmax(-1) == truth


def pitch_right(outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether the bins' mean, by their activity, around the best one is within 50 cents."""
    cents = 20 * np.arange(360) + 1997.3794084376191
    near = np.abs(np.arange(360) - outputs.argmax(-1)[:, None]) < 5
    return np.abs((outputs * near) @ cents / (outputs * near).sum(-1) - truth) < 50


WINDOWS = (
    *(Run("ttfs_exact", "default", steps) for steps in (7, 15, 63)),
    *(Run("ttfs_exact", recipe, steps) for recipe, steps in (("uncorrected", 7), ("output", 15))),
    *(Run("radix", "default", digits) for digits in (4, 5, 8, 6, 3)),
    *(Run("ttfs_exact", draw, steps) for steps in (7, 15, 63) for draw in DRAWS),
    *(Run("ttfs_exact", "default", steps) for steps in (4, 31)),
    Run("radix", "default", 2),
    *(Run("ttfs_exact", "shifts", steps) for steps in (7, 15)),
)
RATES = (
    *(Run("rate", deep_page.BEST_RATE, steps) for steps in (32, 16)),
    *(Run("rate", "low latency", steps) for steps in (32, 16, 8, 64, 128)),
    *(Run("rate", recipe, 4) for recipe in ("8 a step", "4 a step", "signed, 8 a step", "signed, 4 a step")),
    *(Run("rate", "signed", steps) for steps in (8, 16)),
)
BASE = tuple(Run(encoding, "classic, single spikes", 120, 1000) for encoding in DIAGNOSED)


@dataclass(frozen=True)
class Subject:
    """A network: what it is, what is measured of it in this order, its data, and when an output is right."""

    title: str
    runs: tuple[Run, ...]
    data: Callable[[Path], Data] = lambda folder: cifar10()
    right: Callable[[np.ndarray, np.ndarray], np.ndarray] = class_right
    batch: int = BATCH


# The name of the network's file -> what it is.
NETWORKS = {
    "vgg16_slim_cifar10": Subject(deep_page.TITLES["vgg16_slim_cifar10"], (*WINDOWS, *RATES, *BASE)),
    "resnet20_cifar10": Subject(deep_page.TITLES["resnet20_cifar10"], (*WINDOWS, *RATES)),
    "strided_cifar10": Subject(deep_page.TITLES["strided_cifar10"], (*WINDOWS, *RATES, *BASE)),
    "mobilenetv2_slim_cifar10": Subject(deep_page.TITLES["mobilenetv2_slim_cifar10"], (*WINDOWS, *RATES)),
    "densenet_slim_cifar10": Subject(deep_page.TITLES["densenet_slim_cifar10"], (*WINDOWS, *RATES)),
    "quantised_cifar10": Subject(
        deep_page.TITLES["quantised_cifar10"],
        tuple(Run(*code, steps) for code in (("ttfs_exact", "default"), ("rate", "low latency")) for steps in (8, 32)),
    ),
    "efficientnet_lite0_imagenet": Subject(
        deep_page.TITLES["efficientnet_lite0_imagenet"],
        tuple(Run("radix", "default", digits, 500) for digits in (8, 6)),
        crops,
        batch=10,
    ),
    "crepe_tiny": Subject(
        deep_page.TITLES["crepe_tiny"],
        (*(Run("radix", "default", digits, 500) for digits in (8, 6, 4, 3)), Run("rate", "low latency", 32, 500)),
        tones,
        pitch_right,
        batch=50,
    ),
}


def key(line: dict) -> tuple:
    """What a line is of."""
    return line["network"], line["encoding"], line["recipe"], line["steps"]


def write(line: dict) -> None:
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def network_file(name: str) -> Path | None:
    """Where a trained network lies, None if it is not there."""
    return next((path for folder in FOLDERS if (path := folder / f"{name}.keras").exists()), None)


class Measurement:
    """One network: its ANN, what that says of the images, and the lines that are missing.

    Args:
        name: of `NETWORKS`.
        pictures: folder of packages with natural images.
    """

    def __init__(self, name: str, pictures: Path):
        self.name, self.subject = name, NETWORKS[name]
        self.ann = keras.models.load_model(network_file(name), compile=False)
        self.graph, self.data = read(self.ann), self.subject.data(pictures)
        self.known: dict[tuple[int, int], np.ndarray] = {}

    def outputs(self, model, images) -> np.ndarray:
        size = self.subject.batch
        return np.concatenate([model.predict_on_batch(images[n : n + size]) for n in range(0, len(images), size)])

    def expected(self, first: int, size: int) -> np.ndarray:
        """What the ANN says of a portion, once."""
        if (first, size) not in self.known:
            self.known[first, size] = self.outputs(self.ann, self.data.images[first : first + size])
        return self.known[first, size]

    def convert(self, run: Run):
        """The spiking network of a setting, and CPU seconds that it took."""
        started, images = time.process_time(), self.data.calibration(run)
        snn = convert_ann_to_snn(self.graph, images, run.encoding, run.steps, **RECIPES[run.recipe](run.steps))
        return snn, time.process_time() - started

    def portion(self, snn, first: int, size: int) -> dict:
        """How many images ANN and SNN get right, on how many they differ in that, and have the same best class."""
        images, expected = self.data.images[first : first + size], self.expected(first, size)
        started = time.process_time()
        found = self.outputs(snn, images)
        seconds = time.process_time() - started
        truth = expected.argmax(-1) if self.data.truth is None else self.data.truth[first : first + size]
        told, said = (self.subject.right(each, truth) for each in (expected, found))
        best = [np.argsort(-each, -1)[:, :5] for each in (expected, found)]
        overlap = np.mean([len(np.intersect1d(a, b)) for a, b in zip(*best, strict=True)]) / 5
        return {"first": first, "images": len(images), "ann": int(told.sum()), "snn": int(said.sum()),
                "differ": int(np.sum(told != said)), "same": int(np.sum(best[0][:, 0] == best[1][:, 0])),
                "top5": round(float(overlap), 4), "seconds": round(seconds, 3)}  # fmt: skip

    def facts(self, run: Run, snn, seconds: float) -> dict:
        """What a setting sends and costs, per image, and CPU seconds of the conversion and of the ANN."""
        images = self.data.images[: ANALYSED.get(run.encoding, BATCH)]
        analysis = snn_activation_analysis(snn, images, batch_size=self.subject.batch, ann=self.graph)
        started = time.process_time()
        self.outputs(self.ann, images)
        names = ("spikes_per_neuron", "negative_spikes_per_neuron", "synaptic_operations", "macs", "neuron_updates",
                 "ann_macs", "ann_effective_macs")  # fmt: skip
        found = {name: round(float(getattr(analysis, name)), 4) for name in names}
        found |= {"latency": snn.timesteps, "depth": self.graph.depth, "conversion_seconds": round(seconds, 2)}
        found |= {"ann_seconds": round((time.process_time() - started) / len(images), 6), "keras": keras.__version__}
        if run.encoding in DIAGNOSED:
            found["diagnosis"] = str(diagnose(self.graph, snn, images[:100]))
        return found

    def run(self, run: Run) -> None:
        """Measures what is missing of a setting."""
        what = {"network": self.name, "encoding": run.encoding, "recipe": run.recipe, "steps": run.steps}
        mine = [line for line in deep_page.lines() if key(line) == key(what)]
        size, snn = 2500 if run.encoding in CLOSED else 500, None
        done = sum(line["images"] for line in mine if "images" in line)
        for first in range(done, run.images, size):
            if snn is None:
                snn, seconds = self.convert(run)
                self.outputs(snn, self.data.images[: self.subject.batch])  # traces
                if not any("facts" in line for line in mine):
                    write({**what, "facts": self.facts(run, snn, seconds)})
            write({**what, **self.portion(snn, first, min(size, run.images - first))})
            print(time.strftime("%H:%M:%S"), *what.values(), first, flush=True)


def cost() -> dict:
    """Seconds of calibrations of 10000 images and of corrections on 1000, and the peak memory in MiB; VGG, one core."""
    from speed import one_core

    one_core()
    ann = keras.models.load_model(network_file("vgg16_slim_cifar10"), compile=False)
    images = load_dataset("cifar10", max_images=CALIBRATION_RATE).x_train
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
    ways = {"percentile": {}, "percentile per channel": {"per_channel": True}}
    ways["mse per channel"] = {"method": "mse", "per_channel": True, "levels": 16}
    found |= {name: seconds(functools.partial(calibrate, ann, images, **each)) for name, each in ways.items()}
    found |= {"MiB before": before, "MiB": peak_memory()}
    convert = functools.partial(convert_ann_to_snn, ann, images[:CALIBRATION], "ttfs_exact", 16)
    return found | {each: seconds(functools.partial(convert, correction=each), 1) for each in ("shifts", "output")}


def peak_memory() -> float:
    """Peak resident set of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--encodings", nargs="+", help="these codes alone")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, help="these recipes alone")
    parser.add_argument("--models", nargs="+", type=Path, default=[], help="further folders in which networks lie")
    parser.add_argument("--pictures", type=Path, default=Path.home() / ".cache" / "spiking-datasets" / "packages")
    parser.add_argument("--cost", action="store_true", help="measure what calibration costs, and nothing else")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    args = parser.parse_args(arguments)
    FOLDERS.extend(args.models)
    if args.cost:
        COST.write_text(json.dumps(cost(), indent=1) + "\n")
    for name in [] if args.page or args.cost else args.networks:
        if network_file(name) is None:
            print(f"{name}: not trained here, see benchmarks/train_models.py", flush=True)
            continue
        measurement = Measurement(name, args.pictures)
        for run in NETWORKS[name].runs:
            if run.encoding in (args.encodings or [run.encoding]) and run.recipe in (args.recipes or [run.recipe]):
                measurement.run(run)
    deep_page.write()


if __name__ == "__main__":
    main()
