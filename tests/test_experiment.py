"""`Experiment` and the command line, on tiny data and tiny networks."""

import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

import ann_training
import conversion
import experiment as module
import spiking
from experiment import Experiment, main
from spiking.quantisation import QuantisedActivation
from spiking.runs.files import plain, write_atomically

ROOT = Path(module.__file__).parent
CONTRACT_8 = (
    *("name", "batch_size_ann_training", "batch_size_snn_eval", "timesteps", "max_rate", "epochs", "norm_percentile"),
    *("tau", "threshold", "beta", "encoding", "image_size_rescale", "image_depth_increase", "tensorboard_title"),
    *("dataset", "training_function", "force_training", "max_images", "disable_training_accuracy"),
)
ACCURACIES = {f"{kind}/{part}" for kind in ("ann/eval", "snn/eval", "snn/diff") for part in ("train", "test")}
TWO = tuple(spiking.ENCODINGS)[:2]


def images(count, seed):
    """Images of three classes: the brighter third says which."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 80, (count, 9, 9, 1), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[3 * label : 3 * label + 3] += 150
    return pixels, labels


DATA = (images(60, 1), images(30, 2))


def train_tiny(experiment, ds_train, ds_test, force_training=False):
    """A training function of a user: two convolutions' worth of nothing, one hidden layer."""
    train_tiny.calls.append((experiment.activation, force_training))
    model = keras.Sequential(
        [
            keras.Input(ds_train[0].shape[1:]),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(2, 3, activation="relu", name="maps"),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation=experiment.activation, name="hidden"),
            keras.layers.Dense(3, activation="softmax", name="scores"),
        ],
        name="tiny",
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*ds_train, epochs=experiment.epochs, verbose=0, callbacks=list(experiment.callbacks))
    return model


train_tiny.calls = []
TRAINED = {}


def train_once(experiment, ds_train, ds_test, force_training=False):
    """What `train_tiny` gives, trained once for each activation: for tests that are not about training."""
    key = str(module.activation_key(experiment.activation)), experiment.epochs, ds_train[0].shape
    if key not in TRAINED:
        TRAINED[key] = train_tiny(experiment, ds_train, ds_test)
    model = keras.models.clone_model(TRAINED[key])
    model.set_weights(TRAINED[key].get_weights())
    return model


def make(folder, **changes):
    arguments = {
        "dataset": DATA,
        "training_function": train_once,
        "epochs": 2,
        "timesteps": 8,
        "batch_size_snn_eval": 10,
        "results_dir": folder / "experiments",
        "tblogs_dir": folder / "tblogs",
    }
    return Experiment(**{**arguments, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An experiment with two encodings, what its run returned, and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    train_tiny.calls.clear()
    experiment = make(folder, name="tiny run", encoding=TWO, max_images=25, training_function=train_tiny)
    return experiment, experiment.run(), folder


# ---------------------------------------------------------------------------------------------------------------------
# The contract


def test_arguments_keep_their_names_and_order():
    parameters = inspect.signature(Experiment).parameters
    positional = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert positional == list(CONTRACT_8)
    assert all(each.default is not each.empty for each in parameters.values())


def test_several_encodings_give_the_metrics_of_the_first_and_of_each(finished):
    _, metrics, _ = finished
    assert list(metrics["per_encoding"]) == list(TWO)
    assert {key: value for key, value in metrics.items() if key != "per_encoding"} == metrics["per_encoding"][TWO[0]]


def test_metrics_are_complete_and_consistent(finished):
    experiment, metrics, _ = finished
    assert experiment.problems == []
    for encoding, each in metrics["per_encoding"].items():
        assert ACCURACIES | set(module.ANALYSIS_METRICS) | {"snn/seconds", "snn/timesteps"} <= set(each)
        for part in ("train", "test"):
            assert 0 <= each[f"snn/eval/{part}"] <= 1
            assert each[f"snn/diff/{part}"] == each[f"snn/eval/{part}"] - each[f"ann/eval/{part}"]
        settings = {name for name in CONTRACT_8 if f"experiment/{name}" in each}
        # What is missing is no hyperparameter, or unknown to this encoding.
        assert set(CONTRACT_8) - settings <= {
            *("name", "tensorboard_title", "force_training", "disable_training_accuracy", "max_rate", "tau"),
            "beta",
        }
        assert each["experiment/encoding"] == encoding
        assert each["experiment/timesteps"] == 8
        assert each["experiment/threshold"] == {"rate": 1.0, "ttfs": 8 / (4 + 2)}[encoding]  # two layers of neurons
        analysis = experiment.results[encoding].analysis
        assert analysis.samples == 25
        assert analysis.accuracy_per_timestep[-1] == pytest.approx(each["snn/eval/test"])
        assert each["ann/macs"] == 3 * 3 * 2 * 4 + 8 * 8 + 8 * 3


def test_accuracies_are_those_of_the_saved_networks(finished):
    experiment, metrics, _ = finished
    (x, y), folder = (part[:25] for part in experiment.data.test), experiment.folder.path
    ann = keras.models.load_model(folder / "ann.keras")
    assert conversion.ann_accuracy(ann, x, y) == pytest.approx(metrics["ann/eval/test"])
    for encoding in TWO:
        snn = keras.models.load_model(folder / f"snn-{encoding}.keras")
        expected = metrics["per_encoding"][encoding]["snn/eval/test"]
        assert conversion.snn_accuracy(snn, x, y) == pytest.approx(expected)


def test_encodings_with_the_same_activation_share_an_ann(finished):
    _, _, _ = finished
    assert train_tiny.calls == [("relu", False)]


def test_an_encoding_with_another_activation_trains_its_own_ann(tmp_path, monkeypatch):
    first, second = TWO
    monkeypatch.setattr(Experiment, "ann_activation", lambda self, encoding: "relu" if encoding == first else "relu6")
    experiment = make(tmp_path, encoding=TWO, training_function=train_tiny)
    train_tiny.calls.clear()
    assert experiment.train(first) is not experiment.train(second)
    assert [activation for activation, _ in train_tiny.calls] == ["relu", "relu6"]
    assert {path.name for path in experiment.folder.path.glob("*.keras")} == {"ann.keras", f"ann-{second}.keras"}


@pytest.mark.parametrize(
    "same", [("relu", "relu"), (keras.layers.ReLU(threshold=0.5), keras.layers.ReLU(threshold=0.5))]
)
def test_equal_activations_have_equal_keys(same):
    assert module.activation_key(same[0]) == module.activation_key(same[1])
    assert module.activation_key(same[0]) != module.activation_key(keras.layers.ReLU(threshold=0.25))


@pytest.mark.parametrize("encoding", spiking.ENCODINGS)
def test_every_encoding_runs_alone_and_repeats_itself(encoding, tmp_path):
    options = {"encoding": encoding, "max_images": 6, "disable_training_accuracy": True}
    first = make(tmp_path / "run", **options).run()
    second = make(tmp_path / "again", **options).measure()
    assert second.keys() - first.keys() == set() and set(module.ANALYSIS_METRICS) <= second.keys()
    assert {key: first[key] for key in second if key != "snn/seconds"} == {
        key: value for key, value in second.items() if key != "snn/seconds"
    }
    assert "per_encoding" not in first
    assert not [key for key in first if key.endswith("/train")]


def test_training_repeats_itself_and_follows_the_seed(tmp_path):
    first, second, other = (
        make(tmp_path / str(k), training_function=train_tiny, seed=seed).train().get_weights()
        for k, seed in enumerate((0, 0, 1))
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(first, other, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# The steps


def test_analysis_names_the_missing_call(tmp_path):
    experiment = make(tmp_path)
    with pytest.raises(RuntimeError, match=r"snn_accuracy\(\) first"):
        experiment.snn_activation_analysis()
    with pytest.raises(RuntimeError, match=r"snn_activation_analysis\(\) first"):
        experiment.log()
    assert list(tmp_path.iterdir()) == []


def test_steps_one_by_one_take_those_before_them(tmp_path):
    experiment = make(tmp_path, name="steps", max_images=10)
    ann, snn = experiment.ann_accuracy(), experiment.snn_accuracy()
    assert set(ann) == {"ann/eval/train", "ann/eval/test"}
    assert ACCURACIES - set(ann) <= set(snn)
    assert experiment.snn_activation_analysis().samples == 10
    assert experiment.log() == tmp_path / "experiments" / "steps"
    with pytest.raises(ValueError, match="This experiment is about"):
        experiment.train(TWO[1])


def test_the_ann_is_read_once_and_the_test_images_are_simulated_once(tmp_path, monkeypatch):
    reads, simulated = [], []
    read, simulate = conversion.read, spiking.SpikingModel.simulate

    def counting_read(ann, *others):
        reads.extend([ann] if isinstance(ann, keras.Model) else [])
        return read(ann, *others)

    def counting_simulate(self, images, *args, **options):
        if tf.executing_eagerly():
            simulated.append(len(images))
        return simulate(self, images, *args, **options)

    monkeypatch.setattr(conversion, "read", counting_read)
    monkeypatch.setattr(spiking.SpikingModel, "simulate", counting_simulate)
    experiment = make(tmp_path, encoding=TWO, disable_training_accuracy=True)
    experiment.measure(TWO[0])
    assert sum(simulated) == 30 + 2 * 10  # a batch is traced and timed
    experiment.log(TWO[0])
    experiment.measure(TWO[1])
    experiment.log(TWO[1])
    assert len(reads) == 1


def test_settings_reach_only_the_encodings_that_know_them(tmp_path):
    experiment = make(tmp_path, encoding=list(spiking.ENCODINGS), tau=50.0, max_rate=0.5, threshold=2.0)
    for encoding, settings in experiment.settings.items():
        known = spiking.ENCODINGS[encoding].options
        assert ("tau" in settings) == ("tau" in known)
        assert settings.get("tau", 50.0) == 50.0
        assert settings.get("max_rate", 0.5) == 0.5
        assert settings["threshold"] == 2.0


# ---------------------------------------------------------------------------------------------------------------------
# What a run leaves


def test_the_normalisation_reaches_the_conversion(tmp_path):
    experiment = make(tmp_path, normalisation="max", per_channel=True)
    snn = experiment.convert()
    ann = experiment.result().ann.model
    maps = keras.Model(ann.inputs, ann.get_layer("maps").output).predict(experiment.data.x_train, verbose=0)
    np.testing.assert_allclose(snn.scales["maps"], maps.max(axis=(0, 1, 2)), rtol=1e-5)  # all 60 images calibrate
    settings = experiment.hyperparameters(experiment.encoding)
    assert (settings["normalisation"], settings["per_channel"]) == ("max", True)


def test_a_correction_reaches_those_encodings_that_round(tmp_path):
    common = {"encoding": ["rate", "ttfs_exact"], "encoding_options": spiking.rate.classic()}
    experiment, plain = make(tmp_path, **common, correction="shifts"), make(tmp_path, **common)
    for encoding, changed in (("rate", False), ("ttfs_exact", True)):
        corrected, usual = (each.convert(encoding) for each in (experiment, plain))
        biases = [[layer.cell.bias.numpy() for layer in snn.hidden_layers if layer.cell.bias is not None]
                  for snn in (corrected, usual)]  # fmt: skip
        assert any(np.any(a != b) for a, b in zip(*biases, strict=True)) == changed
    assert experiment.hyperparameters("ttfs_exact")["correction"] == "shifts"


def test_a_correction_needs_an_encoding_that_rounds(tmp_path):
    with pytest.raises(ValueError, match="correction='output'.*ttfs"):
        make(tmp_path, encoding="ttfs", correction="output")


def test_an_ann_trained_with_rounded_activations_converts_without_error(tmp_path):
    experiment = make(
        tmp_path, encoding=["rate", "ttfs_exact"], timesteps=4, training_levels=4, training_function="denseonly1",
        encoding_options=spiking.rate.classic(),
    )  # fmt: skip
    experiment.train("rate"), experiment.train("ttfs_exact")
    plain, rounded = (experiment.result(name).ann.model for name in ("rate", "ttfs_exact"))
    assert [any(isinstance(layer, QuantisedActivation) for layer in ann.layers) for ann in (plain, rounded)] == [0, 1]
    snn, images = experiment.convert("ttfs_exact"), experiment.data.x_test
    np.testing.assert_allclose(snn(images), rounded(images), atol=1e-5)
    assert experiment.hyperparameters("ttfs_exact")["training_levels"] == 4


def test_other_activations_are_trained_with_levels_too(tmp_path):
    experiment = make(
        tmp_path, encoding="radix", timesteps=3, training_levels=7, activation="tanh", training_function="denseonly1"
    )
    snn, images = experiment.convert(), experiment.data.x_test
    np.testing.assert_allclose(snn(images), experiment.result().ann.model(images), atol=1e-5)
    told = experiment.hyperparameters("radix")
    assert (told["training_levels"], told["activation"]) == (7, "tanh")


@pytest.mark.parametrize("activation, encoding, remedy", [
    ("tanh", ["radix", "rate"], r"encoding=\['rate'\]. Take an encoding out of \['radix', 'ttfs_exact'\]"),
    ("softmax", "radix", "elementwise"), ("no_such_function", "rate", "elementwise"),
])  # fmt: skip
def test_activations_that_a_code_does_not_carry_are_refused_before_training(activation, encoding, remedy, tmp_path):
    with pytest.raises(ValueError, match=f"activation={activation!r} with .*{remedy}"):
        make(tmp_path, activation=activation, encoding=encoding)


@pytest.mark.parametrize(
    "others",
    [
        {"encoding": "ttfs"},
        {"encoding": "rate", "encoding_options": spiking.rate.classic()},
        {"correction": "shifts"},
    ],
)
def test_training_levels_need_an_encoding_that_rounds_and_no_correction(tmp_path, others):
    with pytest.raises(ValueError, match="training_levels=4"):
        make(tmp_path, **{"encoding": "ttfs_exact", "training_levels": 4, **others})


def test_files_of_a_run(finished):
    experiment, metrics, folder = finished
    run = folder / "experiments" / "tiny run"
    figures = {f"figures/{kind}-{encoding}.png" for kind in ("raster", "activity") for encoding in TWO}
    networks = {"ann.keras", *(f"snn-{encoding}.keras" for encoding in TWO)}
    figures |= {f"figures/{name}.png" for name in ("accuracy_per_timestep", "costs", "learning-ann")}
    expected = {"config.json", "metrics.json", "report.html"} | figures | networks
    assert {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} == expected

    config = json.loads((run / "config.json").read_text())
    assert config["seed"] == 0
    assert config["encodings"] == list(TWO)
    assert config["dataset"]["fingerprint"] == experiment.data.fingerprint
    assert config["dataset"]["source"] == experiment.data.source
    assert set(config["versions"]) == {"python", "tensorflow", "keras", "numpy", "spiking-toolbox"}
    assert config["hyperparameters"][TWO[1]]["training_function"] == "train_tiny"
    for encoding in TWO:  # in effect, though not given
        code, told = spiking.ENCODINGS[encoding], config["hyperparameters"][encoding]
        assert (told["normalisation"], told["per_channel"]) == (code.normalisation, code.per_channel)
    assert json.loads((run / "metrics.json").read_text()) == plain(metrics["per_encoding"])


@pytest.mark.parametrize("encoding", TWO)
def test_tensorboard_shows_what_the_run_returned(finished, encoding):
    experiment, metrics, folder = finished
    log = EventAccumulator(str(folder / "tblogs" / "tiny run" / encoding), size_guidance={"tensors": 0}).Reload()
    tensors = {tag: log.Tensors(tag) for tag in log.Tags()["tensors"]}

    def numbers(tag):
        return [np.frombuffer(e.tensor_proto.tensor_content, "<f4")[0] if e.tensor_proto.tensor_content
                else e.tensor_proto.float_val[0] for e in tensors[tag]]  # fmt: skip

    for tag, value in metrics["per_encoding"][encoding].items():
        if tag.endswith("/energy"):
            assert numbers(f"{tag}_uJ") == [pytest.approx(1e6 * value, rel=1e-6)]
        elif not tag.startswith("experiment/"):
            assert numbers(tag) == [pytest.approx(value, rel=1e-6)]
    curve = experiment.results[encoding].analysis.accuracy_per_timestep
    assert numbers("accuracy/per_timestep") == pytest.approx(curve)
    assert [event.step for event in tensors["accuracy/per_timestep"]] == list(range(1, len(curve) + 1))
    assert b"hidden" in tensors["snn/conversion_report"][0].tensor_proto.string_val[0]
    for figure in (f"raster-{encoding}", f"activity-{encoding}"):
        assert tensors[f"figures/{figure}"][0].tensor_proto.string_val[2].startswith(b"\x89PNG")

    content = log.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    shown = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert shown["encoding"].string_value == encoding
    assert shown["timesteps"].number_value == 8


def test_training_is_logged_beside_the_encodings(finished):
    _, _, folder = finished
    assert list((folder / "tblogs" / "tiny run" / "ann" / "train").iterdir())


def test_a_second_run_of_the_same_name_gets_a_number(tmp_path):
    options = {"name": "again", "tensorboard_title": "shown", "max_images": 5, "disable_training_accuracy": True}
    experiment = make(tmp_path, **options)
    experiment.run()
    before = (tmp_path / "experiments" / "again" / "metrics.json").read_bytes()
    experiment.run()
    assert (tmp_path / "experiments" / "again" / "metrics.json").read_bytes() == before
    assert {path.name for path in (tmp_path / "experiments").iterdir()} == {"again", "again-2"}
    assert {path.name for path in (tmp_path / "tblogs").iterdir() if path.is_dir()} == {"shown", "shown-2"}


def test_an_interrupted_run_leaves_what_is_finished(tmp_path, monkeypatch):
    experiment = make(tmp_path, name="stopped", encoding=TWO, max_images=5)
    convert = conversion.convert_ann_to_snn

    def interrupt(ann, calibration, encoding, **options):
        if encoding == TWO[1]:
            raise KeyboardInterrupt
        return convert(ann, calibration, encoding, **options)

    monkeypatch.setattr(conversion, "convert_ann_to_snn", interrupt)
    with pytest.raises(KeyboardInterrupt):
        experiment.run()
    run = tmp_path / "experiments" / "stopped"
    assert list(json.loads((run / "metrics.json").read_text())) == [TWO[0]]
    assert (run / "ann.keras").is_file()
    assert not list(run.glob(".*"))


def fail(*args, **options):
    raise OSError(28, "No space left on device")


BROKEN = {
    "figures": lambda monkeypatch: monkeypatch.setattr("plotting.plot_spikes_as_eventplot", {}.__getitem__),
    "TensorBoard": lambda monkeypatch: monkeypatch.setattr(module, "log_to_tensorboard", fail),
    "snn-rate.keras": lambda monkeypatch: monkeypatch.setattr(spiking.SpikingModel, "save", fail),
    "report.html": lambda monkeypatch: monkeypatch.setattr(module, "html_report", fail),
    "diagnosis": lambda monkeypatch: monkeypatch.setattr(conversion, "diagnose", fail),
    "training": lambda monkeypatch: monkeypatch.setattr(module.TrainingLog, "write", fail),
    "ann.keras": lambda monkeypatch: monkeypatch.setattr(keras.Sequential, "save", fail),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_cannot_be_written_loses_nothing_else(broken, tmp_path, monkeypatch, caplog):
    BROKEN[broken](monkeypatch)
    experiment = make(
        tmp_path, encoding="rate", name="run", max_images=6, disable_training_accuracy=True,
        training_function=train_tiny if broken == "training" else train_once,
    )  # fmt: skip
    metrics, run = experiment.run(), tmp_path / "experiments" / "run"
    assert json.loads((run / "metrics.json").read_text())["rate"] == plain(metrics)
    assert experiment.problems and all("Not written: " in problem for problem in experiment.problems)
    assert any(broken in problem for problem in experiment.problems)
    assert experiment.problems[0] in caplog.text
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    files |= {"TensorBoard"} if (tmp_path / "tblogs" / "run" / "rate").is_dir() else set()
    usual = {"ann.keras": "ann.keras", "snn-rate.keras": "snn-rate.keras", "report.html": "report.html"}
    usual |= {"figures": "figures/raster-rate.png", "TensorBoard": "TensorBoard"}
    assert {name for name in usual if usual[name] not in files} == {broken} & set(usual)


def test_the_metrics_are_there_before_anything_that_may_fail(tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    for slow in ("diagnose", "ann_and_snn_activations_per_layer"):
        monkeypatch.setattr(conversion, slow, stop)
    experiment = make(tmp_path, name="run", max_images=6, disable_training_accuracy=True)
    with pytest.raises(KeyboardInterrupt):
        experiment.run()
    assert "rate" in json.loads((tmp_path / "experiments" / "run" / "metrics.json").read_text())


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    folder = module.RunFolder.claim(tmp_path / "a", "run", tmp_path / "b", "run")
    folder.write_json("metrics.json", {"accuracy": 1.0})
    with pytest.raises(ZeroDivisionError):
        write_atomically(folder.path / "metrics.json", lambda path: path.write_text("half") / 0)
    assert [path.name for path in folder.path.iterdir()] == ["metrics.json"]
    assert json.loads((folder.path / "metrics.json").read_text()) == {"accuracy": 1.0}


def test_json_is_strict():
    value = {"tau": float("inf"), "nothing": np.float32("nan"), "shape": (1, np.int64(2)), "path": Path("a")}
    assert plain(value) == {"tau": "inf", "nothing": "nan", "shape": [1, 2], "path": "a"}


# ---------------------------------------------------------------------------------------------------------------------
# Bad input: an error before anything is trained or written


@pytest.mark.parametrize(
    "wrong",
    [
        *({"encoding": value} for value in ("morse", ["rate", "morse"], [], None)),
        *({"dataset": value} for value in ("no_such_dataset", "missing.npz", 3)),
        *({"training_function": value} for value in ("alexnet", None)),
        *({"timesteps": value} for value in (0, -5, 2.5, "many", True)),
        *({"norm_percentile": value} for value in (0, -1, 100.5, float("nan"), "99")),
        *({"threshold": value} for value in (0, -1.0, float("inf"), "high")),
        *({"tau": value} for value in (0, -1.0, float("nan"), "slow")),
        *({"max_rate": value} for value in (0, -1, "fast")),
        *({"beta": value} for value in (-1, "x")),
        *({"epochs": value} for value in (0, 1.5, "ten")),
        *({"batch_size_ann_training": value} for value in (0, 2.5)),
        *({"batch_size_snn_eval": value} for value in (-1, None)),
        *({"max_images": value} for value in (0, 2.5)),
        *({"seed": value} for value in (-1, 2**32, 0.5)),
        *({"name": value} for value in ("", "../elsewhere", "anns", "a/b", 3, ".hidden", "x" * 300)),
        *({"tensorboard_title": value} for value in ("a/b", 3)),
        *({"normalisation": value} for value in ("median", 3)),
        *({"per_channel": value} for value in ("yes", 2)),
        *({"correction": value} for value in ("bias", True)),
        *({"training_levels": value} for value in (0, 2.5)),
        {"hardware": "gpu"},
        {"strategy": "mirrored"},
        {"image_size_rescale": 0},
        {"image_depth_increase": 1.5},
        {"encoding_options": {"colour": "blue"}},
        {"dataset": ((DATA[0][0], DATA[0][1] % 2), DATA[1])},  # a class that the training images lack
        {"dataset": ((DATA[0][0], DATA[0][1] * 0), (DATA[1][0], DATA[1][1] * 0))},  # a single class
        {"dataset": ((DATA[0][0], DATA[0][1][:5]), DATA[1])},
        {"dataset": ((DATA[0][0], DATA[0][1] / 3), DATA[1])},
        {"dataset": ((np.full((4, 9, 9), np.nan), [0, 1, 2, 0]), DATA[1])},
        {"dataset": ((np.zeros((0, 9, 9)), np.zeros(0, int)), DATA[1])},
        {"training_function": "lenet5_maxpool", "image_size_rescale": 0.2},  # too small for two poolings
    ],
    ids=lambda wrong: "-".join(f"{key}={str(value)[:20]}" for key, value in wrong.items()),
)
def test_bad_arguments_are_refused_and_leave_nothing(wrong, tmp_path):
    train_tiny.calls.clear()
    with pytest.raises((ValueError, OSError)) as caught:
        make(tmp_path, **wrong)
    assert "Received" in str(caught.value)
    assert train_tiny.calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argument", ["results_dir", "tblogs_dir"])
def test_an_unusable_folder_is_refused(argument, tmp_path):
    occupied = tmp_path / "occupied"
    occupied.write_text("a file")
    for folder in (occupied, occupied / "below"):
        with pytest.raises(OSError, match=rf"{argument} must be a folder that can be written.*Received"):
            make(tmp_path, **{argument: folder})
    assert list(tmp_path.iterdir()) == [occupied]


@pytest.mark.parametrize("broken", ["missing", "pickled"])
def test_a_broken_npz_is_refused(broken, tmp_path):
    (x, y), _ = DATA
    arrays = {"x_train": x, "y_train": y, "x_test": x}
    if broken == "pickled":
        arrays["y_test"] = np.array([{}] * len(y), dtype=object)
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match="Received"):
        make(tmp_path, dataset=tmp_path / "data.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_a_dataset_without_network_names_the_ways(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SPIKING_DATA_DIR", raising=False)
    monkeypatch.setattr(keras.datasets.cifar100, "load_data", fail)
    with pytest.raises(OSError, match="SPIKING_DATA_DIR"):
        make(tmp_path, dataset="cifar100")


def test_an_ann_that_cannot_be_converted_is_refused_by_name(tmp_path):
    def train_sigmoid(experiment, ds_train, ds_test, force_training=False):
        model = keras.Sequential([keras.Input((9, 9, 1)), keras.layers.Flatten()])
        model.add(keras.layers.Dense(4, activation="tanh", name="bent"))
        model.add(keras.layers.Dense(3))
        return model

    with pytest.raises(conversion.ConversionError, match="bent.*tanh"):
        make(tmp_path, training_function=train_sigmoid).run()


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def test_main_prints_the_table(tmp_path, capsys, monkeypatch):
    (x_train, y_train), (x_test, y_test) = DATA
    np.savez(tmp_path / "tiny.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    monkeypatch.chdir(tmp_path)
    options = "--network denseonly1 --epochs 1 --timesteps 6 --max-images 9 --seed 3 --name cli --norm-percentile 99"
    options += " --hardware 7nm_int8 --neuron-updates"
    main([*options.split(), "--dataset", "tiny.npz", "--encoding", *TWO, "--tau", "40"])
    out = capsys.readouterr().out
    for word in ("encoding", "time steps", "spikes/neuron", "MACs", *TWO, "--logdir"):
        assert word in out
    assert str(tmp_path / "experiments" / "cli") in out
    config = json.loads((tmp_path / "experiments" / "cli" / "config.json").read_text())
    hyperparameters = config["hyperparameters"][TWO[0]]
    expected = {"epochs": 1, "timesteps": 6, "seed": 3, "norm_percentile": 99.0, "tau": 40.0, "dataset": "tiny"}
    expected |= {"hardware": "7nm_int8", "neuron_updates": True}
    assert {key: hyperparameters[key] for key in expected} == expected
    # 7 nm, 8 bits: 0.077 pJ a MAC, 0.007 pJ an addition, of which a neuron's update is one.
    metrics = json.loads((tmp_path / "experiments" / "cli" / "metrics.json").read_text())
    report = (tmp_path / "experiments" / "cli" / "report.html").read_text(encoding="utf-8")
    for each in metrics.values():
        additions = each["snn/synaptic_operations"] + each["snn/neuron_updates"]
        assert each["snn/energy"] == pytest.approx((0.077 * each["snn/macs"] + 0.007 * additions) * 1e-12)
        assert each["ann/energy"] == pytest.approx(0.077e-12 * each["ann/macs"])
    for shown in (out, report):
        assert "Energy on 7nm_int8" in shown and "45nm" not in shown
        assert "neuron updates at 0.007 pJ included, memory access left out. Jouppi" in shown
    assert (tmp_path / "tblogs" / "cli" / TWO[1]).is_dir()
    assert list((tmp_path / "experiments" / "anns").glob("denseonly1-*.keras"))


def test_main_does_every_encoding_on_the_sample_by_default():
    arguments = vars(module.argument_parser({}, (), "lenet5_maxpool").parse_args([]))
    assert arguments["encoding"] == list(spiking.ENCODINGS)
    assert arguments["dataset"] == "mnist_sample"
    assert arguments["training_function"] == "lenet5_maxpool"


@pytest.mark.parametrize(
    "wrong",
    [
        *("--encoding morse", "--dataset nowhere", "--network alexnet", "--timesteps 0", "--timesteps -3"),
        *("--timesteps 2.5", "--timesteps many", "--norm-percentile 0", "--norm-percentile 101", "--threshold 0"),
        *("--option colour=blue", "--option reset", "--option readout_delay=x", "--max-rate 0", "--devices 0"),
        *("--tau -1", "--epochs 0", "--max-images 0", "--seed -1", "--name a/b", "--results-dir file", "--beta -1"),
    ],
)
def test_main_refuses_bad_input_in_one_line(wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        main(wrong.split())
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("experiment: error: ")
    assert "Received" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_main_after_an_interruption_shows_what_is_finished(tmp_path, capsys, monkeypatch):
    def interrupt(self):
        self.folder  # noqa: B018  the run has begun
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Experiment, "run", interrupt)
    with pytest.raises(SystemExit) as caught:
        main(["--name", "stopped"])
    assert caught.value.code == 130
    out = capsys.readouterr().out
    assert "Interrupted" in out and "Not finished: rate" in out and "config.json" in out
    assert "report.html" not in out and "TensorBoard" not in out  # neither is there


def test_main_interrupted_before_it_began_says_so(tmp_path, capsys, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ann_training, "load_dataset", interrupt)
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 130
    assert "Nothing was written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []



def test_main_hands_options_on_in_their_types(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = "--encoding rate --option input_coding=poisson --option readout_delay=2 --option tau=inf --max-rate 0.5"
    experiment = module.command_line(module.arguments_of(options.split()))
    found = experiment.hyperparameters("rate")
    expected = {"input_coding": "poisson", "readout_delay": 2, "tau": float("inf"), "max_rate": 0.5}
    assert {name: found[name] for name in expected} == expected
    assert [type(found[name]) for name in expected] == [type(value) for value in expected.values()]
    assert experiment.disable_training_accuracy
    assert not module.command_line(module.arguments_of(["--training-accuracy"])).disable_training_accuracy


def test_main_tells_a_damaged_network_in_the_cache_in_one_line(tmp_path, capsys, monkeypatch):
    (x_train, y_train), (x_test, y_test) = DATA
    np.savez(tmp_path / "tiny.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    monkeypatch.chdir(tmp_path)
    options = "--network denseonly1 --epochs 1 --timesteps 6 --max-images 9 --encoding rate --dataset tiny.npz".split()
    main(options)
    (network,) = (tmp_path / "experiments" / "anns").glob("*.keras")
    network.write_bytes(b"damaged")
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("experiment: error: ")]
    assert len(errors) == 1 and "--force-training" in errors[0].replace("force_training=True", "--force-training")


def test_main_tells_a_full_disk_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(SystemExit) as caught:
        main(["--encoding", "rate", "--network", "denseonly1", "--epochs", "1", "--name", "full"])
    assert caught.value.code == 1
    captured = capsys.readouterr()
    assert "experiment: error: A file could not be written (No space left on device)" in captured.err
    assert "Traceback" not in captured.err and "Not finished: rate" in captured.out


def test_the_main_job_names_its_phases_and_warns_of_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "experiment.py"), *"--network denseonly1 --epochs 1 --max-images 30".split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stderr.splitlines()
    assert [line for line in lines if "warn" in line.lower() or "retracing" in line] == []
    for encoding in spiking.ENCODINGS:
        phases = [line for line in lines if line.startswith(f"{encoding}: ")]
        assert len(phases) == len(set(phases))  # each is told once
        told = " ".join(phases)
        for phase in ("conversion", "accuracy of the SNN and analysis", "diagnosis", "figures", "TensorBoard log"):
            assert phase in told
    assert "denseonly1 is trained for 1 epochs" in done.stderr
    assert "report.html" in done.stdout


def test_the_installed_command_starts_as_silently(tmp_path):
    """Its script imports `experiment`, as pip writes it, and is not the module that runs."""
    script = tmp_path / "spiking-experiment"
    script.write_text("import sys\nfrom experiment import main\nsys.exit(main())\n", encoding="utf-8")
    command = [sys.executable, str(script), "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_says_what_is_so(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "default: True" not in out and "default: False" not in out and "==SUPPRESS==" not in out
    assert "--training-accuracy evaluate on the training images, too" in out
    assert "(default: on the test images alone)" in out


def test_help_names_networks_data_sets_and_encodings(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = "".join(capsys.readouterr().out.split())
    for word in (*ann_training.TRAINING_FUNCTIONS, *ann_training.DATASETS, *spiking.ENCODINGS):
        assert word in out
    assert "SUPPRESS" not in out


# ---------------------------------------------------------------------------------------------------------------------
# Several devices

# The convolution has batch normalisation, whose statistics must be those of the whole batch.
TWO_DEVICES_THEN_ONE = """
import keras, sys
import ann_training
from experiment import main

ann_training.ARCHITECTURES["base"] = lambda shape, classes, activation='relu': keras.Sequential([
    keras.Input(shape), keras.layers.Conv2D(4, 3, use_bias=False, name="maps"),
    keras.layers.BatchNormalization(name="norm"), keras.layers.ReLU(name="relu"), keras.layers.Flatten(),
    keras.layers.Dense(8, activation=activation, name="hidden"), keras.layers.Dense(classes, "softmax", name="scores")])
data, folder = sys.argv[1:]
for devices in "2", "1":
    main(["--devices", devices, "--name", devices, "--network", "base", "--dataset", data, "--epochs", "3",
          "--encoding", "rate", "ttfs_exact", "--timesteps", "9", "--max-images", "301",
          "--results-dir", folder, "--tblogs-dir", folder + "/tblogs"])
"""


def test_two_devices_give_the_results_of_one(tmp_path):
    # 301 test images leave a batch of one image, which two devices cannot share
    (x_train, y_train), (x_test, y_test) = images(320, 1), images(301, 2)
    np.savez(tmp_path / "data.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    command = [sys.executable, "-c", TWO_DEVICES_THEN_ONE, str(tmp_path / "data.npz"), str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    configurations, metrics, anns = [], [], []
    for devices in "1", "2":
        folder = tmp_path / "runs" / devices
        configurations.append(json.loads((folder / "config.json").read_text()))
        metrics.append(json.loads((folder / "metrics.json").read_text()))
        anns.append(keras.models.load_model(folder / "ann.keras"))
    assert [each["devices"] for each in configurations] == [1, 2]
    assert len(list((tmp_path / "runs" / "anns").glob("*.keras"))) == 2  # trained twice, not loaded
    for one, two in zip(anns[0].weights, anns[1].weights, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5, err_msg=one.path)
    for encoding in "rate", "ttfs_exact":
        one, two = ({k: v for k, v in each[encoding].items() if k.startswith(("ann/", "snn/"))} for each in metrics)
        assert one.pop("snn/seconds") and two.pop("snn/seconds")
        assert two == pytest.approx(one, rel=1e-5, abs=1e-5)
        assert one["ann/eval/test"] > 0.5


def test_devices_that_cannot_be_had_are_refused(tmp_path):
    tf.zeros(1)
    with pytest.raises(ValueError, match="before TensorFlow is first used.*devices=2"):
        module.mirrored_strategy(2)
    with pytest.raises(ValueError, match="devices must be a whole number"):
        module.mirrored_strategy(0)
    assert module.mirrored_strategy(1) is None
    with pytest.raises(ValueError, match="MirroredStrategy, or None"):
        make(tmp_path, strategy=tf.distribute.OneDeviceStrategy("CPU:0"))


def test_plotting_is_not_imported_at_import_time():
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or alias.name for node in imports for alias in node.names}
    assert "conversion" in names
    assert not {"plotting", "matplotlib"} & {name.split(".")[0] for name in names}


# ---------------------------------------------------------------------------------------------------------------------
# A network of one's own


@pytest.fixture(scope="module")
def own_network():
    """Trained and uncompiled, as a user brings it."""
    dense = keras.layers.Dense
    layers = [keras.Input((9, 9, 1)), keras.layers.Flatten(), dense(5, "relu"), dense(3)]
    model = keras.Sequential(layers, name="mine")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(DATA[0][0] / 255, DATA[0][1], epochs=1, verbose=0)
    return model


@pytest.mark.parametrize("way", ["model", "path"])
def test_a_network_of_ones_own_is_converted_and_not_trained(way, own_network, tmp_path, monkeypatch):
    path = tmp_path / "mine.keras"
    own_network.save(path)
    before = [weight.numpy() for weight in own_network.weights]
    monkeypatch.setattr(keras.Model, "fit", fail)
    given = own_network if way == "model" else str(path)
    experiment = make(tmp_path, model=given, training_function="lenet5_maxpool", encoding=TWO, epochs=7, name="own")
    metrics = experiment.run()
    assert not experiment.problems
    right = own_network.predict(DATA[1][0] / 255, verbose=0).argmax(-1) == DATA[1][1]
    assert metrics["ann/eval/test"] == pytest.approx(right.mean())
    assert metrics["experiment/model"] == "mine" and "experiment/epochs" not in metrics
    kept = keras.models.load_model(tmp_path / "experiments" / "own" / "ann.keras", compile=False)
    for weight, expected in zip(kept.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)
    assert not (tmp_path / "experiments" / "anns").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"force_training": True}, "force_training=True beside model"),
        ({"training_levels": 8, "encoding": "ttfs_exact"}, "training_levels=8 beside model"),
        ({"training_function": train_tiny}, "training_function='train_tiny' beside model"),
        ({"image_size_rescale": [8, 8]}, r"inputs of shape \(None, 9, 9, 1\), and images of shape \(8, 8, 1\)"),
        ({"dataset": ((DATA[0][0], np.arange(60) % 5), DATA[1])}, "3 outputs for 5 classes"),
        ({"model": "nowhere.keras"}, "model is a file that Keras saved. Received: 'nowhere.keras'"),
        ({"model": len}, "model is a trained keras.Model.*Received: a builtin"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_network_that_does_not_fit_is_refused(changes, message, own_network, tmp_path):
    arguments = {"model": own_network, "training_function": "lenet5_maxpool", **changes}
    with pytest.raises((ValueError, OSError), match=message):
        make(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_main_takes_a_network_from_a_file(own_network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_network.save("mine.keras")
    (x_train, y_train), (x_test, y_test) = DATA
    np.savez("tiny.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    main("--model mine.keras --dataset tiny.npz --encoding ttfs_exact --timesteps 4 --name own".split())
    assert "Results:" in capsys.readouterr().out
    config = json.loads((tmp_path / "experiments" / "own" / "config.json").read_text())
    assert config["model"]["name"] == "mine" and config["hyperparameters"]["ttfs_exact"]["model"] == "mine"


def test_trials_of_another_network_are_not_mixed(own_network, tmp_path):
    arguments = {"dataset": DATA, "timesteps": 4, "encoding": "ttfs_exact", "disable_training_accuracy": True}
    repeat = lambda model: module.RepeatedExperiment({**arguments, "model": model}, 1, folder=tmp_path).run()  # noqa: E731
    assert repeat(own_network)
    other = keras.models.clone_model(own_network)
    with pytest.raises(ValueError, match="model was .*, is "):
        repeat(other)


def test_streams_give_the_results_of_their_arrays(tmp_path):
    """Batches that do not divide the images, single images, and a stream beside arrays."""
    train, test = (tf.data.Dataset.from_tensor_slices(part) for part in DATA)
    expected = make(tmp_path, dataset=DATA).data
    for source in ((train.batch(7), test.batch(4)), (train, test), [train.batch(60), DATA[1]]):
        found = make(tmp_path, dataset=source).data
        assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (lambda data: data.repeat(), "A data set must end. Received: ds_train"),
        (lambda data: data.take(0), "at least one image. Received: an empty ds_train"),
        (lambda data: data.map(lambda x, y: x), r"gives pairs \(images, labels\). Received: ds_train"),
    ],
    ids=["endless", "empty", "without labels"],
)
def test_streams_that_cannot_be_read_are_refused(stream, message, tmp_path):
    data = tf.data.Dataset.from_tensor_slices(DATA[0]).batch(7)
    with pytest.raises(ValueError, match=message):
        make(tmp_path, dataset=(stream(data), DATA[1]))
