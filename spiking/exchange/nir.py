"""A converted network as a NIR file, which neuromorphic simulators and chips read.

Pedersen, Abreu et al. (2024), Neuromorphic intermediate representation: a unified instruction set for interoperable
brain-inspired computing, Nature Communications 15:8122; https://neuroir.org. docs/EXPORT.md tells what is lost where.
"""

import dataclasses
import os
from dataclasses import replace
from types import ModuleType

import numpy as np
import tensorflow as tf

import spiking
from spiking.cells import MaxPoolCell
from spiking.checks import check_choice, require
from spiking.exchange.nodes import Nodes, NotInNir, Wire, channels_first
from spiking.network.model import SpikingModel
from spiking.rate import Rate
from spiking.runs.files import write_atomically

POTENTIALS = ("bias", "host")
# Settings of the rate code that a file can tell; all others must be as the code has them by default.
TOLD = {
    "timesteps", "threshold", "reset", "initial_potential", "readout_delay", "input_coding", "max_rate", "seed",
}  # fmt: skip


class ExportError(ValueError):
    """A network that a file cannot hold; the message lists all reasons."""


def nir_package() -> ModuleType:
    """The package `nir`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import nir
    except ImportError as error:
        raise ImportError(
            "NIR files are read and written with the package nir. Received: an environment without it. Install it: "
            'pip install "spiking-toolbox[nir]".'
        ) from error
    return nir


def export_nir(snn: SpikingModel, path: str | os.PathLike, initial_potential: str = "bias") -> None:
    """Writes a rate-coded network as a NIR file: integrate-and-fire neurons of threshold 1, r = 1, one step a unit of
    time.

    Each layer of neurons becomes an `IF` of its name behind `Conv1d`, `Conv2d`, `Affine`, `SumPool2d` and `Flatten`
    nodes; a sum is several edges into one node. The metadata of the graph tell what NIR has no word for: time steps,
    reset, input, read-out. A read-out is the last `Affine` before `Output`; the host sums what it gives, see
    `metadata["readout"]`. What enters is `host_input`.

    Args:
        snn: of `convert_ann_to_snn(…, encoding="rate")`.
        path: of the file, which appears whole or not at all.
        initial_potential: NIR has no V(0). "bias" adds V(0)/T to every step's current, which gives a neuron under
            constant current the same number of spikes, a little later, and costs accuracy in deep networks; "host"
            leaves V(0) to the host, who finds it among the metadata.

    Raises:
        ExportError: the network holds something that NIR has no node for; all of it is listed.
        ValueError: no converted network.
    """
    nir = nir_package()
    require(isinstance(snn, SpikingModel), "Converted networks are written as NIR", f"a {type(snn).__name__}",
            'Convert it first: export_nir(convert_ann_to_snn(ann, images, "rate", timesteps=32), path).')  # fmt: skip
    check_choice("initial_potential", initial_potential, POTENTIALS)
    nodes, told = Export(snn, initial_potential).written()
    made = {name: getattr(nir, kind)(**arguments) for name, (kind, arguments) in nodes.nodes.items()}
    graph = nir.NIRGraph(made, nodes.edges, metadata=told)
    write_atomically(path, lambda unfinished: nir.write(unfinished, graph))


def host_input(snn: SpikingModel, images) -> list[np.ndarray]:
    """What enters the `Input` nodes of a file in each time step: `(T, batch, channels, …)`, one per input.

    Args:
        snn: the network that was written.
        images: as it takes them. Every step is kept; a constant current is a view.
    """
    named, found = snn.named_images(images), []
    for name, layer in snn.plan.inputs.items():
        coded, steps = layer.preprocess(named[snn.wiring[name][0]]), range(layer.timesteps)
        if layer.constant:
            values = np.broadcast_to(coded.numpy(), (layer.timesteps, *coded.shape))
        else:
            values = np.stack([layer.at_step(coded, tf.constant(t)).numpy() for t in steps])
        found.append(np.moveaxis(values, -1, 2))
    return found


class Export:
    """One network on its way into a file.

    Args:
        snn: the network.
        initial_potential: as of `export_nir`.
    """

    def __init__(self, snn: SpikingModel, initial_potential: str):
        self.snn, self.plan, self.in_bias = snn, snn.plan, initial_potential == "bias"
        self.nodes, self.faults = Nodes(), []
        self.wires: dict[str, Wire] = {}

    def written(self) -> tuple[Nodes, dict]:
        """Nodes and edges, and the metadata.

        Raises:
            ExportError: with all faults.
        """
        self._check_code()
        for name in self.plan.order:
            try:
                self.wires[name] = self._wire(name)
            except NotInNir as fault:
                self.faults.append(f"'{name}': {fault.what}. {fault.remedy}")
                self.wires[name] = Wire((), self._shape(name))
        if self.faults:
            raise ExportError("The network cannot be written as NIR:\n- " + "\n- ".join(dict.fromkeys(self.faults)))
        inputs, outputs = [self.wires[name].outlets[0] for name in self.plan.inputs], []
        for name in self.plan.read_outs:
            wire = self.wires[name]
            arguments = {"output_type": {"output": np.array(channels_first(wire.shape))}}
            unique = self._unique("output", self.plan.read_outs, name)
            outputs.append(self.nodes.add(unique, "Output", arguments, wire.outlets))
        # HDF5 forgets the order.
        return self.nodes, {"inputs": ", ".join(inputs), "outputs": ", ".join(outputs), **self._metadata()}

    def _check_code(self) -> None:
        code, plain = self.snn.encoding, Rate()
        if type(code) is not Rate:
            self.faults.append(
                f"the encoding is {code.name!r}, whose neurons NIR has no node for. Convert with encoding='rate'; for "
                "deployment of other codes see snn.export."
            )
            return
        if code.tau != plain.tau:
            self.faults.append(f"tau={code.tau:g}: readers step leaky neurons in different ways. Convert with tau=inf.")
        for field in dataclasses.fields(code):
            value = getattr(code, field.name)
            if field.name not in TOLD | {"tau"} and value != getattr(plain, field.name):
                self.faults.append(
                    f"{field.name}={value!r}, of which NIR's IF knows nothing. Convert without {field.name}."
                )

    def _shape(self, name: str) -> tuple[int, ...]:
        if name in self.plan.cells:
            return tuple(self.plan.cells[name].neurons_shape)
        if name in self.plan.relays:
            return tuple(self.plan.relays[name].step_shape)
        return tuple(self.plan.inputs[name].preprocessed_shape)

    @staticmethod
    def _unique(kind: str, names, name: str) -> str:
        """ "input" and "output", as all readers call them; of several, each has its layer's name behind it."""
        return kind if len(names) == 1 else f"{kind}_{name}"

    def _wire(self, name: str) -> Wire:
        if name in self.plan.inputs:
            return self._input(name)
        if name in self.plan.relays:
            return self._relay(name)
        cell = self.plan.cells[name]
        if isinstance(cell, MaxPoolCell):
            raise NotInNir(
                "NIR has no max pooling", "Train with average pooling, or let the convolution in front of it stride."
            )
        bias = np.zeros(cell.current_shape[-1]) if cell.bias is None else np.asarray(cell.bias.value, np.float64)
        if bias.ndim > 1:
            raise NotInNir(
                "its bias differs by position, for a shift went through zero padding",
                "NIR holds one bias per channel: put BatchNorm in front of the activation, or pad with 'valid'.",
            )
        wire = self._through(cell.synapse_layers, self.wires[self.plan.sources[name][0]], name)
        return self._read_out(name, wire, bias) if name in self.plan.read_outs else self._neurons(name, wire, bias)

    def _input(self, name: str) -> Wire:
        layer, shape = self.plan.inputs[name], self._shape(name)
        if len(shape) > 3:
            raise NotInNir(f"images have shape {shape}", "NIR has maps in one and two dimensions.")
        arguments = {"input_type": {"input": np.array(channels_first(shape))}}
        if layer.preprocessing:
            acts = ", ".join(type(each).__name__ for each in layer.preprocessing)
            arguments["metadata"] = {"behind": f"{acts}: applied by the host, see spiking.exchange.nir.host_input"}
        unique = self.nodes.add(self._unique("input", self.plan.inputs, name), "Input", arguments, ())
        return Wire((unique,), shape)

    def _through(self, layers, wire: Wire, name: str) -> Wire:
        for layer in layers:
            wire = self.nodes.put(layer, wire, name)
        return wire

    def _relay(self, name: str) -> Wire:
        relay, outlets = self.plan.relays[name], []
        if relay.axis is not None:
            raise NotInNir(
                "NIR has no node that puts maps side by side, and readers agree on none",
                "Add instead of concatenating.",
            )
        for source, synapse in zip(self.plan.sources[name], relay.synapses, strict=True):
            wire = self._through(synapse, self.wires[source], name)
            if wire.shape != tuple(relay.step_shape):
                raise NotInNir("it adds maps of different shapes", "Let all summands have the same shape.")
            outlets += self.nodes.biased(wire, 1.0, np.zeros(wire.shape[-1]), name).outlets
        return Wire(tuple(outlets), tuple(relay.step_shape))

    def _neurons(self, name: str, wire: Wire, bias: np.ndarray) -> Wire:
        code = self.snn.encoding
        if type(code) is not Rate:
            return Wire((), self._shape(name))  # told of already
        start = code.initial_potential / self.snn.timesteps if self.in_bias else 0.0
        wire = self.nodes.biased(wire, 1 / code.threshold, bias / code.threshold + start, name)
        ones = np.ones(channels_first(wire.shape), np.float32)
        # NIR's neurons fire above the threshold and are reset, ours from it on: one float below 1, "above" is "from 1
        # on". Neurons that subtract would subtract that; so theirs is 1, as their readers have "from it on".
        threshold = ones if code.reset == "subtract" else np.nextafter(ones, np.float32(0))
        arguments = {"r": ones, "v_threshold": threshold, "v_reset": np.zeros_like(ones)}
        return Wire((self.nodes.add(name, "IF", arguments, wire.outlets),), wire.shape)

    def _read_out(self, name: str, wire: Wire, bias: np.ndarray) -> Wire:
        return replace(self.nodes.biased(wire, 1.0, bias, name), kernel=None)

    def _metadata(self) -> dict:
        snn, code = self.snn, self.snn.encoding
        cells = [self.plan.cells[name] for name in self.plan.read_outs]
        delay = int(code.readout_delay or 0)
        start = "initial_potential_in_bias" if self.in_bias else "initial_potential"
        activations = [getattr(cell.activation, "__name__", type(cell.activation).__name__) for cell in cells]
        steps = f"over steps {delay + 1} to {snn.timesteps} / {snn.timesteps - delay}"
        return {
            "written_by": f"spiking-toolbox {spiking.__version__}",
            "network": snn.name,
            "ann": snn.fingerprint or "",
            "encoding": code.name,
            "timesteps": snn.timesteps,
            "dt": 1.0,
            "reset": code.reset,
            "fires": "v >= 1",
            start: code.initial_potential,
            "input": code.input_coding,
            "max_rate": code.max_rate,
            "seed": code.seed,
            "input_maximum": max(getattr(layer, "scale", 1.0) for layer in self.plan.inputs.values()),
            "readout_delay": delay,
            "readout": f"activation(sum of the output {steps})",
            "activation": ", ".join(activations),
        }
