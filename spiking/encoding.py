"""What one temporal code consists of. A code is data: conversion and simulation read it and compare no names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from spiking.cells import SpikingCell
from spiking.checks import check_threshold, check_timesteps

Settings = Mapping[str, Any]


def no_remarks(settings: Settings, depth: int) -> list[str]:
    """For codes with nothing to warn of."""
    return []


@dataclass(frozen=True)
class Encoding:
    """One temporal code: its cells, its input, its units and its way to simulate.

    Attributes:
        name: what users write.
        summary: one line for tables and help texts.
        timesteps: default number of time steps.
        threshold: default firing threshold θ; None if it follows from the depth.
        options: further settings this code understands, with their defaults; None for what follows from the depth.
        by_depth: `(settings, depth) -> ` the values of all settings that follow from the depth, see `at_depth`.
        signed_input: `(settings) -> ` whether images may hold negative values.
        neuron, neuron_conv2d, max_pool, integrator: the cells.
        input_layer: `(settings, depth, preprocessing, input_maximum) -> SpikingInput`.
        neuron_options: `(settings, index) -> ` keyword arguments of the cell of the index-th layer of neurons.
        integrator_options: `(settings, depth) -> ` keyword arguments of the integrator behind `depth` layers.
        spike_value: `(settings) -> ` what one spike stands for at the receiver, in units of the sender's λ.
        input_value: `(settings, input_maximum) -> ` the same for a coded input of 1, in units of the image.
        activity: `(spike_counts, first_spike_times, settings) -> ` the activity in units of λ, same shape.
        simulate: `(layers, images, record, training) -> Simulation`, see `simulation.py`.
        normalisation: how λ is chosen by default: "percentile", "max" or "mse" (see `calibration.py`).
        norm_percentile: the percentile it takes by default, in (0, 100].
        per_channel: whether λ is chosen per channel by default, or per layer.
        rounding_levels: `(settings) -> ` N if the activity of a neuron with potential z (in units of full activity) is
            clip(⌊zN + ½⌋, 0, N)/N, exactly or on average; None if it is something else.
        clamp_options: `(clamp) -> ` keyword arguments of neurons that stay silent up to an activation (ReLU's
            `threshold`), in units of λ, one value per channel; None for codes that cannot.
        needs_clamp: whether the ANN should have been trained with such a ReLU.
        hidden_activation: `(beta) -> ` the activation to train the ANN's hidden layers with, as Keras takes it.
        remarks: `(settings, depth) -> ` warnings about settings that will not work at this depth.
    """

    name: str
    summary: str
    timesteps: int
    threshold: float | None
    neuron: type[SpikingCell]
    neuron_conv2d: type[SpikingCell]
    max_pool: type[SpikingCell]
    integrator: type[SpikingCell]
    input_layer: Callable
    neuron_options: Callable[[Settings, int], dict]
    integrator_options: Callable[[Settings, int], dict]
    activity: Callable
    simulate: Callable
    spike_value: Callable[[Settings], float] = lambda settings: 1.0
    input_value: Callable[[Settings, float], float] = lambda settings, input_maximum: 1.0
    signed_input: Callable[[Settings], bool] = lambda settings: True
    normalisation: str = "percentile"
    norm_percentile: float = 99.9
    per_channel: bool = False
    rounding_levels: Callable[[Settings], int | None] = lambda settings: None
    clamp_options: Callable | None = None
    needs_clamp: bool = False
    hidden_activation: Callable[[float], Any] = lambda beta: "relu"
    remarks: Callable[[Settings, int], list[str]] = no_remarks
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    by_depth: Callable[[Settings, int], dict] = lambda settings, depth: {}

    def settings(self, timesteps: int | None = None, threshold: float | None = None, **options) -> dict[str, Any]:
        """All settings of a conversion, checked and completed with this code's defaults.

        What follows from the depth of the network stays None until `at_depth`.

        Args:
            timesteps: number of time steps; `None` for the code's own.
            threshold: firing threshold; `None` for the code's own.
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
        settings = {
            "timesteps": check_timesteps(self.timesteps if timesteps is None else timesteps),
            "threshold": self.threshold if threshold is None else check_threshold(threshold),
            **self.options,
            **options,
        }
        # The cells and the input layer check their own arguments: make one of each, before any work is done.
        complete = self.at_depth(settings, 1)
        self.input_layer(complete, 1, [], 1.0)
        self.neuron(**self.neuron_options(complete, 0))
        self.integrator(**self.integrator_options(complete, 1))
        return settings

    def at_depth(self, settings: Settings, depth: int) -> dict[str, Any]:
        """The settings with what was left open, None, filled in for a network of `depth` layers of neurons."""
        found = self.by_depth(settings, depth)
        return {**settings, **{name: value for name, value in found.items() if settings[name] is None}}
