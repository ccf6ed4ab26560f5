"""mmpretrain's own Vision Transformers of each method, tiny and random, and the table of ``docs/peers.md``.

``python tests/peer_models.py`` writes that file anew.
"""

import re
import warnings
from pathlib import Path

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from randsac_mm.models import RandSACViT
from randsac_mm.transfer.peers import convert

ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=24)
# Options as in mmpretrain's pre-training configs of ViT-B, other than sizes.
CONFIGS = {
    'mae': dict(type='MAEViT'),
    'beitv2': dict(type='BEiTPretrainViT', final_norm=False, layer_scale_init_value=0.1),
    'mocov3': dict(type='MoCoV3ViT', stop_grad_conv1=True),
    'maskfeat': dict(type='MaskFeatViT'),
    'cae': dict(type='CAEPretrainViT', layer_scale_init_value=0.1, bias='qv_bias'),
    'deit': dict(type='VisionTransformer'),
    'deit, distilled': dict(type='DistilledVisionTransformer'),
}
FIXED = ('mae', 'mocov3', 'cae')  # their positions


def build(name: str, img_size: int = 24, patch_size: int = 4, **kwargs: object) -> nn.Module:
    """Make a model of mmpretrain and give all its weights, tables and factors values that no two layers share."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='torch.meshgrid')
        sizes = dict(arch=ARCH, img_size=img_size, patch_size=patch_size)
        model = MODELS.build({**sizes, **CONFIGS[name], **kwargs})
    if name in FIXED and model.cls_token is not None:
        model.init_weights()  # which makes the positions
    for key, parameter in model.named_parameters():
        if key != 'pos_embed' or name not in FIXED:
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.eval()
    return model


def backbone(name: str, img_size: int | tuple = 24, patch_size: int = 4, **kwargs: object) -> RandSACViT:
    """Make our backbone for the checkpoints of a method."""
    method = name.partition(',')[0]
    options = dict(arch=ARCH, img_size=img_size, patch_size=patch_size, method=method, **kwargs)
    return RandSACViT(**options).eval()


@torch.no_grad()
def without_extra_tokens(
    model: nn.Module,
    images: Tensor,
    positions: Tensor | None = None,
    shared: Tensor | None = None,
) -> list[Tensor]:
    """Run a model of mmpretrain, layer by layer, on the patches alone.

    Args:
        model: The model.
        images: Images (B, C, H, W), of the model's own size if nothing else is given.
        positions: What to add to the patches (1, N, D); the model's own without class token if not given.
        shared: Relative position bias of all layers (h, N, N); the model's own without class token if not given.

    Returns:
        Tokens (B, N, D) after each layer, the last ones normalised if the model does so.
    """
    x = model.patch_embed(images)[0]
    if positions is None and model.pos_embed is not None:
        positions = model.pos_embed[:, -x.shape[1] :]
    x = x if positions is None else x + positions
    if shared is None and getattr(model, 'rel_pos_bias', None) is not None:
        shared = model.rel_pos_bias()[:, 1:, 1:]
    outs = []
    for layer in model.layers:
        attn = layer.attn
        table = getattr(attn, 'relative_position_bias_table', None)
        if shared is not None:
            x = layer(x, shared)
        elif table is not None:
            bias = table[attn.relative_position_index].permute(2, 0, 1)[:, 1:, 1:]
            attn.relative_position_bias_table = None
            x = layer(x, bias)
            attn.relative_position_bias_table = table
        elif hasattr(model, 'use_rel_pos_bias'):  # BEiT's layers have a second argument
            x = layer(x, None)
        else:
            x = layer(x)
        outs.append(x)
    if model.final_norm:
        outs[-1] = model.ln1(x)
    return outs


def _pattern(key: str) -> str:
    return re.sub(r'^layers\.\d+\.', 'layers.*.', key)


def peers_table() -> str:
    """Write ``docs/peers.md`` from what ``convert`` reports."""
    words, fates = {}, {}
    for name in CONFIGS:
        state, vit = build(name, 224, 16).state_dict(), backbone(name, 512, 16)
        converted, told = convert(state, vit)
        assert converted.keys() == vit.state_dict().keys()
        for key in state:
            fate = told.get(key, '')
            word = 'dropped' if fate.endswith('dropped') or 'dropped:' in fate else 'changed' if fate else 'used'
            words.setdefault(_pattern(key), {})[name] = word
        fates[name] = {_pattern(key): fate for key, fate in told.items()}
    lines = [
        '# Which weights of other methods are used',
        '',
        "mmpretrain's pre-trained Vision Transformers become backbones by `RandSACViT(method='mae')` and so on.",
        "This file is made by `python tests/peer_models.py` from mmpretrain's own classes, with the options of",
        'its ViT-B configs, at 224 pixels; the backbone is made for 512 pixels; patches have 16. A test keeps it',
        'up to date.',
        '',
        'The class token is dropped, so patches attend to each other only: features are those of the original',
        'without its class token. Fixed positions are made anew for each image size; learned ones, and tables of',
        'relative position biases, are resized bicubically. Which axis comes first in fixed positions is read off',
        "the checkpoint: the row in mmpretrain's, the column in MAE's own code and in ours.",
        '',
        "BEiT's fine-tuning recipes give each layer a table of its own: `rel_pos_bias='layer'` copies BEiT v2's",
        "shared one to all. CAE's recipe adds such tables to a checkpoint that has none: they start at zero, and",
        'strict loading must be told that they are missing. Heads, necks, teachers and momentum encoders are',
        'dropped too. A fine-tuned MAE, MoCo v3 or MaskFeat model of mmpretrain has learned positions and is read',
        "with `method='deit'`.",
        '',
        '| weight | ' + ' | '.join(CONFIGS) + ' |',
        '|---' * (len(CONFIGS) + 1) + '|',
    ]
    lines += [f'| `{key}` | ' + ' | '.join(row.get(name, '') for name in CONFIGS) + ' |' for key, row in words.items()]
    for name, told in fates.items():
        vit, kind = backbone(name, 512, 16), CONFIGS[name]['type']
        lines += ['', f'## {name}', '', f"`{kind}`, read by `RandSACViT(method='{vit.method}')`: {_describe(vit)}.", '']
        lines += [f'* `{key}`: {fate}' for key, fate in told.items()]
    return '\n'.join(lines) + '\n'


def _describe(vit: RandSACViT) -> str:
    parts = {'fixed': 'fixed sine-cosine positions', 'learned': 'learned positions', 'none': 'no absolute positions'}
    found = [parts[vit.positions]]
    found += ['a relative position bias that all layers share'] if vit.rel_pos_bias is not None else []
    found += ['layer scale'] if vit.layers[0].gamma_1 is not None else []
    return ', '.join([*found, 'a final norm' if vit.final_norm else 'no final norm'])


if __name__ == '__main__':
    (Path(__file__).parents[1] / 'docs' / 'peers.md').write_text(peers_table())
