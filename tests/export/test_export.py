"""Contract: an export is there only if its files, read by their own library, gave our features on real images."""

import hashlib
import json
import runpy
import sys

import pytest
import torch
from export.tiny import ARCH, MEAN, STD, checkpoint
from safetensors import safe_open

from randsac_mm.export import Encoder, VerificationError, export_encoder, read_encoder
from randsac_mm.export.encoder import Features
from randsac_mm.export.run import compare


def export(encoder, targets, out, **options):
    return list(export_encoder(encoder, targets, out, **options))


@pytest.fixture
def encoder(tmp_path):
    return read_encoder(checkpoint(tmp_path / 'epoch_1.pth')[0])


@pytest.mark.parametrize(
    'options',
    [
        dict(channels=1, size=(8, 8), patch=2),
        dict(size=(12, 20), patch=4, kind='TwoStreamRandSAC', qkv_bias=False),
        dict(size=(32, 48), patch=16, final_norm=False),
        dict(size=(10, 6), patch=2, kind='ImageClassifier', out_type='avg_featmap'),
        dict(size=(6, 9), patch=3, kind='ImageClassifier', out_type='avg_featmap', final_norm=False),
    ],
    ids=['digits', 'two-stream', 'no-final-norm', 'both-norms', 'averaged-norm'],
)
def test_mm_and_safetensors_need_no_config(tmp_path, options):
    path, model = checkpoint(tmp_path / 'a.pth', **options)
    export(read_encoder(path), ['mm', 'safetensors'], tmp_path / 'out')
    pixels = torch.randint(0, 256, (2, options.get('channels', 3), *options['size']), dtype=torch.uint8)
    for file in ('mm/backbone.pth', 'safetensors/backbone.safetensors'):
        again = read_encoder(tmp_path / 'out' / file)
        with torch.no_grad():
            expected = model.backbone(again.normalise(pixels))[-1]
        tokens, averaged = again(pixels)
        if options.get('out_type') != 'avg_featmap':
            torch.testing.assert_close(tokens, expected.flatten(2).mT, rtol=0, atol=1e-5)
            expected = expected.mean((2, 3))
        torch.testing.assert_close(averaged, expected, rtol=0, atol=1e-5)


def test_what_is_written(tmp_path, encoder):
    mm, safetensors = export(encoder, ['mm', 'safetensors'], tmp_path / 'out', command='python tools/x.py')
    assert sorted(file.name for file in mm.folder.iterdir()) == ['backbone.pth', 'config.py', 'verification.json']
    assert sorted(file.name for file in (tmp_path / 'out').iterdir()) == ['mm', 'safetensors']
    report = json.loads((mm.folder / 'verification.json').read_text())
    assert report == mm.report
    assert report['files'].keys() == {'backbone.pth', 'config.py'}
    assert report['files']['backbone.pth'] == hashlib.sha256((mm.folder / 'backbone.pth').read_bytes()).hexdigest()
    assert report['checkpoint']['sha256'] == hashlib.sha256(encoder.path.read_bytes()).hexdigest()
    assert max(report['max_abs_difference'][kind] for kind in ('tokens', 'averaged', 'inputs')) <= 1e-5
    assert report['max_abs_feature']['tokens'] > 0.5
    assert (report['target'], report['command']) == ('mm', 'python tools/x.py')
    assert report['images']['shape'] == [4, 3, 12, 20]
    options = dict(img_size=[12, 20], patch_size=4, in_channels=3, qkv_bias=True, final_norm=True, averaged_norm=False)
    assert report['architecture'] == ARCH | options | dict(positions='stretched', positions_grid=[3, 5])
    assert report['normalisation'] == dict(mean=[*MEAN], std=[*STD], range=[0, 255], channels='RGB')
    with safe_open(safetensors.folder / 'backbone.safetensors', 'pt') as file:
        header = file.metadata()
    assert header['source_sha256'] == report['checkpoint']['sha256']
    assert json.loads(header['architecture']) == report['architecture']
    assert json.loads(header['normalisation']) == report['normalisation']


@pytest.mark.parametrize('positions', ['stretched', 'bicubic', 'extrapolated', 'trainable'])
def test_the_pre_training_grid_is_handed_on(tmp_path, positions):
    """Exported for another size, an encoder computes the same at that size, and exported once more at any other."""
    path, _ = checkpoint(tmp_path / 'a.pth', positions=positions)
    export(read_encoder(path, img_size=(20, 8)), ['mm', 'safetensors'], tmp_path / 'out')
    for file in ('mm/backbone.pth', 'safetensors/backbone.safetensors'):
        again = read_encoder(tmp_path / 'out' / file)
        trained = {'stretched': (3, 5)}.get(positions, (5, 2))
        assert again.backbone.positions_grid == trained
        for size in [(20, 8), (28, 12)] if positions == 'stretched' else [(20, 8)]:
            inputs = torch.randn(2, 3, *size)
            expected = read_encoder(path, img_size=size)(inputs)
            assert torch.equal(again(inputs)[0], expected[0])


def test_image_size_and_images_may_be_chosen(tmp_path, root):
    path, _ = checkpoint(tmp_path / 'a.pth')
    (done,) = export(read_encoder(path, img_size=(20, 8)), ['mm'], tmp_path / 'out', images=root / 'docs' / 'images')
    assert done.report['architecture']['img_size'] == [20, 8]
    assert all(name.startswith(str(root)) for name in done.report['images']['names'])
    assert len(done.report['notes']) == 1


# ---- what is wrong is found, and leaves nothing ---------------------------------------------------------------------


@pytest.mark.parametrize('target', ['mm', 'safetensors'])
def test_wrong_and_missing_weights(tmp_path, encoder, target, monkeypatch):
    right = encoder.weights()
    key = 'layers.0.attn.qkv.bias'  # all: test_libraries.py
    wrong = right[key] + 0.05 * torch.randn_like(right[key])
    for changed in ({**right, key: wrong}, {name: right[name] for name in right.keys() - {key}}):
        monkeypatch.setattr(Encoder, 'weights', lambda self, changed=changed: changed)
        with pytest.raises(VerificationError, match=target):
            export(encoder, [target], tmp_path / 'out')
        assert not list((tmp_path / 'out').iterdir())


def test_wrong_preprocessing(tmp_path, encoder, monkeypatch):
    flip = torch.Tensor.flip
    monkeypatch.setattr(torch.Tensor, 'flip', lambda self, *dims: flip(self, *dims) + (self.dtype == torch.uint8))
    with pytest.raises(VerificationError, match='mm: inputs'):
        export(encoder, ['mm'], tmp_path / 'out')


def test_nothing_is_overwritten_silently(tmp_path, encoder, monkeypatch):
    out = tmp_path / 'out'
    export(encoder, ['mm'], out)
    before = (out / 'mm' / 'backbone.pth').stat().st_mtime_ns
    with pytest.raises(FileExistsError, match='--force'):
        export(encoder, ['safetensors', 'mm'], out)
    assert not (out / 'safetensors').exists(), 'found before anything is written'
    export(encoder, ['mm'], out, force=True)
    after = (out / 'mm' / 'backbone.pth').stat().st_mtime_ns
    assert after > before
    monkeypatch.setattr(Encoder, 'weights', lambda self: {})
    with pytest.raises(VerificationError):
        export(encoder, ['mm'], out, force=True)
    assert (out / 'mm' / 'backbone.pth').stat().st_mtime_ns == after, 'a failed export replaces nothing'
    assert [file.name for file in out.iterdir()] == ['mm']
    (out / 'safetensors').mkdir()
    with pytest.raises(FileExistsError, match='--out'):
        export(encoder, ['safetensors'], out, force=True)


@pytest.mark.parametrize(
    ('target', 'module', 'install'),
    [
        ('timm', 'timm', 'timm'),
        ('hf', 'transformers.models.ijepa', 'transformers>=4.47,<5'),
        ('onnx', 'onnx', 'onnx'),
        ('onnx', 'onnxruntime', 'onnxruntime'),
    ],
)
def test_missing_packages_are_found_first(tmp_path, encoder, monkeypatch, target, module, install):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"pip install '{install}'"):
        export(encoder, ['mm', target], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_what_a_target_does_not_support(tmp_path, encoder):
    both = read_encoder(checkpoint(tmp_path / 'a.pth', kind='ImageClassifier', out_type='avg_featmap')[0])
    none = read_encoder(checkpoint(tmp_path / 'b.pth', final_norm=False)[0])
    for encoder_, target, norm in ((both, 'timm', 'ln2'), (both, 'hf', 'ln2'), (none, 'hf', 'ln1')):
        with pytest.raises(ValueError, match=norm):
            export(encoder_, ['mm', target], tmp_path / 'out')
    for targets in (['mm', 'tensorflow'], []):
        with pytest.raises(ValueError, match='mm, timm, hf, safetensors, onnx'):
            export(encoder, targets, tmp_path / 'out')
    with pytest.raises(ValueError, match='uint8'):
        export(encoder, ['mm'], tmp_path / 'out', uint8=True)
    assert not (tmp_path / 'out').exists()


def test_comparison():
    ours = Features(torch.randn(2, 5, 3), torch.randn(2, 3), torch.randn(2, 1, 4, 4))

    def differences(expected=ours, tokens=0.0, averaged=0.0, inputs=None):
        computed = Features(ours.tokens + tokens, ours.averaged + averaged, inputs)
        return compare('x', expected, computed, 1e-5)['max_abs_difference']

    assert differences() == {'tokens': 0, 'averaged': 0}
    one = torch.zeros(2, 5, 3)
    one[1, 4, 2] = -9e-6
    assert differences(tokens=one)['tokens'] == pytest.approx(9e-6, rel=0.05)
    assert differences(inputs=ours.inputs + 1e-6)['inputs'] == pytest.approx(1e-6, rel=0.2)
    for wrong in (
        dict(tokens=2 * one),
        dict(averaged=2e-5),
        dict(tokens=one * torch.nan),
        dict(expected=ours._replace(tokens=ours.tokens[:, :3])),
        dict(expected=ours._replace(averaged=torch.full((2, 3), torch.nan))),
        dict(expected=ours._replace(averaged=torch.ones(2, 3))),
        dict(inputs=ours.inputs + 1e-3),
    ):
        with pytest.raises(VerificationError):
            differences(**wrong)


def test_script(tmp_path, root, capsys, monkeypatch):
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['tools/export_backbone.py', *map(str, args)])
        runpy.run_path(str(root / 'tools' / 'export_backbone.py'), run_name='__main__')

    path = tmp_path / 'epoch_1.pth'
    path.write_bytes((root / 'tests' / 'data' / 'tiny_digits.pth').read_bytes())
    run(path, '--to', 'mm', 'safetensors')
    out = tmp_path / 'epoch_1_export'
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(': ')[:2] for line in lines] == [[name, str(out / name)] for name in ('mm', 'safetensors')]
    report = json.loads((out / 'mm' / 'verification.json').read_text())
    assert report['command'].endswith(f'export_backbone.py {path} --to mm safetensors')
    with pytest.raises(SystemExit, match='--force'):
        run(path, '--to', 'mm')
    run(path, '--to', 'mm', '--force', '--img-size', 4, 6)
    assert '(2, 3)' in capsys.readouterr().out
