"""Networks out of graph files (layers by name, their inputs and strides), as a stranger writes it.

The file is given to `--arch` as it is, so it imports installed packages alone. The graph comes by
`--arch-set graph=@FILE.json` and is stored in the model's spec.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import batched_nms, generalized_box_iou_loss

from sfda.building_blocks.boxes import Boxes
from sfda.networks.detector import Detector, DetOutput

SIZES = ((0, 64), (64, 128), (128, 1e9))  # sides of boxes that each stride learns
ACTS = {"relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, None: lambda x: x}


def act(name, x):
    if name and name.startswith("leaky_relu:"):
        return F.leaky_relu(x, float(name.partition(":")[2]))
    return ACTS[name](x)


def same(size, kernel, stride):
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def padding(layer, x, kernel):
    pad = layer["pad"]
    if pad == "same":
        rows, columns = (same(x.shape[2 + i], kernel[i], layer["stride"][i]) for i in range(2))
        return (*columns, *rows)
    return (0, 0, 0, 0) if pad == "valid" else (*pad[2:], *pad[:2])


def convolutions(layers, width=3):
    """The graph's convolutions by name, with the widths that follow from the layers before."""
    widths, modules = {"input": width}, nn.ModuleDict()
    for layer in layers:
        before = [widths[name] for name in layer["in"]]
        if layer["op"] == "conv":
            out = layer["width"]
            modules[layer["name"]] = nn.Conv2d(
                before[0], out, layer["kernel"], layer["stride"],
                groups=layer.get("groups", 1), bias=layer["bias"],
            )  # fmt: skip
            widths[layer["name"]] = out
        elif layer["op"] == "slice":
            widths[layer["name"]] = layer["channels"][1] - layer["channels"][0]
        else:
            widths[layer["name"]] = sum(before) if layer["op"] == "concat" else before[0]
    return modules


def run(layers, modules, images):
    """What every layer gives, by name."""
    values = {"input": images}
    for layer in layers:
        x = [values[name] for name in layer["in"]]
        match layer["op"]:
            case "conv":
                conv = modules[layer["name"]]
                y = act(layer.get("act"), conv(F.pad(x[0], padding(layer, x[0], conv.kernel_size))))
            case "add":
                y = x[0] + (x[1] if len(x) > 1 else layer["value"])
            case "act":
                y = act(layer["act"], x[0])
            case "concat":
                y = torch.cat(x, 1)
            case "slice":
                y = x[0][:, slice(*layer["channels"])]
            case "maxpool":
                pad = padding(layer, x[0], layer["kernel"])
                padded = F.pad(x[0], pad, value=-torch.inf)
                y = F.max_pool2d(padded, layer["kernel"], layer["stride"])
            case "resize":
                y = F.interpolate(
                    x[0], scale_factor=layer["scale"], mode="bilinear", align_corners=False
                )
        values[layer["name"]] = y
    return values


class Body(nn.ModuleDict):
    """All layers up to one."""

    def __init__(self, layers, last):
        super().__init__(convolutions(layers))
        self.layers, self.last = layers, last

    def forward(self, images):
        return run(self.layers, self, images)[self.last]


class GraphPose(nn.Module):
    """An adapter for poses: heatmaps in 0 to 1, out of a backbone, a neck and a head."""

    def __init__(self, graph, num_joints):
        super().__init__()
        last = next(x for x in graph["layers"] if x["name"] == graph["outputs"]["heatmap"])
        layers = [x for x in graph["layers"] if "27" not in x["name"] and "28" not in x["name"]]
        self.backbone = Body(layers, last["in"][0])
        self.neck = nn.Identity()
        width = self.backbone[last["in"][0]].out_channels
        self.head = nn.Sequential(nn.Conv2d(width, num_joints, 1), nn.Sigmoid())

    def forward(self, images):
        return self.head(self.neck(self.backbone(images)))


class GraphDetector(Detector):
    """An adapter for a one-stage detector of strides 8, 16 and 32, whose sides are distributions
    over 11 bins.
    """

    two_stage = False

    def __init__(self, graph, num_classes):
        super().__init__()
        self.graph, self.num_classes = graph, num_classes
        self.backbone = convolutions(graph["layers"])

    def features(self, images):
        values = run(self.graph["layers"], self.backbone, images.float())
        return {name: values[layer] for name, layer in self.graph["outputs"].items()}

    def decoded(self, maps):
        """Probabilities, boxes, cell centres and strides of all cells of a batch."""
        probs, boxes, cells, strides = [], [], [], []
        for stride in (8, 16, 32):
            classes, sides = maps[f"cls{stride}"], maps[f"box{stride}"]
            n, _, height, width = classes.shape
            bins = torch.arange(11.0, device=classes.device)
            reach = (sides.view(n, 4, 11, height * width).softmax(2) * bins[:, None]).sum(2)
            reach = reach.permute(0, 2, 1) * stride
            y, x = torch.meshgrid(
                torch.arange(height, device=bins.device), torch.arange(width, device=bins.device),
                indexing="ij",
            )  # fmt: skip
            centre = (torch.stack([x, y], -1).view(-1, 2) + 0.5) * stride
            boxes.append(torch.cat([centre - reach[..., :2], centre + reach[..., 2:]], -1))
            probs.append(classes.flatten(2).permute(0, 2, 1))
            cells.append(centre)
            strides.append(torch.full((len(centre),), stride, device=bins.device))
        return torch.cat(probs, 1), torch.cat(boxes, 1), torch.cat(cells), torch.cat(strides)

    def forward(self, images):
        probs, boxes, _, _ = self.decoded(self.features(images))
        height, width = images.shape[-2:]
        out = []
        for p, b in zip(probs, boxes, strict=True):
            cell, label = (p > 0.05).nonzero(as_tuple=True)
            score = p[cell, label]
            limit = b.new_tensor([width, height, width, height])
            box = torch.minimum(b[cell].clamp(min=0), limit)
            best = batched_nms(box, score, label, 0.6)[:100]
            out.append(Boxes(box[best], label[best], score[best]))
        return DetOutput(out, torch.cat([one.scores for one in out])[:, None])

    def loss(self, images, boxes, features=None, *, append=False, doubtful=None):
        """Cross-entropy of all cells, and GIoU of those near the centre of a box of their size."""
        maps = self.features(images) if features is None else features
        probs, decoded, cells, strides = self.decoded(maps)
        target = torch.zeros_like(probs)
        pairs = []
        for i, drawn in enumerate(boxes):
            middle = (drawn.boxes[:, :2] + drawn.boxes[:, 2:]) / 2
            side = (drawn.boxes[:, 2:] - drawn.boxes[:, :2]).prod(1).sqrt()
            for box, label, centre, long in zip(
                drawn.boxes, drawn.labels, middle, side, strict=True
            ):
                level = 8 * 2 ** next(n for n, (a, b) in enumerate(SIZES) if a <= long < b)
                near = ((cells - centre).abs() <= 1.5 * strides[:, None]).all(1)
                rows = (near & (strides == level)).nonzero()[:, 0]
                target[i, rows, label] = 1.0
                pairs.append((decoded[i, rows], box.expand(len(rows), 4)))
        count = max(1, sum(len(b) for _, b in pairs))
        entropy = F.binary_cross_entropy(probs.clamp(1e-6, 1 - 1e-6), target, reduction="sum")
        giou = sum(generalized_box_iou_loss(a, b).sum() for a, b in pairs) + 0.0 * decoded.sum()
        return {"class": entropy / count, "box": giou / count}
