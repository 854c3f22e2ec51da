"""Diagnosis: the split of the error by hand, and planted faults on a small network."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from keras import layers as kl

import spiking
from benchmarks.diagnosis import FAULTS, changed
from conversion import convert_ann_to_snn, diagnose, snn_accuracy
from spiking import rate, ttfs
from spiking.analysis import advice
from spiking.analysis.advice import Conversion
from spiking.analysis.layer_errors import PARTS, LayerErrors, LayerErrorSums


def test_expressible_activities():
    assert rate.ENCODING.configured(4).expressible(4).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert rate.ENCODING.configured(4, 2.0).expressible(4).tolist() == [0, 0.5, 1, 1.5, 2]
    assert ttfs.ENCODING.configured(4, 1.0).expressible(4).tolist() == [0, 0.25, 0.5, 0.75, 1]
    exact = spiking.get_encoding("ttfs_exact").configured(4)  # three windows of 4 steps: the same values in each
    assert exact.expressible(12).tolist() == [0, 0.25, 0.5, 0.75, 1]


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
        "lost": [0, 1, 0],  # rounded response 2, 1, 0
        "arrival": [0, 0, 0.5],
        "scatter": [0, 0, 0],
        "input": [0.5, 0.25, 0],
    }
    assert math.isclose(result.activation, size)
    for part, values in expected.items():
        assert math.isclose(getattr(result, part), math.sqrt(np.mean(np.square(values))) / size), part
    assert (result.clipped_share, result.largest, result.ceiling, result.scale) == (1 / 3, 3, 2, 2)
    assert math.isclose(result.lost_share, 0.875 / 4.375)


def test_scatter_by_hand():
    """λ = 2 and 1 for two channels, values 0, λ/2, λ. What one curve, in units of λ, leaves is scatter."""
    sums = LayerErrorSums("layer", np.array([0, 0.5, 1]), [2.0, 1.0])
    response = np.array([[1.0, 0.5], [1.0, 1.0], [2.0, 0.0]])  # in units of λ: 0.5, 0.5 | 0.5, 1 | 1, 0
    activity = np.array([[2.0, 0.5], [1.0, 1.5], [3.0, 0.0]])  # 1, 0.5 | 0.5, 1.5 | 1.5, 0
    sums.update(response, activity, response)
    # At 0.5 the activities 1, 0.5, 0.5 with weights λ² = 4, 1, 4: mean 6.5/9, so 4·(2.5/9)² + 5·(2/9)². At 1 they are
    # all 1.5: a curve. The last is silent, and should be.
    size = math.sqrt((1 + 0.25 + 1 + 1 + 4) / 6)
    result = sums.result()
    assert math.isclose(result.scatter, math.sqrt((4 * (2.5 / 9) ** 2 + 5 * (2 / 9) ** 2) / 6) / size)
    assert math.isclose(result.arrival, math.sqrt((1 + 0 + 0 + 0.25 + 1) / 6) / size)
    assert result.lost == 0


def test_split_does_not_depend_on_batches():
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0, 2, (6, 4, 3)) for _ in range(3)]
    results = []
    for parts in (1, 3):
        sums = LayerErrorSums("layer", np.linspace(0, 1, 9), [1.0, 2.0, 0.5])
        for batch in zip(*(np.split(array, parts) for array in arrays), strict=True):
            sums.update(*batch)
        results.append(sums.result())
    for part in ("activation", *PARTS, "largest", "lost_share"):
        assert math.isclose(getattr(results[0], part), getattr(results[1], part), rel_tol=1e-12)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 1, (128, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def ann(images):
    """Two convolutions with BatchNorm, whose statistics are those of the images, and three dense layers."""
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
            kl.Dense(16, activation="relu", name="dense1"),
            kl.Dense(12, activation="relu", name="dense2"),
            kl.Dense(4, activation="softmax", name="scores"),
        ]
    )
    model(images, training=True)
    return model


@pytest.mark.parametrize("settings", [{}, {"encoding": "ttfs_exact"}, {"initial_potential": 0.5, "timesteps": 60}])
def test_healthy(ann, images, settings):
    result = diagnose(ann, convert_ann_to_snn(ann, images, **settings), images)
    assert result.findings == []
    assert str(result).endswith("\nnone")
    assert (result.images, [layer.name for layer in result.layers]) == (128, ["conv1", "conv2", "dense1", "dense2"])
    assert result.layers[0].input == 0
    assert result.same_class > 0.9


# What the advice on planted faults must hold; the faults themselves are those of the benchmark.
ADVICE = {
    "clipping": "norm_percentile of at least 99.9",
    "scale": "lower norm_percentile",
    "threshold": "towards",
    "timesteps": "time steps",
    "batch_norm": "moving statistics anew",
    "dead": "train the ANN anew",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted(ann, images, fault):
    worst = diagnose(*fault.networks(ann, images), images, batch_size=128).findings[0]
    assert worst.cause == fault.cause in advice.CAUSES
    assert worst.layer in fault.layers
    assert worst.severity > advice.IMAGES_LIMIT
    assert ADVICE[fault.cause] in worst.advice


# Settings of the conversion, the cause they make, and what the advice must hold.
SETTINGS = {
    "reset": ({"reset": "zero"}, "arrival", 'reset="subtract"'),
    "leak": ({"tau": 10.0}, "arrival", "tau=inf"),
    "premature spikes": ({"encoding": "ttfs"}, "arrival", "a code that waits"),
    "premature spikes, few steps": ({"encoding": "ttfs", "timesteps": 60}, "arrival", "a code that waits"),
    "threshold": ({"threshold": 25.0}, "threshold", "Lower threshold=25 towards 1"),
    "timesteps": ({"timesteps": 4}, "timesteps", "Take about 64 time steps"),
    "timesteps, single spikes": ({"encoding": "ttfs_exact", "timesteps": 2}, "timesteps", "Take about 32 time steps"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(ann, images, name):
    settings, cause, words = SETTINGS[name]
    found = diagnose(ann, convert_ann_to_snn(ann, images, **settings), images[:64]).findings
    worst = next(finding for finding in found if finding.layer != advice.NETWORK)
    assert worst.cause == cause in advice.CAUSES
    assert words in worst.advice


def test_images_in_other_units(ann, images):
    worst = diagnose(ann, convert_ann_to_snn(ann, images * 255), images[:64]).findings[0]
    assert worst.cause == "scale" and "images like these" in worst.advice


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
    spoiled = changed(ann, "dense2", 1, lambda w: w[1] - 1000)
    result = diagnose(spoiled, convert_ann_to_snn(spoiled, images), images)
    assert [(f.layer, f.cause) for f in result.findings] == [("dense2", "dead")]
    assert math.isnan(result.layers[-1].error)


def test_a_curve_is_no_premature_arrival(ann, images):
    """The first layer of ttfs has all its input from the start: its error is t = θ/z, which keeps the order."""
    result = diagnose(ann, convert_ann_to_snn(ann, images, "ttfs"), images[:64])
    (first,) = [finding for finding in result.findings if finding.layer == "conv1"]
    assert first.cause == "code" and first.severity == result.layers[0].arrival
    assert result.layers[0].scatter < 0.1 < result.layers[1].scatter


def conversion_of(encoding, timesteps=None, threshold=None, depth=4, **options):
    """What advice depends on, for a network of that depth."""
    code = spiking.get_encoding(encoding)
    settings = code.configured(timesteps, threshold, **options).at_depth(depth).get_config()
    return Conversion(code, settings, depth, single_spike=encoding != "rate")


def test_silent_neurons_do_not_hide_premature_arrival():
    """Lost neurons above the limit, but much more arrival: both are named, the larger first."""
    layer = LayerErrors("a", 1, 0.9, 0.02, 0.01, 0.8, 0.0, 0.0, 0.1, 1, 1, 1, lost=0.12, scatter=0.4)
    found = advice.of_layers([layer], conversion_of("ttfs", 60, 10.0))
    assert [(each.cause, each.severity) for each in found] == [("arrival", 0.8), ("timesteps", 0.12)]
    # With rates few, heavy spikes make the arrival uneven: too few time steps are the one cause.
    found = advice.of_layers([layer], conversion_of("rate"))
    assert [each.cause for each in found] == ["timesteps"]


def test_what_a_correction_adds_is_no_premature_arrival():
    layer = LayerErrors("a", 1, 0.3, 0.0, 0.01, 0.3, 0.0, 0.0, 0.0, 1, 1, 1, scatter=0.2)
    plain = conversion_of("ttfs_exact", 8)
    corrected = dataclasses.replace(plain, corrected=True)
    assert [each.cause for each in advice.of_layers([layer], plain)] == ["arrival"]
    assert "arrival" not in [each.cause for each in advice.of_layers([layer], corrected)]


def test_lost_neurons_do_not_hide_the_curve_unless_the_settings_bend_it():
    layer = LayerErrors("a", 1, 1.2, 0.0, 0.01, 1.2, 0.0, 0.0, 0.1, 1, 1, 1, lost=0.13, scatter=0.04)
    for timesteps, causes in ((None, ["code", "code"]), (60, ["timesteps"])):
        found = advice.of_layers([layer], conversion_of("ttfs", timesteps))
        assert [each.cause for each in found] == causes


def test_a_silent_layer_is_named_whatever_its_inputs_are():
    layer = LayerErrors("a", 1, 1.0, 0.0, 0.01, 0.0, 1.0, 0.0, 0.9, 1, 1, 1, lost=0.02)
    (found,) = advice.of_layers([layer], conversion_of("ttfs", 64))
    assert (found.cause, found.severity) == ("timesteps", 0.9)


def test_small_errors_that_add_up():
    # No local error above the limit, but 30% in the last layer; the layer that errs most by itself is named.
    layer = LayerErrors("a", 1, 0.09, 0.02, 0.01, 0.08, 0.0, 0.0, 0.0, 1, 1, 1)
    last = LayerErrors("b", 1, 0.3, 0.05, 0.01, 0.02, 0.3, 0.0, 0.0, 1, 1, 1)
    (found,) = advice.of_layers([layer, last], conversion_of("rate", 100))
    assert (found.layer, found.cause, found.severity) == ("a", "accumulated", 0.3)
    assert "more than 100 time steps" in found.advice


def test_refuses_another_ann(ann, images):
    other = keras.Sequential([keras.Input((8, 8, 1)), kl.Flatten(), kl.Dense(3, activation="relu"), kl.Dense(2)])
    with pytest.raises(ValueError, match="must have been converted from this ANN. Received: hidden layers"):
        diagnose(other, convert_ann_to_snn(ann, images), images)


# --- advice on time, from the answer after each step ----------------------------------------------------------------


def curve_of(*points):
    """A curve through (step, share), straight between."""
    steps, shares = zip(*points, strict=True)
    return np.interp(np.arange(1, steps[-1] + 1), steps, shares)


def test_the_best_step_is_named_where_more_steps_harm():
    """What version 0.1 was tried with: ttfs_dyn_thresh, threshold 10, T = 60/90/120/240/567: 19/94/94/86/67%."""
    curve = curve_of((1, 0.1), (50, 0.1), (60, 0.19), (90, 0.94), (120, 0.94), (240, 0.86), (567, 0.67))
    (found,) = advice.of_curve(curve, 0.67, 200, "right on", conversion_of("ttfs_dyn_thresh", 567, 10.0))
    assert (found.layer, found.cause) == (advice.NETWORK, "overrun")
    assert found.changes == {"timesteps": 90, "threshold": 10.0}
    assert math.isclose(found.severity, 0.94 - 0.67)
    assert "Stop after 90 time steps" in found.advice


def test_too_few_steps_for_a_threshold_ask_for_as_many_as_serve_it_best():
    """θ = 10 at depth 4: T/θ = 8 is best, so 80 steps, not ten times as many."""
    curve = curve_of((1, 0.1), (50, 0.1), (60, 0.19))
    (found,) = advice.of_curve(curve, 0.19, 200, "right on", conversion_of("ttfs_dyn_thresh", 60, 10.0))
    assert (found.cause, found.changes) == ("timesteps", {"timesteps": 80})
    # Where T is as it should be, θ is to blame.
    (found,) = advice.of_curve(curve_of((1, 0.1), (120, 0.2)), 0.2, 200, "", conversion_of("ttfs", 120, 80.0))
    assert (found.cause, found.changes) == ("threshold", {"threshold": 15.0})


@pytest.mark.parametrize("images, lost, says", [(200, 0.015, False), (200, 0.025, True), (100, 0.03, False)])
def test_a_few_images_are_no_reason_to_stop_earlier(images, lost, says):
    curve = curve_of((1, 0.1), (80, 0.95), (120, 0.95 - lost))
    assert bool(advice.of_curve(curve, 0.9, images, "", conversion_of("ttfs"))) == says


def test_the_read_out_has_no_answer_while_it_ignores_the_steps():
    curve = np.array([0.9, 0.9, 0.9, 0.9, 0.3, 0.8, 0.7, 0.7])
    (found,) = advice.of_curve(curve, 0.7, 200, "", conversion_of("rate", 8, readout_delay=4))
    assert found.changes == {"timesteps": 6, "readout_delay": 4}


def test_what_is_measured_on_the_whole_network_comes_first_for_single_spikes():
    layer, network = advice.Finding("a", "arrival", 1.5, "", ""), advice.Finding("network", "overrun", 0.05, "", "")
    assert advice.in_order([layer, network], single_spike=True) == [network, layer]
    assert advice.in_order([network, layer], single_spike=False) == [layer, network]


def test_stopping_where_the_diagnosis_says_gives_what_it_measured(ann, images):
    """The finding's changes, as arguments of the conversion, give the share at the best step."""
    settings = {"encoding": "ttfs", "threshold": 10.0, "timesteps": 120}
    labels = np.argmax(ann(images), axis=-1)
    found = diagnose(ann, convert_ann_to_snn(ann, images, **settings), images, labels)
    first = found.findings[0]
    assert (first.layer, first.cause) == (advice.NETWORK, "overrun")
    snn = convert_ann_to_snn(ann, images, **(settings | first.changes))
    assert snn_accuracy(snn, images, labels) == pytest.approx(found.per_step.max(), abs=1e-6)
    assert found.per_step.max() - found.per_step[-1] == pytest.approx(first.severity)
    assert "right on" in str(found) and f"best step, {snn.timesteps} of 120" in str(found)


def test_labels_decide_where_they_are_given(ann, images):
    """Labels that the ANN never gives: no step is right, whatever the agreement."""
    snn = convert_ann_to_snn(ann, images, timesteps=8)
    wrong = (np.argmax(ann(images), axis=-1) + 1) % 4
    with_labels, without = diagnose(ann, snn, images, wrong), diagnose(ann, snn, images)
    assert with_labels.labelled and not without.labelled
    assert with_labels.per_step[-1] <= 1 - with_labels.same_class
    assert without.per_step[-1] == without.same_class == with_labels.same_class


def test_percentiles_of_the_code_are_no_fault():
    """A hundredth of the activations clipped is what `ttfs` chooses; as many with `rate` are too many."""
    layer = LayerErrors("a", 1, 0.3, 0.2, 0.01, 0.05, 0.0, 0.01, 0.0, 2, 1, 1, scatter=0.02)
    assert advice.of_layers([layer], conversion_of("ttfs_exact"))[0].changes == {"norm_percentile": 99.9}
    assert [each.cause for each in advice.of_layers([layer], conversion_of("ttfs"))] != ["clipping"]


def test_classic_rate_is_advised_its_own_recipe_first():
    layer = LayerErrors("a", 1, 0.3, 0.02, 0.01, 0.08, 0.0, 0.0, 0.0, 1, 1, 1)
    (found,) = advice.of_layers([layer], conversion_of("rate", 64, **rate.classic(), depth=14))
    assert found.changes == {"initial_potential": 0.5, "readout_delay": None}
    (found,) = advice.of_layers([layer], conversion_of("rate", 64, depth=14))
    assert found.changes == {"timesteps": 128}


def test_a_finding_names_the_unit_of_its_size():
    sizes = {("a", "arrival", 0.246): "25% of the activation", ("network", "overrun", 0.005): "0.5% of the images",
             ("a", "batch_norm", 2.5): "2.5 standard deviations"}  # fmt: skip
    for (layer, cause, severity), size in sizes.items():
        found = str(advice.Finding(layer, cause, severity, "It is so.", "Do this."))
        assert found == f"{layer}: {cause}, {size}. It is so. Do this."
