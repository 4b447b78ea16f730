"""Published networks written down again with torch.nn.functional, from states with PyTorch's own keys.

A `Source` makes up weights as a network asks for them: what it asked for is the state to import.
"""

import numpy as np
import torch
import torch.nn.functional as F


class Source:
    """Random weights by key, drawn when first asked for."""

    def __init__(self, seed=0):
        self.rng, self.state = np.random.default_rng(seed), {}

    def tensor(self, key, shape, scale=1.0, offset=0.0):
        if key not in self.state:
            self.state[key] = (self.rng.standard_normal(shape) * scale + offset).astype(np.float32)
        assert self.state[key].shape == tuple(shape), key
        return torch.tensor(self.state[key])

    def conv(self, x, key, features, kernel, stride=1, padding=0, bias=False):
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        shape = (features, x.shape[1], rows, columns)
        weight = self.tensor(f"{key}.weight", shape, (2 / np.prod(shape[1:])) ** 0.5)
        offset = self.tensor(f"{key}.bias", (features,), 0.1) if bias else None
        return F.conv2d(x, weight, offset, stride, padding)

    def linear(self, x, key, features):
        weight = self.tensor(f"{key}.weight", (features, x.shape[1]), x.shape[1] ** -0.5)
        return F.linear(x, weight, self.tensor(f"{key}.bias", (features,), 0.1))

    def norm(self, x, key, epsilon=1e-5):
        size = (x.shape[1],)
        mean = self.tensor(f"{key}.running_mean", size, 0.1)
        variance = self.tensor(f"{key}.running_var", size, 0.1, 1.0)
        scale, bias = self.tensor(f"{key}.weight", size, 0.1, 1.0), self.tensor(f"{key}.bias", size, 0.1)
        self.state[f"{key}.num_batches_tracked"] = np.zeros((), np.int64)
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)

    def prelu(self, x, key):
        return F.prelu(x, self.tensor(f"{key}.weight", (x.shape[1],), 0.1, 0.25))


def iresnet(source, x, depths, widths, embedding):
    """ArcFace's IResNet."""
    x = source.prelu(source.norm(source.conv(x, "conv1", widths[0], 3, padding=1), "bn1"), "prelu")
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        for block in range(depth):
            key, stride = f"layer{stage}.{block}", 1 if block else 2
            y = source.conv(source.norm(x, f"{key}.bn1"), f"{key}.conv1", width, 3, padding=1)
            y = source.prelu(source.norm(y, f"{key}.bn2"), f"{key}.prelu")
            y = source.norm(source.conv(y, f"{key}.conv2", width, 3, stride, 1), f"{key}.bn3")
            if block == 0:
                x = source.norm(
                    source.conv(x, f"{key}.downsample.0", width, 1, stride), f"{key}.downsample.1"
                )
            x = x + y
    x = source.linear(torch.flatten(source.norm(x, "bn2"), 1), "fc", embedding)
    return source.norm(x, "features")


def lpips(source, a, b, classifier, widths):
    """LPIPS 0.1 of images (B, 3, H, W); `classifier(source, image, widths)` gives the stages' features."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    total = 0
    both = zip(*(classifier(source, (image - shift) / scale, widths) for image in (a, b)), strict=True)
    for stage, (x, y) in enumerate(both):
        x, y = (value / (value.norm(dim=1, keepdim=True) + 1e-10) for value in (x, y))
        weight = source.tensor(f"lin{stage}.model.1.weight", (1, widths[stage], 1, 1)).abs()
        source.state[f"lin{stage}.model.1.weight"] = weight.numpy()
        total = total + F.conv2d((x - y) ** 2, weight).mean((1, 2, 3))
    return total


def alexnet(source, x, widths):
    """The features of torchvision's AlexNet after each ReLU."""
    x0 = F.relu(source.conv(x, "features.0", widths[0], 11, 4, 2, True))
    x1 = F.relu(source.conv(F.max_pool2d(x0, 3, 2), "features.3", widths[1], 5, 1, 2, True))
    x2 = F.relu(source.conv(F.max_pool2d(x1, 3, 2), "features.6", widths[2], 3, 1, 1, True))
    x3 = F.relu(source.conv(x2, "features.8", widths[3], 3, 1, 1, True))
    return x0, x1, x2, x3, F.relu(source.conv(x3, "features.10", widths[4], 3, 1, 1, True))


class Inception:
    """FID's Inception-v3 with all channels divided by `divisor`."""

    def __init__(self, source, divisor):
        self.source, self.divisor = source, divisor

    def unit(self, x, key, features, kernel, stride=1, padding=0):
        x = self.source.conv(x, f"{key}.conv", features // self.divisor, kernel, stride, padding)
        return F.relu(self.source.norm(x, f"{key}.bn", 1e-3))

    def pooled(self, x, key, features, maximum=False):
        mean = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.unit(F.max_pool2d(x, 3, 1, 1) if maximum else mean, f"{key}.branch_pool", features, 1)

    def block_5(self, x, key, pool_features):
        five = self.unit(x, f"{key}.branch5x5_1", 48, 1)
        three = self.unit(x, f"{key}.branch3x3dbl_1", 64, 1)
        three = self.unit(three, f"{key}.branch3x3dbl_2", 96, 3, padding=1)
        return torch.cat(
            [
                self.unit(x, f"{key}.branch1x1", 64, 1),
                self.unit(five, f"{key}.branch5x5_2", 64, 5, padding=2),
                self.unit(three, f"{key}.branch3x3dbl_3", 96, 3, padding=1),
                self.pooled(x, key, pool_features),
            ],
            1,
        )

    def block_6a(self, x, key):
        three = self.unit(x, f"{key}.branch3x3dbl_1", 64, 1)
        three = self.unit(three, f"{key}.branch3x3dbl_2", 96, 3, padding=1)
        three = self.unit(three, f"{key}.branch3x3dbl_3", 96, 3, 2)
        return torch.cat([self.unit(x, f"{key}.branch3x3", 384, 3, 2), three, F.max_pool2d(x, 3, 2)], 1)

    def block_6(self, x, key, width):
        row, column = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        seven = self.unit(x, f"{key}.branch7x7_1", width, 1)
        seven = self.unit(seven, f"{key}.branch7x7_2", width, **row)
        double = self.unit(x, f"{key}.branch7x7dbl_1", width, 1)
        for number, shape in ((2, column), (3, row), (4, column)):
            double = self.unit(double, f"{key}.branch7x7dbl_{number}", width, **shape)
        return torch.cat(
            [
                self.unit(x, f"{key}.branch1x1", 192, 1),
                self.unit(seven, f"{key}.branch7x7_3", 192, **column),
                self.unit(double, f"{key}.branch7x7dbl_5", 192, **row),
                self.pooled(x, key, 192),
            ],
            1,
        )

    def block_7a(self, x, key):
        three = self.unit(self.unit(x, f"{key}.branch3x3_1", 192, 1), f"{key}.branch3x3_2", 320, 3, 2)
        seven = self.unit(x, f"{key}.branch7x7x3_1", 192, 1)
        seven = self.unit(seven, f"{key}.branch7x7x3_2", 192, (1, 7), padding=(0, 3))
        seven = self.unit(seven, f"{key}.branch7x7x3_3", 192, (7, 1), padding=(3, 0))
        seven = self.unit(seven, f"{key}.branch7x7x3_4", 192, 3, 2)
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)

    def block_7(self, x, key, maximum):
        three = self.unit(x, f"{key}.branch3x3_1", 384, 1)
        double = self.unit(x, f"{key}.branch3x3dbl_1", 448, 1)
        double = self.unit(double, f"{key}.branch3x3dbl_2", 384, 3, padding=1)
        return torch.cat(
            [
                self.unit(x, f"{key}.branch1x1", 320, 1),
                self.unit(three, f"{key}.branch3x3_2a", 384, (1, 3), padding=(0, 1)),
                self.unit(three, f"{key}.branch3x3_2b", 384, (3, 1), padding=(1, 0)),
                self.unit(double, f"{key}.branch3x3dbl_3a", 384, (1, 3), padding=(0, 1)),
                self.unit(double, f"{key}.branch3x3dbl_3b", 384, (3, 1), padding=(1, 0)),
                self.pooled(x, key, 192, maximum),
            ],
            1,
        )

    def __call__(self, x, size):
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        x = self.unit(x, "Conv2d_1a_3x3", 32, 3, 2)
        x = self.unit(x, "Conv2d_2a_3x3", 32, 3)
        x = F.max_pool2d(self.unit(x, "Conv2d_2b_3x3", 64, 3, padding=1), 3, 2)
        x = self.unit(self.unit(x, "Conv2d_3b_1x1", 80, 1), "Conv2d_4a_3x3", 192, 3)
        x = F.max_pool2d(x, 3, 2)
        for letter, pool_features in (("b", 32), ("c", 64), ("d", 64)):
            x = self.block_5(x, f"Mixed_5{letter}", pool_features)
        x = self.block_6a(x, "Mixed_6a")
        for letter, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            x = self.block_6(x, f"Mixed_6{letter}", width)
        x = self.block_7a(x, "Mixed_7a")
        x = self.block_7(self.block_7(x, "Mixed_7b", False), "Mixed_7c", True)
        self.source.linear(x.mean((2, 3)), "fc", 1008 // self.divisor)
        return x.mean((2, 3))
