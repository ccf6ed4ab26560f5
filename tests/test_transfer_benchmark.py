"""What transfer_step.py prints: sizes equal formulas, both sides are measured alike, a dead process is told."""

import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def benchmarks(monkeypatch, root):
    """Import the two files of tools/benchmarks as a script there sees them."""
    monkeypatch.syspath_prepend(root / 'tools' / 'benchmarks')
    import transfer_models
    import transfer_step

    yield transfer_step, transfer_models
    for name in ('transfer_models', 'transfer_step'):
        sys.modules.pop(name, None)
    from mmengine.registry import MODELS

    MODELS._module_dict.pop('BenchmarkSimpleFeaturePyramid')


pytestmark = [
    pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore`` is False:UserWarning:mmseg'),
    pytest.mark.filterwarnings('ignore:torch.meshgrid'),
    pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning'),
]
CPU = torch.device('cpu')


def vit(tokens, dims, hidden, layers, patch, attended=None):
    """Multiply-adds of a ViT by formula; ``attended``: queries times keys of each layer, if not all of all."""
    pairs = attended or [tokens**2] * layers
    dense = tokens * (4 * dims**2 + 2 * dims * hidden)
    return tokens * patch * dims + layers * dense + sum(2 * pair * dims for pair in pairs)


def test_multiply_adds_equal_the_formula(benchmarks):
    transfer_step, transfer_models = benchmarks
    model, size = transfer_step.build('mask-rcnn', tiny=True)
    counts = transfer_models.multiply_adds(model, size)
    tokens = (size // 16) ** 2
    assert counts['backbone'] == vit(tokens, 32, 64, 4, 768)
    assert counts['total'] == counts['backbone'] + counts['neck'] + counts['heads']
    # Boxes: 512 regions of 7 x 7; two layers, then classes and boxes. Masks: 128 regions of 14 x 14, four convolutions,
    # one that doubles the side, and classes.
    boxes = 512 * (7 * 7 * 32 * 32 + 32 * 32 + 32 * 81 + 32 * 320)
    masks = 128 * (14 * 14 * 4 * 9 * 32 * 32 + 14 * 14 * 4 * 32 * 32 + 28 * 28 * 32 * 80)
    cells = sum((size // stride) ** 2 for stride in (4, 8, 16, 32, 64))
    proposals = cells * (9 * 32 * 32 + 32 * 3 + 32 * 12)
    assert counts['heads'] == boxes + masks + proposals


def test_both_segmenters_are_alike_but_for_the_backbone(benchmarks):
    transfer_step, transfer_models = benchmarks
    ours, size = transfer_step.build('upernet', tiny=True)
    theirs, _ = transfer_step.build('upernet-mmseg', tiny=True)
    # A class token, and bias tables: (2 H - 1) (2 W - 1) + 3 entries of 2 heads in each layer.
    side, element = size // 16, 4
    tokens = side**2
    assert transfer_models.attention_bytes(ours.backbone, size, 2, element) == 2 * 4 * 2 * tokens**2 * element
    assert transfer_models.attention_bytes(theirs.backbone, size, 2, element) == 2 * 4 * 2 * (tokens + 1) ** 2 * element
    mine, other = (transfer_models.multiply_adds(model, size) for model in (ours, theirs))
    assert mine['backbone'] == vit(tokens, 32, 64, 4, 768)
    assert mine['neck'] == other['neck']
    assert mine['heads'] == other['heads']


def test_windows_are_counted_with_their_padding(benchmarks):
    transfer_step, transfer_models = benchmarks
    for name in ('mask-rcnn-windows', 'mask-rcnn-vitdet'):
        model, size = transfer_step.build(name, tiny=True)  # 16 x 16 tokens in windows of 14: 2 x 2 windows
        assert size == 256
        windows, whole = 4 * (14 * 14) ** 2, 256**2
        heads, layers = 2, 2
        expected = heads * layers * (windows + whole) * 2
        assert transfer_models.attention_bytes(model.backbone, size, 1, 2) == expected


def test_simple_feature_pyramid_has_the_paper_s_strides(benchmarks):
    _, transfer_models = benchmarks
    pyramid = transfer_models.BenchmarkSimpleFeaturePyramid(8, 5)
    levels = pyramid((torch.zeros(1), torch.randn(2, 8, 12, 20)))
    assert [tuple(level.shape) for level in levels] == [
        (2, 5, 48, 80), (2, 5, 24, 40), (2, 5, 12, 20), (2, 5, 6, 10), (2, 5, 3, 5),
    ]  # fmt: skip
    assert all(level.std() > 0.1 for level in levels)


def test_targets_are_what_the_libraries_expect(benchmarks):
    transfer_step, _ = benchmarks
    (sample,) = transfer_step.detection_samples(1, 96, 7)
    instances = sample.gt_instances
    assert len(instances) == 10
    for box, mask in zip(instances.bboxes, instances.masks, strict=True):
        left, top, right, bottom = box.tolist()
        assert 0 <= left < right <= 96
        assert 0 <= top < bottom <= 96
        ellipse = 3.1416 / 4 * (right - left) * (bottom - top)
        assert mask.sum() == pytest.approx(ellipse, abs=(right - left) + (bottom - top))
    first, second = transfer_step.segmentation_samples(2, 64, 5)
    assert first.gt_sem_seg.data.unique().numel() > 1
    assert not torch.equal(first.gt_sem_seg.data, second.gt_sem_seg.data)


@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
@pytest.mark.parametrize('name', ['upernet', 'mask-rcnn-checkpointing', 'mask-rcnn-vitdet'])
def test_a_step_is_measured(benchmarks, name, dtype):
    transfer_step, _ = benchmarks
    result = transfer_step.measure(name, CPU, dtype, 1, tiny=True)
    # Linux counts peak and present size in different ways, some pages apart.
    assert result['bytes_peak'] >= 0.99 * result['bytes_before'] > 1e8
    assert 0 < result['backbone_parameters'] < result['parameters']
    assert result['loss'] > 0
    row = transfer_step.table({name: result}).splitlines()[2]
    assert row.startswith(result['model'])


def test_every_model_is_run_and_a_dead_process_is_told(benchmarks, monkeypatch, tmp_path, capsys):
    transfer_step, transfer_models = benchmarks
    figures = dict.fromkeys(('parameters', 'attention_bytes', 'bytes_before', 'bytes_peak', 'seconds'), 2e9)
    parts = dict(backbone=3e9, neck=2e9, heads=1e9, total=6e9)
    seen = []

    def run(command, **options):
        name = command[command.index('--worker') + 1]
        seen.append((name, '--tiny' in command))
        if name == 'mask-rcnn':
            return SimpleNamespace(returncode=-signal.SIGKILL, stdout='', stderr='')
        line = json.dumps({'model': name, 'multiply_adds': parts, **figures})
        return SimpleNamespace(returncode=0, stdout=f'noise\n{line}\n', stderr='')

    monkeypatch.setattr(subprocess, 'run', run)
    monkeypatch.setattr(sys, 'argv', ['transfer_step.py', '--tiny', '--out', str(tmp_path / 'out.json')])
    with pytest.raises(SystemExit, match='not every model could be measured'):
        transfer_step.main()
    assert seen == [(name, True) for name in transfer_models.ENTRIES]
    printed = capsys.readouterr().out
    assert 'Mask R-CNN, randsac_mm                        failed: killed, probably for lack of memory' in printed
    assert '6.0 = 3.0 + 2.0 + 1.0' in printed
    saved = json.loads((tmp_path / 'out.json').read_text())
    assert saved['models']['upernet']['multiply_adds'] == parts


@pytest.mark.slow
def test_a_worker_is_a_process_of_its_own(benchmarks, monkeypatch, capsys):
    transfer_step, _ = benchmarks
    monkeypatch.setattr(sys, 'argv', ['transfer_step.py', '--tiny', '--only', 'mask-rcnn-windows'])
    transfer_step.main()
    assert 'window_size=14' in capsys.readouterr().out


def test_options_out_of_range(benchmarks, monkeypatch, capsys):
    transfer_step, _ = benchmarks
    monkeypatch.setattr(sys, 'argv', ['transfer_step.py', '--steps', '0'])
    with pytest.raises(SystemExit):
        transfer_step.main()
    assert '--steps 0: at least 1 step' in capsys.readouterr().err
