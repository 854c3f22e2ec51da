"""Corrections: shifts by hand in numpy, the fit of the output by what it must reach, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from conversion import calibrate, convert_ann_to_snn, read, scales_of
from spiking.quantisation import QuantisedReLU
from spiking.scaling import portions
from spiking.scaling.correction import CORRECTIONS, correct

LEVELS = 4


def make_ann(last="softmax", hidden=keras.layers.ReLU, seed=0):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((5,))]
    for _ in range(3):
        layers += [keras.layers.Dense(8), hidden()]
    ann = keras.Sequential([*layers, keras.layers.Dense(4, activation=last)])
    rng = np.random.default_rng(seed)
    for layer in ann.layers[::2]:
        layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return ann


@pytest.fixture(scope="module")
def ann():
    return make_ann()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(-1, 1, (250, 5)).astype("f")  # two batches of 100 and one of 50


def rounded(value, scale):
    return np.clip(np.floor(value * LEVELS / scale + 0.5), 0, LEVELS) * scale / LEVELS


def weights(ann):
    return [(np.asarray(layer.kernel, float), np.asarray(layer.bias, float)) for layer in ann.layers[::2]]


def test_shifts_are_the_mean_differences_layer_after_layer(ann, images):
    calibration = calibrate(ann, images, "mse", per_channel=True, levels=LEVELS)
    batches = [images[:100], images[100:200], images[200:]]
    found = correct("shifts", read(ann), lambda: batches, calibration, LEVELS)
    exact = corrected = images.astype(float)
    for (kernel, bias), layer in zip(weights(ann)[:-1], found.layers.values(), strict=True):
        expected, potential = exact @ kernel + bias, corrected @ kernel + bias
        shift = (expected - potential).mean(axis=0)
        np.testing.assert_allclose(layer.shift, shift, atol=2e-4)
        np.testing.assert_allclose(layer.gain, 1, rtol=1e-6)
        exact, corrected = np.maximum(expected, 0), rounded(potential + shift, layer.scale)
    assert found.correction == "shifts" and calibration.correction is None


def test_gain_and_shift_reach_the_neurons(ann, images):
    calibration = calibrate(ann, images, "mse", per_channel=True, levels=LEVELS)
    rng = np.random.default_rng(2)
    for layer in calibration.layers.values():
        layer.gain, layer.shift = rng.uniform(0.8, 1.2, 8), rng.normal(0, 0.05, 8)
    snn = convert_ann_to_snn(ann, calibration, "ttfs_exact", LEVELS)
    simulation = snn.simulate(images, ["first_spike_times"])
    x = images.astype(float)
    for index, ((kernel, bias), name) in enumerate(zip(weights(ann)[:-1], calibration.layers, strict=True)):
        layer = calibration.layers[name]
        x = rounded(layer.gain * (x @ kernel + bias) + layer.shift, layer.scale)
        times = simulation.first_spike_times[name].numpy()
        level = np.where(times > 0, (index + 2) * LEVELS + 1 - times, 0)
        # a potential on a tie may round either way in float32
        assert np.mean(level != np.round(x * LEVELS / layer.scale)) < 0.002


@pytest.mark.parametrize("last", ["softmax", "sigmoid", "linear"])
def test_output_comes_nearer_to_the_ann(images, last):
    ann = make_ann(last)
    many = np.random.default_rng(3).uniform(-1, 1, (4000, 5)).astype("f")
    plain, fitted = (
        convert_ann_to_snn(ann, many, "ttfs_exact", LEVELS, correction=each) for each in ("none", "output")
    )
    expected = np.asarray(ann(images))
    errors = [np.mean((np.asarray(snn(images)) - expected) ** 2) for snn in (plain, fitted)]
    assert errors[1] < 0.95 * errors[0]


def test_what_does_not_come_nearer_is_left_out(ann, images, monkeypatch, caplog):
    graph = read(ann)
    start = calibrate(graph, images)
    monkeypatch.setattr("spiking.scaling.correction.LEARNING_RATE", 30.0)  # far beyond the minimum
    found = correct("output", graph, lambda: [images], start, 8)
    assert found is start and found.correction is None
    assert "is left out: its distance" in caplog.text


@pytest.mark.parametrize(
    "number, timesteps, settings, fitted",
    [
        (500, 8, {}, ["output"]),
        (499, 8, {}, []),  # too few images not to fit chance
        (500, 9, {}, []),
        (500, 3, {"encoding": "radix"}, ["output"]),  # 7 levels
        (500, 4, {"encoding": "radix"}, []),
        (500, 8, {"encoding": "rate"}, []),
        (500, 8, {"correction": "none"}, []),
        (500, 16, {"correction": "shifts"}, ["shifts"]),
        (500, 8, {"per_channel": True}, []),  # who chooses the scales gets them
        (500, 8, {"normalisation": "max"}, []),
    ],
)
def test_few_levels_are_corrected_unless_something_else_is_said(
    ann, number, timesteps, settings, fitted, monkeypatch
):
    found = []
    for name in CORRECTIONS:
        monkeypatch.setitem(CORRECTIONS, name, lambda *given, name=name: found.append(name) or given[2])
    images = np.random.default_rng(4).uniform(-1, 1, (number, 5)).astype("f")
    convert_ann_to_snn(ann, images, timesteps=timesteps, **{"encoding": "ttfs_exact", **settings})
    assert found == fitted


def test_what_cannot_be_read_twice_or_rounds_itself_is_not_corrected(ann, monkeypatch):
    monkeypatch.setitem(CORRECTIONS, "output", lambda *given: pytest.fail("corrected"))
    images = np.random.default_rng(4).uniform(-1, 1, (500, 5)).astype("f")
    for calibration in (iter([images]), calibrate(ann, images, "mse", per_channel=True, levels=LEVELS)):
        convert_ann_to_snn(ann, calibration, "ttfs_exact", LEVELS)
    convert_ann_to_snn(make_ann(hidden=lambda: QuantisedReLU(LEVELS)), images, "ttfs_exact", LEVELS)


def test_scales_of_images_convert_as_the_images_do(ann, images):
    settings = {"encoding": "ttfs_exact", "timesteps": LEVELS, "correction": "shifts"}
    scales = scales_of(ann, images, **settings)
    expected, found = convert_ann_to_snn(ann, images, **settings), convert_ann_to_snn(ann, scales, "ttfs_exact", LEVELS)
    np.testing.assert_array_equal(found(images), expected(images))
    assert scales.correction == "shifts" and found.scales == expected.scales


def test_nothing_is_fitted_in_the_scope_of_a_strategy(ann, images, monkeypatch, caplog):
    monkeypatch.setattr("spiking.scaling.correction.ENOUGH", len(images))
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        snn = convert_ann_to_snn(ann, images, "ttfs_exact", LEVELS)
        with pytest.raises(ValueError, match="on one device.*correction='output'.*conversion.scales_of outside"):
            convert_ann_to_snn(ann, images, "ttfs_exact", LEVELS, correction="output")
    assert {row["correction"] for row in snn.calibration} == {None} and "conversion.scales_of" in caplog.text


@pytest.mark.parametrize("correction, told", [("none", None), ("shifts", "shifts")])
def test_the_network_tells_what_was_fitted(ann, images, correction, told):
    snn = convert_ann_to_snn(ann, images, "ttfs_exact", LEVELS, correction=correction)
    assert [row["correction"] for row in snn.calibration] == [told] * 3


def test_same_images_same_correction(ann, images):
    scales = [
        convert_ann_to_snn(ann, images, "ttfs_exact", LEVELS, correction="output").scales for _ in range(2)
    ]
    assert scales[0] == scales[1]


def test_scales_stay_below_the_ceiling(images):
    ann = make_ann(hidden=lambda: keras.layers.ReLU(max_value=0.3))
    snn = convert_ann_to_snn(ann, images, "ttfs_exact", LEVELS, correction="output")
    assert max(np.max(scale) for scale in snn.scales.values()) <= np.float32(0.3)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"encoding": "ttfs_exact", "correction": "bias"}, "correction must be one of .*'none', 'shifts', 'output'"),
        ({"encoding": "ttfs", "correction": "output"}, "round to the nearest level.*encoding='ttfs'"),
        ({"encoding": "rate", "initial_potential": 0.0, "correction": "output"}, "initial_potential=0.5"),
        ({"encoding": "rate", "initial_potential": 0.5, "tau": 9.0, "correction": "output"}, "nearest level"),
    ],
)
def test_refusals(ann, images, settings, message):
    with pytest.raises(ValueError, match=message):
        convert_ann_to_snn(ann, images, timesteps=LEVELS, **settings)


def test_a_finished_calibration_holds_no_images(ann, images):
    with pytest.raises(ValueError, match="fitted on images"):
        convert_ann_to_snn(ann, calibrate(ann, images), "ttfs_exact", LEVELS, correction="output")


def test_an_ann_that_rounds_needs_none(images):
    ann = make_ann(hidden=lambda: QuantisedReLU(LEVELS))
    with pytest.raises(ValueError, match="needs no correction"):
        convert_ann_to_snn(ann, images, "ttfs_exact", LEVELS, correction="shifts")


@pytest.mark.parametrize("correction", ["shifts", "output"])
def test_portions_change_nothing(ann, images, correction, monkeypatch):
    def scales():
        snn = convert_ann_to_snn(ann, images, "ttfs_exact", LEVELS, correction=correction)
        return list(snn.scales.values()), np.asarray(snn(images))

    (expected, output), _ = scales(), monkeypatch.setattr(portions, "BYTES", 40 * 4 * 4 * 2 * 28)  # 40 images a time
    found, again = scales()
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert np.mean(np.abs(again - output) > 1e-3) < 0.01  # what lies on a tie of the rounding may fall elsewhere


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**40])
def test_the_correction_does_not_depend_on_the_unit_of_the_output(images, unit):
    """The squared error of outputs near 1e-12 has gradients far below the 1e-7 that Adam adds to them."""
    ann, other = make_ann("linear"), make_ann("linear")
    other.layers[-1].set_weights([weight * unit for weight in ann.layers[-1].get_weights()])
    first, second = (
        convert_ann_to_snn(each, images, "ttfs_exact", LEVELS, correction="output") for each in (ann, other)
    )
    found, expected = (list(each.scales.values()) for each in (second, first))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
