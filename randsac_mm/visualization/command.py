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

from randsac_mm.datasets import find_image_files, read_image
from randsac_mm.engine.launch import load_config
from randsac_mm.files import atomic_write
from randsac_mm.models import RandSAC
from randsac_mm.transfer.model_loading import load_model

from .inputs import dataset_inputs, to_inputs


def add_options(parser: argparse.ArgumentParser, num: int | None = None) -> None:
    """Add ``--cfg-options``, and if there is a default number of images the options that choose images."""
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config')
    if num is not None:
        text = "image files or folders (default: the config's data set)"
        parser.add_argument('--images', type=Path, nargs='+', default=[], help=text)
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


def picture_parser(doc: str, num: int | None) -> argparse.ArgumentParser:
    """Make the command line ``CONFIG CHECKPOINT --out DIR`` of a tool that does what ``doc`` says."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the pre-training run')
    parser.add_argument('checkpoint', help='its checkpoint; every tensor must fit')
    parser.add_argument('--out', type=Path, required=True, help='folder for picture and numbers')
    add_options(parser, num)
    return parser


def run_picture_tool(parser: argparse.ArgumentParser, name: str, draw: Callable[..., tuple[dict, str]]) -> None:
    """Run a tool that writes ``name``.png and .json below ``--out``.

    Args:
        parser: From :func:`picture_parser`.
        name: Of the files, without an ending.
        draw: Called with the model, normalised images (B, C, H, W) or None if there are no image options, the path of
            the picture, and the arguments, whose ``images`` are the names of these images now. It writes the picture
            and returns numbers and a text to print.
    """

    def work(args: argparse.Namespace) -> str:
        cfg = load_config(args.config, args.cfg_options, None, 'none')
        model, inputs = build_model(cfg, args.checkpoint), None
        about: dict[str, Any] = {'config': args.config, 'checkpoint': args.checkpoint}
        if 'images' in args:
            inputs, args.images = choose_images(model, cfg, args.images, args.num, args.seed)
            about |= {'seed': args.seed, 'images': args.images}
        picture, numbers = (args.out / f'{name}.{end}' for end in ('png', 'json'))
        result, text = draw(model, inputs, picture, args)
        with atomic_write(numbers) as temporary:
            temporary.write_text(json.dumps(about | result, indent=2, allow_nan=False) + '\n')
        return f'{text}\n{picture}\n{numbers}'

    run_tool(parser, work)


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
        FileNotFoundError: If there is no such file, or no image in the folders.
        ValueError: If the config has no data set, or an image cannot be read.
    """
    if not paths:
        inputs = dataset_inputs(model, cfg, num, seed)
        return inputs, [str(i) for i in range(len(inputs))]
    files = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f'--images {path}: there is no such file or folder')
        files += find_image_files(path) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f'--images {" ".join(map(str, paths))}: there is no image')
    return to_inputs(model, [read_image(file) for file in files[:num]]), [str(file) for file in files[:num]]
