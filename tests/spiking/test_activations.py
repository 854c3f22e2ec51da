"""Activations other than ReLU: hand-worked spikes, exact folding, error against N, saving, refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import drive
from keras import layers as kl

import spiking
from conversion import ConversionError, assemble, calibrate, convert_ann_to_snn, diagnose, read
from spiking.folding.activations import ELEMENTWISE, Activation, elementwise
from spiking.scaling.correction import RoundedNetwork
from spiking.ttfs_exact import LifNeuronCell


def filled(ann, seed=0):
    """Random weights that keep potentials near 1; slopes of PReLU between 0.1 and 0.4."""
    rng = np.random.default_rng(seed)
    for weight in ann.weights:
        positive = "variance" in weight.path or "gamma" in weight.path
        fan_in = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 4
        value = rng.uniform(0.5, 1.5, weight.shape) if positive else rng.normal(0, fan_in**-0.5, weight.shape)
        weight.assign(rng.uniform(0.1, 0.4, weight.shape) if "alpha" in weight.path else value)
    return ann


def pictures(shape=(6, 6, 2), number=24, seed=1):
    return np.random.default_rng(seed).normal(size=(number, *shape)).astype(np.float32)


# --- one neuron, by hand ---

# f, floor, λ, N and potentials with the level that (f(z) − floor)N/λ + ½ rounds down to.
BY_HAND = {
    # tanh(½ ln 3) = ½: (½ + 1)·4/2 = 3; tanh 0 = 0: 2; −½: 1; ±9: 4 and 0
    "tanh": ("tanh", -1.0, 2.0, 4, {np.log(3) / 2: 3, 0.0: 2, -np.log(3) / 2: 1, 9.0: 4, -9.0: 0}),
    # slope ¼: f(−4) = −1, f(−2) = −½, f(3) = 3; λ = 4, N = 8, so two levels a unit
    "LeakyReLU": (kl.LeakyReLU(negative_slope=0.25), -1.0, 4.0, 8, {-4.0: 0, -2.0: 1, 0.0: 2, 1.5: 5, 3.0: 8, 7.0: 8}),
    # Φ(1) = 0.8413, Φ(−1) = 0.1587: f(1) = 0.841, f(−1) = −0.159, f(0) = 0, f(−9) = −0; floor −0.17, a level is 1/8:
    # 8.09, 0.09, 1.36, 1.36; the smallest value, f(−0.7518) = −0.16997, is 0.0002
    "GELU": ("gelu", -0.17, 1.25, 10, {1.0: 8, -1.0: 0, 0.0: 1, -9.0: 1, -0.7518: 0}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_spikes_by_hand(name):
    """A potential that has come in window 0 makes one spike at step N − level of window 1; in the closed form, too."""
    function, floor, scale, steps, expected = BY_HAND[name]
    cell = LifNeuronCell(bias=None, timesteps=steps, activation=function, floor=floor, scale=scale)
    z = np.array(list(expected), np.float32)
    cell.build((None, len(z)))
    currents = np.zeros((2 * steps, len(z)), np.float32)
    currents[0] = z  # switched on once, it is integrated N times: V = Nz, z in units of the threshold
    spikes, _ = drive(cell, currents, batched=False)
    levels = np.array(list(expected.values()))
    wanted = np.zeros_like(spikes)
    for neuron, level in enumerate(levels):
        if level:
            wanted[steps + steps - level, neuron] = 1
    np.testing.assert_array_equal(spikes, wanted)
    np.testing.assert_array_equal(cell.levels(tf.constant(z[None] * steps))[0], levels)


@pytest.mark.parametrize("function", ELEMENTWISE, ids=lambda function: function.__name__)
def test_infima(function):
    """No value of f lies below its floor, and some come near it; f is monotone or not, as the table says."""
    x = np.concatenate([np.linspace(-60, 60, 240001), [-1e8]])
    activation, values = ELEMENTWISE[function], np.asarray(function(tf.constant(x)), np.float64)
    if activation.floor is None:
        assert values.min() < -1
    else:
        assert values.min() >= activation.floor - 1e-12
        assert values.min() == pytest.approx(activation.floor, abs=1e-7)
    assert np.all(np.diff(values[:-1]) >= -1e-12) == activation.monotone


# --- folding ---

LAYERS = {
    "LeakyReLU": lambda: kl.LeakyReLU(negative_slope=0.25),
    "ELU": lambda: kl.ELU(alpha=0.5),
    "PReLU": kl.PReLU,
    "PReLU per channel": lambda: kl.PReLU(shared_axes=[1, 2]),
    "ReLU with a slope": lambda: kl.ReLU(negative_slope=0.125, max_value=1.0),
} | {name: (lambda name=name: kl.Activation(name)) for name in ("tanh", "sigmoid", "softplus", "gelu")}


def network(make, dtype="float32"):
    """Padding behind a floor, average and max pooling before and behind the activation, concatenation, Add."""
    x = image = keras.Input((6, 6, 2), dtype=dtype)

    def made(layer):
        return type(layer).from_config({**layer.get_config(), "dtype": dtype})

    def conv(x, filters, size=3, **keywords):
        return kl.Conv2D(filters, size, padding="same", dtype=dtype, **keywords)(x)

    x = top = made(make())(conv(x, 3))
    x = made(make())(kl.BatchNormalization(dtype=dtype)(conv(x, 3)))
    x = made(make())(kl.Add(dtype=dtype)([top, conv(x, 3)]))
    pooled = [kl.MaxPooling2D(2, dtype=dtype)(x), kl.AveragePooling2D(2, dtype=dtype)(x)]
    pooled.append(made(make())(kl.MaxPooling2D(2, dtype=dtype)(conv(x, 2))))
    x = kl.MaxPooling2D(2, 1, "same", dtype=dtype)(kl.Concatenate(dtype=dtype)(pooled))
    x = kl.ZeroPadding2D(1, dtype=dtype)(x)
    x = kl.Flatten(dtype=dtype)(made(make())(conv(x, 2)))
    return keras.Model(image, kl.Dense(3, dtype=dtype)(x))


@pytest.mark.parametrize("name", LAYERS)
def test_folding(name):
    """To 1e-10 in float64, through zero padding, poolings on both sides, BatchNorm, Add and Concatenate."""
    ann, exact = filled(network(LAYERS[name])), network(LAYERS[name], "float64")
    exact.set_weights(ann.get_weights())
    graph, x = read(ann), pictures(number=4).astype(np.float64)
    expected, found = exact(x).numpy(), graph.function("float64")(x).numpy()
    assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()


def dense(make, dtype="float32"):
    """Three layers of neurons."""
    layers = [kl.Dense(9, dtype=dtype), kl.Dense(9, dtype=dtype), kl.Dense(9, dtype=dtype)]
    made = [type(layer := make()).from_config({**layer.get_config(), "dtype": dtype}) for _ in layers]
    rows = [each for pair in zip(layers, made, strict=True) for each in pair]
    return keras.Sequential([keras.Input((5,), dtype=dtype), *rows, kl.Dense(3, dtype=dtype)])


def every_activation(dtype="float32"):
    """A layer of neurons for each activation, side by side."""
    image = keras.Input((5,), dtype=dtype)
    values = [kl.Dense(3, activation=function, dtype=dtype)(image) for function in ELEMENTWISE]
    return keras.Model(image, kl.Dense(3, dtype=dtype)(kl.Concatenate(dtype=dtype)(values)))


@pytest.mark.parametrize("pool", [lambda: kl.MaxPooling2D(3), kl.GlobalMaxPooling2D], ids=["one position", "none"])
def test_slopes_of_one_position_behind_a_pooling(pool, float64):
    """They are no slopes of the map in front of it, so the pooling gets neurons of its own."""
    ann = keras.Sequential([keras.Input((4, 4, 1)), kl.Conv2D(3, 2), pool(), kl.PReLU(), kl.Flatten(), kl.Dense(2)])
    images = pictures((4, 4, 1))
    expected = filled(ann)(images).numpy()
    found = read(ann).function("float64")(images).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-10 * np.abs(expected).max())


def test_all_that_keras_has():
    """Folded to 1e-10 in float64, and converted: on the images of the calibration rounding alone makes an error."""
    ann, exact = filled(every_activation()), every_activation("float64")
    exact.set_weights(ann.get_weights())
    graph, x = read(ann), pictures((5,))
    expected, found = exact(x.astype(np.float64)).numpy(), graph.function("float64")(x.astype(np.float64)).numpy()
    assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()
    assert len(graph.neurons) == len(ELEMENTWISE)
    output = convert_ann_to_snn(graph, x, "ttfs_exact", 4096, normalisation="max").simulate(x).output
    np.testing.assert_allclose(output, expected, atol=2e-3 * np.abs(expected).max())


def test_other_names():
    """Functions of keras.ops, arguments, layers as arguments, and their own parameters."""
    x = image = keras.Input((5,))
    x = keras.ops.leaky_relu(kl.Dense(4)(x), negative_slope=0.25)
    x = keras.ops.celu(kl.Dense(4)(x), alpha=0.5)
    x = keras.ops.gelu(kl.Dense(4, activation=kl.LeakyReLU(negative_slope=0.5))(x))
    x = keras.ops.tanh(kl.Dense(4, activation="silu")(x))
    x = keras.activations.relu(kl.Dense(4, activation=tf.nn.softsign)(x), negative_slope=0.5)
    ann = filled(keras.Model(image, kl.Dense(2, activation="sigmoid")(x)))
    graph, x = read(ann), pictures((5,))
    names = [node.activation.name for node in graph.neurons.values()]
    assert names == ["leaky_relu", "celu", "LeakyReLU", "tanh_gelu", "silu", "tanh", "softsign", "ReLU"]
    np.testing.assert_allclose(graph.function()(x), ann(x), rtol=1e-5)
    assert [node.activation for node in graph.read_outs.values()] == [keras.activations.sigmoid]


def test_an_activation_that_two_hear_is_computed_once():
    x = image = keras.Input((6, 6, 2))
    x = kl.Conv2D(3, 3, activation="tanh", name="conv")(x)
    outputs = [kl.Dense(2)(kl.Flatten()(x)), kl.Dense(2)(kl.GlobalMaxPooling2D()(x)), kl.Reshape((48,))(x)]
    ann = filled(keras.Model(image, outputs))
    graph, x = read(ann), pictures()
    assert list(graph.neurons) == ["conv"]
    for found, expected in zip(graph.function()(x), ann(x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


# --- spiking ---


def relative_errors(ann, x, steps):
    expected = np.asarray(ann(x))
    outputs = [convert_ann_to_snn(ann, x, "ttfs_exact", n, normalisation="max").simulate(x).output for n in steps]
    return [float(np.sqrt(np.mean((output - expected) ** 2) / np.mean(expected**2))) for output in outputs]


@pytest.mark.parametrize("name", ["LeakyReLU", "PReLU", "ELU", "tanh", "sigmoid", "softplus", "gelu"])
def test_the_error_falls_by_6_decibels_per_doubling(name):
    """N = 16 … 1024, full activity the largest one: −6.02 dB per doubling within 0.6 dB."""
    steps = 4 ** np.arange(2, 6)
    errors = relative_errors(filled(dense(LAYERS[name])), pictures((5,), 300), [int(n) for n in steps])
    slope = np.polyfit(np.log2(steps), 20 * np.log10(errors), 1)[0]
    assert slope == pytest.approx(-6.02, abs=0.6), errors


CARRY = [name for name, code in spiking.ENCODINGS.items() if code.carries(ELEMENTWISE[keras.activations.tanh])]


@pytest.mark.parametrize("encoding", CARRY)
@pytest.mark.parametrize("name", ["PReLU", "gelu"])
def test_clock_and_closed_form(name, encoding, tmp_path):
    """The stock Keras stack, the closed form and the loaded network give the same output."""
    ann, x = filled(network(LAYERS[name])), pictures(number=3)
    snn = convert_ann_to_snn(ann, x, encoding, 4)
    stock = keras.Model(snn.inputs, snn.outputs)
    simulation = snn.simulate(x)
    np.testing.assert_allclose(stock([x]), simulation.output, rtol=1e-4, atol=1e-4)
    snn.save(tmp_path / "snn.keras")
    again = keras.models.load_model(tmp_path / "snn.keras")
    np.testing.assert_array_equal(again.simulate(x).output, simulation.output)
    assert again.floors == snn.floors and again.floors


@pytest.mark.parametrize("name", ["tanh", "silu"])
def test_fine_tuning_through_digits(name):
    """Through the rounding of each layer and its activation: the loss falls at 7 levels, and all weights take part."""
    ann = filled(keras.Sequential([keras.Input((6,)), kl.Dense(8, name), kl.Dense(8, name), kl.Dense(3)]))
    images = pictures((6,), 48)
    snn = convert_ann_to_snn(ann, images, "radix", timesteps=3)
    snn.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.asarray(weight) for weight in snn.trainable_weights]
    losses = snn.fit(images, np.arange(48) % 3, batch_size=48, epochs=40, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert all(np.any(np.asarray(weight) != old) for weight, old in zip(snn.trainable_weights, before, strict=True))


def test_thresholds_scale_away():
    """θ is a unit: the network does the same with another."""
    ann, x = filled(dense(LAYERS["tanh"])), pictures((5,))
    calibration = calibrate(ann, x, "max")
    for layer in calibration.layers.values():
        layer.scale = layer.scale / 2
    halved = convert_ann_to_snn(ann, calibration, "ttfs_exact", 32, threshold=2.0).simulate(x).output
    plain = convert_ann_to_snn(ann, calibrate(ann, x, "max"), "ttfs_exact", 32).simulate(x).output
    np.testing.assert_allclose(halved, plain, rtol=1e-4, atol=1e-4)


def test_calibration_finds_both_ends():
    """LeakyReLU from −½ to 3: the floor of each channel its smallest value, λ the range; tanh's floor is −1."""
    image = keras.Input((2,))
    leaky = kl.LeakyReLU(negative_slope=0.5)(kl.Dense(2, kernel_initializer="identity", name="a")(image))
    ann = keras.Model(image, kl.Dense(2, activation="tanh", kernel_initializer="identity", name="b")(leaky) * 1.0)
    x = np.array([[-1, 3], [2, -4], [0.5, 1]], np.float32)
    found = calibrate(ann, x, "max").layers
    np.testing.assert_array_equal(found["a"].floor, [-0.5, -2])
    np.testing.assert_array_equal(found["a"].scale, [2.5, 5])
    assert found["b"].floor == -1
    assert found["b"].scale == pytest.approx(np.tanh(3) + 1)
    other = keras.Model(ann.input, ann.output)
    assert calibrate(other, x, "max").fingerprint == calibrate(ann, x, "max").fingerprint


def test_slopes_are_part_of_the_fingerprint():
    ann, x = filled(network(LAYERS["PReLU"])), pictures()
    calibration = calibrate(ann, x)
    slopes = next(layer for layer in ann.layers if isinstance(layer, kl.PReLU)).alpha
    slopes.assign(slopes * 2)
    with pytest.raises(ValueError, match="fingerprint"):
        convert_ann_to_snn(ann, calibration, "ttfs_exact")


@pytest.mark.parametrize("name", ["tanh", "LeakyReLU"])
def test_corrections_are_what_the_spiking_network_computes(name):
    """Gains, shifts and λ as a correction may leave them: the rounded network it fits is the SNN, level for level."""
    graph, x, rng = read(filled(dense(LAYERS[name]))), pictures((5,)), np.random.default_rng(5)
    rounded = RoundedNetwork(graph, calibrate(graph, x), 6, 1.0)
    for variable in rounded.variables:
        variable.assign_add(rng.normal(0, 0.2, variable.shape))
    code = spiking.get_encoding("ttfs_exact").configured(timesteps=6)
    snn = assemble(graph, code, rounded.corrected("output"), name="corrected")
    (expected,) = (rounded(x)[name] for name in graph.read_outs)
    np.testing.assert_allclose(snn.simulate(x).output, expected, atol=1e-5)


def test_diagnosis_is_in_units_above_the_floor():
    """With λ the largest value nothing is clipped, and rounding costs Δ/√12 at most."""
    ann, x = filled(dense(LAYERS["tanh"])), pictures((5,))
    layers = diagnose(ann, convert_ann_to_snn(ann, x, "ttfs_exact", 64, normalisation="max"), x).layers
    assert max(layer.clipped_share for layer in layers) == 0
    assert max(layer.quantisation for layer in layers) < 2 / 64 / np.sqrt(12) * 1.3


# --- refusals ---


@pytest.mark.parametrize("encoding", sorted(set(spiking.ENCODINGS) - set(CARRY)))
def test_codes_that_cannot_refuse_all_at_once(encoding):
    ann = keras.Sequential([keras.Input((4,)), kl.Dense(3, activation="tanh", name="a"), kl.Dense(3, name="b"),
                            kl.PReLU(), kl.LayerNormalization(name="c"), kl.Dense(2)])  # fmt: skip
    with pytest.raises(ConversionError) as refusal:
        convert_ann_to_snn(ann, pictures((4,)), encoding)
    for part in ("'a' (Dense)", "'tanh'", "'b' (Dense)", "'PReLU'", "'c'", repr(encoding), "'ttfs_exact'"):
        assert part in str(refusal.value)


@keras.saving.register_keras_serializable("tests")
def cubed(x):
    return x**3


def test_functions_of_ones_own():
    """A function that is not known to be elementwise stands at the end only, or is entered in the table."""
    ann = keras.Sequential([keras.Input((4,)), kl.Dense(3, activation=cubed, name="a"), kl.Dense(2)])
    with pytest.raises(ConversionError, match="'a'.*'cubed'.*EXTENDING"):
        read(ann)
    ELEMENTWISE[cubed] = Activation(cubed, None)
    try:
        x = pictures((4,))
        np.testing.assert_allclose(read(ann).function()(x), ann(x), rtol=1e-5, atol=1e-6)
    finally:
        del ELEMENTWISE[cubed]


def test_softmax_in_the_middle_is_refused():
    assert elementwise(keras.activations.softmax) is None
    with pytest.raises(ConversionError, match="activation='softmax' in front of"):
        read(keras.Sequential([keras.Input((4,)), kl.Dense(3, activation="softmax"), kl.Dense(2)]))
