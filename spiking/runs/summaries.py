"""What logs and reports show of a run: analyses and networks in; numbers, curves, histograms and tables out.

Tags are paths, as TensorBoard groups them. A histogram is an array `(bins, 3)` with the rows left edge, right edge,
count. A table is a list of rows, the first of them the head. Nothing is written here.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from spiking.analysis.energy import DEFAULT, assumptions
from spiking.analysis.latency import latency
from spiking.analysis.statistics import Analysis
from spiking.analysis.verification import Verification
from spiking.folding.linear import is_weighted, kernels_of
from spiking.network.model import SpikingModel
from spiking.network.records import RASTERS

__all__ = [
    "ANALYSIS_METRICS", "BINS", "COMPARED", "LAYER_CURVES", "accuracy_remarks", "activity_histograms",
    "agreement_remarks", "comparison", "comparison_note",
    "conversion_report", "energy_remark", "histogram_of_counts", "histogram_of_values", "latency_remark",
    "layer_curves", "layer_legend", "peak_remark", "rasters", "spike_histograms", "spike_remarks", "weight_histograms",
    "weights_per_layer",
]  # fmt: skip

BINS = 60  # at most, in one histogram

# Metric -> the attribute of `spiking.statistics.Analysis`, where it is explained. Per image; energy in joule. The ANN's
# effective MACs need the ANN in the analysis.
ANALYSIS_METRICS = {
    "snn/spikes_per_neuron": "spikes_per_neuron",
    "snn/activation_sparsity": "activation_sparsity",
    "snn/synaptic_operations": "synaptic_operations",
    "snn/macs": "macs",
    "snn/neuron_updates": "neuron_updates",
    "snn/energy": "snn_energy",
    "ann/macs": "ann_macs",
    "ann/effective_macs": "ann_effective_macs",
    "ann/energy": "ann_energy",
}

# Tag -> the attribute of `spiking.statistics.LayerStatistics`; curves over the layers.
LAYER_CURVES = {
    "snn/no_of_spikes/avg": "spike_mean",
    "snn/no_of_spikes/var": "spike_var",
    "snn/timestep_spikes/avg": "first_spike_time_mean",
    "snn/timestep_spikes/var": "first_spike_time_var",
    "snn/silent_share": "silent_share",
    "snn/saturated_share": "saturated_share",
    "snn/layer_operations": "synaptic_operations",
}


# ---------------------------------------------------------------------------------------------------------------------
# Numbers and curves


def layer_curves(analysis: Analysis) -> dict[str, np.ndarray]:
    """Tag -> one number per hidden layer; NaN for the spike times of a layer that stays silent."""
    return {
        tag: np.array([getattr(layer, name) for layer in analysis.layers], float) for tag, name in LAYER_CURVES.items()
    }


def layer_legend(analysis: Analysis) -> str:
    """Which layer each point of a curve over the layers stands for."""
    names = ", ".join(f"{number} = {layer.name}" for number, layer in enumerate(analysis.layers, 1))
    return f"Step is the number of the layer: {names}."


# ---------------------------------------------------------------------------------------------------------------------
# Histograms


def histogram_of_counts(counts: np.ndarray, first: int = 0) -> np.ndarray:
    """The histogram of whole numbers, from how often each one occurs; neighbours share a bin where they are many.

    Args:
        counts: the number k occurs `counts[k]` times.
        first: numbers below it are left out.
    """
    counts = np.asarray(counts)[first:]
    width = max(1, -(-len(counts) // BINS))
    bins = np.pad(counts, (0, -len(counts) % width)).reshape(-1, width).sum(axis=1)
    left = first - 0.5 + width * np.arange(len(bins))
    return np.stack([left, left + width, bins], axis=1).astype(float)


def histogram_of_values(values: np.ndarray) -> np.ndarray:
    """The histogram of any finite numbers, in bins of equal width."""
    counts, edges = np.histogram(np.asarray(values, float), bins=BINS)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)


def spike_histograms(analysis: Analysis) -> dict[str, np.ndarray]:
    """Tag -> spikes per neuron and image, and the time steps of the first spikes (silent neurons left out)."""
    found = {}
    for layer in analysis.layers:
        found[f"spikes/no_of_spikes/{layer.name}"] = histogram_of_counts(layer.spike_count_histogram)
        found[f"spikes/spike_timesteps/{layer.name}"] = histogram_of_counts(layer.first_spike_time_histogram, first=1)
    return found


def activity_histograms(activities: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Tag -> activations of both networks, in the ANN's units.

    Args:
        activities: layer -> (of the ANN, of the SNN), for some images.
    """
    return {
        f"values/activations/{layer}/{kind}": histogram_of_values(values)
        for layer, pair in activities.items()
        for kind, values in zip(("ann", "snn"), pair, strict=True)
    }


def weights_per_layer(ann, snn: SpikingModel) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Layer -> all entries of its kernels, for both networks; the SNN's after folding and normalisation."""
    in_ann, in_snn = {}, {}
    for path, layer in _innermost(ann):
        if is_weighted(layer):
            name = path[-1] if path[-1] not in in_ann else "_".join(path)
            in_ann[name] = _entries([layer])
    for name, holder in {**snn.plan.relays, **snn.plan.cells}.items():
        if weighted := [layer for layer in holder.synapse_layers if is_weighted(layer)]:
            in_snn[name] = _entries(weighted)
    return in_ann, in_snn


def weight_histograms(ann, snn: SpikingModel) -> dict[str, np.ndarray]:
    """Tag -> the weights of a layer, of both networks."""
    return {
        f"values/weights/{name}/{kind}": histogram_of_values(values)
        for kind, layers in zip(("ann", "snn"), weights_per_layer(ann, snn), strict=True)
        for name, values in layers.items()
    }


def _innermost(model, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """(names on the way to it, layer) of all layers that are no models."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _innermost(layer, (*path, layer.name))
        else:
            yield (*path, layer.name), layer


def _entries(layers: Iterable) -> np.ndarray:
    return np.concatenate([kernel.ravel() for layer in layers for kernel in kernels_of(layer)])


# ---------------------------------------------------------------------------------------------------------------------
# Spikes of one image


def rasters(snn: SpikingModel, image) -> dict[str, np.ndarray]:
    """Layer of neurons -> its spikes for one image (of several inputs a list or dict), `(timesteps, …)`."""
    recorded = snn.simulate(keras.tree.map_structure(lambda x: x[None], image), (RASTERS,)).rasters
    return {name: raster.numpy()[:, 0] for name, raster in recorded.items() if snn.plan.cells[name].holds_neurons}


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def energy_remark(metrics: Iterable[Mapping]) -> str:
    """What the energies of some runs assume: a sentence for each hardware among them.

    Args:
        metrics: of each run, with its settings; runs of version 0.1 had no choice.
    """
    choices = ((each.get("experiment/hardware"), each.get("experiment/neuron_updates")) for each in metrics)
    told = dict.fromkeys((hardware or DEFAULT, bool(updates)) for hardware, updates in choices)
    return " ".join(assumptions(*choice) for choice in told)


def comparison_note(metrics: Mapping[str, Mapping]) -> str:
    """What the columns of `comparison` mean, for the same metrics."""
    return (
        "On the test images. difference: SNN minus ANN, in points. same class, R²: how the SNN's outputs agree with "
        "the ANN's, of several outputs the lowest. latency: the time step from which on the accuracy stays within a "
        "point of the ANN's; a dash where it does not. Spikes, operations and energy are means per image. ops/MACs: "
        "additions and multiply-accumulates of the SNN for each of the ANN's. "
        f"{energy_remark(metrics.values())} The ANN's is for all its MACs. seconds: of simulating the test images here."
    )


# Head, metric, its scale and form. Columns that are empty everywhere are left out.
COMPARED = (
    ("ANN / %", "ann/eval/test", 100, ".2f"),
    ("SNN / %", "snn/eval/test", 100, ".2f"),
    ("difference", "snn/diff/test", 100, "+.2f"),
    ("same class / %", "snn/same_class", 100, ".2f"),
    ("R²", "snn/r_squared", 1, ".4f"),
    ("time steps", "snn/timesteps", 1, ""),
    ("latency", "snn/latency", 1, ""),
    ("spikes/neuron", "snn/spikes_per_neuron", 1, ".2f"),
    ("operations", "snn/synaptic_operations", 1, ",.0f"),
    ("ops/MACs", "ratio/operations", 1, ".2f"),
    ("energy / µJ", "snn/energy", 1e6, ",.3f"),
    ("of the ANN's", "ratio/energy", 1, ".2f"),
    ("seconds", "snn/seconds", 1, ".1f"),
)
WITH = {"snn/latency": "snn/eval/test"}  # a dash says that it never comes near the ANN, if there are accuracies at all


def comparison(metrics: Mapping[str, Mapping]) -> list[tuple[str, ...]]:
    """Table that compares encodings.

    Args:
        metrics: encoding -> its metrics; those not yet analysed are left out.
    """
    rows = [(encoding, _ratios(each)) for encoding, each in metrics.items() if "snn/synaptic_operations" in each]
    columns = [
        (head, [format(scale * each[tag], form) if tag in each else "–" for _, each in rows])
        for head, tag, scale, form in COMPARED
        if any(WITH.get(tag, tag) in each for _, each in rows)
    ]
    body = zip((encoding for encoding, _ in rows), *(cells for _, cells in columns), strict=True)
    return [("encoding", *(head for head, _ in columns)), *body]


def _ratios(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics, and the SNN's costs by the ANN's."""
    operations = (metrics["snn/synaptic_operations"] + metrics.get("snn/macs", 0)) / metrics["ann/macs"]
    return {**metrics, "ratio/operations": operations, "ratio/energy": metrics["snn/energy"] / metrics["ann/energy"]}


def agreement_remarks(verification: Verification | None) -> list[str]:
    """A sentence for each output: how it differs from the ANN's."""
    if verification is None:
        return []
    several = len(verification.outputs) > 1
    return [f"{f'Output {name}' if several else 'The output'} beside the ANN's, {output.images} images: {output}."
            for name, output in verification.outputs.items()]  # fmt: skip


def spike_remarks(analysis: Analysis) -> list[str]:
    """A sentence on negative spikes and on several in one time step; none where there are none."""
    spikes, negative, messages = (
        analysis.spikes_per_neuron, analysis.negative_spikes_per_neuron, analysis.messages_per_neuron
    )  # fmt: skip
    if not negative and not messages < 0.999 * spikes:  # NaN where nobody counted
        return []
    return [f"Of {spikes:.2f} spikes per neuron and image {negative:.2f} are negative; they come in {messages:.2f} "
            "time steps. A step with several is multiplied, not added."]  # fmt: skip


def accuracy_remarks(analysis: Analysis, metrics: Mapping[str, Any]) -> list[str]:
    """Sentences on how soon the answers are right; none without labels."""
    if analysis.accuracy_per_timestep is None:
        return []
    return [latency_remark(analysis, metrics["ann/eval/test"]), peak_remark(analysis)]


def latency_remark(analysis: Analysis, ann_accuracy: float, points: float = 1.0) -> str:
    """A sentence on how soon the spiking network is as good as its ANN."""
    step = latency(analysis.accuracy_per_timestep, ann_accuracy, points)
    if step is None:
        return f"It ends more than {points:g} point{'s' * (points != 1)} of accuracy below the ANN."
    within = f"within {points:g} point{'s' * (points != 1)} of the ANN's accuracy or above it"
    return f"From time step {step} of {analysis.timesteps} on it stays {within}."


def peak_remark(analysis: Analysis) -> str:
    """A sentence on the time step at which most test images are right."""
    curve = analysis.accuracy_per_timestep
    step = int(np.argmax(curve)) + 1
    if curve[-1] == curve[step - 1]:
        return f"Its accuracy is highest, {curve[-1]:.2%}, at the end, and first so at time step {step}."
    return (
        f"Its accuracy peaks at time step {step} of {len(curve)} with {curve[step - 1]:.2%}; at the end it is "
        f"{100 * (curve[step - 1] - curve[-1]):.2f} points lower."
    )


def conversion_report(snn: SpikingModel) -> str:
    """The printable table of what became of each ANN layer."""
    widths = [max(len(row[key]) for row in snn.report) for key in ("layer", "type")]
    lines = [f"{row['layer']:<{widths[0]}}  {row['type']:<{widths[1]}}  {row['result']}" for row in snn.report]
    return "\n".join([f"{'ANN layer':<{widths[0]}}  {'type':<{widths[1]}}  became", *lines])
