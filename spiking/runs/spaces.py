"""What is varied: arguments, and the distributions their values are drawn from."""

import abc
import math
import numbers
import zlib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from spiking.checks import check_choice, check_real, check_whole, require
from spiking.runs.files import plain

__all__ = [
    "DiscreteInterval", "DiscreteValues", "Distribution", "OptimizableValue", "QUANTILE_DRAWS", "RealInterval",
    "checked_values", "derived_seed", "drawn_values",
]  # fmt: skip

QUANTILE_DRAWS = 2**16


def checked_values(values: Sequence) -> list:
    """The values as a list, once they are known to be at least one."""
    fits = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) and len(values) > 0
    require(fits, "Values are a list of one value or more", repr(values), "Put them into [ ].")
    return list(values)


def derived_seed(seed: int, number: int) -> int:
    """The seed of repetition or trial `number`, from 0 to 2**32 - 1."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class Distribution(abc.ABC):
    """What a value is drawn from. Its `repr` is the call that makes it: equal texts, equal distributions."""

    @abc.abstractmethod
    def draw(self, random: np.random.Generator):
        """A value drawn at random."""

    @abc.abstractmethod
    def suggest(self, trial, name: str):
        """The value that Optuna wants to see tried as parameter `name` of a trial."""


class DiscreteInterval(Distribution):
    """`start`, `start + step`, … below `stop`, all equally likely: `DiscreteInterval(1, 5, 1)` holds 1, 2, 3 and 4.

    Ints if `start` and `step` are; fractions as written: `DiscreteInterval(0.1, 0.4, 0.1)` holds 0.1, 0.2 and 0.3.
    """

    def __init__(self, start: float, stop: float, step: float = 1):
        self.start, self.stop, self.step = start, stop, step
        for name, value in {"start": start, "stop": stop, "step": step}.items():
            check_real(name, value)
        rule = "An interval goes from start up to stop in steps above 0"
        require(step > 0 and start < stop, rule, f"{self}", "Swap start and stop, or change the step.")
        self._first, end, self._step = (Fraction(str(value)) for value in (start, stop, step))
        self.count = math.ceil((end - self._first) / self._step)
        self._kind = int if all(isinstance(value, numbers.Integral) for value in (start, step)) else float

    def __getitem__(self, index: int):
        return self._kind(self._first + index * self._step)

    def draw(self, random):
        return self[int(random.integers(self.count))]

    def suggest(self, trial, name):
        suggest = trial.suggest_int if self._kind is int else trial.suggest_float
        suggested = suggest(name, self[0], self[self.count - 1], step=self._kind(self._step))
        return self[round((suggested - self.start) / self.step)]  # without the rounding errors of adding steps

    def __repr__(self):
        return f"DiscreteInterval({self.start}, {self.stop}, {self.step})"


class RealInterval(Distribution):
    """A random number of NumPy's Generator, whose method of that name takes the keywords.

    Optuna knows uniform numbers only: of the others it varies the quantile, in [0, 1]. The quantiles are those of
    `QUANTILE_DRAWS` draws with a fixed seed, so that every process finds the same.
    """

    # Distribution -> the method of `numpy.quantile` that finds only values it can have.
    DISTRIBUTIONS = {"normal": "linear", "uniform": "linear", "poisson": "inverted_cdf", "beta": "linear"}

    def __init__(self, distribution: str, **keywords: float):
        self.distribution, self.keywords = distribution, keywords
        check_choice("distribution", distribution, tuple(self.DISTRIBUTIONS))
        for name, value in keywords.items():
            check_real(name, value)
        self.bounds = keywords.get("low", 0.0), keywords.get("high", 1.0)  # of a uniform distribution
        require(self.bounds[0] < self.bounds[1], "low must be below high", f"{self}", "Swap them.")
        try:
            check_real("a draw", self.draw(np.random.default_rng(0)))
        except (TypeError, ValueError) as error:
            rule = f"NumPy's {distribution} must accept the keywords, and draw a number ({error})"
            require(False, rule, f"{self}", f"See numpy.random.Generator.{distribution}.", error)

    def draw(self, random):
        return plain(getattr(random, self.distribution)(**self.keywords))

    def suggest(self, trial, name):
        if self.distribution == "uniform":
            return trial.suggest_float(name, *self.bounds)
        draws = getattr(np.random.default_rng(0), self.distribution)(**self.keywords, size=QUANTILE_DRAWS)
        return np.quantile(draws, trial.suggest_float(name, 0, 1), method=self.DISTRIBUTIONS[self.distribution]).item()

    def __repr__(self):
        return f"RealInterval({self.distribution!r}{''.join(f', {k}={v}' for k, v in sorted(self.keywords.items()))})"


class DiscreteValues(Distribution):
    """One of a list of values, all equally likely. To Optuna they are categories, without an order."""

    def __init__(self, values: Sequence):
        self.values = checked_values(values)

    def draw(self, random):
        return self.values[int(random.integers(len(self.values)))]

    def suggest(self, trial, name):
        named = {repr(plain(value)): value for value in self.values}
        return named[trial.suggest_categorical(name, list(named))]

    def __repr__(self):
        return f"DiscreteValues({plain(self.values)})"


class OptimizableValue:
    """An argument that is varied: its name, and what its values are drawn from.

    The seed is that of `get`; `None` gives other values in each process. A search has a seed of its own.
    """

    def __init__(self, name: str, distribution: Distribution, seed: int | None = None):
        fits = isinstance(name, str) and name.isidentifier() and isinstance(distribution, Distribution)
        require(fits, "A value has the name of an argument, and a distribution", f"{name=}, {distribution=}",
                "Make a DiscreteInterval, RealInterval or DiscreteValues.")
        check_whole("seed", 0 if seed is None else seed)
        self.name, self.distribution, self._random = name, distribution, np.random.default_rng(seed)

    def get(self):
        """The next value; there is no last one."""
        return self.distribution.draw(self._random)


def drawn_values(space: Iterable[OptimizableValue], seed: int, number: int) -> dict[str, Any]:
    """The values of a trial of a random search. They depend on seed, number and the value's name alone."""
    own = {value: np.random.default_rng([seed, number, zlib.crc32(value.name.encode())]) for value in space}
    return {value.name: value.distribution.draw(random) for value, random in own.items()}
