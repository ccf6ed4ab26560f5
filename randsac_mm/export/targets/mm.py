"""A state dict for mmpretrain's ``VisionTransformer``, and a config that loads it."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import Tensor

from randsac_mm.export.config_text import config_text
from randsac_mm.export.encoder import Features
from randsac_mm.version import __version__

from .base import Outputs, Target

_WEIGHTS, _CONFIG = 'backbone.pth', 'config.py'


class MMPretrain(Target):
    """Write ``backbone.pth`` (tensors and plain values) and ``config.py``; verify in mmpretrain's own class."""

    name = 'mm'

    def write(self, folder: Path) -> None:
        """See base class."""
        meta = {'cfg': config_text(self.source), 'randsac_mm': __version__, **self.source.metadata()}
        torch.save({'meta': meta, 'state_dict': self.source.encoder.weights()}, folder / _WEIGHTS)
        (folder / _CONFIG).write_text(config_text(self.source, _WEIGHTS))

    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Outputs:
        """See base class."""
        cfg = Config.fromfile(folder / _CONFIG).model
        # mmengine's own loading tolerates what does not fit, so the weights are loaded here.
        assert Path(cfg.backbone.pop('init_cfg').checkpoint).samefile(folder / _WEIGHTS)
        model = MODELS.build({'_scope_': 'mmpretrain', **cfg})
        state = torch.load(folder / _WEIGHTS, map_location='cpu', weights_only=True)['state_dict']
        load_strictly(model.backbone, state)
        model.eval()
        with torch.no_grad():
            averaged = model.extract_feat(inputs)[-1]
            model.backbone.out_type = 'raw'
            tokens = model.backbone(inputs)[-1]
            loaded = pixels.flip(1) if pixels.shape[1] == 3 else pixels  # BGR, as mmcv loads them
            made = model.data_preprocessor({'inputs': loaded})['inputs']
        return Outputs(Features(tokens, averaged), made)


def load_strictly(module: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Load a state dict; raise ValueError, not torch's RuntimeError, if a tensor does not fit."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f'the written weights do not fit {type(module).__name__}: {error}') from error
