"""The wall of proof: random networks of every layer type, checked against their ANN and against stock Keras.

    python benchmarks/wall.py --networks 500          # all codes on each seed; some hours on one core

Every finished network is a line of docs/wall.jsonl; started again, the script goes on where it stopped. docs/WALL.md is
written anew from all lines when it ends or is stopped by Ctrl-C, and with `--summary` alone at any time. A check
measures, its bound stands once, in `BOUNDS`; `tests/test_wall.py` runs the same checks on fewer networks.

Each seed stands for two networks (tests/random_networks.py): one with random weights, for the folding and for what
DESIGN, contract 7, promises under rounding; and one with dyadic weights, whose arithmetic is exact, where "the same"
means equal. Codes are shared out: one half of them is checked on the chain of a seed, the other on its graph.
"""

import argparse
import collections
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import keras  # noqa: E402  the paths and TensorFlow's log level come first
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from random_graphs import RandomGraph, random_graph  # noqa: E402
from random_networks import RandomNetwork, random_network  # noqa: E402

import spiking  # noqa: E402
from conversion import CONVERTERS, ConversionError, assemble, calibrate, convert_ann_to_snn, read  # noqa: E402
from spiking.folding.activations import RELU, Activation, elementwise  # noqa: E402
from spiking.network.records import FIRST_SPIKE_TIMES, RASTERS, SPIKE_COUNTS  # noqa: E402
from spiking.windows import WindowEncoding  # noqa: E402

RESULTS = ROOT / "docs" / "wall.jsonl"
SUMMARY = ROOT / "docs" / "WALL.md"
EXACT = "ttfs_exact"
WHOLE_RUN = 500  # seeds

# What each measurement may be at most, and what it is.
BOUNDS = {
    "folding float32": (1e-5, "largest difference of the folded network's scores from the ANN's, relative to the "
                        "largest score; without and with the last activation"),
    "folding float64": (1e-10, "the same in float64, without the last activation"),
    "closed form": (1e-5, "codes in windows, random weights: given the same input spikes, the largest distance from "
                    "the threshold, in units of θ, at which the clock-driven cells and the closed form differ"),
    "closed form dyadic": (0, "`ttfs_exact`, dyadic weights: spike times by which the stock Keras stack and the "
                           "closed form differ"),
    "stock stack": (0, "dyadic weights: spikes, of all neurons and time steps, by which the stock Keras stack and "
                    "`simulate` differ"),
    "stock scores": (1e-6, "largest difference of their scores, relative to the largest (softmax may round)"),
    "saved and loaded": (0, "largest difference of scores after saving and loading"),
    "spikes per neuron": (1, "most spikes of one neuron, single-spike codes, counted in the rasters"),
}  # fmt: skip

# What was found out about seeds that failed.
IN_FLOAT64 = "the ANN's own float32 result is off by {} here; in float64 folding agrees to {}"
EXPLANATIONS = {
    52: IN_FLOAT64.format("1.3e-5", "1e-15"),
    141: IN_FLOAT64.format("1.3e-5", "2e-14"),
    352: IN_FLOAT64.format("1.8e-5", "7e-14"),
    365: "oneDNN has no kernel for an operation of this network's clock-driven simulation; with "
    "TF_ENABLE_ONEDNN_OPTS=0 the same check passes, with no difference at all",
}

# Time steps and thresholds that keep all layers busy; codes with windows have one of so many steps for each layer.
SETTINGS = {
    "rate": {"timesteps": 16},
    "ttfs": {"timesteps": 16, "threshold": 1.0},
    "ttfs_dyn_thresh": {"timesteps": 16, "threshold": 1.0},
    "ttfs_clamped": {"timesteps": 16, "threshold": 1.0},
    "ttfs_exact": {"timesteps": 4},
    "radix": {"timesteps": 3},
}
# Every third network gets its input as spikes, in codes that know them.
SPIKE_INPUT = {
    "rate": {"input_coding": "poisson", "max_rate": 0.5, "seed": 3},
    "ttfs_exact": {"input_coding": "spikes"},
    "radix": {"input_coding": "spikes"},
}


def codes_for(network) -> list[str]:
    """The encodings that can convert it: neither a ReLU with a threshold nor another activation is for all."""
    needed = [RELU] + [Activation(clamp=0.5)] * network.clamped + [elementwise(keras.activations.tanh)] * network.curved
    return [name for name, code in spiking.ENCODINGS.items() if all(map(code.carries, needed))]


def shared_out(network, first: bool) -> list[str]:
    """One half of the codes that can convert it, in turns of the seeds, or the other; the first of them is saved, too.

    Each seed checks every code, on its chain or on its graph.
    """
    codes = codes_for(network)
    turn = (network.seed + network.seed // 4) % 2  # of every fourth graph, too, which has other activations
    halves = codes[turn::2], codes[1 - turn :: 2]
    chosen = halves[0] if first else halves[1]
    turn = network.seed // 2 % max(len(chosen), 1)
    return chosen[turn:] + chosen[:turn]


def relative(difference, reference) -> float:
    """Largest absolute difference, relative to the largest reference."""
    return float(np.abs(difference).max() / max(np.abs(reference).max(), 1e-30))


# ---------------------------------------------------------------------------------------------------------------------
# Checks. Each returns what it measured.


def without_last_activation(graph):
    """The folded graph with linear read-outs."""
    linear = {name: dataclasses.replace(node, activation=keras.activations.linear)
              for name, node in graph.read_outs.items()}  # fmt: skip
    return dataclasses.replace(graph, nodes={**graph.nodes, **linear}, _functions={})


def flat(outputs) -> list[np.ndarray]:
    """One output or several as a list of arrays."""
    return [np.asarray(each) for each in keras.tree.flatten(outputs)]


def worst_of(found, expected) -> float:
    """Largest relative difference of one output or several."""
    pairs = zip(flat(found), flat(expected), strict=True)
    return max(relative(actual - wanted, wanted) for actual, wanted in pairs)


def outputs_of(graph, images, dtype: str = "float32"):
    """The folded network's output, run eagerly: for a few images a trace would cost more than it saves."""
    values = graph.forward(dtype)(images)
    return keras.tree.map_structure(values.__getitem__, graph.outputs)


def check_folding(network: RandomNetwork) -> dict[str, float]:
    """The folded network against the ANN, without and with the last activation."""
    graph = read(network.ann)
    bare, activation = without_last_activation(graph), graph.nodes[graph.outputs].activation
    expected = network.build(last_activation=False)(network.images, training=False)
    scores = network.ann(network.images, training=False)
    found = outputs_of(bare, network.images)
    measured = {"folding float32": max(worst_of(found, expected), worst_of(activation(found), scores))}
    images = network.images.astype(np.float64)
    exact = network.build("float64", last_activation=False)(images, training=False)
    measured["folding float64"] = worst_of(outputs_of(bare, images, "float64"), exact)
    measured["rounding of the ANN"] = worst_of(expected, exact)
    return measured


def check_graph_folding(network: RandomGraph) -> dict[str, float]:
    """The folded graph against the ANN, in float32 and float64."""
    graph, images = read(network.ann), keras.tree.map_structure(lambda x: x.astype(np.float64), network.images)
    scores, exact = network.ann(network.images, training=False), network.build("float64")(images, training=False)
    return {
        "folding float32": worst_of(outputs_of(graph, network.images), scores),
        "folding float64": worst_of(outputs_of(graph, images, "float64"), exact),
    }


def check_closed_form(network: RandomNetwork, encoding: str = EXACT) -> dict[str, float]:
    """A code in windows on random weights, layer by layer: the stock Keras layer on the closed form's input spikes.

    A layer is stepped through the windows in which something happens: that of its source and its own.
    """
    snn = convert_ann_to_snn(network.ann, network.images, encoding, **SETTINGS[encoding])
    rasters = snn.simulate(network.images, (RASTERS,)).rasters
    (name,) = snn.plan.inputs
    source = snn.get_layer(name)
    x, levels = source(network.images), source.levels(source.preprocess(network.images))
    window, largest = 0, 0.0
    for layer in snn.hidden_layers:
        cell, expected = layer.cell, np.moveaxis(rasters[layer.name].numpy(), 0, 1)
        begin, window = window * snn.encoding.timesteps, getattr(cell, "window", window)
        steps = slice(begin, (window + 1) * snn.encoding.timesteps)
        found = np.zeros_like(expected)  # nothing is said in other windows
        found[:, steps] = stepped_from(layer, x[:, steps], begin)
        differ = np.any(found != expected, axis=1)
        if np.any(differ):
            largest = max(largest, float(distance_from_threshold(cell, levels)[differ].max()))
        levels, x = cell.levels(levels), expected
    return {"closed form": largest}


def stepped_from(layer, x, begin: int) -> np.ndarray:
    """What a stock layer of a code in windows gives for `(batch, steps, …)`, its clock at `begin`."""
    state = layer.cell.get_initial_state(len(x))
    if "time" in state._fields:
        state = state._replace(time=state.time + begin)
    return np.asarray(layer(x, initial_state=tuple(state)))


def distance_from_threshold(cell, levels) -> np.ndarray:
    """How far a neuron's potential is from where its spike would move by a step, in units of θ."""
    if not cell.holds_neurons:  # pooling has no threshold, so nothing may differ
        return np.full(cell.levels(levels).shape, np.inf)
    potential = cell.current(levels) + cell.bias_in_steps()
    raised = cell.sent(potential) + 0.5
    distance = np.abs(raised - np.round(raised))
    if cell.clamp is not None:
        clamp = np.asarray(cell.clamp) * (cell.highest / cell.threshold)
        distance = np.minimum(distance, np.abs(potential - clamp))
    return np.asarray(distance) / cell.highest


def first_times(raster: np.ndarray) -> np.ndarray:
    """Time step (from 1) of the first spike, 0 for none, from a raster `(T, …)`."""
    return np.where(raster.any(axis=0), raster.argmax(axis=0) + 1, 0)


def dyadic_snn(network, encoding: str, **settings):
    """The spiking network of a dyadic ANN: scales and floors are dyadic, so nothing rounds; `settings` of the code."""
    own = SPIKE_INPUT.get(encoding, {}) if network.seed % 3 == 0 else {}
    code = spiking.get_encoding(encoding).configured(**(settings or SETTINGS.get(encoding, {"timesteps": 16})), **own)
    graph = read(network.ann)
    calibration = calibrate(graph, network.images, "max", per_channel=network.seed % 2 == 0)
    for name, layer in calibration.layers.items():
        layer.scale, ceiling = 2.0 ** np.round(np.log2(layer.scale)), graph.nodes[name].activation.ceiling
        layer.floor = np.floor(layer.floor * 8) / 8
        if ceiling is not None:  # `assemble` lowers a scale to the ceiling, and 6 is no power of two
            layer.scale = np.minimum(layer.scale, 2.0 ** np.floor(np.log2(ceiling / code.spike_value)))
    calibration.input_maximum = 1.0
    return assemble(graph, code, calibration, name=f"wall_{encoding}")


def stock_stack(snn, images):
    """The network as stock Keras runs it: rasters `(T, batch, …)` of the hidden layers by name, and scores."""
    outputs = {layer.name: layer.output for layer in snn.hidden_layers}
    stock = keras.Model(snn.inputs, [outputs, list(keras.tree.flatten(snn.output))])
    hidden, scores = tf.function(stock, autograph=False)(keras.tree.flatten(images))
    rasters = {}
    for layer in snn.hidden_layers:
        raster = np.moveaxis(hidden[layer.name].numpy(), 1, 0)
        if len(layer.cell.output_shape) > len(layer.cell.neurons_shape):  # a second stream beside the spikes
            raster = raster[..., 0]
        rasters[layer.name] = raster
    return rasters, scores


def check_code(network, encoding: str, save: bool = True) -> dict[str, float]:
    """One code on a dyadic network: stock Keras, spikes per neuron and, unless told otherwise, saving."""
    snn = dyadic_snn(network, encoding)
    rasters, scores = stock_stack(snn, network.images)
    measured = {}
    if encoding == EXACT:
        simulation = snn.simulate(network.images, (SPIKE_COUNTS, FIRST_SPIKE_TIMES))
        times = simulation.first_spike_times
        measured["closed form dyadic"] = sum(
            int(np.sum(times[name] != first_times(raster))) for name, raster in rasters.items()
        )
    else:
        simulation = snn.simulate(network.images, (RASTERS,))
        measured["stock stack"] = sum(
            int(np.sum(simulation.rasters[name] != raster)) for name, raster in rasters.items()
        )
    measured["stock scores"] = worst_of(simulation.output, scores)
    if spiking.ENCODINGS[encoding].tells_by == "time":
        measured["spikes per neuron"] = float(max(raster.sum(axis=0).max() for raster in rasters.values()))
    if save:
        measured["saved and loaded"] = saved_and_loaded(snn, network.images, simulation.output)
    measured["busy"] = float(np.mean([np.mean(raster.any(axis=0)) for raster in rasters.values()]))
    return measured


def saved_and_loaded(snn, images, expected) -> float:
    """Largest difference of the scores after saving and loading."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snn.keras"
        snn.save(path)
        again = keras.models.load_model(path)
    if (again.report, again.encoding, again.scales, again.wiring) != (snn.report, snn.encoding, snn.scales, snn.wiring):
        raise ValueError("The loaded network has another report, code, wiring or other scales.")
    pairs = zip(flat(again.simulate(images).output), flat(expected), strict=True)
    return max(float(np.abs(actual - wanted).max()) for actual, wanted in pairs)


def exact_snns(graph, images, steps) -> list:
    """`ttfs_exact` in windows of each number of steps, θ of each channel its largest activation on these images."""
    calibration = calibrate(graph, images, "max", per_channel=True)
    activations = graph.function(keras.config.floatx(), every_node=True)(images)
    # anew, in the precision of the simulation
    for name, layer in calibration.layers.items():
        values = activations[name]
        largest = np.max(values, axis=tuple(range(len(values.shape) - 1))) - layer.floor
        layer.scale = np.where(largest > 0, largest, 1)
    code = spiking.get_encoding(EXACT)
    return [assemble(graph, code.configured(timesteps=int(n)), calibration, name="exact") for n in steps]


def simulate_eagerly(snn, images) -> np.ndarray:
    """Without a tf.function: its tracing would take longer than one simulation of a small network."""
    return snn.encoding.simulate(snn.plan, snn.named_images(images)).output.numpy()


def slope(x, y) -> float:
    """Of log2 y over log2 x, least squares."""
    return float(np.polyfit(np.log2(x), np.log2(y), 1)[0])


def check_convergence(seed: int, octaves=range(3, 10)) -> dict[str, float]:
    """`ttfs_exact` against the ANN's scores on 64 images, as N grows.

    Only where the ANN is deep and continuous: no ReLU with a threshold, at least three layers of neurons.

    Args:
        seed: of the network.
        octaves: the N, as powers of two.

    Returns:
        Slope of the root mean square error in dB per doubling of N. Nothing, if the network is not deep and continuous,
        or so silent that there is no error to fall.
    """
    network = random_network(seed, images=64)
    ann = network.build(last_activation=False)
    folded, scores = read(ann), np.asarray(ann(network.images, training=False))
    if network.clamped or folded.depth < 3:
        return {}
    steps = 2 ** np.array(octaves)
    outputs = [simulate_eagerly(snn, network.images) for snn in exact_snns(folded, network.images, steps)]
    errors = [float(np.sqrt(np.mean((output - scores) ** 2))) for output in outputs]
    if min(errors) <= 1e-5 * scores.std():  # also where both are 0
        return {}
    return {"decibels": float(20 * np.log10(2) * slope(steps, errors))}


def check_refusals(network: RandomNetwork) -> None:
    """Codes that cannot do a ReLU with a threshold, or another activation, refuse it."""
    for name in set(spiking.ENCODINGS) - set(codes_for(network)):
        try:
            convert_ann_to_snn(network.ann, network.images, name)
        except ConversionError:
            continue
        raise ValueError(f"{name} converted neurons that it does not have.")


# ---------------------------------------------------------------------------------------------------------------------
# The long run


def run(seed: int) -> dict:
    """All checks of one seed: a line of the results."""
    start = time.perf_counter()
    line = {"seed": seed, "checks": {}, "errors": []}

    def attempt(name, check, *arguments):
        try:
            line["checks"][name] = check(*arguments)
        except Exception as error:  # the run goes on, and the summary names it
            place = traceback.extract_tb(error.__traceback__)[-1]
            message = " ".join(str(error).split())[:300]
            line["errors"].append(f"{name}: {type(error).__name__} in {place.name}: {message}")

    general, dyadic = random_network(seed), random_network(seed, dyadic=True)
    line["layers"] = sorted({kind.__name__ for kind in general.covered() | dyadic.covered()})
    line["depth"] = [read(each.ann).depth for each in (general, dyadic)]
    attempt("folding", check_folding, general)
    attempt("folding of the dyadic network", check_folding, dyadic)
    windowed = [name for name in codes_for(general) if isinstance(spiking.ENCODINGS[name], WindowEncoding)]
    attempt("closed form", check_closed_form, general, windowed[seed % len(windowed)])
    attempt("convergence", check_convergence, seed, (3, 6, 9))
    attempt("refusals", check_refusals, general)
    for turn, encoding in enumerate(shared_out(dyadic, first=True)):
        attempt(encoding, check_code, dyadic, encoding, turn == 0)
    graph, exact = random_graph(seed), random_graph(seed, dyadic=True)
    line["graph"] = graph.kind
    attempt("folding of a graph", check_graph_folding, graph)
    for turn, encoding in enumerate(shared_out(exact, first=False)):
        attempt(f"graph, {encoding}", check_code, exact, encoding, turn == 0)
    line["seconds"] = round(time.perf_counter() - start, 1)
    return line


def failures(line: dict) -> list[str]:
    """What of a line is out of bounds or raised."""
    failed = list(line["errors"])
    for name, measured in line["checks"].items():
        for key, value in (measured or {}).items():
            if key in BOUNDS and not value <= BOUNDS[key][0]:
                failed.append(f"{name}: {key} = {value:.3g}")
    return failed


def finished() -> dict[int, dict]:
    """The lines so far, by seed; a seed that was run again counts once, the last time."""
    if not RESULTS.exists():
        return {}
    lines = [json.loads(text) for text in RESULTS.read_text(encoding="utf-8").splitlines()]
    return {line["seed"]: line for line in lines}


def bounded_rows(measured: dict[str, list]) -> list[str]:
    """A row of the table for each measurement that has a bound; of its values, as (value, seed)."""
    rows = []
    for name, values in sorted(measured.items()):
        key = name.split(" · ")[0]
        if key in BOUNDS:
            worst, seed = max(values)
            passed = sum(value <= BOUNDS[key][0] for value, _ in values)
            rows.append(f"| {name} | {len(values)} | {passed} | {worst:.2g} | {seed} | {BOUNDS[key][0]:g} |")
    return rows


def summary(lines: list[dict]) -> str:
    """docs/WALL.md."""
    measured = collections.defaultdict(list)
    for line in lines:
        for name, values in line["checks"].items():
            for key, value in (values or {}).items():
                code = f"{key} · `{name}`" if name.removeprefix("graph, ") in spiking.ENCODINGS else key
                measured[code].append((value, line["seed"]))
    failed = {line["seed"]: failures(line) for line in lines if failures(line)}
    depths = [depth for line in lines for depth in line["depth"]]
    covered = {name for line in lines for name in line["layers"]}
    layers = (kind.__name__ for kind in CONVERTERS if issubclass(kind, keras.layers.Layer))
    missing = sorted(set(layers) - covered)
    decibels = np.array([value for value, _ in measured["decibels"] if np.isfinite(value)] or [np.nan])
    spread = np.percentile(decibels, [10, 90])
    so_far = "" if len(lines) >= WHOLE_RUN else f", of which these are the first {len(lines)}: it goes on from there"
    busy = [value for name, values in measured.items() if name.startswith("busy") for value, _ in values]
    text = [
        "# The wall of proof",
        "",
        f"{len(lines)} seeds, two random chains and two random graphs each (random and dyadic weights); chains: "
        f"{min(depths)} to {max(depths)} layers of neurons, {len(covered)} layer types; "
        f"{len(lines) - len(failed)} seeds pass all checks. Layer types that no chain has (joins are in the graphs): "
        f"{', '.join(missing) or 'none'}. On average {np.mean(busy):.0%} of the neurons spike.",
        "",
        "Made by `python benchmarks/wall.py` from docs/wall.jsonl (one line a seed). Networks are made from their seed "
        f"by `tests/random_networks.py` and `tests/random_graphs.py`. TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, NumPy {np.__version__}, Python {platform.python_version()}, {platform.machine()}.",
        "",
        f"The whole run is one of {WHOLE_RUN} seeds{so_far}. Every code is checked on each seed, on its chain or on "
        "its graph. In every fourth turn of the chains and in every fourth graph neurons have other activations than "
        "ReLU; codes that do not carry these refuse them. Version 0.1, which had chains and ReLU only, was run on 500: "
        "496 passed all checks; three differed by the rounding of the ANN itself, one met an operation that oneDNN has "
        "no kernel for.",
        "",
        "| check | networks | within bound | worst | its seed | bound |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *bounded_rows(measured),
        "",
        f"The ANN itself, in float32, differs from itself in float64 by up to "
        f"{max(measured['rounding of the ANN'])[0]:.1g} "
        "(relative): that is what its folding in float32 is to be seen against.",
        "",
        *[f"- **{key}**: {meaning}." for key, (_, meaning) in BOUNDS.items()],
        "",
        f"- **convergence**: with θ the largest activation of the evaluated images, the root mean square error of "
        f"`ttfs_exact` changes by {np.median(decibels):.2f} dB per doubling of N from 8 to 512 (median of the "
        f"{decibels.size} networks with at least three layers of neurons and no jumps; 10th to 90th percentile "
        f"{spread[0]:.1f} to {spread[1]:.1f}). The flat ones have layers of two or three neurons, where a single step "
        "at N = 8 is as large as the signal; they reach 6 dB at larger N.",
        "",
        "## Failures",
        "",
        *([f"- seed {seed}: {'; '.join(found)}" for seed, found in sorted(failed.items())] or ["None."]),
        *(["", "Looked into:", ""] if failed else []),
        *[f"- seed {seed}: {text}" for seed, text in EXPLANATIONS.items() if seed in failed],
    ]
    return "\n".join(text) + "\n"


def main(arguments=None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, default=WHOLE_RUN, help="seeds 0 to this number")
    parser.add_argument("--summary", action="store_true", help="write docs/WALL.md from what there is, run nothing")
    chosen = parser.parse_args(arguments)
    done = finished()
    progress = keras.utils.Progbar(chosen.networks, interval=10)
    try:
        for seed in range(0 if chosen.summary else chosen.networks):
            if seed not in done:
                done[seed] = run(seed)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[seed]) + "\n")
                keras.backend.clear_session()
            progress.update(seed + 1)
    finally:  # stopped before the end, the page tells of what there is
        SUMMARY.write_text(summary([done[seed] for seed in sorted(done)]), encoding="utf-8")


if __name__ == "__main__":
    main()
