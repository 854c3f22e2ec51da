"""Time to first spike for ANNs trained with the clamped ReLU x·[x > β].

Rueckauer & Liu (2018), section on clamped ReLU: small activations would become late spikes, which arrive when their
receivers have decided; an ANN trained without them does not miss them. Neurons and input are those of `ttfs`.
"""

import dataclasses

import keras

from spiking import ttfs
from spiking.ttfs import IntegratorNeuronCell, LifNeuronCell, LifNeuronCellConv2D, LifNeuronCellMaxPool2D

__all__ = ["ENCODING", "IntegratorNeuronCell", "LifNeuronCell", "LifNeuronCellConv2D", "LifNeuronCellMaxPool2D"]

ENCODING = dataclasses.replace(
    ttfs.ENCODING,
    name="ttfs_clamped",
    summary="as ttfs, for ANNs trained with the clamped ReLU: late spikes carry nothing",
    clamp_options=lambda clamp: {},
    needs_clamp=True,
    hidden_activation=lambda beta: keras.layers.ReLU(threshold=beta),
)
