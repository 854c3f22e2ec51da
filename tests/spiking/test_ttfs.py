"""Time to first spike, base method, against trajectories worked out by hand and closed forms (DESIGN 3)."""

import math

import numpy as np
import pytest
from conftest import drive, potentials
from keras import layers as kl

from spiking import get_encoding
from spiking.network.inputs import SingleEvent
from spiking.ttfs import IntegratorNeuronCell, LifNeuronCell, LifNeuronCellConv2D, LifNeuronCellMaxPool2D, classic

HALF = 1 / math.log(2)  # τ for which the leak α = exp(−1/τ) is 1/2


def event(x, timesteps):
    """x at t = 1, nothing afterwards: `(T, 1, …)`."""
    x = np.asarray(x, np.float32)
    return np.concatenate([x[None, None], np.zeros((timesteps - 1, 1, *x.shape), np.float32)])


def weighted(cell_type, kernel, bias, **options):
    kernel = np.asarray(kernel, np.float32)
    cell = cell_type([kl.Dense(kernel.shape[1], use_bias=False)], **options)
    cell.build((None, kernel.shape[0]))
    cell.synapse_layers[0].set_weights([kernel])
    cell.bias.assign(bias)
    return cell


def spike_times(spikes):
    """Time step (from 1) of the first spike of each neuron, 0 for none; `(T, …)` to `(…)`."""
    return np.where(spikes.any(axis=0), spikes.argmax(axis=0) + 1, 0)


# --- neurons ---


def test_neuron_by_hand():
    # One event of 3/4 at t = 1 stays on as current: V = .75 1.5 2.25 3 3.75 …; θ = 2 is reached at t = 3, once.
    spikes, states = drive(LifNeuronCell(bias=None, threshold=2.0), event([0.75], 6))
    assert spikes[:, 0, 0].tolist() == [0, 0, 1, 0, 0, 0]
    assert potentials(states)[:3, 0].tolist() == [0.75, 1.5, 2.25]


def test_leak_by_hand():
    # α = 1/2, event 1: V = 1, .5+1 = 1.5, .75+1 = 1.75, .875+1 = 1.875: θ = 1.75 is met exactly at t = 3.
    spikes, states = drive(LifNeuronCell(bias=None, threshold=1.75, tau=HALF), event([1.0], 5))
    assert spikes[:, 0, 0].tolist() == [0, 0, 1, 0, 0]
    assert potentials(states)[:4, 0].tolist() == [1, 1.5, 1.75, 1.875]


@pytest.mark.parametrize("tau", [2.0, 20.0])
def test_leak_closed_form(tau):
    # V(t) = z (1 − α^t)/(1 − α) ≤ z/(1 − α): what stays below that never fires.
    alpha, t, z = math.exp(-1 / tau), np.arange(1, 41), 0.8
    limit = z / (1 - alpha)
    spikes, states = drive(LifNeuronCell(bias=None, threshold=1.001 * limit, tau=tau), event([z], 40))
    np.testing.assert_allclose(potentials(states)[:, 0], z * (1 - alpha**t) / (1 - alpha), rtol=2e-6)
    assert not spikes.any()


def test_bias_is_added_once_a_step():
    # z = 0, b = 1/4, θ = 1: V = .25 .5 .75 1.0 → t = 4; a bias that joined g each step would fire at t = 3.
    # With the event arriving at t = 3 (W = 1/2): V = .25 .5 .5+.75 = 1.25 → t = 3.
    cell = weighted(LifNeuronCell, [[0.5]], [0.25], threshold=1.0)
    quiet, states = drive(cell, np.zeros((6, 1)), batched=False)
    assert quiet[:, 0].tolist() == [0, 0, 0, 1, 0, 0]
    assert potentials(states)[:4, 0].tolist() == [0.25, 0.5, 0.75, 1.0]
    late, _ = drive(cell, [[0], [0], [1], [0], [0], [0]], batched=False)
    assert late[:, 0].tolist() == [0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("threshold", [1.0, 2.5, 10.0])
def test_first_layer_closed_form(threshold):
    # t = ⌈θ/z⌉ for z > 0 if that is in time, else silent; z = W x + b
    z, timesteps = np.arange(-1, 1.5 * threshold, 1 / 16), 40
    for bias in (0.0, 0.125):
        cell = LifNeuronCell(threshold=threshold)
        cell.build((None, z.size))
        cell.bias.assign(np.full(z.size, bias))
        spikes, _ = drive(cell, event(z - bias, timesteps))
        with np.errstate(divide="ignore"):
            expected = np.where(z > 0, np.ceil(threshold / z), 0)
        expected = np.where(expected > timesteps, 0, expected)
        np.testing.assert_array_equal(spike_times(spikes[:, 0]), expected)
        np.testing.assert_array_equal(spikes[:, 0].sum(axis=0), expected > 0)  # one spike or none


# --- two layers ---

# Layer 1, θ = 2, z = (1, 1/2, −1): spikes at 2, 4, never.
FIRST = [1.0, 0.5, -1.0]
# Layer 2, θ = 2, one column a neuron; the third input never comes.
#   A  w = (1, −1/4), b = 0:     V = 0 1 2*              fires at 3, before its negative input comes at 4
#   B  w = (1/2, 3/4), b = 1/8:  V = .125 .75 1.375 2.75*      fires at 4
#   C  w = (1/2, −1), b = 1/4:   V = .25 1 1.75 1.5 1.25 …     never
#   D  w = (−1, 1), b = 1/2:     V = .5 0 −.5 0 .5 1 1.5 2*    fires at 8
KERNEL = np.array([[1, 0.5, 0.5, -1], [-0.25, 0.75, -1, 1], [8, 8, 8, 8]])
BIAS = np.array([0, 0.125, 0.25, 0.5])


def test_two_layers_by_hand():
    first, _ = drive(LifNeuronCell(bias=None, threshold=2.0), event(FIRST, 12))
    assert spike_times(first[:, 0]).tolist() == [2, 4, 0]
    second, states = drive(weighted(LifNeuronCell, KERNEL, BIAS, threshold=2.0), first)
    assert spike_times(second[:, 0]).tolist() == [3, 4, 0, 8]
    assert second.sum(axis=0)[0].tolist() == [1, 1, 0, 1]
    v = potentials(states)
    assert v[:3, 0].tolist() == [0, 1, 2]
    assert v[:4, 1].tolist() == [0.125, 0.75, 1.375, 2.75]
    assert v[:5, 2].tolist() == [0.25, 1, 1.75, 1.5, 1.25]
    assert v[:8, 3].tolist() == [0.5, 0, -0.5, 0, 0.5, 1, 1.5, 2]


def test_silent_ever_after():
    # Whatever still comes after the spike: strong input, negative input, long time.
    x = np.zeros((30, 1, 1))
    x[0], x[5], x[10], x[15] = 1, 8, -20, 40
    spikes, _ = drive(LifNeuronCell(bias=None, threshold=1.0), x)
    assert spikes[:, 0, 0].tolist() == [1] + 29 * [0]


def first_crossing(weights, times, bias, threshold):
    """The continuous model: t_i = (θ + Σ_Γ w t)/(Σ_Γ w + b), Γ the inputs before t_i."""
    order = np.argsort(times)
    for n in range(len(order) + 1):
        gamma, start = order[:n], times[order[n - 1]] if n else 0.0
        end = times[order[n]] if n < len(order) else np.inf
        slope = weights[gamma].sum() + bias
        t = (threshold + weights[gamma] @ times[gamma]) / slope if slope > 0 else np.inf
        if start <= t <= end:
            return t
    return np.inf


def test_approaches_continuous_time():
    # A threshold θK in steps of 1/K. Each input comes less than a step late, and a spike acts from its own step on,
    # so |t/K − t_i| < (1 + Σ_Γ|w|/(Σ_Γ w + b))/K: the error falls as 1/K.
    z, w, b = np.array([1.0, 0.5, 0.8]), np.array([[0.6], [0.9], [-0.2]]), 0.1
    target = first_crossing(w[:, 0], 1 / z, b, 1.0)
    assert target == pytest.approx((1 + 0.6 * 1 + 0.9 * 2 - 0.2 * 1.25) / (0.6 + 0.9 - 0.2 + 0.1))
    for k in (16, 64, 256):
        first, _ = drive(LifNeuronCell(bias=None, threshold=float(k)), event(z, 3 * k))
        second, _ = drive(weighted(LifNeuronCell, w, [b], threshold=float(k)), first)
        error = abs(spike_times(second[:, 0])[0] / k - target)
        assert error < (1 + 1.7 / 1.4) / k


# --- feature maps ---


def test_conv2d_by_hand():
    # Kernel (1, −1/2): W∗x = .375 .25 / .75 0; b = 1/8: z = .5 .375 / .875 .125; θ = 1: t = ⌈θ/z⌉ = 2 3 / 2 8
    cell = LifNeuronCellConv2D([kl.Conv2D(1, (1, 2), use_bias=False)], threshold=1.0)
    cell.build((None, 2, 3, 1))
    cell.synapse_layers[0].set_weights([np.array([1, -0.5], np.float32).reshape(1, 2, 1, 1)])
    cell.bias.assign([0.125])
    spikes, _ = drive(cell, event(np.array([[0.5, 0.25, 0.0], [1.0, 0.5, 1.0]])[..., None], 9))
    assert spike_times(spikes[:, 0, ..., 0]).tolist() == [[2, 3], [2, 8]]
    assert spikes.sum() == 4


def test_max_pool_passes_the_first_spike_by_hand():
    # Windows of two neurons, as columns: spikes at (4, 2) → 2; (0, 3) → 3; (0, 0) → silent; (5, 5) → 5. Once each.
    # sign −1, the latest: (4, 2) → 4; (0, 3) → silent, for one never comes; (0, 0) → silent; (5, 5) → 5.
    times = np.array([[4, 0, 0, 5], [2, 3, 0, 5]])
    x = (np.arange(1, 8)[:, None, None, None] == times[None, :, :, None]).repeat(2, axis=-1)
    cell = LifNeuronCellMaxPool2D(pool=kl.MaxPooling2D((2, 1)), sign=[1, -1])
    passed, _ = drive(cell, x, batched=False)
    assert spike_times(passed)[0, :, 0].tolist() == [2, 3, 0, 5]
    assert spike_times(passed)[0, :, 1].tolist() == [4, 0, 0, 5]
    assert passed.sum(axis=0).max() == 1 and passed.min() == 0


def test_max_pool_without_sign_is_the_first_spike():
    times = np.random.default_rng(0).integers(0, 10, (6, 6))
    x = np.arange(1, 11)[:, None, None, None] == times[None, :, :, None]
    passed, _ = drive(LifNeuronCellMaxPool2D(pool=kl.MaxPooling2D(2)), x, batched=False)
    windows = times.reshape(3, 2, 3, 2).transpose(0, 2, 1, 3).reshape(3, 3, 4)
    expected = np.where(windows == 0, 99, windows).min(axis=-1)
    np.testing.assert_array_equal(spike_times(passed)[..., 0], np.where(expected == 99, 0, expected))
    assert passed.sum(axis=0).max() == 1


# --- read-out ---


def test_integrator_by_hand():
    # W = 1/2, b = 1/4, spike at t = 2: V = .25, .25+.75 = 1, 1.75, 2.5; V/t = .25 .5 1.75/3 .625
    cell = weighted(IntegratorNeuronCell, [[0.5]], [0.25])
    output, states = drive(cell, [[0], [1], [0], [0]], batched=False)
    assert potentials(states)[:, 0].tolist() == [0.25, 1, 1.75, 2.5]
    np.testing.assert_array_equal(output[:, 0], np.float32([0.25, 0.5, 1.75 / 3, 0.625]))


def test_integrator_activation():
    output, _ = drive(IntegratorNeuronCell(bias=None, activation="softmax"), event([1.0, 2.0], 3))
    np.testing.assert_allclose(output[-1, 0], [1 / (1 + math.e), math.e / (1 + math.e)], rtol=1e-6)


# --- input, activity, settings ---


def test_image_enters_as_one_event():
    image = np.random.default_rng(0).random((2, 3, 3, 1)).astype(np.float32)
    steps = SingleEvent(timesteps=4)(image).numpy()
    np.testing.assert_array_equal(steps[:, 0], image)
    assert steps.shape == (2, 4, 3, 3, 1) and not steps[:, 1:].any()


def test_activity_is_the_share_of_time_the_receiver_is_supplied():
    # T = 4: a spike at t = 1 supplies all four steps, one at t = 4 a single one.
    code = get_encoding("ttfs").configured(4)
    times = np.array([0, 1, 2, 4], np.float32)
    activity = code.activity(np.minimum(times, 1), times)
    np.testing.assert_array_equal(np.asarray(activity), [0, 1, 0.75, 0.25])


def test_defaults():
    settings = get_encoding("ttfs").get_config()
    assert (settings["timesteps"], settings["threshold"], settings["tau"]) == (120, None, math.inf)


@pytest.mark.parametrize("name", ["ttfs", "ttfs_dyn_thresh", "ttfs_clamped"])
def test_the_threshold_follows_from_the_steps_and_the_depth(name):
    """θ = T/(4 + depth): docs/DEFAULTS.md."""
    code = get_encoding(name)
    assert code.at_depth(4).threshold == 15
    assert code.configured(60).at_depth(1).threshold == 12
    assert code.configured(60, 10.0).at_depth(1).threshold == 10
    assert (code.norm_percentile, code.per_channel) == (99.0, True)
    assert code.configured(120, classic()["threshold"]).at_depth(4).threshold == 10


def test_deep_networks_are_warned_of():
    code = get_encoding("ttfs").configured(100, 10.0)
    assert code.remarks(10) == []
    (remark,) = code.remarks(11)
    assert "timesteps=100" in remark and "threshold=10" in remark


def test_a_threshold_too_low_for_the_time_steps_is_warned_of():
    """2 layers of neurons lose least at T/θ = 6: given without T, which is 120, θ = 20 is best and 10 just bearable."""
    code = get_encoding("ttfs").configured(threshold=10.0)
    assert code.remarks(2) == []
    (remark,) = get_encoding("ttfs").configured(threshold=9.0).remarks(2)
    assert "threshold=9 at timesteps=120" in remark and "threshold of 20" in remark and "54 time steps" in remark


@pytest.mark.parametrize(
    "options, message", [({"threshold": 0.0}, "threshold=0.0"), ({"tau": -1.0}, "tau=-1.0"), ({"tau": 0}, "tau=0")]
)
def test_cell_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LifNeuronCell(**options)


def test_settings_refuse_options_of_other_codes():
    with pytest.raises(ValueError, match="initial_potential=0.5"):
        get_encoding("ttfs").configured(10, initial_potential=0.5)
