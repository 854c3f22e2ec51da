"""Ten planted faults: does `conversion.diagnose` name the right layer and cause?

    python benchmarks/diagnosis.py

The list was written down before the diagnosis was run on any of them. A fault counts as found if the worst finding
names an expected cause in an expected layer; a healthy network must give none.

    fault                                                          layer          cause
 1  norm_percentile=80 for all layers                              any            clipping
 2  λ of the second convolution divided by 8                       conv2          clipping
 3  λ of the first dense layer times 20 (an outlier set it)        dense1         scale
 4  threshold 20 at T = 100, rate                                  any            threshold
 5  5 time steps, rate                                             any            timesteps
 6  3 time steps, ttfs_exact                                       any            timesteps
 7  threshold 80 at T = 120, ttfs                                  any            threshold
 8  moving variance of the first BatchNorm times 25                bn1            batch_norm
 9  moving mean of the second BatchNorm shifted by 3 σ             bn2            batch_norm
10  second dense layer dead (all biases −1000)                     dense2         dead
"""

import logging
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras  # noqa: E402  (the environment comes first)
import numpy as np  # noqa: E402
from keras import layers as kl  # noqa: E402

import conversion  # noqa: E402
import spiking  # noqa: E402

NEURONS = ("conv1", "conv2", "dense1", "dense2")
IMAGES = 300


def data():
    """The embedded sample of MNIST, (training images, labels, test images)."""
    with np.load(Path(spiking.__file__).parent / "data" / "mnist_sample.npz", allow_pickle=False) as arrays:
        x_train, y_train, x_test = (arrays[key] for key in ("x_train", "y_train", "x_test"))
    scaled = [x[..., None].astype(np.float32) / 255 for x in (x_train, x_test)]
    return scaled[0], y_train.astype(np.int64), scaled[1]


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
    code, folded = spiking.get_encoding(snn.encoding), conversion.read(ann)
    largest, scales = conversion.calibrate(folded, calibration)
    names = [stage.name for stage in folded.stages]
    start = names.index(layer)
    scales[start] = scales[start] * factor
    if start + 1 < len(names) and folded.stages[start + 1].pool is not None:
        scales[start + 1] = scales[start]
    return conversion.assemble(folded, code, snn.settings, largest, scales, name="spoiled")


def faults(ann, calibration):
    """(name, ANN, SNN, expected layers, expected cause) of each planted fault, one after another."""
    bn1 = changed(ann, "bn1", 3, lambda weights: weights[3] * 25)
    bn2 = changed(ann, "bn2", 2, lambda weights: weights[2] + 3 * np.sqrt(weights[3]))
    dead = changed(ann, "dense2", 1, lambda weights: np.full_like(weights[1], -1000))

    def convert(network=ann, encoding="rate", **settings):
        return conversion.convert_ann_to_snn(network, calibration, encoding, **settings)

    yield "percentile 80 everywhere", ann, convert(norm_percentile=80), NEURONS, "clipping"
    yield "λ of conv2 / 8", ann, with_scale(convert(), ann, calibration, "conv2", 1 / 8), ("conv2",), "clipping"
    yield "λ of dense1 × 20", ann, with_scale(convert(), ann, calibration, "dense1", 20), ("dense1",), "scale"
    yield "threshold 20, rate", ann, convert(threshold=20.0), NEURONS, "threshold"
    yield "5 steps, rate", ann, convert(timesteps=5), NEURONS, "timesteps"
    yield "3 steps, ttfs_exact", ann, convert(encoding="ttfs_exact", timesteps=3), NEURONS, "timesteps"
    yield "threshold 80, ttfs", ann, convert(encoding="ttfs", threshold=80.0), NEURONS, "threshold"
    yield "variance of bn1 × 25", bn1, convert(bn1), ("bn1",), "batch_norm"
    yield "mean of bn2 + 3 σ", bn2, convert(bn2), ("bn2",), "batch_norm"
    yield "dense2 dead", dead, convert(dead), ("dense2",), "dead"


def healthy(ann, calibration):
    """(name, SNN) of networks without a fault."""
    yield "healthy, rate", conversion.convert_ann_to_snn(ann, calibration, "rate")
    yield "healthy, ttfs_exact", conversion.convert_ann_to_snn(ann, calibration, "ttfs_exact")


def main():
    for name in ("conversion", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    start = time.perf_counter()
    x_train, y_train, x_test = data()
    ann = trained(x_train, y_train)
    calibration, images = x_train[:1000], x_test[:IMAGES]
    details, found, planted = [], 0, 0
    for name, network, snn, layers, cause in faults(ann, calibration):
        diagnosis = conversion.diagnose(network, snn, images)
        worst = diagnosis.findings[0] if diagnosis.findings else None
        right = worst is not None and worst.cause == cause and worst.layer in layers
        planted, found = planted + 1, found + right
        print(f"{name:<26} {'found' if right else 'MISSED':<7} {worst}", flush=True)
        details.append(f"== {name}\n{diagnosis}")
    quiet = 0
    for name, snn in healthy(ann, calibration):
        diagnosis = conversion.diagnose(ann, snn, images)
        quiet += not diagnosis.findings
        print(f"{name:<26} {'none' if not diagnosis.findings else 'FALSE ALARM'}", flush=True)
        details.append(f"== {name}\n{diagnosis}")
    print(f"found {found} of {planted}; healthy networks without a finding: {quiet} of 2; "
          f"{time.perf_counter() - start:.0f} s")  # fmt: skip
    if "--details" in sys.argv:
        print("\n\n".join(details))
    return 0 if found >= 9 and quiet == 2 else 1


if __name__ == "__main__":
    sys.exit(main())
