"""The wall of proof, in small: the checks of `benchmarks/wall.py` on 40 random networks, limits, and refusals.

The bounds stand in `benchmarks.wall.BOUNDS`. What needs many time steps or large N is shown on a few networks.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from random_graphs import KINDS, RandomGraph, kind_of, random_graph
from random_networks import CURVED_FUNCTIONS, DYADIC_FUNCTIONS, draw, random_network

import spiking
from benchmarks.wall import (
    BOUNDS,
    EXACT,
    check_closed_form,
    check_code,
    check_convergence,
    check_folding,
    check_graph_folding,
    codes_for,
    exact_snns,
    simulate_eagerly,
    slope,
)
from conversion import CONVERTERS, ConversionError, convert_ann_to_snn, read
from spiking.folding.activations import WithArguments
from spiking.folding.converters import AUGMENTATION
from spiking.network.records import RASTERS, READOUTS
from spiking.quantisation import QUANTISED
from spiking.windows import WindowEncoding

SEEDS = range(40)
IN_WINDOWS = [name for name, code in spiking.ENCODINGS.items() if isinstance(code, WindowEncoding)]
GRAPHS = range(12)
# Layer types that chains do not draw: graphs do, or the tests named.
ELSEWHERE = {
    **dict.fromkeys(QUANTISED, "on a tie it jumps, so no bound holds: tests/spiking/test_quantisation.py"),
    **dict.fromkeys((kl.Add, kl.Subtract, kl.Average, kl.Concatenate), "graphs"),
    **dict.fromkeys((kl.AveragePooling3D, kl.MaxPooling3D, kl.RepeatVector, kl.Identity, kl.Resizing, kl.CenterCrop),
                    "tests/spiking/test_reader.py"),
    WithArguments: "graphs",
    kl.Multiply: "refused",
}  # fmt: skip
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
    missing = {kind for kind in CONVERTERS if kind not in covered and issubclass(kind, kl.Layer)}
    assert missing == set(ELSEWHERE) | set(AUGMENTATION)


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


def codes_in_turn(network):
    """The closed form of whole windows, and another code that can convert the network."""
    others = [name for name in codes_for(network) if name != EXACT]
    return EXACT, others[network.seed % len(others)]


def test_every_code_comes_up_on_chains_and_on_graphs(drafts):
    chains = [network for network in drafts if network.dyadic]
    graphs = [RandomGraph(seed, dyadic=True, kind=kind_of(seed)) for seed in GRAPHS]
    for networks in (chains, graphs):
        assert {code for network in networks for code in codes_in_turn(network)} == set(spiking.ENCODINGS)
        assert any(network.curved for network in networks) and not all(network.curved for network in networks)


def test_many_activations_come_up(drafts):
    """As layers, as arguments by name, and as functions."""
    forms = [value for network in drafts for spec in network.specs for key, value in spec.arguments.items()
             if key == "activation"]  # fmt: skip
    names = {form if isinstance(form, str) else getattr(form, "__name__", "") for form in forms}
    assert len(names & set(CURVED_FUNCTIONS)) >= 8 and len(names & set(DYADIC_FUNCTIONS)) >= 2
    assert any(callable(form) for form in forms)


# --- 40 networks ---


@pytest.mark.parametrize("seed", SEEDS)
def test_random_weights(seed):
    """Folding in float32 and float64; closed form and clock given the same input spikes, a code in windows in turn."""
    network = random_network(seed)
    measured = check_folding(network) | check_closed_form(network, IN_WINDOWS[seed % len(IN_WINDOWS)])
    assert {"folding float32", "closed form"} <= measured.keys()
    assert_within_bounds(network, measured)


@pytest.mark.parametrize("seed", SEEDS)
def test_dyadic_weights(seed):
    """The closed form and another code, spike by spike; the other one, in turn, is also saved and loaded."""
    network = random_network(seed, dyadic=True)
    for encoding in codes_in_turn(network):
        save = encoding != EXACT or seed % 4 == 0
        measured = check_code(network, encoding, save)
        assert ("spikes per neuron" in measured) == (spiking.ENCODINGS[encoding].tells_by == "time")
        assert ("saved and loaded" in measured) == save
        assert_within_bounds(network, measured)


# --- graphs ---


def test_every_kind_of_graph_comes_up():
    assert {kind_of(seed) for seed in GRAPHS} == set(KINDS)


@pytest.mark.parametrize("seed", GRAPHS)
def test_random_graphs(seed):
    """Folding in float32 and float64."""
    network = random_graph(seed)
    assert_within_bounds(network, check_graph_folding(network))


@pytest.mark.parametrize("seed", GRAPHS)
def test_dyadic_graphs(seed):
    """The closed form and another code in turn, spike by spike, also across shortcuts; that one saved and loaded."""
    network = random_graph(seed, dyadic=True)
    for encoding in codes_in_turn(network):
        save = encoding != EXACT or seed % 4 == 0
        assert_within_bounds(network, check_code(network, encoding, save))


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
    (name,) = recorded.rasters
    counts = np.cumsum(recorded.rasters[name].numpy(), axis=0)
    times = 2 ** np.arange(4, 11)
    errors = [np.abs(counts[t - 1] / t * snn.scales[name] - activations).mean() for t in times]
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
    snns = exact_snns(folded, network.images, (2**12, 2**27))
    outputs = [simulate_eagerly(snn, network.images) for snn in snns]
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


def not_a_number():
    ann = dense(kl.Dense(3, name="broken"))
    ann.layers[0].kernel.assign(np.full((4, 3), np.nan))
    return ann


class OwnDense(kl.Dense):
    """A layer of an exact type that nobody registered."""


class Doubling(kl.Layer):
    """Computes with TensorFlow, which cannot be traced."""

    def call(self, x):
        return tf.multiply(x, 2.0)


class Secretive(keras.Sequential):
    """Does something else than its layers say."""

    def call(self, x, training=None, mask=None):
        return tf.abs(super().call(x))


def secretive():
    ann = Secretive([keras.Input((4,)), kl.Dense(3)], name="secretive")
    ann(np.zeros((1, 4), np.float32))
    return ann


def gate():
    x = keras.Input((4,))
    hidden = kl.Dense(3, activation="relu")(x)
    scale = kl.Dense(3, activation="relu")(x)
    return keras.Model(x, kl.Dense(2)(kl.Multiply(name="gate")([hidden, scale])))


def gate_of_operators():
    x = keras.Input((4,))
    return keras.Model(x, kl.Dense(2)(kl.Dense(3, activation="relu")(x) * kl.Dense(3)(x)))


def lora():
    ann = dense(kl.Dense(3, name="a"))
    ann.layers[0].quantize("int8")
    return ann


def square(x):
    return x * x


# Name: (network, what the message must hold: layer, attribute, value, remedy).
REFUSED = {
    "a product": (gate, ["'gate'", "(Multiply)", "product of two values"]),
    "a product of operators": (gate_of_operators, ["(Multiply)", "product of two values"]),
    "a function": (lambda: dense(kl.Dense(3, square, name="a")), ["'a'", "activation=square", "cannot name"]),
    "softmax in the middle": (
        lambda: dense(kl.Dense(3, "softmax", name="a")),
        ["'a'", "activation='softmax'", "in front of 'scores'", "at the end"],
    ),
    "Softmax in the middle": (
        lambda: dense(kl.Dense(3), kl.Softmax(name="a")),
        ["'a'", "activation='softmax'", "in front of 'scores'", "at the end"],
    ),
    "Softmax over another axis": (
        lambda: chain((4, 3), kl.Dense(3), kl.Softmax(axis=1, name="a")),
        ["'a'", "axis=1", "last axis"],
    ),
    "channels_first": (
        lambda: chain((2, 6, 6), kl.MaxPooling2D(data_format="channels_first", name="a"), kl.Flatten(), kl.Dense(2)),
        ["'a'", "data_format='channels_first'", "channels_last"],
    ),
    "channels_first, Flatten": (
        lambda: chain((2, 6, 6), kl.Flatten(data_format="channels_first", name="a"), kl.Dense(2)),
        ["'a'", "data_format='channels_first'", "channels_last"],
    ),
    "LSTM": (lambda: chain((4, 3), kl.LSTM(3, name="a"), kl.Dense(2)), ["'a'", "(LSTM)", "no converter"]),
    "LayerNormalization": (lambda: dense(kl.LayerNormalization(name="a")), ["'a'", "BatchNormalization"]),
    "bicubic": (
        lambda: plane(kl.UpSampling2D(2, interpolation="bicubic", name="a")),
        ["'a'", "interpolation='bicubic'", "bilinear"],
    ),
    "a call in TensorFlow": (lambda: dense(Doubling(name="a")), ["'a'", "(Doubling)", "cannot be traced", "keras.ops"]),
    "a Sequential with its own call": (secretive, ["'secretive'", "(Secretive)", "cannot be traced"]),
    "quantised weights": (lora, ["'a'", "(Dense)", "quantised (int8)", "before quantising"]),
    "ReLU that gives nothing": (lambda: dense(kl.Dense(3), kl.ReLU(max_value=0, name="a")), ["'a'", "max_value=0"]),
    "a negative variance": (
        lambda: dense(kl.Dense(3), kl.BatchNormalization(moving_variance_initializer=keras.initializers.Constant(-1.0),
                                                         name="a")),
        ["'a'", "(BatchNormalization)", "not finite"],
    ),
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


def test_all_that_cannot_be_converted_is_listed_at_once():
    with pytest.raises(ConversionError) as refusal:
        read(dense(kl.Dense(3, square, name="first"), kl.UnitNormalization(name="second"),
                   kl.LayerNormalization(name="third")))  # fmt: skip
    message = str(refusal.value)
    assert [name in message for name in ("'first'", "'second'", "'third'")] == [True, True, True], message


@pytest.mark.parametrize("encoding", spiking.ENCODINGS)
def test_a_relu_threshold_only_where_neurons_can_stay_silent(encoding):
    ann = chain((4,), kl.Dense(3, name="a"), kl.ReLU(threshold=0.5), kl.Dense(2))
    images = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    if spiking.ENCODINGS[encoding].clamp([]) is not None:
        assert convert_ann_to_snn(ann, images, encoding).output_shape == (None, 2)
        return
    with pytest.raises(ConversionError) as refusal:
        convert_ann_to_snn(ann, images, encoding)
    able = "Take an encoding out of ['ttfs_clamped', 'radix', 'ttfs_exact']"
    for part in ("'a'", "threshold=0.5", repr(encoding), able):
        assert part in str(refusal.value)
