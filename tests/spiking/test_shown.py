"""What results look like on the screen, in notebooks, as dicts and as frames."""

import json
import math
import sys
from types import ModuleType

import keras
import numpy as np
import pytest

from ann_training import load_dataset
from conversion import calibrate, convert_ann_to_snn, diagnose, snn_activation_analysis, verify
from experiment import Experiment, RepeatedExperiment
from spiking.runs import screen
from spiking.shown import Shown, html_table, or_dash, plain_numbers, text_table

LONGEST = 250  # letters of a repr: three lines


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """One of each kind, of a tiny network."""
    folder = tmp_path_factory.mktemp("shown")
    images = np.random.default_rng(0).random((20, 4, 4, 1), np.float32)
    labels = np.arange(20) % 3
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(6, "relu", name="hidden")]
    ann = keras.Sequential([*layers, keras.layers.Dense(3)], name="tiny")
    data = (images, labels), (images, labels)
    options = {"dataset": data, "encoding": "rate", "results_dir": folder / "runs", "tblogs_dir": folder / "logs"}
    calibration = calibrate(ann, images)
    snn = convert_ann_to_snn(ann, calibration, "rate", timesteps=8)
    repeated = RepeatedExperiment(lambda x, seed: {"score": x + seed % 2}, 3, grid={"x": [1, 2]}, folder=folder / "r")
    repeated.run()
    return {
        "SpikingModel": snn,
        "Calibration": calibration,
        "Analysis": snn_activation_analysis(snn, images, labels),
        "Verification": verify(ann, snn, images),
        "Diagnosis": diagnose(ann, snn, images, labels),
        "Simulation": snn.simulate(images, record="rasters"),
        "Experiment": Experiment(model=ann, **options),
        "RepeatedExperiment": repeated,
        "Dataset": load_dataset(data),
    }


KINDS = ("SpikingModel", "Calibration", "Analysis", "Verification", "Diagnosis", "Simulation", "Experiment",
         "RepeatedExperiment", "Dataset")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_repr_is_a_line_that_names_the_class(kind, objects):
    line = repr(objects[kind])
    assert line.startswith(f"<{kind}: ") and len(line) < LONGEST and "\n" not in line


@pytest.mark.parametrize("kind", KINDS)
def test_notebooks_get_what_the_screen_gets(kind, objects):
    page = objects[kind]._repr_html_()
    assert len(page) < 20_000
    for word in str(objects[kind]).split():
        if word.isalnum():
            assert word in page


def test_words_and_numbers_of_each(objects):
    assert "tiny_rate, rate: 1 layer of 6 neurons, 114 weights, 8 time steps" in repr(objects["SpikingModel"])
    assert "20 training and 20 test images, 4 × 4 × 1, 3 classes" in repr(objects["Dataset"])
    assert "tiny on arrays, rate, not run yet" in repr(objects["Experiment"])
    assert "3 repetitions of 2 cells: 6 of 6 runs done, 0 failed" in repr(objects["RepeatedExperiment"])
    shapes = [line.split("  ", 1) for line in str(objects["Simulation"]).splitlines()[2:]]
    assert [[part.strip() for part in line] for line in shapes] == [
        ["output", "(20, 3)"], ["rasters['hidden']", "(8, 20, 6)"]]  # fmt: skip
    analysis = objects["Analysis"]
    assert f"{analysis.accuracy:.2%} right" in str(analysis) and f"{analysis.snn_energy * 1e6:.3g} µJ" in str(analysis)
    assert str(analysis).splitlines()[-2].startswith("1 hidden")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Simulation"])
def test_dicts_are_strict_json_and_rows_make_a_frame(kind, objects, monkeypatch):
    json.dumps(objects[kind].to_dict(), allow_nan=False)
    pandas = ModuleType("pandas")
    pandas.DataFrame = lambda rows: ("frame", rows)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert objects[kind].to_frame() == ("frame", objects[kind].rows())
    assert all(isinstance(row, dict) for row in objects[kind].rows())


def test_rows_are_numbers(objects):
    (row,) = objects["Analysis"].rows()
    (layer,) = objects["Analysis"].layers
    assert (row["name"], row["spike_mean"]) == ("hidden", layer.spike_mean) and "spike_count_histogram" not in row
    (row,) = objects["Verification"].rows()
    assert row == {"layer": "hidden", "error": objects["Verification"].layers["hidden"]}


def test_without_pandas_the_remedy_is_named(objects, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        objects["Analysis"].to_frame()


def test_tables():
    rows = [("name", "x"), ("a", "100"), ("longer", "1")]
    assert text_table(rows) == "name      x\n-----------\na       100\nlonger    1"
    assert "text-align: right; padding: .2em .6em\">&lt;b&gt;</td>" in html_table([("n", "x"), ("a", "<b>")])
    assert (or_dash(math.nan, ".1f"), or_dash(1.25, ".1f")) == ("–", "1.2")
    assert plain_numbers({"a": (np.float32(0.5), np.nan), "b": np.inf}) == {"a": [0.5, None], "b": "inf"}


def test_what_has_no_table_is_a_heading():
    class Bare(Shown):
        def heading(self):
            return "first line\nsecond"

    assert repr(Bare()) == "<Bare: first line second>" and str(Bare()) == "first line\nsecond" and Bare().rows() == []


def test_notebooks_show_the_messages_that_label_the_bars(monkeypatch):
    shown = []
    monkeypatch.setattr(screen, "show_messages", lambda **options: shown.append(options))
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    screen.show_in_notebooks()
    assert shown == []
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    screen.show_in_notebooks()
    assert shown == [{"stream": sys.stdout}]


def test_repetitions_show_what_was_measured_not_the_settings(tmp_path):
    def measured(seed):
        return {"score": float(seed % 3), "experiment/batch_size": 100}

    repeated = RepeatedExperiment(measured, 2, folder=tmp_path)
    summary = repeated.run()
    assert [row["metric"] for row in summary] == ["score", "experiment/batch_size"]
    assert [row[1] for row in repeated.table()] == ["metric", "score"]
