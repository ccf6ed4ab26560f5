"""The models of transfer_step.py: ours from its configs, mmseg's from its own, and ViTDet's Mask R-CNN.

Shapes: B images, C channels, H and W rows and columns of tokens.
"""

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TINY = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)
_TINY_GLOBAL = [1, 3]


class Entry(NamedTuple):
    """Hold what is measured.

    Attributes:
        scope: ``'mmseg'`` or ``'mmdet'``.
        make: Gives the config of the model.
        size: Side of the images in pixels.
        batch: Images in a step.
        what: One line for people.
    """

    scope: str
    make: Callable[[], ConfigDict]
    size: int
    batch: int
    what: str


@MODELS.register_module()
class BenchmarkSimpleFeaturePyramid(nn.Module):
    """Make all levels from the last map of a ViT (ViTDet, section 3, "simple feature pyramid").

    Strides 4, 8, 16 and 32 by two, one and no transposed convolutions and by pooling, each followed by a 1 x 1 and a
    3 x 3 convolution with layer norms; stride 64 by pooling once more.

    Args:
        in_channels: Channels of the ViT's map.
        out_channels: Channels of every level.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half, quarter = in_channels // 2, in_channels // 4
        scales = [
            ([_double(in_channels, half), _norm(half), nn.GELU(), _double(half, quarter)], quarter),
            ([_double(in_channels, half)], half),
            ([], in_channels),
            ([nn.MaxPool2d(2)], in_channels),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                *resize,
                nn.Conv2d(channels, out_channels, 1, bias=False),
                _norm(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                _norm(out_channels),
            )
            for resize, channels in scales
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Map a ViT's last map (B, C, H, W) to five levels of ``out_channels``."""
        levels = [level(maps[-1]) for level in self.levels]
        return (*levels, nn.functional.max_pool2d(levels[-1], 1, stride=2))


def _double(in_channels: int, out_channels: int) -> nn.Module:
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)


def _norm(channels: int) -> nn.Module:
    return MODELS.build(dict(type='mmpretrain.LN2d', num_channels=channels, eps=1e-6))


def our_upernet() -> ConfigDict:
    """Give our UPerNet."""
    return Config.fromfile(CONFIGS / 'segmentation' / 'upernet_vit-b_ade20k-512.py').model


def mmseg_upernet() -> ConfigDict:
    """Give mmseg's UPerNet for MAE, as its package ships it."""
    folder = Path(import_module('mmseg').__file__).parent / '.mim' / 'configs' / 'mae'
    cfg = Config.fromfile(folder / 'mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py').model
    cfg.pretrained = None
    return cfg


def our_mask_rcnn(**backbone: object) -> ConfigDict:
    """Give our Mask R-CNN, with options of the backbone."""
    cfg = Config.fromfile(CONFIGS / 'detection' / 'mask-rcnn_vit-b_fpn_lsj-100e_coco.py').model
    cfg.backbone.update(backbone)
    return cfg


def vitdet_mask_rcnn() -> ConfigDict:
    """Give ViTDet's Mask R-CNN: mmpretrain's ViTSAM is its encoder, pyramid and heads are as in the paper.

    Windows of 14 tokens, global attention in four layers, decomposed relative positions; one map to five levels; two
    convolutions in the RPN, four and one fully connected layer for boxes, layer norms. ViTSAM's absolute positions are
    64 x 64 (3.1 M parameters), where ViTDet resizes 14 x 14 (0.15 M).
    """
    cfg = our_mask_rcnn()
    cfg.backbone = dict(
        type='mmpretrain.ViTSAM',
        arch='base',
        img_size=1024,
        patch_size=16,
        out_channels=0,
        out_indices=[11],
        drop_path_rate=0.1,
    )
    cfg.neck = dict(type='BenchmarkSimpleFeaturePyramid', in_channels=768, out_channels=256)
    norm = dict(type='mmpretrain.LN2d', eps=1e-6)
    cfg.rpn_head.num_convs = 2
    cfg.roi_head.bbox_head.update(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm)
    cfg.roi_head.mask_head.norm_cfg = norm
    return cfg


ENTRIES = {
    'upernet': Entry('mmseg', our_upernet, 512, 2, 'UPerNet, randsac_mm'),
    'upernet-mmseg': Entry('mmseg', mmseg_upernet, 512, 2, "UPerNet, mmseg's MAE config"),
    'mask-rcnn': Entry('mmdet', our_mask_rcnn, 1024, 1, 'Mask R-CNN, randsac_mm'),
    'mask-rcnn-checkpointing': Entry(
        'mmdet', lambda: our_mask_rcnn(with_cp=True), 1024, 1, 'Mask R-CNN, randsac_mm, with_cp=True'
    ),
    'mask-rcnn-windows': Entry(
        'mmdet', lambda: our_mask_rcnn(window_size=14), 1024, 1, 'Mask R-CNN, randsac_mm, window_size=14'
    ),
    'mask-rcnn-vitdet': Entry('mmdet', vitdet_mask_rcnn, 1024, 1, 'Mask R-CNN, ViTDet (ViTSAM, simple pyramid)'),
}


def model_config(name: str, tiny: bool = False) -> tuple[ConfigDict, int]:
    """Give the config of a model without its initial weights, and the side of its images.

    Args:
        name: A key of :data:`ENTRIES`.
        tiny: Whether to shrink backbone and images, to try the benchmark out.

    Returns:
        Config and size in pixels.
    """
    entry = ENTRIES[name]
    cfg, size = entry.make(), entry.size
    cfg.backbone.pop('init_cfg', None)
    if tiny:
        size //= 4
        _shrink(cfg, size)
    return cfg, size


def _shrink(cfg: ConfigDict, size: int) -> None:
    dims, backbone = TINY['embed_dims'], cfg.backbone
    last = TINY['num_layers'] - 1
    if backbone.type == 'MAE':
        backbone.update({name: TINY[name] for name in ('embed_dims', 'num_layers', 'num_heads')})
        backbone.update(img_size=(size, size), out_indices=list(range(4)))
        cfg.neck.embed_dim = dims
    elif backbone.type == 'mmpretrain.ViTSAM':
        backbone.update(arch=dict(**TINY, global_attn_indexes=_TINY_GLOBAL), img_size=size, out_indices=[last])
        cfg.neck.in_channels = dims
    else:
        backbone.arch = dict(TINY)
        if backbone.get('window_size'):
            backbone.global_layers = _TINY_GLOBAL
        for neck in cfg.neck if isinstance(cfg.neck, list) else [cfg.neck]:
            neck.update(in_channels=[dims] * 4) if neck.type == 'FPN' else neck.update(embed_dims=dims)
    if 'decode_head' in cfg:
        cfg.decode_head.update(in_channels=[dims] * 4, channels=dims)
        cfg.auxiliary_head.update(in_channels=dims, channels=dims)
        return
    narrow = dict(in_channels=dims, out_channels=dims, feat_channels=dims, conv_out_channels=dims, fc_out_channels=dims)
    pyramid, roi = cfg.neck[-1] if isinstance(cfg.neck, list) else cfg.neck, cfg.roi_head
    pyramid.out_channels = dims
    for part in (cfg.rpn_head, roi.bbox_head, roi.mask_head, roi.bbox_roi_extractor, roi.mask_roi_extractor):
        part.update({key: value for key, value in narrow.items() if key in part})


def attention_bytes(backbone: nn.Module, size: int, batch: int, element: int) -> int:
    """Compute how much one matrix of weights per layer, head and image would take: what fused attention never stores.

    Args:
        backbone: One of the four kinds above.
        size: Side of the images in pixels.
        batch: Images.
        element: Bytes of a number.

    Returns:
        Bytes. An implementation that does store them keeps several such matrices: scores, softmax, biased scores.
    """
    side = size // 16
    extra = 1 if hasattr(backbone, 'cls_token') else 0
    total = 0
    for layer in backbone.layers:
        window = getattr(layer, 'window_size', 0)
        tokens = window**2 if window else side**2 + extra
        total += (math.ceil(side / window) ** 2 if window else 1) * tokens**2 * _heads(layer)
    return total * batch * element


def _heads(layer: nn.Module) -> int:
    return next(module.num_heads for module in layer.modules() if hasattr(module, 'num_heads'))


def multiply_adds(model: nn.Module, size: int) -> dict[str, int]:
    """Count the multiply-adds of a training step's forward pass for one image, part by part.

    The model runs on the meta device: shapes without numbers, so nothing is computed. Counted are matrix products and
    convolutions, attention included; norms, activations, sums and RoIAlign are not, as is usual. The heads of Mask
    R-CNN get as many regions as the samplers allow in a step (512 for boxes, a quarter of them for masks).

    Args:
        model: An EncoderDecoder or a MaskRCNN; it is moved to the meta device and useless afterwards.
        size: Side of the image in pixels.

    Returns:
        Counts of ``backbone``, ``neck``, ``heads`` and ``total``.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = model.to('meta').eval()

    def count(run: Callable[[], object]) -> int:
        # The plain backend is made of matrix products; the counter does not know every fused one.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() // 2

    image, found = torch.empty(1, 3, size, size, device='meta'), {}
    counts = {
        'backbone': count(lambda: found.update(maps=model.backbone(image))),
        'neck': count(lambda: found.update(levels=model.neck(found['maps']))),
        'heads': count(lambda: _run_heads(model, found['levels'])),
    }
    return {**counts, 'total': sum(counts.values())}


def _run_heads(model: nn.Module, levels: tuple[Tensor, ...]) -> None:
    if hasattr(model, 'decode_head'):
        model.decode_head(levels)
        model.auxiliary_head(levels)
        return
    model.rpn_head(levels)
    sampler, roi = model.train_cfg.rcnn.sampler, model.roi_head
    positives = int(sampler.num * sampler.pos_fraction)
    for head, extractor, number in (
        (roi.bbox_head, roi.bbox_roi_extractor, sampler.num),
        (roi.mask_head, roi.mask_roi_extractor, positives),
    ):
        side = extractor.roi_layers[0].output_size
        head(torch.empty(number, extractor.out_channels, *side, device='meta'))
