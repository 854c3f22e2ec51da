"""From an ANN to a spiking network: read, fold, normalise, assemble, verify; then measure.

    snn = convert_ann_to_snn(ann, calibration_images, encoding="rate")
    print(conversion_report(snn))

Reading turns the ANN into a graph of nodes (`spiking.folding`): synapses with BatchNorm folded into them, neurons, max
poolings, relays that join, read-outs. Each ANN layer type has one converter (`spiking/folding/converters.py`), looked
up by exact type; what has none is traced or refused before any work.
"""

import functools
import logging
from collections.abc import Callable, Iterator

import numpy as np

import spiking
from spiking.analysis.accuracy import ann_accuracy, predict_batch, snn_accuracy, snn_accuracy_per_timestep
from spiking.analysis.batches import BATCH_SIZE, image_batches, labelled_batches
from spiking.analysis.diagnosis import Diagnosis
from spiking.analysis.diagnosis import diagnose as diagnose_layers
from spiking.analysis.latency import EarlyExit, early_exit
from spiking.analysis.ranges import Extent, expected_range, warn_of_other_scale
from spiking.analysis.statistics import Analysis, analyse
from spiking.analysis.verification import Verification, all_layer_activities
from spiking.analysis.verification import verify as compare
from spiking.checks import check_choice
from spiking.encoding import Encoding
from spiking.exchange.nir import export_nir, host_input
from spiking.exchange.nir_reader import read_nir
from spiking.folding.converters import CONVERTERS, converts
from spiking.folding.graph import FoldedGraph, Neurons
from spiking.folding.reader import ConversionError, read
from spiking.folding.rows import Refusal
from spiking.network.assembly import assemble
from spiking.network.model import SpikingModel
from spiking.runs.summaries import conversion_report
from spiking.scaling.calibration import Calibration, measure
from spiking.scaling.correction import CHOICES, NONE, correct, default_correction

__all__ = [
    "CONVERTERS", "Calibration", "ConversionError", "Verification", "ann_accuracy", "ann_and_snn_activations_per_layer",
    "assemble", "calibrate", "conversion_report", "convert_ann_to_snn", "converts", "diagnose", "export_nir",
    "host_input", "image_batches", "labelled_batches", "predict_batch", "read", "read_nir", "scales_of",
    "snn_accuracy", "snn_accuracy_per_timestep", "snn_activation_analysis", "snn_early_exit", "verify",
]  # fmt: skip

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------------------------------
# Calibration


def calibrate(
    ann,
    images,
    method: str = "percentile",
    *,
    percentile: float = 99.9,
    per_channel: bool = False,
    levels: int = 100,
) -> Calibration:
    """Measures the scale λ of every layer, in one pass and constant memory; print it for a report.

    Args:
        ann: the ANN, or what `read` made of it.
        images: of the training set, in any form that `spiking/analysis/batches.py` tells.
        method, percentile, per_channel, levels: see `spiking.calibration.measure`.

    Returns:
        The scales, which `convert_ann_to_snn` takes in place of the images.
    """
    graph, extent = read(ann), Extent()
    batches = extent.watch(image_batches(images, graph.inputs, "calibration"))
    found = measure(graph, batches, method, percentile=percentile, per_channel=per_channel, levels=levels)
    found.image_range = extent.range
    warn_of_other_scale(found.image_range, expected_range(graph.ann), "calibration")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Converting


def convert_ann_to_snn(
    ann,
    calibration,
    encoding: str = "rate",
    timesteps: int | None = None,
    *,
    threshold: float | None = None,
    norm_percentile: float | None = None,
    normalisation: str | None = None,
    per_channel: bool | None = None,
    correction: str | None = None,
    verbose: int = 0,
    **options,
) -> SpikingModel:
    """Converts an ANN into a spiking network.

    Args:
        ann: a built and trained Keras model, or what `read` made of it; it is left as it is.
        calibration: images of the training set that set the scale of every layer, in any form that
            `spiking/analysis/batches.py` tells; or what `calibrate` returned.
        encoding: name of the temporal code, see `spiking.ENCODINGS`.
        timesteps: number of time steps; `None` for the code's own.
        threshold: firing threshold; `None` for the code's own, which may follow from `timesteps` and the depth.
        norm_percentile: percentile of a layer's activations that becomes full activity, in (0, 100]; `None` for the
            code's own.
        normalisation: how full activity is chosen: "percentile", "max", or "mse" for the least mean square error at
            this number of time steps; `None` for the code's own.
        per_channel: full activity per channel, or per layer; `None` for the code's own.
        correction: "shifts" or "output" fits away what rounding to time steps does to the network, on the calibration
            images and without their labels, see `spiking.scaling.correction`; for codes that round to nearest. "none"
            for none; `None` for the code's own: "output" for windows of at most 8 levels, with at least 500 images
            that can be read several times, and where nothing is said of how full activity is chosen.
        verbose: 1 for a progress bar of the correction.
        **options: further settings of the code, see `spiking.get_encoding(encoding).options`.

    Returns:
        The spiking network: a Keras model, uncompiled, that takes the ANN's images and returns the ANN's kind of
        output. `conversion_report(snn)` tells what became of each layer.

    Raises:
        ConversionError: the ANN holds something that cannot be converted.
        ValueError: a setting is unknown, out of range or contradicts a finished calibration, or the calibration (its
            images) is not the ANN's.
    """
    choice = {"normalisation": normalisation, "norm_percentile": norm_percentile, "per_channel": per_channel}
    code = spiking.get_encoding(encoding).configured(timesteps, threshold, **options)
    graph, code, found = _prepared(ann, calibration, code, correction, choice, verbose)
    _remark(graph, code)
    return assemble(graph, code, found, name=f"{graph.name}_{code.name}")


def scales_of(
    ann, calibration, encoding: str = "rate", timesteps: int | None = None, *, threshold: float | None = None,
    norm_percentile: float | None = None, normalisation: str | None = None, per_channel: bool | None = None,
    correction: str | None = None, verbose: int = 0, **options,
) -> Calibration:  # fmt: skip
    """The scales, corrected, with which `convert_ann_to_snn` would convert; it takes them in place of the images.

    For several devices: a correction is fitted on one, outside the scope of a `tf.distribute` strategy, in which the
    network is made.

    Args, Raises: as of `convert_ann_to_snn`.
    """
    choice = {"normalisation": normalisation, "norm_percentile": norm_percentile, "per_channel": per_channel}
    code = spiking.get_encoding(encoding).configured(timesteps, threshold, **options)
    return _prepared(ann, calibration, code, correction, choice, verbose)[-1]


def _prepared(ann, calibration, code: Encoding, correction: str | None, choice: dict, verbose: int):
    """The folded network, the code fitted to it, and its scales."""
    _check_correction(code, correction, calibration)
    graph = read(ann, _refused_by(code))
    code = _fitted(code, graph)
    found = _calibrated(graph, calibration, code, correction, choice)
    _check_signs(found, code)
    if correction is None and not isinstance(calibration, Calibration | Iterator) and set(choice.values()) == {None}:
        correction = default_correction(code, graph, found)
    if correction not in (None, NONE):
        logger.info("correction=%r is fitted on %d images", correction, found.images)
        batches = functools.partial(image_batches, calibration, graph.inputs, "calibration")
        found = correct(correction, graph, batches, found, code.rounding_levels, code.full_activity, verbose)
    return graph, code, found


def _fitted(code: Encoding, graph: FoldedGraph) -> Encoding:
    """The code with the settings that follow from the network."""
    code = code.at_depth(graph.depth)
    code.total_timesteps(graph.depth)  # refuses more than can be counted
    return code


def _remark(graph: FoldedGraph, code: Encoding) -> None:
    """Warns of settings that will not work in this network."""
    _warn_of_missing_clamps(graph, code)
    for remark in code.remarks(graph.depth):
        logger.warning("%s: %s", code.name, remark)


def _calibrated(graph: FoldedGraph, calibration, code: Encoding, correction, choice: dict) -> Calibration:
    """The finished calibration, once it is known to fit; or one made of images, by choice or as the code has it."""
    if isinstance(calibration, Calibration):
        return _check_calibration(calibration, graph, correction, choice)
    chosen = {name: getattr(code, name) if value is None else value for name, value in choice.items()}
    percentile = chosen.pop("norm_percentile")
    method, levels = chosen.pop("normalisation"), code.rounding_levels or code.timesteps
    return calibrate(graph, calibration, method, percentile=percentile, levels=levels, **chosen)


def _check_correction(code: Encoding, correction: str | None, calibration) -> None:
    if correction is not None:
        check_choice("correction", correction, CHOICES)
    if correction in (None, NONE):
        return
    if code.rounding_levels is None:
        raise ValueError(
            "A correction is for neurons that round to the nearest level: encoding='ttfs_exact', 'radix', or 'rate' "
            f"with initial_potential=0.5. Received: correction={correction!r} with encoding={code.name!r}"
        )
    if isinstance(calibration, Iterator):
        raise ValueError(
            "A correction reads the calibration images several times. Received: a generator or another iterator, which "
            "gives them once. Give a callable that makes it anew, or an array."
        )


def _check_calibration(calibration: Calibration, graph: FoldedGraph, correction, choice: dict) -> Calibration:
    calibration.check(graph, **choice)
    if correction not in (None, NONE):
        raise ValueError(
            f"A correction is fitted on images. Received: correction={correction!r} with a finished calibration. Give "
            "the images instead."
        )
    return calibration


def _check_signs(found: Calibration, code: Encoding) -> None:
    if found.input_minimum < 0 and not code.signed_input:
        raise ValueError(
            f"Input spikes of the encoding {code.name!r} stand for intensities, which are not negative. Received: "
            f"calibration images (behind what acts on them) with values down to {found.input_minimum:g}. Shift the "
            "data into [0, 1], or take a code with input as current."
        )


def _refused_by(code: Encoding) -> Callable[[Neurons], Refusal | None]:
    """Whether neurons compute what the code cannot carry."""

    def refusal(node: Neurons) -> Refusal | None:
        activation = node.activation
        if code.carries(activation):
            return None
        able = [name for name, other in spiking.ENCODINGS.items() if other.carries(activation)]
        clamp = f" with threshold={activation.clamp:g}" if activation.clamp else ""
        what = f"activation={activation.name!r}{clamp}, which neurons of the encoding {code.name!r} do not compute"
        return Refusal(what, f"Take an encoding out of {able}, or train the network with ReLU.")

    return refusal


def _warn_of_missing_clamps(graph: FoldedGraph, code: Encoding) -> None:
    clamped = [name for name, node in graph.neurons.items() if node.activation.clamp]
    if code.needs_clamp and len(clamped) < len(graph.neurons):
        logger.warning(
            "%s is for ANNs trained with the clamped ReLU, keras.layers.ReLU(threshold=beta); %d of %d layers have "
            "none, so their small activations are lost as late spikes.",
            code.name, len(graph.neurons) - len(clamped), len(graph.neurons),
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def verify(ann, snn: SpikingModel, images, batch_size: int = BATCH_SIZE) -> Verification:
    """Compares a spiking network with the ANN it came from, as its task wants it: see `Verification`.

    Args:
        ann: the ANN.
        snn: what `convert_ann_to_snn` made of it.
        images: in any form that `spiking/analysis/batches.py` tells.
        batch_size: of arrays.
    """
    graph = read(ann)
    return compare(graph, snn, image_batches(images, snn, "images", batch_size))


def ann_and_snn_activations_per_layer(ann, snn: SpikingModel, images) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The ANN's activations beside the SNN's activities, per hidden layer, in the ANN's units.

    Args:
        ann, snn: the two networks.
        images: in any form; everything is kept, so some hundred at most.

    Returns:
        Layer name -> (ANN activations, SNN activities), each `(images, …)`. What a spike train stands for is
        `Encoding.activity`; for the base ttfs code that is a ranking, not the ANN's value.
    """
    return all_layer_activities(read(ann), snn, image_batches(images, snn))


def snn_activation_analysis(
    snn: SpikingModel, images, labels=None, batch_size: int = BATCH_SIZE, ann=None, hardware: str = "45nm_float32",
    neuron_updates: bool = False,
) -> Analysis:
    """Spikes, first spike times, operations, energy and, with labels, accuracy, in one pass over the images.

    Args:
        snn: the spiking network.
        images: in any form that `spiking/analysis/batches.py` tells.
        labels: as `labelled_batches` takes them; None for none, or if `images` brings them.
        batch_size: of arrays.
        ann: the ANN it came from, for its effective MACs; None to leave them out.
        hardware: whose operations the energies are of, a name of `spiking.analysis.energy.HARDWARE`.
        neuron_updates: whether the SNN's energy holds the updates of its neurons, too.
    """
    batches = labelled_batches(snn, images, labels, batch_size, required=False)
    return analyse(snn, batches, None if ann is None else read(ann), hardware, neuron_updates)


def diagnose(ann, snn: SpikingModel, images, labels=None, batch_size: int = BATCH_SIZE) -> Diagnosis:
    """Which layer of a converted network loses what, why, and what to change; see `spiking.analysis.diagnosis`.

    Args:
        ann: the ANN.
        snn: what `convert_ann_to_snn` made of it.
        images: in any form that `spiking/analysis/batches.py` tells; some hundred are enough.
        labels: as `labelled_batches` takes them; with them, or if `images` brings them, the best step to stop is that
            of the accuracy, without them that of the agreement with the ANN.
        batch_size: of arrays.
    """
    batches = labelled_batches(snn, images, labels, batch_size, required=False)
    return diagnose_layers(read(ann), snn, batches)


def snn_early_exit(
    snn: SpikingModel, images, labels=None, margins=0.5, batch_size: int = BATCH_SIZE
) -> EarlyExit | list[EarlyExit]:
    """Accuracy and mean latency if every sample stops once its best score leads by the margin.

    Args:
        snn: the spiking network.
        images, labels: as `labelled_batches` takes them.
        margins: one, or several for a list of results, in the units of the output.
        batch_size: of arrays.
    """
    return early_exit(snn, labelled_batches(snn, images, labels, batch_size), margins)
