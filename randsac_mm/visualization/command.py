"""What the tools for pictures of a checkpoint share: the command line, the model and its images, the JSON result."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import Tensor

from randsac_mm.datasets import find_fault, read_image
from randsac_mm.engine.launch import load_config
from randsac_mm.files import atomic_write
from randsac_mm.models import RandSAC
from randsac_mm.transfer.model_loading import load_model

from .inputs import dataset_inputs, to_inputs


def checkpoint_parser(doc: str) -> argparse.ArgumentParser:
    """Make the command line ``CONFIG CHECKPOINT --out DIR`` of a tool that does what ``doc`` says."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the pre-training run')
    parser.add_argument('checkpoint', help='its checkpoint; every tensor must fit')
    parser.add_argument('--out', type=Path, required=True, help='folder for picture and figures')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config')
    return parser


def add_image_options(parser: argparse.ArgumentParser, num: int) -> None:
    """Add the options that choose images; ``num`` is the default number."""
    help_text = "image files or folders (default: the config's data set)"
    parser.add_argument('--images', type=Path, nargs='+', default=[], help=help_text)
    parser.add_argument('--num', type=int, default=num, help=f'number of images (default: {num})')
    parser.add_argument('--seed', type=int, default=0, help='of serializations and choice of images (default: 0)')


def run_tool(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], str]) -> None:
    """Read the command line, work, print the result; users' mistakes end the program with one line."""
    args = parser.parse_args()
    if getattr(args, 'num', 1) < 1:
        parser.error(f'--num {args.num} must be at least 1')
    try:
        print(work(args))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'{parser.prog}: error: {error}')


def build_model(cfg: Config, checkpoint: str | Path) -> RandSAC:
    """Build the model of a config and load all of a checkpoint into it.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the config is of no pre-training run, or the checkpoint cannot be read or does not fit.
    """
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    if not isinstance(model, RandSAC):
        raise ValueError(f'the config builds a {type(model).__name__}, but pictures need a pre-training run (RandSAC)')
    load_model(model, checkpoint)
    return model


def choose_images(model: RandSAC, cfg: Config, paths: Sequence[Path], num: int, seed: int) -> tuple[Tensor, list[str]]:
    """Prepare ``num`` images of files and folders, or without any of the config's data set, and a name for each.

    Raises:
        FileNotFoundError: If there is no such file, or no readable image.
        ValueError: If the config has no data set, or an image cannot be read.
    """
    if not paths:
        inputs = dataset_inputs(model, cfg, num, seed)
        return inputs, [str(i) for i in range(len(inputs))]
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f'--images {path}: there is no such file or folder')
        inside = sorted(path.rglob('*')) if path.is_dir() else []
        files += [path] if path.is_file() else [f for f in inside if f.is_file() and find_fault(f) is None]
    if not files:
        raise FileNotFoundError(f'--images {" ".join(map(str, paths))}: no readable image there')
    return to_inputs(model, [read_image(file) for file in files[:num]]), [str(file) for file in files[:num]]


def prepare(args: argparse.Namespace) -> tuple[RandSAC, Tensor, list[str]]:
    """Load the model of a command line, its images (B, C, H, W) and their names."""
    cfg = load_config(args.config, args.cfg_options, None, 'none')
    model = build_model(cfg, args.checkpoint)
    return model, *choose_images(model, cfg, args.images, args.num, args.seed)


def write_result(path: Path, args: argparse.Namespace, result: dict[str, Any], images: Sequence[str] = ()) -> None:
    """Write numbers beside a picture as JSON, with config, checkpoint, seed and images that they are of."""
    about = {'config': args.config, 'checkpoint': args.checkpoint}
    if images:
        about |= {'seed': args.seed, 'images': list(images)}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({**about, **result}, indent=2, allow_nan=False) + '\n')
