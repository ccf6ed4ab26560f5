# Table 12, ADE20K: upernet_vit-b_ade20k-512.py with the learning rate of mmseg's MAE config, a seventh, and positions
# that are trained, as in MAE's fine-tuning: they begin stretched to crops of 512 px.
#
# Command:  bash tools/dist_train.sh configs/segmentation/upernet_vit-b_lr1e-4_ade20k-512.py 8
# Cost:     as upernet_vit-b_ade20k-512.py
# Expected: mmseg reports 48.13 mIoU for MAE's checkpoint with this recipe; not run by us yet
_base_ = './upernet_vit-b_ade20k-512.py'

model = dict(backbone=dict(positions='trainable'))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
