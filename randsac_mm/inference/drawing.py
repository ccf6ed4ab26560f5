"""Pictures of instances, drawn no larger than image and objects allow."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

PARTS = ('boxes', 'masks', 'names')
_FONT = Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')
_LEAST = 9  # pixels of a letter that can be read


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    masks: np.ndarray | None,
    parts: Collection[str] | None = None,
    alpha: float = 0.5,
) -> np.ndarray:
    """Draw K instances, the first one on top.

    Lines and letters grow with the object, up to a share of the image.

    Args:
        image: (H, W, 3), uint8, RGB.
        boxes: Left, top, right and bottom in pixels, (K, 4).
        names: What to write at each box.
        colors: RGB of each instance.
        masks: Pixels of each instance, (K, H, W), bool, or None.
        parts: Any of ``'boxes'``, ``'masks'``, ``'names'``. None: all, without names that would cover more than half of
            their object.
        alpha: Opacity of masks.

    Returns:
        The picture, (H, W, 3), uint8, RGB.
    """
    picture, shown, longest = image.astype(np.float32), PARTS if parts is None else parts, max(image.shape[:2])
    lowest_first = range(len(boxes))[::-1]
    for i in lowest_first if 'masks' in shown and masks is not None else ():
        picture[masks[i]] += alpha * (np.float32(colors[i]) - picture[masks[i]])
        picture[masks[i] & ~binary_erosion(masks[i], border_value=1)] = colors[i]
    canvas = Image.fromarray(picture.round().astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    boxes = np.clip(boxes.round(), 0, np.tile(image.shape[1::-1], 2) - 1).astype(int)
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1))  # of squares as large as the boxes
    for i in lowest_first if 'boxes' in shown else ():
        draw.rectangle(
            boxes[i].tolist(), outline=tuple(colors[i]), width=max(1, round(min(sides[i] / 25, longest / 250)))
        )
    for i in lowest_first if 'names' in shown else ():
        font = ImageFont.truetype(str(_FONT), max(_LEAST, round(min(sides[i] / 6, longest / 40))))
        right, bottom = map(math.ceil, draw.textbbox((1, 1), names[i], font=font)[2:])
        if parts is None and 2 * right * bottom > sides[i] ** 2:
            continue
        x, y = max(0, min(boxes[i, 0], image.shape[1] - right - 1)), boxes[i, 1] - bottom - 1
        y = y if y >= 0 else boxes[i, 1]  # above the box, or in it
        draw.rectangle((x, y, x + right, y + bottom), fill=tuple(colors[i]))
        draw.text(
            (x + 1, y + 1), names[i], fill='black' if np.dot(colors[i], (0.3, 0.6, 0.1)) > 127 else 'white', font=font
        )
    return np.asarray(canvas)
