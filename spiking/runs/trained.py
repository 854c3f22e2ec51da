"""A trained network of one's own, which an experiment takes in place of training one."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spiking.checks import require

__all__ = ["OF_TRAINING", "check_network", "network_key", "trained_network"]

# Arguments of an experiment that say how an ANN is trained; with a trained one they have no say.
OF_TRAINING = ("batch_size_ann_training", "epochs", "beta")

REMEDY = (
    "Leave out what asks for training, and give the data that the network was trained with. For several inputs or "
    "outputs, maps and numbers there is report_networks(ann, snns, images)."
)


def trained_network(argument: str, model) -> keras.Model:
    """The network itself, or what the file of that path holds.

    Raises:
        ValueError: it is neither, or the file holds no Keras model.
        FileNotFoundError: there is no such file.
    """
    if isinstance(model, str | os.PathLike):
        path = Path(model).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{argument} is a file that Keras saved. Received: {str(path)!r}. Check the path.")
        try:
            return keras.models.load_model(path, compile=False)
        except Exception as error:  # a damaged file shows itself in many ways
            rule = f"{argument} is a file that Keras can load ({' '.join(str(error).split())})"
            require(False, rule, f"{str(path)!r}",
                    "Save it with model.save('ann.keras'), and import what its own layers are made of first.", error)
    require(isinstance(model, keras.Model) and model.built, f"{argument} is a trained keras.Model, or a path of one",
            f"a {type(model).__name__}", "Give the model itself, built, or the path of its .keras file.")
    return model


def check_network(model: keras.Model, function, default, asked: Mapping[str, Any], shape: Sequence[int], classes: int):
    """Checks that a trained network fits the data, and that no argument asks for another training.

    Args:
        function, default: the experiment's training function, and the one it has unless it is told.
        asked: arguments that ask for a training -> their values.
        shape: of an image.
        classes: of the data.

    Raises:
        ValueError: it does not; all faults at once.
    """
    training = [f"{name}={value!r}" for name, value in asked.items() if value]
    training += [f"training_function={getattr(function, '__name__', function)!r}"] if function is not default else []
    faults = [f"{', '.join(training)} beside model"] if training else []
    given, outputs = model.input_shape, model.output_shape
    if not (isinstance(outputs, tuple) and len(outputs) == 2):
        faults.append(f"outputs of shape {outputs}")
    elif outputs[1] < classes and (outputs[1], classes) != (1, 2):
        faults.append(f"{outputs[1]} outputs for {classes} classes")
    fits = isinstance(given, tuple) and len(given) == len(shape) + 1
    if not fits or any(each not in (None, length) for each, length in zip(given[1:], shape, strict=True)):
        faults.append(f"a network for inputs of shape {given}, and images of shape {tuple(shape)}")
    require(not faults, "A trained network is not trained again; it takes the images and has a score for each class",
            "; ".join(faults), REMEDY)


def network_key(model: keras.Model) -> str:
    """Equal keys, equal networks: a hash of layers and weights."""
    found = hashlib.sha256(json.dumps(model.get_config(), sort_keys=True, default=str).encode())
    for weight in model.weights:
        found.update(np.ascontiguousarray(weight.numpy()))
    return found.hexdigest()[:16]
