"""What is installed and what a source distribution holds: read out of pyproject.toml, and built where it can be."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest

import spiking

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).parents[1]
PARTS = (".ci", "benchmarks", "docs", "examples", "spiking", "tests")  # of the project, beside the files at its top
WITHOUT = {"__pycache__", ".venvs", ".pytest_cache", ".ruff_cache"}
BUILDER = "77.0.3"  # the first setuptools that takes a licence as SPDX expression


def configuration():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def least(requirement):
    """Name and least version of a requirement."""
    return re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement).groups()


def test_least_versions_are_those_of_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    required = dict(map(least, configuration()["project"]["dependencies"]))
    assert {"tensorflow", "keras", "numpy", "matplotlib", "tensorboard"} == set(required)
    named = {"tensorflow": "TensorFlow", "keras": "Keras", "numpy": "NumPy", "matplotlib": "matplotlib"}
    for package, name in named.items():
        assert re.search(rf"{name} {re.escape(required[package])} to \d", text), f"{name} {required[package]} to …"
    lowest, highest = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", configuration()["project"]["requires-python"]).groups()
    assert f"Python 3.{lowest} to 3.{int(highest) - 1}" in text
    supported = {f"Programming Language :: Python :: 3.{minor}" for minor in range(int(lowest), int(highest))}
    assert supported <= set(configuration()["project"]["classifiers"])


def test_keras_and_matplotlib_that_failed_are_not_taken():
    required = dict(map(least, configuration()["project"]["dependencies"]))
    numbers = {name: tuple(map(int, least.split("."))) for name, least in required.items()}
    assert numbers["keras"] > (3, 0, 5) and numbers["matplotlib"] > (3, 6)


def test_licence_is_an_spdx_expression():
    project = configuration()["project"]
    assert project["license"] == "MIT" and project["license-files"] == ["LICENSE"]
    assert not any(each.startswith("License ::") for each in project["classifiers"])  # either, not both
    assert least(configuration()["build-system"]["requires"][0]) == ("setuptools", BUILDER)


def test_version_is_that_of_the_changelog():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M).group(1)
    assert spiking.__version__.startswith(newest)
    assert configuration()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "spiking.__version__"}


def test_every_folder_of_code_is_a_package():
    folders = {path.parent for path in (ROOT / "spiking").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert (ROOT / "spiking" / "py.typed").is_file()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Paths of a source distribution and of a wheel made of this folder."""
    pytest.importorskip("setuptools")
    if tuple(map(int, version("setuptools").split(".")[:2])) < (77, 0):
        pytest.skip(f"building needs setuptools {BUILDER}")
    copy = tmp_path_factory.mktemp("copy") / "project"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns(*WITHOUT))
    build = "from setuptools import build_meta as b; print(b.build_sdist('out')); print(b.build_wheel('out'))"
    run = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "would be ignored" not in run.stderr and "Deprecat" not in run.stderr
    (sdist,), (wheel,) = ((copy / "out").glob(pattern) for pattern in ("*.tar.gz", "*.whl"))
    return sdist, wheel


def files_of(*parts):
    paths = [path for part in parts for path in (ROOT / part).rglob("*")]
    kept = [path.relative_to(ROOT) for path in paths if path.is_file() and path.suffix not in (".pyc", ".pyo")]
    return {path.as_posix() for path in kept if not WITHOUT & set(path.parts)}


def test_source_distribution_is_the_whole_project(built):
    with tarfile.open(built[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    top = {"README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "pyproject.toml"}
    top |= {"experiment.py", "plotting.py"}
    assert files_of(*PARTS) | top <= held
    assert not [name for name in held if "__pycache__" in name]


def test_the_version_to_cite_is_that_of_the_package():
    (version,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert version == spiking.__version__


def test_wheel_holds_every_module_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    modules = {f"{name}.py" for name in configuration()["tool"]["setuptools"]["py-modules"]}
    assert held == files_of("spiking") | modules
    assert modules == {path.name for path in ROOT.glob("*.py")}
    header = Parser().parsestr(metadata)
    assert header["License-Expression"] == "MIT" and header["Version"] == spiking.__version__
