"""What a run leaves for TensorBoard, read through the HTTP API of the real server."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import metadata as hparams_metadata

import spiking
from conversion import ann_and_snn_activations_per_layer, conversion_report
from experiment import Experiment
from spiking.network.records import FIRST_SPIKE_TIMES, SPIKE_COUNTS
from spiking.runs.columns import declare
from spiking.runs.tensorboard import short_name

RUN = "tiny run"
ENCODINGS = [*spiking.ENCODINGS][:1] + [*spiking.ENCODINGS][-1:]  # one with many spikes, one with one at most
WEIGHTED, HIDDEN = ("maps", "hidden", "scores"), ("maps", "pool", "hidden")
PATIENCE = 60  # seconds until the server must have read the log; it takes a few


def train_tiny(experiment, ds_train, ds_test, force_training=False):
    model = keras.Sequential(
        [
            keras.Input(ds_train[0].shape[1:]),
            keras.layers.Conv2D(3, 3, activation=experiment.activation, name="maps"),
            keras.layers.MaxPooling2D(name="pool"),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation=experiment.activation, name="hidden"),
            keras.layers.Dense(3, activation="softmax", name="scores"),
        ],
        name="tiny",
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*ds_train, epochs=experiment.epochs, verbose=0, callbacks=list(experiment.callbacks))
    return model


def images(count, seed):
    """Images of three classes: the brighter third says which."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 80, (count, 9, 9, 1), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[3 * label : 3 * label + 3] += 150
    return pixels, labels


class Server:
    """The HTTP API of a running TensorBoard."""

    def __init__(self, address):
        self.address = address

    def get(self, path, body=None, **query):
        """What a route returns; a body makes it a POST request."""
        address = f"{self.address}data/plugin/{path}"
        if query:
            address += "?" + urllib.parse.urlencode(query)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"} if data else {})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            content = response.read()
        return json.loads(content) if response.headers["Content-Type"].startswith("application/json") else content

    def series(self, run, tag):
        """[(step, value), …] of a scalar."""
        return [(step, value) for _, step, value in self.get("scalars/scalars", run=run, tag=tag)]

    def histogram(self, run, tag):
        """The only histogram under a tag, `(bins, 3)`."""
        ((_, step, bins),) = self.get("histograms/histograms", run=run, tag=tag)
        assert step == 0
        return np.array(bins)


@contextlib.contextmanager
def serving(output, *arguments):
    """Starts Python with these arguments, for a server that prints its address; stops it in any case."""
    with output.open("w") as file:
        process = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/", output.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        yield process, found[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # the group of this server alone: it has a session of its own
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An experiment, and what its run returned."""
    folder = tmp_path_factory.mktemp("run")
    experiment = Experiment(
        name=RUN,
        dataset=(images(60, 1), images(30, 2)),
        training_function=train_tiny,
        epochs=3,
        timesteps=8,
        encoding=ENCODINGS,
        max_images=25,
        results_dir=folder / "experiments",
        tblogs_dir=folder / "tblogs",
    )
    return experiment, experiment.run()


@pytest.fixture(scope="module")
def server(run):
    experiment, _ = run
    arguments = ("-m", "tensorboard.main", "--logdir", str(experiment.tblogs_dir), "--host", "127.0.0.1", "--port", "0")
    with serving(experiment.tblogs_dir.parent / "server.log", *arguments) as (_, address):
        server = Server(address)
        # The server reads the log in the background; figures are written last.
        deadline, expected = time.monotonic() + PATIENCE, {f"{RUN}/{encoding}" for encoding in ENCODINGS}
        expected |= {f"{RUN}/comparison"}
        while not expected <= {run for run, tags in server.get("images/tags").items() if len(tags) >= 2} or len(
            server.get("images/images", run=f"{RUN}/comparison", tag="figures/accuracy_per_timestep", sample=0)
        ) < len(ENCODINGS):
            assert time.monotonic() < deadline, server.get("images/tags")
            time.sleep(0.1)
        yield server


@pytest.fixture(scope="module", params=ENCODINGS)
def encoding(request):
    return request.param


@pytest.fixture(scope="module")
def spikes(run, encoding):
    """Layer -> (spike counts, first spike times) of the test images, `(images, …)`, simulated anew."""
    experiment, _ = run
    simulation = experiment.results[encoding].snn.simulate(
        experiment.data.x_test[:25], (SPIKE_COUNTS, FIRST_SPIKE_TIMES)
    )
    times = simulation.first_spike_times
    return {name: (counts.numpy(), times[name].numpy()) for name, counts in simulation.spike_counts.items()}


def test_a_run_per_encoding_and_the_training(server):
    assert set(server.get("scalars/tags")) == {
        *(f"{RUN}/{encoding}" for encoding in ENCODINGS),
        f"{RUN}/ann/train",
    }
    assert set(server.get("text/tags")) == {f"{RUN}/comparison", *(f"{RUN}/{encoding}" for encoding in ENCODINGS)}


def test_scalars_are_the_metrics_of_the_run(run, server, encoding):
    _, metrics = run
    shown = server.get("scalars/tags")[f"{RUN}/{encoding}"]
    found = metrics["per_encoding"][encoding]
    numbers = {tag: value for tag, value in found.items() if not tag.startswith("experiment/")}
    for kind in ("ann/eval", "snn/eval", "snn/diff"):
        assert {f"{kind}/train", f"{kind}/test"} <= set(numbers)
    for kind in ("ann", "snn"):  # in µJ: TensorBoard rounds to four places
        numbers[f"{kind}/energy_uJ"] = 1e6 * numbers.pop(f"{kind}/energy")
    assert {"snn/synaptic_operations", "snn/energy_uJ", "ann/energy_uJ"} <= set(numbers)
    assert set(numbers) <= set(shown)
    assert min(shown, key=lambda tag: tag.split("/")[0]) == "accuracy/per_timestep"  # what is seen first
    assert not any(tag.startswith("experiment/") for tag in shown)  # settings are in HParams
    for tag, value in numbers.items():
        ((step, number),) = server.series(f"{RUN}/{encoding}", tag)
        if isinstance(value, float) and not np.isfinite(value):
            number = float(number.replace("Infinity", "inf")) if isinstance(number, str) else number
        assert (step, number) == (0, pytest.approx(value, rel=1e-6))


def test_accuracy_against_the_time_step_is_a_curve(run, server, encoding):
    experiment, metrics = run
    curve = server.series(f"{RUN}/{encoding}", "accuracy/per_timestep")
    snn = experiment.results[encoding].snn
    assert [step for step, _ in curve] == list(range(1, snn.timesteps + 1))
    assert curve[-1][1] == pytest.approx(metrics["per_encoding"][encoding]["snn/eval/test"])
    x, y = experiment.data.x_test[:25], experiment.data.y_test[:25]
    readouts = snn.simulate(x, ("readouts",)).readouts.numpy()
    assert [value for _, value in curve] == pytest.approx(np.mean(readouts.argmax(-1) == y, axis=1))


def test_spikes_over_the_layers(server, encoding, spikes):
    run = f"{RUN}/{encoding}"
    fired = {name: times[times > 0] for name, (_, times) in spikes.items()}
    assert all(map(np.size, fired.values()))  # or the test looks at nothing
    for tag, expected in {
        "snn/no_of_spikes/avg": [counts.mean() for counts, _ in spikes.values()],
        "snn/no_of_spikes/var": [counts.var() for counts, _ in spikes.values()],
        "snn/timestep_spikes/avg": [times.mean() for times in fired.values()],
        "snn/timestep_spikes/var": [times.var() for times in fired.values()],
        "snn/silent_share": [np.mean(counts == 0) for counts, _ in spikes.values()],
    }.items():
        assert server.series(run, tag) == [(n, pytest.approx(v, rel=1e-5)) for n, v in enumerate(expected, 1)], tag
        assert "1 = maps, 2 = pool, 3 = hidden" in server.get("scalars/tags")[run][tag]["description"]


def test_histograms_of_weights(run, server, encoding):
    experiment, _ = run
    result = experiment.results[encoding]
    shown = server.get("histograms/tags")[f"{RUN}/{encoding}"]
    kinds = ("ann", "snn") if encoding == ENCODINGS[0] else ("snn",)  # those of the ANN not twice
    assert kinds == ("ann", "snn") or not any(tag.endswith("/ann") for tag in shown)
    weights = {f"values/weights/{name}/{kind}" for name in WEIGHTED for kind in kinds}
    assert {tag for tag in shown if tag.startswith("values/weights/")} == weights
    for name in WEIGHTED:
        synapse = result.snn.get_layer(name).cell.synapse_layers
        in_snn = next(layer.kernel for layer in synapse if hasattr(layer, "kernel"))
        kernels = {"ann": result.ann.model.get_layer(name).kernel, "snn": in_snn}
        for kind, kernel in ((kind, kernels[kind]) for kind in kinds):
            bins, kernel = server.histogram(f"{RUN}/{encoding}", f"values/weights/{name}/{kind}"), np.asarray(kernel)
            assert bins[:, 2].sum() == kernel.size
            assert (bins[0, 0], bins[-1, 1]) == (pytest.approx(kernel.min()), pytest.approx(kernel.max()))


def test_histograms_of_spikes(server, encoding, spikes):
    for name, (counts, times) in spikes.items():
        for tag, values in (("no_of_spikes", counts), ("spike_timesteps", times[times > 0])):
            bins = server.histogram(f"{RUN}/{encoding}", f"spikes/{tag}/{name}")
            edges = np.append(bins[:, 0], bins[-1, 1])
            assert bins[:, 2].tolist() == np.histogram(values, edges)[0].tolist()
            assert bins[:, 2].sum() == values.size


def test_histograms_of_activations(run, server, encoding):
    experiment, _ = run
    result = experiment.results[encoding]
    pairs = ann_and_snn_activations_per_layer(result.ann.model, result.snn, experiment.data.x_test[:25])
    assert set(pairs) == set(HIDDEN)
    for name, pair in pairs.items():
        for kind, values in zip(("ann", "snn"), pair, strict=True):
            if kind == "ann" and encoding != ENCODINGS[0]:
                continue
            bins = server.histogram(f"{RUN}/{encoding}", f"values/activations/{name}/{kind}")
            assert bins[:, 2].sum() == values.size
            assert bins[-1, 1] == pytest.approx(values.max(), rel=1e-5)


def test_texts(run, server, encoding):
    experiment, _ = run
    result, route = experiment.results[encoding], {"run": f"{RUN}/{encoding}"}

    def words(tag):
        (text,) = server.get("text/text", tag=tag, **route)
        return re.sub(r"&#39;|&quot;|['\"\s]", "", re.sub(r"</?(pre|code)>", "", text["text"]))

    def plain(text):
        for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(sign, name)
        return re.sub(r"['\"\s]", "", text)

    tags = {"snn/conversion_report", "snn/diagnosis", "snn/energy_assumptions", "snn/layers"}
    assert set(server.get("text/tags")[route["run"]]) == tags
    assert words("snn/conversion_report") == plain(conversion_report(result.snn))
    assert words("snn/diagnosis") == plain(str(result.diagnosis))
    assert words("snn/energy_assumptions").startswith("Energyon45nm_float32")
    assert [words("snn/layers").index(name) for name in HIDDEN]


def test_images_are_the_figures(run, server, encoding):
    experiment, _ = run
    tags = {f"figures/{name}" for name in (f"raster-{encoding}", f"activity-{encoding}")}
    assert set(server.get("images/tags")[f"{RUN}/{encoding}"]) == tags
    for tag in tags:
        (entry,) = server.get("images/images", run=f"{RUN}/{encoding}", tag=tag, sample=0)
        image = server.get(f"images/individualImage?{entry['query']}")
        file = experiment.folder.path / f"{tag}.png"
        shown, drawn = (tf.io.decode_png(png, channels=4).numpy() for png in (image, file.read_bytes()))
        assert np.ptp(shown) == 255
        assert np.array_equal(shown, drawn)


def test_the_comparison_stands_once_for_the_run(run, server):
    experiment, metrics = run
    route = {"run": f"{RUN}/comparison"}
    assert set(server.get("images/tags")[route["run"]]) == {
        f"figures/{name}" for name in ("accuracy_per_timestep", "costs", "learning-ann")
    }
    entry = server.get("images/images", tag="figures/accuracy_per_timestep", sample=0, **route)[-1]
    image = server.get(f"images/individualImage?{entry['query']}")
    assert image == (experiment.folder.path / "figures" / "accuracy_per_timestep.png").read_bytes() or np.array_equal(
        *(tf.io.decode_png(png, channels=4).numpy()
          for png in (image, (experiment.folder.path / "figures" / "accuracy_per_timestep.png").read_bytes()))
    )  # fmt: skip
    text = server.get("text/text", tag="comparison", **route)[-1]["text"]
    for encoding in ENCODINGS:
        assert encoding in text and f"{1e6 * metrics['per_encoding'][encoding]['snn/energy']:,.3f}" in text
    assert "Energy on 45nm_float32" in text and "neuron updates left out, memory access left out" in text


def test_hparams_compare_the_encodings(run, server):
    _, metrics = run
    body = {"experimentName": "", "startIndex": 0, "sliceSize": 100, "colParams": []}
    body["allowedStatuses"] = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    columns = server.get("hparams/experiment", {"experimentName": ""})
    settings = {column["name"]: column for column in columns["hparamInfos"]}
    assert {"encoding", "timesteps", "threshold", "norm_percentile", "training_function", "dataset"} <= set(settings)
    assert settings["encoding"]["differs"] and not settings["seed"].get("differs")
    assert settings["encoding"]["domainDiscrete"] == ENCODINGS
    shown = [column["displayName"] for column in columns["metricInfos"]]
    assert shown[:4] == ["SNN accuracy", "difference", "spikes per neuron", "energy / µJ"]
    assert {"latency / steps", "operations", "ANN accuracy"} <= set(shown)
    groups = server.get("hparams/session_groups", body)["sessionGroups"]
    assert {group["hparams"]["encoding"] for group in groups} == set(ENCODINGS)
    assert {group["name"] for group in groups} == {f"{RUN}/{encoding}" for encoding in ENCODINGS}
    for group in groups:
        expected = metrics["per_encoding"][group["hparams"]["encoding"]]
        for name, value in group["hparams"].items():
            value = float(value) if value == "inf" else value
            assert value == expected[f"experiment/{name}"]
        values = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        for tag in ("ann/eval/test", "snn/eval/test", "snn/diff/test", "snn/spikes_per_neuron"):
            assert values[tag] == pytest.approx(expected[tag], rel=1e-6)
        assert values["snn/energy_uJ"] == pytest.approx(1e6 * expected["snn/energy"], rel=1e-6)


def test_columns_are_those_of_all_runs(tmp_path):
    """One declaration, which changes only when a run brings something new; a damaged list is begun anew."""

    def declared():
        (file,) = tmp_path.glob("events*")
        (event,) = [event for event in tf.compat.v1.train.summary_iterator(str(file)) if event.summary.value]
        content = event.summary.value[0].metadata.plugin_data.content
        return file, hparams_metadata.parse_experiment_plugin_data(content)

    declare(tmp_path, {"encoding": "rate", "signed": True, "timesteps": 8}, {"snn/energy_uJ": 1.0, "other": 2.0})
    first, columns = declared()
    assert [each.display_name for each in columns.metric_infos] == ["energy / µJ"]
    assert not any(each.differs for each in columns.hparam_infos)
    declare(tmp_path, {"encoding": "rate", "timesteps": 8}, {"snn/energy_uJ": 3.0})
    assert declared()[0] == first
    declare(tmp_path, {"encoding": "ttfs", "tau": "inf", "timesteps": 8}, {"snn/eval/test": 0.5})
    _, columns = declared()
    assert [each.display_name for each in columns.metric_infos] == ["SNN accuracy", "energy / µJ"]
    assert {each.name: each.differs for each in columns.hparam_infos} == {
        "encoding": True, "signed": False, "timesteps": False, "tau": False}  # fmt: skip
    (tmp_path / ".hparams.json").write_text("[")
    declare(tmp_path, {"timesteps": 9.5}, {})
    _, columns = declared()
    assert [(each.name, each.domain_interval.max_value) for each in columns.hparam_infos] == [("timesteps", 9.5)]


def test_runs_are_known_by_what_their_columns_do_not_tell():
    assert short_name("lenet5-mnist_sample-20261125-143000") == "1125-143000"
    assert short_name("lenet5-mnist_sample-20261125-143000-2") == "1125-143000-2"
    assert short_name("trial-00012") == "trial-00012" and short_name("mine") == "mine"


def test_a_server_is_stopped_in_any_case(tmp_path):
    stubborn = """if True:
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("http://127.0.0.1:1/", flush=True)
        time.sleep(60)
    """
    with pytest.raises(ZeroDivisionError), serving(tmp_path / "log", "-c", stubborn) as (process, address):
        assert address == "http://127.0.0.1:1/"
        assert process.poll() is None
        raise ZeroDivisionError
    assert process.returncode == -signal.SIGKILL
