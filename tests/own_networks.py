"""Networks as strangers write them, each a file of its own, for tests of `--arch FILE.py:NAME`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

# in the style of many public repositories: option A shortcuts, `linear` after an average pool
RESNET = '''
"""ResNets for CIFAR (He et al., CVPR 2016, section 4.2)."""
import torch.nn as nn
import torch.nn.functional as F


class LambdaLayer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class BasicBlock(nn.Module):
    def __init__(self, inner, planes, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inner != planes:
            more = (planes - inner) // 2
            pad = (0, 0, 0, 0, more, planes - inner - more)
            self.shortcut = LambdaLayer(lambda x: F.pad(x[:, :, ::stride, ::stride], pad))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, blocks, num_classes=10, in_channels=3):
        super().__init__()
        self.inner = 16
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, blocks, 1)
        self.layer2 = self._stage(32, blocks, 2)
        self.layer3 = self._stage(64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)

    def _stage(self, planes, blocks, stride):
        layers = []
        for step in [stride] + [1] * (blocks - 1):
            layers.append(BasicBlock(self.inner, planes, step))
            self.inner = planes
        return nn.Sequential(*layers)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


def resnet20(num_classes=10, in_channels=3, depth=20):
    return ResNet((depth - 2) // 6, num_classes, in_channels)
'''

ODD = '''
import torch
import torch.nn as nn
import torch.nn.functional as F


class Net(nn.Module):
    """Its logits are given by `score`, and a softmax or a pair may come out."""

    def __init__(self, num_classes=10, ends="logits"):
        super().__init__()
        self.ends = ends
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.score = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, num_classes))
        self.other = nn.Linear(8, 2)

    def forward(self, x):
        z = self.body(x).flatten(1)
        out = self.score(z)
        if self.ends == "softmax":
            return out.softmax(1)
        if self.ends == "pair":
            return out, z
        if self.ends == "two":
            self.other(z)
        return out


class FixedSize(nn.Module):
    """Takes gray images of 28 pixels alone."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 28 * 28, num_classes)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).flatten(1))


class Masks(nn.Module):
    """Logits of pixels, enlarged to the image after the head."""

    def __init__(self, num_classes=2):
        super().__init__()
        self.enc = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.classify = nn.Conv2d(8, num_classes, 1)

    def forward(self, x):
        return F.interpolate(self.classify(self.enc(x)), x.shape[-2:], mode="bilinear")


class Heatmaps(nn.Module):
    """An adapter for poses: three parts, and a sigmoid in the head."""

    def __init__(self, num_joints=5):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.neck = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Sequential(nn.Conv2d(16, num_joints, 1), nn.Sigmoid())

    def forward(self, x):
        return self.head(self.neck(self.backbone(x)))


def a_number(num_classes=10):
    return num_classes
'''


def write(folder: Path, name: str, text: str) -> Path:
    """A file with this source."""
    file = folder / name
    file.write_text(text)
    return file


def as_user(file: Path) -> ModuleType:
    """The file imported as its user would, without any of ours: for weights, and to compare."""
    name = f"user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
