"""Accuracy of every encoding on MNIST and Fashion-MNIST, full test sets: makes docs/ACCURACY.md.

    python benchmarks/accuracy.py                     # everything, three seeds; about an hour on two cores
    python benchmarks/accuracy.py --datasets mnist --networks lenet5_maxpool --seeds 0

Every finished measurement is a line of docs/accuracy.jsonl; started again, the script goes on where it stopped. The
table is written anew from all lines at the end of each network.
"""

import argparse
import functools
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import spiking  # noqa: E402
from ann_training import Training, load_dataset, train_network  # noqa: E402
from conversion import ann_accuracy, convert_ann_to_snn, snn_activation_analysis  # noqa: E402
from spiking import rate, ttfs  # noqa: E402

RESULTS = ROOT / "docs" / "accuracy.jsonl"
TABLE = ROOT / "docs" / "ACCURACY.md"
NETWORKS = {
    "denseonly1": "MLP 784-600-10",
    "lenet5": "LeNet-5, strided",
    "lenet5_maxpool": "LeNet-5, max pooling",
    "lenet5_maxpool_extensions": "LeNet extended, BatchNorm",
}
# (encoding, recipe, time steps)
RUNS = [
    ("rate", "default", 64),
    ("rate", "classic", 50),
    ("rate", "classic", 100),
    *((code, recipe, 120) for code in ("ttfs", "ttfs_dyn_thresh", "ttfs_clamped") for recipe in ("default", "classic")),
    *(("ttfs_exact", "default", steps) for steps in (16, 32, 64)),
    *(("radix", "default", digits) for digits in (4, 6)),
]
CLASSIC = {"rate": rate.classic()} | dict.fromkeys(("ttfs", "ttfs_dyn_thresh", "ttfs_clamped"), ttfs.classic())
CALIBRATION_IMAGES = 10000
EPOCHS = 5
BETA = 0.1  # clamp of the ReLU for ttfs_clamped


def read_results() -> list[dict]:
    """All finished measurements."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def trained(dataset, network: str, encoding: str, seed: int, epochs: int = EPOCHS, beta: float = BETA) -> keras.Model:
    """The ANN for an encoding, with the hidden activation the code asks for; trained, or loaded from the cache."""
    hidden = spiking.get_encoding(encoding).hidden_activation(beta)
    activation = hidden if isinstance(hidden, str) else functools.partial(type(hidden).from_config, hidden.get_config())
    training = Training(
        epochs=epochs, seed=seed, activation=activation, ann_cache_dir=ROOT / "experiments" / "anns"
    )
    return train_network(network, training, dataset.train, dataset.test)


def measure(dataset, network: str, run: tuple[str, str, int], seed: int, epochs: int, beta: float) -> dict:
    """One line of the results: trains or loads the ANN, converts it, evaluates both on the full test set."""
    encoding, recipe, timesteps = run
    ann = trained(dataset, network, encoding, seed, epochs, beta)
    settings = CLASSIC[encoding] if recipe == "classic" else {}
    snn = convert_ann_to_snn(ann, dataset.x_train[:CALIBRATION_IMAGES], encoding, timesteps, **settings)
    started = time.perf_counter()
    analysis = snn_activation_analysis(snn, dataset.x_test, dataset.y_test)
    neurons = [layer for layer in analysis.layers if layer.holds_neurons]
    return {
        "dataset": dataset.name,
        "network": network,
        "encoding": encoding,
        "recipe": recipe,
        "timesteps": timesteps,
        "seed": seed,
        "epochs": epochs,
        "ann": ann_accuracy(ann, dataset.x_test, dataset.y_test),
        "snn": analysis.accuracy,
        "latency": snn.timesteps,
        "spikes_per_neuron": analysis.spikes_per_neuron,
        "most_spikes_of_a_neuron": max(int(np.flatnonzero(layer.spike_count_histogram)[-1]) for layer in neurons),
        "synaptic_operations": analysis.synaptic_operations,
        "ann_macs": analysis.ann_macs,
        "seconds": time.perf_counter() - started,
    }


def table(results: list[dict], beta: float) -> str:
    """docs/ACCURACY.md."""
    versions = f"Python {platform.python_version()}, TensorFlow {tf.__version__}, Keras {keras.__version__}"
    lines = [
        "# Accuracy of the encodings",
        "",
        "Made by `python benchmarks/accuracy.py` from `docs/accuracy.jsonl`; " + versions + ".",
        "",
        f"All 10000 test images. ANNs: 5 epochs of Adam; for `ttfs_clamped` with the ReLU clamped at β = {beta}. "
        f"Scales from {CALIBRATION_IMAGES} training images, no retraining. Mean ± standard deviation over the seeds. "
        "Loss: points of accuracy below the ANN of the same seed. Latency: global time steps until the answer. Spikes: "
        "per neuron and image, and the most that any neuron fired. Operations: synaptic operations (additions, "
        "Σ spikes × fan-out) relative to the ANN's multiply-accumulates. `classic`: `spiking.rate.classic()` and "
        "`spiking.ttfs.classic()`, the settings of the papers; `default`: what docs/DEFAULTS.md tells, chosen on "
        "training images.",
    ]
    for dataset in dict.fromkeys(row["dataset"] for row in results):
        for network, title in NETWORKS.items():
            rows = [row for row in results if row["dataset"] == dataset and row["network"] == network]
            if not rows:
                continue
            lines += ["", f"## {title}, {dataset}", ""]
            head = ("encoding", "settings", "T, N or K", "latency", "seeds", "ANN %", "SNN %", "loss, points", "spikes",
                    "most", "operations")  # fmt: skip
            lines += ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
            for run in RUNS:
                runs = [row for row in rows if (row["encoding"], row["recipe"], row["timesteps"]) == run]
                if runs:
                    lines.append(table_row(*run, runs))
    return "\n".join(lines) + "\n"


def table_row(encoding: str, recipe: str, timesteps: int, runs: list[dict]) -> str:
    """One row, over the seeds."""

    def spread(values, digits):
        return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"

    cells = [
        encoding,
        recipe,
        timesteps,
        runs[0]["latency"],
        len(runs),
        spread([100 * run["ann"] for run in runs], 2),
        spread([100 * run["snn"] for run in runs], 2),
        spread([100 * (run["ann"] - run["snn"]) for run in runs], 2),
        f"{np.mean([run['spikes_per_neuron'] for run in runs]):.2f}",
        max(run["most_spikes_of_a_neuron"] for run in runs),
        f"{np.mean([run['synaptic_operations'] / run['ann_macs'] for run in runs]):.2f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["mnist", "fashion_mnist"])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--beta", type=float, default=BETA, help="clamp of the ReLU for ttfs_clamped")
    args = parser.parse_args()
    key = ("dataset", "network", "encoding", "recipe", "timesteps", "seed", "epochs")
    done = {tuple(row[name] for name in key) for row in read_results()}
    for seed in args.seeds:
        for name in args.datasets:
            dataset = load_dataset(name)
            for network in args.networks:
                for run in RUNS:
                    if (dataset.name, network, *run, seed, args.epochs) in done:
                        continue
                    row = measure(dataset, network, run, seed, args.epochs, args.beta)
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(f"{network} {name} seed {seed} {run}: {row['ann']:.4f} -> {row['snn']:.4f}", flush=True)
                    keras.backend.clear_session()
                TABLE.write_text(table(read_results(), args.beta))


if __name__ == "__main__":
    main()
