"""The numbers of docs/DEEP.md out of the lines that benchmarks leave, by hand."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import deep_page  # noqa: E402  the path comes first


def line(**more):
    return {"network": "vgg16_slim_cifar10", "encoding": "rate", "recipe": "low latency", "steps": 32, **more}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """`write(name, lines)` makes one of the page's files; the others are empty."""
    for name in ("RESULTS", "CIFAR10", "SIGNED"):
        monkeypatch.setattr(deep_page, name, tmp_path / name)
    monkeypatch.setattr(deep_page.lines, "__defaults__", (tmp_path / "RESULTS",))
    return lambda name, lines: (tmp_path / name).write_text("".join(json.dumps(each) + "\n" for each in lines))


def test_portions_add_up(files):
    files("RESULTS", [
        line(facts={"latency": 32}),
        line(first=0, images=100, ann=90, snn=85, differ=7, same=90, seconds=1.0),
        line(first=100, images=100, ann=80, snn=80, differ=2, same=95, seconds=3.0),
    ])  # fmt: skip
    (row,) = deep_page.rows().values()
    assert (row.images, row.ann, row.snn, row.same, row.bounded) == (200, 170, 165, 185, False)
    assert row.loss == pytest.approx(2.5)  # 5 of 200
    assert row.error == pytest.approx(100 * ((9 / 200 - 0.025**2) / 200) ** 0.5)  # 9 times ±1, mean 0.025
    assert deep_page.cells(row)[-1] == "20.0"  # 0.01 and 0.03 s an image: the median is 20 s for 1000


def test_where_nothing_tells_how_many_differ_the_error_is_a_bound(files):
    files("RESULTS", [line(first=0, images=100, ann=90, snn=90, same=84)])
    (row,) = deep_page.rows().values()
    assert row.bounded and row.error == pytest.approx(4)  # at most 16 of 100 differ: √0.16/10
    assert "± ≤ 4.00" in deep_page.cells(row)[6]


def test_energy_counts_both_kinds_of_operations(files):
    facts = {"macs": 10.0, "synaptic_operations": 100.0, "ann_macs": 50.0}
    files("RESULTS", [line(facts=facts), line(first=0, images=1, ann=1, snn=1, same=1)])
    (row,) = deep_page.rows().values()
    assert row.energy("45nm_float32") == pytest.approx((4.6 * 10 + 0.9 * 100) / (4.6 * 50))
    assert row.energy("45nm_int8") == pytest.approx((0.23 * 10 + 0.03 * 100) / (0.23 * 50))


def test_one_run_of_signed_spikes_is_a_row_for_each_number_of_steps(files):
    told = {"network": "vgg16_slim_cifar10", "run": "signed", "timesteps": 8, "chunk": 0, "ann": 200}
    files("SIGNED", [{**told, "snn": [10, 20, 30, 150, 160, 170, 180, 190], "same": [0, 0, 0, 160, 0, 0, 0, 210]}])
    found = {key[-1]: (row.snn, row.same, row.images) for key, row in deep_page.rows().items()}
    assert found == {4: (150, 160, 250), 8: (190, 210, 250)}


def test_windows_take_as_many_steps_as_the_network_is_deep(files):
    files("RESULTS", [
        line(encoding="radix", steps=6, facts={"latency": 90}),  # 14 layers of neurons and the image
        *(line(encoding=code, steps=steps, first=0, images=1, ann=1, snn=1, same=1)
          for code, steps in (("radix", 6), ("ttfs_exact", 16))),
    ])  # fmt: skip
    assert {key[1]: row.facts["latency"] for key, row in deep_page.rows().items()} == {"radix": 90, "ttfs_exact": 240}
