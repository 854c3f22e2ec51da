"""The worked examples of the documentation run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ann_training
import conversion
import experiment
import optimization
import plotting
import spiking

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def tables():
    """The tables the examples add to, as they were before."""
    before = [(table, dict(table)) for table in (spiking.ENCODINGS, conversion.CONVERTERS)]
    yield
    for table, content in before:
        table.clear()
        table.update(content)


def run_blocks(page, count):
    """Runs the Python blocks of a page, one after the other."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    assert len(blocks) == count
    namespace = {"__name__": "example"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {number + 1}", "exec"), namespace)


def test_extending(tables):
    run_blocks("EXTENDING.md", 5)
    assert "rate_refractory" in spiking.ENCODINGS


def test_from_the_original(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks("FROM_THE_ORIGINAL.md", 1)


# guides/search.md is left to examples/search_and_repetition.ipynb, which does the same.
@pytest.mark.parametrize("page, count", [("start.md", 5), ("guides/network.md", 2), ("guides/energy.md", 1),
                                         ("MEASURING.md", 1)])  # fmt: skip
def test_guides(page, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(page, count)


def test_export(tmp_path, monkeypatch):
    pytest.importorskip("nir", reason="the extra [nir] is not installed")
    monkeypatch.chdir(tmp_path)
    run_blocks("EXPORT.md", 2)
    assert {path.name for path in tmp_path.iterdir()} == {"network.nir", "network"}


def test_the_tests_that_a_page_names_exist():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (DOCS / "RIGHT_OR_REFUSED.md").read_text(encoding="utf-8"))
    assert len(named) > 60
    for file, test in named:
        assert f"def {test}(" in (DOCS.parent / "tests" / file).read_text(encoding="utf-8"), test


def test_the_site_is_built_without_a_warning(tmp_path):
    """Links, anchors, the navigation and every docstring of the reference."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "api" / "conversion" / "index.html").read_text(encoding="utf-8")
    assert "convert_ann_to_snn" in reference and "norm_percentile" in reference


def test_the_names_of_today_exist():
    """Every `name(` in the columns "today" of the pages' tables is one of the toolbox."""
    text = (DOCS / "FROM_THE_ORIGINAL.md").read_text(encoding="utf-8")
    cells = [row.rsplit("|", 2)[1] for row in text.splitlines() if row.startswith("| `")]
    called = {name for cell in cells for name in re.findall(r"`(?:\w+\.)?(\w+)\(", cell)}
    known = {name for module in (ann_training, conversion, experiment.Experiment, optimization, plotting)
             for name in dir(module)}  # fmt: skip
    assert len(called) > 10 and called <= known, called - known
