"""Attention maps show what the encoder's fused kernels compute, but never form."""

import math

import pytest
import torch
from builders import ARCHITECTURES, ENCODER, GRID, build, config, images
from PIL import Image

from randsac_mm.visualization import (
    attention_rollout,
    attention_statistics,
    attention_weights,
    draw_attention,
)
from randsac_mm.visualization.attention import plain_states


def make_model(neck=ARCHITECTURES['skip'], channels=3, **backbone):
    cfg = config(neck=neck, **backbone)
    cfg['backbone']['in_channels'] = cfg['head']['in_channels'] = channels
    return build(cfg).eval()


def slow_weights(attention, tokens):
    """Compute softmax(q k / sqrt(d)) of one image, one number at a time."""
    count, dims = tokens.shape
    d = dims // attention.num_heads
    q, k, _ = torch.stack([attention.qkv(t) for t in tokens]).split(dims, dim=1)
    weights = torch.zeros(attention.num_heads, count, count)
    for head in range(attention.num_heads):
        part = slice(head * d, (head + 1) * d)
        for i in range(count):
            logits = [sum(q[i, part] * k[j, part]).item() / math.sqrt(d) for j in range(count)]
            powers = [math.exp(logit - max(logits)) for logit in logits]
            weights[head, i] = torch.tensor([power / sum(powers) for power in powers])
    return weights


@pytest.mark.parametrize('neck', [ARCHITECTURES['skip'], None], ids=['skip', 'two-stream'])
@torch.no_grad()
def test_weights_are_those_of_a_slow_reference(neck):
    backbone = make_model(neck).backbone
    inputs = torch.randn(2, 3, *backbone.img_size)
    weights = attention_weights(backbone, inputs)
    tokens = GRID[0] * GRID[1]
    assert weights.shape == (ENCODER['num_layers'], 2, ENCODER['num_heads'], tokens, tokens)
    x = backbone.embed(inputs)
    for i, layer in enumerate(backbone.layers):
        torch.testing.assert_close(weights[i, 1], slow_weights(layer.attn, layer.ln1(x)[1]), rtol=1e-4, atol=1e-6)
        x = layer(x)


@torch.no_grad()
def test_weights_times_values_are_the_layer_s_own_output():
    backbone = make_model().backbone
    inputs = torch.randn(2, 3, *backbone.img_size)
    weights = attention_weights(backbone, inputs)
    for states in plain_states(backbone, inputs):
        layer = backbone.layers[states.layer]
        read = layer.ln1(states.before)
        value = layer.attn.qkv(read).chunk(3, dim=-1)[2].unflatten(2, (layer.attn.num_heads, -1)).transpose(1, 2)
        attended = layer.attn.proj((weights[states.layer] @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(attended, layer.attn(read), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(
            layer.attn.proj(value.mean(2, keepdim=True).expand_as(value).transpose(1, 2).flatten(2)),
            attended,
            atol=1e-2,
        ), 'even attention is another thing'
    torch.testing.assert_close(backbone.ln1(states.after), backbone(inputs)[0].flatten(2).transpose(1, 2))


def test_training_mode_comes_back_and_dropped_paths_do_not_count():
    backbone = make_model(drop_path_rate=0.5).backbone.train()
    inputs = images()[:, :1].repeat(1, 3, 1, 1)
    torch.testing.assert_close(attention_weights(backbone, inputs), attention_weights(backbone, inputs))
    assert backbone.training
    assert backbone.layers[2].drop_path.training


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


def test_pictures_and_figures(tmp_path):
    model = make_model()
    inputs = torch.randn(2, 3, *model.backbone.img_size)
    path, heads = tmp_path / 'a' / 'attention.png', tmp_path / 'heads.png'
    result = draw_attention(model, inputs, path, query=(3, 5), layers=[0, -1], heads=[2, 0], heads_path=heads)
    assert (result['query'], result['layers'], result['heads']) == ([3, 5], [0, 2], [2, 0])
    weights = attention_weights(model.backbone, inputs)
    entropy = torch.tensor(result['statistics']['entropy'])
    torch.testing.assert_close(
        entropy, torch.tensor(attention_statistics(weights, GRID)['entropy']), rtol=1e-4, atol=1e-5
    )
    for picture in (path, heads):
        with Image.open(picture) as drawn:
            assert min(drawn.size) > 200
    assert sorted(tmp_path.rglob('*.*')) == sorted([path, heads]), 'nothing temporary is left'
    assert draw_attention(model, inputs[:1], path)['query'] == [2, 3]


def test_brightest_is_where_the_query_looks(tmp_path, monkeypatch):
    import randsac_mm.visualization.attention as module

    model = make_model()
    rows, columns = GRID
    target = 1 * columns + 4
    weights = torch.zeros(3, 1, 3, rows * columns, rows * columns)
    weights[..., 0] = 1
    weights[:, :, :, 0 * columns + 2, :] = torch.nn.functional.one_hot(torch.tensor(target), rows * columns).float()
    monkeypatch.setattr(module, 'attention_weights', lambda *_: weights)
    drawn = []
    plain = module.heat
    monkeypatch.setattr(
        module, 'heat', lambda image, values, *rest: drawn.append(values) or plain(image, values, *rest)
    )
    draw_attention(model, torch.zeros(1, 3, *model.backbone.img_size), tmp_path / 'a.png', query=(0, 2), layers=[1])
    query, _, average, _ = drawn
    assert query.argmax() == target
    assert query.max() == 1
    assert query.sum() == 1
    assert average.argmax() == 0


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(query=(4, 0)), r'query=\(4, 0\) is no token: rows go from 0 to 3, columns from 0 to 5'),
        (dict(layers=[3]), r'layers=\[3\] names layer 3, but there are only 3 layers'),
        (dict(heads=[-1]), r'heads=\[-1\] names head -1, but they go from 0 to 2'),
        (dict(heads=[]), r'heads=\[\] is empty: name at least one, from 0 to 2'),
    ],
)
def test_impossible_choices(tmp_path, choice, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        draw_attention(model, torch.zeros(1, 3, *model.backbone.img_size), tmp_path / 'a.png', **choice)
    assert not list(tmp_path.iterdir())


def test_windows_are_refused():
    from mmpretrain.registry import MODELS

    backbone = MODELS.build(
        dict(type='RandSACViT', arch=ENCODER, img_size=12, patch_size=3, window_size=2, global_layers=-1)
    )
    with pytest.raises(ValueError, match='window_size=2 or a relative position bias is for transfer'):
        attention_weights(backbone, torch.zeros(1, 3, 12, 12))
