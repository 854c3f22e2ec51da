"""The command line of an experiment: what it takes, and in which types."""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from spiking.analysis.energy import DEFAULT, HARDWARE
from spiking.registry import ENCODINGS, get_encoding
from spiking.scaling.calibration import METHODS
from spiking.scaling.correction import CHOICES

__all__ = ["argument_parser", "number", "typed_options"]


def number(text: str):
    """A number of the command line; what is none goes on as it is, for the experiment to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def typed_options(pairs: Sequence[str], encodings: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` of the command line, each value of the type of the option's default.

    Raises:
        ValueError: it is no pair, or no value of that type.
    """
    defaults = {}
    for encoding in reversed(encodings):
        defaults |= get_encoding(encoding).options
    found = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        default = defaults.get(name)  # what no encoding knows, the experiment refuses
        read = {bool: {"true": True, "false": False}.__getitem__, int: int, float: float, str: str}
        try:
            found[name] = read.get(type(default), number)(text)
        except (KeyError, ValueError):
            sign = ""
        if not sign:
            raise ValueError(
                f"--option takes NAME=VALUE, the value like the default, which is {default!r} here. Received: "
                f"{pair!r}. A text is written without quotation marks, yes and no as true and false."
            )
    return found


def argument_parser(networks: Iterable[str], datasets: Iterable[str], default: str) -> argparse.ArgumentParser:
    """The command line. Its arguments are named after those of `Experiment`.

    Args:
        networks, datasets: the names that are known; the first network named `default` is taken.
    """
    parser = argparse.ArgumentParser(
        prog="experiment",
        description="Trains a network, converts it into spiking networks, and compares them.",
        argument_default=argparse.SUPPRESS,  # what is not given, Experiment decides
    )
    add = parser.add_argument
    codes = "; ".join(f"{code.name}: {code.summary}" for code in ENCODINGS.values())
    options = "; ".join(
        f"{code.name}: {', '.join(f'{name}={value}' for name, value in code.options.items())}"
        for code in ENCODINGS.values()
    )
    network = {"dest": "training_function", "metavar": "NAME", "default": default}
    add("--network", **network, help=f"{', '.join(networks)} (default: {default})")
    sources = f"{', '.join(datasets)}, or the path of an .npz file (default: mnist_sample)"
    add("--dataset", metavar="NAME", default="mnist_sample", help=sources)
    add("--encoding", nargs="+", metavar="NAME", default=list(ENCODINGS), help=f"{codes} (default: all)")
    add("--timesteps", type=number, metavar="T", help="number of time steps (default: the encoding's own)")
    add("--model", metavar="PATH", help="a trained network, as Keras saved it, in place of training one")
    add("--epochs", type=number, metavar="N", help="of the ANN's training (default: 10)")
    percentile = "of the activations, becomes full activity (default: the encoding's own)"
    add("--norm-percentile", type=number, metavar="P", help=percentile)
    add("--normalisation", metavar="NAME", help=f"its choice: {', '.join(METHODS)} (default: the encoding's own)")
    channel = "per channel, or per layer (default: the encoding's own)"
    add("--per-channel", action=argparse.BooleanOptionalAction, help=channel)
    add("--correction", metavar="NAME", help=f"of what rounds: {', '.join(CHOICES)} (default: the encoding's own)")
    add("--training-levels", type=number, metavar="L", help="train with activations of L levels, for what rounds")
    add("--activation", metavar="NAME", help="of the ANN's hidden layers (default: relu)")
    add("--threshold", type=number, metavar="V", help="firing threshold (default: the encoding's own)")
    add("--tau", type=number, metavar="STEPS", help="time constant of the leak (default: the encoding's own)")
    rate = "of Poisson input, spikes per step at full intensity (default: the encoding's own)"
    add("--max-rate", type=number, metavar="P", help=rate)
    more = f"a further setting of the encodings, may be given several times. Defaults: {options}"
    add("--option", dest="options", action="append", metavar="NAME=VALUE", default=[], help=more)
    add("--beta", type=number, metavar="X", help="threshold of the clamped ReLU (default: 0.1)")
    add("--max-images", type=number, metavar="N", help="evaluate on the first N images (default: all)")
    add("--seed", type=number, metavar="N", help="of everything random (default: 0)")
    add("--name", metavar="RUN", help="of the run's folder (default: network, data set and time)")
    add("--hardware", metavar="NAME", help=f"whose energies are told: {', '.join(HARDWARE)} (default: {DEFAULT})")
    updates = "count the updates of neurons in the SNN's energy, too (default: MACs and additions alone)"
    add("--neuron-updates", action=argparse.BooleanOptionalAction, help=updates)
    devices = "share each batch among N GPUs or, if there are fewer, N logical CPU devices (default: 1)"
    add("--devices", type=number, metavar="N", default=1, help=devices)
    add("--data-dir", metavar="DIR", help="folder that is searched first for the data set")
    add("--results-dir", metavar="DIR", help="where the run's folder goes (default: experiments)")
    add("--tblogs-dir", metavar="DIR", help="where the TensorBoard log goes (default: tblogs)")
    add("--force-training", action="store_true", help="train even if the same ANN has been trained before")
    runs = "train nothing: compare all runs in --results-dir, as a table, comparison.csv and index.html there"
    add("--compare", action="store_true", default=False, help=runs)
    slow = "evaluate on the training images, too, which takes long (default: on the test images alone)"
    add("--training-accuracy", action="store_true", default=False, help=slow)
    return parser
