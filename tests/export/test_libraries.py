"""Contract: timm, transformers and onnxruntime compute our features from the written files; wrong weights are found."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from export.tiny import checkpoint, model_config
from mmengine.config import Config
from PIL import Image

from randsac_mm.evaluation import FrozenEncoder
from randsac_mm.export import TARGETS, VerificationError, export_encoder, read_encoder
from randsac_mm.export.sample_images import real_images

pytestmark = pytest.mark.slow


SHAPES = {
    'digits': dict(channels=1, size=(8, 8), patch=2),
    'wide': dict(size=(12, 20), patch=4),
    'tall': dict(size=(48, 32), patch=16, qkv_bias=False),
    'odd': dict(size=(21, 15), patch=3, kind='TwoStreamRandSAC'),
    'one-row': dict(channels=1, size=(4, 28), patch=4),
}


def sample(channels=3, size=(12, 20)):
    return torch.from_numpy(np.stack(list(real_images(channels, size).values()))).permute(0, 3, 1, 2).contiguous()


def export(encoder, target, out, **options):
    (done,) = export_encoder(encoder, [target], out, **options)
    return done


@pytest.mark.parametrize('target', ['timm', 'hf', 'onnx'])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('stretch', [1, 2])
def test_features_are_ours(tmp_path, target, shape, stretch):
    """At the size of the pre-training, and where positions are stretched to twice its height."""
    path, model = checkpoint(tmp_path / 'a.pth', **SHAPES[shape])
    height, width = model.backbone.img_size
    encoder = read_encoder(path, img_size=(stretch * height, width))
    done = export(encoder, target, tmp_path / 'out')
    assert encoder.weights()['pos_embed'].shape[1] == stretch * model.backbone.pos_embed.shape[1]
    difference = done.report['max_abs_difference']
    assert max(difference['tokens'], difference['averaged']) <= (1e-4 if target == 'onnx' else 1e-5)
    assert done.report['max_abs_feature']['averaged'] > 0.05


@pytest.mark.parametrize('final_norm', [True, False])
def test_timm_has_either_norm(tmp_path, final_norm):
    import timm

    path, model = checkpoint(tmp_path / 'a.pth', kind='ImageClassifier', final_norm=final_norm, out_type='avg_featmap')
    encoder = read_encoder(path, averaged_norm=not final_norm)
    done = export(encoder, 'timm', tmp_path / 'out')
    vit = timm.create_model(f'local-dir:{done.folder}', pretrained=True).eval()
    inputs = encoder.normalise(sample())
    with torch.no_grad():
        expected = model.backbone(inputs)[-1]
    difference = (vit(inputs) - expected).abs().max()
    assert (difference < 1e-5) is not final_norm, 'with both norms the second was dropped'
    export(read_encoder(checkpoint(tmp_path / 'b.pth', final_norm=False)[0]), 'timm', tmp_path / 'none')


def test_timm_adds_a_head(tmp_path):
    import timm

    done = export(read_encoder(checkpoint(tmp_path / 'a.pth')[0]), 'timm', tmp_path / 'out')
    vit = timm.create_model(f'local-dir:{done.folder}', pretrained=True, num_classes=7)
    assert vit(torch.zeros(1, 3, 12, 20)).shape == (1, 7)


@pytest.mark.parametrize('target', ['mm', 'safetensors', 'timm', 'hf', 'onnx'])
def test_every_weight_counts(tmp_path, target, monkeypatch):
    """The verification itself: no tensor can be wrong and pass."""
    encoder = read_encoder(checkpoint(tmp_path / 'a.pth', channels=1, size=(8, 8), patch=2)[0])
    write, state = TARGETS[target].write, encoder.backbone.state_dict()
    some = ('pos_embed', 'layers.0.attn.qkv.bias', 'layers.0.ffn.layers.1.weight', 'ln1.bias')  # tracing is slow
    for key in some if target == 'onnx' else [key for key in state if not key.startswith(('layers.1.', 'layers.2.'))]:

        def spoil(self, folder, key=key):
            right = state[key].clone()
            state[key] += 0.05 * torch.randn_like(right)
            write(self, folder)
            state[key].copy_(right)

        with monkeypatch.context() as patch:
            patch.setattr(TARGETS[target], 'write', spoil)
            with pytest.raises(VerificationError):
                export(encoder, target, tmp_path / 'out')
        assert not list((tmp_path / 'out').iterdir()), key
    export(encoder, target, tmp_path / 'out')


def test_onnx_takes_any_batch_and_pixels(tmp_path):
    import onnx
    import onnxruntime

    encoder = read_encoder(checkpoint(tmp_path / 'a.pth')[0])
    done = export(encoder, 'onnx', tmp_path / 'out', uint8=True)
    file = str(done.folder / 'backbone.onnx')
    graph = onnx.load(file)
    onnx.checker.check_model(graph, full_check=True)
    header = {entry.key: entry.value for entry in graph.metadata_props}
    assert header['source_sha256'] == encoder.sha256
    assert json.loads(header['input']) == {'dtype': 'uint8'}
    session = onnxruntime.InferenceSession(file)
    pixels = sample()
    expected = encoder(encoder.normalise(pixels))
    for size in (1, 3, 4):
        for computed, ours in zip(session.run(None, {'images': pixels[:size].numpy()}), expected, strict=True):
            np.testing.assert_allclose(computed, ours[:size], rtol=0, atol=1e-4)


def test_onnx_where_onednn_multiplies(tmp_path, monkeypatch):
    """A graph must not depend on the machine that writes it (oneDNN: AMD processors with AVX-512)."""
    kernel = sys.modules['randsac_mm.kernels.linear']
    monkeypatch.setattr(kernel, 'ONEDNN', kernel._onednn is not None)
    arch = dict(embed_dims=256, num_layers=1, num_heads=2, feedforward_channels=2048)
    path, _ = checkpoint(tmp_path / 'a.pth', channels=1, size=(16, 16), patch=2, arch=arch)
    export(read_encoder(path), 'onnx', tmp_path / 'out')


def test_documented_snippets_give_the_same_features(tmp_path, root, monkeypatch):
    """The blocks of docs/export.md, in a folder with all exports."""
    encoder = read_encoder(checkpoint(tmp_path / 'a.pth')[0])
    monkeypatch.chdir(tmp_path)
    names = ['mm', 'safetensors', 'timm', 'hf', 'onnx']
    assert [done.folder.name for done in export_encoder(encoder, names, 'exports')] == names
    grey = read_encoder(checkpoint(tmp_path / 'grey.pth', channels=1, size=(8, 8), patch=2)[0])
    export(grey, 'hf', 'grey')
    scope = {}
    with torch.no_grad():
        for block in re.findall(r'```python\n(.*?)```', (root / 'docs' / 'export.md').read_text(), re.DOTALL):
            exec(block, scope)
    expected = encoder(scope['images'])[1]
    for name in names:
        found = torch.as_tensor(scope[f'features_{name}'])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if name == 'onnx' else 1e-5)
    assert scope['features_photo'].shape == expected.shape
    resized = Image.fromarray(scope['pixels_grey'][..., 0]).resize((8, 8), Image.Resampling.BICUBIC)
    torch.testing.assert_close(scope['features_grey'], grey(torch.tensor(np.array(resized))[None, None])[1])


def test_features_of_a_run_are_those_of_its_exports(tmp_path):
    """randsac_mm.load and embed.py on one side, timm and transformers on the other."""
    import timm
    import transformers

    path, _ = checkpoint(tmp_path / 'a.pth', size=(28, 28), patch=4)
    frozen = FrozenEncoder(Config(dict(model=model_config(size=(28, 28), patch=4))), path)
    photo = real_images(3, (28, 28))['scikit-learn china.jpg']
    exported = [export(read_encoder(path), name, tmp_path / 'out').folder for name in ('timm', 'hf')]
    inputs = frozen.preprocess(torch.from_numpy(photo).permute(2, 0, 1)[None])
    vit = timm.create_model(f'local-dir:{exported[0]}', pretrained=True).eval()
    theirs = transformers.AutoModel.from_pretrained(exported[1])
    with torch.no_grad():
        for features in (vit(inputs), theirs(inputs).last_hidden_state.mean(1)):
            torch.testing.assert_close(frozen.embed(photo), features, rtol=0, atol=1e-5)
