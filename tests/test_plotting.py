"""The figures show the numbers they were given: every test reads the drawn data back."""

import io
import itertools
import subprocess
import sys

import matplotlib.colors as mcolors
import numpy as np
import pytest
from matplotlib.text import Text

import plotting

RNG = np.random.default_rng(7)

# Six steps, two layers: `conv` has 2 x 2 neurons, `dense` stays silent.
CONV = np.zeros((6, 2, 2), np.uint8)
CONV[[0, 2, 5], 0, 0] = 1
CONV[2, 1, 0] = 1
CONV[[1, 2], 1, 1] = 1
RASTERS = {"conv": CONV, "dense": np.zeros((6, 3), np.uint8)}
CONV_TIMES = [[1, 3, 6], [], [3], [2, 3]]

VGG = [f"block{block}_conv{i}" for block, n in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)) for i in range(n)]
VGG += ["dense_1", "dense_2", "predictions_of_a_layer_with_a_very_long_name"]


def vgg(samples=3, neurons=60, high=4):
    arrays = {name: RNG.integers(0, high, (samples, neurons)) for name in VGG}
    arrays["block3_conv1"][:] = 0
    return arrays


def texts(figure):
    """Visible texts as they stand in the picture."""
    figure.savefig(io.BytesIO(), format="png")
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            margin = 1e-6 * (high - low)
            drawn = [
                *(tick for tick in axis.get_major_ticks() if low - margin <= tick.get_loc() <= high + margin),
                *(tick for tick in axis.get_minor_ticks() if low - margin <= tick.get_loc() <= high + margin),
            ]
            labels = {label for tick in drawn for label in (tick.label1, tick.label2)}
            hidden |= set(axis.get_ticklabels(which="both")) - labels
    return [text for text in found if text not in hidden]


def said(figure):
    return [text.get_text() for text in texts(figure)]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def correlated():
    ann = RNG.random((10, 40))
    return {"small": (ann, ann**2), "large": (a := RNG.random((50, 100)), a + RNG.normal(0, 0.1, a.shape))}


FIGURES = {
    "eventplot": lambda **k: plotting.plot_spikes_as_eventplot(RASTERS, **k),
    "eventplot_vgg": lambda **k: plotting.plot_spikes_as_eventplot(vgg(50, high=2), **k),
    "who": lambda **k: plotting.who_spiked_when(RASTERS, **k),
    "who_vgg": lambda **k: plotting.who_spiked_when(vgg(50, 20000, high=2), max_neurons=100, **k),
    "intensity": lambda **k: plotting.spiking_intensity_per_timestep(RASTERS, **k),
    "intensity_vgg": lambda **k: plotting.spiking_intensity_per_timestep(vgg(50, high=2), **k),
    "total": lambda **k: plotting.total_spikes(RASTERS, **k),
    "per_layer": lambda **k: plotting.total_spikes_per_layer(vgg(), **k),
    "per_layer_one_sample": lambda **k: plotting.total_spikes_per_layer(vgg(1), **k),
    "counts": lambda **k: plotting.spike_counts_per_layer(vgg(), **k),
    "first": lambda **k: plotting.first_spike_times_per_layer(vgg(high=90), **k),
    "correlation": lambda **k: plotting.ann_snn_correlation(correlated(), **k),
    "correlation_vgg": lambda **k: plotting.ann_snn_correlation({n: (a, a) for n, a in vgg().items()}, **k),
    "correlation_drawn": lambda **k: plotting.ann_snn_correlation(
        {n: (np.tile(a, (10, 200)),) * 2 for n, a in vgg(10, 60, 9).items()}, max_points=100_000, **k
    ),
    "timestep": lambda **k: plotting.accuracy_per_timestep({n: RNG.random(30) for n in VGG}, 0.9, **k),
    "operations": lambda **k: plotting.accuracy_per_operations({"a": ([0, 10, 99], [0, 0.5, 1])}, 0.9, 50, **k),
    "pareto": lambda **k: plotting.pareto_front([0.5, 0.9], [10, 20], [1e3, 1e5], ["rate", "ttfs"], **k),
    "weights": lambda **k: plotting.weight_distributions(
        {n: RNG.normal(size=(3, 3, 4)) ** i for i, n in enumerate(VGG)}, **k
    ),
    "image": lambda **k: plotting.image_and_spike_times(RNG.random((8, 8, 3)), RNG.integers(0, 9, (8, 8, 3)), **k),
    "boxes": lambda **k: plotting.repeated_box_plot({n: RNG.random(5) for n in VGG}, "accuracy / %", **k),
    "curves": lambda **k: plotting.repeated_curves([1, 2, 4], {"a": RNG.random((5, 3))}, "N", "loss", log_x=True, **k),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_labelled_and_readable(name):
    long_title = "A long title, as a search over many hyperparameters gives it: " + "threshold=10, " * 6
    figure = FIGURES[name](title=long_title)
    assert figure.get_suptitle().replace("\n", " ") == long_title.strip()
    for axes in figure.axes:
        assert axes.get_ylabel()
        assert axes.get_xlabel() or axes.get_label() == "<colorbar>"
    shown = texts(figure)
    assert min(text.get_fontsize() for text in shown) >= 8
    page = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown if text.get_rotation() in (0, 90)]
    for text, box in boxes:
        assert box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1, f"{text!r} leaves the page"
    for (first, a), (second, b) in itertools.combinations(boxes, 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width < 1 or height < 1, f"{first!r} lies over {second!r}"


@pytest.mark.parametrize("name", FIGURES)
def test_no_title_is_no_title(name):
    assert FIGURES[name]().get_suptitle() == ""


def test_imports_numpy_and_matplotlib_only_and_no_pyplot():
    code = "import sys, plotting; sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'matplotlib.pyplot')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=plotting.__file__.rsplit("/", 1)[0]).returncode == 0


# ---------------------------------------------------------------- spikes of one sample


def test_eventplot_draws_each_spike_at_its_time():
    axes = plotting.plot_spikes_as_eventplot(RASTERS).axes[0]
    events = [c for c in axes.collections if hasattr(c, "get_positions")]
    assert [list(c.get_positions()) for c in events] == CONV_TIMES + [[], [], []]
    assert [c.get_lineoffset() for c in events] == list(axes.get_yticks())
    assert np.diff(axes.get_yticks()).min() > 0 and axes.yaxis_inverted()  # the first layer on top
    assert [t.get_text() for t in axes.get_yticklabels()][3:5] == ["conv [3]", "dense [0]"]


def test_eventplot_of_chosen_layers_and_neurons():
    figure = plotting.plot_spikes_as_eventplot(RASTERS, layers=["conv"], neurons={"conv": [3, 0]})
    axes = figure.axes[0]
    events = [c for c in axes.collections if hasattr(c, "get_positions")]
    assert [list(c.get_positions()) for c in events] == [CONV_TIMES[3], CONV_TIMES[0]]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["conv [3]", "conv [0]"]


def test_eventplot_thins_out_the_same_way_each_time_and_says_so():
    rasters = {"big": RNG.integers(0, 2, (5, 30, 30)), "small": RNG.integers(0, 2, (5, 10))}
    figures = [plotting.plot_spikes_as_eventplot(rasters, max_neurons=40) for _ in range(2)]
    first, second = ([list(c.get_positions()) for c in f.axes[0].collections] for f in figures)
    assert first == second and len(first) == 50
    columns = {tuple(np.flatnonzero(column) + 1) for column in rasters["big"].reshape(5, -1).T}
    assert {tuple(row) for row in first[:40]} <= columns
    labels = [t.get_text() for t in figures[0].axes[0].get_yticklabels()]
    assert labels == ["big\n40 of 900 neurons", "small\n10 neurons"]


def test_silent_layers_say_so():
    for function in (plotting.plot_spikes_as_eventplot, plotting.who_spiked_when):
        assert said(function(RASTERS)).count("no spikes") == 1
    assert said(plotting.spiking_intensity_per_timestep(RASTERS)).count("no spikes") == 1
    assert "no spikes" in said(plotting.total_spikes({"dense": RASTERS["dense"]}))
    for function in (
        plotting.total_spikes_per_layer,
        plotting.spike_counts_per_layer,
        plotting.first_spike_times_per_layer,
    ):
        assert said(function(vgg())).count("no spikes") == 1
        assert "no spikes" in said(function({"only": np.zeros((1, 4))}))


def test_silent_choice_of_an_active_layer_is_not_called_silent():
    figure = plotting.plot_spikes_as_eventplot(RASTERS, layers=["conv"], neurons={"conv": [1]})
    assert "no spikes from these neurons" in said(figure)


def test_who_spiked_when_draws_each_spike():
    axes = plotting.who_spiked_when(RASTERS).axes
    (line,) = axes[0].lines
    expected = [(t, i) for i, times in enumerate(CONV_TIMES) for t in times]
    assert sorted(zip(*line.get_data(), strict=True)) == sorted(expected)
    assert axes[1].lines[0].get_xdata().size == 0


def test_who_spiked_when_keeps_the_index_of_thinned_out_neurons():
    raster = RNG.integers(0, 2, (4, 1000))
    figure = plotting.who_spiked_when({"big": raster}, max_neurons=50)
    times, neurons = (np.asarray(data, int) for data in figure.axes[0].lines[0].get_data())
    assert raster[times - 1, neurons].all()
    assert len(set(neurons)) <= 50 and neurons.max() > 500
    assert titles(figure) == ["big\n50 of 1,000 neurons"]


def test_spiking_intensity_is_the_share_of_neurons():
    figure = plotting.spiking_intensity_per_timestep(RASTERS)
    values, edges, _ = figure.axes[0].patches[0].get_data()
    np.testing.assert_allclose(values, [25, 25, 75, 0, 0, 25])
    np.testing.assert_allclose(edges, np.arange(7) + 0.5)
    assert titles(figure) == ["conv\nspikes: 6", "dense\nspikes: 0"]


def test_total_spikes_cumulates_over_all_layers():
    both = {"conv": CONV, "again": CONV}
    (line,) = plotting.total_spikes(both).axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(line.get_ydata(), [2, 4, 10, 10, 10, 12])


# Two neurons in four steps: 2 spikes, nothing, one taken back, nothing; nothing, 1, 1, −1.
GRADED = {"a": np.array([[2, 0], [0, 1], [-1, 1], [0, -1]])}


def test_negative_spikes_have_a_colour_of_their_own():
    events = plotting.plot_spikes_as_eventplot(GRADED).axes[0].collections
    drawn = [(mcolors.to_hex(np.ravel(c.get_color())[:3]).upper(), list(c.get_positions())) for c in events
             if hasattr(c, "get_positions")]  # fmt: skip
    assert drawn == [
        (plotting.COLOURS[0], [1]), (plotting.COLOURS[0], [2, 3]), (plotting.NEGATIVE, [3]), (plotting.NEGATIVE, [4]),
    ]  # fmt: skip
    positive, negative = plotting.who_spiked_when(GRADED).axes[0].lines
    assert sorted(zip(*positive.get_data(), strict=True)) == [(1, 0), (2, 1), (3, 1)]
    assert sorted(zip(*negative.get_data(), strict=True)) == [(3, 0), (4, 1)]
    assert (positive.get_color(), negative.get_color()) == (plotting.BLUE, plotting.NEGATIVE)
    assert plotting.NEGATIVE not in plotting.COLOURS


def test_all_spikes_of_a_step_count_whatever_their_sign():
    np.testing.assert_array_equal(plotting.total_spikes(GRADED).axes[0].lines[0].get_ydata(), [2, 3, 5, 6])
    figure = plotting.spiking_intensity_per_timestep(GRADED)
    np.testing.assert_allclose(figure.axes[0].patches[0].get_data()[0], [50, 50, 100, 50])
    assert titles(figure) == ["a\nspikes: 6"]


# ---------------------------------------------------------------- spikes of many samples


def test_total_spikes_per_layer_is_the_mean_sum():
    counts = {"conv": np.array([[[1, 2], [0, 0]], [[4, 0], [0, 1]]]), "dense": np.array([[0, 1], [1, 0]])}
    axes = plotting.total_spikes_per_layer(counts).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [4.0, 1.0]
    whiskers = axes.collections[0].get_segments()
    np.testing.assert_allclose(whiskers[0][:, 0], [4 - np.sqrt(2), 4 + np.sqrt(2)])  # of 3 and 5
    assert len(whiskers) == 1  # dense: 1 and 1
    assert [t.get_text() for t in axes.texts] == ["4 (1 per neuron)", "1 (0.5 per neuron)"]
    assert "2 samples" in axes.get_xlabel()


def test_total_spikes_per_layer_of_one_sample_is_the_sum():
    axes = plotting.total_spikes_per_layer({"a": np.array([[3, 0, 2]])}).axes[0]
    assert axes.patches[0].get_width() == 5 and "1 sample" in axes.get_xlabel()


def test_spike_counts_are_percent_of_all_neurons():
    figure = plotting.spike_counts_per_layer({"a": np.array([[0, 0, 1, 3], [0, 1, 1, 3]])})
    values, edges, _ = figure.axes[0].patches[0].get_data()
    np.testing.assert_allclose(values, [37.5, 0, 25])
    np.testing.assert_allclose(edges, [0.5, 1.5, 2.5, 3.5])
    assert titles(figure) == ["a\n37.5% silent"]


def test_first_spike_times_share_the_time_axis_and_lose_none_in_wide_bins():
    times = {"early": RNG.integers(0, 5, (4, 50)), "late": RNG.integers(900, 1000, (4, 50))}
    figure = plotting.first_spike_times_per_layer(times, timesteps=1000)
    for axes, array in zip(figure.axes, times.values(), strict=True):
        values, edges, _ = axes.patches[0].get_data()
        assert edges[0] == 0.5 and edges[-1] >= 1000
        np.testing.assert_allclose(values.sum(), 100 * (array > 0).mean())
        np.testing.assert_allclose(values[0], 100 * ((array >= 1) & (array <= edges[1])).mean())


# ---------------------------------------------------------------- ANN and SNN, accuracy, cost


def test_correlation_prints_numpys_r_of_all_values():
    pairs = correlated()
    figure = plotting.ann_snn_correlation(pairs, max_points=3000)
    r = {name: np.corrcoef(a.ravel(), b.ravel())[0, 1] for name, (a, b) in pairs.items()}
    large = f"large\nr = {r['large']:.4f}\n3k of 5k drawn"
    assert titles(figure) == [f"small\nr = {r['small']:.4f}", large]
    dots, cells = (axes.collections[0] for axes in figure.axes[:2])
    np.testing.assert_allclose(dots.get_offsets(), np.stack([a.ravel() for a in pairs["small"]], axis=1))
    assert cells.get_array().sum() == 3000


def test_correlation_of_a_constant_layer_is_undefined():
    figure = plotting.ann_snn_correlation({"a": (np.arange(4.0), np.zeros(4)), "b": (np.ones(3), np.ones(3))})
    assert titles(figure) == [f"{name}\nr undefined (constant)" for name in "ab"]


def test_accuracy_per_timestep_in_percent_with_the_ann():
    axes = plotting.accuracy_per_timestep({"rate": [0.1, 0.5, 0.9], "ttfs": [0.2]}, ann_accuracy=0.987).axes[0]
    rate, ttfs, ann = axes.lines
    np.testing.assert_allclose(rate.get_xydata(), [[1, 10], [2, 50], [3, 90]])
    np.testing.assert_allclose(ttfs.get_xydata(), [[1, 20]])
    np.testing.assert_allclose(ann.get_ydata(), 98.7)
    assert [line.get_label() for line in axes.lines] == ["rate", "ttfs", "ANN (98.70%)"]


def test_accuracy_per_timestep_with_an_ann_for_each_encoding():
    curves = {"rate": [0.5], "ttfs_clamped": [0.6]}
    axes = plotting.accuracy_per_timestep(curves, {"ttfs_clamped": 0.9}).axes[0]
    assert axes.lines[2].get_label() == "ANN for ttfs_clamped (90.00%)"
    assert axes.lines[2].get_color() == axes.lines[1].get_color()


def test_lines_differ_without_colour():
    axes = plotting.accuracy_per_timestep({name: [0.1, 0.2] for name in VGG}).axes[0]
    looks = {(line.get_linestyle(), line.get_marker()) for line in axes.lines[:8]}
    assert len(looks) == 8
    assert len({(line.get_color(), *look) for line, look in zip(axes.lines, itertools.repeat(()))}) == 7
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == len(VGG)


def test_accuracy_per_operations_leaves_out_zero_operations():
    curves = {"rate": ([0, 10, 100], [0.1, 0.5, 0.9]), "silent": ([0, 0], [0.1, 0.1])}
    axes = plotting.accuracy_per_operations(curves, ann_accuracy=0.95, ann_operations=1000).axes[0]
    rate, silent, ann, star = axes.lines
    np.testing.assert_allclose(rate.get_xydata(), [[10, 50], [100, 90]])
    assert silent.get_label() == "silent (no operations)"
    np.testing.assert_allclose(ann.get_ydata(), 95)
    np.testing.assert_allclose(star.get_xydata(), [[1000, 95]])
    assert axes.get_xscale() == "log"


def test_pareto_front_fills_what_nothing_beats():
    accuracy, latency, operations = [0.9, 0.8, 0.7, 0.9], [100, 10, 50, 100], [1e6, 1e5, 1e4, 2e6]
    figure = plotting.pareto_front(accuracy, latency, operations)  # the last is the first with more operations
    for axes, cost in zip(figure.axes, (latency, operations), strict=True):
        front, dominated = axes.collections
        np.testing.assert_allclose(front.get_offsets(), [[cost[i], 100 * accuracy[i]] for i in range(3)])
        np.testing.assert_allclose(dominated.get_offsets(), [[cost[3], 90]])
        assert len(front.get_facecolors()) == 1 and len(dominated.get_facecolors()) == 0
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [80, 80, 90, 90])
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [70, 80, 90, 90])


def test_pareto_front_keeps_equal_configurations():
    figure = plotting.pareto_front([0.9, 0.9], [5, 5], [10, 10])
    assert len(figure.axes[0].collections[0].get_offsets()) == 2


# ---------------------------------------------------------------- weights, images, repetitions


def test_weight_distributions_are_percent_per_bin():
    weights = RNG.normal(size=(3, 3, 8, 4)).astype(np.float32)
    figure = plotting.weight_distributions({"conv": weights, "constant": np.full(5, 0.5)})
    values, edges, _ = figure.axes[0].patches[0].get_data()
    np.testing.assert_allclose(values.sum(), 100)
    np.testing.assert_allclose([edges[0], edges[-1]], [weights.min(), weights.max()], rtol=1e-6)
    np.testing.assert_allclose(values[0], 100 * (weights < edges[1]).mean())
    assert titles(figure) == ["conv\nweights: 288", "constant\nweights: 5"]


def test_image_and_spike_times():
    image = np.array([[0.0, 0.5], [1.0, 0.25]])
    times = np.array([[0, 2], [1, 4]])
    figure = plotting.image_and_spike_times(image[..., None], times, timesteps=8)
    left, right = figure.axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), image)
    drawn = right.images[0].get_array()
    np.testing.assert_array_equal(drawn.filled(0), times)
    np.testing.assert_array_equal(drawn.mask, times == 0)
    assert right.images[0].get_clim() == (1, 8)
    assert titles(figure) == ["image", "first spikes\n25.0% silent (grey)"]
    assert figure.axes[2].get_ylabel() == "first spike / time step"


def test_image_with_many_channels_shows_some_and_says_which():
    times = np.arange(2 * 2 * 64).reshape(2, 2, 64)
    figure = plotting.image_and_spike_times(np.full((2, 2, 4), 300.0), times, max_channels=3)
    names = [title.split("\n")[0] for title in titles(figure)]
    assert names == ["image", "first spikes, 1 of 64", "first spikes, 33 of 64", "first spikes, 64 of 64"]
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array().filled(0), times[..., 32])
    assert "mean of 4 channels" in titles(figure)[0]


def test_box_plot_shows_every_repetition_and_the_median():
    values = {"rate": [1.0, 5.0, 2.0], "one": [7.0]}
    axes = plotting.repeated_box_plot(values, "accuracy / %").axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in dots] == [[1, 5, 2], [7]]
    medians = [line for line in axes.lines if line.get_color() == plotting.VERMILLION]
    assert [line.get_ydata()[0] for line in medians] == [2, 7]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["rate\nn=3", "one\nn=1"]


def test_names_of_many_boxes_are_whole(tmp_path):
    values = {f"encoding={code}, timesteps={steps}": [1.0, 2.0] for code in VGG[:6] for steps in (8, 16)}
    figure = plotting.repeated_box_plot(values, "accuracy / %")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"{name} (n=2)" for name in values]
    assert axes.get_xlabel() == "accuracy / %" and axes.yaxis_inverted()
    plotting.save(figure, tmp_path / "boxes.png")  # draws it
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(boxes))


@pytest.mark.parametrize("band", ["confidence", "minmax"])
def test_curves_draw_mean_and_band(band):
    runs = np.array([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]])
    figure = plotting.repeated_curves([10, 20], {"a": runs, "single": [1, 2]}, "N", "loss", band=band)
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[10, 3], [20, 4]])
    half = 4.303 * np.sqrt(7) / np.sqrt(3)  # Student's t with two degrees of freedom; variance (4 + 1 + 9) / 2
    low, high = (3 - half, 3 + half) if band == "confidence" else (1, 6)
    (shade,) = axes.collections  # none for the single run
    heights = shade.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([heights.min(), heights.max()], [low, high])
    names = {"confidence": "95% confidence", "minmax": "min to max"}
    assert axes.lines[0].get_label() == f"a ({names[band]}, n=3)" and axes.lines[1].get_label() == "single"


def test_confidence_is_continuous_beyond_the_table():
    sample = RNG.normal(size=(32, 1))  # 31 degrees of freedom: t = 2.0395
    low, high = plotting.confidence_95(sample)
    t = (high - low)[0] / 2 / sample.std(ddof=1) * np.sqrt(32)
    assert t == pytest.approx(2.0395, abs=1e-4)


def test_swept_values_are_the_ticks_of_a_logarithmic_axis():
    axes = plotting.repeated_curves([8, 16, 32], {"a": [3, 2, 1]}, "N", "loss", log_x=True, log_y=True).axes[0]
    assert list(axes.get_xticks()) == [8, 16, 32]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_short_names_stay_different():
    names = [f"a_block_of_a_very_long_name_{i}_with_the_same_end_of_it" for i in range(12)]
    short = plotting._short(names, 20)
    assert len(set(short)) == 12 and max(map(len, short)) <= 20
    assert plotting._short(["conv"], 20) == ["conv"]


# ---------------------------------------------------------------- save


def test_save_writes_150_dpi_and_nothing_else(tmp_path):
    figure = plotting.total_spikes(RASTERS)
    path = plotting.save(figure, tmp_path / "new" / "spikes.png")
    assert [p.name for p in path.parent.iterdir()] == ["spikes.png"]
    width, _ = np.frombuffer(path.read_bytes()[16:24], ">u4")
    assert 0.9 < width / (7.2 * 150) < 1.1
    plotting.save(figure, str(tmp_path / "spikes.pdf"))
    assert (tmp_path / "spikes.pdf").read_bytes().startswith(b"%PDF")


def test_save_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    figure = plotting.total_spikes(RASTERS)
    (tmp_path / "spikes.png").write_text("old")

    def fail(path, **_):
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plotting.save(figure, tmp_path / "spikes.png")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("spikes.png", "old")]


# ---------------------------------------------------------------- refusals

P = plotting
ONE = np.ones((4, 2))
REFUSED = {
    "no dict": (lambda: P.total_spikes(CONV), "`rasters` must be a dict"),
    "empty dict": (lambda: P.weight_distributions({}), "at least one entry"),
    "time only": (lambda: P.total_spikes({"a": np.ones(5)}), r"\(T, \*neuron_shape\)"),
    "unequal T": (lambda: P.total_spikes({"a": ONE, "b": ONE[:3]}), r"the same for all layers.*\(3, 2\)"),
    "no 0/1": (lambda: P.who_spiked_when({"a": 0.5 * ONE}), r"whole numbers.*rasters\['a'\].*0.5"),
    "nan": (lambda: P.weight_distributions({"a": [np.nan, 1]}), r"finite.*1 of 2"),
    "empty": (lambda: P.weight_distributions({"a": []}), "must not be empty"),
    "text": (lambda: P.weight_distributions({"a": ["x"]}), "array of numbers"),
    "ragged": (lambda: P.weight_distributions({"a": [[1], [1, 2]]}), "array of numbers"),
    "unknown layer": (lambda: P.plot_spikes_as_eventplot(RASTERS, layers=["x"]), r"`layers`.*x.*conv"),
    "no layer": (lambda: P.plot_spikes_as_eventplot(RASTERS, layers=[]), "at least one layer"),
    "other layer": (lambda: P.plot_spikes_as_eventplot(RASTERS, ["conv"], {"dense": [0]}), "`neurons`.*dense"),
    "index": (lambda: P.plot_spikes_as_eventplot(RASTERS, neurons={"conv": [4]}), r"neurons\['conv'\].*\[0, 3\]"),
    "half index": (lambda: P.plot_spikes_as_eventplot(RASTERS, neurons={"conv": [0.5]}), "whole numbers"),
    "no neurons": (lambda: P.who_spiked_when(RASTERS, max_neurons=0), "max_neurons=0"),
    "negative": (lambda: P.spike_counts_per_layer({"a": -ONE}), r"\[0, infinity\].*-1"),
    "samples": (lambda: P.total_spikes_per_layer({"a": np.ones(3)}), r"array\[None\]"),
    "late": (lambda: P.first_spike_times_per_layer({"a": 9 * ONE}, timesteps=8), r"timesteps=8.*9"),
    "shapes": (lambda: P.ann_snn_correlation({"a": (ONE, ONE[:2])}), r"equal shapes.*\(4, 2\) and \(2, 2\)"),
    "no pair": (lambda: P.ann_snn_correlation({"a": ONE}), "pair of arrays.*ndarray"),
    "percent": (lambda: P.accuracy_per_timestep({"a": [98.7]}), r"not percent.*98.7"),
    "ann percent": (lambda: P.accuracy_per_timestep({"a": [0.9]}, 98.7), "ann_accuracy.*98.7"),
    "other ann": (lambda: P.accuracy_per_timestep({"a": [0.9]}, {"b": 0.9}), "`ann_accuracy`.*b"),
    "ann alone": (lambda: P.accuracy_per_operations({"a": ([1], [1])}, ann_operations=5), "needs `ann_accuracy`"),
    "operations": (lambda: P.accuracy_per_operations({"a": ([-1], [1])}), "-1"),
    "entries": (lambda: P.pareto_front([0.5, 0.6], [1, 2], [5]), "one entry per configuration"),
    "labels": (lambda: P.pareto_front([0.5, 0.6], [1, 2], [5, 6], ["a"]), "one entry per configuration"),
    "image": (lambda: P.image_and_spike_times(np.ones((1, 8, 8, 3)), np.ones((8, 8))), "without the batch axis"),
    "image size": (lambda: P.image_and_spike_times(np.ones((8, 8)), np.ones((4, 4))), "equal in h and w"),
    "boxes": (lambda: P.repeated_box_plot({"a": ONE}, "y"), "1 axis"),
    "order": (lambda: P.repeated_curves([2, 1], {"a": [1, 2]}, "x", "y"), "must increase"),
    "columns": (lambda: P.repeated_curves([1, 2], {"a": [1, 2, 3]}, "x", "y"), r"\(repetitions, 2\)"),
    "band": (lambda: P.repeated_curves([1], {"a": [1]}, "x", "y", band="std"), "band='std'"),
    "log x": (lambda: P.repeated_curves([0, 1], {"a": [1, 1]}, "x", "y", log_x=True), "log_x=False"),
    "log y": (lambda: P.repeated_curves([1, 2], {"a": [1, 0]}, "x", "y", log_y=True), "log_y=False"),
    "suffix": (lambda: P.save(P.total_spikes(RASTERS), "figure.xyz"), "figure.xyz"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"(?s){message}") as error:
        call()
    assert "Received: " in str(error.value)
