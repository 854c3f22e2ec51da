"""The arguments of an experiment: which rule each obeys, and what they come to for each encoding."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from spiking.analysis.energy import HARDWARE
from spiking.cells import activation_of
from spiking.checks import check_choice, check_folder, check_percentile, check_real, check_whole
from spiking.folding.activations import RECTIFIERS, elementwise
from spiking.registry import ENCODINGS, get_encoding
from spiking.runs.devices import check_strategy
from spiking.scaling.calibration import METHODS
from spiking.scaling.correction import CHOICES, NONE

__all__ = ["CHECKS", "NO_LEAK", "check_activation", "check_rounding", "checked", "rounds", "settings_per_encoding"]

# Time steps; a larger tau, as old scripts give it for "none", is none where no code knows of leaks.
NO_LEAK = 1e5

_count = functools.partial(check_whole, least=1)
_positive = functools.partial(check_real, interval="(0, inf)")
_yes_or_no = lambda argument, value: bool(value)  # noqa: E731

# Argument -> `(argument, value) -> ` the value, checked. What has the default None may be None.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "batch_size_ann_training": _count,
    "batch_size_snn_eval": _count,
    "epochs": _count,
    "seed": functools.partial(check_whole, most=2**32 - 1),
    "max_images": _count,
    "timesteps": _count,
    "training_levels": _count,
    "norm_percentile": lambda argument, value: check_percentile(value),
    "max_rate": _positive,
    "tau": functools.partial(check_real, interval="(0, inf]"),
    "threshold": _positive,
    "beta": functools.partial(check_real, interval="[0, inf)"),
    "force_training": _yes_or_no,
    "disable_training_accuracy": _yes_or_no,
    "encoding_options": lambda argument, value: dict(value),
    "normalisation": functools.partial(check_choice, choices=tuple(METHODS)),
    "per_channel": functools.partial(check_choice, choices=(True, False)),
    "correction": functools.partial(check_choice, choices=CHOICES),
    "hardware": functools.partial(check_choice, choices=tuple(HARDWARE)),
    "neuron_updates": _yes_or_no,
    "strategy": lambda argument, value: check_strategy(value),
    "results_dir": check_folder,
    "tblogs_dir": check_folder,
}


def checked(given: Mapping[str, Any], function: Callable, checks: Mapping[str, Callable] = CHECKS) -> dict[str, Any]:
    """The arguments of a function, each once it is known to obey its rule."""
    parameters = inspect.signature(function).parameters
    absent = {name for name, value in given.items() if value is None and parameters[name].default is None}
    return {
        name: value if name in absent or name not in checks else checks[name](name, value)
        for name, value in given.items()
    }


def settings_per_encoding(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Encoding -> its settings, checked and completed by the encoding.

    Raises:
        ValueError: there is no such encoding, or a setting that none of the chosen ones knows.
    """
    names = arguments["encoding"]
    names = list(names) if isinstance(names, list | tuple) else [names]
    if not names:
        raise ValueError(f"encoding names at least one of {list(ENCODINGS)}. Received: encoding={names}")
    codes = [get_encoding(name) for name in names]
    options, tau = dict(arguments["encoding_options"] or {}), arguments["tau"]
    if tau is not None and (tau < NO_LEAK or any("tau" in code.options for code in codes)):
        options.setdefault("tau", tau)
    unknown = sorted(set(options) - {option for code in codes for option in code.options})
    if unknown:
        known = "; ".join(f"{code.name}: {', '.join(code.options) or 'none'}" for code in codes)
        raise ValueError(
            f"Settings are those that a chosen encoding knows, which are: {known}. Received: "
            f"{', '.join(f'{name}={options[name]!r}' for name in unknown)}. Leave these out, or take another encoding."
        )
    # Known to few codes, but part of every experiment.
    common = {name: arguments[name] for name in ("max_rate", "seed") if arguments[name] is not None}
    found = {}
    for code in codes:
        known = {name: value for name, value in (common | options).items() if name in code.options}
        found[code.name] = code.configured(arguments["timesteps"], arguments["threshold"], **known).get_config()
    return found


def rounds(encoding: str, settings: Mapping[str, Any]) -> bool:
    """Whether the encoding's neurons round to the nearest level, so that there is something to correct."""
    return get_encoding(encoding).configured(**settings).rounding_levels is not None


def check_rounding(arguments: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that what acts on rounding has something to act on."""
    correction, levels = arguments["correction"], arguments["training_levels"]
    correction = None if correction == NONE else correction
    if correction and levels:
        raise ValueError(
            "An ANN trained with rounded activations needs no correction. Received: "
            f"training_levels={levels} with correction={correction!r}. Leave one of them out."
        )
    for argument, value in (("correction", correction), ("training_levels", levels)):
        if value and not any(rounds(encoding, each) for encoding, each in settings.items()):
            raise ValueError(
                f"{argument} is for encodings that round to the nearest level: 'ttfs_exact', 'radix', or 'rate' with "
                f"encoding_options={{'initial_potential': 0.5}}. Received: {argument}={value!r} with "
                f"encoding={list(settings)}"
            )


def check_activation(name: str | None, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that the neurons of all encodings compute the ANN's hidden activation; None for their own."""
    if name is None:
        return
    try:
        function = activation_of(name)
    except (ValueError, TypeError):
        function = None
    known = RECTIFIERS.get(function) or elementwise(function)
    refusing = [encoding for encoding in settings if known is None or not get_encoding(encoding).carries(known)]
    if refusing:
        able = [encoding for encoding, code in ENCODINGS.items() if known is not None and code.carries(known)]
        remedy = f"Take an encoding out of {able}" if able else "Take an elementwise activation of Keras"
        raise ValueError(
            "activation names a hidden activation that the neurons of every encoding compute. Received: "
            f"activation={name!r} with encoding={refusing}. {remedy}, or leave it out."
        )
