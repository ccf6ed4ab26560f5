"""Real images to prove an export on."""

from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from randsac_mm.datasets import Digits, find_fault, find_image_files, read_image

_NUM_IMAGES = 8  # at most


def real_images(channels: int, size: tuple[int, int], folder: str | Path | None = None) -> dict[str, np.ndarray]:
    """Read real images of a size: the first eight of a folder, or those inside scikit-learn.

    Without a folder: two photographs, each as a whole and its middle half (C = 3), or handwritten digits (C = 1).

    Args:
        channels: Number of image channels C, 1 or 3.
        size: Height and width in pixels. Images are resized until they just cover it, and their centre is cut out.
        folder: A folder of image files, of any nesting.

    Returns:
        At most eight images (H, W, C), uint8, RGB or grey, by name.

    Raises:
        FileNotFoundError: If there is no such folder, or no readable image in it.
        ValueError: If there are no real images of so many channels.

    Example:
        >>> real_images(3, (12, 20))['scikit-learn china.jpg'].shape
        (12, 20, 3)
    """
    if channels not in (1, 3):
        raise ValueError(f'in_channels={channels}: an export is proven on real images, which have 1 or 3 channels')
    if folder is not None:
        images = _read_folder(Path(folder))
    elif channels == 1:
        digits = Digits('test').images[:_NUM_IMAGES, 0].numpy()
        images = {f'scikit-learn digit {i} of the test split': digit for i, digit in enumerate(digits)}
    else:
        images = {}
        for name in ('china.jpg', 'flower.jpg'):
            photo = load_sample_image(name)
            height, width = photo.shape[:2]
            images[f'scikit-learn {name}'] = photo
            images[f'scikit-learn {name}, middle'] = photo[height // 4 : -height // 4, width // 4 : -width // 4]
    return {name: _fit(image, size, channels) for name, image in images.items()}


def _fit(image: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    picture = Image.fromarray(image).convert('L' if channels == 1 else 'RGB')
    return np.asarray(ImageOps.fit(picture, size[::-1], Image.Resampling.BICUBIC)).reshape(*size, channels)


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    if not folder.is_dir():
        raise FileNotFoundError(f'--images {folder}: there is no such folder')
    files = list(islice((file for file in find_image_files(folder) if find_fault(file) is None), _NUM_IMAGES))
    if not files:
        raise FileNotFoundError(f'--images {folder}: no readable image there')
    return {str(file): read_image(file) for file in files}
