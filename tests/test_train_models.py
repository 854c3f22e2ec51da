"""benchmarks/train_models.py: augmentation, schedule, and a training that goes on where it was stopped."""

import importlib.util
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest

from ann_training import load_dataset

# Keras calls np.array on TensorFlow variables, whose __array__ does not know NumPy 2's `copy` yet. Not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def train_models():
    path = Path(__file__).parents[1] / "benchmarks" / "train_models.py"
    spec = importlib.util.spec_from_file_location("train_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(count=24, size=12):
    rng = np.random.default_rng(0)
    parts = [(rng.random((count, size, size, 3), np.float32), np.arange(count) % 3) for _ in range(2)]
    return load_dataset(tuple(parts))


def test_augmented_images_are_flipped_and_shifted_ones(train_models):
    data = images()
    batches = train_models.Augmented(data, epoch=3, seed=1, batch_size=8)
    assert len(batches) == 3
    drawn, seen = [batches[i] for i in range(3)], []
    for batch, labels in drawn:
        for image, label in zip(batch, labels, strict=True):
            matches = [
                (number, flip, down, right)
                for number, original in enumerate(data.x_train)
                for flip, way in ((False, original), (True, original[:, ::-1]))
                for down in range(-4, 5)
                for right in range(-4, 5)
                if np.array_equal(image, shifted(way, down, right))
            ]
            assert len(matches) == 1 and data.y_train[matches[0][0]] == label
            seen += matches
    assert sorted(number for number, *_ in seen) == list(range(24))
    assert 4 < sum(flip for _, flip, *_ in seen) < 20
    assert len({(down, right) for *_, down, right in seen}) > 10
    again = train_models.Augmented(data, epoch=3, seed=1, batch_size=8)
    np.testing.assert_array_equal(again[2][0], drawn[2][0])
    assert not np.array_equal(train_models.Augmented(data, epoch=4, seed=1, batch_size=8)[2][0], drawn[2][0])


def shifted(image, down, right):
    size = len(image)
    result = np.zeros_like(image)
    rows, columns = (slice(max(0, by), min(size, size + by)) for by in (down, right))
    from_rows, from_columns = (slice(max(0, -by), min(size, size - by)) for by in (down, right))
    result[rows, columns] = image[from_rows, from_columns]
    return result


def test_learning_rate_rises_for_an_epoch_and_ends_with_epochs_or_minutes(train_models):
    schedule = train_models.Schedule(peak=0.5, epochs=10, steps=4, seconds=math.inf, spent=0)
    assert schedule.rate(0) == 0.125 and schedule.rate(10) == 0
    assert schedule.rate(5) == pytest.approx(0.25)
    late = train_models.Schedule(peak=0.5, epochs=10, steps=4, seconds=2e6, spent=1e6)  # half of the time is over
    assert late.rate(1) == pytest.approx(0.25) and late.rate(7.5) == schedule.rate(7.5)
    over = train_models.Schedule(peak=0.5, epochs=10, steps=4, seconds=10, spent=10)
    assert over.rate(1) == 0


def test_fused_normalisation_is_keras(train_models):
    x = np.random.default_rng(0).normal(1, 3, (6, 5, 4, 3)).astype(np.float32)
    for values in (x, x[:, 0, 0]):
        stock, fused = keras.layers.BatchNormalization(momentum=0.9), train_models.FusedNormalization(momentum=0.9)
        for training in (True, False):
            np.testing.assert_allclose(fused(values, training=training), stock(values, training=training), atol=2e-5)
        np.testing.assert_allclose(fused.moving_mean, stock.moving_mean, rtol=1e-5)
        np.testing.assert_allclose(fused.moving_variance, stock.moving_variance, rtol=1e-5)


def test_training_goes_on_where_it_was_stopped(train_models, tmp_path, monkeypatch):
    def build():
        layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.ReLU()]
        layers += [keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
        return keras.Sequential([keras.Input((12, 12, 3)), *layers])

    monkeypatch.setitem(train_models.RECIPES, "tiny", train_models.Recipe(build))
    data, results = images(), {}
    for name, calls in (("at once", 1), ("in two", 2)):
        folder = tmp_path / name
        folder.mkdir()
        for _ in range(calls):
            if name == "in two" and not (folder / "tiny.keras").exists():
                stop_after_first_epoch(train_models, monkeypatch, data, folder)
            else:
                results[name] = train_models.train("tiny", data, folder, 3, math.inf, 0, batch_size=8)
        lines = [json.loads(line) for line in (folder / "tiny.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2, 3]
        assert lines[0]["seconds"] < lines[1]["seconds"] < lines[2]["seconds"]
    assert {type(layer).__name__ for layer in results["in two"].layers} >= {"BatchNormalization", "Dense"}
    for one, two in zip(results["at once"].get_weights(), results["in two"].get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def stop_after_first_epoch(train_models, monkeypatch, data, folder):
    """As kill does: before anything of the second epoch is written."""
    with monkeypatch.context() as patch:
        second = train_models.Augmented.__init__

        def fail(self, data, epoch, seed, batch_size):
            second(self, data, epoch, seed, batch_size)
            if epoch == 1:
                raise KeyboardInterrupt

        patch.setattr(train_models.Augmented, "__init__", fail)
        with pytest.raises(KeyboardInterrupt):
            train_models.train("tiny", data, folder, 3, math.inf, 0, batch_size=8)


def test_no_time_left_writes_what_is_there(train_models, tmp_path, monkeypatch):
    network = keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    monkeypatch.setitem(train_models.RECIPES, "tiny", train_models.Recipe(lambda: network))
    train_models.train("tiny", images(), tmp_path, 5, 0.0, 0, batch_size=8)
    assert not (tmp_path / "tiny.jsonl").exists()


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2_slim", "densenet_slim"])
def test_a_step_of_each_network_of_ann_training(train_models, name):
    network = train_models.for_training(train_models.RECIPES[name].build())
    network.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(network.train_on_batch(np.random.default_rng(0).random((4, 32, 32, 3)), np.arange(4)))
    assert {"FusedNormalization"} == {type(each).__name__ for each in network.layers if "_norm" in each.name}
