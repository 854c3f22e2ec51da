"""On which scale images come, and which one a network expects."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import keras
import numpy as np
from keras import layers as kl

logger = logging.getLogger(__name__)

# Images whose largest value is this many times larger or smaller than expected are of another scale.
OTHER_SCALE = 10


class Range(NamedTuple):
    """From where to where images go, and how that is known."""

    low: float
    high: float
    source: str

    @property
    def magnitude(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))


def expected_range(network) -> Range | None:
    """The range of images a network expects, if it tells: a spiking network's calibration, or a first layer that brings
    images to a range of about 1."""
    calibrated = getattr(network, "input_range", None)
    if calibrated:
        return Range(*calibrated, "the calibration images")
    layers = getattr(network, "layers", ())
    if len(getattr(network, "inputs", None) or ()) != 1:
        return None
    first = next((layer for layer in layers if not isinstance(layer, kl.InputLayer | kl.Flatten | kl.Reshape)), None)
    if isinstance(first, kl.Rescaling):
        scale, offset = np.asarray(first.scale, np.float64), np.asarray(first.offset, np.float64)
        # to [0, 1], or to [−1, 1] where it shifts
        low = np.where(offset < 0, -1.0, 0.0)
        ends = np.stack(np.broadcast_arrays((low - offset) / scale, (1 - offset) / scale))
        return Range(float(ends.min()), float(ends.max()), f"its layer '{first.name}'")
    if isinstance(first, kl.Normalization) and not first.invert and first.mean is not None:
        mean, deviation = np.asarray(first.mean, np.float64), np.sqrt(np.asarray(first.variance, np.float64))
        low, high = (mean - 3 * deviation).min(), (mean + 3 * deviation).max()
        return Range(float(low), float(high), f"its layer '{first.name}'")
    return expected_range(first) if isinstance(first, keras.Model) else None


def image_range(images) -> tuple[float, float]:
    """The smallest and the largest value in a batch."""
    arrays = keras.tree.flatten(images)
    return min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)


def warn_of_other_scale(received: tuple[float, float], expected: Range | None, what: str) -> None:
    """Warns of images on another scale than expected: 0 to 255 against 0 to 1, say, or negative ones against none."""
    found = Range(*received, what)
    if expected is None or not found.magnitude or not expected.magnitude:
        return
    ratio = found.magnitude / expected.magnitude
    negative = expected.low >= 0 and found.low < -0.1 * expected.magnitude
    if negative or not 1 / OTHER_SCALE < ratio < OTHER_SCALE:
        logger.warning(
            "The scale of %s is another than the network expects: they go from %.4g to %.4g, while %s tells of %.4g to "
            "%.4g. Scale them as the ANN's training images were.",
            what, found.low, found.high, expected.source, expected.low, expected.high,
        )  # fmt: skip


class Extent:
    """Passes batches on and keeps the smallest and the largest value of their images."""

    def __init__(self):
        self.range = (np.inf, -np.inf)

    def watch(self, batches: Iterable, images_of: Callable = lambda batch: batch) -> Iterator:
        """The batches as they come."""
        for batch in batches:
            smallest, largest = image_range(images_of(batch))
            self.range = (min(self.range[0], smallest), max(self.range[1], largest))
            yield batch


def watched(batches: Iterable, expected: Range | None, what: str, images_of=lambda batch: batch) -> Iterator:
    """The batches as they come; in the end a warning if their images are on another scale than expected."""
    if expected is None:
        yield from batches
        return
    extent = Extent()
    yield from extent.watch(batches, images_of)
    warn_of_other_scale(extent.range, expected, what)
