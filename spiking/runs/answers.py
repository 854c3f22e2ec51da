"""What ANN and SNN answer, image by image: twelve of them to look at, and how the classes are confused."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from spiking.network.model import SpikingModel
from spiking.network.records import READOUTS, SPIKE_COUNTS

__all__ = ["ANSWERED_IMAGES", "SHOWN_IMAGES", "Answers", "answers"]

ANSWERED_IMAGES = 100  # of the test set: what the matrix of classes rests on
SHOWN_IMAGES = 12


@dataclass(frozen=True)
class Answers:
    """The answers on some images.

    Attributes:
        pictures: of the first images, PNG each.
        labels, ann, snn: class of each image, true and as the networks say, `(n,)`.
        spikes: spikes of all neurons for each of the first images.
        decided: time step of each of the first images from which on the SNN's answer does not change any more.
    """

    pictures: Sequence[bytes]
    labels: np.ndarray
    ann: np.ndarray
    snn: np.ndarray
    spikes: np.ndarray
    decided: np.ndarray

    def confusion(self) -> np.ndarray:
        """Number of images of a class (row) that the SNN takes for a class (column)."""
        classes = 1 + max(self.labels.max(), self.snn.max())
        return np.bincount(self.labels * classes + self.snn, minlength=classes**2).reshape(classes, classes)


def answers(ann: keras.Model, snn: SpikingModel, images: np.ndarray, labels: np.ndarray) -> Answers:
    """Asks both networks.

    Args:
        images, labels: checked, as an experiment has them; few: what the SNN says after each step is kept.
    """
    simulation, first = snn.simulate(images, (SPIKE_COUNTS, READOUTS)), slice(0, SHOWN_IMAGES)
    said = _classes(np.asarray(simulation.readouts))
    counts = [simulation.spike_counts[name].numpy() for name, cell in snn.plan.cells.items()
              if cell.holds_neurons and name in simulation.spike_counts]  # fmt: skip
    spikes = sum(count.reshape(len(images), -1).sum(axis=1) for count in counts)
    changed = said[:-1] != said[-1]
    decided = np.where(changed.any(axis=0), len(changed) - np.argmax(changed[::-1], axis=0) + 1, 1)
    asked = _classes(np.asarray(ann(images, training=False)))
    pictures = [_picture(image) for image in images[first]]
    return Answers(pictures, np.asarray(labels), asked, said[-1], np.asarray(spikes)[first], decided[first])


def _classes(scores: np.ndarray) -> np.ndarray:
    """The class that scores name, `(…, classes)` or `(…, 1)` -> `(…)`."""
    return (scores[..., 0] >= 0.5).astype(int) if scores.shape[-1] == 1 else scores.argmax(axis=-1)


def _picture(image: np.ndarray) -> bytes:
    """An image in [0, 1] as PNG, gray or RGB."""
    channels = image if image.shape[-1] in (1, 3) else image.mean(axis=-1, keepdims=True)
    return tf.io.encode_png(np.round(255 * channels).astype(np.uint8)).numpy()
