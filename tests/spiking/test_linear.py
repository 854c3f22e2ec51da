"""Scales travelling through synapses: whatever a chain does with them, the function must come out scaled, no more."""

import tracemalloc

import keras
import numpy as np
import pytest
from keras import layers as kl

from spiking.folding.chain import Chain, Link
from spiking.folding.linear import (
    LINEAR,
    AveragePooling3DFloat64,
    Diagonal,
    Interpolation,
    Pick,
    apply,
    channel_vector,
    compact,
    copy_layer,
)

# For each linear layer type: (input shape, constructor). Odd shapes on purpose.
CASES = {
    kl.Dense: [((4,), lambda: kl.Dense(3)), ((2, 5, 4), lambda: kl.Dense(3))],
    kl.Conv1D: [
        ((9, 4), lambda: kl.Conv1D(6, 3, strides=2, padding="same")),
        ((9, 4), lambda: kl.Conv1D(6, 3, dilation_rate=2, groups=2)),
        ((9, 4), lambda: kl.Conv1D(6, 3, dilation_rate=2, padding="causal")),
    ],
    kl.Conv2D: [
        ((6, 5, 4), lambda: kl.Conv2D(3, 3)),
        ((6, 5, 4), lambda: kl.Conv2D(3, (3, 2), strides=2, padding="same")),
        ((6, 5, 4), lambda: kl.Conv2D(3, 2, dilation_rate=2, padding="same")),
        ((6, 5, 4), lambda: kl.Conv2D(6, 3, groups=2)),
        ((6, 5, 4), lambda: kl.Conv2D(3, 3, use_bias=False)),
    ],
    kl.Conv3D: [((4, 5, 3, 2), lambda: kl.Conv3D(3, 2, padding="same")), ((4, 5, 3, 2), lambda: kl.Conv3D(3, 2))],
    kl.Conv1DTranspose: [((5, 3), lambda: kl.Conv1DTranspose(2, 3, strides=2, padding="same"))],
    kl.Conv2DTranspose: [
        ((4, 3, 3), lambda: kl.Conv2DTranspose(2, 3, strides=2)),
        ((4, 3, 3), lambda: kl.Conv2DTranspose(2, 3, strides=2, padding="same")),
    ],
    kl.Conv3DTranspose: [((3, 2, 3, 2), lambda: kl.Conv3DTranspose(3, 2, strides=2))],
    kl.DepthwiseConv1D: [((7, 3), lambda: kl.DepthwiseConv1D(3, depth_multiplier=2, padding="same"))],
    kl.DepthwiseConv2D: [
        ((6, 5, 3), lambda: kl.DepthwiseConv2D(3)),
        ((6, 5, 3), lambda: kl.DepthwiseConv2D(3, depth_multiplier=2, padding="same")),
        ((6, 6, 3), lambda: kl.DepthwiseConv2D(3, strides=2, depth_multiplier=3)),
        ((6, 5, 3), lambda: kl.DepthwiseConv2D(2, dilation_rate=2)),
    ],
    kl.SeparableConv1D: [((7, 3), lambda: kl.SeparableConv1D(4, 3, depth_multiplier=2))],
    kl.SeparableConv2D: [
        ((6, 5, 3), lambda: kl.SeparableConv2D(4, 3, padding="same")),
        ((6, 6, 3), lambda: kl.SeparableConv2D(2, 3, strides=2, depth_multiplier=2)),
    ],
    kl.Flatten: [((3, 2, 2), lambda: kl.Flatten())],
    kl.Reshape: [((3, 2, 2), lambda: kl.Reshape((2, 6))), ((12,), lambda: kl.Reshape((3, -1)))],
    kl.Permute: [((3, 2, 4), lambda: kl.Permute((3, 1, 2)))],
    kl.RepeatVector: [((3,), lambda: kl.RepeatVector(4))],
    Pick: [
        ((5, 4, 3), lambda: Pick([(1, None, 2), (None, None, None), (0, 2, None)])),
        ((6,), lambda: Pick([(4, 1, -1)])),
    ],
    Interpolation: [((3, 2, 2), lambda: Interpolation([[1, 0, 0], [0, 0.25, 0.75]], [[0.5, 0.5], [0, 1], [2, -1]]))],
    kl.Cropping1D: [((6, 2), lambda: kl.Cropping1D((1, 2)))],
    kl.Cropping2D: [((6, 5, 2), lambda: kl.Cropping2D(((1, 2), (0, 1))))],
    kl.Cropping3D: [((4, 4, 4, 2), lambda: kl.Cropping3D(1))],
    kl.UpSampling1D: [((3, 2), lambda: kl.UpSampling1D(2))],
    kl.UpSampling2D: [
        ((3, 2, 2), lambda: kl.UpSampling2D((2, 3))),
    ],
    kl.UpSampling3D: [((2, 2, 2, 2), lambda: kl.UpSampling3D(2))],
    kl.ZeroPadding1D: [((4, 2), lambda: kl.ZeroPadding1D((1, 2)))],
    kl.ZeroPadding2D: [((3, 4, 2), lambda: kl.ZeroPadding2D(((1, 0), (2, 1))))],
    kl.ZeroPadding3D: [((2, 3, 2, 2), lambda: kl.ZeroPadding3D(1))],
    kl.AveragePooling1D: [((7, 2), lambda: kl.AveragePooling1D(3, strides=2, padding="same"))],
    kl.AveragePooling2D: [
        ((5, 6, 2), lambda: kl.AveragePooling2D(2)),
        ((5, 6, 2), lambda: kl.AveragePooling2D(3, strides=2, padding="same")),
    ],
    AveragePooling3DFloat64: [
        ((4, 3, 5, 2), lambda: AveragePooling3DFloat64(2)),
        ((4, 3, 5, 2), lambda: AveragePooling3DFloat64((2, 3, 2), strides=(1, 2, 3), padding="same")),
    ],
    kl.GlobalAveragePooling1D: [((5, 3), lambda: kl.GlobalAveragePooling1D())],
    kl.GlobalAveragePooling2D: [
        ((4, 5, 3), lambda: kl.GlobalAveragePooling2D()),
        ((4, 5, 3), lambda: kl.GlobalAveragePooling2D(keepdims=True)),
    ],
    kl.GlobalAveragePooling3D: [((2, 3, 2, 3), lambda: kl.GlobalAveragePooling3D())],
}
# Diagonals are made by the chains themselves; Keras' own pooling does not compute in float64. Both are tested below.
TABLE = [kind for kind in LINEAR if kind not in (Diagonal, kl.AveragePooling3D)]
PARAMETERS = [(kind, number) for kind in TABLE for number in range(len(CASES.get(kind, [None])))]
SCALES = ["one", "uniform", "channels", "map"]


def random_scale(form, shape, rng):
    if form == "one":
        return np.ones(shape)
    if form == "uniform":
        return np.full(shape, 0.7)
    per_channel = rng.uniform(0.3, 2, shape[-1]) * rng.choice([-1, 1], shape[-1])
    return np.broadcast_to(per_channel, shape).copy() if form == "channels" else rng.uniform(0.3, 2, shape)


def build(layers, shape, rng):
    """Layers built in float64 one after another, with random weights, biases included."""
    for layer in layers:
        layer.build((None, *shape))
        layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
        shape = tuple(layer.compute_output_shape((None, *shape)))[1:]
    return layers


def chain_of(layers, shape):
    chain = Chain(shape)
    for layer in layers:
        chain = chain.append(layer)
    return chain


def value(chain, x):
    return apply(chain.layers("float64"), x) + chain.bias


def assert_scaled(chain, layers, in_scale, rng):
    """`rescaled(λ_in, λ_out)` is x ↦ f(λ_in·x)/λ_out for each form of λ_out."""
    x = rng.normal(size=chain.input_shape)
    target = apply(layers, in_scale * x)
    for form in SCALES:
        out_scale = random_scale(form, chain.shape, rng)
        rescaled = chain.rescaled(in_scale, out_scale)
        expected = target / out_scale
        assert rescaled.shape == target.shape
        np.testing.assert_allclose(value(rescaled, x), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        assert rescaled.scale is None


@pytest.fixture
def float64_policy(float64):
    """Layers of these tests are float64."""


def test_cases_cover_the_table():
    missing = [kind.__name__ for kind in TABLE if kind not in CASES]
    assert not missing, f"linear layers without a case here: {missing}"


@pytest.mark.parametrize("form", SCALES)
@pytest.mark.parametrize("kind, number", PARAMETERS, ids=lambda p: getattr(p, "__name__", str(p)))
def test_rescaled_equals_the_scaled_function(kind, number, form, float64_policy):
    rng = np.random.default_rng(0)
    shape, make = CASES[kind][number]
    layers = build([make()], shape, rng)
    chain = chain_of(layers, shape)
    x = rng.normal(size=shape)
    np.testing.assert_allclose(value(chain, x), apply(layers, x), rtol=0, atol=1e-12)
    assert_scaled(chain, layers, random_scale(form, shape, rng), rng)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_average_pooling_of_volumes_in_float64(padding):
    """As Keras computes it in float32, and to float64's digits in a chain: planes, rows and columns differ."""
    layer = kl.AveragePooling3D((2, 3, 2), strides=(1, 2, 3), padding=padding)
    layer.build((None, 4, 3, 5, 2))
    x = np.random.default_rng(0).normal(size=(4, 3, 5, 2))
    chain = Chain((4, 3, 5, 2)).append(layer)
    np.testing.assert_allclose(value(chain, x), layer(x[None].astype("f"))[0], rtol=0, atol=1e-6)
    assert value(chain, x)[0, 0, 0, 0] == pytest.approx(expected_corner(x, padding), rel=1e-14)


def expected_corner(x, padding):
    """Mean over the first window: "same" pads (1, 2, 0) in all, (0, 1, 0) of it in front."""
    return x[:2, : 2 if padding == "same" else 3, :2, 0].mean()


CHAINS = {
    "lenet": ((6, 6, 3), lambda: [kl.AveragePooling2D(2), kl.Flatten(), kl.Dense(4)]),
    "padded": ((4, 4, 3), lambda: [kl.ZeroPadding2D(1), kl.Conv2D(2, 3), kl.Cropping2D(1), kl.Flatten()]),
    "two kernels": ((5, 5, 2), lambda: [kl.DepthwiseConv2D(2), kl.Conv2D(4, 1), kl.GlobalAveragePooling2D()]),
    "turned": ((3, 4, 2), lambda: [kl.Permute((2, 3, 1)), kl.Conv2D(2, 2), kl.Reshape((-1,)), kl.Dense(2)]),
    "grown": ((3, 3, 2), lambda: [kl.UpSampling2D(2), kl.Conv2D(2, 3, padding="same"), kl.AveragePooling2D(3)]),
    "nothing": ((3, 2), lambda: []),
    "pool only": ((4, 4, 2), lambda: [kl.AveragePooling2D(2)]),
}


@pytest.mark.parametrize("form", SCALES)
@pytest.mark.parametrize("name", CHAINS)
def test_chains_rescaled(name, form, float64_policy):
    rng = np.random.default_rng(1)
    shape, make = CHAINS[name]
    layers = build(make(), shape, rng)
    assert_scaled(chain_of(layers, shape), layers, random_scale(form, shape, rng), rng)


@pytest.mark.parametrize("name", CHAINS)
def test_rescaling_twice_is_rescaling_by_the_product(name, float64_policy):
    # λ's multiply, also where a diagonal layer had to be left
    rng = np.random.default_rng(2)
    shape, make = CHAINS[name]
    chain = chain_of(build(make(), shape, rng), shape)
    a, b = (random_scale("map", shape, rng) for _ in range(2))
    c, d = (random_scale("map", chain.shape, rng) for _ in range(2))
    x = rng.normal(size=shape)
    once, twice = chain.rescaled(a * b, c * d), chain.rescaled(a, c).rescaled(b, d)
    np.testing.assert_allclose(value(twice, x), value(once, x), rtol=0, atol=1e-12 * np.abs(value(once, x)).max())


def test_a_chain_stays_as_it_is(float64_policy):
    rng = np.random.default_rng(3)
    chain = chain_of(build([kl.Conv2D(3, 2), kl.Flatten(), kl.Dense(2)], (4, 4, 2), rng), (4, 4, 2))
    x = rng.normal(size=(4, 4, 2))
    before = value(chain, x)
    chain.rescaled(np.full((4, 4, 2), 3.0), np.full(2, 5.0))
    chain.append(build([kl.Dense(3)], chain.shape, rng)[0]), chain.affine(2.0, 1.0), chain.multiplied(3.0)
    np.testing.assert_array_equal(value(chain, x), before)


@pytest.mark.parametrize("name", ["lenet", "padded", "two kernels", "grown"])
def test_channel_scales_need_no_layer_of_their_own(name, float64_policy):
    rng = np.random.default_rng(4)
    shape, make = CHAINS[name]
    layers = build(make(), shape, rng)
    chain = chain_of(layers, shape).rescaled(random_scale("channels", shape, rng), np.full(1, 0.3))
    assert [type(layer) for layer in chain.layers("float64")] == [type(layer) for layer in layers]


@pytest.mark.parametrize(
    "shape, make, form",
    [
        ((4, 4, 2), lambda: [kl.Conv2D(3, 2)], "map"),  # a kernel shares its weights over the positions
        ((4, 4, 2), lambda: [kl.AveragePooling2D(2)], "map"),
        ((4, 4, 2), lambda: [kl.Flatten()], "channels"),  # no kernel at all
        ((4,), lambda: [], "channels"),
    ],
)
def test_what_nothing_absorbs_stays_a_diagonal_layer(shape, make, form, float64_policy):
    rng = np.random.default_rng(5)
    layers = build(make(), shape, rng)
    chain = chain_of(layers, shape).rescaled(random_scale(form, shape, rng), np.ones(1))
    assert sum(isinstance(layer, Diagonal) for layer in chain.layers("float64")) == 1
    assert len(chain.layers("float64")) == len(layers) + 1


def test_a_flattened_map_is_absorbed_by_a_dense_kernel(float64_policy):
    rng = np.random.default_rng(6)
    layers = build([kl.Flatten(), kl.Dense(3)], (2, 3, 2), rng)
    chain = chain_of(layers, (2, 3, 2)).rescaled(random_scale("map", (2, 3, 2), rng), np.ones(3))
    assert [type(layer) for layer in chain.layers("float64")] == [kl.Flatten, kl.Dense]


# --- affine maps in front of and behind synapses (BatchNorm) ---


@pytest.mark.parametrize("padding, kind", [("same", "map"), ("valid", "vector")])
def test_a_shift_in_front_of_a_convolution_is_exact_at_the_border(padding, kind, float64_policy):
    rng = np.random.default_rng(7)
    layers = build([kl.Conv2D(3, 3, padding=padding)], (5, 4, 2), rng)
    scale, shift = random_scale("channels", (5, 4, 2), rng), random_scale("channels", (5, 4, 2), rng)
    chain = Chain((5, 4, 2)).affine(scale, shift).append(layers[0])
    x = rng.normal(size=(5, 4, 2))
    expected = apply(layers, scale * x + shift)
    np.testing.assert_allclose(value(chain, x), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    found, bias = chain.compact_bias()
    assert found == kind or np.ptp(chain.bias, axis=(0, 1)).max() < 1e-12 and kind == "vector"
    whole = np.broadcast_to(chain.bias, chain.shape)
    np.testing.assert_allclose(np.broadcast_to(bias, chain.shape), whole, atol=1e-12)


def test_affine_behind_a_synapse_with_zeros_in_the_scale(float64_policy):
    rng = np.random.default_rng(8)
    layers = build([kl.DepthwiseConv2D(2, depth_multiplier=2)], (4, 4, 2), rng)
    scale, shift = np.array([1.5, 0, -0.5, 2]), np.array([0.25, -1, 0, 3])
    chain = chain_of(layers, (4, 4, 2)).affine(scale, shift)
    x = rng.normal(size=(4, 4, 2))
    np.testing.assert_allclose(value(chain, x), scale * apply(layers, x) + shift, rtol=0, atol=1e-12)
    assert np.all(value(chain, x)[..., 1] == -1)


def test_no_bias_at_all(float64_policy):
    layers = build([kl.Dense(2, use_bias=False)], (3,), np.random.default_rng(0))
    assert chain_of(layers, (3,)).compact_bias()[0] is None


def test_compact():
    # [[1, 2], [1, 2]] changes along its last axis alone; constant maps become a single number
    assert compact(np.array([[1.0, 2.0], [1.0, 2.0]])).tolist() == [[1, 2]]
    assert compact(np.array([[1.0, 1.0], [2.0, 2.0]])).tolist() == [[1], [2]]
    assert compact(np.full((3, 2, 4), 0.7)).tolist() == [[[0.7]]]
    assert compact(np.array([[1.0, 2.0], [1.0, 3.0]])).tolist() == [[1, 2], [1, 3]]


def test_maps_stay_small(float64_policy):
    """A uniform scale of a large map is one number, a scale per channel one axis, wherever it travels."""
    chain = chain_of(build([kl.AveragePooling2D(2)], (40, 40, 3), np.random.default_rng(0)), (40, 40, 3))
    uniform = chain.rescaled(np.full((40, 40, 3), 2.0), np.full((20, 20, 3), 4.0))
    assert [link.scale.shape for link in uniform.links if link.scale is not None] == [(1, 1, 1)]
    channels = chain.affine([1.0, 2.0, 3.0], np.broadcast_to([0.0, 1.0, 2.0], (20, 20, 3)))
    assert channels.scale.shape == channels.bias.shape == (1, 1, 3)


def test_channel_vector():
    assert channel_vector(np.array([[1.0, 2.0], [1.0, 2.0]]), 2).tolist() == [1, 2]
    assert channel_vector(np.array([[1.0, 2.0], [1.0, 3.0]]), 2) is None
    assert channel_vector(np.array([1.0, 2.0]), 2).tolist() == [1, 2]
    assert channel_vector(np.array([[3.0]]), 2).tolist() == [3, 3]


def test_copies_have_their_own_weights_in_the_wanted_type():
    layer = kl.Conv2D(2, 3, kernel_regularizer="l2", bias_constraint="non_neg")
    layer.build((None, 4, 4, 1))
    copied = copy_layer(layer, (4, 4, 1), "float64")
    assert copied.compute_dtype == "float64" and copied.kernel.dtype == "float64"
    assert copied.kernel_regularizer is None and copied.bias_constraint is None
    np.testing.assert_array_equal(copied.kernel, layer.kernel)
    copied.kernel.assign_add(keras.ops.ones_like(copied.kernel))
    assert not np.any(np.asarray(copied.kernel) == np.asarray(layer.kernel))


def test_a_scale_and_its_inverse_leave_no_layer():
    scale = np.array([0.1, 0.3, 0.7, 49.0])
    assert np.any(scale * (1 / scale) != 1)  # rounding
    assert Chain((4,)).rescaled(scale, scale).identity
    assert not Chain((4,)).rescaled(scale, scale * (1 + 1e-12)).identity


def test_a_kernel_is_rescaled_without_further_copies():
    """Of 2 million weights, one copy in float64, 8 bytes each, and one in float32: VGG-16 has 103 million in one."""
    layer = kl.Dense(1000)
    layer.build((None, 2000))
    before = layer.kernel.numpy().copy()
    link = Link.of(layer, (2000,)).scaled_inward(np.full(2000, 2.0)).scaled_outward(np.full(1000, 3.0))
    tracemalloc.start()
    built = link.built("float32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 13 * before.size
    np.testing.assert_array_equal(built.kernel, 6 * before)
    np.testing.assert_array_equal(layer.kernel, before)
