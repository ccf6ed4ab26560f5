"""The base class of all targets and what several of them use."""

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from safetensors.torch import save
from torch import Tensor

from randsac_mm.transfer.reading import CHECKSUM, checksum

from .encoder import Encoder, Features


class Target(ABC):
    """A format of encoders and the library that reads it; ValueError if an encoder does not fit the format."""

    name: ClassVar[str]  # as in --to
    packages: ClassVar[dict[str, str]] = {}  # modules that are needed, and what to install for each
    tolerance: ClassVar[float] = 1e-5  # greatest absolute difference of features that is accepted

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write all files into an empty folder."""

    @abstractmethod
    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Features:
        """Load the files of :meth:`write` with the target's own library and compute features.

        ``pixels`` are images (B, C, H, W), uint8, RGB or grey, of the encoder's size; ``inputs`` the same, normalised.
        """


def require(module: str, install: str) -> ModuleType:
    """Import an optional package, or raise ImportError with what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is missing, broken or too old ({error}): pip install '{install}'") from error


def rename(key: str, names: Mapping[str, str]) -> str:
    """Replace the parts of a tensor's name that match the patterns."""
    for pattern, name in names.items():
        key = re.sub(pattern, name, key)
    return key


def save_safetensors(tensors: dict[str, Tensor], file: Path, header: dict[str, str]) -> None:
    """Write tensors and a header of strings to a file that everybody may read, unlike safetensors' ``save_file``."""
    file.write_bytes(save(tensors, metadata={'format': 'pt', CHECKSUM: checksum(tensors), **header}))
