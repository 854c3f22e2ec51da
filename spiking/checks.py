"""Every check of an argument, once: the value comes back once it is known to obey the rule."""

import math
import operator


def check_whole(argument: str, value, least: int = 0) -> int:
    """`value` as an int, once it is known to be a whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(f"{argument} must be a whole number of at least {least}. Received: {argument}={value!r}")
    return number


def check_timesteps(timesteps: int) -> int:
    """The number of time steps as an int, once it is known to be a positive whole number."""
    return check_whole("timesteps", timesteps, 1)


def check_choice(argument: str, value, choices: tuple[str, ...]):
    """`value`, once it is known to be one of `choices`."""
    if value not in choices:
        raise ValueError(f"{argument} must be one of {choices}. Received: {argument}={value!r}")
    return value


def check_threshold(threshold: float) -> float:
    """The threshold as a float, once it is known to be finite and positive."""
    if not 0 < threshold < math.inf:
        raise ValueError(f"threshold must be positive and finite. Received: threshold={threshold}")
    return float(threshold)


def check_percentile(percent: float) -> float:
    """The percentile as a float, once it is known to lie in (0, 100]."""
    if isinstance(percent, bool) or not 0 < percent <= 100:
        raise ValueError(
            "norm_percentile is the percentile of the activations that becomes full activity and must lie in "
            f"(0, 100]; 99.9 is usual. Received: norm_percentile={percent}"
        )
    return float(percent)
