"""Strict loading of backbones: every tensor arrives, or the run stops with the reason."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit, update_init_info
from torch import nn
from torch.nn.functional import pad

from randsac_mm.registry import register

from .backbone_keys import (
    check_architecture,
    check_num_heads,
    choose_prefix,
    collapse,
    generalise,
    match,
    rename_timm_keys,
    whole_norm,
)
from .model_loading import load_or_restore
from .reading import find_state, read_checkpoint


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a checkpoint a backbone was loaded from. ``str(report)`` is a summary of a few lines.

    Attributes:
        path: The checkpoint.
        prefix: Prefix of the backbone's names in it.
        loaded: The backbone's tensors that were loaded.
        resized: Those of them that have another shape in the checkpoint.
        unused: The checkpoint's tensors that were not used, by their full names.
        missing: The backbone's tensors that the checkpoint lacks and that keep their initial values.
    """

    path: str
    prefix: str
    loaded: list[str]
    resized: list[str]
    unused: list[str]
    missing: list[str]

    def __str__(self) -> str:
        lines = [f'{self.path}, prefix {self.prefix!r}']
        for title in ('loaded', 'resized', 'unused', 'missing'):
            keys = getattr(self, title)
            lines.append(f'  {title} ({len(keys)}): {", ".join(collapse(keys)) or "none"}')
        return '\n'.join(lines)


def load_backbone(
    backbone: nn.Module,
    path: str | Path,
    prefix: str | None = None,
    allow_missing: str | Sequence[str] = (),
    allow_unexpected: str | Sequence[str] = (),
) -> LoadReport:
    """Load a backbone from a checkpoint, completely or not at all.

    Reads checkpoints of pre-training, fine-tuning, segmentation and detection, also of several processes
    (``module.``), and exported backbones. Keys outside the prefix (decoder, head, ...) are not used. The backbone's own
    loading hooks run: mmpretrain's classes resize positions and tables, ours adopts the grid of the checkpoint. Names
    of timm and of authors' own code (``blocks.*``) are renamed to mmpretrain's. A class token without position, as
    DeiT-3's, gets one of zeros if the backbone's has one.

    The final norms ``ln1`` and ``ln2`` may be unexpected, if the backbone has none, and a new ``ln2``, which
    pre-training does not have, keeps its initial values. Other exceptions must be named.

    Args:
        backbone: A :class:`randsac_mm.models.RandSACViT` or any other backbone.
        path: A file or http(s) address, see :func:`randsac_mm.transfer.reading.read_checkpoint`.
        prefix: Prefix of the backbone's names in the file, as ``'backbone.'``. None: it is searched for.
        allow_missing: Patterns, as ``'ln1.*'``, of the backbone's names that the file may lack.
        allow_unexpected: Patterns of names, without prefix, that the backbone may lack.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, holds no such backbone or one of another architecture, if any tensor is
            missing, unexpected or of another shape, or if a pattern matches nothing. The backbone is unchanged then.
    """
    path = str(path)
    checkpoint = read_checkpoint(path)
    state = rename_timm_keys(find_state(checkpoint, path))
    own = backbone.state_dict()
    prefix = choose_prefix(state, own, prefix, path)
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    check_architecture(inside, own, path)
    check_num_heads(checkpoint, backbone, path)
    if {'cls_token', 'pos_embed'} <= own.keys() & inside.keys():
        theirs, ours = inside['pos_embed'].shape[1], own['pos_embed'].shape[1]
        if math.isqrt(theirs) ** 2 == theirs != ours == math.prod(getattr(backbone, 'patch_resolution', ())) + 1:
            inside['pos_embed'] = pad(inside['pos_embed'], (0, 0, 1, 0))  # a class token without position

    missing, unexpected = own.keys() - inside.keys(), inside.keys() - own.keys()
    indices = {key for key in own if key.endswith('relative_position_index')}  # buffers that follow from the grid
    may_lack = indices | whole_norm('ln2.', missing, own) | match(missing, allow_missing, 'allow_missing')
    may_have = whole_norm('ln1.', unexpected, inside) | whole_norm('ln2.', unexpected, inside)
    may_have |= match(unexpected, allow_unexpected, 'allow_unexpected')
    errors = load_or_restore(backbone, inside, may_lack, may_have)
    if any(errors):
        _raise(path, *errors)
    lacking = sorted((missing & may_lack) - indices)
    return LoadReport(
        path=path,
        prefix=prefix,
        loaded=[key for key in own if key not in lacking],
        resized=[key for key, value in backbone.state_dict().items() if value.shape != inside.get(key, value).shape],
        unused=[key for key in state if not key.startswith(prefix) or key.removeprefix(prefix) in may_have],
        missing=lacking,
    )


@register('WEIGHT_INITIALIZERS', everywhere=True)
class StrictPretrained:
    """Weight initialisation by :func:`load_backbone`, in any OpenMMLab library.

    ``init_cfg=dict(type='StrictPretrained', checkpoint='epoch_100.pth')``. mmengine's ``Pretrained`` goes on with
    random weights if names do not fit; in :class:`randsac_mm.models.RandSACViT` it means this class as well.

    Args as :func:`load_backbone`; ``checkpoint`` is its ``path``.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        allow_missing: str | Sequence[str] = (),
        allow_unexpected: str | Sequence[str] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.options: dict[str, Any] = dict(
            prefix=prefix, allow_missing=allow_missing, allow_unexpected=allow_unexpected
        )

    def __call__(self, module: Any) -> None:
        """Load the weights of ``module`` and keep later initialisation from overwriting them."""
        report = load_backbone(module, self.checkpoint, **self.options)
        print_log(f'{type(module).__name__} from {report}', logger='current')
        # mmengine initialises children after their parents, and mmpretrain's own ViT its positions last of all.
        module.init_cfg = dict(type='Pretrained', checkpoint=self.checkpoint, **self.options)
        for child in module.modules():
            if isinstance(child, BaseModule) and child is not module:
                child.is_init = True
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'StrictPretrained: loaded from {self.checkpoint}')


def strict_init_cfg(init_cfg: dict | list[dict] | None) -> list[dict]:
    """Return mmengine's ``init_cfg`` as a list, with :class:`StrictPretrained` for ``Pretrained``, and at its end.

    Example:
        >>> strict_init_cfg(dict(type='Pretrained', checkpoint='a.pth'))
        [{'checkpoint': 'a.pth', 'type': 'StrictPretrained'}]
    """
    cfgs = [dict(cfg) for cfg in ([init_cfg] if isinstance(init_cfg, dict) else init_cfg or [])]
    for cfg in cfgs:
        if cfg['type'] is PretrainedInit or str(cfg['type']).split('.')[-1] == 'Pretrained':
            cfg.pop('map_location', None)  # the weights go to the backbone's device
            del cfg['type']
            cfg['type'] = 'StrictPretrained'
    return sorted(cfgs, key=lambda cfg: cfg['type'] == 'StrictPretrained')


def _raise(path: str, missing: list[str], unexpected: list[str], mismatched: list[str]) -> None:
    lines = [f'{path} does not fit the backbone, nothing was loaded.']
    for title, keys in (('missing', missing), ('unexpected', unexpected)):
        if keys:
            lines.append(f'  {title} keys: {", ".join(collapse(keys))}')
    lines += [f'  {line}' for line in mismatched]
    options = [
        f'{name}={sorted(generalise(keys))}'
        for name, keys in (('allow_missing', missing), ('allow_unexpected', unexpected))
        if keys
    ]
    if options:
        lines.append(f"To allow this: init_cfg=dict(type='StrictPretrained', {', '.join(options)}, ...)")
    raise ValueError('\n'.join(lines))
