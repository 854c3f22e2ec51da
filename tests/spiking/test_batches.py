"""Images and labels in every form: the same batches come out of each, and what does not fit is refused."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import conversion
from spiking.analysis import batches as module
from spiking.analysis.batches import image_batches, labelled_batches
from spiking.analysis.ranges import expected_range

SHAPE = (2, 3, 1)
IMAGES = np.arange(30, dtype=np.float32).reshape(5, *SHAPE) / 8
LABELS = np.array([2, 0, 1, 1, 0])


class Batches(keras.utils.PyDataset):
    """Images and labels, two at a time."""

    def __init__(self, *parts, **kwargs):
        super().__init__(**kwargs)
        self.parts = parts

    def __len__(self):
        return 3

    def __getitem__(self, index):
        found = tuple(part[2 * index : 2 * index + 2] for part in self.parts)
        return found if len(found) > 1 else found[0]


def pairs():
    return ((IMAGES[start : start + 2], LABELS[start : start + 2]) for start in (0, 2, 4))


def dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(2)


WEIGHTS = np.ones(5)
ALONE = {
    "array": IMAGES,
    "float64": IMAGES.astype(np.float64),
    "nested lists": IMAGES.tolist(),
    "list of images": list(IMAGES),
    "tensor": tf.constant(IMAGES),
    "in a list, as Keras takes it": [IMAGES],
    "PyDataset": Batches(IMAGES),
    "tf.data": dataset(IMAGES),
    "callable": lambda: iter([IMAGES[:1], IMAGES[1:]]),
    "callable with an array": lambda: IMAGES,
    "one of a tuple": (IMAGES,),
    "iterable": [part for part in np.split(IMAGES, 5)].__iter__(),
}  # fmt: skip
LABELLED = {
    "tuple": (IMAGES, LABELS),
    "tuple with weights": (IMAGES, LABELS, WEIGHTS),
    "labels as a list": (IMAGES, LABELS.tolist()),
    "column of labels": (IMAGES, LABELS[:, None]),
    "PyDataset": Batches(IMAGES, LABELS),
    "PyDataset with weights": Batches(IMAGES, LABELS, WEIGHTS),
    "tf.data": dataset(IMAGES, LABELS),
    "tf.data with weights": dataset(IMAGES, LABELS, WEIGHTS),
    "tf.data of unknown length": dataset(IMAGES, LABELS).filter(lambda x, y: True),
    "tf.data, cut": dataset(IMAGES, LABELS).repeat().take(3),
    "dict": {"image": IMAGES, "label": LABELS},
    "dict, short names": {"x": IMAGES, "y": LABELS},
    "tf.data of dicts": dataset({"image": IMAGES, "label": LABELS, "id": LABELS}),
    "callable": pairs,
}


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input(SHAPE), kl.Flatten(), kl.Dense(3)])


@pytest.mark.parametrize("name", [*ALONE, *(f"labelled: {name}" for name in LABELLED)])
def test_the_same_images_from_every_form(name):
    data = LABELLED[name.removeprefix("labelled: ")] if name.startswith("labelled") else ALONE[name]
    found = list(image_batches(data, SHAPE, batch_size=2))
    assert all(batch.dtype == np.float32 for batch in found)
    np.testing.assert_array_equal(np.concatenate(found), IMAGES)


@pytest.mark.parametrize("name", LABELLED)
def test_the_same_labels_from_every_form(model, name):
    found = list(labelled_batches(model, LABELLED[name], batch_size=2))
    assert [len(x) for x, _ in found] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), IMAGES)
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), LABELS)


def test_a_generator_is_read_once(model):
    data = pairs()
    assert len(list(labelled_batches(model, data))) == 3
    with pytest.raises(ValueError, match="at least one image"):
        list(labelled_batches(model, data))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "uint16", "bool", "float16", "bfloat16"])
def test_any_numeric_dtype_is_what_the_ann_makes_of_it(model, dtype):
    images = np.array(np.arange(6).reshape(1, *SHAPE) % 3, dtype=tf.as_dtype(dtype).as_numpy_dtype)
    (batch,) = image_batches(images, model)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch.ravel(), [0, 1, 1, 0, 1, 1] if dtype == "bool" else [0, 1, 2, 0, 1, 2])


def test_float64_inputs_keep_their_digits(float64):
    images = np.full((1, *SHAPE), 1 + 1e-12)
    assert next(image_batches(images, SHAPE))[0, 0, 0, 0] == 1 + 1e-12
    model = keras.Sequential([keras.Input(SHAPE), kl.Flatten(), kl.Dense(3)])
    assert next(image_batches(images, model))[0, 0, 0, 0] == 1 + 1e-12


def test_a_last_axis_of_one_may_be_missing_or_one_too_many(model):
    for images in (IMAGES[..., 0], IMAGES[..., None], IMAGES[..., 0].astype(bool)):
        (batch,) = image_batches(images, model)
        assert batch.shape == (5, *SHAPE)
        expected = np.asarray(model(images))
        np.testing.assert_allclose(np.asarray(model(batch)), expected, rtol=1e-6)
    vectors = np.arange(12.0).reshape(4, 3)[..., None]
    assert next(image_batches(vectors, (3,))).shape == (4, 3)


class Endless(Batches):
    num_batches = None


@pytest.mark.parametrize(
    "data, message",
    [
        (np.zeros((4, 3, 3, 1)), r"shape \(batch, 2, 3, 1\).*Received: images of shape \(3, 3, 1\)"),
        (np.zeros((4, 2, 3, 3)), r"Received: images of shape \(2, 3, 3\)"),
        (np.zeros(SHAPE), r"batch of shape \(2, 3, 1\).*\.batch\(100\)"),
        (tf.data.Dataset.from_tensor_slices(IMAGES), r"batch of shape \(2, 3, 1\).*\.batch\(100\)"),
        (np.float32(3), "must be an array.*Received: float32"),
        (np.full((1, *SHAPE), np.nan), "must be finite"),
        (np.full((1, *SHAPE), 1e39), "must be finite"),
        (np.full((1, *SHAPE), "a"), "are numbers.*Received: dtype <U1"),
        (np.zeros((1, *SHAPE), complex), "are numbers.*complex128"),
        ([IMAGES, IMAGES[:, :1]], "arrays of numbers"),
        (3, "must be an array.*Received: int"),
        (None, "must be an array.*Received: NoneType"),
        ((IMAGES,) * 4, "tuple of 4"),
        ({"pixels": IMAGES}, r"'image' and 'label'.*the names \['pixels'\]"),
        ([], "at least one image"),
        (iter([]), "at least one image"),
        (dataset(IMAGES).repeat(), "come to an end.*take"),
        (lambda: dataset(IMAGES).repeat(), "come to an end.*take"),
        (Endless(IMAGES), "come to an end.*num_batches is None"),
    ],
)
def test_refused(data, message):
    with pytest.raises(ValueError, match=message):
        list(image_batches(data, SHAPE))


@pytest.mark.parametrize("batch", [IMAGES, IMAGES[:0], (IMAGES, LABELS)], ids=["images", "empty", "labelled"])
def test_a_generator_that_never_ends_is_stopped(model, monkeypatch, batch):
    monkeypatch.setattr(module, "MOST_SAMPLES", 20)
    taken = 0
    with pytest.raises(ValueError, match="20 samples.*without end.*islice"):
        for _ in image_batches(itertools.repeat(batch), model):
            taken += 1
    assert taken in (0, 4)  # of five images each
    assert taken == 0 or len(list(image_batches(itertools.islice(itertools.repeat(batch), 4), model))) == taken
    assert len(list(image_batches(np.repeat(IMAGES, 5, axis=0), model, batch_size=5))) == 5  # an array tells its end


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None, "all"])
def test_batch_size_is_a_positive_whole_number(model, size):
    with pytest.raises(ValueError, match=f"batch_size must be a whole number.*Received: batch_size={size!r}"):
        image_batches(IMAGES, model, batch_size=size)
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        labelled_batches(model, IMAGES, LABELS, batch_size=size)


# --- several inputs ---


def two_inputs(structure):
    left, right = keras.Input((2,), name="left"), keras.Input((3, 1), name="right", dtype="int32")
    joined = kl.Concatenate()([left, kl.Rescaling(1.0)(kl.Flatten()(right))])
    return keras.Model(structure(left, right), kl.Dense(3, name="scores")(joined))


LEFT, RIGHT = np.arange(10.0).reshape(5, 2), np.arange(15, dtype=np.int64).reshape(5, 3)


@pytest.mark.parametrize(
    "data",
    [
        [LEFT, RIGHT],
        {"left": LEFT, "right": RIGHT},
        {"right": RIGHT, "left": LEFT, "more": LEFT},
        ([LEFT, RIGHT], LABELS),
        ({"left": LEFT, "right": RIGHT}, LABELS),
        dataset({"left": LEFT, "right": RIGHT}),
        dataset({"left": LEFT, "right": RIGHT}, LABELS),
        lambda: ([LEFT[n : n + 1], RIGHT[n : n + 1]] for n in range(5)),
    ],
    ids=["list", "dict", "dict with more", "list, labels", "dict, labels", "tf.data", "tf.data, labels", "generator"],
)
@pytest.mark.parametrize("structure", [lambda a, b: [a, b], lambda a, b: {"left": a, "right": b}], ids=["list", "dict"])
def test_several_inputs_come_in_the_networks_structure(data, structure):
    model = two_inputs(structure)
    found = list(image_batches(data, model, batch_size=2))
    assert isinstance(found[0], dict if isinstance(model.input, dict) else list)
    left, right = zip(*(batch.values() if isinstance(batch, dict) else batch for batch in found), strict=True)
    np.testing.assert_array_equal(np.concatenate(left), LEFT)
    np.testing.assert_array_equal(np.concatenate(right), RIGHT[..., None])
    assert left[0].dtype == np.float32 and right[0].dtype == np.int32
    assert np.shape(model(found[0]))[1:] == (3,)


@pytest.mark.parametrize(
    "data, message",
    [
        (LEFT, r"inputs are \['left', 'right'\].*Received: one ndarray"),
        ([LEFT, RIGHT, LEFT], "Received: 3 of them"),
        ([LEFT, RIGHT[:4]], r"same number of samples.*\{'left': 5, 'right': 4\}"),
        ([RIGHT, LEFT], "for input 'left'"),
        ({"left": LEFT}, r"Received: the names \['left'\]"),
    ],
)
def test_several_inputs_refused(data, message):
    with pytest.raises(ValueError, match=message):
        list(image_batches(data, two_inputs(lambda a, b: [a, b])))


# --- labels ---


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (IMAGES, None, "one label per image.*without labels"),
        (IMAGES, 1, "labels must be an array.*Received: int"),
        (lambda: iter([(IMAGES, 1)]), None, r"one per image.*shape \(\)"),
        (IMAGES, LABELS[:4], "one label per image.*5 images, 4 labels"),
        (dataset(IMAGES), None, "one label per image"),
        (dataset(IMAGES), LABELS, "labels go with images as arrays.*leave labels out"),
        (dataset(IMAGES, LABELS), LABELS, "leave labels out"),
        ((IMAGES, LABELS), LABELS, "leave labels out"),
        (lambda: iter([(IMAGES, LABELS[:4])]), None, "5 images, 4 labels"),
        (IMAGES, ["two", "no", "one", "one", "no"], "Labels are numbers.*Number the classes"),
        (dataset(IMAGES, ["two", "no", "one", "one", "no"]), None, "Labels are numbers.*Number the classes"),
        (IMAGES, LABELS + 1, "from 0 to 2.*Received: values from 1 to 3"),
        (IMAGES, LABELS - 1, "from 0 to 2.*Received: values from -1 to 1"),
        (IMAGES, LABELS + 2**32, "from 0 to 2.*values from 4294967296 to 4294967298"),
        (IMAGES, LABELS.astype(np.uint64) + np.uint64(2**64 - 3), "values from 18446744073709551613"),
        (IMAGES, [0, 0, 0, 0, 10**7], "values from 0 to 10000000"),
        (IMAGES, [0, 0, 0, 0, 2**70], "Labels are numbers.*object"),
        (IMAGES, np.eye(3)[LABELS], r"one per image.*one-hot labels take labels.argmax\(-1\)"),
        (IMAGES, np.eye(3, dtype=int)[LABELS], r"one-hot labels take labels.argmax\(-1\)"),
        (IMAGES, LABELS.astype(float), "class numbers from 0 to 2.*float64"),
        (IMAGES[:0], LABELS[:0], "at least one image"),
    ],
)
def test_labels_refused(model, images, labels, message):
    with pytest.raises(ValueError, match=message):
        list(labelled_batches(model, images, labels))


def test_labels_that_are_nowhere_may_be_none(model):
    for data in (IMAGES, dataset(IMAGES), lambda: iter([(IMAGES, None)])):
        assert {y for _, y in labelled_batches(model, data, required=False)} == {None}
    for data in LABELLED.values():
        assert all(y is not None for _, y in labelled_batches(model, data, required=False))


# --- the scale of the images ---

OTHER_SCALE = "another than the network expects"


@pytest.fixture(scope="module")
def snn(model):
    return conversion.convert_ann_to_snn(model, IMAGES / IMAGES.max(), timesteps=4)


@pytest.mark.parametrize(
    "images, told",
    [
        (np.full((2, *SHAPE), 255, np.uint8), "go from 255 to 255, while the calibration images tells of 0 to 1"),
        (np.full((2, *SHAPE), 1 / 255), "go from 0.003922 to 0.003922"),
        (np.linspace(-1, 1, 12).reshape(2, *SHAPE), "go from -1 to 1"),
        (np.linspace(0, 1, 12).reshape(2, *SHAPE), None),
        (np.linspace(-0.01, 3, 12).reshape(2, *SHAPE), None),
        (np.full((2, *SHAPE), 0.2), None),
        (np.zeros((2, *SHAPE)), None),
    ],
)
def test_images_of_another_scale_than_the_calibrations(snn, caplog, images, told):
    assert snn.input_range == (0.0, 1.0)
    list(image_batches(images, snn))
    list(labelled_batches(snn, images, [0, 1]))
    assert caplog.text.count(OTHER_SCALE) == (2 if told else 0)
    assert told is None or told in caplog.text


def test_the_range_is_kept_with_the_network(snn, tmp_path):
    snn.save(tmp_path / "snn.keras")
    assert tuple(keras.models.load_model(tmp_path / "snn.keras").input_range) == (0.0, 1.0)


def starting_with(layer):
    return keras.Sequential([keras.Input(SHAPE), layer, kl.Flatten(), kl.Dense(3)])


def test_the_range_an_ann_tells_of():
    assert expected_range(starting_with(kl.Flatten())) is None
    assert expected_range(starting_with(kl.Rescaling(1 / 255)))[:2] == pytest.approx((0, 255))
    assert expected_range(starting_with(kl.Rescaling(1 / 127.5, offset=-1)))[:2] == pytest.approx((0, 255))
    statistics = kl.Normalization(axis=None, mean=128.0, variance=64.0**2)
    assert expected_range(starting_with(statistics))[:2] == pytest.approx((-64, 320))
    nested = keras.Sequential([keras.Input(SHAPE), starting_with(kl.Rescaling(1 / 255))])
    assert expected_range(nested)[:2] == pytest.approx((0, 255))


def test_an_ann_that_tells_its_range_warns_at_calibration_and_of_its_own_images(caplog):
    ann = starting_with(kl.Rescaling(1 / 255, name="to_one"))
    conversion.convert_ann_to_snn(ann, IMAGES / IMAGES.max(), timesteps=4)
    assert caplog.text.count("The scale of calibration is " + OTHER_SCALE) == 1
    assert "go from 0 to 1, while its layer 'to_one' tells of 0 to 255" in caplog.text
    caplog.clear()
    conversion.calibrate(ann, IMAGES * (255 / IMAGES.max()))
    assert OTHER_SCALE not in caplog.text
    conversion.ann_accuracy(ann, IMAGES / IMAGES.max(), LABELS)
    assert "The scale of images is " + OTHER_SCALE in caplog.text


# --- calibration ---


def test_calibration_takes_every_form(model):
    expected = conversion.calibrate(model, IMAGES)
    for name, data in (ALONE | LABELLED).items():
        found = conversion.calibrate(model, iter([IMAGES]) if name == "iterable" else data)
        assert (found.images, found.image_range) == (5, (0.0, IMAGES.max())), name
        assert found.rows() == expected.rows(), name


def test_a_correction_reads_its_images_anew():
    ann = keras.Sequential([keras.Input(SHAPE), kl.Flatten(), kl.Dense(4, activation="relu"), kl.Dense(3)])
    with pytest.raises(ValueError, match="several times.*callable"):
        conversion.convert_ann_to_snn(ann, iter([IMAGES]), "ttfs_exact", 8, correction="shifts")
    conversion.convert_ann_to_snn(ann, lambda: iter([IMAGES]), "ttfs_exact", 8, correction="shifts")
