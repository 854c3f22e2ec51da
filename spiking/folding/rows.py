"""What reading writes down: refusals, what became of each ANN layer, poolings and activations that wait."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from spiking.folding.activations import elementwise

HIDDEN_REMEDY = (
    "Neurons compute functions of their own potential: it may stand at the end only. Train the network with an "
    "elementwise activation, or register it as one (docs/EXTENDING.md)."
)


class Refusal(Exception):
    """Something that cannot be converted: what, and the remedy. The reader adds the layer's name."""

    def __init__(self, what: str, remedy: str, name: str = "", kind: str = ""):
        super().__init__(what)
        self.what, self.remedy, self.name, self.kind = what, remedy, name, kind

    def of(self, row: "Row") -> "Refusal":
        """The refusal with the layer's name, unless it has one."""
        return self if self.name else Refusal(self.what, self.remedy, row.name, row.kind)

    def within(self, layer) -> "Refusal":
        """The refusal of a part of a layer's own `call`; None for no such layer."""
        if layer is None:
            return self
        where = f"in the call of '{layer.name}' ({type(layer).__name__}), {self.what}"
        return Refusal(where, self.remedy, self.name, self.kind)

    def __str__(self):
        return f"Layer '{self.name}' ({self.kind}) cannot be converted: {self.what}. {self.remedy}"


@dataclass(eq=False)
class Row:
    """What became of one ANN layer, for the report.

    Attributes:
        name: unique.
        kind: the type's name.
        weighted: whether it has a kernel: neurons behind it take its name.
        template: what it became, with {node} for the node that its chain ends in.
        results: what it became, in the order of its listeners.
    """

    name: str
    kind: str
    weighted: bool = False
    template: str = ""
    results: list[str] = field(default_factory=list)

    def ended(self, result: str) -> None:
        """One of the chains that the layer is part of has ended."""
        if result not in self.results:
            self.results.append(result)


@dataclass(frozen=True)
class WaitingPool:
    """A max pooling that waits for a ReLU, with which it commutes, so that spikes can be pooled."""

    layer: keras.layers.Layer
    row: Row
    input_shape: tuple[int, ...]
    sign: np.ndarray  # per channel, −1 where a negative scale behind the pooling made it a minimum

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.layer.compute_output_shape((None, *self.input_shape)))[1:]


@dataclass(frozen=True, eq=False)
class WaitingActivation:
    """An activation as long as nothing computes with what it gives: a read-out may apply it, else it needs neurons.

    Attributes:
        row: of the layer that holds it.
        function: the activation.
        before: the `Folded` value in front of it.
        shape: behind it and the layers that move its values.
        moved: these layers, by the row.
        made: `before` behind "neurons" that compute it, or with its poolings "settled": once for all listeners.
    """

    row: Row
    function: Callable
    before: Any
    shape: tuple[int, ...]
    moved: tuple[tuple[Row, Any], ...] = ()
    made: dict[str, Any] = field(default_factory=dict)

    def moving(self, row: Row, layer) -> "WaitingActivation":
        """With one layer more behind it."""
        shape = tuple(layer.compute_output_shape((None, *self.shape)))[1:]
        return replace(self, moved=(*self.moved, (row, layer)), shape=shape)

    def computed(self, rows: Sequence[Row]) -> Any:
        """The value behind neurons, and behind the layers since, which these rows are of.

        Raises:
            Refusal: the activation is not known to be elementwise.
        """
        activation = elementwise(self.function)
        if activation is None:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            what = f"activation='{name}' in front of '{rows[-1].name}'"
            raise Refusal(what, HIDDEN_REMEDY, self.row.name, self.row.kind)
        if "neurons" not in self.made:
            self.made["neurons"] = self.before.neurons(activation)
        return self._behind(self.made["neurons"], rows)

    def at_the_end(self, rows: Sequence[Row]) -> tuple[Any, Callable]:
        """The value for a read-out and the activation that this applies; arguments as of `computed`."""
        if "neurons" in self.made and self.before.pools:  # which have moved behind the neurons
            return self.computed(rows), keras.activations.linear
        if "settled" not in self.made:
            self.made["settled"] = self.before.settled()
        return self._behind(self.made["settled"], rows), self.function

    def _behind(self, value, rows):
        moved = dict(self.moved)
        for row in rows:
            value = value.through(row)
            value = value.linear(moved[row]) if row in moved else value
        return value
