"""Trains the deep networks of benchmarks/models on CIFAR-10: the ANNs that benchmarks/deep.py converts.

    python benchmarks/train_models.py strided         # about 20 minutes on two cores
    python benchmarks/train_models.py quantised

`strided`: thirteen layers without max pooling, strided convolutions and an average pooling instead, BatchNormalization
behind the activation. `quantised`: a small VGG whose activations are rounded to 8 levels (QuantisedReLU). The third,
vgg16_slim_cifar10.keras, is a VGG-16 at a quarter of its width, trained in the same way for 24 epochs.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import tensorflow as tf  # noqa: E402
from keras import layers as kl  # noqa: E402

from ann_training import load_dataset  # noqa: E402
from spiking.quantisation import QuantisedReLU  # noqa: E402

MODELS = ROOT / "benchmarks" / "models"
LEVELS = 8


def strided() -> keras.Sequential:
    """Convolution, ReLU, BatchNormalization; (filters, stride) of each convolution, None for the average pooling."""
    layers = [keras.Input((32, 32, 3))]
    plan = [(16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), None, (128, 1), (128, 1), (128, 1)]
    for step in plan:
        if step is None:
            layers.append(kl.AveragePooling2D(2))
            continue
        filters, stride = step
        layers += [kl.Conv2D(filters, 3, stride, padding="same", activation="relu"), kl.BatchNormalization()]
    layers += [kl.GlobalAveragePooling2D(), kl.Dense(128, activation="relu"), kl.BatchNormalization(), kl.Dropout(0.3)]
    return keras.Sequential([*layers, kl.Dense(10, activation="softmax")], name="strided_cifar10")


def quantised() -> keras.Sequential:
    """Convolution, BatchNormalization, QuantisedReLU; None for max pooling."""
    layers = [keras.Input((32, 32, 3))]
    for filters in (16, 32, None, 48, 64, None, 96, None):
        if filters is None:
            layers.append(kl.MaxPooling2D(2))
        else:
            convolution = kl.Conv2D(filters, 3, padding="same", use_bias=False)
            layers += [convolution, kl.BatchNormalization(), QuantisedReLU(LEVELS)]
    layers += [kl.Flatten(), kl.Dense(128), QuantisedReLU(LEVELS), kl.Dropout(0.3)]
    return keras.Sequential([*layers, kl.Dense(10, activation="softmax")], name="quantised_cifar10")


NETWORKS = {"strided": strided, "quantised": quantised}


def train(ann: keras.Sequential, epochs: int, seed: int, batch_size: int = 128) -> float:
    """Trains on the 50000 training images, flipped and shifted; returns the accuracy on the test set."""
    data = load_dataset("cifar10")
    augment = keras.Sequential([kl.RandomFlip("horizontal", seed=seed), kl.RandomTranslation(0.1, 0.1, seed=seed)])
    batches = (
        tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
        .shuffle(len(data.x_train), seed=seed)
        .batch(batch_size)
        .map(lambda x, y: (augment(x, training=True), y), num_parallel_calls=2)
        .prefetch(2)
    )
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, epochs * len(batches))
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=1e-3)
    ann.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    ann.fit(batches, epochs=epochs, verbose=2)
    return ann.evaluate(data.x_test, data.y_test, batch_size=500, verbose=0)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keras.utils.set_random_seed(args.seed)
    ann = NETWORKS[args.network]()
    accuracy = train(ann, args.epochs, args.seed)
    ann.compile()  # the optimizer's state is not kept
    path = MODELS / f"{ann.name}.keras"
    ann.save(path)
    print(f"{path.name}: {accuracy:.2%} on the test set")


if __name__ == "__main__":
    main()
