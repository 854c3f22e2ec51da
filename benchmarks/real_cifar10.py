"""VGG-16, ResNet-20 and MobileNetV2-slim, trained on CIFAR-10 and converted: accuracy lost, with standard errors.

    python benchmarks/real_cifar10.py                    # all; goes on where the last call was stopped
    python benchmarks/real_cifar10.py --networks FOLDER  # where <network>.keras lies, if not in benchmarks/models

`python benchmarks/train_models.py resnet20` trains the ResNet. Each portion of the test images is a line of
docs/real_cifar10.jsonl; `python benchmarks/real_models.py --page` writes the table from what there is.
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
RESULTS = ROOT / "docs" / "real_cifar10.jsonl"
NETWORKS = ("resnet20_cifar10", "vgg16_slim_cifar10", "mobilenetv2_slim_cifar10")
CALIBRATION = 1000  # training images
PORTION, BATCH = 500, 100
# (code, time steps, test images): a simulation of `rate` costs a forward pass a step. Defaults, which were measured
# to be the best recipe (docs/DEFAULTS.md).
RUNS = (
    ("ttfs_exact", 64, 10000),
    ("ttfs_exact", 16, 10000),
    ("rate", 32, 10000),
    ("rate", 64, 2000),
    ("rate", 128, 1000),
)


def lines() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.is_file() else []


def measure(network: str, folder: Path) -> None:
    """Appends the lines of one network that are missing."""
    import keras
    import numpy as np

    from ann_training import load_dataset
    from conversion import convert_ann_to_snn, read

    ann = keras.models.load_model(folder / f"{network}.keras", compile=False)
    graph, data, expected = read(ann), load_dataset("cifar10"), {}

    def classes(model, start):
        return model.predict(data.x_test[start : start + PORTION], batch_size=BATCH, verbose=0).argmax(1)

    for code, steps, images in RUNS:
        snn, done = None, {(each["network"], each["code"], each["steps"], each["first"]) for each in lines()}
        for start in range(0, images, PORTION):
            if (network, code, steps, start) in done:
                continue
            snn = snn or convert_ann_to_snn(graph, data.x_train[:CALIBRATION], code, steps, correction="none")
            if start not in expected:
                expected[start] = classes(ann, start)
            labels, found = np.asarray(data.y_test[start : start + PORTION]).reshape(PORTION, -1), classes(snn, start)
            labels = labels.argmax(1) if labels.shape[1] > 1 else labels[:, 0]
            lost = (expected[start] == labels).astype(int) - (found == labels)
            line = {"network": network, "code": code, "steps": steps, "first": start, "images": PORTION,
                    "ann": int((expected[start] == labels).sum()), "snn": int((found == labels).sum()),
                    "differ": int(np.abs(lost).sum()), "same": int((found == expected[start]).sum())}  # fmt: skip
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(time.strftime("%H:%M:%S"), line, flush=True)


def table() -> list[str]:
    """A row for each network and run: accuracies, loss in points with its standard error, share of the same class."""
    rows = []
    for network in NETWORKS:
        for code, steps, _ in RUNS:
            part = [
                each for each in lines() if (each["network"], each["code"], each["steps"]) == (network, code, steps)
            ]
            if part:
                images, ann, snn, differ, same = (
                    sum(each[key] for each in part) for key in ("images", "ann", "snn", "differ", "same")
                )
                loss = (ann - snn) / images
                error = math.sqrt((differ / images - loss**2) / images)
                told = f"{ann / images:.2%} | {snn / images:.2%} | {100 * loss:.2f} ± {100 * error:.2f}"
                rows.append(f"| {network} | `{code}` | {steps} | {images} | {told} | {same / images:.1%} |")
    return ["| network | code | N or T | images | ANN | SNN | loss in points | same class |", "|" + " --- |" * 8, *rows]


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, default=ROOT / "benchmarks" / "models", help="folder of the networks")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    chosen = parser.parse_args(arguments)
    for network in chosen.only:
        measure(network, chosen.networks)


if __name__ == "__main__":
    main()
