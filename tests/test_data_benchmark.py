"""The benchmark of the data path runs both ways on equal terms and says what it measured."""

import json
import sys

import pytest
import torch


@pytest.fixture
def benchmark(monkeypatch, root):
    """Import tools/benchmarks/data.py as a script there sees it."""
    monkeypatch.syspath_prepend(root / 'tools' / 'benchmarks')
    import data

    threads = torch.get_num_threads()
    yield data
    torch.set_num_threads(threads)
    for name in ('data', 'measure'):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_figures_of_both_paths(benchmark, tmp_path, capsys):
    small = ['--images', '32', '--batch-size', '16', '--batches', '1', '--rounds', '3', '--jpegs', '2']
    benchmark.main([*small, '--data-root', str(tmp_path), '--json', str(tmp_path / 'data.json')])
    result = json.loads((tmp_path / 'data.json').read_text())
    rates = result['images_per_s']
    assert {name: len(own['all']) for name, own in rates.items()} == {'mmpretrain': 3, 'randsac_mm': 3}
    ratios = sorted(a / b for a, b in zip(rates['randsac_mm']['all'], rates['mmpretrain']['all'], strict=True))
    assert result['ratio'] == pytest.approx(ratios[1])
    assert result['threads'] == 1
    assert result['jpeg_224']['images_per_s'] > 0
    assert 'random images of 32 x 32 (no CIFAR-10)' in result['data']
    assert f'{ratios[1]:.2f}' in capsys.readouterr().out


@pytest.mark.slow
def test_both_paths_give_the_same_kind_of_batch(benchmark):
    from mmengine.registry import init_default_scope

    init_default_scope('mmpretrain')
    batches = [
        torch.stack([next(path) for _ in range(10)])
        for path in (benchmark.make_path(name, None, 64, 32, torch.device('cpu')) for name in benchmark.BASES)
    ]
    assert batches[0].shape == batches[1].shape == (10, 32, 3, 32, 32)
    assert {b.dtype for b in batches} == {torch.float32}
    torch.testing.assert_close(batches[0].mean((0, 1, 3, 4)), batches[1].mean((0, 1, 3, 4)), rtol=0, atol=0.05)
    torch.testing.assert_close(batches[0].std(), batches[1].std(), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--rounds', '0'], '--rounds 0 must be at least 1'),
        (['--images', '10', '--batch-size', '11'], '--images 10 is less than one batch: at least --batch-size 11'),
    ],
)
def test_arguments_that_cannot_be(benchmark, arguments, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(arguments)
    assert message in capsys.readouterr().err
