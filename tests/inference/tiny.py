"""Configs of a tiny UPerNet and a tiny Mask R-CNN, and random weights for them."""

import copy

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

DIMS, PATCH = 32, 8
ARCH = dict(embed_dims=DIMS, num_layers=4, num_heads=2, feedforward_channels=48)
PIXELS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
NORM = dict(type='SyncBN', requires_grad=True)
# As after training: this file is gone.
GONE = dict(type='Pretrained', checkpoint='work_dirs/gone/epoch_9.pth', prefix='backbone.')


def _backbone(task):
    return dict(type='mmpretrain.RandSACViT', arch=ARCH, img_size=64, patch_size=PATCH, out_indices=task, init_cfg=GONE)


def upernet(classes=('sky', 'sea', 'sand'), padded=True, **dataset):
    loss = dict(type='CrossEntropyLoss', avg_non_ignore=True)
    head = dict(num_classes=len(classes), norm_cfg=NORM, align_corners=False, loss_decode=loss)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(140, 72), keep_ratio=True),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    cfg = dict(
        custom_imports=dict(imports=['randsac_mm']),
        default_scope='mmseg',
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', **PIXELS, pad_val=0, seg_pad_val=255, size=(64, 64)),
            backbone=_backbone('segmentation'),
            neck=dict(type='ViTPyramid', embed_dims=DIMS, patch_size=PATCH, norm_cfg=NORM),
            decode_head=dict(
                type='UPerHead', in_channels=[DIMS] * 4, in_index=[0, 1, 2, 3], pool_scales=(1, 2), channels=16, **head
            ),
            auxiliary_head=dict(type='FCNHead', in_channels=DIMS, in_index=2, channels=16, num_convs=1, **head),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        ),
        test_dataloader=dict(
            dataset=dict(
                type='BaseSegDataset',
                data_root='gone',
                metainfo=dict(classes=classes),
                test_mode=True,
                pipeline=pipeline,
                **dataset,
            )
        ),
        test_pipeline=pipeline,
        visualizer=dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'),
    )
    if padded:
        cfg['model']['data_preprocessor']['test_cfg'] = dict(size_divisor=PATCH)
    return Config(copy.deepcopy(cfg))


def mask_rcnn(classes=('cat', 'dog')):
    coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4)
    strides = [4, 8, 16, 32]

    def extractor(size):
        layer = dict(type='RoIAlign', output_size=size, sampling_ratio=0)
        return dict(type='SingleRoIExtractor', roi_layer=layer, out_channels=16, featmap_strides=strides)

    nms = dict(type='nms', iou_threshold=0.7)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(100, 70), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    cfg = dict(
        custom_imports=dict(imports=['randsac_mm']),
        default_scope='mmdet',
        model=dict(
            type='MaskRCNN',
            data_preprocessor=dict(type='DetDataPreprocessor', **PIXELS, pad_mask=True, pad_size_divisor=32),
            backbone=_backbone('detection'),
            neck=[
                dict(type='ViTPyramid', embed_dims=DIMS, patch_size=PATCH, norm_cfg=NORM),
                dict(type='FPN', in_channels=[DIMS] * 4, out_channels=16, num_outs=5),
            ],
            rpn_head=dict(
                type='RPNHead',
                in_channels=16,
                feat_channels=16,
                anchor_generator=dict(
                    type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=[*strides, 64]
                ),
                bbox_coder=dict(**coder, target_stds=[1.0] * 4),
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
                loss_bbox=dict(type='L1Loss'),
            ),
            roi_head=dict(
                type='StandardRoIHead',
                bbox_roi_extractor=extractor(7),
                bbox_head=dict(
                    type='Shared2FCBBoxHead',
                    in_channels=16,
                    fc_out_channels=32,
                    roi_feat_size=7,
                    num_classes=len(classes),
                    bbox_coder=dict(**coder, target_stds=[0.1, 0.1, 0.2, 0.2]),
                ),
                mask_roi_extractor=extractor(14),
                mask_head=dict(
                    type='FCNMaskHead', num_convs=1, in_channels=16, conv_out_channels=16, num_classes=len(classes)
                ),
            ),
            train_cfg=None,
            test_cfg=dict(
                rpn=dict(nms_pre=100, max_per_img=20, nms=nms, min_bbox_size=0),
                rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=9, mask_thr_binary=0.5),
            ),
        ),
        test_dataloader=dict(
            dataset=dict(
                type='CocoDataset',
                data_root='gone',
                metainfo=dict(classes=classes),
                test_mode=True,
                pipeline=pipeline,
            )
        ),
        visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'),
    )
    return Config(copy.deepcopy(cfg))


def save_weights(cfg, path, seed=0, **meta):
    """Save random weights for a config, as a checkpoint of training would."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    for name, value in model.state_dict().items():
        if value.dtype.is_floating_point and not name.endswith('pos_embed'):
            value.add_((torch.rand_like if 'running' in name else torch.randn_like)(value), alpha=0.05)
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    return path
