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

import keras
import numpy as np
from keras import layers as kl

import spiking
from spiking.analysis.accuracy import ann_accuracy, predict_batch, snn_accuracy, snn_accuracy_per_timestep
from spiking.analysis.batches import BATCH_SIZE, holds_labels, image_batches, labelled_batches
from spiking.analysis.diagnosis import Diagnosis
from spiking.analysis.diagnosis import diagnose as diagnose_layers
from spiking.analysis.latency import EarlyExit, early_exit
from spiking.analysis.ranges import Extent, expected_range, warn_of_other_scale
from spiking.analysis.statistics import Analysis, analyse
from spiking.analysis.verification import Verification, all_layer_activities
from spiking.analysis.verification import verify as compare
from spiking.folding.reader import ConversionError, FoldedNetwork, Reader
from spiking.network.layers import SpikingRNN
from spiking.network.model import SpikingSequential
from spiking.quantisation import QuantisedReLU
from spiking.runs.summaries import conversion_report  # noqa: F401  (one of the entry points)
from spiking.scaling.calibration import Calibration, LayerCalibration, measure
from spiking.scaling.correction import correct

logger = logging.getLogger(__name__)

# The entry points that measure; those that need no more than the networks stand in spiking/analysis.
__all__ = [
    "CONVERTERS", "Calibration", "ConversionError", "Verification", "ann_accuracy", "ann_and_snn_activations_per_layer",
    "assemble", "calibrate", "conversion_report", "convert_ann_to_snn", "converts", "diagnose", "image_batches",
    "labelled_batches", "predict_batch", "read", "snn_accuracy", "snn_accuracy_per_timestep", "snn_activation_analysis",
    "snn_early_exit", "verify",
]  # fmt: skip

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
    folded = ann if isinstance(ann, FoldedNetwork) else read(ann)
    extent = Extent()
    batches = extent.watch(image_batches(images, folded.input_shape, "calibration"))
    found = measure(folded, batches, method, percentile=percentile, per_channel=per_channel, levels=levels)
    found.image_range = extent.range
    if folded is not ann:
        warn_of_other_scale(found.image_range, expected_range(ann), "calibration")
    return found


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
    if correction and isinstance(calibration, Iterator):
        raise ValueError(
            "A correction reads the calibration images several times. Received: a generator or another iterator, which "
            "gives them once. Give a callable that makes it anew, or an array."
        )
    folded = read(ann)
    settings = code.at_depth(settings, folded.depth)
    _check_clamps(folded, code)
    if isinstance(calibration, Calibration):
        choice = {"normalisation": normalisation, "norm_percentile": norm_percentile, "per_channel": per_channel}
        found = _check_calibration(calibration, folded, correction, choice)
    else:
        found = calibrate(
            folded,
            calibration,
            code.normalisation if normalisation is None else normalisation,
            percentile=code.norm_percentile if norm_percentile is None else norm_percentile,
            per_channel=code.per_channel if per_channel is None else per_channel,
            levels=settings["timesteps"],
        )
        warn_of_other_scale(found.image_range, expected_range(ann), "calibration")
    if found.input_minimum < 0 and not code.signed_input(settings):
        raise ValueError(
            f"Input spikes of the encoding {code.name!r} stand for intensities, which are not negative. Received: "
            f"calibration images (behind what acts on them) with values down to {found.input_minimum:g}. Shift the "
            "data into [0, 1], or take a code with input as current."
        )
    if correction:
        batches = functools.partial(image_batches, calibration, folded.input_shape, "calibration")
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
        calibration=calibration.rows(), input_range=calibration.image_range,
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


def verify(ann, snn: SpikingSequential, images, batch_size: int = BATCH_SIZE) -> Verification:
    """Compares a spiking network with the ANN it came from, as its task wants it: see `Verification`.

    Args:
        ann: the ANN.
        snn: what `convert_ann_to_snn` made of it.
        images: in any form that `spiking/analysis/batches.py` tells.
        batch_size: of arrays.
    """
    return compare(ann, read(ann), snn, image_batches(images, snn, "images", batch_size))


def ann_and_snn_activations_per_layer(ann, snn: SpikingSequential, images) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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
    snn: SpikingSequential, images, labels=None, batch_size: int = BATCH_SIZE, ann=None
) -> Analysis:
    """Spikes, first spike times, operations, energy and, with labels, accuracy, in one pass over the images.

    Args:
        snn: the spiking network.
        images: in any form that `spiking/analysis/batches.py` tells.
        labels: as `labelled_batches` takes them; None for none, or if `images` brings them, as tuples or dicts. What a
            generator or a callable brings is not read for labels.
        batch_size: of arrays.
        ann: the ANN it came from, for its effective MACs; None to leave them out.
    """
    return analyse(snn, _maybe_labelled(snn, images, labels, batch_size), None if ann is None else read(ann))


def _maybe_labelled(snn, images, labels, batch_size) -> Iterator[tuple]:
    """Checked batches of (images, labels), or (images, None) where there are no labels."""
    if labels is not None or holds_labels(images):
        return labelled_batches(snn, images, labels, batch_size)
    return ((batch, None) for batch in image_batches(images, snn, "images", batch_size))


def diagnose(ann, snn: SpikingSequential, images, labels=None, batch_size: int = BATCH_SIZE) -> Diagnosis:
    """Which layer of a converted network loses what, why, and what to change; see `spiking.analysis.diagnosis`.

    Args:
        ann: the ANN.
        snn: what `convert_ann_to_snn` made of it.
        images: in any form that `spiking/analysis/batches.py` tells; some hundred are enough.
        labels: as `labelled_batches` takes them; with them, or if `images` brings them, the best step to stop is that
            of the accuracy, without them that of the agreement with the ANN.
        batch_size: of arrays.
    """
    folded = read(ann)
    chain = [(path[-1], layer) for path, layer in _chain(ann)]
    return diagnose_layers(folded, snn, chain, _maybe_labelled(snn, images, labels, batch_size))


def snn_early_exit(
    snn: SpikingSequential, images, labels=None, margins=0.5, batch_size: int = BATCH_SIZE
) -> EarlyExit | list[EarlyExit]:
    """Accuracy and mean latency if every sample stops once its best score leads by the margin.

    Args:
        snn: the spiking network.
        images, labels: as `labelled_batches` takes them.
        margins: one, or several for a list of results, in the units of the output.
        batch_size: of arrays.
    """
    return early_exit(snn, labelled_batches(snn, images, labels, batch_size), margins)
