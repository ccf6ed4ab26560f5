"""What all targets of an export have in common."""

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from torch import Tensor

from .encoder import Encoder, Features


class Target(ABC):
    """A format that an encoder is written in, and the library that reads it.

    Args:
        encoder: The encoder.

    Attributes:
        name: As in ``--to``.
        packages: Packages that are needed, and what to install for each.
        tolerance: Greatest absolute difference of features that is accepted.

    Raises:
        ValueError: If the format cannot express the encoder.
    """

    name: ClassVar[str]
    packages: ClassVar[dict[str, str]] = {}
    tolerance: ClassVar[float] = 1e-5

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write all files into an empty folder."""

    @abstractmethod
    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Features:
        """Load what :meth:`write` has written by the target's own library, and compute features.

        Args:
            folder: The folder.
            pixels: Images (B, C, H, W), uint8, RGB or grey, of the encoder's size.
            inputs: The same, normalised.

        Returns:
            Features of all images.
        """


def require(module: str, install: str) -> ModuleType:
    """Import a package that only an export needs; raise ImportError with what to install if that fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this export needs the package {module}, which is missing or broken ({error}): pip install '{install}'"
        ) from error


def rename(key: str, names: Mapping[str, str]) -> str:
    r"""Replace the parts of a tensor's name that match the patterns.

    Example:
        >>> rename('layers.3.ln1.bias', {r'^layers': 'blocks', r'\.ln(\d)': r'.norm\1'})
        'blocks.3.norm1.bias'
    """
    for pattern, name in names.items():
        key = re.sub(pattern, name, key)
    return key


def save_safetensors(tensors: dict[str, Tensor], file: Path, header: dict[str, str]) -> None:
    """Write tensors and a header of strings to a safetensors file."""
    # Not by save_file, which lets nobody but the owner read it.
    data = require('safetensors.torch', 'safetensors').save(tensors, metadata={'format': 'pt', **header})
    file.write_bytes(data)
