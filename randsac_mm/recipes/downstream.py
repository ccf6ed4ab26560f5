"""What the recipes of segmentation, detection and classification share: encoder, rules, config, and scores."""

import argparse
import ast
import re
from collections.abc import Mapping
from pathlib import Path
from pprint import pformat
from typing import Any, NamedTuple

import torch

from randsac_mm.engine.tool import make_parser
from randsac_mm.engine.work_dir import find_checkpoint, find_run
from randsac_mm.export.encoder import Encoder, read_encoder
from randsac_mm.locations import config_path
from randsac_mm.visualization.run_log import read_run

from .run import run_recipe


class Rule(NamedTuple):
    """Length of a training, and size of its images."""

    batch_size: int
    epochs: int
    fewest_steps: int
    most_steps: int
    most_patches: int  # along the short side of an image


RULES = {  # docs/recipes_downstream.md shows them
    'segment': Rule(8, 100, 2_000, 40_000, 32),
    'detect': Rule(4, 36, 2_000, 90_000, 50),
    'classify': Rule(64, 100, 1_000, 100_000, 0),  # 0: the size of pre-training
}


class Recipe(NamedTuple):
    """The text of a config, what was decided, and how each metric in the log is printed."""

    config: str
    lines: list[str]
    scores: dict[str, str]


def choose_length(task: str, images: int) -> dict[str, int]:
    """Return batch size and number of steps for a number of training images."""
    rule = RULES[task]
    batch_size = min(rule.batch_size, images)
    steps = round(rule.epochs * images / batch_size)
    return {'batch_size': batch_size, 'max_iters': min(max(steps, rule.fewest_steps), rule.most_steps)}


def choose_side(task: str, median: float, img_size: tuple[int, int], patch: int) -> int:
    """Return the short side of images in pixels: their median, limited, as a multiple of the patch size.

    It is at least the size of pre-training, and else at most ``most_patches``.
    """
    return patch * max(-(-min(img_size) // patch), min(round(median / patch), RULES[task].most_patches))


def read_pretraining(run: str | Path, smallest: int = 1, largest: int = 999, layers: int = 1) -> Encoder:
    """Read the encoder of a run, see :func:`find_run`.

    Raises:
        ValueError: If it is of another kind, its patches have another size, or it has less layers.
    """
    config, checkpoint = find_run(run)
    encoder = read_encoder(checkpoint, config)
    found, patch = encoder.backbone.num_layers, encoder.backbone.patch_size
    if found < layers or not smallest <= patch <= largest or (smallest <= 4 < patch < 8):
        raise ValueError(
            f'{run}: an encoder of {found} layers with patches of {patch} px; this needs {layers} layers or more and '
            f'patches of {smallest} to {largest} px'
        )
    return encoder


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """Return the variables of a config that describe an encoder and its input."""
    about = encoder.architecture
    arch = {key: about[key] for key in ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')}
    options = {key: about[key] for key in ('img_size', 'patch_size', 'in_channels')}
    usual = {'qkv_bias': True, 'final_norm': True, 'positions': 'stretched'}
    options |= {key: about[key] for key, value in usual.items() if about[key] != value}
    return {
        'checkpoint': str(encoder.path.resolve()),
        'encoder': {'arch': {'_delete_': True, **arch}, **options},
        'embed_dims': about['embed_dims'],
        'mean': list(encoder.mean),
        'std': list(encoder.std),
        'bfloat16': torch.cuda.is_available(),
        'groups': next(number for number in (32, 16, 8, 4) if about['embed_dims'] % number == 0),
    }


def fill_config(name: str, title: str, values: Mapping[str, Any]) -> str:
    """Return the text of one of our configs with other values of variables; comments and all else stay.

    Args:
        name: The config below ``configs/``, whose ``_base_`` is a file beside it.
        title: The new header.
        values: The values, by variable; those that the config does not have are left out.
    """
    path = Path(config_path(name))
    text = path.read_text()
    lines = text.splitlines()
    for node in ast.parse(text).body:
        key = node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else ''
        if key in values:
            comment = re.search(r'  # .*$', lines[node.end_lineno - 1])
            value = pformat(values[key], width=116 - len(key), compact=True, sort_dicts=False)
            lines[node.lineno - 1] = f'{key} = {value}{comment[0] if comment else ""}'
        elif key == '_base_':
            base = f'{path.parent.name}/{Path(ast.literal_eval(node.value)).name}'
            header = f"# {title}\n_base_ = __import__('randsac_mm').config_path({base!r})"
            lines[: node.lineno] = [''] * (node.lineno - 1) + [f"{header}\nwork_dir = '{{{{ fileDirname }}}}'"]
    return '\n'.join(lines).lstrip() + '\n'


def describe_training(encoder: Encoder, length: Mapping[str, int], images: int) -> list[str]:
    """Return what is printed of every recipe: encoder, and length of the training."""
    backbone, (batch_size, steps) = encoder.backbone, length.values()
    return [
        f'Encoder: {backbone.num_layers} layers of {backbone.embed_dims}, patches of {backbone.patch_size} px, '
        f'pre-trained at {" x ".join(map(str, backbone.img_size))} px, {encoder.path}',
        f'Training: {steps:,} steps of {batch_size} images, each image {steps * batch_size / images:,.0f} times',
    ]


def make_recipe_parser(doc: str | None, data: str) -> argparse.ArgumentParser:
    """Make the parser of a recipe's tool, whose first argument is a folder of ``data``."""
    parser = make_parser(doc, config=False)
    parser.add_argument('data', type=Path, help=f'folder of {data}')
    parser.add_argument(
        '--from', dest='source', required=True, metavar='RUN', help='pre-training, or a checkpoint in it'
    )
    parser.add_argument('--out', type=Path, metavar='RUN2', help='work directory (default: work_dirs/DATA_TASK)')
    parser.add_argument('--time', metavar='1h', help='time for the whole command, in s, m, h or d')
    return parser


def run_downstream(recipe: Recipe, args: argparse.Namespace, task: str) -> str:
    """Write the config, train, and return the best scores and the next commands."""
    out = args.out or Path('work_dirs', f'{args.data.resolve().name}_{task}')
    run_recipe(recipe.config, out, args.time, recipe.lines, [])
    scalars = read_run(out).scalars
    scores = [text.format(max(scalars[key].values())) for key, text in recipe.scores.items() if key in scalars]
    checkpoint = next(iter(sorted(out.glob('best_*.pth'))), None) or find_checkpoint(out)
    files = f'{out}/config.py {checkpoint}'
    commands = [f'randsac-mm test {files}']
    if task != 'classify':
        commands.insert(0, f'randsac-mm predict {files} IMAGES --out DIR')
    return '\n  '.join([f'Best in validation: {", ".join(scores) or "nothing found yet"}\nNext:', *commands])
