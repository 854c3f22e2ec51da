"""What a network answers: classes, yes or no, or numbers, read from its outputs; and the labels that fit.

The rule, for each output by itself:

- softmax over a last axis of two or more: class scores; a map of them has a class at every position.
- sigmoid, or one unit: yes above 0.5 (sigmoid) or above 0 (anything else, a logit), each unit by itself.
- anything else may be scores or numbers; labels tell: whole numbers are classes, floating-point numbers are what the
  network should give. Without labels, a flat output of two or more is compared as both, anything else as numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl

SOFTMAX, SIGMOID, LINEAR = "softmax", "sigmoid", "linear"
# Names of functions and layers in the first two groups; the third is everything else of Keras.
GROUPS = dict.fromkeys(("softmax", "softmax_v2", "log_softmax", "log_softmax_v2", "logsoftmax", "sparsemax"), SOFTMAX)
GROUPS |= dict.fromkeys(("sigmoid", "hard_sigmoid", "hardsigmoid"), SIGMOID)
# Layers behind an activation that leave each value as it is.
PASSING = (kl.Flatten, kl.Reshape, kl.Permute, kl.Dropout, kl.Identity)


@dataclass(frozen=True)
class Output:
    """One output of a network.

    Attributes:
        name: of the output.
        shape: of one sample's output, at least one axis; None where any extent may come.
        group: what its values are: "softmax", "sigmoid" or "linear" (everything else); None where nobody can tell.
    """

    name: str
    shape: tuple[int | None, ...]
    group: str | None

    @property
    def units(self) -> int:
        """Extent of the last axis."""
        return self.shape[-1]

    @property
    def flat(self) -> bool:
        """Whether a sample's output is a vector."""
        return len(self.shape) == 1

    @property
    def names_classes(self) -> bool:
        """Whether the largest value on the last axis may be compared without labels."""
        return self.units != 1 and (self.group == SOFTMAX or (self.flat and self.group != SIGMOID))

    @property
    def threshold(self) -> float:
        """Above it is yes."""
        if self.group is None:
            raise ValueError(
                f"One unit says yes above 0.5 if it is a probability and above 0 if it is a logit. Received: {self}, "
                "which does not tell. End the network with keras.layers.Activation('sigmoid') or ('linear')."
            )
        return 0.0 if self.group == LINEAR else 0.5

    def __str__(self):
        return f"output {self.name!r} of shape {self.shape}"

    def values(self, values, moments: bool = False) -> np.ndarray:
        """What it gave, as float32 or float64, `(batch, *shape)`, or `(moments, batch, *shape)`."""
        values = np.asarray(values)
        values = values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
        return values[..., None] if values.ndim == 1 + moments else values

    def labels(self, labels) -> np.ndarray:
        """Checked labels of one batch.

        Returns:
            Class numbers `(batch, *shape[:-1])`, int64; or 0 and 1 `(batch, *shape)`, int64, for units that say yes or
            no; or numbers `(batch, *shape)`, float64.

        Raises:
            ValueError: they are no numbers, or do not fit the output in shape or value.
        """
        labels = np.asarray(labels)
        if labels.dtype.kind not in "biuf":
            raise ValueError(
                f"Labels are numbers. Received: dtype {labels.dtype} for {self}. Number the classes, for example by "
                "np.unique(labels, return_inverse=True)[1] or keras.layers.StringLookup."
            )
        if not labels.ndim:
            raise self._refusal(labels)
        whole = labels.dtype.kind != "f"
        full, positions = (len(labels), *self.shape), (len(labels), *self.shape[:-1])
        if self.units == 1:
            labels = labels.reshape((*labels.shape, 1)) if fits(labels.shape, positions) else labels
        elif whole and (fits(labels.shape, positions) or fits(labels.shape, (*positions, 1))):
            return self._classes(labels.reshape(labels.shape[: len(positions)]))
        yes_or_no = self.units == 1 or self.group == SIGMOID
        if not fits(labels.shape, full) or (whole and not yes_or_no):
            raise self._refusal(labels)
        if not np.all(np.isfinite(labels)):
            raise ValueError(f"Labels must be finite. Received: NaN or infinity for {self}. Leave these samples out.")
        binary = bool(np.all((labels == 0) | (labels == 1)))
        if whole or (self.group == SIGMOID and binary):
            if not binary:
                raise self._refusal(labels)
            return labels.astype(np.int64)
        if self.group == SOFTMAX or (self.units > 1 and binary and np.all(labels.sum(-1) == 1)):
            raise self._refusal(labels)
        return labels.astype(np.float64)

    def _classes(self, labels: np.ndarray) -> np.ndarray:
        if labels.size and (labels.min() < 0 or labels.max() >= self.units):
            raise self._refusal(labels)
        return labels.astype(np.int64)

    def _refusal(self, labels: np.ndarray) -> ValueError:
        where = "image" if self.flat else "position"
        if self.units == 1:
            rule = f"Labels are 0 and 1, one per {where}, or numbers with a decimal point"
        else:
            rule = f"Labels are class numbers from 0 to {self.units - 1}, one per {where}"
        if self.group == SIGMOID and self.units > 1:
            rule += ", or 0 and 1 for each unit"
        span = f"values from {labels.min()} to {labels.max()}" if labels.size else "none"
        remedy = ""
        if labels.ndim > 1 and labels.shape[-1] == self.units > 1:
            remedy = " Of one-hot labels take labels.argmax(-1)."
        return ValueError(
            f"{rule}. Received: {span}, dtype {labels.dtype}, shape {labels.shape} for {self}.{remedy}"
        )


def fits(shape: tuple, expected: tuple) -> bool:
    """Whether a shape is the expected one, in which None is any extent."""
    return len(shape) == len(expected) and all(b in (None, a) for a, b in zip(shape, expected, strict=True))


@dataclass(frozen=True)
class Task:
    """What a network answers: its outputs by name, in order."""

    outputs: dict[str, Output]

    def named(self, values) -> dict[str, Any]:
        """Values in the structure of the network's output, by the outputs' names."""
        if isinstance(values, Mapping) and len(values) == len(self.outputs) == 1:
            values = next(iter(values.values()))  # whatever the name: ANN and SNN may call it differently
        return by_name(values, self.outputs, "outputs")


def by_name(values, names: Iterable[str], what: str) -> dict[str, Any]:
    """One value, a list or a dict of them, as a dict in the order of `names`.

    Raises:
        ValueError: there are others than the names, or another number of them.
    """
    names = list(names)
    if isinstance(values, Mapping) and set(names) <= set(values):
        return {name: values[name] for name in names}
    if isinstance(values, list | tuple) and len(names) > 1:
        if len(values) == len(names):
            return dict(zip(names, values, strict=True))
        received = f"{len(values)} of them"
    elif len(names) == 1 and not isinstance(values, Mapping):
        return {names[0]: values}
    else:
        received = f"the names {list(values)}" if isinstance(values, Mapping) else f"one {type(values).__name__}"
    raise ValueError(
        f"The network's {what} are {names}: {what} come as a dict with these names"
        + (", or as a list in this order" if len(names) > 1 else ", or as one array")
        + f". Received: {received}."
    )


def structure(model, side: str):
    """The symbolic inputs or outputs of a model in their structure; None for a model that has none.

    Args:
        side: "input" or "output".
    """
    flat = getattr(model, f"{side}s", None)
    if not flat:
        return None
    if isinstance(model, keras.Sequential):
        return flat[0]
    found = getattr(model, side)
    return found[0] if isinstance(found, list | tuple) and len(found) == 1 else found


def names_of(symbols) -> list[str]:
    """Names of symbolic tensors in a structure: a dict's keys, else those of the layers that give them."""
    if isinstance(symbols, Mapping):
        return list(symbols)
    names = []
    for tensor in symbols if isinstance(symbols, Sequence) else [symbols]:
        name = tensor._keras_history[0].name
        names.append(name if name not in names else f"{name}_{len(names)}")
    return names


def task_of(model, outputs=None) -> Task:
    """Reads what a network answers.

    Args:
        model: a Keras model.
        outputs: what it gave for one batch, for a subclassed model, whose outputs cannot be read.
    """
    symbols = structure(model, "output")
    if symbols is None:
        found = outputs if isinstance(outputs, Mapping | list | tuple) else {model.name: outputs}
        found = dict(found) if isinstance(found, Mapping) else {f"output_{n}": each for n, each in enumerate(found)}
        return Task({name: Output(name, np.shape(each)[1:] or (1,), None) for name, each in found.items()})
    tensors = by_name(symbols, names_of(symbols), "outputs")
    return Task({name: Output(name, tuple(x.shape[1:]) or (1,), _group(x)) for name, x in tensors.items()})


def _group(tensor) -> str | None:
    """What the values of a symbolic tensor are, from the activation that gave them."""
    operation, node, index = tensor._keras_history
    if isinstance(operation, keras.Model):
        inner = structure(operation, "output")
        return None if inner is None else _group(keras.tree.flatten(inner)[index])
    if isinstance(operation, PASSING):
        return _group(operation._inbound_nodes[node].input_tensors[0])
    holder = getattr(operation, "cell", operation)  # the read-out of a spiking network
    function = getattr(holder, "activation", None)
    if function is None and not type(holder).__module__.startswith("keras."):
        return None
    name = type(operation).__name__ if function is None else getattr(function, "__name__", type(function).__name__)
    group = GROUPS.get(name.lower(), LINEAR)
    last = getattr(operation, "axis", -1) in (-1, len(tensor.shape) - 1)
    return group if last or group != SOFTMAX else LINEAR
