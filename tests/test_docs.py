"""The worked examples of the documentation run as they stand."""

import re
from pathlib import Path

import pytest

import conversion
import spiking

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def tables(monkeypatch):
    """The tables the examples add to, as they were before."""
    monkeypatch.setattr(spiking, "ENCODINGS", dict(spiking.ENCODINGS))
    before = dict(conversion.CONVERTERS)
    yield
    conversion.CONVERTERS.clear()
    conversion.CONVERTERS.update(before)


def test_extending(tables):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "EXTENDING.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 4
    namespace = {"__name__": "example"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"EXTENDING.md, block {number + 1}", "exec"), namespace)
    assert "rate_refractory" in spiking.ENCODINGS
