"""Trains the deep networks of benchmarks/models on CIFAR-10: the ANNs that the benchmarks convert.

    python benchmarks/train_models.py strided                         # about 20 minutes on two cores
    python benchmarks/train_models.py mobilenetv2_slim --minutes 120 --threads 1
    python benchmarks/train_models.py resnet20 --epochs 60

`strided`: thirteen layers without max pooling, strided convolutions and an average pooling instead, BatchNormalization
behind the activation. `quantised`: a small VGG whose activations are rounded to 8 levels (QuantisedReLU). `resnet20`,
`mobilenetv2_slim` and `densenet_slim` are those of `ann_training`. vgg16_slim_cifar10.keras, a VGG-16 at a quarter of
its width, was trained in the same way for 24 epochs.

AdamW on the 50000 training images, flipped and shifted, with a learning rate that rises for one epoch and then falls to
zero along half a cosine. After every epoch the network is kept with the optimizer's state, and a line of
`<network>.jsonl` says how far it is: the same command goes on where the last one was stopped. The cosine ends with the
last epoch, or with the minutes granted if these end first; both may be changed between two calls, down to the epochs
that are done, which writes the network as it is.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers as kl  # noqa: E402

from ann_training import ARCHITECTURES, Dataset, load_dataset  # noqa: E402
from spiking.quantisation import QuantisedReLU  # noqa: E402
from spiking.runs.files import write_atomically  # noqa: E402

MODELS = ROOT / "benchmarks" / "models"
LEVELS = 8
SHIFT = 4  # pixels, at most, in each direction
WATCHED = 2000  # test images whose accuracy is told after each epoch


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


class Recipe(NamedTuple):
    """How a network is built, and what suits it."""

    build: Callable[[], keras.Model]
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3


def architecture(name: str) -> Recipe:
    return Recipe(lambda: ARCHITECTURES[name]((32, 32, 3), 10), learning_rate=4e-3, weight_decay=1e-2)


RECIPES = {"strided": Recipe(strided), "quantised": Recipe(quantised)}
RECIPES |= {name: architecture(name) for name in ("resnet20", "mobilenetv2_slim", "densenet_slim")}


@keras.saving.register_keras_serializable(package="train_models")
class FusedNormalization(keras.layers.BatchNormalization):
    """BatchNormalization, over all axes but the last, by one operation: a third of the time on a CPU."""

    def call(self, inputs, training=None, mask=None):
        if not training:
            return super().call(inputs, training=training, mask=mask)
        shape = tf.shape(inputs)
        maps = inputs if len(inputs.shape) == 4 else tf.reshape(inputs, (shape[0], 1, 1, shape[-1]))
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            maps, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        # The operation gives the unbiased variance, Keras keeps that of the images themselves.
        count = tf.cast(tf.size(inputs) / shape[-1], tf.float32)
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance * (count - 1) / count)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return tf.reshape(outputs, shape)


def for_training(ann: keras.Model) -> keras.Model:
    """The same network with fresh weights, its batch normalisations fused."""

    def fuse(layer):
        fused = FusedNormalization if type(layer) is keras.layers.BatchNormalization else type(layer)
        return fused.from_config(layer.get_config())

    return keras.models.clone_model(ann, clone_function=fuse)


class Augmented(keras.utils.PyDataset):
    """The training images of one epoch: in random order, half of them flipped, each shifted, black where none was.

    What is drawn depends on seed and epoch alone, so a training that is resumed sees what it would have seen.
    """

    def __init__(self, data: Dataset, epoch: int, seed: int, batch_size: int):
        super().__init__()
        rng, count = np.random.default_rng([seed, epoch]), len(data.x_train)
        self.images, self.labels, self.batch_size = data.x_train, data.y_train, batch_size
        self.order, self.flipped = rng.permutation(count), rng.random(count) < 0.5
        self.shifts = rng.integers(0, 2 * SHIFT + 1, (2, count))

    def __len__(self):
        return len(self.order) // self.batch_size  # the last few images wait for another epoch

    def __getitem__(self, index):
        drawn = slice(index * self.batch_size, (index + 1) * self.batch_size)
        images, labels = self.images[self.order[drawn]], self.labels[self.order[drawn]]
        padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
        rows, columns = (self.shifts[axis, drawn, None] + np.arange(images.shape[axis + 1]) for axis in (0, 1))
        columns[self.flipped[drawn]] = columns[self.flipped[drawn], ::-1]
        which = np.arange(len(images))[:, None, None]
        return padded[which, rows[:, :, None], columns[:, None, :]], labels


class Schedule(keras.callbacks.Callback):
    """Sets the learning rate of every step, and ends the training when the time is over.

    Args:
        peak: the largest learning rate, reached after one epoch.
        epochs: with the last of them the rate is zero.
        steps: of an epoch.
        seconds: the time granted, infinite for as long as the epochs take.
        spent: seconds that earlier calls have taken of it.
    """

    def __init__(self, peak: float, epochs: int, steps: int, seconds: float, spent: float):
        super().__init__()
        self.peak, self.epochs, self.steps, self.seconds = peak, epochs, steps, seconds
        self.began = time.monotonic() - spent

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    def rate(self, epoch: float) -> float:
        progress = min(1, max(epoch / self.epochs, self.spent / self.seconds))
        return self.peak * min(1, epoch + 1 / self.steps) * (1 + math.cos(math.pi * progress)) / 2

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = self.rate(self.epoch + batch / self.steps)

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = self.spent >= self.seconds


def train(network: str, data: Dataset, folder: Path, epochs: int, minutes: float, seed: int, batch_size: int = 128):
    """Trains a network, from where the folder says it is. Nothing is done if its time or epochs are over.

    Args:
        network: key of `RECIPES`.
        data: what it is trained on, and the test images that are watched.
        folder: where `<network>.keras`, with the optimizer's state, and `<network>.jsonl`, a line an epoch, are kept.
        epochs: in all, those of earlier calls included.
        minutes: in all, those of earlier calls included; the training ends when they are over.
        seed: of the first weights, the order of the images and their augmentation.
        batch_size: images a step.

    Returns:
        The network, of Keras' layers and uncompiled: the optimizer's state is not kept.
    """
    recipe, kept, log = RECIPES[network], folder / f"{network}.keras", folder / f"{network}.jsonl"
    steps = len(Augmented(data, 0, seed, batch_size))
    keras.utils.set_random_seed(seed)
    if kept.is_file():
        ann = keras.models.load_model(kept)
    else:
        ann = for_training(recipe.build())
        optimizer = keras.optimizers.AdamW(recipe.learning_rate, recipe.weight_decay)
        ann.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    lines = log.read_text().splitlines() if kept.is_file() and log.is_file() else []
    spent = json.loads(lines[-1])["seconds"] if lines else 0.0
    schedule = Schedule(recipe.learning_rate, epochs, steps, 60 * minutes, spent)
    watch = {"callbacks": [schedule]}
    for epoch in range(math.ceil(int(ann.optimizer.iterations) / steps), epochs):
        if schedule.spent >= schedule.seconds:
            break
        batches = Augmented(data, epoch, seed, batch_size)
        history = ann.fit(batches, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0, **watch).history
        watched = ann.evaluate(data.x_test[:WATCHED], data.y_test[:WATCHED], batch_size=250, verbose=0)[1]
        line = {
            "epoch": epoch + 1,
            "loss": history["loss"][0],
            "accuracy": history["accuracy"][0],
            "test accuracy": watched,
            "seconds": schedule.spent,
        }
        write_atomically(kept, ann.save)
        lines.append(json.dumps(line))
        write_atomically(log, lambda path: path.write_text("\n".join(lines) + "\n"))
        print(lines[-1], flush=True)
    plain = recipe.build()
    plain.set_weights(ann.get_weights())
    return plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=RECIPES)
    parser.add_argument("--epochs", type=int, default=18, help="in all (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="in all (default: any number)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow; 0 takes all cores")
    parser.add_argument("--keep", type=Path, default=ROOT / "experiments" / "training", help="folder to resume from")
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    args.keep.mkdir(parents=True, exist_ok=True)
    data = load_dataset("cifar10")
    ann = train(args.network, data, args.keep, args.epochs, args.minutes, args.seed)
    accuracy = np.mean(ann.predict(data.x_test, batch_size=500, verbose=0).argmax(-1) == data.y_test)
    path = MODELS / f"{args.network}_cifar10.keras"
    write_atomically(path, ann.save)
    print(f"{path.name}: {accuracy:.2%} on the test set")


if __name__ == "__main__":
    main()
