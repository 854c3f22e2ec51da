"""Data sets, architectures and training of the artificial networks (ANNs) that are later converted.

This module knows nothing of spikes. Its three parts, in order:

1. `load_dataset` reads images and labels from the sources a person is likely to have;
2. `ARCHITECTURES` is the table of networks: `keras.Sequential` chains, and graphs whose branches meet;
3. `train_network`, and one `train_network_<name>` for each architecture, train a network or load it from the cache.

Example:

```python
data = load_dataset("mnist_sample")
ann = train_network_lenet5_maxpool(Training(epochs=10), data.train, data.test)
ann.evaluate(*data.test)
```
"""

import dataclasses
import functools
import hashlib
import json
import logging
import math
import numbers
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from spiking.checks import check_folder, check_whole, require
from spiking.runs.devices import is_op_determinism_enabled, rounded_otherwise, rounding, warn_of_uneven_shares
from spiking.runs.files import write_atomically
from spiking.runs.sources import gathered, read_npz
from spiking.shown import Shown

_log = logging.getLogger(__name__)


# --- data ------------------------------------------------------------------------------------------------------

KERAS_DATASETS = ("mnist", "fashion_mnist", "cifar10", "cifar100")
DATASETS = ("mnist_sample", *KERAS_DATASETS)

_EMBEDDED = Path(__file__).parent / "spiking" / "data"
_LARGEST_LABEL = 99_999  # A network has an output for each number up to the largest: 10⁷ of them take gigabytes.
_NUMBER_CLASSES = (
    "Number the classes from 0, in training and test labels alike: "
    "names = sorted(set(y_train)); numpy.searchsorted(names, labels)."
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset(Shown):
    """Labelled images, in a training and a test part, as `load_dataset` returns them.

    Args:
        name: what the data set is called in reports and file names.
        x_train, x_test: images, float32 in [0, 1], shape `(n, height, width, channels)`.
        y_train, y_test: the number of the class of each image, int32, shape `(n,)`.
        source: where they were read: the path of a file, "keras.datasets", or "arrays".
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    source: str = "arrays"

    def heading(self) -> str:
        """Name, numbers, shape, and where it was read."""
        shape = " × ".join(map(str, self.input_shape))
        count = f"{len(self.x_train):,} training and {len(self.x_test):,} test images"
        return f"{self.name}: {count}, {shape}, {self.classes} classes, from {Path(self.source).name}"

    def table(self) -> list[tuple[str, ...]]:
        """How many images each class has."""
        counts = (np.bincount(labels, minlength=self.classes) for labels in (self.y_train, self.y_test))
        rows = [tuple(map(str, row)) for row in zip(range(self.classes), *counts, strict=False)]
        return [("class", "training images", "test images"), *rows] if self.classes <= 100 else []

    def to_dict(self) -> dict[str, Any]:
        """What there is to say of it; not its images."""
        facts = {"name": self.name, "source": self.source, "fingerprint": self.fingerprint, "classes": self.classes}
        return {**facts, "images": [len(self.x_train), len(self.x_test)], "image shape": list(self.input_shape)}

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Training images and labels, as `train_network` takes them."""
        return self.x_train, self.y_train

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Test images and labels."""
        return self.x_test, self.y_test

    @property
    def classes(self) -> int:
        """Number of classes: the largest training label plus one."""
        return int(self.y_train.max()) + 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image, `(height, width, channels)`."""
        return self.x_train.shape[1:]

    def for_validation(self, share: float) -> "Dataset":
        """The training images in two parts: for training, and, a share of them, in place of the test images."""
        order = np.random.default_rng(0).permutation(len(self.x_train))  # files are often sorted by class
        parts = np.split(order, [len(order) - max(1, round(share * len(order)))])
        (x_train, y_train), (x_test, y_test) = ((self.x_train[part], self.y_train[part]) for part in parts)
        return dataclasses.replace(self, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash over all images and labels: equal content, equal fingerprint, whatever the name."""
        parts = _examine("train", self.train).fingerprint, _examine("test", self.test).fingerprint
        return _digest("".join(parts))


def load_dataset(
    source="mnist_sample",
    *,
    data_dir: str | os.PathLike | None = None,
    image_size_rescale: float | Sequence[int] | None = None,
    image_depth_increase: int | bool | None = None,
    max_images: int | None = None,
) -> Dataset:
    """Reads a data set and brings it into one form: float32 images in [0, 1] with a channel axis, integer labels.

    Args:
        source: one of
            - `"mnist_sample"`: 6000 + 1000 images of MNIST, part of this package;
            - `"mnist"`, `"fashion_mnist"`, `"cifar10"`, `"cifar100"`: `<name>.npz` is looked for in the folder that
              SPIKING_DATA_DIR names, then in `~/.cache/spiking-datasets`; otherwise Keras has or downloads it;
            - a path to an `.npz` file with the arrays x_train, y_train, x_test, y_test;
            - the arrays themselves, `((x_train, y_train), (x_test, y_test))`, or a `tf.data.Dataset` for each pair;
            - a `Dataset`.

            Images have the shape `(n, height, width)` or `(n, height, width, channels)` and are uint8 (then divided
            by 255) or floats in [0, 1]; labels are integers of shape `(n,)` or `(n, 1)`.
        data_dir: the folder of `<name>.npz`, in place of all these; no other copy is taken if it has none.
        image_size_rescale: the new `[height, width]`, or a factor on both (bilinear); 0.5 halves them. At least one
            pixel remains. None keeps the size.
        image_depth_increase: how many times the channels are repeated; True is 3, which makes grayscale images RGB.
            None or False keeps them.
        max_images: keep only the first so many training images and as many test images; `None` keeps all.

    Returns:
        The `Dataset`. Its `source` tells which file was read, and so does a message of the log.

    Raises:
        ValueError: if an argument, the file or the arrays break one of the rules above.
        FileNotFoundError: if `data_dir` has no such file, or the data set is not here and cannot be downloaded.
    """
    _check_size(image_size_rescale)
    depth = channel_repeats(image_depth_increase)
    if max_images is not None:
        check_whole("max_images", max_images, 1, remedy="Use None to keep all images.")

    name, read_from, (train, test) = _read(source, data_dir)
    x_train, y_train = _standardise("train", *train, max_images)
    x_test, y_test = _standardise("test", *test, max_images)
    _require_same_shape(x_train.shape[1:], x_test.shape[1:])
    require(image_depth_increase is not True or x_train.shape[-1] == 1,
            "`image_depth_increase=True` makes gray images RGB", f"images of shape {x_train.shape[1:]}",
            "Use None to keep the channels, or a number to repeat them so often.")
    x_train, x_test = (_resize(images, image_size_rescale, depth) for images in (x_train, x_test))
    return Dataset(name, x_train, y_train, x_test, y_test, read_from)


def _read(source, data_dir) -> tuple[str, str, tuple]:
    """Finds the source. Returns name, origin and, unchecked, the arrays, `((x_train, y_train), (x_test, y_test))`."""
    if isinstance(source, str) and source in DATASETS:
        path = _find(source, data_dir)
        return (source, str(path), read_npz(path)) if path else (source, "keras.datasets", _ask_keras(source))
    if isinstance(source, os.PathLike) or (isinstance(source, str) and source.endswith(".npz")):
        path = Path(os.path.expanduser(source))
        return path.stem, str(path), read_npz(path)
    if isinstance(source, Dataset):
        return source.name, source.source, (source.train, source.test)
    source = gathered(source)
    try:
        (x_train, y_train), (x_test, y_test) = source
    except (TypeError, ValueError):
        received = repr(source) if isinstance(source, str) else f"an object of type {type(source).__name__}"
        raise ValueError(
            f"Unknown data set. Received: {received}. Pass one of {', '.join(DATASETS)}, the path of an .npz file "
            "with x_train, y_train, x_test, y_test, or arrays ((x_train, y_train), (x_test, y_test))."
        ) from None
    return "arrays", "arrays", ((x_train, y_train), (x_test, y_test))


def _find(name: str, data_dir) -> Path | None:
    """The file of a data set; None if no folder has it, and Keras is to be asked."""
    if name == "mnist_sample":
        return _EMBEDDED / "mnist_sample.npz"
    named = os.environ.get("SPIKING_DATA_DIR")
    usual = filter(None, (named, "~/.cache/spiking-datasets"))
    for folder in usual if data_dir is None else (data_dir,):
        path = Path(os.path.expanduser(folder)) / f"{name}.npz"  # Path.expanduser raises where there is no home
        if path.is_file():
            return path
        if folder == named:
            _log.warning("SPIKING_DATA_DIR=%r has no %s: it is looked for elsewhere", named, path.name)
    if data_dir is None:
        return None
    raise FileNotFoundError(
        f"The folder given by `data_dir` must hold {name}.npz; no other copy is taken in its place. "
        f"Received: data_dir={data_dir!r}. Correct it, or leave it out to have the usual folders searched."
    )


def _ask_keras(name: str) -> tuple:
    try:
        arrays = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        raise FileNotFoundError(
            f"The data set {name!r} is not on this machine and Keras could not download it ({error}). "
            f"Received: {name!r}. Put {name}.npz (x_train, y_train, x_test, y_test) into a folder given as `data_dir`, "
            "the one that the environment variable SPIKING_DATA_DIR names, or ~/.cache/spiking-datasets; or connect to "
            "the network once, and Keras keeps it in its cache; or use 'mnist_sample', which is part of the package."
        ) from error
    _log.info("data set %s read by keras.datasets", name)
    return arrays


def _standardise(part: str, images, labels, max_images: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Brings one part into the form of `Dataset`: float32 images in [0, 1] with channels, int32 labels `(n,)`."""
    images, labels = np.atleast_1d(images), np.atleast_1d(labels)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    require(images.dtype == np.uint8 or images.dtype.kind == "f",
            "Images must be uint8 (0 to 255) or floats in [0, 1]", f"x_{part}.dtype={images.dtype}",
            "Divide them by the largest value of their format, which gives floats: 255 for 8 bits, 65535 for 16.")
    _require_shapes(part, images, labels)
    images, labels = images[:max_images], labels[:max_images]
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    _require_values(part, images, labels)
    low, high = images.min(), images.max()
    require(low >= 0 and high <= 1, "Floating point images must lie in [0, 1]",
            f"x_{part} from {low:g} to {high:g}", "Shift and scale them, or pass uint8 images.")
    return images.astype(np.float32, copy=False), labels.astype(np.int32, copy=False)


def channel_repeats(image_depth_increase: int | bool | None) -> int:
    """How many times the channels are repeated; see `load_dataset`."""
    if image_depth_increase is None or isinstance(image_depth_increase, bool):
        return 3 if image_depth_increase else 1
    remedy = "Use None to keep the channels, True to make gray images RGB."
    return check_whole("image_depth_increase", image_depth_increase, 1, remedy=remedy)


def _check_size(rescale) -> None:
    sides = rescale if isinstance(rescale, Sequence) and not isinstance(rescale, str) else None
    if sides is not None:
        whole = [side for side in sides if isinstance(side, numbers.Integral) and not isinstance(side, bool)]
        fits = len(sides) == len(whole) == 2 and min(whole) > 0
    else:
        factor = isinstance(rescale, numbers.Real) and not isinstance(rescale, bool)
        fits = rescale is None or (factor and 0 < rescale < math.inf)
    require(fits, "`image_size_rescale` must be [height, width] in pixels, a positive factor, or None",
            f"image_size_rescale={rescale!r}", "Use None to keep the size.")


def _resize(images: np.ndarray, rescale: float | Sequence[int] | None, repeats: int) -> np.ndarray:
    """Brings images to a size, or scales height and width by a factor (at least 1 pixel remains); repeats channels."""
    if isinstance(rescale, Sequence):
        size = tuple(rescale)
    else:
        size = tuple(max(1, round(length * (rescale or 1))) for length in images.shape[1:3])
    if size != images.shape[1:3]:
        images = tf.image.resize(images, size, method="bilinear").numpy()
    return np.tile(images, repeats) if repeats > 1 else images


class _Facts(NamedTuple):
    """What the training needs to know about a data set."""

    images: int
    input_shape: tuple[int, int, int]
    classes: int
    fingerprint: str  # over images and labels, however they are cut into batches


def _examine(part: str, data) -> _Facts:
    """Goes once through `(images, labels)` or a `tf.data.Dataset` of them: checks, counts and hashes what is there."""
    is_stream = isinstance(data, tf.data.Dataset)
    require(not is_stream or data.cardinality() != tf.data.INFINITE_CARDINALITY, "A data set must end",
            f"ds_{part}, which repeats forever", "Leave out .repeat(), or limit it with .take(n).")
    count, input_shape, largest = 0, None, 0
    image_hash, label_hash = hashlib.blake2b(), hashlib.blake2b()
    for pair in data if is_stream else (data,):
        require(isinstance(pair, tuple | list) and len(pair) == 2,
                "Data must be a pair (images, labels), or a batched tf.data.Dataset of such pairs",
                f"ds_{part} of type {type(data).__name__}", "From `load_dataset`, pass .train or .test.")
        images, labels = map(np.asarray, pair)
        require(images.dtype.kind == "f", "Images must be floats", f"ds_{part} with images of type {images.dtype}",
                "`load_dataset` brings images into this form.")
        _require_shapes(part, images, labels)
        _require_values(part, images, labels)
        input_shape = input_shape or images.shape[1:]
        _require_same_shape(input_shape, images.shape[1:])
        count, largest = count + len(images), max(largest, int(labels.max()))
        # In one type each, so that the hash depends on the values alone.
        image_hash.update(np.ascontiguousarray(images, np.float32))
        label_hash.update(np.ascontiguousarray(labels, np.int64))
    require(count > 0, "There must be at least one image", f"an empty ds_{part}", "Pass some images.")
    fingerprint = _digest(f"{input_shape} {image_hash.hexdigest()} {label_hash.hexdigest()}")
    return _Facts(count, input_shape, largest + 1, fingerprint)


def _require_shapes(part: str, images: np.ndarray, labels: np.ndarray) -> None:
    require(images.ndim == 4 and images.size > 0, "Images must have the shape (n, height, width, channels)",
            f"{part} images of shape {images.shape}", "Reshape the images, or add some.")
    require(labels.ndim == 1 and labels.dtype.kind in "iu",
            "Labels must be integers, the number of the class, of shape (n,)",
            f"{part} labels of type {labels.dtype} and shape {labels.shape}",
            _NUMBER_CLASSES if labels.ndim == 1 else "For one-hot labels use labels.argmax(-1).")
    require(len(images) == len(labels), "Every image needs one label",
            f"{len(images)} images and {len(labels)} labels for {part}",
            "Check how the arrays were cut or joined.")


def _require_values(part: str, images: np.ndarray, labels: np.ndarray) -> None:
    require(np.isfinite(images).all(), "Images must not hold NaN or infinite values",
            f"such pixels in {part} images", "Replace them, or drop these images.")
    require(labels.min() >= 0, "Labels must not be negative", f"the label {labels.min()} in {part} labels",
            "Number the classes from 0, and drop images without a label.")
    require(labels.max() <= _LARGEST_LABEL, f"Labels must be at most {_LARGEST_LABEL}",
            f"the label {labels.max()} in {part} labels", _NUMBER_CLASSES)


def _require_same_shape(expected: tuple, received: tuple) -> None:
    require(expected == received, "All images, for training and for test, must have the same shape",
            f"images of shape {expected} and {received}", "Resize or pad some of them.")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- architectures ---------------------------------------------------------------------------------------------

# What makes hidden activations: a name, a layer (copied each time), its Keras configuration, or a function without
# arguments that returns one of these, such as `functools.partial(keras.layers.ReLU, threshold=0.5)`.
Activation = str | dict | keras.layers.Layer | Callable[[], Any]


# What a layer with weights comes with, in order. Only a layer that no normalisation follows needs a bias.
_ORDERS = {
    None: ("layer", "act"),
    "before": ("layer", "norm", "act"),
    "after": ("layer", "act", "norm"),
    "only": ("layer", "norm"),
    "ahead": ("norm", "act", "layer"),
}


class _Chain:
    """Collects the layers of one network, names them, and follows the shape of the map.

    `conv`, `depthwise` and `dense` add a layer with weights (`conv_1`), its activation (`conv_1_act`) and, if asked
    for, its batch normalisation (`conv_1_norm`), which stands `"before"` or `"after"` the activation, alone without an
    activation (`"only"`), or with the activation in front of the layer (`"ahead"`). Names depend on the architecture
    alone, never on what was built before, since they are part of the cache key. Every method returns the chain.
    """

    def __init__(self, name: str, input_shape: Sequence[int], classes: int, activation: Activation):
        self.name, self.input_shape, self.classes, self.activation = name, tuple(input_shape), classes, activation
        require(len(self.input_shape) == 3, "A network takes images of shape (height, width, channels)",
                f"input_shape={self.input_shape}", "Add what is missing, such as the channel axis.")
        for length in self.input_shape:
            check_whole("input_shape", length, 1, remedy="State all three: (height, width, channels).")
        check_whole("classes", classes, 2, remedy="It is the largest label plus one.")
        self.layers = [keras.Input(self.input_shape, name="image")]
        self.shape = (None, *self.input_shape)  # of the map after the last convolution or pooling
        self._count = Counter()

    def network(self) -> keras.Model:
        return keras.Sequential(self.layers, name=self.name)

    def conv(self, filters, kernel_size, strides=1, padding="same", norm=None):
        options = {"strides": strides, "padding": padding, "kernel_initializer": "he_normal"}
        return self._neurons(keras.layers.Conv2D, "conv", norm, filters, kernel_size, **options)

    def depthwise(self, kernel_size, strides=1, norm=None):
        options = {"strides": strides, "padding": "same"}
        return self._neurons(keras.layers.DepthwiseConv2D, "depthwise", norm, kernel_size, **options)

    def dense(self, units, norm=None):
        return self._neurons(keras.layers.Dense, "dense", norm, units, kernel_initializer="he_normal")

    def max_pool(self):
        return self._add_spatial(keras.layers.MaxPooling2D(name=self._number("pool")))

    def average_pool(self, pool_size=2):
        return self._add_spatial(keras.layers.AveragePooling2D(pool_size, name=self._number("pool")))

    def average_whole_map(self):
        """Global average pooling, written as the layer that the conversion knows."""
        return self.average_pool(self.shape[1:3])

    def flatten(self):
        return self._add(keras.layers.Flatten(name="flatten"))

    def dropout(self, rate):
        return self._add(keras.layers.Dropout(rate, name=self._number("dropout")))

    def scores(self):
        return self._add(keras.layers.Dense(self.classes, activation="softmax", name="scores"))

    def scores_by_convolution(self):
        """What `scores` does, on a map of one pixel and without a dense layer."""
        self._add_spatial(keras.layers.Conv2D(self.classes, 1, name="scores"))
        return self.flatten()._add(keras.layers.Activation("softmax", name="softmax"))

    def _neurons(self, layer_class, kind, norm, *args, **options):
        name = self._number(kind)
        make = {
            "layer": lambda: layer_class(*args, name=name, use_bias=norm in (None, "after"), **options),
            "norm": lambda: _make_norm(name),
            "act": lambda: _make_activation(self.activation, name=f"{name}_act"),
        }
        for part in _ORDERS[norm]:
            add = self._add if kind == "dense" or part != "layer" else self._add_spatial
            add(make[part]())
        return self

    def _add_spatial(self, layer):
        try:
            shape = layer.compute_output_shape(self.shape)
            if min(shape[1:3]) < 1:
                raise ValueError(f"an empty map, {shape}")  # as Keras says itself from 3.4 on
            self.shape = shape
        except ValueError as error:
            raise ValueError(
                f"The images are too small for {self.name!r}: layer {layer.name!r} leaves nothing of its map of "
                f"{self.shape[1]} x {self.shape[2]}. Received: input_shape={self.input_shape}. Enlarge the images "
                "(image_size_rescale), or take a network with fewer poolings."
            ) from error
        return self._add(layer)

    def _add(self, layer):
        self.layers.append(layer)
        return self

    def _number(self, kind):
        self._count[kind] += 1
        return f"{kind}_{self._count[kind]}"


class _Graph(_Chain):
    """A network whose branches part and meet. `end` is the tensor that the next layer is put on."""

    def __init__(self, *args):
        super().__init__(*args)
        self.end = self.layers[0]

    def network(self) -> keras.Model:
        return keras.Model(self.layers[0], self.end, name=self.name)

    def go_on_from(self, tensor):
        self.end, self.shape = tensor, tuple(tensor.shape)
        return self

    def add(self, branch):
        return self.go_on_from(keras.layers.Add(name=self._number("add"))([branch, self.end]))

    def concatenate(self, branch):
        return self.go_on_from(keras.layers.Concatenate(name=self._number("concatenate"))([branch, self.end]))

    def activate(self, norm=False):
        """An activation of its own, behind a join; with `norm`, a batch normalisation in front of it."""
        name = self._number("join")
        if norm:
            self._add(_make_norm(name))
        return self._add(_make_activation(self.activation, name=f"{name}_act"))

    def _add(self, layer):
        self.end = layer(self.end)
        return self


def _make_norm(name: str) -> keras.layers.Layer:
    # Keras' momentum of 0.99 takes several hundred steps to settle, more than a small data set has.
    return keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")


def _make_activation(activation: Activation, name: str) -> keras.layers.Layer:
    """A fresh activation layer of that name."""
    try:
        made = activation() if callable(activation) and not isinstance(activation, keras.layers.Layer) else activation
        if isinstance(made, dict):
            made = keras.layers.deserialize(made)
        if not isinstance(made, keras.layers.Layer):
            made = keras.layers.Activation(made)
        return type(made).from_config({**made.get_config(), "name": name})
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`activation` must be a name Keras knows, an activation layer, its configuration, or a function without "
            f"arguments that returns one. Received: activation={activation!r}. Use 'relu', or "
            "functools.partial(keras.layers.ReLU, threshold=0.5)."
        ) from error


def _vgg16(net: _Chain) -> None:
    for filters, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            net.conv(filters, 3, norm="before")
        if min(net.shape[1:3]) > 1:
            net.max_pool()
    net.flatten().dense(4096).dropout(0.5).dense(4096).dropout(0.5).scores()


def _resnet_ish(net: _Chain) -> None:
    net.conv(16, 3, norm="before")
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        net.conv(filters, 3, strides, norm="before")
        for _ in range(5):
            net.conv(filters, 3, norm="before")
    net.average_whole_map().flatten().scores()


def _resnet20(net: _Graph) -> None:
    net.conv(16, 3, norm="before")
    for filters, first_strides in ((16, 1), (32, 2), (64, 2)):
        for strides in (first_strides, 1, 1):
            start = net.end
            branch = net.conv(filters, 3, strides, norm="before").conv(filters, 3, norm="only").end
            net.go_on_from(start)
            if start.shape[-1] != filters:
                net.conv(filters, 1, strides, norm="only")
            net.add(branch).activate()
    net.average_whole_map().flatten().scores()


def _mobilenetv2_slim(net: _Graph) -> None:
    net.conv(24, 3, norm="before").depthwise(3, norm="before").conv(16, 1, norm="only")
    for filters, first_strides in ((24, 2), (48, 2), (64, 1)):
        for strides in (first_strides, 1, 1):
            start = net.end
            net.conv(4 * start.shape[-1], 1, norm="before").depthwise(3, strides, norm="before")
            net.conv(filters, 1, norm="only")
            if start.shape[-1] == filters:
                net.add(start)
    net.conv(256, 1, norm="before").average_whole_map().flatten().scores()


def _densenet_slim(net: _Graph) -> None:
    net.conv(16, 3, norm="before")
    for growth in (6, 12, 24):
        if growth > 6:
            net.conv(net.shape[-1] // 2, 1, norm="ahead").average_pool()
        for _ in range(3):
            start = net.end
            net.conv(4 * growth, 1, norm="ahead").conv(growth, 3, norm="ahead").concatenate(start)
    net.activate(norm=True).average_whole_map().flatten().scores()


class _Layout(NamedTuple):
    """One network: what it is, how it is laid out, on a chain or a graph, and what its "relu" is."""

    description: str
    lay_out: Callable[[Any], Any]
    kind: type[_Chain] = _Chain
    relu: str = "relu"


_LAYOUTS: dict[str, _Layout] = {
    "base": _Layout(
        "A small perceptron, the baseline: 128 and 64 hidden units.",
        lambda net: net.flatten().dense(128).dense(64).scores(),
    ),
    "base_scale1": _Layout(
        "`base`, twice as wide: 256 and 128 hidden units.",
        lambda net: net.flatten().dense(256).dense(128).scores(),
    ),
    "base_scale2": _Layout(
        "`base`, four times as wide and one layer deeper: 512, 256 and 128 hidden units.",
        lambda net: net.flatten().dense(512).dense(256).dense(128).scores(),
    ),
    "base_conv": _Layout(
        "Two convolutions, the second with strides in place of pooling, and a dense layer of 128.",
        lambda net: net.conv(16, 3).conv(32, 3, strides=2).flatten().dense(128).scores(),
    ),
    "base_maxpool": _Layout(
        "Two convolutions, each with max pooling, and a dense layer of 128.",
        lambda net: net.conv(16, 3).max_pool().conv(32, 3).max_pool().flatten().dense(128).scores(),
    ),
    "fully_conv": _Layout(
        "Convolutions alone, strides in place of pooling: the All-CNN of Springenberg et al. 2015, narrower.",
        lambda net: net.conv(32, 3).conv(32, 3).conv(32, 3, strides=2).conv(64, 3).conv(64, 3).conv(64, 3, strides=2)
        .conv(64, 3).conv(64, 1).average_whole_map().scores_by_convolution(),
    ),
    "fully_conv_small": _Layout(
        "`fully_conv` with three convolutions.",
        lambda net: net.conv(16, 3, strides=2).conv(32, 3, strides=2).conv(64, 3)
        .average_whole_map().scores_by_convolution(),
    ),
    "lenet5": _Layout(
        "LeNet-5 (LeCun et al. 1998) without pooling: its two convolutions stride instead.",
        lambda net: net.conv(6, 5, strides=2).conv(16, 5, strides=2, padding="valid")
        .flatten().dense(120).dense(84).scores(),
    ),
    "lenet5_averagepool": _Layout(
        "LeNet-5 (LeCun et al. 1998) with average pooling, as its sub-sampling, and padded to take images of 28 x 28.",
        lambda net: net.conv(6, 5).average_pool().conv(16, 5, padding="valid").average_pool()
        .flatten().dense(120).dense(84).scores(),
    ),
    "lenet5_maxpool": _Layout(
        "`lenet5_averagepool` with max pooling.",
        lambda net: net.conv(6, 5).max_pool().conv(16, 5, padding="valid").max_pool()
        .flatten().dense(120).dense(84).scores(),
    ),
    "lenet5_maxpool_extensions": _Layout(
        "`lenet5_maxpool` with what came later: wider layers, batch normalisation, dropout.",
        lambda net: net.conv(32, 5, norm="before").max_pool().conv(64, 5, padding="valid", norm="before").max_pool()
        .dropout(0.25).flatten().dense(256, norm="before").dropout(0.5).dense(84, norm="before").scores(),
    ),
    "denseonly1": _Layout(
        "A perceptron with one hidden layer of 600 units.",
        lambda net: net.flatten().dense(600).scores(),
    ),
    "batchnorm_etal": _Layout(
        "Batch normalisation before and after activations, average pooling, dropout: what conversion must fold.",
        lambda net: net.conv(16, 3, norm="before").average_pool().conv(32, 3, norm="after").average_pool()
        .dropout(0.25).conv(32, 3, norm="before").flatten().dense(128, norm="after").dropout(0.5).scores(),
    ),
    "vgg16": _Layout(
        "VGG-16 (Simonyan & Zisserman 2015, column D) at full width, with batch normalisation. A group's pooling is "
        "left out once the map is one pixel wide, so that small images pass too.",
        _vgg16,
    ),
    "resnet_ish": _Layout(
        "The plain counterpart, without shortcuts, of ResNet-20 (He et al. 2016, section 4.2): three stages of 16, 32 "
        "and 64 maps, strides between them, one average at the end.",
        _resnet_ish,
    ),
    "resnet20": _Layout(
        "ResNet-20 (He et al. 2016, section 4.2): nine blocks of two convolutions in three stages of 16, 32 and 64 "
        "maps, each added to its input; where the shape changes, the input passes a convolution of 1 x 1.",
        _resnet20, _Graph,
    ),
    "mobilenetv2_slim": _Layout(
        "MobileNetV2 (Sandler et al. 2018), narrow and for small images: nine inverted residuals, four times widened, "
        "depthwise convolutions, ReLU6, sums without activation. 16 million multiplications for an image of 32 x 32.",
        _mobilenetv2_slim, _Graph, "relu6",
    ),
    "densenet_slim": _Layout(
        "DenseNet-BC (Huang et al. 2017), narrow: three blocks of three units, each of which sees all before it; batch "
        "normalisation and activation stand in front of the convolutions. 17 million multiplications at 32 x 32.",
        _densenet_slim, _Graph,
    ),
}


def _architecture(name: str) -> Callable[..., keras.Model]:
    layout = _LAYOUTS[name]

    def build(input_shape: Sequence[int], classes: int, activation: Activation = "relu") -> keras.Model:
        net = layout.kind(name, input_shape, classes, layout.relu if activation == "relu" else activation)
        layout.lay_out(net)
        return net.network()

    build.__doc__ = layout.description
    build.__name__ = name
    return build


ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {name: _architecture(name) for name in _LAYOUTS}
"""Name -> `f(input_shape, classes, activation="relu")`, which returns the untrained, uncompiled network."""


# --- training --------------------------------------------------------------------------------------------------

_CACHE_FORMAT = 1  # Raise it whenever the training below changes: networks trained before are then not found again.
_LEARNING_RATE = 2e-3  # of Adam, falling to zero along half a cosine
_LOSS = "sparse_categorical_crossentropy"
# They would change the weights behind the back of the cache key.
_STEERING_CALLBACKS = (
    keras.callbacks.BackupAndRestore,
    keras.callbacks.EarlyStopping,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)

LabelledImages = tuple[np.ndarray, np.ndarray] | tf.data.Dataset


class TrainingSettings(Protocol):
    """What training reads from an experiment, or from a `Training`.

    Args:
        epochs: how often all training images are shown.
        batch_size_ann_training: images per step of training.
        seed: of everything random (initial weights, order of images, dropout), from 0 to 2**32 - 1.
        activation: the hidden activation: a name, a layer, its configuration, or a function that returns one.
        ann_cache_dir: folder of the trained networks, made when needed.
        callbacks: observers such as TensorBoard. They are not called when the network comes from the cache.
    """

    epochs: int
    batch_size_ann_training: int
    seed: int
    activation: Activation
    ann_cache_dir: Path
    callbacks: Sequence[keras.callbacks.Callback]


@dataclasses.dataclass(frozen=True)
class Training:
    """`TrainingSettings` for those who train without an experiment. The fields are explained there."""

    epochs: int = 10
    batch_size_ann_training: int = 64
    seed: int = 0
    activation: Activation = "relu"
    ann_cache_dir: Path = Path("experiments") / "anns"
    callbacks: Sequence[keras.callbacks.Callback] = ()


def train_network(
    architecture: str,
    settings: TrainingSettings,
    ds_train: LabelledImages,
    ds_test: LabelledImages,
    force_training: bool = False,
) -> keras.Model:
    """Trains a network, or loads it if the same training was done before.

    The trained network is kept as `<architecture>-<key>.keras` in the settings' cache folder. The key is a hash of
    all that is set and has a say in the weights (layers, training data, epochs, batch size, optimizer, seed, versions,
    TensorFlow's determinism of operations); a file of the same name with the suffix `.json` tells it in readable form.
    Another number of cores rounds otherwise, and the weights differ a little: the file says what it was trained on, and
    a message when that is not what there is. `force_training` trains anew.

    Within the scope of a `tf.distribute.MirroredStrategy` each batch is shared among the devices; the network is the
    one of a single device but for rounding, if they get equal shares and it has no dropout (each device draws its own).

    Args:
        architecture: a key of `ARCHITECTURES`.
        settings: see `TrainingSettings`.
        ds_train: training data, `(images, labels)` or a batched, finite `tf.data.Dataset` of such pairs. Images are
            floats of shape `(n, height, width, channels)`, labels integers of shape `(n,)` from 0 to classes - 1.
            Arrays are shuffled every epoch. A `tf.data.Dataset` keeps its own order and is cut into batches of
            `batch_size_ann_training`; one that gives other data on each pass is never found in the cache.
        ds_test: data of the same form whose loss and accuracy are shown after each epoch. It influences nothing.
        force_training: train even if the network is in the cache, and replace it there.

    Returns:
        The trained network, compiled with the metric accuracy.

    Raises:
        ValueError: if the architecture is unknown, a setting is out of range, or the data breaks a rule above.
        OSError: if the cache folder cannot be written, before anything is trained.
    """
    facts, test_facts = _checked(architecture, settings, ds_train, ds_test)
    cache_dir = check_folder("ann_cache_dir", settings.ann_cache_dir)  # must show now, not after the training
    cache_dir.mkdir(parents=True, exist_ok=True)
    devices = tf.distribute.get_strategy().num_replicas_in_sync
    warn_of_uneven_shares(facts.images, int(settings.batch_size_ann_training), devices)

    model = _untrained(architecture, settings, facts, devices)
    record = _record(architecture, model, settings, facts, isinstance(ds_train, tf.data.Dataset), devices)
    path = cache_dir / f"{architecture}-{_digest(_as_text(record))}.keras"
    if path.is_file() and not force_training:
        _log.info("%s is loaded from %s", architecture, path)
        if there := rounded_otherwise(path.with_suffix(".json")):
            _log.info("It was trained on %s; trained anew, on %s, it would differ by rounding", there, rounding())
        return _load(path)
    _log.info("%s is trained for %d epochs on %d images", architecture, int(settings.epochs), facts.images)
    _fit(model, settings, ds_train, facts, ds_test, test_facts)
    description = _as_text({**record, "trained on": rounding()})
    write_atomically(path.with_suffix(".json"), lambda file: file.write_text(description, encoding="utf-8"))
    write_atomically(path, model.save)
    return model


def _checked(architecture: str, settings: TrainingSettings, ds_train, ds_test) -> tuple[_Facts, _Facts]:
    require(architecture in ARCHITECTURES, "Unknown architecture", repr(architecture),
            f"Choose one of {', '.join(ARCHITECTURES)}.")
    _check_settings(settings)
    facts, test_facts = _examine("train", ds_train), _examine("test", ds_test)
    _check_fit(facts, test_facts)
    return facts, test_facts


def _untrained(architecture: str, settings: TrainingSettings, facts: _Facts, devices: int) -> keras.Model:
    keras.utils.set_random_seed(int(settings.seed))
    model = ARCHITECTURES[architecture](facts.input_shape, facts.classes, settings.activation)
    steps = int(settings.epochs) * math.ceil(facts.images / int(settings.batch_size_ann_training))
    schedule = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    optimizer = keras.optimizers.Adam(schedule, name="adam")  # Keras would number the name, and the key would change.
    model.compile(optimizer, loss=_LOSS, metrics=["accuracy"])
    for layer in model.layers:
        if devices > 1 and isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True  # statistics of the whole batch, as on one device
    return model


def _record(architecture: str, model: keras.Model, settings: TrainingSettings, facts: _Facts, streamed: bool,
            devices: int) -> dict[str, Any]:
    """All that is set and has a say in the weights."""
    return {
        "architecture": architecture,
        "training data": {**facts._asdict(), "order": "its own" if streamed else "shuffled every epoch"},
        "epochs": int(settings.epochs),
        "batch size": int(settings.batch_size_ann_training),
        "seed": int(settings.seed),
        "loss": _LOSS,
        "optimizer": model.optimizer.get_config(),
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__, "cache format": _CACHE_FORMAT},
        "network": model.get_config(),
        **({"devices": devices} if devices > 1 else {}),
        **({"deterministic operations": True} if is_op_determinism_enabled() else {}),  # which shuffle otherwise
    }


def _as_text(record: dict) -> str:
    return json.dumps(record, indent=1, default=lambda number: number.item())


def _fit(model: keras.Model, settings: TrainingSettings, ds_train, facts: _Facts, ds_test, test_facts: _Facts) -> None:
    epochs, batch_size = int(settings.epochs), int(settings.batch_size_ann_training)
    streamed, test_streamed = (isinstance(data, tf.data.Dataset) for data in (ds_train, ds_test))
    x, y = (_stream(ds_train, facts, batch_size), None) if streamed else map(np.asarray, ds_train)
    model.fit(
        x,
        y,
        batch_size=None if streamed else batch_size,
        shuffle=not streamed,
        epochs=epochs,
        validation_data=_stream(ds_test, test_facts, batch_size) if test_streamed else tuple(map(np.asarray, ds_test)),
        callbacks=list(settings.callbacks),
        verbose="auto",
    )


def _stream(data: tf.data.Dataset, facts: _Facts, batch_size: int) -> tf.data.Dataset:
    """The data in batches of the size wanted. Their number is stated, since Keras takes an unknown one for an error."""
    batches = math.ceil(facts.images / batch_size)
    return data.rebatch(batch_size).apply(tf.data.experimental.assert_cardinality(batches))


def _check_settings(settings: TrainingSettings) -> None:
    check_whole("epochs", settings.epochs, 1, remedy="10 suit a small data set, 5 all of MNIST.")
    check_whole("batch_size_ann_training", settings.batch_size_ann_training, 1, remedy="64 is usual.")
    check_whole("seed", settings.seed, 0, 2**32 - 1)
    steering = [type(each).__name__ for each in settings.callbacks if isinstance(each, _STEERING_CALLBACKS)]
    require(not steering, "Callbacks may observe the training, not change it: they are no part of the cache key",
            ", ".join(steering), "Set `epochs`, or train the model yourself with model.fit.")


def _check_fit(train: _Facts, test: _Facts) -> None:
    _require_same_shape(train.input_shape, test.input_shape)
    require(train.classes > 1, "Training needs images of two classes or more", "the label 0 alone", "Add images.")
    require(test.classes <= train.classes, "Test labels must not be larger than the largest training label",
            f"the largest is {train.classes - 1} in the training data, {test.classes - 1} in the test data",
            "Take more training images (max_images), or correct the labels.")


def _load(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path)
    except Exception as error:  # A damaged file shows itself in many ways.
        raise ValueError(
            f"The cached network cannot be read ({error}). Received: {str(path)!r}. "
            "Delete it, or train again with force_training=True."
        ) from error


def _training_function(architecture: str) -> Callable[..., keras.Model]:
    def train(experiment, ds_train, ds_test, force_training=False):
        return train_network(architecture, experiment, ds_train, ds_test, force_training)

    train.__name__ = train.__qualname__ = f"train_network_{architecture}"
    train.__doc__ = f"""Trains or loads `{architecture}`; arguments and result are those of `train_network`.

    {ARCHITECTURES[architecture].__doc__}
    """
    return train


TRAINING_FUNCTIONS = {architecture: _training_function(architecture) for architecture in ARCHITECTURES}
"""Architecture -> its training function, `f(experiment, ds_train, ds_test, force_training=False)`."""

globals().update({function.__name__: function for function in TRAINING_FUNCTIONS.values()})

__all__ = ["ARCHITECTURES", "DATASETS", "TRAINING_FUNCTIONS", "Dataset", "Training", "TrainingSettings"]
__all__ += ["load_dataset", "train_network", *(function.__name__ for function in TRAINING_FUNCTIONS.values())]
