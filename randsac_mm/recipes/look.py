"""Look at a folder of images: how many, how large, grey or coloured, in which classes."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median_low
from typing import NamedTuple

import numpy as np

from randsac_mm.datasets import LabelledImageFolder, find_image_files, read_image, spread
from randsac_mm.datasets.scan import scan_images

_GREY = ('1', 'L', 'LA', 'I', 'I;16', 'I;16B')  # Pillow's modes without colours
_SAMPLE = 200  # images whose pixels are read


class Images(NamedTuple):
    """What a folder of images contains; sizes are those of the shorter side, in pixels."""

    folder: Path
    count: int  # of readable images
    unreadable: int
    smallest: int
    median: int
    largest: int
    grey: bool  # whether all are

    def describe(self) -> str:
        """Return a line for people."""
        kind = 'grey' if self.grey else 'colour'
        sizes = f'{self.smallest} to {self.largest} px, median {self.median}' if self.smallest < self.largest else ''
        skipped = f'; {self.unreadable:,} unreadable ones are skipped' if self.unreadable else ''
        return f'{self.count:,} {kind} images, shorter sides {sizes or f"of {self.median} px"}{skipped}'


class Labelled(NamedTuple):
    """A folder of images by class."""

    folder: Path
    held_out: str  # split to test on
    classes: Sequence[str]


def look_at_images(folder: Path) -> Images:
    """Read the header of every image below a folder.

    Raises:
        OSError: If there is no such folder, or one inside of it cannot be read.
        ValueError: If fewer than two images can be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is not a folder: name that of your images')
    found = scan_images([str(path) for path in find_image_files(folder)])
    sound = [facts for facts in found if facts.fault is None]
    if len(sound) < 2:
        text = f'{folder} has {len(sound)} readable images'
        raise ValueError(f'{text} and {len(found) - len(sound)} unreadable ones: two or more are needed')
    sides = [min(facts.height, facts.width) for facts in sound]
    grey = all(facts.mode in _GREY for facts in sound)
    counts = len(sound), len(found) - len(sound)
    return Images(folder, *counts, min(sides), median_low(sides), max(sides), grey)


def measure_pixels(folder: Path, channels: int) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the pixels of each channel, 0 .. 255, over at most 200 images."""
    sample = list(map(str, spread(find_image_files(folder), _SAMPLE)[:_SAMPLE]))
    paths = [path for path, facts in zip(sample, scan_images(sample), strict=True) if facts.fault is None]
    sums = np.zeros((2, channels))
    for path in paths:
        pixels = read_image(path)[..., :channels].reshape(-1, channels).astype(np.float64)
        sums += pixels.mean(0), (pixels**2).mean(0)
    mean, square = sums / len(paths)
    deviation = np.sqrt(np.maximum(square - mean**2, 1.0))
    return [*map(float, mean.round(2))], [*map(float, deviation.round(2))]


def look_at_labels(folder: Path) -> Labelled:
    """Find the held-out split of a labelled folder, and the classes.

    The folder is ``train/CLASS/IMAGE`` with ``val/...`` or ``test/...``, or ``CLASS/IMAGE``, see
    :class:`~randsac_mm.datasets.LabelledImageFolder`.

    Raises:
        OSError: If there is no such folder, or no readable image in a split.
        ValueError: If there are fewer than two classes or 20 images to learn from.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'--labelled {folder} is not a folder: name one with a folder of images for each class')
    held_out = 'test' if (folder / 'test').is_dir() and not (folder / 'val').is_dir() else 'val'
    train, test = (LabelledImageFolder(str(folder), split) for split in ('train', held_out))
    if len(train) < 20:
        text = f'--labelled {folder}: {len(train)} images to learn from and {len(test)} held out'
        raise ValueError(f'{text}; the online probe needs 20 to learn from: add some, or leave --labelled out')
    return Labelled(folder, held_out, train.CLASSES)
