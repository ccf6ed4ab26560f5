"""What an encoder can become; each target writes a folder, and reads it again with the target's own library."""

from .base import Outputs, Target, require
from .huggingface import HuggingFace
from .mm import MMPretrain
from .onnx_file import ONNXFile
from .safetensors_file import SafetensorsFile
from .timm_model import TimmModel

TARGETS: dict[str, type[Target]] = {
    target.name: target for target in (MMPretrain, TimmModel, HuggingFace, SafetensorsFile, ONNXFile)
}

__all__ = ['TARGETS', 'Outputs', 'Target', 'require']
