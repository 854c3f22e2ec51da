"""Time to first spike for ANNs trained with the clamped ReLU x·[x > β].

Rueckauer & Liu (2018), section on clamped ReLU: small activations would become late spikes, which arrive when their
receivers have decided; an ANN trained without them does not miss them. Neurons and input are those of `ttfs`.
"""

from dataclasses import dataclass

import keras

from spiking import ttfs
from spiking.cells import PACKAGE
from spiking.ttfs import IntegratorNeuronCell, LifNeuronCell, LifNeuronCellConv2D, LifNeuronCellMaxPool2D

__all__ = ["ENCODING", "IntegratorNeuronCell", "LifNeuronCell", "LifNeuronCellConv2D", "LifNeuronCellMaxPool2D"]


@keras.saving.register_keras_serializable(f"{PACKAGE}.ttfs_clamped")
@dataclass(frozen=True)
class TtfsClamped(ttfs.Ttfs):
    """As `ttfs`, for ANNs trained with the clamped ReLU."""

    name = "ttfs_clamped"
    summary = "as ttfs, for ANNs trained with the clamped ReLU: late spikes carry nothing"
    needs_clamp = True

    def clamp(self, values):
        return {}

    def hidden_activation(self, beta):
        return keras.layers.ReLU(threshold=beta)


ENCODING = TtfsClamped()
