"""What the tools for pictures of a checkpoint share: their command line, and from there to a model and its images."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import Tensor

from randsac_mm.datasets import find_fault, read_image
from randsac_mm.engine.launch import load_config
from randsac_mm.models import RandSAC

from .loading import dataset_inputs, load_weights, to_inputs


class Prepared(NamedTuple):
    """Hold what pictures are made of.

    Attributes:
        model: The model with its weights.
        inputs: Normalised images (B, C, H, W).
        names: Files of the images, or their numbers.
    """

    model: RandSAC
    inputs: Tensor
    names: list[str]


def picture_parser(doc: str, num: int) -> argparse.ArgumentParser:
    """Make a command line ``CONFIG CHECKPOINT --out DIR``, the same for every picture.

    Args:
        doc: What the tool does.
        num: Default number of images.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the pre-training run')
    parser.add_argument('checkpoint', help='its checkpoint; every tensor must fit')
    parser.add_argument('--out', type=Path, required=True, help='folder for picture and figures')
    add_image_options(parser, num)
    return parser


def add_image_options(parser: argparse.ArgumentParser, num: int) -> None:
    """Add the options that choose images, and ``--cfg-options``."""
    parser.add_argument(
        '--images', type=Path, nargs='+', help="image files or folders (default: the config's data set)"
    )
    parser.add_argument('--num', type=int, default=num, help=f'number of images (default: {num})')
    parser.add_argument('--seed', type=int, default=0, help='of serializations and choice of images (default: 0)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config')


def run_tool(name: str, parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], str]) -> None:
    """Read the command line, work, print what to tell the user; mistakes end the program with one line.

    Args:
        name: File name of the tool, for the message.
        parser: Reads the command line.
        work: Does everything else.
    """
    args = parser.parse_args()
    if getattr(args, 'num', 1) < 1:
        parser.error(f'--num {args.num}: draw at least 1 image')
    try:
        print(work(args))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'{name}: error: {error}')


def build_model(cfg: Config, checkpoint: str | Path) -> RandSAC:
    """Build the model of a config and load all of a checkpoint into it.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the config is of no pre-training run, or the checkpoint cannot be read or does not fit.
    """
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    if not isinstance(model, RandSAC):
        raise ValueError(
            f'the config builds a {type(model).__name__}, no model of pre-training (RandSAC, TwoStreamRandSAC): give '
            'config and checkpoint of the pre-training run'
        )
    load_weights(model, checkpoint)
    return model


def choose_images(
    model: RandSAC, cfg: Config, files: Sequence[Path] | None, num: int, seed: int
) -> tuple[Tensor, list[str]]:
    """Prepare images for a model: of files and folders, or else of the config's data set.

    Args:
        model: The model.
        cfg: The config of its run.
        files: Image files, and folders of any nesting; None or empty: see :func:`dataset_inputs`.
        num: Number of images.
        seed: Of the choice from a data set.

    Returns:
        Normalised images (B, C, H, W) and a name for each.

    Raises:
        FileNotFoundError: If there is no such file, or no readable image.
        ValueError: If the config has no data set, or an image cannot be read.
    """
    if not files:
        inputs = dataset_inputs(model, cfg, num, seed)
        return inputs, [f'{i}' for i in range(len(inputs))]
    found = find_images(files, num)
    return to_inputs(model, [read_image(file) for file in found]), [str(file) for file in found]


def prepare(args: argparse.Namespace) -> Prepared:
    """Do what a command line of :func:`picture_parser` asks for, up to the picture."""
    cfg = load_config(args.config, args.cfg_options, None, 'none')
    model = build_model(cfg, args.checkpoint)
    return Prepared(model, *choose_images(model, cfg, args.images, args.num, args.seed))


def describe(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Say in plain values what pictures were made of, for the JSON beside them."""
    return {'config': args.config, 'checkpoint': args.checkpoint, 'seed': args.seed, 'images': list(names)}


def find_images(paths: Sequence[Path], num: int) -> list[Path]:
    """List image files: those named, and in folders, of any nesting, the first readable ones in order of name.

    Raises:
        FileNotFoundError: If there is no such file or folder, or no readable image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f'--images {path}: there is no such file or folder')
        if path.is_file():
            found.append(path)
            continue
        for file in sorted(path.rglob('*')):
            if len(found) < num and file.is_file() and find_fault(file) is None:
                found.append(file)
    if not found:
        raise FileNotFoundError(f'--images {" ".join(map(str, paths))}: no readable image there')
    return found[:num]
