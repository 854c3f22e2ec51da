"""Defaults, advice and what the project demands: what was measured, or stands in its files."""

import contextlib
import re
import sys
from pathlib import Path
from unittest import mock

from attempts import attempt, convert

MEASURED = "Defaults and advice"
MODELS = Path(__file__).resolve().parents[1] / "models"


@attempt(
    MEASURED,
    "`rate` by default, T = 64: little of the VGG's accuracy on 300 test images",
    "test_the_threshold_follows_from_the_steps_and_the_depth",
)
def default_of_rate():
    import keras

    from ann_training import load_dataset

    data = load_dataset("cifar10", max_images=1000)
    ann = keras.models.load_model(MODELS / "vgg16_slim_cifar10.keras", compile=False)
    x, y = data.x_test[:300], data.y_test[:300]
    snn = convert(ann, data.x_train, "rate")
    right = [float((model.predict(x, verbose=0).argmax(-1) == y).mean()) for model in (ann, snn)]
    return f"T = {snn.timesteps}: {100 * (right[0] - right[1]):.1f} points lost"


def _lenet():
    from ann_training import Training, load_dataset, train_network_lenet5_maxpool

    data = load_dataset("mnist_sample")
    return train_network_lenet5_maxpool(Training(epochs=3), data.train, data.test), data


@attempt(
    MEASURED,
    "`ttfs` by default, T = 120: little of LeNet-5's accuracy",
    "test_the_threshold_follows_from_the_steps_and_the_depth",
)
def default_of_ttfs():
    from conversion import ann_accuracy, snn_accuracy

    ann, data = _lenet()
    snn = convert(ann, data.x_train[:1000], "ttfs", 120)
    lost = ann_accuracy(ann, data.x_test, data.y_test) - snn_accuracy(snn, data.x_test, data.y_test)
    return f"{100 * lost:.1f} points lost"


@attempt(
    MEASURED,
    "Advice on `ttfs_dyn_thresh`, T = 60, θ = 10: followed, it does not harm",
    "test_the_best_step_is_named_where_more_steps_harm",
)
def advice_on_steps():
    from conversion import diagnose, snn_accuracy

    ann, data = _lenet()

    def made(steps):
        return convert(ann, data.x_train[:1000], "ttfs_dyn_thresh", steps, threshold=10)

    told = str(diagnose(ann, made(60), data.x_train[:200]))
    advised = re.search(r"[Tt]ake about ([\d,]+) time steps", told)
    if not advised:
        return "no number of steps is advised"
    steps = int(advised[1].replace(",", ""))
    before, after = (snn_accuracy(made(each), data.x_test, data.y_test) for each in (60, steps))
    return f"{steps} steps advised: {before:.1%} before, {after:.1%} after"


DEMANDS = "What the project demands"


@attempt(
    DEMANDS,
    "Keras and matplotlib in the versions that were tried, an SPDX licence, `py.typed`",
    "test_least_versions_are_those_of_the_readme",
    "test_keras_and_matplotlib_that_failed_are_not_taken",
    "test_licence_is_an_spdx_expression",
)
def demands():
    checkout = Path(sys.path[0])
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = re.findall(r"^dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    licence = re.search(r"^license = (.*)", text, re.MULTILINE)[1]
    typed = "there" if list(checkout.glob("**/py.typed")) else "missing"
    return f"{' '.join(line.split())}; licence {licence}; py.typed {typed}"


@attempt(DEMANDS, "`spiking.__version__`", "test_version_is_that_of_the_changelog")
def version():
    import spiking

    return spiking.__version__


@attempt(
    DEMANDS,
    "A user without a home reads the data that is there",
    "test_a_user_without_a_home_reads_what_is_there",
    "test_without_a_home_the_folder_is_refused_by_name",
)
def no_home():
    from ann_training import load_dataset

    homeless = RuntimeError("Could not determine home directory.")
    with contextlib.ExitStack() as stack:
        for name in ("expanduser", "home"):
            stack.enter_context(mock.patch.object(Path, name, side_effect=homeless))
        return f"{len(load_dataset('mnist').x_test)} test images"
