"""What the screen shows of work that takes long: the toolbox's own messages, and progress bars."""

import logging
import sys
from collections.abc import Iterable, Iterator

import keras

__all__ = ["MODULES", "ScreenHandler", "counted", "show_in_notebooks", "show_messages"]

MODULES = ("__main__", "ann_training", "conversion", "experiment", "optimization", "plotting", "spiking")


class ScreenHandler(logging.StreamHandler):
    """A handler of its own kind, so that it can be told from those of others."""


def show_messages(modules: Iterable[str] = MODULES, stream=None) -> None:
    """Shows the messages of these modules on the screen, from INFO on.

    A handler of the root logger, as `logging.basicConfig` sets it, would show TensorFlow's warnings a second time:
    TensorFlow has a handler of its own and hands on what it has shown.

    Args:
        modules: names of loggers.
        stream: where they go; None for the error output.
    """
    handler = ScreenHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for module in modules:
        logger = logging.getLogger(module)
        logger.handlers = [each for each in logger.handlers if not isinstance(each, ScreenHandler)] + [handler]
        logger.setLevel(logging.INFO)


def show_in_notebooks() -> None:
    """In a notebook shows the messages, too: each progress bar then has the line before it that says what it is of."""
    if "ipykernel" in sys.modules:
        show_messages(stream=sys.stdout)  # the error output has a red ground there


def counted(batches: Iterable[tuple], total: int) -> Iterator[tuple]:
    """The batches, tuples whose first member are images, with a progress bar up to so many images."""
    progress = keras.utils.Progbar(total, unit_name="image")
    for batch in batches:
        yield batch
        progress.add(len(batch[0]))
