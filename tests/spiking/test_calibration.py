"""Percentiles from one pass in constant memory, against all values kept and sorted."""

import keras
import numpy as np
import pytest

from conversion import calibrate, convert_ann_to_snn
from spiking.scaling.histogram import BINS_PER_OCTAVE, OCTAVES, Histogram

RNG = np.random.default_rng(0)
# dense samples: neighbouring values of the sorted sample are closer than the stated error
SAMPLES = {
    "uniform": RNG.uniform(0, 3, 200_000),
    "half normal": np.abs(RNG.normal(0, 0.02, 200_000)),
    "rectified normal": np.maximum(RNG.normal(0, 1, 200_000), 0),
    "lognormal": RNG.lognormal(0, 2, 200_000),
    "exponential, large": 1e4 * RNG.exponential(size=200_000),
    "exponential, tiny": 1e-4 * RNG.exponential(size=200_000),
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
    assert found == pytest.approx(np.percentile(values, percent, method="inverted_cdf"), rel=ERROR, abs=2.0**-24)
    # and numpy's usual percentile, where the sample is dense
    assert found == pytest.approx(np.percentile(values, percent), rel=1.5 * ERROR, abs=2.0**-24)


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
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert whole.percentile(99.9) == parts.percentile(99.9)


def test_channels_are_counted_apart():
    values = np.random.default_rng(1).exponential(size=(50, 20, 10, 3)) * [1e-3, 1.0, 1e3]
    found = filled(values, channels=3).percentile(99.0)
    expected = np.percentile(values.reshape(-1, 3), 99.0, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(found, expected, rtol=ERROR)
    np.testing.assert_array_equal(filled(values, channels=3).percentile(100), values.max(axis=(0, 1, 2)).astype("f4"))


def test_memory_is_constant():
    histogram = Histogram()
    shape, size = histogram.counts.shape, histogram.counts.nbytes
    for scale in (1e-12, 1.0, 1e12):
        histogram.update(scale * SAMPLES["uniform"])
    assert histogram.counts.shape == shape and histogram.counts.nbytes == size < 1e6
    assert histogram.counts.sum() == 600_000
    assert shape[1] == (OCTAVES[1] - OCTAVES[0]) * BINS_PER_OCTAVE + 1


def test_edges_are_logarithmic_by_octaves():
    edges = Histogram().edges()
    assert edges[0] == 2.0 ** OCTAVES[0] and edges[-1] == 2.0 ** OCTAVES[1]
    assert np.all(np.diff(edges) > 0)
    assert np.max(np.diff(edges) / edges[:-1]) <= ERROR
    np.testing.assert_array_equal(edges[::BINS_PER_OCTAVE], 2.0 ** np.arange(OCTAVES[0], OCTAVES[1] + 1))


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
    assert [layer.name for layer in calibration.layers] == ["first"]
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
