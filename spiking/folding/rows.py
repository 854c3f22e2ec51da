"""What reading writes down: refusals, what became of each ANN layer, and poolings that wait for an activation."""

from dataclasses import dataclass, field

import keras
import numpy as np


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
