"""Attention maps show what the encoder's fused kernels compute, but never form."""

import math

import pytest
import torch
from builders import ARCHITECTURES, ENCODER, GRID, build, config
from visualization.checks import check_picture

from randsac_mm.visualization import attention_maps, draw_attention
from randsac_mm.visualization.attention_maps import attention_rollout, attention_statistics, attention_weights


@pytest.mark.parametrize('neck', [ARCHITECTURES['skip'], None], ids=['skip', 'two-stream'])
@torch.no_grad()
def test_weights_give_the_output_of_the_layers(neck):
    options = dict(out_indices=(0, 1, 2), out_type='raw', final_norm=False)
    backbone = build(config(neck=neck, channels=3, **options)).eval().backbone
    inputs = torch.randn(2, 3, *backbone.img_size)
    weights = attention_weights(backbone, inputs)
    tokens = GRID[0] * GRID[1]
    assert weights.shape == (ENCODER['num_layers'], 2, ENCODER['num_heads'], tokens, tokens)
    hidden = backbone(inputs)
    for i in (1, 2):
        layer, read = backbone.layers[i], backbone.layers[i].ln1(hidden[i - 1])
        value = layer.attn.qkv(read).chunk(3, dim=-1)[2].unflatten(2, (layer.attn.num_heads, -1)).transpose(1, 2)
        attended = layer.attn.proj((weights[i] @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(attended, layer.attn(read), rtol=1e-4, atol=1e-5)


def test_rollout_is_a_product_over_layers():
    weights = torch.rand(3, 2, 4, 5, 5).softmax(-1)
    total = attention_rollout(weights)
    for image in range(2):
        expected = torch.eye(5)
        for layer in range(3):
            mean = sum(weights[layer, image, head] for head in range(4)) / 4
            expected = (mean / 2 + torch.eye(5) / 2) @ expected
        torch.testing.assert_close(total[image], expected)
    torch.testing.assert_close(total.sum(-1), torch.ones(2, 5))


def test_statistics_of_known_attention():
    own, even = torch.eye(6), torch.full((6, 6), 1 / 6)
    found = attention_statistics(torch.stack([own, even])[None, None], (2, 3))
    assert found['mean_distance'][0][0] == found['entropy'][0][0] == 0
    assert found['entropy'][0][1] == pytest.approx(math.log(6))
    places = [(y, x) for y in range(2) for x in range(3)]
    assert found['mean_distance'][0][1] == pytest.approx(sum(math.dist(a, b) for a in places for b in places) / 36)


def test_maps_are_of_the_query_and_of_all(tmp_path, monkeypatch):
    rows, draw_row = [], attention_maps._draw_row
    monkeypatch.setattr(attention_maps, '_draw_row', lambda *args: (rows.append(args[3:]), draw_row(*args)))
    model = build(config(channels=3, drop_path_rate=0.5))
    inputs = torch.randn(1, 3, *model.backbone.img_size)
    result = draw_attention(model, inputs, tmp_path / 'a.png', query=(3, 5), layers=[0, -1])
    assert (result['query'], result['layers'], model.training) == ([3, 5], [0, 2], True)
    weights = attention_weights(model.backbone, inputs)[:, 0]
    rollout = attention_rollout(weights[:, None])[0]
    (framed, _, of_query), (_, _, of_all), *heads = rows
    assert framed == (5, 3)
    torch.testing.assert_close(of_query, torch.stack([*weights[[0, 2], :, -1].mean(1), rollout[-1]]))
    torch.testing.assert_close(of_all, torch.stack([*weights[[0, 2]].mean((1, 2)), rollout.mean(0)]))
    for (_, names, maps), layer in zip(heads, (0, 2), strict=True):
        assert names[0] == f'layer {layer + 1}'
        torch.testing.assert_close(maps, weights[layer, :, -1])
    for key, values in attention_statistics(weights[:, None], GRID).items():
        torch.testing.assert_close(torch.tensor(result['statistics'][key]), torch.tensor(values), rtol=1e-4, atol=1e-5)
    for name in ('a.png', 'a_heads.png'):
        check_picture(tmp_path / name, least=(400, 150))
