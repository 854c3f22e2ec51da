"""What `report_networks` leaves of networks that an Experiment does not take: several inputs, several outputs."""

import html
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from contract_networks import build, images_for

from conversion import ann_accuracy, convert_ann_to_snn, snn_accuracy, verify
from experiment import Experiment, compare, report_networks
from spiking.runs.networks import labels_of

IMAGES = 12


def left_of(kind, codes, folder, labels=None):
    """An ANN, the networks made of it, images, and what the run says in its files."""
    ann = build(kind, "rate")
    images = images_for(ann, IMAGES)
    snns = [convert_ann_to_snn(ann, images, code, timesteps=4) for code in codes]
    places = {"results_dir": folder / "runs", "tblogs_dir": folder / "logs"}
    path = report_networks(ann, snns, images, labels, name=kind, **places)
    assert path == folder / "runs" / kind
    files = {"ann.keras", "config.json", "figures", "metrics.json", "report.html"}
    assert {each.name for each in path.iterdir()} == files | {f"snn-{code}.keras" for code in codes}
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    return ann, dict(zip(codes, snns, strict=True)), images, metrics, path


def tags_of(folder):
    """All tags of a TensorBoard log."""
    (file,) = folder.glob("events*")
    return {value.tag for event in tf.compat.v1.train.summary_iterator(str(file)) for value in event.summary.value}


def test_two_inputs_with_labels(tmp_path):
    codes, labels = ("rate", "ttfs_exact"), np.arange(IMAGES) % 3
    ann, snns, images, metrics, path = left_of("two_inputs", codes, tmp_path, labels)
    for code, snn in snns.items():
        assert metrics[code]["ann/eval/test"] == ann_accuracy(ann, images, labels)
        assert metrics[code]["snn/eval/test"] == pytest.approx(snn_accuracy(snn, images, labels))
    page = html.unescape((path / "report.html").read_text(encoding="utf-8"))
    assert page.count(f"The output beside the ANN's, {IMAGES} images: the same class on") == 2
    assert "SNN / %" in page and page.count("Its accuracy ") == 2
    names = {f"{kind}-{code}" for kind in ("raster", "activity") for code in codes}
    assert {each.stem for each in (path / "figures").iterdir()} == {"accuracy_per_timestep", "costs", *names}


def test_two_outputs_of_different_kind_without_labels(tmp_path):
    ann, snns, images, metrics, path = left_of("two_heads", ["ttfs_exact"], tmp_path)
    outputs, found = verify(ann, snns["ttfs_exact"], images).outputs, metrics["ttfs_exact"]
    assert {f"snn/r_squared/{name}": pytest.approx(each.r_squared) for name, each in outputs.items()}.items() <= (
        found.items())  # fmt: skip
    assert found["snn/r_squared"] == pytest.approx(min(each.r_squared for each in outputs.values()))
    assert found["snn/same_class"] == min(each.same_class for each in outputs.values())
    assert not any(tag.endswith("/test") for tag in found)
    page = html.unescape((path / "report.html").read_text(encoding="utf-8"))
    assert "Output label beside" in page and "Output box beside" in page
    assert "same class / %" in page and "SNN / %" not in page and "Its accuracy " not in page
    tags = tags_of(tmp_path / "logs" / "two_heads" / "ttfs_exact")
    assert {"snn/r_squared/box", "figures/raster-ttfs_exact", "spikes/no_of_spikes/last"} <= tags
    assert "accuracy/per_timestep" not in tags
    (row,) = compare(tmp_path / "runs").rows()
    assert row["SNN / %"] is None and row["R²"] == pytest.approx(found["snn/r_squared"])


def test_networks_of_one_code_are_numbered():
    codes = [SimpleNamespace(encoding=SimpleNamespace(name=name)) for name in ("rate", "ttfs", "rate", "rate")]
    assert labels_of(codes) == ["rate", "ttfs", "rate-2", "rate-3"]


def test_what_is_refused(tmp_path):
    ann = build("two_heads", "rate")
    with pytest.raises(ValueError, match=r"Converted networks are compared. Received: snns=\[<Functional"):
        report_networks(ann, [ann], images_for(ann), results_dir=tmp_path)
    images = images_for(ann, 6)
    data = (images, np.arange(6) % 3), (images, np.arange(6) % 3)
    with pytest.raises(ValueError, match=r"report_networks\(ann, snns, images\)"):
        Experiment(model=ann, dataset=data)
