"""Calibration: the scale λ of every layer from its activations, streamed in constant memory."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from spiking.encoding import check_choice
from spiking.folding import FoldedNetwork

logger = logging.getLogger(__name__)

METHODS = ("percentile", "max", "mse")

OCTAVES = (-24, 24)
BINS_PER_OCTAVE = 256


class Histogram:
    """Counts activations in logarithmic bins, in one pass, without keeping them.

    A positive float32 read as an integer is, shifted right, its exponent and the first bits of its mantissa: a bin
    number on a scale that is logarithmic by octaves and linear within. With 256 bins an octave a quantile is off by
    at most 0.4% of itself (the width of a bin); values below 2⁻²⁴ count as zero, and the maximum is exact.

    Args:
        channels: number of channels counted apart; 1 for one histogram over everything.
    """

    SHIFT = 23 - int(np.log2(BINS_PER_OCTAVE))
    FIRST = int(np.float32(2.0 ** OCTAVES[0]).view(np.int32)) >> SHIFT
    BINS = (OCTAVES[1] - OCTAVES[0]) * BINS_PER_OCTAVE

    def __init__(self, channels: int = 1):
        self.counts = np.zeros((channels, self.BINS + 1), np.int64)  # column 0: zeros
        self.maximum = np.zeros(channels)

    def update(self, values: np.ndarray) -> None:
        """Counts non-negative values, shape (…, channels) or, with one channel, any."""
        channels = len(self.counts)
        values = np.ascontiguousarray(values, np.float32).reshape(-1, channels)
        if not len(values):
            return
        self.maximum = np.maximum(self.maximum, values.max(axis=0))
        bins = np.clip((values.view(np.int32) >> self.SHIFT) - self.FIRST + 1, 0, self.BINS)
        bins += np.arange(channels, dtype=np.int32) * (self.BINS + 1)
        self.counts += np.bincount(bins.ravel(), minlength=self.counts.size).reshape(self.counts.shape)

    def edges(self) -> np.ndarray:
        """Lower edges of the positive bins, and the upper edge of the last, shape (BINS + 1,)."""
        return (np.arange(self.BINS + 1, dtype=np.int32) + self.FIRST << self.SHIFT).view(np.float32).astype(float)

    def percentile(self, percent: float) -> np.ndarray:
        """The percentile of all values counted, zeros included; one per channel.

        Args:
            percent: in (0, 100]; 100 gives the exact maximum.
        """
        edges = np.concatenate([[0.0], self.edges()])
        result = np.empty(len(self.counts))
        for channel, counts in enumerate(self.counts):
            cumulated = np.cumsum(counts)
            rank = percent / 100 * cumulated[-1]
            bin_ = int(np.searchsorted(cumulated, rank))
            if bin_ == 0:
                result[channel] = 0.0
                continue
            inside = (rank - cumulated[bin_ - 1]) / max(counts[bin_], 1)
            result[channel] = edges[bin_] + inside * (edges[bin_ + 1] - edges[bin_])
        return self.maximum.copy() if percent == 100 else np.minimum(result, self.maximum)

    def share_above(self, scale: np.ndarray) -> float:
        """Share of all values counted, zeros included, that lie in a bin above the scale (one per channel, or one)."""
        above = self.edges()[:-1] > np.reshape(np.broadcast_to(scale, len(self.counts)), (-1, 1))
        return float((self.counts[:, 1:] * above).sum() / max(self.counts.sum(), 1))

    def scale(self, method: str, percent: float, levels: int) -> np.ndarray:
        """λ by one of `METHODS`, one per channel; 0 for channels that are silent.

        Args:
            method: "percentile", "max", or "mse".
            percent: for "percentile", in (0, 100].
            levels: for "mse", the number of levels above 0 that a spike train can express.
        """
        if method == "mse":
            return np.array([self._mse_scale(channel, levels) for channel in range(len(self.counts))])
        scale = self.percentile(percent if method == "percentile" else 100)
        return np.where(scale > 0, scale, self.maximum)

    def _mse_scale(self, channel: int, levels: int) -> float:
        """The ceiling θ that makes Δ·clip(⌊v/Δ + ½⌋, 0, N), Δ = θ/N, differ least from v in the mean square."""
        filled = np.flatnonzero(self.counts[channel, 1:])
        if not len(filled):
            return 0.0
        edges = self.edges()
        values = (edges[filled] + np.minimum(edges[filled + 1], self.maximum[channel])) / 2
        counts = self.counts[channel, 1 + filled]
        candidates = self.maximum[channel] * np.linspace(0.1, 1, 181)[:, None]
        quantised = np.clip(np.floor(values * (levels / candidates) + 0.5), 0, levels) * (candidates / levels)
        return float(candidates[np.argmin(((quantised - values) ** 2) @ counts), 0])


def check_percentile(percent: float) -> float:
    """The percentile as a float, once it is known to lie in (0, 100]."""
    if isinstance(percent, bool) or not 0 < percent <= 100:
        raise ValueError(
            "norm_percentile is the percentile of the activations that becomes full activity and must lie in "
            f"(0, 100]; 99.9 is usual. Received: norm_percentile={percent}"
        )
    return float(percent)


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
