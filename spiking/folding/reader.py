"""Folding: the ANN as stages, each a synapse with BatchNorm folded into it and what follows the synapse.

`Reader` takes the ANN layer by layer; the converters of `conversion.py` call its methods. Nothing here knows of spikes:
the folded network is the same function as the ANN.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from spiking.cells import signed_max_pool
from spiking.folding.chain import Chain
from spiking.folding.linear import LINEAR, channel_vector, copy_layer
from spiking.quantisation import quantised_relu

# Hidden activations that neurons compute, each with its ceiling; and what only the read-out can apply.
RECTIFIERS = {keras.activations.relu: None, keras.activations.relu6: 6.0}
FINAL_ACTIVATIONS = (keras.activations.softmax, keras.activations.sigmoid)


# Layers that may stand as the `activation=` argument of another.
ACTIVATION_LAYERS = (kl.Activation, kl.ReLU, kl.Softmax)

HIDDEN_REMEDY = (
    "Spikes stand for the values of a ReLU: hidden activations must be relu or relu6, the last one softmax, sigmoid "
    "or linear. Train the network with these."
)


class ConversionError(ValueError):
    """The ANN holds something that cannot be converted exactly."""


@dataclass
class Stage:
    """One synapse and what follows it.

    Attributes:
        name: the ANN layer's name.
        chain: the synapse and its bias.
        output_shape: of what the stage gives, without the batch axis.
        ceiling: neurons only: largest activation (ReLU's `max_value`), None for no limit.
        clamp: neurons only: activations up to here are 0 (ReLU's `threshold`).
        levels: neurons only: steps from 0 to the ceiling to which activations are rounded; None for no rounding.
        pool, sign: max pooling only: the Keras layer, and +1 or −1 per channel (None: all +1).
        activation: the read-out only: the ANN's last activation.
    """

    name: str
    chain: Chain
    output_shape: tuple[int, ...]
    holds_neurons: bool = False
    ceiling: float | None = None
    clamp: float = 0.0
    levels: int | None = None
    pool: keras.layers.Layer | None = None
    sign: np.ndarray | None = None
    activation: Callable = keras.activations.linear

    def rectify(self, x: tf.Tensor) -> tf.Tensor:
        """The activation of the stage's neurons, shape as `x`."""
        if self.levels:
            return quantised_relu(x, tf.constant(self.ceiling, x.dtype), self.levels)
        x = tf.nn.relu(x) if not self.clamp else tf.where(x > self.clamp, x, 0)
        return x if self.ceiling is None else tf.minimum(x, tf.constant(self.ceiling, x.dtype))


@dataclass
class FoldedNetwork:
    """The ANN as stages, BatchNorm folded: the same function, before any spikes exist.

    Attributes:
        input_shape: of one image.
        preprocessing: float64 copies of the ANN layers that act on the image ahead of the first synapse.
        stages: in order; the last is the read-out.
        report: rows for the conversion report.
    """

    input_shape: tuple[int, ...]
    preprocessing: list
    stages: list[Stage]
    report: list[dict] = field(default_factory=list)
    functions: dict = field(default_factory=dict, repr=False)

    @property
    def depth(self) -> int:
        """Number of layers of neurons."""
        return sum(stage.holds_neurons for stage in self.stages)

    def image_copies(self, dtype: str) -> list:
        """Built copies of the layers that act on the image."""
        copied, shape = [], self.input_shape
        for layer in self.preprocessing:
            copied.append(copy_layer(layer, shape, dtype))
            shape = tuple(layer.compute_output_shape((None, *shape)))[1:]
        return copied

    def prepare(self, images) -> np.ndarray:
        """The images as they are coded: behind the layers that act on the image."""
        for layer in self.preprocessing:
            images = layer(images)
        return np.asarray(images)

    def function(self, dtype: str = "float32", every_stage: bool = False) -> Callable:
        """The folded network as a `tf.function` from images to scores, or to a list with what each stage gives."""
        key = (dtype, every_stage)
        if key not in self.functions:
            forward = self.forward(dtype)
            pick = slice(None) if every_stage else -1
            self.functions[key] = tf.function(lambda images: forward(images)[pick], reduce_retracing=True)
        return self.functions[key]

    def forward(self, dtype: str = "float32", rectify: Callable | None = None) -> Callable:
        """The folded network, uncompiled, as a function from images to a list with what each stage gives.

        Args:
            dtype: of computation and result.
            rectify: `(index, stage, x) -> ` what the index-th stage that holds neurons makes of W∗x + b; by default
                the ANN's activation.
        """
        before = self.image_copies(dtype)
        synapses = [stage.chain.copies(dtype) for stage in self.stages]
        biases = [tf.constant(stage.chain.bias, dtype) for stage in self.stages]
        # A Keras layer casts its input to its own dtype: the ANN's pooling would round to that.
        pools = [stage.pool and copy_layer(stage.pool, stage.chain.shape, dtype) for stage in self.stages]
        rectify = rectify or (lambda index, stage, x: stage.rectify(x))

        def run(images):
            x, outputs, index = tf.cast(images, dtype), [], 0
            for layer in before:
                x = layer(x)
            for stage, synapse, bias, pool in zip(self.stages, synapses, biases, pools, strict=True):
                for layer in synapse:
                    x = layer(x)
                x = x + bias
                if stage.holds_neurons:
                    x, index = rectify(index, stage, x), index + 1
                elif pool is not None:
                    x = signed_max_pool(pool, x, stage.sign)
                else:
                    x = stage.activation(x)
                outputs.append(x)
            return outputs

        return run


@dataclass
class Source:
    """An ANN layer being read: the layer, its unique name, and its row in the conversion report."""

    layer: keras.layers.Layer
    name: str
    result: str = ""

    def refuse(self, what: str, remedy: str) -> ConversionError:
        """The error that names the layer, says what cannot be converted and what to do about it."""
        kind = type(self.layer).__name__
        return ConversionError(f"Layer '{self.name}' ({kind}) cannot be converted: {what}. {remedy}")


@dataclass
class WaitingPool:
    """A max pooling in front of its activation: pooling and ReLU commute, so the spikes are pooled instead."""

    source: Source
    input_shape: tuple[int, ...]
    sign: np.ndarray


class Reader:
    """Takes the ANN layer by layer and builds the stages of the folded network. Converters call its methods.

    Args:
        input_shape: of one image.
        converters: ANN layer type -> `converter(layer, reader)`.
    """

    def __init__(self, input_shape, converters: Mapping[type, Callable]):
        self.converters = converters
        self.network = FoldedNetwork(tuple(input_shape), [], [])
        self.chain = Chain(input_shape)
        self.sources: list[Source] = []
        self.segment: list[Source] = []  # those since the last stage
        self.waiting: list[WaitingPool] = []
        self.final: tuple[Source, Callable] | None = None  # an activation that only the read-out can apply
        self.image_layers = []  # (layer, input shape) of the layers so far, while all of them act on the image

    def read(self, layer, name: str) -> None:
        """Reads one layer of the ANN."""
        source = Source(layer, name)
        converter = self.converters.get(type(layer))
        if converter is None:
            supported = ", ".join(sorted(kind.__name__ for kind in self.converters))
            raise source.refuse("no converter is registered for its type", f"Supported are: {supported}.")
        if getattr(layer, "data_format", None) == "channels_first":
            raise source.refuse("data_format='channels_first'", "Build the network with channels_last.")
        for weight in getattr(layer, "weights", ()):
            if not np.all(np.isfinite(np.asarray(weight))):
                raise source.refuse(f"its weight '{weight.name}' holds NaN or infinity", "Train the network anew.")
        self.sources.append(source)
        self.segment.append(source)
        converter(layer, self)

    @property
    def source(self) -> Source:
        """The layer being read."""
        return self.sources[-1]

    @property
    def on_image(self) -> bool:
        """Whether everything so far acts on the image itself: no stage yet, no kernel."""
        return not self.network.stages and not self.waiting and not self.chain.weighted

    def linear(self, layer) -> None:
        """A linear layer becomes part of the next synapse."""
        self._nothing_final_before()
        if self.waiting:
            raise self._unrectified_pool()
        if self.on_image:
            self.image_layers.append((layer, self.chain.shape))
        self.chain.append(layer)
        self.source.result = "synapse of '{stage}'"

    def average_pool(self, layer) -> None:
        """Average pooling: part of the next synapse, or done to the image."""
        if self.on_image:
            self._act_on_image(layer)
        else:
            self.linear(layer)

    def affine(self, layer, scale, shift) -> None:
        """A fixed scale and shift (BatchNorm, Rescaling) that broadcast to the values they act on."""
        self._nothing_final_before()
        self.source.result = "folded into '{stage}'"
        if self.waiting:
            shape = self.shape
            scale, shift = (self._per_channel(np.broadcast_to(values, shape)) for values in (scale, shift))
            for pool in self.waiting:
                pool.sign = pool.sign * np.where(scale < 0, -1.0, 1.0)
        elif self.on_image:
            self.image_layers.append((layer, self.chain.shape))
        self.chain.affine(*(np.broadcast_to(values, self.chain.shape).copy() for values in (scale, shift)))

    def rectify(self, ceiling: float | None = None, clamp: float = 0.0, levels: int | None = None) -> None:
        """A ReLU ends a synapse: here are neurons. Arguments as the attributes of `Stage`."""
        self._nothing_final_before()
        self.source.result = self.source.result or "threshold of '{stage}'"
        waiting, self.waiting = self.waiting, []
        shape = self.chain.shape
        limits = {"ceiling": ceiling, "clamp": clamp, "levels": levels}
        self._close(Stage(self._stage_name(), self.chain, shape, holds_neurons=True, **limits))
        for pool in waiting:
            self._pool_stage(pool.source, Chain(pool.input_shape), pool.sign)

    def max_pool(self, layer) -> None:
        """Max pooling: of the image, of spikes, or waiting for the activation behind it."""
        self._nothing_final_before()
        if self.on_image:
            self._act_on_image(layer)
        elif self.waiting or self.chain.weighted:
            shape = self.shape
            self.waiting.append(WaitingPool(self.source, shape, np.ones(shape[-1])))
        else:
            pending, self.chain.pending = self.chain.pending, None
            shift, self.chain.bias = self._per_channel(self.chain.bias), np.zeros(self.chain.shape)
            scale = np.ones_like(shift) if pending is None else self._per_channel(pending)
            self._pool_stage(self.source, self.chain, np.where(scale < 0, -1.0, 1.0))
            self.chain.affine(*(np.broadcast_to(values, self.chain.shape).copy() for values in (scale, shift)))

    def activation(self, activation) -> None:
        """An activation: an argument of a layer, or held by an Activation layer."""
        if isinstance(activation, keras.layers.Layer):  # Dense(activation=keras.layers.ReLU(max_value=6))
            if type(activation) not in ACTIVATION_LAYERS:
                raise self.source.refuse(f"activation={type(activation).__name__}", HIDDEN_REMEDY)
            self.converters[type(activation)](activation, self)
        elif activation in RECTIFIERS:
            self.rectify(RECTIFIERS[activation])
        elif activation in FINAL_ACTIVATIONS:
            self._nothing_final_before()
            self.final = (self.source, activation)
            self.source.result = self.source.result or "activation of '{stage}'"
        elif activation is not keras.activations.linear:
            name = getattr(activation, "__name__", repr(activation))
            raise self.source.refuse(f"activation='{name}'", HIDDEN_REMEDY)
        else:
            self.source.result = self.source.result or "dropped (identity)"

    def drop(self) -> None:
        """A layer that does nothing outside training."""
        self.source.result = "dropped (active in training only)"

    def finish(self) -> FoldedNetwork:
        """The read-out: whatever is left becomes the last synapse."""
        if self.waiting:
            raise self._unrectified_pool()
        _, activation = self.final or (None, keras.activations.linear)
        self._close(Stage(self._stage_name(), self.chain, self.chain.shape, activation=activation))
        self.network.report = [
            {"layer": source.name, "type": type(source.layer).__name__, "result": source.result}
            for source in self.sources
        ]
        return self.network

    def _stage_name(self) -> str:
        """The name of the ANN layer that holds the neurons: the last one with a kernel, else the activation's own."""
        weighted = [each.name for each in self.segment if _is_weighted(each.layer)]
        name = weighted[-1] if weighted else self.segment[-1].name if self.segment else "scores"
        taken = {stage.name for stage in self.network.stages}
        return name if name not in taken else f"{name}_scores"

    def _close(self, stage: Stage) -> None:
        stage.chain.settle()
        role = "spiking layer" if stage.holds_neurons else "read-out"
        for source in self.segment:
            own = source.name == stage.name
            source.result = f"{role} '{stage.name}'" if own else source.result.format(stage=stage.name)
        self.segment = [pool.source for pool in self.waiting]
        self.network.stages.append(stage)
        self.chain = Chain(stage.output_shape)

    def _pool_stage(self, source: Source, chain: Chain, sign: np.ndarray) -> None:
        shape = tuple(source.layer.compute_output_shape((None, *chain.shape)))[1:]
        upright = bool(np.all(sign > 0))
        self._close(Stage(source.name, chain, shape, pool=source.layer, sign=None if upright else sign))
        source.result = "max pooling of spikes" + ("" if upright else ", minimum where BatchNorm scales by < 0")

    def _act_on_image(self, layer) -> None:
        self._nothing_final_before()
        for source in self.segment:
            source.result = source.result if source.result.startswith("dropped") else "acts on the image"
        self.source.result = "acts on the image"
        self.segment = []
        self.image_layers.append((layer, self.chain.shape))
        self.network.preprocessing += [copy_layer(each, at, "float64") for each, at in self.image_layers]
        self.image_layers = []
        self.chain = Chain(tuple(layer.compute_output_shape((None, *self.chain.shape)))[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the layers read so far give, behind the poolings that wait."""
        shape = self.chain.shape
        for pool in self.waiting:
            shape = tuple(pool.source.layer.compute_output_shape((None, *shape)))[1:]
        return shape

    def _per_channel(self, values: np.ndarray) -> np.ndarray:
        vector = channel_vector(np.asarray(values))
        if vector is None:
            raise self.source.refuse(
                "a scale or shift that is not the same at all positions meets a max pooling",
                "Move the normalisation or the padding behind the pooling.",
            )
        return vector

    def _nothing_final_before(self) -> None:
        if self.final:
            holder, activation = self.final
            raise holder.refuse(f"activation='{activation.__name__}' in front of '{self.source.name}'", HIDDEN_REMEDY)

    def _unrectified_pool(self) -> ConversionError:
        return self.waiting[0].source.refuse(
            "it pools values that no activation has made non-negative",
            "Put a ReLU in front of the pooling or directly behind it.",
        )


def _is_weighted(layer) -> bool:
    return type(layer) in LINEAR and LINEAR[type(layer)].weighted
