"""The table of all runs of a folder, from files made by hand and by searches and repetitions of functions."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest

import experiment
from experiment import RepeatedExperiment, compare
from optimization import DiscreteValues, OptimizableValue, search

RATE = {
    "experiment/encoding": "rate", "experiment/timesteps": 64, "experiment/epochs": 10, "experiment/reset": "subtract",
    "ann/eval/test": 0.99, "snn/eval/test": 0.985, "snn/diff/test": -0.005, "snn/timesteps": 64, "snn/latency": 40,
    "snn/spikes_per_neuron": 2.5, "snn/synaptic_operations": 1234567.0, "snn/energy": 1.5e-6, "ann/energy": 2e-6,
    "snn/seconds": 3.25,
}  # fmt: skip
TTFS = {**RATE, "experiment/encoding": "ttfs", "experiment/timesteps": 60, "snn/eval/test": 0.9, "snn/diff/test": -0.09}
TTFS = {key: value for key, value in TTFS.items() if key not in ("experiment/reset", "snn/latency")}


def run_folder(place, **metrics):
    place.mkdir(parents=True)
    (place / "metrics.json").write_text(json.dumps(metrics))
    (place / "report.html").write_text("<html></html>")


@pytest.fixture
def folder(tmp_path):
    """Two runs, one in a folder of a folder, and what is no run."""
    run_folder(tmp_path / "first & best", rate=RATE, ttfs=TTFS)
    run_folder(tmp_path / "group" / "second", rate={**RATE, "experiment/timesteps": 8, "snn/eval/test": 0.5})
    (tmp_path / "anns").mkdir()
    (tmp_path / "anns" / "lenet.keras").touch()
    return tmp_path


class Page(HTMLParser):
    """The cells of a page's table, and its links."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.links, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag in ("td", "th") or (tag == "a" and self.inside)
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_a_row_for_each_run_and_code_in_units(folder):
    rows = compare(folder).rows()
    assert [(row["run"], row["code"]) for row in rows] == [
        ("first & best", "rate"), ("first & best", "ttfs"), ("group/second", "rate")]  # fmt: skip
    first = rows[0]
    assert (first["ANN / %"], first["SNN / %"], first["difference / points"]) == pytest.approx((99, 98.5, -0.5))
    assert (first["energy / µJ"], first["ANN energy / µJ"]) == pytest.approx((1.5, 2))
    assert (first["operations"], first["latency / steps"], first["simulated steps"], first["seconds"]) == (
        1234567, 40, 64, 3.25)  # fmt: skip
    assert rows[1]["latency / steps"] is None


def test_only_settings_that_differ_are_columns(folder):
    run_folder(folder / "third", rate={**RATE, "experiment/epochs": 3})
    table = compare(folder)
    assert [row["epochs"] for row in table.rows()] == [10, 10, 10, 3]
    assert "reset" not in table.rows()[0]  # the same wherever it is one
    assert [row["timesteps"] for row in table.rows()] == [64, 60, 8, 64]


def test_files_hold_the_table_and_link_the_reports(folder):
    table = compare(folder)
    with (folder / "comparison.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["SNN / %"]) for row in read] == pytest.approx([98.5, 90, 50])
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [tuple(row) for row in page.rows] == table.table()
    assert text.count("Energy on 45nm_float32") == 1 and "memory access left out" in text
    assert page.links == ["comparison.csv", *["first%20%26%20best/report.html"] * 2, "group/second/report.html"]
    *lines, assumed = str(table).splitlines()[3:]
    assert assumed.startswith("Energy on 45nm_float32")
    for line in lines:
        assert re.match(r"(first & best|group/second) ", line)


def test_searches_and_repetitions_are_included(folder):
    def measured(timesteps, seed=0):
        share = timesteps / 100 + (seed % 2) / 50
        return {"snn/eval/test": share, "experiment/encoding": "rate", "experiment/seed": seed}

    space = [OptimizableValue("timesteps", DiscreteValues([10, 20, 30]))]
    best = search(measured, space, 12, "snn/eval/test", folder=folder / "search").best[0]
    repeated = RepeatedExperiment(measured, 5, grid={"timesteps": [40, 50]}, folder=folder / "repeated")
    mean = {row["timesteps"]: row for row in repeated.run() if row["metric"] == "snn/eval/test"}
    rows = {row["run"]: row for row in compare(folder).rows()}
    found = rows[f"search, trial {best['number']}"]
    assert found["kind"] == "best of 12 trials" and found["SNN / %"] == pytest.approx(30)
    rows = [row for row in compare(folder).rows() if row["run"] == "repeated"]
    assert [row["kind"] for row in rows] == ["mean of 5 runs"] * 2
    for row, steps in zip(rows, (40, 50), strict=True):
        assert row["SNN / %"] == pytest.approx(100 * mean[steps]["mean"])
        assert row["SD / points"] == pytest.approx(100 * mean[steps]["sd"])
        assert row["timesteps"] == steps and "seed" not in row


def test_what_cannot_be_read_is_left_out_with_a_warning(folder, caplog):
    (folder / "group" / "second" / "metrics.json").write_text("{")
    assert [row["run"] for row in compare(folder).rows()] == ["first & best"] * 2
    assert "second is left out: metrics.json cannot be read" in caplog.text


def test_an_empty_folder_and_none(tmp_path):
    assert str(compare(tmp_path)) == f"No runs in {tmp_path}."
    with pytest.raises(FileNotFoundError, match="Runs lie in a folder. Received: folder='nowhere'"):
        compare("nowhere")


def test_the_command_line_compares_and_trains_nothing(folder, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "Experiment", None)
    experiment.main(["--compare", "--results-dir", str(folder)])
    out = capsys.readouterr().out
    assert "98.50" in out and str(folder / "index.html") in out and str(folder / "comparison.csv") in out
