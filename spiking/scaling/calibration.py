"""Calibration: the scale λ of every layer from its activations, streamed; memory follows neither images nor batches."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from spiking.checks import check_choice, check_percentile
from spiking.folding.graph import FoldedGraph, Neurons
from spiking.scaling.fingerprint import fingerprint
from spiking.scaling.histogram import Histogram
from spiking.scaling.portions import length, portions
from spiking.shown import Shown, plain_numbers

logger = logging.getLogger(__name__)

METHODS = ("percentile", "max", "mse")
# Per channel no λ is smaller than this share of the mean over the layer's channels. Measured: docs/CALIBRATION.md.
FLOOR = 0.1


@dataclass
class LayerCalibration:
    """What calibration found for one layer of neurons.

    Attributes:
        scale: λ, the activation (above the floor) that is full activity: shape () or (channels,).
        largest: the largest activation (above the floor).
        clipped: share of the activations that lie above λ.
        silent: number of channels (without channels: 0 or 1) without any activation.
        raised: number of nearly dead channels, whose λ is the floor.
        floor: what silence stands for: neurons send what exceeds it; a number, or (channels,).
        gain, shift: correction of the potential, W∗x + b becomes gain·(W∗x + b) + shift; numbers, or (channels,).
    """

    scale: np.ndarray
    largest: float
    clipped: float
    silent: int
    raised: int = 0
    gain: np.ndarray = field(default_factory=lambda: np.array(1.0))
    shift: np.ndarray = field(default_factory=lambda: np.array(0.0))
    floor: np.ndarray = field(default_factory=lambda: np.array(0.0))


@dataclass(repr=False)
class Calibration(Shown):
    """Scales of a network, from images of the training set.

    Attributes:
        fingerprint: of the folded network, see `spiking.scaling.fingerprint`.
        method: of `METHODS`.
        percentile: for the method "percentile".
        levels: for the method "mse", and for corrections.
        per_channel: λ per channel, or per layer.
        images: how many were used.
        input_minimum, input_maximum: the smallest input, and the largest |input|.
        layers: layer of neurons -> what was found, in order.
        correction: what was fitted behind the scales, None for nothing.
        image_range: the smallest and largest value of the images as they came; None if nobody looked.
    """

    fingerprint: str
    method: str
    percentile: float
    levels: int
    per_channel: bool
    images: int
    input_minimum: float
    input_maximum: float
    layers: dict[str, LayerCalibration]
    correction: str | None = None
    image_range: tuple[float, float] | None = None

    def check(self, folded: FoldedGraph, **settings) -> None:
        """Refuses another network than the calibration's, and settings that contradict it.

        Args:
            folded: the network to convert.
            **settings: any of `normalisation`, `norm_percentile`, `per_channel`; None for what was not given.

        Raises:
            ValueError: naming what was received and what the calibration is of.
        """
        names = list(folded.neurons)
        if list(self.layers) != names:
            raise ValueError(
                f"The calibration must be of this ANN, whose layers of neurons are {names}. Received: one of "
                f"{list(self.layers)}. Calibrate this ANN."
            )
        if self.fingerprint != (own := fingerprint(folded)):
            raise ValueError(
                "The calibration must be of this ANN, with the weights it has now. Received: one of a network with the "
                f"fingerprint {self.fingerprint!r}, while this one has {own!r}. Calibrate this ANN anew."
            )
        found = {"normalisation": self.method, "per_channel": self.per_channel}
        if self.method == "percentile":
            found["norm_percentile"] = self.percentile
        for argument, value in settings.items():
            if value is not None and found.get(argument) != value:
                raise ValueError(
                    f"A finished calibration has made its choice of {argument}. Received: {argument}={value!r} with a "
                    f"calibration by {self._settings()}. Leave {argument} out, or calibrate with it."
                )

    def _settings(self) -> str:
        percentile = f", norm_percentile={self.percentile:g}" if self.method == "percentile" else ""
        return f"normalisation={self.method!r}{percentile}, per_channel={self.per_channel}"

    def rows(self) -> list[dict]:
        """A row per layer, of plain numbers: what the report shows and the SNN keeps."""
        return [
            {
                "layer": name,
                "smallest_scale": float(np.min(layer.scale)),
                "mean_scale": float(np.mean(layer.scale)),
                "largest_scale": float(np.max(layer.scale)),
                "largest_activation": layer.largest,
                "clipped": layer.clipped,
                "silent_channels": layer.silent,
                "raised_channels": layer.raised,
                "correction": self.correction,
            }
            for name, layer in self.layers.items()
        ]

    def heading(self) -> str:
        """How the scales were chosen."""
        method = f"the {self.percentile:g}% percentile" if self.method == "percentile" else self.method
        return (
            f"{method} per {'channel' if self.per_channel else 'layer'}, {self.images} images"
            + (f", {self.levels} levels" if self.method == "mse" else "")
            + (f", λ at least {FLOOR:g} of the layer's mean (raised)" if self.per_channel else "")
            + (f", correction: {self.correction}" if self.correction else "")
        )

    def table(self) -> list[tuple[str, ...]]:
        """The scales of each layer of neurons."""
        forms = ("", ".4g", ".4g", ".4g", ".4g", ".3%", "d", "d")
        rows = [tuple(map(format, row.values(), forms)) for row in self.rows()]
        return [("layer", "λ min", "mean", "max", "largest", "clipped", "silent", "raised"), *rows]

    def to_dict(self) -> dict:
        """The settings and the rows, plain."""
        settings = {name: value for name, value in vars(self).items() if name != "layers"}
        return plain_numbers({**settings, "layers": self.rows()})


def measure(
    folded: FoldedGraph,
    batches: Iterable[np.ndarray],
    method: str = "percentile",
    *,
    percentile: float = 99.9,
    per_channel: bool = False,
    levels: int = 100,
) -> Calibration:
    """λ of every layer of neurons, and the largest |input|, in one pass over the images.

    Args:
        folded: the folded network.
        batches: images of the training set, arrays `(batch, …)`; read once, in portions that fit into memory.
        method: "percentile", "max" or "mse" (least mean square error of the rounding to `levels`).
        percentile: in (0, 100].
        per_channel: λ per channel instead of per layer.
        levels: number of levels above 0 that a spike train can express.

    Returns:
        The scales. A channel that stays silent gets the mean of the others, or 1; one that is nearly dead, a tenth of
        that mean (`FLOOR`), because its weights are divided by λ.

    Raises:
        ValueError: an argument is out of range, or a layer gives NaN or infinity.
    """
    check_choice("normalisation", method, METHODS)
    check_percentile(percentile)
    if percentile < 50:
        logger.warning("norm_percentile=%g clips most activations; it is in percent, 99.9 is usual.", percentile)
    activations = folded.function(every_node=True)
    found = {name: Activations(node, per_channel) for name, node in folded.neurons.items()}
    smallest, largest, seen = 0.0, 0.0, 0
    for batch in batches:
        for images in portions(batch, folded):
            seen += length(images)
            for prepared in folded.prepare(images).values():
                smallest, largest = min(smallest, float(prepared.min())), max(largest, float(np.abs(prepared).max()))
            for name, values in activations(images).items():
                values = values.numpy()
                _check_finite(name, values)
                if name in found:
                    found[name].update(values)
    layers = {name: each.calibrated(name, method, percentile, levels) for name, each in found.items()}
    settings = (method, float(percentile), levels, per_channel, seen, smallest, largest or 1.0)
    return Calibration(fingerprint(folded), *settings, layers)


class Activations:
    """Streams the activations of one layer of neurons.

    Args:
        node: the layer.
        per_channel: whether channels are counted apart.
    """

    def __init__(self, node: Neurons, per_channel: bool):
        channels = node.shape[-1]
        self.histogram = Histogram(channels if per_channel else 1)
        self.floor, self.per_channel = node.activation.floor, per_channel
        self.smallest, self.largest = np.full(channels, np.inf), np.full(channels, -np.inf)

    def update(self, values: np.ndarray) -> None:
        """Adds a batch `(batch, …, channels)`."""
        if self.floor is None:
            rows = values.reshape(-1, values.shape[-1])
            self.smallest = np.minimum(self.smallest, rows.min(axis=0))
            self.largest = np.maximum(self.largest, rows.max(axis=0))
        else:
            self.histogram.update(values - np.float32(self.floor) if self.floor else values)

    def calibrated(self, name: str, method: str, percentile: float, levels: int) -> "LayerCalibration":
        """λ of the layer; where f has no infimum, the range of every channel, above the smallest value."""
        if self.floor is not None:
            scale = self.histogram.scale(method, percentile, levels)
            return replace(_layer(name, self.histogram, scale, self.per_channel), floor=np.array(self.floor))
        scale = (self.largest - self.smallest).astype(float)
        mean = scale[scale > 0].mean() if np.any(scale > 0) else 1.0
        return LayerCalibration(
            scale=np.where(scale > 0, np.maximum(scale, FLOOR * mean), mean),
            largest=float(scale.max()),
            clipped=0.0,
            silent=int(np.sum(scale == 0)),
            floor=self.smallest.astype(float),
        )


def _layer(name: str, histogram: Histogram, scale: np.ndarray, per_channel: bool) -> LayerCalibration:
    """λ of one layer from those of its channels as they were measured, 0 for silent ones."""
    heard = scale[scale > 0]
    if not len(heard):
        logger.warning("Layer '%s' stays silent on all calibration images.", name)
    mean = heard.mean() if len(heard) else 1.0
    raised = (scale > 0) & (scale < FLOOR * mean)
    scale = np.where(scale > 0, np.maximum(scale, FLOOR * mean), mean)
    return LayerCalibration(
        scale=scale if per_channel else scale[0],
        largest=float(histogram.maximum.max()),
        clipped=histogram.share_above(scale),
        silent=int(np.sum(histogram.maximum == 0)),
        raised=int(raised.sum()),
    )


def _check_finite(name: str, values: np.ndarray) -> None:
    for extreme in (values.min(), values.max()):
        if not np.isfinite(extreme):
            raise ValueError(
                f"Activations must be finite in float32. Received: layer '{name}' gives {extreme} on the calibration "
                "images. Look for BatchNorm with a variance below 0, and for weights or data of extreme size."
            )
