"""What one temporal code consists of. A code is data: conversion and simulation read it and compare no names."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from spiking.cells import SpikingCell
from spiking.checks import check_threshold, check_timesteps


@dataclass(frozen=True)
class Encoding(abc.ABC):
    """One temporal code with its settings. Subclasses are frozen dataclasses; their fields are the settings.

    Class attributes:
        name: what users write.
        summary: one line for tables and help texts.
        neuron, neuron_conv2d, max_pool, integrator: the cells; `relay`: the layer that joins.
        tells_by: what of a spike train tells the activity: the "count" of its spikes, the "time" of its first (and
            only) spike, or the "pattern" of all.
        normalisation: how λ is chosen by default: "percentile", "max" or "mse" (see `spiking.scaling.calibration`).
        norm_percentile: the percentile it takes by default, in (0, 100].
        per_channel: whether λ is chosen per channel by default, or per layer.
        few_levels: with so many levels at most a correction is fitted by default, see `spiking.scaling.correction`.
        needs_clamp: whether the ANN should have been trained with the clamped ReLU.

    Attributes:
        timesteps: number of time steps; for codes with windows, of one window.
        threshold: firing threshold θ.

    A setting that is None follows from the depth of the network, see `at_depth`.

    Raises:
        ValueError: a setting is out of range.
    """

    timesteps: int
    threshold: float | None

    name: ClassVar[str]
    summary: ClassVar[str]
    neuron: ClassVar[type[SpikingCell]]
    neuron_conv2d: ClassVar[type[SpikingCell]]
    max_pool: ClassVar[type[SpikingCell]]
    integrator: ClassVar[type[SpikingCell]]
    relay: ClassVar[type]
    tells_by: ClassVar[str]
    normalisation: ClassVar[str] = "percentile"
    norm_percentile: ClassVar[float] = 99.9
    per_channel: ClassVar[bool] = False
    few_levels: ClassVar[int] = 0
    needs_clamp: ClassVar[bool] = False

    def __post_init__(self):
        object.__setattr__(self, "timesteps", check_timesteps(self.timesteps))
        if self.threshold is not None:
            object.__setattr__(self, "threshold", check_threshold(self.threshold))
        if None in self.get_config().values():
            self.at_depth(1)  # checks itself
            return
        # The cells and the input layer check their own arguments: make one of each, before any work is done.
        self.input_layer(self.timesteps)
        self.neuron(**self.neurons(1))
        self.integrator(**self.read_out(1))

    @abc.abstractmethod
    def neurons(self, window: int) -> dict[str, Any]:
        """Keyword arguments of the cell of a layer of neurons; `window` counts the layers of neurons before it, + 1."""

    def pools(self) -> dict[str, Any]:
        """Keyword arguments of the pooling cell, beside the layer that it follows."""
        return {}

    @abc.abstractmethod
    def read_out(self, window: int) -> dict[str, Any]:
        """Keyword arguments of an integrator that listens to neurons of that window and earlier ones."""

    @abc.abstractmethod
    def input_layer(self, timesteps: int, preprocessing=(), maximum: float = 1.0, **keywords):
        """The layer that spreads an image over time.

        Args:
            timesteps: of the whole simulation.
            preprocessing: Keras layers that act on the image.
            maximum: the largest |input|.
            **keywords: of the Keras layer.
        """

    def activity(self, counts, times):
        """The activity in units of λ from spike counts and first spike times (0: none), arrays of one shape.

        Not for codes that are told by the pattern, or that know the activity at once: their `simulate` records it.
        """
        raise TypeError(f"The activity of {self.name!r} is recorded: simulate(images, 'activities').")

    def expressible(self, timesteps: int) -> np.ndarray:
        """All activities one neuron can express in a simulation of so many steps, ascending from 0, in units of λ."""
        steps = np.arange(1, timesteps * self.spike_range[1] + 1, dtype=np.float32)
        once = np.ones_like(steps)
        activity = self.activity(once, steps) if self.tells_by == "time" else self.activity(steps, once)
        return np.unique(np.append(np.asarray(activity), 0.0)).astype(np.float64)

    def finer(self, factor: float) -> int:
        """The number of time steps with which neurons can express `factor` times as many activities."""
        return math.ceil(self.timesteps * factor)

    @abc.abstractmethod
    def simulate(self, plan, images, record=(), training: bool = False):
        """Runs a network; see `spiking.network.clock.simulate`."""

    def by_depth(self, depth: int) -> dict[str, Any]:
        """The values, for a network of `depth` layers of neurons, of the settings that may be None."""
        return {}

    def at_depth(self, depth: int) -> "Encoding":
        """The code with what was left open, None, filled in for a network of `depth` layers of neurons."""
        found = {name: value for name, value in self.by_depth(depth).items() if getattr(self, name) is None}
        return dataclasses.replace(self, **found) if found else self

    def total_timesteps(self, depth: int) -> int:
        """Time steps of a simulation through `depth` layers of neurons."""
        return self.timesteps

    @property
    def spike_value(self) -> float:
        """What one spike stands for at the receiver, in units of the sender's λ."""
        return 1.0

    @property
    def spike_range(self) -> tuple[int, int]:
        """The least and the most spikes of a neuron in one time step: (0, 1) unless they are negative or several."""
        return 0, 1

    @property
    def full_activity(self) -> float:
        """The activity of a neuron that sends as much as it can in every step, in units of its λ."""
        return self.spike_value * self.spike_range[1]

    def input_value(self, maximum: float) -> float:
        """What a coded input of 1 stands for, in units of the image; `maximum`: the largest |input|."""
        return 1.0

    @property
    def signed_input(self) -> bool:
        """Whether images may hold negative values: they enter as a current, not as spikes."""
        return True

    @property
    def rounding_levels(self) -> int | None:
        """N if the activity of a neuron with potential z, in units of full activity, is clip(⌊zN + ½⌋, 0, N)/N, exactly
        or on average; None if it is something else."""
        return None

    def clamp(self, values: list[float]) -> dict[str, Any] | None:
        """Keyword arguments of neurons that stay silent up to an activation (ReLU's `threshold`), one value per channel
        in units of λ; None for codes that cannot."""
        return None

    def carries(self, activation) -> bool:
        """Whether its neurons can compute an activation, a `spiking.folding.activations.Activation`.

        Codes that carry more than ReLU and identity have cells with the arguments `activation`, `floor`, `scale`.
        """
        return activation.scales and (not activation.clamp or self.clamp([]) is not None)

    def hidden_activation(self, beta: float):
        """The activation to train the ANN's hidden layers with, as Keras takes it."""
        return "relu"

    def remarks(self, depth: int) -> list[str]:
        """Warnings about settings that will not work at this depth."""
        return []

    @property
    def options(self) -> Mapping[str, Any]:
        """The settings beside time steps and threshold, by name."""
        return {key: value for key, value in self.get_config().items() if key not in ("timesteps", "threshold")}

    def configured(self, timesteps: int | None = None, threshold: float | None = None, **options) -> "Encoding":
        """The code with other settings.

        Args:
            timesteps, threshold: `None` leaves them as they are.
            **options: any of `self.options`.

        Raises:
            ValueError: a setting is unknown to this code or out of range.
        """
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            raise ValueError(
                f"The encoding {self.name!r} understands {['timesteps', 'threshold', *self.options]}. "
                f"Received: {', '.join(f'{key}={options[key]!r}' for key in unknown)}. Leave these out, or take "
                "another encoding."
            )
        given = {"timesteps": timesteps, "threshold": threshold}
        return dataclasses.replace(self, **{k: v for k, v in given.items() if v is not None}, **options)

    def get_config(self) -> dict[str, Any]:
        """All settings, as Keras saves them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config) -> "Encoding":
        """The code with these settings."""
        return cls(**config)
