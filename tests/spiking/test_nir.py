"""NIR files: an interpreter of what was written must spike as the network does; what NIR lacks is refused."""

import h5py
import keras
import numpy as np
import pytest
from conftest import dyadic
from keras import layers as kl

from conversion import convert_ann_to_snn, export_nir, host_input, read, read_nir
from spiking import ENCODINGS
from spiking.exchange.nir import ExportError
from spiking.exchange.nodes import TRANSLATORS, Nodes, NotInNir, Wire
from spiking.folding import linear
from spiking.scaling.calibration import Calibration, LayerCalibration
from spiking.scaling.fingerprint import fingerprint

nir = pytest.importorskip("nir", reason="the extra [nir] is not installed")
T = 8


# ---------------------------------------------------------------------------------------------------------------------
# The interpreter: NIR's own words in NumPy, channels first. It knows nothing of the toolbox.


def convolve(x, node):
    """A convolution in one or two dimensions: the sum over the kernel's places of a matrix product."""
    weight = node.weight if node.weight.ndim == 4 else node.weight[..., None]
    one = node.weight.ndim == 3
    stride, padding, dilation = (
        (int(v), 0 if name == "padding" else 1) if one else tuple(np.broadcast_to(v, 2).tolist())
        for name, v in (("stride", node.stride), ("padding", node.padding), ("dilation", node.dilation))
    )
    x = x[..., None] if one else x
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    size = [(n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(x.shape[2:], weight.shape[2:], stride, dilation, strict=True)]  # fmt: skip
    total = np.zeros((len(x), len(weight), *size))
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            seen = x[:, :, i * dilation[0] :: stride[0], j * dilation[1] :: stride[1]][:, :, : size[0], : size[1]]
            total += np.einsum("oc,bchw->bohw", weight[:, :, i, j], seen)
    total += node.bias[:, None, None]
    return total[..., 0] if one else total


def pool(x, node):
    (kh, kw), (sh, sw), (ph, pw) = (np.broadcast_to(v, 2) for v in (node.kernel_size, node.stride, node.padding))
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(2, 3))[:, :, ::sh, ::sw]
    return windows.sum((-2, -1))


LINEAR = {
    "Affine": lambda x, node: x @ node.weight.T + node.bias,
    "Conv1d": convolve,
    "Conv2d": convolve,
    "SumPool2d": pool,
    "Flatten": lambda x, node: x.reshape(len(x), -1),
    "Output": lambda x, node: x,
}


def interpret(graph, inputs, soft, start=0.0):
    """Spike counts of every IF, and the sum of every output.

    Args:
        graph: what `nir.read` gave.
        inputs: Input -> (T, batch, …).
        soft: fire from the threshold on and subtract it, as soft readers do; else NIR's own rule: fire above it, reset.
        start: V(0).
    """
    sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    order, left = [], dict(sources)
    while left:
        ready = [name for name, heard in left.items() if set(heard) <= set(order)]
        order += ready
        left = {name: heard for name, heard in left.items() if name not in ready}
    potentials, counts, sums = {}, {}, {}
    for t in range(len(next(iter(inputs.values())))):
        values = {}
        for name in order:
            node, kind = graph.nodes[name], type(graph.nodes[name]).__name__
            if kind == "Input":
                values[name] = inputs[name][t].astype(float)
                continue
            x = sum(values[source] for source in sources[name])
            if kind != "IF":
                values[name] = LINEAR[kind](x, node)
                if kind == "Output":
                    sums[name] = sums.get(name, 0) + values[name]
                continue
            v = potentials.get(name, np.full_like(x, start)) + node.r * x
            spikes = (v >= node.v_threshold if soft else v > node.v_threshold).astype(float)
            potentials[name] = v - spikes * node.v_threshold if soft else np.where(spikes > 0, node.v_reset, v)
            counts[name] = counts.get(name, 0) + spikes
            values[name] = spikes
    return counts, sums


# ---------------------------------------------------------------------------------------------------------------------
# Networks of every layer a file can hold


def chain(*layers, shape=(6, 6, 2)):
    return keras.Sequential([keras.Input(shape), *layers])


def residual():
    image = keras.Input((6, 6, 2))
    x = kl.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="a")(image)
    y = kl.Conv2D(4, 3, padding="same", activation="relu", name="b")(x)
    x = kl.ReLU(name="sum")(kl.Add(name="add")([x, kl.Conv2D(4, 3, padding="same", name="c")(y)]))
    short = kl.Conv2D(6, 1, strides=2, name="short")(x)
    x = kl.ReLU(name="sum_2")(kl.Add(name="add_2")([short, kl.Conv2D(6, 3, strides=2, padding="same", name="d")(x)]))
    return keras.Model(image, kl.Dense(3, name="scores")(kl.GlobalAveragePooling2D()(x)))


def two_inputs():
    left, right = keras.Input((4,), name="west"), keras.Input((3,), name="east")
    x = kl.Add()([kl.Dense(5, name="l")(left), kl.Dense(5, name="r")(right)])
    x = kl.ReLU(name="both")(x)
    return keras.Model([left, right], [kl.Dense(2, name="zero")(x), kl.Dense(3, name="one")(x)])


NETWORKS = {
    "dense": lambda: chain(kl.Dense(7, activation="relu"), kl.Dense(3), shape=(5,)),
    "lenet": lambda: chain(
        kl.Conv2D(4, 3, padding="same", activation="relu"), kl.AveragePooling2D(2), kl.Conv2D(4, 2, activation="relu"),
        kl.Flatten(), kl.Dense(8, activation="relu"), kl.Dense(3),
    ),
    "odd": lambda: chain(
        kl.Conv2D(4, (3, 1), dilation_rate=2, padding="same", activation="relu"),
        kl.Conv2D(3, 4, strides=(2, 3), padding="same", activation="relu"), kl.Flatten(), kl.Dense(3), shape=(7, 8, 2),
    ),
    "groups": lambda: chain(
        kl.Conv2D(4, 3, groups=2, activation="relu"), kl.DepthwiseConv2D(3, depth_multiplier=2, padding="same",
        activation="relu"), kl.SeparableConv2D(4, 3, activation="relu", padding="same"), kl.Flatten(), kl.Dense(2),
    ),
    "padded": lambda: chain(
        kl.ZeroPadding2D(((1, 0), (2, 1))), kl.Conv2D(4, 3, strides=2, activation="relu"),
        kl.ZeroPadding2D(((0, 1), (1, 0))), kl.AveragePooling2D(2), kl.Conv2D(2, 1, activation="relu"), kl.Flatten(),
        kl.Dense(2),
    ),
    "pool before neurons": lambda: chain(
        kl.Conv2D(4, 3), kl.AveragePooling2D(2), kl.ReLU(), kl.Flatten(), kl.Dense(2)
    ),
    "dense on maps": lambda: chain(
        kl.Conv2D(4, 3, activation="relu"), kl.Dense(3, activation="relu"), kl.Reshape((48,)), kl.Dense(2)
    ),
    "sequences": lambda: chain(
        kl.Conv1D(4, 3, strides=2, padding="same", activation="relu"), kl.ZeroPadding1D((2, 0)),
        kl.Conv1D(4, 2, padding="causal", activation="relu"), kl.Flatten(), kl.Dense(2), shape=(8, 2),
    ),
    "separable sequences": lambda: chain(
        kl.DepthwiseConv1D(3, depth_multiplier=2, activation="relu"), kl.SeparableConv1D(3, 3, activation="relu"),
        kl.Flatten(), kl.Dense(2), shape=(8, 2),
    ),
    "by convolution": lambda: chain(
        kl.Conv2D(4, 3, activation="relu"), kl.Conv2D(3, 1), kl.GlobalAveragePooling2D()
    ),
    "BatchNorm": lambda: chain(
        kl.Conv2D(4, 3), kl.BatchNormalization(), kl.ReLU(), kl.AveragePooling2D(2), kl.BatchNormalization(),
        kl.Flatten(), kl.Dense(2),
    ),
    "residual": residual,
    "two inputs": two_inputs,
}  # fmt: skip


def dyadic_snn(name, **options):
    """A network with dyadic weights, λ a power of two, as an SNN: every sum is exact."""
    ann, rng = NETWORKS[name](), np.random.default_rng(3)
    for layer in ann.layers:
        new = []
        for weight in layer.weights:
            size = np.sqrt(2 / max(np.prod(weight.shape[:-1]), 1)) if len(weight.shape) > 1 else 0.25
            new.append(dyadic(rng.normal(0 if len(weight.shape) > 1 else 0.2, size, weight.shape), 4))
        if isinstance(layer, kl.BatchNormalization):
            new[0], new[3] = new[0] + 1, np.ones_like(new[3])
            layer.epsilon = 0.0
        layer.set_weights(new)
    graph = read(ann)
    scales = {each: LayerCalibration(np.array(2.0 ** (n % 2)), 1.0, 0.0, 0) for n, each in enumerate(graph.neurons)}
    found = Calibration(fingerprint(graph), "max", 99.9, 100, False, 1, 0.0, 1.0, scales)
    images = [dyadic(rng.uniform(0, 1, (5, *symbol.shape[1:])), 4).astype("float32") for symbol in ann.inputs]
    options = {"timesteps": T, "initial_potential": 0.0, "readout_delay": 0, **options}
    return convert_ann_to_snn(graph, found, "rate", **options), images if len(images) > 1 else images[0]


def interpreted(snn, images, path, soft, **keywords):
    """(counts as Keras has them, read-outs, graph) of the file."""
    graph = nir.read(path)
    names = graph.metadata["inputs"].split(", ")
    counts, sums = interpret(graph, dict(zip(names, host_input(snn, images), strict=True)), soft, **keywords)
    return {name: np.moveaxis(count, 1, -1) for name, count in counts.items()}, sums, graph


HARD = ["lenet", "residual"]


@pytest.mark.parametrize(
    "name, reset", [*((name, "subtract") for name in NETWORKS), *((name, "zero") for name in HARD)]
)
def test_the_file_spikes_as_the_network_does(name, reset, tmp_path):
    snn, images = dyadic_snn(name, reset=reset, threshold=2.0)
    export_nir(snn, tmp_path / "net.nir")
    counts, sums, graph = interpreted(snn, images, tmp_path / "net.nir", soft=reset == "subtract")
    expected = snn.simulate(images, "spike_counts")
    assert set(counts) == set(expected.spike_counts)
    for layer, count in expected.spike_counts.items():
        assert 0.1 <= np.mean(count) < T
        np.testing.assert_array_equal(counts[layer], count, layer)
    for mean, output in zip(keras.tree.flatten(expected.output), graph.metadata["outputs"].split(", "), strict=True):
        np.testing.assert_allclose(sums[output] / T, mean, atol=1e-6)


def test_what_is_not_dyadic_differs_in_few_spikes_only(tmp_path):
    """V(0) as a bias: the same counts behind a constant current, and nearly the same further on."""
    snn, images = dyadic_snn("lenet", initial_potential=0.5)
    export_nir(snn, tmp_path / "bias.nir")
    export_nir(snn, tmp_path / "host.nir", initial_potential="host")
    expected = snn.simulate(images, "spike_counts").spike_counts
    biased, _, graph = interpreted(snn, images, tmp_path / "bias.nir", soft=True)
    started, _, host = interpreted(snn, images, tmp_path / "host.nir", soft=True, start=0.5)
    first, *_, last = expected
    np.testing.assert_array_equal(biased[first], expected[first])
    assert np.abs(biased[last] - expected[last]).max() <= 1
    for name, count in expected.items():
        np.testing.assert_array_equal(started[name], count)
    assert graph.metadata["initial_potential_in_bias"] == host.metadata["initial_potential"] == 0.5


def test_poisson_spikes_come_from_the_host(tmp_path):
    snn, images = dyadic_snn("dense", input_coding="poisson", seed=4)
    export_nir(snn, tmp_path / "net.nir")
    counts, _, graph = interpreted(snn, images, tmp_path / "net.nir", soft=True)
    (entering,) = host_input(snn, images)
    assert set(np.unique(entering)) == {0, 1} and entering.shape == (T, 5, 5)
    for name, count in snn.simulate(images, "spike_counts").spike_counts.items():
        np.testing.assert_array_equal(counts[name], count)
    assert (graph.metadata["input"], graph.metadata["seed"], graph.metadata["timesteps"]) == ("poisson", 4, T)


def test_the_readers_of_nir_itself_accept_the_file(tmp_path):
    snn, _ = dyadic_snn("residual")
    export_nir(snn, tmp_path / "net.nir")
    graph = nir.read(tmp_path / "net.nir")  # checks all shapes
    kinds = {type(node).__name__ for node in graph.nodes.values()}
    assert kinds == {"Input", "Conv2d", "IF", "SumPool2d", "Flatten", "Affine", "Output"}
    assert sorted(a for a, b in graph.edges if b.startswith("sum_conv2d")) == ["a", "add_conv2d"]
    assert graph.metadata["ann"] == snn.fingerprint and len(snn.fingerprint) == 16
    assert [path.name for path in tmp_path.iterdir()] == ["net.nir"]


REFUSED = {
    "max pooling": ([kl.Conv2D(3, 3, activation="relu"), kl.MaxPooling2D(2), kl.Flatten(), kl.Dense(2)], "max pooling"),
    "rectangles": ([kl.Conv2D(3, (3, 2), activation="relu"), kl.Flatten(), kl.Dense(2)], "square kernels"),
    "transposed": ([kl.Conv2D(3, 3, activation="relu"), kl.Conv2DTranspose(2, 2, activation="relu"),
                    kl.Flatten(), kl.Dense(2)], "Conv2DTranspose"),
    "upsampling": ([kl.Conv2D(3, 3, activation="relu"), kl.UpSampling2D(2), kl.Flatten(), kl.Dense(2)], "UpSampling2D"),
    "border": ([kl.Conv2D(3, 2, activation="relu"), kl.AveragePooling2D(2, padding="same"), kl.Flatten(), kl.Dense(2)],
               "fewer values at the border"),
    "sequences": ([kl.Flatten(), kl.Dense(8, activation="relu"), kl.Reshape((4, 2), name="reshape"),
                   kl.AveragePooling1D(2), kl.Flatten(), kl.Dense(2)], "'reshape' gives another shape"),
}  # fmt: skip


def converted(layers, encoding="rate", **options):
    ann = chain(*layers)
    images = np.random.default_rng(0).uniform(0, 1, (8, 6, 6, 2)).astype("float32")
    return convert_ann_to_snn(ann, images, encoding, 4, **options)


@pytest.mark.parametrize("name", REFUSED)
def test_what_nir_lacks_is_refused(name, tmp_path):
    layers, reason = REFUSED[name]
    with pytest.raises(ExportError, match=reason):
        export_nir(converted(layers), tmp_path / "net.nir")
    assert not list(tmp_path.iterdir())


def test_every_linear_layer_is_tested_or_refused():
    used = {type(layer) for make in NETWORKS.values() for layer in make().layers}
    assert set(TRANSLATORS) - used == {linear.Diagonal}  # what BatchNorm leaves between neurons and a sum
    for kind in set(linear.LINEAR) - set(TRANSLATORS):
        layer = object.__new__(kind)
        vars(layer)["name"] = "it"
        with pytest.raises(NotInNir, match=f"'it' is a {kind.__name__}, for which NIR has no node"):
            Nodes().put(layer, Wire(("input",), (4, 4, 2)), "neurons")


@pytest.mark.parametrize("options", [{"signed": True}, {"max_spikes": 3}], ids=str)
def test_neurons_that_nir_has_no_word_for_are_refused(options, tmp_path):
    (name,) = options
    snn = converted([kl.Flatten(), kl.Dense(3, activation="relu"), kl.Dense(2)], **options)
    with pytest.raises(ExportError, match=f"{name}=.*of which NIR's IF knows nothing. Convert without {name}"):
        export_nir(snn, tmp_path / "n.nir")


def test_all_reasons_are_given_at_once(tmp_path):
    layers, _ = REFUSED["max pooling"]
    with pytest.raises(ExportError, match=r"(?s)tau=20.*max_pooling.*NIR has no max pooling"):
        export_nir(converted([kl.Conv2D(2, 1, activation="relu"), *map(type(layers[0]).from_config,
                   [layers[0].get_config()]), *layers[1:]], tau=20.0), tmp_path / "net.nir")  # fmt: skip


@pytest.mark.parametrize("encoding", sorted(set(ENCODINGS) - {"rate"}))
def test_other_codes_are_refused(encoding, tmp_path):
    with pytest.raises(ExportError, match=f"encoding is '{encoding}'.*encoding='rate'"):
        export_nir(converted([kl.Flatten(), kl.Dense(3, activation="relu"), kl.Dense(2)], encoding), tmp_path / "n.nir")


def test_concatenation_is_refused(tmp_path):
    image = keras.Input((6, 6, 2))
    x = [kl.Conv2D(2, 3, activation="relu")(image) for _ in range(2)]
    ann = keras.Model(image, kl.Dense(2)(kl.Flatten()(kl.Concatenate(name="beside")(x))))
    with pytest.raises(ExportError, match="'beside': NIR has no node that puts maps side by side"):
        export_nir(convert_ann_to_snn(ann, np.ones((2, 6, 6, 2)), "rate", 4), tmp_path / "net.nir")


def test_what_is_no_network_and_what_is_no_file(tmp_path):
    ann = keras.Sequential([keras.Input((3,)), kl.Dense(2)])
    with pytest.raises(ValueError, match="Received: a Sequential. Convert it first"):
        export_nir(ann, tmp_path / "net.nir")
    with pytest.raises(FileNotFoundError, match="Received: .*net.nir"):
        read_nir(tmp_path / "net.nir")
    (tmp_path / "net.nir").write_text("no HDF5")
    with pytest.raises(ValueError, match="that the package nir reads .*Received: .*net.nir"):
        read_nir(tmp_path / "net.nir")
    with h5py.File(tmp_path / "net.nir", "w") as file:
        file["something"] = 1
    with pytest.raises(ValueError, match="that the package nir reads"):
        read_nir(tmp_path / "net.nir")


def test_an_unknown_way_to_tell_v0(tmp_path):
    with pytest.raises(ValueError, match="initial_potential must be one of"):
        export_nir(dyadic_snn("dense")[0], tmp_path / "net.nir", initial_potential="refuse")


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def contents(graph):
    """What the nodes hold, whatever they are called: read-outs are named after Output when they come back."""
    return sorted((type(node).__name__, *(np.asarray(getattr(node, key, 0)).tobytes() for key in ("weight", "bias")))
                  for node in graph.nodes.values())  # fmt: skip


@pytest.mark.parametrize("name", ["lenet", "odd", "residual", "two inputs"])
def test_what_is_read_is_what_was_written(name, tmp_path):
    snn, images = dyadic_snn(name, threshold=2.0, initial_potential=0.5)
    export_nir(snn, tmp_path / "one.nir", initial_potential="host")
    again = read_nir(tmp_path / "one.nir")
    expected, found = snn.simulate(images, "spike_counts"), again.simulate(images, "spike_counts")
    for layer, count in expected.spike_counts.items():
        np.testing.assert_array_equal(found.spike_counts[layer], count, layer)
    for ours, theirs in zip(keras.tree.flatten(expected.output), keras.tree.flatten(found.output), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (again.fingerprint, again.timesteps, again.name) == (snn.fingerprint, T, snn.name)
    export_nir(again, tmp_path / "two.nir", initial_potential="host")
    one, two = (nir.read(tmp_path / f"{file}.nir") for file in ("one", "two"))
    assert contents(one) == contents(two)


def test_poisson_spikes_and_activation_come_back(tmp_path):
    ann = chain(kl.Dense(5, activation="relu"), kl.Dense(3, activation="softmax"), shape=(4,))
    images = np.random.default_rng(0).uniform(0, 2, (6, 4)).astype("float32")
    snn = convert_ann_to_snn(ann, images, "rate", T, input_coding="poisson", max_rate=0.5, seed=3)
    export_nir(snn, tmp_path / "net.nir", initial_potential="host")
    again = read_nir(tmp_path / "net.nir")
    np.testing.assert_allclose(again.predict(images, verbose=0), snn.predict(images, verbose=0), atol=1e-6)
    np.testing.assert_allclose(again.predict(images, verbose=0).sum(-1), 1, atol=1e-6)


def foreign(**changes):
    """A file as other tools write it: no metadata, a pooling with zeros, r and thresholds of their own, a scale."""
    rng = np.random.default_rng(1)
    neurons = {"r": np.full((3, 4, 4), 2.0), "v_threshold": np.full((3, 4, 4), 3.0)}
    nodes = {
        "input": nir.Input({"input": np.array([2, 6, 6])}),
        "0": nir.Conv2d((6, 6), dyadic(rng.normal(0, 1, (3, 1, 3, 3)), 4)[np.zeros(3, int)], 1, 0, 1, 1, np.ones(3)),
        "1": nir.IF(**{**neurons, **changes}),
        "2": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([1, 1])),
        "3": nir.Scale(np.full((3, 3, 3), 4.0)),
        "4": nir.Flatten({"input": np.array([3, 3, 3])}, 0, -1),
        "5": nir.Linear(dyadic(rng.normal(0, 1, (4, 27)), 4)),
        "6": nir.IF(np.ones(4), np.ones(4)),
        "output": nir.Output({"output": np.array([4])}),
    }
    nodes["0"].weight = dyadic(rng.normal(0, 1, (3, 2, 3, 3)), 4)
    names = list(nodes)
    return nir.NIRGraph(nodes, list(zip(names, names[1:], strict=False)), type_check=False)


def test_files_of_others_are_read(tmp_path):
    graph = foreign()
    nir.write(tmp_path / "net.nir", graph)
    images = dyadic(np.random.default_rng(2).uniform(0, 1, (4, 6, 6, 2)), 4).astype("float32")
    LINEAR_HERE = {
        "AvgPool2d": lambda x, node: pool(x, node) / 4, "Scale": lambda x, node: x * node.scale,
        "Linear": lambda x, node: x @ node.weight.T,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for kind, run in LINEAR_HERE.items():
            patch.setitem(LINEAR, kind, run)
        steps = np.broadcast_to(np.moveaxis(images, -1, 1), (T, 4, 2, 6, 6))
        counts, sums = interpret(graph, {"input": steps}, soft=False)
    snn = read_nir(tmp_path / "net.nir", timesteps=T)
    found = snn.simulate(images, "spike_counts")
    # nothing here reaches a threshold exactly, where NIR's rule and ours differ
    for name, count in counts.items():
        np.testing.assert_array_equal(found.spike_counts[name], np.moveaxis(count, 1, -1))
        assert np.mean(count) > 0.5
    np.testing.assert_allclose(found.output, sums["output"] / T)


def test_what_cannot_be_read_is_told_at_once(tmp_path):
    graph = foreign(v_reset=np.ones((3, 4, 4)))
    graph.nodes["6"] = nir.LIF(*[np.ones(4)] * 4)
    nir.write(tmp_path / "net.nir", graph)
    with pytest.raises(ExportError, match=r"(?s)'1' \(IF\): v_reset must be 0.*'6' \(LIF\): the toolbox reads Input"):
        read_nir(tmp_path / "net.nir", timesteps=T)
    with pytest.raises(ValueError, match="Give timesteps"):
        read_nir(tmp_path / "net.nir")


def test_loops_are_not_read(tmp_path):
    graph = foreign()
    graph.edges.append(("6", "5"))
    nir.write(tmp_path / "net.nir", graph)
    with pytest.raises(ExportError, match="'5', '6', 'output': they lie in or behind a loop"):
        read_nir(tmp_path / "net.nir", timesteps=T)
