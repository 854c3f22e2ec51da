"""The devices of one machine, among which the images of each batch are shared."""

import contextlib

import tensorflow as tf

from spiking.checks import check_whole


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
