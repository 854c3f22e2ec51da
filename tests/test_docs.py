"""The worked examples of the documentation run as they stand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import ann_training
import conversion
import experiment
import optimization
import plotting
import spiking
from benchmarks import support

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").glob("*.ipynb")]


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
@pytest.mark.parametrize("page, count", [("start.md", 5), ("guides/network.md", 3), ("guides/energy.md", 1),
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
    """Links, anchors, the navigation and every docstring of the reference. Under --quiet no warning would count."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
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


@pytest.mark.skipif(keras.version() < "3.15", reason="an older Keras knows fewer layers and activations")
def test_the_readme_has_the_table_of_what_converts():
    found = support.BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    remedy = "python benchmarks/support.py --write"
    assert found[0] == found[1] + support.table() + found[2], remedy


def test_names_that_differ_by_dimensions_are_one():
    assert support.short(["Conv1D", "Conv2D", "Conv1DTranspose", "Add"]) == "Conv1D to 2D, Conv1DTranspose, Add"


def text_of(page):
    """What people read of a page, without code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "code", text, flags=re.S)


def anchors(page):
    """What GitHub and the site call the headings of a page."""
    heads = re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8").replace("`", ""), re.M)
    return {re.sub(r"[ -]+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Files and anchors; links out of the project are not followed."""
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)) if "://" not in target]
    assert targets or page.name != "README.md"
    for target in targets:
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target
