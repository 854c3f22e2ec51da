"""What all tests share: a quiet TensorFlow on the CPU, and small helpers as fixtures.

No `__init__.py` in `tests/` or `tests/spiking/`: it would hide the package `spiking`.
"""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("MPLBACKEND", "Agg")

import keras  # noqa: E402  (the environment comes first)
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

tf.get_logger().setLevel("ERROR")  # retracing notices: tests build many small networks


def dyadic(values, bits):
    """`values` rounded to multiples of 2^-bits, so that sums and products of few of them are exact in float32."""
    return np.round(np.asarray(values) * 2.0**bits) / 2.0**bits


def randomise(ann, seed=0):
    """Random weights everywhere: kernels of a size that keeps activations near 1, biases, BatchNorm statistics.

    Of the gammas every third is negative, and one of each layer with more than three is zero.
    """
    rng = np.random.default_rng(seed)
    for layer in ann.layers:
        weights = []
        for weight in layer.weights:
            name, shape = weight.path.split("/")[-1], tuple(weight.shape)
            if "variance" in name:
                value = rng.uniform(0.3, 2, shape)
            elif "gamma" in name:
                value = rng.uniform(0.5, 1.5, shape) * np.where(np.arange(shape[0]) % 3 == 1, -1, 1)
                value[3:4] = 0
            elif len(shape) == 1:
                value = rng.normal(0, 0.3, shape)
            else:
                value = rng.normal(0, 1, shape) * np.sqrt(2 / np.prod(shape[:-1]))
            weights.append(value)
        layer.set_weights(weights)
    return ann


def drive(cell, inputs, batched=True):
    """Steps a cell by hand, from its initial state.

    Args:
        cell: a spiking cell.
        inputs: `(T, batch, …)`, or `(T, …)` for one sample with `batched=False`.

    Returns:
        What the cell emitted, `(T, batch, …)` or `(T, …)`, and its state after every step, a list.
    """
    inputs = np.asarray(inputs, np.float32)
    inputs = inputs if batched else inputs[:, None]
    if not cell.built:
        cell.build((None, *inputs.shape[2:]))
    state, outputs, states = cell.get_initial_state(inputs.shape[1]), [], []
    for x in inputs:
        output, state = cell(tf.constant(x), tuple(state))
        outputs.append(np.asarray(output) if batched else np.asarray(output)[0])
        states.append(cell.State(*state))
    return np.stack(outputs), states


def potentials(states):
    """The membrane potential of the only sample after each step, `(T, …)`."""
    return np.stack([np.asarray(state.potential)[0] for state in states])


@pytest.fixture
def float64():
    """Everything in float64, for the length of a test."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def mixed_float16():
    """The global policy is mixed_float16, for the length of a test."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(policy)
