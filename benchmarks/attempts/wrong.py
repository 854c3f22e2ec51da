"""Wrong results, silently."""

from attempts import attempt, chain, convert, dense, difference, layers, pictures, relative

POOLS = "Maxima of what is no spike"


def stock(snn, x):
    """By stock Keras' own layers."""
    import keras

    if hasattr(snn, "wiring"):
        return keras.Model(snn.inputs, snn.outputs)([x])
    return keras.Sequential([keras.Input(x.shape[1:]), *snn.layers])(x)


@attempt(
    POOLS,
    "`AveragePooling` then `MaxPooling`, pixels 1, 0, ½, ½: ½ by clock, closed form and ANN",
    "test_average_then_maximum",
    "test_the_difficult_orders_come_up",
)
def average_then_maximum():
    import numpy as np

    kl = layers()
    ann = chain((4, 1, 1), kl.Conv2D(1, 1, activation="relu"), kl.AveragePooling2D((2, 1)), kl.MaxPooling2D((2, 1)),
                kl.Flatten(), kl.Dense(1))  # fmt: skip
    for layer in (ann.layers[0], ann.layers[-1]):
        layer.set_weights([np.ones_like(layer.get_weights()[0]), np.zeros(1)])
    x = np.array([1, 0, 0.5, 0.5], np.float32).reshape(1, 4, 1, 1)
    snn = convert(ann, x, timesteps=4, normalisation="max", per_channel=False)
    return f"clock {float(stock(snn, x)[0, 0]):g}, closed form {float(snn(x)[0, 0]):g}"


@attempt(POOLS, "`MaxPooling` over channels with a λ each", "test_a_maximum_over_channels_needs_neurons")
def maximum_over_channels():
    import numpy as np

    kl = layers()
    ann = chain((4, 4, 2), kl.Conv2D(2, 1, activation="relu"), kl.Permute((3, 1, 2)), kl.MaxPooling2D(2), kl.Flatten(),
                kl.Dense(2))  # fmt: skip
    ann.layers[0].set_weights([np.diag([0.5, 4.0]).reshape(1, 1, 2, 2), np.zeros(2)])
    x = pictures(4, 4, 2)
    return difference(ann, x, normalisation="max", per_channel=True)


@attempt(
    "Affine layers in front",
    "`Normalization` adapted on a feature that never changes: the ANN's own output",
    "test_a_feature_that_never_changes_stays_where_it_is",
)
def constant_feature():
    kl, x = layers(), pictures(4)
    x[:, 0] = 0.7
    normalisation = kl.Normalization()
    normalisation.adapt(x)
    return difference(chain((4,), normalisation, dense(), kl.Dense(3)), x)


OWN_CALL = "A `call` of one's own"


@attempt(
    OWN_CALL,
    "A subclass of `Sequential` that halves: the same within rounding, or refused",
    "test_a_sequential_with_its_own_call_is_traced_and_not_taken_for_its_layers",
)
def own_sequential():
    import keras

    class Halving(keras.Sequential):
        def call(self, x, training=None, mask=None):
            return 0.5 * super().call(x)

    return difference(Halving([keras.Input((4,)), dense(), layers().Dense(3)]), pictures(4))


@attempt(
    OWN_CALL,
    "A subclass of a functional model that negates: the same, or refused",
    "test_a_functional_model_with_its_own_call_is_traced",
)
def own_functional():
    import keras

    class Negating(keras.Model):
        def call(self, x, training=None, mask=None):
            return -super().call(x)

    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    return difference(Negating(x, layers().Dense(3)(dense()(x))), pictures(4))


UNITS = "Activations far from 1"


@attempt(
    UNITS,
    "A layer's weights times 1e8, the next one's times 1e−8: the same function",
    "test_layers_in_other_units_convert_to_the_same_network",
)
def large_units():
    return _other_units(1e8)


@attempt(UNITS, "… times 1e−8 and 1e8", "test_layers_in_other_units_convert_to_the_same_network")
def small_units():
    return _other_units(1e-8)


def _other_units(factor):
    ann, x = chain((8,), dense(), layers().Dense(3)), pictures(8)
    first, last = (ann.layers[k].get_weights() for k in (0, 1))
    ann.layers[0].set_weights([first[0] * factor, first[1] * factor])
    ann.layers[1].set_weights([last[0] / factor, last[1]])
    return difference(ann, x)


COUNTS = "More than numbers count"


@attempt(COUNTS, "timesteps=2³¹: refused", "test_more_steps_than_can_be_counted_are_refused_before_any_work")
def many_steps():
    ann = chain((4,), dense(), dense(), layers().Dense(3))
    return difference(ann, pictures(4), encoding="rate", timesteps=2**31)


@attempt(COUNTS, "A threshold of 1e40: refused", "test_thresholds_that_float32_cannot_count_with_are_refused")
def huge_threshold():
    return difference(chain((4,), dense(), layers().Dense(3)), pictures(4), encoding="rate", threshold=1e40)


EDGES = "Networks at the edge"


@attempt(EDGES, "`ReLU(max_value=0)`: refused", "test_what_gives_no_numbers_is_refused_by_name")
def ceiling_of_zero():
    kl = layers()
    ann = chain((4,), kl.Dense(4), kl.ReLU(max_value=0.0), kl.Dense(3))
    return convert(ann, pictures(4), encoding="rate")(pictures(4))[0].numpy()


@attempt(EDGES, "`verify` and analysis of a network without hidden neurons", "test_a_network_without_hidden_neurons")
def no_neurons():
    import numpy as np

    from conversion import snn_activation_analysis, verify

    ann, x = chain((4,), layers().Dense(3)), pictures(4)
    snn = convert(ann, x, "rate")
    told = f"largest difference {verify(ann, snn, x).largest_difference:.1g}"
    snn_activation_analysis(snn, x, np.zeros(len(x), int))
    return told


@attempt(EDGES, "Images of another size: refused, as the ANN does", "test_images_of_another_size_are_refused")
def other_size():
    kl = layers()
    ann = chain((8, 8, 1), kl.Conv2D(2, 3, activation="relu"), kl.GlobalAveragePooling2D(), kl.Dense(2))
    return f"taken, {convert(ann, pictures(8, 8, 1)).simulate(pictures(12, 12, 1)).output.shape}"


@attempt(EDGES, "BatchNorm with a negative variance: refused", "test_what_gives_no_numbers_is_refused_by_name")
def negative_variance():
    kl = layers()
    ann = chain((4,), kl.Dense(4), kl.BatchNormalization(), kl.ReLU(), kl.Dense(3))
    ann.layers[1].moving_variance.assign([-1.0] * 4)
    return convert(ann, pictures(4))(pictures(4))[0].numpy()


@attempt(EDGES, "`verify` where the ANN gives NaN: said so", "test_an_ann_that_gives_nan")
def nan_of_the_ann():
    import numpy as np

    from conversion import verify

    ann, x = chain((4,), dense(), dense(3, "softmax")), pictures(4)
    snn = convert(ann, x)
    ann.layers[0].set_weights([np.full((4, 8), 1e38), np.zeros(8)])
    ann.layers[1].set_weights([np.full((8, 3), 1e38), np.zeros(3)])
    return str(verify(ann, snn, x)).replace("\n", " ")


TASKS = "Tasks without classes"


@attempt(
    TASKS,
    "`verify`, one sigmoid unit, against an SNN that says the opposite: below 100%",
    "test_one_probability_has_a_threshold",
)
def opposite_answers():
    from conversion import verify

    x = pictures(4)
    ann = chain((4,), dense(), layers().Dense(1, activation="sigmoid"))
    opposite = chain((4,), dense(), layers().Dense(1, activation="sigmoid"))
    opposite.set_weights([*ann.get_weights()[:2], -ann.get_weights()[2], 1 - ann.get_weights()[3]])
    ann.layers[-1].bias.assign([-1.0])
    opposite.layers[-1].bias.assign([3.0])
    return f"same class {verify(ann, convert(opposite, x), x).same_class:.0%}"


@attempt(TASKS, "Labels 0 and 1 of one sigmoid unit", "test_one_sigmoid_unit_says_yes_above_a_half")
def labels_of_one_unit():
    import numpy as np

    from conversion import ann_accuracy

    ann, x = chain((4,), dense(), layers().Dense(1, activation="sigmoid")), pictures(4)
    labels = (np.asarray(ann(x))[:, 0] > 0.5).astype(int)
    labels[:2] = 0, 1
    return f"accuracy {ann_accuracy(ann, x, labels):.0%}"


@attempt(TASKS, "All labels 0, one sigmoid unit that says yes: 0%", "test_one_sigmoid_unit_says_yes_above_a_half")
def labels_of_zero():
    import numpy as np

    from conversion import ann_accuracy

    ann, x = chain((4,), dense(), layers().Dense(1, activation="sigmoid")), pictures(4)
    ann.layers[-1].bias.assign([9.0])
    return f"accuracy {ann_accuracy(ann, x, np.zeros(len(x), int)):.0%}"


@attempt(TASKS, "`diagnose` on an image output: no share above 100%", "test_an_image_output_has_no_share_above_all")
def diagnosed_image():
    from conversion import diagnose

    kl = layers()
    ann, x = chain((8, 8, 1), kl.Conv2D(4, 3, padding="same", activation="relu"), kl.Conv2D(2, 1)), pictures(8, 8, 1)
    return str(diagnose(ann, convert(ann, x), x)).split("\n")[0]


CALIBRATION = "A calibration that does not fit"


@attempt(
    CALIBRATION,
    '`normalisation="max"` beside a finished one: refused',
    "test_settings_that_contradict_a_finished_calibration_are_refused",
)
def contradicted():
    from conversion import calibrate

    ann, x = chain((4,), dense(), layers().Dense(3)), pictures(4)
    convert(ann, calibrate(ann, x), normalisation="max", norm_percentile=50.0)
    return "taken, the settings ignored"


@attempt(
    CALIBRATION,
    "One of another network with the same layer names: refused",
    "test_another_network_with_the_same_names_is_refused",
)
def of_another_network():
    from conversion import calibrate

    x = pictures(4)
    ann, other = (chain((4,), dense(name="a"), layers().Dense(3, name="b"), seed=seed) for seed in (0, 1))
    other.layers[0].set_weights([weight / 100 for weight in other.layers[0].get_weights()])
    return f"taken, {relative(convert(ann, calibrate(other, x))(x), ann(x))}"


@attempt(
    CALIBRATION,
    "Images in [0, 255] on a network calibrated in [0, 1]: warned of, with both ranges",
    "test_images_of_another_scale_than_the_calibrations",
)
def other_scale():
    import numpy as np

    from conversion import snn_accuracy

    ann, x = chain((4,), dense(), layers().Dense(3)), pictures(4)
    snn_accuracy(convert(ann, x), 255 * x, np.zeros(len(x), int))
    return "taken"


@attempt(CALIBRATION, "`norm_percentile=0.999`, meant as 99.9: warned of", "test_a_low_percentile_is_warned_of")
def low_percentile():
    convert(chain((4,), dense(), layers().Dense(3)), pictures(4), normalisation="percentile", norm_percentile=0.999)
    return "taken"


@attempt(CALIBRATION, "Weights of nearly dead channels, λ per channel: bounded", "test_the_floor_bounds_the_weights")
def dead_channels():
    import numpy as np

    ann, x = chain((4,), dense(4), layers().Dense(3)), pictures(4)
    kernel, bias = np.eye(4), np.zeros(4)
    bias[0] = 0.002 - x[:, 0].max()
    ann.layers[0].set_weights([kernel, bias])
    snn = convert(ann, x, normalisation="max", per_channel=True)
    largest = max(float(np.abs(np.asarray(weight)).max()) for weight in snn.hidden_layers[0].get_weights())
    return f"largest weight {largest:.3g}, the others 1"
