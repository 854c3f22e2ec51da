"""Every check of an argument, once: the value comes back once it is known to obey the rule.

An error says the rule, what was received, and where it is not plain, what to do.
"""

import math
import numbers
import operator
import os
import re
import tempfile
from pathlib import Path

import keras

# States count T steps, first spike times T + 1: a float32 counts to 2²⁴. Loops count in int32, which is the limit for
# networks in float64.
LARGEST_TIMESTEPS = {"float32": 2**24 - 1, "float64": 2**31 - 1}
# Thresholds θ with which θ·T and θ/T are float32 numbers for every T up to there.
THRESHOLDS = "[1e-30, 1e30]"
# Bytes of a folder's name: file systems take 255, and a second run of the same name gets a number behind it.
LONGEST_NAME = 200


def require(holds, rule: str, received: str, remedy: str, cause: Exception | None = None) -> None:
    """Raises a ValueError, in the form that all errors of the project have, unless the rule holds."""
    if not holds:
        raise ValueError(f"{rule}. Received: {received}. {remedy}") from cause


def check_whole(argument: str, value, least: int = 0, most: int | None = None, remedy: str = "") -> int:
    """`value` as an int, once it is known to be a whole number from `least` to `most` (None: no limit)."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least or (most is not None and number > most):
        limit = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(_sentence(f"{argument} must be a whole number {limit}", argument, value, remedy))
    return number


def check_real(argument: str, value, interval: str = "(-inf, inf)", remedy: str = "") -> float:
    """`value` as a float, once it is known to be a number in an interval; NaN is in none.

    Args:
        interval: as it is written, "(0, 100]" for 0 < value ≤ 100; "inf]" lets infinity in.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    high_enough = number >= low if interval[0] == "[" else number > low
    low_enough = number <= high if interval[-1] == "]" else number < high
    if not (high_enough and low_enough):
        raise ValueError(_sentence(f"{argument} must be a number in {interval}", argument, value, remedy))
    return number


def check_choice(argument: str, value, choices: tuple):
    """`value`, once it is known to be one of `choices`."""
    if value not in choices:
        raise ValueError(_sentence(f"{argument} must be one of {choices}", argument, value, ""))
    return value


def check_timesteps(timesteps: int, windows: int = 1) -> int:
    """The number of time steps (of one window, where there are several) as an int, once all of them can be counted."""
    number, floatx = check_whole("timesteps", timesteps, 1), keras.config.floatx()
    most = LARGEST_TIMESTEPS.get(floatx, LARGEST_TIMESTEPS["float32"])
    if number * windows > most:
        total = f" in each of {windows} windows, {number * windows} together" if windows > 1 else ""
        raise ValueError(
            f"A simulation in {floatx} has at most {most} time steps: it can count no further. Received: "
            f"timesteps={timesteps}{total}. Take at most {most // windows}."
        )
    return number


def check_threshold(threshold: float) -> float:
    """The threshold θ as a float, once it is known to be positive and one that float32 can count with."""
    return check_real("threshold", threshold, THRESHOLDS, "Full activity is 1; the codes take thresholds near 1 or 10.")


def check_percentile(percent: float) -> float:
    """The percentile as a float, once it is known to lie in (0, 100]."""
    remedy = "It is the percentile of the activations that becomes full activity; 99.9 is usual."
    return check_real("norm_percentile", percent, "(0, 100]", remedy)


def check_text(argument: str, text: str) -> str:
    """The text, once it is known that it can be written in UTF-8, as all results are."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{argument} must be text that UTF-8 can tell ({error.reason}). Received: {argument}={text!r}. Rename it."
        ) from None
    return text


def check_name(argument: str, name: str, reserved: tuple[str, ...] = ()) -> str:
    """The name, once it is known to be fit for a folder of its own, with room for a number behind it."""
    fits = isinstance(name, str) and re.fullmatch(r"\w[\w .,=+()-]*", name) and name not in reserved
    if not fits or len(name.encode()) > LONGEST_NAME:
        but = f", but not {', '.join(map(repr, reserved))}" if reserved else ""
        raise ValueError(
            f"{argument} names a folder: letters, digits, blanks and any of '_.,=+()-', a letter or digit first, at "
            f"most {LONGEST_NAME} bytes in UTF-8 (a Chinese character has 3){but}. Received: {argument}={name!r}. "
            "Choose another one."
        )
    return name


def check_folder(argument: str, folder: str | os.PathLike) -> Path:
    """The folder's path, once it is known that files can be written there. Leaves no trace."""
    try:
        path = Path(folder).expanduser().absolute()
        check_text(argument, str(path))
        if "\0" in str(path):
            raise OSError("a zero byte in it")
        for each in (path, *path.parents):
            if len(os.fsencode(each.name)) > 255:
                raise OSError(f"File name too long: {each.name!r}")
            if each.is_symlink() and not each.exists():
                raise OSError(f"{str(each)!r} is a link that leads nowhere")
        existing = next(each for each in (path, *path.parents) if each.exists())
        with tempfile.TemporaryFile(dir=existing):  # under a name of its own: others may be looking, too
            return path
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # RuntimeError: ~ of a user who has no home
        raise OSError(
            f"{argument} must be a folder that can be written ({error}). Received: {argument}={str(folder)!r}. "
            "Choose another one, or change its permissions."
        ) from error


def _sentence(rule: str, argument: str, value, remedy: str) -> str:
    return f"{rule}. Received: {argument}={value!r}" + (f". {remedy}" if remedy else "")
