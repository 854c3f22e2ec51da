"""Activations counted in logarithmic bins, in one pass and constant memory."""

import numpy as np

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
