"""Numbers, curves, histograms and tables, against values worked out by hand."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import spiking
from conversion import convert_ann_to_snn, snn_activation_analysis
from spiking.analysis.diagnosis import Diagnosis, LayerErrors
from spiking.analysis.statistics import Analysis, LayerStatistics
from spiking.runs import summaries


def layer(name, **changes):
    values = dict(
        name=name, neurons=1000, holds_neurons=True, spike_mean=1.5, spike_var=0.25, first_spike_time_mean=2.25,
        first_spike_time_var=4.0, silent_share=0.125, saturated_share=0.5, spike_count_histogram=np.array([2, 0, 1]),
        first_spike_time_histogram=np.array([2, 1, 0]), synaptic_operations=12345.6,
    )  # fmt: skip
    return LayerStatistics(**{**values, **changes})


def analysis(*layers, **changes):
    values = dict(
        samples=1, timesteps=2, layers=list(layers), spikes_per_neuron=1.0, input_spikes=0.0, synaptic_operations=2.0,
        macs=3.0, neuron_updates=4, ann_macs=5, connection_sparsity=0.0, activation_sparsity=0.6, footprint=7,
        ann_effective_macs=4.0,
        ann_energy=8.0, snn_energy=9.0, accuracy=1.0, accuracy_per_timestep=np.array([0.0, 1.0]),
    )  # fmt: skip
    return Analysis(**{**values, **changes})


SILENT = layer(
    "mute", holds_neurons=False, spike_mean=0.0, first_spike_time_mean=np.nan, first_spike_time_var=np.nan,
    spike_count_histogram=np.array([3, 0, 0]), first_spike_time_histogram=np.array([3, 0, 0]),
)  # fmt: skip


def test_every_metric_and_curve_is_an_attribute():
    both = analysis(layer("loud"), SILENT)
    assert all(np.isfinite(getattr(both, name)) for name in summaries.ANALYSIS_METRICS.values())
    curves = summaries.layer_curves(both)
    assert curves["snn/no_of_spikes/avg"].tolist() == [1.5, 0.0]
    assert curves["snn/no_of_spikes/var"].tolist() == [0.25, 0.25]
    assert curves["snn/timestep_spikes/avg"] == pytest.approx([2.25, np.nan], nan_ok=True)
    assert curves["snn/timestep_spikes/var"] == pytest.approx([4.0, np.nan], nan_ok=True)
    assert summaries.layer_legend(both) == "Step is the number of the layer: 1 = loud, 2 = mute."


@pytest.mark.parametrize(
    ("counts", "first", "expected"),
    [
        ([5, 0, 2], 0, [[-0.5, 0.5, 5], [0.5, 1.5, 0], [1.5, 2.5, 2]]),
        ([5, 0, 2], 1, [[0.5, 1.5, 0], [1.5, 2.5, 2]]),
    ],
)
def test_histogram_of_counts(counts, first, expected):
    assert summaries.histogram_of_counts(np.array(counts), first).tolist() == expected


@pytest.mark.parametrize("length", [summaries.BINS, summaries.BINS + 1, 961])
def test_many_counts_share_bins_and_none_is_lost(length):
    counts = np.random.default_rng(0).integers(0, 9, length)
    bins = summaries.histogram_of_counts(counts)
    assert len(bins) <= summaries.BINS
    assert np.array_equal(bins[1:, 0], bins[:-1, 1])
    assert bins[-1, 1] >= length - 0.5
    values = np.repeat(np.arange(length), counts)
    assert bins[:, 2].tolist() == np.histogram(values, np.append(bins[:, 0], bins[-1, 1]))[0].tolist()


def test_histogram_of_values():
    bins = summaries.histogram_of_values(np.array([[0.0, 0.1], [6.0, 6.0]]))
    assert (bins[0, 0], bins[-1, 1], len(bins)) == (0.0, 6.0, summaries.BINS)
    assert (bins[0, 2], bins[1, 2], bins[-1, 2], bins[:, 2].sum()) == (1, 1, 2, 4)
    assert summaries.histogram_of_values(np.ones(7))[:, 2].sum() == 7


def test_spike_histograms_leave_silent_neurons_out_of_the_times():
    found = summaries.spike_histograms(analysis(layer("loud"), SILENT))
    assert found["spikes/no_of_spikes/loud"][:, 2].tolist() == [2, 0, 1]
    assert found["spikes/spike_timesteps/loud"].tolist() == [[0.5, 1.5, 1], [1.5, 2.5, 0]]
    assert found["spikes/spike_timesteps/mute"][:, 2].tolist() == [0, 0]
    assert len(found) == 4


def test_activity_histograms():
    found = summaries.activity_histograms({"a": (np.array([0.0, 2.0]), np.array([1.0, 5.0, 5.0]))})
    assert {tag: (bins[0, 0], bins[-1, 1], bins[:, 2].sum()) for tag, bins in found.items()} == {
        "values/activations/a/ann": (0.0, 2.0, 2),
        "values/activations/a/snn": (1.0, 5.0, 3),
    }


@pytest.fixture(scope="module")
def networks():
    """An ANN with nested models, layers of equal name and BatchNorm, its SNN, and images."""
    keras.utils.set_random_seed(0)
    block = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, activation="relu", name="twin")], name="block")
    ann = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.SeparableConv2D(2, 3, use_bias=False, name="maps"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(name="pool"),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="relu", name="twin"),
            block,
            keras.layers.Dense(3, name="scores"),
        ]
    )
    images = np.random.default_rng(0).random((6, 4, 4, 1), np.float32)
    return ann, convert_ann_to_snn(ann, images, "rate", 5), images


def test_weights_are_the_kernels_of_both_networks(networks):
    ann, snn, _ = networks
    in_ann, in_snn = summaries.weights_per_layer(ann, snn)
    sizes = {"maps": 9 + 2, "twin": 12, "block_twin": 30, "scores": 15}
    assert {name: len(values) for name, values in in_ann.items()} == sizes
    assert {name: len(values) for name, values in in_snn.items()} == sizes
    assert np.array_equal(in_ann["block_twin"], ann.get_layer("block").get_layer("twin").kernel.numpy().ravel())
    kernel = snn.get_layer("block_twin").cell.synapse_layers[-1].kernel
    assert np.array_equal(in_snn["block_twin"], kernel.numpy().ravel())
    assert not np.allclose(in_ann["block_twin"], in_snn["block_twin"])  # normalised
    tags = {f"values/weights/{name}/{kind}" for kind in ("ann", "snn") for name in sizes}
    assert {tag: bins[:, 2].sum() for tag, bins in summaries.weight_histograms(ann, snn).items()} == {
        tag: sizes[tag.split("/")[2]] for tag in tags
    }


def test_rasters_are_those_of_the_neurons(networks):
    _, snn, images = networks
    found = summaries.rasters(snn, images[1])
    assert {name: raster.shape for name, raster in found.items()} == {
        "maps": (5, 2, 2, 2), "twin": (5, 6), "block_twin": (5, 5),
    }  # fmt: skip
    counts = snn.simulate(images[1:2], ("spike_counts",)).spike_counts
    for name, raster in found.items():
        assert np.array_equal(raster.sum(axis=0), counts[name][0])


@pytest.mark.parametrize("encoding", spiking.ENCODINGS)
def test_every_encoding_can_be_summarised(encoding):
    ann = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu", name="hidden")])
    ann.add(keras.layers.Dense(2, name="scores"))
    images = np.random.default_rng(1).random((4, 4), np.float32)
    snn = convert_ann_to_snn(ann, images, encoding, 6)
    measured = snn_activation_analysis(snn, images, np.array([0, 1, 0, 1]))
    pairs = 3 * len(images)
    assert summaries.spike_histograms(measured)["spikes/no_of_spikes/hidden"][:, 2].sum() == pairs
    assert measured.table()[1][:2] == ("1 hidden", "3")


def test_comparison_leaves_out_what_is_not_analysed():
    done = {
        "ann/eval/test": 0.5, "snn/eval/test": 0.25, "snn/diff/test": -0.25, "snn/timesteps": 7, "ann/macs": 2000.0,
        "snn/spikes_per_neuron": 1.234, "snn/synaptic_operations": 1500.4, "snn/seconds": 2.06,
        "snn/energy": 1.5e-6, "ann/energy": 6e-6,
    }  # fmt: skip
    head, *rows = summaries.comparison({"one": done, "soon": {**done, "snn/latency": 3}, "two": {"ann/eval/test": 0.5}})
    shared = ("1.23", "1,500", "0.75", "1.500", "0.25", "2.1")
    assert rows == [
        ("one", "50.00", "25.00", "-25.00", "7", "–", *shared), ("soon", "50.00", "25.00", "-25.00", "7", "3", *shared)
    ]  # fmt: skip
    assert len(head) == len(rows[0])


def test_energies_are_told_once_for_each_hardware():
    usual, other = {"ann/eval/test": 0.5}, {"experiment/hardware": "loihi", "experiment/neuron_updates": True}
    told = summaries.energy_remark([usual, other, {**usual, "experiment/hardware": "45nm_float32"}, dict(other)])
    assert [told.count(f"Energy on {name} ") for name in ("45nm_float32", "loihi", "7nm_int8")] == [1, 1, 0]
    assert told.count("neuron updates left out") == told.count("neuron updates at 81 pJ included") == 1
    assert summaries.energy_remark([other]) in summaries.comparison_note({"one": other})


def test_peak_remark():
    early = analysis(timesteps=3, accuracy_per_timestep=np.array([0.1, 0.95, 0.9]))
    told = "Its accuracy peaks at time step 2 of 3 with 95.00%; at the end it is 5.00 points lower."
    assert summaries.peak_remark(early) == told
    late = analysis(timesteps=3, accuracy_per_timestep=np.array([0.1, 0.95, 0.95]))
    assert summaries.peak_remark(late) == "Its accuracy is highest, 95.00%, at the end, and first so at time step 2."


def test_layer_table():
    head, loud, mute = analysis(layer("loud"), SILENT).table()
    assert loud == ("1 loud", "1,000", "1.500", "0.250", "2.2", "4.0", "12.5%", "50.0%", "12,346")
    assert mute[0] == "2 mute (relays)"
    assert mute[4:6] == ("–", "–")
    assert len(head) == len(loud)


def test_error_table():
    errors = LayerErrors("a", 1.0, 0.1, 0.2, 0.3, 0.4, np.nan, 0.0, 0.5, 1.0, 1.0, 1.0, 0.6, 0.7)
    head, row = Diagnosis(5, {}, [errors], []).table()
    assert dict(zip(head, row, strict=True)) == {
        "layer": "a", "error": "10.0%", "clipping": "20.0%", "quantisation": "30.0%", "arrival": "40.0%",
        "input": "–", "lost": "60.0%", "scatter": "70.0%",
    }  # fmt: skip


def test_latency_remark():
    curve = analysis(timesteps=3, accuracy_per_timestep=np.array([0.1, 0.955, 0.95]))
    assert summaries.latency_remark(curve, 0.96).startswith("From time step 2 of 3 on it stays within 1 point of")
    assert summaries.latency_remark(curve, 0.97) == "It ends more than 1 point of accuracy below the ANN."
    assert "within 2 points" in summaries.latency_remark(curve, 0.97, points=2)


def test_negative_and_several_spikes_are_told():
    def told(**values):
        return summaries.spike_remarks(SimpleNamespace(**values))

    assert told(spikes_per_neuron=0.3, negative_spikes_per_neuron=0.0, messages_per_neuron=0.3) == []
    assert told(spikes_per_neuron=0.3, negative_spikes_per_neuron=0.0, messages_per_neuron=math.nan) == []
    (found,) = told(spikes_per_neuron=2.61, negative_spikes_per_neuron=0.125, messages_per_neuron=2.0)
    assert found.startswith("Of 2.61 spikes per neuron and image 0.12 are negative; they come in 2.00 time steps.")
