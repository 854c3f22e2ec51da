"""The thesis's comparison, reproduced: how close do time-to-first-spike codes come to LeNet-5 on MNIST?

    python examples/reproduce_thesis.py            # makes docs/THESIS.md
    python examples/reproduce_thesis.py --quick    # a minute on the sample of MNIST, to try it out; writes no page

For each code a random search varies time steps, threshold, percentile and scope of the normalisation and, where the
ANN is trained with the clamped ReLU, its threshold β. It looks at validation images alone, which were held out of the
training set, with the ANNs of three seeds. The best setting then meets the test set once, with the same ANNs. Stopped
at any time, the same command goes on.
"""

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the path comes first

from ann_training import load_dataset  # noqa: E402
from optimization import (  # noqa: E402
    DiscreteValues,
    OptimizableValue,
    RealInterval,
    RepeatedExperiment,
    search,
    statistics,
)

PAGE = ROOT / "docs" / "THESIS.md"
NETWORK = "lenet5_maxpool"
BEST_LOSS = 0.35  # points of accuracy; the thesis's best
SEEDS = [0, 1, 2]  # of the ANNs
FIRST_LOOK, HOPELESS = 500, 2.0  # images after which a trial is given up, if it loses more points than that

# T/θ: a neuron whose current is 1, full activity, fires after θ steps, so this is how many layers' time there is.
LAYERS_OF_TIME = OptimizableValue("layers_of_time", RealInterval("uniform", low=6.5, high=9))
SPACE = [
    LAYERS_OF_TIME,
    OptimizableValue("timesteps", DiscreteValues([240, 360])),
    OptimizableValue("norm_percentile", DiscreteValues([98.0, 99.0, 99.5, 99.9])),
    OptimizableValue("per_channel", DiscreteValues([False, True])),
]
CLAMP = OptimizableValue("beta", DiscreteValues([0.1, 0.25]))
SPACES = {"ttfs": SPACE, "ttfs_dyn_thresh": SPACE, "ttfs_clamped": [*SPACE, CLAMP]}
BESIDE = {"ttfs_exact": {"timesteps": 32}}  # not searched


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        folder: for records and trained ANNs.
        dataset: name of the data set.
        held_out: training images that are kept for validation.
        validation_images: how many of them a trial is judged by.
        epochs: of the ANNs' training.
        trials: per code.
        max_images: of the test set; `None` for all.
    """

    folder: Path
    dataset: str = "mnist"
    held_out: int = 5000
    validation_images: int = 5000
    epochs: int = 12
    trials: int = 14
    max_images: int | None = None


QUICK = {"dataset": "mnist_sample", "held_out": 600, "validation_images": 300, "epochs": 1, "trials": 2}
QUICK |= {"max_images": 200}


@functools.cache
def parts(plan: Plan) -> dict:
    """Images and labels for training, validation and test. The first two are the training set, shuffled and cut."""
    data = load_dataset(plan.dataset)
    order = np.random.default_rng(0).permutation(len(data.x_train))  # files are often sorted by class
    train, held_out = np.split(order, [len(order) - plan.held_out])
    chosen = {"train": train, "validation": held_out[: plan.validation_images]}
    found = {name: (data.x_train[part], data.y_train[part]) for name, part in chosen.items()}
    return found | {"test": (data.x_test[: plan.max_images], data.y_test[: plan.max_images])}


def compare(plan: Plan, part: str, encoding: str, timesteps: int, layers_of_time=None, seed=0, **others) -> dict:
    """Accuracies of an ANN and its SNN on a part of the data, in percent, and the loss in points."""
    from conversion import snn_accuracy
    from experiment import Experiment

    images, labels = parts(plan)[part]
    experiment = Experiment(
        encoding=encoding,
        timesteps=timesteps,
        threshold=layers_of_time and timesteps / layers_of_time,
        dataset=(parts(plan)["train"], (images, labels)),
        training_function=NETWORK,
        epochs=plan.epochs,
        seed=seed,
        disable_training_accuracy=True,
        results_dir=plan.folder / "runs",
        tblogs_dir=plan.folder / "tblogs",
        **others,
    )
    ann, snn = 100 * experiment.ann_accuracy()["ann/eval/test"], experiment.convert()
    first = slice(None, FIRST_LOOK)
    if part == "validation" and len(images) > FIRST_LOOK:
        accuracy = 100 * snn_accuracy(snn, images[first], labels[first])
        if ann - accuracy > HOPELESS:
            return {"loss": ann - accuracy, "ann": ann, "snn": accuracy, "threshold": snn.settings["threshold"]}
    accuracy = 100 * snn_accuracy(snn, images, labels)
    return {"loss": ann - accuracy, "ann": ann, "snn": accuracy, "threshold": snn.settings["threshold"]}


def validate(plan: Plan, encoding: str, **setting) -> dict:
    """The mean metrics of a setting on the validation images over the ANNs of all seeds, or of the hopeless first."""
    runs = []
    for seed in SEEDS:
        runs.append(compare(plan, "validation", encoding, seed=seed, **setting))
        if runs[0]["loss"] > HOPELESS:
            break
    return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}


def best_setting(plan: Plan, encoding: str) -> dict:
    """The record of the best trial on the validation images."""
    found = search(
        functools.partial(validate, plan, encoding), SPACES[encoding], plan.trials, "loss", "minimize",
        folder=plan.folder / encoding,
    )
    print(f"{encoding}\n{found.table(3)}\n", flush=True)
    return found.best[0]


def test(plan: Plan, encoding: str, name: str, setting: dict) -> list[dict]:
    """A setting on the test set: the metrics of the ANN of each seed."""
    objective = functools.partial(compare, plan, "test", encoding)
    repeated = RepeatedExperiment(
        lambda seed, ann_seed: objective(seed=ann_seed, **setting), grid={"ann_seed": SEEDS},
        folder=plan.folder / encoding / f"test-{name}",
    )
    repeated.run()
    return [record["metrics"] for record in repeated.records]


def spread(runs: list[dict], metric: str) -> str:
    """Mean and standard deviation over the seeds."""
    found = statistics(np.array([run[metric] for run in runs]))
    return f"{found['mean']:.2f} ± {found['sd']:.2f}"


def page(plan: Plan, rows: Sequence[str], settings: Sequence[str], best: float) -> str:
    """docs/THESIS.md."""
    def count(part):
        return len(parts(plan)[part][0])

    verdict = "reached" if best <= BEST_LOSS else "not reached"
    return "\n".join(
        [
            "# LeNet-5 on MNIST with time-to-first-spike codes",
            "",
            "Made by `python examples/reproduce_thesis.py`.",
            "",
            f"LeNet-5 with max pooling, {plan.epochs} epochs on {count('train')} training images; {plan.held_out} more "
            f"were held out. Per code a random search of {plan.trials} trials, judged by the loss on "
            f"{count('validation')} held-out images, the mean over the ANNs of the seeds {SEEDS}; a trial that loses "
            f"more than {HOPELESS:g} points on {FIRST_LOOK} images ends there. Then once all {count('test')} test "
            "images, with the same ANNs, calibrated on 1000 training images. Loss: points of accuracy below the ANN of "
            "the same code and seed; mean ± standard deviation over the seeds. The thesis's best loss is "
            f"{BEST_LOSS} points: {verdict} by a mean loss of {best:.2f} points.",
            "",
            "| code | ANN % | SNN % | loss, points | each seed | on validation | trials |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            "`ttfs_exact` runs with its defaults, 32 steps a window, and is not searched.",
            "",
            "## Settings the search chose",
            "",
            *settings,
            "",
        ]
    )


def result(plan: Plan, encoding: str) -> tuple[str, str, float]:
    """Searches and tests one code. Returns its row of the table, its setting in words, and its mean loss."""
    if encoding in SPACES:
        trial = best_setting(plan, encoding)
        name, setting, seen = trial["number"], trial["values"], f"{trial['metrics']['loss']:.2f} | {plan.trials}"
    else:
        name, setting, seen = "default", BESIDE[encoding], "– | –"
    runs = test(plan, encoding, name, setting)
    each = ", ".join(f"{run['loss']:.2f}" for run in runs)
    cells = encoding, spread(runs, "ann"), spread(runs, "snn"), spread(runs, "loss"), each, seen
    shown = {"threshold": round(runs[0]["threshold"], 2), **setting}
    words = f"- `{encoding}`: " + ", ".join(f"{key} {value}" for key, value in shown.items())
    return f"| {' | '.join(cells)} |", words, float(np.mean([run["loss"] for run in runs]))


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    codes = [*SPACES, *BESIDE]
    parser.add_argument("--quick", action="store_true", help="a minute, to try it out")
    parser.add_argument("--trials", type=int, default=Plan.trials, help=f"per code (default: {Plan.trials})")
    parser.add_argument("--folder", type=Path, help="for records and ANNs (default: experiments/thesis)")
    parser.add_argument("--codes", nargs="+", choices=codes, default=codes,
                        help="several processes may take some each; a run for all then writes the page")
    options = parser.parse_args(argv)
    folder = options.folder or ROOT / "experiments" / ("thesis-quick" if options.quick else "thesis")
    plan = Plan(folder.absolute(), **(QUICK if options.quick else {"trials": options.trials}))
    results = {encoding: result(plan, encoding) for encoding in options.codes}
    rows, settings, losses = zip(*results.values(), strict=True)
    if options.codes != codes:
        print("\n".join([*rows, *settings]))
        return
    best = min(loss for encoding, loss in zip(results, losses, strict=True) if encoding in SPACES)
    text = page(plan, rows, settings, best)
    print(text)
    if not options.quick:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
