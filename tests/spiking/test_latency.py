"""Latency and early exit, by hand and on a network that settles at known steps."""

import math

import keras
import numpy as np
import pytest
from keras import layers as kl

import conversion
from conversion import snn_early_exit
from spiking import rate
from spiking.analysis.latency import EarlyExit, early_exit, exit_steps, latency
from spiking.network.inputs import ConstantCurrent
from spiking.network.layers import SpikingRNN
from spiking.network.model import connect


def test_latency_is_the_step_from_which_accuracy_stays():
    accuracies = [0.1, 0.97, 0.9, 0.97, 0.975, 0.98]
    assert latency(accuracies, 0.98, points=1) == 4  # 0.97 is within, and stays from step 4 on
    assert latency(accuracies, 0.98, points=0.5) == 5
    assert latency(accuracies, 0.98, points=0) == 6
    assert latency(accuracies, 0.99, points=0.5) is None
    assert latency([0.99, 1.0], 0.98) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([10, 97], 0.98), r"shares in \[0, 1\].*Received: accuracy_per_timestep from 10 to 97"),
        (([0.1, 0.9], 98), "Received: ann_accuracy from 98 to 98"),
        (([0.1, 0.9], 0.98, -1), "Received: points=-1"),
    ],
)
def test_latency_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        latency(*arguments)


def test_exit_steps_by_hand():
    # Leads of sample 0: 0.25, 0.5, 0.25, 1; of sample 1: 0, 0, 0.25, 0.25.
    readouts = np.array(
        [
            [[0, 0.25, 0], [0, 0, 0]],
            [[1, 0.5, 0], [1, 0, 1]],
            [[1, 0.75, 0], [0.25, 0.5, 0]],
            [[2, 1, 1], [0, 0.5, 0.25]],
        ]
    )
    steps = exit_steps(readouts, np.array([0.25, 0.5, 1, math.inf]))
    assert steps.tolist() == [[0, 2], [1, 3], [3, 3], [3, 3]]


@pytest.fixture(scope="module")
def snn():
    """Two inputs, passed to two classes by two neurons (θ = 1) in 4 steps: scores are counts / t."""

    def same():
        layer = kl.Dense(2, use_bias=False, kernel_initializer="identity")
        layer.build((None, 2))
        return layer

    layers = {
        "input_spikes": ConstantCurrent(4, name="input_spikes"),
        "hidden": SpikingRNN(rate.LifNeuronCell([same()], bias=None), name="hidden"),
        "scores": SpikingRNN(rate.IntegratorNeuronCell([same()], bias=None), return_sequences=False, name="scores"),
    }
    wiring = {"input_spikes": ["images"], "hidden": ["input_spikes"], "scores": ["hidden"]}
    inputs = keras.Input((2,), name="images")
    return connect(inputs, layers, wiring, "scores", encoding=rate.ENCODING.configured(4), scales={"hidden": 1.0})


# Spikes at steps: (1, 0): 1 2 3 4 | –. (0.25, 0.5): 4 | 2 4. (0.5, 1): 2 4 | 1 2 3 4.
IMAGES = np.array([[1, 0], [0.25, 0.5], [0.5, 1]], np.float32)
LABELS = np.array([0, 1, 0])


def test_early_exit_by_hand(snn):
    # Leads: image 0: 1 1 1 1. Image 1: 0, 1/2, 1/3, 1/4. Image 2: 1, 1/2, 2/3, 1/2. Image 2 is classed wrongly.
    half, most, never = snn_early_exit(snn, IMAGES, LABELS, margins=[0.5, 0.75, math.inf], batch_size=2)
    assert half == EarlyExit(0.5, 2 / 3, (1 + 2 + 1) / 3, 1.0)
    assert most == EarlyExit(0.75, 2 / 3, (1 + 4 + 1) / 3, 2 / 3)
    assert never == EarlyExit(math.inf, 2 / 3, 4.0, 0.0)
    assert snn_early_exit(snn, IMAGES, LABELS, margins=0.5) == half


def test_a_wrong_early_answer_counts(snn):
    # The class counts that led when the margin was reached, not the first one (argmax of a tie).
    images = np.array([[0.5, 0.75]], np.float32)  # spikes at 2 4 | 2 3 4: leads 0 0 1/3 1/4
    assert snn_early_exit(snn, images, np.array([1]), margins=0.3) == EarlyExit(0.3, 1.0, 3.0, 1.0)
    assert snn_early_exit(snn, images, np.array([0]), margins=0.3) == EarlyExit(0.3, 0.0, 3.0, 1.0)


@pytest.mark.parametrize("margins", [0, -1, [0.5, 0], [], math.nan, [[0.5]]])
def test_margins_are_positive(snn, margins):
    with pytest.raises(ValueError, match="A margin is the lead.*Received: margins="):
        snn_early_exit(snn, IMAGES, LABELS, margins=margins)


def test_no_image_is_an_error(snn):
    with pytest.raises(ValueError, match="at least one image"):
        early_exit(snn, [], 0.5)


def test_an_early_exit_is_for_classes(snn):
    one = conversion.convert_ann_to_snn(keras.Sequential([keras.Input((2,)), kl.Dense(1)]), IMAGES, timesteps=2)
    with pytest.raises(ValueError, match=r"two best classes.*output 'dense\w*' of shape \(1,\)"):
        snn_early_exit(one, IMAGES, LABELS)
    ann = keras.Sequential([keras.Input((3, 2)), kl.Dense(2)])
    maps = conversion.convert_ann_to_snn(ann, IMAGES[None], timesteps=2)
    with pytest.raises(ValueError, match=r"two best classes.*of shape \(3, 2\)"):
        snn_early_exit(maps, IMAGES[None], LABELS[None])
    with pytest.raises(ValueError, match="right or wrong about a class.*float64"):
        snn_early_exit(snn, IMAGES, IMAGES)
