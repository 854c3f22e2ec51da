"""Few levels without retraining: ways to choose scales, levels and corrections. Makes a section of docs/CALIBRATION.md.

    python benchmarks/few_levels.py                       # what is missing; minutes on one core
    python benchmarks/few_levels.py --networks resnet20_cifar10 --models FOLDER

All images are training images: 1000 calibrate, 1000 others judge, and no labels are looked at but for the loss. The
judge is the Kullback-Leibler divergence of the rounded network's output from the ANN's, which varies less than a loss.
Every finished way is a line of docs/few_levels.jsonl; started again, the script goes on where it stopped.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import deep  # noqa: E402  the path and TensorFlow's log level come first
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from ann_training import load_dataset  # noqa: E402
from conversion import calibrate, convert_ann_to_snn, read  # noqa: E402

RESULTS = ROOT / "docs" / "few_levels.jsonl"
NETWORKS = ("vgg16_slim_cifar10", "resnet20_cifar10", "strided_cifar10")
LEVELS = (7, 15)
CALIBRATED, JUDGED = slice(0, 1000), slice(20000, 21000)  # of the training images
BATCH = 250
BALANCING = {"rate": 0.5, "epochs": 5, "batch": 25}

Scales = dict[str, np.ndarray]


class Rounded:
    """A folded network whose neurons round their activation, layer by layer, to levels of any spacing.

    Args:
        graph: the folded network.
        images: that calibrate.
    """

    def __init__(self, graph, images: np.ndarray):
        self.graph, self.images = graph, images

    def batches(self, images=None, size: int = BATCH):
        images = self.images if images is None else images
        return (tf.constant(images[n : n + size]) for n in range(0, len(images), size))

    def output(self, images: np.ndarray, neurons: Callable | None = None) -> np.ndarray:
        """What the network says with other neurons, `(node, W∗x + b) -> activity`."""
        forward = self.graph.forward(neurons=neurons)
        run = tf.function(lambda x: forward(x)[self.graph.outputs])
        return np.concatenate([run(x).numpy() for x in self.batches(images)])

    def uniform(self, scales: Scales, levels: int | dict[str, int]) -> Callable:
        """Neurons with the levels 0, λ/N, …, λ."""

        def neurons(node, x):
            number = levels if isinstance(levels, int) else levels[node.name]
            step = tf.constant(scales[node.name] / number, x.dtype)
            return tf.clip_by_value(tf.floor(x / step + 0.5), 0, number) * step

        return neurons

    def nearest(self, tables: dict[str, np.ndarray]) -> Callable:
        """Neurons that take the nearest of a layer's levels, ascending and in units of its channels' scale."""

        def neurons(node, x):
            levels, scale = tables[node.name]
            middles = tf.constant((levels[1:] + levels[:-1]) / 2, x.dtype)
            index = tf.searchsorted(middles, tf.reshape(x / tf.constant(scale, x.dtype), (-1,)))
            return tf.reshape(tf.gather(tf.constant(levels, x.dtype), index), tf.shape(x)) * tf.constant(scale, x.dtype)

        return neurons

    def potentials(self) -> dict[str, np.ndarray]:
        """Layer -> potentials of some calibration images, `(values, channels)`."""
        found = {name: [] for name in self.graph.neurons}

        def keep(node, x):
            found[node.name].append(x.numpy().reshape(-1, x.shape[-1]))
            return tf.nn.relu(x)

        self.graph.forward(neurons=keep)(tf.constant(self.images[:BATCH]))
        return {name: np.concatenate(each) for name, each in found.items()}


def balanced(network: Rounded) -> Scales:
    """Threshold balancing (Bu 2025): θ from 0, θ += 2η·mean[(z − θ)₊] per channel, clip(z, 0, θ) passed on."""
    scales = {name: tf.Variable(tf.zeros(node.shape[-1:])) for name, node in network.graph.neurons.items()}

    def neurons(node, x):
        theta = scales[node.name]
        above = tf.nn.relu(x - theta)
        theta.assign_add(2 * BALANCING["rate"] * tf.reduce_mean(tf.reshape(above, (-1, x.shape[-1])), axis=0))
        return tf.clip_by_value(x, 0, theta)

    run = tf.function(network.graph.forward(neurons=neurons))
    for _ in range(BALANCING["epochs"]):
        for x in network.batches(size=BALANCING["batch"]):
            run(x)
    return {name: np.maximum(theta.numpy(), 1e-6) for name, theta in scales.items()}


def closed_form(potentials: dict[str, np.ndarray], levels: int, rounds: int = 50) -> Scales:
    """θ from mean and deviation of the potential alone: θ ← kθ until k = 1 (LITERATURE's formula for n levels)."""
    found = {}
    for name, z in potentials.items():
        mean, deviation = z.mean(0), np.maximum(z.std(0), 1e-9)
        theta, i = mean + 3 * deviation, np.arange(1, levels + 1)[:, None]
        for _ in range(rounds):
            u = ((2 * i - 1) * theta / (2 * levels) - mean) / (np.sqrt(2) * deviation)
            erf = tf.math.erf(u).numpy()
            top = mean * (levels - erf.sum(0)) + deviation * np.sqrt(2 / np.pi) * np.exp(-(u**2)).sum(0)
            bottom = levels**2 - ((2 * i - 1) * erf).sum(0)
            k = (levels / theta) * top / np.maximum(bottom, 1e-9)
            theta = np.maximum(theta * np.clip(k, 0.5, 2), 1e-6)
        found[name] = theta
    return found


def spaced(potentials: dict[str, np.ndarray], scales: Scales, levels: int, rounds: int = 30) -> dict[str, tuple]:
    """Lloyd's levels of each layer, in units of its channels' λ: those of least mean square error, 0 among them."""
    tables = {}
    for name, z in potentials.items():
        values = np.sort(np.maximum(z / scales[name], 0).ravel()[::7])
        values = values[values > 0]
        table = np.linspace(0, 1, levels + 1)
        for _ in range(rounds):
            index = np.searchsorted((table[1:] + table[:-1]) / 2, values)
            sums, counts = (np.bincount(index, weights, levels + 1) for weights in (values, None))
            table[1:] = np.where(counts[1:] > 0, sums[1:] / np.maximum(counts[1:], 1), table[1:])
        tables[name] = (table.astype(np.float32), np.asarray(scales[name], np.float32))
    return tables


def allocated(network: Rounded, scales: Scales, levels: int, expected: np.ndarray) -> dict[str, int]:
    """Levels by layer with the same sum: N_l in proportion to the cube root of what rounding the layer alone costs,
    which makes Σ c_l/N_l² least."""
    rounded = network.uniform(scales, levels)

    def cost(name: str) -> float:
        alone = lambda node, x: rounded(node, x) if node.name == name else tf.nn.relu(x)  # noqa: E731
        return divergence(expected, network.output(network.images[:BATCH], alone))

    costs = [cost(name) for name in network.graph.neurons]
    share = np.cbrt(np.maximum(costs, 1e-9))
    numbers = np.maximum(np.round(levels * len(costs) * share / share.sum()), 2)
    return dict(zip(network.graph.neurons, numbers.astype(int).tolist(), strict=True))


def divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of the output."""
    return float(np.mean(np.sum(expected * (np.log(expected + 1e-7) - np.log(found + 1e-7)), -1)))


def ways(network: Rounded, levels: int) -> dict[str, Callable[[], Callable]]:
    """Way -> what makes its neurons."""

    def measured(method: str, per_channel: bool = True, percentile: float = 99.9) -> Scales:
        found = calibrate(network.graph, network.images, method, per_channel=per_channel, percentile=percentile,
                          levels=levels)  # fmt: skip
        return {name: np.asarray(layer.scale) for name, layer in found.layers.items()}

    def spread():
        return network.nearest(spaced(network.potentials(), measured("mse"), levels))

    def shared():
        scales, expected = measured("mse"), network.output(network.images[:BATCH])
        return network.uniform(scales, allocated(network, scales, levels, expected))

    uniform = lambda scales: network.uniform(scales, levels)  # noqa: E731
    return {
        "mse per channel": lambda: uniform(measured("mse")),
        "mse per layer": lambda: uniform(measured("mse", per_channel=False)),
        "99.9% percentile per channel": lambda: uniform(measured("percentile")),
        "99% percentile per channel": lambda: uniform(measured("percentile", percentile=99)),
        "threshold balancing": lambda: uniform(balanced(network)),
        "closed form from μ and σ": lambda: uniform(closed_form(network.potentials(), levels)),
        "levels spaced by Lloyd": spread,
        "levels shared out by sensitivity": shared,
    }


def corrected(network: Rounded, levels: int, correction: str, images: np.ndarray) -> np.ndarray:
    """What the converted network says."""
    snn = convert_ann_to_snn(network.graph, network.images, "ttfs_exact", levels, correction=correction)
    return snn.predict(images, batch_size=BATCH, verbose=0)


def lines() -> list[dict]:
    """All finished lines."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def measure(name: str, data) -> None:
    """Every way of one network that is missing."""
    network = Rounded(read(keras.models.load_model(deep.network_file(name), compile=False)), data.x_train[CALIBRATED])
    images, labels = data.x_train[JUDGED], data.y_train[JUDGED]
    done = {(line["network"], line["levels"], line["way"]) for line in lines()}
    expected = network.output(images)
    for levels in LEVELS:
        found = {way: lambda make=make: network.output(images, make()) for way, make in ways(network, levels).items()}
        found |= {f"mse per channel, {each}": lambda each=each, levels=levels: corrected(network, levels, each, images)
                  for each in ("shifts", "output")}  # fmt: skip
        for way, say in found.items():
            if (name, levels, way) in done:
                continue
            started, output = time.process_time(), say()
            line = {"network": name, "levels": levels, "way": way, "divergence": divergence(expected, output),
                    "same": float(np.mean(output.argmax(-1) == expected.argmax(-1))),
                    "loss": 100 * float(np.mean(expected.argmax(-1) == labels) - np.mean(output.argmax(-1) == labels)),
                    "seconds": round(time.process_time() - started, 1)}  # fmt: skip
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(time.strftime("%H:%M:%S"), line, flush=True)


def section() -> list[str]:
    """The table for docs/CALIBRATION.md."""
    networks = [name for name in NETWORKS if any(line["network"] == name for line in lines())]
    cells = {(line["network"], line["levels"], line["way"]): line for line in lines()}
    columns = [(name, levels) for name in networks for levels in LEVELS]
    text = ["| way | " + " | ".join(f"{name}, {levels}" for name, levels in columns) + " |"]
    text += ["| --- " * (len(columns) + 1) + "|"]
    for way in dict.fromkeys(way for *_, way in cells):
        shown = [cells.get((*column, way)) for column in columns]
        told = [f"{each['divergence']:.4f}, {each['same']:.1%}" if each else "" for each in shown]
        text.append(f"| {way} | {' | '.join(told)} |")
    return text


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--models", nargs="+", type=Path, default=[], help="further folders in which networks lie")
    args = parser.parse_args(arguments)
    deep.FOLDERS.extend(args.models)
    data = load_dataset("cifar10")
    for name in args.networks:
        if deep.network_file(name):
            measure(name, data)


if __name__ == "__main__":
    main()
