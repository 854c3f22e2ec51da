"""
Every figure of the toolbox, from small runs
============================================

Trains LeNet-5 with max pooling on the digits that come with the package, converts it with every encoding, looks at
what the networks do, and draws each figure of `plotting.py` from it:

    python examples/gallery.py                     # into docs/pictures/gallery
    python examples/gallery.py --to gallery

It takes some minutes on two cores. docs/gallery.md shows the figures. What is measured on so few images shows what a
figure looks like, no more.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the path and TensorFlow's log level come first

import conversion  # noqa: E402
import plotting  # noqa: E402
import spiking  # noqa: E402
from ann_training import Training, load_dataset, train_network_lenet5_maxpool  # noqa: E402
from spiking.analysis.operations import fan_outs  # noqa: E402
from spiking.runs import summaries  # noqa: E402

EPOCHS = 2
SEEDS = (0, 1)
SHOWN = ("rate", "ttfs_exact")  # whose spikes are drawn: many, and one at most
BETA = 0.1  # threshold of the clamped ReLU
IMAGES = 200  # of the test set
FEW = 20  # where the spikes of all neurons are kept


class Run:
    """One ANN, converted with one encoding, and what was measured.

    Args:
        data: the data set.
        encoding: name of the temporal code.
        seed: of the training.
        share: of the code's own number of time steps.
    """

    def __init__(self, data, encoding: str, seed: int = 0, share: float = 1.0):
        code = spiking.get_encoding(encoding)
        activation = code.hidden_activation(BETA)
        settings = Training(EPOCHS, seed=seed, activation=activation, ann_cache_dir=ROOT / "experiments" / "anns")
        images, labels = data.x_test[:IMAGES], data.y_test[:IMAGES]
        self.encoding = encoding
        self.ann = train_network_lenet5_maxpool(settings, data.train, data.test)
        self.ann_accuracy = conversion.ann_accuracy(self.ann, images, labels)
        timesteps = round(share * code.timesteps)
        self.snn = conversion.convert_ann_to_snn(self.ann, data.x_train[:500], encoding, timesteps)
        self.analysis = conversion.snn_activation_analysis(self.snn, images, labels)


def operations_per_timestep(snn, images) -> np.ndarray:
    """Synaptic operations per image up to and including each time step."""
    reached = fan_outs(snn.plan, coded=False)
    per_step = np.zeros(snn.timesteps)
    for name, raster in snn.simulate(images, "rasters").rasters.items():
        per_step += np.tensordot(raster.numpy().mean(axis=1), reached[name], reached[name].ndim)
    return np.cumsum(per_step)


def figures_of(run: Run, images: np.ndarray):
    """Yields (name, figure) of one encoding."""
    snn, title = run.snn, run.encoding
    neurons = [layer.name for layer in snn.hidden_layers if layer.cell.holds_neurons]
    rasters = summaries.rasters(snn, images[0])
    yield "raster", plotting.plot_spikes_as_eventplot(rasters, title=f"{title}: spikes, one image")
    busiest = {name: np.argsort(-raster.reshape(len(raster), -1).sum(axis=0))[:6] for name, raster in rasters.items()}
    yield "raster_of_chosen_neurons", plotting.plot_spikes_as_eventplot(
        rasters, layers=neurons[-2:], neurons={name: busiest[name] for name in neurons[-2:]},
        title=f"{title}: the busiest neurons, one image",
    )  # fmt: skip
    yield "who_spiked_when", plotting.who_spiked_when(rasters, title=f"{title}: every spike, one image")
    yield "intensity", plotting.spiking_intensity_per_timestep(rasters, title=f"{title}: who spikes, one image")
    yield "total_spikes", plotting.total_spikes(rasters, title=f"{title}: spikes so far, one image")

    simulation = snn.simulate(images, ("spike_counts", "first_spike_times"))
    counts = {name: simulation.spike_counts[name].numpy() for name in neurons}
    times = {name: simulation.first_spike_times[name].numpy() for name in neurons}
    over = f"{len(images)} images"
    yield "spikes_per_layer", plotting.total_spikes_per_layer(counts, title=f"{title}: spikes of each layer, {over}")
    yield "spike_counts", plotting.spike_counts_per_layer(counts, title=f"{title}: spikes of a neuron, {over}")
    yield "spike_times", plotting.first_spike_times_per_layer(
        times, timesteps=snn.timesteps, title=f"{title}: first spikes, {over}"
    )
    yield "image_and_spike_times", plotting.image_and_spike_times(
        images[0], times[neurons[0]][0], title=f"{title}: an image and the first spikes of {neurons[0]}"
    )
    activities = conversion.ann_and_snn_activations_per_layer(run.ann, snn, images)
    yield "correlation", plotting.ann_snn_correlation(activities, title=f"{title}: activity of ANN and SNN, {over}")


def figures_of_all(runs: list[Run], shorter: list[Run], images: np.ndarray):
    """Yields (name, figure) of what compares encodings, or repetitions.

    Args:
        runs: of all encodings, for each seed.
        shorter: of all encodings, with fewer time steps.
        images: a few.
    """
    first = runs[: len(spiking.ENCODINGS)]
    anns = {run.ann_accuracy: run.encoding for run in reversed(first)}  # a line for each that differs
    references = {encoding: accuracy for accuracy, encoding in anns.items()} if len(anns) > 1 else first[0].ann_accuracy
    curves = {run.encoding: run.analysis.accuracy_per_timestep for run in first}
    yield "accuracy_per_timestep", plotting.accuracy_per_timestep(
        curves, references, title=f"Accuracy on {IMAGES} test images"
    )
    yield "accuracy_per_operations", plotting.accuracy_per_operations(
        {run.encoding: (operations_per_timestep(run.snn, images), curves[run.encoding]) for run in first},
        first[0].ann_accuracy, first[0].analysis.ann_macs, title=f"Accuracy on {IMAGES} test images against its cost",
    )  # fmt: skip
    trials = runs + shorter
    yield "pareto_front", plotting.pareto_front(
        [run.analysis.accuracy for run in trials], [run.analysis.timesteps for run in trials],
        [run.analysis.synaptic_operations for run in trials], [run.encoding for run in trials],
        title="What no other configuration beats", energy=[1e6 * run.analysis.snn_energy for run in trials],
    )  # fmt: skip
    in_ann, in_snn = summaries.weights_per_layer(first[0].ann, first[0].snn)
    yield "weights_ann", plotting.weight_distributions(in_ann, title="Weights of the ANN")
    yield "weights_snn", plotting.weight_distributions(in_snn, title=f"Weights of the SNN, {first[0].encoding}")
    repeated = {name: [run.analysis for run in runs if run.encoding == name] for name in spiking.ENCODINGS}
    yield "repeated_box_plot", plotting.repeated_box_plot(
        {name: [100 * each.accuracy for each in analyses] for name, analyses in repeated.items()}, "accuracy / %",
        title="Accuracy over trainings",
    )  # fmt: skip
    end = min(run.analysis.timesteps for run in runs)
    yield "repeated_curves", plotting.repeated_curves(
        np.arange(1, end + 1),
        {name: [100 * each.accuracy_per_timestep[:end] for each in analyses] for name, analyses in repeated.items()},
        "time step", "accuracy / %", band="minmax", title="Accuracy over trainings, against time",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "pictures" / "gallery", metavar="DIR")
    folder = parser.parse_args().to
    data = load_dataset("mnist_sample")
    runs = [Run(data, encoding, seed) for seed in SEEDS for encoding in spiking.ENCODINGS]
    shorter = [Run(data, encoding, share=0.75) for encoding in spiking.ENCODINGS]
    few = data.x_test[:FEW]
    for name, figure in figures_of_all(runs, shorter, few):
        print(plotting.save(figure, folder / f"{name}.png"))
    for run in (run for run in runs[: len(spiking.ENCODINGS)] if run.encoding in SHOWN):
        for name, figure in figures_of(run, few):
            print(plotting.save(figure, folder / run.encoding / f"{name}.png"))


if __name__ == "__main__":
    main()
