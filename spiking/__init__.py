"""Spiking networks as Keras models: encodings, cells, layers, simulation.

Importing this package registers its layers with Keras, so that saved networks load.
"""

from spiking import rate, ttfs
from spiking.encoding import Encoding
from spiking.layers import SpikingRNN, SpikingSequential

# The table of encodings: a new code is a module with an ENCODING and a line here.
ENCODINGS = {encoding.name: encoding for encoding in (rate.ENCODING, ttfs.ENCODING)}


def get_encoding(name: str) -> Encoding:
    """The encoding of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in ENCODINGS:
        raise ValueError(f"encoding must be one of {list(ENCODINGS)}. Received: encoding={name!r}")
    return ENCODINGS[name]


__all__ = ["ENCODINGS", "Encoding", "SpikingRNN", "SpikingSequential", "get_encoding"]
