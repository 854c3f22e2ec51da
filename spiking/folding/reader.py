"""Reading: the ANN's own graph is run on `Folded` values, which know what a tensor of the ANN is made of.

    graph = read(ann)

Each ANN layer type or operation has one converter (`converters.py`), a function of `Folded` values, looked up by exact
type. What has none is traced through its own `call`, or refused; everything that cannot be converted is listed at once.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
from keras.src.models import Functional, Sequential

from spiking.folding import operations  # noqa: F401  registers its converters
from spiking.folding.converters import CONVERTERS
from spiking.folding.folded import Folded, Reading
from spiking.folding.graph import FoldedGraph, Neurons
from spiking.folding.positions import at_all_positions
from spiking.folding.rows import Refusal


class ConversionError(ValueError):
    """The ANN holds something that cannot be converted exactly."""


def read(ann, refused_by: Callable[[Neurons], Refusal | None] = lambda node: None) -> FoldedGraph:
    """Reads an ANN and folds BatchNorm into its kernels, exactly.

    Args:
        ann: a built Keras model of any kind: `keras.Sequential`, functional, a subclass whose `call` uses Keras layers
            and operations; or what `read` returned, which comes back as it is.
        refused_by: says of a layer of neurons why a code cannot carry it, if it cannot; None for what it can.

    Returns:
        The folded network: the same function as a graph of nodes.

    Raises:
        ConversionError: layers, arguments or weights cannot be converted; names them all.
    """
    if isinstance(ann, FoldedGraph):
        _check_neurons([], ann.nodes, ann.report, refused_by)
        return ann
    _check_model(ann)
    inputs, run = _entry(ann)
    reading = Reading()
    values = [_image(reading, spec) for spec in keras.tree.flatten(inputs)]
    reader = Reader(reading)
    try:
        named = _outputs(reader, reader.run(ann, run, values))
    except Refusal as refusal:  # the model itself, or what stands at its end
        reading.refuse(refusal if refusal.name else Refusal(refusal.what, refusal.remedy, ann.name, type(ann).__name__))
    _check_neurons(reading.refusals, reading.nodes, reading.report(), refused_by)
    nodes = reading.graph(keras.tree.flatten(named))
    return FoldedGraph(nodes, named, inputs, tuple(reading.report()), ann.name, ann)


def _check_neurons(refusals: list[Refusal], nodes, report, refused_by: Callable) -> None:
    """Refuses what was refused before, and neurons that a code cannot carry, all at once."""
    kinds = {row["layer"]: row["type"] for row in report}
    for name, node in nodes.items():
        refusal = refused_by(node) if isinstance(node, Neurons) else None
        if refusal:
            refusals = [*refusals, Refusal(refusal.what, refusal.remedy, name, kinds.get(name, "neurons"))]
    if refusals:
        raise ConversionError(_refused(refusals))


def _image(reading: "Reading", spec) -> Folded:
    reading.unique(spec.name)
    return reading.image(spec.name, tuple(spec.shape)[1:])


def _outputs(reader: "Reader", outputs):
    """Names of the read-outs, in the structure of the ANN's output."""
    known = {}

    def name(value):
        if id(value) not in known:
            known[id(value)] = reader.reading.read_out(value)
        return known[id(value)]

    return keras.tree.map_structure(name, outputs)


# Packages of Keras 2: models and layers of Keras 3 derive from other classes of TensorFlow.
KERAS_2 = ("tf_keras.", "tensorflow.python.keras.")


def _refused(refusals: list[Refusal]) -> str:
    lines = list(dict.fromkeys(map(str, refusals)))
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} things cannot be converted:", *(f"- {line}" for line in lines)])


def _check_model(ann) -> None:
    """Refuses what is no built Keras 3 model of fixed input shape."""
    if not isinstance(ann, keras.Model):
        kind = type(ann)
        if any(f"{base.__module__}.".startswith(KERAS_2) for base in kind.__mro__):  # own classes derive from theirs
            raise ConversionError(
                f"The ANN must be a model of Keras 3. Received: {kind.__name__} of {kind.__module__}: Keras 2. "
                "Build the same layers with `keras` and give them its weights, new.set_weights(ann.get_weights()); or, "
                "without own layers, save it by ann.save('ann.h5') and load it with keras.models.load_model."
            )
        raise ConversionError(
            "The ANN must be a Keras model: keras.Sequential, functional or a subclass of keras.Model. Received: ann "
            f"of type {kind.__name__}"
        )
    if not ann.built or not ann.layers:
        raise ConversionError("The ANN has no weights yet: give it an Input layer, or call or fit it once.")
    if isinstance(ann, Functional | Sequential) and any(None in spec.shape[1:] for spec in ann.inputs):
        shapes = [tuple(spec.shape) for spec in ann.inputs]
        raise ConversionError(
            f"The ANN must take images of one size. Received: input_shape={shapes[0] if len(shapes) == 1 else shapes}. "
            "Build it with keras.Input of the images' size and copy the weights."
        )


def _entry(ann):
    """The ANN's symbolic inputs in their structure, and how it is run."""
    if isinstance(ann, Sequential):
        return ann.inputs[0], _run_of(ann)
    if isinstance(ann, Functional):
        return (ann.inputs[0] if len(ann.inputs) == 1 and not isinstance(ann.input, dict) else ann.input), _run_of(ann)
    shapes = getattr(ann, "_build_shapes_dict", None) or {}
    shapes = list(shapes.values())
    if len(shapes) != 1 or not _is_shape(shapes[0]):
        raise ConversionError(
            f"A subclass of keras.Model is traced with the shape of its input, and {type(ann).__name__} does not know "
            "one shape. Wrap it: keras.Model(inputs := keras.Input(shape), ann(inputs))."
        )
    return keras.Input(tuple(shapes[0])[1:], name=f"{ann.name}_input"), _run_of(ann)


def _is_shape(shape) -> bool:
    return isinstance(shape, list | tuple) and len(shape) > 1 and all(isinstance(size, int) for size in shape[1:])


def _has_own_call(layer) -> bool:
    """Whether a Sequential or functional model does something else than Keras in its `call`."""
    return type(layer).call not in (Sequential.call, Functional.call)


def _run_of(layer) -> Callable | None:
    """How values go through a model or a composite layer: `(reader, layer, args) -> values`."""
    if isinstance(layer, Sequential) and not _has_own_call(layer):
        return Reader.sequential
    if isinstance(layer, Functional) and not _has_own_call(layer):
        return Reader.functional
    if type(layer) is keras.layers.TimeDistributed:
        return Reader.distributed
    if isinstance(layer, keras.Model) or not type(layer).__module__.startswith("keras."):
        return Reader.traced
    return None


class Reader:
    """Runs the ANN's graph on `Folded` values.

    Args:
        reading: takes the nodes and the report's rows.
    """

    def __init__(self, reading: Reading):
        self.reading = reading
        self.path: tuple[str, ...] = ()  # names of the models around
        self.traced_layer = None  # whose call is being walked

    def run(self, model, run: Callable, values):
        """The values behind a model or composite layer."""
        self.path, outside = (*self.path, model.name), self.path
        try:
            return run(self, model, values)
        finally:
            self.path = outside

    def sequential(self, model, values):
        """One layer after another."""
        for layer in model.layers:
            values = self.apply(layer, *values) if isinstance(values, list) else self.apply(layer, values)
        return values

    def functional(self, model, values):
        """The model's own graph."""
        return walk(model, keras.tree.flatten(values), self.apply, self.reading.shared)

    def traced(self, model, values):
        """What `call` does to symbolic inputs, walked as a functional model."""
        flat = keras.tree.flatten(values)
        symbols = [keras.Input(value.shape) for value in flat]
        inputs = keras.tree.pack_sequence_as(values, symbols) if isinstance(values, list | dict) else symbols[0]
        if isinstance(inputs, list) and len(inputs) == 1:
            (inputs,) = inputs
        training = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
        try:
            outputs = model.call(inputs, **training)
        except Exception as error:
            raise Refusal(
                "its call cannot be traced on a symbolic input "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})",
                "Use Keras layers and keras.ops in it, without TensorFlow functions, or register a converter for it "
                "(docs/EXTENDING.md).",
            ) from error
        self.traced_layer, outside = self.traced_layer or model, self.traced_layer
        try:
            return self.functional(keras.Model(symbols, outputs), flat)
        finally:
            self.traced_layer = outside

    def distributed(self, wrapper, value):
        """`TimeDistributed`: its layer or model at every position, as layers that act on all of them at once."""
        return self._distributed(wrapper.layer, wrapper.name, value)

    def _distributed(self, layer, name: str, *arguments, **keywords):
        if isinstance(layer, Sequential) and not _has_own_call(layer):
            (value,) = arguments
            for each in layer.layers:
                value = self._distributed(each, each.name, value)
            return value
        if isinstance(layer, Functional) and not _has_own_call(layer):
            values = keras.tree.flatten(arguments)
            return walk(layer, values, lambda each, *a, **k: self._distributed(each, each.name, *a, **k),
                        self.reading.shared)  # fmt: skip
        value = next(each for each in keras.tree.flatten(arguments) if isinstance(each, Folded))
        return self.apply(at_all_positions(layer, value.shape, name), *arguments, **keywords)

    def apply(self, layer, *arguments, **keywords):
        """What a layer, an operation or a nested model makes of values: its converter, or what it consists of."""
        reading = self.reading
        values = [each for each in keras.tree.flatten((arguments, keywords)) if isinstance(each, Folded)]
        if not values:  # constants alone, as of keras.ops.ones(…)
            return layer(*arguments, **keywords)
        converter = CONVERTERS.get(type(layer))
        run = None if converter else _run_of(layer)
        row = reading.row(layer, self.path, listed=run is None)
        try:
            self._refuse_quantised(layer)
            if converter:
                return converter(layer, *(_with_row(argument, row) for argument in arguments), **_plain(keywords))
            if run:
                return self.run(layer, run, arguments[0] if len(arguments) == 1 else list(arguments))
            raise Refusal("no converter is registered for it", REMEDIES.get(type(layer).__name__, REMEDY))
        except Refusal as refusal:
            self._refuse_final(values, row)
            reading.refuse(refusal.of(row).within(self.traced_layer))
            return self._stand_ins(layer, arguments, keywords, row)

    def _refuse_final(self, values, row) -> None:
        """Refuses activations for the end that stand in front of what is itself refused."""
        for value in values:
            try:
                value.through(row).nothing_final()
            except Refusal as refusal:
                self.reading.refuse(refusal)

    def _refuse_quantised(self, layer) -> None:
        mode = getattr(layer, "quantization_mode", None)
        if mode:
            raise Refusal(f"its weights are quantised ({mode})", "Convert the network before quantising it.")

    def _stand_ins(self, layer, arguments, keywords, row):
        """In place of what cannot be converted, so that the rest is read and all faults are listed: fresh neurons."""

        def symbol(value):
            return keras.KerasTensor((None, *value.shape)) if isinstance(value, Folded) else value

        arguments, keywords = keras.tree.map_structure(symbol, (list(arguments), keywords))
        try:
            outputs = layer.compute_output_spec(*arguments, **keywords)
        except Exception:
            outputs = arguments[0]
        return keras.tree.map_structure(lambda spec: self.reading.stand_in(row, tuple(spec.shape)[1:]), outputs)


REMEDY = "Register a converter for it (docs/EXTENDING.md), or train the network without it."
REMEDIES = {
    "LayerNormalization": "Take BatchNormalization: its statistics are fixed, those of a layer's values are not.",
    "GroupNormalization": "Take BatchNormalization: its statistics are fixed, those of a layer's values are not.",
}


def _plain(keywords: Mapping) -> dict:
    """Keyword arguments without those that Keras' call machinery adds."""
    return {key: value for key, value in keywords.items() if key not in ("training", "mask")}


def _with_row(argument, row):
    """The argument, with the row of the layer it goes through on the values in it."""

    def add(value):
        return value.through(row) if isinstance(value, Folded) else value

    return keras.tree.map_structure(add, argument)


def walk(model, inputs: list, apply: Callable, shared: Callable) -> Any:
    """Runs a functional model's own graph with other operations on other values.

    Args:
        model: a functional model.
        inputs: a value per input, flat.
        apply: `(layer, *arguments, **keywords) -> ` value or structure of values, in place of calling the layer.
        shared: `value -> value`, called for values that several listeners share.

    Returns:
        The values of the outputs, in the structure of the model's output.
    """
    values = {id(symbol): value for symbol, value in zip(model.inputs, inputs, strict=True)}
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    nodes = [node for node in nodes if not node.is_input]
    uses = Counter(id(symbol) for node in nodes for symbol in node.input_tensors)
    uses.update(id(symbol) for symbol in model.outputs)
    for node in nodes:
        arguments, keywords = node.arguments.fill_in(values)
        outputs = keras.tree.flatten(apply(node.operation, *arguments, **keywords))
        for symbol, value in zip(node.outputs, outputs, strict=True):
            values[id(symbol)] = shared(value) if uses[id(symbol)] > 1 else value
    return keras.tree.map_structure(lambda symbol: values[id(symbol)], _structure(model))


def _structure(model):
    """The model's symbolic outputs in their structure."""
    outputs = model.output
    return outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else outputs


def rerun(model, inputs, replaced: Mapping[type, Callable]):
    """Runs a model on tensors, with other functions in place of some of its layers; models in it are gone into.

    Args:
        model: Sequential or functional; what has a `call` of its own is called as it is.
        inputs: as the model takes them.
        replaced: layer type -> `f(layer, x) -> x`.
    """

    def apply(layer, *arguments, **keywords):
        if type(layer) in replaced:
            return replaced[type(layer)](layer, *arguments)
        if isinstance(layer, keras.Model):
            return rerun(layer, arguments[0], replaced)
        return layer(*arguments, **keywords)

    if not isinstance(model, Sequential | Functional) or _has_own_call(model):
        return model(inputs, training=False)
    if isinstance(model, Sequential):
        for layer in model.layers:
            inputs = apply(layer, inputs)
        return inputs
    return walk(model, [tf.convert_to_tensor(x) for x in keras.tree.flatten(inputs)], apply, lambda value: value)
