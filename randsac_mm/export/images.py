"""Real images to prove an export on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from randsac_mm.datasets import Digits, find_fault, read_image
from randsac_mm.visualization import fit_image, sample_photo

NUM_IMAGES = 8  # at most


class Sample(NamedTuple):
    """Hold real images.

    Attributes:
        pixels: Images (B, C, H, W), uint8, RGB or grey.
        names: What each image is.
    """

    pixels: Tensor
    names: tuple[str, ...]


def real_images(channels: int, size: tuple[int, int], folder: str | Path | None = None) -> Sample:
    """Read real images of a size: the first of a folder, or those inside scikit-learn.

    Without a folder: two photographs, each as a whole and its middle half (C = 3), or handwritten digits (C = 1).

    Args:
        channels: Number of image channels C, 1 or 3.
        size: Height and width in pixels. Images are resized until they just cover it, and their centre is cut out.
        folder: A folder of image files, of any nesting.

    Returns:
        At most eight images.

    Raises:
        FileNotFoundError: If there is no such folder, or no readable image in it.
        ValueError: If there are no real images of so many channels.

    Example:
        >>> real_images(3, (12, 20)).pixels.shape
        torch.Size([4, 3, 12, 20])
    """
    if channels not in (1, 3):
        raise ValueError(
            f'the encoder reads {channels} channels, but an export is proven on real images, which have 1 (grey) or 3 '
            '(colour)'
        )
    if folder is not None:
        named = {str(file): read_image(file) for file in _files(Path(folder))}
    elif channels == 1:
        digits = Digits('test').images[:NUM_IMAGES].permute(0, 2, 3, 1).numpy()
        named = {f'scikit-learn digit {i} of the test split': digit for i, digit in enumerate(digits)}
    else:
        named = {}
        for name in ('china', 'flower'):
            photo = sample_photo(name)
            height, width = photo.shape[:2]
            named[f'scikit-learn {name}.jpg'] = photo
            named[f'scikit-learn {name}.jpg, middle'] = photo[height // 4 : -height // 4, width // 4 : -width // 4]
    fitted = [_fit(image, size, channels) for image in named.values()]
    return Sample(torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).contiguous(), tuple(named))


def _fit(image: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    fitted = fit_image(np.ascontiguousarray(image), size)
    if fitted.shape[2] == channels:
        return fitted
    return np.asarray(Image.fromarray(fitted).convert('L'))[..., None]


def _files(folder: Path) -> Sequence[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f'--images {folder}: there is no such folder')
    files: list[Path] = []
    for file in sorted(folder.rglob('*')):
        if len(files) < NUM_IMAGES and file.is_file() and find_fault(file) is None:
            files.append(file)
    if not files:
        raise FileNotFoundError(f'--images {folder}: no readable image there')
    return files
