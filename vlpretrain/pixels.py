"""Pure tensor helpers for pictures. Shapes: C channels (RGB), H height, W width."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

EXIF_ORIENTATION = 0x0112

# EXIF orientation -> (transpose, then flip top-bottom, then flip left-right) that turns it upright.
UPRIGHT = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def num_hidden(ratio: float, total: int) -> int:
    """Mask blocks hidden of a picture's `total`: ceil(ratio * total), untroubled by float dust
    (0.7 * 10 is 7, not 8)."""
    return min(total, math.ceil(ratio * total - 1e-9))


def resize_centre_crop(pixels_CHW: Tensor, size: int) -> Tensor:
    """The middle square of uint8 pixels, resized to [C, size, size]."""
    height, width = pixels_CHW.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(pixels_CHW[:, top : top + side, left : left + side], size)


def resize(pixels_CHW: Tensor, size: int) -> Tensor:
    """uint8 pixels resized to [C, size, size], antialiased bicubic as Pillow's; channels last."""
    if pixels_CHW.shape[-2:] == (size, size):
        return pixels_CHW
    # torch's vectorised uint8 kernel works on channels-last memory.
    batch_1CHW = pixels_CHW.unsqueeze(0).contiguous(memory_format=torch.channels_last)
    resized_1CHW = F.interpolate(batch_1CHW, size=(size, size), mode="bicubic", antialias=True)
    return resized_1CHW[0]


def turn_upright(pixels_CHW: Tensor, orientation: int) -> Tensor:
    """Stored pixels turned as their EXIF orientation (1 to 8) says; [C, H, W] or [C, W, H]."""
    transpose, flip_rows, flip_columns = UPRIGHT[orientation]
    if transpose:
        pixels_CHW = pixels_CHW.transpose(1, 2)
    flipped = [axis for axis, flip in ((1, flip_rows), (2, flip_columns)) if flip]
    return pixels_CHW.flip(flipped) if flipped else pixels_CHW


def picture_pixels(picture: Image.Image) -> Tensor:
    """A Pillow picture of any mode as uint8 RGB [C, H, W], upright."""
    return turn_upright(rgb_pixels(picture), orientation_of(picture.getexif())).contiguous()


def rgb_pixels(picture: Image.Image) -> Tensor:
    """uint8 RGB [C, H, W] as stored: 16 bits scaled to 8, transparency laid over white."""
    if picture.mode.startswith(("I", "F")):
        grey_HW = np.asarray(picture).astype(np.float32)
        # 65535 / 255: the full 16-bit range becomes the full 8-bit range.
        scaled_HW = (grey_HW / 257).round().clip(0, 255).astype(np.uint8)
        return torch.from_numpy(scaled_HW).expand(3, *scaled_HW.shape)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, over)
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def orientation_of(exif: Image.Exif) -> int:
    """The EXIF orientation, 1 (upright) where it is absent or senseless."""
    orientation = exif.get(EXIF_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) and orientation in UPRIGHT else 1
