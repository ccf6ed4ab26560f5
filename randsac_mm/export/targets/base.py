"""What all targets have in common."""

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from types import ModuleType
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from randsac_mm.export.encoder import Features
from randsac_mm.export.source import Source


class Outputs(NamedTuple):
    """Hold what the files of an export compute.

    Attributes:
        features: Of the batch.
        inputs: What the target's own preprocessing has made of the pixels, (B, C, H, W); None if it has none.
    """

    features: Features
    inputs: Tensor | None = None


class Target(ABC):
    """Write an encoder in one format, and run what was written.

    Args:
        source: The encoder.

    Attributes:
        name: As in ``--to``.
        packages: Name of each package that is needed, and how to install it.
        tolerance: Greatest absolute difference of features that is accepted.

    Raises:
        ValueError: If the format cannot express the encoder.
    """

    name: ClassVar[str]
    packages: ClassVar[dict[str, str]] = {}
    tolerance: ClassVar[float] = 1e-5

    def __init__(self, source: Source) -> None:
        self.source = source

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write all files into an empty folder."""

    @abstractmethod
    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Outputs:
        """Load the files of a folder in the target's own library, and compute features.

        Args:
            folder: What :meth:`write` has filled. Nothing else of this object is used but sizes.
            pixels: Images (B, C, H, W), uint8, RGB or grey, of the encoder's size.
            inputs: The same, normalised.

        Returns:
            Features of all images.

        Raises:
            ValueError: If a weight is missing, left over or changed.
        """


def require(module: str, install: str) -> ModuleType:
    """Import a package that only an export needs.

    Args:
        module: Its name in Python.
        install: What pip is to be given.

    Returns:
        The module.

    Raises:
        ImportError: If it is missing or broken; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this export needs the package {module}, which is missing or broken ({error}): pip install '{install}'"
        ) from error


def to_images(pixels: Tensor) -> list[np.ndarray]:
    """Turn images (B, C, H, W), uint8, into arrays (H, W, C)."""
    return [image.permute(1, 2, 0).numpy() for image in pixels]


def save_safetensors(tensors: dict[str, Tensor], file: Path, header: dict[str, str]) -> None:
    """Write tensors and a header of strings to a safetensors file."""
    # Not by save_file, which lets nobody but the owner read it.
    file.write_bytes(require('safetensors.torch', 'safetensors').save(tensors, metadata=header))
