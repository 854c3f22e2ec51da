"""Energies: published figures, by hand, and what stands beside them."""

import math

import keras
import numpy as np
import pytest

from conversion import convert_ann_to_snn, snn_activation_analysis
from spiking.analysis.energy import HARDWARE, assumptions

IMAGES = np.random.default_rng(0).uniform(0.1, 1, (5, 6)).astype("float32")

# Picojoule, as printed: MAC = multiplication + addition.
PRINTED = {
    "45nm_float32": (3.7 + 0.9, 0.9, 0.9), "45nm_float16": (1.1 + 0.4, 0.4, 0.4), "45nm_int32": (3.1 + 0.1, 0.1, 0.1),
    "45nm_int8": (0.2 + 0.03, 0.03, 0.03), "7nm_float32": (1.31 + 0.38, 0.38, 0.38),
    "7nm_int8": (0.07 + 0.007, 0.007, 0.007), "loihi": (23.6, 23.6, 81.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def snn():
    ann = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(3)])
    return convert_ann_to_snn(ann, IMAGES, "rate", 8)


def test_every_row_is_as_printed():
    assert set(HARDWARE) == set(PRINTED)
    for name, (mac, addition, update) in PRINTED.items():
        row = HARDWARE[name]
        assert np.allclose([row.mac, row.add, row.update], np.array([mac, addition, update]) * 1e-12, rtol=1e-12)
        assert row.source and row.summary


@pytest.mark.parametrize("hardware", ["45nm_float32", "loihi"])
@pytest.mark.parametrize("updates", [False, True])
def test_energy_is_operations_times_figures(snn, hardware, updates):
    found = snn_activation_analysis(snn, IMAGES, hardware=hardware, neuron_updates=updates)
    mac, addition, update = PRINTED[hardware]
    # 8 neurons, 8 steps; the current of 6 pixels that are not 0, through 5 kernels' rows, once.
    picojoule = 30 * mac + found.synaptic_operations * addition + (64 * update if updates else 0)
    assert math.isclose(found.snn_energy, picojoule * 1e-12, rel_tol=1e-9)
    assert math.isclose(found.ann_energy, (30 + 15) * mac * 1e-12, rel_tol=1e-9)
    assert (found.hardware, found.updates_counted) == (hardware, updates)
    assert str(found).endswith(assumptions(hardware, updates))


def test_what_stands_beside_an_energy():
    assert assumptions("45nm_float32", False).startswith(
        "Energy on 45nm_float32 (45 nm, 32-bit floating point): 4.6 pJ per MAC, 0.9 pJ per addition, neuron updates "
        "left out, memory access left out. Horowitz 2014"
    )
    assert "neuron updates at 81 pJ included, memory access not told by the source" in assumptions("loihi", True)


def test_unknown_hardware_is_refused_before_any_work(snn):
    with pytest.raises(ValueError, match="hardware must be one of .*'45nm_float32'.*Received: hardware='gpu'"):
        snn_activation_analysis(snn, IMAGES, hardware="gpu")
