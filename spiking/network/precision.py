"""Synapses in reduced precision."""

import keras

from spiking.network.model import SpikingModel


def reduce_precision(snn: SpikingModel, dtype: str | None = "bfloat16") -> None:
    """Lets the synapses between the hidden layers of a converted network compute in another dtype, in place.

    Spikes are exact in it; weights and currents are rounded. States, biases, the current of layers that hear images
    (computed once) and the read-outs stay as they are. Kept when the network is saved.

    Args:
        snn: a converted network.
        dtype: "bfloat16" or "float16"; None takes the choice back.
    """
    if dtype not in (None, "bfloat16", "float16"):
        raise ValueError(f'dtype must be "bfloat16", "float16" or None. Received: dtype={dtype!r}')
    for layer in snn.hidden_layers:
        if any(source in snn.plan.on_images for source in snn.wiring[layer.name]):
            continue
        policy = layer.cell.dtype_policy if dtype is None else keras.DTypePolicy(f"mixed_{dtype}")
        for synapse in layer.cell.synapse_layers:
            synapse.dtype_policy = policy
    snn.forget_traces()
