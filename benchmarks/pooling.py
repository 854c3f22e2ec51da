"""Max pooling under `rate`: the maximum of the counts against the spikes of each step. A section of docs/DEEP.md.

    python benchmarks/pooling.py            # one pool, in numpy: seconds; then the VGG, 100 training images: minutes
    python benchmarks/pooling.py --pool     # one pool alone

A pool of four neurons passes one train of spikes. *Counts* passes the increments of the largest count so far, as
`spiking.cells.MaxPoolCell` does; *any* passes a spike whenever one of the four does, as frameworks do that pool each
step's spikes. Finished settings are lines of docs/pooling.jsonl; started again, the script goes on where it stopped.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the path comes first

RESULTS = ROOT / "docs" / "pooling.jsonl"
STEPS = (8, 16, 32, 64)
STARTS = (0.0, 0.5)  # V(0) in units of θ
POOLS = 6000
IMAGES, FIRST = 100, 20000  # training images


def one_pool(start: float, noise: float, steps: int, seed: int = 0) -> dict[str, float]:
    """Mean error of both poolings, in units of full activity.

    Args:
        start: V(0).
        noise: deviation of the current in each step, nine tenths of which the next step takes back.
        steps: T.
    """
    random = np.random.default_rng(seed)
    drive = random.normal(0.05, 0.25, (POOLS, 4)).clip(-1, 1)
    potential, counts, before = np.full(drive.shape, start), np.zeros(drive.shape), 0.0
    any_spike = np.zeros(POOLS)
    for _ in range(steps):
        now = random.normal(0, noise, drive.shape)
        potential += drive + now - 0.9 * before
        spikes, before = (potential >= 1).astype(float), now
        potential -= spikes
        counts += spikes
        any_spike += spikes.max(1)
    largest = np.maximum(drive, 0).max(1)
    return {
        "counts": float(np.mean(counts.max(1) / steps - largest)),
        "any": float(np.mean(any_spike / steps - largest)),
    }


def network() -> None:
    """Both poolings in the VGG: images of the ANN's class after T steps, all of them read out or the second half."""
    import deep
    import keras
    import tensorflow as tf

    from ann_training import load_dataset
    from conversion import convert_ann_to_snn
    from spiking.cells import MaxPoolCell, PoolState, signed_max_pool

    def any_step(cell, current, state):
        spikes = signed_max_pool(cell.pool, current, cell.sign)
        return spikes, PoolState(state.received + current, state.passed + spikes)

    data, ways = load_dataset("cifar10"), {"counts": MaxPoolCell.step, "any": any_step}
    ann = keras.models.load_model(deep.network_file("vgg16_slim_cifar10"), compile=False)
    ann.layers[-1].activation = keras.activations.linear  # so that a delayed read-out follows from two of the others
    images, last = data.x_train[FIRST : FIRST + IMAGES], STEPS[-1]
    expected, done = ann.predict(images, verbose=0).argmax(-1), {(line["start"], line["way"]) for line in lines()}
    for start in STARTS:
        for way, step in ways.items():
            if (start, way) in done:
                continue
            MaxPoolCell.step = step
            settings = {"initial_potential": start, "readout_delay": 0}
            snn = convert_ann_to_snn(ann, data.x_train[:1000], "rate", last, **settings)
            potential = snn.simulate(tf.constant(images), ["readouts"]).readouts.numpy()
            potential *= np.arange(1, last + 1)[:, None, None]
            line = {"start": start, "way": way, "images": IMAGES}
            for t in STEPS:
                for name, said in (("all", potential[t - 1]), ("half", potential[t - 1] - potential[t // 2 - 1])):
                    line[f"{t}, {name}"] = int(np.sum(said.argmax(-1) == expected))
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)


def lines() -> list[dict]:
    """All finished settings."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", action="store_true", help="one pool alone")
    alone = parser.parse_args(arguments).pool
    for start in STARTS:
        for noise in (0.0, 0.3):
            told = [one_pool(start, noise, steps) for steps in STEPS]
            print(f"V(0) = {start}, noise {noise}:", *(f"{a['counts']:+.3f} {a['any']:+.3f}" for a in told), sep="  ")
    if not alone:
        network()


if __name__ == "__main__":
    main()
