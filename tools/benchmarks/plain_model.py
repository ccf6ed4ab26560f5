"""The baseline: the function of RandSAC, from the same weights, with PyTorch's own transformer layers."""

import re

import torch
from torch import Tensor, nn

from randsac_mm.models import RandSAC

_EPS = 1e-6
_NAMES = {  # patterns of our parameters' names, and PyTorch's
    r'^backbone\.patch_embed\.projection': 'embed',
    r'^backbone\.layers': 'encoder',
    r'^backbone\.ln1': 'encoder_norm',
    r'^neck\.layers': 'decoder',
    r'^neck\.ln\.': 'decoder_norm.',
    r'^neck\.skip\.weight': 'skip',
    r'^neck\.skip\.norms': 'skip_norms',
    r'^head\.proj': 'head',
    r'\.ln(\d)\.': r'.norm\1.',
    r'\.ffn\.layers\.0\.0\.': '.linear1.',
    r'\.ffn\.layers\.1\.': '.linear2.',
    r'\.(self_)?attn\.qkv\.': '.self_attn.in_proj_',
    r'\.(self_)?attn\.proj\.': '.self_attn.out_proj.',
    r'\.cross_attn\.proj\.': '.multihead_attn.out_proj.',
    r'\.cross_attn\.q\.': '.multihead_attn.in_proj_',
}


class PlainRandSAC(nn.Module):
    """Predict segments with ``nn.TransformerEncoderLayer``, ``nn.TransformerDecoderLayer`` and additive masks.

    All tokens go everywhere, with masks per image. Weights are those of ``model``, whose parts must have one width.
    """

    def __init__(self, model: RandSAC) -> None:
        super().__init__()
        backbone, neck = model.backbone, model.neck
        dims, patch = backbone.embed_dims, backbone.patch_size

        def layers(kind: type, like: nn.ModuleList, heads: int) -> nn.ModuleList:
            hidden = like[0].ffn.layers[0][0].out_features
            options = dict(activation='gelu', layer_norm_eps=_EPS, batch_first=True, norm_first=True)
            return nn.ModuleList(kind(dims, heads, hidden, 0.0, **options) for _ in like)

        self.heads = backbone.layers[0].attn.num_heads, neck.layers[0].self_attn.num_heads
        self.target = model.head.target
        self.register_buffer('positions', model.state_dict()['backbone.pos_embed'][0].clone())
        self.embed = nn.Conv2d(backbone.in_channels, dims, patch, patch)
        self.encoder = layers(nn.TransformerEncoderLayer, backbone.layers, self.heads[0])
        self.encoder_norm = nn.LayerNorm(dims, _EPS)
        self.skip = nn.Parameter(torch.zeros_like(neck.skip.weight))
        self.skip_norms = nn.ModuleList(nn.LayerNorm(dims, _EPS) for _ in backbone.layers)
        self.decoder = layers(nn.TransformerDecoderLayer, neck.layers, self.heads[1])
        self.decoder_norm = nn.LayerNorm(dims, _EPS)
        self.head = nn.Linear(dims, model.head.proj.out_features)
        self.load_state_dict({'positions': self.positions, **as_plain(model.state_dict())})

    def forward(self, images: Tensor, rank: Tensor, tokens_per_segment: int | None = None) -> dict[str, Tensor]:
        """Compute ``loss`` of normalised images (B, C, H, W) with ranks (B, N), of any size of segments."""
        x = self.embed(images).flatten(2).transpose(1, 2) + self.positions  # (B, N, D)
        queries = self.positions.expand(len(images), -1, -1)
        source, target, memory = _masks(rank)
        source = source.repeat_interleave(self.heads[0], dim=0)  # (B * h, N, N), as PyTorch wants it
        target, memory = (mask.repeat_interleave(self.heads[1], dim=0) for mask in (target, memory))
        hidden = []
        for layer in self.encoder:
            x = layer(x, src_mask=source)
            hidden.append(x)
        hidden[-1] = self.encoder_norm(x)
        hidden = torch.stack([norm(h) for norm, h in zip(self.skip_norms, hidden, strict=True)])
        memories = torch.einsum('kl,kbsd->lbsd', self.skip, hidden)
        for layer, z in zip(self.decoder, memories, strict=True):
            queries = layer(queries, z, tgt_mask=target, memory_mask=memory)
        pred = self.head(self.decoder_norm(queries))
        error, predicted = (pred.float() - self.target(images)).square().mean(-1), rank > 0
        return {'loss': (error * predicted).sum() / predicted.sum()}


def as_plain(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename parameters, or gradients, of a RandSAC model with skip connections to those of :class:`PlainRandSAC`."""
    plain: dict[str, Tensor] = {}
    for key, value in ours.items():
        if key == 'backbone.pos_embed' or key.startswith('data_preprocessor') or '.cross_attn.kv.' in key:
            continue
        if '.cross_attn.q.' in key:  # PyTorch keeps queries, keys and values in one parameter
            value = torch.cat([value, ours[key.replace('.q.', '.kv.')]])
        for pattern, name in _NAMES.items():
            key = re.sub(pattern, name, key)
        plain[key] = value
    return plain


def _masks(rank: Tensor) -> list[Tensor]:
    """Make source, target and memory mask, each (B, N, N); first-segment rows, never read, see everything."""
    query, key = rank[:, :, None], rank[:, None, :]
    unread = query == 0
    masks = query >= key, (query >= key) & (key > 0) | unread, (query > key) | unread
    return [torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float('-inf')) for mask in masks]
