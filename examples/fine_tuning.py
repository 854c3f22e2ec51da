"""Fine-tuning: a converted network is a Keras model, so it can be trained on, spikes and all.

    python examples/fine_tuning.py            # about five minutes; no download

At very few time steps conversion costs accuracy. `compile` and `fit` go on from there: gradients pass the spikes by a
surrogate derivative (`rate`) or straight through the rounding (`ttfs_exact`). The weights are then no longer the ANN's.
Accuracy on the 1000 test images of the sample, ANN 94.6%: `rate` with 4 steps from 93.0 to 94.8%, with 8 from 94.1 to
94.7%, `ttfs_exact` with 2 from 93.3 to 93.7%.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras  # noqa: E402  the path and TensorFlow's log level come first

from ann_training import Training, load_dataset, train_network_lenet5  # noqa: E402
from conversion import ann_accuracy, convert_ann_to_snn, snn_accuracy  # noqa: E402

RUNS = [("rate", 4, {"initial_potential": 0.5}), ("rate", 8, {"initial_potential": 0.5}), ("ttfs_exact", 2, {})]


def fine_tune(snn, data, epochs: int, seed: int = 0) -> tuple[float, float]:
    """Accuracy on the test images before and after training the spiking network."""
    before = snn_accuracy(snn, data.x_test, data.y_test)
    keras.utils.set_random_seed(seed)
    snn.compile(keras.optimizers.Adam(3e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    snn.fit(data.x_train, data.y_train, batch_size=50, epochs=epochs, verbose=2)
    return before, snn_accuracy(snn, data.x_test, data.y_test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=None, help="of the training set (default: all)")
    args = parser.parse_args()
    data = load_dataset("mnist_sample", max_images=args.images)
    ann = train_network_lenet5(Training(epochs=3), data.train, data.test)
    rows = [f"ANN {ann_accuracy(ann, data.x_test, data.y_test):.1%}"]
    for encoding, timesteps, options in RUNS:
        snn = convert_ann_to_snn(ann, data.x_train[:1000], encoding, timesteps, **options)
        before, after = fine_tune(snn, data, args.epochs)
        rows.append(f"{encoding}, {timesteps} steps: {before:.1%} converted, {after:.1%} fine-tuned")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
