"""How many images at a time: as many as memory has room for, whatever the size of an image and of its activations."""

import math
from collections.abc import Iterator

import keras

from spiking.folding.graph import FoldedGraph

# For the float32 activations of all layers of one portion. Larger portions are no faster: docs/PERFORMANCE.md.
BYTES = 2**27


def portions(images, graph: FoldedGraph, copies: int = 1) -> Iterator:
    """A batch in portions, each of at least one image, whose activations take `BYTES` at most.

    Args:
        images: `(batch, …)`, or the structure of the ANN's inputs of such.
        graph: the network they are for.
        copies: how often all activations are held at once.
    """
    values = sum(math.prod(node.shape) + sum(math.prod(edge.chain.shape) for edge in node.edges)
                 for node in graph.nodes.values())  # fmt: skip
    size = max(1, BYTES // (4 * copies * values))
    for start in range(0, length(images), size):
        yield keras.tree.map_structure(lambda each: each[start : start + size], images)  # noqa: B023  used at once


def length(images) -> int:
    """Number of images in a batch, an array or a structure of arrays."""
    return len(keras.tree.flatten(images)[0])
