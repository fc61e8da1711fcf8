"""The read-outs: label scores of tokens to labels and confidence of pixels, by distance or by colour too.

Letters as in `modules`; s is the number of pixels of the working frame in a token.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nerve_export.graphs.arithmetic import NEIGHBOURS, all_finite
from nerve_runtime.labels import LabelDtype

SUM_LIMIT = 1e4
"""Scores of a token sum to at most 1; a larger sum, or NaN, comes from broken numbers."""
AROUND = [(0, 0), *NEIGHBOURS]
"""(down, right) of the tokens whose scores the guided read-out mixes, from the token that holds the pixel."""
REACH_TOKENS = 0.75
"""Standard deviation in tokens of the guided read-out's weight by distance."""
OUTSIDE_LOGIT = -1e9
"""Below every logit of a colour: at the least width, 0.001, white on black has -1.5e6."""


def labels_of(maps: Tensor, threshold: Tensor, label_dtype: LabelDtype) -> tuple[Tensor, Tensor]:
    """Scores of pixels (c,H,W), or (b,c,H,W): the best class, background below the threshold, no label where the numbers are broken.

    No label is the greatest value of the labels' dtype.
    """
    dtype = torch.uint8 if label_dtype == "uint8" else torch.uint16
    classes = maps.ndim - 3  # the axis, counted from the front: the graph of one frame has these bytes
    best, labels = maps.max(classes)
    total = maps.sum(classes)
    valid = (total >= 0) & (total <= SUM_LIMIT)  # NaN compares with nothing
    labels = torch.where(valid, labels * (best >= threshold), torch.iinfo(dtype).max)
    confidence = torch.where(valid, best.clamp(0, 1), 0.0)
    return labels.to(dtype), (confidence * 255).round().to(torch.uint8)


def resized(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Maps (c,h,w) bilinear at a size known to the exporter or a symbol."""
    # Not [0]: that is a Gather, which copies all scores, a ninth of the read-out's time at 1280 x 720.
    return functional.interpolate(maps[None], size=size_hw, mode="bilinear", align_corners=False).squeeze(0)


def checked_size(size_hw: Tensor) -> tuple[int, int]:
    """The values of an int64 (2,), which the exporter may take for sizes of a picture."""
    height, width = size_hw.tolist()
    torch._check(height > 1)
    torch._check(width > 1)
    return height, width


class ReadoutStage(nn.Module):
    """P (c,p), size int64 (2,), threshold () to labels uint8 or uint16 and confidence uint8, both (H,W), by distance.

    And whether all of P is finite, bool (), so that nobody has to look at P to know.
    """

    def __init__(self, grid_hw: tuple[int, int], label_dtype: LabelDtype = "uint8") -> None:
        super().__init__()
        self.grid_hw, self.label_dtype = grid_hw, label_dtype

    def forward(self, label_scores: Tensor, size_hw: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bilinear probabilities, then labels."""
        maps = resized(label_scores.unflatten(1, self.grid_hw), checked_size(size_hw))
        return (*labels_of(maps, threshold, self.label_dtype), all_finite(label_scores))


class FixedReadoutStage(nn.Module):
    """As `ReadoutStage`, at a size that the graph fixes: an end of the single-graph form."""

    def __init__(self, grid_hw: tuple[int, int], size_hw: tuple[int, int], label_dtype: LabelDtype = "uint8") -> None:
        super().__init__()
        self.grid_hw, self.size_hw, self.label_dtype = grid_hw, size_hw, label_dtype

    def forward(self, label_scores: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Read out at the size."""
        maps = resized(label_scores.unflatten(1, self.grid_hw), self.size_hw)
        return labels_of(maps, threshold, self.label_dtype)


class GuidedMaps(nn.Module):
    """P (c,p) and frame uint8 (1,h,w,3) to scores of the frame's pixels (c,h,w): tokens mixed by distance and colour.

    The weights of a pixel, one for each of the 9 tokens around, are the same for every class: one product a token
    applies them to all.
    """

    nearness: Tensor
    inside: Tensor

    def __init__(self, grid_hw: tuple[int, int], working_hw: tuple[int, int], colour_width: float) -> None:
        super().__init__()
        self.grid_hw, self.colour_width = grid_hw, colour_width
        self.token_px = (working_hw[0] // grid_hw[0], working_hw[1] // grid_hw[1])
        self.register_buffer("nearness", _nearness(self.token_px))
        self.register_buffer("inside", OUTSIDE_LOGIT * (1 - self._around(torch.ones(1, *grid_hw))[:, 0]))

    def forward(self, label_scores: Tensor, frame: Tensor) -> Tensor:
        """Mix the scores of the tokens around each pixel."""
        logits = self._logits(frame)
        weights = torch.exp(logits - logits.amax(1, keepdim=True))  # (p,9,s)
        around = self._around(label_scores.unflatten(1, self.grid_hw))  # (p,c,9)
        scores = around @ weights / weights.sum(1, keepdim=True)  # (p,c,s)
        # One reshape each: the exporter joins two that follow each other under a name with a slash, as of a file.
        (height, width), (down, right) = self.grid_hw, self.token_px
        maps = scores.reshape(height, width, -1, down, right).permute(2, 0, 3, 1, 4)
        return maps.reshape(-1, height * down, width * right)

    def _logits(self, frame: Tensor) -> Tensor:
        """Log weight of each of the 9 tokens around every pixel (p,9,s), up to a constant of the pixel.

        With colours x of the pixel and c of a token, both less the pixel's own token's, -|x - c|^2 / 2 is x c - |c|^2 / 2
        but for |x|^2, which is the same for all 9: half the operations, and the second term is one of tokens.
        """
        (height, width), (down, right) = self.grid_hw, self.token_px
        pixels = frame.to(torch.float32).view(height, down, width, right, 3) * (1 / (255 * self.colour_width))
        x = pixels.permute(4, 0, 2, 1, 3).reshape(3, height * width, down * right)  # (3,p,s)
        own = x.mean(2)
        c = self._around(own.unflatten(1, self.grid_hw)).transpose(0, 1) - own[..., None]  # (3,p,9)
        of_tokens = self.inside - 0.5 * (c * c).sum(0)
        x, c = (x - own[..., None])[:, :, None], c[..., None]
        # Channel by channel: an engine may compute a product of matrices in TF32, whose error is divided by the width twice.
        products = x[0] * c[0] + x[1] * c[1] + x[2] * c[2]
        return products + of_tokens[..., None] + self.nearness

    def _around(self, maps: Tensor) -> Tensor:
        """Maps (c,h,w) at each token and its neighbours (p,c,9); 0 outside the grid."""
        height, width = self.grid_hw
        padded = functional.pad(maps, (1, 1, 1, 1))
        windows = [padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in AROUND]
        return torch.stack(windows, dim=3).permute(1, 2, 0, 3).flatten(0, 1)


def _nearness(token_px: tuple[int, int]) -> Tensor:
    """Logits by distance (9,s): minus the squared distance in tokens to each token's centre, over 2 REACH_TOKENS^2."""
    rows, columns = (((torch.arange(side) + 0.5) / side - 0.5) for side in token_px)
    down, right = torch.tensor(AROUND, dtype=torch.float32).T
    squared = (rows - down[:, None]).square()[:, :, None] + (columns - right[:, None]).square()[:, None]
    return -squared.flatten(1) / (2 * REACH_TOKENS**2)


class GuidedReadoutStage(nn.Module):
    """P (c,p), frame uint8 (1,h,w,3), size int64 (2,), threshold () to labels, confidence and finite as `ReadoutStage`."""

    def __init__(
        self,
        grid_hw: tuple[int, int],
        working_hw: tuple[int, int],
        colour_width: float,
        label_dtype: LabelDtype = "uint8",
    ) -> None:
        super().__init__()
        self.maps, self.label_dtype = GuidedMaps(grid_hw, working_hw, colour_width), label_dtype

    def forward(
        self, label_scores: Tensor, frame: Tensor, size_hw: Tensor, threshold: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Guided probabilities at the size of the frame, bilinear from there to the size, then labels."""
        maps = resized(self.maps(label_scores, frame), checked_size(size_hw))
        return (*labels_of(maps, threshold, self.label_dtype), all_finite(label_scores))


class FixedGuidedReadoutStage(GuidedReadoutStage):
    """As `GuidedReadoutStage`, at the size of the frame: an end of the single-graph form."""

    def forward(self, label_scores: Tensor, frame: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # no size to give
        """Read out at the size of the frame."""
        return labels_of(self.maps(label_scores, frame), threshold, self.label_dtype)
