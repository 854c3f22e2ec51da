"""`TimeDistributed`: a layer at every position of the first axis becomes one layer that acts on all of them at once.

    TimeDistributed(Conv2D(4, 3))  ->  Conv3D(4, (1, 3, 3)), with the same kernel

So the spiking network has one layer of neurons for it, not one for each position.
"""

from collections.abc import Callable, Mapping

import keras
from keras import layers as kl

from spiking.folding.converters import TRAINING_ONLY
from spiking.folding.linear import copy_layer
from spiking.folding.rows import Refusal

# Layers that act along the last axis alone, or not on values at all: the same whatever is in front of it.
LAST_AXIS = (
    kl.Dense, kl.Activation, kl.ReLU, kl.LeakyReLU, kl.ELU, kl.Rescaling, kl.Identity, *TRAINING_ONLY,
    kl.Add, kl.Subtract, kl.Average,
)  # fmt: skip

# Layers with positions -> the same with one axis of positions more.
ONE_AXIS_MORE: dict[type, type] = {
    kl.Conv1D: kl.Conv2D,
    kl.Conv2D: kl.Conv3D,
    kl.Conv1DTranspose: kl.Conv2DTranspose,
    kl.Conv2DTranspose: kl.Conv3DTranspose,
    kl.DepthwiseConv1D: kl.DepthwiseConv2D,
    kl.SeparableConv1D: kl.SeparableConv2D,
    kl.MaxPooling1D: kl.MaxPooling2D,
    kl.MaxPooling2D: kl.MaxPooling3D,
    kl.AveragePooling1D: kl.AveragePooling2D,
    kl.AveragePooling2D: kl.AveragePooling3D,
    kl.UpSampling1D: kl.UpSampling2D,
    kl.UpSampling2D: kl.UpSampling3D,
    kl.ZeroPadding1D: kl.ZeroPadding2D,
    kl.ZeroPadding2D: kl.ZeroPadding3D,
    kl.Cropping1D: kl.Cropping2D,
    kl.Cropping2D: kl.Cropping3D,
}
# Arguments that hold a number for each axis of positions -> what they are along the new one.
ALONG_NEW_AXIS = {"kernel_size": 1, "strides": 1, "dilation_rate": 1, "pool_size": 1, "size": 1, "output_padding": 0}
GLOBAL_POOLS: dict[type, type] = {
    kl.GlobalMaxPooling1D: kl.MaxPooling2D,
    kl.GlobalMaxPooling2D: kl.MaxPooling3D,
    kl.GlobalAveragePooling1D: kl.AveragePooling2D,
    kl.GlobalAveragePooling2D: kl.AveragePooling3D,
}


def at_all_positions(layer, shape: tuple[int, ...], name: str):
    """The Keras layer, or row of layers, that does to `shape` = (positions, …) what `layer` does to each position.

    Args:
        layer: a built Keras layer.
        shape: of what goes in, without the batch axis.
        name: of the result.

    Raises:
        Refusal: there is none.
    """
    kind = type(layer)
    if getattr(layer, "data_format", None) == "channels_first":
        raise Refusal("data_format='channels_first'", "Take channels_last and copy the weights.")
    if kind in LAST_AXIS:
        return copy_layer(layer, shape, layer.dtype, name=name) if layer.weights else _renamed(layer, name=name)
    if kind in ONE_AXIS_MORE:
        return _one_axis_more(layer, shape, name)
    if kind in GLOBAL_POOLS:
        pool = GLOBAL_POOLS[kind]((1, *shape[1:-1]), name=name)
        kept = [1] * len(shape[1:-1]) if layer.keepdims else []
        return keras.Sequential([keras.Input(shape), pool, kl.Reshape((shape[0], *kept, shape[-1]))])
    if kind in RESHAPING:
        return RESHAPING[kind](layer, shape, name)
    raise Refusal(
        f"TimeDistributed of {kind.__name__}",
        "There is no layer that does this to all positions at once: use the layer for each of them, or leave it out.",
    )


def _renamed(layer, **changes):
    return type(layer).from_config({**layer.get_config(), **changes})


def _one_axis_more(layer, shape, name):
    if getattr(layer, "padding", None) == "causal":
        raise Refusal("TimeDistributed of a layer with padding='causal'", "Pad in front of it, with ZeroPadding1D.")
    if getattr(layer, "interpolation", "nearest") != "nearest":
        raise Refusal(f"TimeDistributed of interpolation={layer.interpolation!r}", "Take interpolation='nearest'.")
    if "depth_multiplier" in layer.get_config() and set(layer.strides) != {1}:
        raise Refusal(f"TimeDistributed of {type(layer).__name__} with strides={layer.strides}", "Take strides of 1.")
    config = layer.get_config()
    config.pop("interpolation", None)
    for key, neutral in ALONG_NEW_AXIS.items():
        if config.get(key) is not None:
            given = config[key] if isinstance(config[key], list | tuple) else [config[key]]
            config[key] = (neutral, *given)
    for key in ("padding", "cropping"):
        if isinstance(config.get(key), list | tuple):  # of ZeroPadding and Cropping: a pair for each axis
            pairs = config[key] if isinstance(config[key][0], list | tuple) else [config[key]]
            config[key] = ((0, 0), *map(tuple, pairs))
    more = ONE_AXIS_MORE[type(layer)].from_config({**config, "name": name})
    more.build((None, *shape))
    for own, weight in zip(more.weights, layer.weights, strict=True):
        own.assign(keras.ops.reshape(weight, own.shape))
    return more


def _flattened(layer, shape, name):
    return kl.Reshape((shape[0], -1), name=name)


def _reshaped(layer, shape, name):
    return kl.Reshape((shape[0], *layer.target_shape), name=name)


def _permuted(layer, shape, name):
    return kl.Permute((1, *(axis + 1 for axis in layer.dims)), name=name)


def _on_axes(key: str) -> Callable:
    """Layers with axes: those that count from the front get one more."""

    def moved(layer, shape, name):
        axis = getattr(layer, key)
        axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
        more = _renamed(layer, name=name, **{key: axis + 1 if axis > 0 else axis})
        if layer.weights:
            more.build((None, *shape))
            more.set_weights(layer.get_weights())
        return more

    return moved


RESHAPING: Mapping[type, Callable] = {
    kl.Flatten: _flattened,
    kl.Reshape: _reshaped,
    kl.Permute: _permuted,
    kl.BatchNormalization: _on_axes("axis"),
    kl.Softmax: _on_axes("axis"),
    kl.Concatenate: _on_axes("axis"),
}
