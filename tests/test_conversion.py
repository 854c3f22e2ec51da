"""Folding, calibration, report, refusals and measurements of `conversion.py`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import dyadic, randomise
from keras import layers as kl

import conversion
from conversion import (
    ConversionError,
    ann_accuracy,
    ann_and_snn_activations_per_layer,
    conversion_report,
    convert_ann_to_snn,
    read,
    snn_accuracy,
    snn_accuracy_per_timestep,
    verify,
)
from spiking import rate, ttfs

BN = kl.BatchNormalization
POOL, AVERAGE = kl.MaxPooling2D, kl.AveragePooling2D
END = (kl.Flatten, lambda: kl.Dense(3))


def conv(filters=4, size=3, **options):
    return lambda: kl.Conv2D(filters, size, **options)


def pool(kind=POOL, size=2, **options):
    return lambda: kind(size, **options)


def dense(units=5, **options):
    return lambda: kl.Dense(units, **options)


# Every layer order of issue 2, by name: constructors of the layers. Images 8×7×2.
ORDERS = {
    "relu as argument": [conv(activation="relu"), *END],
    "relu as layer": [conv(), kl.ReLU, *END],
    "relu as activation layer": [conv(), lambda: kl.Activation("relu"), *END],
    "bn before relu": [conv(), BN, kl.ReLU, *END],
    "bn after relu": [conv(activation="relu"), BN, *END],
    "bn after relu, then conv": [conv(activation="relu"), BN, conv(3, 2, activation="relu"), *END],
    "bn after relu, then same padding": [conv(activation="relu"), BN, conv(3, padding="same"), kl.ReLU, *END],
    "bn after relu, then same padding with strides": [
        conv(activation="relu", padding="same"), BN, conv(3, strides=2, padding="same", activation="relu"), *END,
    ],
    "bn after relu, then same padding with dilation": [
        conv(activation="relu"), BN, conv(3, 2, dilation_rate=2, padding="same", activation="relu"), *END,
    ],
    "bn before and after relu": [conv(), BN, kl.ReLU, BN, conv(3, padding="same"), BN, kl.ReLU, BN, *END],
    "several bn in a row": [conv(), BN, BN, kl.ReLU, BN, BN, BN, conv(3, padding="same", activation="relu"), *END],
    "no bias": [conv(use_bias=False), BN, kl.ReLU, conv(3, use_bias=False, activation="relu"), *END],
    "bn without scale": [conv(), lambda: BN(scale=False), kl.ReLU, *END],
    "bn without centre": [conv(activation="relu"), lambda: BN(center=False), conv(3, padding="same"), kl.ReLU, *END],
    "bn without both": [conv(activation="relu"), lambda: BN(center=False, scale=False), *END],
    "bn with another epsilon": [conv(), lambda: BN(epsilon=0.5), kl.ReLU, *END],
    "bn over the rows": [conv(activation="relu"), lambda: BN(axis=1), conv(3, padding="same"), kl.ReLU, *END],
    "relu, bn, max pool": [conv(activation="relu"), BN, pool(), conv(3, 2, activation="relu"), *END],
    "relu, bn, max pool, same": [
        conv(activation="relu"), BN, pool(size=3, strides=2, padding="same"), conv(3, padding="same"), kl.ReLU, *END,
    ],
    "relu, max pool, bn": [conv(activation="relu"), pool(), BN, conv(3, padding="same", activation="relu"), *END],
    "relu, bn, max pool, bn": [conv(), kl.ReLU, BN, pool(), BN, conv(3, 2), kl.ReLU, *END],
    "conv, max pool, relu": [conv(), pool(), kl.ReLU, conv(3, 2, activation="relu"), *END],
    "conv, max pool, bn, relu": [conv(), pool(), BN, kl.ReLU, conv(3, 2, activation="relu"), *END],
    "conv, bn, max pool, relu": [conv(), BN, pool(), kl.ReLU, *END],
    "conv, bn, max pool, bn, relu": [conv(), BN, pool(), BN, kl.ReLU, *END],
    "two max pools before relu": [conv(), pool(size=3, strides=1), BN, pool(), kl.ReLU, *END],
    "two max pools after bn": [conv(activation="relu"), BN, pool(size=3, strides=1), pool(), *END],
    "bn between max pools": [conv(activation="relu"), BN, pool(size=3, strides=1), BN, pool(), BN, *END],
    "conv, average, relu": [conv(), pool(AVERAGE), kl.ReLU, *END],
    "conv, average, bn, relu": [conv(), pool(AVERAGE), BN, kl.ReLU, *END],
    "relu, average, bn": [conv(activation="relu"), pool(AVERAGE, padding="same"), BN, *END],
    "relu, bn, average, conv": [conv(activation="relu"), BN, pool(AVERAGE), conv(3, 2, activation="relu"), *END],
    "average, then max pool": [conv(activation="relu"), BN, pool(AVERAGE, size=3, strides=1), pool(), *END],
    "max pool, then average": [conv(activation="relu"), BN, pool(), pool(AVERAGE), *END],
    "bn after flatten": [conv(activation="relu"), kl.Flatten, BN, dense(activation="relu"), dense(3)],
    "bn behind the last layer": [conv(activation="relu"), *END, BN],
    "max pool on the image": [pool(), conv(activation="relu"), *END],
    "average on the image": [pool(AVERAGE, size=3, strides=2, padding="same"), conv(activation="relu"), *END],
    "bn, then pools on the image": [BN, pool(), pool(AVERAGE, padding="same"), conv(3, 2, activation="relu"), *END],
    "bn on the image": [BN, conv(padding="same", activation="relu"), *END],
    "bn on the image, dense": [kl.Flatten, BN, dense(activation="relu"), dense(3)],
    "dropout everywhere": [
        lambda: kl.Dropout(0.5), conv(), lambda: kl.Dropout(0.5), BN, kl.ReLU, lambda: kl.Dropout(0.5), pool(), *END,
    ],
    "dense with bn": [kl.Flatten, dense(), BN, kl.ReLU, dense(4, activation="relu"), BN, dense(3)],
    "linear layers in a row": [conv(), conv(3, 2), kl.ReLU, kl.Flatten, dense(4), dense(3)],
    "relu twice": [conv(activation="relu"), kl.ReLU, *END],
    "relu in front of all": [kl.ReLU, *END],
    "dense on feature maps": [dense(4, activation="relu"), BN, conv(3, activation="relu"), *END],
    "strides": [conv(strides=2, padding="same", activation="relu"), conv(3, 2, strides=(2, 1)), BN, kl.ReLU, *END],
    "relu6": [conv(), lambda: kl.ReLU(max_value=0.5), BN, *END],
    "no hidden layer": [*END],
    "softmax": [conv(activation="relu"), BN, kl.Flatten, dense(3, activation="softmax")],
    "softmax layer": [conv(activation="relu"), *END, kl.Softmax],
    "sigmoid": [conv(activation="relu"), kl.Flatten, dense(3, activation="sigmoid")],
}  # fmt: skip


def build(order, shape=(8, 7, 2), seed=0):
    return randomise(keras.Sequential([keras.Input(shape), *(make() for make in order)]), seed)


def random_images(shape=(8, 7, 2), number=6, seed=1, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(number, *shape)).astype(dtype)


def relative_error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


# --- folding ---


@pytest.mark.parametrize("name", ORDERS)
def test_folded_equals_ann_in_float32(name):
    ann, images = build(ORDERS[name]), random_images()
    expected = np.asarray(ann(images, training=False))
    assert np.ptp(expected) > 1e-3
    assert relative_error(read(ann).function()(images).numpy(), expected) <= 1e-5


@pytest.mark.parametrize("name", ORDERS)
def test_folded_equals_ann_in_float64(name, float64):
    ann, images = build(ORDERS[name]), random_images(dtype=np.float64)
    expected = np.asarray(ann(images, training=False))
    assert expected.dtype == np.float64
    assert relative_error(read(ann).function("float64")(images).numpy(), expected) <= 1e-10


def test_bn_over_the_rows_behind_a_waiting_pool_is_exact_or_refused():
    # The statistics belong to the pooled rows and cannot go in front of the pooling.
    ann, images = build([conv(), pool(), lambda: BN(axis=1), kl.ReLU, *END]), random_images()
    try:
        folded = read(ann)
    except ConversionError as error:
        assert ann.layers[2].name in str(error)
    else:
        assert relative_error(folded.function()(images).numpy(), np.asarray(ann(images))) <= 1e-5


def test_late_built_sequential():
    ann = keras.Sequential([kl.Flatten(), kl.Dense(5, activation="relu"), BN(), kl.Dense(3)])
    images = random_images((3, 4))
    ann(images)
    randomise(ann)
    assert relative_error(read(ann).function()(images).numpy(), np.asarray(ann(images))) <= 1e-5
    snn = convert_ann_to_snn(ann, images, timesteps=4)
    assert snn(images).shape == (6, 3)


def test_the_ann_is_left_as_it_is():
    ann, images = build(ORDERS["bn before and after relu"]), random_images()
    ann.compile("sgd", "mse")
    before, config, scores = ann.get_weights(), ann.get_config(), np.asarray(ann(images))
    snn = convert_ann_to_snn(ann, images, timesteps=2)
    for weight in snn.weights:
        weight.assign(weight + 1)
    assert ann.get_config() == config and ann.compiled
    for a, b in zip(ann.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.asarray(ann(images)), scores)


# --- the spiking network in the ANN's units ---

# One layer of neurons, a constant image. A neuron's rate θ·n/T is below its activation by less than one spike, θ/T in
# units of its channel's λ, if the activation stays below λ·θ (percentile 100, on these images). Pooling does not
# enlarge the error.
BOUNDED = {
    "dense": [kl.Flatten, dense(activation="relu"), dense(3)],
    "conv": [conv(activation="relu"), *END],
    "groups": [conv(groups=2, activation="relu"), *END],
    "max pool": [conv(activation="relu"), pool(), *END],
    "max pool before relu": [conv(), pool(), BN, kl.ReLU, *END],
    "max pool of negative scales": [conv(activation="relu"), BN, pool(), *END],
    "average pool": [conv(activation="relu"), pool(AVERAGE), *END],
    "map of biases": [BN, conv(padding="same", activation="relu"), *END],
    "image pooled": [pool(AVERAGE), conv(activation="relu"), *END],
}


@pytest.mark.parametrize("threshold", [1.0, 2.0])
@pytest.mark.parametrize("name", BOUNDED)
def test_rate_error_is_at_most_one_spike_a_neuron(name, threshold):
    ann, images = build(BOUNDED[name]), random_images(number=10)
    kernel = np.abs(np.asarray(ann.layers[-1].kernel, np.float64))
    between = [layer for layer in ann.layers[1:] if isinstance(layer, BN)]
    if between and name == "max pool of negative scales":
        (bn,) = between
        gain = np.abs(np.asarray(bn.gamma)) / np.sqrt(np.asarray(bn.moving_variance) + bn.epsilon)
        kernel = kernel * np.tile(gain, len(kernel) // len(gain))[:, None]
    expected = np.asarray(ann(images))
    for timesteps in (10, 80):
        settings = {"threshold": threshold, "norm_percentile": 100, **rate.classic()}
        snn = convert_ann_to_snn(ann, images, "rate", timesteps, **settings)
        first = next(iter(snn.scales.values()))
        scale = np.resize(first, len(kernel))  # channels are last, so they repeat in the flattened map
        bound = scale @ kernel * threshold / timesteps
        error = np.abs(snn(images).numpy() - expected)
        assert np.all(error <= bound * (1 + 1e-4) + 1e-4), f"T = {timesteps}"


@pytest.mark.parametrize("max_rate", [1.0, 0.5])
def test_poisson_input_is_right_on_average(max_rate):
    # A read-out straight behind the input: its mean is the ANN's output, its variance Σ w² p(1 − p)/T · (top/max_rate)²
    ann = build([dense(3)], (6,))
    images = 2 * np.random.default_rng(2).random((5, 6)).astype(np.float32)
    timesteps, top = 2000, images.max()
    snn = convert_ann_to_snn(ann, images, timesteps=timesteps, input_coding="poisson", max_rate=max_rate)
    p = max_rate * images / top
    variance = (p * (1 - p) * (top / max_rate) ** 2) @ np.square(np.asarray(ann.layers[0].kernel)) / timesteps
    assert np.all(np.abs(snn(images).numpy() - np.asarray(ann(images))) <= 5 * np.sqrt(variance) + 1e-4)


def test_groups_between_layers_of_neurons():
    # the scale of the layer before is one number for all channels, in a kernel that is split into groups
    order = [conv(activation="relu"), conv(4, 2, groups=2, activation="relu"), *END]
    ann, images = build(order), random_images()
    report = verify(ann, convert_ann_to_snn(ann, images, timesteps=400, norm_percentile=100), images)
    assert max(report.layers.values()) < 0.05


def test_softmax_is_applied_to_the_scores():
    order = [kl.Flatten, dense(activation="relu"), dense(3)]
    ann, images = build(order), random_images()
    linear = convert_ann_to_snn(ann, images, timesteps=5)(images).numpy()
    final = keras.Sequential([keras.Input((8, 7, 2)), *ann.layers, kl.Softmax()])
    scores = convert_ann_to_snn(final, images, timesteps=5)(images).numpy()
    expected = np.exp(linear) / np.exp(linear).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_layers_behind_the_input_do_not_learn_when_called_for_training():
    ann, images = build(ORDERS["bn, then pools on the image"]), random_images()
    snn = convert_ann_to_snn(ann, images, timesteps=4)
    np.testing.assert_array_equal(snn(images, training=True).numpy(), snn(images).numpy())
    np.testing.assert_allclose(snn(images[:1], training=True).numpy(), snn(images).numpy()[:1], rtol=1e-5)


# --- report and verification ---


def test_report_names_what_became_of_each_layer():
    order = [lambda: kl.Dropout(0.1), conv(), BN, kl.ReLU, pool(), *END, kl.Softmax]
    ann, images = build(order), random_images()
    snn = convert_ann_to_snn(ann, images, timesteps=2)
    dropout, conv2d, bn, relu, max_pool, flatten, last, softmax = (row["result"] for row in snn.report)
    names = [layer.name for layer in ann.layers]
    assert [row["layer"] for row in snn.report] == names
    assert [row["type"] for row in snn.report] == [type(layer).__name__ for layer in ann.layers]
    assert "dropped" in dropout and "spiking" in conv2d and "max pooling" in max_pool and "read-out" in last
    assert "folded" in bn and names[1] in bn and names[1] in relu
    assert names[6] in flatten and names[6] in softmax
    printed = conversion_report(snn).splitlines()
    assert len(printed) == 1 + len(names) and all(n in line for n, line in zip(names, printed[1:], strict=True))


def test_verify():
    ann, images = build(ORDERS["bn before and after relu"]), random_images(number=9)
    snn = convert_ann_to_snn(ann, images, timesteps=6)
    result = verify(ann, snn, images, batch_size=4)
    ours, theirs = snn(images).numpy(), np.asarray(ann(images))
    assert result.images == 9 and result.folding_error <= 1e-5
    assert result.same_class == pytest.approx(np.mean(ours.argmax(-1) == theirs.argmax(-1)))
    assert result.largest_difference == pytest.approx(np.abs(ours - theirs).max(), rel=1e-4)
    assert result.mean_difference == pytest.approx(np.abs(ours - theirs).mean(), rel=1e-4)
    pairs = ann_and_snn_activations_per_layer(ann, snn, images)
    assert list(result.layers) == list(pairs) == [layer.name for layer in snn.hidden_layers]
    for name, (target, activity) in pairs.items():
        assert target.shape == activity.shape and target.min() >= 0
        assert result.layers[name] == pytest.approx(np.abs(activity - target).sum() / target.sum(), rel=1e-3)
    assert all(name in str(result) for name in pairs)


def test_verify_notices_another_network():
    ann, images = build(ORDERS["bn before relu"]), random_images()
    snn = convert_ann_to_snn(ann, images, timesteps=100)
    near, far = verify(ann, snn, images), verify(build(ORDERS["bn before relu"], seed=9), snn, images)
    assert far.mean_difference > 5 * near.mean_difference


# --- calibration ---


def dyadic_net():
    ann = build([conv(2, activation="relu"), kl.Flatten, dense(3)], (5, 5, 1))
    ann.set_weights([dyadic(weight, 6) for weight in ann.get_weights()])
    return ann, dyadic(np.random.default_rng(3).random((30, 5, 5, 1)), 3).astype(np.float32)


def test_calibration_as_array_dataset_or_callable_gives_the_same_network():
    ann, images = dyadic_net()
    sources = [
        images,
        images.astype(np.float64),
        tf.data.Dataset.from_tensor_slices(images).batch(7),
        tf.data.Dataset.from_tensor_slices((images, np.zeros(30))).batch(30),
        lambda: iter([images[:11], images[11:]]),
        lambda: ((part, None) for part in np.array_split(images, 4)),
    ]
    networks = [convert_ann_to_snn(ann, source, timesteps=3, norm_percentile=90) for source in sources]
    for other in networks[1:]:
        assert other.scales == networks[0].scales
        for a, b in zip(other.get_weights(), networks[0].get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("percent", [50.0, 90.0, 100.0])
def test_scale_is_the_percentile_of_the_activation(percent):
    ann, images = dyadic_net()
    activation = np.asarray(ann.layers[0](images))
    (scale,) = convert_ann_to_snn(ann, images, timesteps=3, norm_percentile=percent, per_channel=False).scales.values()
    expected = np.percentile(activation, percent, method="inverted_cdf") or activation.max()
    assert scale == pytest.approx(expected, rel=1e-7 if percent == 100 else 1 / 256)


def test_scale_per_channel():
    ann, images = dyadic_net()
    activation = np.asarray(ann.layers[0](images))
    (scale,) = convert_ann_to_snn(ann, images, timesteps=3, norm_percentile=100, per_channel=True).scales.values()
    np.testing.assert_allclose(scale, activation.max(axis=(0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    "calibration, message",
    [
        (np.zeros((4, 5, 6, 1)), r"\(4, 5, 6, 1\)"),
        (np.zeros((0, 5, 5, 1)), "at least one image"),
        (lambda: iter([]), "at least one image"),
        (np.full((4, 5, 5, 1), np.nan), "NaN"),
        (np.full((4, 5, 5, 1), np.inf), "infinity"),
    ],
)
def test_calibration_refused(calibration, message):
    ann, _ = dyadic_net()
    with pytest.raises(ValueError, match=message) as error:
        convert_ann_to_snn(ann, calibration)
    assert "calibration" in str(error.value)


def test_negative_images_need_a_current():
    ann, images = dyadic_net()
    with pytest.raises(ValueError, match="negative.*-0.5.*Shift"):
        convert_ann_to_snn(ann, images - 0.5, input_coding="poisson")
    convert_ann_to_snn(ann, images - 0.5, timesteps=2)


# --- arguments ---


@pytest.mark.parametrize(
    "options, message",
    [
        ({"encoding": "morse"}, "encoding='morse'"),
        ({"timesteps": 0}, "timesteps=0"),
        ({"timesteps": -5}, "timesteps=-5"),
        ({"timesteps": 2.5}, "timesteps=2.5"),
        ({"threshold": 0.0}, "threshold=0.0"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"norm_percentile": 0}, "norm_percentile=0"),
        ({"norm_percentile": 100.5}, "norm_percentile=100.5"),
        ({"norm_percentile": float("nan")}, "norm_percentile=nan"),
        ({"leak": 1}, "leak=1"),
        ({"tau": -1.0}, "tau=-1.0"),
        ({"reset": "none"}, "reset='none'"),
        ({"initial_potential": 1.5}, "initial_potential=1.5"),
        ({"input_coding": "morse"}, "input_coding='morse'"),
        ({"input_coding": "poisson", "max_rate": 0}, "max_rate=0"),
        ({"readout_delay": 100}, "readout_delay=100"),
        ({"readout_delay": -1}, "readout_delay=-1"),
        ({"readout_delay": 1.5}, "readout_delay=1.5"),
        ({"input_coding": "poisson", "seed": 1.5}, "seed=1.5"),
    ],
)
def test_setting_refused(options, message):
    ann, images = dyadic_net()
    with pytest.raises(ValueError, match=message):
        convert_ann_to_snn(ann, images, **options)


class Unknown(keras.layers.Layer):
    def call(self, x):
        return tf.sort(x)


REFUSED = {
    # name: (constructors, what the error must say: attribute and value; which layer is to blame)
    "sigmoid": ([dense(activation="sigmoid"), dense(3)], "activation='sigmoid'", 0),
    "tanh": ([dense(activation="tanh"), dense(3)], "activation='tanh'", 0),
    "tanh layer": ([dense(), lambda: kl.Activation("tanh"), dense(3)], "activation='tanh'", 0),
    "leaky relu": ([dense(), kl.LeakyReLU, dense(3)], "activation='LeakyReLU'", 0),
    "leaky relu as activation": ([dense(activation="leaky_relu"), dense(3)], "activation='leaky_relu'", 0),
    "negative slope": ([dense(), lambda: kl.ReLU(negative_slope=0.25), dense(3)], "activation='ReLU'", 0),
    "softmax in the middle": ([dense(activation="softmax"), dense(3)], "activation='softmax'", 0),
    "softmax layer in the middle": ([dense(), kl.Softmax, dense(3)], "activation='softmax'", 1),
    "softmax over another axis": ([conv(), lambda: kl.Softmax(axis=1)], "axis=1", 1),
    "unknown layer": ([dense(), Unknown, dense(3)], "Unknown", 1),
    "lstm": ([lambda: kl.Reshape((8, 14)), lambda: kl.LSTM(3), dense(3)], "LSTM", 1),
    "channels first": ([conv(padding="same", data_format="channels_first"), *END], "data_format='channels_first'", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    order, message, blamed = REFUSED[name]
    ann = keras.Sequential([keras.Input((8, 7, 2)), *(make() for make in order)])
    layer = ann.layers[blamed]
    with pytest.raises(ConversionError) as error:
        convert_ann_to_snn(ann, lambda: pytest.fail("refuse before any work"))
    text = str(error.value)
    assert message in text and type(layer).__name__ in text
    assert layer.name in text
    remedy = text.split(". ", 1)[-1]
    assert len(remedy) > 15 and remedy != text, "the error tells what to do"


def test_clamped_relu_needs_a_code_that_clamps():
    # a threshold of the ANN's ReLU is not one of the neurons: rate would pass small activations on
    ann = build([dense(activation="relu"), dense(), lambda: kl.ReLU(threshold=0.5), dense(3)], (4,))
    with pytest.raises(ConversionError, match=f"'{ann.layers[1].name}'.*threshold=0.5.*Take"):
        convert_ann_to_snn(ann, lambda: pytest.fail("refuse before any work"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value):
    ann = build([dense(activation="relu"), dense(3)], (4,))
    kernel = np.asarray(ann.layers[1].kernel).copy()
    kernel[0, 0] = value
    ann.layers[1].kernel.assign(kernel)
    with pytest.raises(ConversionError, match=f"{ann.layers[1].name}.*kernel.*NaN or infinity"):
        convert_ann_to_snn(ann, np.ones((2, 4)))


def test_models_that_cannot_be_read():
    images = np.ones((2, 4))
    with pytest.raises(ConversionError, match="no weights yet"):
        convert_ann_to_snn(keras.Sequential([kl.Dense(3)]), images)
    with pytest.raises(ConversionError, match="no weights yet"):
        convert_ann_to_snn(keras.Sequential(), images)
    with pytest.raises(ConversionError, match="type Dense"):
        convert_ann_to_snn(kl.Dense(3), images)
    free = keras.Sequential([keras.Input((None, None, 1)), kl.Conv2D(2, 3), kl.GlobalAveragePooling2D()])
    with pytest.raises(ConversionError, match=r"input_shape=\(None, None, None, 1\)"):
        convert_ann_to_snn(free, images)


class Keras2Model:
    """Stands in for tf_keras.Model, which CI does not have; tried with tf_keras 2.21 as well."""

    __module__ = "tf_keras.src.engine.training"


class OwnKeras2Model(Keras2Model):
    """As a user derives one, in a module of another name."""


@pytest.mark.parametrize("kind", [Keras2Model, OwnKeras2Model])
def test_models_of_keras_2_are_named_with_the_way_out(kind):
    with pytest.raises(ConversionError, match=rf"{kind.__name__} of .*: Keras 2[.].*set_weights.*load_model"):
        convert_ann_to_snn(kind(), lambda: pytest.fail("refuse before any work"))


def test_deep_ttfs_is_warned_of(caplog):
    ann = build([dense(activation="relu")] * 4 + [dense(3)], (4,))
    convert_ann_to_snn(ann, np.random.default_rng(0).random((9, 4)), "ttfs", 30, **ttfs.classic())
    assert "timesteps=30" in caplog.text
    caplog.clear()
    convert_ann_to_snn(ann, np.random.default_rng(0).random((9, 4)), "ttfs", 40)
    assert "timesteps" not in caplog.text


# --- measuring ---


@pytest.fixture(scope="module")
def measured():
    ann, _ = dyadic_net()
    # the last bias centred, so that all classes occur
    images = dyadic(np.random.default_rng(5).random((23, 5, 5, 1)), 3).astype(np.float32)
    ann.layers[-1].bias.assign_sub(np.asarray(ann(images)).mean(axis=0))
    snn = convert_ann_to_snn(ann, images, timesteps=12)
    return ann, snn, images, np.random.default_rng(6).integers(0, 3, 23)


def test_accuracy_against_numpy(measured):
    ann, snn, images, labels = measured
    assert len(np.unique(np.asarray(ann(images)).argmax(-1))) > 1
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(5)
    for model, accuracy in ((ann, ann_accuracy), (snn, snn_accuracy)):
        expected = np.mean(np.asarray(model(images)).argmax(-1) == labels)
        assert accuracy(model, images, labels) == pytest.approx(expected)
        assert accuracy(model, images, labels[:, None], batch_size=7) == pytest.approx(expected)
        assert accuracy(model, data) == pytest.approx(expected)
        assert accuracy(model, images, np.asarray(model(images)).argmax(-1)) == 1


def test_accuracy_per_timestep(measured):
    _, snn, images, labels = measured
    course = snn_accuracy_per_timestep(snn, images, labels, batch_size=10)
    readouts = snn.simulate(images, ("readouts",)).readouts.numpy()
    assert course.shape == (12,)
    np.testing.assert_allclose(course, np.mean(readouts.argmax(-1) == labels, axis=1))
    assert course[-1] == pytest.approx(snn_accuracy(snn, images, labels))
    assert len(set(course)) > 1


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: (x, y[:-1]), "one label per image"),
        (lambda x, y: (x, None), "one label per image"),
        (lambda x, y: (x, y + 1), "from 0 to 2"),
        (lambda x, y: (x, y - 1), "from 0 to 2"),
        (lambda x, y: (x, y.astype(float)), "float64"),
        (lambda x, y: (x, np.eye(3, dtype=int)[y]), "one per image"),
        (lambda x, y: (x[:, :4], y), r"shape \(4, 5, 1\)"),
        (lambda x, y: (x[:0], y[:0]), "at least one image"),
    ],
)
@pytest.mark.parametrize("accuracy", [ann_accuracy, snn_accuracy, snn_accuracy_per_timestep])
def test_labels_and_images_refused(measured, accuracy, change, message):
    ann, snn, images, labels = measured
    with pytest.raises(ValueError, match=message):
        accuracy(ann if accuracy is ann_accuracy else snn, *change(images, np.maximum(labels, 0)))


def test_converters_are_looked_up_by_exact_type():
    class Special(kl.Dense):
        pass

    ann = keras.Sequential([keras.Input((4,)), Special(3, name="mine")])
    with pytest.raises(ConversionError, match="call of 'mine' .Special."):
        read(ann)
    assert all(isinstance(kind, type) for kind in conversion.CONVERTERS)


def test_spike_input_is_checked_behind_what_acts_on_the_image():
    ann = keras.Sequential(
        [keras.Input((4, 4, 1)), kl.Rescaling(2, -1), kl.MaxPooling2D(), kl.Flatten(), kl.Dense(3)], name="dark"
    )
    images = np.random.default_rng(0).uniform(0, 0.5, (8, 4, 4, 1)).astype("float32")
    for options in ({"encoding": "ttfs_exact", "input_coding": "spikes"}, {"input_coding": "poisson"}):
        with pytest.raises(ValueError, match="not negative.*Received"):
            convert_ann_to_snn(ann, images, **options)
    # with bright images nothing is negative, and the full intensity is that of the image behind the layers
    bright = 0.5 + images
    snn = convert_ann_to_snn(ann, bright, "ttfs_exact", 2**12, input_coding="spikes", normalisation="max")
    np.testing.assert_allclose(snn.predict(bright, verbose=0), ann.predict(bright, verbose=0), atol=2e-3)
    assert snn.plan.inputs["input_spikes"].scale == pytest.approx(float((2 * bright - 1).max()), abs=0.2)
