"""The spike function and the rounding: values, derivatives worked out by hand, and graphs that are freed."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from spiking.cells import spike
from spiking.windows import straight_through_floor

EAGER_AND_TRACED = pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "traced"])


def derivative(function, x, wrap):
    """Value and derivative of an elementwise function."""

    @wrap
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x)

    y, slope = run(tf.constant(x))
    return y.numpy().tolist(), slope.numpy().tolist()


@EAGER_AND_TRACED
def test_spike_and_its_surrogate(wrap):
    # θ = 2: 1/(1 + |V/2 − 1|)²/2 is 1/2 at θ, 1/8 where V is θ away from it, 1/18 where it is 2θ away
    spikes, slopes = derivative(lambda v: spike(v, 2.0), [[-2.0, 0.0], [1.9999998, 2.0], [4.0, 6.0]], wrap)
    assert spikes == [[0, 0], [0, 1], [1, 1]]
    np.testing.assert_allclose(slopes, [[1 / 18, 1 / 8], [1 / 2, 1 / 2], [1 / 8, 1 / 18]], rtol=1e-6)


@EAGER_AND_TRACED
def test_thresholds_may_differ_and_get_no_gradient(wrap):
    threshold = tf.constant([1.0, 4.0])
    spikes, slopes = derivative(lambda v: spike(v, threshold), [[2.0, 2.0], [1.0, 4.0]], wrap)
    assert spikes == [[1, 0], [1, 1]]
    np.testing.assert_allclose(slopes, [[1 / 4, 1 / 9], [1, 1 / 4]], rtol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(threshold)
        fired = spike(tf.constant([[2.0, 2.0]]), threshold)
    np.testing.assert_array_equal(tape.gradient(fired, threshold, unconnected_gradients="zero"), [0, 0])


@EAGER_AND_TRACED
def test_floor_lets_gradients_through(wrap):
    floors, slopes = derivative(straight_through_floor, [-0.5, 0.0, 0.75, 3.0], wrap)
    assert floors == [-1, 0, 0, 3]
    assert slopes == [1, 1, 1, 1]


def test_shape_and_type_stay_known():
    @tf.function(input_signature=[tf.TensorSpec([None, 3, 2], tf.float64)])
    def run(v):
        spikes = spike(v, 1)
        assert spikes.shape.as_list() == [None, 3, 2] and spikes.dtype == tf.float64
        return spikes

    assert run(np.ones([4, 3, 2])).shape == (4, 3, 2)


@pytest.mark.parametrize("function", [lambda v: spike(v, 1.0), straight_through_floor])
def test_nothing_keeps_the_graph_of_a_caller(function):
    # TensorFlow's registry keeps every graph in which a custom gradient is traced: thousands in a long search.
    traced = tf.function(lambda x: function(x) * 2).get_concrete_function(tf.TensorSpec([2]))
    graph = weakref.ref(traced.graph)
    del traced
    gc.collect()
    assert graph() is None
