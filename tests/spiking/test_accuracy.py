"""Accuracies on any task, counted by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import conversion
from conversion import ann_accuracy, convert_ann_to_snn, snn_accuracy, snn_accuracy_per_timestep
from spiking.analysis.accuracy import Scores, Spread
from spiking.analysis.tasks import Output, Task, task_of

nan = np.nan


def passing(units, activation=None, shape=None, name="scores"):
    """A network that gives its input, through an activation."""
    head = kl.Dense(units, use_bias=False, kernel_initializer="identity", activation=activation, name=name)
    return keras.Sequential([keras.Input(shape or (units,)), head])


def spiking(ann, images, timesteps=4):
    return convert_ann_to_snn(ann, np.asarray(images, np.float32), "ttfs_exact", timesteps)


def both(ann, images, labels, **options):
    """The accuracy of the ANN, once it is known that the SNN without hidden layers has the same."""
    images = np.asarray(images, np.float32)
    found = ann_accuracy(ann, images, labels, **options)
    assert snn_accuracy(spiking(ann, images), images, labels, **options) == pytest.approx(found, nan_ok=True)
    return found


# --- what a network answers ---


def output_of(*layers, shape=(4, 6)):
    (output,) = task_of(keras.Sequential([keras.Input(shape), *layers])).outputs.values()
    return output.shape, output.group


def test_the_task_is_read_from_the_outputs():
    assert output_of(kl.Dense(3)) == ((4, 3), "linear")
    assert output_of(kl.Dense(3, activation="softmax")) == ((4, 3), "softmax")
    assert output_of(kl.Dense(3), kl.Softmax()) == ((4, 3), "softmax")
    assert output_of(kl.Dense(3), kl.Softmax(axis=1)) == ((4, 3), "linear")
    assert output_of(kl.Dense(3), kl.Activation(tf.nn.softmax)) == ((4, 3), "softmax")
    assert output_of(kl.Dense(3, activation="log_softmax")) == ((4, 3), "softmax")
    assert output_of(kl.Dense(1, activation="sigmoid"), kl.Flatten()) == ((4,), "sigmoid")
    assert output_of(kl.Dense(1), kl.Activation("hard_sigmoid"), kl.Reshape((4,)), kl.Dropout(0.5)) == ((4,), "sigmoid")
    assert output_of(kl.Dense(1, activation="relu")) == ((4, 1), "linear")
    inner = keras.Sequential([keras.Input((4, 6)), kl.Dense(1, activation="sigmoid")])
    assert output_of(inner, kl.Flatten()) == ((4,), "sigmoid")
    symbol = keras.Input((4,))
    assert task_of(keras.Model(symbol, keras.ops.sigmoid(symbol))).outputs.popitem()[1].group == "sigmoid"


class Own(keras.layers.Layer):
    def call(self, x):
        return tf.sigmoid(x)


def test_an_own_layer_does_not_tell_what_its_values_are():
    assert output_of(kl.Dense(1), Own()) == ((4, 1), None)
    ann = keras.Sequential([keras.Input((1,)), Own()])
    with pytest.raises(ValueError, match="above 0.5 if it is a probability.*does not tell.*Activation"):
        ann_accuracy(ann, np.zeros((2, 1)), [0, 1])
    assert ann_accuracy(keras.Sequential([keras.Input((2,)), Own()]), np.eye(2), [0, 1]) == 1  # the largest is clear


def test_the_spiking_network_has_the_anns_task():
    for activation in (None, "softmax", "sigmoid"):
        ann = passing(2, activation)
        assert task_of(spiking(ann, np.eye(2))) == task_of(ann)


# --- classes ---


@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
def test_class_numbers(activation):
    images = [[1, 0, 0], [0, 0.5, 0.25], [0, 1, 0.5], [0.5, 0, 0.75]]
    for labels in ([0, 1, 2, 0], np.array([[0], [1], [2], [0]]), np.array([0, 1, 2, 0], np.uint8)):
        assert both(passing(3, activation), images, labels, batch_size=3) == 0.5


@pytest.mark.parametrize(
    "labels", [[False, True, True, False], [0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0], [[0], [1], [1], [0]]]
)
def test_one_sigmoid_unit_says_yes_above_a_half(labels):
    images = [[-2], [0.5], [-0.25], [3]]  # probabilities below, above, below, above ½
    assert both(passing(1, "sigmoid"), images, labels, batch_size=3) == 0.5
    assert both(passing(1, "sigmoid"), images, np.zeros(4, int)) == 0.5
    assert both(passing(1, "sigmoid"), images, [0, 1, 0, 1]) == 1


def test_one_logit_says_yes_above_zero():
    assert both(passing(1), [[-2], [0.25], [-0.25], [3]], [0, 1, 1, 1]) == 0.75


def test_each_sigmoid_unit_by_itself():
    images = [[-1, 1, 1], [-1, -1, 1]]
    assert both(passing(3, "sigmoid"), images, [[0, 1, 1], [1, 0, 1]]) == pytest.approx(5 / 6)
    assert both(passing(3, "sigmoid"), images, np.array([[0, 1, 1], [1, 0, 1]], float)) == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    "units, activation, labels, message",
    [
        (1, "sigmoid", [0, 2], "Labels are 0 and 1.*values from 0 to 2"),
        (1, None, [0, -1], "Labels are 0 and 1.*values from -1 to 0"),
        (3, "sigmoid", [[0, 1, 2], [0, 0, 0]], "or 0 and 1 for each unit"),
        (3, "softmax", np.full((2, 3), 0.25), "class numbers from 0 to 2.*float64"),
        (3, None, np.zeros((2, 2)), "class numbers from 0 to 2"),
        (1, None, [0.5, nan], "Labels must be finite"),
    ],
)
def test_labels_that_do_not_fit_the_output(units, activation, labels, message):
    with pytest.raises(ValueError, match=message):
        ann_accuracy(passing(units, activation), np.zeros((2, units)), labels)


def test_maps_of_classes_count_every_position():
    ann = passing(2, "softmax", (2, 2, 2))
    images = np.zeros((2, 2, 2, 2), np.float32)
    images[0, ..., 1] = 1  # class 1 at all four positions
    images[1, ..., 0] = 1
    labels = np.array([[[1, 1], [1, 0]], [[0, 0], [0, 0]]])
    assert both(ann, images, labels) == 7 / 8
    assert both(ann, images, labels[..., None]) == 7 / 8
    assert both(passing(2, None, (2, 2, 2)), images, labels) == 7 / 8
    yes = passing(1, "sigmoid", (2, 2, 1))
    assert both(yes, images[..., 1:] - 0.5, labels) == 7 / 8
    with pytest.raises(ValueError, match="one per position"):
        ann_accuracy(ann, images, [0, 1])


# --- numbers ---


def test_numbers_give_r_squared():
    # labels 1 2 3, mean 2: Σ(label − mean)² = 2; the output is wrong by ½ once, or constant
    assert both(passing(1), [[1], [2], [3.5]], [1.0, 2.0, 3.0], batch_size=2) == pytest.approx(1 - 0.25 / 2)
    assert both(passing(1), [[2], [2], [2]], [[1.0], [2.0], [3.0]]) == pytest.approx(0)
    assert both(passing(1), [[3], [2], [1]], [1.0, 2.0, 3.0]) == pytest.approx(1 - 8 / 2)
    # two units: 1 − (1 + 0)/(2 + 8)
    assert both(passing(2), [[2, 0], [2, 2], [3, 4]], [[1.0, 0], [2, 2], [3, 4]]) == pytest.approx(0.9)
    assert np.isnan(both(passing(1), [[1], [2]], [3.0, 3.0]))


def test_numbers_of_an_image_output():
    ann = passing(1, None, (2, 2, 1))
    images = np.array([[[1, 2], [3, 4]]], np.float32)[..., None]
    assert both(ann, images, np.array([[[1, 2], [3, 5.0]]])) == pytest.approx(1 - 1 / 8.75)  # mean 2.75


def test_the_first_batch_tells_whether_labels_are_numbers():
    data = iter([(np.zeros((2, 1)), np.array([0.5, 1])), (np.zeros((2, 1)), np.array([0, 1]))])
    ann_accuracy(passing(1), data)  # whole numbers are numbers
    data = iter([(np.zeros((2, 1)), np.array([0, 1])), (np.zeros((2, 1)), np.array([0.5, 1]))])
    with pytest.raises(ValueError, match="Received: both"):
        ann_accuracy(passing(1), data)


def test_spread_is_that_of_all_batches_together():
    values = np.random.default_rng(0).normal(1e4, 1, (50, 3)).astype(np.float32)
    spread = Spread()
    for part in np.split(values, [1, 20, 27]):
        spread.update(part)
    np.testing.assert_allclose(spread.squares, values.astype(np.float64).var(axis=0) * 50, rtol=1e-9)


# --- several outputs, NaN, time ---


def two_headed(structure):
    image = keras.Input((3,))
    classes = kl.Dense(3, use_bias=False, kernel_initializer="identity", name="digit")(image)
    yes = kl.Dense(1, use_bias=False, kernel_initializer="ones", activation="sigmoid", name="edge")(image)
    return keras.Model(image, structure(classes, yes))


@pytest.mark.parametrize("structure", [lambda a, b: {"digit": a, "edge": b}, lambda a, b: {"edge": b, "digit": a}])
def test_outputs_in_a_dict(structure):
    ann, images = two_headed(structure), np.array([[1, 0, 0], [0, -1, -2]], np.float32)
    labels = {"digit": np.array([0, 1]), "edge": np.array([1, 0])}
    assert ann_accuracy(ann, images, labels) == {"digit": 0.5, "edge": 1.0}
    assert ann_accuracy(ann, images, {"edge": [0, 0]}) == {"edge": 0.5}  # some of them
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(1)
    assert ann_accuracy(ann, data) == {"digit": 0.5, "edge": 1.0}
    with pytest.raises(ValueError, match=r"outputs are \['(digit|edge)', '(digit|edge)'\].*Received: one"):
        ann_accuracy(ann, images, [0, 1])


def test_outputs_in_a_list():
    ann, images = two_headed(lambda a, b: [a, b]), np.array([[1, 0, 0], [0, -1, -2]], np.float32)
    assert ann_accuracy(ann, images, [np.array([0, 1]), np.array([1, 0])]) == {"digit": 0.5, "edge": 1.0}


def test_nan_is_never_right(caplog):
    ann = keras.Sequential([keras.Input((2,)), kl.Lambda(lambda x: x / tf.reduce_max(x)), kl.Softmax()])
    assert ann_accuracy(ann, np.zeros((3, 2)), [0, 0, 0]) == 0
    assert "NaN for 3 images" in caplog.text


def test_nan_at_some_moments():
    # two moments of three samples; by hand: NaN first, then right; right twice; NaN beside the right class
    values = np.array([[[nan, 0], [1, 0], [nan, 1]], [[1, 0], [1, 0], [0, 1]]])
    scores = Scores(Task({"scores": Output("scores", (2,), "linear")}))
    scores.update(values, np.array([0, 0, 1]), moments=True)
    assert scores.result(last=False).tolist() == [1 / 3, 1]
    scores = Scores(Task({"scores": Output("scores", (2,), "sigmoid")}))
    scores.update(values, np.array([[1, 0], [1, 0], [0, 1]]), moments=True)
    assert scores.result(last=False).tolist() == [4 / 6, 1]


@pytest.mark.parametrize("encoding", ["rate", "ttfs", "ttfs_dyn_thresh", "ttfs_clamped", "ttfs_exact"])
def test_per_timestep_on_one_sigmoid_unit(encoding):
    ann = keras.Sequential(
        [keras.Input((2,)), kl.Dense(4, activation="relu", kernel_initializer="ones"), kl.Dense(1, "sigmoid")]
    )
    ann.layers[-1].bias.assign([-0.125])
    images = np.random.default_rng(0).random((20, 2)).astype(np.float32)
    labels = (np.asarray(ann(images))[:, 0] > 0.6).astype(int)
    snn = convert_ann_to_snn(ann, images, encoding, 8)
    course = snn_accuracy_per_timestep(snn, images, labels, batch_size=7)
    readouts = snn.simulate(images, ("readouts",)).readouts.numpy()[..., 0]
    np.testing.assert_allclose(course, np.mean((readouts > 0.5) == labels, axis=1))
    assert course[-1] == pytest.approx(snn_accuracy(snn, images, labels))
    analysis = conversion.snn_activation_analysis(snn, images, labels, batch_size=6)
    np.testing.assert_allclose(analysis.accuracy_per_timestep, course)


def test_the_analysis_has_no_accuracy_where_labels_are_numbers():
    ann, images = passing(1), np.array([[1], [2], [3]], np.float32)
    snn = spiking(ann, images)
    analysis = conversion.snn_activation_analysis(snn, images, [1.0, 2.0, 3.0])
    assert analysis.samples == 3 and analysis.accuracy is None and analysis.accuracy_per_timestep is None
    assert snn_accuracy_per_timestep(snn, images, [1.0, 2.0, 3.0])[-1] == 1


# --- images in every dtype ---


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float16", "float64"])
def test_accuracy_is_the_same_in_every_dtype_and_without_the_channel_axis(dtype):
    ann = keras.Sequential([keras.Input((2, 2, 1)), kl.Flatten(), kl.Dense(3)])
    ann.layers[-1].set_weights([np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]), np.array([0.5, 0, 0])])
    images = np.array([[[1, 0], [0, 0]], [[0, 1], [0, 1]], [[0, 0], [1, 0]], [[0, 0], [0, 1]]])
    snn = spiking(ann, images[..., None])
    for shaped in (images.astype(dtype), images[..., None].astype(dtype)):
        assert ann_accuracy(ann, shaped, [0, 1, 2, 1]) == 0.75
        assert snn_accuracy(snn, shaped, [0, 1, 2, 1]) == 0.75
        assert snn_accuracy_per_timestep(snn, shaped, [0, 1, 2, 1])[-1] == 0.75


@pytest.mark.parametrize("accuracy", [ann_accuracy, snn_accuracy, snn_accuracy_per_timestep])
@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_refused(accuracy, size):
    ann = passing(2)
    model = ann if accuracy is ann_accuracy else spiking(ann, np.eye(2))
    with pytest.raises(ValueError, match=f"batch_size={size}"):
        accuracy(model, np.eye(2), [0, 1], batch_size=size)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = kl.Dense(3, kernel_initializer="identity")

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_ann():
    assert ann_accuracy(Subclassed(), np.eye(3, dtype=np.float32), [0, 1, 1]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="from 0 to 2"):
        ann_accuracy(Subclassed(), np.eye(3, dtype=np.float32), [0, 1, 3])
