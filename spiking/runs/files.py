"""Files that appear whole or not at all, and strict JSON.

Nothing here knows of networks or spikes, so that `ann_training`, which knows nothing of spikes either, takes it as it
is: several writers had come to differ in what survives a power cut. (`plotting.save` has its own, since `plotting`
does without TensorFlow, which `spiking` needs; a figure can be drawn again.)
"""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows: only its user keeps a second process out
    fcntl = None

__all__ = ["FORMULA", "LONG_ARRAY", "locked", "plain", "write_atomically", "write_csv", "write_json", "write_text"]

LONG_ARRAY = 1000  # numbers; what is longer is told by its digest
FORMULA = tuple("=+-@\t\r＝＋－＠")  # a cell that begins so is run by spreadsheet programs


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
    """The value in terms of JSON; infinite numbers as "inf" and "-inf", NaN as "nan", what JSON lacks as its text.

    Functions become their names, which are the same in every process, and long arrays a digest.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray) and value.size > LONG_ARRAY:
        return f"array {value.shape} {hashlib.sha256(np.ascontiguousarray(value)).hexdigest()[:16]}"
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows; the columns are all keys, in the order in which they come up. Opening the table runs nothing."""
    text, names = io.StringIO(), dict.fromkeys(key for row in rows for key in row)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_harmless, names))
    writer.writerows([_harmless(row.get(name)) for name in names] for row in rows)
    write_text(path, text.getvalue())


def _harmless(value):
    """A cell of a table; a text that a spreadsheet program would run as a formula gets an apostrophe before it."""
    value = plain(value)
    if isinstance(value, str) and value.startswith(FORMULA):
        try:
            float(value)  # "-inf" is a number
        except ValueError:
            return "'" + value
    return value


@contextlib.contextmanager
def locked(path: str | os.PathLike, wait: bool = False) -> Iterator[bool]:
    """Holds the lock of a file; yields whether it does. However the process ends, the system takes the lock back.

    Args:
        path: of the file, which is made and stays.
        wait: for who has it; goes on without a lock where the file system has none.

    Raises:
        OSError: the file cannot be made, or the file system has no locks.
    """
    with Path(path).open("a") as file:
        held = True
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        except OSError:
            if not wait:
                raise
            held = False
        yield held
