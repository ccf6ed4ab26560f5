"""An ONNX graph with a free batch size."""

import inspect
import json
import warnings
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from .encoder import Encoder, Features
from .target import Target

_FILE = 'backbone.onnx'
_OPSET = 17  # the first with layer normalisation as one operator


class ONNXFile(Target):
    """``backbone.onnx``: ``images`` in, ``tokens`` and ``averaged`` out; verified by onnxruntime on the CPU.

    With ``uint8`` the graph takes pixels 0 .. 255 (uint8, RGB) and normalises them itself.
    """

    name = 'onnx'
    packages: ClassVar = {'onnx': 'onnx', 'onnxruntime': 'onnxruntime'}
    tolerance = 1e-4

    def __init__(self, encoder: Encoder, uint8: bool = False) -> None:
        super().__init__(encoder)
        self.uint8 = uint8

    def write(self, folder: Path) -> None:
        """See base class."""
        import onnx

        encoder, file = self.encoder, str(folder / _FILE)
        dtype = torch.uint8 if self.uint8 else torch.float32
        images = torch.zeros(2, len(encoder.mean), *encoder.backbone.img_size, dtype=dtype)
        names = ['images', 'tokens', 'averaged']
        options = {
            'input_names': names[:1],
            'output_names': names[1:],
            'dynamic_axes': {name: {0: 'batch'} for name in names},
            'opset_version': _OPSET,
        }
        if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
            options['dynamo'] = False  # the other exporter needs another package
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore', torch.jit.TracerWarning)  # sizes become constants, as intended
            warnings.simplefilter('ignore', DeprecationWarning)
            torch.onnx.export(encoder, (images,), file, **options)
        graph = onnx.load(file)
        header = {**encoder.metadata(), 'input': json.dumps({'dtype': 'uint8' if self.uint8 else 'float32'})}
        for key, value in header.items():
            graph.metadata_props.add(key=key, value=value)
        onnx.save(graph, file)
        onnx.checker.check_model(file, full_check=True)

    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Features:
        """See base class."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / _FILE), providers=['CPUExecutionProvider'])
        images = pixels if self.uint8 else inputs
        # Two batches of different sizes, to verify the free batch size.
        batches = [batch.numpy() for batch in (images[:1], images[1:]) if len(batch)]
        parts = [session.run(['tokens', 'averaged'], {'images': batch}) for batch in batches]
        return Features(*(torch.cat([torch.from_numpy(part[i]) for part in parts]) for i in (0, 1)))
