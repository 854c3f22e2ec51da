"""What version 0.1 got wrong without a word, or refused though right: makes docs/RIGHT_OR_REFUSED.md.

    git worktree add ../v0.1 294fd50
    python benchmarks/right_or_refused.py             # what is missing in docs/right_or_refused.json, then the page
    python benchmarks/right_or_refused.py --again     # everything anew, some minutes
    python benchmarks/right_or_refused.py endless     # this attempt on today's code, to the screen

An attempt uses what both versions have in common and tells what came out: values, or the error. Each version runs in a
process of its own; an attempt that hangs is ended after some minutes.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
ROOT = Path(__file__).resolve().parents[1]
TESTS, RESULTS, PAGE = ROOT / "tests", ROOT / "docs" / "right_or_refused.json", ROOT / "docs" / "RIGHT_OR_REFUSED.md"
ATTEMPTS, SECONDS = {}, 240
VERSIONS = ("0.1", "today")


def attempt(kind: str, what: str, *tests: str):
    """Registers a function that returns what came out.

    Args:
        kind: the heading of its row.
        what: is tried, and what is right.
        tests: the names of those that hold it.
    """

    def register(function):
        ATTEMPTS[function.__name__] = (kind, what, tests, function)
        return function

    return register


def run_all(checkout: str, names) -> dict[str, str]:
    """Attempts on the code of a folder, which comes first on the path."""
    sys.path.insert(0, checkout)
    from spiking import __file__ as found

    if not Path(found).resolve().is_relative_to(Path(checkout).resolve()):
        raise RuntimeError(f"{found} is not of {checkout}.")
    return {name: outcome(ATTEMPTS[name][-1]) for name in names}


def outcome(function) -> str:
    """What an attempt tells: values, the error, the warnings."""

    def too_long(*args):
        raise TimeoutError(f"still running after {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setLevel(logging.WARNING)
    logger = logging.getLogger()
    logger.addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            told = str(function())
    except Exception as error:  # whatever it is, it is what came out
        told = f"{type(error).__name__}: {error}"
    except SystemExit as error:
        told = f"ends with {error.code}"
    finally:
        signal.alarm(0)
        os.chdir(ROOT)
        logger.removeHandler(handler)
    warned = log.getvalue().split("\n")[0]
    for place in (sys.path[0], folder):
        told = told.replace(f"{place}/", "")
    return short(told + (f". Warning: {warned}" if warned and "retracing" not in warned else ""))


def short(text: str, most: int = 160) -> str:
    """One line of a table."""
    text = " ".join(text.split()).replace("|", "¦")
    return text if len(text) <= most else text[: most - 2] + " …"


# ---------------------------------------------------------------------------------------------------------------------
# Networks and measures


def chain(shape, *layers, seed: int = 0):
    """A Sequential with random weights and small biases."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(seed)
    ann = keras.Sequential([keras.Input(shape), *layers])
    rng = np.random.default_rng(seed)
    for layer in ann.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return ann


def pictures(*shape, number: int = 64, top: float = 1.0):
    """Random images."""
    import numpy as np

    return (np.random.default_rng(1).random((number, *shape)) * top).astype(np.float32)


def convert(ann, images, encoding="ttfs_exact", timesteps=64, **options):
    """As users do."""
    from conversion import convert_ann_to_snn

    return convert_ann_to_snn(ann, images, encoding, timesteps, **options)


def relative(found, expected) -> str:
    """Largest difference, relative to the largest value."""
    import numpy as np

    found, expected = np.asarray(found), np.asarray(expected)
    return f"off by {np.abs(found - expected).max() / np.abs(expected).max():.1%}"


def difference(ann, x, **options) -> str:
    """How far the SNN is from the ANN."""
    return relative(convert(ann, x, **options)(x), ann(x, training=False))  # augmentation is on unless told


def layers():
    """keras.layers, imported late: the process chooses the code first."""
    from keras import layers

    return layers


def dense(units=8, activation="relu", **options):
    return layers().Dense(units, activation=activation, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Wrong results

POOLS = "Maxima of what is no spike"


def stock(snn, x):
    """By stock Keras' own layers."""
    import keras

    if hasattr(snn, "wiring"):
        return keras.Model(snn.inputs, snn.outputs)([x])
    return keras.Sequential([keras.Input(x.shape[1:]), *snn.layers])(x)


@attempt(
    POOLS,
    "`AveragePooling` then `MaxPooling`, pixels 1, 0, ½, ½: ½ by clock, closed form and ANN",
    "test_average_then_maximum",
    "test_the_difficult_orders_come_up",
)
def average_then_maximum():
    import numpy as np

    kl = layers()
    ann = chain((4, 1, 1), kl.Conv2D(1, 1, activation="relu"), kl.AveragePooling2D((2, 1)), kl.MaxPooling2D((2, 1)),
                kl.Flatten(), kl.Dense(1))  # fmt: skip
    for layer in (ann.layers[0], ann.layers[-1]):
        layer.set_weights([np.ones_like(layer.get_weights()[0]), np.zeros(1)])
    x = np.array([1, 0, 0.5, 0.5], np.float32).reshape(1, 4, 1, 1)
    snn = convert(ann, x, timesteps=4, normalisation="max", per_channel=False)
    return f"clock {float(stock(snn, x)[0, 0]):g}, closed form {float(snn(x)[0, 0]):g}"


@attempt(POOLS, "`MaxPooling` over channels with a λ each", "test_a_maximum_over_channels_needs_neurons")
def maximum_over_channels():
    import numpy as np

    kl = layers()
    ann = chain((4, 4, 2), kl.Conv2D(2, 1, activation="relu"), kl.Permute((3, 1, 2)), kl.MaxPooling2D(2), kl.Flatten(),
                kl.Dense(2))  # fmt: skip
    ann.layers[0].set_weights([np.diag([0.5, 4.0]).reshape(1, 1, 2, 2), np.zeros(2)])
    x = pictures(4, 4, 2)
    return difference(ann, x, normalisation="max", per_channel=True)


@attempt(
    "Affine layers in front",
    "`Normalization` adapted on a feature that never changes: the ANN's own output",
    "test_a_feature_that_never_changes_stays_where_it_is",
)
def constant_feature():
    kl, x = layers(), pictures(4)
    x[:, 0] = 0.7
    normalisation = kl.Normalization()
    normalisation.adapt(x)
    return difference(chain((4,), normalisation, dense(), kl.Dense(3)), x)


OWN_CALL = "A `call` of one's own"


@attempt(
    OWN_CALL,
    "A subclass of `Sequential` that halves: the same within rounding, or refused",
    "test_a_sequential_with_its_own_call_is_traced_and_not_taken_for_its_layers",
)
def own_sequential():
    import keras

    class Halving(keras.Sequential):
        def call(self, x, training=None, mask=None):
            return 0.5 * super().call(x)

    return difference(Halving([keras.Input((4,)), dense(), layers().Dense(3)]), pictures(4))


@attempt(
    OWN_CALL,
    "A subclass of a functional model that negates: the same, or refused",
    "test_a_functional_model_with_its_own_call_is_traced",
)
def own_functional():
    import keras

    class Negating(keras.Model):
        def call(self, x, training=None, mask=None):
            return -super().call(x)

    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    return difference(Negating(x, layers().Dense(3)(dense()(x))), pictures(4))


UNITS = "Activations far from 1"


@attempt(
    UNITS,
    "A layer's weights times 1e8, the next one's times 1e−8: the same function",
    "test_layers_in_other_units_convert_to_the_same_network",
)
def large_units():
    return _other_units(1e8)


@attempt(UNITS, "… times 1e−8 and 1e8", "test_layers_in_other_units_convert_to_the_same_network")
def small_units():
    return _other_units(1e-8)


def _other_units(factor):
    ann, x = chain((8,), dense(), layers().Dense(3)), pictures(8)
    first, last = (ann.layers[k].get_weights() for k in (0, 1))
    ann.layers[0].set_weights([first[0] * factor, first[1] * factor])
    ann.layers[1].set_weights([last[0] / factor, last[1]])
    return difference(ann, x)


COUNTS = "More than numbers count"


@attempt(COUNTS, "timesteps=2³¹: refused", "test_more_steps_than_can_be_counted_are_refused_before_any_work")
def many_steps():
    ann = chain((4,), dense(), dense(), layers().Dense(3))
    return difference(ann, pictures(4), encoding="rate", timesteps=2**31)


@attempt(COUNTS, "A threshold of 1e40: refused", "test_thresholds_that_float32_cannot_count_with_are_refused")
def huge_threshold():
    return difference(chain((4,), dense(), layers().Dense(3)), pictures(4), encoding="rate", threshold=1e40)


EDGES = "Networks at the edge"


@attempt(EDGES, "`ReLU(max_value=0)`: refused", "test_what_gives_no_numbers_is_refused_by_name")
def ceiling_of_zero():
    kl = layers()
    ann = chain((4,), kl.Dense(4), kl.ReLU(max_value=0.0), kl.Dense(3))
    return convert(ann, pictures(4), encoding="rate")(pictures(4))[0].numpy()


@attempt(EDGES, "`verify` and analysis of a network without hidden neurons", "test_a_network_without_hidden_neurons")
def no_neurons():
    import numpy as np

    from conversion import snn_activation_analysis, verify

    ann, x = chain((4,), layers().Dense(3)), pictures(4)
    snn = convert(ann, x, "rate")
    told = f"largest difference {verify(ann, snn, x).largest_difference:.1g}"
    snn_activation_analysis(snn, x, np.zeros(len(x), int))
    return told


@attempt(EDGES, "Images of another size: refused, as the ANN does", "test_images_of_another_size_are_refused")
def other_size():
    kl = layers()
    ann = chain((8, 8, 1), kl.Conv2D(2, 3, activation="relu"), kl.GlobalAveragePooling2D(), kl.Dense(2))
    return f"taken, {convert(ann, pictures(8, 8, 1)).simulate(pictures(12, 12, 1)).output.shape}"


@attempt(EDGES, "BatchNorm with a negative variance: refused", "test_what_gives_no_numbers_is_refused_by_name")
def negative_variance():
    kl = layers()
    ann = chain((4,), kl.Dense(4), kl.BatchNormalization(), kl.ReLU(), kl.Dense(3))
    ann.layers[1].moving_variance.assign([-1.0] * 4)
    return convert(ann, pictures(4))(pictures(4))[0].numpy()


@attempt(EDGES, "`verify` where the ANN gives NaN: said so", "test_an_ann_that_gives_nan")
def nan_of_the_ann():
    import numpy as np

    from conversion import verify

    ann, x = chain((4,), dense(), dense(3, "softmax")), pictures(4)
    snn = convert(ann, x)
    ann.layers[0].set_weights([np.full((4, 8), 1e38), np.zeros(8)])
    ann.layers[1].set_weights([np.full((8, 3), 1e38), np.zeros(3)])
    return str(verify(ann, snn, x)).replace("\n", " ")


TASKS = "Tasks without classes"


@attempt(
    TASKS,
    "`verify`, one sigmoid unit, against an SNN that says the opposite: below 100%",
    "test_one_probability_has_a_threshold",
)
def opposite_answers():
    from conversion import verify

    x = pictures(4)
    ann = chain((4,), dense(), layers().Dense(1, activation="sigmoid"))
    opposite = chain((4,), dense(), layers().Dense(1, activation="sigmoid"))
    opposite.set_weights([*ann.get_weights()[:2], -ann.get_weights()[2], 1 - ann.get_weights()[3]])
    ann.layers[-1].bias.assign([-1.0])
    opposite.layers[-1].bias.assign([3.0])
    return f"same class {verify(ann, convert(opposite, x), x).same_class:.0%}"


@attempt(TASKS, "Labels 0 and 1 of one sigmoid unit", "test_one_sigmoid_unit_says_yes_above_a_half")
def labels_of_one_unit():
    import numpy as np

    from conversion import ann_accuracy

    ann, x = chain((4,), dense(), layers().Dense(1, activation="sigmoid")), pictures(4)
    labels = (np.asarray(ann(x))[:, 0] > 0.5).astype(int)
    labels[:2] = 0, 1
    return f"accuracy {ann_accuracy(ann, x, labels):.0%}"


@attempt(TASKS, "All labels 0, one sigmoid unit that says yes: 0%", "test_one_sigmoid_unit_says_yes_above_a_half")
def labels_of_zero():
    import numpy as np

    from conversion import ann_accuracy

    ann, x = chain((4,), dense(), layers().Dense(1, activation="sigmoid")), pictures(4)
    ann.layers[-1].bias.assign([9.0])
    return f"accuracy {ann_accuracy(ann, x, np.zeros(len(x), int)):.0%}"


@attempt(TASKS, "`diagnose` on an image output: no share above 100%", "test_an_image_output_has_no_share_above_all")
def diagnosed_image():
    from conversion import diagnose

    kl = layers()
    ann, x = chain((8, 8, 1), kl.Conv2D(4, 3, padding="same", activation="relu"), kl.Conv2D(2, 1)), pictures(8, 8, 1)
    return str(diagnose(ann, convert(ann, x), x)).split("\n")[0]


CALIBRATION = "A calibration that does not fit"


@attempt(
    CALIBRATION,
    '`normalisation="max"` beside a finished one: refused',
    "test_settings_that_contradict_a_finished_calibration_are_refused",
)
def contradicted():
    from conversion import calibrate

    ann, x = chain((4,), dense(), layers().Dense(3)), pictures(4)
    convert(ann, calibrate(ann, x), normalisation="max", norm_percentile=50.0)
    return "taken, the settings ignored"


@attempt(
    CALIBRATION,
    "One of another network with the same layer names: refused",
    "test_another_network_with_the_same_names_is_refused",
)
def of_another_network():
    from conversion import calibrate

    x = pictures(4)
    ann, other = (chain((4,), dense(name="a"), layers().Dense(3, name="b"), seed=seed) for seed in (0, 1))
    other.layers[0].set_weights([weight / 100 for weight in other.layers[0].get_weights()])
    return f"taken, {relative(convert(ann, calibrate(other, x))(x), ann(x))}"


@attempt(
    CALIBRATION,
    "Images in [0, 255] on a network calibrated in [0, 1]: warned of, with both ranges",
    "test_images_of_another_scale_than_the_calibrations",
)
def other_scale():
    import numpy as np

    from conversion import snn_accuracy

    ann, x = chain((4,), dense(), layers().Dense(3)), pictures(4)
    snn_accuracy(convert(ann, x), 255 * x, np.zeros(len(x), int))
    return "taken"


@attempt(CALIBRATION, "`norm_percentile=0.999`, meant as 99.9: warned of", "test_a_low_percentile_is_warned_of")
def low_percentile():
    convert(chain((4,), dense(), layers().Dense(3)), pictures(4), normalisation="percentile", norm_percentile=0.999)
    return "taken"


@attempt(CALIBRATION, "Weights of nearly dead channels, λ per channel: bounded", "test_the_floor_bounds_the_weights")
def dead_channels():
    import numpy as np

    ann, x = chain((4,), dense(4), layers().Dense(3)), pictures(4)
    kernel, bias = np.eye(4), np.zeros(4)
    bias[0] = 0.002 - x[:, 0].max()
    ann.layers[0].set_weights([kernel, bias])
    snn = convert(ann, x, normalisation="max", per_channel=True)
    largest = max(float(np.abs(np.asarray(weight)).max()) for weight in snn.hidden_layers[0].get_weights())
    return f"largest weight {largest:.3g}, the others 1"


# ---------------------------------------------------------------------------------------------------------------------
# Refused or crashed, though right

FORMS = "Forms of images"


def _pictures_as(dtype):
    import numpy as np

    kl = layers()
    ann = chain((6, 6, 1), kl.Rescaling(1 / 255), kl.Conv2D(3, 3, activation="relu"), kl.Flatten(), kl.Dense(3))
    x = pictures(6, 6, 1)
    x = x > 0.5 if dtype == "bool" else (255 * x).astype(dtype)
    snn = convert(ann, x.astype(np.float32), timesteps=256)
    return relative(snn.predict(x, verbose=0), ann.predict(x, verbose=0))


@attempt(FORMS, "uint8", "test_images_of_any_dtype_and_without_the_channel_axis")
def images_uint8():
    return _pictures_as("uint8")


@attempt(FORMS, "bool", "test_images_of_any_dtype_and_without_the_channel_axis")
def images_bool():
    return _pictures_as("bool")


@attempt(FORMS, "`(n, H, W)` for one channel", "test_images_of_any_dtype_and_without_the_channel_axis")
def images_without_channel():
    kl = layers()
    ann = chain((6, 6, 1), kl.Conv2D(3, 3, activation="relu"), kl.Flatten(), kl.Dense(3))
    x = pictures(6, 6)
    return relative(convert(ann, x, timesteps=256)(x), ann(x[..., None]))


@attempt(FORMS, "The mixed_float16 policy", "test_under_another_policy")
def mixed_policy():
    import keras

    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return difference(chain((4,), dense(), layers().Dense(3)), pictures(4), timesteps=256)
    finally:
        keras.mixed_precision.set_global_policy("float32")


@attempt(FORMS, "Calibration as `(x, y)`", "test_the_same_images_from_every_form", "test_calibration_takes_every_form")
def pairs():
    import numpy as np

    ann, x = chain((4,), dense(), layers().Dense(3)), pictures(4)
    return relative(convert(ann, (x, np.zeros(len(x), int)), timesteps=256)(x), ann(x))


@attempt(FORMS, "A `keras.utils.PyDataset`", "test_the_same_images_from_every_form")
def py_dataset():
    import keras
    import numpy as np

    x = pictures(4)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, k):
            return x[16 * k : 16 * k + 16], np.zeros(16, int)

    ann = chain((4,), dense(), layers().Dense(3))
    return relative(convert(ann, Batches(), timesteps=256)(x), ann(x))


@attempt(
    FORMS, "Data without end, `ds.repeat()`: refused", "test_a_generator_that_never_ends_is_stopped", "test_refused"
)
def endless():
    import tensorflow as tf

    convert(chain((4,), dense(), layers().Dense(3)), tf.data.Dataset.from_tensor_slices(pictures(4)).batch(16).repeat())
    return "taken"


@attempt(FORMS, "A network with a dict of outputs in `verify`", "test_outputs_in_a_dict", "test_outputs_in_a_dict")
def dict_output():
    import keras

    from conversion import verify

    x = keras.Input((4,))
    hidden = dense()(x)
    ann = keras.Model(x, {"a": layers().Dense(3)(hidden)})
    return f"same class {verify(ann, convert(ann, pictures(4)), pictures(4)).same_class:.0%}"


NAMES = "Other words for the same"


@attempt(NAMES, "`activation=tf.nn.relu`", "test_a_relu_under_another_name")
def relu_of_tensorflow():
    import tensorflow as tf

    return difference(chain((4,), dense(activation=tf.nn.relu), layers().Dense(3)), pictures(4), timesteps=256)


@attempt(NAMES, "A read-out with `keras.ops.softmax`", "test_any_activation_at_the_end")
def softmax_of_ops():
    import keras

    return difference(chain((4,), dense(), dense(3, keras.ops.softmax)), pictures(4), timesteps=256)


@attempt(NAMES, "A layer object used three times", "test_a_layer_used_three_times")
def used_thrice():
    import keras

    x, shared = keras.Input((4,)), dense(4)
    keras.utils.set_random_seed(3)
    return difference(keras.Model(x, layers().Dense(3)(shared(shared(shared(x))))), pictures(4), timesteps=256)


@attempt(NAMES, "Layers called `_hidden`, `input_spikes`, `a b`", "test_names_that_are_also_ours")
def names_of_layers():
    ann = chain((4,), dense(name="_hidden"), dense(name="input_spikes"), dense(name="a b"), layers().Dense(3))
    return difference(ann, pictures(4), timesteps=256)


@attempt(NAMES, "`Dense(sigmoid)`, then `Reshape`", "test_values_that_are_only_moved_behind_the_last_activation")
def reshaped_read_out():
    ann = chain((4,), dense(), dense(4, "sigmoid"), layers().Reshape((2, 2)))
    return difference(ann, pictures(4), timesteps=256)


@attempt(NAMES, "`RandomFlip`", "test_augmentation_is_dropped")
def augmentation():
    kl = layers()
    ann = chain((6, 6, 1), kl.RandomFlip(), kl.Conv2D(3, 3, activation="relu"), kl.Flatten(), kl.Dense(3))
    return difference(ann, pictures(6, 6, 1), timesteps=256)


@attempt(NAMES, "`MaxPooling3D`", "test_layers_of_volumes_and_sequences")
def volumes():
    kl = layers()
    ann = chain((4, 4, 4, 1), kl.Conv3D(2, 1, activation="relu"), kl.MaxPooling3D(2), kl.Flatten(), kl.Dense(3))
    return difference(ann, pictures(4, 4, 4, 1), timesteps=256)


REFUSALS = "Refusals that help"


@attempt(REFUSALS, "LoRA: merged", "test_lora_is_merged")
def lora():
    import numpy as np

    ann = chain((4,), dense(name="a"), layers().Dense(3))
    ann.layers[0].enable_lora(2)
    for weight in ann.layers[0].trainable_weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    return difference(ann, pictures(4), timesteps=256)


@attempt(REFUSALS, "An int8-quantised layer: refused by its name", "test_what_gives_no_numbers_is_refused_by_name")
def quantised():
    ann = chain((4,), dense(name="a"), layers().Dense(3))
    ann.layers[0].quantize("int8")
    return difference(ann, pictures(4))


@attempt(REFUSALS, '`snn.save("x.h5")`: refused with the remedy, or a file that loads', "test_hdf5_is_refused")
def hdf5():
    import keras

    convert(chain((4,), dense(), layers().Dense(3)), pictures(4)).save("x.h5")
    keras.models.load_model("x.h5")
    return "saved and loaded"


@attempt(REFUSALS, "A model of Keras 2: named, with the way out", "test_models_of_keras_2_are_named_with_the_way_out")
def keras_2():
    model = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})
    return convert(model(), pictures(4))


@attempt(
    REFUSALS,
    "Three layers that cannot be converted: all are named",
    "test_all_that_cannot_be_converted_is_listed_at_once",
)
def all_at_once():
    kl = layers()
    ann = chain((4,), kl.LayerNormalization(name="first"), dense(activation=None, name="second"),
                kl.LayerNormalization(name="third"), kl.GroupNormalization(2, name="fourth"), kl.Dense(3))  # fmt: skip
    try:
        convert(ann, pictures(4))
    except ValueError as error:
        return "named: " + ", ".join(name for name in ("first", "third", "fourth") if f"'{name}'" in str(error))
    return "taken"


@attempt(
    REFUSALS,
    "uint16 images: not to be cast to uint8, which destroys them",
    "test_the_remedies_lead_to_data_that_is_taken",
)
def uint16_images():
    import numpy as np

    from ann_training import load_dataset

    x, y = (pictures(4, 4, number=20) * 60000).astype(np.uint16), np.arange(20) % 3
    return load_dataset(((x, y), (x, y))).name


# ---------------------------------------------------------------------------------------------------------------------
# Data, runs and searches

DATA = "Data"


def load(labels, number=20):
    import numpy as np

    from ann_training import load_dataset

    x = pictures(4, 4, number=number)
    data = load_dataset(((x, np.asarray(labels)), (x, np.asarray(labels))))
    return f"taken, labels from {data.y_train.min()} to {data.y_train.max()}"


@attempt(DATA, "A label of 2³² + 1: refused", "test_bad_data_is_refused")
def wrapped_label():
    return load([0, 1, 2**32 + 1, 3] * 5)


@attempt(DATA, "Labels that are strings: refused clearly", "test_bad_data_is_refused")
def string_labels():
    return load(["cat", "dog"] * 10)


@attempt(DATA, "One byte of an `.npz` wrong, at many places: ValueError with one sentence", "test_npz_that_is_damaged")
def damaged_npz():
    import numpy as np

    from ann_training import load_dataset

    x, y = pictures(9, 9, number=20), np.arange(20) % 3
    np.savez_compressed("a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    content, found = Path("a.npz").read_bytes(), {}
    for place in range(0, len(content), 50):
        Path("a.npz").write_bytes(content[:place] + bytes([255 - content[place]]) + content[place + 1 :])
        try:
            load_dataset("a.npz")
        except Exception as error:
            found[type(error).__name__] = 1 + found.get(type(error).__name__, 0)
    return found


@attempt(DATA, "A `data_dir` without the file: refused", "test_a_data_dir_without_the_file_takes_no_other_copy")
def mistyped_folder():
    import numpy as np

    from ann_training import load_dataset

    x, y = pictures(28, 28, number=20), np.arange(20) % 10
    Path("right").mkdir()
    np.savez("right/mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    os.environ["SPIKING_DATA_DIR"] = "right"
    try:
        return f"takes another copy, {len(load_dataset('mnist', data_dir='rihgt').x_train)} images"
    finally:
        del os.environ["SPIKING_DATA_DIR"]


@attempt(DATA, "`batch_size=-1`: refused", "test_batch_size_refused")
def negative_batch():
    import numpy as np

    from conversion import snn_accuracy

    ann, x = chain((4,), dense(), layers().Dense(3)), pictures(4)
    return f"accuracy {snn_accuracy(convert(ann, x), x, np.zeros(len(x), int), batch_size=-1):.0%}"


RUNS = "Runs and searches"
SMALL = {"name": "a", "encoding": "rate", "timesteps": 4, "dataset": "mnist_sample", "training_function": "denseonly1",
         "epochs": 1, "max_images": 40}  # fmt: skip


@attempt(
    RUNS,
    "A results folder behind a link that leads nowhere: refused in time",
    "test_a_link_that_leads_nowhere_is_refused_in_time",
)
def dangling_link():
    from experiment import Experiment

    Path("runs").symlink_to("gone")
    Experiment(**SMALL, results_dir="runs").run()
    return "runs"


@attempt(
    RUNS,
    "A name of 200 Chinese characters, 600 bytes: refused before any work",
    "test_names_that_no_folder_can_have_are_refused",
)
def long_name():
    from experiment import Experiment

    Experiment(name="運" * 200, dataset="mnist_sample", encoding="rate", timesteps=4)
    return "taken"


def searched(objective, trials=3):
    from optimization import DiscreteInterval, OptimizableValue, search

    return search(objective, [OptimizableValue("x", DiscreteInterval(0, 9))], trials, "value", folder="s")


@attempt(
    RUNS,
    "A trial that a full disk ended is done again on resuming",
    "test_what_failed_for_a_passing_reason_is_tried_again",
)
def passing_failure():
    calls = []

    def objective(x):
        calls.append(x)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return {"value": 1.0}

    searched(objective)
    searched(objective)
    return f"{len(calls)} runs for 3 trials of which one failed"


@attempt(RUNS, "Cells of tables that begin with =", "test_cells_that_spreadsheets_would_run_are_made_harmless")
def formula():
    searched(lambda x: {"value": 1.0, "text": "=1+2"})
    cells = Path("s/trials.csv").read_text().replace("\n", ",").split(",")
    return "in the table: " + next(cell for cell in cells if "1+2" in cell)


@attempt(RUNS, "An axis called `n` keeps its values 5 and 6", "test_an_axis_keeps_its_values_whatever_its_name")
def axis_n():
    from optimization import RepeatedExperiment

    rows = RepeatedExperiment(lambda seed, n: {"value": 10.0 * n}, 2, grid={"n": [5, 6]}, folder="r").run()
    return "axis in the summary: " + ", ".join(sorted({str(row.get("argument/n", row["n"])) for row in rows}))


@attempt(RUNS, "`tau=5.0` for a code that has no leak: refused", "test_a_leak_that_no_code_knows_is_refused")
def unknown_setting():
    from experiment import Experiment

    Experiment(dataset="mnist_sample", encoding="ttfs_exact", timesteps=4, tau=5.0)
    return "taken"


@attempt(RUNS, "`--help` tells the defaults that are so", "test_help_says_what_is_so")
def help_text():
    from experiment import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(["--help"])
    text = " ".join(out.getvalue().split())
    return text[text.index("--training-accuracy evaluate") :].split("--")[1]


@attempt(RUNS, "`--max-rate` and codes' options on the command line", "test_main_hands_options_on_in_their_types")
def options_on_the_command_line():
    from experiment import argument_parser

    with contextlib.redirect_stderr(io.StringIO()):
        argument_parser().parse_args("--max-rate 0.5 --option tau=9".split())
    return "taken"


@attempt(
    RUNS,
    "`plotting.py` of the user's beside the script: figures by the toolbox's own",
    "test_figures_are_drawn_beside_a_file_called_plotting",
    "test_the_metrics_are_there_before_anything_that_may_fail",
    "test_what_cannot_be_written_loses_nothing_else",
)
def sibling():
    checkout = sys.path[0]
    Path("plotting.py").write_text("colours = 3\n")
    code = f"import sys; sys.path.append({checkout!r}); from experiment import Experiment; Experiment(**{SMALL}).run()"
    Path("script.py").write_text(code)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else f"{len(list(Path().rglob('*.png')))} figures"


@attempt(
    RUNS,
    "The main job warns of nothing",
    "test_the_main_job_names_its_phases_and_warns_of_nothing",
    "test_the_ann_is_read_once_and_the_test_images_are_simulated_once",
)
def main_job():
    command = [
        sys.executable,
        str(Path(sys.path[0]) / "experiment.py"),
        "--network",
        "denseonly1",
        "--epochs",
        "1",
        "--max-images",
        "30",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "warn" in line.lower() or "retracing" in line]
    return f"{len(lines)} lines of warnings"


@attempt(RUNS, "The original's values: `image_size_rescale=[28, 28]`, `tau=999999.0`, `max_rate=2`", "test_base")
def original():
    from experiment import Experiment

    given = {
        "threshold": 10,
        "tau": 999999.0,
        "max_rate": 2,
        "image_size_rescale": [28, 28],
        "image_depth_increase": False,
    }
    Experiment(**{**SMALL, "encoding": "ttfs"}, **given, tensorboard_title="")
    return "taken"


@attempt(
    RUNS,
    "Deterministic operations give other weights, so another key of the cache",
    "test_deterministic_operations_give_other_weights_and_another_key",
)
def cache_key():
    import tensorflow as tf

    from ann_training import Training, load_dataset, train_network_denseonly1

    data = load_dataset("mnist_sample", max_images=60)
    for deterministic in (False, True):
        if deterministic:
            tf.config.experimental.enable_op_determinism()
        train_network_denseonly1(Training(epochs=1, ann_cache_dir=Path("anns")), data.train, data.test)
    return f"{len(list(Path('anns').glob('*.keras')))} networks kept"


# ---------------------------------------------------------------------------------------------------------------------
# The page

HEAD = """What version 0.1 (commit 294fd50) got wrong without a word, or refused though right, beside what happens now,
and the tests that hold it. Made by `python benchmarks/right_or_refused.py`; long messages are cut. Off by: the SNN's
largest difference from the ANN, relative to the largest score, at 64 or 256 levels, so that rounding is up to a
percent."""

ELSEWHERE = """## Shown elsewhere

- The advice of the diagnosis that harmed (`ttfs_dyn_thresh`, T = 60: "about 567 time steps"): docs/DIAGNOSIS.md, where
  each advice is followed and measured; `test_the_best_step_is_named_where_more_steps_harm`.
- Memory of a conversion (`Dense(16384)`, 224², VGG-16), before and after, and the main job: docs/PERFORMANCE.md;
  `test_memory_follows_the_bins_that_occur`,
  `test_a_kernel_is_rescaled_without_further_copies`.
- Defaults as measured: docs/DEFAULTS.md; `test_the_threshold_follows_from_the_steps_and_the_depth`.
- What pip must refuse, licence, version, source distribution: `tests/test_packaging.py`.
- Racing probes of folders, users without a home, power cuts, damaged caches: `tests/spiking/test_runs.py`,
  `tests/test_ann_training.py`. Ctrl-C: `test_ctrl_c_tells_what_is_there`.
"""


def places(test: str) -> list[str]:
    """A test with its file below tests/, or several of that name."""
    files = [path for path in TESTS.rglob("test_*.py") if f"def {test}(" in path.read_text(encoding="utf-8")]
    if not files:
        raise ValueError(f"There is no test {test}.")
    return sorted(f"{path.relative_to(TESTS).as_posix()}::{test}" for path in files)


def page(results: dict) -> str:
    """docs/RIGHT_OR_REFUSED.md."""
    lines = ["# Right or refused", "", HEAD, ""]
    for kind in dict.fromkeys(kind for kind, *_ in ATTEMPTS.values()):
        lines += [f"## {kind}", "", "| tried, and what is right | 0.1 | today | test |", "| --- | --- | --- | --- |"]
        for name, (own, what, tests, _) in ATTEMPTS.items():
            if own == kind:
                before, now = (results[version][name].replace("<", "&lt;") for version in VERSIONS)
                held = "<br>".join(f"`{place}`" for test in dict.fromkeys(tests) for place in places(test))
                lines.append(f"| {what} | {before} | {now} | {held} |")
        lines.append("")
    return "\n".join(lines) + "\n" + ELSEWHERE


def measured(checkout: Path, names) -> dict[str, str]:
    """`run_all` in a process of its own."""
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run([sys.executable, __file__, "--run", str(checkout), "--into", file.name, *names], check=True)
        return json.loads(Path(file.name).read_text(encoding="utf-8"))


def main(arguments=None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="attempts to make on today's code, to the screen")
    parser.add_argument("--again", action="store_true", help="try everything anew")
    parser.add_argument("--before", type=Path, default=ROOT.parent / "v0.1", help="where version 0.1 is checked out")
    parser.add_argument("--run", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.names:
        found = run_all(str(chosen.run), chosen.names)
        if chosen.into:
            chosen.into.write_text(json.dumps(found), encoding="utf-8")
        else:
            print("\n".join(f"{name}: {told}" for name, told in found.items()))
        return
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for version, checkout in zip(VERSIONS, (chosen.before, ROOT), strict=True):
        known = {} if chosen.again else results.get(version, {})
        missing = [name for name in ATTEMPTS if name not in known]
        found = known | (measured(checkout, missing) if missing else {})
        results[version] = {name: found[name] for name in ATTEMPTS}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
