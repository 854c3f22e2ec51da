"""From an ANN to a spiking network: read, fold, normalise, assemble, verify; then measure.

    snn = convert_ann_to_snn(ann, calibration_images, encoding="rate")
    print(conversion_report(snn))

Reading turns the ANN into a graph of nodes (`spiking.folding`): synapses with BatchNorm folded into them, neurons, max
poolings, relays that join, read-outs. Each ANN layer type has one converter (`spiking/folding/converters.py`), looked
up by exact type; what has none is traced or refused before any work.
"""

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

import spiking
from spiking.analysis.diagnosis import Diagnosis
from spiking.analysis.diagnosis import diagnose as diagnose_layers
from spiking.analysis.latency import EarlyExit, early_exit
from spiking.analysis.statistics import Analysis, analyse
from spiking.encoding import Encoding
from spiking.folding.converters import CONVERTERS, converts
from spiking.folding.graph import FoldedGraph
from spiking.folding.reader import ConversionError, read
from spiking.network.assembly import assemble
from spiking.network.model import SpikingModel
from spiking.network.records import FIRST_SPIKE_TIMES, READOUTS, SPIKE_COUNTS
from spiking.runs.summaries import conversion_report
from spiking.scaling.calibration import Calibration, measure
from spiking.scaling.correction import correct

__all__ = [
    "CONVERTERS", "Calibration", "ConversionError", "Verification", "ann_accuracy", "ann_and_snn_activations_per_layer",
    "assemble", "calibrate", "conversion_report", "convert_ann_to_snn", "converts", "diagnose", "image_batches",
    "labelled_batches", "predict_batch", "read", "snn_accuracy", "snn_accuracy_per_timestep", "snn_activation_analysis",
    "snn_early_exit", "verify",
]  # fmt: skip

logger = logging.getLogger(__name__)

BATCH_SIZE = 100

# ---------------------------------------------------------------------------------------------------------------------
# Calibration images


def image_batches(data, input_shape, what: str = "calibration", batch_size: int = BATCH_SIZE) -> Iterator[np.ndarray]:
    """Checked batches of images.

    Args:
        data: an array `(images, …)`, a batched `tf.data.Dataset` of images or (images, labels), or a callable that
            returns an iterator over such batches.
        input_shape: of one image.
        what: the argument's name, for errors.

    Raises:
        ValueError: no images, images of another shape, NaN or infinite values.
    """
    if callable(data):
        batches = data()
    elif isinstance(data, tf.data.Dataset):
        batches = iter(data)
    else:
        array = np.asarray(data)
        batches = (array[start : start + batch_size] for start in range(0, max(len(array), 1), batch_size))
    seen = 0
    for batch in batches:
        images = np.asarray(batch[0] if isinstance(batch, tuple) else batch, np.float32)
        if images.shape[1:] != tuple(input_shape):
            raise ValueError(
                f"{what} holds batches of the ANN's images, shape (batch, {', '.join(map(str, input_shape))}). "
                f"Received: shape {images.shape}"
            )
        if not np.all(np.isfinite(images)):
            raise ValueError(f"{what} images must be finite. Received: NaN or infinity. Clean the data first.")
        seen += len(images)
        if len(images):
            yield images
    if not seen:
        raise ValueError(f"{what} needs at least one image. Received: none.")


def _input_shape(graph: FoldedGraph) -> tuple[int, ...]:
    """Of one image."""
    return tuple(keras.tree.flatten(graph.inputs)[0].shape)[1:]


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
        images: of the training set, as `image_batches` takes them.
        method, percentile, per_channel, levels: see `spiking.calibration.measure`.

    Returns:
        The scales, which `convert_ann_to_snn` takes in place of the images.
    """
    folded = read(ann)
    batches = image_batches(images, _input_shape(folded))
    return measure(folded, batches, method, percentile=percentile, per_channel=per_channel, levels=levels)


# ---------------------------------------------------------------------------------------------------------------------
# Assembling the spiking network


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
        ann: a built and trained `keras.Sequential`, or a functional model that is a plain chain; it is left as it is.
        calibration: images of the training set that set the scale of every layer: an array, a `tf.data.Dataset`, or a
            callable returning an iterator of batches; or what `calibrate` returned.
        encoding: name of the temporal code, see `spiking.ENCODINGS`.
        timesteps: number of time steps; `None` for the code's own.
        threshold: firing threshold; `None` for the code's own.
        norm_percentile: percentile of a layer's activations that becomes full activity, in (0, 100]; `None` for 99.9.
        normalisation: how full activity is chosen: "percentile", "max", or "mse" for the least mean square error at
            this number of time steps; `None` for the code's own.
        per_channel: full activity per channel, or per layer; `None` for the code's own.
        correction: "shifts" or "output" fits away what rounding to time steps does to the network, on the calibration
            images and without their labels, see `spiking.correction`; for codes that round to nearest. `None` for
            none.
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
    code = spiking.get_encoding(encoding).configured(timesteps, threshold, **options)
    _check_correction(code, correction)
    graph = read(ann)
    _check_clamps(graph, code)
    code.total_timesteps(graph.depth)  # refuses more than can be counted
    if isinstance(calibration, Calibration):
        choice = {"normalisation": normalisation, "norm_percentile": norm_percentile, "per_channel": per_channel}
        found = _check_calibration(calibration, graph, correction, choice)
    else:
        found = calibrate(
            graph,
            calibration,
            code.normalisation if normalisation is None else normalisation,
            percentile=99.9 if norm_percentile is None else norm_percentile,
            per_channel=code.per_channel if per_channel is None else per_channel,
            levels=code.timesteps,
        )
    _check_signs(found, code)
    if correction:
        batches = functools.partial(image_batches, calibration, _input_shape(graph))
        found = correct(correction, graph, batches, found, code.rounding_levels, code.spike_value, verbose)
    for remark in code.remarks(graph.depth):
        logger.warning("%s: %s", code.name, remark)
    return assemble(graph, code, found, name=f"{graph.name}_{code.name}")


def _check_correction(code: Encoding, correction: str | None) -> None:
    if correction and code.rounding_levels is None:
        raise ValueError(
            "A correction is for neurons that round to the nearest level: encoding='ttfs_exact', or 'rate' with "
            f"initial_potential=0.5. Received: correction={correction!r} with encoding={code.name!r}"
        )


def _check_calibration(calibration: Calibration, graph: FoldedGraph, correction, choice: dict) -> Calibration:
    calibration.check(graph, **choice)
    if correction:
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


def _check_clamps(graph: FoldedGraph, code: Encoding) -> None:
    clamped = {name: node.activation.clamp for name, node in graph.neurons.items() if node.activation.clamp}
    if clamped and code.clamp([]) is None:
        able = [name for name, other in spiking.ENCODINGS.items() if other.clamp([]) is not None]
        named = ", ".join(f"'{name}' (threshold={clamp:g})" for name, clamp in clamped.items())
        raise ConversionError(
            f"Layers with a ReLU that has a threshold cannot be converted: {named}. Neurons of the encoding "
            f"{code.name!r} do not stay silent up to an activation. Take an encoding out of {able}."
        )
    if code.needs_clamp and len(clamped) < len(graph.neurons):
        logger.warning(
            "%s is for ANNs trained with the clamped ReLU, keras.layers.ReLU(threshold=beta); %d of %d layers have "
            "none, so their small activations are lost as late spikes.",
            code.name, len(graph.neurons) - len(clamped), len(graph.neurons),
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


@dataclass(frozen=True)
class Verification:
    """How a spiking network differs from its ANN on some images.

    Attributes:
        images: how many.
        same_class: share of images on which both name the same class.
        largest_difference, mean_difference: of the outputs, absolute.
        folding_error: largest difference between the folded network's output and the ANN's, relative to the largest
            output; it is rounding.
        layers: for each hidden layer, the mean absolute difference between SNN activity and ANN activation, relative
            to the mean activation.
    """

    images: int
    same_class: float
    largest_difference: float
    mean_difference: float
    folding_error: float
    layers: dict[str, float]

    def __str__(self):
        rows = [f"  {name:<24} {error:8.2%}" for name, error in self.layers.items()]
        return "\n".join(
            [
                f"{self.images} images: the same class on {self.same_class:.2%}, outputs differ by "
                f"{self.mean_difference:.2g} on average, {self.largest_difference:.2g} at most; folding error "
                f"{self.folding_error:.1g}",
                "error of the activity, relative to the mean activation:",
                *rows,
            ]
        )


def verify(ann, snn: SpikingModel, images, batch_size: int = BATCH_SIZE) -> Verification:
    """Compares a spiking network with the ANN it came from.

    Args:
        ann: the ANN.
        snn: what `convert_ann_to_snn` made of it.
        images: array, dataset or callable, as for calibration.
    """
    folded = read(ann)
    run = folded.function()
    expected, actual, refolded = [], [], []
    errors, sizes = dict.fromkeys(_hidden_names(snn), 0.0), dict.fromkeys(_hidden_names(snn), 0.0)
    for batch in image_batches(images, _input_shape(folded), "images", batch_size):
        expected.append(np.asarray(ann(batch, training=False)))
        refolded.append(run(batch).numpy())
        activations, output = _activations(folded, snn, batch)
        actual.append(output)
        for name, (target, activity) in activations.items():
            errors[name] += float(np.abs(activity - target).sum())
            sizes[name] += float(np.abs(target).sum())
    expected, actual, refolded = (np.concatenate(parts) for parts in (expected, actual, refolded))
    difference = np.abs(actual - expected)
    return Verification(
        images=len(expected),
        same_class=float(np.mean(expected.argmax(-1) == actual.argmax(-1))),
        largest_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        folding_error=float(np.abs(refolded - expected).max() / max(np.abs(expected).max(), 1e-30)),
        layers={name: errors[name] / (sizes[name] or 1.0) for name in errors},
    )


def _hidden_names(snn) -> list[str]:
    return [layer.name for layer in snn.hidden_layers]


def _activations(folded, snn, images):
    """Per hidden layer (ANN activation, SNN activity), and the SNN's output, for one batch."""
    simulation = snn.simulate(images, (SPIKE_COUNTS, FIRST_SPIKE_TIMES))
    targets, pairs = folded.function(every_node=True)(images), {}
    for name, counts in simulation.spike_counts.items():
        activity = snn.activity(name, counts, simulation.first_spike_times[name])
        pairs[name] = (targets[name].numpy(), activity)
    return pairs, np.asarray(simulation.output)


def ann_and_snn_activations_per_layer(ann, snn: SpikingModel, images) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The ANN's activations beside the SNN's activities, per hidden layer, in the ANN's units.

    Args:
        ann, snn: the two networks.
        images: array `(images, …)`; everything is kept, so some hundred at most.

    Returns:
        Layer name -> (ANN activations, SNN activities), each `(images, …)`. What a spike train stands for is
        `Encoding.activity`; for the base ttfs code that is a ranking, not the ANN's value.
    """
    folded = read(ann)
    parts = [_activations(folded, snn, batch)[0] for batch in image_batches(images, _input_shape(folded), "images")]
    return {name: tuple(np.concatenate([part[name][k] for part in parts]) for k in (0, 1)) for name in parts[0]}


def labelled_batches(model, images, labels=None, batch_size: int = BATCH_SIZE) -> Iterator[tuple]:
    """Checked batches of (images, labels).

    Args:
        model: the network they are for.
        images: array `(images, …)`, or a batched `tf.data.Dataset` of (images, labels) with `labels=None`.
        labels: class numbers `(images,)`.

    Raises:
        ValueError: shapes, counts or class numbers do not fit the network.
    """
    if isinstance(images, tf.data.Dataset):
        pairs = ((np.asarray(x, np.float32), np.asarray(y)) for x, y in images)
    else:
        images, labels = np.asarray(images), np.asarray(labels)
        if labels.shape[:1] != images.shape[:1]:
            raise ValueError(f"There must be one label per image. Received: {images.shape=}, {labels.shape=}")
        pairs = (
            (images[start : start + batch_size], labels[start : start + batch_size])
            for start in range(0, len(images), batch_size)
        )
    classes, seen = model.output_shape[-1], 0
    for x, y in pairs:
        if x.shape[1:] != tuple(model.input_shape[1:]):
            raise ValueError(f"Images must have shape {model.input_shape[1:]}. Received: shape {x.shape[1:]}")
        y = y.reshape(len(y), -1)
        if y.shape[1] != 1 or not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= classes:
            raise ValueError(
                f"Labels are class numbers from 0 to {classes - 1}, one per image. Received: values from {y.min()} to "
                f"{y.max()}, dtype {y.dtype}, shape {y.shape}"
            )
        seen += len(x)
        yield x, y[:, 0]
    if not seen:
        raise ValueError("Accuracy needs at least one image. Received: none.")


def _accuracy(model, images, labels, batch_size, verbose) -> float:
    metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    total = None if isinstance(images, tf.data.Dataset) else len(images)
    progress = keras.utils.Progbar(total, verbose=verbose, unit_name="image", stateful_metrics=["accuracy"])
    for x, y in labelled_batches(model, images, labels, batch_size):
        metric.update_state(y, predict_batch(model, x))
        progress.add(len(x), values=[("accuracy", float(metric.result()))])
    return float(metric.result())


def predict_batch(model, images) -> np.ndarray:
    """Scores of one batch, shared among the devices if the model was made for several (`tf.distribute`)."""
    devices = model.distribute_strategy.num_replicas_in_sync
    if devices == 1:
        return model.predict_on_batch(images)
    # predict_on_batch would give each device all images. Shares are equal, so that none is empty: the last image fills.
    filled = np.minimum(np.arange(-(-len(images) // devices) * devices), len(images) - 1)
    return model.predict(images[filled], batch_size=len(filled), verbose=0)[: len(images)]


def ann_accuracy(ann, images, labels=None, batch_size: int = 500, verbose: int = 0) -> float:
    """Share of images the ANN classifies rightly, in [0, 1]; data as `labelled_batches` takes them.

    Args:
        verbose: 1 for a progress bar.
    """
    return _accuracy(ann, images, labels, batch_size, verbose)


def snn_accuracy(
    snn: SpikingModel, images, labels=None, batch_size: int = BATCH_SIZE, verbose: int = 0
) -> float:
    """Share of images the SNN classifies rightly, in [0, 1]; data as `labelled_batches` takes them.

    Args:
        verbose: 1 for a progress bar.
    """
    return _accuracy(snn, images, labels, batch_size, verbose)


def snn_accuracy_per_timestep(snn: SpikingModel, images, labels=None, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Accuracy if the simulation had ended after each time step, shape `(timesteps,)`, in one pass."""
    right, total = 0, 0
    for x, y in labelled_batches(snn, images, labels, batch_size):
        readouts = snn.simulate(x, (READOUTS,)).readouts.numpy()
        right = right + np.sum(readouts.argmax(-1) == y, axis=1)
        total += len(y)
    return right / total


def snn_activation_analysis(
    snn: SpikingModel, images, labels=None, batch_size: int = BATCH_SIZE, ann=None
) -> Analysis:
    """Spikes, first spike times, operations, energy and, with labels, accuracy, in one pass over the images.

    Args:
        snn: the spiking network.
        images: array `(images, …)`, or a batched `tf.data.Dataset` of (images, labels); without labels anything that
            `calibration` may be.
        labels: class numbers `(images,)`; None for none, or if the dataset holds them.
        ann: the ANN it came from, for its effective MACs; None to leave them out.
    """
    if labels is not None or _holds_labels(images):
        batches = labelled_batches(snn, images, labels, batch_size)
    else:
        batches = ((batch, None) for batch in image_batches(images, snn.input_shape[1:], "images", batch_size))
    return analyse(snn, batches, None if ann is None else read(ann))


def _holds_labels(data) -> bool:
    return isinstance(data, tf.data.Dataset) and isinstance(data.element_spec, tuple) and len(data.element_spec) == 2


def diagnose(ann, snn: SpikingModel, images, batch_size: int = BATCH_SIZE) -> Diagnosis:
    """Which layer of a converted network loses what, why, and what to change; worst first, see `spiking.diagnosis`.

    Args:
        ann: the ANN.
        snn: what `convert_ann_to_snn` made of it.
        images: array, dataset or callable, as for calibration; some hundred are enough.
    """
    folded = read(ann)
    return diagnose_layers(folded, snn, image_batches(images, _input_shape(folded), "images", batch_size))


def snn_early_exit(
    snn: SpikingModel, images, labels=None, margins=0.5, batch_size: int = BATCH_SIZE
) -> EarlyExit | list[EarlyExit]:
    """Accuracy and mean latency if every sample stops once its best score leads by the margin.

    Args:
        snn: the spiking network.
        images, labels: as `labelled_batches` takes them.
        margins: one, or several for a list of results, in the units of the output.
    """
    return early_exit(snn, labelled_batches(snn, images, labels, batch_size), margins)
