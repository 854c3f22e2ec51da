"""The scripts of the original toolbox, as written there, on a small data set.

`python examples/original_scripts.py` runs them all in a few minutes; results go to `experiments/` and `tblogs/` as they
did. Only the data set, the epochs, the number of images and of repetitions are smaller than there. What has other names
today: docs/FROM_THE_ORIGINAL.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ann_training import train_network_base, train_network_lenet5_maxpool_extensions  # noqa: E402
from experiment import Experiment, RepeatedExperiment  # noqa: E402

DATASET = "mnist_sample"
SMALL = {"dataset": DATASET, "max_images": 100}


def experiment_base():
    """Time to first spike, after Rueckauer and Liu 2018."""
    exp = Experiment(
        name="experiment_base",
        tensorboard_title="test",
        batch_size_ann_training=128,
        batch_size_snn_eval=32,
        timesteps=120,
        max_rate=2,
        epochs=2,
        norm_percentile=99.0,
        tau=999999.0,
        threshold=10,
        beta=0.1,
        encoding="ttfs",
        image_size_rescale=[28, 28],
        image_depth_increase=False,
        training_function=train_network_base,
        force_training=True,
        disable_training_accuracy=True,
        **SMALL,
    )
    return exp.run(timestep_analysis=True)


def experiment_rate():
    """Rates, on images made RGB."""
    exp = Experiment(
        name="experiment_rate",
        batch_size_ann_training=128,
        batch_size_snn_eval=32,
        timesteps=100,
        max_rate=2,
        epochs=1,
        norm_percentile=99.99,
        tau=999999.0,
        threshold=0.1,
        encoding="rate",
        image_size_rescale=[20, 20],
        image_depth_increase=True,
        training_function=train_network_base,
        **SMALL,
    )
    return exp.run()


def experiment_clamped():
    """Time to first spike, the ANN trained with the clamped ReLU."""
    exp = Experiment(
        name="experiment_clamped",
        tensorboard_title="ttfs-clamped-mnist(28x28)",
        batch_size_ann_training=64,
        batch_size_snn_eval=8,
        timesteps=125,
        max_rate=2,
        epochs=1,
        norm_percentile=99.99,
        tau=1024,
        threshold=10,
        beta=2**-16,
        encoding="ttfs_clamped",
        image_size_rescale=None,
        image_depth_increase=None,
        training_function=train_network_base,
        force_training=True,
        disable_training_accuracy=True,
        **SMALL,
    )
    return exp.run()


def experiment_repeated(name="experiment_repeated", timesteps=120, repetitions=2):
    """The same experiment again and again, or, with `timesteps=[start, stop]`, once for every number between."""
    expa = RepeatedExperiment(
        name=name,
        tensorboard_title=f"valid_exp25_dynthresh_{name}",
        batch_size_ann_training=64,
        batch_size_snn_eval=8,
        timesteps=timesteps,
        max_rate=2,
        epochs=1,
        norm_percentile=99.99,
        tau=1024,
        threshold=30,
        beta=2**-16,
        encoding="ttfs_dyn_thresh",
        image_size_rescale=[28, 28],
        image_depth_increase=True,
        training_function=train_network_lenet5_maxpool_extensions,
        force_training=True,
        disable_training_accuracy=True,
        repetitions=repetitions,
        dataset=DATASET,
        max_images=16,
    )
    return expa.run_repeat(timestep_analysis=False)


if __name__ == "__main__":
    metrics, accuracy_per_timestep = experiment_base()
    print(f"ttfs: ANN {metrics['ann/eval/test']:.1%}, SNN {metrics['snn/eval/test']:.1%}")
    print(f"rate: SNN {experiment_rate()['snn/eval/test']:.1%}")
    print(f"ttfs_clamped: SNN {experiment_clamped()['snn/eval/test']:.1%}")
    experiment_repeated()
    experiment_repeated(name="experiment_steps", timesteps=[118, 120])
