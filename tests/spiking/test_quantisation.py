"""Rounded activations: values and gradients by hand, saving, and conversion without any error."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from conversion import ConversionError, convert_ann_to_snn, read
from spiking.quantisation import QuantisedActivation, QuantisedReLU, quantised_relu

# N = 4, λ = 2: steps of 0.5, the step n begins at (n − ½)/2.
VALUES = [(-1.0, 0.0), (0.0, 0.0), (0.24, 0.0), (0.25, 0.5), (0.74, 0.5), (0.75, 1.0), (1.75, 2.0), (9.0, 2.0)]


@pytest.mark.parametrize("x, y", VALUES)
def test_values(x, y):
    assert quantised_relu(tf.constant(x), tf.constant(2.0), 4).numpy() == y


def test_gradients_are_those_of_the_clipped_identity():
    x, ceiling = tf.constant([-0.5, 0.6, 1.3, 3.0]), tf.constant(2.0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, ceiling])
        y = quantised_relu(x, ceiling, 4)
        parts = tf.unstack(y)
    np.testing.assert_allclose(tape.gradient(y, x), [0, 1, 1, 0])
    # y = λ/N·n(xN/λ), rounding as the identity: ∂y/∂λ = n/N − x/λ within, 0 below, 1 above
    expected = [0, 0.25 - 0.3, 0.75 - 0.65, 1]
    np.testing.assert_allclose([tape.gradient(part, ceiling) for part in parts], expected, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"levels": 0}, {"levels": 2.5}, {"ceiling": 0.0}, {"ceiling": -1}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QuantisedReLU(**wrong)


def rounded_ann(seed, levels=8, dyadic=True):
    """Two convolutions, a pooling, a dense layer; weights and ceilings are powers of two times small whole numbers."""
    keras.utils.set_random_seed(seed)
    ann = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, padding="same"),
            QuantisedReLU(levels, ceiling=2.0),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(5, 2),
            QuantisedReLU(levels, ceiling=4.0),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    rng = np.random.default_rng(seed)
    draw = (lambda w: rng.integers(-8, 9, w.shape) / 16) if dyadic else (lambda w: rng.normal(0, 0.4, w.shape))
    for layer in ann.layers:
        if hasattr(layer, "kernel"):
            layer.set_weights([draw(weight) for weight in layer.get_weights()])
    return ann


@pytest.mark.parametrize("seed", range(4))
def test_ttfs_exact_with_as_many_steps_as_levels_is_the_ann(seed):
    ann = rounded_ann(seed)
    images = np.random.default_rng(seed).integers(0, 17, (20, 6, 6, 2)).astype("f") / 16
    snn = convert_ann_to_snn(ann, images, "ttfs_exact", 8)
    np.testing.assert_array_equal(snn.simulate(images).output, ann(images))
    scales = list(snn.scales.values())
    assert scales[0] == 2.0 and scales[-1] == 4.0


def test_rate_comes_near_with_as_many_steps_as_levels():
    ann = rounded_ann(1)
    images = np.random.default_rng(1).integers(0, 17, (20, 6, 6, 2)).astype("f") / 16
    first = ann.layers[1](ann.layers[0](images))
    snn = convert_ann_to_snn(ann, images, "rate", 8, initial_potential=0.5)
    # the first layer sees a constant current: its counts are the levels, exactly
    counts = snn.simulate(images, ["spike_counts"]).spike_counts[ann.layers[0].name]
    np.testing.assert_array_equal(counts * (2.0 / 8), first)


def test_folding_keeps_the_rounding():
    ann = rounded_ann(2, dyadic=False)
    images = np.random.default_rng(2).uniform(0, 1, (50, 6, 6, 2)).astype("f")
    near = np.abs(read(ann).function()(images) - ann(images)).max(axis=-1)
    assert np.mean(near < 1e-5) >= 0.9  # an image on a rounding tie may fall on the other side


def test_saved_and_trained(tmp_path):
    ann = rounded_ann(3, dyadic=False)
    images = np.random.default_rng(3).uniform(0, 1, (16, 6, 6, 2)).astype("f")
    ann.compile("adam", "mse")
    ceiling = ann.layers[1].ceiling
    before = float(ceiling.numpy())
    ann.fit(images, np.zeros((16, 3)), epochs=2, verbose=0)
    assert float(ceiling.numpy()) != before
    ann.save(tmp_path / "ann.keras")
    again = keras.models.load_model(tmp_path / "ann.keras")
    np.testing.assert_array_equal(again(images), ann(images))
    assert again.layers[1].levels == 8


def test_a_ceiling_trained_below_zero_is_refused():
    ann = rounded_ann(0)
    ann.layers[1].ceiling.assign(-0.5)
    with pytest.raises(ConversionError, match="quantised_re_lu.*ceiling is -0.5, its floor 0"):
        read(ann)


# ---------------------------------------------------------------------------------------------------------------------
# Activations other than ReLU

# f; N; and inputs with what they become, by hand.
BY_HAND = {
    # floor −1, ceiling tanh 4 = 0.9993, N = 2: steps of 1; tanh(½ ln 3) = ½ is behind the last tie
    "tanh": ("tanh", 2, {0.0: -1 + 0.99967, np.log(3) / 2 + 0.01: 0.99933, -9.0: -1.0, 9.0: 0.99933}),
    # ¼ of −4 is −1, so floor −1 and ceiling 4, N = 5: whole numbers
    "leaky": (keras.layers.LeakyReLU(negative_slope=0.25), 5, {-8.0: -1.0, -2.2: -1.0, -1.8: 0.0, 1.4: 1.0, 9.0: 4.0}),
    # floor −0.2785, ceiling silu 4 = 3.928, N = 1: nothing or all; half of it, 1.825, is silu 2.12
    "silu": ("silu", 1, {-9.0: -0.27846, 2.0: -0.27846, 2.2: 3.92806}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_values_of_other_activations(name):
    activation, levels, expected = BY_HAND[name]
    x = np.array(list(expected), np.float32)[:, None]
    found = QuantisedActivation(activation, levels)(x)
    np.testing.assert_allclose(found[:, 0], list(expected.values()), atol=1e-4)


def test_a_floor_that_is_trained_has_a_gradient():
    """y = c below c, whatever f; within, c moves the steps: ∂y/∂c = f(x)/λ-wise, here of the rounding alone."""
    layer = QuantisedActivation(keras.layers.LeakyReLU(negative_slope=0.5), 6)  # from −2 to 4 in steps of 1
    x = tf.constant([[-9.0], [2.0], [9.0]])
    layer.build(x.shape)
    with tf.GradientTape(persistent=True) as tape:
        below, within, above = tf.unstack(layer(x)[:, 0])
    gradients = [[tape.gradient(y, weight) for weight in (layer.floor, layer.ceiling)] for y in (below, within, above)]
    # below: y = c; on a level, (2 + 2)/6: y = c + λn with n = (f − c)/λ as its own gradient has it; above: y = C
    np.testing.assert_allclose(gradients, [[1, 0], [0, 0], [0, 1]], atol=1e-6)


CURVED = ["tanh", "silu", "softplus", keras.layers.LeakyReLU(negative_slope=0.25), keras.layers.PReLU("ones")]


@functools.cache
def curved_ann(activation, levels, seed=0):
    """Two convolutions, a pooling and a dense layer, trained a little; once for each activation and seed."""
    keras.utils.set_random_seed(seed)

    def quantised():
        copied = activation if isinstance(activation, str) else type(activation).from_config(activation.get_config())
        return QuantisedActivation(copied, levels, ceiling=1.0)

    ann = keras.Sequential([
        keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3, padding="same"), quantised(),
        keras.layers.MaxPooling2D(), keras.layers.Conv2D(4, 3, padding="same"), quantised(), keras.layers.Flatten(),
        keras.layers.Dense(8), quantised(), keras.layers.Dense(3),
    ])  # fmt: skip
    ann.compile(keras.optimizers.Adam(0.01), "mse")
    rng = np.random.default_rng(seed)
    ann.fit(rng.random((64, 6, 6, 1)), rng.normal(size=(64, 3)), epochs=2, verbose=0)
    return ann


@pytest.mark.parametrize("encoding, timesteps", [("ttfs_exact", 7), ("radix", 3)])
@pytest.mark.parametrize("activation", CURVED, ids=lambda f: f if isinstance(f, str) else type(f).__name__)
def test_trained_networks_convert_without_loss_at_their_levels(activation, encoding, timesteps):
    """Seven levels: seven steps of `ttfs_exact`, three digits of `radix`."""
    ann = curved_ann(activation, 7)
    images = np.random.default_rng(1).random((100, 6, 6, 1)).astype("f")
    expected = ann(images)
    snn = convert_ann_to_snn(ann, images[:10], encoding, timesteps)
    difference = np.abs(snn(images) - expected).max(axis=-1)
    assert np.ptp(expected, axis=0).min() > 0.1
    assert np.mean(difference < 1e-5) >= 0.97  # a potential on a tie may fall on the other side in float32
    plain = convert_ann_to_snn(ann, images[:10], encoding, timesteps - 1)(images)  # other levels: a loss
    assert np.mean(np.abs(plain - expected).max(axis=-1) < 1e-3) < 0.5


def test_saved_with_slopes(tmp_path):
    ann = curved_ann(CURVED[-1], 7)
    images = np.random.default_rng(1).random((5, 6, 6, 1)).astype("f")
    ann.layers[1].function.alpha.assign_add(np.full(ann.layers[1].function.alpha.shape, 0.2, "f"))
    ann.save(tmp_path / "ann.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "ann.keras")(images), ann(images))


def test_what_is_not_elementwise_is_refused():
    with pytest.raises(ValueError, match="each value by itself.*softmax"):
        QuantisedActivation("softmax")


def test_a_floor_trained_above_the_ceiling_is_refused():
    ann = curved_ann(keras.layers.LeakyReLU(), 4, seed=1)
    ann.layers[1].floor.assign(9.0)
    with pytest.raises(ConversionError, match="ceiling is .*, its floor 9"):
        read(ann)
