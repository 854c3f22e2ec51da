"""What `verify` says on any task, by hand."""

import re
import tracemalloc
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import conversion
import spiking.analysis.verification as verification
from conversion import convert_ann_to_snn, diagnose, verify
from spiking.analysis.tasks import Output, task_of
from spiking.analysis.verification import Comparison, OutputComparison, Verification

nan, inf = np.nan, np.inf
CODES = ["rate", "ttfs", "ttfs_dyn_thresh", "ttfs_clamped", "ttfs_exact"]


@pytest.fixture(autouse=True)
def same_weights():
    """Weights of the networks are random, but the same in every run."""
    keras.utils.set_random_seed(0)


def compared(group, *batches, shape=None):
    """The difference of an output, from (expected, actual) of each batch."""
    comparison = OutputComparison(Output("scores", shape or np.shape(batches[0][0])[1:], group))
    for expected, actual in batches:
        comparison.update(np.array(expected, np.float32), np.array(actual, np.float32))
    return comparison.result()


def test_scores_may_be_numbers_so_both_are_told():
    # classes 1 0 | 1 against 1 1 | 1. Differences: 1 0, 0 3 | 0 0; Σ|ANN| = 7.5; means 1, 1.5: Σ² = 2 + 4.5
    found = compared("linear", ([[0, 3], [2, 0]], [[1, 3], [2, 3]]), ([[1, 1.5]], [[1, 1.5]]))
    assert found.same_class == pytest.approx(2 / 3)
    assert found.r_squared == pytest.approx(1 - 10 / 6.5)
    assert found.relative_error == pytest.approx(4 / 7.5)
    assert (found.mean_difference, found.largest_difference) == (pytest.approx(4 / 6), 3)
    assert "the same class on 66.67%" in str(found) and "R²" in str(found)


def test_one_probability_has_a_threshold():
    found = compared("sigmoid", ([[0.25], [0.75], [0.5], [0.5625]], [[0.375], [0.25], [0.25], [0.75]]))
    assert found.same_class == 0.75  # ½ itself is no
    assert "on the same side of 0.5: 75.00%" in str(found)


def test_one_number_is_compared_at_zero_only_if_it_may_be_a_logit():
    assert compared("linear", ([[-1], [2], [3]], [[-2], [-1], [3]])).same_class == pytest.approx(2 / 3)
    price = compared("linear", ([[100], [200]], [[150], [150]]))
    assert price.same_class is None and price.r_squared == pytest.approx(0)
    assert price.relative_error == pytest.approx(1 / 3)
    assert "same" not in str(price) and "relative error 33.33%" in str(price)
    assert compared(None, ([[-1], [2]], [[-1], [2]])).same_class is None  # nobody can tell the threshold


def test_units_that_say_yes_or_no_count_each():
    assert compared("sigmoid", ([[0.25, 0.75, 1]], [[0.75, 1, 0.625]])).same_class == pytest.approx(2 / 3)


def test_maps():
    expected, actual = np.zeros((1, 2, 2, 2)), np.zeros((1, 2, 2, 2))
    expected[..., 1] = 1
    actual[0, 0, :, 1] = actual[0, 1, 0, 1] = 1  # class 0 at one of four positions
    classes = compared("softmax", (expected, actual))
    assert classes.same_class == 0.75 and "at positions: 75.00%" in str(classes)
    image = compared("linear", (expected, actual))
    assert image.same_class is None and image.relative_error == pytest.approx(1 / 4)


def test_what_the_ann_cannot_say_is_left_out_and_told():
    found = compared("softmax", ([[nan, 0], [1, 0]], [[0.5, 0.5], [0, 1]]), ([[inf, 0]], [[1, 0]]))
    assert (found.images, found.ann_invalid, found.same_class, found.largest_difference) == (1, 2, 0, 1)
    assert "the ANN gives NaN or infinity for 2 images, which are left out" in str(found)
    nothing = compared("softmax", ([[nan, 0]], [[nan, 0]]))
    assert nothing.images == 0 and np.isnan(nothing.same_class) and np.isnan(nothing.r_squared)
    assert np.isnan(nothing.mean_difference) and np.isnan(nothing.relative_error)


def test_nan_of_the_snn_is_no_class():
    found = compared("softmax", ([[1, 0], [0, 1]], [[nan, 0], [0, 1]]))
    assert (found.images, found.snn_invalid, found.same_class) == (2, 1, 0.5)
    assert np.isnan(found.largest_difference) and "the SNN gives NaN or infinity for 1 images" in str(found)


def test_several_outputs_are_told_each_and_the_worst_of_them():
    first = compared("softmax", ([[1, 0], [0, 1]], [[1, 0], [1, 0.5]]))
    second = compared("linear", ([[1], [3]], [[1], [2]]))
    report = Verification(2, {"digit": first, "size": second}, 0.0, {"hidden": 0.125})
    assert report.same_class == 0.5
    assert report.r_squared == min(first.r_squared, second.r_squared) == pytest.approx(1 - 1.25 / 1)
    assert report.relative_error == pytest.approx(0.75) and report.largest_difference == 1
    lines = str(report).splitlines()
    assert lines[1].startswith("  digit: the same class on 50.00%") and lines[2].startswith("  size: R² 0.5")
    assert "hidden" in lines[-1] and "12.50%" in lines[-1]


def test_outputs_in_a_dict():
    image = keras.Input((2,))
    classes = kl.Dense(2, use_bias=False, kernel_initializer="identity", activation="softmax", name="digit")(image)
    size = kl.Dense(1, use_bias=False, kernel_initializer="ones", name="size")(image)
    ann = keras.Model(image, {"size": size, "digit": classes})
    comparison = Comparison(task_of(ann))
    comparison.update(ann(np.array([[1, 0], [0, 1]])), ann(np.array([[1, 0], [2, 1]])))  # sizes 1 and 1, 1 and 3
    found = comparison.result()
    assert list(found) == ["size", "digit"]
    assert found["digit"].same_class == 0.5
    assert found["size"].same_class is None and found["size"].relative_error == pytest.approx(1)


# --- whole networks ---


def test_a_network_that_gives_a_dict_of_one():
    image = keras.Input((4,))
    ann = keras.Model(image, {"size": kl.Dense(3, name="head")(kl.Dense(8, activation="relu")(image))})
    images = np.random.default_rng(0).random((12, 4)).astype(np.float32)
    snn = convert_ann_to_snn(ann, images, "ttfs_exact", 256)
    expected = ann(images)["size"].numpy().argmax(-1)
    report = verify(ann, snn, images)
    assert report.images == 12 and report.same_class > 0.9 and report.folding_error < 1e-5
    assert conversion.ann_accuracy(ann, images, expected) == 1
    assert conversion.snn_accuracy(snn, images, expected) == report.same_class


def two_eyed(structure):
    left, right = keras.Input((4,), name="left"), keras.Input((2, 2, 1), name="right")
    seen = [kl.Dense(6, activation="relu")(left), kl.Dense(5, activation="relu")(kl.Flatten()(right))]
    joined = kl.Concatenate()(seen)
    size = kl.Dense(1, bias_initializer=keras.initializers.Constant(20.0), name="size")(joined)  # above 0, so no logit
    return keras.Model([left, right], structure(size, kl.Dense(3, activation="softmax", name="digit")(joined)))


@pytest.mark.parametrize("structure", [lambda a, b: {"size": a, "digit": b}, lambda a, b: [a, b]], ids=["dict", "list"])
def test_a_network_of_several_inputs_and_outputs(structure):
    rng, ann = np.random.default_rng(0), two_eyed(structure)
    left, right = rng.random((20, 4)).astype(np.float32), rng.integers(0, 2, (20, 2, 2)).astype(np.uint8)
    for images in ([left, right], {"right": right[..., None], "left": left}):
        snn = convert_ann_to_snn(ann, images, "ttfs_exact", 64)
        given = ann([left, right[..., None].astype(np.float32)])
        size, digit = given.values() if isinstance(given, dict) else given
        digits, sizes = np.asarray(digit).argmax(-1), np.asarray(size, np.float64)
        report = verify(ann, snn, images, batch_size=7)
        assert list(report.outputs) == ["size", "digit"] and report.folding_error < 1e-5
        assert report.outputs["size"].same_class is None
        assert report.same_class == report.outputs["digit"].same_class > 0.9 and report.r_squared > 0.9
        labels = {"size": sizes, "digit": digits}
        assert conversion.ann_accuracy(ann, images, labels) == {"size": pytest.approx(1), "digit": 1}
        found = conversion.snn_accuracy(snn, images, labels)
        assert found == {"size": pytest.approx(report.outputs["size"].r_squared), "digit": report.same_class}
        course = conversion.snn_accuracy_per_timestep(snn, images, labels)
        assert {name: values[-1] for name, values in course.items()} == pytest.approx(found)
        assert diagnose(ann, snn, images).same_class == report.same_class
        assert conversion.snn_activation_analysis(snn, images, labels).accuracy is None


def test_a_regression_network():
    ann = keras.Sequential([keras.Input((4,)), kl.Dense(8, activation="relu"), kl.Dense(1)])
    ann.layers[-1].bias.assign([100.0])
    images = np.random.default_rng(0).random((30, 4)).astype(np.float32)
    snn = convert_ann_to_snn(ann, images, "ttfs_exact", 64)
    expected, actual = np.asarray(ann(images), np.float64), snn(images).numpy().astype(np.float64)
    report = verify(ann, snn, images, batch_size=7)
    assert report.same_class is None
    assert report.relative_error == pytest.approx(np.abs(actual - expected).sum() / expected.sum(), rel=1e-4)
    explained = 1 - np.sum((actual - expected) ** 2) / np.sum((expected - expected.mean()) ** 2)
    assert report.r_squared == pytest.approx(explained, abs=1e-4) and 0.5 < explained < 1
    found = diagnose(ann, snn, images)
    assert found.same_class is None and "same class" not in str(found) and "R²" in str(found)


def test_an_image_output_has_no_share_above_all():
    ann = keras.Sequential(
        [keras.Input((8, 8, 1)), kl.Conv2D(3, 3, padding="same", activation="relu"), kl.Conv2D(1, 3, padding="same")]
    )
    images = np.random.default_rng(0).random((6, 8, 8, 1)).astype(np.float32)
    snn = convert_ann_to_snn(ann, images, "ttfs_exact", 16)
    assert diagnose(ann, snn, images).same_class is None and verify(ann, snn, images).same_class is None
    classes = keras.Sequential([*ann.layers[:1], kl.Conv2D(4, 3, padding="same", activation="softmax")])
    classes.build((None, 8, 8, 1))
    snn = convert_ann_to_snn(classes, images, "ttfs_exact", 4)
    share = np.mean(np.asarray(classes(images)).argmax(-1) == snn(images).numpy().argmax(-1))
    assert diagnose(classes, snn, images).same_class == pytest.approx(share) == verify(classes, snn, images).same_class


def test_an_ann_that_gives_nan(caplog):
    ann = keras.Sequential([keras.Input((2,)), kl.Dense(3, activation="relu"), kl.Dense(2, activation="softmax")])
    images = np.random.default_rng(0).random((4, 2)).astype(np.float32)
    snn = convert_ann_to_snn(ann, images, "ttfs_exact", 16)
    ann.layers[-1].kernel.assign(np.full((3, 2), 1e38))
    ann.layers[0].set_weights([np.full((2, 3), 1e38), np.zeros(3)])
    folded = conversion.read(ann)
    assert np.isnan(np.asarray(ann(images))).all()
    report = verification.verify(folded, snn, iter([images]))
    assert np.isnan(report.same_class) and report.outputs[ann.layers[-1].name].ann_invalid == 4
    assert "gives NaN or infinity for 4 images" in str(report)
    assert "for 4 images, which are not compared" in caplog.text


def test_memory_does_not_grow_with_the_images():
    ann = keras.Sequential([keras.Input((4,)), kl.Dense(4, activation="relu"), kl.Dense(20_000)])
    batch = np.random.default_rng(0).random((50, 4)).astype(np.float32)  # outputs of a batch: 4 MB, four times
    snn = convert_ann_to_snn(ann, batch, "ttfs_exact", 8)
    peaks = []
    for batches in (2, 2, 20):
        tracemalloc.start()
        report = verify(ann, snn, lambda n=batches: iter([batch] * n))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.images == 50 * batches
    assert peaks[2] < peaks[1] + 4e6


@pytest.mark.parametrize("encoding", CODES)
def test_a_network_without_hidden_neurons(encoding):
    ann = keras.Sequential([keras.Input((3, 3, 1)), kl.Flatten(), kl.Dense(4)])
    images = np.random.default_rng(0).random((9, 3, 3, 1)).astype(np.float32)
    labels = np.asarray(ann(images)).argmax(-1)
    snn = convert_ann_to_snn(ann, images, encoding, 6)
    np.testing.assert_allclose(snn.predict(images, verbose=0), ann.predict(images, verbose=0), rtol=1e-5, atol=1e-6)
    report = verify(ann, snn, images)
    assert report.same_class == 1 and report.layers == {} and report.largest_difference < 1e-5
    run = snn.simulate(images, ("spike_counts", "first_spike_times", "rasters", "readouts"))
    assert not len(run.spike_counts) and not len(run.first_spike_times) and not len(run.rasters)
    assert run.readouts.shape == (6, 9, 4)
    analysis = conversion.snn_activation_analysis(snn, images, labels, ann=ann)
    assert analysis.accuracy == 1 and analysis.layers == [] and analysis.synaptic_operations == 0
    assert diagnose(ann, snn, images).findings == []
    assert conversion.ann_and_snn_activations_per_layer(ann, snn, images) == {}
    assert conversion.snn_early_exit(snn, images, labels, np.inf).accuracy == 1


ENTRIES = {
    "verify": lambda ann, snn, x, y, **options: verify(ann, snn, x, **options),
    "diagnose": lambda ann, snn, x, y, **options: diagnose(ann, snn, x, y, **options),
    "analysis": lambda ann, snn, x, y, **options: conversion.snn_activation_analysis(snn, x, **options),
    "analysis with labels": lambda ann, snn, x, y, **options: conversion.snn_activation_analysis(snn, x, y, **options),
    "early exit": lambda ann, snn, x, y, **options: conversion.snn_early_exit(snn, x, y, **options),
    "activations": lambda ann, snn, x, y: conversion.ann_and_snn_activations_per_layer(ann, snn, x),
}


@pytest.fixture(scope="module")
def net():
    keras.utils.set_random_seed(1)
    ann = keras.Sequential([keras.Input((4, 4, 1)), kl.Flatten(), kl.Dense(6, activation="relu"), kl.Dense(3)])
    images = np.random.default_rng(1).integers(0, 2, (10, 4, 4, 1)).astype(np.float32)
    snn = convert_ann_to_snn(ann, images, "ttfs_exact", 16)
    return ann, snn, images, np.asarray(ann(images)).argmax(-1)


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_points_refuse_what_the_ann_refuses(net, name):
    ann, snn, images, labels = net
    with pytest.raises(ValueError, match=r"Received: images of shape \(4, 3, 1\)"):
        ENTRIES[name](ann, snn, images[:, :, :3], labels)
    with pytest.raises(ValueError, match="come to an end"):
        ENTRIES[name](ann, snn, tf.data.Dataset.from_tensor_slices((images, labels)).batch(5).repeat(), None)
    for size in (0, -1) if name != "activations" else ():
        with pytest.raises(ValueError, match=f"batch_size={size}"):
            ENTRIES[name](ann, snn, images, labels, batch_size=size)


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("dtype", ["uint8", "bool", "float16"])
def test_entry_points_take_what_the_ann_takes(net, name, dtype):
    ann, snn, images, labels = net
    expected = ENTRIES[name](ann, snn, images, labels)
    for shaped in (images.astype(dtype), images[..., 0].astype(dtype)):
        assert str(ENTRIES[name](ann, snn, shaped, labels)) == str(expected)
    data = tf.data.Dataset.from_tensor_slices((images, labels, np.ones(10))).batch(10)
    assert name == "analysis" or str(ENTRIES[name](ann, snn, data, None)) == str(expected)


def test_an_analysis_reads_labels_out_of_any_form(net):
    ann, snn, images, labels = net
    weighted = tf.data.Dataset.from_tensor_slices((images, labels, np.ones(10))).batch(4)
    for data in ((images, labels), {"image": images, "label": labels}, weighted, lambda: iter([(images, labels)])):
        assert conversion.snn_activation_analysis(snn, data).accuracy == pytest.approx(
            conversion.snn_accuracy(snn, images, labels)
        )
    assert conversion.snn_activation_analysis(snn, lambda: iter([images])).accuracy is None


def test_the_page_on_measuring_runs():
    page = (Path(__file__).parents[2] / "docs" / "MEASURING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    namespace = {}
    exec(compile(block, "MEASURING.md", "exec"), namespace)
    assert namespace["report"].same_class is None or 0 <= namespace["report"].same_class <= 1
    assert 0.9 < namespace["report"].r_squared <= 1
