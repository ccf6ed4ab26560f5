"""The formulas agree with what is executed, and with the paper's Tables 10 and 11 to 2 %."""

from pathlib import Path

import pytest
from builders import config
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from randsac_mm.complexity import PAPER, compare_with_paper, complexity, count_executed, find_published, measure, report

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'randsac'
SQUARES = dict(type='SquarePartition', hierarchy=6)
BLOBS = dict(type='BlobPartition', hierarchy=3)


def build(skip=True, partition=SQUARES, two_stream=False, dims=28, decoder_dims=20, hidden=44):
    """Build a model of odd sizes: 2 x 3 segments of 2 x 2 tokens of 3 x 3 pixels; nothing is equal by chance."""
    init_default_scope('mmpretrain')
    arch = dict(embed_dims=dims, num_layers=3, num_heads=7, feedforward_channels=hidden)
    neck = dict(num_layers=2, embed_dims=decoder_dims, num_heads=4, feedforward_channels=hidden, skip=skip)
    return MODELS.build(config(partition, None if two_stream else neck, arch=arch, channels=3))


def build_config(name):
    init_default_scope('mmpretrain')
    return MODELS.build(Config.fromfile(CONFIGS / f'{name}.py').model)


@pytest.mark.parametrize(('skip', 'partition'), [(True, SQUARES), (False, SQUARES), (True, BLOBS)])
def test_formula_equals_what_is_executed(skip, partition):
    model = build(skip, partition)
    assert {part: cost.executed for part, cost in complexity(model).items()} == measure(model)
    assert 'Tables' not in report(model)


def test_two_stream_formula_equals_what_is_executed():
    model = build(two_stream=True)
    costs, measured = complexity(model), measure(model)
    assert costs['encoder'].executed + costs['decoder'].executed == measured['encoder']
    assert costs['total'].executed == measured['total']


def test_parameters_are_all_that_is_learned():
    model = build()
    costs = complexity(model)
    assert costs['total'].parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert costs['skip'].parameters == 3 * 2 + 3 * 2 * 28  # W and a norm for each encoder layer
    assert costs['head'].parameters == 20 * 27 + 27


def test_all_tokens_follow_the_papers_formulas():
    n, d = 24, 28
    costs = complexity(build(decoder_dims=d, hidden=4 * d))
    assert costs['encoder'].all_tokens == 3 * (12 * d**2 * n + 2 * n**2 * d) + 27 * d * n
    assert costs['decoder'].all_tokens == 2 * (16 * d**2 * n + 4 * n**2 * d)
    assert costs['skip'].all_tokens == 3 * 2 * n * d
    assert costs['head'].all_tokens == 27 * d * n


@pytest.mark.slow
@pytest.mark.parametrize(
    ('recipe', 'name', 'rows'),
    [('vit-t_skip_cifar10', 'ViT-T', 4), ('vit-s_in100', 'ViT-S', 4), ('vit-b_in1k', 'ViT-B', 2)],
)
def test_tables_10_and_11_to_two_percent(recipe, name, rows):
    model = build_config(recipe)
    assert find_published(model) == name
    comparison = compare_with_paper(model)
    assert len(comparison) == rows
    for what, (ours, paper) in comparison.items():
        assert ours == pytest.approx(paper, rel=0.02), what
        assert f'{ours:,.0f}' in report(model)


def test_two_stream_has_the_papers_parameters_and_the_reported_difference():
    model = build_config('vit-t_two-stream_cifar10')
    comparison = compare_with_paper(model)
    assert comparison['parameters of the shared layers, millions'] == (7, 7)
    ours, paper = comparison['multiply-adds, two-stream']
    assert 1.7 < ours / paper < 1.8  # not reproduced; the report explains
    text = report(model)
    for a, b in ((22, 4), (24, 4), (12, 2)):  # ways of counting: a D^2 N + b N^2 D per layer
        for p in PAPER.values():
            depth = (p.two_stream / p.tokens / p.dims - 2 * p.patch) / (a * p.dims + b * p.tokens)
            assert f'{depth:8.1f}' in text
    assert '   '.join(f'{p.encoder_layers + p.decoder_layers * 16 / 12:5.1f}' for p in PAPER.values()) in text


def test_multiply_adds_of_peers_follow_from_their_tokens():
    d = 192
    layer = {n: 12 * d**2 * n + 2 * n**2 * d for n in (17, 64, 65)}  # by tokens
    # A quarter of 64 patches and a class token in the encoder, all of them in the decoder.
    mae = 64 * 48 * d + 12 * layer[17] + 17 * d**2 + 3 * layer[65] + 65 * d * 48
    assert count_executed(build_config('../peers/mae_vit-t_cifar10')) == mae
    supervised = 64 * 48 * d + 12 * layer[64] + 10 * d
    assert count_executed(build_config('../peers/supervised_vit-t_cifar10')) == supervised


def test_the_tool_prints_the_table(run_tool, capsys):
    run_tool('analysis/complexity.py', CONFIGS / 'vit_digits.py')
    assert '4 x 4 = 16 tokens' in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r'none\.py'):
        run_tool('analysis/complexity.py', 'none.py')
