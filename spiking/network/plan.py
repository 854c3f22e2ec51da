"""A network as the simulation sees it: layers by name, and who listens to whom."""

import functools
from dataclasses import dataclass
from typing import Any

import keras

from spiking.cells import MaxPoolCell, SpikingCell
from spiking.network.inputs import SpikingInput
from spiking.network.layers import Relay


@dataclass(frozen=True)
class Plan:
    """Plain data; every name stands behind its sources.

    Attributes:
        timesteps: T.
        inputs: the layers that spread images over time; their source is the name of an input of the network.
        relays: the layers that join.
        cells: neurons, poolings and read-outs.
        sources: name -> names of what it listens to.
        outputs: names of the read-outs, in the structure of the network's output.
    """

    timesteps: int
    inputs: dict[str, SpikingInput]
    relays: dict[str, Relay]
    cells: dict[str, SpikingCell]
    sources: dict[str, tuple[str, ...]]
    outputs: Any

    @property
    def order(self) -> tuple[str, ...]:
        """All names, each behind its sources."""
        return tuple(self.sources)

    @functools.cached_property
    def read_outs(self) -> tuple[str, ...]:
        """Names of the read-outs, in order."""
        outputs = set(keras.tree.flatten(self.outputs))
        return tuple(name for name in self.sources if name in outputs)

    @functools.cached_property
    def hidden(self) -> tuple[str, ...]:
        """Names of what emits spikes, in order."""
        return tuple(name for name in self.cells if name not in self.read_outs)

    @functools.cached_property
    def listeners(self) -> dict[str, tuple[str, ...]]:
        """Name -> names of what listens to it."""
        return {name: tuple(each for each, heard in self.sources.items() if name in heard) for name in self.sources}

    @functools.cached_property
    def on_images(self) -> frozenset[str]:
        """Inputs, and relays that hear nothing but inputs: no neurons lie before them."""
        found = set(self.inputs)
        for name in self.relays:
            if found.issuperset(self.sources[name]):
                found.add(name)
        return frozenset(found)

    def pool_behind(self, name: str) -> str | None:
        """The max pooling that listens to the spikes of a layer as they are, and with nothing beside it; or None."""
        listeners = self.listeners[name]
        return listeners[0] if len(listeners) == 1 and self.pools_directly(listeners[0]) else None

    def pools_directly(self, name: str) -> bool:
        """Whether it is a max pooling that changes nothing of what it hears first."""
        cell = self.cells.get(name)
        return isinstance(cell, MaxPoolCell) and not cell.synapse_layers

    def packed(self, outputs: dict[str, Any]) -> Any:
        """Values by read-out in the structure of the network's output."""
        return keras.tree.map_structure(outputs.__getitem__, self.outputs)
