"""A run as one HTML page that needs nothing else: what was measured and pictures in, text out.

Everything that comes in is escaped. A table is a list of rows, the first of them the head.
"""

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np

from spiking.analysis.diagnosis import Diagnosis
from spiking.analysis.energy import assumptions
from spiking.analysis.statistics import Analysis
from spiking.analysis.verification import Verification
from spiking.network.model import SpikingModel
from spiking.runs import summaries
from spiking.runs.answers import Answers
from spiking.runs.files import plain
from spiking.shown import Table

__all__ = [
    "LARGEST_MATRIX", "SETTING", "SORT", "STYLE", "Section", "WIDE", "answer_parts", "confusion_table",
    "conversion_table", "encoding_section", "flattened", "is_written_number", "metric_table", "note", "page",
    "pictures", "render", "section", "setting_table", "sortable", "table", "written",
]  # fmt: skip

SETTING = "experiment/"
LARGEST_MATRIX = 20  # classes; a larger matrix is not readable

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 2em auto; max-width: 66em;
       padding: 0 1em; }
h1 { font-size: 1.7em; margin-bottom: 0; }
h2 { font-size: 1.3em; border-bottom: 2px solid #0072b2; margin-top: 2.2em; padding-bottom: .15em; }
h3 { font-size: 1.05em; margin: 1.6em 0 .4em; }
p, li { max-width: 48em; }
.note { color: #555; font-size: .9em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88em; font-variant-numeric: tabular-nums; }
th, td { padding: .22em .55em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #666; }
.right { text-align: right; white-space: nowrap; }
thead .right { white-space: normal; }
td:first-child { white-space: nowrap; }
tbody tr:nth-child(even) { background: #f6f6f6; }
figure { margin: 1em 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9em, 1fr)); gap: .8em; }
.card { margin: 0; padding: .5em; border: 1px solid #ddd; font-size: .85em; }
.card img { width: 5em; image-rendering: pixelated; display: block; }
.wrong { border: 2px solid #d55e00; }
img { max-width: 100%; height: auto; }
a { color: #0072b2; }
@media print {
  body { font-size: 10pt; margin: 0; max-width: none; padding: 0; }
  nav { display: none; }
  .wide { overflow: visible; }
  section.encoding { break-before: page; }
  h2, h3 { break-after: avoid; }
  tr, figure, .card { break-inside: avoid; }
  img { max-height: 22cm; }
}
"""


WIDE = """
body { max-width: none; }
.sortable thead th { white-space: normal; cursor: pointer; position: sticky; top: 0; background: #fff; }
"""
# Sorts a table by a column; a second click turns the order round.
SORT = """
document.querySelectorAll("table.sortable th").forEach(head => head.onclick = () => {
  const column = [...head.parentNode.children].indexOf(head), body = head.closest("table").tBodies[0];
  const falling = head.dataset.order !== "falling", sign = falling ? -1 : 1;
  for (const each of head.parentNode.children) { delete each.dataset.order; each.removeAttribute("aria-sort"); }
  head.dataset.order = falling ? "falling" : "rising";
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const text = row => row.children[column].textContent, number = row => parseFloat(text(row).replaceAll(",", ""));
  const empty = row => text(row) === "–";
  [...body.rows].sort((a, b) => empty(a) - empty(b) || (empty(a) ? 0 :
    sign * (isNaN(number(a)) || isNaN(number(b)) ? text(a).localeCompare(text(b)) : number(a) - number(b)))
  ).forEach(row => body.append(row));
});
"""


@dataclass(frozen=True)
class Section:
    """What the page tells of one encoding.

    Attributes:
        encoding: its name.
        metrics: tag -> number or word; those of all encodings go into one table.
        layers: table of the hidden layers.
        conversion: table of what became of the ANN's layers.
        remarks: sentences that come first.
        errors: table of each layer's error; None without a diagnosis.
        answers: of both networks on some images; None if nobody asked.
        findings: of the diagnosis, worst first; None without one.
        figures: caption -> PNG.
    """

    encoding: str
    metrics: Mapping[str, Any]
    layers: Table
    conversion: Table
    remarks: Sequence[str] = ()
    errors: Table | None = None
    findings: Sequence[str] | None = None
    figures: Mapping[str, bytes] = field(default_factory=dict)
    answers: Answers | None = None


def section(
    name: str,
    snn: SpikingModel,
    metrics: Mapping[str, Any],
    analysis: Analysis,
    diagnosis: Diagnosis | None,
    figures: Mapping[str, bytes],
    answers: Answers | None = None,
    verification: Verification | None = None,
) -> Section:
    """The section of one converted network.

    Args:
        name: of the section, usually the encoding.
        snn: the network, which knows its encoding and what became of the ANN's layers.
        metrics: tag -> number or word.
        analysis, diagnosis: of the network.
        figures: caption -> PNG.
        answers: of both networks on some images.
        verification: how the outputs differ, for networks that are not judged by classes alone.
    """
    summary = snn.encoding.summary
    became = [(row["layer"], row["type"], row["result"]) for row in snn.report]
    return Section(
        encoding=name,
        metrics=metrics,
        layers=analysis.table(),
        conversion=[("ANN layer", "type", "became"), *became],
        remarks=[
            summary[0].upper() + summary[1:] + ".",
            *summaries.agreement_remarks(verification),
            *summaries.accuracy_remarks(analysis, metrics),
            *summaries.spike_remarks(analysis),
            assumptions(analysis.hardware, analysis.updates_counted),
        ],
        errors=diagnosis.table() if diagnosis else None,
        findings=[str(finding) for finding in diagnosis.findings] if diagnosis else None,
        figures=figures,
        answers=answers,
    )


def render(
    name: str, sections: Sequence[Section], figures: Mapping[str, bytes], configuration: Mapping[str, Any]
) -> str:
    """The page.

    Args:
        name: of the run.
        sections: one per encoding.
        figures: caption -> PNG of what concerns all encodings.
        configuration: of the run; may be nested.
    """
    shared = {name: value for name, value in configuration.items() if name != "hyperparameters"}  # a table of its own
    metrics = {each.encoding: each.metrics for each in sections}
    anchors = [(f"encoding-{number}", each) for number, each in enumerate(sections, 1)]
    links = [f'<a href="#{anchor}">{html.escape(each.encoding)}</a>' for anchor, each in anchors]
    links += ['<a href="#metrics">all metrics</a>', '<a href="#configuration">configuration</a>']
    parts = [
        f"<h1>{html.escape(str(name))}</h1>",
        f"<nav><p>{' · '.join(links)}</p></nav>",
        "<section><h2>Encodings compared</h2>",
        table(summaries.comparison(metrics)),
        note(summaries.comparison_note(metrics)),
        pictures(figures),
        "<h3>Settings</h3>",
        table(setting_table(sections)),
        "<h3>Conversion</h3>",
        table(conversion_table(sections), right=False),
        "</section>",
        *(encoding_section(each, anchor) for anchor, each in anchors),
        '<section id="metrics"><h2>All metrics</h2>',
        table(metric_table(sections)),
        note("Accuracies are shares in [0, 1], energies in joule per image, operations per image."),
        '</section><section id="configuration"><h2>Configuration</h2>',
        table([("setting", "value"), *flattened(plain(shared))], right=False),
        "</section>",
    ]
    return page(str(name), parts)


def page(title: str, parts: Sequence[str], wide: bool = False) -> str:
    """A whole page out of parts in HTML; `wide` leaves no margins."""
    style = STYLE + WIDE * wide
    head = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{style}</style></head><body>",
    ]
    return "\n".join([*head, *parts, "</body></html>"]) + "\n"


def sortable(rows: Table, links: Sequence[str]) -> str:
    """A table that a click on a head sorts, numbers as numbers; dashes come last.

    Args:
        links: for the first cell of each row behind the head, a file; "" for none.
    """
    head, *body = rows
    body = [[_link(row[0], link), *map(html.escape, row[1:])] for row, link in zip(body, links, strict=True)]
    right = [all(is_written_number(row[n]) for row in rows[1:]) for n in range(len(head))]
    looks = [' class="right"' if each else "" for each in right]
    heads = "".join(f'<th{look} scope="col">{html.escape(name)}</th>' for look, name in zip(looks, head, strict=True))
    lines = ["".join(f"<td{look}>{cell}</td>" for look, cell in zip(looks, row, strict=True)) for row in body]
    lines = "\n".join(f"<tr>{line}</tr>" for line in lines)
    table = f'<div class="wide"><table class="sortable"><thead><tr>{heads}</tr></thead><tbody>\n{lines}\n</tbody>'
    return f"{table}</table></div><script>{SORT}</script>"


def _link(text: str, target: str) -> str:
    return f'<a href="{html.escape(quote(target))}">{html.escape(text)}</a>' if target else html.escape(text)


def is_written_number(text: str) -> bool:
    """Whether a cell holds a number, or the dash for none."""
    return text == "–" or bool(re.fullmatch(r"[+-]?[\d,]*\.?\d+(e[+-]?\d+)?|inf", text))


def encoding_section(section: Section, anchor: str) -> str:
    """The section of one encoding."""
    parts = [
        f'<section class="encoding" id="{html.escape(anchor)}"><h2>{html.escape(section.encoding)}</h2>',
        *(f"<p>{html.escape(remark)}</p>" for remark in section.remarks),
        "<h3>Layers</h3>",
        table(section.layers),
        note(
            "Spikes per neuron and image; first spike in time steps, over the neurons that spike; operations per image "
            "behind the layer. Saturated: as active as the code can tell."
        ),
        "<h3>Diagnosis</h3>",
    ]
    if section.findings is None:
        parts.append("<p>Not made.</p>")
    else:
        findings = "".join(f"<li>{html.escape(finding)}</li>" for finding in section.findings)
        parts.append(f"<ol>{findings}</ol>" if findings else "<p>Findings: none.</p>")
    if section.errors is not None:
        parts.append(table(section.errors))
        legend = "Root mean square relative to the ANN's activation, split by cause. Lost: by silent neurons."
        parts.append(note(legend))
    if section.answers is not None:
        parts += answer_parts(section.answers)
    parts += ["<h3>Figures</h3>" if section.figures else "", pictures(section.figures), "</section>"]
    return "\n".join(parts)


def table(rows: Table, right: bool = True) -> str:
    """A table; with `right` all columns but the first to the right, as numbers should stand."""

    def row(cells, tag):
        looks = [' class="right"' if right and number else "" for number in range(len(cells))]
        cells = [f"<{tag}{look}>{html.escape(str(cell))}</{tag}>" for cell, look in zip(cells, looks, strict=True)]
        return f"<tr>{''.join(cells)}</tr>"

    head, *body = rows
    lines = [row(head, "th"), "</thead><tbody>", *(row(cells, "td") for cells in body)]
    return "\n".join(['<div class="wide"><table><thead>', *lines, "</tbody></table></div>"])


def note(text: str) -> str:
    """Small print."""
    return f'<p class="note">{html.escape(text)}</p>'


def pictures(figures: Mapping[str, bytes]) -> str:
    """The figures, part of the page itself."""
    return "\n".join(
        f'<figure><img alt="{html.escape(caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}"></figure>'
        for caption, png in figures.items()
    )


def metric_table(sections: Sequence[Section]) -> Table:
    """A row per measured metric, a column per encoding; a dash where an encoding has none."""
    tags = dict.fromkeys(tag for section in sections for tag in section.metrics if not tag.startswith(SETTING))
    rows = [(tag, *(written(section.metrics.get(tag)) for section in sections)) for tag in sorted(tags)]
    return [("metric", *(section.encoding for section in sections)), *rows]


def setting_table(sections: Sequence[Section]) -> Table:
    """A row per setting, a column per encoding; those that differ come first."""
    tags = dict.fromkeys(tag for section in sections for tag in section.metrics if tag.startswith(SETTING))
    tags.pop(SETTING + "encoding", None)
    rows = [(tag.removeprefix(SETTING), *(written(section.metrics.get(tag)) for section in sections)) for tag in tags]
    rows.sort(key=lambda row: (len(set(row[1:])) == 1, row[0]))
    return [("setting", *(section.encoding for section in sections)), *rows]


def conversion_table(sections: Sequence[Section]) -> Table:
    """What became of the ANN's layers: a column for all encodings under which that is the same."""
    cells: dict[tuple, dict[str, str]] = {}
    for section in sections:
        for *layer, became in section.conversion[1:]:
            cells.setdefault(tuple(layer), {})[section.encoding] = became
    columns: dict[tuple, list[str]] = {}
    for name in (section.encoding for section in sections):
        columns.setdefault(tuple(each.get(name, "–") for each in cells.values()), []).append(name)
    heads = ["became" if len(columns) == 1 else f"became under {', '.join(names)}" for names in columns.values()]
    rows = [(*layer, *became) for layer, became in zip(cells, zip(*columns, strict=True), strict=True)] if cells else []
    return [("ANN layer", "type", *heads), *rows]


def answer_parts(found: Answers) -> list[str]:
    """Images with the answers of both networks, and the matrix of the classes."""
    cards = []
    for number, picture in enumerate(found.pictures):
        label, ann, snn = (int(each[number]) for each in (found.labels, found.ann, found.snn))
        look = "card" if snn == label else "card wrong"
        spikes, step = found.spikes[number], found.decided[number]
        words = f"class {label}: ANN {ann}, SNN {snn}, {spikes:,.0f} spikes, from step {step}"
        source = base64.b64encode(picture).decode("ascii")
        cards.append(f'<figure class="{look}"><img alt="class {label}" src="data:image/png;base64,{source}">'
                     f"<figcaption>{html.escape(words)}</figcaption></figure>")  # fmt: skip
    parts = ["<h3>Answers</h3>", f'<div class="cards">{"".join(cards)}</div>']
    parts.append(note("The first test images. Spikes of all neurons; the step from which on the answer stays the same. "
                      "Framed where the SNN is wrong."))  # fmt: skip
    counts = found.confusion()
    if len(counts) <= LARGEST_MATRIX:
        parts += ["<h3>Classes confused</h3>", confusion_table(counts)]
        legend = "Row: the class; column: what the SNN says."
        parts.append(note(f"Number of images, of the first {len(found.labels)} test images. {legend}"))
    return parts


def confusion_table(counts: np.ndarray) -> str:
    """The matrix of the classes, the darker the more; what is right is blue, what is wrong is red."""
    most = max(1, int(counts.max()))
    head = "".join(f'<th class="right">{number}</th>' for number in range(len(counts)))
    rows = []
    for number, row in enumerate(counts):
        cells = []
        for column, count in enumerate(row):
            colour = "0, 114, 178" if column == number else "213, 94, 0"
            look = f' style="background: rgba({colour}, {0.15 + 0.45 * count / most:.2f})"' if count else ""
            cells.append(f'<td class="right"{look}>{int(count) or ""}</td>')
        rows.append(f"<tr><th>{number}</th>{''.join(cells)}</tr>")
    return (f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
            "</div>")  # fmt: skip


def flattened(settings: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows, with the names on the way to each."""
    rows = []
    for name, value in settings.items():
        name = f"{path} / {name}" if path else str(name)
        if isinstance(value, Mapping) and value:
            rows += flattened(value, name)
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(map(written, value)) or "none"))
        else:
            rows.append((name, written(value)))
    return rows


def written(value) -> str:
    """A number with at most six digits that matter, whole ones in full; anything else as it is."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    whole = math.isfinite(value) and value == int(value) and abs(value) < 1e15
    return f"{int(value)}" if whole else f"{value:.6g}"
