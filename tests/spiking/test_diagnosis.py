"""Diagnosis: the split of the error by hand, and planted faults on a small network."""

import math

import keras
import numpy as np
import pytest
from keras import layers as kl

import conversion
import spiking
from conversion import convert_ann_to_snn, diagnose
from spiking import diagnosis, rate, ttfs
from spiking.diagnosis import LayerErrorSums, levels


def test_levels():
    assert levels(rate.ENCODING, rate.ENCODING.settings(4), 4).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert levels(rate.ENCODING, rate.ENCODING.settings(4, 2.0), 4).tolist() == [0, 0.5, 1, 1.5, 2]
    assert levels(ttfs.ENCODING, ttfs.ENCODING.settings(4), 4).tolist() == [0, 0.25, 0.5, 0.75, 1]
    exact = spiking.get_encoding("ttfs_exact")  # three windows of 4 steps: the same values in each
    assert levels(exact, exact.settings(4), 12).tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_split_by_hand():
    """λ = 2 and levels of 1/4: values 0, 0.5, 1, 1.5, 2; one layer of three neurons, one image."""
    sums = LayerErrorSums("layer", np.array([0, 0.25, 0.5, 0.75, 1]), 2.0)
    target, activity, response = np.array([[3.0, 0.625, 0.0]]), np.array([[2.0, 0.0, 0.5]]), np.array([[3.5, 0.875, 0]])
    sums.update(target, activity, response)
    result = sums.result()
    size = math.sqrt((9 + 0.625**2) / 3)
    expected = {
        "error": [-1, -0.625, 0.5],
        "clipping": [-1, 0, 0],
        "quantisation": [0, -0.125, 0],  # 0.625 -> 0.5
        "arrival": [0, -1, 0.5],  # rounded response 2, 1, 0
        "input": [0.5, 0.25, 0],
    }
    assert math.isclose(result.activation, size)
    for part, values in expected.items():
        assert math.isclose(getattr(result, part), math.sqrt(np.mean(np.square(values))) / size), part
    assert (result.clipped_share, result.largest, result.ceiling, result.scale) == (1 / 3, 3, 2, 2)
    assert math.isclose(result.lost_share, 0.875 / 4.375)


def test_split_does_not_depend_on_batches():
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0, 2, (6, 4, 3)) for _ in range(3)]
    results = []
    for parts in (1, 3):
        sums = LayerErrorSums("layer", np.linspace(0, 1, 9), [1.0, 2.0, 0.5])
        for batch in zip(*(np.split(array, parts) for array in arrays), strict=True):
            sums.update(*batch)
        results.append(sums.result())
    for part in ("activation", "error", "clipping", "quantisation", "arrival", "input", "largest", "lost_share"):
        assert math.isclose(getattr(results[0], part), getattr(results[1], part), rel_tol=1e-12)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 1, (128, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def ann(images):
    """Two convolutions with BatchNorm, whose statistics are those of the images, and two dense layers."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            kl.Conv2D(4, 3, name="conv1"),
            kl.BatchNormalization(momentum=0.0, name="bn1"),
            kl.ReLU(),
            kl.MaxPooling2D(name="pool"),
            kl.Conv2D(6, 2, name="conv2"),
            kl.BatchNormalization(momentum=0.0, name="bn2"),
            kl.ReLU(),
            kl.Flatten(),
            kl.Dense(16, activation="relu", name="dense"),
            kl.Dense(4, activation="softmax", name="scores"),
        ]
    )
    model(images, training=True)
    return model


def changed(ann, layer, position, change):
    copied = keras.models.clone_model(ann)
    copied.set_weights(ann.get_weights())
    weights = copied.get_layer(layer).get_weights()
    weights[position] = change(weights)
    copied.get_layer(layer).set_weights(weights)
    return copied


def with_scale(ann, images, layer, factor):
    """Converted with another λ in one layer."""
    folded, code = conversion.read(ann), rate.ENCODING
    calibration = conversion.calibrate(folded, images)
    for found in calibration.layers:
        found.scale = found.scale * (factor if found.name == layer else 1)
    return conversion.assemble(folded, code, code.settings(), calibration, name="spoiled")


@pytest.mark.parametrize("settings", [{}, {"encoding": "ttfs_exact"}, {"initial_potential": 0.5, "timesteps": 60}])
def test_healthy(ann, images, settings):
    result = diagnose(ann, convert_ann_to_snn(ann, images, **settings), images)
    assert result.findings == []
    assert str(result).endswith("\nnone")
    assert (result.images, [layer.name for layer in result.layers]) == (128, ["conv1", "conv2", "dense"])
    assert result.layers[0].input == 0
    assert result.same_class > 0.9


def spoil(*args, **settings):
    return lambda ann, images: convert_ann_to_snn(ann, images, *args, **settings)


# How to spoil, the layer to be named (None: any), the cause, and what the advice must hold.
FAULTS = {
    "clipping everywhere": (spoil(norm_percentile=70), None, "clipping", "norm_percentile of at least 99.9"),
    "clipping in one layer": (lambda ann, x: with_scale(ann, x, "conv2", 1 / 6), "conv2", "clipping", "at least 99.9"),
    "scale of one layer": (lambda ann, x: with_scale(ann, x, "dense", 30), "dense", "scale", "lower norm_percentile"),
    "threshold": (spoil(threshold=25.0), None, "threshold", "Lower threshold=25 towards 1"),
    "threshold, single spikes": (spoil("ttfs", threshold=100.0), None, "threshold", "Lower threshold=100 towards 10"),
    "timesteps": (spoil(timesteps=4), None, "timesteps", "Take about 100 time steps"),
    "timesteps, single spikes": (spoil("ttfs_exact", 2), None, "timesteps", "Take about 32 time steps"),
    "images in other units": (lambda ann, x: convert_ann_to_snn(ann, x * 255), None, "scale", "images like these"),
    "reset": (spoil(reset="zero"), None, "arrival", 'reset="subtract"'),
    "leak": (spoil(tau=10.0), None, "arrival", "tau=inf"),
    "premature spikes": (spoil("ttfs"), None, "arrival", "a code that waits"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_finds(ann, images, name):
    make, layer, cause, advice = FAULTS[name]
    worst = diagnose(ann, make(ann, images), images[:64]).findings[0]
    assert worst.cause == cause in diagnosis.CAUSES
    assert layer is None or worst.layer == layer
    assert worst.severity > diagnosis.LIMIT
    assert advice in worst.advice


@pytest.mark.parametrize(
    "layer, position, change",
    [
        ("bn1", 3, lambda w: w[3] * 25),
        ("bn2", 3, lambda w: w[3] / 25),
        ("bn1", 2, lambda w: w[2] + 3 * np.sqrt(w[3])),
        ("bn2", 2, lambda w: w[2] + 3 * np.sqrt(w[3])),
    ],
)
def test_batch_norm(ann, images, layer, position, change):
    """Only the wrong one is named, though the inputs of those behind it change with it."""
    spoiled = changed(ann, layer, position, change)
    found = diagnose(spoiled, convert_ann_to_snn(spoiled, images), images, batch_size=128).findings
    (found,) = [finding for finding in found if finding.cause == "batch_norm"]
    assert found.layer == layer
    _, _, mean, variance = ann.get_layer(layer).get_weights()
    wrong = spoiled.get_layer(layer).get_weights()
    shifts = (wrong[2] - mean) / np.sqrt(variance + 1e-3)
    stretches = np.log((wrong[3] + 1e-3) / (variance + 1e-3)) / 2
    expected = math.sqrt(np.mean(shifts**2)) if position == 2 else math.sqrt(np.mean(stretches**2))
    assert math.isclose(found.severity, expected, rel_tol=1e-4)


def test_dead_layer(ann, images):
    spoiled = changed(ann, "dense", 1, lambda w: w[1] - 1000)
    result = diagnose(spoiled, convert_ann_to_snn(spoiled, images), images)
    assert [(f.layer, f.cause) for f in result.findings] == [("dense", "dead")]
    assert math.isnan(result.layers[-1].error)


def test_small_errors_that_add_up():
    # No local error above the limit, but 30% in the last layer; the layer that errs most by itself is named.
    layer = diagnosis.LayerErrors("a", 1, 0.09, 0.02, 0.01, 0.08, 0.0, 0.0, 0.0, 1, 1, 1)
    last = diagnosis.LayerErrors("b", 1, 0.3, 0.05, 0.01, 0.02, 0.3, 0.0, 0.0, 1, 1, 1)
    (found,) = diagnosis.findings([layer, last], rate.ENCODING, rate.ENCODING.settings(), False)
    assert (found.layer, found.cause, found.severity) == ("a", "accumulated", 0.3)
    assert "more than 100 time steps" in found.advice


def test_refuses_another_ann(ann, images):
    other = keras.Sequential([keras.Input((8, 8, 1)), kl.Flatten(), kl.Dense(3, activation="relu"), kl.Dense(2)])
    with pytest.raises(ValueError, match="must have been converted from this ANN. Received: hidden layers"):
        diagnose(other, convert_ann_to_snn(ann, images), images)
