"""Planted faults: does `conversion.diagnose` name the right layer and cause, and does its advice help?

    python benchmarks/diagnosis.py

The first ten were written down before the diagnosis was run on any of them. A fault counts as found if the first
finding names an expected cause in an expected layer; a healthy network must give none. Then what the finding proposes
is done, by its `changes` and not by hand, and the accuracy on images that the diagnosis has not seen is measured before
and after: no advice may make it worse.

They are tried on a LeNet with BatchNorm, trained for three epochs on the embedded digits; the tests try the same ones
on an untrained network. Makes the table in docs/DIAGNOSIS.md.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras  # noqa: E402  (the environment comes first)
import numpy as np  # noqa: E402
from keras import layers as kl  # noqa: E402

import conversion  # noqa: E402
import spiking  # noqa: E402
from spiking.analysis.advice import BATCH_NORM, NETWORK  # noqa: E402

NEURONS = ("conv1", "conv2", "dense1", "dense2")
ANYWHERE = (NETWORK, *NEURONS)
IMAGES = 300
PAGE = Path(__file__).resolve().parents[1] / "docs" / "DIAGNOSIS.md"
BEGIN, END = "<!-- made by benchmarks/diagnosis.py -->", "<!-- end -->"


def data():
    """The embedded sample of MNIST: training images, labels, test images, labels."""
    with np.load(Path(spiking.__file__).parent / "data" / "mnist_sample.npz", allow_pickle=False) as arrays:
        x_train, y_train, x_test, y_test = (arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    x_train, x_test = (x[..., None].astype(np.float32) / 255 for x in (x_train, x_test))
    return x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)


def trained(x_train, y_train):
    """A LeNet with BatchNorm, trained for a few epochs."""
    keras.utils.set_random_seed(1)
    ann = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            kl.Conv2D(8, 5, padding="same", name="conv1"),
            kl.BatchNormalization(momentum=0.9, name="bn1"),
            kl.ReLU(),
            kl.MaxPooling2D(name="pool1"),
            kl.Conv2D(16, 5, name="conv2"),
            kl.BatchNormalization(momentum=0.9, name="bn2"),
            kl.ReLU(),
            kl.MaxPooling2D(name="pool2"),
            kl.Flatten(),
            kl.Dense(64, activation="relu", name="dense1"),
            kl.Dense(32, activation="relu", name="dense2"),
            kl.Dense(10, activation="softmax", name="scores"),
        ]
    )
    ann.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    ann.fit(x_train, y_train, batch_size=64, epochs=3, verbose=0)
    return ann


def changed(ann, layer, position, change):
    """A copy of the ANN with one weight array of one layer changed."""
    copied = keras.models.clone_model(ann)
    copied.set_weights(ann.get_weights())
    weights = copied.get_layer(layer).get_weights()
    weights[position] = change(weights)
    copied.get_layer(layer).set_weights(weights)
    return copied


def with_scale(snn, ann, calibration, layer, factor):
    """The SNN assembled with another λ in one layer."""
    code, folded = snn.encoding, conversion.read(ann)
    found = conversion.calibrate(folded, calibration)
    spoiled = found.layers[layer]
    spoiled.scale = spoiled.scale * factor
    return conversion.assemble(folded, code, found, name="spoiled")


def with_new_statistics(ann, images):
    """A copy of the ANN whose BatchNorm layers have the statistics of these images."""
    copied = keras.models.clone_model(ann)
    copied.set_weights(ann.get_weights())
    for layer in copied.layers:
        if isinstance(layer, kl.BatchNormalization):
            layer.momentum = 0.0
    copied(images, training=True)
    return copied


class Fault(NamedTuple):
    """One planted fault.

    Attributes:
        name: what was done.
        layers: any of these may be named.
        cause: that must be named.
        spoil: of the ANN: weights of one layer, (layer, position among its weights, change); None for none.
        scale: of the conversion: λ of one layer, (layer, factor); None for none.
        settings: of the conversion.
    """

    name: str
    layers: tuple[str, ...]
    cause: str
    spoil: tuple | None = None
    scale: tuple | None = None
    settings: Mapping = MappingProxyType({})

    def networks(self, ann, calibration) -> tuple:
        """The ANN, spoiled or not, and the SNN made of it."""
        network = changed(ann, *self.spoil) if self.spoil else ann
        snn = conversion.convert_ann_to_snn(network, calibration, **self.settings)
        return network, with_scale(snn, network, calibration, *self.scale) if self.scale else snn

    def cured(self, ann, calibration, finding):
        """The SNN after the finding's advice has been followed; None if it asks for another training."""
        network = changed(ann, *self.spoil) if self.spoil else ann
        if finding.cause == BATCH_NORM:
            network = with_new_statistics(network, calibration)
        elif not finding.changes:
            return None
        kept = ("norm_percentile", "normalisation", "per_channel") if "encoding" in finding.changes else self.settings
        settings = {name: value for name, value in self.settings.items() if name in kept}
        return conversion.convert_ann_to_snn(network, calibration, **(settings | finding.changes))


FAULTS = (
    Fault("norm_percentile=80 everywhere", NEURONS, "clipping", settings={"norm_percentile": 80}),
    Fault("λ of conv2 / 8", ("conv2",), "clipping", scale=("conv2", 1 / 8)),
    Fault("λ of dense1 × 20, as an outlier sets it", ("dense1",), "scale", scale=("dense1", 20)),
    Fault("threshold 20 at T = 100, rate", ANYWHERE, "threshold", settings={"threshold": 20.0}),
    Fault("5 time steps, rate", ANYWHERE, "timesteps", settings={"timesteps": 5}),
    Fault("3 time steps, ttfs_exact", ANYWHERE, "timesteps", settings={"encoding": "ttfs_exact", "timesteps": 3}),
    Fault("threshold 80 at T = 120, ttfs", ANYWHERE, "threshold", settings={"encoding": "ttfs", "threshold": 80.0}),
    Fault("variance of bn1 × 25", ("bn1",), "batch_norm", spoil=("bn1", 3, lambda w: w[3] * 25)),
    Fault("mean of bn2 + 3 σ", ("bn2",), "batch_norm", spoil=("bn2", 2, lambda w: w[2] + 3 * np.sqrt(w[3]))),
    Fault("dense2 dead, its biases −1000", ("dense2",), "dead", spoil=("dense2", 1, lambda w: w[1] * 0 - 1000)),
)
# Base codes with too little and too much time for their threshold; they say something on a trained network only.
TIME_FAULTS = tuple(
    Fault(f"{encoding}, threshold 10 at T = {steps}", ANYWHERE, cause,
          settings={"encoding": encoding, "threshold": 10.0, "timesteps": steps})
    for encoding, steps, cause in (
        ("ttfs", 60, "timesteps"), ("ttfs", 120, "overrun"), ("ttfs", 567, "overrun"),
        ("ttfs_dyn_thresh", 60, "timesteps"), ("ttfs_dyn_thresh", 120, "overrun"),
        ("ttfs_dyn_thresh", 240, "overrun"), ("ttfs_dyn_thresh", 567, "overrun"),
    )
)  # fmt: skip


def healthy(ann, calibration):
    """(name, SNN) of networks without a fault."""
    yield "healthy, rate", conversion.convert_ann_to_snn(ann, calibration, "rate")
    yield "healthy, ttfs_exact", conversion.convert_ann_to_snn(ann, calibration, "ttfs_exact")


def row(name: str, expected: str, diagnosis, before: float | None = None, after: float | None = None) -> str:
    """A row of the table: what was done, what is expected, what the first finding says, what following it does."""
    worst = diagnosis.findings[0] if diagnosis.findings else None
    named, advice = (f"`{worst.layer}`: {worst.cause}", worst.advice) if worst else ("none", "")
    shares = [f"{diagnosis.same_class:.1%}", *("–" if share is None else f"{share:.1%}" for share in (before, after))]
    return f"| {' | '.join([name, expected, named, *shares, advice])} |"


def write_table(rows: list[str]) -> None:
    """Puts the table where the page holds the last one."""
    before, rest = PAGE.read_text().split(BEGIN)
    head = ["fault", "expected", "first finding", "same class", "accuracy", "after the advice", "advice"]
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head))]
    PAGE.write_text(before + BEGIN + "\n\n" + "\n".join([*lines, *rows]) + "\n\n" + END + rest.split(END)[1])


def main() -> int:
    for name in ("conversion", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    start = time.perf_counter()
    x_train, y_train, x_test, y_test = data()
    ann = trained(x_train, y_train)
    calibration, images, others = x_train[:1000], x_test[:IMAGES], (x_test[IMAGES:], y_test[IMAGES:])
    rows, found, quiet, harmed = [], 0, 0, []
    for fault in (*FAULTS, *TIME_FAULTS):
        network, snn = fault.networks(ann, calibration)
        diagnosis = conversion.diagnose(network, snn, images)
        worst = diagnosis.findings[0] if diagnosis.findings else None
        found += worst is not None and worst.cause == fault.cause and worst.layer in fault.layers
        cured = worst and fault.cured(ann, calibration, worst)
        before, after = (model and conversion.snn_accuracy(model, *others) for model in (snn, cured))
        harmed += [fault.name] if cured and after < before else []
        where = f"`{fault.layers[0]}`" if len(fault.layers) == 1 else "any"
        rows.append(row(fault.name, f"{where}: {fault.cause}", diagnosis, before, after))
        print(rows[-1], flush=True)
    for name, snn in healthy(ann, calibration):
        diagnosis = conversion.diagnose(ann, snn, images)
        quiet += not diagnosis.findings
        rows.append(row(name, "none", diagnosis, conversion.snn_accuracy(snn, *others)))
        print(rows[-1], flush=True)
    write_table(rows)
    faults = len(FAULTS) + len(TIME_FAULTS)
    print(f"found {found} of {faults}; healthy networks without a finding: {quiet} of 2; made worse by the advice: "
          f"{harmed or 'none'}; {time.perf_counter() - start:.0f} s")  # fmt: skip
    return 0 if found >= faults - 1 and quiet == 2 and not harmed else 1


if __name__ == "__main__":
    sys.exit(main())
