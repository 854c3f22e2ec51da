"""From the split error of a network's layers, and its answer after each step, to findings: causes and what to change.

A finding carries the settings it proposes, so that it can be tried: `benchmarks/diagnosis.py` applies each one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spiking.analysis.layer_errors import LayerErrors
from spiking.encoding import Encoding

# What a finding can name.
BATCH_NORM = "batch_norm"
DEAD = "dead"
CLIPPING = "clipping"
SCALE = "scale"
THRESHOLD = "threshold"
TIMESTEPS = "timesteps"
OVERRUN = "overrun"
ARRIVAL = "arrival"
CODE = "code"
ACCUMULATED = "accumulated"
CAUSES = (BATCH_NORM, DEAD, CLIPPING, SCALE, THRESHOLD, TIMESTEPS, OVERRUN, ARRIVAL, CODE, ACCUMULATED)

# The layer of findings that were measured on the network as a whole.
NETWORK = "network"

# From what size a local error is reported, and the whole error of the last layer, relative to the layer's activation.
# In networks that keep the ANN's accuracy they are half that or less (benchmarks/diagnosis.py).
LIMIT = 0.1
ACCUMULATED_LIMIT = 0.2
# From what share of lost activation a layer is reported as silent, though its inputs may be too wrong to lose much.
SILENT_LIMIT = 0.5
# λ is to blame from this many times the largest activation on; on other images than those of calibration it varies.
SCALE_LIMIT = 1.5
# From what share of the images, and from how many, the answer was better at an earlier step, or is not there yet.
IMAGES_LIMIT, FEWEST_IMAGES = 0.02, 4
# θ is too high for T from this many times the code's own on.
REACH_LIMIT = 1.1

# A code in proportion to the activation that waits for all its inputs, with its own settings.
EXACT = {"encoding": "ttfs_exact", "timesteps": None, "threshold": None}


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        layer: its name, or `NETWORK`.
        cause: one of `CAUSES`.
        severity: size of the error, relative to the layer's activation; for BatchNorm in standard deviations, for the
            network as a whole the share of the images.
        evidence: the numbers it rests on.
        advice: what to change.
        changes: the same as arguments of `convert_ann_to_snn`, in place of those given before (with another encoding
            in place of the code's options, too); empty where no setting of the conversion helps.
    """

    layer: str
    cause: str
    severity: float
    evidence: str
    advice: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """The severity with its unit."""
        if self.cause == BATCH_NORM:
            return f"{self.severity:.2g} standard deviations"
        return f"{100 * self.severity:.2g}% of the {'images' if self.layer == NETWORK else 'activation'}"

    def __str__(self):
        return f"{self.layer}: {self.cause}, {self.size}. {self.evidence} {self.advice}"


@dataclass(frozen=True)
class Conversion:
    """What advice depends on.

    Attributes:
        code: the encoding, with its own settings.
        settings: of the conversion, complete.
        depth: number of layers of neurons.
        single_spike: whether a neuron's activity is told by the time of one spike.
        corrected: whether the neurons have gains and shifts of their own, see `spiking.scaling.correction`.
    """

    code: Encoding
    settings: Mapping[str, Any]
    depth: int
    single_spike: bool
    corrected: bool = False

    @property
    def own(self) -> dict[str, Any]:
        """The settings that the code takes by itself for this number of steps, at this depth."""
        return self.code.configured(self.settings["timesteps"]).at_depth(self.depth).get_config()

    @property
    def follows(self) -> bool:
        """Whether θ follows from T: neurons need about θ steps to fire, and more steps than that harm."""
        return self.code.threshold is None

    @property
    def steps_wanted(self) -> int:
        """The number of steps for which θ would be the code's own."""
        return math.ceil(self.settings["timesteps"] * self.settings["threshold"] / self.own["threshold"])

    def finer(self, factor: float) -> int:
        """The number of steps with which neurons can express so many times as many activities."""
        return self.code.configured(self.settings["timesteps"]).finer(factor)

    def back_to_own(self, *names: str) -> dict[str, Any]:
        """Those of these settings that are not the code's own, with the value they should have."""
        own = self.own
        return {name: self.code.options[name] for name in names
                if name in self.code.options and self.settings[name] != own[name]}  # fmt: skip


def _dead(layer: LayerErrors) -> Finding:
    return Finding(
        layer.name, DEAD, 1.0, "No neuron of it is active in the ANN on any image.",
        "Look at its weights and biases; train the ANN anew.",
    )  # fmt: skip


def _clips(layer: LayerErrors, conversion: Conversion) -> bool:
    """Whether it loses more by clipping than by rounding, and clips more than the code's own percentile does."""
    chosen = 1 - conversion.code.norm_percentile / 100
    return layer.clipping > max(LIMIT, layer.quantisation) and layer.clipped_share > 1.5 * chosen


def _clipping(layer: LayerErrors, conversion: Conversion) -> Finding:
    covered, percentile = 100 * (1 - layer.clipped_share), conversion.code.norm_percentile
    return Finding(
        layer.name, CLIPPING, layer.clipping,
        f"Its ceiling is {layer.ceiling:.3g}, the {covered:.4g}th percentile of its activations, which reach "
        f"{layer.largest:.3g}.",
        f"Convert with a norm_percentile of at least {percentile:.4g} and with calibration images like these.",
        {"norm_percentile": percentile},
    )  # fmt: skip


def _coarseness(layer: LayerErrors) -> float:
    """What too few levels and too little time cost a layer, relative to its activation."""
    return max(layer.quantisation, layer.lost, layer.lost_share if layer.lost_share > SILENT_LIMIT else 0.0)


def _reach_changes(conversion: Conversion) -> tuple[str, str, dict[str, Any]]:
    """Cause, advice and changes where θ is too high for T, in codes where it follows from T."""
    threshold, timesteps = conversion.settings["threshold"], conversion.settings["timesteps"]
    usual = conversion.own["threshold"] * conversion.code.timesteps / timesteps
    if threshold > usual:  # T may be as it should, θ is not
        own = conversion.own["threshold"]
        return THRESHOLD, f"Lower threshold={threshold:g} towards {own:.3g}.", {"threshold": own}
    steps = conversion.steps_wanted
    return TIMESTEPS, f"Take about {steps} time steps; many more make the answer worse.", {"timesteps": steps}


def _resolution(layer: LayerErrors, conversion: Conversion) -> Finding:
    """Too few levels where the activations are: which setting is farthest from where it should be?"""
    code, own = conversion.code, conversion.own
    threshold, timesteps = conversion.settings["threshold"], conversion.settings["timesteps"]
    severity = _coarseness(layer)  # above the limit, or there were no finding
    evidence = (
        f"Rounding to what threshold={threshold:.3g} and {timesteps} time steps can express costs "
        f"{layer.quantisation:.1%}; neurons that stay silent cost {layer.lost:.1%}, {layer.lost_share:.1%} of the "
        "activation belongs to them."
    )
    farthest = {
        THRESHOLD: threshold / own["threshold"],
        TIMESTEPS: code.timesteps / timesteps,
        SCALE: layer.scale / layer.largest / SCALE_LIMIT,
    }
    cause = max(farthest, key=farthest.get) if max(farthest.values()) > 1 else TIMESTEPS
    if cause == SCALE:
        return Finding(
            layer.name, SCALE, severity, evidence,
            f"Its full activity, {layer.scale:.3g}, is {layer.scale / layer.largest:.2g} times the largest "
            "activation: convert with a lower norm_percentile, or with calibration images like these.",
            {"norm_percentile": code.norm_percentile},
        )  # fmt: skip
    if conversion.follows:
        return Finding(layer.name, *_too_coarse_in_time(conversion, severity, evidence))
    if cause == THRESHOLD:
        advice = f"Lower threshold={threshold:g} towards {own['threshold']:g}, or take more steps than {timesteps}."
        return Finding(layer.name, THRESHOLD, severity, evidence, advice, {"threshold": own["threshold"]})
    needed = max(conversion.finer(severity / LIMIT), code.timesteps)
    return Finding(layer.name, TIMESTEPS, severity, evidence, f"Take about {needed} time steps.", {"timesteps": needed})


def _too_coarse_in_time(conversion: Conversion, severity: float, evidence: str) -> tuple:
    """What there is to do in codes where more steps for the same θ may harm: cause, …, changes."""
    timesteps, usual = conversion.settings["timesteps"], conversion.code.timesteps
    if conversion.settings["threshold"] > REACH_LIMIT * conversion.own["threshold"]:
        cause, advice, changes = _reach_changes(conversion)
        return cause, severity, evidence, advice, changes
    if timesteps < usual:
        advice = f"Take {usual} time steps and a threshold to match: more steps for the same one make the answer worse."
        return TIMESTEPS, severity, evidence, advice, {"timesteps": usual, "threshold": None}
    advice = "Time is as it should be, and more makes the answer worse: take a code that waits, such as ttfs_exact."
    return CODE, severity, evidence, advice, EXACT


def _arrival(layer: LayerErrors, conversion: Conversion) -> Finding:
    settings, advice = conversion.settings, []
    changes = conversion.back_to_own("reset", "tau", "max_rate")
    if "reset" in changes:
        advice.append('Take reset="subtract", which keeps what is above the threshold.')
    if "tau" in changes:
        advice.append("Take tau=inf: the leak loses what comes early.")
    if "max_rate" in changes:
        advice.append(f"Raise max_rate={settings['max_rate']:g}: few input spikes make noise.")
    if conversion.single_spike:
        advice.append("Neurons fire before all their inputs have come: take a code that waits, such as ttfs_exact.")
        changes = EXACT
    elif not advice:
        changes = conversion.back_to_own("initial_potential", "readout_delay")
        changes = changes or {"timesteps": conversion.finer(2)}
        advice.append(_said(changes))
    return Finding(
        layer.name, ARRIVAL, layer.arrival,
        f"Given its own inputs it errs by {layer.arrival:.1%} beyond rounding, {layer.scatter:.1%} of the activation "
        "without being consistent, so they come unevenly or too early.",
        " ".join(advice), changes,
    )  # fmt: skip


def _said(changes: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name}={value}" for name, value in changes.items())
    return f"Take {values}."


def _code(layer: LayerErrors) -> Finding:
    return Finding(
        layer.name, CODE, layer.arrival,
        f"Given its own inputs it errs by {layer.arrival:.1%} beyond rounding, but all neurons alike (scatter "
        f"{layer.scatter:.1%}): the time of its spikes keeps the order of the activations, not their proportion.",
        "No setting changes it; take a code in proportion to the activation, such as ttfs_exact.", EXACT,
    )  # fmt: skip


def _accumulated(layers: Sequence[LayerErrors], conversion: Conversion) -> Finding:
    """No layer errs much by itself, but together they do: the layer that adds most, and by which part."""
    parts = ("clipping", "quantisation", "lost", "arrival")
    worst = max(layers, key=lambda layer: max(getattr(layer, part) for part in parts))
    part = max(parts, key=lambda part: getattr(worst, part))
    if part == CLIPPING:
        remedy, changes = "raise norm_percentile", {"norm_percentile": 99.99}
    else:
        changes = conversion.back_to_own("initial_potential", "readout_delay")
        changes |= {} if changes else {"timesteps": conversion.finer(2)}
        remedy = f"take more than {conversion.settings['timesteps']} time steps"
        remedy = _said(changes).lower().rstrip(".") if "timesteps" not in changes else remedy
    return Finding(
        worst.name, ACCUMULATED, layers[-1].error,
        f"Small errors add up to {layers[-1].error:.1%} in '{layers[-1].name}'; this layer adds most, "
        f"{getattr(worst, part):.1%} by {part}.",
        f"In the first place {remedy}; set full activity per channel (per_channel=True); or take another encoding.",
        changes,
    )  # fmt: skip


def of_layers(layers: Sequence[LayerErrors], conversion: Conversion) -> list[Finding]:
    """The faults of the layers of neurons, worst first.

    What follows from another fault is left out: uneven arrival behind a layer that speaks too coarsely (few, heavy
    spikes; a single spike is none the heavier for being rounded), the curve of a code where a high threshold or
    few time steps bend it, and clipping no larger than the rounding, which a λ of least square error chooses for few
    levels, or than the code's own percentile makes. In a corrected network arrival is not told from the gains and
    shifts, which answer to the layers before, and is left out.

    Args:
        layers: in order.
        conversion: what advice depends on.
    """
    settings = conversion.settings
    unusual = settings["threshold"] > REACH_LIMIT * conversion.own["threshold"]
    unusual |= settings["timesteps"] < conversion.code.timesteps
    found, coarse = [], False
    for layer in layers:
        if not layer.activation:
            found.append(_dead(layer))
            continue
        if _clips(layer, conversion):
            found.append(_clipping(layer, conversion))
        if _coarseness(layer) > LIMIT:
            found.append(_resolution(layer, conversion))
            coarse = True
        found += _of_arrival(layer, conversion, coarse, unusual)
    if not found and layers and layers[-1].error > ACCUMULATED_LIMIT:
        found.append(_accumulated(layers, conversion))
    return sorted(found, key=lambda finding: -finding.severity)


def _of_arrival(layer: LayerErrors, conversion: Conversion, coarse: bool, unusual: bool) -> list[Finding]:
    """The fault, if there is one, of what a layer makes of its inputs beyond rounding."""
    if layer.arrival <= LIMIT or conversion.corrected:
        return []
    if conversion.single_spike and layer.scatter <= LIMIT:
        return [] if coarse and unusual else [_code(layer)]
    return [_arrival(layer, conversion)] if conversion.single_spike or not coarse else []


def best_step(curve: np.ndarray, first: int = 1) -> int:
    """The earliest step, counted from 1 and no earlier than `first`, with the largest share."""
    return first + int(np.argmax(curve[first - 1 :]))


def of_curve(curve: np.ndarray, same_class: float, images: int, what: str, conversion: Conversion) -> list[Finding]:
    """What the answer after each step says of the number of steps, for codes that go on until they are stopped.

    Args:
        curve: share of the images, right or as the ANN, had the simulation ended at each step, `(timesteps,)`.
        same_class: share of the images that the ANN answers alike, at the end.
        images: how many.
        what: the name of the curve's share.
    """
    settings, limit = conversion.settings, max(IMAGES_LIMIT, FEWEST_IMAGES / images)
    ratio = settings["threshold"] / conversion.own["threshold"]
    if conversion.follows and ratio > REACH_LIMIT and 1 - same_class >= limit:
        cause, advice, changes = _reach_changes(conversion)
        return [Finding(
            NETWORK, cause, 1 - same_class,
            f"{what} {curve[-1]:.1%} after {settings['timesteps']} time steps, which is too early for "
            f"threshold={settings['threshold']:.3g} at {conversion.depth} layers.",
            advice, changes,
        )]  # fmt: skip
    step = best_step(curve, 1 + (settings.get("readout_delay") or 0))
    lost = float(curve[step - 1] - curve[-1])
    if lost >= limit:
        kept = {name: settings[name] for name in conversion.code.by_depth(conversion.depth)}
        return [Finding(
            NETWORK, OVERRUN, lost,
            f"{what} {curve[step - 1]:.1%} after step {step}, {curve[-1]:.1%} after all {settings['timesteps']}.",
            f"Stop after {step} time steps.", {"timesteps": step, **kept},
        )]  # fmt: skip
    return []


def in_order(findings: Sequence[Finding], single_spike: bool) -> list[Finding]:
    """What to cure first: where time harms or lacks, as measured on the whole network; then the worst first.

    Only where a neuron speaks once does the number of steps come first: counts converge, and where they do not,
    a layer is to blame.
    """
    return sorted(findings, key=lambda each: (not (single_spike and each.layer == NETWORK), -each.severity))
