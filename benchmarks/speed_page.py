"""docs/PERFORMANCE.md and its plots, from what speed.py and peers.py measured."""

import json
from pathlib import Path

from peers import RESULTS as PEERS
from peers import table as peers_table

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"

WHY = """## Why the ratios are what they are

- **The read-out is applied once.** It is linear up to its activation, so its synapse acts on the sum of what came in:
  spike counts (`rate`), or for each spike the steps its current stays on (`ttfs` and its kin). The sums are whole
  numbers and exact.
- **One layer of neurons needs no loop.** Under a constant current counts and first spike times are known at once, so
  the MLP costs about one forward pass under every code, whatever T is. For the same reason a max pooling behind the
  first layer is taken of the currents, once, instead of the spikes, in every step. This is the part of the
  single-spike codes that can be computed from spike times.
- **LeNet-5** saves the first convolution, the ANN's most expensive layer, in all steps but one. What remains per step
  is the second convolution (more than half), the neurons and the pooling.
- **The VGG** has only a twentieth of its work in the first layer. Its convolutions run near the peak of the core's
  vector units and take 84% of a step, bias and potential added inside them; threshold, spikes and reset take 10%, the
  pooling 5% (TensorFlow's profiler). In float32 it therefore stays near 1.
  `spiking.network.precision.reduce_precision(snn)` computes the synapses between hidden layers in bfloat16, in which
  spikes are exact: the convolutions take half the time.
- **Batches of a few images** take up to four time steps through each synapse as one larger batch: a layer's steps
  depend on one another in its neurons alone. LeNet-5 then takes 0.79 times the CPU seconds for a single image, 0.94
  times for eight by eights; 16 steps at once would gain 0.06 more and take three times as long to trace.
- **`ttfs_dyn_thresh`** has two synapses a layer, W and |W|, so it costs twice as much as `ttfs`.
- **`ttfs_exact`** is one forward pass on levels; rounding and clipping are what it costs more. N is a number in it.
- **The peers** run the first convolution's neurons, the pooling of their spikes and the read-out in every step, and
  keep all time steps in memory in multi-step mode. Ordinary max pooling on spikes costs them accuracy.
- **Two cores** share out each operation, and a step of LeNet-5 on 100 images is half a millisecond of small ones, too
  short for that; larger batches or networks fill both. Two halves of a batch as two loops side by side gave less:
  2000 images a second for 2 × 50, 2460 for 2 × 100.
- **Memory** does not depend on T: the state of the cells and, where asked for, a number a neuron.

## Tried and left

- *XLA on the whole loop*: faster for a batch of one (see the table), slower from a few images on, because its
  convolutions on CPUs are; it compiles anew, in seconds, for every batch size. So it is off; `tf.function(snn,
  jit_compile=True)` turns it on.
- *XLA on the neurons' update alone*: 2.5 times slower on large layers (1.6 million neurons: 1.2 ms against 0.48), no
  faster on small ones.
- *Smaller batches inside a batch*, to stay in the cache: the convolutions lose what the neurons gain.
- *Weights as constants of the graph*, so that their layout is changed once: no difference for batches of 100.
- *Other operations for [V ≥ θ]*: a cast of the comparison takes 1.14 ms for 1.6 million neurons; the gradient of relu
  as a step function 1.39, floor and clip 1.50, floor, relu and minimum 1.21.
- *Input channels of LeNet's second convolution padded from 6 to 8 or 16*: 0.48 and 0.74 ms instead of 0.38.
- *Spike times behind the first layer*: between arrivals the potential is linear, so a neuron's spike time follows
  from its sorted arrivals. Not built, on an estimate and not a measurement: each neuron has its own order of hundreds
  of arrivals, and gather and prefix sums over (batch, neurons, fan-in) would move more memory than T dense products,
  which read the spikes of all neurons at once.
- *Ending a batch when all neurons have fired*: it never comes to that. On 100 images of LeNet-5, T = 120, 20 to 50%
  of a layer's neurons fire under `ttfs`, `ttfs_clamped` and `ttfs_dyn_thresh`, and in every layer some do in step 120
  (`snn.simulate(x, ["spike_counts", "first_spike_times"])`); the check would be a pass over all states.
"""


CONVERSION = """`ttfs_exact`, N = 32, least mean square error per channel; random weights, the peak resident set of a
fresh process, TensorFlow's own 0.6 GiB included, beside that of `ann.predict` of the same images. Calibration takes as
many images at a time as have 128 MiB of activations, at least one (four or sixteen times as many were no faster on the
three convolutions and took 0.7 and 1.5 GiB more), and keeps of its histograms the bins that occur, 16 bytes each.
What is left of VGG-16's peak are its 138 million weights, 0.5 GiB in float32: the ANN's with what building it leaves
1.9 GiB, reading 0.5, the folded network and calibration 0.6, assembling 1.2, of which 0.6 stay; the largest kernel is
rescaled in place, in one copy in float64."""


def page(results: dict) -> str:
    """The whole page; parts that were not measured are left out."""
    lines = [
        "# Speed and memory",
        "",
        f"Made by `python benchmarks/speed.py` and `python benchmarks/peers.py`; {results.get('versions', '')}.",
        "One pinned core, one thread, CPU seconds, interleaved runs, medians. *Per step*: seconds of the simulation "
        "over those of the ANN's forward pass (`tf.function`, jit off) on the same images and batch, divided by T; for "
        "`ttfs_exact`, a closed form, not divided.",
        "",
    ]
    for part, section in SECTIONS.items():
        if part in results:
            lines += [*section(results[part]), ""]
    if PEERS.exists():
        record = json.loads(PEERS.read_text())
        names = sorted({name for needed in record["requirements"].values() for name in needed})
        lines += [
            "## Against the peers",
            "",
            "The same network (`rate`, the same folded and normalised weights), batch, T and core, each simulator in a "
            f"process and environment of its own: {', '.join(names)}. The peers get the current of the first layer "
            "computed once, by hand, as this toolbox does by itself; their own converters do not.",
            "",
            *peers_table(record["results"]),
            "",
        ]
    return "\n".join(lines) + "\n" + WHY


def grid(head: list[str], rows: list[list]) -> list[str]:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def speed(parts) -> list[str]:
    body = []
    for row in (row for rows in parts for row in rows):
        loop = row["loop"]
        low, high = loop["range"]
        stack = f"{row['stack']['per_step'] / loop['per_step']:.1f}" if "stack" in row else ""
        ratio = loop["seconds"] / row["ann"]["seconds"]
        plain = f"{loop['seconds'] / row['plain']['seconds']:.2f}" if "plain" in row else ""
        found = [f"{loop['per_step']:.3f}", f"{low:.3f} to {high:.3f}", f"{ratio:.1f}", plain, stack]
        body.append([row["network"], row["encoding"], row["timesteps"], *found])
    head = ["network", "encoding", "T, N or K", "per step", "range", "forward passes", "times the plain `rate`",
            "stock Keras stack is slower by"]  # fmt: skip
    return ["## Speed, batches of 100", "", *grid(head, body)]


def versions_before(parts) -> list[str]:
    """Today against version 0.1, in one process."""
    body = [
        [row["network"], row["encoding"], row["timesteps"], f"{row['0.1']['seconds']:.3f}",
         f"{row['today']['seconds']:.3f}", f"{row['today']['per_step']:.3f}",
         "{:.3f} to {:.3f}".format(*row["today"]["range"])]
        for rows in parts for row in rows
    ]  # fmt: skip
    head = ["network", "encoding", "T or N", "0.1, CPU s", "today, CPU s", "today, times 0.1", "range"]
    return ["## Against version 0.1", "", "One process, both checkouts, in turn; the same ANN, settings by default:",
            "", *grid(head, body)]  # fmt: skip


def steps(parts) -> list[str]:
    (rows,) = parts
    curves = {}
    for row in rows:
        curves.setdefault((row["network"], row["encoding"]), {})[row["timesteps"]] = row
    numbers = sorted({row["timesteps"] for row in rows})
    body = [
        [network, encoding, *(f"{found[n]['loop']['per_step']:.3f}" for n in numbers)]
        for (network, encoding), found in curves.items()
    ]
    plot = [
        (f"{encoding}, {network}", [(number, row["loop"]["seconds"]) for number, row in found.items()])
        for (network, encoding), found in curves.items()
    ]
    picture = draw("speed_steps.png", plot, "T or N", "CPU s for 100 images")
    return ["## Over the number of time steps", "", "Per step, at T or N of", "",
            *grid(["network", "encoding", *numbers], body), "", picture]  # fmt: skip


def batches(parts) -> list[str]:
    (rows,) = parts
    body = []
    for row in rows:
        others = [
            f"{row[name]['seconds'] / row['loop']['seconds']:.2f}" if name in row else "" for name in ("stepped", "xla")
        ]
        body.append([row["encoding"], row["timesteps"], row["batch"], f"{row['loop']['per_step']:.3f}", *others])
    head = ["encoding", "T or N", "batch", "per step", "all cells stepped, times the loop", "XLA, times the loop"]
    return ["## Over the batch, LeNet-5", "", *grid(head, body)]


def memory(rows) -> list[str]:
    body = [[row["encoding"], row["timesteps"], row["batch"], f"{row['mib']:.0f}"] for row in rows]
    curves = {}
    for row in rows:
        if row["batch"] == 100:
            curves.setdefault(row["encoding"], []).append((row["timesteps"], row["mib"]))
    picture = draw("memory_steps.png", list(curves.items()), "T or N", "peak MiB", logarithmic=False)
    return ["## Memory", "", "Peak resident set of a fresh process that simulates three batches with LeNet-5, "
            "statistics included:", "", *grid(["encoding", "T or N", "batch", "MiB"], body), "", picture]  # fmt: skip


def memory_before(rows) -> list[str]:
    body = [[row["encoding"], row["timesteps"], row["batch"], f"{row['mib']:.0f}"] for row in rows]
    return ["The same in version 0.1:", "", *grid(["encoding", "T or N", "batch", "MiB"], body)]


def depth(rows) -> list[str]:
    body = [[r["depth"], f"{r['ann']:.3f}", f"{r['loop']:.2f}", f"{r['mib']:.0f}"] for r in rows]
    curves = [("simulation", [(r["depth"], r["loop"]) for r in rows]), ("ANN", [(r["depth"], r["ann"]) for r in rows])]
    picture = draw("speed_depth.png", curves, "convolutions", "CPU s for 100 images")
    return ["## Over the depth", "", "100 images of 28 × 28, convolutions with 16 filters each, `rate`, T = 32:", "",
            *grid(["convolutions", "ANN, CPU s", "simulation, CPU s", "peak MiB"], body), "", picture]  # fmt: skip


def images(rows) -> list[str]:
    body = [
        [r["images"], f"{r['evaluation']:.2f}", f"{r['pipeline']:.4f}", f"{r['pipeline'] / r['evaluation']:.2%}",
         f"{r['mib']:.0f}"]
        for r in rows
    ]  # fmt: skip
    head = ["images", "evaluation, CPU s", "input pipeline alone, CPU s", "share", "peak MiB, the images included"]
    return ["## Over the images", "", "`snn_accuracy`, LeNet-5, `rate`, T = 20, batches of 100; an image has 3 KiB:",
            "", *grid(head, body)]  # fmt: skip


def full_size(rows) -> list[str]:
    body = [
        [r["network"], r["encoding"], f"{r['conversion']:.0f}", f"{r['run']:.1f}", f"{r['mib'] / 1024:.1f}"]
        for r in rows
    ]
    head = ["network", "encoding", "conversion, s", "first batch, s", "peak GiB"]
    return ["## 224 × 224, batch 8, T, N or K = 4", "",
            "Random weights, 138 million (VGG16) and 26 million (ResNet50); conversion included.", "",
            *grid(head, body)]  # fmt: skip


def conversion(rows) -> list[str]:
    return ["## Memory of a conversion", "", CONVERSION, "", *conversion_table(rows)]


def conversion_before(rows) -> list[str]:
    return ["The same in version 0.1:", "", *conversion_table(rows)]


def conversion_table(rows) -> list[str]:
    works = {"predict": "the ANN's `predict`", "convert": "conversion"}
    body = [
        [row["network"], row["images"], works[row["work"]], f"{row['mib'] / 1024:.2f}", f"{row['seconds']:.1f}"]
        for row in rows
    ]
    return grid(["network", "images", "work", "peak GiB", "CPU s"], body)


def start(parts) -> list[str]:
    return ["## Start", "", "LeNet-5, `rate`, wall seconds: " +
            ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts[0].items()) + "."]  # fmt: skip


def cores(rows) -> list[str]:
    one, two = rows
    names = [name for name in one if name != "cores"]
    body = [[name, f"{one[name]:.0f}", f"{two[name]:.0f}", f"{two[name] / one[name]:.2f}"] for name in names]
    return ["## Two cores", "", "Images a second, wall time, `rate`; T = 100 and 32:", "",
            *grid(["network", "one core", "two cores", "ratio"], body)]  # fmt: skip


def job(parts) -> list[str]:
    return ["## The main job", "", "`python experiment.py`: training twice, all encodings, analysis, diagnosis, "
            "figures, TensorBoard. On all cores; a load above their number means that other programs wanted them, and "
            "the wall time grows with it.", "", *job_table("Today", parts[0])]  # fmt: skip


def job_before(parts) -> list[str]:
    return job_table("Version 0.1", parts[0])


def job_table(version: str, found: dict) -> list[str]:
    wall = f"{found['wall']:.0f} s on {found['cores']} cores at a load of {found['load']:.0f}"
    cost = f"{found['cpu']:.0f} CPU seconds, peak {found['mib']:.0f} MiB, {found['warnings']} lines of warnings"
    body = [[name, f"{ann:.2f}", f"{snn:.2f}", f"{snn - ann:+.2f}", steps]
            for name, (ann, snn, steps) in found["encodings"].items()]  # fmt: skip
    return [f"{version}: {wall}, {cost}.", "", *grid(["encoding", "ANN %", "SNN %", "difference", "T or N"], body)]


SECTIONS = {
    "speed": speed,
    "versions_before": versions_before,
    "steps": steps,
    "batches": batches,
    "memory": memory,
    "memory_before": memory_before,
    "depth": depth,
    "images": images,
    "full_size": full_size,
    "conversion": conversion,
    "conversion_before": conversion_before,
    "start": start,
    "cores": cores,
    "job": job,
    "job_before": job_before,
}


def draw(name: str, curves: list, x: str, y: str, logarithmic: bool = True) -> str:
    """Saves a plot of `(label, [(x, y), …])` curves under docs/pictures; returns the Markdown that shows it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, points in curves:
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log" if logarithmic else "linear")
    if not logarithmic:
        axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / name, dpi=110)
    return f"![{y} against {x}](pictures/{name})"
