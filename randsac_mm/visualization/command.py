"""What the tools for pictures of a checkpoint share: the command line, the model and its images, the JSON result."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from randsac_mm.engine import tool
from randsac_mm.engine.launch import load_config
from randsac_mm.files import write_json
from randsac_mm.models import RandSAC
from randsac_mm.transfer.model_loading import load_model

from .inputs import choose_images


def make_parser(doc: str, num: int | None = None) -> argparse.ArgumentParser:
    """Make a parser with ``--cfg-options`` and, if there is a default number of images, options that choose images."""
    parser = tool.make_parser(doc)
    parser.add_argument('--out', type=Path, required=True, help='folder, or file, to write')
    if num is not None:
        text = "image files or folders (default: the config's data set)"
        parser.add_argument('--images', type=Path, nargs='+', default=[], help=text)
        parser.add_argument('--num', type=tool.at_least(1), default=num, help=f'number of images (default: {num})')
        parser.add_argument(
            '--seed', type=tool.at_least(0), default=0, help='of serializations and choice of images (default: 0)'
        )
    return parser


def run_picture_tool(
    parser: argparse.ArgumentParser, name: str, draw: Callable[..., dict], options: Sequence[str] = ()
) -> None:
    """Run a tool ``CONFIG CHECKPOINT`` that writes ``name``.png and ``name``.json below ``--out``.

    ``draw`` is called with the model, with normalised images (B, C, H, W) if the parser has options for them, with the
    path of the picture, and with the named ``options``. It returns plain values, among them a ``note`` to print.
    """

    def work(args: argparse.Namespace) -> str:
        cfg = load_config(args.config, args.cfg_options, None, 'none')
        model, inputs = build_model(cfg, args.checkpoint), []
        about: dict[str, Any] = {'config': args.config, 'checkpoint': args.checkpoint}
        if 'images' in args:
            images, names = choose_images(model, cfg, args.images, args.num, args.seed)
            inputs, about = [images], about | {'seed': args.seed, 'images': names}
        picture, numbers = args.out / f'{name}.png', args.out / f'{name}.json'
        result = draw(model, *inputs, picture, **{option: getattr(args, option) for option in options})
        write_json(numbers, about | result, allow_nan=False)
        return f'{result["note"]}\n{picture}\n{numbers}'

    parser.add_argument('config', help='config of the pre-training run')
    parser.add_argument('checkpoint', help='its checkpoint; every tensor must fit')
    tool.run_tool(parser, work)


def build_model(cfg: Config, checkpoint: str | Path) -> RandSAC:
    """Build the model of a pre-training config and load all of a checkpoint into it, or raise a ValueError."""
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    if not isinstance(model, RandSAC):
        raise ValueError(f'the config builds a {type(model).__name__}, but pictures need a pre-training run (RandSAC)')
    load_model(model, checkpoint)
    return model
