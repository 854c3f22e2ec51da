"""Statistics: by hand on a tiny network, against full rasters for every code, and connections against Jacobians."""

import json
import math
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import spiking
from conversion import convert_ann_to_snn, read, snn_activation_analysis
from spiking import rate
from spiking.analysis.operations import EffectiveMacs, connections, fan_out
from spiking.analysis.statistics import analyse
from spiking.folding.linear import Diagonal
from spiking.network.inputs import ConstantCurrent
from spiking.network.layers import SpikingRNN
from spiking.network.model import connect
from spiking.network.records import RASTERS

W1 = np.array([[1, 0.5], [0, 0.25]])
W2 = np.array([[1, 1, -1], [0, 2, 0]])
IMAGES = np.array([[0.5, 0], [0, 1], [1, 1]], np.float32)
LABELS = np.array([1, 0, 1])


def dense(kernel):
    layer = kl.Dense(kernel.shape[1], use_bias=False)
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel])
    return layer


def two_layers(hidden, scores):
    """2 inputs, neurons (θ = 1) and a read-out behind these synapses, T = 4, no biases."""
    layers = {
        "input_spikes": ConstantCurrent(4, name="input_spikes"),
        "hidden": SpikingRNN(rate.LifNeuronCell(hidden, bias=None), name="hidden"),
        "scores": SpikingRNN(rate.IntegratorNeuronCell(scores, bias=None), return_sequences=False, name="scores"),
    }
    wiring = {"input_spikes": ["images"], "hidden": ["input_spikes"], "scores": ["hidden"]}
    inputs = keras.Input((2,), name="images")
    return connect(inputs, layers, wiring, "scores", encoding=rate.ENCODING.configured(4), scales={"hidden": 1.0})


@pytest.fixture(scope="module")
def tiny():
    """2 inputs, 2 neurons, 3 classes."""
    return two_layers([dense(W1)], [dense(W2)])


@pytest.fixture(scope="module")
def by_hand(tiny):
    # Currents z = x·W1, and the spikes they give at θ = 1 in 4 steps:
    #   image (0.5, 0): z = (0.5, 0.25): neuron 0 fires at 2 and 4, neuron 1 at 4
    #   image (0, 1):   z = (0, 0.25):   neuron 0 is silent,        neuron 1 at 4
    #   image (1, 1):   z = (1, 0.75):   neuron 0 at 1, 2, 3, 4,    neuron 1 at 2, 3, 4
    # Counts 2 1 | 0 1 | 4 3, first spikes 2 4 | – 4 | 1 2.
    return snn_activation_analysis(tiny, IMAGES, LABELS, batch_size=2)


def test_spikes_by_hand(by_hand):
    (layer,) = by_hand.layers
    assert (layer.name, layer.neurons, layer.holds_neurons) == ("hidden", 2, True)
    assert (by_hand.samples, by_hand.timesteps, by_hand.input_spikes) == (3, 4, 0)
    assert layer.spike_count_histogram.tolist() == [1, 2, 1, 1, 1]
    assert layer.first_spike_time_histogram.tolist() == [1, 1, 2, 0, 2]
    assert math.isclose(layer.spike_mean, 11 / 6)
    assert math.isclose(layer.spike_var, 31 / 6 - (11 / 6) ** 2)
    assert math.isclose(layer.first_spike_time_mean, 13 / 5)
    assert math.isclose(layer.first_spike_time_var, 41 / 5 - (13 / 5) ** 2)
    assert math.isclose(layer.silent_share, 1 / 6)
    assert math.isclose(layer.saturated_share, 1 / 6)  # only neuron 0 on image 2 fires in every step
    assert math.isclose(by_hand.spikes_per_neuron, 11 / 6)
    assert math.isclose(by_hand.activation_sparsity, 1 - 11 / 24)


def test_costs_by_hand(by_hand):
    # Nonzero weights per row: W1 2 and 1, W2 3 and 1. Neuron 0 spikes 6 times on 3 images, neuron 1 5 times.
    operations = (6 * 3 + 5 * 1) / 3
    assert math.isclose(by_hand.synaptic_operations, operations)
    assert math.isclose(by_hand.layers[0].synaptic_operations, operations)
    # Pixels that are not 0: the first on images 0 and 2, the second on images 1 and 2.
    assert math.isclose(by_hand.macs, (2 * 2 + 2 * 1) / 3)
    assert by_hand.ann_macs == 4 + 6
    assert math.isclose(by_hand.connection_sparsity, 3 / 10)
    assert by_hand.neuron_updates == (2 + 3) * 4
    assert math.isclose(by_hand.ann_energy, 10 * 4.6e-12)
    assert math.isclose(by_hand.snn_energy, 2 * 4.6e-12 + operations * 0.9e-12)
    # 10 weights; the state for one image is 2 potentials, then 3 potentials and a clock; 4 bytes each.
    assert by_hand.footprint == 4 * (10 + 2 + 3 + 1)


def test_accuracy_by_hand(by_hand):
    # Largest score at steps 1…4 (the first class on ties): image 0: 0 0 0 1; image 1: 0 0 0 1; image 2: 0 1 1 1.
    assert np.allclose(by_hand.accuracy_per_timestep, [1 / 3, 2 / 3, 2 / 3, 2 / 3], atol=1e-15)
    assert math.isclose(by_hand.accuracy, 2 / 3)


def test_without_labels(tiny, by_hand):
    unlabelled = snn_activation_analysis(tiny, IMAGES)
    assert unlabelled.accuracy is None and unlabelled.accuracy_per_timestep is None
    expected, actual = by_hand.to_dict(), unlabelled.to_dict()
    for key in ("accuracy", "accuracy_per_timestep"):
        expected.pop(key), actual.pop(key)
    assert actual == expected


def test_datasets_with_and_without_labels(tiny, by_hand):
    pairs = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(2)
    assert snn_activation_analysis(tiny, pairs).to_dict() == by_hand.to_dict()
    alone = tf.data.Dataset.from_tensor_slices(IMAGES).batch(2)
    assert snn_activation_analysis(tiny, alone).accuracy is None


def test_silent_layer_is_json(tiny):
    result = snn_activation_analysis(tiny, np.zeros((2, 2), np.float32))
    layer = result.layers[0]
    assert math.isnan(layer.first_spike_time_mean) and layer.silent_share == 1 and layer.spike_mean == 0
    read = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert read == result.to_dict()
    assert read["layers"][0]["first_spike_time_mean"] is None
    assert read["layers"][0]["spike_count_histogram"] == [4, 0, 0, 0, 0]


def test_no_image_is_an_error(tiny):
    with pytest.raises(ValueError, match="at least one image. Received: none"):
        analyse(tiny, [])


def test_memory_does_not_grow_with_the_number_of_images(tiny):
    def peak(batches):
        images = np.ones((1000, 2), np.float32)
        tracemalloc.start()
        analyse(tiny, ((images, None) for _ in range(batches)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)  # compiles
    # Keeping the counts alone of 38 more batches would be 38 · 1000 · 2 · 4 bytes = 304 kB.
    assert peak(40) - peak(2) < 50_000


@pytest.fixture(scope="module")
def ann():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((9, 9, 2)),
            kl.Conv2D(4, 3, padding="same", activation="relu", name="first"),
            kl.MaxPooling2D(2, name="pooled"),
            kl.Conv2D(5, 3, strides=2, padding="same", activation="relu", name="second"),
            kl.AveragePooling2D(2),
            kl.Flatten(),
            kl.Dense(6, activation="relu", name="third"),
            kl.Dense(3, activation="softmax", name="scores"),
        ]
    )
    kernel, bias = model.get_layer("second").get_weights()
    kernel[:, 0, 1] = 0  # connections that do not exist
    model.get_layer("second").set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 1, (12, 9, 9, 2)).astype(np.float32)


def nonzero_jacobian(layers, shape):
    """Nonzero entries of the Jacobian of a linear chain, per input."""
    x = tf.random.stateless_uniform((1, *shape), (1, 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = x
        for layer in layers:
            y = layer(y)
        y = tf.reshape(y, [-1])
    jacobian = tape.jacobian(y, x).numpy()[:, 0]
    return np.sum(jacobian != 0, axis=0)


@pytest.mark.parametrize("encoding", spiking.ENCODINGS)
def test_against_rasters(ann, images, encoding):
    snn = convert_ann_to_snn(ann, images, encoding, timesteps=12)
    result = snn_activation_analysis(snn, images, batch_size=5)
    rasters = [raster.numpy() for raster in snn.simulate(images, (RASTERS,)).rasters.values()]
    receivers = [snn.get_layer(name).cell.synapse_layers for name in ("pooled", "second", "third", "scores")]
    spikes_of_neurons, operations = 0, 0.0
    for layer, statistics, raster, receiver in zip(snn.hidden_layers, result.layers, rasters, receivers, strict=True):
        counts = raster.sum(axis=0)
        times = np.where(counts > 0, raster.argmax(axis=0) + 1, 0)
        assert statistics.neurons == raster[0, 0].size
        assert statistics.holds_neurons == (statistics.name != "pooled")
        assert statistics.spike_count_histogram.tolist() == [np.sum(counts == k) for k in range(snn.timesteps + 1)]
        assert statistics.first_spike_time_histogram.tolist() == [np.sum(times == t) for t in range(snn.timesteps + 1)]
        assert math.isclose(statistics.spike_mean, counts.mean(), rel_tol=1e-6)
        assert math.isclose(statistics.spike_var, counts.var(dtype=np.float64), rel_tol=1e-9, abs_tol=1e-12)
        assert statistics.silent_share == np.mean(counts == 0)
        # A relay's spikes count when they enter the next kernel; spikes that enter the pooling cost nothing.
        pooled_next = statistics.name == "first"
        reached = np.zeros(raster.shape[2:]) if pooled_next else nonzero_jacobian(receiver, counts.shape[1:])
        expected = float((raster * reached).sum(dtype=np.float64)) / len(images)
        assert math.isclose(statistics.synaptic_operations, expected, rel_tol=1e-12, abs_tol=1e-12)
        operations += expected
        spikes_of_neurons += counts.sum() if layer.cell.holds_neurons else 0
    assert spikes_of_neurons > 0
    assert math.isclose(result.synaptic_operations, operations, rel_tol=1e-12)
    neurons = 9 * 9 * 4 + 2 * 2 * 5 + 6
    assert math.isclose(result.spikes_per_neuron, spikes_of_neurons / len(images) / neurons, rel_tol=1e-6)
    assert result.neuron_updates == (neurons + 3) * snn.timesteps


@pytest.mark.parametrize("signed, most", [(True, 1), (False, 4), (True, 4)])
def test_what_is_not_one_binary_spike_is_counted_as_such(ann, images, signed, most):
    """Against rasters: every spike counts, negative ones are additions, several in a step a multiplication."""
    snn = convert_ann_to_snn(ann, images, timesteps=8, signed=signed, max_spikes=most)
    binary = snn_activation_analysis(convert_ann_to_snn(ann, images, timesteps=8), images)
    result = snn_activation_analysis(snn, images, batch_size=5)
    rasters = [raster.numpy() for raster in snn.simulate(images, (RASTERS,)).rasters.values()]
    receivers = [snn.get_layer(name).cell.synapse_layers for name in ("pooled", "second", "third", "scores")]
    operations = 0.0
    for statistics, raster, receiver in zip(result.layers, rasters, receivers, strict=True):
        sent, messages = np.abs(raster).sum(axis=0), (raster != 0).sum(axis=0)
        assert statistics.spike_count_histogram.tolist() == [np.sum(sent == k) for k in range(8 * most + 1)]
        assert math.isclose(statistics.negative_mean, (raster < 0).sum() / raster[0].size, rel_tol=1e-9)
        assert math.isclose(statistics.message_mean, messages.mean(dtype=np.float64), rel_tol=1e-9)
        assert statistics.saturated_share == np.mean(raster.sum(axis=0) == 8 * most)
        pooled_next = statistics.name == "first"
        reached = np.zeros(raster.shape[2:]) if pooled_next else nonzero_jacobian(receiver, raster.shape[2:])
        expected = float(((sent if most == 1 else messages) * reached).sum(dtype=np.float64)) / len(images)
        assert math.isclose(statistics.synaptic_operations, expected, rel_tol=1e-12)
        operations += expected
    assert (result.negative_spikes_per_neuron > 0) == signed
    assert (result.messages_per_neuron < result.spikes_per_neuron) == (most > 1)
    assert math.isclose(result.activation_sparsity, 1 - result.messages_per_neuron / 8, rel_tol=1e-12)
    if most == 1:
        assert math.isclose(result.synaptic_operations, operations, rel_tol=1e-12) and result.macs == binary.macs
    else:
        assert result.synaptic_operations == 0
        assert math.isclose(result.macs - binary.macs, operations, rel_tol=1e-9)


def test_macs_of_the_ann_by_formula(ann, images):
    result = snn_activation_analysis(convert_ann_to_snn(ann, images, timesteps=2), images)
    # Rows (and columns) of the kernel that lie on the image, over all positions of the output:
    # 9 positions of 3, the outermost two cut to 2: 25; stride 2 on 4 with "same" padding (0, 1): 3 and 2: 5.
    # The Dense layers: 20/4 averages to 6, 6 to 3. Zero weights count.
    assert result.ann_macs == 25**2 * 2 * 4 + 5**2 * 4 * 5 + 5 * 6 + 6 * 3
    # All pixels are positive, so the first layer meets every connection; no weight of it is zero.
    assert result.macs == 25**2 * 2 * 4
    assert result.connection_sparsity == 3 * 5 / (72 + 180 + 30 + 18)


def test_saturated_share_of_single_spikes(ann, images):
    """A code that tells by the time of one spike is saturated at its earliest step; from rasters, not from names."""
    snn = convert_ann_to_snn(ann, images, "ttfs", timesteps=12, threshold=0.25)
    first = snn.simulate(images, (RASTERS,)).rasters["first"].numpy()
    share = snn_activation_analysis(snn, images).layers[0].saturated_share
    assert share == first[0].mean(dtype=np.float64) > 0


def test_input_spikes(ann, images):
    snn = convert_ann_to_snn(ann, images, timesteps=8, input_coding="poisson")
    result = snn_activation_analysis(snn, images, batch_size=7)
    (coding,) = snn.plan.inputs.values()
    spikes = coding(images).numpy()
    assert result.input_spikes == spikes.sum() / len(images) > 0
    assert result.macs == 0
    reached = nonzero_jacobian(snn.get_layer("first").cell.synapse_layers, (9, 9, 2))
    expected = (spikes * reached).sum() / len(images) + sum(layer.synaptic_operations for layer in result.layers)
    assert math.isclose(result.synaptic_operations, expected, rel_tol=1e-7)


CHAINS = {
    "dense": ([kl.Dense(4)], (5,)),
    "conv same strides": ([kl.Conv2D(3, 3, strides=2, padding="same")], (6, 7, 2)),
    "conv dilated": ([kl.Conv2D(3, 3, dilation_rate=2)], (7, 8, 2)),
    "conv groups": ([kl.Conv2D(4, 3, groups=2, padding="same")], (5, 5, 4)),
    "conv 1d": ([kl.Conv1D(3, 4, strides=2)], (9, 2)),
    "depthwise": ([kl.DepthwiseConv2D(3, depth_multiplier=2, padding="same")], (5, 5, 2)),
    "transpose": ([kl.Conv2DTranspose(2, 3, strides=2)], (3, 4, 2)),
    "zero padding, conv": ([kl.ZeroPadding2D(1), kl.Conv2D(2, 3)], (4, 4, 2)),
    "average pooling, flatten, dense": ([kl.AveragePooling2D(2), kl.Flatten(), kl.Dense(3)], (5, 4, 2)),
    "average pooling same": ([kl.AveragePooling2D(2, padding="same"), kl.Conv2D(2, 1)], (5, 4, 3)),
    "average pooling 1d": ([kl.AveragePooling1D(3), kl.Conv1D(2, 2)], (7, 2)),
    "global average pooling": ([kl.GlobalAveragePooling2D(), kl.Dense(3)], (4, 3, 2)),
    "global, keepdims": ([kl.GlobalAveragePooling2D(keepdims=True), kl.Conv2D(3, 1)], (4, 3, 2)),
    "diagonal": ([kl.Flatten(), Diagonal(), kl.Dense(3)], (2, 2, 2)),
    "upsampling": ([kl.UpSampling2D(2), kl.Conv2D(2, 1)], (2, 3, 2)),
}


def built(layers, shape):
    """Fresh copies with random weights, a third of them zero."""
    rng, result, at = np.random.default_rng(1), [], (None, *shape)
    for layer in layers:
        config = layer.get_config() | ({"use_bias": False} if "use_bias" in layer.get_config() else {})
        layer = type(layer).from_config(config)
        layer.build(at)
        at = layer.compute_output_shape(at)
        if not isinstance(layer, Diagonal):
            layer.set_weights([rng.normal(size=w.shape) * (rng.random(w.shape) > 1 / 3) for w in layer.weights])
        result.append(layer)
    return result


@pytest.mark.parametrize("name", CHAINS)
def test_fan_out_counts_nonzero_connections(name):
    layers, shape = CHAINS[name]
    layers = built(layers, shape)
    reached = fan_out(layers, shape)
    assert reached.shape == shape
    assert np.array_equal(reached, nonzero_jacobian(layers, shape))
    for layer in layers:
        if not isinstance(layer, Diagonal):
            layer.set_weights([np.ones(w.shape) for w in layer.weights])
    everything = nonzero_jacobian(layers, shape)
    assert np.array_equal(fan_out(built(CHAINS[name][0], shape), shape, dense=True), everything)
    assert everything.sum() > reached.sum() > 0


def test_second_kernels_count_as_macs_in_every_step():
    separable = built([kl.SeparableConv2D(4, 3, depth_multiplier=2)], (5, 5, 2))
    # First kernel: each input channel 2 filters of 3 × 3 at 9 positions; then 4 · 4 pointwise weights at each.
    assert connections(separable, (5, 5, 2), dense=True) == [9 * 9 * 2 * 2, 9 * 4 * 4]
    reached = fan_out(separable, (5, 5, 2), dense=True)
    assert reached[2, 2].tolist() == [9 * 2, 9 * 2] and reached[0, 0].tolist() == [2, 2]
    pair = [dense(W1), dense(W2)]
    assert connections(pair, (2,)) == [3, 4] and fan_out(pair, (2,)).tolist() == [2, 1]

    result = snn_activation_analysis(two_layers([dense(np.eye(2))], pair), np.ones((1, 2), np.float32))
    # Both neurons fire in all 4 steps; the second kernel of the read-out is dense, W2 has 4 weights that are not 0.
    assert result.synaptic_operations == 4 * (2 + 1)
    assert result.macs == 2 + 4 * 4
    assert result.ann_macs == 4 + 4 + 6


def test_a_synapse_without_kernel_costs_nothing():
    assert fan_out([kl.Flatten()], (2, 3)).tolist() == np.zeros((2, 3)).tolist()
    assert connections([], (2, 3)) == []


def test_effective_macs_of_the_ann_by_hand():
    """Convolution on 1 × 4 pixels, average pooling, dense: zero pixels, activations and weights are skipped."""
    ann = keras.Sequential(
        [
            keras.Input((1, 4, 1)),
            kl.Conv2D(2, (1, 2), activation="relu", name="conv"),
            kl.AveragePooling2D((1, 3), name="pool"),
            kl.Flatten(name="flat"),
            kl.Dense(3, activation="relu", name="dense"),
            kl.Dense(2, name="scores"),
        ]
    )
    ann.get_layer("conv").set_weights([np.array([[1, -1], [1, 0]]).reshape(1, 2, 1, 2), np.zeros(2)])
    ann.get_layer("dense").set_weights([np.array([[1, -1, 0], [1, 1, 1]]), np.zeros(3)])
    ann.get_layer("scores").set_weights([np.array([[1, 0], [1, 1], [1, 1]]), np.zeros(2)])
    images = np.array([[1, 0, 0, 2], [0, 3, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 0]], np.float32).reshape(4, 1, 4, 1)
    # The kernel holds (1, 1) for channel 0 and (−1, 0) for channel 1, at 3 positions. A pixel is the left one of a
    # position, 2 weights that are not 0, and the right one of another, 1 weight: the four reach 2, 3, 3 and 1 weights.
    #   image 1: pixels 0 and 3: 3. Channel 0 is active at its ends, channel 1 (−1, 0, 0) nowhere: pooled (1, 0);
    #            the dense layer sees one input with 2 weights; it gives (1, 0, 0), whose first neuron has 1 weight.
    #   image 2: pixel 1: 3. Channel 0 is (3, 3, 0), channel 1 nowhere: 2, then 1.
    #   image 3: pixel 0: 2. Channel 0 is nowhere, channel 1 (1, 0, 0): pooled (0, 1/3); 3 weights; (1, 1, 1)/3: 5.
    #   image 4: nothing.
    effective = [3 + 2 + 1, 3 + 2 + 1, 2 + 3 + 5, 0]
    for images_seen, expected in ((images[:1], effective[:1]), (images[2:3], effective[2:3]), (images, effective)):
        counter = EffectiveMacs(read(ann))
        counter.update(images_seen)
        assert counter.total() == sum(expected)
    snn = convert_ann_to_snn(ann, np.abs(images), timesteps=4)
    result = snn_activation_analysis(snn, images, batch_size=3, ann=ann)
    assert result.ann_effective_macs == sum(effective) / 4
    assert result.ann_macs == 3 * 2 * 2 + 2 * 3 + 3 * 2
    assert snn_activation_analysis(snn, images).ann_effective_macs is None


def test_effective_macs_skip_what_relu_silences(ann, images):
    """Against the Jacobians: the nonzero inputs of each kernel times the weights that they meet."""
    folded = read(ann)
    counter = EffectiveMacs(folded)
    for part in np.array_split(images, 3):
        counter.update(part)
    given, expected = folded.function(every_node=True)(images), 0
    for node in folded.nodes.values():
        chain = [layer for edge in node.edges for layer in edge.chain.layers("float32")]
        kernel = next((n for n, layer in enumerate(chain) if layer.weights), None)
        if kernel is not None:
            values = np.asarray(given[node.edge.source])
            for layer in chain[:kernel]:
                values = np.asarray(layer(values))
            expected += np.sum((values != 0) * nonzero_jacobian(chain[kernel : kernel + 1], values.shape[1:]))
    assert counter.total() == expected
