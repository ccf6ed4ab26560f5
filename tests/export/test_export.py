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

from randsac_mm.export import (
    Encoder,
    Features,
    VerificationError,
    export_encoder,
    prove,
    read_source,
)
from randsac_mm.export.targets import Outputs, huggingface, mm
from randsac_mm.transfer import load_backbone
from randsac_mm.version import __version__


def export(source, targets, out, **options):
    return list(export_encoder(source, targets, out, **options))


@pytest.fixture
def source(tmp_path):
    return read_source(checkpoint(tmp_path / 'epoch_1.pth')[0])


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
        dict(size=(8, 12), patch=4, kind='ImageClassifier', method='mae'),
        dict(size=(8, 12), patch=4, kind='ImageClassifier', method='deit'),
        dict(size=(8, 12), patch=4, kind='ImageClassifier', method='cae'),
    ],
    ids=['digits', 'two-stream', 'no-final-norm', 'both-norms', 'averaged-norm', 'mae', 'deit', 'cae'],
)
def test_mm_and_safetensors(tmp_path, options):
    path, model = checkpoint(tmp_path / 'a.pth', **options)
    done = export(read_source(path), ['mm', 'safetensors'], tmp_path / 'out')
    assert [(exported.name, exported.proof.greatest <= 1e-5) for exported in done] == [
        ('mm', True),
        ('safetensors', True),
    ]
    # What was written needs no option, and says the same as what it was made from.
    pixels = torch.randint(0, 256, (2, options.get('channels', 3), *options['size']), dtype=torch.uint8)
    for file in ('mm/backbone.pth', 'safetensors/backbone.safetensors'):
        again = read_source(tmp_path / 'out' / file)
        inputs = again.normalise(pixels)
        with torch.no_grad():
            expected = model.backbone(inputs)[-1]
        features = again.encoder.features(inputs)
        if options.get('out_type') == 'avg_featmap':
            torch.testing.assert_close(features.averaged, expected, rtol=0, atol=1e-5)
        else:
            torch.testing.assert_close(features.averaged, expected.mean((2, 3)), rtol=0, atol=1e-5)
            torch.testing.assert_close(features.tokens, expected.flatten(2).mT, rtol=0, atol=1e-5)


def test_what_is_written(tmp_path, source):
    (done, safetensors) = export(source, ['mm', 'safetensors'], tmp_path / 'out', command='python tools/x.py')
    assert sorted(file.name for file in done.folder.iterdir()) == ['backbone.pth', 'config.py', 'verification.json']
    assert sorted(file.name for file in (tmp_path / 'out').iterdir()) == ['mm', 'safetensors']
    report = json.loads((done.folder / 'verification.json').read_text())
    weights = (done.folder / 'backbone.pth').read_bytes()
    assert report['files'].keys() == {'backbone.pth', 'config.py'}
    assert report['files']['backbone.pth'] == hashlib.sha256(weights).hexdigest()
    assert report['checkpoint']['sha256'] == hashlib.sha256(source.path.read_bytes()).hexdigest()
    assert report['max_abs_difference']['tokens'] == done.proof.tokens
    assert report['feature_scale']['tokens']['max_abs'] > 0.5
    assert (report['target'], report['passed'], report['tolerance']) == ('mm', True, 1e-5)
    assert (report['command'], report['versions']['randsac_mm']) == ('python tools/x.py', __version__)
    assert report['images']['shape'] == [4, 3, 12, 20]
    assert report['images']['names'][0] == 'scikit-learn china.jpg'
    assert report['architecture'] == {
        **ARCH, 'img_size': [12, 20], 'patch_size': 4, 'in_channels': 3,
        'qkv_bias': True, 'final_norm': True, 'averaged_norm': False,
    }  # fmt: skip
    with safe_open(safetensors.folder / 'backbone.safetensors', 'pt') as file:
        header = file.metadata()
    assert json.loads(header['normalisation']) == {
        'mean': list(MEAN), 'std': list(STD), 'range': [0, 255], 'channels': 'RGB'
    }  # fmt: skip
    assert header['source_sha256'] == source.sha256
    assert json.loads(header['architecture'])['num_heads'] == 3


def test_weights_fit_mmpretrain_and_our_strict_loading(tmp_path, source):
    (done,) = export(source, ['mm'], tmp_path)
    saved = torch.load(done.folder / 'backbone.pth', weights_only=True)
    vit = VisionTransformer(ARCH, (12, 20), 4, with_cls_token=False, out_type='featmap')
    vit.load_state_dict(saved['state_dict'], strict=True)
    config = Config.fromfile(done.folder / 'config.py').model
    assert config.backbone.init_cfg.checkpoint == str(done.folder / 'backbone.pth')
    assert config.backbone.arch.num_heads == 3
    report = load_backbone(read_source(done.folder / 'backbone.pth').encoder.backbone, done.folder / 'backbone.pth')
    assert not report.missing
    assert not report.dropped


def test_image_size_and_images_may_be_chosen(tmp_path, root):
    path, _ = checkpoint(tmp_path / 'a.pth')
    source = read_source(path, img_size=(20, 8))
    (done,) = export(source, ['mm'], tmp_path / 'out', images=root / 'docs' / 'images')
    report = json.loads((done.folder / 'verification.json').read_text())
    assert report['architecture']['img_size'] == [20, 8]
    assert all(name.startswith(str(root)) for name in report['images']['names'])
    assert report['notes'] == ['fixed positions made for (20, 8) pixels; the checkpoint was saved with (12, 20)']


# ---- what is wrong is found, and leaves nothing ---------------------------------------------------------------------


@pytest.mark.parametrize('target', ['mm', 'safetensors'])
def test_a_wrong_weight_is_found_and_nothing_is_left(tmp_path, source, target, monkeypatch):
    honest = Encoder.weights
    for key in ('patch_embed.projection.bias', 'layers.0.attn.qkv.bias', 'ln1.weight'):  # all: test_libraries.py

        def spoil(self, key=key):
            weights = honest(self)
            weights[key] = weights[key] + 0.05 * torch.randn_like(weights[key])
            return weights

        monkeypatch.setattr(Encoder, 'weights', spoil)
        with pytest.raises(VerificationError, match=f'{target}: features differ from ours by .* more than 1e-05'):
            export(source, [target], tmp_path / 'new' / 'out')
        assert not (tmp_path / 'new').exists(), key


def test_wrong_preprocessing_is_found(tmp_path, source, monkeypatch):
    honest = mm.config_text
    monkeypatch.setattr(mm, 'config_text', lambda *args: honest(*args).replace('to_rgb=True', 'to_rgb=False'))
    with pytest.raises(VerificationError, match='mm: the written preprocessing differs from ours by'):
        export(source, ['mm'], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_missing_weight_is_found(tmp_path, source, monkeypatch):
    honest = Encoder.weights
    monkeypatch.setattr(Encoder, 'weights', lambda self: {k: v for k, v in honest(self).items() if k != 'ln1.bias'})
    for target in ('mm', 'safetensors'):
        with pytest.raises(VerificationError, match=rf'{target}: the written files cannot be loaded (?s:.*)ln1.bias'):
            export(source, [target], tmp_path / 'out')


def test_nothing_is_overwritten_silently(tmp_path, source, monkeypatch):
    out = tmp_path / 'out'
    export(source, ['mm'], out)
    before = (out / 'mm' / 'backbone.pth').stat().st_mtime_ns
    with pytest.raises(
        FileExistsError, match='holds an earlier export: choose another --out, or replace it by --force'
    ):
        export(source, ['safetensors', 'mm'], out)
    assert not (out / 'safetensors').exists(), 'found before anything is written'
    export(source, ['mm'], out, force=True)
    after = (out / 'mm' / 'backbone.pth').stat().st_mtime_ns
    assert after > before
    monkeypatch.setattr(Encoder, 'weights', lambda self: {})
    with pytest.raises(VerificationError):
        export(source, ['mm'], out, force=True)
    assert (out / 'mm' / 'backbone.pth').stat().st_mtime_ns == after, 'a failed export replaces nothing'
    assert [file.name for file in out.iterdir()] == ['mm']

    (out / 'safetensors').mkdir()
    (out / 'safetensors' / 'thesis.tex').write_text('years')
    with pytest.raises(FileExistsError, match='exists and is no export: choose another --out'):
        export(source, ['safetensors'], out, force=True)


def test_targets_and_packages_are_checked_first(tmp_path, source, monkeypatch):
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match='must be some of mm, timm, hf, safetensors, onnx'):
        export(source, ['mm', 'tensorflow'], out)
    with pytest.raises(ValueError, match='must be some of'):
        export(source, [], out)
    with pytest.raises(ValueError, match="uint8 inputs are a choice of the target 'onnx'"):
        export(source, ['mm'], out, uint8=True)
    for target, package, pip in (
        ('timm', 'timm', 'timm'),
        ('hf', 'transformers', 'transformers<5'),
        ('onnx', 'onnx', 'onnx'),
        ('onnx', 'onnxruntime', 'onnxruntime'),
        ('safetensors', 'safetensors', 'safetensors'),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            message = f"needs the package {package}, which is missing or broken .*: pip install '{pip}'"
            with pytest.raises(ImportError, match=message):
                export(source, ['mm', target], out)
    assert not out.exists()


def test_norms_that_a_target_does_not_have(tmp_path):
    path, _ = checkpoint(tmp_path / 'a.pth', kind='ImageClassifier', out_type='avg_featmap')
    both = read_source(path)
    path, _ = checkpoint(tmp_path / 'b.pth', final_norm=False)
    none = read_source(path)
    for source, target, message in (
        (both, 'timm', r'a norm of the tokens \(ln1\) and one of their average \(ln2\); timm has either'),
        (both, 'hf', r'a norm of the averaged tokens \(ln2\), which no ViT of transformers has'),
        (none, 'hf', r"no norm after the last layer \(ln1\), and transformers' IJepaModel always has one"),
    ):
        with pytest.raises(ValueError, match=message):
            export(source, ['mm', target], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_transformers_without_ijepa(tmp_path, source, monkeypatch):
    monkeypatch.setattr(huggingface, 'require', lambda *_: SimpleNamespace(__version__='4.40.0'))
    with pytest.raises(ImportError, match=r"4.40.0 is too old, it has no IJepaModel: pip install -U 'transformers<5'"):
        huggingface.HuggingFace(source).write(tmp_path)


# ---- the comparison -------------------------------------------------------------------------------------------------


def test_proof():
    features = Features(torch.randn(2, 5, 3), torch.randn(2, 3))
    inputs = torch.randn(2, 1, 4, 4)

    def proof(tokens=0.0, averaged=0.0, made=None, expected=features):
        return prove('x', expected, inputs, Outputs(Features(features[0] + tokens, features[1] + averaged), made), 1e-5)

    assert proof().greatest == 0
    assert proof().inputs is None
    one = torch.zeros(2, 5, 3)
    one[1, 4, 2] = -9e-6
    assert proof(tokens=one).tokens == pytest.approx(9e-6, rel=0.05)
    for wrong in (dict(tokens=2 * one), dict(averaged=2e-5), dict(tokens=one * torch.nan)):
        with pytest.raises(VerificationError, match='x: features differ from ours by'):
            proof(**wrong)
    with pytest.raises(VerificationError, match=r'x: tokens have shape \(2, 5, 3\), ours \(2, 3, 3\)'):
        proof(expected=Features(features.tokens[:, :3], features.averaged))
    for value in (torch.nan, 1.0):
        with pytest.raises(VerificationError, match='averaged that are not finite or all alike'):
            proof(expected=Features(features.tokens, torch.full((2, 3), value)))
    assert proof(made=inputs + 1e-6).inputs == pytest.approx(1e-6, rel=0.2)
    with pytest.raises(VerificationError, match='the written preprocessing differs from ours by'):
        proof(made=inputs + 1e-3)


# ---- the script -----------------------------------------------------------------------------------------------------


def test_script(tmp_path, tool, capsys):
    path, _ = checkpoint(tmp_path / 'epoch_1.pth', channels=1, size=(8, 8), patch=2)
    tool(path, '--to', 'mm', 'safetensors')
    lines = capsys.readouterr().out.splitlines()
    out = tmp_path / 'epoch_1_export'
    assert [line.split(': ')[:2] for line in lines] == [[name, str(out / name)] for name in ('mm', 'safetensors')]
    assert 'greatest difference' in lines[0]
    report = json.loads((out / 'mm' / 'verification.json').read_text())
    assert report['command'] == f'python tools/export_backbone.py {path} --to mm safetensors'
    assert report['images']['names'][0] == 'scikit-learn digit 0 of the test split'
    with pytest.raises(SystemExit, match=r'export_backbone.py: error: .* holds an earlier export'):
        tool(path, '--to', 'mm')
    tool(path, '--to', 'mm', '--force', '--img-size', 4, 6)
    assert 'note: fixed positions made for (4, 6) pixels' in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r'export_backbone.py: error: there is no checkpoint'):
        tool(tmp_path / 'none.pth', '--to', 'mm')
