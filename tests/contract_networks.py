"""The networks of the contract suite (tests/spiking/test_contract.py): chains and graphs, tiny, one function a kind.

    ann = build("unet", relu)           # `relu`: () -> the activation layer of a code
    WIRING["unet"]                      # what the spiking network must look like, written by hand

Their arithmetic is made exact by `make_dyadic`; `images_for` draws images in multiples of 1/8.
"""

import keras
import numpy as np
from conftest import dyadic, randomise
from keras import layers as kl

from spiking.folding.reader import rerun


def _chain(relu):
    """Strides, average pooling, and layers without positions."""
    return keras.Sequential([
        keras.Input((6, 6, 2)), kl.Conv2D(3, 3, strides=2, padding="same", name="conv"), relu(),
        kl.AveragePooling2D(2, 1), kl.Conv2D(4, 2, name="second"), relu(), kl.Flatten(), kl.Dense(5, name="dense"),
        relu(), kl.Dense(3, name="scores"),
    ])  # fmt: skip


def _max_pool(relu):
    return keras.Sequential([
        keras.Input((6, 6, 2)), kl.Conv2D(4, 3, name="conv"), relu(), kl.MaxPooling2D(2, name="pool"),
        kl.Conv2D(3, 2, name="second"), relu(), kl.Flatten(), kl.Dense(3, name="scores"),
    ])  # fmt: skip


def _same(relu):
    """A BatchNorm behind the ReLU shifts what is then padded by zeros: the next bias is a map."""
    return keras.Sequential([
        keras.Input((6, 6, 2)), kl.Conv2D(3, 3, padding="same", name="conv"), relu(), kl.BatchNormalization(),
        kl.Conv2D(3, 3, strides=2, padding="same", name="second"), relu(), kl.Flatten(), kl.Dense(3, name="scores"),
    ])  # fmt: skip


def _unet(relu):
    """Segmentation: three scores per pixel; a skip connection past pooling and upsampling, two windows long."""
    image = keras.Input((4, 4, 1), name="image")
    top = relu()(kl.Conv2D(2, 3, padding="same", name="top")(image))
    x = kl.MaxPooling2D(2, name="pool")(top)
    x = relu()(kl.Conv2D(3, 1, name="bottom")(x))
    x = kl.Concatenate(name="skip")([kl.UpSampling2D(2, name="up")(x), top])
    x = relu()(kl.Conv2D(2, 3, padding="same", name="merge")(x))
    return keras.Model(image, kl.Conv2D(3, 1, name="mask")(x))


def _two_inputs(relu):
    """An image and some facts about it; side by side they are of different depth."""
    image, facts = keras.Input((4, 4, 1), name="image"), keras.Input((3,), name="facts")
    x = kl.MaxPooling2D(2, name="pool")(relu()(kl.Conv2D(2, 3, padding="same", name="conv")(image)))
    x = relu()(kl.Dense(4, name="hidden")(kl.Flatten()(x)))
    x = kl.Concatenate(name="both")([x, relu()(kl.Dense(4, name="told")(facts))])
    x = relu()(kl.Dense(5, name="merge")(x))
    return keras.Model([image, facts], kl.Dense(3, name="scores")(x))


def _siamese(relu):
    """The same layers for two images, and what tells them apart."""
    middle = keras.Input((4, 4, 1))
    x = relu()(kl.Conv2D(2, 3, strides=2, name="conv")(middle))
    tower = keras.Model(middle, relu()(kl.Dense(4, name="code")(kl.Flatten()(x))), name="tower")
    left, right = keras.Input((4, 4, 1), name="left"), keras.Input((4, 4, 1), name="right")
    x = kl.Subtract(name="difference")([tower(left), tower(right)])
    x = relu()(kl.Dense(4, name="merge")(x))
    return keras.Model([left, right], kl.Dense(1, name="distance")(x))


def _two_heads(relu):
    """Residual: a shortcut past one layer and one past three; heads of different depth, as a dict."""
    image = keras.Input((4, 4, 1), name="image")
    start = relu()(kl.Conv2D(2, 3, padding="same", name="start")(image))
    x = relu()(kl.Conv2D(3, 1, name="wide")(start))
    x = relu(name="sum")(kl.Add(name="add")([start, kl.Conv2D(2, 3, padding="same", name="narrow")(x)]))
    y = relu()(kl.Conv2D(2, 3, padding="same", name="late")(x))
    y = relu(name="last")(kl.Add(name="long")([start, y, kl.Conv2D(2, 1, name="side")(x)]))
    box = kl.Dense(4, name="box")(kl.GlobalAveragePooling2D()(x))
    return keras.Model(image, {"label": kl.Dense(3, name="label")(kl.Flatten()(y)), "box": box})


def _autoencoder(relu):
    """Down to a code and up again: a transposed convolution, then upsampling."""
    image = keras.Input((4, 4, 1), name="image")
    x = relu()(kl.Conv2D(3, 2, strides=2, name="code")(image))
    x = relu()(kl.Dense(2, name="middle")(x))
    x = relu()(kl.Conv2DTranspose(2, 2, strides=2, name="grown")(kl.AveragePooling2D(2)(x)))
    return keras.Model(image, kl.Conv2D(1, 3, padding="same", name="copy")(kl.UpSampling2D(2)(x)))


BUILDERS = {
    "chain": _chain, "max_pool": _max_pool, "same": _same, "unet": _unet, "two_inputs": _two_inputs,
    "siamese": _siamese, "two_heads": _two_heads, "autoencoder": _autoencoder,
}  # fmt: skip
GRAPHS = ("unet", "two_inputs", "siamese", "two_heads", "autoencoder")

# Seeds of the weights; with others some layer is silent, or all of it fires, in some code.
SEEDS = {"autoencoder": 1}

# Name -> what it listens to, as the ANN has it: neurons, poolings, joins and read-outs.
WIRING = {
    "chain": {"conv": ["input_spikes"], "second": ["conv"], "dense": ["second"], "scores": ["dense"]},
    "max_pool": {"conv": ["input_spikes"], "pool": ["conv"], "second": ["pool"], "scores": ["second"]},
    "same": {"conv": ["input_spikes"], "second": ["conv"], "scores": ["second"]},
    "unet": {
        "top": ["input_spikes"], "pool": ["top"], "bottom": ["pool"], "skip": ["bottom", "top"], "merge": ["skip"],
        "mask": ["merge"],
    },
    "two_inputs": {
        "conv": ["image_spikes"], "pool": ["conv"], "hidden": ["pool"], "told": ["facts_spikes"],
        "both": ["hidden", "told"], "merge": ["both"], "scores": ["merge"],
    },
    "siamese": {
        "conv": ["left_spikes"], "code": ["conv"], "tower_conv": ["right_spikes"], "tower_code": ["tower_conv"],
        "difference": ["code", "tower_code"], "merge": ["difference"], "distance": ["merge"],
    },
    "two_heads": {
        "start": ["input_spikes"], "wide": ["start"], "add": ["start", "wide"], "sum": ["add"], "late": ["sum"],
        "long": ["start", "late", "sum"], "last": ["long"], "label": ["last"], "box": ["sum"],
    },
    "autoencoder": {"code": ["input_spikes"], "middle": ["code"], "grown": ["middle"], "copy": ["grown"]},
}  # fmt: skip


def build(kind, encoding):
    """A small ANN of each kind; the clamped code has its own rectifier."""

    def relu(**keywords):
        return kl.ReLU(threshold=0.25 if encoding == "ttfs_clamped" else 0.0, **keywords)

    return centre(randomise(BUILDERS[kind](relu), seed=SEEDS.get(kind, 5)))


def centre(ann):
    """Shifts the biases so that every channel is positive on some images and negative on others."""
    done = set()

    def centred(layer, x):
        if layer not in done:
            values = np.asarray(layer(x))
            layer.bias.assign_sub(values.mean(axis=tuple(range(values.ndim - 1))))
            done.add(layer)
        return layer(x)

    rerun(ann, images_for(ann, 40, seed=2), dict.fromkeys((kl.Dense, kl.Conv2D, kl.Conv2DTranspose), centred))
    return ann


def some_images(shape, number=7, seed=1):
    return dyadic(np.random.default_rng(seed).random((number, *shape)), 3).astype(np.float32)


def images_for(model, number=7, seed=1):
    """Images as the model takes them: an array, or a list with one for each input."""
    images = [some_images(tensor.shape[1:], number, seed + k) for k, tensor in enumerate(model.inputs)]
    return images if len(images) > 1 else images[0]


def make_dyadic(snn):
    """Rounds all weights to multiples of 2^-6; what was positive throughout (a ceiling, a threshold) stays so."""
    for weight in snn.weights:
        value = np.asarray(weight)
        rounded = dyadic(value, 6)
        weight.assign(np.maximum(rounded, 2.0**-6) if np.all(value > 0) else rounded)
    return snn


def stock_stack(snn):
    """The reference: the same layers run one after another by Keras itself."""
    return keras.Model(snn.inputs if len(snn.inputs) > 1 else snn.input, snn.output)


def stock_spikes(snn, images):
    """What stock Keras gives: the spikes of the hidden layers by name, `(T, batch, …)`, and the output."""
    outputs = {layer.name: layer.output for layer in snn.hidden_layers}
    inputs = snn.inputs if len(snn.inputs) > 1 else snn.input
    hidden, output = keras.Model(inputs, (outputs, snn.output))(images)
    spikes = {}
    for layer in snn.hidden_layers:
        values = np.moveaxis(hidden[layer.name].numpy(), 1, 0)
        # ttfs_dyn_thresh has a second stream beside the spikes, on a trailing axis
        spikes[layer.name] = values[..., 0] if values.ndim > len(layer.cell.neurons_shape) + 2 else values
    return spikes, output
