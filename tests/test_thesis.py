"""`examples/reproduce_thesis.py`: what it looks at when, and its page; with a made-up loss in place of networks."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "reproduce_thesis.py"


@pytest.fixture
def script(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("reproduce_thesis", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reproduce_thesis", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAGE", tmp_path / "THESIS.md")
    return module


def test_validation_images_are_held_out_of_the_training(script, tmp_path):
    plan = script.Plan(tmp_path, **{**script.QUICK, "validation_images": 600})
    found = script.parts(plan)
    train, validation = ({image.tobytes() for image in found[part][0]} for part in ("train", "validation"))
    assert [len(found[part][0]) for part in ("train", "validation", "test")] == [5400, 600, 200]
    assert not train & validation


def test_the_search_chooses_on_validation_and_the_seeds_meet_the_test_set(script, tmp_path, monkeypatch):
    calls = []

    def compare(plan, part, encoding, timesteps, layers_of_time=None, seed=0, **others):
        calls.append((part, encoding, seed))
        # On the validation images the loss falls with the time steps; on the test images it is the seed's.
        loss = 240 / timesteps if part == "validation" else [0.1, 0.2, 0.6][seed]
        return {"loss": loss, "ann": 99.0, "snn": 99.0 - loss, "threshold": 1.0}

    monkeypatch.setattr(script, "compare", compare)
    monkeypatch.setattr(script, "parts", lambda plan: dict.fromkeys(("train", "validation", "test"), ((), ())))
    script.main(["--trials", "3", "--folder", str(tmp_path / "thesis"), "--codes", "ttfs"])
    assert calls == [(part, "ttfs", seed) for part in ["validation"] * 3 + ["test"] for seed in (0, 1, 2)]
    assert not script.PAGE.exists()
    trials = [json.loads(line) for line in (tmp_path / "thesis" / "ttfs" / "trials.jsonl").read_text().splitlines()]
    most = max(trial["values"]["timesteps"] for trial in trials)

    calls.clear()
    script.main(["--trials", "3", "--folder", str(tmp_path / "thesis")])
    assert {encoding for _, encoding, _ in calls} == {"ttfs_dyn_thresh", "ttfs_clamped", "ttfs_exact"}  # ttfs was done
    page = script.PAGE.read_text()
    # mean 0.3; standard deviation of (0.1, 0.2, 0.6): √((0.04 + 0.01 + 0.09)/2) = 0.26
    row = f"| ttfs | 99.00 ± 0.00 | 98.70 ± 0.26 | 0.30 ± 0.26 | 0.10, 0.20, 0.60 | {240 / most:.2f} | 3 |"
    assert row in page
    assert "0.35 points: reached by a mean loss of 0.30" in page
    assert f"timesteps {most}" in page


def test_a_trial_is_the_mean_over_the_seeds_and_a_hopeless_one_ends_with_the_first(script, tmp_path, monkeypatch):
    plan = script.Plan(tmp_path)
    monkeypatch.setattr(script, "compare", lambda plan, part, encoding, seed: {"loss": [0.3, 0.6, 3.0][seed]})
    assert script.validate(plan, "ttfs") == {"loss": pytest.approx(1.3)}
    monkeypatch.setattr(script, "compare", lambda plan, part, encoding, seed: {"loss": [3.0, 0.6, 0.3][seed]})
    assert script.validate(plan, "ttfs") == {"loss": 3.0}


def test_spaces_hold_settings_that_experiments_take(script):
    random = np.random.default_rng(0)
    for space in script.SPACES.values():
        drawn = {value.name: value.distribution.draw(random) for value in space}
        assert 2 < drawn["timesteps"] / drawn.pop("layers_of_time") < 100
        assert set(drawn) <= {"timesteps", "norm_percentile", "per_channel", "beta"}
