"""Resizing as a matrix: every new row and column is a weighted sum of old ones."""

import numpy as np

from spiking.folding.linear import Interpolation


def interpolation(method: str, shape: tuple[int, ...], size: tuple[int, int]) -> Interpolation:
    """The layer that resizes images as Keras does.

    Args:
        method: "nearest" or "bilinear".
        shape: of one image, (rows, columns, channels).
        size: new (rows, columns).
    """
    rows, columns = (WEIGHTS[method](old, new) for old, new in zip(shape, size, strict=False))
    layer = Interpolation(rows.tolist(), columns.tolist(), dtype="float64")
    layer.build((None, *shape))
    return layer


def bilinear(old: int, new: int) -> np.ndarray:
    """Weights `(new, old)`: pixel centres lie at half-integers, as in `tf.image.resize`; the border is repeated."""
    position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, old - 1)
    weights = np.zeros((new, old))
    weights[np.arange(new), below] += 1 - (position - below)
    weights[np.arange(new), above] += position - below
    return weights


def nearest(old: int, new: int) -> np.ndarray:
    """Weights `(new, old)`: the old pixel in which the new one's centre lies."""
    at = np.minimum(np.floor((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
    return np.eye(old)[at]


WEIGHTS = {"nearest": nearest, "bilinear": bilinear}
