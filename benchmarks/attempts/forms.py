"""Images, layers and networks in other forms; refusals."""

from attempts import attempt, chain, convert, dense, difference, layers, pictures, relative

FORMS = "Forms of images"


def _pictures_as(dtype):
    import numpy as np

    kl = layers()
    ann = chain((6, 6, 1), kl.Rescaling(1 / 255), kl.Conv2D(3, 3, activation="relu"), kl.Flatten(), kl.Dense(3))
    x = pictures(6, 6, 1)
    x = x > 0.5 if dtype == "bool" else (255 * x).astype(dtype)
    snn = convert(ann, x.astype(np.float32), timesteps=256)
    return relative(snn.predict(x, verbose=0), ann.predict(x, verbose=0))


@attempt(FORMS, "uint8", "test_images_of_any_dtype_and_without_the_channel_axis")
def images_uint8():
    return _pictures_as("uint8")


@attempt(FORMS, "bool", "test_images_of_any_dtype_and_without_the_channel_axis")
def images_bool():
    return _pictures_as("bool")


@attempt(FORMS, "`(n, H, W)` for one channel", "test_images_of_any_dtype_and_without_the_channel_axis")
def images_without_channel():
    kl = layers()
    ann = chain((6, 6, 1), kl.Conv2D(3, 3, activation="relu"), kl.Flatten(), kl.Dense(3))
    x = pictures(6, 6)
    return relative(convert(ann, x, timesteps=256)(x), ann(x[..., None]))


@attempt(FORMS, "The mixed_float16 policy", "test_under_another_policy")
def mixed_policy():
    import keras

    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return difference(chain((4,), dense(), layers().Dense(3)), pictures(4), timesteps=256)
    finally:
        keras.mixed_precision.set_global_policy("float32")


@attempt(FORMS, "Calibration as `(x, y)`", "test_the_same_images_from_every_form", "test_calibration_takes_every_form")
def pairs():
    import numpy as np

    ann, x = chain((4,), dense(), layers().Dense(3)), pictures(4)
    return relative(convert(ann, (x, np.zeros(len(x), int)), timesteps=256)(x), ann(x))


@attempt(FORMS, "A `keras.utils.PyDataset`", "test_the_same_images_from_every_form")
def py_dataset():
    import keras
    import numpy as np

    x = pictures(4)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, k):
            return x[16 * k : 16 * k + 16], np.zeros(16, int)

    ann = chain((4,), dense(), layers().Dense(3))
    return relative(convert(ann, Batches(), timesteps=256)(x), ann(x))


@attempt(
    FORMS, "Data without end, `ds.repeat()`: refused", "test_a_generator_that_never_ends_is_stopped", "test_refused"
)
def endless():
    import tensorflow as tf

    convert(chain((4,), dense(), layers().Dense(3)), tf.data.Dataset.from_tensor_slices(pictures(4)).batch(16).repeat())
    return "taken"


@attempt(FORMS, "A network with a dict of outputs in `verify`", "test_outputs_in_a_dict", "test_outputs_in_a_dict")
def dict_output():
    import keras

    from conversion import verify

    x = keras.Input((4,))
    hidden = dense()(x)
    ann = keras.Model(x, {"a": layers().Dense(3)(hidden)})
    return f"same class {verify(ann, convert(ann, pictures(4)), pictures(4)).same_class:.0%}"


NAMES = "Other words for the same"


@attempt(NAMES, "`activation=tf.nn.relu`", "test_a_relu_under_another_name")
def relu_of_tensorflow():
    import tensorflow as tf

    return difference(chain((4,), dense(activation=tf.nn.relu), layers().Dense(3)), pictures(4), timesteps=256)


@attempt(NAMES, "A read-out with `keras.ops.softmax`", "test_any_activation_at_the_end")
def softmax_of_ops():
    import keras

    return difference(chain((4,), dense(), dense(3, keras.ops.softmax)), pictures(4), timesteps=256)


@attempt(NAMES, "A layer object used three times", "test_a_layer_used_three_times")
def used_thrice():
    import keras

    x, shared = keras.Input((4,)), dense(4)
    keras.utils.set_random_seed(3)
    return difference(keras.Model(x, layers().Dense(3)(shared(shared(shared(x))))), pictures(4), timesteps=256)


@attempt(NAMES, "Layers called `_hidden`, `input_spikes`, `a b`", "test_names_that_are_also_ours")
def names_of_layers():
    ann = chain((4,), dense(name="_hidden"), dense(name="input_spikes"), dense(name="a b"), layers().Dense(3))
    return difference(ann, pictures(4), timesteps=256)


@attempt(NAMES, "`Dense(sigmoid)`, then `Reshape`", "test_values_that_are_only_moved_behind_the_last_activation")
def reshaped_read_out():
    ann = chain((4,), dense(), dense(4, "sigmoid"), layers().Reshape((2, 2)))
    return difference(ann, pictures(4), timesteps=256)


@attempt(NAMES, "`RandomFlip`", "test_augmentation_is_dropped")
def augmentation():
    kl = layers()
    ann = chain((6, 6, 1), kl.RandomFlip(), kl.Conv2D(3, 3, activation="relu"), kl.Flatten(), kl.Dense(3))
    return difference(ann, pictures(6, 6, 1), timesteps=256)


@attempt(NAMES, "`MaxPooling3D`", "test_layers_of_volumes_and_sequences")
def volumes():
    kl = layers()
    ann = chain((4, 4, 4, 1), kl.Conv3D(2, 1, activation="relu"), kl.MaxPooling3D(2), kl.Flatten(), kl.Dense(3))
    return difference(ann, pictures(4, 4, 4, 1), timesteps=256)


REFUSALS = "Refusals that help"


@attempt(REFUSALS, "LoRA: merged", "test_lora_is_merged")
def lora():
    import numpy as np

    ann = chain((4,), dense(name="a"), layers().Dense(3))
    ann.layers[0].enable_lora(2)
    for weight in ann.layers[0].trainable_weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    return difference(ann, pictures(4), timesteps=256)


@attempt(REFUSALS, "An int8-quantised layer: refused by its name", "test_what_gives_no_numbers_is_refused_by_name")
def quantised():
    ann = chain((4,), dense(name="a"), layers().Dense(3))
    ann.layers[0].quantize("int8")
    return difference(ann, pictures(4))


@attempt(REFUSALS, '`snn.save("x.h5")`: refused with the remedy, or a file that loads', "test_hdf5_is_refused")
def hdf5():
    import keras

    convert(chain((4,), dense(), layers().Dense(3)), pictures(4)).save("x.h5")
    keras.models.load_model("x.h5")
    return "saved and loaded"


@attempt(REFUSALS, "A model of Keras 2: named, with the way out", "test_models_of_keras_2_are_named_with_the_way_out")
def keras_2():
    model = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})
    return convert(model(), pictures(4))


@attempt(
    REFUSALS,
    "Three layers that cannot be converted: all are named",
    "test_all_that_cannot_be_converted_is_listed_at_once",
)
def all_at_once():
    kl = layers()
    ann = chain((4,), kl.LayerNormalization(name="first"), dense(activation=None, name="second"),
                kl.LayerNormalization(name="third"), kl.GroupNormalization(2, name="fourth"), kl.Dense(3))  # fmt: skip
    try:
        convert(ann, pictures(4))
    except ValueError as error:
        return "named: " + ", ".join(name for name in ("first", "third", "fourth") if f"'{name}'" in str(error))
    return "taken"


@attempt(
    REFUSALS,
    "uint16 images: not to be cast to uint8, which destroys them",
    "test_the_remedies_lead_to_data_that_is_taken",
)
def uint16_images():
    import numpy as np

    from ann_training import load_dataset

    x, y = (pictures(4, 4, number=20) * 60000).astype(np.uint16), np.arange(20) % 3
    return load_dataset(((x, y), (x, y))).name
