"""What version 0.1 got wrong without a word, or refused though right: makes docs/RIGHT_OR_REFUSED.md.

    git worktree add ../v0.1 294fd50
    python benchmarks/right_or_refused.py             # what is missing in docs/right_or_refused.json, then the page
    python benchmarks/right_or_refused.py --again     # everything anew, some minutes
    python benchmarks/right_or_refused.py endless     # this attempt on today's code, to the screen

An attempt uses what both versions have in common and tells what came out: values, or the error. Each version runs in a
process of its own; an attempt that hangs is ended after some minutes.
"""

import argparse
import importlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from attempts import ATTEMPTS  # noqa: E402  its folder comes first

for module in ("wrong", "forms", "work", "measured"):  # in the page's order
    importlib.import_module(f"attempts.{module}")

TESTS, RESULTS, PAGE = ROOT / "tests", ROOT / "docs" / "right_or_refused.json", ROOT / "docs" / "RIGHT_OR_REFUSED.md"
SECONDS = 240
VERSIONS = ("0.1", "today")


def run_all(checkout: str, names) -> dict[str, str]:
    """Attempts on the code of a folder, which comes first on the path."""
    sys.path.insert(0, checkout)
    from spiking import __file__ as found

    if not Path(found).resolve().is_relative_to(Path(checkout).resolve()):
        raise RuntimeError(f"{found} is not of {checkout}.")
    return {name: outcome(ATTEMPTS[name][-1]) for name in names}


def outcome(function) -> str:
    """What an attempt tells: values, the error, the warnings."""

    def too_long(*args):
        raise TimeoutError(f"still running after {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setLevel(logging.WARNING)
    logger = logging.getLogger()
    logger.addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            told = str(function())
    except Exception as error:  # whatever it is, it is what came out
        told = f"{type(error).__name__}: {error}"
    except SystemExit as error:
        told = f"ends with {error.code}"
    finally:
        signal.alarm(0)
        os.chdir(ROOT)
        logger.removeHandler(handler)
    warned = log.getvalue().split("\n")[0]
    for place in (sys.path[0], folder):
        told = told.replace(f"{place}/", "")
    return short(told + (f". Warning: {warned}" if warned and "retracing" not in warned else ""))


def short(text: str, most: int = 160) -> str:
    """One line of a table."""
    text = " ".join(text.split()).replace("|", "¦")
    return text if len(text) <= most else text[: most - 2] + " …"


# ---------------------------------------------------------------------------------------------------------------------
# The page

HEAD = """What version 0.1 (commit 294fd50) got wrong without a word, or refused though right, beside what happens now,
and the tests that hold it. Made by `python benchmarks/right_or_refused.py`; long messages are cut. Off by: the SNN's
largest difference from the ANN, relative to the largest score, at 64 or 256 levels, so that rounding is up to a
percent."""

ELSEWHERE = """## Shown elsewhere

- Every advice of the diagnosis followed and measured: docs/DIAGNOSIS.md.
- Memory of a conversion (`Dense(16384)`, 224², VGG-16), before and after, and the main job: docs/PERFORMANCE.md;
  `test_memory_follows_the_bins_that_occur`,
  `test_a_kernel_is_rescaled_without_further_copies`.
- How defaults were chosen: docs/DEFAULTS.md. Wheel and source distribution: `tests/test_packaging.py`.
- Racing probes of folders, power cuts, damaged caches: `tests/spiking/test_runs.py`,
  `tests/test_ann_training.py`. Ctrl-C: `test_ctrl_c_tells_what_is_there`.
"""


def places(test: str) -> list[str]:
    """A test with its file below tests/, or several of that name."""
    files = [path for path in TESTS.rglob("test_*.py") if f"def {test}(" in path.read_text(encoding="utf-8")]
    if not files:
        raise ValueError(f"There is no test {test}.")
    return sorted(f"{path.relative_to(TESTS).as_posix()}::{test}" for path in files)


def page(results: dict) -> str:
    """docs/RIGHT_OR_REFUSED.md."""
    lines = ["# Right or refused", "", HEAD, ""]
    for kind in dict.fromkeys(kind for kind, *_ in ATTEMPTS.values()):
        lines += [f"## {kind}", "", "| tried, and what is right | 0.1 | today | test |", "| --- | --- | --- | --- |"]
        for name, (own, what, tests, _) in ATTEMPTS.items():
            if own == kind:
                before, now = (results[version][name].replace("<", "&lt;") for version in VERSIONS)
                held = "<br>".join(f"`{place}`" for test in dict.fromkeys(tests) for place in places(test))
                lines.append(f"| {what} | {before} | {now} | {held} |")
        lines.append("")
    return "\n".join(lines) + "\n" + ELSEWHERE


def in_a_process(checkout: Path, names) -> dict[str, str]:
    """`run_all` in a process of its own."""
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run([sys.executable, __file__, "--run", str(checkout), "--into", file.name, *names], check=True)
        return json.loads(Path(file.name).read_text(encoding="utf-8"))


def main(arguments=None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="attempts to make on today's code, to the screen")
    parser.add_argument("--again", action="store_true", help="try everything anew")
    parser.add_argument("--before", type=Path, default=ROOT.parent / "v0.1", help="where version 0.1 is checked out")
    parser.add_argument("--run", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.names:
        found = run_all(str(chosen.run), chosen.names)
        if chosen.into:
            chosen.into.write_text(json.dumps(found), encoding="utf-8")
        else:
            print("\n".join(f"{name}: {told}" for name, told in found.items()))
        return
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for version, checkout in zip(VERSIONS, (chosen.before, ROOT), strict=True):
        known = {} if chosen.again else results.get(version, {})
        missing = [name for name in ATTEMPTS if name not in known]
        found = known | (in_a_process(checkout, missing) if missing else {})
        results[version] = {name: found[name] for name in ATTEMPTS}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
