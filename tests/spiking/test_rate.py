"""The rate code against trajectories worked out by hand and closed forms (DESIGN 3)."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import drive, potentials
from keras import layers as kl

from spiking import get_encoding
from spiking.network.inputs import ConstantCurrent, PoissonSpikes
from spiking.network.layers import SpikingRNN
from spiking.rate import (
    IntegratorNeuronCell,
    LifNeuronCell,
    LifNeuronCellConv2D,
    LifNeuronCellMaxPool2D,
    classic,
    low_latency,
)

HALF = 1 / math.log(2)  # τ for which the leak α = exp(−1/τ) is 1/2


def constant(z, timesteps):
    """The drive z, one neuron a value, in each of T steps: `(T, 1, neurons)`."""
    return np.broadcast_to(np.asarray(z, np.float32), (timesteps, 1, np.size(z)))


def weighted(cell_type, kernel, bias, **options):
    """A cell behind a Dense synapse with these weights."""
    kernel = np.asarray(kernel, np.float32)
    cell = cell_type([kl.Dense(kernel.shape[1], use_bias=False)], **options)
    cell.build((None, kernel.shape[0]))
    cell.synapse_layers[0].set_weights([kernel])
    cell.bias.assign(bias)
    return cell


# --- neurons ---


def test_reset_by_subtraction_by_hand():
    # z = 3/8, θ = 1. V before the reset: .375 .75 1.125 | .5 .875 1.25 | .625 1.0
    # spikes at t = 3, 6 and 8 (exactly at θ fires); what is left: .125, .25, 0.
    spikes, states = drive(LifNeuronCell(bias=None), constant(0.375, 9))
    assert spikes[:, 0, 0].tolist() == [0, 0, 1, 0, 0, 1, 0, 1, 0]
    assert potentials(states)[:, 0].tolist() == [0.375, 0.75, 0.125, 0.5, 0.875, 0.25, 0.625, 0.0, 0.375]


def test_reset_to_zero_by_hand():
    # z = 3/8, θ = 1: fires at every third step and forgets the eighth that was left over.
    spikes, states = drive(LifNeuronCell(bias=None, reset="zero"), constant(0.375, 7))
    assert spikes[:, 0, 0].tolist() == [0, 0, 1, 0, 0, 1, 0]
    assert potentials(states)[:, 0].tolist() == [0.375, 0.75, 0, 0.375, 0.75, 0, 0.375]


def test_leak_by_hand():
    # α = 1/2, z = 3/4, θ = 1, V ← V/2 + z:  .75 | .375+.75 = 1.125 fires, .125 | .0625+.75 = .8125 |
    # .40625+.75 = 1.15625 fires, .15625 | .078125+.75 = .828125
    spikes, states = drive(LifNeuronCell(bias=None, tau=HALF), constant(0.75, 5))
    assert spikes[:, 0, 0].tolist() == [0, 1, 0, 1, 0]
    assert potentials(states)[:, 0].tolist() == [0.75, 0.125, 0.8125, 0.15625, 0.828125]


@pytest.mark.parametrize("tau", [0.5, 2.0, 20.0, math.inf])
def test_leak_closed_form_below_threshold(tau):
    # V(t) = z (1 − α^t)/(1 − α) with α = exp(−1/τ), and z·t without leak
    alpha, t = math.exp(-1 / tau), np.arange(1, 31)
    _, states = drive(LifNeuronCell(bias=None, tau=tau, threshold=1000.0), constant([0.7, -0.4], 30))
    expected = t if tau == math.inf else (1 - alpha**t) / (1 - alpha)
    np.testing.assert_allclose(potentials(states), expected[:, None] * [0.7, -0.4], rtol=2e-6)


def test_weights_and_bias_by_hand():
    # W = (1/2, −1/4), b = 1/8; inputs (1,0) (1,1) (0,1) (0,1) (1,0)
    # I = .625 .375 −.125 −.125 .625;  V = .625, 1.0 fires → 0, −.125, −.25, .375: it may become negative.
    cell = weighted(LifNeuronCell, [[0.5], [-0.25]], [0.125])
    spikes, states = drive(cell, [[1, 0], [1, 1], [0, 1], [0, 1], [1, 0]], batched=False)
    assert spikes[:, 0].tolist() == [0, 1, 0, 0, 0]
    assert potentials(states)[:, 0].tolist() == [0.625, 0, -0.125, -0.25, 0.375]


def test_initial_potential_by_hand():
    # θ = 2, V(0) = θ/2 = 1, z = 1/2:  1.5, 2.0 fires → 0, .5, 1, 1.5, 2.0 fires
    spikes, states = drive(LifNeuronCell(bias=None, threshold=2.0, initial_potential=0.5), constant(0.5, 6))
    assert spikes[:, 0, 0].tolist() == [0, 1, 0, 0, 0, 1]
    assert potentials(states)[:, 0].tolist() == [1.5, 0, 0.5, 1, 1.5, 0]


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.5, 10.0])
@pytest.mark.parametrize("start", [0.0, 0.25, 0.5, 0.875])
def test_constant_drive_closed_form(threshold, start):
    # clip(⌊(zt + V(0))/θ⌋, 0, t) spikes after every t, for dyadic z of either sign and above θ
    z, timesteps = np.arange(-1, 3 * threshold, 1 / 16), 12
    spikes, _ = drive(
        LifNeuronCell(bias=None, threshold=threshold, initial_potential=start), constant(z, timesteps)
    )
    t = np.arange(1, timesteps + 1)[:, None]
    expected = np.clip(np.floor((z * t + start * threshold) / threshold), 0, t)
    np.testing.assert_array_equal(np.cumsum(spikes[:, 0], axis=0), expected)
    assert set(np.unique(spikes)) == {0, 1}


def test_potential_equal_to_the_threshold_fires_for_any_threshold():
    # [V ≥ θ] must not be lost in V/θ − 1; graphs may turn a division into a multiplication.
    for threshold in [*range(1, 60, 3), 0.1, 0.3, 1 / 3, 49.0]:
        cell = LifNeuronCell(bias=None, threshold=threshold)
        cell.build((None, 2))
        step = tf.function(lambda x, state, cell=cell: cell(x, state))
        below = np.nextafter(np.float32(threshold), np.float32(0))
        spikes, _ = step(tf.constant([[threshold, below]], tf.float32), tuple(cell.get_initial_state(1)))
        assert spikes.numpy().tolist() == [[1, 0]], threshold


@pytest.mark.parametrize("start, bound", [(0.0, 1.0), (0.5, 0.5)])
def test_error_falls_as_one_over_time(start, bound):
    # For 0 ≤ z ≤ θ the rate θ·count/t differs from z by less than θ/t; with V(0) = θ/2 by θ/(2t).
    theta, z = 1.5, np.random.default_rng(0).uniform(0, 1.5, 200)
    spikes, _ = drive(LifNeuronCell(bias=None, threshold=theta, initial_potential=start), constant(z, 128))
    for t in (8, 32, 128):
        error = np.abs(theta * spikes[:t, 0].sum(axis=0) / t - z).max()
        assert 0.8 * bound * theta / t < error <= bound * theta / t + 1e-5


# --- negative spikes, several spikes a step ---


def test_take_back_by_hand():
    # θ = 1. I = 1.5 −1 −1 .25 −2:  V = 1.5 fires, .5 | −.5, one was sent: taken back, .5 | −.5, none is left: stays |
    # −.25 | −2.25, below 0 for good.
    spikes, states = drive(LifNeuronCell(bias=None, signed=True), [[1.5], [-1], [-1], [0.25], [-2]], batched=False)
    assert spikes[:, 0].tolist() == [1, -1, 0, 0, 0]
    assert potentials(states)[:, 0].tolist() == [0.5, 0.5, -0.5, -0.25, -2.25]
    assert [-float(state.least[0, 0]) for state in states] == [1, 0, 0, 0, 0]


def test_a_potential_of_zero_takes_nothing_back():
    # V = 1 fires, 0 | 0 stays | a little below: taken back
    spikes, _ = drive(LifNeuronCell(bias=None, signed=True), [[1.0], [0.0], [-(2.0**-20)]], batched=False)
    assert spikes[:, 0].tolist() == [1, 0, -1]


def test_burst_and_drain_by_hand():
    # θ = 1/4, Γ = 3. V = 1.125 is 4 θ: 3 are sent, .375 | 1 more, .125 | nothing
    cell = LifNeuronCell(bias=None, threshold=0.25, max_spikes=3)
    spikes, states = drive(cell, [[1.125], [0], [0], [-1]], batched=False)
    assert spikes[:, 0].tolist() == [3, 1, 0, 0]
    assert potentials(states)[:, 0].tolist() == [0.375, 0.125, 0.125, -0.875]


def test_signed_bursts_are_taken_back_one_by_one():
    # θ = 1/4, Γ = 3: 3 at once, .375 | −.375 → −1, −.125 | −.125 → −1, .125 | .125 | −.625: the last, −.375 | none left
    cell = LifNeuronCell(bias=None, threshold=0.25, max_spikes=3, signed=True)
    spikes, states = drive(cell, [[1.125], [-0.75], [0], [0], [-0.75], [0]], batched=False)
    assert spikes[:, 0].tolist() == [3, -1, -1, 0, -1, 0]
    assert potentials(states)[:, 0].tolist() == [0.375, -0.125, 0.125, 0.125, -0.375, -0.375]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("threshold, most", [(1.0, 1), (0.5, 2), (0.375, 4), (0.125, 8)])
def test_several_spikes_under_a_constant_drive(threshold, most, signed):
    # clip(⌊(zt + θ/2)/θ⌋, 0, Γt) after every t; nothing is ever taken back
    z, timesteps = np.arange(-1, 1.5 * most * threshold, 1 / 32), 12
    cell = LifNeuronCell(
        bias=None, threshold=threshold, max_spikes=most, signed=signed, initial_potential=0.5
    )
    spikes, _ = drive(cell, constant(z, timesteps))
    t = np.arange(1, timesteps + 1)[:, None]
    expected = np.clip(np.floor((z * t + threshold / 2) / threshold), 0, most * t)
    np.testing.assert_array_equal(np.cumsum(spikes[:, 0], axis=0), expected)
    assert spikes.max() == most and spikes.min() == 0


def test_negative_spikes_undo_the_order_of_arrival():
    """The error of early positive and late negative current: without them 8 spikes stay, with them half are left."""
    current = [[1.0]] * 8 + [[-0.5]] * 8  # Σ I = 4
    kept, _ = drive(LifNeuronCell(bias=None), current, batched=False)
    signed, _ = drive(LifNeuronCell(bias=None, signed=True), current, batched=False)
    assert kept.sum() == 8 and signed.sum() == 4


@pytest.mark.parametrize("most, signed", [(1, False), (1, True), (3, False), (3, True)])
def test_surrogate_derivative_by_hand(most, signed):
    # 1/(θ(1 + |V/θ − k|)²) at the nearest threshold k out of 1…Γ, and 0 where there is something to take back. θ = 1/2.
    cell = LifNeuronCell(bias=None, threshold=0.5, max_spikes=most, signed=signed)
    cell.build((None, 4))
    v = np.array([[-0.25, 0.125, 1.125, 2.5]], np.float32)  # V/θ = −.5 .25 2.25 5
    nearest = {1: [1, 1, 1, 1], 3: [1, 1, 2, 3]}[most]
    state = (tf.zeros((1, 4)), -tf.ones((1, 4)))[: 1 + signed]  # one was sent before
    if signed:
        nearest = [0, 0, *nearest[2:]]
    current = tf.constant(v)
    with tf.GradientTape() as tape:
        tape.watch(current)
        spikes, _ = cell(current, state)
    expected = 2 / (1 + np.abs(v / 0.5 - nearest)) ** 2
    np.testing.assert_allclose(tape.gradient(spikes, current), expected, rtol=1e-6)


def test_full_activity_is_the_same_for_any_number_of_spikes():
    code = get_encoding("rate").configured(16, max_spikes=4, signed=True)
    assert code.spike_value == 0.25 and code.full_activity == 1.0 and code.spike_range == (-1, 4)
    assert code.activity(np.array(64.0), 1) == 1.0 and code.rounding_levels == 64
    assert code.at_depth(14).readout_delay == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_spikes": 0}, "max_spikes=0"),
        ({"max_spikes": 1.5}, "max_spikes=1.5"),
        ({"signed": "no"}, "signed='no'"),
        ({"signed": True, "reset": "zero"}, "reset='zero'"),
        ({"max_spikes": 2, "reset": "zero"}, "reset='zero'"),
    ],
)
def test_settings_of_spikes_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        get_encoding("rate").configured(8, **options)


# --- feature maps ---

# 2×3 pixels, kernel (1, −1/2) along the columns. W∗x without padding:
#   .5−.125  .25−0      .375 .25
#   1−.25    .5−.5   =  .75  0
IMAGE = np.array([[0.5, 0.25, 0.0], [1.0, 0.5, 1.0]])[..., None]


def conv_cell(cell_type, padding, bias, **options):
    cell = cell_type([kl.Conv2D(1, (1, 2), padding=padding, use_bias=False)], bias=bias, **options)
    cell.build((None, 2, 3, 1))
    cell.synapse_layers[0].set_weights([np.array([1, -0.5], np.float32).reshape(1, 2, 1, 1)])
    return cell


def test_conv2d_by_hand():
    # with b = 1/8: I = .5 .375 / .875 .125. In four steps, θ = 1:
    # .5:   .5 1*→0 .5 1*        .375: .375 .75 1.125*→.125 .5
    # .875: .875 1.75*→.75 1.625*→.625 1.5*→.5        .125: never
    cell = conv_cell(LifNeuronCellConv2D, "valid", "vector")
    cell.bias.assign([0.125])
    spikes, states = drive(cell, np.broadcast_to(IMAGE, (4, 2, 3, 1)), batched=False)
    expected = [[[0, 0], [0, 0]], [[1, 0], [1, 0]], [[0, 1], [1, 0]], [[1, 0], [1, 0]]]
    assert spikes[..., 0].tolist() == expected
    assert potentials(states)[-1, ..., 0].tolist() == [[0, 0.5], [0.5, 0.5]]


def test_conv2d_with_zero_padding_and_a_bias_map_by_hand():
    # padding="same" puts the pad on the right: the last column sees (x, 0): I = .375 .25 0 / .75 0 1,
    # plus the map .5 .25 .25 / 0 0 −.5  =  .875 .5 .25 / .75 0 .5. Two steps:
    # 1.75*→.75  1.0*→0  .5  /  1.5*→.5  0  1.0*→0
    cell = conv_cell(LifNeuronCellConv2D, "same", "map")
    cell.bias.assign(np.array([[0.5, 0.25, 0.25], [0, 0, -0.5]])[..., None])
    spikes, states = drive(cell, np.broadcast_to(IMAGE, (2, 2, 3, 1)), batched=False)
    assert spikes[..., 0].tolist() == [[[0, 0, 0], [0, 0, 0]], [[1, 1, 0], [1, 0, 1]]]
    assert potentials(states)[-1, ..., 0].tolist() == [[0.75, 0, 0.5], [0.5, 0, 0]]


def test_max_pool_by_hand():
    # Two neurons in a window. A: 1 0 0 1 1, B: 0 1 1 0 1. Counts A 1 1 1 2 3, B 0 1 2 2 3.
    # Largest 1 1 2 2 3 → 1 0 1 0 1. Smallest (second channel, sign −1) 0 1 1 2 3 → 0 1 0 1 1.
    a, b = [1, 0, 0, 1, 1], [0, 1, 1, 0, 1]
    x = np.array([a, b]).T.reshape(5, 1, 2, 1).repeat(2, axis=-1)
    cell = LifNeuronCellMaxPool2D(pool=kl.MaxPooling2D((1, 2)), sign=[1, -1])
    passed, _ = drive(cell, x, batched=False)
    assert passed[:, 0, 0].T.tolist() == [[1, 0, 1, 0, 1], [0, 1, 0, 1, 1]]


def test_the_largest_count_is_the_largest_rate_where_spikes_of_any_are_too_many():
    # From V(0) = θ/2, z = θ/2 fires at 1 3 5 7 and z = θ/4 at 2 6, together in 6 of 8 steps. The pool is to send what
    # a neuron with the larger current does, ⌊t/2 + ½⌋ spikes by step t: 1 1 2 2 3 3 4 4.
    spikes, _ = drive(LifNeuronCell(bias=None, initial_potential=0.5), constant([0.5, 0.25], 8))
    assert spikes[:, 0].T.tolist() == [[1, 0, 1, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 1, 0, 0]]
    cell = LifNeuronCellMaxPool2D(pool=kl.MaxPooling2D((1, 2)))
    passed, _ = drive(cell, spikes.reshape(8, 1, 2, 1), batched=False)
    assert np.cumsum(passed).tolist() == [1, 1, 2, 2, 3, 3, 4, 4] and spikes.max(-1).sum() == 6


def test_max_pool_of_signed_counts_by_hand():
    # A: 1 1 −1 −1 0, B: 0 1 0 0 −1. Counts A 1 2 1 0 0, B 0 1 1 1 0.
    # Largest 1 2 1 1 0 → 1 1 −1 0 −1. Smallest 0 1 1 0 0 → 0 1 0 −1 0.
    a, b = [1, 1, -1, -1, 0], [0, 1, 0, 0, -1]
    x = np.array([a, b]).T.reshape(5, 1, 2, 1).repeat(2, axis=-1)
    cell = LifNeuronCellMaxPool2D(pool=kl.MaxPooling2D((1, 2)), sign=[1, -1])
    passed, _ = drive(cell, x, batched=False)
    assert passed[:, 0, 0].T.tolist() == [[1, 1, -1, 0, -1], [0, 1, 0, -1, 0]]


def pooled(x, size, stride, padding, largest):
    """Max or min pooling of `(rows, columns, channels)`, window by window; padding holds nothing."""
    rows, columns = x.shape[:2]
    if padding == "same":
        counts = [-(-n // stride) for n in (rows, columns)]
        before = [max((c - 1) * stride + size - n, 0) // 2 for c, n in zip(counts, (rows, columns), strict=True)]
    else:
        counts, before = [(n - size) // stride + 1 for n in (rows, columns)], (0, 0)
    out = np.empty((*counts, x.shape[2]))
    for i in range(counts[0]):
        for j in range(counts[1]):
            top, left = i * stride - before[0], j * stride - before[1]
            window = x[max(top, 0) : top + size, max(left, 0) : left + size]
            out[i, j] = (window.max if largest else window.min)(axis=(0, 1))
    return out


@pytest.mark.parametrize("size, stride", [(2, 2), (3, 2), (3, 1)])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_max_pool_is_exact_on_counts(size, stride, padding):
    x = np.random.default_rng(1).random((20, 5, 6, 2)) < np.linspace(0.1, 0.9, 30).reshape(5, 6, 1)
    pool = kl.MaxPooling2D(size, strides=stride, padding=padding)
    passed, _ = drive(LifNeuronCellMaxPool2D(pool=pool, sign=[1, -1]), x, batched=False)
    counts, out = np.cumsum(x, axis=0), np.cumsum(passed, axis=0)
    for t in range(20):
        np.testing.assert_array_equal(out[t, ..., 0], pooled(counts[t], size, stride, padding, True)[..., 0])
        np.testing.assert_array_equal(out[t, ..., 1], pooled(counts[t], size, stride, padding, False)[..., 1])
    assert set(np.unique(passed)) <= {0, 1}


# --- read-out ---


def test_integrator_by_hand():
    # W = 1/2, b = 1/4, inputs 1 0 1 1: I = .75 .25 .75 .75, V = .75 1 1.75 2.5, V/t = .75 .5 1.75/3 .625
    cell = weighted(IntegratorNeuronCell, [[0.5]], [0.25])
    output, states = drive(cell, [[1], [0], [1], [1]], batched=False)
    assert potentials(states)[:, 0].tolist() == [0.75, 1.0, 1.75, 2.5]
    np.testing.assert_array_equal(output[:, 0], np.float32([0.75, 0.5, 1.75 / 3, 0.625]))


def test_readout_delay_by_hand():
    # The same with the first two steps ignored: V = 0 0 .75 1.5, V/(t − 2) = – – .75 .75
    cell = weighted(IntegratorNeuronCell, [[0.5]], [0.25], readout_delay=2)
    output, _ = drive(cell, [[1], [0], [1], [1]], batched=False)
    assert output[:, 0].tolist() == [0, 0, 0.75, 0.75]


def test_integrator_never_fires_and_applies_the_activation():
    cell = IntegratorNeuronCell(bias=None, activation="softmax")
    output, states = drive(cell, constant([3.0, -1.0, 5.0], 4))
    assert potentials(states)[-1].tolist() == [12, -4, 20]
    expected = np.exp([3.0, -1.0, 5.0])
    np.testing.assert_allclose(output[-1, 0], expected / expected.sum(), rtol=1e-6)


def test_read_out_counter_does_not_stop_in_reduced_precision(mixed_float16):
    # A float16 counter stops at 2048, a bfloat16 one at 256: V/t would grow beyond the drive.
    cell = IntegratorNeuronCell(bias=None)
    output, states = drive(cell, constant(0.5, 2060))
    assert output[-1, 0, 0] == 0.5
    assert {state.dtype.name for state in states[-1]} == {"float32"}
    layer = SpikingRNN(IntegratorNeuronCell(bias=None), return_sequences=False)  # Keras' loop casts the state
    assert layer(tf.fill((1, 2060, 1), 0.5)).numpy() == [[0.5]]


# --- input ---


def test_constant_current_repeats_the_image():
    image = np.random.default_rng(0).random((2, 3, 4, 1)).astype(np.float32)
    steps = ConstantCurrent(timesteps=3)(image).numpy()
    np.testing.assert_array_equal(steps, np.repeat(image[:, None], 3, axis=1))


def poisson(images, timesteps=64, **options):
    return PoissonSpikes(timesteps=timesteps, **options)(tf.constant(images, tf.float32)).numpy()


@pytest.mark.parametrize("max_rate, scale", [(1.0, 1.0), (0.25, 1.0), (0.5, 2.0), (2.0, 1.0)])
def test_poisson_rate(max_rate, scale):
    # P(spike) = min(max_rate·x/scale, 1) per step and pixel, independently: the mean of n draws is within 5
    # standard errors.
    x, timesteps, pixels = np.array([0.0, 0.125, 0.5, 0.75, 1.0]) * scale, 500, 40
    spikes = poisson(np.repeat(x[:, None], pixels, axis=1), timesteps, max_rate=max_rate, scale=scale)
    expected = np.minimum(max_rate * x / scale, 1)
    error = np.sqrt(expected * (1 - expected) / (timesteps * pixels))
    assert set(np.unique(spikes)) == {0, 1}
    assert np.all(np.abs(spikes.mean(axis=(1, 2)) - expected) <= 5 * error)
    assert np.all(spikes[0] == 0)
    assert max_rate < 1 or np.all(spikes[-1] == 1)


def test_poisson_draws_are_independent_in_time_and_between_pixels():
    spikes = poisson(np.full((1, 30), 0.5), 400)[0] - 0.5
    for a, b in ((spikes[1:], spikes[:-1]), (spikes[:, 1:], spikes[:, :-1])):
        assert abs(np.mean(4 * a * b)) < 5 / math.sqrt(a.size)


def test_poisson_is_determined_by_seed_and_time():
    images = np.random.default_rng(0).random((3, 8))
    spikes = poisson(images, seed=7)
    np.testing.assert_array_equal(spikes, poisson(images, seed=7))
    np.testing.assert_array_equal(spikes[:, :16], poisson(images, 16, seed=7))  # the first steps, whatever T is
    assert np.mean(spikes != poisson(images, seed=8)) > 0.1


def test_poisson_does_not_depend_on_the_batch():
    images = np.random.default_rng(0).random((4, 8))
    spikes = poisson(images)
    for i in range(4):
        np.testing.assert_array_equal(poisson(images[i : i + 1])[0], spikes[i])
    np.testing.assert_array_equal(poisson(images[::-1])[::-1], spikes)


# --- arguments ---


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threshold": 0}, "threshold=0"),
        ({"threshold": -1.0}, "threshold=-1.0"),
        ({"threshold": math.nan}, "threshold=nan"),
        ({"threshold": math.inf}, "threshold=inf"),
        ({"tau": 0.0}, "tau=0.0"),
        ({"tau": -3.0}, "tau=-3.0"),
        ({"tau": math.nan}, "tau=nan"),
        ({"reset": "soft"}, "reset='soft'"),
        ({"initial_potential": 1.0}, "initial_potential=1.0"),
        ({"initial_potential": -0.1}, "initial_potential=-0.1"),
        ({"bias": "scalar"}, "bias='scalar'"),
    ],
)
def test_cell_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LifNeuronCell(**options)


@pytest.mark.parametrize("max_rate", [0.0, -0.5, math.inf, math.nan])
def test_poisson_refuses_max_rate(max_rate):
    with pytest.raises(ValueError, match=f"max_rate={max_rate}"):
        PoissonSpikes(timesteps=3, max_rate=max_rate)


def test_conv2d_cell_refuses_other_ranks():
    with pytest.raises(ValueError, match="LifNeuronCellConv2D"):
        LifNeuronCellConv2D().build((None, 5))


def test_max_pool_cell_needs_its_pool():
    with pytest.raises(ValueError, match="pool=None"):
        LifNeuronCellMaxPool2D()


@pytest.mark.parametrize("timesteps", [0, -1, 2.5, 4.0, True, "10", math.nan])
def test_settings_refuse_timesteps(timesteps):
    with pytest.raises(ValueError, match="timesteps="):
        get_encoding("rate").configured(timesteps)


def test_settings_refuse_unknown_options_by_name():
    with pytest.raises(ValueError, match="leak=3"):
        get_encoding("rate").configured(10, leak=3)


def test_settings_are_complete():
    settings = get_encoding("rate").get_config()
    assert settings["timesteps"] == 64 and settings["threshold"] == 1.0
    assert settings["initial_potential"] == 0.5 and settings["readout_delay"] is None
    assert settings["tau"] == math.inf and settings["reset"] == "subtract" and settings["input_coding"] == "current"


@pytest.mark.parametrize("timesteps, depth, delay", [(64, 1, 0), (64, 4, 0), (64, 7, 6), (64, 14, 20), (16, 14, 8)])
def test_the_read_out_of_deep_networks_ignores_the_first_steps(timesteps, depth, delay):
    """Two steps for every layer behind the fourth, half of them at most: docs/DEFAULTS.md."""
    code = get_encoding("rate")
    assert code.configured(timesteps).at_depth(depth).readout_delay == delay
    assert code.configured(timesteps, readout_delay=3).at_depth(depth).readout_delay == 3


def test_classic_settings_are_those_of_the_paper():
    code = get_encoding("rate").configured(100, **classic()).at_depth(14)
    assert (code.initial_potential, code.readout_delay, code.threshold) == (0.0, 0, 1.0)


def test_low_latency_depends_on_what_the_hardware_can():
    code = get_encoding("rate").configured(8, **low_latency(8)).at_depth(14)
    assert (code.initial_potential, code.readout_delay, code.spike_range) == (0.5, 4, (0, 1))
    code = get_encoding("rate").configured(8, **low_latency(8, signed=True, max_spikes=4)).at_depth(14)
    assert (code.initial_potential, code.readout_delay, code.spike_range) == (0.5, 0, (-1, 4))


def test_unknown_encoding():
    with pytest.raises(ValueError, match="encoding='phase'"):
        get_encoding("phase")


def test_cell_config_round_trip():
    for options in ({"reset": "zero", "initial_potential": 0.25}, {"signed": True, "max_spikes": 3}):
        cell = LifNeuronCell([kl.Dense(2, use_bias=False)], threshold=2.0, tau=5.0, **options)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(cell))
        for name in ("threshold", "tau", "reset", "initial_potential", "signed", "max_spikes", "State", "bias_kind"):
            assert getattr(again, name) == getattr(cell, name)
