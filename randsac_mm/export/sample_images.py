"""Real images to verify an export on."""

from itertools import islice
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_image

from randsac_mm.datasets import Digits, find_fault, find_image_files, fit_image, read_image, spread

_NUM_IMAGES = 8


def real_images(channels: int, size: tuple[int, int], folder: str | Path | None = None) -> dict[str, np.ndarray]:
    """Read real images of C channels, resized until they just cover a height and width in pixels, and cropped to it.

    Returns:
        Eight images from all over ``folder``, or scikit-learn's photographs (C = 3) or digits (C = 1), by name:
        (H, W, C), uint8, RGB or grey.

    Raises:
        FileNotFoundError: If there is no such folder, or no readable image in it.
        ValueError: If ``channels`` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f'in_channels={channels}: an export is verified on real images, which have 1 or 3 channels')
    if folder is not None:
        files = (file for file in spread(find_image_files(folder), _NUM_IMAGES) if find_fault(file) is None)
        images = {str(file): read_image(file) for file in islice(files, _NUM_IMAGES)}
        if not images:
            raise FileNotFoundError(f'{folder} has no readable image')
    elif channels == 1:
        digits = Digits('test').images[:_NUM_IMAGES].permute(0, 2, 3, 1).numpy()
        images = {f'scikit-learn digit {i} of the test split': digit for i, digit in enumerate(digits)}
    else:
        images = {}
        for name in ('china.jpg', 'flower.jpg'):
            photo = load_sample_image(name)
            height, width = photo.shape[:2]
            images[f'scikit-learn {name}'] = photo
            images[f'scikit-learn {name}, middle'] = photo[height // 4 : -height // 4, width // 4 : -width // 4]
    return {name: fit_image(image, size, grey=channels == 1) for name, image in images.items()}
