"""Arguments: what is let through comes back as a plain number, what is not is named with the rule and the remedy."""

import math

import keras
import numpy as np
import pytest

import spiking
from conversion import convert_ann_to_snn
from spiking.checks import (
    check_choice,
    check_percentile,
    check_real,
    check_threshold,
    check_timesteps,
    check_whole,
)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers(value):
    found = check_whole("n", value, 3, 3)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", [2, 4, 3.0, "3", True, None, math.nan, np.float32(3)])
def test_what_is_no_whole_number_in_the_range(value):
    with pytest.raises(ValueError) as error:
        check_whole("n", value, 3, 3, "Take 3.")
    assert str(error.value) == f"n must be a whole number from 3 to 3. Received: n={value!r}. Take 3."


@pytest.mark.parametrize(
    "interval, inside, outside",
    [
        ("(0, 100]", [1e-300, 100, np.float32(0.5)], [0, -1, 100.0001, math.inf, math.nan, "1", None, True, 1j]),
        ("[0, 1)", [0, 0.999], [-1e-300, 1, math.nan]),
        ("(0, inf]", [5, math.inf], [0, -math.inf, math.nan]),
        ("(-inf, inf)", [-1e300, 0], [math.inf, -math.inf, math.nan]),
    ],
)
def test_real_numbers(interval, inside, outside):
    for value in inside:
        found = check_real("x", value, interval)
        assert found == value and type(found) is float
    for value in outside:
        with pytest.raises(ValueError) as error:
            check_real("x", value, interval)
        assert str(error.value) == f"x must be a number in {interval}. Received: x={value!r}"


def test_choices():
    assert check_choice("x", "a", ("a", "b")) == "a"
    with pytest.raises(ValueError, match=r"x must be one of \('a', 'b'\). Received: x='c'"):
        check_choice("x", "c", ("a", "b"))


@pytest.mark.parametrize("percent", [0, 0.0, -1.0, 100.1, math.nan, math.inf, True, "99"])
def test_percentiles_refused(percent):
    with pytest.raises(ValueError, match=f"norm_percentile={percent!r}"):
        check_percentile(percent)


@pytest.mark.parametrize("percent", [100, 99.9, 1e-3, np.float32(50)])
def test_percentiles_accepted(percent):
    assert check_percentile(percent) == float(percent)


def test_float32_counts_all_steps_and_one_more():
    """T and T + 1, the numbers a state and a first spike time hold, are float32 numbers up to the limit, not beyond."""
    most = 2**24 - 1
    assert [int(np.float32(most + more)) for more in (0, 1, 2)] == [most, most + 1, most + 1]
    assert check_timesteps(most) == most
    with pytest.raises(ValueError, match="float32 has at most 16777215 .*timesteps=16777216. Take at most 16777215"):
        check_timesteps(most + 1)
    with pytest.raises(ValueError, match="6000000 in each of 3 windows, 18000000 together. Take at most 5592405"):
        check_timesteps(6_000_000, 3)


def test_int32_counts_the_steps_of_float64(float64):
    assert check_timesteps(2**28, 7) == 2**28
    with pytest.raises(ValueError, match="float64 has at most 2147483647 .*timesteps=2147483648. Take"):
        check_timesteps(2**31)


@pytest.mark.parametrize("encoding", spiking.ENCODINGS)
@pytest.mark.parametrize("timesteps", [2**24, 10**9, 2**31, 2**63])
def test_more_steps_than_can_be_counted_are_refused_before_any_work(encoding, timesteps):
    with pytest.raises(ValueError, match=f"at most 16777215 time steps.*{timesteps}"):
        spiking.get_encoding(encoding).configured(timesteps)


def test_windows_together_are_counted_too():
    """Two hidden layers and the image: three windows of 6 million steps."""
    layers = [keras.Input((2,)), *(keras.layers.Dense(2, "relu") for _ in range(2)), keras.layers.Dense(2)]
    with pytest.raises(ValueError, match="timesteps=6000000 in each of 3 windows, 18000000 together"):
        convert_ann_to_snn(keras.Sequential(layers), np.ones((1, 2), "f"), "ttfs_exact", 6_000_000)


@pytest.mark.parametrize("encoding", spiking.ENCODINGS)
@pytest.mark.parametrize("threshold", [1e40, 1e-40, 2e30, math.nan, math.inf, 0, -1, "1", True])
def test_thresholds_that_float32_cannot_count_with_are_refused(encoding, threshold):
    with pytest.raises(ValueError, match=r"threshold must be a number in \[1e-30, 1e30\]. Received: threshold="):
        spiking.get_encoding(encoding).configured(threshold=threshold)


def test_the_limits_of_thresholds_are_those_of_float32():
    tiny = np.finfo(np.float32).tiny
    for threshold in (1e-30, 1e30):
        assert check_threshold(threshold) == threshold
        assert tiny < np.float32(threshold) / np.float32(2**24)
        assert np.isfinite(np.float32(threshold) * np.float32(2**24))
