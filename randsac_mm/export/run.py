"""From an encoder to proven exports: written aside, compared, and only then renamed to their names."""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from randsac_mm.version import __version__

from .encoder import Encoder, Features, sha256
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
    """A proven export.

    Attributes:
        folder: Its files.
        report: Contents of its ``verification.json``.
    """

    folder: Path
    report: dict[str, Any]

    def __str__(self) -> str:
        difference, scale = self.report['max_abs_difference'], self.report['feature_scale']
        return (
            f'{self.report["target"]}: {self.folder}: greatest difference {difference["tokens"]:.2e} of tokens, '
            f'{difference["averaged"]:.2e} of averaged features (accepted: {self.report["tolerance"]:.0e}; largest '
            f'values {scale["tokens"]["max_abs"]:.3g} and {scale["averaged"]["max_abs"]:.3g})'
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
    """Export an encoder to one or several targets, each proven on real images.

    Everything that can be wrong beforehand is found before the first file is written.

    Args:
        encoder: From :func:`randsac_mm.export.read_encoder`.
        targets: Names in :data:`randsac_mm.export.TARGETS`.
        out: Folder for the results; each target gets a folder of its name in it.
        images: Folder of images to compare features on. None: images inside scikit-learn.
        force: Whether an earlier export may be replaced.
        uint8: Whether the ONNX graph takes pixels and normalises them itself.
        command: What was called, for the report.

    Yields:
        Each export, as soon as it is proven and has its name.

    Raises:
        FileNotFoundError: If there are no such images.
        FileExistsError: If an export is there already and ``force`` is False, or something else is.
        ImportError: If a package is missing; says how to install it.
        ValueError: If a target does not exist or cannot express the encoder.
        VerificationError: If an export computes something else; exports before it are complete, of it nothing is left.
    """
    if not targets or not TARGETS.keys() >= set(targets):
        raise ValueError(f'targets {list(targets)} must be some of {", ".join(TARGETS)}')
    if uint8 and 'onnx' not in targets:
        raise ValueError("uint8 inputs are a choice of the target 'onnx': add it to --to, or leave --uint8 out")
    chosen = []
    for name in dict.fromkeys(targets):
        chosen.append(ONNXFile(encoder, uint8) if name == 'onnx' else TARGETS[name](encoder))
        for module, install in chosen[-1].packages.items():
            require(module, install)
        _check_free(Path(out, name), force)
    sample = real_images(len(encoder.mean), encoder.backbone.img_size, images)
    for target in chosen:
        with _new_folder(Path(out, target.name), force) as folder:
            report = {**_write(target, folder, sample), 'command': command}
            (folder / _REPORT).write_text(json.dumps(report, indent=2) + '\n')
        yield Exported(Path(out, target.name), report)


def prove(name: str, expected: Features, computed: Features, tolerance: float) -> dict[str, Any]:
    """Compare features of the same images.

    Args:
        name: The target, for the error.
        expected: Features and inputs of the encoder here.
        computed: Those by an export's files.
        tolerance: Greatest absolute difference of features that is accepted.

    Returns:
        ``max_abs_difference`` of ``tokens``, ``averaged`` and, if the export has a preprocessing of its own,
        ``preprocessed_inputs``; ``tolerance``; ``feature_scale``, ``max_abs`` and ``std`` of both kinds of features.

    Raises:
        VerificationError: If a shape differs, a difference is greater or no number, the features are no numbers or all
            alike, or the target's own preprocessing makes other inputs.
    """
    differences, scale = {}, {}
    for kind in ('tokens', 'averaged'):
        ours = getattr(expected, kind)
        scale[kind] = {'max_abs': ours.abs().max().item(), 'std': ours.std().item()}
        if not ours.isfinite().all() or scale[kind]['std'] == 0:
            raise VerificationError(
                f'the {kind} of the encoder itself are not finite or all alike, which proves nothing. Export a '
                'checkpoint of a run that has not diverged'
            )
        differences[kind] = _compare(f'{name}: {kind}', ours, getattr(computed, kind), tolerance)
    if computed.inputs is not None:
        limit = _INPUT_TOLERANCE * max(1.0, expected.inputs.abs().max().item())
        differences['preprocessed_inputs'] = _compare(
            f'{name}: preprocessed inputs', expected.inputs, computed.inputs, limit
        )
    return {'max_abs_difference': differences, 'tolerance': tolerance, 'feature_scale': scale}


def _compare(what: str, ours: Tensor, computed: Tensor, limit: float) -> float:
    if ours.shape != computed.shape:
        raise VerificationError(f'{what} have shape {tuple(computed.shape)}, ours {tuple(ours.shape)}')
    difference = (ours.double() - computed.double()).abs().max().item()
    if not difference <= limit:  # NaN fails
        raise VerificationError(f'{what} differ from ours by {difference:.2e}, more than {limit:.0e}. It was discarded')
    return difference


def _write(target: Target, folder: Path, sample: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Write the files of a target, prove them and return the report."""
    encoder = target.encoder
    pixels = torch.from_numpy(np.stack(list(sample.values()))).permute(0, 3, 1, 2).contiguous()
    inputs = encoder.normalise(pixels)
    target.write(folder)
    try:
        computed = target.run(folder, pixels, inputs)
    except ImportError:
        raise
    except Exception as error:  # whatever the library raises for files that it cannot load
        raise VerificationError(
            f'{target.name}: the written files cannot be loaded or run ({type(error).__name__}: {error}). They '
            'were discarded'
        ) from error
    return {
        'target': target.name,
        'passed': True,
        **prove(target.name, Features(*encoder(inputs), inputs), computed, target.tolerance),
        'images': {'shape': list(pixels.shape), 'names': list(sample)},
        'checkpoint': {'file': str(encoder.path), 'sha256': encoder.sha256},
        'architecture': encoder.architecture,
        'normalisation': encoder.normalisation,
        'notes': list(encoder.notes),
        'files': {file.name: sha256(file) for file in sorted(folder.iterdir())},
        'versions': {
            'python': platform.python_version(),
            'randsac_mm': __version__,
            'torch': torch.__version__,
            **{module: importlib.metadata.version(module) for module in sorted(target.packages)},
        },
    }


@contextmanager
def _new_folder(folder: Path, force: bool) -> Iterator[Path]:
    """Yield an empty folder that is renamed at the end; after an error nothing of it is left."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    temporary, old = (folder.parent / f'.{folder.name}.{os.getpid()}.{kind}' for kind in ('new', 'old'))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _check_free(folder, force)  # it may have come into being meanwhile
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        for parent in missing:  # innermost first; one that holds anything else stays
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def _check_free(folder: Path, force: bool) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if not (folder / _REPORT).is_file():
        raise FileExistsError(f'{folder} exists and is no export: choose another --out')
    if not force:
        raise FileExistsError(f'{folder} holds an earlier export: choose another --out, or replace it by --force')
