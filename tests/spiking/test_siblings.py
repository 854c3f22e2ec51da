"""The toolbox's modules beside `spiking`, where files of a user's folder have the same names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spiking.runs import siblings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder, first on the path, with files that have the toolbox's names; nothing of these is loaded yet."""
    for name in ("conversion", "plotting"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the user\\'s own')\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_toolbox_s_own_modules_pass():
    siblings.require_own("ann_training", "conversion", "experiment", "optimization", "plotting")


def test_another_module_of_that_name_is_refused_unrun(folder):
    with pytest.raises(ImportError, match="own module 'conversion'.*Received: .*Rename that file") as caught:
        siblings.require_own("ann_training", "conversion")
    assert caught.value.path == str((folder / "conversion.py").resolve())


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(ImportError, match="'no_such_module'.*Received: 'None'"):
        siblings.require_own("no_such_module")


def test_a_module_loaded_before_is_refused(monkeypatch, tmp_path):
    other = type(sys)("conversion")
    other.__file__ = str(tmp_path / "conversion.py")
    monkeypatch.setitem(sys.modules, "conversion", other)
    with pytest.raises(ImportError, match="own module 'conversion'"):
        siblings.require_own("conversion")


def test_plotting_is_the_toolbox_s_own_whatever_lies_in_the_folder(folder):
    found = siblings.own("plotting")
    assert Path(found.__file__).resolve() == ROOT / "plotting.py" and siblings.own("plotting") is found
    assert "plotting" not in sys.modules  # so that the user's own can still be imported


def test_without_another_it_is_the_one_that_users_import():
    import plotting

    assert siblings.own("plotting") is plotting


def run(folder, script):
    """Runs a script that lies in the folder, as one does whose toolbox is installed."""
    (folder / "job.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run([sys.executable, "job.py"], capture_output=True, text=True, env=environment, cwd=folder)


def test_a_search_beside_a_file_called_experiment_says_so_at_once(tmp_path):
    (tmp_path / "experiment.py").write_text("print('the wrong one is run')\n")
    done = run(tmp_path, "import optimization\n")
    assert done.returncode == 1 and "The toolbox needs its own module 'experiment'" in done.stderr
    assert "the wrong one" not in done.stdout


def test_figures_are_drawn_beside_a_file_called_plotting(tmp_path):
    (tmp_path / "plotting.py").write_text("mine = 1\n")
    script = (
        "import plotting, numpy as np\n"
        "from experiment import Experiment\n"
        "data = (np.random.default_rng(0).random((40, 8, 8, 1), np.float32), np.arange(40) % 2)\n"
        "Experiment(training_function='base', dataset=(data, data), epochs=1, encoding='ttfs', timesteps=4).run()\n"
        "print(plotting.mine)\n"
    )
    done = run(tmp_path, script)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = {path.name for path in (tmp_path / "experiments").rglob("*.png")}
    assert any(name.startswith("raster") for name in figures) and len(figures) == 3
    assert done.stdout.splitlines()[-1] == "1"
