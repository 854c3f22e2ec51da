"""How results look: in a line, as a table of text, as a table in notebooks, as a frame of pandas'.

A table is a list of rows of texts, the first of them the head.
"""

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Shown", "Table", "frame", "html_lines", "html_table", "or_dash", "plain_numbers", "text_table"]

Table = Sequence[Sequence[str]]

CELL = 'style="text-align: {}; padding: .2em .6em"'


class Shown:
    """A result that tells what it holds: `repr` in a line, `str` with a table, and the same in notebooks."""

    def heading(self) -> str:
        """What there is to say in a sentence."""
        raise NotImplementedError

    def table(self) -> Table:
        """What there is to say row by row; may be empty."""
        return []

    def closing(self) -> str:
        """What there is to say below the table; may be empty."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain numbers, strings, lists and dicts, for JSON; None in place of NaN, "inf" of infinity."""
        return plain_numbers(dataclasses.asdict(self))

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain values, a dict per row."""
        head, *body = self.table() or [()]
        return [dict(zip(head, row, strict=True)) for row in body]

    def to_frame(self):
        """The `rows` as a pandas DataFrame, where pandas is installed.

        Raises:
            ImportError: it is not.
        """
        return frame(self.rows())

    def __repr__(self):
        return f"<{type(self).__name__}: {' '.join(self.heading().split())}>"

    def __str__(self):
        table = self.table()
        return "\n".join(filter(None, [self.heading(), text_table(table) if table else "", self.closing()]))

    def _repr_html_(self) -> str:
        table, closing = self.table(), self.closing()
        parts = [html_lines(self.heading()), html_table(table) if table else "", html_lines(closing) if closing else ""]
        return "".join(parts)


def text_table(rows: Table) -> str:
    """A table as lines of text, all columns but the first to the right, a rule below the head."""
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def html_table(rows: Table) -> str:
    """A table for a notebook, all columns but the first to the right."""

    def row(cells, tag):
        looks = (CELL.format("right" if number else "left") for number in range(len(cells)))
        cells = (f"<{tag} {look}>{html.escape(cell)}</{tag}>" for look, cell in zip(looks, cells, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    head, *body = rows
    body = "".join(row(cells, "td") for cells in body)
    return f"<table><thead>{row(head, 'th')}</thead><tbody>{body}</tbody></table>"


def html_lines(text: str) -> str:
    """Lines of text for a notebook."""
    return f"<p>{'<br>'.join(html.escape(line) for line in text.splitlines())}</p>"


def or_dash(value: float, form: str) -> str:
    """A number as it is written, a dash for NaN."""
    return "–" if math.isnan(value) else format(value, form)


def plain_numbers(value):
    """A value in terms of JSON; None in place of NaN, "inf" of infinity."""
    if isinstance(value, dict):
        return {key: plain_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain_numbers(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def frame(rows: Sequence[Mapping[str, Any]]):
    """Rows as a pandas DataFrame.

    Raises:
        ImportError: pandas, on which the toolbox does not depend, is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "A frame is one of pandas', which is not installed. Received: to_frame(). pip install pandas, or take "
            "rows() or to_dict()."
        ) from error
    return pandas.DataFrame(list(rows))
