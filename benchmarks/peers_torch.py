"""The network that peers.py hands on, in torch; loaded in the processes of the peers alone."""

import json

import torch


class Affine(torch.nn.Module):
    """Channels times a scale plus a shift, `(C,)` each or None."""

    def __init__(self, scale, shift):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x):
        shape = (-1, 1, 1) if x.dim() > 3 else (-1,)
        x = x if self.scale is None else x * self.scale.view(shape)
        return x if self.shift is None else x + self.shift.view(shape)


class Average(torch.nn.Module):
    """Over rows and columns."""

    def forward(self, x):
        return x.mean((-2, -1))


def convolution(operation: dict, weight, bias, make) -> list:
    """Its zero padding, where that is uneven, and the convolution."""
    before, after = operation["padding"]
    even = before == after
    filters, inputs, size, _ = weight.shape
    module = make["conv"](inputs, filters, size, operation["stride"], before if even else 0, bias=bias is not None)
    pads = [] if even else [torch.nn.ZeroPad2d((before, after, before, after))]
    return [*pads, loaded(module, weight, bias)]


def loaded(module, weight, bias):
    """A module with its arrays."""
    with torch.no_grad():
        module.weight.copy_(weight)
        if bias is not None:
            module.bias.copy_(bias)
    return module


def synapse(operations: list[dict], bias, file, make):
    """The linear layers between two nodes, with the bias in the last of them where it can be."""
    modules = []
    for index, operation in enumerate(operations):
        kind, array = operation["kind"], operation.get("array")
        weight = None if array is None else torch.from_numpy(file[array])
        own, last = None, index + 1 == len(operations)
        if last and kind in ("conv", "dense"):
            own, bias = bias, None
        if kind == "conv":
            modules += convolution(operation, weight, own, make)
        elif kind == "dense":
            modules.append(loaded(make["dense"](*weight.shape[::-1], bias=own is not None), weight, own))
        else:
            modules.append({"scale": lambda scale: Affine(scale, None), "flatten": lambda _: make["flatten"](),
                            "average": lambda _: Average()}[kind](weight))  # fmt: skip
    return torch.nn.Sequential(*modules, *([] if bias is None else [Affine(None, bias)]))


class Network(torch.nn.Module):
    """One time step of all nodes, from `drives`, the currents that hear the image alone.

    Args:
        file: the opened network.npz.
        make: kind to `(arguments) -> module`, for "conv", "dense", "flatten", "pool" and "neurons".
    """

    def __init__(self, file, make):
        super().__init__()
        nodes = json.loads(str(file["nodes"]))
        images = {node["name"] for node in nodes if node["kind"] == "image"}
        self.nodes = [node for node in nodes if node["kind"] != "image"]
        self.on_images = {node["name"] for node in nodes if images.intersection(node["sources"])}
        self.synapses, self.cells = torch.nn.ModuleList(), torch.nn.ModuleList()
        cells = {"neurons": lambda node: make["neurons"](), "pool": lambda node: make["pool"](node["size"])}
        for node in self.nodes:
            bias = None if node["bias"] is None else torch.from_numpy(file[node["bias"]])
            synapses = [synapse(each, bias, file, make) for each in node["synapses"]]
            self.synapses.append(torch.nn.ModuleList(synapses))
            self.cells.append(cells.get(node["kind"], lambda node: torch.nn.Identity())(node))

    def drives(self, images) -> dict:
        """The constant currents, to be computed once."""
        pairs = zip(self.nodes, self.synapses, strict=True)
        return {node["name"]: heard[0](images) for node, heard in pairs if node["name"] in self.on_images}

    def forward(self, drives):
        values = {}
        for node, synapses, cell in zip(self.nodes, self.synapses, self.cells, strict=True):
            current = drives.get(node["name"])
            if current is None:
                heard = zip(synapses, node["sources"], strict=True)
                current = sum(through(values[source]) for through, source in heard)
            values[node["name"]] = cell(current)
        return values[self.nodes[-1]["name"]]
