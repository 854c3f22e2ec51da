"""
What spikes stand for, code by code
===================================

Converts a layer of five ReLU neurons with every code, each neuron with an activation of its own, and draws the spikes:

    python examples/codes.py                       # docs/pictures/codes.png
    python examples/codes.py --to codes.png

It takes a few seconds.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

import plotting  # noqa: E402
import spiking  # noqa: E402
from conversion import convert_ann_to_snn  # noqa: E402

ACTIVATIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
MOST_STEPS = 16  # of one window, so that single steps are seen; codes that need fewer keep theirs


def layer_of_neurons() -> keras.Model:
    """As many ReLU neurons as activations, each with one input of weight 1, and a read-out that adds them."""
    count = len(ACTIVATIONS)
    neurons = keras.layers.Dense(count, activation="relu", kernel_initializer="identity", name="neurons")
    return keras.Sequential([keras.Input((count,)), neurons, keras.layers.Dense(1, kernel_initializer="ones")])


def draw() -> Figure:
    """One panel a code: its spikes over time, a row for each neuron, windows in turns of white and grey."""
    ann, calibration = layer_of_neurons(), np.ones((1, len(ACTIVATIONS)), np.float32)
    figure = Figure(figsize=(9, 1.5 * len(spiking.ENCODINGS)), layout="constrained")
    panels = figure.subplots(len(spiking.ENCODINGS), squeeze=False)[:, 0]
    for axes, (name, code) in zip(panels, spiking.ENCODINGS.items(), strict=True):
        steps = min(code.timesteps, MOST_STEPS)
        snn = convert_ann_to_snn(ann, calibration, name, steps, normalisation="max")
        images = np.array([ACTIVATIONS], np.float32)
        raster = snn.simulate(images, record="rasters").rasters["neurons"].numpy()[:, 0]
        times = [np.flatnonzero(spikes) + 1 for spikes in raster.T]
        axes.eventplot(times, linelengths=0.7, linewidths=2, colors="tab:blue")
        if snn.timesteps > steps:
            axes.axvspan(steps + 0.5, snn.timesteps + 0.5, color="0.9", zorder=0)
        axes.set(title=name, xlim=(0.5, snn.timesteps + 0.5), yticks=range(len(ACTIVATIONS)))
        axes.set_yticklabels(f"{activation:g}" for activation in ACTIVATIONS)
        axes.set_ylabel("activation")
    panels[-1].set_xlabel("time step")
    return figure


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "pictures" / "codes.png", help="the picture")
    path = parser.parse_args(arguments).to
    path.parent.mkdir(parents=True, exist_ok=True)
    print(plotting.save(draw(), path))


if __name__ == "__main__":
    main()
