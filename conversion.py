"""From an ANN to a spiking network: read, fold, normalise, assemble, verify; then measure.

    snn = convert_ann_to_snn(ann, calibration_images, encoding="rate")
    print(conversion_report(snn))

Reading turns the ANN into stages: a synapse (a chain of linear layers, BatchNorm folded into it) and what follows it:
neurons, a max pooling, or the read-out. Each ANN layer type has one converter in `CONVERTERS`, looked up by exact
type; what has none is refused before any work.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

import spiking
from spiking.analysis.diagnosis import Diagnosis
from spiking.analysis.diagnosis import diagnose as diagnose_layers
from spiking.analysis.latency import EarlyExit, early_exit
from spiking.analysis.statistics import Analysis, analyse
from spiking.folding.reader import ConversionError, FoldedNetwork, Reader
from spiking.network.clock import FIRST_SPIKE_TIMES, READOUTS, SPIKE_COUNTS
from spiking.network.layers import SpikingRNN
from spiking.network.model import SpikingSequential
from spiking.quantisation import QuantisedReLU
from spiking.runs.summaries import conversion_report  # noqa: F401  (one of the entry points)
from spiking.scaling.calibration import Calibration, LayerCalibration, measure
from spiking.scaling.correction import correct

logger = logging.getLogger(__name__)

BATCH_SIZE = 100

# What calibration says of the read-out: scores are in the ANN's units.
READOUT = LayerCalibration(np.array(1.0), 0.0, 0.0, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Reading: one converter per ANN layer type

CONVERTERS: dict[type, Callable] = {}


def converts(*types: type) -> Callable:
    """Registers `converter(layer, reader)` for exactly these ANN layer types."""

    def register(converter):
        CONVERTERS.update(dict.fromkeys(types, converter))
        return converter

    return register


@converts(kl.InputLayer)
def _input(layer, reader):
    reader.source.result = "input"


@converts(
    kl.Dense,
    kl.Conv1D,
    kl.Conv2D,
    kl.Conv3D,
    kl.Conv1DTranspose,
    kl.Conv2DTranspose,
    kl.Conv3DTranspose,
    kl.DepthwiseConv1D,
    kl.DepthwiseConv2D,
    kl.SeparableConv1D,
    kl.SeparableConv2D,
)
def _weighted(layer, reader):
    reader.linear(layer)
    reader.activation(layer.activation)


@converts(
    kl.Flatten,
    kl.Reshape,
    kl.Permute,
    kl.ZeroPadding1D,
    kl.ZeroPadding2D,
    kl.ZeroPadding3D,
    kl.Cropping1D,
    kl.Cropping2D,
    kl.Cropping3D,
    kl.UpSampling1D,
    kl.UpSampling2D,
    kl.UpSampling3D,
)
def _linear(layer, reader):
    # TensorFlow resizes in float32 whatever the dtype, which is not exact enough to fold through.
    if getattr(layer, "interpolation", "nearest") != "nearest":
        raise reader.source.refuse(f"interpolation={layer.interpolation!r}", "Take interpolation='nearest'.")
    reader.linear(layer)


@converts(
    kl.AveragePooling1D,
    kl.AveragePooling2D,
    kl.GlobalAveragePooling1D,
    kl.GlobalAveragePooling2D,
    kl.GlobalAveragePooling3D,
)
def _average_pooling(layer, reader):
    reader.average_pool(layer)


@converts(
    kl.MaxPooling1D,
    kl.MaxPooling2D,
    kl.GlobalMaxPooling1D,
    kl.GlobalMaxPooling2D,
    kl.GlobalMaxPooling3D,
)
def _max_pooling(layer, reader):
    reader.max_pool(layer)


@converts(kl.Rescaling)
def _rescaling(layer, reader):
    reader.affine(layer, np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64))


@converts(kl.Normalization)
def _normalization(layer, reader):
    mean, variance = (np.asarray(values, np.float64)[0] for values in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        reader.affine(layer, deviation, mean)
    else:
        reader.affine(layer, 1 / deviation, -mean / deviation)


@converts(kl.BatchNormalization)
def _batch_normalization(layer, reader):
    axes = [layer.axis] if np.isscalar(layer.axis) else list(layer.axis)
    mean, variance = (np.asarray(values, np.float64) for values in (layer.moving_mean, layer.moving_variance))
    scale = 1 / np.sqrt(variance + layer.epsilon)
    scale = scale * np.asarray(layer.gamma, np.float64) if layer.scale else scale
    shift = -mean * scale
    shift = shift + np.asarray(layer.beta, np.float64) if layer.center else shift
    rank = len(reader.shape) + 1
    shape = [mean.size if axis in [each % rank for each in axes] else 1 for axis in range(1, rank)]
    if mean.size == reader.shape[-1] and axes[0] % rank == rank - 1:
        shape = shape[-1:]
    reader.affine(layer, scale.reshape(shape), shift.reshape(shape))


@converts(
    kl.Dropout,
    kl.SpatialDropout1D,
    kl.SpatialDropout2D,
    kl.SpatialDropout3D,
    kl.AlphaDropout,
    kl.GaussianDropout,
    kl.GaussianNoise,
    kl.ActivityRegularization,
)
def _training_only(layer, reader):
    reader.drop()


@converts(kl.Activation)
def _activation(layer, reader):
    reader.activation(layer.activation)


@converts(kl.ReLU)
def _relu(layer, reader):
    if layer.negative_slope:
        slope = float(layer.negative_slope)
        raise reader.source.refuse(f"negative_slope={slope}", "Spikes stand for values ≥ 0: train with ReLU().")
    if layer.threshold < 0:
        raise reader.source.refuse(f"threshold={float(layer.threshold)}", "It must not be negative.")
    reader.rectify(None if layer.max_value is None else float(layer.max_value), float(layer.threshold))


@converts(QuantisedReLU)
def _quantised_relu(layer, reader):
    ceiling = float(layer.ceiling)
    if ceiling <= 0:
        raise reader.source.refuse(f"its trained ceiling is {ceiling:g}", "It must be positive: train anew.")
    reader.rectify(ceiling, levels=layer.levels)


@converts(kl.Softmax)
def _softmax(layer, reader):
    if layer.axis not in (-1, len(reader.shape)):
        raise reader.source.refuse(f"axis={layer.axis}", "The read-out applies softmax over the last axis.")
    reader.activation(keras.activations.softmax)


def read(ann) -> FoldedNetwork:
    """Reads an ANN and folds BatchNorm into its kernels, exactly.

    Args:
        ann: a built `keras.Sequential`, or a functional model that is a plain chain; models may be nested.

    Returns:
        The folded network: the same function as a row of stages.

    Raises:
        ConversionError: a layer, an argument or a weight cannot be converted; names it.
    """
    if not _is_model(ann):
        raise ConversionError(
            "A chain of layers can be converted, given as keras.Sequential or as a functional model. Received: ann of "
            f"type {type(ann).__name__}"
        )
    if not ann.built or not ann.layers:
        raise ConversionError("The ANN has no weights yet: give it an Input layer, or call or fit it once.")
    if len(ann.inputs) != 1 or len(ann.outputs) != 1:
        raise ConversionError(
            f"The ANN must have one input and one output. Received: {len(ann.inputs)} inputs and {len(ann.outputs)} "
            "outputs."
        )
    if None in ann.input_shape[1:]:
        raise ConversionError(f"The ANN must take images of one size. Received: input_shape={ann.input_shape}")
    reader = Reader(ann.input_shape[1:], CONVERTERS)
    names = set()
    for path, layer in _chain(ann):
        name = path[-1] if path[-1] not in names else "_".join(path)
        names.add(name)
        reader.read(layer, name)
    return reader.finish()


def _is_model(layer) -> bool:
    """Whether it is a Sequential or a functional model (the one kind of Keras model that has `operations`)."""
    return isinstance(layer, keras.Sequential) or (isinstance(layer, keras.Model) and hasattr(layer, "operations"))


def _chain(model, path=()) -> Iterator[tuple[tuple[str, ...], keras.layers.Layer]]:
    """The layers of a model in order, nested models unrolled, each with the names on the way to it."""
    for layer in model.layers if isinstance(model, keras.Sequential) else _functional_chain(model):
        if _is_model(layer):
            if len(layer.inputs) != 1 or len(layer.outputs) != 1:
                raise ConversionError(
                    f"Layer '{layer.name}' ({type(layer).__name__}) cannot be converted: it has {len(layer.inputs)} "
                    f"inputs and {len(layer.outputs)} outputs. Only plain chains can be converted."
                )
            yield from _chain(layer, (*path, layer.name))
        else:
            yield (*path, layer.name), layer


def _functional_chain(model) -> list:
    """The operations of a functional model from its input to its output, each fed by the one before."""
    chain, tensor = [], model.outputs[0]
    while tensor is not model.inputs[0]:
        operation, node, _ = tensor._keras_history
        sources = operation._inbound_nodes[node].input_tensors
        if len(sources) != 1:
            raise ConversionError(
                f"Layer '{operation.name}' ({type(operation).__name__}) cannot be converted: it joins {len(sources)} "
                "tensors. Only plain chains can be converted, without shortcuts or branches."
            )
        chain.append(operation)
        tensor = sources[0]
    return chain[::-1]


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
    folded = ann if isinstance(ann, FoldedNetwork) else read(ann)
    batches = image_batches(images, folded.input_shape)
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
) -> SpikingSequential:
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
    code = spiking.get_encoding(encoding)
    settings = code.settings(timesteps, threshold, **options)
    levels = code.rounding_levels(settings)
    if correction and levels is None:
        raise ValueError(
            "A correction is for neurons that round to the nearest level: encoding='ttfs_exact', or 'rate' with "
            f"initial_potential=0.5. Received: correction={correction!r} with encoding={code.name!r}"
        )
    folded = read(ann)
    _check_clamps(folded, code)
    if isinstance(calibration, Calibration):
        choice = {"normalisation": normalisation, "norm_percentile": norm_percentile, "per_channel": per_channel}
        found = _check_calibration(calibration, folded, correction, choice)
    else:
        found = calibrate(
            folded,
            calibration,
            code.normalisation if normalisation is None else normalisation,
            percentile=99.9 if norm_percentile is None else norm_percentile,
            per_channel=code.per_channel if per_channel is None else per_channel,
            levels=settings["timesteps"],
        )
    if found.input_minimum < 0 and not code.signed_input(settings):
        raise ValueError(
            f"Input spikes of the encoding {code.name!r} stand for intensities, which are not negative. Received: "
            f"calibration images (behind what acts on them) with values down to {found.input_minimum:g}. Shift the "
            "data into [0, 1], or take a code with input as current."
        )
    if correction:
        batches = functools.partial(image_batches, calibration, folded.input_shape)
        found = correct(correction, folded, batches, found, levels, code.spike_value(settings), verbose)
    for remark in code.remarks(settings, folded.depth):
        logger.warning("%s: %s", code.name, remark)
    return assemble(folded, code, settings, found, name=f"{ann.name}_{code.name}")


def _check_calibration(calibration: Calibration, folded: FoldedNetwork, correction, choice: dict) -> Calibration:
    calibration.check(folded, **choice)
    if correction:
        raise ValueError(
            f"A correction is fitted on images. Received: correction={correction!r} with a finished calibration. Give "
            "the images instead."
        )
    return calibration


def assemble(folded: FoldedNetwork, code, settings, calibration: Calibration, name: str) -> SpikingSequential:
    """The spiking network of a folded one.

    Args:
        folded: the folded network.
        code: the `Encoding`.
        settings: what `code.settings` returned.
        calibration: the scales, as `calibrate` returns them.
        name: of the model.
    """
    dtype = keras.config.floatx()
    layers = [keras.Input(folded.input_shape, dtype=dtype)]
    layers.append(code.input_layer(settings, folded.depth, folded.image_copies(dtype), calibration.input_maximum))
    unit, index, biases, kept = np.array(code.input_value(settings, calibration.input_maximum)), 0, {}, []
    scale = np.array(1.0)
    for stage in folded.stages:
        if stage.pool is not None:
            pool = type(stage.pool).from_config({**stage.pool.get_config(), "dtype": dtype})
            cell = code.max_pool(stage.chain.copies(dtype), pool=pool, sign=stage.sign)
        else:
            found = calibration.layers[stage.name] if stage.holds_neurons else READOUT
            scale = _limited(found.scale, stage, code.spike_value(settings))
            chain = stage.chain.rescaled(unit, scale / found.gain)
            chain.bias = chain.bias + found.shift / scale
            kind, bias = chain.compact_bias()
            common = {"synapse": chain.copies(dtype), "bias": kind}
            if stage.holds_neurons:
                own = code.neuron_options(settings, index)
                if stage.clamp:
                    own |= code.clamp_options(np.broadcast_to(stage.clamp / scale, stage.output_shape[-1:]).tolist())
                cell = (code.neuron_conv2d if len(chain.shape) == 3 else code.neuron)(**common, **own)
                unit = scale * code.spike_value(settings)
                index += 1
            else:
                own = code.integrator_options(settings, folded.depth)
                cell = code.integrator(**common, activation=stage.activation, **own)
            biases[cell] = bias
        kept.append(np.asarray(scale).tolist())
        layers.append(SpikingRNN(cell, return_sequences=stage is not folded.stages[-1], name=stage.name))
    snn = SpikingSequential(
        layers, name=name, encoding=code.name, settings=settings, report=folded.report, scales=kept[:-1],
        calibration=calibration.rows(),
    )  # fmt: skip
    for cell, bias in biases.items():
        if cell.bias is not None:
            cell.bias.assign(bias)
    return snn


def _limited(scale, stage, spike_value: float):
    """λ such that full activity, θ in units of λ, does not exceed the ANN's ceiling; rounded activations need it so."""
    if stage.ceiling is None:
        return scale
    limit = stage.ceiling / spike_value
    return np.array(limit) if stage.levels else np.minimum(scale, limit)


def _check_clamps(folded, code):
    neurons = [stage for stage in folded.stages if stage.holds_neurons]
    clamped = [stage for stage in neurons if stage.clamp]
    if clamped and code.clamp_options is None:
        able = [name for name, other in spiking.ENCODINGS.items() if other.clamp_options]
        raise ConversionError(
            f"Layer '{clamped[0].name}' cannot be converted: its ReLU has threshold={clamped[0].clamp:g}, and neurons "
            f"of the encoding {code.name!r} do not stay silent up to an activation. Take an encoding out of {able}."
        )
    if code.needs_clamp and len(clamped) < len(neurons):
        logger.warning(
            "%s is for ANNs trained with the clamped ReLU, keras.layers.ReLU(threshold=beta); %d of %d layers have "
            "none, so their small activations are lost as late spikes.",
            code.name, len(neurons) - len(clamped), len(neurons),
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


def verify(ann, snn: SpikingSequential, images, batch_size: int = BATCH_SIZE) -> Verification:
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
    for batch in image_batches(images, folded.input_shape, "images", batch_size):
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
    code = spiking.get_encoding(snn.encoding)
    targets = folded.function(every_stage=True)(images)[:-1]
    pairs = {}
    for name, target, counts, times, scale in zip(
        _hidden_names(snn), targets, simulation.spike_counts, simulation.first_spike_times, snn.scales, strict=True
    ):
        activity = np.asarray(code.activity(counts, times, snn.settings)) * np.asarray(scale, np.float32)
        pairs[name] = (target.numpy(), activity)
    return pairs, simulation.output.numpy()


def ann_and_snn_activations_per_layer(ann, snn: SpikingSequential, images) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The ANN's activations beside the SNN's activities, per hidden layer, in the ANN's units.

    Args:
        ann, snn: the two networks.
        images: array `(images, …)`; everything is kept, so some hundred at most.

    Returns:
        Layer name -> (ANN activations, SNN activities), each `(images, …)`. What a spike train stands for is
        `Encoding.activity`; for the base ttfs code that is a ranking, not the ANN's value.
    """
    folded = read(ann)
    parts = [_activations(folded, snn, batch)[0] for batch in image_batches(images, folded.input_shape, "images")]
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
    snn: SpikingSequential, images, labels=None, batch_size: int = BATCH_SIZE, verbose: int = 0
) -> float:
    """Share of images the SNN classifies rightly, in [0, 1]; data as `labelled_batches` takes them.

    Args:
        verbose: 1 for a progress bar.
    """
    return _accuracy(snn, images, labels, batch_size, verbose)


def snn_accuracy_per_timestep(snn: SpikingSequential, images, labels=None, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Accuracy if the simulation had ended after each time step, shape `(timesteps,)`, in one pass."""
    right, total = 0, 0
    for x, y in labelled_batches(snn, images, labels, batch_size):
        readouts = snn.simulate(x, (READOUTS,)).readouts.numpy()
        right = right + np.sum(readouts.argmax(-1) == y, axis=1)
        total += len(y)
    return right / total


def snn_activation_analysis(
    snn: SpikingSequential, images, labels=None, batch_size: int = BATCH_SIZE, ann=None
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


def diagnose(ann, snn: SpikingSequential, images, batch_size: int = BATCH_SIZE) -> Diagnosis:
    """Which layer of a converted network loses what, why, and what to change; worst first, see `spiking.diagnosis`.

    Args:
        ann: the ANN.
        snn: what `convert_ann_to_snn` made of it.
        images: array, dataset or callable, as for calibration; some hundred are enough.
    """
    folded = read(ann)
    chain = [(path[-1], layer) for path, layer in _chain(ann)]
    return diagnose_layers(folded, snn, chain, image_batches(images, folded.input_shape, "images", batch_size))


def snn_early_exit(
    snn: SpikingSequential, images, labels=None, margins=0.5, batch_size: int = BATCH_SIZE
) -> EarlyExit | list[EarlyExit]:
    """Accuracy and mean latency if every sample stops once its best score leads by the margin.

    Args:
        snn: the spiking network.
        images, labels: as `labelled_batches` takes them.
        margins: one, or several for a list of results, in the units of the output.
    """
    return early_exit(snn, labelled_batches(snn, images, labels, batch_size), margins)
