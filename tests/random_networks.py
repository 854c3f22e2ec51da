"""Random Keras chains that the toolbox supports, one a seed, with weights that keep activations of order one.

    network = random_network(seed)                 # anything the converters take
    network = random_network(seed, dyadic=True)    # exact in float32: "the same" means equal, bit by bit

A network is drawn as a list of layer specifications under the rules of what converts without inserted neurons (where a
max pooling may stand, what may stand before its activation, what only the end may hold), so a refusal is a bug. It is
then built, in any dtype, as a Sequential or a functional chain, flat or nested. Seeds take turns in the number of
spatial dimensions and in the layer types they favour; `covered` says which types came up. In every fourth turn neurons
have other activations than ReLU, too.

Dyadic networks hold multiples of small powers of two only: kernels sparse with entries 2^k, BatchNorm with
var + ε = 4^j, average pooling over powers of two. Each stage rounds its activity, so no bits pile up with depth.
"""

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers as kl

NONE, SEQUENCE, PLANE, VOLUME = range(4)  # spatial dimensions

KERNELS = {
    NONE: [kl.Dense],
    SEQUENCE: [kl.Conv1D, kl.Conv1DTranspose, kl.DepthwiseConv1D, kl.SeparableConv1D, kl.Dense],
    PLANE: [kl.Conv2D, kl.Conv2D, kl.Conv2DTranspose, kl.DepthwiseConv2D, kl.SeparableConv2D, kl.Dense],
    VOLUME: [kl.Conv3D, kl.Conv3DTranspose, kl.Dense],
}
WEIGHTED = [kind for kinds in KERNELS.values() for kind in kinds]
PADDING = {SEQUENCE: kl.ZeroPadding1D, PLANE: kl.ZeroPadding2D, VOLUME: kl.ZeroPadding3D}
CROPPING = {SEQUENCE: kl.Cropping1D, PLANE: kl.Cropping2D, VOLUME: kl.Cropping3D}
UPSAMPLING = {SEQUENCE: kl.UpSampling1D, PLANE: kl.UpSampling2D, VOLUME: kl.UpSampling3D}
AVERAGE = {SEQUENCE: kl.AveragePooling1D, PLANE: kl.AveragePooling2D}
GLOBAL_AVERAGE = {
    SEQUENCE: kl.GlobalAveragePooling1D,
    PLANE: kl.GlobalAveragePooling2D,
    VOLUME: kl.GlobalAveragePooling3D,
}
MAXIMUM = {SEQUENCE: kl.MaxPooling1D, PLANE: kl.MaxPooling2D}
GLOBAL_MAXIMUM = {SEQUENCE: kl.GlobalMaxPooling1D, PLANE: kl.GlobalMaxPooling2D, VOLUME: kl.GlobalMaxPooling3D}
SPATIAL_DROPOUT = {SEQUENCE: kl.SpatialDropout1D, PLANE: kl.SpatialDropout2D, VOLUME: kl.SpatialDropout3D}
DROPPED = [kl.Dropout, kl.AlphaDropout, kl.GaussianDropout, kl.GaussianNoise, kl.ActivityRegularization]

# Activations other than the ReLU: layers with their arguments, and functions of Keras by name (3.3 lacks some).
CURVED_LAYERS = [(kl.LeakyReLU, {"negative_slope": 0.3}), (kl.PReLU, {}), (kl.ELU, {"alpha": 0.7})]
CURVED_FUNCTIONS = ("elu", "selu", "celu", "tanh", "sigmoid", "hard_sigmoid", "softplus", "softsign", "silu",
                    "hard_silu", "gelu", "mish", "leaky_relu")  # fmt: skip
# The same, exact in dyadic arithmetic.
DYADIC_LAYERS = [(kl.LeakyReLU, {"negative_slope": 0.25}), (kl.PReLU, {})]
DYADIC_FUNCTIONS = ("hard_tanh", "soft_shrink", "hard_shrink")

MOST_VALUES = 260  # of one activation
MOST_POSITIONS = 90


@dataclass
class Spec:
    """One layer: its type and arguments, and the dimensions it was drawn for."""

    kind: type
    arguments: dict[str, Any] = field(default_factory=dict)

    def make(self, dtype: str):
        arguments = {
            key: value.make(dtype) if isinstance(value, Spec) else value for key, value in self.arguments.items()
        }
        return self.kind(**arguments, dtype=dtype)

    def __str__(self):
        return f"{self.kind.__name__}({', '.join(f'{key}={value}' for key, value in self.arguments.items())})"


@dataclass
class RandomNetwork:
    """What `random_network` returns.

    Attributes:
        seed, dyadic: as given.
        specs: the layers, flat.
        structure: how they are wrapped, a name of `STRUCTURES`.
        end: number of layers in front of the read-out's activation.
        curved: whether some neurons have another activation than ReLU, which not all codes carry.
        ann: the network, float32.
        images: `(number, …)`, in [0, 1].
    """

    seed: int
    dyadic: bool
    input_shape: tuple[int, ...]
    specs: list[Spec]
    structure: str
    end: int
    curved: bool
    ann: Any = None
    images: Any = None

    @property
    def clamped(self) -> bool:
        """Whether a ReLU has a threshold, which not all codes can do."""
        return any(relu.arguments.get("threshold") for relu in self._rectifiers())

    def _rectifiers(self):
        candidates = [spec.arguments.get("activation") for spec in self.specs] + self.specs
        return [spec for spec in candidates if isinstance(spec, Spec) and spec.kind is kl.ReLU]

    def covered(self) -> set[type]:
        """The layer types in the network."""
        given = {spec.arguments["activation"].kind for spec in self.specs
                 if isinstance(spec.arguments.get("activation"), Spec)}  # fmt: skip
        return {spec.kind for spec in self.specs} | given | {kl.InputLayer}

    def build(self, dtype: str = "float32", last_activation: bool = True):
        """The Keras network with the weights of `ann`.

        Args:
            dtype: of weights and computation.
            last_activation: False to leave the softmax or sigmoid out.
        """
        specs = self.specs
        if not last_activation:
            specs = specs[: self.end - 1] + [
                Spec(spec.kind, {key: value for key, value in spec.arguments.items() if value not in FINAL})
                for spec in specs[self.end - 1 :]
                if spec.kind is not kl.Softmax
            ]
            specs = [Spec(kl.Activation, {"activation": "linear"}) if not _complete(spec) else spec for spec in specs]
        model = STRUCTURES[self.structure]([spec.make(dtype) for spec in specs], self.input_shape, dtype)
        if self.ann is not None:
            model.set_weights(self.ann.get_weights())
        return model

    def __str__(self):
        lines = "\n  ".join(str(spec) for spec in self.specs)
        return f"seed={self.seed}, dyadic={self.dyadic}, {self.structure}, input {self.input_shape}:\n  {lines}"


FINAL = ("softmax", "sigmoid")


def _complete(spec) -> bool:
    return spec.kind is not kl.Activation or "activation" in spec.arguments


# ---------------------------------------------------------------------------------------------------------------------
# Structures: the same chain in different Keras wrappings


def _sequential(layers, shape, dtype):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def _functional(layers, shape, dtype):
    x = inputs = keras.Input(shape, dtype=dtype)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def _nested(layers, shape, dtype):
    middle = len(layers) // 3
    inner = keras.Sequential(layers[middle : 2 * middle])
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers[:middle], inner, *layers[2 * middle :]])


def _functional_around_nested(layers, shape, dtype):
    middle = len(layers) // 2
    innermost = keras.Sequential(layers[middle:])
    outer = keras.Sequential([*layers[1:middle], innermost])
    return _functional([layers[0], outer], shape, dtype)


STRUCTURES = {
    "sequential": _sequential,
    "functional": _functional,
    "nested": _nested,
    "functional around nested": _functional_around_nested,
}


# ---------------------------------------------------------------------------------------------------------------------
# Drawing the layers


class Draft:
    """A chain under construction, and what decides what may come next.

    Attributes:
        shape: of the activation so far, without batch axis.
        weighted: a kernel came since the last neurons: values of either sign.
        neurons: number of layers of neurons so far.
        waiting: a max pooling waits for its activation: only scales per channel, poolings and dropouts may come.
        shifted: an affine layer came since the last neurons, without a kernel behind it.
        uneven: that scale or shift may differ between positions: no max pooling of spikes.
    """

    def __init__(self, rng, dyadic: bool, shape, favourites, clamped: bool, curves=None):
        self.rng, self.dyadic, self.shape, self.curves = rng, dyadic, tuple(shape), curves
        self.favourites, self.clamped = set(favourites), clamped
        self.end, self.curved = 0, False
        self.specs: list[Spec] = []
        self.weighted = self.waiting = self.shifted = self.uneven = False
        self.neurons = 0

    # --- chance ---

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, choices):
        return choices[int(self.rng.integers(len(choices)))]

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def wants(self, kind, probability: float) -> bool:
        """Whether to take a layer: mostly, if it is a favourite that has not come up yet."""
        return self.chance(0.75 if kind in self.favourites else probability)

    # --- state ---

    @property
    def spatial(self) -> int:
        return len(self.shape) - 1

    @property
    def positions(self) -> int:
        return int(np.prod(self.shape[:-1]))

    @property
    def on_image(self) -> bool:
        return self.neurons == 0 and not self.weighted

    def add(self, kind, **arguments) -> bool:
        """Appends a layer if what it gives is neither empty nor too large."""
        spec = Spec(kind, arguments)
        try:
            shape = tuple(spec.make("float32").compute_output_shape((None, *self.shape)))[1:]
        except ValueError:  # a window larger than the map
            return False
        if min(shape, default=1) < 1 or np.prod(shape) > MOST_VALUES or np.prod(shape[:-1]) > MOST_POSITIONS:
            return False
        self.specs.append(spec)
        self.shape = shape
        self.favourites.discard(kind)
        return True

    # --- layers ---

    def kernel(self, units=None) -> None:
        kinds = KERNELS[self.spatial]
        liked = [kind for kind in kinds if kind in self.favourites]
        kind = self.pick(liked or kinds)
        for _ in range(8):
            if self.add(kind, **self.kernel_arguments(kind, units)):
                break
            kind = self.pick(kinds)
        else:
            self.add(kl.Dense, units=units or 3)
        self.weighted, self.shifted, self.uneven = True, False, False

    def kernel_arguments(self, kind, units) -> dict:
        common = {} if self.chance(0.75) else {"use_bias": False}
        if kind is kl.Dense:
            return {"units": units or self.integer(2, 7), **common}
        name, spatial, channels = kind.__name__, self.spatial, self.shape[-1]
        square = "Depthwise" in name or "Separable" in name  # TensorFlow wants equal strides there
        size = tuple(min(self.integer(1, 3), extent + 1) for extent in self.shape[:-1])
        common |= {"kernel_size": size, "padding": self.pick(["valid", "same"])}
        if min(self.shape[:-1]) <= 3 and self.chance(0.7):
            common["padding"] = "same"
        form = self.pick(["plain", "plain", "strides", "dilation"])
        if form == "strides":
            strides = tuple(self.integer(1, 2) for _ in range(spatial))
            common["strides"] = strides[:1] * spatial if square else strides
        elif form == "dilation" and "Transpose" not in name:
            common["dilation_rate"] = self.pick([2, 2, 3]) if spatial < VOLUME else 2
        if "Depthwise" in name:
            return common | {"depth_multiplier": self.integer(1, 2)}
        if "Separable" in name:
            return common | {"filters": units or self.integer(1, 4), "depth_multiplier": self.integer(1, 2)}
        if "Transpose" in name:
            return common | {"filters": units or self.integer(1, 3)}
        if kind in (kl.Conv2D, kl.Conv3D):
            self.around_tensorflow(common)
        groups = self.pick([g for g in range(1, channels + 1) if channels % g == 0])
        groups = groups if units is None and self.chance(0.5) else 1
        if kind is kl.Conv1D and self.chance(0.25):
            common["padding"] = "causal"
        return common | {"filters": units or groups * self.integer(1, max(1, 4 // groups)), "groups": groups}

    def around_tensorflow(self, arguments) -> None:
        """Keeps out of two faults of TensorFlow 2.21 with oneDNN, which the ANN shares.

        On one input channel, with a stride along the last axis that leaves one position, Conv2D and Conv3D read memory
        that is not theirs (float32). In a graph, ZeroPadding3D in front of a Conv3D with padding="same" is fused into
        one with less padding.
        """
        if self.shape[-1] == 1:
            arguments.pop("strides", None)
        if self.spatial == VOLUME and any(spec.kind is kl.ZeroPadding3D for spec in self.specs[-3:]):
            arguments["padding"] = "valid"

    def affine(self, probability: float = 0.35) -> None:
        """A BatchNorm, or several in a row, or one of its relatives."""
        if self.wants(kl.Rescaling, 0.06):
            self.rescaling()
        if self.wants(kl.Normalization, 0.03):
            self.normalization()
        for _ in range(4):
            if not self.chance(probability):
                break
            other_axis = not self.waiting and self.spatial and self.chance(0.1)
            arguments = {"axis": self.integer(1, self.spatial)} if other_axis else {}
            arguments |= {"scale": False} if self.chance(0.15) else {}
            arguments |= {"center": False} if self.chance(0.15) else {}
            arguments["epsilon"] = 2.0**-10 if self.dyadic else self.pick([1e-3, 1e-5])
            self.add(kl.BatchNormalization, **arguments)
            self.shifted = not self.weighted
            self.uneven |= bool(other_axis) and not self.weighted

    def rescaling(self):
        scale = self.pick([0.5, 2.0, -1.0] if self.dyadic else [2.0, 0.6875, -1.3125])
        offset = self.pick([0.0, -0.5, 0.25] if self.dyadic else [0.0, -1.0, 0.3125])
        if self.add(kl.Rescaling, scale=scale, offset=offset):
            self.shifted = not self.weighted

    def normalization(self):
        channels = self.shape[-1]
        mean = (self.rng.integers(0, 8, channels) / 8).tolist()
        variance = [self.pick([0.25, 1.0] if self.dyadic else [0.3125, 0.75, 1.5]) for _ in range(channels)]
        if self.add(kl.Normalization, mean=mean, variance=variance, invert=self.chance(0.2)):
            self.shifted = not self.weighted

    def dropped(self) -> None:
        """A layer that is active in training only."""
        kinds = DROPPED + ([SPATIAL_DROPOUT[self.spatial]] if self.spatial else [])
        for kind in kinds:
            if self.wants(kind, 0.03):
                self.add(kind, **({"l2": 0.01} if kind is kl.ActivityRegularization else {"rate": 0.3}
                                  if kind is not kl.GaussianNoise else {"stddev": 0.3}))  # fmt: skip

    def linear(self) -> None:
        """Perhaps a linear layer without a kernel."""
        if self.spatial:
            self.spatial_linear()
        else:
            self.reshape()
        if self.spatial and self.wants(kl.Permute, 0.05):
            order = tuple(int(axis) for axis in 1 + self.rng.permutation(len(self.shape)))
            if self.add(kl.Permute, dims=order):
                self.uneven |= self.shifted
        if self.spatial and self.positions <= 60:
            if self.wants(kl.Flatten, 0.03) and self.add(kl.Flatten):
                self.uneven |= self.shifted
        if self.chance(0.04):
            self.add(kl.Activation, activation="linear")

    def spatial_linear(self) -> None:
        spatial, extents = self.spatial, self.shape[:-1]
        if self.positions <= 40 and self.wants(PADDING[spatial], 0.08):
            if self.add(PADDING[spatial], padding=self.margins(1)):
                self.uneven |= self.shifted
        if min(extents) >= 3 and self.wants(CROPPING[spatial], 0.08):
            self.add(CROPPING[spatial], cropping=self.margins(1))
        if self.positions <= (48 if spatial == VOLUME else 16) and self.wants(UPSAMPLING[spatial], 0.1):
            size = 2 if spatial == SEQUENCE else tuple(self.integer(1, 2) for _ in range(spatial))
            self.add(UPSAMPLING[spatial], size=size)
        if spatial in AVERAGE and min(extents) >= 2 and self.wants(AVERAGE[spatial], 0.1):
            self.add(AVERAGE[spatial], **self.window(average=True))
        if self.wants(kl.Reshape, 0.05):
            self.reshape()

    def margins(self, most: int):
        """Of padding or cropping, different on all sides."""
        sides = tuple((self.integer(0, most), self.integer(0, most)) for _ in range(self.spatial))
        return sides[0] if self.spatial == SEQUENCE else sides

    def reshape(self) -> None:
        if not self.wants(kl.Reshape, 0.05):
            return
        values = int(np.prod(self.shape))
        channels = self.pick([c for c in range(1, 5) if values % c == 0])
        rows = self.pick([r for r in range(1, 7) if (values // channels) % r == 0])
        columns = -1 if self.chance(0.5) else values // channels // rows
        if self.add(kl.Reshape, target_shape=self.pick([(rows, columns, channels), (columns * rows, channels)])
                    if columns > 0 else (rows, columns, channels)):  # fmt: skip
            self.uneven |= self.shifted

    def window(self, average: bool = False) -> dict:
        """Of a pooling."""
        if average and self.dyadic:  # the average over 2^k positions, never fewer
            return {"pool_size": tuple(self.integer(1, 2) for _ in range(self.spatial))}
        arguments = {"pool_size": tuple(self.integer(1, 3) for _ in range(self.spatial))}
        if self.chance(0.5):
            arguments["strides"] = tuple(self.integer(1, 2) for _ in range(self.spatial))
        return arguments | {"padding": self.pick(["valid", "same"])}

    def max_pool(self) -> bool:
        if not self.spatial or (self.uneven and not self.weighted and not self.on_image):
            return False
        if self.positions <= 30 and self.wants(GLOBAL_MAXIMUM[self.spatial], 0.08):
            arguments = {"keepdims": True} if self.chance(0.3) else {}
            return self.add(GLOBAL_MAXIMUM[self.spatial], **arguments)
        pool = MAXIMUM.get(self.spatial)
        return pool is not None and min(self.shape[:-1]) >= 2 and self.add(pool, **self.window())

    def rectify(self) -> None:
        """A ReLU in one of its forms; it makes neurons."""
        ceiling = self.pick([1.0, 2.0] if self.dyadic else [1.5, 2.3125, 0.90625])
        relus = [{}, {}, {"max_value": ceiling}]
        if self.clamped:
            clamp = self.pick([0.25, 0.5] if self.dyadic else [0.203125, 0.34375])
            relus = [{"threshold": clamp}, {"threshold": clamp}, {"threshold": clamp, "max_value": 2.0}]
        relu = Spec(kl.ReLU, self.pick(relus))
        last = self.specs[-1] if self.specs else None
        named = self.pick(["relu", "relu", "relu6"])
        takes_activation = last and last.kind in WEIGHTED and "activation" not in last.arguments
        if self.curves and self.curves.random() < 0.7:
            self.bend(last.arguments if takes_activation else None)
        elif takes_activation and self.chance(0.6):
            last.arguments["activation"] = named if not self.clamped and self.chance(0.75) else relu
        elif self.clamped or self.chance(0.5):
            self.add(relu.kind, **relu.arguments)
        else:
            self.add(kl.Activation, activation=named)
        self.neurons += 1
        self.weighted = self.waiting = self.shifted = self.uneven = False

    def bend(self, arguments: dict | None) -> None:
        """An activation other than ReLU; as an argument, if there is a layer whose arguments these are."""
        kinds, names = (DYADIC_LAYERS, DYADIC_FUNCTIONS) if self.dyadic else (CURVED_LAYERS, CURVED_FUNCTIONS)
        functions = [name for name in names if hasattr(keras.activations, name)]
        as_layer = self.curves.random() < 0.4 or not functions
        as_argument, by_name = self.curves.random() < 0.75, self.curves.random() < 0.4
        self.curved = True
        kind, settings = (kinds[int(self.curves.integers(len(kinds)))] if as_layer else
                          (kl.Activation, {"activation": self.curves.choice(functions).item()}))  # fmt: skip
        if kind is kl.PReLU and self.spatial and as_argument:
            settings = {"shared_axes": [*range(1, self.spatial + 1)]}
        if arguments is None or not as_argument or kind is kl.PReLU:
            self.add(kind, **settings)
        elif as_layer:
            arguments["activation"] = Spec(kind, dict(settings))
        else:
            name = settings["activation"]
            arguments["activation"] = name if by_name else getattr(keras.activations, name)

    # --- the whole ---

    def image_part(self) -> None:
        """What acts on the image, before any kernel."""
        if self.wants(kl.Rescaling, 0.12):
            self.rescaling()
        if self.wants(kl.Normalization, 0.1):
            self.normalization()
        if self.chance(0.2):
            self.affine()
        if self.chance(0.25):
            self.linear()
        if self.chance(0.12):
            self.max_pool()
        if self.chance(0.04):
            self.rectify()

    def block(self) -> None:
        """Neurons, what comes before them and what follows them."""
        if self.chance(0.5):
            self.linear()
        if self.chance(0.95):
            self.kernel()
            if self.chance(0.08):
                self.kernel()
        if self.chance(0.4):
            self.affine()
        self.dropped()
        if self.chance(0.15):
            self.linear()
        if self.weighted and self.chance(0.2):
            self.waiting = self.max_pool()
            if self.waiting and self.chance(0.8):
                self.affine(0.6)
            if self.waiting and self.chance(0.2):
                self.max_pool()
        self.rectify()
        pools = self.wants(MAXIMUM.get(self.spatial), 0.3)
        if self.chance(0.6 if pools else 0.25):
            self.affine(0.7 if pools else 0.35)
        if pools:
            self.max_pool()
            if self.chance(0.1):
                self.max_pool()

    def ending(self) -> None:
        """The read-out."""
        classes = self.integer(2, 4)
        form = self.pick(["dense", "dense", "dense", "global", "map", "bare"])
        form = "global" if GLOBAL_AVERAGE.get(self.spatial) in self.favourites else form
        if self.spatial and form == "dense":
            self.add(kl.Flatten)
        if self.spatial and form == "global":
            if self.chance(0.5):
                self.kernel()
            if not self.dyadic or self.positions & (self.positions - 1) == 0:
                self.add(GLOBAL_AVERAGE[self.spatial], **({"keepdims": True} if self.chance(0.2) else {}))
        if form in ("dense", "global") or self.shape[-1] < 2:
            self.kernel(classes) if self.chance(0.3) else self.dense(classes)
        elif self.curved and not self.weighted:  # an activation at the very end is no neuron's, but the read-out's
            self.kernel(classes)
        if self.chance(0.15):
            self.affine()
        last = self.pick(["softmax", "softmax layer", "sigmoid", "linear", "none", "relu"])
        last = "softmax layer" if kl.Softmax in self.favourites else last
        self.end = len(self.specs)
        if last == "relu":
            self.curves = None
            self.rectify()
            self.end = len(self.specs) + 1
        elif last == "softmax layer":
            self.add(kl.Softmax)
        elif last != "none" and "activation" not in self.specs[-1].arguments:
            if self.specs[-1].kind is kl.Dense and self.chance(0.7):
                self.specs[-1].arguments["activation"] = last
            else:
                self.add(kl.Activation, activation=last)
        self.dropped()

    def dense(self, classes: int) -> None:
        self.add(kl.Dense, units=classes)
        self.weighted, self.shifted, self.uneven = True, False, False


def favourites_of(seed: int, spatial: int) -> list[type]:
    """Two of the layer types that fit this number of dimensions, in turn, and one that always fits."""
    if spatial == NONE:
        typed = [kl.Reshape, kl.Dense]
    else:
        typed = [*dict.fromkeys(KERNELS[spatial][:-1])]
        tables = (PADDING, CROPPING, UPSAMPLING, AVERAGE, GLOBAL_AVERAGE, MAXIMUM, GLOBAL_MAXIMUM, SPATIAL_DROPOUT)
        typed += [table[spatial] for table in tables if spatial in table]
    general = [kl.Rescaling, kl.Normalization, kl.Permute, kl.Reshape, kl.Flatten, kl.Softmax, *DROPPED]
    turn = seed // len(TURNS)
    return [typed[2 * turn % len(typed)], typed[(2 * turn + 1) % len(typed)], general[seed % len(general)]]


TURNS = (PLANE, SEQUENCE, VOLUME, PLANE, NONE, SEQUENCE, PLANE, VOLUME)
SHAPES = {
    NONE: lambda rng: (int(rng.integers(3, 13)),),
    SEQUENCE: lambda rng: (int(rng.integers(5, 14)), int(rng.integers(1, 4))),
    PLANE: lambda rng: (*map(int, rng.integers(4, 9, 2)), int(rng.integers(1, 4))),
    VOLUME: lambda rng: (*map(int, rng.integers(3, 5, 3)), int(rng.integers(1, 3))),
}


def draw(seed: int, dyadic: bool, rng, deepest: int = 12) -> RandomNetwork:
    """The layers of a random network; no weights and no images yet.

    Args:
        seed: whole number.
        dyadic: exact in float32.
        rng: where chance comes from.
        deepest: most layers of neurons; half of the networks have up to three.
    """
    spatial = TURNS[seed % len(TURNS)]
    shape = SHAPES[spatial](rng)
    depth = int(rng.integers(1, 4) if rng.random() < 0.5 else rng.integers(1, deepest + 1))
    clamped = rng.random() < 0.12
    # Its own chance, so that the other networks do not depend on it; every fourth turn of the dimensions.
    curves = np.random.default_rng([seed, int(dyadic), 2]) if seed // len(TURNS) % 4 == 3 and not clamped else None
    draft = Draft(rng, dyadic, shape, favourites_of(seed, spatial), clamped, curves)
    draft.image_part()
    while draft.neurons < depth:
        draft.block()
    draft.ending()
    structure = list(STRUCTURES)[int(rng.choice(4, p=[0.5, 0.2, 0.2, 0.1]))]
    structure = structure if len(draft.specs) >= 4 else "sequential"
    return RandomNetwork(seed, dyadic, shape, draft.specs, structure, draft.end, draft.curved)


def random_network(seed: int, dyadic: bool = False, images: int = 6) -> RandomNetwork:
    """The random network of this seed, with its images.

    Args:
        seed: whole number.
        dyadic: exact in float32.
        images: how many.
    """
    rng = np.random.default_rng([seed, int(dyadic)])
    network = draw(seed, dyadic, rng)
    shape = network.input_shape
    chance = np.random.default_rng([seed, int(dyadic), 1])  # its own: the weights do not depend on how many images
    values = chance.integers(0, 9, (images, *shape)) / 8 if dyadic else chance.random((images, *shape))
    network.images = values.astype(np.float32)
    model = network.build()
    _fill(_flat(model), rng, (rng.integers(0, 9, (24, *shape)) / 8).astype(np.float32), dyadic)
    network.ann = model
    return network


def _flat(model):
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _flat(layer)
        else:
            yield layer


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def _fill(layers, rng, x, dyadic: bool) -> None:
    """Random weights, layer after layer, such that each gives values of order one on the images x."""
    for layer in layers:
        fill(layer, rng, x, dyadic)
        if not isinstance(layer, kl.InputLayer):
            x = layer(x, training=False)


def fill(layer, rng, x, dyadic: bool) -> None:
    """Random weights of one layer, such that it gives values of order one on its inputs x."""
    if isinstance(layer, kl.BatchNormalization):
        _fill_batch_normalization(layer, rng, np.asarray(x), dyadic)
    elif isinstance(layer, kl.PReLU):
        shape = layer.alpha.shape
        layer.alpha.assign(rng.choice([0.0, 0.25, 0.5], shape) if dyadic else rng.uniform(-0.1, 0.5, shape))
    elif layer.weights and not isinstance(layer, kl.Normalization):
        _fill_kernel(layer, rng, x, dyadic)


def _fill_kernel(layer, rng, x, dyadic):
    activation, layer.activation = layer.activation, keras.activations.linear
    bias = getattr(layer, "bias", None)
    kernels = [weight for weight in layer.weights if weight is not bias]
    for kernel in kernels:
        kernel.assign(_sparse_powers(rng, kernel.shape) if dyadic else rng.normal(size=kernel.shape))
    if bias is not None:
        bias.assign(np.zeros(bias.shape))
    values = np.asarray(layer(x))
    size = max(float(values.std()), 1e-3)
    kernels[-1].assign(np.asarray(kernels[-1]) / (2.0 ** np.round(np.log2(size)) if dyadic else size))
    if bias is not None:
        values = np.asarray(layer(x))
        middle = values.mean(axis=tuple(range(values.ndim - 1))) * rng.uniform(0.2, 1.2)
        shift = rng.normal(0, 0.3, bias.shape) - middle
        bias.assign(np.round(shift * 8) / 8 if dyadic else shift)
    layer.activation = activation


def _sparse_powers(rng, shape):
    """About four entries ±1/2, ±1 for each output."""
    inputs = max(np.prod(shape[:-1]), 1)
    values = rng.choice([-1.0, -0.5, 0.5, 1.0], size=shape) * (rng.random(shape) < 4 / inputs)
    return values if np.any(values) else np.ones(shape)


def _fill_batch_normalization(layer, rng, x, dyadic):
    axis = layer.axis % x.ndim
    others = tuple(each for each in range(x.ndim) if each != axis)
    mean, variance = x.mean(axis=others), x.var(axis=others)
    variance = np.where(variance > 0.01, variance, 1.0)  # or it would blow rounding up
    negative, zero = rng.random(mean.shape) < 0.3, rng.random(mean.shape) < 0.1
    if dyadic:
        octave = np.round(np.log2(variance) / 2)
        variance = 4.0**octave - layer.epsilon
        mean = np.round(mean * 8) / 8
        gamma = rng.choice([0.5, 1.0, 1.0, 2.0], mean.shape)
        beta = rng.integers(-3, 4, mean.shape) / 8
    else:
        variance = variance * rng.uniform(0.4, 2.5, mean.shape)
        mean = mean + rng.normal(0, 0.3, mean.shape) * np.sqrt(variance)
        gamma = rng.uniform(0.5, 1.5, mean.shape)
        beta = rng.normal(0, 0.3, mean.shape)
    gamma = np.where(zero & (np.arange(mean.size) > 0), 0, np.where(negative, -gamma, gamma))
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    if layer.scale:
        layer.gamma.assign(gamma)
    if layer.center:
        layer.beta.assign(beta)
