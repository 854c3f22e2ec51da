"""The scripts of the original toolbox run as written there (DESIGN 8)."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

import ann_training
from spiking.network.inputs import PoissonSpikes
from spiking.runs.arguments import NO_LEAK, settings_per_encoding

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import original_scripts  # noqa: E402


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_base(elsewhere):
    metrics, curve = original_scripts.experiment_base()
    assert curve.shape == (120,)
    assert metrics["snn/eval/test"] == pytest.approx(curve[-1])
    assert curve[-1] > 0.5
    assert "snn/eval/train" not in metrics
    expected = {"timesteps": 120, "threshold": 10, "tau": 999999.0, "norm_percentile": 99.0, "encoding": "ttfs"}
    assert {name: metrics[f"experiment/{name}"] for name in expected} == expected
    assert not {"experiment/max_rate", "experiment/beta"} & set(metrics)  # no neuron of this code knows them
    assert (elsewhere / "tblogs" / "test" / "ttfs").is_dir()


def test_rate_on_rgb_images():
    metrics = original_scripts.experiment_rate()
    assert metrics["experiment/image_size_rescale"] == [20, 20]
    assert metrics["experiment/image_depth_increase"] == 3
    assert metrics["snn/eval/train"] > 0.5


def test_clamped(elsewhere):
    metrics = original_scripts.experiment_clamped()
    assert metrics["experiment/beta"] == 2**-16
    assert metrics["ann/eval/test"] > 0.5
    assert (elsewhere / "tblogs" / "ttfs-clamped-mnist(28x28)").is_dir()


def test_repeated(elsewhere, monkeypatch):
    # Five trainings, each anew; 200 images are enough to see that they are repeated.
    data = ann_training.load_dataset("mnist_sample")
    parts = {"x_train": data.x_train, "y_train": data.y_train, "x_test": data.x_test, "y_test": data.y_test}
    np.savez(elsewhere / "few.npz", **{name: values[:200] for name, values in parts.items()})
    monkeypatch.setattr(original_scripts, "DATASET", str(elsewhere / "few.npz"))
    summary = original_scripts.experiment_repeated(timesteps=20)
    assert (elsewhere / "experiments" / "experiment_repeated" / "runs.csv").read_text().count("COMPLETE") == 2
    assert {(row["timesteps"], row["n"]) for row in summary} == {(20, 2)}
    summary = original_scripts.experiment_repeated("steps", timesteps=[19, 21], repetitions=1)
    assert {(row["timesteps"], row["n"]) for row in summary} == {(19, 1), (20, 1), (21, 1)}


def test_a_rate_above_1_saturates():
    image = np.float32([[0.0, 0.1, 0.5, 0.75, 1.0]])
    spikes = PoissonSpikes(2000, max_rate=2, seed=1)(image)
    np.testing.assert_allclose(np.mean(spikes, axis=1)[0], [0, 0.2, 1, 1, 1], atol=0.03)
    assert np.all(np.asarray(spikes)[..., 2:] == 1)


ARGUMENTS = {"encoding": "ttfs_exact", "timesteps": None, "threshold": None, "max_rate": 2.0, "seed": 0}


@pytest.mark.parametrize("tau", [None, math.inf, 999999.0, NO_LEAK])
def test_no_leak_is_taken_by_codes_without_one(tau):
    found = settings_per_encoding({**ARGUMENTS, "tau": tau, "encoding_options": None})
    assert not {"tau", "max_rate"} & set(found["ttfs_exact"])


@pytest.mark.parametrize("given", [{"tau": 20.0}, {"encoding_options": {"tau": math.inf}}])
def test_a_leak_that_no_code_knows_is_refused(given):
    with pytest.raises(ValueError, match="that a chosen encoding knows.*ttfs_exact.*Received: tau="):
        settings_per_encoding({**ARGUMENTS, "tau": None, "encoding_options": None, **given})
