"""The benchmark's baseline is no straw man: it computes what our model computes, loss and every gradient."""

import json
import sys

import pytest
import torch


@pytest.fixture
def benchmarks(monkeypatch, root):
    """Import the two files of tools/benchmarks as a script there sees them."""
    monkeypatch.syspath_prepend(root / 'tools' / 'benchmarks')
    import plain_model
    import pretrain_step

    yield pretrain_step, plain_model
    for name in ('plain_model', 'pretrain_step'):
        sys.modules.pop(name, None)


@pytest.fixture
def tiny(benchmarks):
    """Build our model with random skip weights, norms and biases, so that no two parameters do the same by chance."""
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    arch = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=40)
    neck = dict(type='RandSACDecoder', num_layers=2, embed_dims=24, num_heads=3, feedforward_channels=56)
    partition = dict(type='SquarePartition', hierarchy=6)
    model = MODELS.build(
        dict(
            type='RandSAC',
            backbone=dict(type='RandSACViT', arch=arch, img_size=(12, 18), patch_size=3),
            neck=dict(**neck, encoder_dims=24, encoder_layers=3),
            head=dict(type='RandSACHead', embed_dims=24, patch_size=3),
            data_preprocessor=dict(
                type='RandSACDataPreprocessor',
                serialization=dict(type='RandomSerialization', partition=partition),
            ),
        )
    )
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape)
    return model


@pytest.mark.parametrize('sort', [False, True], ids=['all tokens', 'sorted'])
def test_baseline_has_the_same_loss_and_gradients(benchmarks, tiny, sort):
    _, plain_model = benchmarks
    plain = plain_model.PlainRandSAC(tiny)
    images = torch.randn(3, 3, 12, 18)
    batch = tiny.data_preprocessor.draw(images)
    ours = tiny.loss(images, **batch)['loss']
    theirs = plain(images, batch['rank'], batch['tokens_per_segment'] if sort else None)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    gradients = plain_model.as_plain({name: p.grad for name, p in tiny.named_parameters() if p.requires_grad})
    assert gradients.keys() == {name for name, _ in plain.named_parameters()}
    for name, p in plain.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-5, msg=name)
        # Keys' biases cancel in the softmax; everything else learns.
        assert p.grad.abs().max() > 1e-6, name


def test_another_function_is_refused(benchmarks, tiny):
    pretrain_step, _ = benchmarks
    variants = pretrain_step.make_variants(tiny, 4, fused_baseline=False)

    def prepare(i):
        torch.manual_seed(i)
        return tiny.data_preprocessor({'inputs': torch.ones(2, 3, 12, 18).cumsum(3)}, training=True)

    pretrain_step.check_same_loss(variants, prepare)
    with torch.no_grad():
        tiny.head.proj.bias += 1
    with pytest.raises(RuntimeError, match='do not compute the same function'):
        pretrain_step.check_same_loss(variants, prepare)


def test_benchmark_reports_every_variant(benchmarks, tmp_path, monkeypatch, capsys):
    pretrain_step, _ = benchmarks
    out = tmp_path / 'step.json'
    options = [
        '--arch',
        't',
        '--img-size',
        '36',
        '--patch-size',
        '6',
        '--segments',
        '9',
        '--batch',
        '1',
        '--rounds',
        '2',
    ]
    monkeypatch.setattr(sys, 'argv', ['pretrain_step.py', *options, '--dtype', 'bf16', '--json', str(out)])
    pretrain_step.main()
    result = json.loads(out.read_text())
    assert set(result['seconds']) == {'plain layers, all tokens', 'plain layers, sorted', 'randsac_mm'}
    ours = result['seconds']['randsac_mm']
    assert ours['ratio'] == 1
    assert 0 < ours['forward'] < ours['step']
    assert '/ ours' in capsys.readouterr().out
