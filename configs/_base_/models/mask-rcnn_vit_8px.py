# A Mask R-CNN small enough for a CPU: 6 layers of 128 channels, patches of 8 px, heads of 64 channels.
_base_ = './mask-rcnn_vit-b_fpn.py'

# Normalises the image's own values: batches are too small for statistics over them.
norm_cfg = dict(type='GN', num_groups=16, requires_grad=True)
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512),
        patch_size=8,
        drop_path_rate=0.0,
    ),
    neck=[
        dict(type='ViTPyramid', embed_dims=128, patch_size=8, norm_cfg=norm_cfg),
        dict(type='FPN', in_channels=[128, 128, 128, 128], out_channels=64, num_outs=5),
    ],
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[2, 4]),  # images are small, and so are the things in them
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(
        rpn=dict(assigner=dict(min_pos_iou=0.1)),  # so that the smallest objects have an anchor, too
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=128, pos_fraction=0.5)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=200),
        # So low that a model in its first steps finds something: nothing at all gives no metrics.
        rcnn=dict(score_thr=0.001),
    ),
)
