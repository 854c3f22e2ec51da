"""Files that appear whole or not at all, and strict JSON.

Nothing here knows of networks or spikes, so that `ann_training`, which knows nothing of spikes either, takes it as it
is: several writers had come to differ in what survives a power cut. (`plotting.save` has its own, since `plotting`
does without TensorFlow, which `spiking` needs; a figure can be drawn again.)
"""

import contextlib
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_atomically(path: str | os.PathLike, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a file beside `path`, then renames it: readers see all of it or nothing, a power cut included.

    Args:
        path: of the file; its folder is there. The unfinished file has the same suffix, by which Keras goes.
        write: `(path) -> ` anything; writes a file.

    Raises:
        OSError: the file cannot be written; what was under the name before is still there.
    """
    path = Path(path)
    unfinished = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        write(unfinished)
        _to_disk(unfinished)  # or the name could be on the disk before what it names
        os.replace(unfinished, path)
        with contextlib.suppress(OSError):  # not every system can do that for a folder
            _to_disk(path.parent)
    except OSError as error:
        raise OSError(
            f"A file could not be written ({error.strerror or error}). Received: {str(path)!r}. Free some space on its "
            "disk, see that its folder can be written, or choose another folder."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text, in UTF-8."""
    write_atomically(path, lambda unfinished: unfinished.write_bytes(text.encode()))


def write_json(path: str | os.PathLike, content) -> None:
    """Writes strict JSON of what `plain` makes of the content."""
    write_text(path, json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def plain(value):
    """The value in terms of JSON; infinite numbers as "inf" and "-inf", NaN as "nan", what JSON lacks as its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)
