"""What every encoding promises (DESIGN 2), on every kind of network: one suite over the table `spiking.ENCODINGS`.

The networks are dyadic: weights are multiples of 2^-6, images of 1/8. Their arithmetic is exact, so "the same" means
equal, bit by bit. `test_random_networks_agree_by_class` does without that and counts classes.
"""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import dyadic, randomise
from keras import layers as kl

import spiking
from conversion import conversion_report, convert_ann_to_snn
from spiking.network.records import FIRST_SPIKE_TIMES, RASTERS, READOUTS, RECORDS, SPIKE_COUNTS
from spiking.windows import WindowEncoding

ROOT = Path(__file__).parents[2]
ENCODINGS = list(spiking.ENCODINGS)
# Codes in windows have a closed form; the others are stepped by the clock.
CLOCKED = [name for name, code in spiking.ENCODINGS.items() if not isinstance(code, WindowEncoding)]
KINDS = ["dense", "conv", "max_pool", "same", "avg_pool"]
# Small times and thresholds, so that all layers are busy; a code that is not named here takes T = 16 and its own θ.
SETTINGS = {
    "ttfs": {"timesteps": 24, "threshold": 2.0},
    "ttfs_dyn_thresh": {"timesteps": 24, "threshold": 2.0},
    "ttfs_clamped": {"timesteps": 24, "threshold": 2.0},
    "radix": {"timesteps": 4},
}
# Further settings of the codes, each tried on one network.
VARIANTS = [
    ("rate", {"input_coding": "poisson", "max_rate": 0.5, "seed": 3}),
    ("rate", {"initial_potential": 0.0}),
    ("rate", {"reset": "zero", "threshold": 2.0}),
    ("rate", {"readout_delay": 4}),
    ("rate", {"signed": True}),
    ("rate", {"max_spikes": 4}),
    ("rate", {"signed": True, "max_spikes": 2, "readout_delay": 3}),
    ("ttfs_exact", {"input_coding": "spikes"}),
    ("radix", {"input_coding": "spikes", "threshold": 0.5}),
]


def build(kind, encoding):
    """A small ANN of each kind; the clamped code has its own rectifier."""

    def rectifier():
        return kl.ReLU(threshold=0.25) if encoding == "ttfs_clamped" else kl.ReLU()

    chains = {
        "dense": lambda: [kl.Dense(7), rectifier(), kl.Dense(5), rectifier()],
        "conv": lambda: [kl.Conv2D(3, 3), rectifier(), kl.Conv2D(4, 2, strides=2), rectifier(), kl.Flatten()],
        "max_pool": lambda: [
            kl.Conv2D(4, 3), rectifier(), kl.MaxPooling2D(2), kl.Conv2D(3, 2), rectifier(), kl.Flatten(),
        ],
        # a BatchNorm behind the ReLU shifts what is then padded by zeros: the next bias is a map
        "same": lambda: [
            kl.Conv2D(3, 3, padding="same"), rectifier(), kl.BatchNormalization(),
            kl.Conv2D(3, 3, strides=2, padding="same"), rectifier(), kl.Flatten(),
        ],
        "avg_pool": lambda: [kl.Conv2D(4, 3), rectifier(), kl.AveragePooling2D(2), kl.Flatten()],
    }  # fmt: skip
    shape = (6,) if kind == "dense" else (6, 6, 2)
    return centre(randomise(keras.Sequential([keras.Input(shape), *chains[kind](), kl.Dense(3)]), seed=5))


def centre(ann):
    """Shifts the biases so that every channel is positive on some images and negative on others."""
    x = some_images(ann.input_shape[1:], 40, seed=2)
    for layer in ann.layers:
        if hasattr(layer, "kernel"):
            values = np.asarray(layer(x))
            layer.bias.assign_sub(values.mean(axis=tuple(range(values.ndim - 1))))
        x = layer(x)
    return ann


def some_images(shape, number=7, seed=1):
    return dyadic(np.random.default_rng(seed).random((number, *shape)), 3).astype(np.float32)


def convert(ann, encoding, **options):
    settings = {**SETTINGS.get(encoding, {"timesteps": 16}), **options}
    return convert_ann_to_snn(ann, some_images(ann.input_shape[1:], 40, seed=2), encoding, **settings)


def make_dyadic(snn):
    """Rounds all weights to multiples of 2^-6; what was positive throughout (a ceiling, a threshold) stays so."""
    for weight in snn.weights:
        value = np.asarray(weight)
        rounded = dyadic(value, 6)
        weight.assign(np.maximum(rounded, 2.0**-6) if np.all(value > 0) else rounded)
    return snn


def stock_stack(snn):
    """The reference: the same layers run one after another by Keras itself."""
    return keras.Model(snn.input, snn.output)


def copy_of(snn):
    copied = type(snn).from_config(snn.get_config())
    copied.set_weights(snn.get_weights())
    return copied


CACHE = {}


def case(encoding, kind):
    """The network, converted once: ann, snn (dyadic), images, and what it records of them."""
    if (encoding, kind) not in CACHE:
        ann = build(kind, encoding)
        snn = make_dyadic(convert(ann, encoding))
        images = some_images(ann.input_shape[1:])
        CACHE[encoding, kind] = SimpleNamespace(
            encoding=encoding, kind=kind, ann=ann, snn=snn, images=images, recorded=snn.simulate(images, RECORDS)
        )
    return CACHE[encoding, kind]


@pytest.fixture(params=[(e, k) for e in ENCODINGS for k in KINDS], ids=lambda p: f"{p[0]}-{p[1]}", scope="module")
def net(request):
    return case(*request.param)


@pytest.fixture(params=ENCODINGS, scope="module")
def pooling_net(request):
    return case(request.param, "max_pool")


# --- structure ---


def test_is_a_keras_model_that_mirrors_the_ann(net):
    snn, ann = net.snn, net.ann
    assert isinstance(snn, keras.Model) and not snn.compiled
    assert snn.input_shape == ann.input_shape and snn.output_shape == ann.output_shape
    assert all(isinstance(layer, keras.layers.RNN) for layer in snn.layers[2:])
    names = [layer.name for layer in ann.layers if isinstance(layer, kl.Conv2D | kl.Dense | kl.MaxPooling2D)]
    assert [layer.name for layer in snn.layers[2:]] == names == [*snn.plan.hidden, *snn.plan.read_outs]
    snn.summary(print_fn=lambda *args, **kwargs: None)


def test_report_has_a_row_for_each_ann_layer(net):
    assert [(row["layer"], row["type"]) for row in net.snn.report] == [
        (layer.name, type(layer).__name__) for layer in net.ann.layers
    ]
    assert all(row["result"] for row in net.snn.report)
    printed = conversion_report(net.snn)
    assert all(layer.name in printed for layer in net.ann.layers)


def test_padding_and_a_shift_make_the_bias_a_map():
    # Converted without rounding: at the border the folded bias differs from that in the middle.
    second = convert(build("same", "rate"), "rate").hidden_layers[1].cell
    assert second.bias_kind == "map" and second.bias.shape == (3, 3, 3)
    assert np.ptp(np.asarray(second.bias), axis=(0, 1)).min() > 1e-3


def test_layers_are_busy(net):
    """The other tests mean something only if neurons of all layers spike, and not all of them."""
    for counts in net.recorded.spike_counts.values():
        assert 0 < np.mean(counts.numpy() > 0) < 1


# --- the fast way gives the same ---


def test_stock_stack_equals_simulate(net):
    stock = stock_stack(net.snn)(net.images).numpy()
    np.testing.assert_array_equal(stock, net.recorded.output.numpy())
    np.testing.assert_array_equal(stock, net.snn(net.images).numpy())


def test_stock_stack_spikes_equal_rasters(net):
    assert list(net.recorded.rasters) == [layer.name for layer in net.snn.layers[2:-1]]
    x = net.snn.layers[1](net.images)
    for layer, raster in zip(net.snn.layers[2:-1], net.recorded.rasters.values(), strict=True):
        x = layer(x)
        spikes = np.moveaxis(np.asarray(x), 1, 0)
        if spikes.ndim > len(raster.shape):  # a second stream beside the spikes, on a trailing axis
            spikes = spikes[..., 0]
        np.testing.assert_array_equal(spikes, raster.numpy())


@pytest.mark.parametrize("encoding, options", VARIANTS, ids=lambda p: str(p))
def test_variants_equal_the_stock_stack(encoding, options):
    snn = make_dyadic(convert(build("max_pool", encoding), encoding, **options))
    images = some_images(snn.input_shape[1:])
    recorded = snn.simulate(images, (SPIKE_COUNTS,))
    np.testing.assert_array_equal(stock_stack(snn)(images).numpy(), recorded.output.numpy())
    np.testing.assert_array_equal(snn(images[2:3]).numpy(), recorded.output.numpy()[2:3])
    assert all(counts.numpy().any() for counts in recorded.spike_counts.values())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", ["dense", "max_pool"])
def test_random_networks_agree_by_class(encoding, kind):
    snn = convert(build(kind, encoding), encoding)
    images = np.random.default_rng(3).random((1000, *snn.input_shape[1:])).astype(np.float32)
    loop, stock = snn(images).numpy(), stock_stack(snn)(images).numpy()
    alone = np.concatenate([snn(part).numpy() for part in np.array_split(images, 3)])
    assert len(np.unique(loop.argmax(-1))) > 1
    for other in (stock, alone):
        share = np.mean(loop.argmax(-1) == other.argmax(-1))
        assert share >= 0.999, f"the same class on {share:.2%} of the images"


# --- state, batches, determinism ---


def test_two_calls_are_equal(net):
    again = net.snn.simulate(net.images, RECORDS)
    for a, b in zip(tf.nest.flatten(net.recorded), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_stock_layers_start_from_the_initial_state_in_each_call(pooling_net):
    stock = stock_stack(pooling_net.snn)
    first = stock(pooling_net.images).numpy()
    stock(pooling_net.images[::-1])
    np.testing.assert_array_equal(stock(pooling_net.images).numpy(), first)


def test_a_sample_does_not_depend_on_its_batch(net):
    for chosen in ([4], [6, 4, 0]):
        part = net.snn.simulate(net.images[chosen], (RASTERS,))
        np.testing.assert_array_equal(part.output.numpy(), net.recorded.output.numpy()[chosen])
        for name, whole in net.recorded.rasters.items():
            np.testing.assert_array_equal(part.rasters[name].numpy(), whole.numpy()[:, chosen])


def test_predict_with_an_uneven_last_batch(net):
    scores = net.snn.predict(net.images, batch_size=3, verbose=0)
    np.testing.assert_array_equal(scores, net.recorded.output.numpy())


# --- what passes between layers, and what is recorded of it ---


def test_shapes_of_records(net):
    steps, images = net.snn.timesteps, len(net.images)
    shapes = {layer.name: tuple(layer.cell.neurons_shape) for layer in net.snn.hidden_layers}
    recorded = net.recorded
    assert recorded.output.shape == (images, 3)
    assert recorded.readouts.shape == (steps, images, 3)
    for values, leading in (
        (recorded.rasters, (steps, images)),
        (recorded.spike_counts, (images,)),
        (recorded.first_spike_times, (images,)),
        (recorded.activities, (images,)),
    ):
        assert {name: each.shape for name, each in values.items()} == {n: leading + s for n, s in shapes.items()}
        assert list(values) == list(shapes)


def test_records_agree_with_the_rasters(net):
    recorded = net.recorded
    np.testing.assert_array_equal(recorded.readouts.numpy()[-1], recorded.output.numpy())
    assert list(recorded.rasters) == list(recorded.spike_counts) == list(recorded.first_spike_times)
    for name, raster in recorded.rasters.items():
        raster = raster.numpy()
        assert set(np.unique(raster)) == {0, 1}
        np.testing.assert_array_equal(recorded.spike_counts[name].numpy(), raster.sum(axis=0))
        first = np.where(raster.any(axis=0), raster.argmax(axis=0) + 1, 0)
        np.testing.assert_array_equal(recorded.first_spike_times[name].numpy(), first)


def test_time_to_first_spike_neurons_spike_once_at_most(net):
    most = max(counts.numpy().max() for counts in net.recorded.spike_counts.values())
    assert most == 1 if net.encoding.startswith("ttfs") else most > 1


def test_only_what_was_asked_for_is_recorded(pooling_net):
    simulation = pooling_net.snn.simulate(pooling_net.images, (FIRST_SPIKE_TIMES,))
    assert simulation.spike_counts == {} and simulation.rasters == {} and simulation.readouts == ()
    assert list(simulation.first_spike_times) == list(pooling_net.recorded.first_spike_times)
    for name, times in pooling_net.recorded.first_spike_times.items():
        np.testing.assert_array_equal(simulation.first_spike_times[name].numpy(), times.numpy())


@pytest.mark.parametrize("record", [("spikes",), "spikes", ("rasters", "voltage")])
def test_unknown_records_are_refused(record):
    net = case("rate", "dense")
    with pytest.raises(ValueError, match="record="):
        net.snn.simulate(net.images, record)


def test_one_record_by_its_name_alone():
    net = case("rate", "dense")
    np.testing.assert_array_equal(net.snn.simulate(net.images, READOUTS).readouts, net.recorded.readouts)


# --- saving ---


def assert_same_network(again, snn):
    assert again.report == snn.report and again.encoding == snn.encoding
    assert again.scales == snn.scales and again.floors == snn.floors and again.calibration == snn.calibration
    assert again.wiring == snn.wiring and again.input_range == snn.input_range
    assert [layer.name for layer in again.layers] == [layer.name for layer in snn.layers]


def test_saved_and_loaded_is_equal(net, tmp_path):
    net.snn.save(tmp_path / "snn.keras")
    again = keras.models.load_model(tmp_path / "snn.keras")
    assert_same_network(again, net.snn)
    assert not again.compiled
    np.testing.assert_array_equal(again(net.images).numpy(), net.recorded.output.numpy())


def test_config_round_trip_is_equal(pooling_net):
    copied = copy_of(pooling_net.snn)
    assert_same_network(copied, pooling_net.snn)
    np.testing.assert_array_equal(copied(pooling_net.images).numpy(), pooling_net.recorded.output.numpy())


def test_config_is_plain_data(pooling_net):
    # Keras tracks lists and dicts set on a model; a deep copy of one copies the model's variables with it.
    config = pooling_net.snn.get_config()["description"]
    assert type(config["report"]) is list and type(config["report"][0]) is dict
    assert type(config["encoding"]) is dict and type(config["scales"]) is dict and type(config["wiring"]) is dict


def test_loads_in_another_process_after_import_spiking_alone(tmp_path):
    for encoding in ENCODINGS:
        net = case(encoding, "max_pool")
        net.snn.save(tmp_path / f"{encoding}.keras")
        np.savez(tmp_path / f"{encoding}.npz", x=net.images, y=net.recorded.output.numpy())
    code = (
        "import pathlib, sys, numpy as np, tensorflow as tf, spiking\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('*.keras')):\n"
        "    data = np.load(path.with_suffix('.npz'))\n"
        "    model = tf.keras.models.load_model(path)\n"
        "    assert model.report and np.array_equal(model.predict(data['x'], verbose=0), data['y']), path\n"
        "    print(path.stem)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == sorted(ENCODINGS)


# --- training ---


def labels_of(images):
    return np.arange(len(images)) % 3


def test_compile_and_evaluate(pooling_net):
    snn, images = copy_of(pooling_net.snn), pooling_net.images
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    snn.compile(loss=loss, metrics=["accuracy"])
    value, accuracy = snn.evaluate(images, labels_of(images), batch_size=4, verbose=0)
    scores = pooling_net.recorded.output.numpy()
    assert accuracy == pytest.approx(np.mean(scores.argmax(-1) == labels_of(images)))
    assert value == pytest.approx(float(loss(labels_of(images), scores)), rel=1e-5)


def test_fine_tuning_reaches_all_weights(pooling_net):
    # A step function alone has no derivative: behind the first layer of spikes all gradients would be zero.
    snn, images = copy_of(pooling_net.snn), pooling_net.images
    before = [np.asarray(weight) for weight in snn.trainable_weights]
    assert len(before) >= 4
    snn.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    snn.fit(images, labels_of(images), batch_size=len(images), epochs=1, verbose=0)
    for weight, old in zip(snn.trainable_weights, before, strict=True):
        new = np.asarray(weight)
        assert np.all(np.isfinite(new)), weight.path
        assert np.any(new != old), weight.path
    np.testing.assert_allclose(snn(images).numpy(), stock_stack(snn)(images).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoding", CLOCKED)
def test_gradients_of_loop_and_stock_stack_agree(encoding):
    # A closed form has a gradient of its own (straight through its rounding); the loop has that of the cells.
    net = case(encoding, "max_pool")
    snn, images = net.snn, tf.constant(net.images)
    gradients = []
    for run in (snn, stock_stack(snn)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(run(images, training=True)))
        gradients.append(tape.gradient(loss, snn.trainable_weights))
    for a, b, weight in zip(*gradients, snn.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max(), err_msg=weight.path)
        assert np.any(a != 0), weight.path


# --- precision ---


def test_mixed_precision_keeps_the_state(pooling_net, mixed_float16):
    snn = make_dyadic(convert(pooling_net.ann, pooling_net.encoding))
    for layer in snn.layers[2:]:
        assert {state.dtype.name for state in tf.nest.flatten(layer.cell.get_initial_state(2))} == {"float32"}
    # images in eighths are exact in float16, everything behind them is float32
    recorded = snn.simulate(pooling_net.images, (RASTERS,))
    assert list(recorded.rasters) == list(pooling_net.recorded.rasters)
    for name, expected in pooling_net.recorded.rasters.items():
        np.testing.assert_array_equal(recorded.rasters[name].numpy(), expected.numpy())
    np.testing.assert_array_equal(recorded.output.numpy(), pooling_net.recorded.output.numpy())
    np.testing.assert_array_equal(stock_stack(snn)(pooling_net.images).numpy(), recorded.output.numpy())


def test_float64(pooling_net, float64, tmp_path):
    snn = make_dyadic(convert(pooling_net.ann, pooling_net.encoding))
    for layer in snn.layers[2:]:
        assert {state.dtype.name for state in tf.nest.flatten(layer.cell.get_initial_state(2))} == {"float64"}
    output = snn(pooling_net.images)
    assert output.dtype == tf.float64
    np.testing.assert_allclose(output.numpy(), pooling_net.recorded.output.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(stock_stack(snn)(pooling_net.images).numpy(), output.numpy())
    snn.save(tmp_path / "snn.keras")
    again = keras.models.load_model(tmp_path / "snn.keras")
    np.testing.assert_array_equal(again(pooling_net.images).numpy(), output.numpy())
