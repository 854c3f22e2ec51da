"""Converters: what each ANN layer type becomes, one function for a kind. See docs/EXTENDING.md."""

from collections.abc import Callable

import keras
import numpy as np
from keras import layers as kl

from spiking.folding.activations import RECTIFIERS, Activation, WithArguments, elementwise, known_activation
from spiking.folding.folded import Folded
from spiking.folding.graph import Join
from spiking.folding.interpolation import interpolation
from spiking.folding.rows import Refusal

# ANN layer type or operation -> its converter: `f(layer, x) -> x` for one value, `f(layer, [x, …]) -> x` for joins.
CONVERTERS: dict[type, Callable] = {}


def converts(*types: type) -> Callable:
    """Registers `converter(layer, *values) -> value` for exactly these ANN layer types or operations."""

    def register(converter):
        CONVERTERS.update(dict.fromkeys(types, converter))
        return converter

    return register


# Layers that may stand as the `activation=` argument of another. Open for more.
ACTIVATION_LAYERS: list[type] = [kl.Activation, kl.ReLU, kl.Softmax, kl.LeakyReLU, kl.ELU, kl.PReLU, WithArguments]


# --- Linear layers ---------------------------------------------------------------------------------------------------


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
def _weighted(layer, x):
    _channels_last(layer)
    for weight in layer.weights:
        if not np.all(np.isfinite(np.asarray(weight.value))):
            raise Refusal(f"its weights '{weight.name}' hold NaN or infinity", "Train the network anew.")
    return activated(layer.activation, x.linear(layer))


@converts(
    kl.Flatten,
    kl.Reshape,
    kl.Permute,
    kl.RepeatVector,
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
def _linear(layer, x):
    _channels_last(layer)
    if getattr(layer, "interpolation", "nearest") != "nearest":
        return _resized(layer, x, tuple(layer.compute_output_shape((None, *x.shape)))[1:3])
    return x.linear(layer)


@converts(kl.Resizing)
def _resizing(layer, x):
    if x.on_image:
        return x.act_on_image(layer)
    if layer.crop_to_aspect_ratio or getattr(layer, "antialias", False) or getattr(layer, "pad_to_aspect_ratio", False):
        raise Refusal("it crops, pads or filters", "Do it to the image, or resize plainly.")
    return _resized(layer, x, (layer.height, layer.width))


def _resized(layer, x, size):
    if layer.interpolation not in ("nearest", "bilinear"):
        raise Refusal(f"interpolation={layer.interpolation!r}", "Take interpolation='nearest' or 'bilinear'.")
    return x.linear(interpolation(layer.interpolation, x.shape, size))


@converts(kl.CenterCrop)
def _center_crop(layer, x):
    if x.on_image:
        return x.act_on_image(layer)
    raise Refusal("it crops what is no image any more", "Take Cropping2D.")


@converts(
    kl.AveragePooling1D,
    kl.AveragePooling2D,
    kl.AveragePooling3D,
    kl.GlobalAveragePooling1D,
    kl.GlobalAveragePooling2D,
    kl.GlobalAveragePooling3D,
)
def _average_pooling(layer, x):
    _channels_last(layer)
    return x.average_pool(layer)


@converts(
    kl.MaxPooling1D,
    kl.MaxPooling2D,
    kl.MaxPooling3D,
    kl.GlobalMaxPooling1D,
    kl.GlobalMaxPooling2D,
    kl.GlobalMaxPooling3D,
)
def _max_pooling(layer, x):
    _channels_last(layer)
    return x.max_pool(layer)


def _channels_last(layer) -> None:
    if getattr(layer, "data_format", None) == "channels_first":
        raise Refusal("data_format='channels_first'", "Take channels_last and copy the weights.")


# --- Fixed scales and shifts -----------------------------------------------------------------------------------------


@converts(kl.Rescaling)
def _rescaling(layer, x):
    # As Keras casts them: TensorFlow rounds Python's numbers to float32 on the way, for layers in float64, too.
    scale, offset = (np.asarray(keras.ops.cast(value, layer.variable_dtype)) for value in (layer.scale, layer.offset))
    return x.affine(scale.astype(np.float64), offset.astype(np.float64), layer)


@converts(kl.Normalization)
def _normalization(layer, x):
    mean, variance = (np.asarray(values, np.float64)[0] for values in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return x.affine(deviation, mean, layer)
    return x.affine(1 / deviation, -mean / deviation, layer)


@converts(kl.BatchNormalization)
def _batch_normalization(layer, x):
    axes = [layer.axis] if np.isscalar(layer.axis) else list(layer.axis)
    mean, variance = (np.asarray(values.value, np.float64) for values in (layer.moving_mean, layer.moving_variance))
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is refused by `affine`
        scale = 1 / np.sqrt(variance + layer.epsilon)
        scale = scale * np.asarray(layer.gamma.value, np.float64) if layer.scale else scale
        shift = -mean * scale
    shift = shift + np.asarray(layer.beta.value, np.float64) if layer.center else shift
    rank = len(x.shape) + 1
    shape = [mean.size if axis in [each % rank for each in axes] else 1 for axis in range(1, rank)]
    return x.affine(scale.reshape(shape), shift.reshape(shape), layer)


# --- What does nothing outside training ------------------------------------------------------------------------------

TRAINING_ONLY = (
    kl.Dropout,
    kl.SpatialDropout1D,
    kl.SpatialDropout2D,
    kl.SpatialDropout3D,
    kl.AlphaDropout,
    kl.GaussianDropout,
    kl.GaussianNoise,
    kl.ActivityRegularization,
)
# Augmentation: every Keras layer that draws at random and keeps the image's size. RandomCrop resizes when it predicts.
AUGMENTATION = tuple(
    kind
    for name, kind in vars(kl).items()
    if isinstance(kind, type)
    and (name.startswith("Random") or name in ("AugMix", "AutoContrast", "CutMix", "MixUp", "RandAugment"))
    and name not in ("RandomCrop", "AutoContrast")
)


@converts(*TRAINING_ONLY, *AUGMENTATION)
def _training_only(layer, x):
    return x.drop()


@converts(kl.Identity)
def _identity(layer, x):
    return x.drop("identity")


# --- Activations -----------------------------------------------------------------------------------------------------


def activated(activation, x: Folded) -> Folded:
    """The value behind an activation: an argument of a layer, or held by an Activation layer."""
    if isinstance(activation, kl.Layer):  # Dense(activation=keras.layers.ReLU(max_value=6))
        if type(activation) not in ACTIVATION_LAYERS:
            raise Refusal(f"activation={type(activation).__name__}", "Take an activation of Keras.")
        return CONVERTERS[type(activation)](activation, x)
    activation = known_activation(activation)
    if activation is keras.activations.linear:
        x.row.template = x.row.template or "dropped (identity)"
        return x
    if activation in RECTIFIERS:
        return x.neurons(RECTIFIERS[activation])
    _savable(activation)
    return x.activation(activation)


def _savable(activation) -> None:
    """Refuses functions that a saved network could not name."""
    try:
        known = keras.activations.get(keras.activations.serialize(activation))
    except (ValueError, TypeError, AttributeError):
        known = None
    if known is not activation:
        name = getattr(activation, "__name__", repr(activation))
        raise Refusal(
            f"activation={name}, a function that Keras cannot name",
            "Register it with keras.saving.register_keras_serializable, or take an activation of Keras.",
        )


@converts(kl.Activation)
def _activation(layer, x):
    return activated(layer.activation, x)


@converts(kl.ReLU)
def _relu(layer, x):
    if layer.negative_slope:
        return _activation_layer(layer, x)
    ceiling = None if layer.max_value is None else float(layer.max_value)
    if ceiling == 0:
        raise Refusal("max_value=0, which makes every activation 0", "Take a positive max_value, or none.")
    return x.neurons(Activation(ceiling=ceiling, clamp=float(layer.threshold)))


@converts(kl.Softmax)
def _softmax(layer, x):
    if layer.axis not in (-1, len(x.shape)):
        raise Refusal(f"axis={layer.axis}", "The read-out applies softmax over the last axis.")
    return x.activation(keras.activations.softmax)


@converts(kl.LeakyReLU, kl.ELU, WithArguments)
def _activation_layer(layer, x):
    return x.activation(layer)


@converts(kl.PReLU)
def _prelu(layer, x):
    return x.neurons(elementwise(layer))  # at the end, too: a read-out has no weights for its activation


# --- Joins ---------------------------------------------------------------------------------------------------------


@converts(kl.Add)
def _add(layer, values):
    first, *others = values
    return first.joined(others, Join())


@converts(kl.Subtract)
def _subtract(layer, values):
    first, second = values
    return first.joined([negative(second)], Join())


@converts(kl.Average)
def _average(layer, values):
    first, *others = (value.scaled(1 / len(values)) for value in values)
    return first.joined(others, Join())


@converts(kl.Concatenate)
def _concatenate(layer, values):
    first, *others = values
    return first.joined(others, Join(layer.axis % (len(first.shape) + 1)))


@converts(kl.Multiply)
def _multiply_layer(layer, values):
    raise Refusal("a product of two values that the network computes", "Spikes add; take a sum, or leave it out.")


def negative(value: Folded) -> Folded:
    """−x."""
    return value.scaled(-1.0)
