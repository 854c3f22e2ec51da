"""Search spaces, searches and repetitions: mostly with plain functions, and killed without mercy."""

import csv
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from jobs import finish, sleepy_trials, start

import optimization
from optimization import (
    DiscreteInterval,
    DiscreteValues,
    OptimizableValue,
    RealInterval,
    RepeatedExperiment,
    derived_seed,
    drawn_values,
    main,
    open_ledger,
    parse_vary,
    search,
)
from spiking.runs.study import counts, shared_study

ROOT = Path(optimization.__file__).parent
SPACE = [
    OptimizableValue("x", RealInterval("uniform", low=-1, high=1)),
    OptimizableValue("n", DiscreteInterval(1, 5, 1)),
    OptimizableValue("kind", DiscreteValues(["a", "b"])),
]


def objective(x, n, kind):
    return {"score": -(x**2) + (kind == "b"), "cost": n, "kind": kind}


def results(records):
    """What must be equal in two searches: everything but the time."""
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


# ---------------------------------------------------------------------------------------------------------------------
# Search spaces


def test_discrete_interval_draws_uniformly_for_ever():
    value = OptimizableValue("timesteps", DiscreteInterval(1, 5, 1), seed=1)
    counts = Counter(value.get() for _ in range(8000))
    assert sorted(counts) == [1, 2, 3, 4]
    assert all(type(key) is int for key in counts)
    assert all(abs(count - 2000) < 5 * np.sqrt(8000 * 0.25 * 0.75) for count in counts.values())


@pytest.mark.parametrize(
    ("interval", "values"),
    [
        (DiscreteInterval(0.1, 0.4, 0.1), [0.1, 0.2, 0.3]),
        (DiscreteInterval(0.5, 2, 0.5), [0.5, 1.0, 1.5]),
        (DiscreteInterval(10, 25, 10), [10, 20]),
        (DiscreteInterval(np.int64(-2), 1), [-2, -1, 0]),
    ],
)
def test_discrete_interval_holds_what_is_written(interval, values):
    value = OptimizableValue("x", interval, seed=0)
    assert {value.get() for _ in range(100)} == set(values)
    assert [interval[index] for index in range(interval.count)] == values


@pytest.mark.parametrize(
    ("interval", "mean", "sd"),
    [
        (RealInterval("normal", loc=3, scale=2), 3, 2),
        (RealInterval("uniform", low=1, high=4), 2.5, 3 / np.sqrt(12)),
        (RealInterval("poisson", lam=4), 4, 2),
        (RealInterval("beta", a=2, b=2), 0.5, np.sqrt(1 / 20)),
    ],
)
def test_real_interval_draws_and_suggests_from_its_distribution(interval, mean, sd):
    value = OptimizableValue("x", interval, seed=1)
    drawn = [value.get() for _ in range(4000)]
    suggested = [interval.suggest(FixedTrial(float(share)), "x") for share in (np.arange(200) + 0.5) / 200]
    for numbers in (drawn, suggested):
        assert np.mean(numbers) == pytest.approx(mean, abs=5 * sd / np.sqrt(4000) + 0.01)
        assert np.std(numbers) == pytest.approx(sd, rel=0.06)
    assert type(drawn[0]) is type(suggested[0]) is (int if interval.distribution == "poisson" else float)


class FixedTrial:
    """Suggests what lies at a share of the range."""

    def __init__(self, share):
        self.share = share

    def suggest_float(self, name, low, high):
        return low + self.share * (high - low)


def test_values_have_seeds_of_their_own():
    first, second, other = (OptimizableValue("x", RealInterval("normal"), seed=seed) for seed in (1, 1, 2))
    drawn = [value.get() for value in (first, first, second, second, other)]
    assert drawn[:2] == drawn[2:4]
    assert drawn[4] not in drawn[:4]
    unseeded = [OptimizableValue("x", RealInterval("normal")).get() for _ in range(2)]
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiscreteInterval(5, 1, 1), "start up to stop.*Received: DiscreteInterval"),
        (lambda: DiscreteInterval(1, 5, 0), "steps above 0"),
        (lambda: DiscreteInterval(1, float("inf"), 1), "stop must be a number"),
        (lambda: DiscreteInterval("1", 5, 1), "start must be a number"),
        (lambda: RealInterval("gauss", loc=0), "distribution must be one of .*normal.*'gauss'"),
        (lambda: RealInterval("normal", mean=0), "accept the keywords"),
        (lambda: RealInterval("normal", loc=0, scale=-1), "scale"),
        (lambda: RealInterval("normal", loc=float("nan")), "loc must be a number"),
        (lambda: RealInterval("normal", loc=[0, 1]), "loc must be a number"),
        (lambda: RealInterval("normal", size=3), "draw a number"),
        (lambda: RealInterval("beta", a=1), "accept the keywords"),
        (lambda: RealInterval("poisson", lam=-1), "lam"),
        (lambda: RealInterval("uniform", low=2, high=1), "low must be below high"),
        (lambda: DiscreteValues([]), "one value or more"),
        (lambda: DiscreteValues("rate"), r"Put them into \[ \]"),
        (lambda: OptimizableValue("x", [1, 2]), "and a distribution"),
        (lambda: OptimizableValue("time steps", DiscreteValues([1])), "name of an argument"),
        (lambda: OptimizableValue("x", DiscreteValues([1]), seed=-1), "seed must be a whole number"),
    ],
)
def test_wrong_spaces_are_refused_when_made(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()


def test_drawn_values_depend_on_seed_number_and_name_alone():
    all_of_them = [drawn_values(SPACE, 7, number) for number in range(20)]
    assert drawn_values(SPACE, 7, 11) == all_of_them[11]
    assert drawn_values(SPACE[::-1], 7, 11) == all_of_them[11]
    assert drawn_values(SPACE[:1], 7, 11) == {"x": all_of_them[11]["x"]}
    assert len({values["x"] for values in all_of_them}) == 20
    assert drawn_values(SPACE, 8, 11) != all_of_them[11]


# ---------------------------------------------------------------------------------------------------------------------
# Random search


def test_search_finds_the_best_and_leaves_tables(tmp_path):
    found = search(objective, SPACE, 30, "score", folder=tmp_path)
    assert [record["number"] for record in found.records] == list(range(30))
    assert [record["values"] for record in found.records] == [drawn_values(SPACE, 0, number) for number in range(30)]
    (best,) = found.best
    assert best["arguments"] == best["values"]
    scores = [record["metrics"]["score"] for record in found.records]
    assert best["metrics"]["score"] == max(scores)
    assert [float(row["score"]) for row in table(tmp_path / "trials.csv")] == scores
    assert json.loads((tmp_path / "best.json").read_text())["best"] == [best]
    assert f"trial {best['number']}" in found.table()
    assert search(objective, SPACE, 30, "cost", "minimize", folder=tmp_path).best[0]["metrics"]["cost"] == 1


def test_objective_may_return_a_number(tmp_path):
    found = search(lambda x: x, SPACE[:1], 5, "height", "minimize", folder=tmp_path)
    assert found.best[0]["metrics"]["height"] == min(record["values"]["x"] for record in found.records)


def test_finished_trials_are_not_repeated_and_more_can_be_asked_for(tmp_path):
    calls = []

    def counting(x):
        calls.append(x)
        return x

    first = search(counting, SPACE[:1], 4, "value", folder=tmp_path).records
    second = search(counting, SPACE[:1], 7, "value", folder=tmp_path).records
    assert len(calls) == len(set(calls)) == 7
    assert second[:4] == first
    assert results(second) == results(search(counting, SPACE[:1], 7, "value", folder=tmp_path / "at once").records)


def test_a_failing_trial_is_recorded_and_the_search_goes_on(tmp_path):
    def fails(x):
        if x < 0:
            raise RuntimeError("too low")
        return float("nan") if x > 0.8 else x

    found = search(fails, SPACE[:1], 20, "value", folder=tmp_path)
    errors = {record["number"]: record["error"] for record in found.records if "error" in record}
    assert len(found.records) == 20 > len(errors) > 0
    assert set(errors.values()) == {"RuntimeError: too low", "ValueError: value is not a number (NaN)"}
    assert 0 <= found.best[0]["metrics"]["value"] <= 0.8
    assert str(search(fails, SPACE[:1], 20, "value", folder=tmp_path).records) == str(found.records)  # NaN != NaN


def test_without_any_result_there_is_no_best(tmp_path):
    found = search(lambda x: 1 / 0, SPACE[:1], 2, "value", folder=tmp_path)
    assert found.best == []
    assert "2 failed" in found.table()


def test_the_table_lists_the_best_first_and_how_others_ended(tmp_path):
    def ends(x, report):
        if x < -0.5:
            raise optimization.Pruned
        if x < 0:
            raise RuntimeError("too low")
        return x

    found = search(ends, SPACE[:1], 12, "value", folder=tmp_path)
    lines = found.table(100).splitlines()
    values = [float(line.split("value=")[1].split()[0]) for line in lines if "value=" in line]
    assert len(lines) == 13 and len(values) > 2 and values == sorted(values, reverse=True)
    assert lines[1].endswith(" (best)") and sum("(best)" in line for line in lines) == 1
    assert sum(line.endswith(": pruned") for line in lines) == sum("pruned" in each for each in found.records) > 0
    assert sum("too low" in line for line in lines) == sum("error" in each for each in found.records) > 0
    assert found.table(3).splitlines()[1:] == [*lines[1:4], "… and 9 more, see trials.csv"]


def test_resuming_says_what_it_found(tmp_path, caplog):
    caplog.set_level("INFO")
    search(lambda x: x, SPACE[:1], 3, "value", folder=tmp_path)
    assert "Found in" not in caplog.text
    search(lambda x: x, SPACE[:1], 4, "value", folder=tmp_path)
    assert f"Found in {tmp_path / 'trials.jsonl'}: 3 trials, 0 pruned, 0 failed; they stay" in caplog.text


def test_a_search_whose_trials_all_failed_is_an_exit_code(tmp_path, capsys, monkeypatch):
    failed = search(lambda x: 1 / 0, SPACE[:1], 2, "value", folder=tmp_path)
    monkeypatch.setattr(optimization, "search", lambda *args, **options: failed)
    with pytest.raises(SystemExit) as caught:
        main(["--vary", "timesteps=4:6"])
    assert caught.value.code == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_a_missing_metric_stops_the_search(tmp_path):
    with pytest.raises(ValueError, match="Received: metric='accuracy'. Returned are score, cost"):
        search(objective, SPACE, 3, "accuracy", folder=tmp_path)


def test_ctrl_c_loses_only_the_running_trial(tmp_path):
    calls = []

    def interrupted(x):
        calls.append(x)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt):
        search(interrupted, SPACE[:1], 6, "value", folder=tmp_path)
    assert (tmp_path / "trials.csv").read_text().count("\n") == 4
    found = search(interrupted, SPACE[:1], 6, "value", folder=tmp_path)
    assert calls[3] == calls[4]
    assert [record["values"]["x"] for record in found.records] == [*calls[:3], *calls[4:]]


def test_a_half_written_record_is_done_again(tmp_path):
    whole = search(objective, SPACE, 5, "score", folder=tmp_path)
    path = tmp_path / "trials.jsonl"
    for missing in (1, 2, 40):
        path.write_bytes(path.read_bytes()[:-missing])
        again = search(objective, SPACE, 5, "score", folder=tmp_path)
        assert results(again.records) == results(whole.records)
        assert path.read_bytes().count(b"\n") == 5


def test_a_damaged_record_is_refused_with_its_line(tmp_path):
    search(objective, SPACE, 3, "score", folder=tmp_path)
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    (tmp_path / "trials.jsonl").write_text("\n".join([lines[0], lines[1][:-5], lines[2]]) + "\n")
    with pytest.raises(ValueError, match="line 2 of .*Delete the line"):
        search(objective, SPACE, 3, "score", folder=tmp_path)


def test_another_search_in_the_same_folder_is_refused(tmp_path):
    search(objective, SPACE, 2, "score", folder=tmp_path)
    kept = (tmp_path / "trials.jsonl").read_text()
    with pytest.raises(ValueError, match="seed was 0, is 1.*Choose another folder"):
        search(objective, SPACE, 2, "score", folder=tmp_path, seed=1)
    other = [*SPACE[1:], OptimizableValue("x", RealInterval("uniform", low=-1, high=2))]
    with pytest.raises(ValueError, match="space was .*high=1.*high=2"):
        search(objective, other, 2, "score", folder=tmp_path)
    assert (tmp_path / "trials.jsonl").read_text() == kept


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path):
    with open_ledger(tmp_path, {}), pytest.raises(ValueError, match="One process at a time"):
        search(objective, SPACE, 2, "score", folder=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": []}, "A space has values"),
        ({"space": [SPACE[0], SPACE[0]]}, "name of its own"),
        ({"space": SPACE[:2]}, "takes the varied values as keywords.*kind"),
        ({"trials": 0}, "trials must be a whole number of at least 1"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"direction": "up"}, "'maximize' or 'minimize'.*direction='up'"),
        ({"metric": ["score", "cost"], "direction": ["maximize"] * 3}, "Give one for each"),
        ({"objective": 3}, "An objective is a function"),
        ({"validation": 0.1}, "validation"),
    ],
)
def test_wrong_searches_are_refused_before_any_trial(tmp_path, changes, message):
    arguments = {"objective": objective, "space": SPACE, "trials": 2, "metric": "score", "folder": tmp_path / "new"}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        search(**{**arguments, **changes})
    assert not (tmp_path / "new").exists()


def test_several_objectives_give_a_pareto_front(tmp_path):
    def three(x, n):
        found = {"accuracy": abs(x), "snn/timesteps": n, "operations": 1 + 100 * n * abs(x)}
        return {**found, "experiment/encoding": "rate" if x > 0 else "ttfs"}

    metrics, directions = ["accuracy", "snn/timesteps", "operations"], ["maximize", "minimize", "minimize"]
    found = search(three, SPACE[:2], 40, metrics, directions, folder=tmp_path)
    triples = [(-m["accuracy"], m["snn/timesteps"], m["operations"]) for m in (r["metrics"] for r in found.records)]
    front = {
        triple for triple in triples
        if not any(other != triple and all(a <= b for a, b in zip(other, triple, strict=True)) for other in triples)
    }
    assert {(-m["accuracy"], m["snn/timesteps"], m["operations"]) for m in (r["metrics"] for r in found.best)} == front
    assert 1 < len(front) < 40
    assert (tmp_path / "pareto.png").stat().st_size > 1000


# ---------------------------------------------------------------------------------------------------------------------
# Repetition


def noisy(seed, timesteps, threshold=1):
    return {"accuracy": timesteps + np.random.default_rng(seed).normal(), "threshold": threshold, "name": "n"}


def test_repetition_has_mean_spread_and_confidence(tmp_path):
    repeated = RepeatedExperiment(noisy, 5, timesteps=[2, 8, 3], grid={"threshold": [1, 2]}, folder=tmp_path)
    summary = repeated.run()
    assert len(repeated.cells) == 6
    assert len(repeated.records) == 30
    (row,) = (r for r in summary if (r["timesteps"], r["threshold"], r["metric"]) == (5, 2, "accuracy"))
    values = np.array([r["metrics"]["accuracy"] for r in repeated.records if r["values"]["timesteps"] == 5][::2])
    assert row["n"] == 5
    assert row["mean"] == pytest.approx(values.mean())
    assert row["sd"] == pytest.approx(values.std(ddof=1))
    half = 2.776 * values.std(ddof=1) / np.sqrt(5)  # Student's t, 4 degrees of freedom
    assert (row["low"], row["high"]) == pytest.approx((values.mean() - half, values.mean() + half))
    assert len(table(tmp_path / "summary.csv")) == len(summary) == 12
    assert json.loads((tmp_path / "summary.json").read_text())["summary"] == summary
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 31


def test_repetitions_have_seeds_in_common_and_can_be_raised(tmp_path):
    few = RepeatedExperiment(noisy, 2, timesteps=[3, 5], folder=tmp_path)
    few.run()
    more = RepeatedExperiment(noisy, 4, timesteps=[3, 5], folder=tmp_path)
    more.run()
    assert more.records[:6] == few.records
    seeds = [[r["values"]["seed"] for r in more.records[start : start + 3]] for start in range(0, 12, 3)]
    assert all(len(set(each)) == 1 for each in seeds)
    assert len({each[0] for each in seeds}) == 4
    with pytest.raises(ValueError, match="seed was 0, is 3"):
        RepeatedExperiment(noisy, 2, timesteps=[3, 5], seed=3, folder=tmp_path).run()


def test_repetitions_feed_the_plots(tmp_path):
    import plotting

    repeated = RepeatedExperiment(noisy, 3, timesteps=[1, 4], grid={"threshold": [1, 2]}, folder=tmp_path)
    repeated.run()
    boxes = repeated.values("accuracy")
    assert list(boxes)[:2] == ["threshold=1, timesteps=1", "threshold=1, timesteps=2"]
    plotting.repeated_box_plot(boxes, "accuracy")
    x, curves = repeated.curves("accuracy")
    assert x.tolist() == [1, 2, 3, 4]
    assert {label: lines.shape for label, lines in curves.items()} == {"threshold=1": (3, 4), "threshold=2": (3, 4)}
    assert np.diff(curves["threshold=1"], axis=1) == pytest.approx(1)
    plotting.repeated_curves(x, curves, "time steps", "accuracy")
    with pytest.raises(ValueError, match="Known: accuracy, threshold"):
        repeated.values("loss")
    with pytest.raises(ValueError, match="axis of the grid"):
        repeated.curves("accuracy", over="seed")


def test_failed_runs_are_left_out(tmp_path):
    first = derived_seed(0, 0)

    def fails_once(seed, timesteps):
        if seed == first and timesteps == 2:
            raise RuntimeError
        return {"accuracy": 1.0}

    repeated = RepeatedExperiment(fails_once, 3, timesteps=[1, 2], folder=tmp_path)
    assert [row["n"] for row in repeated.run()] == [3, 2]
    assert repeated.curves("accuracy")[1]["all runs"].shape == (2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repetitions": 0}, "repetitions must be a whole number"),
        ({"timesteps": [5, 3]}, r"timesteps is a number, \[start, stop\]"),
        ({"timesteps": [0, 3]}, "above 0"),
        ({"timesteps": [1, 2], "grid": {"timesteps": [1]}}, "no part of the grid"),
        ({"grid": {"seed": [1, 2]}}, "Seeds of runs are derived"),
        ({"grid": {"threshold": []}}, "one value or more"),
    ],
)
def test_wrong_repetitions_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        RepeatedExperiment(**{"objective": noisy, "folder": tmp_path, **changes})


# ---------------------------------------------------------------------------------------------------------------------
# kill -9, and several processes

def wait_for_trials(folder, count):
    """Waits until so many trials have been done."""
    calls = folder.parent / "calls"
    while not calls.exists() or len(calls.read_text().splitlines()) < count:
        time.sleep(0.01)


def ledger_of(folder):
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def table(path):
    """The rows of a table without the time."""
    with path.open() as file:
        return [{**row, "seconds": 0} for row in csv.DictReader(file)]


@pytest.mark.parametrize("kind", ["search", "repeat"])
def test_kill_9_loses_and_doubles_nothing(tmp_path, kind):
    moments, folder, trials = random.Random(3), tmp_path / "killed" / "folder", 60
    folder.parent.mkdir(), (tmp_path / "whole").mkdir()
    for kills in range(1, 5):
        process = start(sleepy_trials, folder, kind, trials)
        wait_for_trials(folder, 10 * kills)
        time.sleep(moments.uniform(0, 0.08))
        process.kill()  # SIGKILL
        process.join()
        before = ledger_of(folder)[: 10 * kills - 2] if kills > 1 else []
    finish(start(sleepy_trials, folder, kind, trials))
    finish(start(sleepy_trials, tmp_path / "whole" / "folder", kind, trials))
    killed, whole = ledger_of(folder), ledger_of(tmp_path / "whole" / "folder")
    assert killed[: len(before)] == before
    assert results(killed) == results(whole)
    assert [record["number"] for record in killed] == list(range(trials))
    done = (folder.parent / "calls").read_text().splitlines()
    assert len(done) <= trials + 4  # each kill may have hit a trial between its end and its record
    for name in ("trials.csv",) if kind == "search" else ("runs.csv", "summary.csv"):
        assert table(folder / name) == table(tmp_path / "whole" / "folder" / name)


@pytest.mark.parametrize("file", ["journal.log", "study.db"])
def test_processes_share_a_study(tmp_path, file):
    optuna = pytest.importorskip("optuna")
    folder, storage, trials = tmp_path / "shared" / "folder", tmp_path / file, 24
    folder.parent.mkdir()
    workers = [start(sleepy_trials, folder, "search", trials, storage) for _ in range(2)]
    wait_for_trials(folder, 6)
    workers[0].kill()
    workers[0].join()
    finish(workers[1])
    with shared_study(str(storage), "folder", {}, ["maximize"]) as study:
        assert sum(map(counts, study.trials)) == trials
        complete = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
        assert len(complete) == trials
        assert len({trial.number for trial in complete}) == trials
        assert not [trial for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]
    rows = table(folder / "trials.csv")
    assert len(rows) == len({row["x"] for row in rows}) == trials


# ---------------------------------------------------------------------------------------------------------------------
# Optuna in one process


@pytest.fixture
def storage(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return str(tmp_path / "journal.log")


def test_optuna_takes_every_kind_of_value(tmp_path, storage):
    space = [
        *SPACE,
        OptimizableValue("gauss", RealInterval("normal", loc=10)),
        OptimizableValue("events", RealInterval("poisson", lam=3)),
        OptimizableValue("share", RealInterval("beta", a=1, b=3)),
        OptimizableValue("tenth", DiscreteInterval(0.1, 1, 0.1)),
        OptimizableValue("mixed", DiscreteValues([None, 1, (2, 3), np.float32(0.5)])),
    ]
    seen = []

    def take(**values):
        seen.append(values)
        return values["x"]

    found = search(take, space, 15, "value", folder=tmp_path, storage=storage)
    assert len(found.records) == len(seen) == 15
    assert {values["tenth"] for values in seen} <= {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}
    assert {values["n"] for values in seen} <= {1, 2, 3, 4}
    assert any(values["mixed"] == (2, 3) for values in seen)
    assert found.best[0]["metrics"]["value"] == max(values["x"] for values in seen)
    assert json.loads((tmp_path / "best.json").read_text())["best"][0]["number"] == found.best[0]["number"]


def test_tpe_beats_random_search_and_repeats_itself(tmp_path, storage):
    guided = search(lambda x: -abs(x - 0.3), SPACE[:1], 40, "value", folder=tmp_path / "a", storage=storage)
    again = search(lambda x: -abs(x - 0.3), SPACE[:1], 40, "value", folder=tmp_path / "b", storage=storage)
    chance = search(lambda x: -abs(x - 0.3), SPACE[:1], 40, "value", folder=tmp_path / "c")
    means = [np.mean([r["metrics"]["value"] for r in each.records[-20:]]) for each in (guided, chance)]
    assert means[0] > means[1]
    assert results(again.records) == results(guided.records)


def test_reported_values_prune(tmp_path, storage):
    def reporting(x, report):
        for step in range(4):
            report(step, x)
        return x

    found = search(reporting, SPACE[:1], 25, "value", folder=tmp_path, storage=storage)
    pruned = [record for record in found.records if "pruned" in record]
    assert len(found.records) == 25
    assert 3 < len(pruned) < 20
    assert search(reporting, SPACE[:1], 5, "value", folder=tmp_path / "random").best  # where nothing is pruned


def test_study_records_failures_and_refuses_another_search(tmp_path, storage):
    def fails(x):
        return 1 / 0 if x < 0 else {"value": x, "other": 1}

    found = search(fails, SPACE[:1], 12, "value", folder=tmp_path, storage=storage)
    assert len(found.records) == 12
    assert sum("ZeroDivisionError" in record.get("error", "") for record in found.records) > 1
    with pytest.raises(ValueError, match="direction was"):
        search(fails, SPACE[:1], 12, "value", "minimize", folder=tmp_path, storage=storage)
    with pytest.raises(ValueError, match="space was"):
        search(objective, SPACE, 12, "value", folder=tmp_path, storage=storage)
    with pytest.raises(ValueError, match="metric='loss'"):
        search(fails, SPACE[:1], 20, "loss", folder=tmp_path / "new", storage=storage)


def test_study_with_several_objectives(tmp_path, storage):
    def two(x, report):
        report(1, x)
        return {"a": x, "b": abs(x)}

    found = search(two, SPACE[:1], 15, ["a", "b"], ["maximize", "minimize"], folder=tmp_path, storage=storage)
    assert all(record["metrics"]["a"] >= 0 or record["metrics"]["b"] > 0 for record in found.best)
    assert len(found.best) >= 2


def test_a_trial_that_was_taken_for_dead_does_not_count(tmp_path, storage):
    from optuna.trial import TrialState

    done = []

    def overtaken(x):
        done.append(x)
        if len(done) == 1:
            with shared_study(storage, tmp_path.name, {}, ["maximize"]) as study:
                study.tell(0, state=TrialState.FAIL)
        return x

    found = search(overtaken, SPACE[:1], 3, "value", folder=tmp_path, storage=storage)
    assert [record["number"] for record in found.records] == [1, 2, 3]


def test_without_optuna_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'spiking-toolbox\[search\]'"):
        search(objective, SPACE, 2, "score", folder=tmp_path, storage="journal.log")


# ---------------------------------------------------------------------------------------------------------------------
# Experiments


def images(count, seed):
    """Images of three classes: the brighter third says which."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = rng.integers(0, 80, (count, 9, 9, 1), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[3 * label : 3 * label + 3] += 150
    return pixels, labels


TINY = {"dataset": (images(90, 1), images(30, 2)), "training_function": "denseonly1", "epochs": 1, "max_images": 20}


def test_search_with_experiments(tmp_path, monkeypatch):
    import ann_training

    trained = []
    load = ann_training._load
    monkeypatch.setattr(ann_training, "_load", lambda path: trained.append(path) or load(path))
    space = [OptimizableValue("timesteps", DiscreteInterval(4, 9))]
    space += [OptimizableValue("threshold", DiscreteValues([1, 0]))]
    found = search(TINY, space, 3, "snn/eval/validation", validation=0.2, folder=tmp_path / "s")
    assert ["error" in r for r in found.records] == [not r["values"]["threshold"] for r in found.records]
    good = [record for record in found.records if "error" not in record]
    assert 0 < len(good) == len(trained) + 1  # the first one trains, all others load
    assert len(list((tmp_path / "s" / "runs" / "anns").glob("*.keras"))) == 1
    for record in good:
        assert record["metrics"]["snn/timesteps"] == record["values"]["timesteps"]
        assert not [name for name in record["metrics"] if name.endswith(("/test", "/train"))]
        logs = tmp_path / "s" / "tblogs" / f"trial-{record['number']:05d}" / "rate"
        assert list(logs.glob("events*"))
    from experiment import Experiment

    arguments = {**found.best[0]["arguments"], "dataset": TINY["dataset"]}
    assert Experiment(**arguments).timesteps == found.best[0]["values"]["timesteps"]


def test_wrong_experiments_are_refused_before_any_trial(tmp_path):
    space = [OptimizableValue("timesteps", DiscreteInterval(4, 9))]
    for arguments, message in (
        ({"time": 3}, "arguments of Experiment. Received: time"),
        ({"dataset": "mnists"}, "Unknown data set"),
        ({"encoding": ["rate", "ttfs"]}, "one encoding"),
        ({"name": "x"}, "arguments of Experiment. Received: name"),
    ):
        with pytest.raises(ValueError, match=message):
            search(arguments, space, 3, "snn/eval/test", folder=tmp_path / "s")
    assert not (tmp_path / "s" / "trials.jsonl").exists()


def test_repeated_experiments_and_the_command_line(tmp_path, capsys):
    repeated = RepeatedExperiment(TINY, 2, grid={"encoding": ["rate", "ttfs_exact"]}, timesteps=[4, 4], folder=tmp_path)
    summary = {(row["encoding"], row["metric"]): row for row in repeated.run()}
    assert summary["rate", "snn/eval/test"]["n"] == 2
    assert set(repeated.values("snn/eval/test")) == {"encoding=rate", "encoding=ttfs_exact"}

    x, y = images(90, 1)
    np.savez(tmp_path / "tiny.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    command = ["--dataset", str(tmp_path / "tiny.npz"), "--network", "denseonly1", "--set", "epochs=1", "max_images=9"]
    command += ["--vary", "timesteps=4:6", "--trials", "2", "--folder", str(tmp_path / "cli")]
    if "optuna" in sys.modules:
        command += ["--storage", str(tmp_path / "cli.log")]
    main(command)
    assert "2 trials, 0 pruned, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "cli" / "best.json").exists()


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("threshold=1:20:1", "DiscreteInterval(1, 20, 1)"),
        ("timesteps=4:9", "DiscreteInterval(4, 9, 1)"),
        ("norm_percentile=uniform(low=95, high=100)", "RealInterval('uniform', high=100, low=95)"),
        ("threshold=normal(loc=1,scale=0.1)", "RealInterval('normal', loc=1, scale=0.1)"),
        ("encoding=rate,ttfs", "DiscreteValues(['rate', 'ttfs'])"),
        ("tau=None,20.5", "DiscreteValues([None, 20.5])"),
    ],
)
def test_what_varies_on_the_command_line(text, distribution):
    value = parse_vary(text)
    assert value.name == text.split("=")[0]
    assert repr(value.distribution) == distribution


def test_command_line_explains_itself_and_its_errors(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--storage PLACE" in capsys.readouterr().out
    wrong = (("x", "NAME=VALUES"), ("x=3:1", "start up to stop"), ("x=foo(a=1)", "distribution must be one of"))
    for vary, message in wrong:
        with pytest.raises(SystemExit, match="2"):
            main(["--vary", vary])
        assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Failures that pass, tables that harm nobody, data that is named


def disk_full_once(seen):
    """An objective whose third call finds the disk full, and whose fifth divides by zero; told apart by `seen`."""

    def objective(x):
        seen.append(x)
        if len(seen) == 3:
            raise OSError(28, "No space left on device")
        if len(seen) == 5:
            return 1 / 0
        return x

    return objective


@pytest.mark.parametrize("shared", [False, True])
def test_what_failed_for_a_passing_reason_is_tried_again(tmp_path, request, shared):
    storage, calls = request.getfixturevalue("storage") if shared else None, []
    folder = tmp_path / "s"
    first = search(disk_full_once(calls), SPACE[:1], 6, "value", folder=folder, storage=storage)
    assert sorted(each["error"].split(":")[0] for each in first.records if "error" in each) == [
        "OSError", "ZeroDivisionError"
    ]
    second = search(disk_full_once(calls), SPACE[:1], 6, "value", folder=folder, storage=storage)
    assert len(calls) == 7 and len(second.records) == 6
    assert [each["error"].split(":")[0] for each in second.records if "error" in each] == ["ZeroDivisionError"]
    if not shared:  # a random search does the same trial again
        assert calls[6] == calls[2]
    third = search(disk_full_once(calls), SPACE[:1], 6, "value", folder=folder, storage=storage, retry_failed=True)
    assert len(calls) == 8 and not [each for each in third.records if "error" in each]
    search(disk_full_once(calls), SPACE[:1], 6, "value", folder=folder, storage=storage, retry_failed=True)
    assert len(calls) == 8


def test_a_repeated_run_that_failed_is_tried_again(tmp_path):
    calls = []

    def objective(seed):
        calls.append(seed)
        if len(calls) == 2:
            raise PermissionError("locked")
        return {"value": 1 / 0 if len(calls) == 3 else 1.0}

    counts = []
    for retry in (False, False, True):
        repeated = RepeatedExperiment(objective, 3, folder=tmp_path)
        counts.append(repeated.run(retry_failed=retry)[0]["n"])
    assert counts == [1, 2, 3]
    assert calls[3] == calls[1] and calls[4] == calls[2] and len(calls) == 5


def test_an_axis_keeps_its_values_whatever_its_name(tmp_path):
    def objective(seed, n, mean):
        return {"value": 10.0 * n + mean, "seconds": 7}

    repeated = RepeatedExperiment(objective, 2, grid={"n": [5, 6], "mean": [1, 2]}, folder=tmp_path)
    rows = [row for row in repeated.run() if row["metric"] == "value"]
    assert [(row["argument/n"], row["argument/mean"], row["n"], row["mean"]) for row in rows] == [
        (5, 1, 2, 51.0), (5, 2, 2, 52.0), (6, 1, 2, 61.0), (6, 2, 2, 62.0)
    ]
    with (tmp_path / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert {run["n"] for run in runs} == {"5", "6"} and {run["metric/seconds"] for run in runs} == {"7"}
    assert all(float(run["seconds"]) < 7 for run in runs)


def test_cells_that_spreadsheets_would_run_are_made_harmless(tmp_path):
    texts = ["=1+2", "+cmd", "-x", "@SUM(A1)", "plain", "-1e5", "\t=1"]

    def objective(index):
        return {"value": float("-inf") if index == 0 else -1.5, "text": texts[index], "=name": 1}

    space = [OptimizableValue("index", DiscreteInterval(0, len(texts)))]
    found = search(objective, space, 30, "value", folder=tmp_path)
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = ["'=1+2", "'+cmd", "'-x", "'@SUM(A1)", "plain", "-1e5", "'\t=1"]
    assert {row["text"] for row in rows} == {expected[record["values"]["index"]] for record in found.records}
    assert {row["value"] for row in rows} == {"-inf", "-1.5"} and "'=name" in rows[0]
    assert "Infinity" not in (tmp_path / "trials.jsonl").read_text()
    again = search(objective, space, 30, "value", folder=tmp_path)  # read from the disk, the numbers are numbers
    assert again.records == found.records and min(r["metrics"]["value"] for r in again.records) == -np.inf


def test_searches_name_their_data(tmp_path):
    space = [OptimizableValue("timesteps", DiscreteInterval(4, 9))]
    found = search(TINY, space, 1, "snn/eval/validation", validation=0.2, folder=tmp_path)
    kept = json.loads((tmp_path / "best.json").read_text())["data"]
    assert kept == json.loads((tmp_path / "signature.json").read_text())["data"] == found.data
    assert set(kept) == {"name", "fingerprint"}
    other = {**TINY, "dataset": (images(90, 7), images(30, 2))}
    with pytest.raises(ValueError, match="data was"):
        search(other, space, 1, "snn/eval/validation", validation=0.2, folder=tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# As the original's scripts have it, and the command line's truth


def test_repetition_takes_the_arguments_of_an_experiment(tmp_path, monkeypatch):
    from experiment import RepeatedExperiment as FromExperiment

    assert FromExperiment is RepeatedExperiment
    monkeypatch.chdir(tmp_path)
    repeated = RepeatedExperiment(
        name="both", encoding=["rate", "ttfs_exact"], timesteps=[4, 5], tensorboard_title="title", repetitions=2, **TINY
    )
    summary, curves = repeated.run_repeat(timestep_analysis=True)
    assert {(row["encoding"], row["timesteps"]) for row in summary} == {
        ("rate", 4), ("rate", 5), ("ttfs_exact", 4), ("ttfs_exact", 5)
    }
    assert {row["n"] for row in summary if row["metric"] == "snn/eval/test"} == {2}
    assert curves["encoding=rate, timesteps=5"].shape == (2, 5)
    last = repeated.values("snn/eval/test")["encoding=rate, timesteps=5"]
    assert curves["encoding=rate, timesteps=5"][:, -1] == pytest.approx(last)
    assert (tmp_path / "experiments" / "both" / "summary.csv").exists()
    assert len(list((tmp_path / "tblogs" / "title").glob("trial-*"))) == 8
    one = RepeatedExperiment(name="one", timesteps=4, **TINY).run_repeat()
    assert {row["timesteps"] for row in one} == {4}


def test_arguments_are_given_in_one_way(tmp_path):
    with pytest.raises(ValueError, match="by name, or as one dict.*epochs"):
        RepeatedExperiment(TINY, epochs=2, folder=tmp_path)
    with pytest.raises(ValueError, match="arguments of Experiment. Received: epoch"):
        RepeatedExperiment(epoch=2, folder=tmp_path)
    with pytest.raises(ValueError, match="give arguments by name"):
        RepeatedExperiment("name", folder=tmp_path)


@pytest.mark.parametrize(("ended", "told"), [(0, "No trial has ended"), (2, "2 trials have ended and stay")])
def test_ctrl_c_tells_what_is_there(tmp_path, capsys, monkeypatch, ended, told):
    def interrupted(arguments, space, metric, folder, **options):
        if ended:
            search(objective, SPACE, ended, "score", folder=folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(optimization, "search", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["--vary", "timesteps=4:6", "--folder", str(tmp_path / "s")])
    assert caught.value.code == 130
    assert told in capsys.readouterr().out


def test_without_validation_the_metric_is_that_of_the_test_images(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(optimization, "search", lambda *a, metric, **o: seen.append(metric) or search(
        objective, SPACE, 1, "score", folder=tmp_path))
    main(["--vary", "timesteps=4:6", "--validation", "0"])
    main(["--vary", "timesteps=4:6"])
    assert seen == ["snn/eval/test", "snn/eval/validation"]
