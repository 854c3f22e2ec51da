"""The table of encodings, and what their names stand for."""

from spiking import radix, rate, ttfs, ttfs_clamped, ttfs_dynthresh, ttfs_exact
from spiking.encoding import Encoding

# The table of encodings: a new code is a module with an ENCODING and a line here.
ENCODINGS = {
    module.ENCODING.name: module.ENCODING for module in (rate, ttfs, ttfs_dynthresh, ttfs_clamped, radix, ttfs_exact)
}
# Names that older scripts use.
ALIASES = {"ttfs_dynthresh": "ttfs_dyn_thresh"}


def get_encoding(name: str) -> Encoding:
    """The encoding of that name.

    Raises:
        ValueError: there is none.
    """
    name = ALIASES.get(name, name)
    if name not in ENCODINGS:
        raise ValueError(f"encoding must be one of {list(ENCODINGS)}. Received: encoding={name!r}")
    return ENCODINGS[name]
