# ViT-S of the paper for ImageNet-100: 224 px, 196 tokens, decoder of 4 layers with 12 heads (C.1.2).
_base_ = './randsac_vit-b.py'

model = dict(backbone=dict(arch='deit-small', img_size=224), neck=dict(num_layers=4, embed_dims=384))
