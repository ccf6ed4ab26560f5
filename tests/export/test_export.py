"""Contract: an export has its name only once its files, read by their own library, gave our features on real images."""

import hashlib
import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from export.tiny import ARCH, MEAN, STD, checkpoint
from mmengine.config import Config
from mmpretrain.models.backbones import VisionTransformer
from safetensors import safe_open

from randsac_mm.export import Encoder, Features, VerificationError, export_encoder, huggingface, prove, read_encoder
from randsac_mm.transfer import load_backbone
from randsac_mm.version import __version__


def export(encoder, targets, out, **options):
    return list(export_encoder(encoder, targets, out, **options))


@pytest.fixture
def encoder(tmp_path):
    return read_encoder(checkpoint(tmp_path / 'epoch_1.pth')[0])


@pytest.fixture
def tool(root, monkeypatch):
    """Run tools/export_backbone.py in this process."""

    def call(*args):
        spec = importlib.util.spec_from_file_location('tool', root / 'tools' / 'export_backbone.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, 'argv', ['tools/export_backbone.py', *map(str, args)])
        module.main()

    return call


# ---- mmpretrain and safetensors -------------------------------------------------------------------------------------


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
def test_mm_and_safetensors(tmp_path, options):
    path, model = checkpoint(tmp_path / 'a.pth', **options)
    for done in export(read_encoder(path), ['mm', 'safetensors'], tmp_path / 'out'):
        assert max(done.report['max_abs_difference'].values()) <= 1e-5
    # What was written needs no config beside it, and computes the same as what it was made from.
    pixels = torch.randint(0, 256, (2, options.get('channels', 3), *options['size']), dtype=torch.uint8)
    for file in ('mm/backbone.pth', 'safetensors/backbone.safetensors'):
        again = read_encoder(tmp_path / 'out' / file)
        inputs = again.normalise(pixels)
        with torch.no_grad():
            expected = model.backbone(inputs)[-1]
        tokens, averaged = again(inputs)
        if options.get('out_type') == 'avg_featmap':
            torch.testing.assert_close(averaged, expected, rtol=0, atol=1e-5)
        else:
            torch.testing.assert_close(averaged, expected.mean((2, 3)), rtol=0, atol=1e-5)
            torch.testing.assert_close(tokens, expected.flatten(2).mT, rtol=0, atol=1e-5)


def test_what_is_written(tmp_path, encoder):
    (done, safetensors) = export(encoder, ['mm', 'safetensors'], tmp_path / 'out', command='python tools/x.py')
    assert sorted(file.name for file in done.folder.iterdir()) == ['backbone.pth', 'config.py', 'verification.json']
    assert sorted(file.name for file in (tmp_path / 'out').iterdir()) == ['mm', 'safetensors']
    report = json.loads((done.folder / 'verification.json').read_text())
    assert report == done.report
    weights = (done.folder / 'backbone.pth').read_bytes()
    assert report['files'].keys() == {'backbone.pth', 'config.py'}
    assert report['files']['backbone.pth'] == hashlib.sha256(weights).hexdigest()
    assert report['checkpoint']['sha256'] == hashlib.sha256(encoder.path.read_bytes()).hexdigest()
    assert report['max_abs_difference'].keys() == {'tokens', 'averaged', 'preprocessed_inputs'}
    assert report['feature_scale']['tokens']['max_abs'] > 0.5
    assert (report['target'], report['passed'], report['tolerance']) == ('mm', True, 1e-5)
    assert (report['command'], report['versions']['randsac_mm']) == ('python tools/x.py', __version__)
    assert report['images']['shape'] == [4, 3, 12, 20]
    assert report['images']['names'][0] == 'scikit-learn china.jpg'
    options = dict(img_size=[12, 20], patch_size=4, in_channels=3, qkv_bias=True, final_norm=True, averaged_norm=False)
    assert report['architecture'] == ARCH | options
    with safe_open(safetensors.folder / 'backbone.safetensors', 'pt') as file:
        header = file.metadata()
    assert header['source_sha256'] == report['checkpoint']['sha256']
    assert json.loads(header['architecture']) == report['architecture']
    assert json.loads(header['normalisation']) == report['normalisation']
    assert report['normalisation'] == dict(mean=[*MEAN], std=[*STD], range=[0, 255], channels='RGB')


def test_weights_fit_mmpretrain_and_our_strict_loading(tmp_path, encoder):
    (done,) = export(encoder, ['mm'], tmp_path)
    saved = torch.load(done.folder / 'backbone.pth', weights_only=True)
    vit = VisionTransformer(ARCH, (12, 20), 4, with_cls_token=False, out_type='featmap')
    vit.load_state_dict(saved['state_dict'], strict=True)
    config = Config.fromfile(done.folder / 'config.py').model
    assert config.backbone.init_cfg.checkpoint == str(done.folder / 'backbone.pth')
    report = load_backbone(encoder.backbone, done.folder / 'backbone.pth')
    assert not report.missing
    assert not report.unused


def test_image_size_and_images_may_be_chosen(tmp_path, root):
    path, _ = checkpoint(tmp_path / 'a.pth')
    (done,) = export(read_encoder(path, img_size=(20, 8)), ['mm'], tmp_path / 'out', images=root / 'docs' / 'images')
    assert done.report['architecture']['img_size'] == [20, 8]
    assert all(name.startswith(str(root)) for name in done.report['images']['names'])
    assert len(done.report['notes']) == 1


# ---- what is wrong is found, and leaves nothing ---------------------------------------------------------------------


@pytest.mark.parametrize('target', ['mm', 'safetensors'])
def test_a_wrong_or_missing_weight_is_found_and_nothing_is_left(tmp_path, encoder, target, monkeypatch):
    honest = encoder.weights()
    for key in ('patch_embed.projection.bias', 'layers.0.attn.qkv.bias', 'ln1.weight'):  # all: test_libraries.py
        wrong = honest[key] + 0.05 * torch.randn_like(honest[key])
        for changed in ({**honest, key: wrong}, {name: honest[name] for name in honest.keys() - {key}}):
            monkeypatch.setattr(Encoder, 'weights', lambda self, changed=changed: changed)
            with pytest.raises(VerificationError, match=target):
                export(encoder, [target], tmp_path / 'new' / 'out')
            assert not (tmp_path / 'new').exists(), key


def test_wrong_preprocessing_is_found(tmp_path, encoder, monkeypatch):
    honest = torch.Tensor.flip
    monkeypatch.setattr(torch.Tensor, 'flip', lambda self, *dims: honest(self, *dims) + (self.dtype == torch.uint8))
    with pytest.raises(VerificationError, match='mm: preprocessed inputs'):
        export(encoder, ['mm'], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


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
    (out / 'safetensors' / 'thesis.tex').write_text('years')
    with pytest.raises(FileExistsError, match='--out'):
        export(encoder, ['safetensors'], out, force=True)
    assert (out / 'safetensors' / 'thesis.tex').read_text() == 'years'


def test_targets_and_packages_are_checked_first(tmp_path, encoder, monkeypatch):
    out = tmp_path / 'out'
    for targets in (['mm', 'tensorflow'], []):
        with pytest.raises(ValueError, match='mm, timm, hf, safetensors, onnx'):
            export(encoder, targets, out)
    with pytest.raises(ValueError, match='uint8'):
        export(encoder, ['mm'], out, uint8=True)
    for target, package, pip in (
        ('timm', 'timm', 'timm'),
        ('hf', 'transformers', 'transformers<5'),
        ('onnx', 'onnx', 'onnx'),
        ('onnx', 'onnxruntime', 'onnxruntime'),
        ('safetensors', 'safetensors', 'safetensors'),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=f"pip install '{pip}'"):
                export(encoder, ['mm', target], out)
    assert not out.exists()


def test_norms_that_a_target_does_not_have(tmp_path):
    both = read_encoder(checkpoint(tmp_path / 'a.pth', kind='ImageClassifier', out_type='avg_featmap')[0])
    none = read_encoder(checkpoint(tmp_path / 'b.pth', final_norm=False)[0])
    for encoder, target, norm in ((both, 'timm', 'ln2'), (both, 'hf', 'ln2'), (none, 'hf', 'ln1')):
        with pytest.raises(ValueError, match=norm):
            export(encoder, ['mm', target], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_transformers_without_ijepa(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(huggingface, 'require', lambda *_: SimpleNamespace(__version__='4.40.0'))
    with pytest.raises(ImportError, match=r'4\.40\.0'):
        huggingface.HuggingFace(encoder).write(tmp_path)


# ---- the comparison -------------------------------------------------------------------------------------------------


def test_proof():
    ours = Features(torch.randn(2, 5, 3), torch.randn(2, 3), torch.randn(2, 1, 4, 4))

    def differences(expected=ours, tokens=0.0, averaged=0.0, inputs=None):
        computed = Features(ours.tokens + tokens, ours.averaged + averaged, inputs)
        return prove('x', expected, computed, 1e-5)['max_abs_difference']

    assert differences() == {'tokens': 0, 'averaged': 0}
    one = torch.zeros(2, 5, 3)
    one[1, 4, 2] = -9e-6
    assert differences(tokens=one)['tokens'] == pytest.approx(9e-6, rel=0.05)
    assert differences(inputs=ours.inputs + 1e-6)['preprocessed_inputs'] == pytest.approx(1e-6, rel=0.2)
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


# ---- the script -----------------------------------------------------------------------------------------------------


def test_script(tmp_path, tool, root, capsys):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes((root / 'tests' / 'data' / 'tiny_digits.pth').read_bytes())
    tool(path, '--to', 'mm', 'safetensors')
    lines = capsys.readouterr().out.splitlines()
    out = tmp_path / 'epoch_1_export'
    assert [line.split(': ')[:2] for line in lines] == [[name, str(out / name)] for name in ('mm', 'safetensors')]
    report = json.loads((out / 'mm' / 'verification.json').read_text())
    assert report['command'] == f'python tools/export_backbone.py {path} --to mm safetensors'
    assert report['images']['names'][0] == 'scikit-learn digit 0 of the test split'
    with pytest.raises(SystemExit, match='--force'):
        tool(path, '--to', 'mm')
    tool(path, '--to', 'mm', '--force', '--img-size', 4, 6)
    assert '(2, 3)' in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r'none\.pth'):
        tool(tmp_path / 'none.pth', '--to', 'mm')
