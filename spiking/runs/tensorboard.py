"""The TensorBoard log of one encoding, and of a training. A new tag is a line in the function of its kind.

TensorBoard sorts what stands before the first slash of a tag: `accuracy` comes first, numbers of the ANN and the SNN
follow, histograms (`spikes`, `values`) come last. What the tags mean is told in docs/TENSORBOARD.md.
"""

import numbers
import re
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from spiking.analysis.energy import assumptions
from spiking.runs import summaries
from spiking.runs.columns import MICRO, declare
from spiking.runs.files import plain
from spiking.runs.results import Result, is_shared
from spiking.shown import text_table

__all__ = [
    "TrainingLog", "curve_entries", "histogram_entries", "image_entries", "log_comparison", "log_to_tensorboard",
    "scalar_entries", "short_name", "text_entries",
]  # fmt: skip


def scalar_entries(result: Result) -> dict[str, float]:
    """Tag -> number: all that was measured, energies in µJ. The settings are in HParams, where they can be compared."""
    found = {tag: value for tag, value in result.metrics.items() if not tag.startswith("experiment/")}
    found |= {MICRO[tag]: 1e6 * found.pop(tag) for tag in MICRO if tag in found}
    return {tag: float(value) for tag, value in found.items() if isinstance(value, numbers.Real)}


def curve_entries(result: Result) -> dict[str, tuple[np.ndarray, str]]:
    """Tag -> one number per step, the first step being 1, and what a step is."""
    curves, legend = summaries.layer_curves(result.analysis), summaries.layer_legend(result.analysis)
    accuracy = result.analysis.accuracy_per_timestep
    first = {} if accuracy is None else {"accuracy/per_timestep": (accuracy, "Step is the time step.")}
    return first | {tag: (curve, legend) for tag, curve in curves.items()}


def histogram_entries(result: Result) -> dict[str, np.ndarray]:
    """Tag -> histogram, `(bins, 3)`: left edge, right edge, count; those of the ANN with its first encoding only."""
    found = {
        **summaries.weight_histograms(result.ann.model, result.snn),
        **summaries.spike_histograms(result.analysis),
        **summaries.activity_histograms(result.activities),
    }
    result.ann.logged_by = result.ann.logged_by or result.encoding
    own = result.ann.logged_by == result.encoding
    return {tag: bins for tag, bins in found.items() if own or not tag.endswith("/ann")}


def text_entries(result: Result) -> dict[str, str]:
    """Tag -> text, shown as it stands."""
    return {
        "snn/conversion_report": summaries.conversion_report(result.snn),
        "snn/energy_assumptions": assumptions(result.analysis.hardware, result.analysis.updates_counted),
        "snn/layers": str(result.analysis),
        **({"snn/diagnosis": str(result.diagnosis)} if result.diagnosis else {}),
    }


def image_entries(result: Result) -> dict[str, tf.Tensor]:
    """Tag -> image, `(1, height, width, 4)`: the figures of this encoding alone."""
    own = {name: path for name, path in result.figures.items() if not is_shared(name)}
    return {f"figures/{name}": _image(path) for name, path in own.items()}


def _image(path: Path) -> tf.Tensor:
    return tf.io.decode_png(path.read_bytes(), channels=4)[None]


def log_comparison(folder: Path, finished: Sequence[Result]) -> None:
    """Writes what concerns all encodings finished so far, once for the run: a table and the shared figures.

    Raises:
        tf.errors.OpError, OSError: the log cannot be written.
    """
    metrics, step = {each.encoding: each.metrics for each in finished}, len(finished)
    text = f"{text_table(summaries.comparison(metrics))}\n\n{summaries.energy_remark(metrics.values())}"
    figures = {name: path for each in finished for name, path in each.figures.items() if is_shared(name)}
    with tf.summary.create_file_writer(str(folder)).as_default():
        tf.summary.text("comparison", _preformatted(text), step=step)
        for name, path in figures.items():
            tf.summary.image(f"figures/{name}", _image(path), step=step)


def log_to_tensorboard(folder: Path, result: Result) -> None:
    """Writes all entries of one encoding, and its settings for the HParams plugin.

    Raises:
        tf.errors.OpError, OSError: the log cannot be written.
    """
    from tensorboard.plugins.histogram.metadata import create_summary_metadata
    from tensorboard.plugins.hparams import api as hparams

    settings = {tag: value for tag, value in result.metrics.items() if tag.startswith("experiment/")}
    settings = {tag.removeprefix("experiment/"): _word(plain(value)) for tag, value in settings.items()}
    with tf.summary.create_file_writer(str(folder)).as_default():
        hparams.hparams(settings, trial_id=f"{short_name(folder.parent.name)}/{folder.name}")
        for tag, value in scalar_entries(result).items():
            tf.summary.scalar(tag, value, step=0)
        for tag, (curve, meaning) in curve_entries(result).items():
            for step in np.flatnonzero(np.isfinite(curve)):
                tf.summary.scalar(tag, curve[step], step=step + 1, description=meaning)
        for tag, bins in histogram_entries(result).items():  # tf.summary.histogram takes values, which are not kept
            tf.summary.write(tag, tf.constant(bins), step=0, metadata=create_summary_metadata(None, None))
        for tag, text in text_entries(result).items():
            tf.summary.text(tag, _preformatted(text), step=0)
        for tag, image in image_entries(result).items():
            tf.summary.image(tag, image, step=0)
    declare(folder.parent.parent, settings, scalar_entries(result))


def short_name(run: str) -> str:
    """The name of a run in the table, which shows a dozen letters: of "<network>-<data>-20261231-235959" the time, for
    network and data have columns of their own."""
    stamp = re.search(r"-\d{4}(\d{4}-\d{6}(-\d+)?)$", run)
    return stamp[1] if stamp else run


def _preformatted(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def _word(value):
    """What the HParams plugin takes: numbers and texts."""
    return value if isinstance(value, bool | int | float | str) else str(value)


class TrainingLog(keras.callbacks.Callback):
    """Loss, accuracy and learning rate of each epoch, in the folders `train` and `validation`.

    Unlike Keras' own callback it lets the training go on when the log cannot be written any more.

    Args:
        folder: of the log.

    Attributes:
        error: why the log ends early; None if it does not.
        history: name of a number -> its value after each epoch.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder, self.error, self.history, self._writers = folder, None, {}, {}

    def check(self) -> None:
        """Raises the error that ended the log, if there was one."""
        if self.error:
            raise self.error

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        if not self.error:
            try:
                self.write(epoch, logs or {})
            except (OSError, tf.errors.OpError) as error:
                self.error = error

    def write(self, epoch: int, logs: dict[str, float]) -> None:
        """Writes the numbers of one epoch."""
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        for name, value in {**logs, "learning_rate": rate}.items():
            part = "validation" if name.startswith("val_") else "train"
            if part not in self._writers:
                self._writers[part] = tf.summary.create_file_writer(str(self.folder / part))
            with self._writers[part].as_default():
                tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value, step=epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs=None):
        for writer in self._writers.values() if not self.error else ():
            writer.close()
