"""The digits of activations: trajectories and pools worked out by hand, and equality with `ttfs_exact` (DESIGN 4)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import drive, dyadic, potentials
from contract_networks import BUILDERS, build, images_for, make_dyadic, stock_stack
from keras import layers as kl
from random_graphs import random_graph
from random_networks import random_network
from test_contract import convert, copy_of

from benchmarks.wall import dyadic_snn
from conversion import ann_and_snn_activations_per_layer, convert_ann_to_snn, diagnose, snn_activation_analysis
from spiking import get_encoding
from spiking.analysis.latency import latency
from spiking.network.clock import simulate
from spiking.network.records import ACTIVITIES, FIRST_SPIKE_TIMES, RASTERS, READOUTS, RECORDS, SPIKE_COUNTS
from spiking.radix import (
    SPELLING,
    IntegratorNeuronCell,
    LifNeuronCell,
    LifNeuronCellConv2D,
    LifNeuronCellMaxPool2D,
    WindowInput,
)

# Level -> its three digits.
THREE = {0: (0, 0, 0), 1: (0, 0, 1), 2: (0, 1, 0), 3: (0, 1, 1), 4: (1, 0, 0), 5: (1, 0, 1), 6: (1, 1, 0), 7: (1, 1, 1)}


def digits(*levels):
    """Spikes of one neuron in window after window of three steps, `(T, 1, 1)`."""
    return np.array(sum((THREE[level] for level in levels), ()), np.float32)[:, None, None]


def times(weight, spikes):
    """What a synapse of this weight makes of them."""
    return weight * spikes


# --- neurons, K = 3, N = 7 ---


def test_a_neuron_by_hand():
    # The input says 5 = 101: W = 3/4 is worth 3, 0, 3/4. V = 3.75 rounds to 4 = 100; + ½ at the opening, − 4 at once.
    spikes, states = drive(LifNeuronCell(bias=None, timesteps=3), times(0.75, digits(5, 0, 0)))
    assert spikes[:, 0, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert potentials(states)[:, 0].tolist() == [3, 3, 3.75, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]


def test_what_is_left_is_compared_with_the_next_digit():
    # 7·(3/4) = 5.25, + ½: 5.75 ≥ 4, 1.75 < 2, 1.75 ≥ 1
    spikes, states = drive(LifNeuronCell(bias=None, timesteps=3), times(0.75, digits(7, 0)))
    assert spikes[3:, 0, 0].tolist() == [1, 0, 1]
    assert potentials(states)[3:, 0].tolist() == [1.75, 1.75, 0.75]


@pytest.mark.parametrize(
    "weight, level",
    [(0.5, 3), (0.4375, 2), (1.5, 7), (-1.0, 0), (0.0625, 0), (0.1, 1)],  # 2.5 is a tie; 7.5; −5; 0.3125; 0.5 is a tie
)
def test_levels_round_to_nearest_and_are_limited(weight, level):
    spikes, _ = drive(LifNeuronCell(bias=None, timesteps=3), times(weight, digits(5, 0)))
    assert tuple(spikes[3:, 0, 0]) == THREE[level]


def test_threshold_and_clamp():
    # θ = 2 halves what comes; c = ½ of λ: up to c·7/θ = 3.5 it is silent
    cell = LifNeuronCell(bias=None, timesteps=3, threshold=2.0)
    cell.build((None, 1))
    assert float(cell.current(tf.constant([[1.5]]))[0, 0]) == 0.75
    clamped = {weight: drive(LifNeuronCell(bias=None, timesteps=3, clamp=[0.5]), times(weight, digits(5, 0)))[0]
               for weight in (0.625, 0.7, 0.75)}  # fmt: skip
    assert tuple(clamped[0.625][3:, 0, 0]) == THREE[0]  # 3.125 would be 3
    assert tuple(clamped[0.7][3:, 0, 0]) == THREE[0]  # 3.5 is not above
    assert tuple(clamped[0.75][3:, 0, 0]) == THREE[4]  # 3.75


def test_bias_is_in_the_initial_potential():
    cell = LifNeuronCell(timesteps=3)
    cell.build((None, 1))
    cell.bias.assign([0.5])  # 3.5 of 7; with 3 more 6.5, a tie
    spikes, _ = drive(cell, digits(3, 0))
    assert tuple(spikes[3:, 0, 0]) == THREE[7]


def test_a_window_behind_a_skip_connection():
    # The neuron of window 3 hears 5 in window 0 and 2 in window 2, both worth what they say; nothing in window 1.
    spikes, states = drive(LifNeuronCell(bias=None, timesteps=3, window=3), times(0.5, digits(5, 0, 2, 0, 0)))
    assert potentials(states)[:9, 0].tolist() == [2, 2, 2.5, 2.5, 2.5, 2.5, 2.5, 3.5, 3.5]
    assert spikes[:, 0, 0].tolist() == [0] * 9 + [1, 0, 0] + [0] * 3


def test_the_read_out_by_hand():
    # V(0) = 7b = 7; 6 in window 0 (4, 2, 0), 1 in window 1: 14/7 in the end, and what has come by then before.
    cell = IntegratorNeuronCell(timesteps=3)
    cell.build((None, 1))
    cell.bias.assign([1.0])
    outputs, _ = drive(cell, digits(6, 1))
    np.testing.assert_allclose(7 * outputs[:, 0, 0], [11, 13, 13, 13, 13, 14], rtol=1e-6)


# --- pools ---


@pytest.mark.parametrize(
    "pair, largest, smallest",
    [((5, 6), 6, 5), ((3, 4), 4, 3), ((5, 5), 5, 5), ((0, 0), 0, 0), ((0, 1), 1, 0), ((7, 6), 7, 6), ((2, 1), 2, 1)],
)
def test_pools_by_hand(pair, largest, smallest):
    """(5, 6) is 101 and 110: 1 and 1 are a tie, then 10 and 11; the smallest among 011, 100 lets 0, 1, 1 through."""
    pool = LifNeuronCellMaxPool2D(pool=kl.MaxPooling2D((1, 2)), timesteps=3, sign=[1, -1])
    pool.build((None, 1, 2, 2))
    # twice, in windows of three steps with a silent one between: each begins anew
    spikes = np.concatenate([digits(level, 0, level) for level in pair], axis=-1)
    maps = np.repeat(spikes.reshape(-1, 1, 1, 2, 1), 2, axis=-1)
    passed, _ = drive(pool, maps)
    assert passed[:, 0, 0, 0, 0].tolist() == [*THREE[largest], 0, 0, 0, *THREE[largest]]
    assert passed[:, 0, 0, 0, 1].tolist() == [*THREE[smallest], 0, 0, 0, *THREE[smallest]]


def test_all_pools_of_all_levels():
    """Every quadruple of levels of two digits: max and min, exactly, and never anything but 0 and 1."""
    levels = np.stack(np.meshgrid(*[np.arange(4.0)] * 4), -1).reshape(256, 2, 2, 1).astype(np.float32)
    pool = LifNeuronCellMaxPool2D(pool=kl.MaxPooling2D(2), timesteps=2, sign=[1, -1])
    pool.build((None, 2, 2, 2))
    both = np.repeat(levels, 2, axis=-1)
    passed, _ = drive(pool, np.stack([both // 2, both % 2]))
    assert set(np.unique(passed)) == {0, 1}
    found = (2 * passed[0] + passed[1])[:, 0, 0]
    assert found[:, 0].tolist() == levels.max(axis=(1, 2, 3)).tolist()
    assert found[:, 1].tolist() == levels.min(axis=(1, 2, 3)).tolist()


# --- digits ---


def test_spelling_by_hand():
    levels = tf.range(8, dtype=tf.float32)
    spelt = np.stack([SPELLING.spikes(levels, tf.constant(k), 3).numpy() for k in range(3)], axis=1)
    assert [tuple(row) for row in spelt] == list(THREE.values())
    assert SPELLING.count(levels, 3).numpy().tolist() == [0, 1, 1, 2, 1, 2, 2, 3]
    assert SPELLING.first(levels, 3).numpy().tolist() == [0, 3, 2, 2, 1, 1, 1, 1]
    said = [SPELLING.said(levels, tf.constant(k), 3).numpy().tolist() for k in range(4)]
    assert said == [[0] * 8, [0, 0, 0, 0, 4, 4, 4, 4], [0, 0, 2, 2, 4, 4, 6, 6], list(range(8))]
    assert [float(SPELLING.flowed(tf.constant(k), 3) * 7) for k in range(4)] == [0, 4, 6, 7]


@pytest.mark.parametrize("steps", [1, 6, 24])
def test_digits_are_those_of_the_machine(steps):
    levels = np.unique(np.append(np.random.default_rng(0).integers(0, 2**steps, 200), [0, 1, 2**steps - 1]))
    x = tf.constant(levels, tf.float32)
    expected = np.array([[int(digit) for digit in f"{level:0{steps}b}"] for level in levels])
    run = tf.function(lambda x: [SPELLING.spikes(x, tf.constant(k), steps) for k in range(steps)])
    np.testing.assert_array_equal(np.stack(run(x), axis=1), expected)
    np.testing.assert_array_equal(SPELLING.count(x, steps), expected.sum(axis=1))


def test_pixels_of_8_bits_enter_without_loss():
    """All 256 values, as uint8 and in [0, 1]: their own bits; and a linear network that hears them is the ANN."""
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    bits = np.unpackbits(pixels.reshape(-1, 1), axis=1)
    for image, scale in ((pixels, 255.0), (pixels.astype(np.float32) / 255, 1.0)):
        coding = WindowInput(16, window_steps=8, coding="spikes", scale=scale)
        spikes = coding(image).numpy().reshape(16, 256)
        np.testing.assert_array_equal(spikes[:8].T, bits)
        assert not spikes[8:].any()
    ann = keras.Sequential([keras.Input((16, 16, 1)), kl.Flatten(), kl.Dense(3)])
    snn = convert_ann_to_snn(ann, pixels, "radix", 8, input_coding="spikes")
    np.testing.assert_allclose(snn(pixels), ann(pixels), rtol=1e-5, atol=1e-3)


def test_settings_are_checked():
    for timesteps in (0, 25, 100):
        with pytest.raises(ValueError, match="timesteps.*Received: timesteps="):
            get_encoding("radix").configured(timesteps)
    with pytest.raises(ValueError, match="input_coding must be one of"):
        get_encoding("radix").configured(input_coding="poisson")
    with pytest.raises(ValueError, match="rank 3"):
        LifNeuronCellConv2D().build((None, 4))
    code = get_encoding("radix").configured(3)
    assert (code.rounding_levels, code.total_timesteps(14)) == (7, 45)
    np.testing.assert_allclose(code.expressible(45), np.arange(8) / 7)
    assert [code.finer(factor) for factor in (1, 2, 3, 8, 1e9)] == [3, 4, 5, 6, 24]
    assert get_encoding("ttfs_exact").configured(16).finer(2.5) == 40


# --- the same as `ttfs_exact` at N = 2^K − 1 ---


def assert_same_levels(digital, single, images, levels):
    one, other = (snn.simulate(images, (ACTIVITIES,)) for snn in (digital, single))
    assert list(one.activities) == list(other.activities)
    for name, activity in one.activities.items():
        np.testing.assert_array_equal(activity, other.activities[name])
        told = np.asarray(activity) * levels  # in levels, of θ = 1
        np.testing.assert_allclose(told, np.round(told), atol=1e-4)
    for a, b in zip(tf.nest.flatten(one.output), tf.nest.flatten(other.output), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("coding", ["current", "spikes"])
def test_equals_ttfs_exact_on_the_contract_networks(kind, coding):
    ann = build(kind, "radix")
    digital = make_dyadic(convert(ann, "radix", timesteps=5, input_coding=coding))
    single = convert(ann, "ttfs_exact", timesteps=31, input_coding=coding)
    assert single.scales == digital.scales  # calibrated alike
    single.set_weights(digital.get_weights())
    assert_same_levels(digital, single, images_for(ann), 31)


@pytest.mark.parametrize("seed", [0, 2, 4, 7, 8])
def test_equals_ttfs_exact_on_random_graphs(seed):
    network = random_graph(seed, dyadic=True)
    pair = dyadic_snn(network, "radix", timesteps=4), dyadic_snn(network, "ttfs_exact", timesteps=15)
    assert_same_levels(*pair, network.images, 15)


@pytest.mark.parametrize("seed", range(3))
def test_equals_ttfs_exact_on_random_chains(seed):
    network = random_network(seed, dyadic=True)
    pair = dyadic_snn(network, "radix", timesteps=4), dyadic_snn(network, "ttfs_exact", timesteps=15)
    assert_same_levels(*pair, network.images, 15)


# --- the clock ---


@pytest.mark.parametrize("network", [*BUILDERS, *(random_graph(seed, dyadic=True) for seed in (4, 7))], ids=str)
def test_loop_stock_stack_and_closed_form_are_one(network):
    if isinstance(network, str):
        snn = make_dyadic(convert(build(network, "radix"), "radix"))
        images = images_for(snn)
    else:
        snn, images = dyadic_snn(network, "radix"), network.images
    asked = (SPIKE_COUNTS, FIRST_SPIKE_TIMES, RASTERS, READOUTS)
    closed, loop = snn.simulate(images, asked), simulate(snn.plan, snn.named_images(images), asked)
    for a, b in zip(tf.nest.flatten(loop), tf.nest.flatten(closed), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for name, raster in loop.rasters.items():
        np.testing.assert_array_equal(raster, closed.rasters[name])
        assert set(np.unique(raster)) <= {0, 1}
    stock = keras.Model(snn.inputs, list(tf.nest.flatten(snn.output)))
    found = stock([images] if not isinstance(images, list) else images)
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(closed.output), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_saved_and_loaded(tmp_path):
    snn = make_dyadic(convert(build("max_pool", "radix"), "radix", timesteps=3, input_coding="spikes"))
    images = images_for(snn)
    snn.save(tmp_path / "snn.keras")
    again = keras.models.load_model(tmp_path / "snn.keras")
    assert again.encoding == snn.encoding and again.encoding.timesteps == 3
    for a, b in zip(*(tf.nest.flatten(each.simulate(images, RECORDS)) for each in (again, snn)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(stock_stack(again)(images), snn(images))


def test_a_global_pooling_has_no_positions_left():
    """Levels 5 and 3 of 7 at two positions: the larger one's digits, 1 0 1, for each of two images."""
    pool = LifNeuronCellMaxPool2D(pool=kl.GlobalMaxPooling2D(), timesteps=3)
    pool.build((None, 1, 2, 1))
    digits = np.array([[THREE[5], THREE[3]]] * 2, np.float32)  # image, position, digit
    state = pool.get_initial_state(2)
    for k, expected in enumerate(THREE[5]):
        passed, state = pool.step(tf.constant(digits[:, None, :, k, None]), state)
        np.testing.assert_array_equal(passed, np.full((2, 1), expected))


# --- what is measured ---


@pytest.fixture(scope="module")
def converted():
    ann = build("max_pool", "radix")
    images = images_for(ann, 20)
    return ann, convert(ann, "radix", timesteps=5), images


def test_counts_and_first_spikes_are_those_of_the_digits(converted):
    _, snn, images = converted
    recorded = snn.simulate(images, RECORDS)
    begins = dict(zip(recorded.activities, (5, 5, 10), strict=True))  # neurons, their pooling, neurons
    for name, activities in recorded.activities.items():
        levels = np.round(np.asarray(activities) * 31).astype(int)
        bits = np.stack([levels >> digit & 1 for digit in (4, 3, 2, 1, 0)])
        np.testing.assert_array_equal(recorded.spike_counts[name], bits.sum(axis=0))
        expected = np.where(levels > 0, begins[name] + 1 + bits.argmax(axis=0), 0)
        np.testing.assert_array_equal(recorded.first_spike_times[name], expected)
        np.testing.assert_array_equal(recorded.rasters[name][begins[name] :][:5], bits)


def test_analysis_and_errors(converted):
    ann, snn, images = converted
    rasters = {name: raster.numpy() for name, raster in snn.simulate(images, (RASTERS,)).rasters.items()}
    analysis = snn_activation_analysis(snn, images, np.zeros(len(images), int))
    full = snn.simulate(images, ACTIVITIES).activities
    for layer in analysis.layers:
        raster = rasters[layer.name]
        assert layer.spike_mean == pytest.approx(raster.sum(axis=0).mean(), rel=1e-6)
        assert layer.saturated_share == np.mean(np.round(np.asarray(full[layer.name]) * 31) == 31)
    assert any(layer.saturated_share > 0 for layer in analysis.layers)
    assert len(analysis.accuracy_per_timestep) == snn.timesteps == 15
    assert latency(analysis.accuracy_per_timestep, analysis.accuracy) <= 15
    expected, found = next(iter(ann_and_snn_activations_per_layer(ann, snn, images).values()))
    largest = np.asarray(snn.scales[next(iter(snn.plan.hidden))], np.float32)
    assert np.all(
        np.abs(np.minimum(expected, largest) - found) <= largest / 62 + 1e-6
    )  # half a step, in the ANN's units
    diagnosis = diagnose(ann, snn, images)
    assert max(layer.arrival for layer in diagnosis.layers) < 1e-3  # what arrives is what was meant


def test_too_few_digits_are_diagnosed(converted):
    ann, _, images = converted
    findings = diagnose(ann, convert(ann, "radix", timesteps=1), images).findings
    (changes,) = {tuple(finding.changes.items()) for finding in findings if finding.cause == "timesteps"}
    assert dict(changes)["timesteps"] == 6


def test_dyadic_weights_are_dyadic(converted):
    snn = make_dyadic(copy_of(converted[1]))
    for weight in snn.weights:
        np.testing.assert_array_equal(dyadic(np.asarray(weight), 6), np.asarray(weight))
