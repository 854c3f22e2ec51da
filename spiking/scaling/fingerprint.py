"""A fingerprint of a folded network: calibrations know by it which network they are of."""

import hashlib

import numpy as np
import tensorflow as tf

from spiking.folding.linear import kernel_variables
from spiking.folding.reader import FoldedNetwork

# Settings of a layer that change nothing in what it computes.
IRRELEVANT = ("name", "dtype", "trainable")


def fingerprint(folded: FoldedNetwork) -> str:
    """A hash of everything that decides a network's activations: layers, kernels, biases, limits, poolings.

    Names do not count, and the same network read again, or loaded from a file, has the same fingerprint. Costs a
    pass over the weights, two gigabytes a second.

    Returns:
        16 hexadecimal digits.
    """
    found = hashlib.sha256(repr(folded.input_shape).encode())
    for layer in folded.preprocessing:
        _add_layer(found, layer)
    for stage in folded.stages:
        for layer in stage.chain.layers:
            _add_layer(found, layer)
        # TensorFlow computes biases, and sums them up in an order of its own: the last digits are left out.
        size = np.abs(stage.chain.bias).max() or 1.0
        found.update(np.round(stage.chain.bias / size * 2**20).astype(np.int32).tobytes())
        if stage.pool is not None:
            _add_layer(found, stage.pool)
            found.update(repr(None if stage.sign is None else stage.sign.tolist()).encode())
        limits = (stage.output_shape, stage.holds_neurons, stage.ceiling, stage.clamp, stage.levels)
        found.update(repr((*limits, float(np.float32(size)), stage.activation.__name__)).encode())
    return found.hexdigest()[:16]


def _add_layer(found, layer) -> None:
    settings = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in sorted(layer.get_config().items())
        if isinstance(value, int | str | tuple | list) and key not in IRRELEVANT
    }
    found.update(repr((type(layer).__name__, settings)).encode())
    for kernel in kernel_variables(layer):
        found.update(memoryview(tf.convert_to_tensor(kernel)))  # as it lies in memory: no copy
