"""`examples/reproduce_thesis.py`: what it looks at when, and its page; with a made-up loss in place of networks."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

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

    def compare(plan, part, network, encoding, timesteps, layers_of_time=None, seed=0, **others):
        calls.append((part, network, encoding, seed))
        # On the validation images the loss falls with the time steps; on the test images it is the seed's.
        loss = 240 / timesteps if part == "validation" else [0.1, 0.2, 0.6][seed]
        return {"loss": loss, "relu": 99.0, "ann": 98.9, "snn": 99.0 - loss, "threshold": 1.0}

    monkeypatch.setattr(script, "compare", compare)
    monkeypatch.setattr(script, "parts", lambda plan: dict.fromkeys(("train", "validation", "test"), ((), ())))
    few = ["--trials", "3", "--folder", str(tmp_path / "thesis")]
    script.main([*few, "--networks", "lenet5_maxpool", "--codes", "ttfs"])
    expected = [(part, "lenet5_maxpool", "ttfs", seed) for part in ["validation"] * 3 + ["test"] for seed in (0, 1, 2)]
    assert calls == expected
    assert not script.PAGE.exists()
    ledger = tmp_path / "thesis" / "lenet5_maxpool" / "ttfs" / "trials.jsonl"
    trials = [json.loads(line) for line in ledger.read_text().splitlines()]
    most = max(trial["values"]["timesteps"] for trial in trials)

    calls.clear()
    script.main(few)
    assert {call[1:3] for call in calls} == {
        (network, code) for network in script.NETWORKS for code in [*script.SPACES, *script.BESIDE]
    } - {("lenet5_maxpool", "ttfs")}  # that was done
    page = script.PAGE.read_text()
    # mean 0.3; standard deviation of (0.1, 0.2, 0.6): √((0.04 + 0.01 + 0.09)/2) = 0.26
    accuracies = "99.00 ± 0.00 | 98.90 ± 0.00 | 98.70 ± 0.26"
    row = f"| ttfs | {accuracies} | 0.30 ± 0.26 | 0.10, 0.20, 0.60 | {240 / most:.2f} |"
    assert page.count(row) == 2
    assert page.count("it loses 0.30 points on average, no more than the thesis's best, 0.35.") == 2
    assert f"timesteps {most}" in page


def test_the_verdict_is_on_the_code_that_validation_chose(script):
    def result(encoding, validation, loss):
        run = {"loss": loss, "relu": 99.0, "ann": 99.0, "snn": 99.0 - loss, "threshold": 1.0}
        return script.Result(encoding, {}, validation, [run, run])

    text = "\n".join(
        script.chapter(
            "lenet5_maxpool",
            [result("ttfs", 0.2, 0.5), result("ttfs_clamped", 0.3, 0.1), result("ttfs_exact", None, 0.0)],
        )
    )
    assert "`ttfs` loses least on the validation images" in text
    assert "it loses 0.50 points on average, more than the thesis's best, 0.35." in text


def test_the_loss_is_against_the_better_ann(script, tmp_path, monkeypatch):
    class Made:
        """An experiment whose ANN and SNN have these accuracies."""

        encoding = SimpleNamespace(threshold=2.0)

        def __init__(self, encoding, threshold=None, **others):
            assert threshold in (None, 60 / 7.5)
            self.ann = {"ttfs_exact": 0.99, "ttfs_clamped": clamped}[encoding]

        def ann_accuracy(self):
            return {"ann/eval/test": self.ann}

        def convert(self):
            return self

    monkeypatch.setattr(script, "Experiment", Made)
    monkeypatch.setattr(script, "snn_accuracy", lambda snn, images, labels: 0.975)
    plan = script.Plan(tmp_path, **script.QUICK)
    for clamped, loss in [(0.98, 1.5), (0.995, 2.0)]:
        found = script.compare(plan, "test", "lenet5_maxpool", "ttfs_clamped", 60, layers_of_time=7.5)
        expected = {"loss": loss, "relu": 99, "ann": 100 * clamped, "snn": 97.5, "threshold": 2}
        assert found == pytest.approx(expected)
    found = script.compare(plan, "test", "lenet5_maxpool", "ttfs_exact", 60)
    assert found == pytest.approx({"loss": 1.5, "relu": 99, "ann": 99, "snn": 97.5, "threshold": 2})


def test_a_trial_is_the_mean_over_the_seeds_and_a_hopeless_one_ends_with_the_first(script, tmp_path, monkeypatch):
    plan = script.Plan(tmp_path)
    monkeypatch.setattr(script, "compare", lambda plan, part, network, encoding, seed: {"loss": [0.3, 0.6, 3.0][seed]})
    assert script.validate(plan, "lenet5", "ttfs") == {"loss": pytest.approx(1.3)}
    monkeypatch.setattr(script, "compare", lambda plan, part, network, encoding, seed: {"loss": [3.0, 0.6, 0.3][seed]})
    assert script.validate(plan, "lenet5", "ttfs") == {"loss": 3.0}


def test_spaces_hold_settings_that_experiments_take(script):
    random = np.random.default_rng(0)
    for space in script.SPACES.values():
        drawn = {value.name: value.distribution.draw(random) for value in space}
        assert 2 < drawn["timesteps"] / drawn.pop("layers_of_time") < 100
        assert set(drawn) <= {"timesteps", "norm_percentile", "per_channel", "beta"}
