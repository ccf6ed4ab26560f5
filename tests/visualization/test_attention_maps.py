"""Attention maps show what the encoder's fused kernels compute, but never form."""

import math

import pytest
import torch
from builders import ARCHITECTURES, ENCODER, GRID, build, config
from visualization.pictures import check_picture

from randsac_mm.visualization import attention_rollout, attention_statistics, attention_weights, draw_attention
from randsac_mm.visualization.attention_maps import attention_maps


def make_model(neck=ARCHITECTURES['skip'], **backbone):
    cfg = config(neck=neck, **backbone)
    cfg['backbone']['in_channels'] = cfg['head']['in_channels'] = 3
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
    backbone = make_model(neck, out_indices=(0, 1, 2), out_type='raw', final_norm=False).backbone
    inputs = torch.randn(2, 3, *backbone.img_size)
    weights = attention_weights(backbone, inputs)
    tokens = GRID[0] * GRID[1]
    assert weights.shape == (ENCODER['num_layers'], 2, ENCODER['num_heads'], tokens, tokens)
    hidden = backbone(inputs)
    for i in (1, 2):
        layer, read = backbone.layers[i], backbone.layers[i].ln1(hidden[i - 1])
        torch.testing.assert_close(weights[i, 1], slow_weights(layer.attn, read[1]), rtol=1e-4, atol=1e-6)
        value = layer.attn.qkv(read).chunk(3, dim=-1)[2].unflatten(2, (layer.attn.num_heads, -1)).transpose(1, 2)
        attended = layer.attn.proj((weights[i] @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(attended, layer.attn(read), rtol=1e-4, atol=1e-5)


def test_training_mode_comes_back_and_dropped_paths_do_not_count():
    backbone = make_model(drop_path_rate=0.5).backbone.train()
    inputs = torch.randn(2, 3, *backbone.img_size)
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


def test_maps_are_of_the_query_and_of_all():
    weights = torch.rand(3, 1, 4, 6, 6).softmax(-1)
    maps = attention_maps(weights, [0, 2], 5)
    assert maps['query'].shape == maps['all queries'].shape == (3, 6)
    torch.testing.assert_close(maps['query'][1], weights[2, 0, :, 5].mean(0))
    torch.testing.assert_close(maps['query'][2], attention_rollout(weights)[0, 5])
    torch.testing.assert_close(maps['all queries'][0], weights[0, 0].mean((0, 1)))


def test_pictures_and_numbers(tmp_path):
    model = make_model()
    inputs = torch.randn(2, 3, *model.backbone.img_size)
    path, heads = tmp_path / 'a' / 'attention.png', tmp_path / 'heads.png'
    result = draw_attention(model, inputs, path, heads, query=(3, 5), layers=[0, -1])
    assert (result['query'], result['layers']) == ([3, 5], [0, 2])
    expected = attention_statistics(attention_weights(model.backbone, inputs), GRID)
    for key, values in expected.items():
        torch.testing.assert_close(torch.tensor(result['statistics'][key]), torch.tensor(values), rtol=1e-4, atol=1e-5)
    for picture in (path, heads):
        check_picture(picture, least=(400, 300))
    assert draw_attention(model, inputs[:1], path, heads)['query'] == [2, 3]


@pytest.mark.parametrize(
    ('choice', 'message'), [(dict(query=(4, 0)), r'query=\(4, 0\).* 3.* 5'), (dict(layers=[3]), r'layers=\[3\].* 3')]
)
def test_impossible_choices(tmp_path, choice, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        draw_attention(
            model, torch.zeros(1, 3, *model.backbone.img_size), tmp_path / 'a.png', tmp_path / 'b.png', **choice
        )
    assert not list(tmp_path.iterdir())
