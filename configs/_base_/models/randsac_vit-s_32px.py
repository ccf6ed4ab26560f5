# ViT-S of the paper for CIFAR: 32 px, 64 tokens, decoder of 6 layers (D.1).
_base_ = './randsac_vit-t_32px.py'

model = dict(backbone=dict(arch='deit-small'), neck=dict(num_layers=6, embed_dims=384, num_heads=6))
