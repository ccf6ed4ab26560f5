"""From a checkpoint to proven exports: written aside, compared, and only then given their names."""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from randsac_mm.export.images import Sample, real_images
from randsac_mm.export.proof import Proof, VerificationError, prove
from randsac_mm.export.source import Source, sha256
from randsac_mm.export.targets import TARGETS, Outputs, Target, require
from randsac_mm.version import __version__

REPORT = 'verification.json'


class Exported(NamedTuple):
    """Hold where an export is, and how far its features are from ours.

    Attributes:
        name: The target.
        folder: Its files.
        proof: The differences.
        tolerance: Greatest difference that was accepted.
    """

    name: str
    folder: Path
    proof: Proof
    tolerance: float

    def __str__(self) -> str:
        scale = self.proof.scale
        return (
            f'{self.name}: {self.folder}: greatest difference {self.proof.tokens:.2e} of tokens, '
            f'{self.proof.averaged:.2e} of averaged features (accepted: {self.tolerance:.0e}; largest values '
            f'{scale["tokens"]["max_abs"]:.3g} and {scale["averaged"]["max_abs"]:.3g})'
        )


def export_encoder(
    source: Source,
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
        source: From :func:`randsac_mm.export.read_source`.
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
    unknown = [name for name in targets if name not in TARGETS]
    if unknown or not targets:
        raise ValueError(f'targets {list(targets)} must be some of {", ".join(TARGETS)}')
    if uint8 and 'onnx' not in targets:
        raise ValueError("uint8 inputs are a choice of the target 'onnx': add it to --to, or leave --uint8 out")
    out = Path(out)
    chosen = []
    for name in dict.fromkeys(targets):
        options = {'uint8': uint8} if name == 'onnx' else {}
        chosen.append(TARGETS[name](source, **options))
        for module, install in chosen[-1].packages.items():
            require(module, install)
        _check_free(out / name, force)
    sample = real_images(source.in_channels, source.img_size, images)
    for target in chosen:
        yield _export(target, sample, out / target.name, force, command)


def _export(target: Target, sample: Sample, folder: Path, force: bool, command: str) -> Exported:
    inputs = target.source.normalise(sample.pixels)
    expected = target.source.encoder.features(inputs)
    with _folder_for(folder, force) as temporary:
        target.write(temporary)
        outputs = _run(target, temporary, sample, inputs)
        proof = prove(target.name, expected, inputs, outputs, target.tolerance)
        report = _report(target, sample, proof, temporary, command)
        (temporary / REPORT).write_text(json.dumps(report, indent=2) + '\n')
    return Exported(target.name, folder, proof, target.tolerance)


def _run(target: Target, folder: Path, sample: Sample, inputs: Tensor) -> Outputs:
    try:
        return target.run(folder, sample.pixels, inputs)
    except ImportError:
        raise
    except Exception as error:  # whatever the library thinks of files that it cannot load
        raise VerificationError(
            f'{target.name}: the written files cannot be loaded or run ({type(error).__name__}: {error}). They '
            'were discarded'
        ) from error


@contextmanager
def _folder_for(folder: Path, force: bool) -> Iterator[Path]:
    """Give an empty folder that gets its name at the end; after an error nothing of it is left."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    temporary, old = (folder.parent / f'.{folder.name}.{os.getpid()}.{kind}' for kind in ('new', 'old'))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _check_free(folder, force)  # it may have come into being meanwhile
        replaced = folder.exists()
        if replaced:
            folder.rename(old)
        temporary.rename(folder)
        if replaced:
            shutil.rmtree(old)
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
    if not (folder / REPORT).is_file():
        raise FileExistsError(f'{folder} exists and is no export: choose another --out')
    if not force:
        raise FileExistsError(f'{folder} holds an earlier export: choose another --out, or replace it by --force')


def _report(target: Target, sample: Sample, proof: Proof, folder: Path, command: str) -> dict:
    source = target.source
    return {
        'target': target.name,
        'passed': True,
        'max_abs_difference': {
            'tokens': proof.tokens,
            'averaged': proof.averaged,
            **({} if proof.inputs is None else {'preprocessed_inputs': proof.inputs}),
        },
        'tolerance': target.tolerance,
        'feature_scale': proof.scale,
        'images': {'shape': list(sample.pixels.shape), 'names': list(sample.names)},
        'checkpoint': {'file': str(source.path), 'sha256': source.sha256},
        'architecture': json.loads(source.metadata()['architecture']),
        'normalisation': json.loads(source.metadata()['normalisation']),
        'notes': list(source.notes),
        'files': {file.name: sha256(file) for file in sorted(folder.iterdir())},
        'command': command,
        'versions': {
            'python': platform.python_version(),
            'randsac_mm': __version__,
            'torch': torch.__version__,
            **{module: importlib.metadata.version(module) for module in _distributions(target)},
        },
    }


def _distributions(target: Target) -> list[str]:
    return sorted({module.partition('.')[0] for module in target.packages})
