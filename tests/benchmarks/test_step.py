"""The benchmark of the step: every figure follows from times and operations as its legend says, and none flatters."""

import json

import pytest
import torch

from randsac_mm.models import RandSAC

CPU = torch.device('cpu')


def test_linear_layers_are_counted_by_shape(bench):
    model = bench('step_models').build_model('tiny')
    shapes = bench('matrix_rate').linear_shapes(model, lambda: model.loss(torch.zeros(2, 3, 32, 32)))
    rows = 2 * 60  # 64 tokens of which a segment of 4 is left out
    assert shapes == {
        (rows, 24, 72): 3 + 2,  # queries, keys and values of 3 encoder and 2 decoder layers
        (rows, 24, 24): 3 + 3 * 2,  # output of attention; in the decoder of two, and queries to the memory
        (rows, 24, 48): 3 + 2 + 1,  # encoder's network, keys and values of the memory, head
        (rows, 48, 24): 3,
        (rows, 24, 96): 2,
        (rows, 96, 24): 2,
    }


def test_rate_is_work_over_time_of_the_fastest_kernel(bench, monkeypatch):
    matrix_rate = bench('matrix_rate')
    seconds = iter([1.0, 3.0, 2.0, 1.0, 5.0, 1.0])  # of torch and onednn in turns, for the three products
    monkeypatch.setattr(matrix_rate, '_seconds', lambda *_, **__: next(seconds))
    rates = matrix_rate.matrix_rates({(8, 16, 32): 3}, CPU, torch.float32)
    work = 3 * 6 * 8 * 16 * 32
    assert rates == pytest.approx({'torch': work / 24, 'onednn': work / 15, 'best': work / 9})


def run(bench, tmp_path, *options):
    bench('step').main(['--models', 'tiny', '--device', 'cpu', '--out', str(tmp_path / 'step'), *options])
    (result,) = json.loads((tmp_path / 'step.json').read_text())['models']
    return result


def test_figures_follow_from_times(bench, monkeypatch, tmp_path):
    step, measure = bench('step'), bench('measure')
    times = {'eager': [1.0, 2.0, 8.0], 'plain': [3.0, 6.0, 24.0]}  # the machine slows all alike

    def prepare(name, *_):
        facts = {'loss': 1.0, 'first_step_seconds': 0.0, 'memory_bytes': 0}
        return step.Variant(step=iter(times[name]), operations=600), facts

    rates = iter([{'torch': 600.0, 'best': 1200.0 / noise} for noise in (1, 2, 8)])
    monkeypatch.setattr(step, 'prepare', prepare)
    monkeypatch.setattr(measure, 'seconds_of', lambda numbers, *_: next(numbers))
    monkeypatch.setattr(step, 'matrix_rates', lambda *_: next(rates))
    rows = run(bench, tmp_path, '--variants', 'eager', 'plain', '--rounds', '3', '--batch', '4')['variants']
    assert rows['eager']['step'] == {'median': 2.0, 'quartiles': [1.5, 5.0]}
    assert rows['eager']['images_per_second'] == 4 / 2.0
    assert rows['eager']['multiply_adds'] == 600 / 4 / 6  # three times two operations in a step
    assert (rows['eager']['ratio'], rows['plain']['ratio']) == (1, 3)
    assert rows['eager']['utilisation'] == pytest.approx(0.5)
    assert rows['plain']['utilisation'] == pytest.approx(0.5 / 3)


@pytest.mark.parametrize(('name', 'sizes'), [('eager', [8, 8]), ('eager+uncut', [16])])
def test_blobs_in_groups_and_uncut(bench, monkeypatch, name, sizes):
    found = []
    monkeypatch.setattr(
        RandSAC, 'compute_loss', lambda model, images, *_: found.append(len(images)) or model.head.proj.bias.sum()
    )
    bench('step').make_variant(name, 'vit-t_blob-3', 16, CPU, torch.float32).step()
    assert found == sizes


@pytest.mark.slow
def test_whole_benchmark(bench, tmp_path):
    names = ['eager', 'eager:plain', 'eager+torch', 'plain', 'mae']
    result = run(bench, tmp_path, '--variants', *names, '--rounds', '2', '--dtype', 'bf16')
    assert list(result['variants']) == names
    assert result['rounds'] == 2
    assert result['matrix_rates'].keys() == {'torch', 'best'}
    assert all(1e3 < rate['median'] < 1e14 for rate in result['matrix_rates'].values())
    origin = json.loads((tmp_path / 'step.json').read_text())['origin']
    assert origin.keys() > {'command', 'commit', 'hardware', 'threads'}
    assert all(0 < row['utilisation'] < 2 and row['ratio'] > 0 for row in result['variants'].values())
    text = (tmp_path / 'step.md').read_text()
    assert all(f'| {name} |' in text for name in names)


@pytest.mark.slow
def test_a_variant_of_another_function_gets_no_figures(bench, monkeypatch, tmp_path):
    step = bench('step')
    make = step.make_variant

    def spoil(name, *args):
        if name == 'plain':
            raise RuntimeError('no such kernel\nand more')
        variant = make(name, *args)
        return variant._replace(step=lambda: variant.step() + 1) if name == 'eager:plain' else variant

    monkeypatch.setattr(step, 'make_variant', spoil)
    with pytest.raises(SystemExit, match='eager:plain'):
        run(bench, tmp_path, '--variants', 'eager', 'eager:plain', 'plain', '--rounds', '1')
    (result,) = json.loads((tmp_path / 'step.json').read_text())['models']
    assert result['variants']['eager']['images_per_second'] > 0
    assert result['variants']['plain'] == {'failed': 'RuntimeError: no such kernel'}
    assert result['variants']['eager:plain'].keys() == {'failed'}


@pytest.mark.parametrize('option', [('--variants', 'fast'), ('--variants', 'plain:sdpa')])
def test_wrong_options(bench, capsys, option):
    with pytest.raises(SystemExit):
        bench('step').main([*option])
    assert repr(option[1]) in capsys.readouterr().err


def test_time_by_kind_of_kernel(bench, tmp_path):
    kinds = bench('kernel_kinds')
    names = {
        'aten::addmm': 'matrix products',
        'nvjet_tst_128x256_64x4_2x1_v_bz_coopA_bias_TNT': 'matrix products',
        'aten::_to_copy': 'copies and casts',
        'fmha_cutlassF_bf16_aligned_64x128_rf_sm80(Params)': 'attention',
        'triton_per_fused_native_layer_norm_3': 'norms',
        'triton_poi_fused_gelu_1': 'fused',
        'void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>': 'optimiser',
        'aten::gelu': 'other',
    }
    assert {name: kinds.kind_of(name) for name in names} == names
    row = run(bench, tmp_path, '--variants', 'eager', '--rounds', '1', '--batch', '2', '--kinds')['variants']['eager']
    assert {'matrix products', 'norms', 'optimiser'} <= row['kinds'].keys()
    assert 0 < sum(row['kinds'].values()) < 60
    assert 'Kernels of eager' in (tmp_path / 'step.md').read_text()
