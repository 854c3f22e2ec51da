"""The words of docs/DEEP.md; its numbers are those of benchmarks/deep_page.py."""

TITLES = {
    "vgg16_slim_cifar10": "VGG-16, a quarter of its width: max pooling, BatchNorm before the activation",
    "resnet20_cifar10": "ResNet-20: identity and projection shortcuts",
    "strided_cifar10": "13 layers: strided convolutions, average pooling, BatchNorm behind the activation",
    "mobilenetv2_slim_cifar10": "MobileNetV2, slim: inverted bottlenecks, depthwise convolutions, linear Adds",
    "densenet_slim_cifar10": "DenseNet, slim: every layer listens to all before it",
    "efficientnet_lite0_imagenet": "EfficientNet-Lite0, ImageNet, 33 layers of neurons, on crops of natural images",
    "crepe_tiny": "CREPE, pitch of synthetic tones, right within 50 cents",
    "quantised_cifar10": "a small VGG, trained with activations of 8 levels",
}
SHORT = {
    "vgg16_slim_cifar10": "VGG-16, quarter width",
    "resnet20_cifar10": "ResNet-20",
    "strided_cifar10": "strided, 13 layers",
    "mobilenetv2_slim_cifar10": "MobileNetV2, slim",
}
# Windows of a simulation, the image's among them, of networks of which no line tells it: layers of neurons and 1.
WINDOWS = {"vgg16_slim_cifar10": 15, "resnet20_cifar10": 20, "strided_cifar10": 13}
# What the ANN does, where that is not its accuracy.
ANN = {
    "efficientnet_lite0_imagenet": "right is the class that the ANN names",
    "crepe_tiny": "ANN: {right:.1%} of {images} tones",
}

BEGIN = """# Deep networks at few steps

Trained networks, converted without retraining and without labels, on whole test sets: how much accuracy is lost, after
how many time steps, for how many spikes and operations. CIFAR-10, 10000 test images, unless it says otherwise.

![Loss over time steps in all](pictures/deep_latency.png)

![Loss over operations](pictures/deep_operations.png)

**Steps in all**: of the whole simulation; codes with windows take a window for each layer of neurons and one for the
image. **Operations**: additions at synapses, Σ spikes × fan-out; where a step holds several spikes, MACs instead, which
are in the energy. **Energy**: MACs and additions of the SNN over the MACs of the dense ANN, 45 nm (Horowitz 2014), in
32-bit floating point and in 8-bit integers for both; memory and neuron updates left out (MobileNetV2 under
codes with windows: too high, an open fault of the count between two linear convolutions). **Loss**: ± one standard
error, from the images that only one of both gets right; ≤ where it is the most it can be. **ANN of N levels**: the ANN
with its activations rounded, which is what a code with windows computes: as many levels, as many MACs as there are
weights at activations that are not 0, and no time steps. Compare with that, not only with the dense ANN."""

WHAT_TO_TAKE = """## What to take when

- **Accuracy, and no hurry**: `radix` with 6 digits, 63 levels: the ANN's accuracy but for 0.00 to 0.12 points on the
  networks here, for about one spike a neuron, in six steps for each layer.
- **Fewest spikes**: `ttfs_exact`. At most one spike a neuron, half of them silent; N steps for each layer, so the
  deeper the network, the longer it takes. `radix` gives the same levels in fewer steps for twice the spikes.
- **Few levels**: with 15 or 16 expect 0.3 to 0.8 points of loss, with 7 or 8 a point to one and a half. There the
  default corrects; on 10000 calibration images instead of 1000 the VGG loses 0.75 to 1.01 at 8 levels.
- **Fewest steps in all**: `rate` with negative spikes, 8 to 16 steps whatever the depth, if the hardware can send them;
  with several spikes a step, 4 steps, but then a spike carries a number, and a synapse multiplies.
- **Single unsigned spikes, no windows**: `rate` with `spiking.rate.low_latency`, 32 to 64 steps. It sends more
  additions than the ANN has MACs from there on.
- **Never on deep networks**: `ttfs`, `ttfs_dyn_thresh`; neurons that fire before their inputs have come leave a deep
  network at chance. `ttfs_clamped` needs a network that was trained for it.
- **In a simulation on a CPU**, codes with windows cost one forward pass, however many steps they stand for; `rate`
  costs T."""

BOUGHT = """## What a CPU second buys

The VGG, one pinned core, batches of 100 images; speeds of PERFORMANCE.md, with negative spikes those of
`benchmarks/signed.py --cost`. A forward pass of the ANN over 1000 images takes 0.2 s."""

LITERATURE = """## Beside the literature

Unsigned `rate` without retraining, ImageNet, as the papers print it; none of them has these networks, and CIFAR-10 is
the easier task, so this is for the shape, not for a contest.

| method | network, ANN | T = 32 | 64 | 128 | 256 | 512 |
| --- | --- | --- | --- | --- | --- | --- |
| threshold balancing, Bu 2025 | MobileNetV2, 71.88 | 19.39 | 49.93 | 64.31 | 68.89 | 70.48 |
| threshold balancing, Bu 2025 | ResNet-34, 73.31 | 64.88 | 71.17 | 72.30 | | |
| calibration, Li 2021 | MobileNetV1, 73.40 | 0.20 | 15.47 | 55.95 | 66.35 | 72.19 |

Networks with depthwise convolutions are where rate codes fail. With windows the MobileNetV2 above keeps its accuracy
like the others: the neurons of a window code wait until their inputs are complete."""

PROTOCOL = """## Protocol

`python benchmarks/deep.py` measures what is missing and writes this page; each portion of images is a line of
docs/deep.jsonl. Recipes: *default* is what `convert_ann_to_snn` does if nothing is said, calibrated on the first 1000
training images (`rate`: 10000; other networks than CIFAR-10's: 64 other crops or tones); the second and third draw
take the next thousands. *Uncorrected* is `correction="none"`: with at most 8 levels the default fits gains, shifts
and λ of every channel to the ANN's output (docs/CALIBRATION.md). *Low latency* is `spiking.rate.low_latency`: V(0) =
θ/2, the read-out ignores the first half; *mse*: θ by least mean square error for T levels instead of the 99.9%
percentile. *Signed*: negative spikes, all steps read out. *Classic*: V(0) = 0. "…, 10000 images": windows calibrated on
so many, as an earlier version of this page was; *mirrored*: each of them mirrored or not by chance in every pass.
*bfloat16*: synapses between hidden layers in that dtype. CPU seconds: of the process that simulates, one thread, on a
machine with other work on it.

The lines of `rate` with negative spikes are those of `benchmarks/signed.py`, some of ResNet-20 those of
`benchmarks/real_cifar10.py`. The networks: `benchmarks/train_models.py`, and packages named in REAL_MODELS.md."""

# Networks of docs/real_models.jsonl that stand here, too.
OTHERS = {"efficientnet_lite0": "EfficientNet-Lite0, ImageNet, 33 layers", "crepe_tiny": "CREPE, 6 layers, audio"}
OF_OTHERS = """**Networks of others**, natural images and synthetic tones (REAL_MODELS.md, `benchmarks/real_models.py`):
share of inputs with the ANN's best class or bin, ± one standard error in points"""

POOLING = """`python benchmarks/pooling.py`. A pool of the spikes of each step passes one whenever any of its neurons
fires, and neurons of one window rarely fire together: it sends too many, by a tenth of full activity on average, and no
number of steps heals it. The largest count sends what the neuron with the largest current does. Mean error of one pool
of four neurons, in units of full activity, counts | any spike, with noise of 0.3 in each step:

| V(0) | T = 8 | 16 | 32 | 64 |
| --- | --- | --- | --- | --- |
| 0 | −0.050 \\| +0.027 | −0.026 \\| +0.069 | −0.013 \\| +0.090 | −0.006 \\| +0.101 |
| θ/2 | +0.012 \\| +0.143 | +0.006 \\| +0.127 | +0.003 \\| +0.119 | +0.001 \\| +0.115 |

So from V(0) = 0, the papers' start, where every layer sends half a spike too few, the surplus makes up for the deficit
at few steps: so a framework's plain pooling came to 70.5% on the VGG at T = 32 where the counts had 62.5%, both more
than 15 points below the ANN. From θ/2, the default, nothing is to be made up for: the counts are without bias at every
T, and exact in the limit."""
