"""Labelled images that come as a stream, `tf.data`, gathered into arrays. Knows nothing of spikes."""

import numpy as np
import tensorflow as tf

from spiking.checks import require


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
