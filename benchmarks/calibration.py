"""Which calibration suits which encoding? Makes docs/CALIBRATION.md, on which the encodings' defaults rest.

    python benchmarks/calibration.py                       # everything; an hour on one core
    python benchmarks/calibration.py --datasets mnist      # a part, as another process may do the rest
    python benchmarks/calibration.py --floor               # nearly dead channels: which floor; a quarter of an hour
    python benchmarks/calibration.py --page                # only the page

Networks, ANNs and settings are those of `benchmarks/accuracy.py`, but all images are of the training set: calibrated on
one part, judged on another, so that no default is chosen by a test image. Every finished measurement is a line of
docs/calibration.jsonl (those of the floor of docs/calibration_floor.json); started again, the script goes on where it
stopped.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import few_levels  # noqa: E402  the path and TensorFlow's log level come first
import keras  # noqa: E402
import numpy as np  # noqa: E402
from accuracy import CALIBRATION_IMAGES, NETWORKS, trained  # noqa: E402

import spiking  # noqa: E402
from ann_training import Training, load_dataset, train_network  # noqa: E402
from conversion import convert_ann_to_snn  # noqa: E402
from spiking.scaling import calibration as scaling  # noqa: E402

RESULTS = ROOT / "docs" / "calibration.jsonl"
PAGE = ROOT / "docs" / "CALIBRATION.md"
DATASETS = ["mnist", "fashion_mnist"]
JUDGED = slice(20000, 24000)  # of the training images
RUNS = {"rate": 50, "ttfs": 120, "ttfs_dyn_thresh": 120, "ttfs_clamped": 120, "ttfs_exact": 16}
METHODS = ["percentile", "max", "mse"]
COLUMNS = [(method, per_channel) for method in METHODS for per_channel in (False, True)]

WHY = """The defaults of `rate` and `ttfs_exact` have the least mean loss. The codes that decide too early have no clear
best, since which network collapses decides the mean: per channel is better than per layer in mean for `ttfs_dyn_thresh`
(by 1.6 points, most of them one network's), equal for `ttfs`, worse for `ttfs_clamped`. They take λ per channel, and
with the threshold of their defaults the 99% percentile: DEFAULTS.md."""


FLOOR_RESULTS = ROOT / "docs" / "calibration_floor.json"
FLOORS = (0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
FLOOR_RUNS = [("ttfs_exact", 16), ("ttfs_exact", 64), ("rate", 32)]
# Network: dataset, epochs on it (None: the file of that name in benchmarks/models), images to calibrate and to judge.
FLOOR_NETWORKS = {
    "lenet5_maxpool": ("mnist_sample", 2, 5000, 1000),
    "vgg16_slim_cifar10": ("cifar10", None, 2000, 1000),
    "strided_cifar10": ("cifar10", None, 2000, 1000),
}


def floor_networks():
    """(title, ANN, images to calibrate, images to judge); all of the training set."""
    for name, (dataset, epochs, calibrated, judged) in FLOOR_NETWORKS.items():
        data = load_dataset(dataset)
        parts = data.x_train[:calibrated], data.x_train[-judged:]
        if epochs is None:
            path = ROOT / "benchmarks" / "models" / f"{name}.keras"
            yield name, keras.models.load_model(path, compile=False), *parts
            continue
        for seed in range(3):
            training = Training(epochs=epochs, seed=seed, ann_cache_dir=ROOT / "experiments" / "anns")
            yield f"{name}, {epochs} epochs, seed {seed}", train_network(name, training, data.train, data.test), *parts


def measure_floor(ann, calibrated, judged, encoding: str, timesteps: int, floor: float) -> dict:
    """How near the SNN comes to the ANN with λ of at least `floor` times the layer's mean, and its largest weight."""
    scaling.FLOOR = floor
    snn = convert_ann_to_snn(ann, calibrated, encoding, timesteps, per_channel=True)
    expected, found = (model.predict(judged, batch_size=250, verbose=0) for model in (ann, snn))
    return {
        "floor": floor,
        "same_class": float(np.mean(expected.argmax(-1) == found.argmax(-1))),
        "error": float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))),
        "largest_weight": max(float(np.abs(w).max()) for layer in snn.hidden_layers for w in layer.get_weights()),
        "raised": sum(row["raised_channels"] for row in snn.calibration),
        "silent": sum(row["silent_channels"] for row in snn.calibration),
    }


def measure_floors() -> None:
    """Every network, code and floor, into docs/calibration_floor.json; what is there already stays."""
    results = json.loads(FLOOR_RESULTS.read_text()) if FLOOR_RESULTS.exists() else {}
    for title, ann, calibrated, judged in floor_networks():
        for encoding, timesteps in FLOOR_RUNS:
            key = f"{title}; {encoding}, {timesteps}"
            if key not in results:
                results[key] = [
                    measure_floor(ann, calibrated, judged, encoding, timesteps, floor) for floor in FLOORS
                ]
                FLOOR_RESULTS.write_text(json.dumps(results, indent=1) + "\n")
                print(key, flush=True)


def floor_table(results: dict) -> list[str]:
    """The section on nearly dead channels."""
    text = ["", "## Nearly dead channels", "", FLOOR_WHY, ""]
    text += ["| network; code, T or N | " + " | ".join(f"{floor:g}" for floor in FLOORS) + " | silent |"]
    text += ["| --- " * (len(FLOORS) + 2) + "|"]
    for key, rows in results.items():
        cells = [
            f"{100 * row['same_class']:.2f}, {row['error']:.4f}, {row['largest_weight']:.3g}, {row['raised']}"
            for row in rows
        ]
        text.append(f"| {key} | " + " | ".join(cells) + f" | {rows[0]['silent']} |")
    return text


FLOOR_WHY = """Made by `python benchmarks/calibration.py --floor`, from docs/calibration_floor.json. Per channel, one
that is nearly dead on the calibration images gets a tiny λ, by which its weights are divided: after two epochs a
LeNet-5 has weights of some hundred where the median is 0.01. So no λ is smaller than a share of the mean over the
layer's channels that are not silent. Under each share: % of images of the ANN's class, error of the output relative to
the ANN's, the largest weight, and how many channels were raised; scales and images are of the training set, λ is the
code's own default. **A tenth**, the default, leaves `ttfs_exact` as it is to the last digit shown, moves `rate` by one
image in a thousand either way, and brings the largest weight down to 4.4; no channel of the trained deep network is
that far below the others. At 0.3 errors of `ttfs_exact` begin to grow (VGG, N = 64: by 6%)."""


FEW = """`ttfs_exact` and `radix` with at most 8 levels are corrected by default, `correction="output"`, where at least
500 images calibrate. Points lost on 10000 test images of CIFAR-10, VGG-16 and the strided network of DEEP.md,
calibrated on 10000 training images, three draws of them for the VGG: at 8 levels 1.58 and 1.57 without, 0.75 to 1.01
and 0.57 with it; at 16 levels 0.35 and 0.37 without, 0.20 to 0.28 and 0.40 with it; at 32 levels 0.06 and 0.16 without,
−0.16 to 0.24 and −0.10 with it, so nothing that is sure, and it is left out. It takes a step of training for each
hundred images, six times over: with a tenth of the images, 1000, there are 60 steps, and the VGG loses 1.35 ± 0.24 at 7
levels, and 0.50 ± 0.17 at 15 levels, no less than 0.48 ± 0.17 at 16 without it; so the default ends at 8. **What did
not help**, VGG and strided network: λ by the 99.9% percentile, 0.58 and 0.46 at 16 levels; λ per layer, 0.51 and 0.55;
the maximum, 1.39 and 0.96; `shifts`, the mean of every channel's potential put right layer after layer, 1.32 and 1.58
at 8 levels, 0.51 and 0.24 at 16; `output` on images mirrored by chance, 0.73 and 1.02 at 8, 0.50 and 0.36 at 16.
Standard errors are 0.25 at 8 levels and 0.2 at 16. Without a correction, on training images: `python
benchmarks/few_levels.py`, which also tries threshold balancing, λ from mean and deviation, levels that are not evenly
spaced, and levels shared out among the layers by what each costs."""


def few_levels_section() -> list[str]:
    """The section on few levels; the table where there is something in it."""
    text = ["", "## Few levels", "", FEW]
    if few_levels.lines():
        text += ["", "Divergence of the output from the ANN's, and the share of images of its class; the number of "
                 "levels stands beside the network:", "", *few_levels.section()]  # fmt: skip
    return text


def read_results() -> list[dict]:
    """All finished measurements."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def measure(ann, data, encoding: str, normalisation: str, per_channel: bool) -> dict:
    """Loss in points, and the share of images on which ANN and SNN name the same class."""
    images, labels = data.x_train[JUDGED], data.y_train[JUDGED]
    snn = convert_ann_to_snn(
        ann,
        data.x_train[:CALIBRATION_IMAGES],
        encoding,
        RUNS[encoding],
        normalisation=normalisation,
        per_channel=per_channel,
    )
    expected, found = (model.predict(images, batch_size=250, verbose=0).argmax(-1) for model in (ann, snn))
    loss = 100 * (np.mean(expected == labels) - np.mean(found == labels))
    return {"loss": loss, "same_class": float(np.mean(expected == found))}


def default_column(encoding: str) -> tuple[str, bool]:
    """What `convert_ann_to_snn` does if nothing is said."""
    code = spiking.get_encoding(encoding)
    return code.normalisation, code.per_channel


def page(results: list[dict]) -> str:
    """docs/CALIBRATION.md."""
    names = [f"{method}, per {'channel' if per_channel else 'layer'}" for method, per_channel in COLUMNS]
    text = [
        "# Calibration: which default, and by how much",
        "",
        "Made by `python benchmarks/calibration.py` from docs/calibration.jsonl. Points of accuracy lost on "
        f"{JUDGED.stop - JUDGED.start} training images, with scales from {CALIBRATION_IMAGES} others; ANNs as in "
        "ACCURACY.md, seed 0. Percentile: 99.9. **Bold**: the code's default. Deep networks: DEEP.md.",
        "",
        WHY,
    ]
    for encoding, timesteps in RUNS.items():
        text += ["", f"## {encoding}, T or N = {timesteps}", "", "| network | " + " | ".join(names) + " |"]
        text += ["| --- " * (len(names) + 1) + "|"]
        rows = []
        for dataset in DATASETS:
            for network, title in NETWORKS.items():
                losses = {
                    (row["normalisation"], row["per_channel"]): row["loss"]
                    for row in results
                    if (row["encoding"], row["dataset"], row["network"]) == (encoding, dataset, network)
                }
                if len(losses) == len(COLUMNS):
                    rows.append((f"{title}, {dataset}", [losses[column] for column in COLUMNS]))
        if rows:
            rows.append(("mean", np.mean([losses for _, losses in rows], axis=0)))
            rows.append(("median", np.median([losses for _, losses in rows[:-1]], axis=0)))
        for title, losses in rows:
            cells = [
                f"**{loss:.2f}**" if column == default_column(encoding) else f"{loss:.2f}"
                for column, loss in zip(COLUMNS, losses, strict=True)
            ]
            text.append(f"| {title} | " + " | ".join(cells) + " |")
    text += few_levels_section()
    if FLOOR_RESULTS.exists():
        text += floor_table(json.loads(FLOOR_RESULTS.read_text()))
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--floor", action="store_true", help="measure floors for nearly dead channels, nothing else")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if args.floor:
        measure_floors()
    elif not args.page:
        measure_defaults(args.datasets)
    PAGE.write_text(page(read_results()), encoding="utf-8")


def measure_defaults(datasets) -> None:
    """Every network, code and way to choose λ on these data sets, into docs/calibration.jsonl."""
    key = ("dataset", "network", "encoding", "normalisation", "per_channel")
    done = {tuple(row[name] for name in key) for row in read_results()}
    for dataset in datasets:
        data = load_dataset(dataset)
        for network in NETWORKS:
            for encoding in RUNS:
                ann = trained(data, network, encoding, seed=0)
                for column in COLUMNS:
                    setting = dict(zip(key, (dataset, network, encoding, *column), strict=True))
                    if tuple(setting.values()) in done:
                        continue
                    row = {**setting, "timesteps": RUNS[encoding], **measure(ann, data, encoding, *column)}
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(*setting.values(), f"{row['loss']:.2f}", flush=True)
                keras.backend.clear_session()


if __name__ == "__main__":
    main()
