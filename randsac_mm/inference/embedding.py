"""Features of any number of image files, by the frozen encoder of a run; what was interrupted is continued."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope

from randsac_mm.datasets.images import log_progress, printable
from randsac_mm.engine.disk import check_space
from randsac_mm.engine.launch import load_config
from randsac_mm.engine.origin import describe_origin
from randsac_mm.engine.train_files import fingerprint
from randsac_mm.engine.work_dir import claim_work_dir, find_run
from randsac_mm.evaluation import FrozenEncoder, extract_features
from randsac_mm.evaluation.knn import nearest_rows
from randsac_mm.files import atomic_write, sha256, write_json

from .feature_file import check_format, read_names, read_rows, write_features
from .paths import find_images
from .preparation import check_device

_QUERIES = 8


def load(run: str | os.PathLike, device: str = 'cpu') -> FrozenEncoder:
    """Load the frozen encoder of a run: of pre-training, classification, segmentation or detection.

    Args:
        run: Its work directory, whose newest whole checkpoint is taken, or a checkpoint in it.
        device: Where to compute features: ``'cpu'``, ``'cuda'``, ``'cuda:1'``.

    Raises:
        FileNotFoundError: If there is no such run, or no config or checkpoint in it.
        ValueError: If no checkpoint is whole or it does not fit the config, or there is no such device.
    """
    check_device(device)
    config, checkpoint = find_run(run)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return FrozenEncoder(load_config(str(config), None, None, 'none'), checkpoint, device)


def embed_files(
    encoder: FrozenEncoder, images: Sequence[str | os.PathLike], out: str | os.PathLike, batch_size: int = 64
) -> dict[str, Any]:
    """Write ``names`` (N) and ``features`` (N, D) of image files to one file, see :meth:`FrozenEncoder.embed`.

    ``OUT.json`` describes it. Until it is complete, what there is is in the folder ``OUT.parts``, from which the next
    call continues. If ``out`` is there already, of the same images and encoder, nothing is done.

    Args:
        encoder: From :func:`load`.
        images: Files and folders, see :func:`find_images`.
        out: A file that ends in ``.safetensors``, ``.npz`` or ``.parquet``.
        batch_size: Images in a step.

    Returns:
        The contents of ``OUT.json``; ``faulty`` has the images that could not be read, with the reasons.

    Raises:
        FileNotFoundError: If there is no such image, or none in a folder.
        ImportError: If the format needs a package that is missing.
        OSError: If the disk has too little space.
        ValueError: If the format is unknown, no image can be read, a feature is not finite, or there is a file or an
            interrupted one of other images or of another encoder.
    """
    out = Path(out)
    check_format(out)
    files = list(find_images(images))
    lines = [f'{file.stat().st_size if file.exists() else -1} {file}' for file in files]
    identity = {
        'checkpoint_sha256': sha256(encoder.checkpoint),
        'model_sha256': fingerprint([str(encoder.cfg.model.to_dict())])['hash'],
        'image_size': list(encoder.image_size),
        'images': len(files),
        'images_sha256': fingerprint(lines)['hash'],
    }
    about, parts = out.with_name(f'{out.name}.json'), out.with_name(f'{out.name}.parts')
    if out.exists():
        return _check_same(about, identity, f'{out} and {about.name}')
    with claim_work_dir(parts):
        manifest = _embed(encoder, files, parts, identity, batch_size)
        faulty = {index for index, _ in manifest['faulty']}
        names = [printable(file) for index, file in enumerate(files) if index not in faulty]
        manifest['faulty'] = [{'image': printable(files[index]), 'reason': why} for index, why in manifest['faulty']]
        if not names:
            shutil.rmtree(parts)
            raise ValueError(f'none of {len(files)} images can be read, the first: {manifest["faulty"][0]}')
        write_json(about, manifest)
        with atomic_write(out) as temporary:
            write_features(temporary, names, parts / 'rows', encoder.dims, {'manifest': about.name})
        shutil.rmtree(parts)
    return manifest


def find_neighbours(
    encoder: FrozenEncoder, path: str | os.PathLike, queries: Sequence[str | os.PathLike] = (), k: int = 8
) -> list[tuple[str, list[tuple[str, float]]]]:
    """Find the images in a file of features that are nearest to queries, by cosine similarity.

    Args:
        encoder: The encoder that the file was made with.
        path: What :func:`embed_files` has written.
        queries: Files and folders; default: eight of the file's images, evenly chosen.
        k: Number of neighbours.

    Returns:
        For each query its name, and names and similarities of its neighbours without itself, nearest first.

    Raises:
        UnreadableImageError: If a query cannot be read.
    """
    names = read_names(Path(path))
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, _QUERIES).astype(int))]
    chosen = [printable(file) for file in find_images(queries)] if queries else chosen
    parts = (torch.tensor(part) for part in read_rows(Path(path)))
    similarity, rows = nearest_rows(encoder.embed(chosen), parts, k + 1)
    found = []
    for query, *nearest in zip(chosen, similarity.tolist(), rows.tolist(), strict=True):
        others = [(names[row], value) for value, row in zip(*nearest, strict=True) if names[row] != query]
        found.append((query, others[:k]))
    return found


def _embed(
    encoder: FrozenEncoder, files: Sequence[Path], parts: Path, identity: dict[str, Any], batch_size: int
) -> dict[str, Any]:
    """Write rows of features and a line for each batch, behind what there is; return the manifest."""
    start, width = time.perf_counter(), 4 * encoder.dims
    done, rows, faulty = begun = _recover(parts, identity, width)
    # The rows, and once again in the final file.
    check_space(parts, (2 * len(files) - rows) * width)
    with (parts / 'rows').open('ab') as data, (parts / 'log').open('a') as log:
        batches = encoder.prepare_batches(files[done:], batch_size)
        total = -(-(len(files) - done) // batch_size)
        for batch in log_progress(batches, f'batches of {batch_size} images', total):
            images = [image for image in batch if not isinstance(image, Exception)]
            if images:
                pixels = torch.stack(images)
                features = extract_features(encoder.backbone, pixels, batch_size, encoder.preprocess)
                if not features.isfinite().all():
                    raise ValueError(f'features of {printable(files[done])} and after are NaN: the training diverged')
                data.write(features.numpy().astype('<f4').tobytes())
                data.flush()
            faults = [
                (done + i, str(error).removeprefix(f'{printable(files[done + i])}: '))
                for i, error in enumerate(batch)
                if isinstance(error, Exception)
            ]
            done, rows, faulty = done + len(batch), rows + len(images), faulty + faults
            log.write(json.dumps([done, rows, faults]) + '\n')
            log.flush()
    return {
        **describe_origin(),
        'config': str(encoder.cfg.filename),
        'checkpoint': str(encoder.checkpoint),
        **identity,
        'preparation': encoder.preparation,
        'patch_size': encoder.patch_size,
        'dims': encoder.dims,
        'features': rows,
        'faulty': faulty,
        'resumed_at': begun[0],
        'seconds': round(time.perf_counter() - start, 1),
    }


def _recover(parts: Path, identity: dict[str, Any], width: int) -> tuple[int, int, list[tuple[int, str]]]:
    """Return how many images are done, how many rows of ``width`` bytes are written, and faults; cut off the rest."""
    known, rows, log = parts / 'identity.json', parts / 'rows', parts / 'log'
    if not known.exists():
        rows.write_bytes(b'')
        log.write_bytes(b'')
        write_json(known, identity)
    _check_same(known, identity, str(parts))
    lines, size = log.read_text().split('\n')[:-1], rows.stat().st_size  # what was cut has no end of line
    entries = [json.loads(line) for line in lines]
    while entries and entries[-1][1] * width > size:
        entries.pop()
    done, count = entries[-1][:2] if entries else (0, 0)
    os.truncate(rows, count * width)
    log.write_text(''.join(f'{line}\n' for line in lines[: len(entries)]))
    return done, count, [tuple(fault) for entry in entries for fault in entry[2]]


def _check_same(path: Path, identity: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the contents of a file; raise ValueError if they are of another checkpoint or of other images."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    if other := [key.removesuffix('_sha256').replace('_', ' ') for key in identity if known.get(key) != identity[key]]:
        raise ValueError(
            f'{what} belong to other features (another {", ".join(dict.fromkeys(other))}): remove or rename them, or '
            'choose another --out'
        )
    return known
