"""The networks that speed is measured on; TensorFlow is loaded when one is asked for, in the process that runs it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MLP, LENET, VGG = "denseonly1", "lenet5_maxpool", "vgg16_slim_cifar10"
RESNET, MOBILENET = "resnet20_cifar10", "mobilenetv2_slim_cifar10"


def trained_network(name: str):
    """A trained network by its name, and its data; the deep ones are in the repository, the others are trained once."""
    import keras

    import ann_training

    path = ROOT / "benchmarks" / "models" / f"{name}.keras"
    if path.exists():
        network = keras.models.load_model(path, compile=False)
        return network, ann_training.load_dataset("cifar10", max_images=4000)
    data = ann_training.load_dataset("mnist_sample")
    training = ann_training.Training(epochs=3, ann_cache_dir=ROOT / "experiments" / "anns")
    return ann_training.train_network(name, training, data.train, data.test), data
