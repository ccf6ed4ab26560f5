"""An ONNX graph with a free batch size."""

import inspect
import json
import warnings
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from randsac_mm.export.encoder import Encoder, Features
from randsac_mm.export.source import Source
from randsac_mm.kernels import use_attention, use_linear

from .base import Outputs, Target, require

_FILE = 'backbone.onnx'
_OPSET = 17  # the first with layer normalisation as one operator


class ONNXFile(Target):
    """Write ``backbone.onnx``: ``images`` in, ``tokens`` and ``averaged`` out; verify by onnxruntime on the CPU.

    Args:
        source: The encoder.
        uint8: Whether the graph takes pixels 0 .. 255 (uint8, RGB) and normalises them itself, instead of normalised
            float32 images.
    """

    name = 'onnx'
    packages: ClassVar = {'onnx': 'onnx', 'onnxruntime': 'onnxruntime'}
    tolerance = 1e-4

    def __init__(self, source: Source, uint8: bool = False) -> None:
        super().__init__(source)
        self.uint8 = uint8

    def write(self, folder: Path) -> None:
        """See base class."""
        onnx = require('onnx', self.packages['onnx'])
        source, file = self.source, str(folder / _FILE)
        shape = (2, source.in_channels, *source.img_size)
        images = torch.zeros(shape, dtype=torch.uint8 if self.uint8 else torch.float32)
        model = _FromPixels(source).eval() if self.uint8 else source.encoder
        names = ['images', 'tokens', 'averaged']
        options = {
            'input_names': names[:1],
            'output_names': names[1:],
            'dynamic_axes': {name: {0: 'batch'} for name in names},
            'opset_version': _OPSET,
        }
        if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
            options['dynamo'] = False  # the other exporter needs another package
        with warnings.catch_warnings(), torch.no_grad(), use_attention('sdpa'), use_linear('torch'):
            # That sizes become constants is meant, and proven below.
            warnings.simplefilter('ignore', torch.jit.TracerWarning)
            warnings.simplefilter('ignore', DeprecationWarning)
            torch.onnx.export(model, (images,), file, **options)
        graph = onnx.load(file)
        header = {**source.metadata(), 'input': json.dumps({'dtype': 'uint8' if self.uint8 else 'float32'})}
        for key, value in header.items():
            graph.metadata_props.add(key=key, value=value)
        onnx.save(graph, file)
        onnx.checker.check_model(file, full_check=True)

    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Outputs:
        """See base class."""
        runtime = require('onnxruntime', self.packages['onnxruntime'])
        session = runtime.InferenceSession(str(folder / _FILE), providers=['CPUExecutionProvider'])
        images = pixels if self.uint8 else inputs
        # In two batches of different sizes, so that the free batch size is proven as well.
        parts = [
            session.run(['tokens', 'averaged'], {'images': part.numpy()})
            for part in (images[:1], images[1:])
            if len(part)
        ]
        return Outputs(Features(*(torch.cat([torch.from_numpy(part[i]) for part in parts]) for i in (0, 1))))


class _FromPixels(nn.Module):
    """Normalise pixels and encode them."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.encoder: Encoder = source.encoder
        self.register_buffer('mean', torch.tensor(source.mean).view(-1, 1, 1))
        self.register_buffer('std', torch.tensor(source.std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder((pixels.float() - self.mean) / self.std)
