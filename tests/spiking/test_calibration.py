"""Percentiles from one pass in constant memory, against all values kept and sorted."""

import keras
import numpy as np
import pytest

from conversion import calibrate, convert_ann_to_snn, read
from spiking.quantisation import QuantisedReLU
from spiking.scaling import portions
from spiking.scaling.fingerprint import fingerprint
from spiking.scaling.histogram import BINS_PER_OCTAVE, Histogram, edges

RNG = np.random.default_rng(0)
# dense samples: neighbouring values of the sorted sample are closer than the stated error
SAMPLES = {
    "uniform": RNG.uniform(0, 3, 200_000),
    "half normal": np.abs(RNG.normal(0, 0.02, 200_000)),
    "rectified normal": np.maximum(RNG.normal(0, 1, 200_000), 0),
    "lognormal": RNG.lognormal(0, 2, 200_000),
    "exponential, large": 1e4 * RNG.exponential(size=200_000),
    "exponential, tiny": 1e-4 * RNG.exponential(size=200_000),
    "near the largest float32": 1e35 * RNG.exponential(size=200_000),
    "near the smallest normal float32": 1e-36 * (1 + RNG.exponential(size=200_000)),
    "raw counts behind a layer": 65535 * RNG.exponential(size=200_000) * 1e3,
    "bimodal": np.concatenate([RNG.normal(0.1, 0.001, 100_000), RNG.normal(50, 0.1, 100_000)]),
}
# Stated: off by at most the width of a bin, 0.4% of the quantile (1/256).
ERROR = 1 / BINS_PER_OCTAVE


def filled(values, batches=1, channels=1):
    histogram = Histogram(channels)
    for part in np.array_split(np.asarray(values), batches):
        histogram.update(part)
    return histogram


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("percent", [1.0, 25.0, 60.0, 90.0, 99.0, 99.9])
def test_percentile_within_the_stated_error(name, percent):
    values = SAMPLES[name].astype(np.float32)
    found = filled(values).percentile(percent)[0]
    # the smallest value that at least that share of the values does not exceed, exactly as stated
    assert found == pytest.approx(np.percentile(values, percent, method="inverted_cdf"), rel=ERROR)
    # and numpy's usual percentile, where the sample is dense
    assert found == pytest.approx(np.percentile(values, percent), rel=1.5 * ERROR)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 37])
def test_small_samples(size):
    values = np.random.default_rng(size).lognormal(0, 1, size).astype(np.float32)
    histogram = filled(values)
    for percent in (5.0, 33.0, 51.0, 95.0):
        expected = np.percentile(values, percent, method="inverted_cdf")
        assert histogram.percentile(percent)[0] == pytest.approx(expected, rel=ERROR)


def test_the_maximum_is_exact():
    for values in SAMPLES.values():
        assert filled(values).percentile(100.0)[0] == np.float32(values.max())
    assert filled([3e9, 1.0]).percentile(100)[0] == np.float32(3e9)


def test_never_above_the_maximum():
    values = np.full(100, 1.0019)
    assert filled(values).percentile(99.9)[0] <= np.float32(1.0019)


def test_zeros_count():
    # Three quarters are zero: percentiles up to 75 are zero, the median of the rest is the 87.5th.
    values = np.concatenate([np.zeros(75_000), RNG.uniform(1, 2, 25_000)])
    histogram = filled(values)
    assert histogram.percentile(50.0)[0] == 0 and histogram.percentile(74.9)[0] == 0
    assert histogram.percentile(87.5)[0] == pytest.approx(1.5, rel=2 * ERROR)


def test_nothing_but_zeros_and_nothing_at_all():
    assert filled(np.zeros(10)).percentile(99.9)[0] == 0
    assert filled(np.zeros(10)).percentile(100)[0] == 0
    assert Histogram().percentile(99.9)[0] == 0
    empty = Histogram()
    empty.update(np.zeros((0, 4)))
    assert empty.percentile(100.0)[0] == 0


def test_order_and_batches_do_not_matter():
    values = SAMPLES["lognormal"]
    whole, parts = filled(values), filled(values[::-1], batches=13)
    for one, other in zip(whole.occupied()[0], parts.occupied()[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.percentile(99.9) == parts.percentile(99.9)


def test_bins_hold_what_lies_between_their_edges():
    """Against numpy's own histogram; enough values and channels that parts are merged, and both ways to count run."""
    values = np.random.default_rng(2).normal(size=(300, 7001)) * 2.0 ** np.repeat(np.arange(-50, 50), 3)[:, None]
    values = np.maximum(values, 0)
    values = values.astype("f").astype(float)
    wide, narrow = filled(values, batches=3, channels=7001), filled(values, batches=2)
    bounds = [2.0**octave * (1 + part / 256) for octave in range(-80, 60) for part in range(256)]
    expected = np.histogram(values[values > 0], bounds)[0]
    bins, counts = narrow.occupied()[0]
    np.testing.assert_array_equal(bins, np.flatnonzero(expected) + (126 - 80) * 256)
    np.testing.assert_array_equal(counts, expected[expected > 0])
    for channel in (0, 3500, 7000):
        own = np.histogram(values[values[:, channel] > 0, channel], bounds)[0]
        bins, counts = wide.occupied()[channel]
        np.testing.assert_array_equal(bins, np.flatnonzero(own) + (126 - 80) * 256)
        np.testing.assert_array_equal(counts, own[own > 0])


def test_channels_are_counted_apart():
    values = np.random.default_rng(1).exponential(size=(50, 20, 10, 3)) * [1e-3, 1.0, 1e3]
    found = filled(values, channels=3).percentile(99.0)
    expected = np.percentile(values.reshape(-1, 3), 99.0, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(found, expected, rtol=ERROR)
    np.testing.assert_array_equal(filled(values, channels=3).percentile(100), values.max(axis=(0, 1, 2)).astype("f4"))


def test_memory_follows_the_bins_that_occur():
    histogram = filled(SAMPLES["uniform"])
    bins, _ = histogram.occupied()[0]
    for _ in range(3):
        histogram.update(SAMPLES["uniform"])
    again, counts = histogram.occupied()[0]
    np.testing.assert_array_equal(again, bins)
    assert counts.sum() == 800_000 and len(bins) < 20 * BINS_PER_OCTAVE
    many = filled(np.random.default_rng(0).uniform(1, 2, (40, 5000)), batches=4, channels=5000)
    assert sum(len(bins) for bins, _ in many.occupied()) <= 40 * 5000


def test_every_normal_float32_has_its_bin():
    limits = np.finfo(np.float32)
    for value in (limits.tiny, 3e-30, 1.0, 3e30, limits.max):
        histogram = filled([0, value])
        bins, counts = histogram.occupied()[0]
        assert counts.tolist() == [1] and edges(bins)[0] <= value < edges(bins + 1)[0]
        assert histogram.percentile(99)[0] == pytest.approx(float(np.float32(value)), rel=ERROR)


def test_denormal_numbers_count_as_zero():
    histogram = filled([1e-39, 1e-45, 1.0])
    assert histogram.seen == 3 and histogram.occupied()[0][1].tolist() == [1]
    silent = filled([1e-39, 0])
    assert silent.maximum == 0 and silent.percentile(100) == 0 and silent.scale("mse", 99.9, 8) == 0


def test_edges_are_logarithmic_by_octaves():
    found = edges(np.arange(254 * 256 + 1))
    assert found[0] == 2.0**-126 and found[-1] == 2.0**128
    assert np.all(np.diff(found) > 0)
    assert np.max(np.diff(found) / found[:-1]) <= ERROR
    np.testing.assert_array_equal(found[::BINS_PER_OCTAVE], 2.0 ** np.arange(-126, 129))


@pytest.mark.parametrize("unit", [1e-30, 1e-8, 1e8, 1e30])
@pytest.mark.parametrize("method", ["percentile", "max", "mse"])
def test_scales_follow_the_unit(method, unit):
    values = np.maximum(np.random.default_rng(5).normal(0, 1, 20_000), 0)
    one, other = filled(values).scale(method, 99.0, 16), filled(values * unit).scale(method, 99.0, 16)
    np.testing.assert_allclose(other, one * unit, rtol=2 * ERROR)


def test_share_above_counts_whole_bins():
    histogram = filled([0, 0, 0.5, 1.0, 2.0, 4.0, 4.0, 8.0], batches=2)
    # powers of two are the lower edges of their bins, so these shares are exact
    assert histogram.share_above(np.array(2.0)) == 3 / 8
    assert histogram.share_above(np.array(8.0)) == 0
    assert filled([[1.0, 8.0], [4.0, 2.0]], channels=2).share_above(np.array([2.0, 4.0])) == 2 / 4


@pytest.fixture
def ann():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(6, "relu", name="first"), keras.layers.Dense(3, name="last")]
    return keras.Sequential(layers)


def test_the_report_tells_scales_and_clipping(ann):
    images = np.random.default_rng(0).normal(0, 1, (1000, 4)).astype("f")
    activations = np.maximum(images @ np.asarray(ann.layers[0].kernel), 0)
    calibration = calibrate(ann, images, percentile=90.0)
    (row,) = calibration.rows()
    assert row["layer"] == "first" and row["largest_activation"] == pytest.approx(activations.max(), rel=1e-6)
    assert row["mean_scale"] == pytest.approx(np.percentile(activations, 90), rel=2 * ERROR)
    assert row["clipped"] == pytest.approx(0.1, abs=0.005) and row["silent_channels"] == 0
    assert (calibration.images, calibration.input_minimum) == (1000, images.min())
    text = str(calibration)
    assert "90% percentile per layer, 1000 images" in text and "first" in text


def test_a_finished_calibration_takes_the_place_of_the_images(ann):
    images = np.random.default_rng(0).normal(0, 1, (300, 4)).astype("f")
    calibration = calibrate(ann, images, "mse", per_channel=True, levels=16)
    assert list(calibration.layers) == ["first"]
    by_images = convert_ann_to_snn(ann, images, "ttfs_exact", 16)
    by_calibration = convert_ann_to_snn(ann, calibration, "ttfs_exact", 16)
    np.testing.assert_array_equal(by_calibration(images), by_images(images))
    assert by_images.calibration == by_calibration.calibration == calibration.rows()


def test_a_calibration_of_another_network_is_refused(ann):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, "relu", name="odd"), keras.layers.Dense(3)])
    images = np.ones((3, 4), "f")
    with pytest.raises(ValueError, match=r"\['first'\].*\['odd'\]"):
        convert_ann_to_snn(ann, calibrate(other, images))


def test_negative_images_are_known_from_the_calibration(ann):
    calibration = calibrate(ann, np.array([[-0.5, 1, 0, 0]], "f"))
    with pytest.raises(ValueError, match="down to -0.5"):
        convert_ann_to_snn(ann, calibration, "rate", input_coding="poisson")


def mlp(seed=0, units=(30, 20)):
    """An MLP with random weights and biases, on 12 inputs."""
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(size, "relu", name=f"hidden_{n}") for n, size in enumerate(units)]
    ann = keras.Sequential([keras.Input((12,)), *hidden, keras.layers.Dense(5, name="scores")])
    rng = np.random.default_rng(seed)
    for layer in ann.layers:
        layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return ann


def images_of(seed, number=400):
    return np.random.default_rng(seed).uniform(0, 1, (number, 12)).astype("f")


def scaled_layers(ann, factors):
    """The same function, its layers of neurons in other units: activations times `factors`."""
    other = keras.models.clone_model(ann)
    before = 1.0
    for layer, twin, factor in zip(ann.layers, other.layers, [*factors, 1.0], strict=True):
        twin.set_weights([np.asarray(layer.kernel) * (factor / before), np.asarray(layer.bias) * factor])
        before = factor
    return other


@pytest.mark.parametrize("factors", [(2.0**27, 2.0**27), (2.0**-27, 2.0**-27), (2.0**50, 2.0**-50)])
@pytest.mark.parametrize("encoding", ["rate", "ttfs", "ttfs_exact"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_layers_in_other_units_convert_to_the_same_network(factors, encoding, per_channel):
    """2^27 is 1.3e8, a power of two so that the ANN is the same to the last bit."""
    ann, images = mlp(), images_of(1)
    other = scaled_layers(ann, factors)
    np.testing.assert_array_equal(other(images), ann(images))
    snns = [convert_ann_to_snn(each, images, encoding, 40, per_channel=per_channel) for each in (ann, other)]
    np.testing.assert_allclose(snns[1](images), snns[0](images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", [2.0**16, 2.0**30, 2.0**-30])
def test_images_in_other_units_keep_their_class(unit):
    """2^16: raw 16-bit counts. Without biases an ANN's classes do not depend on the unit; powers of two round alike."""
    ann, images = mlp(), images_of(1)
    for layer in ann.layers:
        layer.bias.assign(np.zeros(layer.bias.shape))
    raw = images * np.float32(unit)
    outputs = [np.asarray(convert_ann_to_snn(ann, x, "ttfs_exact", 64)(x)) for x in (images, raw)]
    np.testing.assert_allclose(outputs[1] / unit, outputs[0], rtol=1e-5, atol=1e-6)
    assert np.mean(outputs[1].argmax(-1) == np.asarray(ann(raw)).argmax(-1)) > 0.97
    calibration = calibrate(ann, raw, percentile=90)
    assert calibration.rows()[0]["clipped"] == pytest.approx(0.1, abs=0.01)


def test_activations_that_float32_does_not_hold_are_refused():
    ann = mlp()
    ann.layers[1].kernel.assign(np.full(ann.layers[1].kernel.shape, 3e38))
    with pytest.raises(ValueError, match="layer 'hidden_1' gives inf on the calibration images. Look"):
        calibrate(ann, images_of(1))


# ---------------------------------------------------------------------------------------------------------------------
# Nearly dead channels


def channels_of_size(*sizes):
    """One layer whose channel k gives sizes[k]·x, with the same function behind it."""
    ann = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(len(sizes), "relu", use_bias=False), keras.layers.Dense(1)]
    )
    ann.layers[0].set_weights([np.array([sizes])])
    return ann


def test_nearly_dead_channels_get_the_floor():
    """Channels with the largest activations 2, 4, 1e-6 and 0: the mean of those heard is 2, its tenth 0.2."""
    ann = channels_of_size(2.0, 4.0, 1e-6, -1.0)
    calibration = calibrate(ann, np.linspace(0, 1, 101, dtype="f")[:, None], "max", per_channel=True)
    (layer,) = calibration.layers.values()
    mean = (2 + 4 + 1e-6) / 3
    np.testing.assert_allclose(layer.scale, [2, 4, 0.1 * mean, mean], rtol=1e-6)
    assert (layer.raised, layer.silent) == (1, 1) and calibration.rows()[0]["raised_channels"] == 1
    assert "λ at least 0.1 of the layer's mean" in str(calibration) and str(calibration).split()[-2:] == ["1", "1"]


def test_the_floor_bounds_the_weights():
    """Behind a channel of 1e-6, weights would be 1e6 times as large as without normalisation."""
    x = np.linspace(0, 1, 101, dtype="f")[:, None]
    snn = convert_ann_to_snn(channels_of_size(1.0, 1.0, 1e-6), x, "ttfs_exact", 16)
    assert max(np.abs(weight).max() for weight in snn.hidden_layers[0].get_weights()) < 1.1
    assert min(*snn.scales.values()) == pytest.approx(2 / 3 / 10, rel=0.1)


def test_channels_of_different_but_usual_size_keep_their_own_scale():
    calibration = calibrate(channels_of_size(1.0, 0.2), np.ones((2, 1), "f"), "max", per_channel=True)
    np.testing.assert_allclose(calibration.layers[list(calibration.layers)[0]].scale, [1, 0.2], rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# A finished calibration belongs to its network


def test_another_network_with_the_same_names_is_refused():
    images = images_of(1)
    calibration = calibrate(mlp(0), images)
    convert_ann_to_snn(mlp(0), calibration)
    with pytest.raises(ValueError, match="with the weights it has now. .*fingerprint.*Calibrate this ANN anew"):
        convert_ann_to_snn(mlp(1), calibration)


def test_a_network_loaded_or_read_again_has_its_fingerprint(tmp_path):
    ann = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(4, 3, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(max_value=3.0),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    found = fingerprint(read(ann))
    ann.save(tmp_path / "ann.keras")
    ann.trainable = False
    assert fingerprint(read(ann)) == found == fingerprint(read(keras.models.load_model(tmp_path / "ann.keras")))


def constant_network(*layers, size=8):
    """All weights are 1 where nothing else is said, so that networks differ in what is said alone."""
    with_ones = [keras.Input((size, size, 1)), *layers, keras.layers.GlobalMaxPooling2D()]
    return keras.Sequential([*with_ones, keras.layers.Dense(2, kernel_initializer="ones")])


def conv(kernel="ones", activation="relu", **settings):
    return keras.layers.Conv2D(4, 3, kernel_initializer=kernel, activation=activation, **settings)


def test_what_decides_the_activations_decides_the_fingerprint():
    pool = keras.layers.MaxPooling2D
    negative = keras.layers.BatchNormalization(gamma_initializer=keras.initializers.Constant(-1))
    networks = [
        constant_network(conv()),
        constant_network(conv(keras.initializers.Constant(1.001))),
        constant_network(conv(bias_initializer=keras.initializers.Constant(0.001))),
        constant_network(conv(bias_initializer=keras.initializers.Constant(0.002))),
        constant_network(conv(strides=2)),
        constant_network(conv(padding="same")),
        constant_network(conv(dilation_rate=2)),
        constant_network(conv(activation="relu6")),
        constant_network(conv(activation=keras.layers.ReLU(threshold=0.1))),
        constant_network(conv(activation=None), QuantisedReLU(8, 6.0)),
        constant_network(conv(activation=None), QuantisedReLU(16, 6.0)),
        constant_network(conv(), pool()),
        constant_network(conv(), pool(strides=1)),
        constant_network(conv(), pool(padding="same")),
        constant_network(keras.layers.AveragePooling2D(2), conv()),
        constant_network(keras.layers.Rescaling(0.5), conv()),
        constant_network(conv(), size=9),
        constant_network(conv(activation=None), negative, keras.layers.ReLU()),
    ]
    found = [fingerprint(read(network)) for network in networks]
    assert len(set(found)) == len(networks)
    assert fingerprint(read(constant_network(conv()))) == found[0]


@pytest.mark.parametrize(
    "given, received",
    [
        ({"normalisation": "max"}, "normalisation='max' with a calibration by normalisation='percentile'"),
        ({"norm_percentile": 99}, "norm_percentile=99 with .* norm_percentile=95"),
        ({"per_channel": True}, "per_channel=True with .* per_channel=False"),
    ],
)
def test_settings_that_contradict_a_finished_calibration_are_refused(given, received):
    ann, images = mlp(), images_of(1)
    calibration = calibrate(ann, images, percentile=95)
    with pytest.raises(ValueError, match=received):
        convert_ann_to_snn(ann, calibration, **given)
    agreed = {"normalisation": "percentile", "norm_percentile": 95, "per_channel": False}
    same = convert_ann_to_snn(ann, calibration, **agreed), convert_ann_to_snn(ann, calibration)
    np.testing.assert_array_equal(*(snn(images) for snn in same))


def test_a_percentile_for_a_calibration_without_one_is_refused():
    ann = mlp()
    with pytest.raises(ValueError, match="norm_percentile=99.9 with a calibration by normalisation='mse', per_channel"):
        convert_ann_to_snn(ann, calibrate(ann, images_of(1), "mse"), norm_percentile=99.9)


# ---------------------------------------------------------------------------------------------------------------------
# Portions


def test_portions_change_nothing(monkeypatch):
    """Batches of 7 images or one: the same scales."""
    ann, images = mlp(), images_of(1)
    whole = calibrate(ann, images, "mse", per_channel=True, levels=16)
    monkeypatch.setattr(portions, "BYTES", 7 * 4 * (12 + 2 * (30 + 20 + 5)))
    assert [len(part) for part in portions.portions(images[:20], read(ann))] == [7, 7, 6]
    assert [len(part) for part in portions.portions(images[:3], read(ann), copies=100)] == [1, 1, 1]
    parts = calibrate(ann, images, "mse", per_channel=True, levels=16)
    for one, other in zip(whole.layers.values(), parts.layers.values(), strict=True):
        np.testing.assert_allclose(other.scale, one.scale, rtol=1e-5)
    assert parts.images == whole.images == 400


def test_a_low_percentile_is_warned_of(caplog):
    calibrate(mlp(), images_of(1), percentile=0.999)
    assert "norm_percentile=0.999 clips most activations" in caplog.text
