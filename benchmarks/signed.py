"""Negative spikes and several spikes a step, deep networks on CIFAR-10, no retraining: points lost after every step.

    python benchmarks/signed.py                     # all test images; some hours on a busy core
    python benchmarks/signed.py --chunks 4          # the first 1000
    python benchmarks/signed.py --cost              # seconds of the loop, with and without negative spikes

With a read-out from the first step and a percentile for λ, a simulation of T steps is the beginning of a longer one, so
one run tells the accuracy for every T, and from two of its read-outs follows that of a delayed one. Finished chunks of
test images are lines of docs/signed.jsonl; started again, the script goes on behind them. benchmarks/deep.py puts the
table into docs/DEEP.md.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import numpy as np  # noqa: E402

from ann_training import load_dataset  # noqa: E402
from conversion import convert_ann_to_snn  # noqa: E402

RESULTS = ROOT / "docs" / "signed.jsonl"
COST = ROOT / "docs" / "signed_cost.json"
NETWORKS = ("vgg16_slim_cifar10", "strided_cifar10")
CHUNK = 250
# Name -> (settings, T).
RUNS = {
    "signed, 8 a step": ({"signed": True, "max_spikes": 8}, 4),
    "signed": ({"signed": True}, 16),
}
# Time steps -> the most points that may be lost.
AIMS = {("signed", 8): 2.5, ("signed", 16): 0.7, ("signed", 32): 0.4, ("signed, 8 a step", 4): 0.5}


def load(network: str):
    """The trained ANN."""
    return keras.models.load_model(ROOT / "benchmarks" / "models" / f"{network}.keras", compile=False)


def measure(ann, snn, x: np.ndarray, y: np.ndarray) -> dict:
    """How many images of a chunk the ANN and the SNN, after each step, put into the right class."""
    readouts = snn.simulate(x, ("readouts",)).readouts.numpy()
    expected = ann.predict_on_batch(x).argmax(-1)
    return {
        "ann": int(np.sum(expected == y)),
        "snn": [int(n) for n in np.sum(readouts.argmax(-1) == y, axis=1)],
        "same": [int(n) for n in np.sum(readouts.argmax(-1) == expected, axis=1)],
    }


def lines() -> list[dict]:
    """All finished chunks."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def run(chunks: int, runs: dict) -> None:
    """Measures what is missing, chunk after chunk."""
    data, networks = load_dataset("cifar10"), {}
    done = {(line["network"], line["run"], line["timesteps"], line["chunk"]) for line in lines()}
    for chunk in range(chunks):
        part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        for network in NETWORKS:
            for name, (settings, steps) in runs.items():
                if (network, name, steps, chunk) in done:
                    continue
                if (network, name) not in networks:
                    ann = load(network)
                    networks[network, name] = ann, convert_ann_to_snn(
                        ann, data.x_train[:10000], "rate", steps, readout_delay=0, **settings
                    )
                found = measure(*networks[network, name], data.x_test[part], data.y_test[part])
                line = {"network": network, "run": name, "timesteps": steps, "chunk": chunk, **found}
                with RESULTS.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def cost(images: int = 100, steps: int = 8, pairs: int = 5) -> dict:
    """Median CPU seconds of the loop on one core, unsigned and signed taking turns."""
    from speed import one_core

    one_core()
    data, found = load_dataset("cifar10", max_images=1000), {}
    for network in NETWORKS:
        ann, seconds = load(network), {False: [], True: []}
        snns = {
            signed: convert_ann_to_snn(ann, data.x_train, "rate", steps, readout_delay=0, signed=signed)
            for signed in seconds
        }
        for pair in range(pairs + 1):
            for signed, snn in snns.items():
                started = time.process_time()
                snn.simulate(data.x_test[:images])
                if pair:  # the first traces
                    seconds[signed].append(time.process_time() - started)
        unsigned, signed = (statistics.median(each) for each in seconds.values())
        found[network] = {"unsigned": unsigned, "signed": signed, "ratio": signed / unsigned}
        found[network]["median ratio"] = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    return found


def section() -> list[str]:
    """The section of docs/DEEP.md."""
    text = [
        "",
        "## Negative spikes, several spikes a step",
        "",
        "`python benchmarks/signed.py`, docs/signed.jsonl: `rate` with `signed=True`, 99.9% percentile per channel, "
        "V(0) = θ/2, all steps read out; “8 a step” is `max_spikes=8`. Points lost, ± the most that the standard error "
        "can be.",
        "",
        "| network | spikes | T | images | ANN | loss | aim | same class |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups = {}
    for line in lines():
        groups.setdefault((line["network"], line["run"], line["timesteps"]), []).append(line)
    for (network, name, steps), group in groups.items():
        images = CHUNK * len(group)
        ann = sum(line["ann"] for line in group) / images
        for t in (4, 8, 16, 32):
            if t <= steps:
                snn, same = (sum(line[key][t - 1] for line in group) / images for key in ("snn", "same"))
                error = 100 * math.sqrt((1 - same) / images)
                text.append(
                    f"| {network} | {name} | {t} | {images} | {ann:.2%} | {100 * (ann - snn):.2f} ± {error:.2f} | "
                    f"{AIMS.get((name, t), '')} | {same:.2%} |"
                )
    if COST.exists():
        text += ["", "The loop with negative spikes, CPU seconds on one core, medians of runs that take turns "
                 "(`--cost`):", ""]  # fmt: skip
        text += [
            f"- {network}: {each['unsigned']:.2f} without, {each['signed']:.2f} with, {each['ratio']:.2f} times"
            for network, each in json.loads(COST.read_text()).items()
        ]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=40, help=f"of {CHUNK} test images")
    parser.add_argument("--steps", type=int, help="of the run without several spikes a step; 16 by default")
    parser.add_argument("--cost", action="store_true", help="measure seconds alone")
    args = parser.parse_args()
    if args.cost:
        COST.write_text(json.dumps(cost(), indent=1) + "\n")
        return
    run(args.chunks, RUNS if args.steps is None else {"signed": ({"signed": True}, args.steps)})


if __name__ == "__main__":
    main()
