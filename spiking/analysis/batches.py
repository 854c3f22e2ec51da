"""Images and labels in any form a user may have them, as checked batches in the structure of a network's inputs.

What is taken as data:

- an array `(images, …)`, or whatever numpy makes one of; several inputs as a list or as a dict by name;
- a tuple (images, labels) or (images, labels, sample weights) of these; weights are not used;
- a dict with the images under "image", "images" or "x" and the labels under "label", "labels" or "y";
- a batched `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator or any other iterable, whose batches are each one
  of the above; or a callable that returns any of it.

Images of any numeric dtype are cast to the dtype of the network's input, as Keras does; a last axis of 1 may be missing
or one too many, as Keras allows.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from spiking.analysis.ranges import expected_range, watched
from spiking.analysis.tasks import Task, by_name, fits, names_of, structure, task_of
from spiking.checks import check_whole

BATCH_SIZE = 100
# Data that do not tell where they end may hold this many samples.
MOST_SAMPLES = 200_000

FORMS = (
    "an array, (images, labels), a list or dict of arrays for several inputs, a batched tf.data.Dataset, a "
    "keras.utils.PyDataset, or a callable, a generator or another iterable of batches"
)
IMAGES, LABELS = ("image", "images", "x"), ("label", "labels", "y")


class Input(NamedTuple):
    """One input of a network: the shape of one image, None for any (or any extent), and its dtype, None for any."""

    shape: tuple[int | None, ...] | None
    dtype: str | None


@dataclass(frozen=True)
class Inputs:
    """What a network takes: its inputs by name, and the structure in which it takes them.

    Attributes:
        specs: name -> `Input`.
        kind: dict, list, or None for one array.
    """

    specs: dict[str, Input]
    kind: type | None

    @classmethod
    def of(cls, network) -> "Inputs":
        """The inputs of a Keras model, a symbolic tensor, a structure of these, or the shape of one image."""
        if isinstance(network, tuple) and all(extent is None or isinstance(extent, int) for extent in network):
            return cls({"images": Input(network, keras.config.floatx())}, None)
        symbols = structure(network, "input") if isinstance(network, keras.Layer) else network
        if symbols is None:
            return cls({"images": Input(None, None)}, None)
        tensors = by_name(symbols, names_of(symbols), "inputs")
        specs = {name: Input(tuple(tensor.shape[1:]), str(tensor.dtype)) for name, tensor in tensors.items()}
        return cls(specs, dict if isinstance(symbols, Mapping) else list if len(specs) > 1 else None)

    def pack(self, arrays: dict[str, np.ndarray]):
        """Arrays by name in the structure that the network takes."""
        if self.kind is dict:
            return arrays
        return list(arrays.values()) if self.kind is list else next(iter(arrays.values()))


def length(images) -> int:
    """The number of samples in a batch."""
    return len(keras.tree.flatten(images)[0])


def image_batches(data, network, what: str = "images", batch_size: int = BATCH_SIZE) -> Iterator:
    """Checked batches of images, in the structure of the network's inputs: an array, a list, or a dict.

    Args:
        data: in any form of this module; labels are left out.
        network: what they are for, as `Inputs.of` takes it.
        what: the argument's name, for errors.
        batch_size: of arrays; other forms bring their own batches.

    Raises:
        ValueError: no images, images of another shape, NaN or infinite values, data without end.
    """
    batch_size, inputs = check_whole("batch_size", batch_size, 1), Inputs.of(network)
    batches = _checked(data, None, inputs, what, batch_size, labelled=False)
    return watched((images for images, _ in batches), expected_range(network), what)


def labelled_batches(
    model, images, labels=None, batch_size: int = BATCH_SIZE, required: bool = True
) -> Iterator[tuple]:
    """Checked batches of (images, labels); of several outputs the labels are a dict by their names.

    Args:
        model: the network they are for.
        images: in any form of this module.
        labels: an array `(images, …)`, for several outputs a list or dict, also of some of them; None if `images`
            brings them. Which labels fit an output is told in `tasks.py`.
        batch_size: of arrays; other forms bring their own batches.
        required: False for None in place of labels that are nowhere.

    Raises:
        ValueError: shapes, counts or labels do not fit the network.
    """
    check_whole("batch_size", batch_size, 1)
    pairs = _labelled(model, images, labels, batch_size, required)
    return watched(pairs, expected_range(model), "images", lambda pair: pair[0])


def _labelled(model, images, labels, batch_size: int, required: bool) -> Iterator[tuple]:
    task = None if structure(model, "output") is None else task_of(model)
    for x, y in _checked(images, labels, Inputs.of(model), "images", batch_size):
        if y is None and not required:
            yield x, None
            continue
        if y is None:
            raise ValueError("There must be one label per image. Received: images without labels. Give labels=….")
        task = task or task_of(model, model(x, training=False))
        checked = {name: task.outputs[name].labels(values) for name, values in _some(y, task).items()}
        for values in checked.values():
            _check_count(length(x), len(values))
        yield x, (checked if len(task.outputs) > 1 else next(iter(checked.values())))


def _some(labels, task: Task) -> dict[str, Any]:
    """Labels by the names of outputs; a dict may leave outputs out."""
    if len(task.outputs) > 1 and isinstance(labels, Mapping) and labels and set(labels) <= set(task.outputs):
        return {name: labels[name] for name in task.outputs if name in labels}
    return by_name(labels, task.outputs, "outputs")


def _checked(data, labels, inputs: Inputs, what: str, batch_size: int, labelled: bool = True) -> Iterator[tuple]:
    """(images in the network's structure, labels as they came or None), batch by batch."""
    if labels is not None:
        if isinstance(data, tuple) or not _is_array(data):
            raise ValueError(
                f"labels go with images as arrays. Received: labels of type {type(labels).__name__} with images of "
                f"type {type(data).__name__}. Let each batch be (images, labels), and leave labels out."
            )
        data = (data, labels)
    elements, ends = _opened(data, inputs, batch_size, what, labelled)
    seen = 0
    for element in elements:
        raw, y = _split(element, inputs, what)
        arrays = {name: _image_array(raw[name], spec, name, what) for name, spec in inputs.specs.items()}
        _check_same_length(arrays, what)
        images = inputs.pack(arrays)
        seen += max(length(images), 1)
        if not ends and seen > MOST_SAMPLES:
            raise ValueError(
                f"{what} of unknown length may hold {MOST_SAMPLES} samples. Received: more, perhaps without end. Cut "
                "them by itertools.islice or .take(batches); or give a form that tells its length: an array, a "
                "keras.utils.PyDataset, a tf.data.Dataset with tf.data.experimental.assert_cardinality."
            )
        if length(images):
            yield images, y
    if not seen:
        raise ValueError(f"{what} needs at least one image. Received: none.")


def _opened(data, inputs: Inputs, batch_size: int, what: str, labelled: bool) -> tuple[Iterable, bool]:
    """The batches of data, each still in a form of its own; and whether they are known to end."""
    if isinstance(data, tf.data.Dataset):
        cardinality = int(data.cardinality())
        if cardinality == tf.data.INFINITE_CARDINALITY:
            raise _endless(what, "a tf.data.Dataset without end", "Leave .repeat() out, or add .take(batches).")
        return data, cardinality >= 0
    if isinstance(data, keras.utils.PyDataset):
        batches = data.num_batches
        if batches is None:
            raise _endless(what, "a PyDataset whose num_batches is None", "Let it have a length.")
        return (data[index] for index in range(batches)), True
    if callable(data):
        return _opened(data(), inputs, batch_size, what, labelled)
    if not _is_array(data):
        if isinstance(data, Iterable):
            return data, False
        raise ValueError(f"{what} must be {FORMS}. Received: {type(data).__name__}")
    arrays, labels = _split(data, inputs, what)
    arrays = {name: _sliceable(values, what) for name, values in arrays.items()}
    labels = _map(lambda values: _sliceable(values, "labels"), labels) if labelled else None
    number = _check_same_length(arrays, what)
    for values in _leaves(labels):
        _check_count(number, len(values))

    def batch(start):
        part = slice(start, start + batch_size)
        return {name: values[part] for name, values in arrays.items()}, _map(lambda values: values[part], labels)

    return map(batch, range(0, number, batch_size)), True


def _endless(what: str, received: str, remedy: str) -> ValueError:
    return ValueError(f"{what} must come to an end. Received: {received}. {remedy}")


def _is_array(data) -> bool:
    """Whether data are arrays at once, not batches that are still to come."""
    return isinstance(data, Mapping | list | tuple) or hasattr(data, "__array__")


def _split(element, inputs: Inputs, what: str) -> tuple[dict[str, Any], Any]:
    """Images by input names, and labels or None, of one batch (or of all data)."""
    labels = None
    if isinstance(element, tuple):
        if not 1 <= len(element) <= 3:
            raise ValueError(
                f"A tuple is (images, labels) or (images, labels, sample weights). Received: {what} as a tuple of "
                f"{len(element)}. Give several inputs as a list or a dict, and images as an array."
            )
        element, labels = element[0], element[1] if len(element) > 1 else None
    elif isinstance(element, Mapping) and not set(inputs.specs) <= set(element):
        images, found = ([key for key in keys if key in element] for keys in (IMAGES, LABELS))
        if len(images) == 1 and len(inputs.specs) == 1:
            return {next(iter(inputs.specs)): element[images[0]]}, element[found[0]] if found else None
        raise ValueError(
            f"A dict of {what} has the names of the network's inputs, {list(inputs.specs)}, or 'image' and 'label'. "
            f"Received: the names {list(element)}. Make it (images, labels), for example by .map()."
        )
    if isinstance(element, list) and len(element) == len(inputs.specs) == 1:
        (spec,) = inputs.specs.values()
        if spec.shape is not None and np.ndim(element[0]) == len(spec.shape) + 1:
            element = element[0]  # Keras takes the only input of a network also in a list
    return by_name(element, inputs.specs, "inputs"), labels


def _leaves(labels) -> list:
    if isinstance(labels, Mapping):
        return list(labels.values())
    return [] if labels is None else labels if _several(labels) else [labels]


def _several(labels) -> bool:
    """Whether labels are a list with an array for each of several outputs, not a list of numbers."""
    return isinstance(labels, list | tuple) and len(labels) > 1 and all(getattr(each, "shape", ()) for each in labels)


def _map(function, labels):
    if labels is None:
        return None
    if isinstance(labels, Mapping):
        return {name: function(values) for name, values in labels.items()}
    return [function(values) for values in labels] if _several(labels) else function(labels)


def _sliceable(values, what: str):
    """The values as something to cut batches out of; what has a shape already stays where it is (on disk, say)."""
    if getattr(values, "shape", ()) and hasattr(values, "__getitem__"):
        return values
    array = _as_array(values, what)
    if not array.ndim:
        raise ValueError(f"{what} must be {FORMS}. Received: {type(values).__name__}")
    return array


def _as_array(values, what: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Batches of {what} are arrays of numbers, or tuples with such an array first. Received: "
            f"{type(values).__name__}, which cannot be made one ({error})."
        ) from error


def _image_array(values, spec: Input, name: str, what: str) -> np.ndarray:
    """One input's images as an array in the dtype of the network's input."""
    array = _as_array(values, what)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ValueError(f"{what} are numbers. Received: dtype {array.dtype}. Decode or encode them first.")
    if spec.shape is not None:
        array = _with_last_axis(array, spec.shape)
        if not fits(array.shape[1:], spec.shape) or not array.ndim:
            shape = ", ".join("any" if extent is None else str(extent) for extent in spec.shape)
            remedy = "Batch them: .batch(100)." if array.shape == spec.shape else "Resize or reshape them."
            raise ValueError(
                f"{what} holds batches of the ANN's images, shape (batch, {shape}) for input {name!r}. Received: "
                f"images of shape {array.shape[1:]} in a batch of shape {array.shape}. {remedy}"
            )
    if spec.dtype is not None:
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            array = array.astype(spec.dtype, copy=False)
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        raise ValueError(f"{what} images must be finite. Received: NaN or infinity. Clean the data first.")
    return array


def _with_last_axis(array: np.ndarray, shape: tuple) -> np.ndarray:
    """A last axis of 1 added or taken away, where the network's input wants it, as Keras does."""
    if array.ndim == len(shape) and array.ndim and shape[-1] == 1 and array.shape[1:] == shape[:-1]:
        return array[..., None]
    if array.ndim == len(shape) + 2 and array.shape[-1] == 1:
        return array[..., 0]
    return array


def _check_same_length(arrays: dict[str, Any], what: str) -> int:
    """The number of samples, once it is the same in all inputs."""
    lengths = {name: (np.shape(values) or (0,))[0] for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"All inputs of {what} must hold the same number of samples. Received: {lengths}")
    return next(iter(lengths.values()))


def _check_count(images: int, labels: int) -> None:
    if images != labels:
        raise ValueError(f"There must be one label per image. Received: {images} images, {labels} labels.")
