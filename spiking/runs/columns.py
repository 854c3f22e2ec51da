"""The columns of TensorBoard's page HPARAMS: settings that differ first, then the metrics that matter, by their names.

TensorBoard takes one declaration for all runs of a folder, and without one shows every scalar as a column, the ANN's
effective MACs first. So each run adds what it has to a list in the folder of all logs, and the declaration is written
anew when that changes the columns. A server that is running shows it after a restart.
"""

import json
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from spiking.runs.files import locked, write_json

__all__ = ["METRICS", "MICRO", "declare"]

LIST, LOCK = ".hparams.json", ".hparams.lock"
EVENTS = "events.out.tfevents.*"
MOST = 20  # values of a setting that can be ticked

MICRO = {"snn/energy": "snn/energy_uJ", "ann/energy": "ann/energy_uJ"}  # TensorBoard writes 0.00000048 as 0

# Scalar -> its name in the table, in this order; five are shown until more are ticked.
METRICS = {
    "snn/eval/test": "SNN accuracy",
    "snn/eval/validation": "SNN accuracy, validation",
    "snn/diff/test": "difference",
    "snn/diff/validation": "difference, validation",
    "snn/same_class": "same class",
    "snn/r_squared": "R²",
    "snn/spikes_per_neuron": "spikes per neuron",
    "snn/energy_uJ": "energy / µJ",
    "snn/latency": "latency / steps",
    "snn/synaptic_operations": "operations",
    "ann/eval/test": "ANN accuracy",
    "ann/eval/validation": "ANN accuracy, validation",
    "ann/energy_uJ": "ANN energy / µJ",
}


def declare(tblogs: Path, settings: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
    """Sees that the page has the columns of a run.

    Args:
        tblogs: the folder of all logs.
        settings: name -> number, text or bool.
        scalars: tag -> number, what the run has logged.

    Raises:
        tf.errors.OpError, OSError: the folder cannot be written.
    """
    with locked(tblogs / LOCK, wait=True):  # runs may end at the same time
        before = _read(tblogs / LIST)
        known = {name: list(values) for name, values in before["settings"].items()}
        for name, value in settings.items():
            values = known.setdefault(name, [])
            if value not in values and len(values) < MOST:
                values.append(value)
        metrics = [tag for tag in METRICS if tag in before["metrics"] or tag in scalars]
        after = {"settings": known, "metrics": metrics}
        if after != before:
            _write(tblogs, after)
            write_json(tblogs / LIST, after)


def _read(path: Path) -> dict[str, Any]:
    """What the runs so far have; nothing where the list is not there or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": dict(found["settings"]), "metrics": list(found["metrics"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {"settings": {}, "metrics": []}


def _write(tblogs: Path, columns: Mapping[str, Any]) -> None:
    """Writes the declaration in place of the one before."""
    from tensorboard.plugins.hparams import api_pb2, summary

    old = list(tblogs.glob(EVENTS))
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=METRICS[tag])
               for tag in columns["metrics"]]  # fmt: skip
    settings = [_column(name, values) for name, values in columns["settings"].items()]
    declaration = summary.experiment_pb(settings, metrics).SerializeToString()
    with tf.summary.create_file_writer(str(tblogs)).as_default():
        tf.summary.experimental.write_raw_pb(declaration, step=0)
    for path in old:
        path.unlink(missing_ok=True)


def _column(name: str, values: list):
    """A setting as TensorBoard has it; what differs between runs is shown first."""
    from tensorboard.plugins.hparams import api_pb2

    column = api_pb2.HParamInfo(name=name, differs=len(values) > 1)
    if all(isinstance(value, bool) for value in values):
        column.type = api_pb2.DATA_TYPE_BOOL
        column.domain_discrete.extend(values)
    elif all(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in values):
        column.type = api_pb2.DATA_TYPE_FLOAT64
        column.domain_interval.min_value, column.domain_interval.max_value = min(values), max(values)
    else:
        column.type = api_pb2.DATA_TYPE_STRING
        column.domain_discrete.extend(map(str, values))
    return column
