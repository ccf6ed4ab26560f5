"""From an encoder to verified exports: each is written to a temporary folder, compared and then renamed."""

import importlib.metadata
import json
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from randsac_mm.files import sha256
from randsac_mm.version import __version__

from .encoder import Encoder, Features
from .huggingface import HuggingFace
from .onnx_file import ONNXFile
from .openmmlab import MMPretrain, SafetensorsFile
from .sample_images import real_images
from .target import Target, require
from .timm_model import TimmModel

TARGETS: dict[str, type[Target]] = {
    target.name: target for target in (MMPretrain, TimmModel, HuggingFace, SafetensorsFile, ONNXFile)
}
_REPORT = 'verification.json'
_INPUT_TOLERANCE = 1e-5  # of a target's own preprocessing, as part of the largest input


class VerificationError(ValueError):
    """Raised if an export computes something else than the encoder."""


class Exported(NamedTuple):
    """Folder of a verified export and the contents of its ``verification.json``."""

    folder: Path
    report: dict[str, Any]

    def __str__(self) -> str:
        difference, tolerance = self.report['max_abs_difference'], self.report['tolerance']
        return (
            f'{self.report["target"]}: {self.folder}: greatest difference {difference["tokens"]:.2e} of tokens, '
            f'{difference["averaged"]:.2e} of averaged features (accepted: {tolerance:.0e})'
        )


def export_encoder(
    encoder: Encoder,
    targets: Sequence[str],
    out: str | Path,
    *,
    images: str | Path | None = None,
    force: bool = False,
    uint8: bool = False,
    command: str = '',
) -> Iterator[Exported]:
    """Export an encoder to one or several targets, each verified on real images.

    Args:
        encoder: From :func:`randsac_mm.export.read_encoder`.
        targets: Names in :data:`randsac_mm.export.TARGETS`.
        out: Folder for the results; each target gets a folder of its name in it.
        images: Folder of images to compare features on. None: images inside scikit-learn.
        force: Whether an earlier export may be replaced.
        uint8: Whether the ONNX graph takes pixels and normalises them itself.
        command: The command line, for the report.

    Yields:
        Each export, as soon as it is verified and complete.

    Raises:
        FileNotFoundError: If there are no such images.
        FileExistsError: If an export is there already and ``force`` is False, or something else is.
        ImportError: If a package is missing.
        ValueError: If a target does not exist or cannot express the encoder.
        VerificationError: If an export computes other features; its files are deleted, earlier exports stay.
    """
    if not targets or not TARGETS.keys() >= set(targets):
        raise ValueError(f'targets {list(targets)} must be some of {", ".join(TARGETS)}')
    if uint8 and 'onnx' not in targets:
        raise ValueError("uint8 is an option of the target 'onnx': add it to --to, or drop --uint8")
    chosen = []
    for name in dict.fromkeys(targets):
        chosen.append(ONNXFile(encoder, uint8) if name == 'onnx' else TARGETS[name](encoder))
        for module, install in chosen[-1].packages.items():
            require(module, install)
        _check_free(Path(out, name), force)
    sample = real_images(len(encoder.mean), encoder.backbone.img_size, images)
    pixels = torch.from_numpy(np.stack(list(sample.values()))).permute(0, 3, 1, 2).contiguous()
    common = {
        'images': {'shape': list(pixels.shape), 'names': list(sample)},
        'checkpoint': {'file': str(encoder.path), 'sha256': encoder.sha256},
        'architecture': encoder.architecture,
        'normalisation': encoder.normalisation,
        'notes': list(encoder.notes),
        'command': command,
    }
    for target in chosen:
        with _new_folder(Path(out, target.name), force) as folder:
            target.write(folder)
            report = {
                'target': target.name,
                **_verify(target, folder, pixels),
                **common,
                'files': {file.name: sha256(file) for file in sorted(folder.iterdir())},
                'versions': _versions(target),
            }
            (folder / _REPORT).write_text(json.dumps(report, indent=2) + '\n')
        yield Exported(Path(out, target.name), report)


def _verify(target: Target, folder: Path, pixels: Tensor) -> dict[str, Any]:
    """Load the files of a target and compare features with the encoder's."""
    inputs = target.encoder.normalise(pixels)
    try:
        computed = target.run(folder, pixels, inputs)
    except Exception as error:  # libraries raise anything for files that they cannot load
        raise VerificationError(
            f'{target.name}: the written files cannot be loaded or run: {type(error).__name__}: {error}'
        ) from error
    return compare(target.name, Features(*target.encoder(inputs), inputs), computed, target.tolerance)


def compare(name: str, expected: Features, computed: Features, tolerance: float) -> dict[str, Any]:
    """Compare features of the same images: of the encoder, and of an export to the target ``name``.

    Returns:
        ``max_abs_difference`` of each, ``tolerance``, the greatest that is accepted, and ``max_abs_feature``.

    Raises:
        VerificationError: If a shape differs, a difference is too large or NaN, or all features are alike.
    """
    differences, largest = {}, {}
    for kind in Features._fields:
        ours, theirs, limit = getattr(expected, kind), getattr(computed, kind), tolerance
        if theirs is None:
            continue
        largest[kind] = ours.abs().max().item()
        if kind == 'inputs':
            limit = _INPUT_TOLERANCE * max(1.0, largest[kind])
        elif not ours.std() > 0:
            raise VerificationError(f'the {kind} of the encoder are all alike or not finite: did its run diverge?')
        if ours.shape != theirs.shape:
            raise VerificationError(f'{name}: {kind} have shape {tuple(theirs.shape)}, ours {tuple(ours.shape)}')
        difference = (ours.double() - theirs.double()).abs().max().item()
        if not difference <= limit:  # NaN fails
            raise VerificationError(f'{name}: {kind} differ from ours by {difference:.2e}, more than {limit:.0e}')
        differences[kind] = difference
    return {'max_abs_difference': differences, 'tolerance': tolerance, 'max_abs_feature': largest}


def _versions(target: Target) -> dict[str, str]:
    packages = {'torch', 'safetensors', *(module.partition('.')[0] for module in target.packages)}
    versions = {package: importlib.metadata.version(package) for package in sorted(packages)}
    return {'python': platform.python_version(), 'randsac_mm': __version__, **versions}


@contextmanager
def _new_folder(folder: Path, force: bool) -> Iterator[Path]:
    """Yield an empty folder that is renamed to ``folder`` at the end of the block, or deleted after an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}.', dir=folder.parent) as temporary:
        new = Path(temporary, 'new')
        new.mkdir()
        yield new
        _check_free(folder, force)  # it may have been made meanwhile
        if folder.exists():
            folder.rename(Path(temporary, 'old'))
        new.rename(folder)


def _check_free(folder: Path, force: bool) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if not (folder / _REPORT).is_file():
        raise FileExistsError(f'{folder} exists and is no export: choose another --out')
    if not force:
        raise FileExistsError(f'{folder} is an earlier export: choose another --out, or replace it by --force')
