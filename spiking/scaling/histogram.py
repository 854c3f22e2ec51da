"""Activations counted in logarithmic bins, in one pass; memory follows the bins that occur."""

import numpy as np

BINS_PER_OCTAVE = 256
FIRST_EXPONENT = -126  # of the smallest normal float32
BINS = 254 * BINS_PER_OCTAVE  # all normal float32: 2⁻¹²⁶ to 2¹²⁸
CHUNK = 2**20  # values counted at a time, so that what counting needs does not grow with a batch


class Histogram:
    """Counts activations in logarithmic bins, in one pass, without keeping them.

    A positive float32 read as an integer is, shifted right, its exponent and the first bits of its mantissa: a bin
    number on a scale that is logarithmic by octaves and linear within. With 256 bins an octave a quantile is off by
    at most 0.4% of itself (the width of a bin), from the smallest normal float32, 2⁻¹²⁶, to the largest. What is
    smaller counts as zero; the maximum is exact. Only bins in which a value lies are kept, 16 bytes each: no more of
    them than values, and a few thousand for each channel.

    Args:
        channels: number of channels counted apart; 1 for one histogram over everything.
    """

    SHIFT = 23 - int(np.log2(BINS_PER_OCTAVE))
    FIRST = int(np.float32(2.0**FIRST_EXPONENT).view(np.int32)) >> SHIFT

    def __init__(self, channels: int = 1):
        self.channels = channels
        self.seen = 0  # values of each channel, zeros included
        self.maximum = np.zeros(channels)
        self._keys = np.zeros(0, np.int64)  # channel · BINS + bin, ascending
        self._counts = np.zeros(0, np.int64)
        self._waiting = []  # pairs of these, to be merged

    def update(self, values: np.ndarray) -> None:
        """Counts finite values, shape (…, channels) or, with one channel, any; negative ones count as zero."""
        values = np.ascontiguousarray(values, np.float32).reshape(-1, self.channels)
        rows = max(1, CHUNK // self.channels)
        for start in range(0, len(values), rows):
            self._count(values[start : start + rows])

    def _count(self, values) -> None:
        self.seen += len(values)
        largest = values.max(axis=0) if self.channels > 1 else values.max()
        self.maximum = np.maximum(self.maximum, np.where(largest < 2.0**FIRST_EXPONENT, 0, largest))
        bins = values.view(np.int32) >> self.SHIFT
        positive = bins >= self.FIRST
        found = bins[positive]
        if not len(found):
            return
        low, high = int(found.min()), int(found.max()) + 1
        keys = self._apart(bins, low, high)[positive] if self.channels > 1 else found - low
        if self.channels * (high - low) <= 8 * CHUNK:
            counts = np.bincount(keys)
            keys = np.flatnonzero(counts)
            counts = counts[keys]
        else:
            keys, counts = np.unique(keys, return_counts=True)
        channel, bins = np.divmod(keys, high - low)
        self._waiting.append((channel * BINS + bins + low - self.FIRST, counts))
        if sum(len(keys) for keys, _ in self._waiting) > max(len(self._keys), CHUNK):
            self._merge()

    def _apart(self, bins, low: int, high: int) -> np.ndarray:
        """Numbers that tell bins of different channels apart: channel · (high − low) + bin − low."""
        integers = np.int32 if self.channels * (high - low) < 2**31 else np.int64
        return bins + (np.arange(self.channels, dtype=integers) * (high - low) - low)

    def _merge(self) -> None:
        parts = [(self._keys, self._counts), *self._waiting]
        self._waiting = []
        keys, counts = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.argsort(keys, kind="stable")  # which makes use of what is sorted already
        keys = keys[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        self._keys, self._counts = keys[first], np.add.reduceat(counts[order], first) if len(first) else counts

    def occupied(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each channel the bins in which values lie, ascending, and how many lie there."""
        self._merge()
        ends = np.searchsorted(self._keys, np.arange(self.channels + 1) * BINS)
        return [
            (self._keys[start:end] - channel * BINS, self._counts[start:end])
            for channel, (start, end) in enumerate(zip(ends[:-1], ends[1:], strict=True))
        ]

    def percentile(self, percent: float) -> np.ndarray:
        """The percentile of all values counted, zeros included; one per channel.

        Args:
            percent: in (0, 100]; 100 gives the exact maximum.
        """
        if percent == 100:
            return self.maximum.copy()
        result, rank = np.zeros(self.channels), percent / 100 * self.seen
        for channel, (bins, counts) in enumerate(self.occupied()):
            below = self.seen - counts.sum() + np.concatenate([[0], np.cumsum(counts)])
            position = int(np.searchsorted(below, rank)) - 1  # below[position] < rank <= below[position + 1]
            if 0 <= position < len(bins):
                lower, upper = edges(bins[position] + np.arange(2))
                result[channel] = lower + (rank - below[position]) / counts[position] * (upper - lower)
        return np.minimum(result, self.maximum)

    def share_above(self, scale: np.ndarray) -> float:
        """Share of all values counted, zeros included, that lie in a bin above the scale (one per channel, or one)."""
        filled = zip(self.occupied(), np.broadcast_to(scale, self.channels), strict=True)
        above = sum(int(counts[edges(bins) > limit].sum()) for (bins, counts), limit in filled)
        return above / max(self.seen * self.channels, 1)

    def scale(self, method: str, percent: float, levels: int) -> np.ndarray:
        """λ by one of `METHODS`, one per channel; 0 for channels that are silent.

        Args:
            method: "percentile", "max", or "mse".
            percent: for "percentile", in (0, 100].
            levels: for "mse", the number of levels above 0 that a spike train can express.
        """
        if method == "mse":
            filled = zip(self.occupied(), self.maximum, strict=True)
            return np.array([_mse_scale(bins, counts, maximum, levels) for (bins, counts), maximum in filled])
        scale = self.percentile(percent if method == "percentile" else 100)
        return np.where(scale > 0, scale, self.maximum)


def edges(bins: np.ndarray) -> np.ndarray:
    """Lower edges of bins; the upper edge of a bin is the lower one of the next."""
    octave, part = np.divmod(bins, BINS_PER_OCTAVE)
    return np.ldexp(1 + part / BINS_PER_OCTAVE, octave + FIRST_EXPONENT)


def _mse_scale(bins, counts, maximum: float, levels: int) -> float:
    """The ceiling θ that makes Δ·clip(⌊v/Δ + ½⌋, 0, N), Δ = θ/N, differ least from v in the mean square."""
    if not len(bins):
        return 0.0
    values = (edges(bins) + np.minimum(edges(bins + 1), maximum)) / 2 / maximum  # so that squares stay in the range
    candidates = np.linspace(0.1, 1, 181)[:, None]
    quantised = values * (levels / candidates)
    quantised += 0.5
    np.floor(quantised, out=quantised)
    np.clip(quantised, 0, levels, out=quantised)
    quantised *= candidates / levels
    quantised -= values
    quantised *= quantised
    return float(maximum * candidates[np.argmin(quantised @ counts), 0])
