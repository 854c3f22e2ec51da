"""The error of one layer of neurons, split by cause.

For the neurons of one layer let a be the ANN's activation, s the SNN's activity (both in the ANN's units), r the
activation the ANN's layer would give for the SNN's own inputs, and Q the rounding to the nearest value that the code
can express, the largest of which is C. Then, root mean squares over neurons and images, relative to that of a:

    clipping      min(a, C) − a             activations the layer cannot express
    quantisation  Q(a) − min(a, C)          what rounding to the code's grid costs by itself
    lost          Q(r), where s = 0         neurons that do not fire although they should
    arrival       s − Q(r), where s > 0     the rest of the local error: inputs that come unevenly or too early, or
                                            spikes whose time or number is no measure of the activation
    scatter       s − E[s | Q(r)], s > 0    what of it no curve s(r) explains: the same activation, other activities
    input         r − a                     accumulated error of the layers before
    error         s − a

Clipping and quantisation are taken at a and not at r, so that they show in a layer whatever the layers before do.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LayerErrors:
    """The error of one layer of neurons, split; see the module's docstring.

    Attributes:
        activation: root mean square of the ANN's activation, in its units.
        error, clipping, quantisation, arrival, input, lost, scatter: root mean squares relative to `activation`; NaN
            if that is 0.
        clipped_share: share of all activations that exceed C.
        lost_share: share of the activation r that belongs to neurons without a spike, Σ r[s = 0] / Σ r.
        largest: largest activation of the ANN; with λ per channel the root mean square over channels, and so below.
        ceiling: C, the largest activity the layer can express, in the ANN's units.
        scale: λ, the activation that the conversion took for full activity.
    """

    name: str
    activation: float
    error: float
    clipping: float
    quantisation: float
    arrival: float
    input: float
    clipped_share: float
    lost_share: float
    largest: float
    ceiling: float
    scale: float
    lost: float = 0.0
    scatter: float = 0.0


# The columns of the table, in order.
PARTS = ("error", "clipping", "quantisation", "lost", "arrival", "scatter", "input")


def _root_mean_square(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


class LayerErrorSums:
    """Streams the error of one layer of neurons.

    Args:
        grid: what `Encoding.expressible` gives.
        scale: λ, a number or one per channel.
    """

    def __init__(self, name: str, grid: np.ndarray, scale):
        self.name, self.grid, self.scale = name, grid, np.asarray(scale, np.float64)
        self.midpoints = (grid[1:] + grid[:-1]) / 2
        self.squares = dict.fromkeys(("activation", *PARTS), 0.0)
        self.clipped = self.silent = self.response = self.values = 0
        self.curve = np.zeros((3, len(grid)))  # per value of the grid Σ λ², Σ λs, Σ s², over firing neurons
        self.largest = np.zeros(self.scale.shape)

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """The nearest values that the layer can express."""
        return self.grid[self.nearest(values)] * self.scale

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """The index of the nearest value of the grid."""
        return np.searchsorted(self.midpoints, values / self.scale)

    def update(self, target: np.ndarray, activity: np.ndarray, response: np.ndarray) -> None:
        """Adds a batch of a, s and r, each `(batch, …)` in the ANN's units."""
        target, activity, response = (np.asarray(values, np.float64) for values in (target, activity, response))
        ceiling = self.grid[-1] * self.scale
        clipped, fires = np.minimum(target, ceiling), activity > 0
        index = self.nearest(response)
        expected = self.grid[index] * self.scale
        parts = {
            "activation": target,
            "error": activity - target,
            "clipping": clipped - target,
            "quantisation": self.rounded(target) - clipped,
            "lost": expected[~fires],
            "arrival": (activity - expected)[fires],
            "input": response - target,
        }
        for name, part in parts.items():
            self.squares[name] += float(np.sum(part**2))
        self.values += target.size
        self.clipped += int(np.sum(target > ceiling * (1 + 1e-6)))
        self.response += float(response.sum())
        self.silent += float(response[~fires].sum())
        scale = np.broadcast_to(self.scale, activity.shape)[fires]
        for sums, weights in zip(self.curve, (scale**2, scale * activity[fires], activity[fires] ** 2), strict=True):
            sums += np.bincount(index[fires], weights, len(self.grid))
        axes = tuple(range(target.ndim - self.largest.ndim))
        self.largest = np.maximum(self.largest, target.max(axis=axes))

    def result(self) -> LayerErrors:
        weight, first, second = self.curve
        # The squares left by the best curve: for every value of the grid one activity, in units of λ.
        left = float(np.sum(second - first**2 / np.where(weight > 0, weight, 1)))
        self.squares["scatter"] = max(left, 0.0)
        roots = {name: math.sqrt(square / self.values) for name, square in self.squares.items()}
        size = roots.pop("activation")
        return LayerErrors(
            name=self.name,
            activation=size,
            **{name: root / size if size else math.nan for name, root in roots.items()},
            clipped_share=self.clipped / self.values,
            lost_share=self.silent / self.response if self.response else 0.0,
            largest=_root_mean_square(self.largest),
            ceiling=_root_mean_square(self.grid[-1] * self.scale),
            scale=_root_mean_square(self.scale),
        )
