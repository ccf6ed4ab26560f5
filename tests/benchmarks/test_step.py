"""The benchmark of the step: every figure follows from times and closed forms as its legend says, and none flatters."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

CPU = torch.device('cpu')


@pytest.fixture
def tiny(bench):
    torch.manual_seed(0)
    return bench('step_models').build_model('tiny')


def test_configurations_are_those_of_the_paper(bench):
    models = bench('step_models')
    assert {name: entry.label for name, entry in models.ENTRIES.items()} == {
        'vit-t': 'ViT-T/64',
        'vit-s': 'ViT-S/196',
        'vit-b': 'ViT-B/144',
        'vit-b_k9': 'ViT-B/128',
    }
    partition = models.model_config('tiny', 'blob')['data_preprocessor']['serialization']['partition']
    assert partition == dict(type='BlobPartition', hierarchy=(9, 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'arch', 'tokens', 'encoded', 'decoder'),
    [
        ('vit-t', 'deit-tiny', 64, 60, (3, 3)),
        ('vit-s', 'deit-small', 196, 192, (4, 12)),
        ('vit-b', 'base', 144, 135, (6, 12)),
        ('vit-b_k9', 'base', 144, 128, (6, 12)),
    ],
)
def test_models_are_those_of_the_configs(bench, name, arch, tokens, encoded, decoder):
    models, rates = bench('step_models'), bench('rates')
    cfg = models.model_config(name)
    assert cfg['backbone']['arch'] == arch
    assert (cfg['neck']['num_layers'], cfg['neck']['num_heads']) == decoder
    for segments, seen in (('square', encoded), ('blob', tokens - 1)):
        model = models.build_model(name, segments)
        assert model.backbone.patch_resolution[0] ** 2 == tokens
        assert {shape.rows for shape in rates.linear_shapes(model, 1)} == {seen}
    mae = models.build_mae(name)
    assert mae.backbone.num_patches == (64 if name == 'vit-t' else 196)
    if name.startswith('vit-b'):  # as published
        assert (mae.neck.decoder_embed.out_features, len(mae.neck.decoder_blocks)) == (512, 8)


def test_linear_shapes_are_all_products_but_attention(bench, tiny):
    rates, scaling = bench('rates'), bench('scaling_model')
    from randsac_mm.complexity import complexity

    shapes = rates.linear_shapes(tiny, 5)
    assert {shape.rows for shape in shapes} == {5 * 35}  # 36 tokens, one left out
    # Patches, head; qkv, projection, two of the network; in the decoder also queries, keys and values, projection.
    assert sum(shapes.values()) == 2 + 3 * 4 + 2 * 7
    linear, attention = scaling.work(tiny, 5)
    assert linear + attention == 5 * complexity(tiny)['total'].executed
    assert attention == 5 * (3 * 2 + 2 * 4) * 35**2 * 24


def test_mae_is_counted_by_formula_and_by_running_it(bench):
    from torch.utils.flop_counter import FlopCounterMode

    models = bench('step_models')
    mae = models.build_mae('tiny')
    assert mae.backbone.mask_ratio == 0.75
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        mae.loss(torch.randn(1, 3, 24, 24), None)
    assert models.mae_products(mae) == counter.get_total_flops() // 2


def test_rate_is_work_over_time_of_the_fastest_kernel(bench, monkeypatch):
    rates = bench('rates')
    shape = rates.Shape(8, 16, 32)
    meter = rates.RateMeter({shape: 3}, CPU, torch.float32)
    assert meter.flops == 3 * 3 * 2 * 8 * 16 * 32
    seconds = {
        'torch': {'forward': 1.0, 'input': 2.0, 'weight': 5.0},
        'onednn': {'forward': 3.0, 'input': 1.0, 'weight': 1.0},
    }
    meter.backends = list(seconds)
    asked = []

    class Clock:
        def __init__(self, device):
            self.key = list(meter.products)[len(asked)]
            asked.append(self.key)

        def set(self):
            pass

        def seconds(self):
            _, kind, backend = self.key
            return [seconds[backend][kind] * meter.products[self.key][1], 1e9]  # the slow try does not count

    meter.products = {(shape, kind, name): (lambda: None, 7) for name in seconds for kind in rates.KINDS}
    monkeypatch.setattr(rates, 'Marks', Clock)
    sweep = meter.sweep()
    assert sweep == pytest.approx({'torch': meter.flops / 24, 'onednn': meter.flops / 15, 'best': meter.flops / 9})


def test_measured_rates_are_possible(bench, tiny):
    rates = bench('rates')
    sweep = rates.RateMeter(rates.linear_shapes(tiny, 2), CPU, torch.float32).sweep()
    assert set(sweep) == {*rates.backends(CPU, torch.float32), 'best'}
    assert all(1e6 < rate <= 1.0001 * sweep['best'] < 1e14 for rate in sweep.values())
    assert rates.backends(CPU, torch.bfloat16) == ['torch']


def test_names_of_variants(bench):
    variants = bench('step_variants')
    assert variants.parse('eager') == ('eager', None, None)
    assert variants.parse('graphs:plain') == ('graphs', 'plain', None)
    for name in ('quick', 'eager+', 'plain:sdpa', 'mae+onednn', ''):
        with pytest.raises(ValueError, match='variant'):
            variants.parse(name)
    for dtype in (torch.float32, torch.bfloat16):
        names = variants.default_variants(CPU, dtype)
        assert len({*names}) == len(names)
        assert {'plain', 'mae-compiled', 'eager', 'compiled', 'eager:plain'} <= {*names}
        assert ('compiled+onednn' in names) == (dtype == torch.float32)
        for name in names:
            variants.parse(name)


def test_variants_start_equal_and_train_apart(bench, tiny):
    variants = bench('step_variants')
    names = ['plain', 'plain-sorted', 'eager', 'eager:plain', 'eager+onednn', 'mae']
    made = {name: variants.make_variant(name, tiny, 'tiny', 3, fused_baseline=False) for name in names}
    losses = {}
    for name, variant in made.items():
        torch.manual_seed(3)
        losses[name] = variant.check(torch.float32)
    assert variants.other_losses(losses, torch.float32) == {}
    assert variants.other_losses({**losses, 'eager': float('nan')}, torch.float32).keys() == {'eager'}
    assert not made['plain'].optimizer.defaults['fused']
    assert made['eager'].optimizer.defaults['fused']
    before = {
        name: [p.clone() for p in variant.model.parameters() if p.requires_grad] for name, variant in made.items()
    }
    made['eager'].step(torch.float32, record=True, steps=2)
    changed = {
        name: any(not torch.equal(a, b) for a, b in zip(before[name], learned(variant), strict=True))
        for name, variant in made.items()
    }
    assert changed == {name: name == 'eager' for name in names}
    seconds = made['eager'].seconds
    assert all(len(values) == 1 for values in seconds.values())
    assert 0 < sum(seconds[phase][0] for phase in variants.PHASES) <= seconds['step'][0]
    assert made['plain'].multiply_adds > made['plain'].useful == made['eager'].multiply_adds
    # float32: weights, and, of what is learned, two averages and a counter.
    parameters = sum(p.numel() for p in learned(made['eager']))
    assert made['eager'].state_bytes() >= 4 * 3 * parameters


def learned(variant):
    return [p for p in variant.model.parameters() if p.requires_grad]


def test_plain_layers_sort_no_blobs(bench):
    model = bench('step_models').build_model('tiny', 'blob')
    with pytest.raises(ValueError, match='equal size'):
        bench('step_variants').make_variant('plain-sorted', model, 'tiny', 2, fused_baseline=False)


def test_figures_follow_from_times(bench, tiny):
    step, variants = bench('step'), bench('step_variants')
    made = {name: variants.make_variant(name, tiny, 'tiny', 4, False) for name in ('plain', 'eager')}
    for name, factor in (('plain', 3.0), ('eager', 1.0)):
        for phase in (*variants.PHASES, 'step'):
            made[name].seconds[phase] = [factor * noise for noise in (1.0, 2.0, 8.0)]
    needed = 6 * made['eager'].useful * 4
    # The machine slows step and products alike: utilisation does not change.
    rates = [{'best': 2 * needed / noise} for noise in (1.0, 2.0, 8.0)]
    summary = step.summarise(made, rates, 'eager')
    assert summary['plain']['ratio'] == pytest.approx(3)
    assert summary['eager']['utilisation'] == pytest.approx(0.5)
    assert summary['plain']['utilisation'] == pytest.approx(0.5 / 3)
    # What plain layers compute for nothing counts as executed, never as needed.
    more = made['plain'].multiply_adds / made['plain'].useful
    assert summary['plain']['utilisation_executed'] == pytest.approx(0.5 / 3 * more)
    assert summary['eager']['images_per_second'] == pytest.approx(4 / 2)
    assert summary['eager']['step'] == {'median': 2.0, 'quartiles': [1.0, 8.0]}


def test_rounds_end_with_the_time_but_never_too_early(bench):
    rounds_until = bench('measure').rounds_until
    assert list(rounds_until(5, 9, None)) == list(range(9))
    assert list(rounds_until(5, 9, 0.0)) == list(range(5))


def test_kept_bytes_are_those_of_autograd(bench):
    saved_bytes = bench('measure').saved_bytes
    weight = torch.nn.Parameter(torch.randn(5, 7))
    x = torch.randn(3, 5)
    assert saved_bytes(lambda: (x @ weight).sin().sum()) == 4 * (3 * 5 + 3 * 7)  # x, and what enters the sine
    assert saved_bytes(lambda: ((x @ weight) * (x @ weight).detach()).sum()) == 4 * (3 * 5 + 3 * 7)


def run_step(bench, monkeypatch, tmp_path, *options):
    monkeypatch.setattr(
        sys, 'argv', ['step.py', '--models', 'tiny', '--device', 'cpu', '--out', str(tmp_path), *options]
    )
    bench('step').main()
    return json.loads((tmp_path / 'step.json').read_text())


@pytest.mark.slow
def test_whole_benchmark(bench, monkeypatch, tmp_path, capsys):
    report = run_step(
        bench, monkeypatch, tmp_path, '--variants', 'plain', 'plain-sorted', 'mae', 'eager', '--rounds', '5',
        '--dtype', 'bf16',
    )  # fmt: skip
    assert {'command', 'commit', 'hardware', 'threads', 'torch', 'date'} <= report['environment'].keys()
    (result,) = report['steps']
    assert list(result['variants']) == ['plain', 'plain-sorted', 'mae', 'eager']
    assert result['rounds'] == 5
    assert result['variants']['eager']['ratio'] == 1
    assert all(0 < row['utilisation'] < 1 for row in result['variants'].values())
    printed = capsys.readouterr().out
    assert '| eager *' in printed
    assert '| eager *' in (tmp_path / 'step.md').read_text()
    assert (tmp_path / 'step.png').stat().st_size > 5000


@pytest.mark.slow
def test_a_variant_of_another_function_gets_no_figures(bench, monkeypatch, tmp_path):
    variants = bench('step_variants')
    make = variants.make_variant

    def spoil(name, *args):
        if name == 'plain':
            raise RuntimeError('no such kernel\nand more')
        variant = make(name, *args)
        if name == 'eager:plain':
            with torch.no_grad():
                variant.model.head.proj.bias += 1
        return variant

    monkeypatch.setattr(bench('step'), 'make_variant', spoil)
    with pytest.raises(SystemExit, match=r'eager:plain failed: its loss is'):
        run_step(bench, monkeypatch, tmp_path, '--variants', 'eager', 'eager:plain', 'plain', '--segments', 'blob')
    (result,) = json.loads((tmp_path / 'step.json').read_text())['steps']
    assert result['variants']['eager']['images_per_second'] > 0
    assert result['variants']['plain'] == {'left_out': 'failed: RuntimeError: no such kernel'}
    assert result['variants']['eager:plain'].keys() == {'left_out'}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--rounds', '4'), 'a median needs at least 5'),
        (('--batch', '0'), 'must be positive'),
        (('--variants', 'fast'), "variant 'fast'"),
    ],
)
def test_bad_options(bench, monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, 'argv', ['step.py', *options])
    with pytest.raises(SystemExit):
        bench('step').parse_args()
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # what mmengine says of its own parts
def test_data_path_and_whole_run(bench, monkeypatch, tmp_path):
    report = run_step(bench, monkeypatch, tmp_path, '--parts', 'data', 'run')
    data, run = report['parts']
    assert data['images_per_second'] > run['images_per_second'] > 0
    assert run['steps'] > 5
    assert {'LoggerHook', 'BenchmarkClockHook'} <= {*run['hooks']}


def test_photos_are_like_those_of_imagenet(bench, tmp_path):
    from PIL import Image

    bench('step_parts').write_photos(tmp_path / 'class', 66)
    files = sorted((tmp_path / 'class').iterdir())
    assert len(files) == 66
    with Image.open(files[65]) as image:
        assert image.size == (500, 375)
    assert 90_000 < files[0].stat().st_size < 130_000


@pytest.mark.slow
def test_memory_of_a_process_of_its_own(bench, monkeypatch):
    memory = bench('step_memory')
    figures = memory.measure_apart('eager', 'tiny', 'square', 512, 'fp32', False)
    assert 5e7 < figures['memory_bytes'] < figures['memory_peak_bytes']
    done = SimpleNamespace(returncode=1, stdout='', stderr='ValueError: nothing of that name')
    monkeypatch.setattr(memory.subprocess, 'run', lambda *_, **__: done)
    with pytest.raises(RuntimeError, match=r'ended with 1:\nValueError: nothing of that name'):
        memory.measure_apart('quick', 'tiny', 'square', 2, 'fp32', False)
