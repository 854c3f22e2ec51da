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

IMAGES = np.random.default_rng(0).uniform(0, 1, (6, 8, 8, 1)).astype("float32")
FORMATS = "input_signature" in inspect.signature(keras.Model.export).parameters


def chain():
    return keras.Sequential([
        keras.Input((8, 8, 1)), kl.Conv2D(4, 3, padding="same", activation="relu"), kl.MaxPooling2D(2), kl.Flatten(),
        kl.Dense(3, activation="softmax"),
    ])  # fmt: skip


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


CASES = [(run, code, network) for run, code, network in (
    (saved_model, "ttfs_exact", graph), (saved_model, "rate", graph),
    (saved_model, "ttfs_dyn_thresh", chain), (litert, "ttfs_exact", chain), (litert, "rate", graph),
    (onnx, "ttfs_exact", graph), (onnx, "rate", chain),
)]  # fmt: skip


@pytest.mark.parametrize("run, code, network", CASES, ids=lambda each: getattr(each, "__name__", each))
def test_the_file_gives_what_the_network_gives(run, code, network, tmp_path):
    if run is not saved_model and not FORMATS:
        pytest.skip("this version of Keras exports SavedModel alone")
    snn = convert_ann_to_snn(network(), IMAGES, code, 8)
    expected = snn.predict(IMAGES, verbose=0)
    assert np.ptp(expected, axis=0).max() > 0.01  # images differ
    np.testing.assert_allclose(run(snn, tmp_path), expected, rtol=0, atol=1e-5)


def test_poisson_spikes_are_drawn_by_tensorflow_alone(tmp_path):
    snn = convert_ann_to_snn(chain(), IMAGES, "rate", 4, input_coding="poisson")
    with pytest.raises(ValueError, match="Received: format='litert' with Poisson input"):
        snn.export(tmp_path / "net.tflite", format="litert")
    np.testing.assert_allclose(saved_model(snn, tmp_path), snn.predict(IMAGES, verbose=0), atol=1e-5)
