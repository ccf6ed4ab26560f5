"""Contract: the features that evaluate.py evaluates, of any images, in one whole file; what is killed is continued."""

import json
import os
import re
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from export.tiny import build, model_config
from mmengine.config import Config
from PIL import Image
from reliability.forked import fork
from safetensors.numpy import load_file
from sklearn.datasets import load_sample_image

import randsac_mm
from randsac_mm.datasets import Digits
from randsac_mm.evaluation import extract_features, knn
from randsac_mm.evaluation.knn import nearest_rows
from randsac_mm.evaluation.labelled_images import load_labelled
from randsac_mm.export import read_encoder
from randsac_mm.inference import embed_files, embedding
from randsac_mm.inference.feature_file import FORMATS, read_features
from randsac_mm.inference.neighbours import make_neighbour_page


def make_run(folder, **options):
    """Write what a run leaves: its config and a whole checkpoint."""
    cfg = Config(dict(model=model_config(**options)))
    model = build(cfg.model)
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(folder / 'config.py')
    meta = dict(epoch=1, iter=5, cfg=cfg.pretty_text)
    state = dict(meta=meta, state_dict=model.state_dict(), optimizer={}, message_hub={})
    torch.save(state, folder / 'epoch_1.pth')
    return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp('run') / 'work')


@pytest.fixture(scope='module')
def encoder(run):
    return randsac_mm.load(run)


@pytest.fixture
def pictures(tmp_path):
    """Eleven pictures of several sizes, the fourth of which is cut off."""
    folder = tmp_path / 'pictures'
    for i in range(11):
        pixels = np.random.default_rng(i).integers(0, 256, (12 + i, 20 + 2 * i, 3), dtype=np.uint8)
        (folder / 'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / 'ab'[i % 2] / f'{i}.png')
    cut = folder / 'b' / '1.png'
    cut.write_bytes(cut.read_bytes()[:60])
    return folder


def read(file):
    names, features = read_features(file)
    return names, features.numpy()


def files_of(folder):
    return sorted(map(str, folder.rglob('*.png')))


@pytest.mark.parametrize('ending', FORMATS)
def test_file_and_manifest(encoder, run, pictures, tmp_path, ending):
    out = tmp_path / 'new' / f'features{ending}'
    manifest = embed_files(encoder, [pictures], out, 4)
    names = [name for name in files_of(pictures) if not name.endswith('1.png')]
    found, features = read(out)
    assert (found, features.dtype) == (names, np.float32)
    np.testing.assert_allclose(features, encoder.embed(names), rtol=0, atol=1e-6)
    assert manifest == json.loads((tmp_path / 'new' / f'features{ending}.json').read_text())
    sizes = {key: manifest[key] for key in ('images', 'features', 'dims', 'patch_size', 'image_size')}
    assert sizes == dict(images=11, features=10, dims=12, patch_size=4, image_size=[12, 20])
    (fault,) = manifest['faulty']
    assert fault['image'] == str(pictures / 'b' / '1.png')
    assert str(pictures) not in fault['reason']
    assert manifest['checkpoint'] == str(run / 'epoch_1.pth')
    assert {'command', 'commit', 'checkpoint_sha256', 'config', 'preparation'} <= manifest.keys()
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, f'{out.name}.json']


def test_files_are_read_by_their_own_libraries(encoder, pictures, tmp_path):
    import pyarrow.parquet

    for ending in FORMATS:
        embed_files(encoder, [pictures], tmp_path / f'f{ending}')
    names, features = read(tmp_path / 'f.npz')
    with np.load(tmp_path / 'f.npz') as archive:
        np.testing.assert_array_equal(archive['features'], features)
        assert archive['names'].tolist() == names
    tensors = load_file(tmp_path / 'f.safetensors')
    np.testing.assert_array_equal(tensors['features'], features)
    assert json.loads(tensors['names'].tobytes()) == names
    table = pyarrow.parquet.read_table(tmp_path / 'f.parquet')
    np.testing.assert_array_equal(np.stack(table['features'].to_numpy()), features)
    assert table['names'].to_pylist() == names


def digits():
    return [digit[0].numpy() for digit in Digits('test').images[:12]]


def photographs():
    photos = [load_sample_image(name) for name in ('china.jpg', 'flower.jpg')]
    return [photo[i * 40 :, : 600 - i * 70] for photo in photos for i in range(6)]


def small():
    return [np.array(Image.fromarray(photo).resize((32, 32))) for photo in photographs()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('kind', 'options'),
    [
        (digits, dict(size=(8, 8), patch=2, channels=1)),
        (small, dict(size=(32, 32), patch=8)),
        (small, dict(size=(28, 28), patch=4)),
        (photographs, dict(size=(56, 56), patch=8)),
    ],
)
def test_features_are_evaluates(kind, options, tmp_path):
    """The same labelled folder, read by evaluate.py and embedded; batches of other sizes."""
    for i, image in enumerate(kind()):
        for split in ('train', 'val'):
            (tmp_path / split / 'ab'[i // 6]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / split / 'ab'[i // 6] / f'{i:02}.png')
    encoder = randsac_mm.load(make_run(tmp_path / 'run', **options))
    data = load_labelled(str(tmp_path), encoder)
    expected = extract_features(encoder.backbone, data.train.images, 256, encoder.preprocess)
    embed_files(encoder, [tmp_path / 'train'], tmp_path / 'f.npz', 5)
    np.testing.assert_allclose(read(tmp_path / 'f.npz')[1], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder.embed(files_of(tmp_path / 'train'), 256), expected, rtol=0, atol=1e-6)
    exported = read_encoder(tmp_path / 'run' / 'epoch_1.pth')(data.train.images)[1]
    torch.testing.assert_close(exported, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_real_photographs(shared_data, tmp_path):
    encoder = randsac_mm.load(make_run(tmp_path / 'run', size=(64, 64), patch=8))
    photos = sorted(shared_data.rglob('*.jpg'))[:40]
    manifest = embed_files(encoder, photos, tmp_path / 'f.npz', 7)
    names, features = read(tmp_path / 'f.npz')
    assert (names, manifest['faulty']) == (list(map(str, photos)), [])
    images = torch.stack([encoder.prepare(photo) for photo in photos])
    expected = extract_features(encoder.backbone, images, 256, encoder.preprocess)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)


def kill_after(batches, **options):
    """Embed in a process of its own that is killed in a batch, after some others; return how it ended."""

    assert options['encoder'].dims  # before the batches are counted

    def work():
        torch.set_num_threads(1)
        counted = iter(range(batches))

        def extract(*args):
            if next(counted, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return extract_features(*args)

        embedding.extract_features = extract
        embed_files(**options)

    return os.waitstatus_to_exitcode(os.waitpid(fork(options['out'].parent, work), 0)[1])


@pytest.mark.parametrize('torn', [False, True])
@pytest.mark.parametrize('seconds', [0, 100])
def test_what_was_killed_is_continued(encoder, pictures, tmp_path, monkeypatch, torn, seconds):
    """Saved after every batch, or not at all before the kill."""
    monkeypatch.setattr(embedding, '_SAVE_SECONDS', seconds)
    options = dict(encoder=encoder, images=[pictures], batch_size=2)
    embed_files(out=tmp_path / 'whole.npz', **options)
    out, parts = tmp_path / 'killed' / 'f.npz', tmp_path / 'killed' / 'f.npz.parts'
    assert kill_after(4, out=out, **options) == -signal.SIGKILL
    assert not out.exists()
    if torn:  # killed while it wrote
        with (parts / 'rows').open('ab') as rows:
            rows.write(b'half a row')
        (parts / '.state.1.partial.json').write_text('{')
    calls = []
    monkeypatch.setattr(embedding, 'extract_features', lambda *args: calls.append(1) or extract_features(*args))
    manifest = embed_files(out=out, **options)
    assert (len(calls), manifest['resumed_at']) == ((6, 0) if seconds else (2, 8))
    assert [fault['image'] for fault in manifest['faulty']] == [str(pictures / 'b' / '1.png')]
    for kept, again in zip(read(tmp_path / 'whole.npz'), read(out), strict=True):
        np.testing.assert_array_equal(kept, again)
    assert not parts.exists()


def test_a_complete_file_stays(encoder, pictures, tmp_path, monkeypatch):
    out = tmp_path / 'f.safetensors'
    first, content = embed_files(encoder, [pictures], out), out.read_bytes()
    monkeypatch.setattr(embedding, 'extract_features', None)
    assert embed_files(encoder, [pictures], out) == first
    assert out.read_bytes() == content


@pytest.mark.parametrize('complete', [True, False])
@pytest.mark.parametrize('change', ['checkpoint', 'images', 'file', 'image size', 'model'])
def test_what_belongs_to_other_features_is_refused(pictures, tmp_path, complete, change):
    run = make_run(tmp_path / 'run')
    out = tmp_path / 'out' / 'f.npz'
    options = dict(encoder=randsac_mm.load(run), images=[pictures], batch_size=2, out=out)
    if complete:
        embed_files(**options)
    else:
        assert kill_after(2, **options) == -signal.SIGKILL
    before = {path: path.read_bytes() for path in out.parent.rglob('*') if path.is_file() and path.name != 'run.lock'}
    if change == 'checkpoint':
        make_run(run)  # other weights
    elif change == 'images':
        (pictures / 'a' / '10.png').unlink()
    elif change == 'file':
        shutil.copy(pictures / 'a' / '10.png', pictures / 'a' / '8.png')
    else:
        cfg = Config.fromfile(run / 'config.py')
        if change == 'image size':
            cfg.model.backbone.img_size = (24, 20)
        else:
            cfg.model.data_preprocessor.mean = [99.0, 99.0, 99.0]
        cfg.dump(run / 'config.py')
    options['encoder'] = randsac_mm.load(run)
    with pytest.raises(ValueError, match=rf'f\.npz.*another .*{change if change != "file" else "images"}.*--out'):
        embed_files(**options)
    assert {path: path.read_bytes() for path in before} == before


def test_a_file_of_somebody_else_is_not_overwritten(encoder, pictures, tmp_path):
    (tmp_path / 'f.npz').write_bytes(b'mine')
    with pytest.raises(ValueError, match=r'f\.npz.*--out'):
        embed_files(encoder, [pictures], tmp_path / 'f.npz')
    assert (tmp_path / 'f.npz').read_bytes() == b'mine'


def test_mistakes(encoder, run, pictures, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r'f\.csv.*\.safetensors'):
        embed_files(encoder, [pictures], tmp_path / 'f.csv')
    with pytest.raises(ValueError, match=r'none of 1 images.*1\.png'):
        embed_files(encoder, [pictures / 'b' / '1.png'], tmp_path / 'f.npz')
    with pytest.raises(ValueError, match='device'):
        randsac_mm.load(run, 'cuda:99')
    with pytest.raises(FileNotFoundError, match='nowhere'):
        randsac_mm.load(tmp_path / 'nowhere')
    with pytest.raises(AttributeError, match='nothing'):
        randsac_mm.nothing  # noqa: B018
    monkeypatch.setattr(embedding, 'extract_features', lambda *args: torch.full((len(args[1]), 12), torch.nan))
    with pytest.raises(ValueError, match=r'0\.png.*NaN'):
        embed_files(encoder, [pictures], tmp_path / 'nan.npz')
    monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
    with pytest.raises(ImportError, match='pip install pyarrow'):
        embed_files(encoder, [pictures], tmp_path / 'f.parquet')
    assert not {'f.npz', 'f.parquet', 'nan.npz'} & {path.name for path in tmp_path.iterdir()}


def test_checkpoint_in_a_run(run, encoder):
    image = np.zeros((12, 20, 3), np.uint8)
    assert torch.equal(randsac_mm.load(run / 'epoch_1.pth').embed(image), encoder.embed(image))


@pytest.mark.parametrize('part', [1, 250, 500])
def test_nearest_rows_are_exact(part, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    queries, features = (torch.randn(count, 5, generator=generator) for count in (3, 101))
    features[50] = 2 * features[7]  # a tie
    queries[0] = features[7]
    unit = torch.nn.functional.normalize
    similarity = unit(queries) @ unit(features).T
    expected = similarity.topk(6)
    monkeypatch.setattr(knn, '_MAX_SIMILARITIES', part)
    found, rows = nearest_rows(queries, features, 6)
    torch.testing.assert_close(found, expected.values)
    assert set(rows[0, :2].tolist()) == {7, 50}
    assert rows[1:].tolist() == expected.indices[1:].tolist()
    assert nearest_rows(queries, features[:4], 6)[1].shape == (3, 4)


@pytest.mark.parametrize('ending', FORMATS)
def test_neighbours(encoder, pictures, tmp_path, ending):
    query, twin = pictures / 'a' / '4.png', pictures / 'a' / 'twin <of 4>.png'
    shutil.copy(query, twin)
    out = tmp_path / f'f{ending}'
    manifest = embed_files(encoder, [pictures], out)
    page = make_neighbour_page(encoder, out, manifest, [query])
    titles = re.findall(r'<img src="data:image/png;base64,\w[^"]*" alt="([^"]*)"', page)
    assert titles[:2] == [str(query), str(twin).replace('<', '&lt;').replace('>', '&gt;')]
    assert len(titles) == 8, 'the query and seven others'
    assert str(query) not in titles[1:]
    similarity = [float(value) for value in re.findall(r'<figcaption>([\d.-]+)', page)]
    assert similarity == sorted(similarity, reverse=True)
    assert similarity[0] == 1
    assert '<script' not in page
    twin.unlink()
    page = make_neighbour_page(encoder, out, manifest, [query])
    assert page.count('<img') == 7, 'a file that is gone has no picture'
    assert '<p>' + str(twin.parent / 'twin &lt;of 4&gt;.png') in page


def test_the_tool(run, pictures, tmp_path, run_tool, capsys):
    out = tmp_path / 'f.npz'
    with pytest.raises(SystemExit, match=r'embed\.py: error: 1 of 11 images'):
        run_tool('embed.py', run, pictures, '--out', out, '--batch-size', 3, '--neighbours')
    printed = capsys.readouterr()
    assert '10 features of 12 dimensions' in printed.out
    assert str(pictures / 'b' / '1.png') in printed.err
    assert (tmp_path / 'f.npz.html').read_text().count('<section>') == 8
    assert len(read(out)[0]) == 10
    run_tool('embed.py', run, pictures / 'a', '--out', tmp_path / 'sound.npz')
