"""Data sources, architectures, training and its cache. Nothing here touches the network or trains for long."""

import ast
import dataclasses
import functools
import json
import math
import pickle
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.util import _pywrap_determinism as determinism

import ann_training
from ann_training import ARCHITECTURES, TRAINING_FUNCTIONS, Training, load_dataset, train_network

# Keras calls np.array on TensorFlow variables, whose __array__ does not know NumPy 2's `copy` yet. Not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CHAINS = (
    "base base_scale1 base_scale2 base_conv base_maxpool fully_conv fully_conv_small lenet5 lenet5_averagepool "
    "lenet5_maxpool lenet5_maxpool_extensions denseonly1 batchnorm_etal vgg16 resnet_ish"
).split()
GRAPHS = "resnet20 mobilenetv2_slim densenet_slim".split()
NAMES = CHAINS + GRAPHS


def arrays(n_train=12, n_test=6, shape=(6, 5), dtype=np.uint8, seed=0):
    """Small random data in the layout of keras.datasets, three classes, each of them present."""
    rng = np.random.default_rng(seed)
    parts = []
    for n in (n_train, n_test):
        images = rng.integers(0, 256, (n, *shape))
        images = images.astype(np.uint8) if dtype == np.uint8 else (images / 255).astype(dtype)
        parts.append((images, np.arange(n) % 3))
    return tuple(parts)


def save_npz(path, source=None, **changes):
    (x_train, y_train), (x_test, y_test) = source or arrays()
    content = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, **changes}
    np.savez(path, **{name: array for name, array in content.items() if array is not None})
    return path


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A machine without network and without data: every download fails, the home folder is empty."""

    def fail(*args, **kwargs):
        raise Exception("URL fetch failure on https://example.org: None -- no route to host")

    for name in ann_training.KERAS_DATASETS:
        monkeypatch.setattr(getattr(keras.datasets, name), "load_data", fail)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPIKING_DATA_DIR", raising=False)


# --- data ---


def test_mnist_sample_is_complete_and_balanced():
    data = load_dataset()
    assert data.name == "mnist_sample"
    assert data.x_train.shape == (6000, 28, 28, 1) and data.x_test.shape == (1000, 28, 28, 1)
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == data.y_test.dtype == np.int32
    assert data.x_train.min() == 0 and data.x_train.max() == 1
    assert np.bincount(data.y_train).tolist() == [600] * 10 and np.bincount(data.y_test).tolist() == [100] * 10
    assert data.classes == 10 and data.input_shape == (28, 28, 1)


def test_uint8_is_divided_by_255_and_gets_a_channel():
    source = arrays()
    data = load_dataset(source)
    np.testing.assert_allclose(data.x_train[..., 0], source[0][0] / 255, rtol=1e-6)
    np.testing.assert_array_equal(data.y_test, source[1][1])
    assert data.x_test.shape == (6, 6, 5, 1) and data.classes == 3


def test_floats_are_kept_and_column_labels_flattened():
    (x_train, y_train), (x_test, y_test) = arrays(shape=(4, 4, 3), dtype=np.float64)
    data = load_dataset(((x_train, y_train[:, None].astype(np.uint8)), (x_test, y_test[:, None])))
    np.testing.assert_array_equal(data.x_train, x_train.astype(np.float32))
    np.testing.assert_array_equal(data.y_train, y_train)
    assert data.y_train.dtype == np.int32 and data.input_shape == (4, 4, 3)


def test_dataset_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_dataset(arrays()).name = "other"


@pytest.mark.parametrize("changed", ["x_train", "y_train", "x_test", "y_test"])
def test_fingerprint_follows_the_content_alone(tmp_path, changed):
    source = arrays()
    original = load_dataset(source)
    same = load_dataset(save_npz(tmp_path / "other_name.npz", source))
    assert same.name == "other_name" and same.fingerprint == original.fingerprint
    content = {name: getattr(original, name).copy() for name in ("x_train", "y_train", "x_test", "y_test")}
    content[changed].flat[1] = 1 - content[changed].flat[1]
    assert ann_training.Dataset("changed", **content).fingerprint != original.fingerprint


@pytest.mark.parametrize(("factor", "size"), [(0.5, (3, 2)), (2, (12, 10)), (0.01, (1, 1)), (1.0, (6, 5)),
                                              (None, (6, 5)), ([9, 4], (9, 4)), ((3, 3), (3, 3))])
def test_rescaling(factor, size):
    data = load_dataset(arrays(), image_size_rescale=factor)
    assert data.x_train.shape[1:3] == data.x_test.shape[1:3] == size
    assert data.x_train.dtype == np.float32


def test_rescaling_is_bilinear():
    images = np.zeros((1, 2, 2), np.float32)
    images[:, :, 1] = 1.0
    source = (images, [0]), (images, [0])
    # Pixel centres of the doubled row lie at -0.25, 0.25, 0.75 and 1.25 of the old one; the border is repeated.
    row = load_dataset(source, image_size_rescale=2).x_train[0, 0, :, 0]
    np.testing.assert_allclose(row, [0, 0.25, 0.75, 1], atol=1e-6)


def test_depth_increase_repeats_the_channels_in_order():
    source = arrays(shape=(4, 4, 2))
    plain, deep = load_dataset(source), load_dataset(source, image_depth_increase=3)
    assert deep.input_shape == (4, 4, 6)
    np.testing.assert_array_equal(deep.x_test, np.concatenate([plain.x_test] * 3, axis=-1))


@pytest.mark.parametrize(("increase", "channels"), [(None, 1), (False, 1), (True, 3), (1, 1), (2, 2)])
def test_depth_increase_takes_what_old_scripts_give(increase, channels):
    data = load_dataset(arrays(shape=(4, 4)), image_depth_increase=increase)
    assert data.input_shape == (4, 4, channels)
    assert all(np.array_equal(data.x_train[..., 0], data.x_train[..., channel]) for channel in range(channels))


def test_only_gray_images_become_rgb():
    with pytest.raises(ValueError, match=r"makes gray images RGB.*Received: images of shape \(4, 4, 2\)"):
        load_dataset(arrays(shape=(4, 4, 2)), image_depth_increase=True)


def test_a_user_without_a_home_reads_what_is_there(monkeypatch, tmp_path):
    def unknown(*args):
        raise KeyError("no such user")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    np.savez(tmp_path / "mnist.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"),
                                                (part for pair in arrays() for part in pair), strict=True)))
    assert len(load_dataset("mnist", data_dir=tmp_path).x_train)
    with pytest.raises(FileNotFoundError, match="no such .npz file"):
        load_dataset("~nobody_of_that_name/data.npz")


def test_max_images_keeps_the_first():
    data = load_dataset(arrays(), max_images=8)
    assert len(data.x_train) == len(data.y_train) == 8 and len(data.x_test) == len(data.y_test) == 6
    np.testing.assert_array_equal(data.x_train, load_dataset(arrays()).x_train[:8])


def test_a_name_is_looked_for_in_the_folders_in_order(offline, monkeypatch, tmp_path):
    folders = [tmp_path / "variable", tmp_path / "home" / ".cache" / "spiking-datasets"]
    for size, folder in enumerate(folders, start=3):
        folder.mkdir(parents=True)
        save_npz(folder / "mnist.npz", arrays(n_train=size))
    monkeypatch.setenv("SPIKING_DATA_DIR", str(folders[0]))
    monkeypatch.setattr(keras.datasets.mnist, "load_data", functools.partial(arrays, n_train=7))
    found = []
    for folder in (*folders, None):
        data = load_dataset("mnist")
        found.append((len(data.x_train), data.source))
        if folder:
            (folder / "mnist.npz").unlink()
    assert found == [(3, str(folders[0] / "mnist.npz")), (4, str(folders[1] / "mnist.npz")), (7, "keras.datasets")]


def test_a_folder_named_in_the_environment_that_lacks_the_file_is_told(offline, monkeypatch, tmp_path, caplog):
    home = tmp_path / "home" / ".cache" / "spiking-datasets"
    home.mkdir(parents=True)
    save_npz(home / "mnist.npz")
    monkeypatch.setenv("SPIKING_DATA_DIR", str(tmp_path / "mistyped"))
    with caplog.at_level("INFO"):
        assert load_dataset("mnist").source == str(home / "mnist.npz")
    assert "mistyped" in caplog.text and f"read from {home / 'mnist.npz'}" in caplog.text


def test_a_data_dir_without_the_file_takes_no_other_copy(offline, monkeypatch, tmp_path):
    right, mistyped = tmp_path / "right", tmp_path / "rihgt"
    right.mkdir()
    save_npz(right / "mnist.npz")
    monkeypatch.setenv("SPIKING_DATA_DIR", str(right))
    monkeypatch.setattr(keras.datasets.mnist, "load_data", arrays)
    for folder in (mistyped, str(mistyped), ""):
        with pytest.raises(FileNotFoundError, match="must hold mnist.npz.*Received: data_dir="):
            load_dataset("mnist", data_dir=folder)
    assert load_dataset("mnist", data_dir=right).source == str(right / "mnist.npz")


def test_the_source_goes_along(tmp_path):
    data = load_dataset(save_npz(tmp_path / "own.npz"))
    assert data.source == str(tmp_path / "own.npz")
    assert load_dataset(data, max_images=6).source == data.for_validation(0.5).source == data.source
    assert load_dataset(arrays()).source == "arrays"


@pytest.mark.parametrize("name", ann_training.KERAS_DATASETS)
def test_without_network_the_error_names_the_ways(offline, name):
    with pytest.raises(FileNotFoundError, match="SPIKING_DATA_DIR") as caught:
        load_dataset(name)
    for way in (f"{name}.npz", "`data_dir`", "~/.cache/spiking-datasets", "mnist_sample", "no route to host"):
        assert way in str(caught.value)


def replaced(part, index, value):
    """Arrays with one replaced: part 0 is for training, 1 for test; index 0 the images, 1 the labels."""
    source = [list(pair) for pair in arrays(dtype=np.float32)]
    source[part][index] = value
    return source


def with_pixel(value):
    images = arrays(dtype=np.float32)[0][0]
    images[2, 3, 1] = value
    return replaced(0, 0, images)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnits", "'mnits'.*mnist_sample, mnist, fashion_mnist, cifar10, cifar100"),
        (7, "type int.*mnist_sample"),
        (arrays()[0], "type tuple"),
        (replaced(0, 1, np.zeros(11, int)), "12 images and 11 labels"),
        (replaced(1, 0, np.zeros((5, 6, 5))), "5 images and 6 labels"),
        (replaced(0, 1, np.zeros(12)), "must be integers.*float64"),
        (replaced(0, 1, np.eye(12, dtype=int)), "argmax"),
        (replaced(0, 1, np.array(["cat", "dog"] * 6)), "must be integers.*<U3.*Number the classes"),
        (replaced(1, 1, [b"cat", b"dog"] * 3), "must be integers.*S3.*Number the classes"),
        (replaced(0, 1, np.array(["cat", 3] * 6, object)), "must be integers.*object.*Number the classes"),
        (replaced(0, 1, np.arange(12) % 2 == 0), "must be integers.*bool.*Number the classes"),
        (replaced(0, 1, np.arange(12) + 2**32), "at most 99999.*the label 4294967307"),  # was 11 in int32
        (replaced(1, 1, np.arange(6, dtype=np.uint64) + 2**63), "at most 99999"),
        (replaced(0, 1, [10**7] * 12), "at most 99999.*the label 10000000"),
        (replaced(1, 1, np.arange(6) - 1), "negative.*-1"),
        (replaced(1, 0, np.zeros((6, 5, 6))), r"same shape.*\(6, 5, 1\) and \(5, 6, 1\)"),
        (with_pixel(np.nan), "NaN"),
        (with_pixel(np.inf), "infinite"),
        (with_pixel(255), r"lie in \[0, 1\].*255"),
        (with_pixel(-0.5), r"lie in \[0, 1\].*-0.5"),
        (replaced(0, 0, np.zeros((12, 30))), r"\(12, 30\)"),
        (replaced(0, 0, np.zeros((12, 6, 5), int)), "uint8.*int64"),
        (replaced(0, 0, np.zeros((12, 6, 5), np.uint16)), "uint16.*Divide.*65535 for 16"),
        (replaced(0, 0, np.zeros((0, 6, 5))), "add some"),
        (replaced(0, 0, 0.5), "shape"),
    ],
)
def test_bad_data_is_refused(source, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(source)
    assert "Received: " in str(caught.value)


def test_the_remedies_lead_to_data_that_is_taken():
    (x_train, _), (x_test, _) = arrays(dtype=np.float32)
    y_train, y_test = np.array(["dog", "cat", "emu"] * 4), np.array(["emu", "cat"] * 3)
    names = sorted(set(y_train))
    labels = np.searchsorted(names, y_train), np.searchsorted(names, y_test)
    counts = (x_train * 65535).astype(np.uint16), (x_test * 65535).astype(np.uint16)
    data = load_dataset(((counts[0] / 65535, labels[0]), (counts[1] / 65535, labels[1])))
    np.testing.assert_array_equal(data.y_train, [1, 0, 2] * 4)
    np.testing.assert_array_equal(data.y_test, [2, 0] * 3)
    np.testing.assert_allclose(data.x_train[..., 0], x_train, atol=1e-4)


def test_counts_that_differ_show_even_when_cut_to_max_images():
    with pytest.raises(ValueError, match="12 images and 11 labels"):
        load_dataset(replaced(0, 1, np.zeros(11, int)), max_images=4)


@pytest.mark.parametrize(
    "argument",
    [{"image_size_rescale": value} for value in (0, -1.0, float("nan"), float("inf"), "2", True)]
    + [{"image_size_rescale": value} for value in ([28], [28, 0], [2.5, 3])]
    + [{"image_depth_increase": value} for value in (0, -1, 1.5, "3")]
    + [{"max_images": value} for value in (0, -3, 2.5)],
    ids=str,
)
def test_bad_arguments_are_refused(argument):
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=f"{name}`? must be .*Received: {name}={re.escape(repr(value))}"):
        load_dataset(arrays(), **argument)


def test_npz_with_missing_arrays(tmp_path):
    with pytest.raises(ValueError, match="without y_train, x_test"):
        load_dataset(save_npz(tmp_path / "a.npz", y_train=None, x_test=None))


def test_npz_with_pickled_array(tmp_path):
    path = save_npz(tmp_path / "a.npz", x_train=np.array([np.zeros((2, 2)), np.zeros((3, 3))], dtype=object))
    with pytest.raises(ValueError, match="pickled"):
        load_dataset(str(path))


class Exploit:
    """Would leave a trace if it were ever unpickled."""

    loaded = False

    def __reduce__(self):
        return setattr, (Exploit, "loaded", True)


def test_npz_that_is_a_pickle_is_not_run(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(ValueError, match="pickled"):
        load_dataset(path)
    assert not Exploit.loaded


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_npz_that_is_damaged(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_dataset(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_wrong_bytes_is_refused_or_read_as_it_was(tmp_path, save):
    (x_train, y_train), (x_test, y_test) = arrays()
    path = tmp_path / "a.npz"
    save(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):  # zlib.error, NotImplementedError, RuntimeError and OSError came through, too
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(0, len(content), rng.choice([1, 3, 20]))] = rng.integers(0, 256)
        path.write_bytes(damaged.tobytes())
        try:
            data = load_dataset(path)
        except ValueError as error:
            assert "Received: " in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(data.x_train[..., 0], x_train.astype(np.float32) / np.float32(255))
            np.testing.assert_array_equal(data.y_train, y_train)
            np.testing.assert_array_equal(data.x_test[..., 0], x_test.astype(np.float32) / np.float32(255))
    assert refused > 200


def test_npz_that_is_a_single_array(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="no .npz archive"):
        load_dataset(tmp_path / "a.npz")


def test_npz_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such .npz.*missing.npz"):
        load_dataset(str(tmp_path / "missing.npz"))


# --- architectures ---


def test_all_architectures_have_a_training_function():
    assert list(ARCHITECTURES) == list(TRAINING_FUNCTIONS) == NAMES
    for name, function in TRAINING_FUNCTIONS.items():
        assert getattr(ann_training, f"train_network_{name}") is function
        assert f"train_network_{name}" in ann_training.__all__
        assert name in function.__doc__ and ARCHITECTURES[name].__doc__ in function.__doc__
        assert pickle.loads(pickle.dumps(function)) is function
    assert all(hasattr(ann_training, name) for name in ann_training.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_architecture_is_a_named_network_that_ends_in_softmax(name):
    build = ARCHITECTURES[name]
    network = build((28, 28, 1), 7)
    assert (type(network) is keras.Sequential) == (name in CHAINS) and network.name == name
    assert network.input_shape == (None, 28, 28, 1) and network.output_shape == (None, 7)
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    scores = network.predict_on_batch(images)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    assert np.ptp(scores) > 0
    # No name or setting may depend on what was built before: they are part of the cache key.
    if name != "vgg16":  # 150 MB a time
        assert json.dumps(build((28, 28, 1), 7).get_config()) == json.dumps(network.get_config())
    assert len({layer.name for layer in network.layers}) == len(network.layers)
    activations = [layer for layer in network.layers if layer.name.endswith("_act")]
    neurons = [layer for layer in network.layers if hasattr(layer, "kernel")]
    assert neurons[-1].name == "scores"
    assert len(activations) == len(neurons) - 1 or name in GRAPHS
    function = keras.activations.relu6 if name == "mobilenetv2_slim" else keras.activations.relu
    assert {layer.activation for layer in activations} == {function}


def kinds(name, shape=(28, 28, 1), **options):
    layers = ARCHITECTURES[name](shape, 10, **options).layers
    return [type(layer).__name__ for layer in layers if not layer.name.endswith("_act")]


def test_layers_are_what_the_names_say():
    assert kinds("denseonly1") == ["Flatten", "Dense", "Dense"]
    assert ARCHITECTURES["denseonly1"]((28, 28, 1), 10).count_params() == 784 * 600 + 600 + 600 * 10 + 10
    # LeNet-5 as LeCun's, each map of the second convolution seeing all six of the first.
    weights = 6 * 25 + 6 + 16 * 6 * 25 + 16 + 400 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10
    for name in ("lenet5", "lenet5_averagepool", "lenet5_maxpool"):
        assert ARCHITECTURES[name]((28, 28, 1), 10).count_params() == weights
    assert kinds("lenet5_averagepool").count("AveragePooling2D") == 2
    for name in ("base", "base_scale1", "base_scale2", "denseonly1"):
        assert "Conv2D" not in kinds(name)
    for name in ("fully_conv", "fully_conv_small"):
        assert "Dense" not in kinds(name) and "MaxPooling2D" not in kinds(name)
    for name in ("base_conv", "lenet5"):
        assert "Conv2D" in kinds(name) and not any("Pooling" in kind for kind in kinds(name))
    for name in ("base_maxpool", "lenet5_maxpool", "lenet5_maxpool_extensions"):
        assert kinds(name).count("MaxPooling2D") == 2
    assert {"BatchNormalization", "AveragePooling2D", "Dropout"} <= set(kinds("batchnorm_etal"))
    assert kinds("resnet_ish").count("Conv2D") == 19


def multiplications(network):
    kernels = [layer for layer in network.layers if hasattr(layer, "kernel")]
    return sum(math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape) for layer in kernels)


def sources(network, layer):
    """Names of the layers that it listens to, in order."""
    (node,) = network.get_layer(layer)._inbound_nodes
    return [tensor._keras_history.operation.name for tensor in node.input_tensors]


def test_resnet20_is_that_of_the_paper():
    network = ARCHITECTURES["resnet20"]((32, 32, 3), 10)
    # 3 x 3: one of 3 to 16 maps, 6 of 16, one of 16 to 32, 5 of 32, one of 32 to 64, 5 of 64; 1 x 1: two shortcuts
    kernels = 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2) + 16 * 32 + 32 * 64
    norms = 4 * (16 * 7 + 32 * 7 + 64 * 7)
    assert network.count_params() == kernels + norms + 64 * 10 + 10
    assert multiplications(network) == pytest.approx(40.8e6, rel=1e-2)
    assert sources(network, "add_1") == ["conv_3_norm", "conv_1_act"]  # identity
    assert sources(network, "add_4") == ["conv_9_norm", "conv_10_norm"]  # the shape changes
    assert sources(network, "join_4_act") == ["add_4"]


def test_mobilenetv2_slim_has_linear_bottlenecks_and_inverted_residuals():
    network = ARCHITECTURES["mobilenetv2_slim"]((32, 32, 3), 10)
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds.count("DepthwiseConv2D") == 10 and kinds.count("Add") == 6
    added = {source for number in range(1, 7) for source in sources(network, f"add_{number}")}
    # What is added comes from a normalisation, or from another sum: no activation in between.
    assert len(added) == 12 and all(source.endswith("_norm") or source.startswith("add_") for source in added)
    shapes = [layer.output.shape[1:] for layer in network.layers if type(layer).__name__ == "Add"]
    assert shapes == [(16, 16, 24)] * 2 + [(8, 8, 48)] * 2 + [(8, 8, 64)] * 2
    assert 10e6 < multiplications(network) < 20e6


def test_densenet_slim_concatenates_all_that_came_before():
    network = ARCHITECTURES["densenet_slim"]((32, 32, 3), 10)
    channels = [layer.output.shape[-1] for layer in network.layers if type(layer).__name__ == "Concatenate"]
    # 16, three times 6 more; half of 34, three times 12 more; half of 53, three times 24 more
    assert channels == [22, 28, 34, 29, 41, 53, 50, 74, 98]
    assert sources(network, "concatenate_2") == ["concatenate_1", "conv_5"]
    assert sources(network, "conv_4_norm") == ["concatenate_1"]  # in front of its convolution
    assert sources(network, "conv_4") == ["conv_4_act"]
    assert 10e6 < multiplications(network) < 20e6


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_take_other_images_and_activations(name):
    clamped = functools.partial(keras.layers.ReLU, threshold=0.5)
    network = ARCHITECTURES[name]((20, 33, 1), 4, clamped)
    assert network.output_shape == (None, 4)
    hidden = [layer for layer in network.layers if layer.name.endswith("_act")]
    assert len(hidden) > 10 and all(layer.threshold == 0.5 for layer in hidden)


def test_batch_normalisation_before_and_after_the_activation():
    order = [layer.name for layer in ARCHITECTURES["batchnorm_etal"]((12, 12, 1), 3).layers]
    assert order[:3] == ["conv_1", "conv_1_norm", "conv_1_act"]
    assert order[4:7] == ["conv_2", "conv_2_act", "conv_2_norm"]


def test_vgg16_takes_the_size_and_the_classes(monkeypatch):
    # The plan of the layers is enough: full networks of this size would fill the memory.
    monkeypatch.setattr(keras, "Sequential", lambda layers, name: layers)
    pools = {}
    for size in (1, 2, 28, 32, 64):
        layers = ARCHITECTURES["vgg16"]((size, size, 3), 100)
        filters = [layer.filters for layer in layers if isinstance(layer, keras.layers.Conv2D)]
        assert filters == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
        assert [layer.units for layer in layers if isinstance(layer, keras.layers.Dense)] == [4096, 4096, 100]
        pools[size] = sum(isinstance(layer, keras.layers.MaxPooling2D) for layer in layers)
    assert pools == {1: 0, 2: 1, 28: 4, 32: 5, 64: 5}


@pytest.mark.parametrize(("name", "size"), [("lenet5_maxpool", 6), ("lenet5", 4), ("base_maxpool", 3)])
def test_images_too_small(name, size):
    with pytest.raises(ValueError, match=rf"too small for '{name}'.*input_shape=\({size}, {size}, 1\)"):
        ARCHITECTURES[name]((size, size, 1), 10)


@pytest.mark.parametrize(("shape", "classes"), [((28, 28), 10), ((28, 0, 1), 10), ((8, 8, 1), 1), ((8, 8, 1), 2.5)])
def test_bad_shape_or_number_of_classes(shape, classes):
    with pytest.raises(ValueError, match="Received: (input_shape|classes)="):
        ARCHITECTURES["base"](shape, classes)


CLAMPED = functools.partial(keras.layers.ReLU, threshold=0.5)


@pytest.mark.parametrize(
    "activation",
    [CLAMPED, CLAMPED(), keras.layers.serialize(CLAMPED()), lambda: CLAMPED()],
    ids=["partial", "layer", "configuration", "function"],
)
def test_activation_can_be_replaced(activation):
    layers = ARCHITECTURES["base"]((4, 4, 1), 3, activation).layers
    hidden = [layer for layer in layers if layer.name.endswith("_act")]
    assert [layer.name for layer in hidden] == ["dense_1_act", "dense_2_act"] and hidden[0] is not hidden[1]
    x = np.array([[-1.0, 0.25, 0.75]], np.float32)
    for layer in hidden:
        np.testing.assert_array_equal(layer(x), [[0, 0, 0.75]])


@pytest.mark.parametrize("activation", ["rleu", 3, keras.activations.relu, {"class_name": "Nothing"}])
def test_unknown_activation_is_refused(activation):
    with pytest.raises(ValueError, match="`activation` must be .*Received: activation="):
        ARCHITECTURES["base"]((4, 4, 1), 3, activation)


# --- training ---


class Epochs(keras.callbacks.Callback):
    """Counts the epochs that were trained."""

    count = 0

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1
        self.logs = logs


def small(seed=0):
    data = load_dataset(arrays(n_train=48, n_test=12, seed=seed))
    return data.train, data.test


@pytest.fixture
def settings(tmp_path):
    return Training(epochs=2, batch_size_ann_training=16, ann_cache_dir=tmp_path / "anns")


def train(settings, ds_train=None, ds_test=None, name="base", **options):
    """Returns the network and the number of epochs it was trained for in this call."""
    watch = Epochs()
    network = train_network(
        name,
        dataclasses.replace(settings, callbacks=(watch, *settings.callbacks)),
        ds_train or small()[0],
        ds_test or small()[1],
        **options,
    )
    return network, watch.count


def same_weights(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


def test_second_call_loads_what_the_first_trained(settings):
    first, epochs = train(settings)
    assert epochs == 2
    second, epochs = train(settings)
    assert epochs == 0
    assert same_weights(first, second)
    images, labels = small()[1]
    np.testing.assert_array_equal(first.predict(images, verbose=0), second.predict(images, verbose=0))
    assert len(second.evaluate(images, labels, verbose=0)) == 2  # compiled, with loss and accuracy
    (path,) = settings.ann_cache_dir.glob("*.keras")
    assert path.name.startswith("base-")
    assert sorted(settings.ann_cache_dir.iterdir()) == [path.with_suffix(".json"), path]


def test_sidecar_tells_what_was_trained(settings):
    train(settings)
    (path,) = settings.ann_cache_dir.glob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["architecture"] == "base" and record["epochs"] == 2 and record["batch size"] == 16
    assert record["training data"]["images"] == 48 and record["training data"]["input_shape"] == [6, 5, 1]
    assert record["versions"]["keras"] == keras.__version__


@pytest.fixture
def deterministic():
    tf.config.experimental.enable_op_determinism()
    yield
    determinism.enable(False)


def test_deterministic_operations_give_other_weights_and_another_key(settings, request):
    first, _ = train(settings)
    request.getfixturevalue("deterministic")
    second, epochs = train(settings)
    assert epochs == 2 and not same_weights(first, second)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in settings.ann_cache_dir.glob("*.json")]
    assert sorted("deterministic operations" in record for record in records) == [False, True]


def test_a_network_that_was_rounded_otherwise_is_told(settings, monkeypatch, caplog):
    caplog.set_level("INFO", "ann_training")
    first, _ = train(settings)
    assert train(settings)[1] == 0 and "rounding" not in caplog.text
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 97)
    second, epochs = train(settings)
    assert epochs == 0 and same_weights(first, second)
    assert "'cores': 97" in caplog.text and "'oneDNN': '0'" in caplog.text and "would differ by rounding" in caplog.text
    (path,) = settings.ann_cache_dir.glob("*.json")
    path.unlink()  # nothing is known
    assert train(settings)[1] == 0


def test_force_training_trains_again_and_replaces(settings):
    first, _ = train(settings)
    (path,) = settings.ann_cache_dir.glob("*.keras")
    before = path.stat().st_ino
    again, epochs = train(settings, force_training=True)
    assert epochs == 2 and same_weights(first, again)
    assert list(settings.ann_cache_dir.glob("*.keras")) == [path] and path.stat().st_ino != before


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"batch_size_ann_training": 17},
        {"seed": 1},
        {"activation": CLAMPED},
        {"activation": functools.partial(keras.layers.ReLU, threshold=0.25)},
    ],
    ids=str,
)
def test_a_changed_setting_is_never_served_from_the_cache(settings, change):
    base = dataclasses.replace(settings, activation=functools.partial(keras.layers.ReLU, threshold=0.1))
    first, _ = train(base)
    changed = dataclasses.replace(base, **change)
    second, epochs = train(changed)
    assert epochs == changed.epochs
    assert not same_weights(first, second)
    assert len(list(settings.ann_cache_dir.glob("*.keras"))) == 2


def test_changed_training_data_architecture_or_method_trains_again(settings, monkeypatch):
    def fit(self, *args, epochs, callbacks, **options):  # ten true trainings would take long
        self.optimizer.build(self.trainable_variables)
        for epoch in range(epochs):
            callbacks[0].on_epoch_end(epoch)

    monkeypatch.setattr(keras.Sequential, "fit", fit)
    train(settings)
    (images, labels), _ = small()
    changed = images.copy()
    changed[5, 2, 2, 0] = 1 - changed[5, 2, 2, 0]
    relabelled = labels.copy()
    relabelled[5] = (relabelled[5] + 1) % 3
    assert train(settings, (changed, labels))[1] == 2
    assert train(settings, (images, relabelled))[1] == 2
    assert train(settings, (images[::-1], labels[::-1]))[1] == 2
    assert train(settings, name="base_scale1")[1] == 2
    for name, value in [("_CACHE_FORMAT", 0), ("_LEARNING_RATE", 1e-3)]:
        with monkeypatch.context() as patch:
            patch.setattr(ann_training, name, value)
            assert train(settings)[1] == 2
    for module in (keras, tf):
        with monkeypatch.context() as patch:
            patch.setattr(module, "__version__", "0.0")
            assert train(settings)[1] == 2
    wider = ann_training._Layout("", lambda net: net.flatten().dense(129).dense(64).scores())
    with monkeypatch.context() as patch:  # the same name, another network
        patch.setitem(ann_training._LAYOUTS, "base", wider)
        patch.setitem(ARCHITECTURES, "base", ann_training._architecture("base"))
        assert train(settings)[1] == 2
    assert len(list(settings.ann_cache_dir.glob("*.keras"))) == 10
    assert train(settings)[1] == 0


def test_test_data_has_no_influence(settings, tmp_path):
    first, _ = train(settings)
    other = small(seed=9)[1]
    assert train(settings, ds_test=other)[1] == 0
    elsewhere = dataclasses.replace(settings, ann_cache_dir=tmp_path / "elsewhere")
    assert same_weights(first, train(elsewhere, ds_test=other)[0])


def test_same_seed_same_weights(settings, tmp_path):
    first, _ = train(settings, name="batchnorm_etal")
    np.random.random(7), tf.random.normal((3,)), keras.random.normal((3,))
    elsewhere = dataclasses.replace(settings, ann_cache_dir=tmp_path / "elsewhere")
    second, epochs = train(elsewhere, name="batchnorm_etal")
    assert epochs == 2 and same_weights(first, second)


def test_replaced_activation_survives_the_cache(settings):
    clamped = dataclasses.replace(settings, activation=CLAMPED)
    train(clamped)
    loaded, epochs = train(clamped)
    assert epochs == 0
    assert loaded.get_layer("dense_1_act").threshold == 0.5


def test_generated_function_trains_its_architecture(settings):
    ds_train, ds_test = small()
    network = ann_training.train_network_denseonly1(settings, ds_train, ds_test)
    assert network.name == "denseonly1" and network.get_layer("dense_1").units == 600
    watch = Epochs()
    watched = dataclasses.replace(settings, callbacks=[watch])
    ann_training.train_network_denseonly1(watched, ds_train, ds_test, force_training=True)
    assert watch.count == 2
    assert {"accuracy", "val_accuracy"} <= set(watch.logs)


def test_learns(settings):
    """The class is the row that is lit; images never seen before are told apart."""

    def lit_rows(n, seed):
        labels = np.arange(n) % 3
        images = np.random.default_rng(seed).uniform(0, 0.5, (n, 6, 6, 1)).astype(np.float32)
        images[np.arange(n), 2 * labels] += 0.5
        return images, labels

    ds_test = lit_rows(60, seed=1)
    network, _ = train(dataclasses.replace(settings, epochs=15), lit_rows(240, seed=0), ds_test)
    assert network.evaluate(*ds_test, verbose=0)[1] > 0.95


def test_tf_data_is_trained_on_and_cached(settings):
    (images, labels), (x_test, y_test) = small()
    ds_train = tf.data.Dataset.from_tensor_slices((images, labels)).batch(5)
    ds_test = tf.data.Dataset.from_tensor_slices((x_test, y_test)).batch(5)
    first, epochs = train(settings, ds_train, ds_test)
    assert epochs == 2
    assert train(settings, ds_train, ds_test)[1] == 0
    # The batches of the caller do not matter, those of the settings do.
    assert train(settings, ds_train.rebatch(7), (x_test, y_test))[1] == 0
    assert first.optimizer.iterations.numpy() == 2 * 3
    # A filter hides the number of batches.
    ds_train, ds_test = (data.filter(lambda x, y: True) for data in (ds_train, ds_test))
    assert train(settings, ds_train, ds_test)[1] == 0
    hidden, epochs = train(settings, ds_train, ds_test, force_training=True)
    assert epochs == 2 and same_weights(first, hidden)
    # Arrays of the same content are shuffled: another training.
    other, epochs = train(settings, (images, labels))
    assert epochs == 2 and not same_weights(first, other)


def test_interrupted_training_leaves_no_file(settings):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(settings, callbacks=[Interrupt()]))
    assert list(settings.ann_cache_dir.iterdir()) == []
    assert train(settings)[1] == 2


def test_interrupted_saving_leaves_no_network(settings, monkeypatch):
    def save(self, path):
        Path(path).write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keras.Sequential, "save", save)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    assert [path.suffix for path in settings.ann_cache_dir.iterdir()] == [".json"]
    assert train(settings)[1] == 2


def test_damaged_file_is_named(settings):
    train(settings)
    (path,) = settings.ann_cache_dir.glob("*.keras")
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="force_training=True") as caught:
        train(settings)
    assert path.name in str(caught.value)
    assert train(settings, force_training=True)[1] == 2
    assert train(settings)[1] == 0


def bad(images=None, labels=None):
    (x, y), _ = small()
    return (x if images is None else images(x)), (y if labels is None else labels(y))


@pytest.mark.parametrize(
    ("part", "data", "message"),
    [
        ("ds_test", bad(labels=lambda y: y + 1), "largest is 2 in the training data, 3 in the test data"),
        ("ds_train", bad(labels=lambda y: y * 0), "two classes"),
        ("ds_train", bad(labels=lambda y: y - 1), "negative"),
        ("ds_train", bad(labels=lambda y: y[1:]), "48 images and 47 labels"),
        ("ds_train", bad(labels=lambda y: y / 2), "integers"),
        ("ds_train", bad(images=lambda x: x[..., 0]), "height, width, channels"),
        ("ds_train", bad(images=lambda x: x.astype(int)), "floats.*int64"),
        ("ds_train", bad(images=lambda x: x * np.nan), "NaN"),
        ("ds_test", bad(images=lambda x: x[:, 1:]), "same shape"),
        ("ds_train", small()[0][0], "pair"),
        ("ds_train", tf.data.Dataset.from_tensors(small()[0]).repeat(), "repeats forever"),
        ("ds_test", tf.data.Dataset.from_tensors(small()[1]).take(0), "at least one image"),
        ("ds_train", (small()[0][0], np.full(48, 10**7)), "at most 99999.*the label 10000000"),
        ("ds_train", (small()[0][0], small()[0][1].astype(str)), "must be integers.*Number the classes"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_training(settings, part, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        train_network("base", settings, **{"ds_train": small()[0], "ds_test": small()[1], part: data})
    assert "Received: " in str(caught.value)
    assert not settings.ann_cache_dir.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1. Received: epochs=0"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"batch_size_ann_training": 0}, "batch_size_ann_training=0"),
        ({"batch_size_ann_training": -1}, "batch_size_ann_training=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"callbacks": [keras.callbacks.EarlyStopping()]}, "Received: EarlyStopping"),
        ({"activation": "rleu"}, "activation='rleu'"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_bad_settings_are_refused(settings, change, message):
    with pytest.raises(ValueError, match=message):
        train_network("base", dataclasses.replace(settings, **change), *small())


def test_unknown_architecture_is_refused(settings):
    with pytest.raises(ValueError, match="'lenet6'.*base, base_scale1.*resnet_ish"):
        train_network("lenet6", settings, *small())


def test_folder_that_cannot_be_written_shows_before_training(settings, tmp_path):
    (tmp_path / "file").touch()
    watch = Epochs()
    blocked = dataclasses.replace(settings, ann_cache_dir=tmp_path / "file" / "anns", callbacks=[watch])
    with pytest.raises(OSError, match="Received: ann_cache_dir="):
        train_network("base", blocked, *small())
    assert watch.count == 0


def test_knows_nothing_of_the_rest_of_the_project():
    tree = ast.parse(Path(ann_training.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    outside = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    rooms = {"spiking.checks", "spiking.shown", "spiking.runs.devices", "spiking.runs.files", "spiking.runs.sources"}
    assert outside == {"keras", "numpy", "tensorflow"} | rooms  # rooms that know nothing of spikes
