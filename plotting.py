"""Figures of spiking networks: numpy arrays in, a matplotlib `Figure` out.

Every function returns a `matplotlib.figure.Figure` that belongs to the caller: nothing is shown, no pyplot
state is touched, no display is needed. `save(figure, path)` writes one. Shared conventions:

- Dicts map a layer's name (or a label) to its array, in network order. `title` is the title of the figure.
- Time steps count from 1. A first spike time of 0 means that the neuron stayed silent.
- Accuracies come as fractions in [0, 1] and are drawn in percent.
- What is too much to draw is thinned out by a fixed random choice, and the figure says so. Printed numbers
  (Pearson's r, shares, counts) always come from all values.
- Figures are 18 cm wide, no letter is smaller than 8 pt, and colours (Okabe and Ito 2008, for all kinds of
  colour vision) never stand alone: lines differ in style and marker too.
- Whatever cannot be drawn raises a ValueError that names rule, value and remedy: unusable arrays (empty, NaN,
  infinite, of another shape) everywhere, and what a function's "Raises" adds.
"""

from __future__ import annotations

import inspect
import os
import textwrap
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, MaxNLocator, MultipleLocator, NullLocator
from numpy.typing import ArrayLike

__all__ = [
    "accuracy_per_operations", "accuracy_per_timestep", "ann_snn_correlation", "confidence_95",
    "first_spike_times_per_layer", "image_and_spike_times", "pareto_front", "plot_spikes_as_eventplot",
    "repeated_box_plot", "repeated_curves", "save", "spike_counts_per_layer", "spiking_intensity_per_timestep",
    "total_spikes", "total_spikes_per_layer", "weight_distributions", "who_spiked_when",
]  # fmt: skip

Arrays = Mapping[str, ArrayLike]
Pairs = Mapping[str, tuple[ArrayLike, ArrayLike]]

# Okabe and Ito 2008, "Color Universal Design"; yellow is left out, it vanishes on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, VERMILLION = COLOURS[:2]
NEGATIVE = "#FF00AA"  # spikes that take others back, in every raster
LINE_STYLES = ("-", "--", "-.", ":")  # 4 and 7 share no divisor: 28 lines before a pair repeats
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH = 7.2  # inches
SMALL, NORMAL, LARGE = 8, 9, 11  # points
HISTOGRAM_BINS = 40
DOTS = 2000  # more values than this are drawn as density, not as dots

# Two-sided 95% quantiles of Student's t for 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2).
STUDENT_T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def _shown(rasters: Arrays, layers, neurons, max_neurons: int) -> dict[str, np.ndarray]:
    """Layer -> indices of the neurons to draw, in the order to draw them."""
    layers = [layers] if isinstance(layers, str) else list(rasters if layers is None else layers)
    chosen = dict(neurons or {})
    _check(len(layers) > 0, "`layers` must name at least one layer.", layers)
    _known(layers, rasters, "layers")
    _known(chosen, layers, "neurons")
    _count(max_neurons, "max_neurons")
    shown = {}
    for name in layers:
        total = rasters[name].shape[1]
        shown[name] = _subsample(total, max_neurons)
        if name in chosen:
            shown[name] = _array(chosen[name], f"neurons[{name!r}]", 0, total - 1, ndim=1)
            kind = shown[name].dtype
            _check(kind.kind in "iu", f"`neurons[{name!r}]` must hold whole numbers.", f"dtype {kind}")
    return shown


def plot_spikes_as_eventplot(
    rasters: Arrays,
    layers: Sequence[str] | None = None,
    neurons: Mapping[str, Sequence[int]] | None = None,
    max_neurons: int = 20,
    title: str | None = None,
) -> Figure:
    """Raster of one sample: a row per neuron, a tick per step with spikes, a band per layer; negative spikes in pink.

    Args:
        rasters: layer -> array `(T, *neuron_shape)` of numbers of spikes, time first.
        layers: names of the layers to draw, in this order. Default: all.
        neurons: layer -> indices into the flattened `neuron_shape`, drawn in this order.
        max_neurons: neurons drawn of a layer that `neurons` does not name.
    Returns:
        A figure with one axes, x: time step, y: neurons grouped by layer, the first layer on top.
    Raises:
        ValueError: also for unknown layers and indices out of range.
    """
    rasters = _rasters(rasters)
    shown = _shown(rasters, layers, neurons, max_neurons)
    layers = list(shown)
    rows = sum(map(len, shown.values()))
    few = rows <= 32  # few rows: each one carries its own neuron's index

    figure, (axes,) = _figure(height=1.2 + (0.2 * rows if few else max(3.6, 0.5 * len(layers))))
    ticks, labels, top = [], [], 0.0
    for number, (short, (name, indices)) in enumerate(zip(_short(layers, 26), shown.items(), strict=True)):
        spikes, count, total = rasters[name][:, indices], len(indices), rasters[name].shape[1]
        # Bands are equally high, so that a layer of ten neurons stays visible beside one of thousands.
        height, margin = (float(count), 0.0) if few else (1.0, 0.06)
        offsets = top + margin + (height - 2 * margin) * (np.arange(count) + 0.5) / count
        for sent, colour in ((spikes > 0, COLOURS[number % len(COLOURS)]), (spikes < 0, NEGATIVE)):
            if colour != NEGATIVE or sent.any():
                axes.eventplot(
                    [np.flatnonzero(row) + 1 for row in sent.T],
                    lineoffsets=offsets,
                    linelengths=0.8 if few else 1 / min(count, 20),
                    linewidths=1.5,
                    colors=colour,
                    rasterized=True,
                )
        if not spikes.any():
            _say_silent(axes, rasters[name], y=top + height / 2, transform=axes.get_yaxis_transform())
        ticks.extend(offsets if few else [top + height / 2])
        labels.extend([f"{short} [{i}]" for i in indices] if few else [f"{short}\n{_of(count, total)} neurons"])
        top += height
        if number < len(layers) - 1:
            axes.axhline(top, color="0.45", linewidth=0.6)
    if few:
        axes.hlines(ticks, 0, 1, transform=axes.get_yaxis_transform(), color="0.9", linewidth=0.6, zorder=0)
    axes.set_ylim(top, 0)
    axes.set_yticks(ticks, labels)
    _time_axis(axes, len(rasters[layers[0]]))
    _label(axes, "time step", "layer [index of the neuron]" if few else "neurons by layer")
    return _finish(figure, title)


def who_spiked_when(rasters: Arrays, max_neurons: int = 2000, title: str | None = None) -> Figure:
    """A panel per layer, a dot where a neuron spikes: its index against time step; negative spikes in pink.

    Args:
        rasters: layer -> array `(T, *neuron_shape)` of spikes of one sample, time first.
        max_neurons: neurons drawn per layer.
    Returns:
        A figure with one axes per layer, x: time step, y: index into the flattened `neuron_shape`.
    Raises:
        ValueError: also for rasters of unequal length or with other values than whole numbers.
    """
    _count(max_neurons, "max_neurons")
    figure, panels = _panels(_rasters(rasters))
    for axes, name, raster in panels:
        steps, total = raster.shape
        indices = _subsample(total, max_neurons)
        size = float(np.clip(60 / len(indices), 1.5, 4))
        for sent, colour in ((raster > 0, BLUE), (raster < 0, NEGATIVE)):
            times, rows = np.nonzero(sent[:, indices])
            if colour != NEGATIVE or times.size:
                axes.plot(times + 1, indices[rows], "o", color=colour, ms=size, mew=0, rasterized=True)
        if not raster[:, indices].any():
            _say_silent(axes, raster)
        _time_axis(axes, steps)
        axes.set_ylim(-0.5 - 0.02 * total, total - 0.5 + 0.02 * total)
        _ticks(axes.yaxis, 4, whole=True, short=True)
        _label(axes, "time step", "neuron index", f"{name}\n{_of(len(indices), total)} neurons")
    return _finish(figure, title)


def spiking_intensity_per_timestep(rasters: Arrays, title: str | None = None) -> Figure:
    """A panel per layer: the share of its neurons that spikes in each time step.

    Args:
        rasters: layer -> array `(T, *neuron_shape)` of spikes of one sample, time first.
    Returns:
        A figure with one axes per layer, x: time step, y: neurons that spike, in percent of the layer.
    Raises:
        ValueError: also for rasters of unequal length or with other values than whole numbers.
    """
    figure, panels = _panels(_rasters(rasters))
    for axes, name, raster in panels:
        _bars(axes, 100 * np.mean(raster != 0, axis=1), np.arange(len(raster) + 1) + 0.5)
        if not raster.any():
            _say_silent(axes, raster)
        _time_axis(axes, len(raster))
        _label(axes, "time step", "spiking / %", f"{name}\nspikes: {np.abs(raster).sum():,}")
    return _finish(figure, title)


def total_spikes(rasters: Arrays, title: str | None = None) -> Figure:
    """All spikes of the network up to each time step, of either sign.

    Args:
        rasters: layer -> array `(T, *neuron_shape)` of spikes of one sample, time first.
    Returns:
        A figure with one axes, x: time step, y: spikes of all layers up to and including this step.
    Raises:
        ValueError: also for rasters of unequal length or with other values than whole numbers.
    """
    rasters = _rasters(rasters)
    total = np.cumsum(sum(np.abs(raster).sum(axis=1) for raster in rasters.values()))
    figure, (axes,) = _figure()
    marker = "o" if len(total) == 1 else None
    axes.plot(np.arange(1, len(total) + 1), total, drawstyle="steps-mid", color=BLUE, marker=marker)
    axes.set_ylim(0, max(1, 1.05 * total[-1]))
    _time_axis(axes, len(total))
    _ticks(axes.yaxis, 6, whole=True, short=True)
    if not total[-1]:
        _say(axes, "no spikes")
    _label(axes, "time step", "spikes of all layers so far")
    return _finish(figure, title)


def total_spikes_per_layer(spike_counts: Arrays, title: str | None = None) -> Figure:
    """Spikes per layer and inference, the mean over the samples, with spikes per neuron beside it.

    Args:
        spike_counts: layer -> array `(samples, *neuron_shape)`, spikes of each neuron in one inference.
    Returns:
        A figure with one axes of horizontal bars, the first layer on top. With more than one sample the
        whiskers are one standard deviation over the samples to either side.
    Raises:
        ValueError: also for negative counts.
    """
    counts = _flat(spike_counts, "spike_counts")
    samples = len(next(iter(counts.values())))
    totals = [array.sum(axis=1, dtype=np.float64) for array in counts.values()]
    means = np.array([total.mean() for total in totals])
    spreads = np.array([total.std(ddof=1) if samples > 1 else 0.0 for total in totals])
    rows = np.arange(len(counts))
    figure, (axes,) = _figure(height=1.3 + 0.28 * len(counts))
    axes.barh(rows, means, height=0.7, color=BLUE)
    shown = spreads > 0
    axes.errorbar(means[shown], rows[shown], xerr=spreads[shown], fmt="none", ecolor="black", capsize=3, elinewidth=1)
    for row, (mean, end, array) in enumerate(zip(means, means + spreads, counts.values(), strict=True)):
        text = f"{_number(mean)} ({_number(mean / array.shape[1])} per neuron)" if mean else "no spikes"
        axes.annotate(text, (end, row), (5, 0), textcoords="offset points", va="center", fontsize=SMALL)
    axes.set_xlim(0, 1.55 * (means + spreads).max() or 1)  # room for the numbers
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_yticks(rows, _short(counts, 26))
    _ticks(axes.xaxis, 6, whole=True, short=True)
    over = "1 sample" if samples == 1 else f"mean ± standard deviation over {samples:,} samples"
    _label(axes, f"spikes per inference ({over})", "layer")
    return _finish(figure, title)


def spike_counts_per_layer(spike_counts: Arrays, title: str | None = None) -> Figure:
    """A panel per layer: how many neurons spike how often in one inference.

    Args:
        spike_counts: layer -> array `(samples, *neuron_shape)`, spikes of each neuron in one inference.
    Returns:
        A figure with one axes per layer, x: spikes per neuron and inference, y: percent of all neurons (over
        all samples). Silent neurons would dwarf the rest: their share stands above the panel.
    Raises:
        ValueError: also for negative counts.
    """
    counts = _flat(spike_counts, "spike_counts")
    limits = [int(np.ceil(array.max())) for array in counts.values()]
    widest = max(4, *limits, 4)  # where neurons spike once at most, one bar would fill the panel
    return _distributions(counts, [limit if limit > 1 else widest for limit in limits], "spikes per neuron", title)


def first_spike_times_per_layer(
    first_spike_times: Arrays, timesteps: int | None = None, title: str | None = None
) -> Figure:
    """A panel per layer: when neurons spike for the first time.

    Args:
        first_spike_times: layer -> array `(samples, *neuron_shape)`, time steps from 1 on, 0 for silent neurons.
        timesteps: end of the time axis, in time steps. Default: the latest first spike of all layers.
    Returns:
        A figure with one axes per layer, x: time step of the first spike, y: percent of all neurons (over all
        samples). The share of silent neurons stands above the panel.
    Raises:
        ValueError: also for negative times and times later than `timesteps`.
    """
    times = _flat(first_spike_times, "first_spike_times")
    end = _last_step(timesteps, max(array.max() for array in times.values()))
    return _distributions(times, [end] * len(times), "first spike / time step", title)


def ann_snn_correlation(activations: Pairs, max_points: int = 200_000, title: str | None = None) -> Figure:
    """A panel per layer: the SNN's activity against the ANN's activation, with Pearson's r.

    Args:
        activations: layer -> (ANN array, SNN array), both `(samples, ...)`, equal shapes, equal units.
        max_points: values drawn per layer.
    Returns:
        A figure with one axes per layer, x: ANN, y: SNN, a dashed line where they are equal. Up to 2000 values
        are dots, more are hexagonal cells in shades of their number, on one scale for all layers.
    Raises:
        ValueError: also for pairs of unequal shape.
    """
    _count(max_points, "max_points")
    figure, panels = _panels(_pairs(activations, "activations"), layout="compressed")
    dense = []
    for axes, name, (ann, snn) in panels:
        drawn = _subsample(ann.size, max_points)
        x, y = ann.ravel()[drawn], snn.ravel()[drawn]
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        margin = 0.05 * (high - low) or max(0.5, 0.05 * abs(high))
        ends = (low - margin, high + margin)
        if x.size > DOTS:
            dense.append(axes.hexbin(x, y, gridsize=30, extent=ends * 2, mincnt=1, cmap="cividis_r", linewidths=0.1))
        else:
            axes.scatter(x, y, s=6, color=BLUE, alpha=0.5, linewidths=0, rasterized=True)
        axes.plot(ends, ends, linestyle="--", color=VERMILLION, linewidth=1, label="SNN = ANN")
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        _ticks(axes.xaxis, 3)
        _ticks(axes.yaxis, 3)
        note = "r undefined (constant)"
        if ann.min() < ann.max() and snn.min() < snn.max():
            note = f"r = {np.corrcoef(ann.ravel(), snn.ravel(), dtype=np.float64)[0, 1]:.4f}"
        short = EngFormatter(places=0, sep="")
        note += "" if x.size == ann.size else f"\n{short(x.size)} of {short(ann.size)} drawn"
        _label(axes, "ANN activation", "SNN activation", f"{name}\n{note}")
    if dense:
        norm = LogNorm(1, max(2, *(cells.get_array().max() for cells in dense)))
        for cells in dense:
            cells.set(norm=norm, rasterized=True)
        bar = figure.colorbar(dense[0], ax=[axes for axes, _, _ in panels], shrink=0.6, aspect=30)
        _label(bar.ax, None, "values per cell")
    _legend(figure, panels[0][0])
    return _finish(figure, title)


def accuracy_per_timestep(
    accuracies: Arrays, ann_accuracy: float | Mapping[str, float] | None = None, title: str | None = None
) -> Figure:
    """Accuracy after each time step, one line per encoding (or whatever the labels stand for).

    Args:
        accuracies: label -> array `(T,)` in [0, 1], the accuracy after time step 1 ... T. T may differ.
        ann_accuracy: the ANN's accuracy in [0, 1], a line for reference; label -> accuracy if ANNs differ.
    Returns:
        A figure with one axes, x: time step, y: accuracy in percent.
    Raises:
        ValueError: also for accuracies outside [0, 1].
    """
    curves = {k: _fractions(v, f"accuracies[{k!r}]") for k, v in _mapping(accuracies, "accuracies").items()}
    figure, (axes,) = _figure()
    for number, (label, accuracy) in enumerate(curves.items()):
        axes.plot(np.arange(1, len(accuracy) + 1), 100 * accuracy, label=label, **_line(number, len(accuracy)))
    if isinstance(ann_accuracy, Mapping):
        _known(ann_accuracy, curves, "ann_accuracy")
        for label, reference in ann_accuracy.items():
            _ann_line(axes, reference, f"ANN for {label}", COLOURS[list(curves).index(label) % len(COLOURS)])
    elif ann_accuracy is not None:
        _ann_line(axes, ann_accuracy)
    _time_axis(axes, max(map(len, curves.values())))
    _label(axes, "time step", "accuracy / %")
    _legend(figure, axes)
    return _finish(figure, title)


def accuracy_per_operations(
    curves: Pairs, ann_accuracy: float | None = None, ann_operations: float | None = None, title: str | None = None
) -> Figure:
    """Accuracy against the synaptic operations it takes, one line per encoding.

    Args:
        curves: label -> (operations per inference `(n,)`, accuracy `(n,)` in [0, 1]), e.g. after each time
            step. Points without any operation are left out, for the axis is logarithmic, and of those at the
            start, before the accuracy changes for the first time, all but the last.
        ann_accuracy: the ANN's accuracy in [0, 1], a line for reference.
        ann_operations: the ANN's MACs per inference, a star on that line.
    Returns:
        A figure with one axes, x: synaptic operations (logarithmic), y: accuracy in percent.
    Raises:
        ValueError: also for negative operations, accuracies outside [0, 1], `ann_operations` alone.
    """
    figure, (axes,) = _figure()
    drawn = 0
    for number, (label, (operations, accuracy)) in enumerate(_pairs(curves, "curves").items()):
        _array(operations, f"curves[{label!r}][0]", low=0)
        _fractions(accuracy, f"curves[{label!r}][1]")
        changed = np.flatnonzero(np.diff(accuracy))
        some = (operations > 0) & (np.arange(accuracy.size) >= (changed[0] if changed.size else 0))
        drawn += some.sum()
        label = label if some.any() else f"{label} (no operations)"
        axes.plot(operations[some], 100 * accuracy[some], label=label, **_line(number, some.sum()))
    if ann_accuracy is not None:
        _ann_line(axes, ann_accuracy)
    if ann_operations is not None:
        _array(ann_operations, "ann_operations", low=1)
        _check(ann_accuracy is not None, "`ann_operations` needs `ann_accuracy` too.", f"{ann_accuracy=}")
        star = {"linestyle": "none", "marker": "*", "markersize": 12, "color": "black", "clip_on": False}
        axes.plot([ann_operations], [100 * ann_accuracy], label="ANN (MACs)", **star)
    axes.set_xscale("log")
    if not drawn:
        _say(axes, "no operations")
    _label(axes, "synaptic operations per inference", "accuracy / %")
    _legend(figure, axes)
    return _finish(figure, title)


def pareto_front(
    accuracy: ArrayLike,
    latency: ArrayLike,
    operations: ArrayLike,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    energy: ArrayLike | None = None,
) -> Figure:
    """Accuracy against latency, synaptic operations and energy; what no other configuration beats is filled.

    A configuration is on the front if no other is at least as good in all of them and better in one.

    Args:
        accuracy: array `(n,)` in [0, 1], one entry per configuration.
        latency: array `(n,)`, time steps.
        operations: array `(n,)`, synaptic operations per inference, at least 1 (the axis is logarithmic).
        labels: n names of the groups the configurations belong to (e.g. encodings): a marker for each.
        energy: array `(n,)`, µJ per image, above 0 (logarithmic); None to leave it out.
    Returns:
        A figure with an axes per cost. The grey line is the best accuracy up to a latency (a number of operations).
    Raises:
        ValueError: also for unequal lengths and values out of range.
    """
    accuracy = _fractions(accuracy, "accuracy")
    costs = {"latency / time steps": _array(latency, "latency", low=0),
             "synaptic operations per inference": _array(operations, "operations", low=1)}  # fmt: skip
    costs |= {} if energy is None else {"energy per image / µJ": _array(energy, "energy", low=0)}
    groups = np.array([""] * len(accuracy) if labels is None else [str(label) for label in labels])
    shapes = [array.shape for array in (accuracy, *costs.values(), groups)]
    rule = "`accuracy`, `latency`, `operations` and `labels` must have one entry per configuration."
    _check(len(set(shapes)) == 1, rule, f"shapes {shapes}")
    rows = np.stack([-accuracy, *costs.values()], axis=1)
    front = np.array([not ((rows <= row).all(axis=1) & (rows < row).any(axis=1)).any() for row in rows])
    figure, panels = _figure(len(costs), height=3.4, sharey=True)
    for axes, (name, cost) in zip(panels, costs.items(), strict=True):
        order = np.lexsort((-accuracy, cost))
        best = 100 * np.maximum.accumulate(accuracy[order])
        for number, group in enumerate(dict.fromkeys(groups)):
            colour = COLOURS[number % len(COLOURS)]
            for on_front, face, size, note in ((front, colour, 36, "front"), (~front, "none", 20, "dominated")):
                drawn = on_front & (groups == group)
                look = {"marker": MARKERS[number % len(MARKERS)], "facecolors": face, "edgecolors": colour}
                if drawn.any():
                    label = f"{group}, {note}" if group else note
                    axes.scatter(cost[drawn], 100 * accuracy[drawn], s=size, label=label, zorder=3, **look)
        axes.plot(cost[order], best, drawstyle="steps-post", color="0.45", linewidth=1, label="best up to here")
        _label(axes, name, "accuracy / %")
    for axes, cost in zip(panels[1:], list(costs.values())[1:], strict=True):
        ticks = LogLocator(subs=((1, 2, 5), (1, 3), (1,))[min(2, int(np.ptp(np.log10(cost))))])
        axes.set(xscale="log", xlim=(cost.min() / 1.6, cost.max() * 1.6))  # wide enough for two ticks
        axes.xaxis.set(major_locator=ticks, minor_locator=NullLocator(), major_formatter="{x:.4g}")
        axes.yaxis.label.set_visible(False)
    _legend(figure, panels[0])
    return _finish(figure, title)


def weight_distributions(weights: Arrays, title: str | None = None) -> Figure:
    """A panel per layer: the distribution of its weights.

    Args:
        weights: layer -> array of any shape.
    Returns:
        A figure with one axes per layer, x: weight, y: percent of the layer's weights per bin.
    Raises:
        ValueError: for arrays that are empty or not finite.
    """
    figure, panels = _panels({k: _array(v, f"weights[{k!r}]") for k, v in _mapping(weights, "weights").items()})
    for axes, name, array in panels:
        counts, edges = np.histogram(array.astype(np.float64), bins=HISTOGRAM_BINS)
        _bars(axes, 100 * counts / array.size, edges)
        axes.axvline(0, color=VERMILLION, linestyle="--", linewidth=0.8)
        limit = 1.05 * np.abs(edges).max()
        axes.set_xlim(-limit, limit)
        _ticks(axes.xaxis, 3)
        _label(axes, "weight", "weights / %", f"{name}\nweights: {array.size:,}")
    return _finish(figure, title)


def image_and_spike_times(
    image: ArrayLike,
    spike_times: ArrayLike,
    timesteps: int | None = None,
    max_channels: int = 5,
    title: str | None = None,
) -> Figure:
    """An image beside the times at which its pixels spike first.

    Args:
        image: array `(h, w)` or `(h, w, c)`. Three channels are shown as colours, other numbers as their mean.
            Values outside [0, 1] are stretched to it.
        spike_times: array `(h, w)` or `(h, w, c)`, time steps from 1 on, 0 for silent pixels (drawn in grey).
        timesteps: end of the colour scale, in time steps. Default: the latest spike.
        max_channels: channels drawn, spread evenly over all of them.
    Returns:
        A figure with the image, an axes per channel of `spike_times`, and their common colour scale.
    Raises:
        ValueError: also for unequal height or width, negative times, and times later than `timesteps`.
    """
    image = _array(image, "image").astype(np.float64)
    times = _array(spike_times, "spike_times", low=0)
    fits = image.ndim in (2, 3) and times.ndim in (2, 3) and image.shape[:2] == times.shape[:2]
    rule = "`image` and `spike_times` must have shapes (h, w) or (h, w, c), equal in h and w."
    _check(fits, rule, f"{image.shape} and {times.shape}", "Pass one sample, without the batch axis.")
    end = _last_step(timesteps, times.max())
    if image.min() < 0 or image.max() > 1:
        image = (image - image.min()) / (np.ptp(image) or 1)
    times = times.reshape(*times.shape[:2], -1)
    channels = times.shape[2]
    count = min(_count(max_channels, "max_channels"), channels)
    drawn = np.linspace(0, channels - 1, count).round().astype(int)
    figure, panels = _figure(1 + count, layout="compressed")
    name = "image"
    if image.ndim == 3 and image.shape[2] != 3:
        name += "" if image.shape[2] == 1 else f"\nmean of {image.shape[2]} channels"
        image = image.mean(axis=2)
    panels[0].imshow(image, cmap="gray", vmin=0, vmax=1)
    _label(panels[0], "column / pixels", "row / pixels", name)
    for axes, channel in zip(panels[1:], drawn, strict=True):
        silent = times[..., channel] == 0
        axes.set_facecolor("0.8")
        masked = np.ma.masked_array(times[..., channel], silent)
        picture = axes.imshow(masked, cmap="cividis", vmin=1, vmax=max(end, 2))
        name = "first spikes" if channels == 1 else f"first spikes, {channel + 1} of {channels}"
        _label(axes, "column / pixels", "row / pixels", f"{name}\n{silent.mean():.1%} silent (grey)")
        if silent.all():
            _say(axes, "no spikes")
    for axes in panels:
        _ticks(axes.xaxis, 4, whole=True)
        _ticks(axes.yaxis, 4, whole=True)
    bar = figure.colorbar(picture, ax=panels, shrink=0.7)
    _ticks(bar.ax.yaxis, 5, whole=True)
    _label(bar.ax, None, "first spike / time step")
    return _finish(figure, title)


def repeated_box_plot(values: Arrays, y_label: str, title: str | None = None) -> Figure:
    """Boxes over the repetitions of an experiment, one per label, every repetition as a dot.

    Args:
        values: label -> array `(repetitions,)`. The number of repetitions may differ.
        y_label: what the values are, with unit, e.g. "accuracy / %". The values are drawn as they come.
    Returns:
        A figure with one axes. Box: quartiles, median; whiskers: the farthest values within 1.5 box heights. Where
        names are long or many the boxes lie, one below the other, so that every name can be read.
    Raises:
        ValueError: for arrays that are empty, not finite or not one-dimensional.
    """
    arrays = {k: _array(v, f"values[{k!r}]", ndim=1) for k, v in _mapping(values, "values").items()}
    names = _short(arrays, 26)
    lying = max(map(len, names)) * len(names) > 75
    figure, (axes,) = _figure(height=0.9 + 0.26 * len(names) if lying else None)
    style = {"widths": 0.5, "showfliers": False, "medianprops": {"color": VERMILLION, "linewidth": 1.6}}
    named = "orientation" in inspect.signature(axes.boxplot).parameters  # Matplotlib 3.10 and later
    style |= ({"orientation": "horizontal"} if named else {"vert": False}) if lying else {}
    axes.boxplot(list(arrays.values()), **style)  # the dots are the fliers
    for position, array in enumerate(arrays.values(), start=1):
        # Spread in the order of the repetitions, not at random: the same values give the same picture.
        spread = np.linspace(-0.12, 0.12, len(array)) if len(array) > 1 else 0
        places = position + spread + 0 * array
        axes.plot(*((array, places) if lying else (places, array)), "o", ms=3.5, color=BLUE, alpha=0.7)
    sizes = [f"n={len(array)}" for array in arrays.values()]
    names = _short(arrays, 60) if lying else names
    names = [f"{a} ({b})" if lying else f"{a}\n{b}" for a, b in zip(names, sizes, strict=True)]
    if lying:
        axes.set_yticks(range(1, len(names) + 1), names)
        axes.invert_yaxis()  # the first on top
    else:
        axes.set_xticks(range(1, len(names) + 1), names)
    labels = "experiment (n repetitions)", y_label
    _label(axes, *(reversed(labels) if lying else labels))
    return _finish(figure, title)


def repeated_curves(
    x: ArrayLike,
    curves: Arrays,
    x_label: str,
    y_label: str,
    band: str = "confidence",
    log_x: bool = False,
    log_y: bool = False,
    title: str | None = None,
) -> Figure:
    """Mean over repetitions against a swept value, one line per label, with a band around it.

    E.g. accuracy against time steps, or the loss of `ttfs_exact` against N on a logarithmic axis.

    Args:
        x: array `(n,)`, the swept values, increasing.
        curves: label -> array `(repetitions, n)`, or `(n,)` for a single run, which has no band.
        x_label: what is swept, with unit, e.g. "time steps N".
        y_label: what is drawn, with unit, e.g. "accuracy / %". The values are drawn as they come.
        band: "confidence" (95% confidence interval of the mean, Student's t) or "minmax".
        log_x: logarithmic x axis.
        log_y: logarithmic y axis.
    Returns:
        A figure with one axes. The legend gives the kind of band and the number of repetitions.
    Raises:
        ValueError: also for shapes that do not fit and values that a logarithmic axis cannot show.
    """
    x = _array(x, "x", ndim=1)
    _check((np.diff(x) > 0).all(), "`x` must increase.", x.tolist(), "Sort `x` and the curves alike.")
    _check(band in ("confidence", "minmax"), "`band` must be 'confidence' or 'minmax'.", f"{band=}")
    log_rule = "A logarithmic axis needs values above 0."
    _check(not log_x or x[0] > 0, log_rule, f"x[0]={x[0]}", "Use log_x=False.")
    figure, (axes,) = _figure()
    for number, (label, values) in enumerate(_mapping(curves, "curves").items()):
        array = np.atleast_2d(_array(values, f"curves[{label!r}]").astype(np.float64))
        rule = f"Curves must have shape (repetitions, {x.size}), one column per entry of `x`."
        fits = array.ndim == 2 and array.shape[1] == x.size
        _check(fits, rule, f"curves[{label!r}] of shape {np.shape(values)}")
        _check(not log_y or array.min() > 0, log_rule, f"curves[{label!r}] with {array.min()}", "Use log_y=False.")
        style, repetitions = _line(number, x.size), len(array)
        if repetitions > 1:
            low, high = confidence_95(array) if band == "confidence" else (array.min(axis=0), array.max(axis=0))
            axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
            label = f"{label} ({'95% confidence' if band == 'confidence' else 'min to max'}, n={repetitions})"
        axes.plot(x, array.mean(axis=0), label=label, **style)
    axes.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    if x.size <= 10 and (log_x or not np.diff(x, 2).any()):  # the swept values themselves, not powers of ten
        axes.xaxis.set(major_locator=FixedLocator(x), minor_locator=NullLocator(), major_formatter="{x:g}")
    _label(axes, x_label, y_label)
    _legend(figure, axes)
    return _finish(figure, title)


def save(figure: Figure, path: str | os.PathLike) -> Path:
    """Writes a figure, 150 dpi, margins cut, in the format of the path's suffix.

    The file appears whole or not at all: it is written beside its place under another name, then moved.

    Args:
        figure: the figure.
        path: the file to write. Missing folders are made, an existing file is replaced.
    Returns:
        The path.
    Raises:
        ValueError: for a suffix that matplotlib cannot write.
    """
    path = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    suffix = path.suffix[1:].lower()
    _check(suffix in formats, f"The path must end in one of {', '.join(formats)}.", f"path={str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        figure.savefig(temporary, format=suffix, dpi=150, bbox_inches="tight")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# ---------------------------------------------------------------- drawing


def _columns(count: int) -> int:
    return {1: 1, 2: 2, 3: 3, 4: 2}.get(count, 3 if count <= 9 else 4)


def _figure(count: int = 1, height: float | None = None, layout: str = "constrained", sharey: bool = False):
    """A figure and its `count` axes in a grid of at most four columns."""
    columns = _columns(count)
    rows = -(-count // columns)
    height = height or 0.4 + rows * (3.4, 2.7, 2.2, 1.85)[columns - 1]
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def _panels(arrays: Mapping, layout: str = "constrained"):
    """A figure and, for each entry of `arrays`, its axes, its name as short as the panel needs, and the entry."""
    figure, panels = _figure(len(arrays), layout=layout)
    names = _short(arrays, (70, 38, 26, 20)[_columns(len(arrays)) - 1])
    return figure, list(zip(panels, names, arrays.values(), strict=True))


def _label(axes: Axes, x: str | None, y: str, title: str | None = None) -> None:
    """Labels, sizes and frame, the same for every axes; `x` is None for colour scales."""
    if x is not None:
        axes.set_xlabel(x, fontsize=NORMAL)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel(y, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.xaxis.get_offset_text().set_fontsize(SMALL)
    axes.yaxis.get_offset_text().set_fontsize(SMALL)
    if title is not None:
        axes.set_title(title, fontsize=SMALL)


def _finish(figure: Figure, title: str | None) -> Figure:
    panels = [axes for axes in figure.axes if axes.get_title()]
    columns = _columns(len(panels))
    for number, axes in enumerate(panels):  # hide the labels that a neighbour to the left or below repeats
        axes.xaxis.label.set_visible(number + columns >= len(panels))
        axes.yaxis.label.set_visible(number % columns == 0)
    figure.align_labels()
    if title is not None:
        figure.suptitle(textwrap.fill(str(title), 75), fontsize=LARGE)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend below the axes, where it covers no data; the figure grows by its height."""
    handles, labels = axes.get_legend_handles_labels()
    labels = _short(labels, 60)
    columns = int(np.clip(88 // (max(map(len, labels)) + 8), 1, len(labels)))
    figure.set_figheight(figure.get_figheight() + 0.17 * (-(-len(labels) // columns) - 2))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=SMALL, handlelength=3.2)


def _line(number: int, points: int) -> dict:
    """Colour, line style and marker of the line with this number; about eight markers a line, not in step."""
    every = max(1, points // 8)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.4,
        "markevery": (number * every // 3 % every, every),
    }


def _ann_line(axes: Axes, accuracy: float, label: str = "ANN", colour: str = "black") -> None:
    percent = 100 * float(_fractions([accuracy], "ann_accuracy")[0])
    axes.axhline(percent, color=colour, linestyle=(0, (1, 1)), linewidth=1.2, label=f"{label} ({percent:.2f}%)")


def _distributions(arrays: Mapping, limits: Sequence[int], x_label: str, title: str | None) -> Figure:
    """Histograms of the values above 0, in bins of whole numbers up to each layer's limit."""
    figure, panels = _panels(arrays)
    for (axes, name, array), limit in zip(panels, limits, strict=True):
        width = -(-limit // HISTOGRAM_BINS)
        edges = np.arange(1, limit + width + 1, width) - 0.5
        counts, _ = np.histogram(array, bins=edges)
        _bars(axes, 100 * counts / array.size, edges)
        silent = 1 - np.count_nonzero(array) / array.size
        if silent == 1:
            _say_silent(axes, array)
        axes.set_xlim(0.5 - 0.02 * limit, edges[-1] + 0.02 * limit)
        _ticks(axes.xaxis, 4, whole=True)
        _label(axes, x_label, "neurons / %", f"{name}\n{silent:.1%} silent")
    return _finish(figure, title)


def _bars(axes: Axes, heights: np.ndarray, edges: np.ndarray) -> None:
    axes.stairs(heights, edges, fill=True, color=BLUE)
    axes.set_ylim(0, 1.05 * heights.max() or 1)
    _ticks(axes.yaxis, 3)
    if not heights.any():
        axes.set_yticks([])


def _ticks(axis, count: int, whole: bool = False, short: bool = False) -> None:
    """About `count` round ticks; `whole`: integers only; `short`: 20k for 20000."""
    few = whole and abs(np.diff(axis.get_view_interval())[0]) < 4
    locator = MaxNLocator(count, integer=whole, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3)
    axis.set_major_locator(MultipleLocator(1) if few else locator)
    if short:
        axis.set_major_formatter(EngFormatter(sep=""))


def _time_axis(axes: Axes, steps: int) -> None:
    axes.set_xlim(0.5 - 0.01 * steps, steps + 0.5 + 0.01 * steps)
    _ticks(axes.xaxis, 4 if axes.get_gridspec().ncols > 1 else 8, whole=True)


def _say(axes: Axes, text: str, y: float = 0.5, transform=None) -> None:
    look = {"ha": "center", "va": "center", "fontsize": NORMAL, "style": "italic", "color": "0.25"}
    axes.text(0.5, y, text, transform=transform or axes.transAxes, **look)


def _say_silent(axes: Axes, spikes: np.ndarray, **place) -> None:
    """For a place without spikes: does the layer have none, or only the neurons drawn?"""
    _say(axes, "no spikes from these neurons" if spikes.any() else "no spikes", **place)


def _short(names: Iterable[str], limit: int) -> list[str]:
    """Names of at most `limit` letters: long ones lose their middle, and get a number if they then look alike."""
    names, half = [str(name) for name in names], limit // 2
    short = [name if len(name) <= limit else f"{name[: limit - half]}…{name[1 - half :]}" for name in names]
    alike = [short.count(name) > 1 for name in short]
    return [f"{i}:{name[len(str(i)) + 1 :]}" if alike[i] else name for i, name in enumerate(short)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _of(count: int, total: int) -> str:
    return f"{total:,}" if count == total else f"{count:,} of {total:,}"


def _subsample(total: int, limit: int) -> np.ndarray:
    """At most `limit` of `total` indices, increasing. Random, since a regular choice can meet the same channel
    again and again; with a fixed seed, so that a figure does not change."""
    if total <= limit:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, limit, replace=False))


def confidence_95(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% confidence interval of the mean over the first axis."""
    n, z = len(array) - 1, 1.959964
    # Beyond the table: Fisher's expansion of t around the normal quantile z.
    t = z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    if n <= len(STUDENT_T_95):
        t = STUDENT_T_95[n - 1]
    mean, half = array.mean(axis=0), t * array.std(axis=0, ddof=1) / np.sqrt(len(array))
    return mean - half, mean + half


# ---------------------------------------------------------------- what may come in


def _check(holds: bool, rule: str, received: object, remedy: str = "") -> None:
    if not holds:
        raise ValueError(f"{rule} Received: {received}. {remedy}".rstrip())


def _mapping(value: Mapping, name: str) -> Mapping:
    rule = f"`{name}` must be a dict with at least one entry."
    _check(isinstance(value, Mapping), rule, f"{name} of type {type(value).__name__}")
    _check(len(value) > 0, rule, "an empty one")
    return value


def _array(value, name: str, low: float | None = None, high: float | None = None, ndim: int | None = None):
    try:
        array = np.asarray(value)
    except ValueError as error:  # nested lists of unequal lengths
        raise ValueError(f"`{name}` must be an array of numbers. Received: {error}") from error
    _check(array.dtype.kind in "biuf", f"`{name}` must be an array of numbers.", f"dtype {array.dtype}")
    wanted = "" if ndim is None else f" and have {ndim} axis"
    fits = array.size > 0 and ndim in (None, array.ndim)
    _check(fits, f"`{name}` must not be empty{wanted}.", f"shape {array.shape}")
    bad = array.size - np.count_nonzero(np.isfinite(array))
    _check(bad == 0, f"`{name}` must be finite.", f"{bad} of {array.size} values NaN or infinite")
    least, most = array.min(), array.max()
    fits = (low is None or least >= low) and (high is None or most <= high)
    _check(fits, f"`{name}` must lie in [{low}, {high or 'infinity'}].", f"values from {least} to {most}")
    return array


def _fractions(value: ArrayLike, name: str) -> np.ndarray:
    return _array(value, f"{name} (a fraction, not percent)", 0, 1, ndim=1).astype(np.float64)


def _pairs(pairs: Pairs, argument: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    checked = {}
    for name, pair in _mapping(pairs, argument).items():
        where = f"{argument}[{name!r}]"
        fits = isinstance(pair, (tuple, list)) and len(pair) == 2
        _check(fits, f"`{where}` must be a pair of arrays.", f"type {type(pair).__name__}")
        first, second = checked[name] = tuple(_array(array, f"{where}[{i}]") for i, array in enumerate(pair))
        shapes, remedy = f"{first.shape} and {second.shape}", "Record both for the same images or time steps."
        _check(first.shape == second.shape, f"The arrays of `{where}` must have equal shapes.", shapes, remedy)
    return checked


def _flat(arrays: Arrays, argument: str, first: str = "samples", low: float | None = 0) -> dict[str, np.ndarray]:
    """Checked arrays, none below `low`, all axes but the first made one."""
    checked = {k: _array(v, f"{argument}[{k!r}]", low=low) for k, v in _mapping(arrays, argument).items()}
    shapes = {name: array.shape for name, array in checked.items()}
    _check(
        min(map(len, shapes.values())) > 1 and len({shape[0] for shape in shapes.values()}) == 1,
        f"`{argument}` must hold arrays of shape ({first}, *neuron_shape), {first} the same for all layers.",
        shapes,
        "Add or remove the axis of time or samples, e.g. array[None] for one sample.",
    )
    return {name: array.reshape(len(array), -1) for name, array in checked.items()}


def _rasters(rasters: Arrays) -> dict[str, np.ndarray]:
    """Checked rasters as whole numbers of spikes, `(T, neurons)`."""
    checked = _flat(rasters, "rasters", "T", low=None)
    for name, array in checked.items():
        checked[name] = array.astype(np.int64)
        whole, received = np.array_equal(checked[name], array), f"rasters[{name!r}] with values up to {array.max()}"
        _check(whole, "Rasters must hold whole numbers of spikes.", received, "Pass the spikes, not potentials.")
    return checked


def _known(names: Iterable[str], known: Iterable[str], argument: str) -> None:
    known, unknown = list(known), [name for name in names if name not in known]
    _check(not unknown, f"`{argument}` must name entries drawn here.", unknown, f"Available: {known}.")


def _last_step(timesteps: int | None, latest: float) -> int:
    if timesteps is None:
        return max(1, int(np.ceil(latest)))
    fits, received = _count(timesteps, "timesteps") >= latest, f"{timesteps=}, latest spike at {latest}"
    _check(fits, "`timesteps` must not be smaller than the latest spike.", received, "Pass the steps simulated.")
    return timesteps


def _count(value: int, name: str) -> int:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    _check(whole and value > 0, f"`{name}` must be a whole number above 0.", f"{name}={value!r}")
    return int(value)
