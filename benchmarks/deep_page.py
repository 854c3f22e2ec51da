"""docs/DEEP.md and its plots, from the lines of benchmarks/deep.py, signed.py and real_cifar10.py."""

import json
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import deep_text
from matplotlib.figure import Figure

from spiking.analysis.energy import HARDWARE

ROOT = Path(__file__).resolve().parents[1]
RESULTS, COST = ROOT / "docs" / "deep.jsonl", ROOT / "docs" / "deep_cost.json"
PAGE, PICTURES = ROOT / "docs" / "DEEP.md", ROOT / "docs" / "pictures"
CIFAR10, SIGNED = ROOT / "docs" / "real_cifar10.jsonl", ROOT / "docs" / "signed.jsonl"
WINDOWED = ("ttfs_exact", "radix")
FEW_LEVELS = 8  # what is corrected by default; the lines of real_cifar10.py are not
MODELS = ROOT / "docs" / "real_models.jsonl"
SPEEDS, SIGNED_COST = ROOT / "docs" / "performance.json", ROOT / "docs" / "signed_cost.json"
POOLING = ROOT / "docs" / "pooling.jsonl"
SIGNED_CHUNK = 250  # images of a line of benchmarks/signed.py
TITLES = deep_text.TITLES
BEST_RATE = "low latency, mse"

# What the first table shows of each network, in this order: (code, recipe, steps).
SHOWN = [
    *(("ttfs_exact", "default", steps) for steps in (7, 15, 63, 64)),
    *(("ttfs_exact", "output, 10000 images", steps) for steps in (8, 16)),
    ("ttfs_exact", "output", 15),
    ("ttfs_exact", "default", 16),
    *(("radix", "default", digits) for digits in (2, 3, 4, 6, 8)),
    ("radix", "default, 10000 images", 6),
    *(("rate", BEST_RATE, steps) for steps in (16, 32)),
    *(("rate", "low latency", steps) for steps in (32, 64, 128)),
    *(("rate", "default", steps) for steps in (32, 64, 128)),
    *(("rate", "signed", steps) for steps in (8, 16)),
    *(("rate", recipe, 4) for recipe in ("4 a step", "8 a step", "signed, 8 a step")),
]
# (code, recipe): its line in the plots.
DRAWN = {
    ("ttfs_exact", "default"): ("C2*-", "ttfs_exact"),
    ("ttfs_exact", "output, 10000 images"): ("C2+--", "ttfs_exact, corrected on 10000 images"),
    ("ttfs_exact", "uncorrected"): ("C7x:", "ttfs_exact, uncorrected"),
    ("ttfs_exact", "uncorrected, 10000 images"): ("C7x:", "ttfs_exact, uncorrected"),
    ("radix", "default"): ("C9h-", "radix"),
    ("radix", "default, 10000 images"): ("C9h-", "radix"),
    ("rate", "low latency"): ("C1s-", "rate, half ignored"),
    ("rate", "default"): ("C6o-.", "rate"),
    ("rate", BEST_RATE): ("C8p--", "rate, θ by mse"),
    ("rate", "signed"): ("C3^-", "rate, signed"),
    ("rate", "8 a step"): ("C4D:", "rate, 8 spikes a step"),
    ("rate", "signed, 8 a step"): ("C5v:", "rate, signed, 8 a step"),
}
PANELS = ("vgg16_slim_cifar10", "resnet20_cifar10", "strided_cifar10", "mobilenetv2_slim_cifar10")


def lines(path: Path = RESULTS) -> list[dict]:
    """All finished lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@dataclass
class Row:
    """A setting on a network: counts over all portions, and what it sends and costs (`facts`, may be missing)."""

    network: str
    encoding: str
    recipe: str
    steps: int
    facts: dict = field(default_factory=dict)
    images: int = 0
    ann: int = 0
    snn: int = 0
    same: int = 0
    differ: int = 0
    bounded: bool = False  # `differ` is the most that it can be
    top5: float = 0.0
    seconds: list[float] = field(default_factory=list)  # per image, of each portion

    def add(self, line: dict) -> None:
        """A portion of images, or facts."""
        self.facts |= line.get("facts", {})
        images = line.get("images", 0)
        for name in ("ann", "snn", "same"):
            setattr(self, name, getattr(self, name) + line.get(name, 0))
        self.images += images
        self.differ += line.get("differ", images - line.get("same", 0))
        self.bounded |= bool(images) and "differ" not in line
        self.top5 += line.get("top5", 0.0) * images
        if line.get("seconds"):
            self.seconds.append(line["seconds"] / images)

    @property
    def loss(self) -> float:
        """Points of accuracy lost."""
        return 100 * (self.ann - self.snn) / self.images

    @property
    def error(self) -> float:
        """Standard error of the loss, from the images that one of both has right; or the most it can be."""
        return 100 * math.sqrt(max(self.differ / self.images - (self.loss / 100) ** 2, 0) / self.images)

    @property
    def levels(self) -> int:
        """N, the highest level of a window."""
        return 2**self.steps - 1 if self.encoding == "radix" else self.steps

    def energy(self, hardware: str) -> float | None:
        """Energy of the SNN over that of the dense ANN, of MACs and additions, on the same hardware."""
        if "macs" not in self.facts:
            return self.facts.get("energy_ratio") if hardware == "45nm_float32" else None
        row = HARDWARE[hardware]
        return row.energy(self.facts["macs"], self.facts["synaptic_operations"]) / row.energy(self.facts["ann_macs"])


def portions() -> Iterable[dict]:
    """All lines in one form, those of the other scripts, too."""
    yield from lines()
    for line in lines(CIFAR10):
        corrected = line["code"] == "rate" or line["steps"] > FEW_LEVELS
        yield {**line, "encoding": line["code"], "recipe": "default" if corrected else "uncorrected"}
    for line in lines(SIGNED):
        for steps in (4, 8, 16):
            if steps <= line["timesteps"]:
                told = {name: line[name][steps - 1] for name in ("snn", "same")}
                yield {"network": line["network"], "encoding": "rate", "recipe": line["run"], "steps": steps,
                       "images": SIGNED_CHUNK, "ann": line["ann"], **told}  # fmt: skip


def rows() -> dict[tuple, Row]:
    """(network, code, recipe, steps) -> its row."""
    found: dict[tuple, Row] = {}
    for line in portions():
        key = line["network"], line["encoding"], line["recipe"], line["steps"]
        found.setdefault(key, Row(*key)).add(line)
    found = {key: row for key, row in found.items() if row.images}
    windowed = [row for row in found.values() if row.encoding in WINDOWED]
    told = {row.network: row.facts["latency"] // row.steps for row in windowed if "latency" in row.facts}
    depths = deep_text.WINDOWS | told
    for row in windowed:
        if row.network in depths:
            row.facts.setdefault("latency", row.steps * depths[row.network])
    return found


def _number(value, form: str) -> str:
    return "" if value is None else format(value, form)


def cells(row: Row) -> list[str]:
    """A row of the tables, behind its code and setting."""
    facts = row.facts
    operations = facts.get("synaptic_operations")
    share = operations / facts["ann_macs"] if operations and facts.get("ann_macs") else None
    error = f"{'≤ ' if row.bounded else ''}{row.error:.2f}"
    seconds = 1000 * statistics.median(row.seconds) if row.seconds else None
    return [
        str(facts.get("latency") or (row.steps if row.encoding == "rate" else "")),
        _number(facts.get("spikes_per_neuron"), ".2f"),
        _number(operations and operations / 1e6, ".1f"),
        _number(share, ".2f"),
        _number(row.energy("45nm_float32"), ".2f"),
        _number(row.energy("45nm_int8"), ".2f"),
        f"{row.loss:.2f} ± {error}",
        f"{row.same / row.images:.2%}",
        f"{row.images}",
        _number(seconds, ".1f"),
    ]


HEAD = ("code", "recipe", "T, N or K", "steps in all", "spikes a neuron", "operations, M", "/ MACs of the ANN",
        "energy / ANN", "in 8 bits", "loss, points", "same class", "images", "CPU s for 1000")  # fmt: skip


def table(chosen: Iterable[Row], head=HEAD) -> list[str]:
    """Rows in Markdown."""
    body = [f"| {row.encoding} | {row.recipe} | {row.steps} | {' | '.join(cells(row))} |" for row in chosen]
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *body]


def baseline(network: str, found: dict[tuple, Row]) -> list[str]:
    """The ANN with activations rounded to N levels: accuracy, and its MACs without those of zeros."""
    text = []
    for levels in (7, 15, 63):
        row = found.get((network, "ttfs_exact", "uncorrected" if levels <= FEW_LEVELS else "default", levels))
        if row and "ann_macs" in row.facts:
            facts, shown = row.facts, cells(row)
            macs = facts["macs"] + facts["synaptic_operations"]
            text.append(
                f"| ANN of {levels} levels | | {levels} | 1 | | {macs / 1e6:.1f} MACs | {macs / facts['ann_macs']:.2f} "
                f"| {macs / facts['ann_macs']:.2f} | {macs / facts['ann_macs']:.2f} | {shown[6]} | {shown[7]} "
                f"| {shown[8]} | |"
            )
    return text


def first_table(found: dict[tuple, Row]) -> list[str]:
    """The table that the page begins with, a part for each network."""
    text = []
    for network, title in TITLES.items():
        chosen = [found[key] for key in ((network, *each) for each in SHOWN) if key in found]
        if chosen:
            ann = max((row for row in found.values() if row.network == network), key=lambda row: row.images)
            text += ["", f"**{title}**{_ann(ann)}", "", *table(chosen), *baseline(network, found)]
    return text


def _ann(row: Row) -> str:
    """What the ANN does."""
    told = deep_text.ANN.get(row.network, "ANN: {right:.2%} on {images} images").format(
        right=row.ann / row.images, images=row.images
    )
    macs = row.facts.get("ann_macs")
    return f" · {told}" + (f", {macs / 1e6:.1f} M MACs" if macs else "")


def fold(title: str, text: list[str]) -> list[str]:
    """Text behind a line that opens it."""
    return ["", f'??? note "{title}"', "", *(f"    {line}" if line else "" for line in text)]


def everything(found: dict[tuple, Row]) -> list[str]:
    """All rows, behind folds."""
    text = []
    for network, title in deep_text.TITLES.items():
        mine = sorted((row for row in found.values() if row.network == network),
                      key=lambda row: (row.encoding, row.recipe, row.steps))  # fmt: skip
        if mine:
            text += fold(f"All settings of {title}", table(mine))
    return text


def diagnoses(found: dict[tuple, Row], most: int = 3) -> list[str]:
    """Why the codes that decide too early fail."""
    text, told = [], {}
    for row in found.values():
        diagnosis = row.facts.get("diagnosis")
        if diagnosis in told:
            text += ["", f"`{row.encoding}` is `{told[diagnosis]}` on {row.network}."]
        elif diagnosis:
            told[diagnosis] = row.encoding
            findings = diagnosis.splitlines()
            cut = next((n for n, line in enumerate(findings) if line.startswith(f"{most + 1}. ")), len(findings))
            text += ["", f"{row.network}, `{row.encoding}`:", "", "```", *findings[:cut], "```"]
    return text


def others() -> list[str]:
    """EfficientNet and CREPE, from the lines of benchmarks/real_models.py."""
    text = []
    for line in lines(MODELS):
        if (title := deep_text.OTHERS.get(line["network"])) is None:
            continue
        for steps in (16, 64, 256):
            if found := line.get(f"N = {steps}"):
                error = 100 * math.sqrt(found["same"] * (1 - found["same"]) / line["images"])
                windows, digits = line["depth"] + 1, steps.bit_length() - 1
                fact = found["fact"] if "cents" in found["fact"] else ""
                text.append(
                    f"| {title} | {steps} | {steps * windows} | {digits * windows} | {found['same']:.1%} ± {error:.1f} "
                    f"| {line['images']} | {fact} |"
                )
    head = ["network", "levels", "steps of ttfs_exact", "of radix, a level fewer", "ANN's class", "inputs", "right"]
    return ["", deep_text.OF_OTHERS, "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *text] if text else []


def top5(found: dict[tuple, Row]) -> list[str]:
    """The classes that ANN and SNN share among their best five, of EfficientNet."""
    text = []
    for row in (row for row in found.values() if row.network == "efficientnet_lite0_imagenet"):
        share = row.same / row.images
        error = 100 * math.sqrt(share * (1 - share) / row.images)
        text.append(
            f"EfficientNet-Lite0, `{row.encoding}`, {row.steps} digits, {row.levels} levels, "
            f"{row.facts.get('latency')} steps: the ANN's class on {share:.1%} ± {error:.1f} points of {row.images} "
            f"crops, and {5 * row.top5 / row.images:.2f} of its best five among the SNN's best five.\n"
        )
    return text


# Settings of the VGG of which it is told what a second buys: (code, recipe, steps).
BOUGHT = [
    ("ttfs_exact", "default", 64),
    ("radix", "default, 10000 images", 6),
    *(("rate", "low latency", steps) for steps in (32, 64, 128)),
    *(("rate", "signed", steps) for steps in (8, 16)),
]


def seconds_table(found: dict[tuple, Row]) -> list[str]:
    """What one CPU second of simulation buys on the VGG: speeds of docs/performance.json, losses of this page."""
    speeds = {each["encoding"]: each for block in json.loads(SPEEDS.read_text())["speed"] for each in block
              if each["network"] == "VGG-16, quarter width"}  # fmt: skip
    signed = json.loads(SIGNED_COST.read_text())["vgg16_slim_cifar10"]["median ratio"]
    text = []
    for encoding, recipe, steps in BOUGHT:
        if (row := found.get(("vgg16_slim_cifar10", encoding, recipe, steps))) is None:
            continue
        measured = speeds["rate" if encoding == "rate" else "ttfs_exact"]
        share = steps / measured["timesteps"] if encoding == "rate" else 1
        seconds = measured["loop"]["seconds"] / measured["batch"] * share * (signed if recipe == "signed" else 1)
        text.append(f"| {encoding} | {recipe} | {steps} | {1000 * seconds:.2f} | {1 / seconds:.0f} | {cells(row)[6]} |")
    head = ("code", "recipe", "T, N or K", "CPU s for 1000 images", "images a CPU second", "loss, points")
    return [deep_text.BOUGHT, "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *text]


def cost_table() -> list[str]:
    """What calibration costs."""
    if not COST.exists():
        return []
    found = json.loads(COST.read_text())
    names = [name for name in found if name.startswith(("percentile", "mse")) and not name.endswith("100 images")]
    return [
        "`python benchmarks/deep.py --cost`: the VGG, 10000 images, seconds on one core, median of 3; a forward pass "
        f"of the ANN over them takes {found['forward']:.1f} s. Peak memory {found['MiB']:.0f} MiB, of which "
        f"{found['MiB before']:.0f} MiB stood before.",
        "",
        "| what | seconds | forward passes |",
        "| --- | --- | --- |",
        *(f"| {name} | {found[name]:.1f} | {found[name] / found['forward']:.1f} |" for name in names),
        "",
        f"Conversion with a correction, on 1000 images: `shifts`, layer after layer, {found['shifts']:.1f} s; "
        f"`output`, all layers at once, {found['output']:.1f} s.",
    ]


def pooling_table() -> list[str]:
    """Both ways to pool under `rate`, in the VGG."""
    measured = lines(POOLING)
    if not measured:
        return []
    names = [name for name in measured[0] if ", " in name]
    body = [" | ".join(str(line[name]) for name in ("start", "way", *names)) for line in measured]
    return [
        "",
        f"In the VGG, images of the ANN's class out of {measured[0]['images']} training images, by T and what is read "
        "out, all steps or the second half:",
        "",
        f"| V(0) in θ | pooling | {' | '.join(names)} |",
        "| --- " * (len(names) + 2) + "|",
        *(f"| {row} |" for row in body),
    ]


def plot(found: dict[tuple, Row], value: Callable[[Row], float | None], label: str, name: str) -> None:
    """Loss over what it costs, a panel for each network, a line for each code and recipe that is drawn."""
    drawn = {row.network for key, row in found.items() if key[1:3] in DRAWN and value(row)}
    networks = [network for network in PANELS if network in drawn]
    figure = Figure(figsize=(3.6 * len(networks) + 1.6, 3.8), layout="constrained")
    handles = {}
    for axes, network in zip(figure.subplots(1, len(networks), sharey=True, squeeze=False)[0], networks, strict=True):
        for (encoding, recipe), (style, title) in DRAWN.items():
            mine = [row for key, row in found.items() if key[:3] == (network, encoding, recipe)]
            points = sorted((value(row), row.loss, row.error) for row in mine if value(row))
            if points:
                x, y, error = zip(*points, strict=True)
                handles[title] = axes.errorbar(x, y, error, fmt=style, markersize=5, elinewidth=0.8, linewidth=1.2)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([-1, 0, 1, 3, 10, 30], ["-1", "0", "1", "3", "10", "30"])
        axes.grid(alpha=0.3)
        axes.set_xlabel(label)
        axes.set_title(deep_text.SHORT[network], fontsize=10)
    figure.axes[0].set_ylabel("loss of accuracy (points)")
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8)
    figure.savefig(PICTURES / f"{name}.png", dpi=150)


def _latency(row: Row) -> float | None:
    return row.facts.get("latency") or (row.steps if row.encoding == "rate" else None)


PLOTS = {
    "deep_latency": ("time steps in all", _latency),
    "deep_operations": (
        "operations / MACs of the ANN",
        lambda row: row.facts.get("synaptic_operations", 0) / row.facts.get("ann_macs", 1),
    ),
    "deep_spikes": ("spikes a neuron", lambda row: row.facts.get("spikes_per_neuron")),
}


def page(found: dict[tuple, Row]) -> str:
    """docs/DEEP.md."""
    text = [deep_text.BEGIN, *first_table(found), *others(), "", *top5(found)]
    text += [deep_text.WHAT_TO_TAKE, "", *seconds_table(found), "", deep_text.LITERATURE, "", deep_text.PROTOCOL]
    text += everything(found)
    text += fold("Loss over spikes a neuron", ["![Loss over spikes a neuron](pictures/deep_spikes.png)"])
    text += fold("Max pooling at few steps", [*deep_text.POOLING.splitlines(), *pooling_table()])
    text += fold("Why single spikes without windows fail", diagnoses(found))
    text += fold("What calibration costs", cost_table())
    return "\n".join(text) + "\n"


def write() -> None:
    """The page and its plots."""
    found = rows()
    PAGE.write_text(page(found), encoding="utf-8")
    for name, (label, value) in PLOTS.items():
        plot(found, value, label, name)
