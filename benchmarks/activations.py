"""LeNet-5 and a small ResNet trained with each activation on mnist, converted: loss of accuracy and output error.

    python benchmarks/activations.py            # goes on where it was stopped
    python benchmarks/activations.py --page     # docs/ACTIVATIONS.md from docs/activations.jsonl

Networks are trained for EPOCHS epochs and kept in experiments/activations. Codes that do not carry an activation are
left out. The loss is paired: right by the ANN minus right by the SNN on the same test images, with its standard error.
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
from keras import layers as kl  # noqa: E402

import spiking  # noqa: E402
from ann_training import load_dataset  # noqa: E402
from conversion import convert_ann_to_snn, predict_batch, read  # noqa: E402

LINES, PAGE, MODELS = ROOT / "docs" / "activations.jsonl", ROOT / "docs" / "ACTIVATIONS.md", ROOT / "experiments"
EPOCHS, CALIBRATION, BATCH = 3, 1000, 200
NAMES = ("relu", "leaky_relu", "prelu", "elu", "selu", "tanh", "sigmoid", "softplus", "silu", "hard_silu", "gelu",
         "mish")  # fmt: skip
SETTINGS = [("ttfs_exact", 16), ("ttfs_exact", 64), ("ttfs_exact", 256), ("radix", 6), ("radix", 8)]


def activation(name: str):
    return kl.PReLU(shared_axes=[1, 2]) if name == "prelu" else kl.Activation(name)


def lenet5(name: str) -> keras.Model:
    dense = kl.PReLU if name == "prelu" else lambda: kl.Activation(name)
    layers = [kl.Conv2D(6, 5, padding="same"), activation(name), kl.MaxPooling2D(2), kl.Conv2D(16, 5), activation(name),
              kl.MaxPooling2D(2), kl.Flatten(), kl.Dense(120), dense(), kl.Dense(84), dense()]  # fmt: skip
    return keras.Sequential([keras.Input((28, 28, 1)), *layers, kl.Dense(10, activation="softmax")])


def resnet(name: str) -> keras.Model:
    """Three residual blocks of two convolutions, 8, 16 and 32 filters."""
    x = image = keras.Input((28, 28, 1))
    for filters, strides in ((8, 2), (16, 2), (32, 1)):
        y = kl.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        y = activation(name)(kl.BatchNormalization(momentum=0.9)(y))
        y = kl.BatchNormalization(momentum=0.9)(kl.Conv2D(filters, 3, padding="same", use_bias=False)(y))
        x = activation(name)(kl.Add()([y, kl.Conv2D(filters, 1, strides, padding="same")(x)]))
    return keras.Model(image, kl.Dense(10, activation="softmax")(kl.GlobalAveragePooling2D()(x)))


NETWORKS = {"lenet5": lenet5, "resnet": resnet}


def trained(network: str, name: str, data) -> keras.Model:
    path = MODELS / "activations" / f"{network}_{name}.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(0)
    ann = NETWORKS[network](name)
    ann.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    ann.fit(data.x_train, data.y_train, batch_size=128, epochs=EPOCHS, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    ann.save(path)
    return ann


def measure(network: str, name: str, data, done: set) -> list[dict]:
    """A line for each code and number of time steps that is not done."""
    todo = [each for each in SETTINGS if each[0] in spiking.ENCODINGS and (network, name, *each) not in done]
    if not todo:
        return []
    ann = trained(network, name, data)
    graph, scores = read(ann), ann.predict(data.x_test, BATCH, verbose=0)
    right, lines = scores.argmax(-1) == data.y_test, []
    for encoding, steps in todo:
        if not all(spiking.ENCODINGS[encoding].carries(node.activation) for node in graph.neurons.values()):
            continue
        snn = convert_ann_to_snn(graph, data.x_train[:CALIBRATION], encoding, steps)
        batches = (data.x_test[start : start + BATCH] for start in range(0, len(data.x_test), BATCH))
        found = np.concatenate([np.asarray(predict_batch(snn, images)) for images in batches])
        lost = right.astype(float) - (found.argmax(-1) == data.y_test)
        lines.append({
            "network": network, "activation": name, "encoding": encoding, "timesteps": steps,
            "ann": float(100 * right.mean()), "loss": float(100 * lost.mean()),
            "standard_error": float(100 * lost.std() / len(lost) ** 0.5), "images": len(lost),
            "output_error": float(np.sqrt(np.mean((found - scores) ** 2) / np.mean(scores**2))),
        })  # fmt: skip
    return lines


def page(lines: list[dict]) -> str:
    """The table, a row for each network, activation and setting."""
    head = __doc__.split("\n\n")
    rows = [
        f"| {line['network']} | {line['activation']} | {line['encoding']} | {line['timesteps']} | {line['ann']:.2f} "
        f"| {line['loss']:.2f} ± {line['standard_error']:.2f} | {line['output_error']:.2%} |"
        for line in lines
    ]
    return "\n".join([
        "# Activations", "", head[0], "", *(row.strip() for row in head[1].splitlines()), "", head[2].strip(), "",
        "| network | activation | code | steps a window | ANN % | loss, points | output error |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |", *rows, "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page only")
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    done = {(line["network"], line["activation"], line["encoding"], line["timesteps"]) for line in lines}
    data = None if arguments.page else load_dataset("mnist")
    for network in NETWORKS if data else ():
        for name in NAMES:
            for line in measure(network, name, data, done):
                lines.append(line)
                with LINES.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(line, flush=True)
    PAGE.write_text(page(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
