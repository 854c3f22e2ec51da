"""The devices of one machine: how the images of each batch are shared among them, and how they round."""

import contextlib
import json
import logging
import os
from pathlib import Path

import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled  # TensorFlow tells it nowhere else

from spiking.checks import check_whole

__all__ = [
    "check_strategy", "is_op_determinism_enabled", "mirrored_strategy", "rounding", "shared", "rounded_otherwise",
    "warn_of_uneven_shares",
]  # fmt: skip

logger = logging.getLogger(__name__)


def mirrored_strategy(devices: int) -> tf.distribute.Strategy | None:
    """The strategy for so many GPUs of this machine or, if there are fewer, as many logical CPU devices; None for one.

    Raises:
        ValueError: it is no number of devices, or TensorFlow is running and cannot have more of them.
    """
    if check_whole("devices", devices, 1) == 1:
        return None
    kind = "GPU" if len(tf.config.list_physical_devices("GPU")) >= devices else "CPU"
    cpu = tf.config.list_physical_devices("CPU")[0]
    if kind == "CPU" and len(tf.config.get_logical_device_configuration(cpu) or ()) < devices:
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
        except RuntimeError as error:
            raise ValueError(
                f"Logical devices are made before TensorFlow is first used. Received: devices={devices} ({error}). "
                "Call mirrored_strategy first, or in a new process."
            ) from error
    return tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(devices)])


def check_strategy(strategy) -> tf.distribute.Strategy | None:
    """The strategy, once it is known to be one that Keras can share batches with."""
    if strategy is not None and not isinstance(strategy, tf.distribute.MirroredStrategy):
        raise ValueError(
            "strategy shares batches among the devices of one machine: a tf.distribute.MirroredStrategy, or None. "
            f"Received: strategy={strategy!r}. Several machines can share a search: see optimization.py, --storage."
        )
    return strategy


def shared(strategy: tf.distribute.Strategy | None) -> contextlib.AbstractContextManager:
    """The scope in which networks are made for all devices; None: for one."""
    return strategy.scope() if strategy else contextlib.nullcontext()


def warn_of_uneven_shares(images: int, batch_size: int, devices: int) -> None:
    """Warns if the devices get shares of different size of some batch."""
    uneven = [size for size in (min(images, batch_size), images % batch_size) if size % devices]
    if uneven:
        logger.warning(
            "Batches of %d images cannot be shared evenly among %d devices: images in a smaller share weigh more, and "
            "the network differs a little from that of one device. Take another batch size.",
            uneven[0],
            devices,
        )


def rounding() -> dict[str, int | str]:
    """What decides in which order numbers are summed and so how they are rounded: repeated runs agree where it does."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": tf.config.threading.get_intra_op_parallelism_threads() or cores,
        "GPUs": len(tf.config.list_logical_devices("GPU")),
        "oneDNN": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
    }


def rounded_otherwise(file: Path) -> dict | None:
    """What `rounding` was where a network was trained, by its description in this file, if it is another here."""
    with contextlib.suppress(OSError, ValueError, KeyError):  # nothing is known of a network without its file
        there = json.loads(file.read_text(encoding="utf-8"))["trained on"]
        return there if there != rounding() else None
    return None
