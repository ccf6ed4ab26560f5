"""The same weights as for mmpretrain in one safetensors file that describes itself."""

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from randsac_mm.export.config_text import config_text
from randsac_mm.export.source import read_source
from randsac_mm.version import __version__

from .base import Outputs, Target, save_safetensors

_WEIGHTS = 'backbone.safetensors'


class SafetensorsFile(Target):
    """Write ``backbone.safetensors``; verify in :class:`randsac_mm.models.RandSACViT`, built from the file's header."""

    name = 'safetensors'
    packages: ClassVar = {'safetensors': 'safetensors'}

    def write(self, folder: Path) -> None:
        """See base class."""
        header = {'format': 'pt', 'cfg': config_text(self.source), 'randsac_mm': __version__, **self.source.metadata()}
        save_safetensors(self.source.encoder.weights(), folder / _WEIGHTS, header)

    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Outputs:
        """See base class."""
        again = read_source(folder / _WEIGHTS)
        return Outputs(again.encoder.features(inputs), again.normalise(pixels))
