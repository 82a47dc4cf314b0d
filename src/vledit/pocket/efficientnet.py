"""EfficientNet-Lite0 as a picture trunk: the convolutions only, batch norms folded into them.

Architecture: EfficientNet (Tan and Le, 2019) in its "Lite" form: ReLU6, no squeeze-and-excitation, stem and head not
scaled.  The published weights carry batch norms; `fold_published` turns them into plain convolutions with a bias, which
computes the same in eval mode with half the operations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (kernel, stride, expansion, channels, repeats) of the seven stages
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
FIRST_TRAINED_BLOCK = 8
"""Blocks below this one (stem and stages 1 to 4) keep their published weights; those from here on are fine-tuned."""
MIDDLE_BLOCK = 10
"""The last block of stage 5: stride 16, 112 channels; its output is the finer of the two maps handed on."""
POOLED_CHANNELS = 1280
BATCH_NORM_EPS = 1e-3


class SamePaddedConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": the odd pixel goes to the right and below."""

    def forward(self, input: Tensor) -> Tensor:
        def total(size: int, k: int, s: int) -> int:
            return max((-(-size // s) - 1) * s + k - size, 0)

        kernel, stride = self.kernel_size[0], self.stride[0]
        rows, columns = total(input.shape[-2], kernel, stride), total(input.shape[-1], kernel, stride)
        if rows == columns and rows % 2 == 0:
            return F.conv2d(input, self.weight, self.bias, self.stride, rows // 2, 1, self.groups)
        padded = F.pad(input, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """Expand (1×1), depthwise (k×k), project (1×1); the input is added where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand = SamePaddedConv(inputs, hidden, 1) if expansion != 1 else None
        self.depthwise = SamePaddedConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SamePaddedConv(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.expand(x)) if self.expand is not None else x
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.residual else h


class EfficientNetLite0(nn.Module):
    """Pictures (B, 3, S, S), scaled `(x - 127) / 128`, to two maps: (B, 112, S/16, S/16) and (B, 320, S/32, S/32)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SamePaddedConv(3, 32, 3, 2)
        blocks, inputs = [], 32
        for kernel, stride, expansion, channels, repeats in STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(inputs, channels, kernel, stride if i == 0 else 1, expansion))
                inputs = channels
        self.blocks = nn.ModuleList(blocks)
        self.head = SamePaddedConv(inputs, POOLED_CHANNELS, 1)

    def lower(self, pixels: Tensor) -> Tensor:
        """The part that is never trained: (B, 3, S, S) → (B, 80, S/16, S/16)."""
        x = F.relu6(self.stem(pixels))
        for block in self.blocks[:FIRST_TRAINED_BLOCK]:
            x = block(x)
        return x

    def upper(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The part that is fine-tuned: the output of `lower` → the two maps."""
        middle = x
        for i in range(FIRST_TRAINED_BLOCK, len(self.blocks)):
            x = self.blocks[i](x)
            if i == MIDDLE_BLOCK:
                middle = x
        return middle, x

    def pooled(self, last: Tensor) -> Tensor:
        """(B, 320, h, w) → (B, 1280): what the published classifier looks at."""
        return F.relu6(self.head(last)).mean((2, 3))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.upper(self.lower(pixels))


def fold_published(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published checkpoint (convolutions and batch norms) as a state dict of `EfficientNetLite0`.

    Every tensor of the trunk must be there (KeyError otherwise); the classifier itself is left out.
    """

    def folded(conv: str, norm: str) -> tuple[Tensor, Tensor]:
        scale = published[f"{norm}.weight"] / torch.sqrt(published[f"{norm}.running_var"] + BATCH_NORM_EPS)
        weight = published[f"{conv}.weight"] * scale[:, None, None, None]
        return weight, published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * scale

    state: dict[str, Tensor] = {}

    def put(ours: str, conv: str, norm: str) -> None:
        state[f"{ours}.weight"], state[f"{ours}.bias"] = folded(conv, norm)

    put("stem", "_conv_stem", "_bn0")
    put("head", "_conv_head", "_bn1")
    for i in range(sum(stage[4] for stage in STAGES)):
        theirs, ours = f"_blocks.{i}", f"blocks.{i}"
        if i > 0:
            put(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        put(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        put(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    return state
