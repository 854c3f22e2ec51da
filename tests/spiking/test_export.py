"""Networks leave Keras through its own export: the file, run by others, gives what the network gives."""

import importlib.util
import inspect
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from conversion import convert_ann_to_snn
from spiking import ENCODINGS

IMAGES = np.random.default_rng(0).uniform(0, 1, (6, 8, 8, 1)).astype("float32")
FORMATS = "input_signature" in inspect.signature(keras.Model.export).parameters


def chain():
    return keras.Sequential([
        keras.Input((8, 8, 1)), kl.Conv2D(4, 3, padding="same", activation="relu"), kl.MaxPooling2D(2), kl.Flatten(),
        kl.Dense(3, activation="softmax"),
    ])  # fmt: skip


def dense():
    return keras.Sequential([keras.Input((8, 8, 1)), kl.Flatten(), kl.Dense(4, activation="relu"), kl.Dense(2)])


def graph():
    image = keras.Input((8, 8, 1))
    x = kl.Conv2D(4, 3, padding="same", activation="relu")(image)
    y = kl.Conv2D(4, 3, padding="same")(x)
    x = kl.Concatenate()([kl.ReLU()(kl.Add()([x, y])), y])
    return keras.Model(image, kl.Dense(3)(kl.GlobalAveragePooling2D()(x)))


def saved_model(snn, folder):
    snn.export(folder / "net", format="tf_saved_model")
    loaded = tf.saved_model.load(folder / "net")
    return loaded.serve(IMAGES).numpy()


def litert(snn, folder):
    path = str(folder / "net.tflite")
    snn.export(path, format="litert")
    with warnings.catch_warnings():  # TensorFlow's own interpreter is to leave for the package, which few have yet
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("ai_edge_litert"):
            from ai_edge_litert.interpreter import Interpreter
        else:
            Interpreter = tf.lite.Interpreter
        run = Interpreter(path)
    (given,), (output,) = run.get_input_details(), run.get_output_details()
    run.resize_tensor_input(given["index"], IMAGES.shape)
    run.allocate_tensors()
    run.set_tensor(given["index"], IMAGES)
    run.invoke()
    return run.get_tensor(output["index"])


@pytest.mark.filterwarnings("ignore")  # of tf2onnx and of what it loads
def onnx(snn, folder):
    runtime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("tf2onnx", reason="the extra [onnx] is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snn.export(str(folder / "net.onnx"), format="onnx")
    session = runtime.InferenceSession(str(folder / "net.onnx"))
    return session.run(None, {session.get_inputs()[0].name: IMAGES})[0]


CLOSED_FORMS = ("ttfs_exact", "radix")  # on graphs; the clock's loop takes longer to export
CASES = [
    *((saved_model, code, graph if code in (*CLOSED_FORMS, "rate") else chain) for code in ENCODINGS),
    (litert, "ttfs_exact", chain), (litert, "radix", graph), (litert, "rate", chain),
    *((onnx, code, graph if code in CLOSED_FORMS else chain) for code in ENCODINGS),
]  # fmt: skip


@pytest.mark.parametrize("run, code, network", CASES, ids=lambda each: getattr(each, "__name__", each))
def test_the_file_gives_what_the_network_gives(run, code, network, tmp_path):
    if run is not saved_model and not FORMATS:
        pytest.skip("this version of Keras exports SavedModel alone")
    keras.utils.set_random_seed(1)
    snn = convert_ann_to_snn(network(), IMAGES, code, 8)
    expected = snn(IMAGES)
    assert np.ptp(expected, axis=0).max() > 0.01  # images differ
    np.testing.assert_allclose(run(snn, tmp_path), expected, rtol=0, atol=1e-5)


def test_the_clock_of_a_closed_form_is_exported_as_stock_keras(tmp_path):
    snn = convert_ann_to_snn(dense(), IMAGES, "radix", 3)
    np.testing.assert_allclose(saved_model(keras.Model(snn.input, snn.output), tmp_path), snn(IMAGES), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_was_never_called_goes_to_onnx(tmp_path):
    snn = convert_ann_to_snn(dense(), IMAGES, "radix", 3)
    np.testing.assert_allclose(onnx(snn, tmp_path), snn(IMAGES), rtol=0, atol=1e-5)


@pytest.mark.skipif(not FORMATS, reason="this version of Keras exports SavedModel alone")
def test_what_cannot_be_exported_is_refused_with_its_reason(tmp_path, monkeypatch):
    snn = convert_ann_to_snn(chain(), IMAGES, "ttfs_exact", 2)
    with pytest.raises(ValueError, match="filepath to end with '.tflite'"):
        snn.export(tmp_path / "net", format="litert")
    with pytest.raises(ValueError, match="Unrecognized format"):
        snn.export(tmp_path / "net", format="nir")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "spiking-toolbox\[onnx\]"'):
        snn.export(tmp_path / "net.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_poisson_spikes_are_drawn_by_tensorflow_alone(tmp_path):
    snn = convert_ann_to_snn(dense(), IMAGES, "rate", 4, input_coding="poisson")
    with pytest.raises(ValueError, match="Received: format='litert' with Poisson input"):
        snn.export(tmp_path / "net.tflite", format="litert")
    np.testing.assert_allclose(saved_model(snn, tmp_path), snn(IMAGES), atol=1e-5)
