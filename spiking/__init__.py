"""Spiking networks as Keras models: encodings, cells, layers, simulation.

Importing this package registers its layers with Keras, so that saved networks load.
"""

from spiking.encoding import Encoding
from spiking.network.layers import SpikingRNN
from spiking.network.model import SpikingModel
from spiking.quantisation import QuantisedActivation, QuantisedReLU
from spiking.registry import ENCODINGS, get_encoding

__version__ = "0.2.0.dev0"

__all__ = [
    "ENCODINGS", "Encoding", "QuantisedActivation", "QuantisedReLU", "SpikingModel", "SpikingRNN", "get_encoding",
]  # fmt: skip
