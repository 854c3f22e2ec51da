"""The wall of proof, in small: the checks of `benchmarks/wall.py` on 40 random networks, limits, and refusals.

The bounds stand in `benchmarks.wall.BOUNDS`. What needs many time steps or large N is shown on a few networks.
"""

import re

import keras
import numpy as np
import pytest
from keras import layers as kl
from random_networks import draw, random_network

import spiking
from benchmarks.wall import (
    BOUNDS,
    EXACT,
    check_closed_form,
    check_code,
    check_convergence,
    check_folding,
    codes_for,
    exact_snn,
    simulate_eagerly,
    slope,
)
from conversion import CONVERTERS, ConversionError, convert_ann_to_snn, read
from spiking.network.clock import RASTERS, READOUTS
from spiking.quantisation import QuantisedReLU

SEEDS = range(40)
# Networks for the limits: at least three layers of neurons, no jumps (a ReLU with a threshold is not continuous), and
# nine live neurons in each layer: the error of narrower ones falls at this rate too, but from larger N on.
DEEP_SEEDS = [3, 8, 10, 14, 29]


def assert_within_bounds(network, measured):
    for key in BOUNDS.keys() & measured.keys():
        assert measured[key] <= BOUNDS[key][0], f"{key} = {measured[key]:.3g} for {network}"


# --- the networks ---


@pytest.fixture(scope="module")
def drafts():
    """The layers of all networks of this module, without weights."""
    kinds = [(seed, dyadic) for seed in SEEDS for dyadic in (False, True)]
    return [draw(seed, dyadic, np.random.default_rng([seed, int(dyadic)])) for seed, dyadic in kinds]


def test_every_layer_type_comes_up(drafts):
    covered = set().union(*(network.covered() for network in drafts))
    # Not the activation that rounds: on a tie it jumps, so no bound holds; tests/spiking/test_quantisation.py has it.
    assert set(CONVERTERS) - covered == {QuantisedReLU}


def test_the_difficult_orders_come_up(drafts):
    """BatchNorm first, in a row, and between a max pooling and its ReLU; pooling of the image; dilation, groups, …"""
    letters = {kl.BatchNormalization: "B", kl.ReLU: "R", kl.MaxPooling1D: "P", kl.MaxPooling2D: "P"}
    rows = ["".join(letters.get(spec.kind, "-") for spec in network.specs) for network in drafts]
    arguments = {
        (key, str(value)) for network in drafts for spec in network.specs for key, value in spec.arguments.items()
    }
    for order in ("^B", "^P", "BB", "PB+R", "RB+P", "PP"):
        assert any(re.search(order, row) for row in rows), order
    assert {("padding", "same"), ("padding", "valid"), ("padding", "causal"), ("use_bias", "False"),
            ("activation", "relu6"), ("activation", "softmax"), ("activation", "sigmoid")} <= arguments  # fmt: skip
    for key in ("strides", "dilation_rate", "groups", "depth_multiplier"):
        assert any(name == key and set(value) & set("23") for name, value in arguments), key
    assert {network.structure for network in drafts} == {
        "sequential", "functional", "nested", "functional around nested"
    }  # fmt: skip
    assert any(network.clamped for network in drafts)


# --- 40 networks ---


@pytest.mark.parametrize("seed", SEEDS)
def test_random_weights(seed):
    """Folding in float32 and float64; closed form and clock, given the same input spikes."""
    network = random_network(seed)
    measured = check_folding(network) | check_closed_form(network)
    assert {"folding float32", "closed form"} <= measured.keys()
    assert_within_bounds(network, measured)


@pytest.mark.parametrize("seed", SEEDS)
def test_dyadic_weights(seed):
    """The closed form and another code, spike by spike; the other one, in turn, is also saved and loaded."""
    network = random_network(seed, dyadic=True)
    clocked = [name for name in codes_for(network) if name != EXACT]
    for encoding in (EXACT, clocked[seed % len(clocked)]):
        save = encoding != EXACT or seed % 4 == 0
        measured = check_code(network, encoding, save)
        assert ("spikes per neuron" in measured) == (encoding != "rate")
        assert ("saved and loaded" in measured) == save
        assert_within_bounds(network, measured)


# --- limits ---


def test_rate_error_falls_as_one_over_the_time_steps():
    """The activity of neurons on a constant drive, and the read-out behind them: slope −1 within 0.1."""
    rng = np.random.default_rng(0)
    ann = keras.Sequential([keras.Input((12,)), kl.Dense(40, activation="relu"), kl.Dense(4)])
    ann.set_weights([rng.normal(0, 0.4, weight.shape) for weight in ann.get_weights()])
    images = rng.random((40, 12)).astype(np.float32)
    snn = convert_ann_to_snn(ann, images, "rate", timesteps=1024, normalisation="max")
    recorded = snn.simulate(images, (RASTERS, READOUTS))
    activations = np.asarray(ann.layers[0](images))
    counts = np.cumsum(recorded.rasters[0].numpy(), axis=0)
    times = 2 ** np.arange(4, 11)
    errors = [np.abs(counts[t - 1] / t * snn.scales[0] - activations).mean() for t in times]
    assert slope(times, errors) == pytest.approx(-1, abs=0.1)
    scores = np.asarray(ann(images))
    errors = [np.abs(recorded.readouts.numpy()[t - 1] - scores).mean() for t in times]
    assert slope(times, errors) == pytest.approx(-1, abs=0.1)


def test_exact_error_falls_by_6_decibels_per_doubling():
    """N = 8 … 512, θ the largest activation: −6.02 dB per doubling within 0.25 dB on average, 0.75 dB on each."""
    decibels = [check_convergence(seed)["decibels"] for seed in DEEP_SEEDS]
    assert np.mean(decibels) == pytest.approx(-6.02, abs=0.25), decibels
    assert decibels == pytest.approx([-6.02] * len(DEEP_SEEDS), abs=0.75)


@pytest.mark.parametrize("seed", DEEP_SEEDS[:4])
def test_exact_equals_the_ann_in_float64_for_large_n(seed, float64):
    """At N = 2^27 the scores are equal to 1e-6, at 2^12 they are not."""
    network = random_network(seed, images=16)
    ann = network.build("float64", last_activation=False)
    folded, scores = read(ann), np.asarray(ann(network.images, training=False))
    outputs = [simulate_eagerly(exact_snn(folded, network.images, 2**bits), network.images) for bits in (12, 27)]
    errors = [np.abs(output - scores).max() for output in outputs]
    assert errors[0] > 1e-6 > errors[1]


# --- refusals ---


def chain(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def dense(*layers):
    """Behind four inputs and in front of a dense read-out."""
    return chain((4,), *layers, kl.Dense(2, name="scores"))


def plane(*layers):
    """Behind a convolution, in front of a dense read-out."""
    return chain((6, 6, 1), kl.Conv2D(2, 3, name="conv"), *layers, kl.Flatten(name="flat"), kl.Dense(2))


def shortcut():
    x = keras.Input((4,))
    return keras.Model(x, kl.Dense(2)(kl.Add(name="shortcut")([x, kl.Dense(4, activation="relu")(x)])))


def shortcut_within():
    x = keras.Input((4,))
    inner = keras.Model(x, kl.Add(name="shortcut")([x, kl.Dense(4, activation="relu")(x)]), name="inner")
    return dense(inner)


def operator():
    x = keras.Input((4,))
    return keras.Model(x, kl.Dense(2)(x + kl.Dense(4, activation="relu")(x)))


def two_inputs():
    left, right = keras.Input((4,)), keras.Input((4,))
    return keras.Model([left, right], kl.Dense(2)(kl.Concatenate()([left, right])))


def two_outputs():
    x = keras.Input((4,))
    hidden = kl.Dense(3, activation="relu")(x)
    return keras.Model(x, [kl.Dense(2)(hidden), kl.Dense(2)(hidden)])


def two_outputs_within():
    x = keras.Input((4,))
    inner = keras.Model(x, [kl.Dense(4, activation="relu")(x), kl.Dense(4)(x)], name="inner")
    x = keras.Input((4,))
    return keras.Model(x, kl.Dense(2)(inner(x)[1]))


def not_a_number():
    ann = dense(kl.Dense(3, name="broken"))
    ann.layers[0].kernel.assign(np.full((4, 3), np.nan))
    return ann


class OwnDense(kl.Dense):
    """A layer of an exact type that nobody registered."""


def square(x):
    return x * x


# Name: (network, what the message must hold: layer, attribute, value, remedy).
REFUSED = {
    "Add": (shortcut, ["'shortcut'", "(Add)", "joins 2 tensors", "plain chains"]),
    "Add, nested": (shortcut_within, ["'shortcut'", "(Add)", "joins 2 tensors", "plain chains"]),
    "+": (operator, ["(Add)", "joins 2 tensors", "plain chains"]),
    "two inputs": (two_inputs, ["one input", "2 inputs"]),
    "two outputs": (two_outputs, ["one output", "2 outputs"]),
    "two outputs, nested": (two_outputs_within, ["'inner'", "2 outputs"]),
    "tanh": (lambda: dense(kl.Dense(3, "tanh", name="a")), ["'a'", "activation='tanh'", "relu or relu6", "Train"]),
    "tanh, last": (lambda: chain((4,), kl.Dense(3, "tanh", name="a")), ["'a'", "activation='tanh'", "sigmoid"]),
    "gelu": (lambda: dense(kl.Dense(3), kl.Activation("gelu", name="a")), ["'a'", "activation='gelu'", "Train"]),
    "a function": (lambda: dense(kl.Dense(3, square, name="a")), ["'a'", "activation='square'", "relu or relu6"]),
    "LeakyReLU": (lambda: dense(kl.Dense(3), kl.LeakyReLU(name="a")), ["'a'", "(LeakyReLU)", "Supported are", "ReLU"]),
    "leaky_relu": (lambda: dense(kl.Dense(3, "leaky_relu", name="a")), ["'a'", "activation='leaky_relu'", "Train"]),
    "LeakyReLU as argument": (
        lambda: dense(kl.Dense(3, kl.LeakyReLU(), name="a")),
        ["'a'", "activation=LeakyReLU", "relu or relu6"],
    ),
    "negative_slope": (
        lambda: dense(kl.Dense(3), kl.ReLU(negative_slope=0.125, name="a")),
        ["'a'", "negative_slope=0.125", "≥ 0"],
    ),
    "PReLU": (lambda: dense(kl.Dense(3), kl.PReLU(name="a")), ["'a'", "(PReLU)", "Supported are"]),
    "ELU": (lambda: dense(kl.Dense(3), kl.ELU(name="a")), ["'a'", "(ELU)", "Supported are"]),
    "softmax in the middle": (
        lambda: dense(kl.Dense(3, "softmax", name="a")),
        ["'a'", "activation='softmax'", "in front of 'scores'", "the last one"],
    ),
    "Softmax in the middle": (
        lambda: dense(kl.Dense(3), kl.Softmax(name="a")),
        ["'a'", "activation='softmax'", "in front of 'scores'", "the last one"],
    ),
    "sigmoid in the middle": (
        lambda: dense(kl.Dense(3, "sigmoid", name="a")),
        ["'a'", "activation='sigmoid'", "in front of 'scores'", "the last one"],
    ),
    "Softmax over another axis": (
        lambda: chain((4, 3), kl.Dense(3), kl.Softmax(axis=1, name="a")),
        ["'a'", "axis=1", "last axis"],
    ),
    "max pool of unrectified values": (
        lambda: plane(kl.MaxPooling2D(name="a")),
        ["'a'", "(MaxPooling2D)", "non-negative", "Put a ReLU"],
    ),
    "max pool of unrectified values at the end": (
        lambda: chain((6, 6, 1), kl.Conv2D(3, 3), kl.GlobalMaxPooling2D(name="a")),
        ["'a'", "(GlobalMaxPooling2D)", "non-negative", "Put a ReLU"],
    ),
    "average between max pool and ReLU": (
        lambda: plane(kl.MaxPooling2D(name="a"), kl.AveragePooling2D(2), kl.ReLU()),
        ["'a'", "non-negative", "Put a ReLU"],
    ),
    "padding between shift and max pool": (
        lambda: plane(kl.ReLU(), kl.Rescaling(1, offset=1), kl.ZeroPadding2D(1), kl.MaxPooling2D(name="a")),
        ["'a'", "(MaxPooling2D)", "not the same at all positions", "Move the normalisation or the padding"],
    ),
    "Permute between shift and max pool": (
        lambda: plane(
            kl.ReLU(),
            kl.Normalization(mean=[0, 1], variance=[1, 4]),
            kl.Permute((3, 1, 2)),
            kl.MaxPooling2D(1, name="a"),
        ),
        ["'a'", "(MaxPooling2D)", "not the same at all positions", "Move the normalisation"],
    ),
    "BatchNorm over rows between max pool and ReLU": (
        lambda: plane(
            kl.MaxPooling2D(2), kl.BatchNormalization(axis=1, gamma_initializer="random_normal", name="a"), kl.ReLU()
        ),
        ["'a'", "(BatchNormalization)", "not the same at all positions", "Move the normalisation"],
    ),
    "BatchNorm over axis 1 behind a global max pool": (
        lambda: chain(
            (6, 6, 1),
            kl.Conv2D(2, 3),
            kl.GlobalMaxPooling2D(),
            kl.BatchNormalization(1, name="a"),
            kl.Dense(2, name="b"),
        ),
        ["(GlobalMaxPooling2D)", "non-negative", "Put a ReLU"],
    ),
    "channels_first": (
        lambda: chain((2, 6, 6), kl.MaxPooling2D(data_format="channels_first", name="a"), kl.Flatten(), kl.Dense(2)),
        ["'a'", "data_format='channels_first'", "channels_last"],
    ),
    "channels_first, Flatten": (
        lambda: chain((2, 6, 6), kl.Flatten(data_format="channels_first", name="a"), kl.Dense(2)),
        ["'a'", "data_format='channels_first'", "channels_last"],
    ),
    "pooling in 3D": (
        lambda: chain((4, 4, 4, 1), kl.MaxPooling3D(2, name="a"), kl.Flatten(), kl.Dense(2)),
        ["'a'", "(MaxPooling3D)", "Supported are", "GlobalMaxPooling3D"],
    ),
    "bilinear resizing": (
        lambda: plane(kl.UpSampling2D(2, interpolation="bilinear", name="a")),
        ["'a'", "(UpSampling2D)", "interpolation='bilinear'", "nearest"],
    ),
    "LSTM": (lambda: chain((4, 3), kl.LSTM(3, name="a"), kl.Dense(2)), ["'a'", "(LSTM)", "Supported are"]),
    "LayerNormalization": (lambda: dense(kl.LayerNormalization(name="a")), ["'a'", "Supported are", "BatchNorm"]),
    "a subclass": (lambda: dense(OwnDense(3, name="a")), ["'a'", "(OwnDense)", "Supported are", "Dense"]),
    "NaN": (not_a_number, ["'broken'", "'kernel'", "NaN", "Train"]),
    "images of any size": (
        lambda: chain((None, 3), kl.Conv1D(2, 1), kl.GlobalAveragePooling1D()),
        ["one size", "input_shape=(None, None, 3)"],
    ),
    "unbuilt": (lambda: keras.Sequential([kl.Dense(3)]), ["no weights yet", "Input layer"]),
    "not a model": (lambda: "ann", ["keras.Sequential", "Received: ann of type str"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, parts = REFUSED[name]
    with pytest.raises(ConversionError) as refusal:
        read(make())
    message = str(refusal.value)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("encoding", spiking.ENCODINGS)
def test_a_relu_threshold_only_where_neurons_can_stay_silent(encoding):
    ann = chain((4,), kl.Dense(3, name="a"), kl.ReLU(threshold=0.5), kl.Dense(2))
    images = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    if spiking.ENCODINGS[encoding].clamp_options:
        assert convert_ann_to_snn(ann, images, encoding).output_shape == (None, 2)
        return
    with pytest.raises(ConversionError) as refusal:
        convert_ann_to_snn(ann, images, encoding)
    for part in ("'a'", "threshold=0.5", repr(encoding), "Take an encoding out of ['ttfs_clamped', 'ttfs_exact']"):
        assert part in str(refusal.value)
