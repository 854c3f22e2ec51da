"""What operations cost on some hardware: a table of published figures, each with its source.

They are figures of arithmetic. What memory costs depends on where weights and states lie; a read of 64 bits stands
beside, and is in no energy: it exceeds the arithmetic on most hardware. docs/guides/energy.md says what each row was
checked against.
"""

from dataclasses import dataclass

from spiking.checks import check_choice

HOROWITZ = "Horowitz 2014, Computing's energy problem (and what we can do about it), ISSCC, fig. 1.1.9"
JOUPPI = "Jouppi et al. 2021, Ten lessons from three generations shaped Google's TPUv4i, ISCA, table 2"
LOIHI = "Davies et al. 2018, Loihi: a neuromorphic manycore processor with on-chip learning, IEEE Micro 38(1), table 2"


@dataclass(frozen=True)
class Hardware:
    """What one operation costs.

    Attributes:
        summary: what it is, in a few words.
        multiply, add: joule of one multiplication and of one addition; a MAC is both, a spike at a synapse (AC) is an
            addition.
        update: joule of the update of one neuron in one time step; on arithmetic units one addition.
        read: joule of a read of 64 bits from a memory of 32 KB; None where the source tells of no memory.
        source: of the figures.
    """

    summary: str
    multiply: float
    add: float
    update: float
    read: float | None
    source: str

    @property
    def mac(self) -> float:
        """Joule of one multiply-accumulate."""
        return self.multiply + self.add

    def energy(self, macs: float, additions: float = 0.0, updates: float = 0.0) -> float:
        """Joule of so many operations."""
        return self.mac * macs + self.add * additions + self.update * updates


def _arithmetic(summary: str, multiply: float, add: float, read: float, source: str) -> Hardware:
    """A row in picojoule; a neuron's update is an addition."""
    return Hardware(summary, multiply * 1e-12, add * 1e-12, add * 1e-12, read * 1e-12, source)


# Loihi's are simulations ahead of the silicon, a synaptic operation's the least that one takes; whether the read of its
# weight is in it, the table does not tell. An analog input's MAC is counted as one too, which no Loihi does (a host
# would).
HARDWARE: dict[str, Hardware] = {
    "45nm_float32": _arithmetic("45 nm, 32-bit floating point", 3.7, 0.9, 20.0, HOROWITZ),
    "45nm_float16": _arithmetic("45 nm, 16-bit floating point", 1.1, 0.4, 20.0, HOROWITZ),
    "45nm_int32": _arithmetic("45 nm, 32-bit integers", 3.1, 0.1, 20.0, HOROWITZ),
    "45nm_int8": _arithmetic("45 nm, 8-bit integers", 0.2, 0.03, 20.0, HOROWITZ),
    "7nm_float32": _arithmetic("7 nm, 32-bit floating point", 1.31, 0.38, 8.5, JOUPPI),
    "7nm_int8": _arithmetic("7 nm, 8-bit integers", 0.07, 0.007, 8.5, JOUPPI),
    "loihi": Hardware("Intel Loihi, 14 nm, simulated, at the least", 0.0, 23.6e-12, 81e-12, None, LOIHI),
}
DEFAULT = "45nm_float32"


def hardware_of(name: str) -> Hardware:
    """The row of a name.

    Raises:
        ValueError: there is none.
    """
    return HARDWARE[check_choice("hardware", name, tuple(HARDWARE))]


def assumptions(hardware: str, neuron_updates: bool) -> str:
    """One sentence that belongs beside every energy."""
    row = hardware_of(hardware)
    updates = f"neuron updates at {row.update * 1e12:g} pJ included" if neuron_updates else "neuron updates left out"
    memory = "memory access not told by the source" if row.read is None else "memory access left out"
    return (
        f"Energy on {hardware} ({row.summary}): {row.mac * 1e12:.4g} pJ per MAC, {row.add * 1e12:g} pJ per addition, "
        f"{updates}, {memory}. {row.source}."
    )
