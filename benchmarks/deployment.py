"""Converted networks out of Keras: SavedModel, LiteRT and ONNX under the closed forms; sizes, seconds, differences.

    python benchmarks/deployment.py run --resnet FILE.keras      # a row of JSON for each network, code and format
    python benchmarks/deployment.py table                        # the rows as the table of docs/EXPORT.md

It needs the extras `litert` and `onnx`. Every way runs on one thread. The ways of a network take turns, on the same
images; a ratio is the median of the rounds' ratios. Seconds are those of the processor, not of the clock, which counts
what else the machine does, too. Rows go to docs/deployment.jsonl; what is there is not measured again.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", OMP_NUM_THREADS="1")

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "docs" / "deployment.jsonl"
CODES = {"ttfs_exact": 16, "radix": 4}  # -> time steps of a window: 16 and 15 levels
BATCH, ROUNDS, CALIBRATED, COMPARED = 50, 15, 1000, 200


class Exported(NamedTuple):
    """A file and how it is run.

    Attributes:
        size: bytes; of a folder, all in it.
        run: `images -> outputs`.
    """

    size: int
    run: Callable


def saved_model(model, folder: Path) -> Exported:
    import tensorflow as tf

    path = folder / "saved_model"
    model.export(path, format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(path)
    size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return Exported(size, lambda images: loaded.serve(images).numpy())


def litert(model, folder: Path) -> Exported:
    from ai_edge_litert.interpreter import Interpreter

    path = folder / "network.tflite"
    model.export(path, format="litert", verbose=False)
    interpreter = Interpreter(str(path), num_threads=1)
    (given,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], (BATCH, *given["shape"][1:]))
    interpreter.allocate_tensors()

    def run(images):
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return Exported(path.stat().st_size, run)


def onnx(model, folder: Path) -> Exported:
    import onnxruntime

    path = folder / "network.onnx"
    model.export(path, format="onnx", verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    name = session.get_inputs()[0].name
    return Exported(path.stat().st_size, lambda images: session.run(None, {name: images})[0])


FORMATS = {"tf_saved_model": saved_model, "litert": litert, "onnx": onnx}


def networks(arguments) -> dict[str, Callable]:
    """Name -> `() -> ` (ANN, data set)."""
    import keras

    import ann_training

    def lenet():
        data = ann_training.load_dataset("mnist")
        training = ann_training.Training(epochs=3, ann_cache_dir=ROOT / "experiments" / "anns")
        return ann_training.train_network("lenet5_averagepool", training, data.train, data.test), data

    def loaded(path):
        return lambda: (keras.models.load_model(path, compile=False), ann_training.load_dataset("cifar10"))

    found = {"LeNet-5": lenet, "VGG": loaded(ROOT / "benchmarks" / "models" / "vgg16_slim_cifar10.keras")}
    return found | ({"ResNet-20": loaded(arguments.resnet)} if arguments.resnet else {})


def batches(run: Callable, images) -> np.ndarray:
    """What a way gives for images, in batches of one size, as LiteRT wants."""
    return np.concatenate([np.asarray(run(images[start : start + BATCH])) for start in range(0, len(images), BATCH)])


def timed(ways: dict[str, Callable], images) -> dict[str, list[float]]:
    """Seconds of the processor, of each way in each round; the ways take turns."""
    seconds = {name: [] for name in ways}
    for each in ways.values():
        each(images)
    for _ in range(ROUNDS):
        for name, each in ways.items():
            begun = time.process_time()
            each(images)
            seconds[name].append(time.process_time() - begun)
    return seconds


def compared(told: dict, run: Callable, ann: Callable, files: dict, ann_files: dict, images) -> list[dict]:
    """The rows of a network under a code, one for each format.

    Args:
        told: what each row begins with.
        run, ann: the closed form and the ANN in Keras.
        files, ann_files: format -> what was exported of each.
        images: a batch is timed, all are compared.
    """
    ways = {"keras": run, "ann": ann, **{name: each.run for name, each in files.items()}}
    ways |= {f"ann {name}": each.run for name, each in ann_files.items()}
    expected, seconds = batches(run, images), timed(ways, images[:BATCH])
    ratio = lambda a, b: float(np.median(np.divide(seconds[a], seconds[b])))  # noqa: E731
    rows = []
    for name, each in files.items():
        found = batches(each.run, images)
        off = np.abs(found - expected).max(1)
        rows.append({
            **told, "format": name, "bytes": each.size, "ann_bytes": ann_files[name].size, "images": len(images),
            "largest_difference": float(off.max()), "within_1e-5": float(np.mean(off <= 1e-5)),
            "same_class": float(np.mean(found.argmax(1) == expected.argmax(1))),
            "output_range": float(np.ptp(expected)), "seconds": float(np.median(seconds[name])) / BATCH,
            "to_keras": ratio(name, "keras"), "to_ann": ratio(name, "ann"),
            "to_ann_file": ratio(name, f"ann {name}"), "keras_to_ann": ratio("keras", "ann"),
        })  # fmt: skip
    return rows


def exported(model, folder: Path) -> dict[str, Exported]:
    """Format -> the network in it."""
    folder.mkdir()
    return {name: export(model, folder) for name, export in FORMATS.items()}


def run(arguments) -> None:
    """Measures what has no row yet."""
    sys.path.insert(0, str(ROOT))
    import tensorflow as tf

    import conversion

    done = {(row["network"], row["code"]) for row in rows_so_far()}
    for network, load in networks(arguments).items():
        codes = {code: steps for code, steps in CODES.items() if (network, code) not in done}
        if not codes:
            continue
        ann, data = load()
        graph, calibration, images = conversion.read(ann), data.train[0][:CALIBRATED], data.test[0][:COMPARED]
        called = tf.function(lambda x, ann=ann: ann(x, training=False))
        with tempfile.TemporaryDirectory() as place:
            ann(images[:1])
            ann_files = exported(ann, Path(place) / "ann")
            for code, steps in codes.items():
                snn = conversion.convert_ann_to_snn(graph, calibration, code, steps)
                files = exported(snn, Path(place) / code)
                told = {"network": network, "code": code, "timesteps": steps}
                closed, plain = (lambda x, snn=snn: snn(x).numpy()), (lambda x: called(x).numpy())  # noqa: B023
                for row in compared(told, closed, plain, files, ann_files, images):
                    print(json.dumps(row), flush=True)
                    with ROWS.open("a") as file:
                        file.write(json.dumps(row) + "\n")


def rows_so_far() -> list[dict]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def table(arguments) -> None:
    """Prints the rows as a table."""
    print("| network, code | format | KB (ANN's) | largest difference | within 1e-5 | same class | ms an image | "
          "of Keras' closed form | of the ANN in Keras | of the ANN's file |")  # fmt: skip
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows_so_far():
        print(
            f"| {row['network']}, `{row['code']}` | `{row['format']}` | {row['bytes'] / 1000:,.0f} "
            f"({row['ann_bytes'] / 1000:,.0f}) | {row['largest_difference']:.0e} | "
            f"{row['within_1e-5']:.1%} | {row['same_class']:.1%} | {1000 * row['seconds']:.2f} | "
            f"{row['to_keras']:.2f} | {row['to_ann']:.2f} | {row['to_ann_file']:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for task in (run, table):
        command = commands.add_parser(task.__name__)
        command.set_defaults(task=task)
        if task is run:
            command.add_argument("--resnet", type=Path, help="ResNet-20 for CIFAR-10")
    arguments = parser.parse_args()
    arguments.task(arguments)


if __name__ == "__main__":
    main()
