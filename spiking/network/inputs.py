"""The layers that spread an image over time."""

from collections.abc import Callable

import keras
import tensorflow as tf

from spiking.cells import PACKAGE, build_in_row
from spiking.checks import check_real, check_timesteps, check_whole


class SpikingInput(keras.layers.Layer):
    """Base of the input layers: `(batch, …)` images to `(batch, timesteps, …)` inputs.

    Args:
        timesteps: number of time steps T.
        preprocessing: Keras layers that act on the image before it is coded (pooling ahead of the first neurons).
    """

    # Whether the first layer's drive stays the same in all time steps.
    constant = False

    def __init__(self, timesteps: int, preprocessing=(), **kwargs):
        # Spike times must not lose digits to reduced precision, whatever the policy is; the image is cast here.
        super().__init__(**{"dtype": keras.config.floatx(), "autocast": False, **kwargs})
        self.timesteps = check_timesteps(timesteps)
        self.preprocessing = list(preprocessing)
        # `predict` would compile with XLA by default, anew for every batch size; on CPUs that made LeNet-5 slower.
        self.supports_jit = False

    def build(self, input_shape):
        self.preprocessed_shape = build_in_row(self.preprocessing, input_shape)[1:]
        self.built = True

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """The image as it is coded, in the layer's dtype whatever the image's is."""
        images = tf.cast(images, self.compute_dtype)
        for layer in self.preprocessing:
            images = layer(images)
        return images

    def at_step(self, image: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """The input in time step t (from 0), for a preprocessed image."""
        raise TypeError(f"{type(self).__name__} codes nothing: use an input layer of one of the encodings.")

    def message(self, image: tf.Tensor, t: tf.Tensor):
        """The same as the loop passes it on."""
        return self.at_step(image, t)

    def drive(self, image: tf.Tensor, cell, state) -> tuple[tuple, Callable]:
        """Prepares a cell that hears nothing but images for the loop, so that what is constant is computed once.

        Args:
            image: what the cell would hear if the image were there in one step, `(batch, …)`.
            cell: the cell.
            state: its initial state.

        Returns:
            The cell's initial state, and its `current` as a function of the time step; None stands for no current.
        """
        return state, lambda t: cell.current(self.at_step(image, t))

    def call(self, images):
        image = self.preprocess(images)
        steps = tf.map_fn(
            lambda t: self.at_step(image, t), tf.range(self.timesteps), fn_output_signature=image.dtype
        )
        return tf.transpose(steps, [1, 0, *range(2, steps.shape.rank)])

    def compute_output_shape(self, input_shape):
        shape = tuple(input_shape)
        for layer in self.preprocessing:
            shape = tuple(layer.compute_output_shape(shape))
        return (shape[0], self.timesteps, *shape[1:])

    def get_config(self):
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.preprocessing]
        return {**super().get_config(), "timesteps": self.timesteps, "preprocessing": layers}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["preprocessing"] = [
            keras.saving.deserialize_keras_object(layer, custom_objects=custom_objects)
            for layer in config["preprocessing"]
        ]
        return cls(**config)


@keras.saving.register_keras_serializable(PACKAGE)
class ConstantCurrent(SpikingInput):
    """The image as a current that stays the same in every time step."""

    constant = True

    def at_step(self, image, t):
        return image

    def drive(self, image, cell, state):
        constant = cell.current(image)
        return state, lambda t: constant


@keras.saving.register_keras_serializable(PACKAGE)
class SingleEvent(SpikingInput):
    """The image as one graded event in the first time step, for cells that keep a `current` in their state."""

    constant = True

    def at_step(self, image, t):
        return image * tf.cast(t == 0, image.dtype)

    def drive(self, image, cell, state):
        # The event switches a current on that stays: it is on from the start, and nothing comes after it.
        event = cell.synapse(image)
        return state._replace(current=state.current + event), lambda t: None


@keras.saving.register_keras_serializable(PACKAGE)
class PoissonSpikes(SpikingInput):
    """Random input spikes: s = [u_t < max_rate·x], u_t uniform in [0, 1).

    u_t is drawn for each pixel from (seed, t) alone and shared by all images, so a sample's spikes depend neither on
    its batch nor on its place in it.

    Args:
        max_rate: probability of a spike per step at full intensity x = 1, positive; above 1 all from 1/max_rate on
            spike in every step.
        scale: intensity that counts as full; the image is divided by it.
        seed: whole number; the same seed gives the same spikes.
    """

    def __init__(self, timesteps, preprocessing=(), max_rate: float = 1.0, scale: float = 1.0, seed: int = 0, **kwargs):
        super().__init__(timesteps, preprocessing, **kwargs)
        self.max_rate = check_real("max_rate", max_rate, "(0, inf)")
        self.scale = float(scale)
        self.seed = check_whole("seed", seed)

    def at_step(self, image, t):
        shape = tf.concat([[1], tf.shape(image)[1:]], axis=0)
        uniform = tf.random.stateless_uniform(shape, tf.stack([self.seed, t]), dtype=image.dtype)
        return tf.cast(uniform < self.max_rate / self.scale * image, image.dtype)

    def get_config(self):
        own = {"max_rate": self.max_rate, "scale": self.scale, "seed": self.seed}
        return {**super().get_config(), **own}
