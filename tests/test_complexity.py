"""The formulas agree with what is executed, and with the paper's Tables 10 and 11 to 2 %."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from randsac_mm.complexity import (
    PAPER,
    compare_with_paper,
    complexity,
    find_published,
    measure,
    report,
    two_stream_depths,
)

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'randsac'
SQUARES = dict(type='SquarePartition', hierarchy=6)
BLOBS = dict(type='BlobPartition', hierarchy=3)


def build(skip=True, partition=SQUARES, two_stream=False, decoder_dims=20):
    """Build a model of odd sizes: 2 x 3 segments of 2 x 2 tokens of 3 x 3 pixels; nothing is equal by chance."""
    init_default_scope('mmpretrain')
    arch = dict(embed_dims=28, num_layers=3, num_heads=7, feedforward_channels=44)
    serialization = dict(type='RandomSerialization', partition=partition)
    neck = dict(type='RandSACDecoder', num_layers=2, embed_dims=decoder_dims, num_heads=5, feedforward_channels=52)
    neck.update(encoder_dims=28, encoder_layers=3, skip=skip)
    return MODELS.build(
        dict(
            type='TwoStreamRandSAC' if two_stream else 'RandSAC',
            backbone=dict(type='RandSACViT', arch=arch, img_size=(12, 18), patch_size=3),
            neck=None if two_stream else neck,
            head=dict(type='RandSACHead', embed_dims=28 if two_stream else decoder_dims, patch_size=3),
            data_preprocessor=dict(type='RandSACDataPreprocessor', serialization=serialization),
        )
    )


@pytest.mark.parametrize('partition', [SQUARES, BLOBS], ids=['squares', 'blobs'])
@pytest.mark.parametrize('skip', [True, False])
def test_formula_equals_what_is_executed(skip, partition):
    model = build(skip, partition)
    assert {part: cost.executed for part, cost in complexity(model).items()} == measure(model)


def test_two_stream_formula_equals_what_is_executed():
    model = build(two_stream=True)
    costs, measured = complexity(model), measure(model)
    assert costs['encoder'].executed + costs['decoder'].executed == measured['encoder']
    assert costs['head'].executed == measured['head']
    assert costs['total'].executed == measured['total']


def test_parameters_are_all_that_is_learned():
    model = build()
    costs = complexity(model)
    assert costs['total'].parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert costs['skip'].parameters == 3 * 2 + 3 * 2 * 28  # W and a norm for each encoder layer
    assert costs['head'].parameters == 20 * 27 + 27


def test_all_tokens_follow_the_papers_formulas():
    n, d = 24, 28
    arch = dict(embed_dims=d, num_layers=3, num_heads=7, feedforward_channels=4 * d)
    init_default_scope('mmpretrain')
    neck = dict(type='RandSACDecoder', num_layers=2, embed_dims=d, num_heads=7, encoder_dims=d, encoder_layers=3)
    model = build(decoder_dims=20)
    model.backbone = MODELS.build(dict(type='RandSACViT', arch=arch, img_size=(12, 18), patch_size=3))
    model.neck = MODELS.build(neck)
    model.head = MODELS.build(dict(type='RandSACHead', embed_dims=d, patch_size=3))
    costs = complexity(model)
    assert costs['encoder'].all_tokens == 3 * (12 * d**2 * n + 2 * n**2 * d) + 27 * d * n
    assert costs['decoder'].all_tokens == 2 * (16 * d**2 * n + 4 * n**2 * d)
    assert costs['skip'].all_tokens == 3 * 2 * n * d
    assert costs['head'].all_tokens == 27 * d * n


@pytest.mark.parametrize(
    ('config', 'name', 'rows'),
    [('vit-t_skip_cifar10', 'ViT-T', 4), ('vit-s_in100', 'ViT-S', 4), ('vit-b_in1k', 'ViT-B', 2)],
)
def test_tables_10_and_11_to_two_percent(config, name, rows):
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(CONFIGS / f'{config}.py').model)
    assert find_published(model) == name
    comparison = compare_with_paper(model)
    assert len(comparison) == rows
    for what, (ours, paper) in comparison.items():
        assert ours == pytest.approx(paper, rel=0.02), what
    text = report(model)
    assert f'{name} in Tables 10 and 11' in text
    # What the difference between the columns of Table 11 says about the skip connections: exact for ViT-T only.
    if name == 'ViT-T':
        assert complexity(model)['skip'].all_tokens == pytest.approx(484.26e6 - 483.82e6, rel=0.02)


def test_two_stream_has_the_papers_parameters_and_the_reported_difference():
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(CONFIGS / 'vit-t_two-stream_cifar10.py').model)
    comparison = compare_with_paper(model)
    assert comparison['parameters of the shared layers, millions'] == (7, 7)
    ours, paper = comparison['multiply-adds, two-stream']
    assert 1.6 < ours / paper < 1.7  # not reproduced; the report says why we think so
    assert 'ViT-T does not fit' in report(model, measure(model))


def test_numbers_in_the_note_on_two_streams():
    depths = two_stream_depths()
    shared = depths['two streams, keys and values shared']
    for name, layers, difference in (('ViT-S', 16, 0.027), ('ViT-B', 18, -0.022), ('ViT-T', 15, 0.65)):
        assert layers / shared[name] - 1 == pytest.approx(difference, rel=0.03)
    one = depths['one stream only']['ViT-T']
    assert [round(100 * (layers / one - 1)) for layers in (16, 17)] == [-4, 2]
    assert round(17 * 12 * 384**2 / 1e6) == PAPER['ViT-S'].millions[2]
    assert {round(layers * 12 * 192**2 / 1e6) for layers in (15, 16)} == {PAPER['ViT-T'].millions[2]}


def test_a_model_that_the_paper_does_not_have():
    model = build()
    assert find_published(model) is None
    assert 'Tables' not in report(model)
    with pytest.raises(ValueError, match='hold no such model'):
        compare_with_paper(model)
