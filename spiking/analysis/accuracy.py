"""How much of what a network answers is right: the share of right answers, or R² where answers are numbers.

What counts as right follows the network's outputs and the labels, see `tasks.py`:

- class numbers: the largest value on the last axis is the label's; of a map every position counts.
- 0 and 1 for units that say yes or no: above the threshold where the label is 1, and only there.
- numbers: R² = 1 − Σ(label − output)²/Σ(label − mean label)², summed over units, the mean taken per unit; at most 1,
  negative for what is worse than the mean, NaN where the labels never differ.

An answer with NaN is never right.
"""

import logging

import keras
import numpy as np

from spiking.analysis.batches import BATCH_SIZE, labelled_batches, length
from spiking.analysis.tasks import Output, Task, task_of
from spiking.network.model import SpikingModel
from spiking.network.records import READOUTS

logger = logging.getLogger(__name__)

ANN_BATCH_SIZE = 500


class Spread:
    """Σ(x − mean)² per unit, streamed: mean and sum over everything but the last axis."""

    def __init__(self):
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, values: np.ndarray) -> None:
        """Takes values `(…, units)` in."""
        values = values.reshape(-1, values.shape[-1]).astype(np.float64)
        count, mean = len(values), values.mean(axis=0)
        total = self.count + count
        gap = mean - self.mean
        self.squares = self.squares + ((values - mean) ** 2).sum(axis=0) + gap**2 * (self.count * count / total)
        self.mean = self.mean + gap * (count / total)
        self.count = total

    def explained(self, squared_error):
        """R² of a squared error summed over all values; NaN where the values never differ."""
        total = float(np.sum(self.squares))
        return 1 - squared_error / total if total else squared_error * np.nan


class Score:
    """How right one output is, streamed over batches, at one or several moments.

    Args:
        output: what it says.
    """

    def __init__(self, output: Output):
        self.output = output
        self.right, self.count = 0, 0
        self.spread, self.squared_error = Spread(), 0.0
        self.numbers = None  # whether the labels are numbers; the first batch decides

    def update(self, values: np.ndarray, labels: np.ndarray) -> None:
        """Takes one batch in.

        Args:
            values: what the network gave at each moment, `(moments, batch, *shape)`.
            labels: as `Output.labels` returned them.
        """
        numbers = labels.dtype.kind == "f"
        if self.numbers is None:
            self.numbers = numbers
        later = tuple(range(1, values.ndim))
        if self.numbers:
            labels = labels.astype(np.float64)
            self.spread.update(labels)
            self.squared_error = self.squared_error + ((values.astype(np.float64) - labels) ** 2).sum(axis=later)
            return
        if numbers:
            raise ValueError(
                "Labels of one data set are either class numbers or numbers with a decimal point. Received: both. "
                "Make them one dtype."
            )
        right = self.hits(values, labels)
        self.right = self.right + right.sum(axis=tuple(range(1, right.ndim)))
        self.count += labels.size

    def hits(self, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Which answers are right, `(moments, *labels.shape)`."""
        if labels.ndim == values.ndim - 1:
            return ((values > self.output.threshold) == (labels == 1)) & ~np.isnan(values)
        return (values.argmax(axis=-1) == labels) & ~np.isnan(values).any(axis=-1)

    def result(self) -> np.ndarray:
        """The share of right answers, or R², at each moment."""
        if self.numbers:
            return self.spread.explained(self.squared_error)
        return self.right / self.count


class Scores:
    """The scores of a network's outputs, those that have labels.

    Args:
        task: what the network answers.
    """

    def __init__(self, task: Task):
        self.task = task
        self.scores: dict[str, Score] = {}

    def update(self, values, labels, moments: bool = False) -> None:
        """Takes one batch in.

        Args:
            values: in the structure of the network's output, `(batch, …)`, or `(moments, batch, …)` with `moments`.
            labels: as `labelled_batches` gives them.
        """
        values = self.task.named(values)
        labels = labels if isinstance(labels, dict) else {next(iter(values)): labels}
        for name, own in labels.items():
            output = self.task.outputs[name]
            found = np.asarray(values[name])
            found = output.values(found, moments)
            self.scores.setdefault(name, Score(output)).update(found if moments else found[None], own)

    def result(self, last: bool = True) -> float | np.ndarray | dict:
        """The score: of the only output, else a dict by name; at the last moment, or at each, `(moments,)`."""
        found = {name: score.result() for name, score in self.scores.items()}
        found = {name: float(values[-1]) if last else values for name, values in found.items()}
        return next(iter(found.values())) if len(self.task.outputs) == 1 else found

    def shares(self) -> np.ndarray | None:
        """Shares of right answers, `(moments,)`; None for several outputs and for numbers."""
        (score, *others) = self.scores.values()
        return None if others or score.numbers or len(self.task.outputs) > 1 else score.result()


def predict_batch(model, images):
    """What a model gives for one batch, shared among the devices if it was made for several (`tf.distribute`)."""
    devices = model.distribute_strategy.num_replicas_in_sync
    if devices == 1 and isinstance(model, SpikingModel):
        # Keras' own function for it is traced anew for each network, and TensorFlow warns of that.
        return keras.tree.map_structure(np.asarray, model.simulate(images).output)
    if devices == 1:
        return model.predict_on_batch(images)
    # predict_on_batch would give each device all images. Shares are equal, so that none is empty: the last image fills.
    number = length(images)
    filled = np.minimum(np.arange(-(-number // devices) * devices), number - 1)
    images = keras.tree.map_structure(lambda array: array[filled], images)
    return keras.tree.map_structure(
        lambda values: values[:number], model.predict(images, batch_size=len(filled), verbose=0)
    )


def _accuracy(model, images, labels, batch_size: int, verbose: int) -> float | dict[str, float]:
    scores, total = None, len(images) if hasattr(images, "shape") else None
    progress = keras.utils.Progbar(total, verbose=verbose, unit_name="image", stateful_metrics=["accuracy"])
    invalid = 0
    for x, y in labelled_batches(model, images, labels, batch_size):
        values = predict_batch(model, x)
        scores = scores or Scores(task_of(model, values))
        scores.update(values, y)
        invalid += without_answer(values)
        found = scores.result()
        progress.add(length(x), values=[] if isinstance(found, dict) else [("accuracy", found)])
    if invalid:
        logger.warning("%s gives NaN for %d images; they count as wrong.", model.name, invalid)
    return scores.result()


def without_answer(values) -> int:
    """The number of samples of a batch in whose outputs there is NaN."""
    missing = False
    for each in keras.tree.flatten(values):
        each = np.asarray(each)
        missing = missing | np.isnan(each.reshape(len(each), -1)).any(axis=1)
    return int(np.sum(missing))


def ann_accuracy(
    ann, images, labels=None, batch_size: int = ANN_BATCH_SIZE, verbose: int = 0
) -> float | dict[str, float]:
    """Share of images the ANN answers rightly, in [0, 1]; R² where the labels are numbers.

    Args:
        images, labels: as `labelled_batches` takes them.
        verbose: 1 for a progress bar.

    Returns:
        The share; for several outputs a dict by their names. This module's text tells what is right.
    """
    return _accuracy(ann, images, labels, batch_size, verbose)


def snn_accuracy(
    snn: SpikingModel, images, labels=None, batch_size: int = BATCH_SIZE, verbose: int = 0
) -> float | dict[str, float]:
    """Share of images the SNN answers rightly, in [0, 1]; all else as `ann_accuracy`."""
    return _accuracy(snn, images, labels, batch_size, verbose)


def snn_accuracy_per_timestep(
    snn: SpikingModel, images, labels=None, batch_size: int = BATCH_SIZE
) -> np.ndarray | dict[str, np.ndarray]:
    """`snn_accuracy` if the simulation had ended after each time step, shape `(timesteps,)`, in one pass."""
    scores = Scores(task_of(snn))
    for x, y in labelled_batches(snn, images, labels, batch_size):
        scores.update(readouts(snn, x), y, moments=True)
    return scores.result(last=False)


def readouts(snn: SpikingModel, images):
    """What the network would have given after each time step, `(timesteps, batch, …)` in the output's structure."""
    return snn.simulate(images, (READOUTS,)).readouts
