"""A fingerprint of a folded network: calibrations know by it which network they are of."""

import hashlib

import numpy as np
import tensorflow as tf

from spiking.folding.chain import Chain
from spiking.folding.graph import FoldedGraph, Image, Neurons, Pool, ReadOut, Relay

# Settings of a layer that change nothing in what it computes.
IRRELEVANT = ("name", "dtype", "trainable")


def fingerprint(graph: FoldedGraph) -> str:
    """A hash of everything that decides a network's activations: layers, kernels, biases, activations, wiring.

    Names of layers without neurons do not count, and the same network read again, or loaded from a file, has the same
    fingerprint. Costs a pass over the weights, two gigabytes a second.

    Returns:
        16 hexadecimal digits.
    """
    found = hashlib.sha256()
    numbers = {name: number for number, name in enumerate(graph.nodes)}
    for node in graph.nodes.values():
        found.update(repr((type(node).__name__, node.shape, [numbers[source] for source in node.sources])).encode())
        for _, chain in node.edges:
            _add_chain(found, chain)
        ADDED.get(type(node), lambda found, node: None)(found, node)
    return found.hexdigest()[:16]


def _add_image(found, node: Image) -> None:
    for layer, _ in node.preprocessing:
        _add_settings(found, layer)
        for weight in layer.weights:
            found.update(memoryview(tf.convert_to_tensor(weight)))  # as it lies in memory: no copy


def _add_pool(found, node: Pool) -> None:
    _add_settings(found, node.layer)
    found.update(repr(None if node.sign is None else node.sign.tolist()).encode())


def _add_activation(found, node: Neurons) -> None:
    found.update(node.activation.fingerprint())


def _add_name(found, node: ReadOut) -> None:
    found.update(getattr(node.activation, "__name__", type(node.activation).__name__).encode())


def _add_join(found, node: Relay) -> None:
    found.update(repr(node.join).encode())


# Kind of node -> what it adds beside its edges.
ADDED = {Image: _add_image, Pool: _add_pool, Neurons: _add_activation, ReadOut: _add_name, Relay: _add_join}


def _add_chain(found, chain: Chain) -> None:
    for link in chain.links:
        _add_settings(found, link.layer)
        for array in (*link.kernels, link.inward, link.outward, link.scale):
            if array is not None:
                found.update(np.ascontiguousarray(array))
    # TensorFlow computes biases, and sums them up in an order of its own: the last digits are left out.
    size = np.abs(chain.bias).max() or 1.0
    found.update(np.round(chain.bias / size * 2**20).astype(np.int32).tobytes())
    found.update(repr((chain.bias.shape, float(np.float32(size)))).encode())


def _add_settings(found, layer) -> None:
    settings = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in sorted(layer.get_config().items())
        if isinstance(value, int | str | tuple | list) and key not in IRRELEVANT
    }
    found.update(repr((type(layer).__name__, settings)).encode())
