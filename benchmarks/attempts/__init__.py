"""What was tried on version 0.1 and today: a function an attempt, one module for each kind.

An attempt imports the toolbox in its body, because the process chooses first which version it runs.
"""

ATTEMPTS = {}


def attempt(kind: str, what: str, *tests: str):
    """Registers a function that returns what came out.

    Args:
        kind: the heading of its row.
        what: is tried, and what is right.
        tests: the names of those that hold it.
    """

    def register(function):
        ATTEMPTS[function.__name__] = (kind, what, tests, function)
        return function

    return register


def chain(shape, *layers, seed: int = 0):
    """A Sequential with random weights and small biases."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(seed)
    ann = keras.Sequential([keras.Input(shape), *layers])
    rng = np.random.default_rng(seed)
    for layer in ann.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return ann


def pictures(*shape, number: int = 64, top: float = 1.0):
    """Random images."""
    import numpy as np

    return (np.random.default_rng(1).random((number, *shape)) * top).astype(np.float32)


def convert(ann, images, encoding="ttfs_exact", timesteps=64, **options):
    """As users do."""
    from conversion import convert_ann_to_snn

    return convert_ann_to_snn(ann, images, encoding, timesteps, **options)


def relative(found, expected) -> str:
    """Largest difference, relative to the largest value."""
    import numpy as np

    found, expected = np.asarray(found), np.asarray(expected)
    return f"off by {np.abs(found - expected).max() / np.abs(expected).max():.1%}"


def difference(ann, x, **options) -> str:
    """How far the SNN is from the ANN."""
    return relative(convert(ann, x, **options)(x), ann(x, training=False))  # augmentation is on unless told


def layers():
    """keras.layers, imported late: the process chooses the code first."""
    from keras import layers

    return layers


def dense(units=8, activation="relu", **options):
    return layers().Dense(units, activation=activation, **options)
