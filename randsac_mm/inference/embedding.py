"""Features of any number of image files, by the frozen encoder of a run; what was interrupted is continued."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DefaultScope

from randsac_mm.datasets.images import log_progress, printable
from randsac_mm.engine.disk import check_space
from randsac_mm.engine.launch import load_config
from randsac_mm.engine.origin import describe_origin
from randsac_mm.engine.train_files import fingerprint
from randsac_mm.engine.work_dir import claim_work_dir, find_run
from randsac_mm.evaluation import FrozenEncoder, extract_features
from randsac_mm.files import sha256, write_json

from .feature_file import check_format, write_features
from .paths import find_images
from .preparation import check_device

_SAVE_SECONDS = 2.0  # of work that a kill may cost


def load(run: str | os.PathLike, device: str = 'cpu') -> FrozenEncoder:
    """Load the frozen encoder of a run: of pre-training, classification, segmentation or detection.

    ``run`` is its work directory, whose newest whole checkpoint is taken, or a checkpoint in it.

    Raises:
        FileNotFoundError: If there is no such run, or no config or checkpoint in it.
        ValueError: If no checkpoint is whole and fits the config, or there is no such device.
    """
    check_device(device)
    config, checkpoint = find_run(run)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return FrozenEncoder(load_config(str(config), None, None, 'none'), checkpoint, device)


def embed_files(
    encoder: FrozenEncoder, images: Sequence[str | os.PathLike], out: str | os.PathLike, batch_size: int = 64
) -> dict[str, Any]:
    """Write ``names`` (N) and ``features`` (N, D) of image files to one file, see :meth:`FrozenEncoder.embed`.

    Until it is complete, there is the folder ``OUT.parts``, from which the next call continues. If ``out`` is there
    already, of the same images and encoder, nothing is done.

    Args:
        encoder: From :func:`load`.
        images: Files and folders, see :func:`find_images`.
        out: A file that ends in one of ``FORMATS``.
        batch_size: Images in a step.

    Returns:
        What ``OUT.json`` states; ``faulty`` has the images that could not be read, with the reasons.

    Raises:
        OSError: If there is no such image, or too little space.
        ValueError: If the format is unknown, no image can be read, a feature is not finite, or what there is already
            has other images or is by another encoder.
    """
    out = Path(out)
    check_format(out)
    files = list(find_images(images))
    sizes = [f'{file.stat().st_size if file.exists() else -1} {file}' for file in files]
    identity = {
        'checkpoint_sha256': sha256(encoder.checkpoint),
        'model_sha256': fingerprint([str(encoder.cfg.model.to_dict())])['hash'],
        'image_size': list(encoder.image_size),
        'images': len(files),
        'images_sha256': fingerprint(sizes)['hash'],
    }
    about, parts = out.with_name(f'{out.name}.json'), out.with_name(f'{out.name}.parts')
    if out.exists():
        return _read(about, identity, out)
    with claim_work_dir(parts):
        manifest = _embed(encoder, files, parts, identity, batch_size)
        faulty = {fault['image'] for fault in manifest['faulty']}
        names = [name for name in map(printable, files) if name not in faulty]
        if names:
            write_features(parts / out.name, names, parts / 'rows', encoder.dims)
            write_json(about, manifest)
            os.replace(parts / out.name, out)
        shutil.rmtree(parts)
    if not names:
        raise ValueError(f'none of {len(files)} images can be read, the first: {manifest["faulty"][0]}')
    return manifest


def _embed(
    encoder: FrozenEncoder, files: Sequence[Path], parts: Path, identity: dict[str, Any], batch_size: int
) -> dict[str, Any]:
    """Append to the features in a folder until those of all files are there; return the manifest."""
    start, width = time.monotonic(), 4 * encoder.dims
    state, rows = parts / 'state.json', parts / 'rows'
    if not state.exists():
        rows.touch()
        write_json(state, {**identity, 'features': 0, 'faulty': []})
    known = _read(state, identity, parts)
    begun = done = known['features'] + len(known['faulty'])
    os.truncate(rows, known['features'] * width)
    check_space(parts, (2 * len(files) - done) * width)  # these, and all once again in the final file
    saved = start
    with rows.open('ab') as data:
        batches, total = encoder.prepare_batches(files[done:], batch_size), -(-(len(files) - done) // batch_size)
        for batch in log_progress(batches, f'batches of {batch_size} images', total):
            images = [image for image in batch if not isinstance(image, Exception)]
            if images:
                features = extract_features(encoder.backbone, torch.stack(images), batch_size, encoder.preprocess)
                if not features.isfinite().all():
                    raise ValueError(f'features of {printable(files[done])} and after are NaN: the training diverged')
                data.write(features.numpy().astype('<f4').tobytes())
            for image, error in zip(map(printable, files[done:]), batch, strict=False):
                if isinstance(error, Exception):
                    known['faulty'].append({'image': image, 'reason': str(error).removeprefix(f'{image}: ')})
            done, known['features'] = done + len(batch), known['features'] + len(images)
            if time.monotonic() - saved >= _SAVE_SECONDS or done == len(files):
                data.flush()
                os.fsync(data.fileno())
                write_json(state, known)
                saved = time.monotonic()
    about = {key: getattr(encoder, key) for key in ('dims', 'patch_size', 'preparation')}
    about.update(config=str(encoder.cfg.filename), checkpoint=str(encoder.checkpoint), resumed_at=begun)
    return {**describe_origin(), **about, 'seconds': round(time.monotonic() - start, 1), **known}


def _read(path: Path, identity: dict[str, Any], what: Path) -> dict[str, Any]:
    """Return the contents of a file; raise ValueError if they are of another checkpoint or of other images."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    if other := {key.removesuffix('_sha256').replace('_', ' ') for key in identity if known.get(key) != identity[key]}:
        other = f'another {", ".join(sorted(other))}'
        raise ValueError(f'{what} has other features ({other}): remove or rename it, or choose another --out')
    return known
