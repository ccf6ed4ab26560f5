"""The models that step.py times: our configs', mmpretrain's MAE beside them, and their multiply-adds by formula."""

import copy
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from randsac_mm.models import RandSAC

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


class Entry(NamedTuple):
    """Describe a model of the benchmark.

    Attributes:
        label: Its name for people; the number behind the slash counts the tokens of an image.
        config: Which config it comes from, below ``configs``.
        square: Numbers of square segments from fine to coarse.
        blob: The same for blobs.
        batch: Images a step on a CPU, and on a CUDA device: those of the config, of ViT-B half as many.
        mae: Width, layers and heads of the decoder of the MAE beside it.
    """

    label: str
    config: str
    square: int | tuple[int, ...]
    blob: int | tuple[int, ...]
    batch: tuple[int, int]
    mae: tuple[int, int, int]


# MAE publishes one decoder, for ViT-B and larger; with smaller encoders it is the same decoder at two thirds of the
# encoder's width, as 512 is of 768.
ENTRIES = {
    'vit-t': Entry('ViT-T/64', 'randsac/vit-t_skip_cifar10.py', (16, 4), (11, 5), (64, 512), (128, 8, 4)),
    # 14 x 14 tokens cannot be cut in 16 squares, which the paper asks for; 49 comes closest to it.
    'vit-s': Entry('ViT-S/196', 'randsac/vit-s_in100.py', 49, (16, 4), (8, 512), (256, 8, 8)),
    'vit-b': Entry('ViT-B/144', 'randsac/vit-b_in1k.py', (16, 4), (16, 4), (4, 256), (512, 8, 16)),
    'vit-b_k9': Entry('ViT-B/128', 'randsac/vit-b_k9_in1k.py', 9, 9, (4, 256), (512, 8, 16)),
}
# For trials and tests, on any machine in seconds; said by name only.
TINY = {'tiny': Entry('tiny/36', 'tiny', (36, 9), (9, 4), (2, 4), (16, 2, 2))}
KNOWN = {**ENTRIES, **TINY}
SEGMENTS = ('square', 'blob')


def model_config(name: str, segments: str = 'square') -> dict:
    """Give the config of a model.

    Args:
        name: Key of ``ENTRIES`` or ``TINY``.
        segments: ``'square'`` or ``'blob'``.

    Returns:
        A config for mmpretrain's ``MODELS``.
    """
    entry = KNOWN[name]
    cfg = _tiny() if entry.config == 'tiny' else Config.fromfile(CONFIGS / entry.config).model.to_dict()
    kind, hierarchy = ('SquarePartition', entry.square) if segments == 'square' else ('BlobPartition', entry.blob)
    cfg['data_preprocessor']['serialization']['partition'] = dict(type=kind, hierarchy=hierarchy)
    return cfg


def build_model(name: str, segments: str = 'square', **changes: dict) -> RandSAC:
    """Build a RandSAC model.

    Args:
        name: Key of ``ENTRIES`` or ``TINY``.
        segments: ``'square'`` or ``'blob'``.
        **changes: What to change in the parts of its config, as ``backbone=dict(img_size=96)``.

    Returns:
        The model, in training mode.
    """
    cfg = model_config(name, segments)
    for part, values in changes.items():
        cfg[part].update(copy.deepcopy(values))
    init_default_scope('mmpretrain')
    return MODELS.build(cfg).train()


def build_mae(name: str) -> nn.Module:
    """Build mmpretrain's MAE with the encoder of a model, 224 px in patches of 16 and a mask ratio of 0.75.

    Those are MAE's published size, mask and, for ViT-B, decoder. Encoders for smaller images keep their own size.
    """
    import mmpretrain.models  # noqa: F401  (registers it)

    cfg, (dims, layers, heads) = model_config(name), KNOWN[name].mae
    backbone, head = cfg['backbone'], cfg['head']
    patch, size = backbone['patch_size'], 224 if backbone['patch_size'] == 16 else backbone['img_size']
    encoder = dict(type='MAEViT', arch=backbone['arch'], img_size=size, patch_size=patch, mask_ratio=0.75)
    decoder = dict(type='MAEPretrainDecoder', patch_size=patch, num_patches=(size // patch) ** 2, mlp_ratio=4)
    loss = dict(type='PixelReconstructionLoss', criterion='L2')
    init_default_scope('mmpretrain')
    mae = MODELS.build(
        dict(
            type='MAE',
            backbone=encoder,
            neck=dict(
                **decoder,
                embed_dim=head['embed_dims'],
                decoder_embed_dim=dims,
                decoder_depth=layers,
                decoder_num_heads=heads,
            ),
            head=dict(type='MAEPretrainHead', norm_pix=True, patch_size=patch, loss=loss),
        )
    )
    mae.backbone.pos_embed.requires_grad_(False)
    # Positions are zero until init_weights, which would log every tensor; the time of a step does not depend on them.
    return mae.train()


def mae_products(mae: nn.Module) -> int:
    """Count the multiply-adds of MAE for one image by formula: a class token and a quarter of the patches encoded."""
    backbone, neck = mae.backbone, mae.neck
    patches = backbone.num_patches
    pixels = mae.head.patch_size**2 * mae.head.in_channels
    seen, all_tokens = int(patches * (1 - backbone.mask_ratio)) + 1, patches + 1
    e, d = backbone.embed_dims, neck.decoder_embed.out_features

    def layers(blocks: nn.ModuleList, tokens: int, dims: int) -> int:
        hidden = blocks[0].ffn.layers[0][0].out_features
        return len(blocks) * (tokens * (4 * dims * dims + 2 * dims * hidden) + 2 * tokens * tokens * dims)

    encoder = patches * pixels * e + layers(backbone.layers, seen, e)  # all patches are embedded before they are masked
    return encoder + seen * e * d + layers(neck.decoder_blocks, all_tokens, d) + all_tokens * d * pixels


def _tiny() -> dict:
    arch = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)
    neck = dict(type='RandSACDecoder', num_layers=2, embed_dims=24, num_heads=2, feedforward_channels=48)
    return dict(
        type='RandSAC',
        backbone=dict(type='RandSACViT', arch=arch, img_size=24, patch_size=4),
        neck=dict(**neck, encoder_dims=24, encoder_layers=3),
        head=dict(type='RandSACHead', embed_dims=24, patch_size=4),
        data_preprocessor=dict(
            type='RandSACDataPreprocessor',
            mean=[127.5] * 3,
            std=[64.0] * 3,
            serialization=dict(type='RandomSerialization', partition=None),
        ),
    )
