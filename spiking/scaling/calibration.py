"""Calibration: the scale λ of every layer from its activations, streamed in constant memory."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from spiking.checks import check_choice, check_percentile
from spiking.folding.reader import FoldedNetwork
from spiking.scaling.histogram import Histogram

logger = logging.getLogger(__name__)

METHODS = ("percentile", "max", "mse")


@dataclass
class LayerCalibration:
    """What calibration found for one layer of neurons.

    Attributes:
        name: of the layer.
        scale: λ, the activation that is full activity: shape () or (channels,).
        largest: the largest activation.
        clipped: share of the activations that lie above λ.
        silent: number of channels (without channels: 0 or 1) without any activation.
        gain, shift: correction of the potential, W∗x + b becomes gain·(W∗x + b) + shift; numbers, or (channels,).
    """

    name: str
    scale: np.ndarray
    largest: float
    clipped: float
    silent: int
    gain: np.ndarray = field(default_factory=lambda: np.array(1.0))
    shift: np.ndarray = field(default_factory=lambda: np.array(0.0))


@dataclass
class Calibration:
    """Scales of a network, from images of the training set.

    Attributes:
        method: of `METHODS`.
        percentile: for the method "percentile".
        levels: for the method "mse", and for corrections.
        per_channel: λ per channel, or per layer.
        images: how many were used.
        input_minimum, input_maximum: the smallest input, and the largest |input|.
        layers: one entry per layer of neurons, in order.
        correction: what was fitted behind the scales, None for nothing.
    """

    method: str
    percentile: float
    levels: int
    per_channel: bool
    images: int
    input_minimum: float
    input_maximum: float
    layers: list[LayerCalibration]
    correction: str | None = None

    def rows(self) -> list[dict]:
        """A row per layer, of plain numbers: what the report shows and the SNN keeps."""
        return [
            {
                "layer": layer.name,
                "smallest_scale": float(np.min(layer.scale)),
                "mean_scale": float(np.mean(layer.scale)),
                "largest_scale": float(np.max(layer.scale)),
                "largest_activation": layer.largest,
                "clipped": layer.clipped,
                "silent_channels": layer.silent,
            }
            for layer in self.layers
        ]

    def __str__(self):
        method = f"the {self.percentile:g}% percentile" if self.method == "percentile" else self.method
        title = (
            f"{method} per {'channel' if self.per_channel else 'layer'}, {self.images} images"
            + (f", {self.levels} levels" if self.method == "mse" else "")
            + (f", correction: {self.correction}" if self.correction else "")
        )
        width = max(len(layer.name) for layer in self.layers) if self.layers else 5
        head = f"{'layer':<{width}}  {'λ min':>9} {'mean':>9} {'max':>9} {'largest':>9} {'clipped':>8} silent"
        lines = [
            f"{row['layer']:<{width}}  {row['smallest_scale']:9.4g} {row['mean_scale']:9.4g} "
            f"{row['largest_scale']:9.4g} {row['largest_activation']:9.4g} {row['clipped']:8.3%} "
            f"{row['silent_channels']:6d}"
            for row in self.rows()
        ]
        return "\n".join([title, head, *lines])


def measure(
    folded: FoldedNetwork,
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
        batches: images of the training set, arrays `(batch, …)`; read once, in constant memory.
        method: "percentile", "max" or "mse" (least mean square error of the rounding to `levels`).
        percentile: in (0, 100].
        per_channel: λ per channel instead of per layer.
        levels: number of levels above 0 that a spike train can express.

    Returns:
        The scales; a channel that stays silent gets the mean of the others, or 1.
    """
    check_choice("normalisation", method, METHODS)
    check_percentile(percentile)
    run = folded.function(every_stage=True)
    histograms = [
        Histogram(stage.output_shape[-1] if per_channel else 1) if stage.holds_neurons else None
        for stage in folded.stages
    ]
    smallest, largest, seen = 0.0, 0.0, 0
    for images in batches:
        seen += len(images)
        prepared = folded.prepare(images)
        smallest, largest = min(smallest, float(prepared.min())), max(largest, float(np.abs(prepared).max()))
        for histogram, values in zip(histograms, run(images), strict=True):
            if histogram:
                histogram.update(values.numpy())
    layers = []
    for stage, histogram in zip(folded.stages, histograms, strict=True):
        if histogram:
            scale = histogram.scale(method, percentile, levels)
            heard = scale[scale > 0]
            if not len(heard):
                logger.warning("Layer '%s' stays silent on all calibration images.", stage.name)
            scale = np.where(scale > 0, scale, heard.mean() if len(heard) else 1.0)
            layers.append(
                LayerCalibration(
                    name=stage.name,
                    scale=scale if per_channel else scale[0],
                    largest=float(histogram.maximum.max()),
                    clipped=histogram.share_above(scale),
                    silent=int(np.sum(histogram.maximum == 0)),
                )
            )
    return Calibration(method, float(percentile), levels, per_channel, seen, smallest, largest or 1.0, layers)
