"""No switch changes a result: what is recorded, training, batch sizes, XLA, stock Keras, reduced precision.

The networks are dyadic and T is a power of two, so "the same" means equal, bit by bit. Two of them have a single layer
of neurons: there the clock-driven codes need no loop.
"""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import dyadic, randomise
from contract_networks import centre, make_dyadic, some_images, stock_stack
from keras import layers as kl
from test_contract import CLOCKED, ENCODINGS, copy_of

import spiking
from conversion import convert_ann_to_snn
from spiking import rate
from spiking.network.precision import reduce_precision
from spiking.network.records import (
    FIRST_SPIKE_TIMES,
    MESSAGES,
    RASTERS,
    READOUTS,
    RECORDS,
    SPIKE_COUNTS,
    SPIKES_SENT,
)

RECORD_SETS = [(SPIKE_COUNTS,), (FIRST_SPIKE_TIMES,), (SPIKE_COUNTS, FIRST_SPIKE_TIMES), (READOUTS,), (RASTERS,)]
KINDS = ["single", "single_pool", "pool_first"]
STEPS = 16


def build(kind, encoding):
    """One layer of neurons; one with max pooling behind it; the same with a second layer."""

    def rectifier():
        return kl.ReLU(threshold=0.25) if encoding == "ttfs_clamped" else kl.ReLU()

    chains = {
        "single": lambda: [kl.Flatten(), kl.Dense(7), rectifier()],
        "single_pool": lambda: [kl.Conv2D(4, 3), rectifier(), kl.MaxPooling2D(2), kl.Flatten()],
        "pool_first": lambda: [
            kl.Conv2D(4, 3), rectifier(), kl.MaxPooling2D(2), kl.Conv2D(3, 2), rectifier(), kl.Flatten(),
        ],
    }  # fmt: skip
    return centre(randomise(keras.Sequential([keras.Input((6, 6, 2)), *chains[kind](), kl.Dense(3)]), seed=5))


CACHE = {}


def case(encoding, kind):
    """The network, converted once; its images; and everything it records of them, every cell stepped."""
    if (encoding, kind) not in CACHE:
        ann = build(kind, encoding)
        threshold = {} if encoding in ("rate", "ttfs_exact") else {"threshold": 2.0}
        snn = convert_ann_to_snn(ann, some_images((6, 6, 2), 40, seed=2), encoding, timesteps=STEPS, **threshold)
        images = some_images((6, 6, 2))
        recorded = make_dyadic(snn).simulate(images, RECORDS)
        CACHE[encoding, kind] = SimpleNamespace(snn=snn, images=images, recorded=recorded)
    return CACHE[encoding, kind]


@pytest.fixture(params=[(e, k) for e in ENCODINGS for k in KINDS], ids=lambda p: f"{p[0]}-{p[1]}", scope="module")
def net(request):
    return case(*request.param)


@pytest.fixture(params=ENCODINGS, scope="module")
def deep(request):
    return case(request.param, "pool_first")


def assert_equal(found, expected):
    """Everything that was recorded, and the output."""
    np.testing.assert_array_equal(found.output.numpy(), expected.output.numpy())
    if not isinstance(found.readouts, tuple):
        np.testing.assert_array_equal(found.readouts.numpy(), expected.readouts.numpy())
    for record in (SPIKE_COUNTS, FIRST_SPIKE_TIMES, RASTERS, SPIKES_SENT, MESSAGES):
        values, wanted = getattr(found, record), getattr(expected, record)
        assert list(values) in ([], list(wanted))
        for name, value in values.items():
            np.testing.assert_array_equal(value.numpy(), wanted[name].numpy(), err_msg=f"{record} of {name}")


def test_networks_are_busy(net):
    counts = list(net.recorded.spike_counts.values())[-1].numpy()
    assert 0.05 < np.mean(counts > 0) < 1


def test_stock_stack(net):
    np.testing.assert_array_equal(stock_stack(net.snn)(net.images).numpy(), net.recorded.output.numpy())


@pytest.mark.parametrize("record", RECORD_SETS, ids="+".join)
def test_what_is_recorded(net, record):
    found = net.snn.simulate(net.images, record)
    assert all(len(getattr(found, name)) for name in record)
    assert_equal(found, net.recorded)


def test_nothing_recorded_and_training(net):
    assert_equal(net.snn.simulate(net.images), net.recorded)
    assert_equal(net.snn.simulate(net.images, training=True), net.recorded)


def test_batch_sizes_and_predict(net):
    expected = net.recorded.output.numpy()
    for size in (1, 3, 7):
        np.testing.assert_array_equal(net.snn.predict(net.images, batch_size=size, verbose=0), expected)


def test_unequal_batches_do_not_retrace(deep):
    snn = copy_of(deep.snn)
    for size in (4, 3, 1, 7, 2):
        snn.simulate(deep.images[:size])
    (function,) = snn._traced.simulations.values()
    # the first shape, then one trace for any batch
    assert function.experimental_get_tracing_count() == 2


def test_xla(deep):
    compiled = tf.function(deep.snn, jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(deep.images)).numpy(), deep.recorded.output.numpy())


@pytest.mark.parametrize(
    "settings",
    [{"signed": True}, {"max_spikes": 4}, {"signed": True, "max_spikes": 2}, {"signed": True, "readout_delay": 3}],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_negative_and_several_spikes(kind, settings):
    ann, images = build(kind, "rate"), some_images((6, 6, 2))
    snn = make_dyadic(convert_ann_to_snn(ann, some_images((6, 6, 2), 40, seed=2), timesteps=STEPS, **settings))
    if kind != "single":  # some channels are pooled to their smallest count
        next(layer.cell for layer in snn.hidden_layers if not layer.cell.holds_neurons).sign = (1.0, -1.0, 1.0, -1.0)
    expected = snn.simulate(images, RECORDS)
    for record in (*RECORD_SETS, (SPIKES_SENT,), (MESSAGES,), (SPIKE_COUNTS, SPIKES_SENT, MESSAGES), ()):
        assert_equal(snn.simulate(images, record), expected)
    assert_equal(snn.simulate(images, training=True), expected)
    np.testing.assert_array_equal(stock_stack(snn)(images).numpy(), expected.output.numpy())
    for name, raster in expected.rasters.items():
        raster = raster.numpy()
        np.testing.assert_array_equal(expected.spike_counts[name].numpy(), raster.sum(axis=0))
        np.testing.assert_array_equal(expected.spikes_sent[name].numpy(), np.abs(raster).sum(axis=0))
        np.testing.assert_array_equal(expected.messages[name].numpy(), (raster != 0).sum(axis=0))
        first = np.where((raster > 0).any(axis=0), (raster > 0).argmax(axis=0) + 1, 0)
        np.testing.assert_array_equal(expected.first_spike_times[name].numpy(), first)
        assert raster.max() == settings.get("max_spikes", 1)
    assert (raster.min() < 0) == (kind == "pool_first" and "signed" in settings)


def coarse(snn):
    """Weights in eighths: every sum of them in these networks has at most eight bits, and is exact in bfloat16."""
    snn = copy_of(snn)
    for weight in snn.weights:
        weight.assign(dyadic(np.asarray(weight), 3))
    return snn


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("encoding", CLOCKED)
def test_reduced_precision_where_it_is_exact(encoding, dtype):
    snn, images = coarse(case(encoding, "pool_first").snn), case(encoding, "pool_first").images
    expected = snn.simulate(images, RECORDS)
    reduce_precision(snn, dtype)
    assert_equal(snn.simulate(images, RECORDS), expected)
    assert_equal(snn.simulate(images), expected)


def test_reduced_precision_rounds_and_can_be_taken_back(tmp_path):
    snn, images = copy_of(case("rate", "pool_first").snn), case("rate", "pool_first").images
    (hidden,) = [layer for layer in snn.hidden_layers[1:] if layer.cell.synapse_layers]
    (kernel,) = hidden.cell.synapse_layers[-1].weights
    kernel.assign(kernel + 2.0**-12)  # more bits than bfloat16 has
    expected = snn.simulate(images, (RASTERS,)).output.numpy()
    snn.predict(images, verbose=0)
    reduce_precision(snn)
    spikes = np.ones((1, *snn.hidden_layers[1].cell.neurons_shape), np.float32)
    assert np.any(hidden.cell.synapse(spikes).numpy() * 2.0**12 % 2 == 0)
    assert hidden.cell.synapse_layers[-1].compute_dtype == "bfloat16" and hidden.cell.compute_dtype == "float32"
    snn.save(tmp_path / "snn.keras")
    again = keras.models.load_model(tmp_path / "snn.keras")
    assert again.get_layer(hidden.name).cell.synapse_layers[-1].compute_dtype == "bfloat16"
    np.testing.assert_array_equal(again.predict(images, verbose=0), snn.predict(images, verbose=0))
    reduce_precision(snn, None)
    np.testing.assert_array_equal(snn.simulate(images, (RASTERS,)).output.numpy(), expected)


def test_reduced_precision_refuses_other_dtypes():
    with pytest.raises(ValueError, match="bfloat16.*Received: dtype='int8'"):
        reduce_precision(case("rate", "pool_first").snn, "int8")


def two_neurons(encoding, **settings):
    """A neuron of weight 1 without bias, and a read-out of weight 2 and bias 0.5."""
    ann = keras.Sequential([keras.Input((1,)), kl.Dense(1, activation="relu"), kl.Dense(1)])
    ann.set_weights([np.ones((1, 1)), np.ones(1), np.ones((1, 1)), np.ones(1)])
    snn = convert_ann_to_snn(ann, np.ones((4, 1), np.float32), encoding, **settings)
    for layer, weight, bias in zip(snn.layers[2:], (1.0, 2.0), (0.0, 0.5), strict=True):
        layer.cell.synapse_layers[0].kernel.assign([[weight]])
        layer.cell.bias.assign([bias])
    return snn


def test_closed_form_of_one_layer_by_hand():
    # Drive 5/16 for 10 steps at threshold 1: spikes at 4, 7, 10. Output (3·2 + 10·0.5)/10 = 1.1.
    snn = two_neurons("rate", timesteps=10, initial_potential=0.0)
    found = snn.simulate(np.array([[0.3125]], np.float32), (SPIKE_COUNTS, FIRST_SPIKE_TIMES))
    assert found.output.numpy().item() == pytest.approx(1.1, rel=1e-6)
    (counts,), (times,) = found.spike_counts.values(), found.first_spike_times.values()
    assert counts.numpy().item() == 3 and times.numpy().item() == 4


@pytest.mark.parametrize("encoding", CLOCKED)
def test_closed_form_differs_from_the_loop_by_rounding_alone(encoding):
    """Any weights: where the spike trains differ, a potential came within 1e-5·θ of the threshold at that step."""
    ann = randomise(keras.Sequential([keras.Input((30,)), kl.Dense(400, "relu"), kl.Dense(3)]), seed=1)
    images = np.random.default_rng(0).random((200, 30), np.float32)
    threshold = 1.0 if encoding == "rate" else 12.5
    snn = convert_ann_to_snn(ann, images, encoding, timesteps=100, threshold=threshold)
    (counts,), (times,), (raster,) = (
        getattr(snn.simulate(images, [what]), what).values() for what in (SPIKE_COUNTS, FIRST_SPIKE_TIMES, RASTERS)
    )
    (hidden,) = snn.hidden_layers
    raster = np.asarray(raster)
    current = images @ hidden.cell.synapse_layers[-1].kernel.numpy() + hidden.cell.bias.numpy()
    assert np.mean(np.asarray(counts) > 0) > 0.3  # the network is busy
    stepped = np.where(raster.any(axis=0), raster.argmax(axis=0) + 1, 101)
    closed = np.where(np.asarray(times) > 0, np.asarray(times), 101)
    apart = stepped != closed
    earlier = np.minimum(stepped, closed)[apart]
    start = threshold * snn.encoding.get_config().get("initial_potential", 0.0)
    np.testing.assert_allclose(start + earlier * current[apart].astype(np.float64), threshold, rtol=1e-5)
    assert np.mean(apart) < 1e-3
    if encoding == "rate":  # the count is ⌊V(0) + 100·current⌋ (θ = 1), but for potentials at a whole number
        unequal = raster.sum(axis=0) != np.asarray(counts)
        potential = start + 100 * current[unequal].astype(np.float64)
        np.testing.assert_allclose(potential, np.rint(potential), rtol=1e-5)


def test_evidence_of_a_single_spike_by_hand():
    # Drive 1 for 8 steps at threshold 3: one spike at 3, whose current 2 is on for 6 steps: (6·2 + 8·0.5)/8 = 2.
    snn = two_neurons("ttfs", timesteps=8, threshold=3.0)
    assert snn.simulate(np.ones((1, 1), np.float32)).output.numpy().item() == 2


@pytest.mark.parametrize("pooled", [False, True])
def test_a_subclass_with_another_step_is_stepped(pooled):
    """Closed forms belong to the `step` they were written for."""

    class Silenced(rate.LifNeuronCellConv2D):
        def step(self, current, state):
            spikes, state = super().step(current, state)
            return 0 * spikes, state

    class Quiet(rate.Rate):
        name = "silenced"
        neuron_conv2d = Silenced

    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 1, activation="relu", kernel_initializer="ones")]
    layers += [keras.layers.MaxPooling2D(2)] if pooled else []
    ann = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(2)])
    spiking.ENCODINGS["silenced"] = Quiet()
    try:
        snn = convert_ann_to_snn(ann, np.ones((2, 4, 4, 1), "f"), "silenced", 5)
        counts = snn.simulate(np.ones((2, 4, 4, 1), "f"), ["spike_counts"]).spike_counts.values()
    finally:
        del spiking.ENCODINGS["silenced"]
    assert all(not np.any(each) for each in counts)
