"""What the screen shows of work that takes long: the toolbox's own messages, and progress bars."""

import logging
from collections.abc import Iterable, Iterator

import keras

MODULES = ("__main__", "ann_training", "conversion", "experiment", "optimization", "plotting", "spiking")


class ScreenHandler(logging.StreamHandler):
    """A handler of its own kind, so that it can be told from those of others."""


def show_messages(modules: Iterable[str] = MODULES) -> None:
    """Shows the messages of these modules on the screen, from INFO on.

    A handler of the root logger, as `logging.basicConfig` sets it, would show TensorFlow's warnings a second time:
    TensorFlow has a handler of its own and hands on what it has shown.
    """
    handler = ScreenHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for module in modules:
        logger = logging.getLogger(module)
        logger.handlers = [each for each in logger.handlers if not isinstance(each, ScreenHandler)] + [handler]
        logger.setLevel(logging.INFO)


def counted(batches: Iterable[tuple], total: int) -> Iterator[tuple]:
    """The batches, tuples whose first member are images, with a progress bar up to so many images."""
    progress = keras.utils.Progbar(total, unit_name="image")
    for batch in batches:
        yield batch
        progress.add(len(batch[0]))
