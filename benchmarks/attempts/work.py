"""Data, runs and searches."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from attempts import attempt, chain, convert, dense, layers, pictures

DATA = "Data"


def load(labels, number=20):
    import numpy as np

    from ann_training import load_dataset

    x = pictures(4, 4, number=number)
    data = load_dataset(((x, np.asarray(labels)), (x, np.asarray(labels))))
    return f"taken, labels from {data.y_train.min()} to {data.y_train.max()}"


@attempt(DATA, "A label of 2³² + 1: refused", "test_bad_data_is_refused")
def wrapped_label():
    return load([0, 1, 2**32 + 1, 3] * 5)


@attempt(DATA, "Labels that are strings: refused clearly", "test_bad_data_is_refused")
def string_labels():
    return load(["cat", "dog"] * 10)


@attempt(DATA, "One byte of an `.npz` wrong, at many places: ValueError with one sentence", "test_npz_that_is_damaged")
def damaged_npz():
    import numpy as np

    from ann_training import load_dataset

    x, y = pictures(9, 9, number=20), np.arange(20) % 3
    np.savez_compressed("a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    content, found = Path("a.npz").read_bytes(), {}
    for place in range(0, len(content), 50):
        Path("a.npz").write_bytes(content[:place] + bytes([255 - content[place]]) + content[place + 1 :])
        try:
            load_dataset("a.npz")
        except Exception as error:
            found[type(error).__name__] = 1 + found.get(type(error).__name__, 0)
    return found


@attempt(DATA, "A `data_dir` without the file: refused", "test_a_data_dir_without_the_file_takes_no_other_copy")
def mistyped_folder():
    import numpy as np

    from ann_training import load_dataset

    x, y = pictures(28, 28, number=20), np.arange(20) % 10
    Path("right").mkdir()
    np.savez("right/mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    os.environ["SPIKING_DATA_DIR"] = "right"
    try:
        return f"takes another copy, {len(load_dataset('mnist', data_dir='rihgt').x_train)} images"
    finally:
        del os.environ["SPIKING_DATA_DIR"]


@attempt(DATA, "`batch_size=-1`: refused", "test_batch_size_refused")
def negative_batch():
    import numpy as np

    from conversion import snn_accuracy

    ann, x = chain((4,), dense(), layers().Dense(3)), pictures(4)
    return f"accuracy {snn_accuracy(convert(ann, x), x, np.zeros(len(x), int), batch_size=-1):.0%}"


RUNS = "Runs and searches"
SMALL = {"name": "a", "encoding": "rate", "timesteps": 4, "dataset": "mnist_sample", "training_function": "denseonly1",
         "epochs": 1, "max_images": 40}  # fmt: skip


@attempt(
    RUNS,
    "A results folder behind a link that leads nowhere: refused in time",
    "test_a_link_that_leads_nowhere_is_refused_in_time",
)
def dangling_link():
    from experiment import Experiment

    Path("runs").symlink_to("gone")
    Experiment(**SMALL, results_dir="runs").run()
    return "runs"


@attempt(
    RUNS,
    "A name of 200 Chinese characters, 600 bytes: refused before any work",
    "test_names_that_no_folder_can_have_are_refused",
)
def long_name():
    from experiment import Experiment

    Experiment(name="運" * 200, dataset="mnist_sample", encoding="rate", timesteps=4)
    return "taken"


def searched(objective, trials=3):
    from optimization import DiscreteInterval, OptimizableValue, search

    return search(objective, [OptimizableValue("x", DiscreteInterval(0, 9))], trials, "value", folder="s")


@attempt(
    RUNS,
    "A trial that a full disk ended is done again on resuming",
    "test_what_failed_for_a_passing_reason_is_tried_again",
)
def passing_failure():
    calls = []

    def objective(x):
        calls.append(x)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return {"value": 1.0}

    searched(objective)
    searched(objective)
    return f"{len(calls)} runs for 3 trials of which one failed"


@attempt(RUNS, "Cells of tables that begin with =", "test_cells_that_spreadsheets_would_run_are_made_harmless")
def formula():
    searched(lambda x: {"value": 1.0, "text": "=1+2"})
    cells = Path("s/trials.csv").read_text().replace("\n", ",").split(",")
    return "in the table: " + next(cell for cell in cells if "1+2" in cell)


@attempt(RUNS, "An axis called `n` keeps its values 5 and 6", "test_an_axis_keeps_its_values_whatever_its_name")
def axis_n():
    from optimization import RepeatedExperiment

    rows = RepeatedExperiment(lambda seed, n: {"value": 10.0 * n}, 2, grid={"n": [5, 6]}, folder="r").run()
    return "axis in the summary: " + ", ".join(sorted({str(row.get("argument/n", row["n"])) for row in rows}))


@attempt(RUNS, "`tau=5.0` for a code that has no leak: refused", "test_a_leak_that_no_code_knows_is_refused")
def unknown_setting():
    from experiment import Experiment

    Experiment(dataset="mnist_sample", encoding="ttfs_exact", timesteps=4, tau=5.0)
    return "taken"


@attempt(RUNS, "`--help` tells the defaults that are so", "test_help_says_what_is_so")
def help_text():
    from experiment import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(["--help"])
    text = " ".join(out.getvalue().split())
    return text[text.index("--training-accuracy evaluate") :].split("--")[1]


@attempt(RUNS, "`--max-rate` and codes' options on the command line", "test_main_hands_options_on_in_their_types")
def options_on_the_command_line():
    from experiment import argument_parser

    with contextlib.redirect_stderr(io.StringIO()):
        argument_parser().parse_args("--max-rate 0.5 --option tau=9".split())
    return "taken"


@attempt(
    RUNS,
    "`plotting.py` of the user's beside the script: figures by the toolbox's own",
    "test_figures_are_drawn_beside_a_file_called_plotting",
    "test_the_metrics_are_there_before_anything_that_may_fail",
    "test_what_cannot_be_written_loses_nothing_else",
)
def sibling():
    checkout = sys.path[0]
    Path("plotting.py").write_text("colours = 3\n")
    code = f"import sys; sys.path.append({checkout!r}); from experiment import Experiment; Experiment(**{SMALL}).run()"
    Path("script.py").write_text(code)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else f"{len(list(Path().rglob('*.png')))} figures"


@attempt(
    RUNS,
    "The main job warns of nothing",
    "test_the_main_job_names_its_phases_and_warns_of_nothing",
    "test_the_ann_is_read_once_and_the_test_images_are_simulated_once",
)
def main_job():
    command = [
        sys.executable,
        str(Path(sys.path[0]) / "experiment.py"),
        "--network",
        "denseonly1",
        "--epochs",
        "1",
        "--max-images",
        "30",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "warn" in line.lower() or "retracing" in line]
    return f"{len(lines)} lines of warnings"


@attempt(RUNS, "The original's values: `image_size_rescale=[28, 28]`, `tau=999999.0`, `max_rate=2`", "test_base")
def original():
    from experiment import Experiment

    given = {
        "threshold": 10,
        "tau": 999999.0,
        "max_rate": 2,
        "image_size_rescale": [28, 28],
        "image_depth_increase": False,
    }
    Experiment(**{**SMALL, "encoding": "ttfs"}, **given, tensorboard_title="")
    return "taken"


@attempt(
    RUNS,
    "Deterministic operations give other weights, so another key of the cache",
    "test_deterministic_operations_give_other_weights_and_another_key",
)
def cache_key():
    import tensorflow as tf

    from ann_training import Training, load_dataset, train_network_denseonly1

    data = load_dataset("mnist_sample", max_images=60)
    for deterministic in (False, True):
        if deterministic:
            tf.config.experimental.enable_op_determinism()
        train_network_denseonly1(Training(epochs=1, ann_cache_dir=Path("anns")), data.train, data.test)
    return f"{len(list(Path('anns').glob('*.keras')))} networks kept"
