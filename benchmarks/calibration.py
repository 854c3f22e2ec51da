"""Which calibration suits which encoding? Makes docs/CALIBRATION.md, on which the encodings' defaults rest.

    python benchmarks/calibration.py                       # everything; an hour on one core
    python benchmarks/calibration.py --datasets mnist      # a part, as another process may do the rest

Networks, ANNs and settings are those of `benchmarks/accuracy.py`, but all images are of the training set: calibrated on
one part, judged on another, so that no default is chosen by a test image. Every finished measurement is a line of
docs/calibration.jsonl; started again, the script goes on where it stopped.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import numpy as np  # noqa: E402
from accuracy import CALIBRATION_IMAGES, NETWORKS, trained  # noqa: E402

import spiking  # noqa: E402
from ann_training import load_dataset  # noqa: E402
from conversion import convert_ann_to_snn  # noqa: E402

RESULTS = ROOT / "docs" / "calibration.jsonl"
PAGE = ROOT / "docs" / "CALIBRATION.md"
DATASETS = ["mnist", "fashion_mnist"]
JUDGED = slice(20000, 24000)  # of the training images
RUNS = {"rate": 50, "ttfs": 120, "ttfs_dyn_thresh": 120, "ttfs_clamped": 120, "ttfs_exact": 16}
METHODS = ["percentile", "max", "mse"]
COLUMNS = [(method, per_channel) for method in METHODS for per_channel in (False, True)]

WHY = """The defaults of `rate` and `ttfs_exact` have the least mean loss. The codes that decide too early have no clear
best, since which network collapses decides the mean: per channel is better than per layer in mean for `ttfs_dyn_thresh`
(by 1.6 points, most of them one network's), equal for `ttfs`, worse for `ttfs_clamped`. They keep the classic
percentile per layer; try `per_channel=True` on convolutional networks without BatchNorm, where it mostly helps."""


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
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    args = parser.parse_args()
    key = ("dataset", "network", "encoding", "normalisation", "per_channel")
    done = {tuple(row[name] for name in key) for row in read_results()}
    for dataset in args.datasets:
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
    PAGE.write_text(page(read_results()), encoding="utf-8")


if __name__ == "__main__":
    main()
