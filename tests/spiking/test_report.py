"""The HTML page, read back by a parser."""

import base64
import math
import re
from html.parser import HTMLParser

import keras
import numpy as np
import pytest

from conversion import convert_ann_to_snn
from spiking.runs import report
from spiking.runs.answers import Answers, answers

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
HOSTILE = "<script>alert('x')</script> & \"quoted\""
VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Tables, pictures, links and elements of a page; fails where an element is left open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.images, self.ids, self.links, self.elements = [], [], [], [], [], set()
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "img":
            self.images.append((attributes["alt"], attributes["src"]))
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if "style" not in self.open:
            self.words += data


def metrics(**changes):
    values = {
        "ann/eval/test": 0.5, "snn/eval/test": 0.25, "snn/diff/test": -0.25, "snn/timesteps": 7, "ann/macs": 2000.0,
        "snn/spikes_per_neuron": 1.234, "snn/synaptic_operations": 1500.4, "snn/seconds": 2.06,
        "snn/energy": 1.5e-6, "ann/energy": 6e-6,
    }  # fmt: skip
    return {**values, **changes}


def section(name="one", **changes):
    values = {"metrics": metrics(), "layers": [("layer", "spikes"), ("1 a", "2.5")]}
    values["conversion"] = [("ANN layer", "type", "became"), ("a", "Dense", "spiking layer")]
    return report.Section(name, **{**values, **changes})


def test_the_page_holds_everything():
    full = section(
        remarks=["A remark."], errors=[("layer", "error"), ("a", "7.0%")], findings=["a: too few steps."],
        figures={"raster": PNG},
    )  # fmt: skip
    other = section("two", metrics=metrics(**{"experiment/tau": math.inf, "experiment/reset": "subtract"}))
    page = Page(report.render("my run", [full, other], {"curve": PNG[::-1]}, {"seed": 3, "deep": {"er": [1, "b"]}}))
    costs = ["1.23", "1,500", "0.75", "1.500", "0.25", "2.1"]
    assert page.tables[0][1:] == [[name, "50.00", "25.00", "-25.00", "7", "–", *costs] for name in ("one", "two")]
    for table in (full.layers, full.conversion, full.errors):
        assert page.tables.count([list(row) for row in table]) == (1 if table is not full.layers else 2)
    (all_metrics,) = (table for table in page.tables if table[0] == ["metric", "one", "two"])
    assert [["setting", "one", "two"], ["reset", "–", "subtract"], ["tau", "–", "inf"]] in page.tables
    assert ["snn/synaptic_operations", "1500.4", "1500.4"] in all_metrics
    assert {row[0] for row in all_metrics[1:]} == set(metrics())
    assert [["setting", "value"], ["seed", "3"], ["deep / er", "1, b"]] in page.tables
    images = [("curve", PNG[::-1]), ("raster", PNG)]
    assert [(alt, base64.b64decode(source.removeprefix("data:image/png;base64,"))) for alt, source in page.images] == (
        images
    )
    for words in ("my run", "A remark.", "a: too few steps.", "Not made."):
        assert words in page.words


def test_settings_that_differ_come_first_and_stand_once():
    first = section("one", metrics=metrics(**{"experiment/a": 1, "experiment/b": 2, "experiment/encoding": "one"}))
    second = section("two", metrics=metrics(**{"experiment/a": 1, "experiment/b": 3, "experiment/encoding": "two"}))
    configuration = {"seed": 3, "hyperparameters": {"one": {"a": 1}}}
    page = Page(report.render("run", [first, second], {}, configuration))
    assert [["setting", "one", "two"], ["b", "2", "3"], ["a", "1", "1"]] in page.tables
    assert [["setting", "value"], ["seed", "3"]] in page.tables


def test_conversions_that_differ_have_columns_of_their_own():
    head, other = ("ANN layer", "type", "became"), [("ANN layer", "type", "became"), ("a", "Dense", "folded")]
    sections = [section("one"), section("two"), section("three", conversion=other)]
    assert report.conversion_table(sections) == [
        ("ANN layer", "type", "became under one, two", "became under three"), ("a", "Dense", "spiking layer", "folded")
    ]  # fmt: skip
    sections = [section("one"), section("two", conversion=[head, ("b", "Dense", "folded")])]
    first, second = ("a", "Dense", "spiking layer", "–"), ("b", "Dense", "–", "folded")
    assert report.conversion_table(sections)[1:] == [first, second]


def test_answers_are_shown_image_by_image_and_as_a_matrix():
    found = Answers([PNG, PNG], *(np.array(each) for each in ([0, 1, 1], [0, 1, 1], [0, 2, 1], [5.0, 1234.0], [3, 9])))
    page = Page(report.render("run", [section(answers=found)], {}, {}))
    assert [alt for alt, _ in page.images] == ["class 0", "class 1"]
    assert "class 0: ANN 0, SNN 0, 5 spikes, from step 3" in page.words
    assert "class 1: ANN 1, SNN 2, 1,234 spikes, from step 9" in page.words
    matrix = [["", "0", "1", "2"], ["0", "1", "", ""], ["1", "", "1", "1"], ["2", "", "", ""]]
    assert matrix in page.tables


def test_answers_of_two_networks():
    """A network of constant drive, by hand: rate neurons with z = 1 and 1/2 of the two pixels, two classes."""
    ann = keras.Sequential([keras.Input((1, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "relu"),
                            keras.layers.Dense(2, use_bias=False)])  # fmt: skip
    ann.layers[1].set_weights([np.eye(2), np.zeros(2)])
    ann.layers[2].set_weights([np.eye(2)])
    images = np.array([[1, 0.5], [0.5, 1], [0, 0.25]], "f").reshape(3, 1, 2, 1)
    snn = convert_ann_to_snn(ann, images, "rate", timesteps=8, normalisation="max")
    found = answers(ann, snn, images, np.array([0, 1, 0]))
    assert found.ann.tolist() == [0, 1, 1] and found.snn.tolist() == [0, 1, 1]
    assert found.confusion().tolist() == [[1, 1], [0, 1]]
    assert found.spikes[0] == found.spikes[1] > found.spikes[2] > 0 and len(found.pictures) == 3
    scores = np.asarray(snn.simulate(images, "readouts").readouts).argmax(-1)  # (T, 3)
    for image, step in enumerate(found.decided):
        assert (scores[step - 1 :, image] == scores[-1, image]).all()
        assert step == 1 or scores[step - 2, image] != scores[-1, image]


def test_links_lead_somewhere_and_nothing_is_loaded():
    text = report.render("run", [section("one"), section("two")], {"a": PNG}, {})
    page = Page(text)
    assert len(page.links) == 4
    assert {link.removeprefix("#") for link in page.links} == set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?://|url\(|@import|src=\"(?!data:)", text)
    assert not page.elements & {"script", "link", "iframe", "object"}


def test_everything_is_escaped():
    hostile = report.Section(
        HOSTILE, metrics=metrics(**{HOSTILE: HOSTILE}), layers=[(HOSTILE,), (HOSTILE,)], conversion=[(HOSTILE,)],
        remarks=[HOSTILE], errors=[(HOSTILE,)], findings=[HOSTILE], figures={HOSTILE: PNG},
    )  # fmt: skip
    text = report.render(HOSTILE, [hostile], {HOSTILE: PNG}, {HOSTILE: {HOSTILE: HOSTILE}, "list": [HOSTILE]})
    page = Page(text)
    assert "script" not in page.elements
    assert "<script" not in text
    assert [alt for alt, _ in page.images] == [HOSTILE] * 2
    # name (twice: title and heading), encoding (link, heading, two tables' cells), and where it is handed in
    assert page.words.count(HOSTILE) == 2 + 4 + 1 + 2 + 2 + 1 + 1 + 1 + 3 + 1
    assert [f"{HOSTILE} / {HOSTILE}", HOSTILE] in page.tables[-1]


def test_a_diagnosis_without_findings_says_so():
    page = Page(report.render("run", [section(findings=[], errors=[("layer",), ("a",)])], {}, {}))
    assert "Findings: none." in page.words
    assert "Not made." not in page.words


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, "1"), (406656.0, "406656"), (123456789, "123456789"), (4017534.25, "4.01753e+06"), (1.87e-6, "1.87e-06"),
        (0.125, "0.125"), (math.inf, "inf"), (True, "True"), (None, "–"), ("rate", "rate"), (-2.0, "-2"),
    ],
)  # fmt: skip
def test_numbers_are_written_short(value, expected):
    assert report.written(value) == expected


def test_plain():
    value = {"tau": float("inf"), "nothing": np.float32("nan"), "shape": (1, np.int64(2)), 3: np.array([0.5]), "x": {1}}
    assert report.plain(value) == {"tau": "inf", "nothing": "nan", "shape": [1, 2], "3": [0.5], "x": "{1}"}


def test_flattened():
    assert report.flattened({"a": {"b": {"c": 1}, "e": []}, "f": {}, "g": [1, 2.5]}) == [
        ("a / b / c", "1"), ("a / e", "none"), ("f", "{}"), ("g", "1, 2.5"),
    ]  # fmt: skip
