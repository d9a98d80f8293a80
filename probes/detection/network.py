"""A feature pyramid of cells under torchvision's FCOS: the maps are the body, the rest is theirs.

    cells → per grid: joined, normalised → FeaturePyramidNetwork → FCOSHead at every level

torchvision's detectors take pictures; here the maps stand where their backbone would, so its head,
anchors, loss and choice of boxes are used as they are, and nothing of them is written again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import (
    FCOSClassificationHead,
    FCOSHead,
    FCOSRegressionHead,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

PARTS = ("cls_logits", "bbox_regression", "bbox_ctrness")
"""What FCOS' head gives; side by side K, 4 and 1 numbers an anchor."""
Size = tuple[int, int]


class Levels:
    """Grids of a pyramid over inputs of one size, finest first, and FCOS' rules for them.

    Args:
        shapes: (C, h, w) of the cells.
        input_size: (H, W) in pixels.
        classes: K.
        score, overlap, most: of what is found: least score, overlap from which on the weaker of
            two boxes of a class is dropped, boxes of a picture.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], input_size: Size, classes: int,
        score: float = 0.05, overlap: float = 0.6, most: int = 100,
    ):  # fmt: skip
        grids = sorted({tuple(shape[1:]) for shape in shapes}, key=lambda g: (-g[0] * g[1], g))
        self.members = [[k for k, s in enumerate(shapes) if tuple(s[1:]) == g] for g in grids]
        self.widths = [sum(shapes[k][0] for k in some) for some in self.members]
        last = tuple((side - 1) // 2 + 1 for side in grids[-1])  # of LastLevelMaxPool
        self.grids, self.input_size, self.classes = [*grids, last], input_size, classes
        self.counts = [h * w for h, w in self.grids]
        strides = [max(input_size[0] / h, input_size[1] / w) for h, w in self.grids]
        generator = AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * len(strides))
        with torch.device("cpu"):
            body = nn.Identity()
            body.out_channels = 32
            head = FCOSHead(32, 1, classes, num_convs=0)
            self.rules = FCOS(body, classes, anchor_generator=generator, head=head,
                              score_thresh=score, nms_thresh=overlap,
                              detections_per_img=most)  # fmt: skip
            maps = [torch.zeros(1, 1, *grid) for grid in self.grids]
            pictures = ImageList(torch.zeros(1, 3, *input_size), [tuple(input_size)])
            self.anchors = generator(pictures, maps)[0]  # (R, 4)

    def apart(self, output: torch.Tensor) -> dict[str, torch.Tensor]:
        """(n, R, K + 5) → what FCOS' head gave."""
        return dict(zip(PARTS, output.split([self.classes, 4, 1], 2), strict=True))

    def loss(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """FCOS' focal, IoU and centre-ness losses, summed; each is over anchors within a box.

        Args:
            output: (n, R, K + 5).
            targets: (n, M, 5) boxes in input pixels and labels; −1: no box.
        """
        known = [
            {"boxes": some[some[:, 4] >= 0, :4], "labels": some[some[:, 4] >= 0, 4].long()}
            for some in targets
        ]
        anchors = [self.anchors.to(output.device)] * len(known)
        found = self.rules.compute_loss(known, self.apart(output), anchors, self.counts)
        return sum(found.values())

    def boxes(self, output: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """What is found in each of n pictures: boxes (k, 4) in input pixels, scores, labels."""
        apart = self.apart(output).items()
        parts = {name: list(part.split(self.counts, 1)) for name, part in apart}
        anchors = [list(self.anchors.to(output.device).split(self.counts))] * len(output)
        sizes = [tuple(self.input_size)] * len(output)
        return self.rules.postprocess_detections(parts, anchors, sizes)


class DetectorNet(nn.Module):
    """Maps of several cells → (n, R, K + 5) of FCOS' head, of all anchors of all levels.

    Args:
        levels: of the cells.
        width: channels of the pyramid.
        depth: 3×3 convolutions of each of FCOS' two branches.
    """

    def __init__(self, levels: Levels, width: int, depth: int):
        super().__init__()
        self.members = levels.members
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, affine=False) for c in levels.widths)
        self.pyramid = FeaturePyramidNetwork(levels.widths, width, LastLevelMaxPool())
        groups = partial(nn.GroupNorm, width // 4)
        self.head = FCOSHead(width, 1, levels.classes, num_convs=0)
        self.head.classification_head = FCOSClassificationHead(
            width, 1, levels.classes, depth, norm_layer=groups
        )
        self.head.regression_head = FCOSRegressionHead(width, 1, depth, norm_layer=groups)

    def forward(self, *cells: torch.Tensor) -> torch.Tensor:
        """S arrays (n, C_s, h_s, w_s)."""
        joined = [torch.cat([cells[k] for k in some], 1) for some in self.members]
        normed = [norm(one) for norm, one in zip(self.norms, joined, strict=True)]
        named = OrderedDict((str(k), one) for k, one in enumerate(normed))
        found = self.head(list(self.pyramid(named).values()))
        return torch.cat([found[name] for name in PARTS], 2)
