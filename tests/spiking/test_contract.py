"""What every encoding promises (DESIGN 2), on every kind of network: one suite over the table `spiking.ENCODINGS`.

The networks are dyadic: weights are multiples of 2^-6, images of 1/8. Their arithmetic is exact, so "the same" means
equal, bit by bit. `test_random_networks_agree_by_class` does without that and counts classes.
"""

import functools
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from contract_networks import (
    BUILDERS,
    WIRING,
    build,
    centre,
    images_for,
    make_dyadic,
    stock_spikes,
    stock_stack,
)
from keras import layers as kl

import spiking
from conversion import conversion_report, convert_ann_to_snn, read
from spiking.network.records import FIRST_SPIKE_TIMES, RASTERS, READOUTS, RECORDS, SPIKE_COUNTS
from spiking.windows import WindowEncoding

ROOT = Path(__file__).parents[2]
ENCODINGS = list(spiking.ENCODINGS)
# Codes in windows have a closed form; the others are stepped by the clock.
CLOCKED = [name for name, code in spiking.ENCODINGS.items() if not isinstance(code, WindowEncoding)]
# Small times and thresholds, so that all layers are busy; a code that is not named here takes T = 16 and its own θ.
SETTINGS = {
    "ttfs": {"timesteps": 16, "threshold": 1.0},
    "ttfs_dyn_thresh": {"timesteps": 16, "threshold": 1.0},
    "ttfs_clamped": {"timesteps": 16, "threshold": 1.0},
    "ttfs_exact": {"timesteps": 4},  # for each layer
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


def convert(ann, encoding, **options):
    settings = {**SETTINGS.get(encoding, {"timesteps": 16}), **options}
    return convert_ann_to_snn(ann, images_for(ann, 40, seed=2), encoding, **settings)


def copy_of(snn):
    copied = type(snn).from_config(snn.get_config())
    copied.set_weights(snn.get_weights())
    return copied


class Case:
    """The network, converted once: ann, snn (dyadic), images, what it records of them, and what stock Keras gives."""

    def __init__(self, encoding, kind):
        self.encoding, self.kind = encoding, kind
        self.ann = build(kind, encoding)
        self.snn = make_dyadic(convert(self.ann, encoding))
        self.images = images_for(self.ann)
        # Traced once for batches of any size.
        signature = tf.nest.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), self.images)
        self.record = tf.function(
            lambda images: self.snn.simulate(images, RECORDS), input_signature=[signature], autograph=False
        )
        self.recorded = self.record(self.images)

    @functools.cached_property
    def stock(self):
        return stock_spikes(self.snn, self.images)


case = functools.cache(Case)


def named(cases):
    return [pytest.param(each, id=f"{each[0]}-{each[1]}") for each in cases]


@pytest.fixture(params=named((e, k) for e in ENCODINGS for k in BUILDERS), scope="module")
def net(request):
    return case(*request.param)


# A concatenation, and several outputs: what each code saves, and Keras' own loops over it.
@pytest.fixture(params=named((e, k) for e in ENCODINGS for k in ("unet", "two_heads")), scope="module")
def saved_net(request):
    return case(*request.param)


@pytest.fixture(params=ENCODINGS, scope="module")
def pooling_net(request):
    return case(request.param, "max_pool")


def assert_equal(found, expected):
    """Outputs or records in any structure, bit by bit."""
    tf.nest.map_structure(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), found, expected)


def part_of(images, chosen):
    return tf.nest.map_structure(lambda x: x[chosen], images)


# --- structure ---


def test_is_a_keras_model_that_mirrors_the_ann(net):
    snn, ann = net.snn, net.ann
    assert isinstance(snn, keras.Model) and not snn.compiled
    assert snn.input_shape == ann.input_shape and snn.output_shape == ann.output_shape
    assert {name: list(heard) for name, heard in snn.wiring.items() if name not in snn.plan.inputs} == WIRING[net.kind]
    assert all(isinstance(snn.get_layer(name), keras.layers.RNN) for name in [*snn.plan.hidden, *snn.plan.read_outs])
    snn.summary(print_fn=lambda *args, **kwargs: None)


def test_report_has_a_row_for_each_ann_layer(net):
    layers = [layer for layer in flat_layers(net.ann) if not isinstance(layer, kl.InputLayer)]
    expected = {layer.name: type(layer).__name__ for layer in layers}
    rows = {row["layer"]: row["type"] for row in net.snn.report}
    assert {name: rows.pop(name) for name in expected} == expected
    assert len(rows) == (5 if net.kind == "siamese" else 0)  # the second use of the tower's layers
    assert all(row["result"] for row in net.snn.report)
    printed = conversion_report(net.snn)
    assert all(name in printed for name in expected)


def flat_layers(model):
    for layer in model.layers:
        yield from flat_layers(layer) if hasattr(layer, "layers") else [layer]


def test_padding_and_a_shift_make_the_bias_a_map():
    # Converted without rounding: at the border the folded bias differs from that in the middle.
    second = convert(build("same", "rate"), "rate").get_layer("second").cell
    assert second.bias_kind == "map" and second.bias.shape == (3, 3, 3)
    assert np.ptp(np.asarray(second.bias), axis=(0, 1)).min() > 1e-3


def test_layers_are_busy(net):
    """The other tests mean something only if neurons of all layers spike, and not all of them."""
    for counts in net.recorded.spike_counts.values():
        assert 0 < np.mean(counts.numpy() > 0) < 1


# --- folding ---


@pytest.mark.parametrize("kind", BUILDERS)
def test_folding_is_exact(kind, float64):
    """To 1e-5 in float32 and 1e-10 in float64, relative to the largest output; before any spikes."""
    ann = build(kind, "rate")
    images, graph = images_for(ann), read(ann)
    for dtype, bound in (("float32", 1e-5), ("float64", 1e-10)):
        outputs = zip(tf.nest.flatten(graph.function(dtype)(images)), tf.nest.flatten(ann(images)), strict=True)
        for found, expected in outputs:
            assert np.abs(found.numpy() - expected.numpy()).max() <= bound * np.abs(expected).max()


# --- the fast way gives the same ---


def test_stock_stack_equals_simulate(net):
    """The spikes of all layers at all steps; shortcuts in the graph cross windows of ttfs_exact's closed form."""
    spikes, output = net.stock
    assert list(net.recorded.rasters) == list(spikes)
    assert_equal(net.recorded.rasters, spikes)
    assert_equal(net.recorded.output, output)
    assert_equal(net.snn(net.images), output)


@pytest.mark.parametrize("encoding, options", VARIANTS, ids=lambda p: str(p))
def test_variants_equal_the_stock_stack(encoding, options):
    snn = make_dyadic(convert(build("max_pool", encoding), encoding, **options))
    images = images_for(snn)
    recorded = snn.simulate(images, (SPIKE_COUNTS,))
    np.testing.assert_array_equal(stock_stack(snn)(images).numpy(), recorded.output.numpy())
    np.testing.assert_array_equal(snn(images[2:3]).numpy(), recorded.output.numpy()[2:3])
    assert all(counts.numpy().any() for counts in recorded.spike_counts.values())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_random_networks_agree_by_class(encoding):
    snn = convert(build("two_inputs", encoding), encoding)
    rng = np.random.default_rng(3)
    images = tf.nest.map_structure(lambda x: rng.random((1000, *x.shape[1:])).astype(np.float32), images_for(snn))
    loop, stock = snn(images).numpy(), stock_stack(snn)(images).numpy()
    alone = np.concatenate([snn(part_of(images, slice(k, k + 500))).numpy() for k in (0, 500)])
    assert len(np.unique(loop.argmax(-1))) > 1
    for other in (stock, alone):
        share = np.mean(loop.argmax(-1) == other.argmax(-1))
        assert share >= 0.999, f"the same class on {share:.2%} of the images"


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("encoding, levels", [("ttfs_exact", 1023), ("radix", 10)])
def test_a_maximum_across_layers_in_different_windows(encoding, levels, axis):
    """Five rows of a layer beside five of one that spikes a window later: the third pool hears one of each."""
    image = keras.Input((5, 5, 2))
    early, late = (kl.Conv2D(3, 3, padding="same", activation="relu")(image) for _ in range(2))
    late = kl.Conv2D(3, 3, padding="same", activation="relu")(late)
    pooled = kl.MaxPooling2D(2)(kl.Concatenate(axis=axis)([early, late]))
    ann = centre(randomise(keras.Model(image, kl.Dense(3)(kl.Flatten()(pooled))), seed=5))
    images = images_for(ann)
    fine = convert_ann_to_snn(ann, images, encoding, levels, normalisation="max")
    np.testing.assert_allclose(fine(images), ann(images), atol=0.01 * np.abs(ann(images)).max())
    snn = make_dyadic(convert(ann, encoding))
    recorded = snn.simulate(images, (SPIKE_COUNTS,))
    np.testing.assert_array_equal(stock_stack(snn)(images).numpy(), recorded.output.numpy())
    assert all(counts.numpy().any() for counts in recorded.spike_counts.values())


# --- state, batches, determinism ---


def test_two_calls_are_equal(net):
    assert_equal(net.record(net.images), net.recorded)


def test_simulate_equals_itself_traced_by_others(pooling_net):
    assert_equal(pooling_net.snn.simulate(pooling_net.images, RECORDS), pooling_net.recorded)


def test_stock_layers_start_from_the_initial_state_in_each_call(pooling_net):
    _, first = pooling_net.stock
    stock = stock_stack(pooling_net.snn)
    stock(pooling_net.images[::-1])
    assert_equal(stock(pooling_net.images), first)


def test_a_sample_does_not_depend_on_its_batch(net):
    for chosen in ([4], [6, 4, 0]):
        part, recorded = net.record(part_of(net.images, chosen)), net.recorded
        assert_equal(part.output, taken(recorded.output, chosen))
        assert_equal(part.rasters, taken(recorded.rasters, chosen, axis=1))


def taken(values, chosen, axis=0):
    return tf.nest.map_structure(lambda x: np.take(x.numpy(), chosen, axis), values)


def test_predict_with_an_uneven_last_batch(saved_net):
    assert_equal(saved_net.snn.predict(saved_net.images, batch_size=3, verbose=0), saved_net.recorded.output)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_several_inputs_in_every_form(encoding):
    """By order or by name, in the ANN's dtype or another; what the network does not know is left out, as Keras does."""
    net = case(encoding, "two_inputs")
    image, facts = net.images
    for given in ((image, facts), {"facts": facts, "image": image}, [image.astype("float16"), facts.astype("float64")]):
        assert_equal(net.record([tf.cast(x, tf.float32) for x in net.snn.named_images(given).values()]), net.recorded)


# --- what passes between layers, and what is recorded of it ---


def test_shapes_of_records(net):
    steps, images = net.snn.timesteps, 7
    shapes = {layer.name: tuple(layer.cell.neurons_shape) for layer in net.snn.hidden_layers}
    recorded = net.recorded
    for values, leading in ((recorded.output, (images,)), (recorded.readouts, (steps, images))):
        expected = tf.nest.map_structure(lambda symbol: [*leading, *symbol.shape[1:]], net.snn.output)  # noqa: B023
        assert tf.nest.map_structure(lambda x: x.shape.as_list(), values) == expected
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
    assert_equal(tf.nest.map_structure(lambda x: x[-1], recorded.readouts), recorded.output)
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
    net = case("rate", "chain")
    with pytest.raises(ValueError, match="record="):
        net.snn.simulate(net.images, record)


def test_one_record_by_its_name_alone():
    net = case("rate", "chain")
    np.testing.assert_array_equal(net.snn.simulate(net.images, READOUTS).readouts, net.recorded.readouts)


# --- saving ---


def assert_same_network(again, snn):
    assert again.report == snn.report and again.encoding == snn.encoding
    assert again.scales == snn.scales and again.floors == snn.floors and again.calibration == snn.calibration
    assert again.wiring == snn.wiring and again.input_range == snn.input_range
    assert [layer.name for layer in again.layers] == [layer.name for layer in snn.layers]


def test_saved_and_loaded_is_equal(saved_net, tmp_path):
    saved_net.snn.save(tmp_path / "snn.keras")
    again = keras.models.load_model(tmp_path / "snn.keras")
    assert_same_network(again, saved_net.snn)
    assert not again.compiled
    assert_equal(again(saved_net.images), saved_net.recorded.output)


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
        "    assert model.report and np.array_equal(model(data['x']), data['y']), path\n"
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


@pytest.mark.parametrize("options", [{"signed": True}, {"signed": True, "max_spikes": 4}], ids=str)
def test_signed_rates_are_fine_tuned(options):
    """The loss falls, in the time steps that are few enough for rounding to matter."""
    snn = convert(build("max_pool", "rate"), "rate", timesteps=6, **options)
    images = images_for(snn, 21)
    snn.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.asarray(weight) for weight in snn.trainable_weights]
    losses = snn.fit(images, labels_of(images), batch_size=21, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert all(np.any(np.asarray(weight) != old) for weight, old in zip(snn.trainable_weights, before, strict=True))


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
