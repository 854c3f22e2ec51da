"""What is read and how: every form in which people write a network gives the ANN's own function, or is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from keras import layers as kl

from conversion import ConversionError, conversion_report, convert_ann_to_snn, diagnose, read
from spiking.folding.activations import SAME_FUNCTION
from spiking.folding.graph import Image, Neurons, Relay
from spiking.folding.interpolation import bilinear, nearest


def images(shape, number=4, seed=0):
    return np.random.default_rng(seed).random((number, *shape)).astype(np.float32)


def chain(shape, *layers):
    return randomise(keras.Sequential([keras.Input(shape), *layers]))


def flat(outputs):
    return [np.asarray(each) for each in keras.tree.flatten(outputs)]


def assert_same_function(ann, x, rtol=1e-5):
    """The folded network gives what the ANN gives."""
    graph = read(ann)
    for found, expected in zip(flat(graph.function()(x)), flat(ann(x, training=False)), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= rtol * np.abs(expected).max()
    return graph


# --- operators and operations ---


def test_operators():
    """x / 255 − ½, x + y, y − x, 2x, −x, a slice, a reshape, a mean over positions, keras.ops.relu and concatenate."""
    x = image = keras.Input((4, 4, 2))
    x = x / 2.0 - 0.5
    y = keras.ops.relu(kl.Conv2D(3, 3, padding="same")(x))
    z = keras.ops.relu(kl.Conv2D(3, 1)(y) + y)
    z = keras.ops.maximum(1.5 * z - y, 0)
    z = keras.ops.concatenate([z, -y], axis=-1)
    left = keras.ops.reshape(z[:, 1:3, ::2], (-1, 4, 6))
    right = keras.ops.mean(z, axis=(1, 2))
    ann = randomise(keras.Model(image, kl.Dense(3)(keras.ops.concatenate([kl.Flatten()(left), right], -1))))
    graph = assert_same_function(ann, images((4, 4, 2)))
    assert [type(node) for node in graph.nodes.values()].count(Neurons) == 3


def test_a_transpose():
    x = keras.Input((4, 3))
    ann = keras.Model(x, kl.Dense(2)(keras.ops.transpose(kl.Dense(5, "relu")(x), (0, 2, 1))))
    assert_same_function(randomise(ann), images((4, 3)))


# --- models in all wrappings ---


class Residual(kl.Layer):
    """A layer of layers, with a call of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = kl.Dense(4, activation="relu", name="first"), kl.Dense(4, name="second")

    def call(self, x):
        return keras.ops.relu(x + self.second(self.first(x)))


class Subclassed(keras.Model):
    """A model by subclassing, as in PyTorch."""

    def __init__(self):
        super().__init__()
        self.body, self.block, self.head = kl.Dense(4, activation="relu"), Residual(), kl.Dense(3, activation="softmax")

    def call(self, x, training=None):
        return self.head(self.block(self.body(x)))


class Halving(keras.Sequential):
    """A Sequential that does more than its layers say."""

    def call(self, x, training=None, mask=None):
        return super().call(x) * 0.5


def test_a_subclassed_model_is_traced():
    ann, x = Subclassed(), images((5,))
    ann(x)
    graph = assert_same_function(ann, x)
    assert set(graph.neurons) == {"dense", "first", "relu"} or len(graph.neurons) == 3


def test_a_sequential_with_its_own_call_is_traced_and_not_taken_for_its_layers():
    ann = Halving([keras.Input((4,)), kl.Dense(3, activation="relu"), kl.Dense(2)])
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 7):  # cannot trace `super().call`: refused, not ignored
        with pytest.raises(ConversionError, match="'halving'.*cannot be traced"):
            read(ann)
        return
    assert_same_function(ann, images((4,)))


class Negating(keras.Model):
    """Of functional models, with a `call` of its own."""

    def call(self, x, training=None, mask=None):
        return -super().call(x)


def test_a_functional_model_with_its_own_call_is_traced():
    x = keras.Input((4,))
    ann = randomise(Negating(x, kl.Dense(2)(kl.Dense(3, activation="relu")(x))))
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 7):  # cannot trace `super().call`: refused, not ignored
        with pytest.raises(ConversionError, match="cannot be traced"):
            read(ann)
        return
    assert_same_function(ann, images((4,)))


def test_nested_and_shared_models():
    """A tower used twice in a nested model: two layers of neurons a use, with names of their own."""
    inner = keras.Sequential([keras.Input((4,)), kl.Dense(3, activation="relu", name="a")], name="inner")
    x, y = keras.Input((4,)), keras.Input((4,))
    outer = keras.Model([x, y], kl.Subtract()([inner(x), inner(y)]), name="outer")
    u, v = keras.Input((4,), name="u"), keras.Input((4,), name="v")
    ann = keras.Model({"u": u, "v": v}, {"scores": kl.Dense(2, name="scores")(outer([u, v]))})
    values = {"u": images((4,)), "v": images((4,), seed=1)}
    graph = assert_same_function(ann, values)
    assert len(graph.neurons) == 2 and len(set(graph.nodes)) == len(graph.nodes)
    assert graph.outputs == {"scores": "scores"}
    snn = convert_ann_to_snn(ann, values, "ttfs_exact", 1024, normalisation="max")
    found, expected = snn.predict(values, verbose=0)["scores"], ann.predict(values, verbose=0)["scores"]
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


def test_a_layer_used_three_times():
    layer, x = kl.Dense(4, activation="relu"), keras.Input((4,))
    ann = keras.Model(x, kl.Dense(2)(layer(layer(layer(x)))))
    assert len(assert_same_function(ann, images((4,))).neurons) == 3


def test_a_cut_model():
    """Up to a layer and from a layer, as Keras users cut them."""
    x = keras.Input((6, 6, 1))
    y = kl.Conv2D(2, 3, activation="relu", name="features")(x)
    ann = keras.Model(x, kl.Dense(3)(kl.Flatten()(kl.MaxPooling2D(name="pool")(y))))
    head = keras.Model(ann.input, ann.get_layer("features").output)
    tail = keras.Model(ann.get_layer("pool").output, ann.output)
    assert_same_function(head, images((6, 6, 1)))
    assert_same_function(tail, images((2, 2, 2)))


@pytest.mark.parametrize("name", ["_hidden", "input_spikes", "cell", "relay", "0"])
def test_names_that_are_also_ours(name):
    ann = chain((4,), kl.Dense(3, activation="relu", name=name), kl.Dense(2, name="2nd"))
    snn = convert_ann_to_snn(ann, images((4,)), "ttfs_exact", 256, normalisation="max")
    assert list(snn.scales) == [name]
    np.testing.assert_allclose(snn.predict(images((4,)), verbose=0), ann(images((4,))), atol=0.05)
    stock = tf.function(keras.Model(snn.inputs, snn.output))([images((4,))])  # 512 steps
    np.testing.assert_allclose(stock, snn(images((4,))), atol=1e-5)  # the weights are not dyadic


# --- activations under other names ---


@pytest.mark.parametrize("activation", [tf.nn.relu, tf.nn.relu6, keras.ops.relu], ids=["tf.nn", "tf.nn 6", "keras.ops"])
def test_a_relu_under_another_name(activation):
    graph = assert_same_function(chain((4,), kl.Dense(5, activation=activation), kl.Dense(2)), images((4,)))
    assert len(graph.neurons) == 1


@pytest.mark.parametrize("theirs", SAME_FUNCTION, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_functions_taken_for_the_same_are_the_same(theirs):
    if theirs.__name__ in ("glu", "threshold"):
        pytest.skip("takes arguments of its own, so nobody can give it as an activation")
    x = tf.constant(np.linspace(-4, 4, 30).reshape(5, 6), tf.float32)
    np.testing.assert_allclose(np.asarray(theirs(x)), np.asarray(SAME_FUNCTION[theirs](x)), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("last", ["tanh", "softplus", tf.nn.softmax, keras.ops.gelu, kl.LeakyReLU(), kl.ELU(), "swish"])
def test_any_activation_at_the_end(last, tmp_path):
    ann = chain((4,), kl.Dense(6, activation="relu"), kl.Dense(3, activation=last))
    assert_same_function(ann, images((4,)))
    snn = convert_ann_to_snn(ann, images((4,)), "ttfs_exact", 512, normalisation="max")
    snn.save(tmp_path / "snn.keras")
    again = keras.models.load_model(tmp_path / "snn.keras")
    np.testing.assert_array_equal(again.predict(images((4,)), verbose=0), snn.predict(images((4,)), verbose=0))


def test_values_that_are_only_moved_behind_the_last_activation():
    ann = chain((4,), kl.Dense(5, activation="relu"), kl.Dense(6, activation="sigmoid"), kl.Reshape((2, 3)))
    assert_same_function(ann, images((4,)))
    ann = chain((4, 4, 1), kl.Conv2D(3, 1, activation="softmax"), kl.Reshape((16, 3)))
    assert_same_function(ann, images((4, 4, 1)))
    with pytest.raises(ConversionError, match="softmax"):  # over other values than before
        read(chain((4,), kl.Dense(6, activation="softmax"), kl.Reshape((2, 3)), kl.Dense(2)))


# --- what acts on the image ---


def test_a_feature_that_never_changes_stays_where_it_is():
    """Variance 0: the ANN divides by 1e-7, and 1e7 in float32 kernels would drown everything else."""
    data = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    data[:, 1] = 0.3
    normalisation = kl.Normalization()
    ann = chain((3,), normalisation, kl.Dense(8, activation="relu"), kl.Dense(2))
    normalisation.adapt(data)
    graph = assert_same_function(ann, data)
    (image,) = graph.of(Image).values()
    assert len(image.preprocessing) == 1
    snn = convert_ann_to_snn(ann, data, "ttfs_exact", 1024, normalisation="max")
    expected = ann.predict(data, verbose=0)
    assert np.abs(snn.predict(data, verbose=0) - expected).max() < 0.02 * np.abs(expected).max()


def test_an_ordinary_normalisation_is_folded():
    normalisation = kl.Normalization(mean=[0.1, 0.5, 2.0], variance=[1.0, 0.2, 3.0])
    ann = chain((3,), normalisation, kl.Dense(4, "relu"), kl.Dense(2))
    (image,) = assert_same_function(ann, images((3,))).of(Image).values()
    assert image.preprocessing == ()


def test_augmentation_is_dropped():
    ann = chain((8, 8, 3), kl.RandomFlip(), kl.RandomRotation(0.1), kl.Conv2D(2, 3, activation="relu"), kl.Flatten(),
                kl.Dropout(0.2), kl.Dense(2))  # fmt: skip
    graph = assert_same_function(ann, images((8, 8, 3)))
    assert [row["result"].startswith("dropped") for row in graph.report[:2]] == [True, True]


def test_resizing_and_cropping_of_the_image():
    ann = chain((9, 7, 1), kl.Resizing(6, 6), kl.CenterCrop(4, 4), kl.Conv2D(2, 3, activation="relu"), kl.Flatten(),
                kl.Dense(2))  # fmt: skip
    assert_same_function(ann, images((9, 7, 1)))


# --- linear layers that chains do not draw ---


def test_layers_of_volumes_and_sequences():
    ann = chain((4, 4, 4, 1), kl.Conv3D(2, 3, padding="same", activation="relu"), kl.MaxPooling3D(2),
                kl.AveragePooling3D(2), kl.Flatten(), kl.Identity(), kl.RepeatVector(3), kl.Dense(2))  # fmt: skip
    assert_same_function(ann, images((4, 4, 4, 1)))


@pytest.mark.parametrize("layer", [kl.UpSampling2D(3, interpolation="bilinear"), kl.Resizing(7, 5),
                                   kl.Resizing(3, 9, interpolation="nearest")])  # fmt: skip
def test_resizing_between_layers_is_a_matrix(layer):
    ann = chain((4, 4, 1), kl.Conv2D(2, 3, padding="same", activation="relu"), layer, kl.Flatten(), kl.Dense(2))
    assert_same_function(ann, images((4, 4, 1)))


def test_the_matrices_of_resizing():
    """Worked out by hand: three pixels from two, centres at 1/6·…; the outer ones repeat the border."""
    np.testing.assert_allclose(bilinear(2, 3), [[1, 0], [0.5, 0.5], [0, 1]])
    np.testing.assert_allclose(bilinear(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_array_equal(nearest(2, 3), [[1, 0], [0, 1], [0, 1]])


# --- poolings ---


def test_average_then_maximum():
    """Σ_t max ≥ max Σ_t: averages ½ and ½ of the inputs (1, 0, ½, ½) have the maximum ½, by stock cells too (0.75 in
    version 0.1)."""
    pools = kl.AveragePooling2D((1, 2)), kl.MaxPooling2D((1, 2))
    ann = keras.Sequential([keras.Input((1, 4, 1)), kl.Conv2D(1, 1, activation="relu"), *pools])
    ann.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    x = np.array([1, 0, 0.5, 0.5], np.float32).reshape(1, 1, 4, 1)
    for encoding in ("ttfs_exact", "rate"):
        snn = convert_ann_to_snn(ann, x, encoding, 4, normalisation="max", per_channel=False)
        stock = np.asarray(keras.Model(snn.inputs, snn.outputs)([x])).item()
        assert stock == snn.predict(x, verbose=0).item()
        if encoding == "ttfs_exact":
            assert stock == 0.5
    assert "neurons that compute max(0, x)" in conversion_report(snn)


def test_a_maximum_of_a_concatenation_pools_the_spikes():
    """Inception: what is only moved needs no neurons; and one of negative values gets some, above their floor."""
    x = keras.Input((4, 4, 1))
    sides = [kl.Conv2D(2, 1, activation="relu")(x), kl.Conv2D(2, 3, padding="same", activation="relu")(x)]
    ann = randomise(keras.Model(x, kl.Flatten()(kl.MaxPooling2D()(kl.Concatenate()(sides)))))
    graph = assert_same_function(ann, images((4, 4, 1)))
    assert len(graph.neurons) == 2 and len(graph.of(Relay)) == 1
    ann = chain((4, 4, 1), kl.Conv2D(3, 3, padding="same"), kl.MaxPooling2D(), kl.Flatten(), kl.Dense(2))
    snn = convert_ann_to_snn(ann, images((4, 4, 1)), "ttfs_exact", 1024)
    assert list(snn.floors) == ["max_pooling2d_neurons", "max_pooling2d"] or len(snn.floors) == 2
    expected = ann.predict(images((4, 4, 1)), verbose=0)
    np.testing.assert_allclose(snn.predict(images((4, 4, 1)), verbose=0), expected, atol=0.01 * np.abs(expected).max())


# --- degenerate networks ---


def test_a_network_without_neurons():
    ann, x = chain((4,), kl.Dense(3)), images((4,))
    for encoding in ("rate", "ttfs", "ttfs_dyn_thresh", "ttfs_exact"):
        snn = convert_ann_to_snn(ann, x, encoding)
        np.testing.assert_allclose(snn.predict(x, verbose=0), ann.predict(x, verbose=0), atol=1e-5)
        simulation = snn.simulate(x, ["spike_counts", "first_spike_times", "rasters", "readouts"])
        assert simulation.spike_counts == {} and simulation.readouts.shape == (snn.timesteps, 4, 3)


@pytest.mark.parametrize("encoding", ["rate", "ttfs", "ttfs_exact"])
def test_images_of_another_size_are_refused(encoding):
    ann = chain((6, 6, 1), kl.Conv2D(2, 3, activation="relu"), kl.GlobalAveragePooling2D(), kl.Dense(2))
    snn = convert_ann_to_snn(ann, images((6, 6, 1)), encoding)
    for run in (snn, snn.simulate, lambda x: snn.predict(x, verbose=0)):
        with pytest.raises(ValueError, match="shape"):
            run(images((7, 6, 1)))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool", "float16", "float64"])
def test_images_of_any_dtype_and_without_the_channel_axis(dtype):
    ann = chain((5, 5, 1), kl.Conv2D(2, 3, activation="relu"), kl.Flatten(), kl.Dense(2))
    x = (np.random.default_rng(0).random((4, 5, 5, 1)) * 4).astype(dtype)
    snn = convert_ann_to_snn(ann, x, "ttfs_exact", 512, normalisation="max")
    expected = ann.predict(x, verbose=0)
    for given in (x, x[..., 0]):
        snn.forget_traces()  # Keras' predict itself, traced for one rank, takes no other
        np.testing.assert_allclose(snn.predict(given, verbose=0), expected, atol=0.02 * np.abs(expected).max())
        np.testing.assert_array_equal(snn.simulate(given).output, snn(given))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_under_another_policy(policy, tmp_path):
    before = keras.config.dtype_policy()
    ann = chain((5, 5, 1), kl.Conv2D(2, 3, activation="relu"), kl.Flatten(), kl.Dense(2))
    x = images((5, 5, 1))
    snn = convert_ann_to_snn(ann, x, "rate", 32)
    snn.save(tmp_path / "snn.keras")
    try:
        keras.config.set_dtype_policy(policy)
        again = keras.models.load_model(tmp_path / "snn.keras")
        np.testing.assert_array_equal(again.predict(x, verbose=0), snn.predict(x, verbose=0))
        own = chain((5, 5, 1), kl.Conv2D(2, 3, activation="relu"), kl.Flatten(), kl.Dense(2))
        expected = own.predict(x, verbose=0).astype(np.float32)
        found = convert_ann_to_snn(own, x, "ttfs_exact", 512, normalisation="max").predict(x, verbose=0)
        np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())
    finally:
        keras.config.set_dtype_policy(before)


def test_hdf5_is_refused(tmp_path):
    snn = convert_ann_to_snn(chain((4,), kl.Dense(2)), images((4,)))
    with pytest.raises(ValueError, match="[.]keras"):
        snn.save(tmp_path / "snn.h5")


def with_negative_variance():
    ann = chain((4,), kl.Dense(3), kl.BatchNormalization(), kl.ReLU(), kl.Dense(2))
    ann.layers[1].moving_variance.assign([1.0, -1.0, 1.0])
    return ann


def with_no_variance():
    ann = chain((4,), kl.Dense(3), kl.BatchNormalization(epsilon=0.0), kl.ReLU(), kl.Dense(2))
    ann.layers[1].moving_variance.assign([1.0, 0.0, 1.0])
    return ann


def quantised():
    ann = chain((4,), kl.Dense(3, activation="relu"), kl.Dense(2))
    ann.layers[0].quantize("int8")
    return ann


GIVING_NO_NUMBERS = {
    "a ceiling of 0": (lambda: chain((4,), kl.Dense(3), kl.ReLU(max_value=0.0), kl.Dense(2)), "ReLU.*max_value=0"),
    "a negative variance": (with_negative_variance, "BatchNormalization.*not finite"),
    "no variance and no epsilon": (with_no_variance, "BatchNormalization.*not finite"),
    "weights in int8": (quantised, "'dense.*Dense.*int8"),
}


@pytest.mark.parametrize("make, message", GIVING_NO_NUMBERS.values(), ids=GIVING_NO_NUMBERS)
def test_what_gives_no_numbers_is_refused_by_name(make, message):
    with pytest.raises(ConversionError, match=message):
        read(make())


@pytest.mark.parametrize("last", [kl.LayerNormalization(), kl.Lambda(lambda x: x), kl.UnitNormalization()])
def test_a_read_out_is_not_told_to_train_with_relu(last):
    with pytest.raises(ConversionError) as refusal:
        read(chain((4,), kl.Dense(3, activation="relu"), kl.Dense(2), last))
    assert last.name in str(refusal.value) and "relu" not in str(refusal.value).lower()


def test_lora_is_merged():
    ann = chain((4,), kl.Dense(5, activation="relu", name="a"), kl.Dense(2))
    ann.get_layer("a").enable_lora(2)
    for weight in ann.get_layer("a").trainable_weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    assert_same_function(ann, images((4,)))


@pytest.mark.parametrize("middle", [kl.Permute((3, 1, 2)), kl.Reshape((8, 4, 1))], ids=["Permute", "Reshape"])
def test_a_maximum_over_channels_needs_neurons(middle):
    """With λ per channel a spike of one channel is worth 8 of the other: the earliest is not the largest."""
    ann = keras.Sequential([keras.Input((4, 4, 2)), kl.Conv2D(2, 1, activation="relu"), middle, kl.MaxPooling2D(2),
                            kl.Flatten(), kl.Dense(2)])  # fmt: skip
    randomise(ann)
    ann.layers[0].set_weights([np.diag([0.5, 4.0]).reshape(1, 1, 2, 2), np.zeros(2)])
    x = images((4, 4, 2))
    assert_same_function(ann, x)
    snn = convert_ann_to_snn(ann, x, "ttfs_exact", 8, normalisation="max", per_channel=True)
    np.testing.assert_allclose(keras.Model(snn.inputs, snn.outputs)([x]), snn(x), atol=1e-4)


def test_scales_that_differ_by_position_meet_no_maximum():
    ann = chain((4, 4, 1), kl.Conv2D(2, 1, activation="relu"), kl.BatchNormalization(axis=1), kl.ZeroPadding2D(),
                kl.MaxPooling2D(2), kl.Flatten(), kl.Dense(2))  # fmt: skip
    x = images((4, 4, 1))
    assert len(assert_same_function(ann, x).neurons) == 2
    snn = convert_ann_to_snn(ann, x, "ttfs_exact", 8, normalisation="max")
    np.testing.assert_allclose(keras.Model(snn.inputs, snn.outputs)([x]), snn(x), atol=1e-4)


@pytest.mark.parametrize("layer", [kl.AveragePooling2D(2), kl.MaxPooling2D(2), kl.Resizing(2, 2), kl.Cropping2D(1)])
def test_an_activation_of_the_image_is_not_lost(layer):
    ann = chain((4, 4, 1), kl.Activation("tanh"), layer, kl.Flatten(), kl.Dense(2))
    assert len(assert_same_function(ann, 4 * images((4, 4, 1))).neurons) == 1


class Normalised(keras.Model):
    """A subclassed model with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.act, self.head = kl.Dense(4), kl.BatchNormalization(), kl.ReLU(), kl.Dense(2)

    def call(self, x, training=None):
        return self.head(self.act(self.norm(self.body(x), training=training)))


def test_a_subclassed_model_is_diagnosed():
    ann, x = Normalised(), images((3,), number=40)
    ann(x)
    assert diagnose(ann, convert_ann_to_snn(ann, x, "ttfs_exact"), x).images == 40


def test_rescaling_is_exact_in_float64():
    """Keras' own cast rounds the scale 1/127.5 to float32, 5e-10 off; the folded network has that value, too."""
    ann = keras.Sequential(
        [
            keras.Input((5,), dtype="float64"),
            kl.Rescaling(1 / 127.5, -1, dtype="float64"),
            kl.Dense(4, "relu", dtype="float64"),
            kl.Dense(3, dtype="float64"),
        ]
    )
    x = np.random.default_rng(0).uniform(0, 255, (6, 5))
    expected = np.asarray(ann(x))
    assert np.abs(np.asarray(read(ann).function("float64")(x)) - expected).max() < 1e-13 * np.abs(expected).max()

# --- TimeDistributed ---


def frames(shape, *layers):
    """A layer, or several as a nested Sequential, at three positions; then a dense read-out."""
    inner = layers[0] if len(layers) == 1 else keras.Sequential([keras.Input(shape), *layers], name="inner")
    return chain((3, *shape), kl.TimeDistributed(inner, name="each"), kl.Flatten(), kl.Dense(2))


DISTRIBUTED = {
    "Dense": ((4,), [kl.Dense(3, "relu")]),
    "Conv2D": ((6, 5, 2), [kl.Conv2D(3, (3, 2), strides=2, padding="same", activation="relu")]),
    "Conv1D, grouped, dilated": ((7, 4), [kl.Conv1D(4, 2, dilation_rate=2, groups=2, activation="relu")]),
    "row of layers": ((6, 6, 1), [kl.ZeroPadding2D(((1, 0), (0, 2))), kl.Conv2D(3, 3), kl.BatchNormalization(axis=-1),
                                  kl.ReLU(), kl.MaxPooling2D(2), kl.Cropping2D(((0, 1), (0, 0))), kl.Dropout(0.5),
                                  kl.Flatten(), kl.Dense(4, "relu", name="dense")]),
    "up": ((2, 3, 2), [kl.Conv2DTranspose(2, 2, strides=2, activation="relu"), kl.UpSampling2D(2),
                       kl.AveragePooling2D((2, 1)), kl.Permute((2, 1, 3)), kl.BatchNormalization(axis=2),
                       kl.Reshape((4, -1)), kl.SeparableConv1D(3, 3, activation="relu"), kl.UpSampling1D(2),
                       kl.DepthwiseConv1D(2), kl.Cropping1D(1), kl.ZeroPadding1D(2), kl.Conv1DTranspose(2, 2)]),
    "means of maps": ((4, 4, 2), [kl.Conv2D(3, 3, activation="relu"), kl.GlobalAveragePooling2D()]),
    "largest of a sequence": ((5, 2), [kl.Conv1D(3, 2, activation="relu"), kl.GlobalMaxPooling1D(keepdims=True)]),
}  # fmt: skip


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_time_distributed(name):
    shape, layers = DISTRIBUTED[name]
    ann = frames(shape, *(type(layer).from_config(layer.get_config()) for layer in layers))
    assert_same_function(ann, images((3, *shape)))


def test_a_distributed_layer_is_one_layer_of_neurons_with_its_name():
    ann = frames((6, 6, 1), kl.Conv2D(2, 3, activation="relu"))
    snn = convert_ann_to_snn(ann, images((3, 6, 6, 1)), "ttfs_exact", 1024, normalisation="max")
    assert snn.plan.hidden == ("each",) and snn.get_layer("each").cell.neurons_shape == (3, 4, 4, 2)
    expected = ann.predict(images((3, 6, 6, 1)), verbose=0)
    np.testing.assert_allclose(snn(images((3, 6, 6, 1))), expected, atol=0.01 * np.abs(expected).max())


def test_a_distributed_functional_model_with_a_shortcut_and_a_shared_encoder():
    """A tower with a shortcut, at every position; and the same tower once more for a single image."""
    x = image = keras.Input((4, 4, 2))
    x = kl.Conv2D(2, 3, padding="same", activation="relu", name="a")(x)
    x = kl.ReLU(name="b")(kl.Add()([kl.Conv2D(2, 1)(x), x]))
    x = kl.Concatenate(axis=3)([x, image])
    tower = keras.Model(image, kl.Dense(3, "relu", name="c")(kl.Flatten()(x)), name="tower")
    film, still = keras.Input((3, 4, 4, 2), name="film"), keras.Input((4, 4, 2), name="still")
    both = kl.Concatenate()([kl.Flatten()(kl.TimeDistributed(tower)(film)), tower(still)])
    ann = randomise(keras.Model([film, still], kl.Dense(2)(both)))
    graph = assert_same_function(ann, [images((3, 4, 4, 2)), images((4, 4, 2), seed=1)])
    assert len(graph.neurons) == 6


@pytest.mark.parametrize(
    "layer, parts",
    [
        (kl.LSTM(2), ["'each' (TimeDistributed)", "TimeDistributed of LSTM"]),
        (kl.Conv1D(2, 2, padding="causal"), ["'each'", "padding='causal'", "ZeroPadding1D"]),
        (kl.DepthwiseConv1D(2, strides=2), ["'each'", "DepthwiseConv1D with strides=(2,)"]),
        (kl.LayerNormalization(), ["'each'", "TimeDistributed of LayerNormalization"]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_does_not_convert_is_refused_in_time_distributed_too(layer, parts):
    layer = type(layer).from_config(layer.get_config())
    with pytest.raises(ConversionError) as refusal:
        read(frames((6, 3), layer))
    assert [part for part in parts if part not in str(refusal.value)] == [], str(refusal.value)
