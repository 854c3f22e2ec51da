"""Labelled images as they come, archives and streams (`tf.data`), read into arrays. Knows nothing of spikes."""

import logging
from pathlib import Path

import numpy as np
import tensorflow as tf

from spiking.checks import require

__all__ = ["ARRAY_NAMES", "gathered", "read_npz"]

logger = logging.getLogger(__name__)

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")


def gathered(source):
    """The source, with arrays where a stream was; what is no pair is returned as it is.

    Args:
        source: a pair of training and test data, each a `tf.data.Dataset` of pairs (images, labels), in batches or one
            by one, or something else.

    Raises:
        ValueError: a stream never ends, is empty, or holds something else than pairs.
    """
    pair = isinstance(source, tuple | list) and len(source) == 2
    return tuple(map(_arrays, ("train", "test"), source)) if pair else source


def _arrays(part: str, data):
    """Images and labels as two arrays; what is no stream is returned as it is."""
    if not isinstance(data, tf.data.Dataset):
        return data
    endless = data.cardinality() == tf.data.INFINITE_CARDINALITY
    require(not endless, "A data set must end", f"ds_{part}, which repeats forever", "Leave out .repeat().")
    pairs = isinstance(data.element_spec, tuple) and len(data.element_spec) == 2
    require(pairs, "A tf.data.Dataset gives pairs (images, labels)", f"ds_{part} of {data.element_spec}",
            "Map it to such pairs; with tensorflow_datasets load it with as_supervised=True.")
    found = list(data.as_numpy_iterator())
    require(found, "There must be at least one image", f"an empty ds_{part}", "Pass some images.")
    single = np.ndim(found[0][1]) == 0  # one image at a time
    images, labels = ((np.stack if single else np.concatenate)(each) for each in zip(*found, strict=True))
    return images, labels


def read_npz(path: Path) -> tuple:
    """Reads the four arrays of an .npz file. Pickled objects are refused, since loading them can run any code."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no such .npz file. Received: {str(path)!r}. Check the path.")
    try:
        # A file with a single array (.npy) fails here too: an array cannot be entered.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name in ARRAY_NAMES}
    except PermissionError:
        raise
    except Exception as error:  # A damaged file shows itself in many ways.
        raise ValueError(
            "The file is no .npz archive of plain arrays: it is damaged, or holds pickled objects, which are not "
            f"loaded since they can run any code ({error}). Received: {str(path)!r}. "
            "Write it with numpy.savez(path, x_train=…, …), each array of numbers and of one shape."
        ) from error
    missing = [name for name in ARRAY_NAMES if name not in arrays]
    require(not missing, f"An .npz data set needs the arrays {', '.join(ARRAY_NAMES)}",
            f"{str(path)!r} without {', '.join(missing)}", "Rename or add arrays.")
    logger.info("data set read from %s", path)
    return (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
