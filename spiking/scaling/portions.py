"""How many images at a time: as many as memory has room for, whatever the size of an image and of its activations."""

from collections.abc import Iterator

import numpy as np

from spiking.folding.reader import FoldedNetwork

# For the float32 activations of all layers of one portion. Larger portions are no faster: docs/PERFORMANCE.md.
BYTES = 2**27


def portions(images: np.ndarray, folded: FoldedNetwork, copies: int = 1) -> Iterator[np.ndarray]:
    """A batch in portions, each of at least one image, whose activations take `BYTES` at most.

    Args:
        images: `(batch, …)`.
        folded: the network they are for.
        copies: how often all activations are held at once.
    """
    values = sum(int(np.prod(stage.chain.shape) + np.prod(stage.output_shape)) for stage in folded.stages)
    size = max(1, BYTES // (4 * copies * values))
    for start in range(0, len(images), size):
        yield images[start : start + size]
