"""Random Keras graphs: shortcuts, bottlenecks, concatenations, inception, shared layers, several inputs and outputs.

    network = random_graph(seed)                 # one of `KINDS` in turn
    network = random_graph(seed, dyadic=True)    # exact in float32

They have the interface of `random_networks.RandomNetwork`, whose rules for weights they share.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from random_networks import fill

from spiking.folding.reader import rerun


class Blocks:
    """Draws layers; the same seed makes the same graph in any dtype."""

    def __init__(self, seed: int, dyadic: bool, dtype: str):
        self.rng, self.dyadic, self.dtype = np.random.default_rng([seed, int(dyadic), 7]), dyadic, dtype
        # Its own chance, so that the other graphs do not depend on it.
        self.curves = np.random.default_rng([seed, int(dyadic), 8]) if is_curved(seed) else None

    def pick(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def conv(self, x, filters=None, size=None, activation=None, **keywords):
        """A convolution, perhaps with BatchNorm behind it, and an activation."""
        filters, size = filters or int(self.rng.integers(2, 5)), size or self.pick(1, 3)
        plain = {"padding": "same", "use_bias": self.pick(True, False), "dtype": self.dtype}
        x = kl.Conv2D(filters, size, **(plain | keywords))(x)
        return self.rectified(self.normalised(x), activation)

    def normalised(self, x):
        if self.pick(True, False):
            return x
        epsilon = 2.0**-10 if self.dyadic else 1e-3
        return kl.BatchNormalization(epsilon=epsilon, dtype=self.dtype)(x)

    def rectified(self, x, activation=None):
        kind = activation or self.pick("layer", "argument", "limited")
        if kind == "none":
            return x
        if self.curves:
            return self.curved(x)
        if kind == "limited":
            return kl.ReLU(max_value=2.0, dtype=self.dtype)(x)
        return kl.ReLU(dtype=self.dtype)(x) if kind == "layer" else kl.Activation("relu", dtype=self.dtype)(x)

    def curved(self, x):
        """An activation other than ReLU: a layer, or an operator."""
        curves = DYADIC_CURVES if self.dyadic else CURVES
        return curves[int(self.curves.integers(len(curves)))](x, self.dtype)

    def pool(self, x, kind=kl.MaxPooling2D):
        return kind(2, dtype=self.dtype)(x)

    def dense(self, x, units, activation=None):
        return kl.Dense(units, activation=activation, dtype=self.dtype)(x)

    def flat(self, x):
        return kl.Flatten(dtype=self.dtype)(x)

    def input(self, *shape):
        return keras.Input(shape, dtype=self.dtype)


def _operator(name):
    return lambda x, dtype: getattr(keras.ops, name)(x)


def _layer(kind, **arguments):
    return lambda x, dtype: kind(**arguments, dtype=dtype)(x)


# Other activations than ReLU, `(x, dtype) -> ` its symbolic result; those of the second row are exact.
CURVES = [_layer(kl.LeakyReLU, negative_slope=0.3), _layer(kl.PReLU), _layer(kl.PReLU, shared_axes=[1, 2]),
          *(_operator(name) for name in ("tanh", "sigmoid", "silu", "gelu", "elu", "softplus", "leaky_relu")),
          *(_layer(kl.Activation, activation=name) for name in ("mish", "hard_silu", "selu"))]  # fmt: skip
DYADIC_CURVES = [_layer(kl.LeakyReLU, negative_slope=0.25), _layer(kl.PReLU), _layer(kl.PReLU, shared_axes=[1, 2])]


def is_curved(seed: int) -> bool:
    """Whether the graph of a seed has other activations than ReLU: every fourth, so that all kinds come up."""
    return seed % 4 == 3


def _residual(b):
    x = image = b.input(6, 6, 2)
    x = b.conv(x, 3)
    for _ in range(int(b.rng.integers(1, 4))):
        y = b.conv(b.conv(x), 3, activation="none")
        shortcut = x if b.pick(True, False) else b.conv(x, 3, 1, activation="none")
        x = b.rectified(b.pick(kl.Add(dtype=b.dtype)([shortcut, y]), shortcut + y))
    return image, b.dense(b.flat(b.pool(x, b.pick(kl.MaxPooling2D, kl.AveragePooling2D))), 3, "softmax")


def _preactivated(b):
    """ResNetV2: the sum is passed on without an activation, and pooled."""
    x = image = b.input(6, 6, 2)
    x = b.conv(x, 3, activation="none")
    for _ in range(2):
        y = b.conv(b.rectified(b.normalised(x)), 3, activation="none")
        x = kl.Add(dtype=b.dtype)([x, y])
    return image, b.dense(b.flat(b.pool(x)), 3)


def _bottleneck(b):
    """MobileNetV2: expanded, depthwise, a linear bottleneck that two listen to."""
    x = image = b.input(6, 6, 2)
    x = b.conv(x, 2, activation="none")
    for _ in range(2):
        y = b.conv(x, 4, 1, activation="limited")
        y = kl.DepthwiseConv2D(3, padding="same", dtype=b.dtype)(y)
        y = b.conv(b.rectified(b.normalised(y), "limited"), 2, 1, activation="none")
        x = kl.Add(dtype=b.dtype)([x, y])
    x = kl.GlobalAveragePooling2D(dtype=b.dtype)(b.pool(kl.Cropping2D(1, dtype=b.dtype)(b.conv(x))))
    return image, b.dense(x, 3, "softmax")


def _dense(b):
    x = image = b.input(6, 6, 2)
    x = b.conv(x, 2, activation="none")
    for _ in range(3):
        y = b.conv(b.rectified(b.normalised(x)), 2, activation="none")
        x = kl.Concatenate(axis=-1, dtype=b.dtype)([x, y])
    x = b.pool(b.conv(x), kl.AveragePooling2D)
    return image, b.dense(b.flat(b.pool(b.conv(x))), 3)


def _inception(b):
    x = image = b.input(8, 8, 2)
    x = b.conv(x, 3)
    branches = [b.conv(x, 2, 1), b.conv(b.conv(x, 2, 1), 2, 3), kl.MaxPooling2D(3, 1, "same", dtype=b.dtype)(x)]
    x = kl.Concatenate(dtype=b.dtype)(branches)
    x = b.pool(x, b.pick(kl.MaxPooling2D, kl.AveragePooling2D))
    x = b.pool(x)  # of moved spikes, or of averages
    return image, b.dense(b.flat(x), 3, "softmax")


def _shared(b):
    """Siamese: the same layers for two images, then their difference."""
    left, right = b.input(5, 5, 1), b.input(5, 5, 1)
    middle = b.input(5, 5, 1)
    tower = keras.Model(middle, b.dense(b.flat(b.conv(middle, 3)), 4, "relu"))
    x = b.pick(kl.Subtract(dtype=b.dtype), kl.Average(dtype=b.dtype))([tower(left), tower(right)])
    return [left, right], b.dense(b.dense(x, 4, "relu"), 1, "sigmoid")


def _two_inputs(b):
    """An image and a vector."""
    image, vector = b.input(6, 6, 1), b.input(3)
    x = kl.Concatenate(dtype=b.dtype)([b.flat(b.pool(b.conv(image, 3))), b.dense(vector, 4, "relu"), vector])
    return [image, vector], b.dense(b.dense(x, 6, "relu"), 3, "softmax")


def _two_outputs(b):
    """Of different depth, as a dict, one of them a map: a small U-Net with a head."""
    x = image = b.input(8, 8, 1)
    x = top = b.conv(x, 3)
    x = b.pool(x, b.pick(kl.MaxPooling2D, kl.AveragePooling2D))
    x = b.conv(x, 3)
    up = kl.UpSampling2D(2, dtype=b.dtype)(x)
    up = b.conv(kl.Concatenate(dtype=b.dtype)([up, top]), 3)
    head = b.dense(kl.GlobalAveragePooling2D(dtype=b.dtype)(x), 3, "softmax")
    return image, {"mask": kl.Conv2D(2, 1, activation="softmax", dtype=b.dtype)(up), "label": head}


def _unrectified_pool(b):
    """Maxima of what no activation has rectified, of averages, and behind padding."""
    x = image = b.input(8, 8, 2)
    x = b.pool(b.conv(x, 3, activation="none"))
    y = kl.ZeroPadding2D(((1, 0), (0, 1)), dtype=b.dtype)(b.conv(x, 2))
    y = kl.MaxPooling2D(2, 1, dtype=b.dtype)(kl.AveragePooling2D(2, 1, dtype=b.dtype)(y))
    return image, b.dense(b.flat(y), 3)


KINDS = {
    "residual": _residual,
    "preactivated": _preactivated,
    "bottleneck": _bottleneck,
    "dense": _dense,
    "inception": _inception,
    "shared": _shared,
    "two inputs": _two_inputs,
    "two outputs": _two_outputs,
    "unrectified pool": _unrectified_pool,
}


@dataclass
class RandomGraph:
    """What `random_graph` returns; attributes as of `random_networks.RandomNetwork`."""

    seed: int
    dyadic: bool
    kind: str
    ann: Any = None
    images: Any = None
    clamped = False

    @property
    def curved(self) -> bool:
        """Whether neurons have other activations than ReLU, which not all codes carry."""
        return is_curved(self.seed)

    def build(self, dtype: str = "float32"):
        """The Keras network, with the weights of `ann` if there is one."""
        keras.utils.set_random_seed(0)
        model = keras.Model(*KINDS[self.kind](Blocks(self.seed, self.dyadic, dtype)))
        if self.ann is not None:
            model.set_weights(self.ann.get_weights())
        return model

    def __str__(self):
        return f"{self.kind}, seed={self.seed}, dyadic={self.dyadic}"


def kind_of(seed: int) -> str:
    """Which of `KINDS` a seed stands for; they take turns."""
    return list(KINDS)[seed % len(KINDS)]


def random_graph(seed: int, dyadic: bool = False, images: int = 4) -> RandomGraph:
    """The random graph of this seed, with its images; arguments as of `random_networks.random_network`."""
    network = RandomGraph(seed, dyadic, kind_of(seed))
    model, rng = network.build(), np.random.default_rng([seed, int(dyadic)])

    def draw(number):
        shapes = [(number, *tensor.shape[1:]) for tensor in model.inputs]
        values = [rng.integers(0, 9, shape) / 8 if dyadic else rng.random(shape) for shape in shapes]
        values = [each.astype(np.float32) for each in values]
        return values if len(values) > 1 else values[0]

    weighted = {type(layer) for layer in _flat(model) if layer.weights}
    done = set()

    def filled(layer, x):
        if layer not in done:
            fill(layer, rng, x, dyadic)
            done.add(layer)
        return layer(x, training=False) if isinstance(layer, kl.BatchNormalization) else layer(x)

    rerun(model, draw(24), dict.fromkeys(weighted, filled))
    network.images, network.ann = draw(images), model
    return network


def _flat(model):
    for layer in model.layers:
        yield from _flat(layer) if hasattr(layer, "layers") else [layer]
