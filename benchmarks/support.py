"""Which layers, joins and activations each code carries, found by reading one small network for each.

    python benchmarks/support.py              # prints the table
    python benchmarks/support.py --write      # and puts it into README.md; some seconds
    python benchmarks/support.py --convert    # converts each network with each code, too; a minute

A network is an input, a ReLU layer, what is tried, ReLU neurons behind what has none, and a read-out. It counts as
carried if reading it, which refuses all that conversion refuses, leaves neurons that the code carries. What has the
same answer under every code shares a row. `tests/test_docs.py` holds the README's table against this one.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import numpy as np  # noqa: E402
from keras import layers as kl  # noqa: E402

import spiking  # noqa: E402
from conversion import ConversionError, convert_ann_to_snn, read  # noqa: E402
from spiking.folding.converters import AUGMENTATION, CONVERTERS  # noqa: E402
from spiking.quantisation import QuantisedActivation, QuantisedReLU  # noqa: E402

SIZE, CHANNELS = 6, 2
TIMESTEPS = 8
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- made by benchmarks/support.py -->\n).*?(<!-- end -->)", re.S)
CARRIED, REFUSED = "✓", "–"

# What the layers need to be made; those left out need nothing.
KERNEL = {"filters": 3, "kernel_size": 3}
ARGUMENTS = {
    "Dense": {"units": 3}, "DepthwiseConv1D": {"kernel_size": 3}, "DepthwiseConv2D": {"kernel_size": 3},
    "Reshape": {"target_shape": (-1, 4)}, "Permute": {"dims": (2, 1, 3)}, "RepeatVector": {"n": 2},
    "Resizing": {"height": 4, "width": 5}, "CenterCrop": {"height": 4, "width": 4}, "Rescaling": {"scale": 0.5},
    "Normalization": {"mean": 0.2, "variance": 0.5},
    "Dropout": {"rate": 0.5}, "AlphaDropout": {"rate": 0.5},
    "GroupNormalization": {"groups": 2}, "GaussianDropout": {"rate": 0.5}, "GaussianNoise": {"stddev": 0.1},
}  # fmt: skip
ARGUMENTS |= {name: KERNEL for rank in (1, 2, 3) for name in (f"Conv{rank}D", f"Conv{rank}DTranspose")}
ARGUMENTS |= {f"SeparableConv{rank}D": KERNEL for rank in (1, 2)}
ARGUMENTS |= {f"{kind}Pooling{rank}D": {"pool_size": 2} for kind in ("Max", "Average") for rank in (1, 2, 3)}
ARGUMENTS |= {f"SpatialDropout{rank}D": {"rate": 0.5} for rank in (1, 2, 3)}

JOINS = (kl.Add, kl.Subtract, kl.Average, kl.Concatenate, kl.Multiply, kl.Maximum, kl.Minimum, kl.Dot)
ACTIVATIONS = (kl.Activation, kl.ReLU, kl.LeakyReLU, kl.PReLU, kl.ELU, kl.Softmax)  # have rows of their own
ALSO = (kl.LayerNormalization, kl.GroupNormalization, kl.UnitNormalization)  # tried, though no converter is there
# Layers of neurons, with the arguments that have a say.
NEURONS = {
    "ReLU": kl.ReLU, "ReLU(max_value=…)": lambda: kl.ReLU(max_value=1.0), "QuantisedReLU": lambda: QuantisedReLU(4),
    "ReLU(threshold=…)": lambda: kl.ReLU(threshold=0.1), "ReLU(negative_slope=…)": lambda: kl.ReLU(negative_slope=0.1),
    'QuantisedActivation("tanh")': lambda: QuantisedActivation("tanh", 4), "LeakyReLU": kl.LeakyReLU,
    "PReLU": kl.PReLU, "ELU": kl.ELU,
}  # fmt: skip
# Functions of Keras that act on each value, by their names.
ELEMENTWISE = sorted(
    name
    for name, function in vars(keras.activations).items()
    if callable(function) and name.islower() and name not in ("get", "serialize", "deserialize")
)


def rank_of(layer: type) -> int:
    """Positions' axes of what the layer is tried on."""
    found = re.search(r"([123])D", layer.__name__)
    if layer is kl.RepeatVector:
        return 0
    return int(found[1]) if found else 2


def network(end: Callable, rank: int = 2) -> keras.Model:
    """An image, a ReLU layer with what `end` puts behind it, and a read-out."""
    image = keras.Input((SIZE,) * rank + (CHANNELS,))
    hidden = kl.Dense(4, activation="relu")
    x = end(hidden(image))
    x = kl.Flatten()(x) if len(x.shape) > 2 else x
    return keras.Model(image, kl.Dense(2)(x))


def with_layer(layer: type) -> keras.Model:
    """The layer with a ReLU behind it."""
    made = layer(**ARGUMENTS.get(layer.__name__, {}))
    return network(lambda x: kl.ReLU()(made(x)), rank_of(layer))


def with_join(layer: type) -> keras.Model:
    """The joins of a value and another one made of it."""
    made = layer(axes=-1) if layer is kl.Dot else layer()
    return network(lambda x: kl.ReLU()(made([x, kl.Dense(4, activation="relu")(x)])))


def answers(ann: keras.Model) -> tuple[bool, ...]:
    """Whether each code carries the network."""
    try:
        graph = read(ann)
    except ConversionError:
        return (False,) * len(spiking.ENCODINGS)
    activations = [node.activation for node in graph.neurons.values()]
    return tuple(all(map(code.carries, activations)) for code in spiking.ENCODINGS.values())


def converted(ann: keras.Model) -> tuple[bool, ...]:
    """Whether each code converts the network: the same, the long way."""

    def converts(code: str) -> bool:
        try:
            convert_ann_to_snn(ann, images, code, TIMESTEPS)
        except ConversionError:
            return False
        return True

    images = np.random.default_rng(0).uniform(0, 1, (8, *ann.input_shape[1:])).astype(np.float32)
    return tuple(map(converts, spiking.ENCODINGS))


def short(names: Iterable[str]) -> str:
    """The names; what differs by its dimensions alone once: Conv1D, Conv2D, Conv3D are Conv1D to 3D."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub("[123]D", "#", name), []).append(name)
    return ", ".join(f"{each[0]} to {re.search('[23]D', each[-1])[0]}" if len(each) > 1 else each[0]
                     for each in alike.values())  # fmt: skip


def rows(ask: Callable, names: Iterable[str], networks: Iterable[keras.Model]) -> dict[tuple[bool, ...], list[str]]:
    """Answer of each code -> what has it."""
    found: dict[tuple[bool, ...], list[str]] = {}
    for name, ann in zip(names, networks, strict=True):
        found.setdefault(ask(ann), []).append(name)
    return found


def table(ask: Callable = answers) -> str:
    """The table, in Markdown."""
    plain = [layer for layer in CONVERTERS if layer not in (*JOINS, *AUGMENTATION, *ACTIVATIONS)]
    plain = [layer for layer in plain if getattr(kl, layer.__name__, None) is layer] + list(ALSO)
    groups = {
        "layers": rows(ask, [layer.__name__ for layer in plain], map(with_layer, plain)),
        "joins": rows(ask, [layer.__name__ for layer in JOINS], map(with_join, JOINS)),
        "activation layers": rows(ask, NEURONS, (network(layer()) for layer in NEURONS.values())),
        "activations": rows(ask, ELEMENTWISE, (network(kl.Activation(name)) for name in ELEMENTWISE)),
    }
    codes = " | ".join(f"`{code}`" for code in spiking.ENCODINGS)
    lines = [f"| | | {codes} |", "| --- | --- |" + " :-: |" * len(spiking.ENCODINGS)]
    for group, found in groups.items():
        for carried, names in sorted(found.items(), reverse=True):
            marks = " | ".join(CARRIED if each else REFUSED for each in carried)
            lines.append(f"| {group} | {short(names)} | {marks} |")
    return "\n".join(lines) + "\n"


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--convert", action="store_true", help="convert each network with each code, too")
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # that a clamped ReLU is missing
    found = table()
    print(found)
    if given.convert and table(converted) != found:
        sys.exit("Conversion says something else:\n" + table(converted))
    if given.write:
        text = README.read_text(encoding="utf-8")
        README.write_text(BLOCK.sub(lambda block: block[1] + found + block[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
