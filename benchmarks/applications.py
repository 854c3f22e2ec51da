"""Every family of keras.applications: whether it converts, how exactly it is folded, and what the conversion costs.

    python benchmarks/applications.py                    # all; goes on where the last call was stopped
    python benchmarks/applications.py ResNet50 Xception  # these anew
    python benchmarks/applications.py --page             # writes the page from what there is

The networks have random weights (nothing is downloaded), and moving statistics of their BatchNormalization set from
images, without which the activations of deep networks vanish or explode. Each is measured in a process of its own: its
peak memory is that of the network, its statistics and its conversion. The folding error is the largest difference
between folded network and ANN relative to the ANN's largest logit.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "docs" / "applications.jsonl"
PAGE = ROOT / "docs" / "APPLICATIONS.md"
IMAGES, CALIBRATION = 2, 8
STEPS = 64
MINIMALISTIC = {"minimalistic": True}
# Network -> edge of its images, as small as the family allows, and what its function is given.
FAMILIES = {
    "VGG16": (64, {}), "VGG19": (64, {}), "MobileNet": (64, {}), "MobileNetV2": (64, {}), "ResNet50": (224, {}),
    "ResNet50V2": (96, {}), "DenseNet121": (64, {}), "InceptionV3": (96, {}), "InceptionResNetV2": (96, {}),
    "Xception": (96, {}), "NASNetMobile": (224, {}), "MobileNetV3Small": (64, MINIMALISTIC),
    "MobileNetV3Large": (64, MINIMALISTIC), "EfficientNetB0": (64, {}), "EfficientNetV2B0": (64, {}),
    "ConvNeXtTiny": (64, {}),
}  # fmt: skip


def build(name: str):
    """(ANN, images): random weights, its batch normalisations' statistics those of images."""
    import keras
    import numpy as np

    size, keywords = FAMILIES[name]
    keras.utils.set_random_seed(0)
    ann = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=100, classifier_activation=None, **keywords
    )
    images = np.random.default_rng(0).uniform(-1, 1, (CALIBRATION, size, size, 3)).astype(np.float32)
    if any(isinstance(layer, keras.layers.Rescaling) for layer in ann.layers):  # it takes 0 to 255, and scales itself
        images = 127.5 * (images + 1)
    set_statistics(ann, images)
    return ann, images


def set_statistics(ann, images) -> None:
    """Sets mean and variance of every BatchNormalization to those of its inputs for the images, in one pass."""
    import keras

    normalizations = [layer for layer in ann.layers if isinstance(layer, keras.layers.BatchNormalization)]
    kept = [(layer, layer.momentum) for layer in normalizations]
    for layer in normalizations:
        layer.momentum = 0.0
    ann(images, training=True)
    for layer, momentum in kept:
        layer.momentum = momentum


def in_float64(ann):
    """The same network in float64."""
    import keras

    def double(layer):
        config = layer.get_config()
        return type(layer).from_config({**config, "dtype": "float64"})

    same = keras.models.clone_model(ann, clone_function=double)
    same.set_weights(ann.get_weights())
    return same


def register_scaled_sum() -> None:
    """A converter for the layer of InceptionResNetV2 that gives x + scale · y, as docs/EXTENDING.md shows."""
    from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

    from conversion import converts
    from spiking.folding.graph import Join

    @converts(CustomScaleLayer)
    def scaled_sum(layer, values):
        first, second = values
        return first.joined([second.scaled(layer.scale)], Join())


def measure(name: str) -> dict:
    """What is told of one network."""
    import numpy as np

    from conversion import ConversionError, convert_ann_to_snn, read

    register_scaled_sum()
    ann, images = build(name)
    found = {"network": name, "size": FAMILIES[name][0], **FAMILIES[name][1], "parameters": ann.count_params()}
    start = time.process_time()
    try:
        graph = read(ann)
    except ConversionError as refused:
        return {**found, "refused": str(refused)}
    found["read seconds"] = time.process_time() - start
    snn = convert_ann_to_snn(graph, images, "ttfs_exact", STEPS)
    found["seconds"] = time.process_time() - start
    found["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    inserted = [name for name in graph.neurons if name not in {layer.name for layer in ann.layers}]
    found |= {"layers": len(ann.layers), "neurons": len(graph.neurons), "relays": len(snn.plan.relays)}
    found["inserted"] = len(inserted)

    exact, few = in_float64(ann), images[:IMAGES]
    expected = {32: np.asarray(ann(few, training=False)), 64: np.asarray(exact(few.astype(np.float64), training=False))}
    found["float32"] = relative(graph.function()(few), expected[32])
    found["float64"] = relative(read(exact).function("float64")(few.astype(np.float64)), expected[64])
    found["rounding"] = relative(expected[32], expected[64])
    found["forward passes"] = forward_passes(ann, snn, images)
    return found


def relative(found, expected) -> float:
    """The largest difference, relative to the largest value."""
    import numpy as np

    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def forward_passes(ann, snn, images, repeats: int = 5) -> float:
    """Time of a simulation over that of the ANN's forward pass, medians of calls in turns."""
    import numpy as np
    import tensorflow as tf

    calls = [tf.function(lambda x: ann(x, training=False), autograph=False), tf.function(snn, autograph=False)]
    batch = tf.constant(images)
    seconds = np.zeros((repeats + 1, 2))
    for turn in range(repeats + 1):  # the first one traces
        for number, call in enumerate(calls):
            start = time.perf_counter()
            call(batch)
            seconds[turn, number] = time.perf_counter() - start
    forward, spiking = np.median(seconds[1:], axis=0)
    return float(spiking / forward)


def read_results() -> dict[str, dict]:
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    return {line["network"]: line for line in map(json.loads, lines)}


def page(found: dict[str, dict]) -> str:
    """The page, in Markdown."""
    columns = ("network", "image", "layers of neurons", "inserted", "relays", "folding, float32", "the ANN's own",
               "float64", "seconds", "peak / MiB", "forward passes")  # fmt: skip
    lines = [
        "# keras.applications", "",
        "Which families convert, made by `python benchmarks/applications.py`: random weights, BatchNormalization's",
        f"statistics set from {CALIBRATION} images, which calibrate, too; `ttfs_exact`, N = {STEPS}. Folding errors",
        "are relative to the ANN's largest logit; beside them what float32 does to the ANN itself. Seconds are CPU",
        "time of reading and conversion, memory is the peak of a process that builds the network and converts it, with",
        f"TensorFlow. Forward passes: a simulation of {CALIBRATION} images against the ANN's.", "",
        f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns),
    ]  # fmt: skip
    refused = [line for line in found.values() if "refused" in line]
    for line in found.values():
        if "refused" not in line:
            name = line["network"] + (" (minimalistic)" if line.get("minimalistic") else "")
            counts = [str(line[key]) for key in ("neurons", "inserted", "relays")]
            errors = [f"{line[key]:.1e}" for key in ("float32", "rounding", "float64")]
            costs = [f"{line['seconds']:.1f}", f"{line['mib']:.0f}", f"{line['forward passes']:.2f}"]
            lines.append(f"| {' | '.join([name, str(line['size']) + '²', *counts, *errors, *costs])} |")
    if missing := [name for name in FAMILIES if name not in found]:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", "## Refused", ""] if refused else []
    for line in refused:
        lines += [f"**{line['network']}**", "", "```", line["refused"], "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[[], *FAMILIES], metavar="NETWORK")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.measure:
        print("\n" + json.dumps(measure(chosen.measure)))
        return
    found = read_results()
    wanted = chosen.networks or [name for name in FAMILIES if name not in found]
    for name in [] if chosen.page else wanted:
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        done = subprocess.run([sys.executable, __file__, "--measure", name], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{name} failed, see above", flush=True)
            continue
        found = read_results() | {name: json.loads(done.stdout.splitlines()[-1])}
        ordered = {each: found[each] for each in FAMILIES if each in found}
        RESULTS.write_text("".join(json.dumps(line) + "\n" for line in ordered.values()), encoding="utf-8")
        PAGE.write_text(page(ordered), encoding="utf-8")
    if chosen.page:
        PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
