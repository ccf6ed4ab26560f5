"""What the recipes of segmentation, detection and classification share: encoder, rules, config, and run."""

import argparse
import ast
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pprint import pformat
from typing import Any, NamedTuple

from randsac_mm.engine.tool import make_parser

import torch

from randsac_mm.engine.time_budget import parse_duration
from randsac_mm.engine.work_dir import find_checkpoint, find_run
from randsac_mm.export.encoder import Encoder, read_encoder
from randsac_mm.locations import config_path
from randsac_mm.visualization.run_log import read_run

from .progress import SCORES
from .training import begin_run, run_recipe


class Task(NamedTuple):
    """The config of a task, rules for length and sizes, and the encoders that suit."""

    config: str
    batch_size: int
    epochs: int
    fewest_steps: int
    most_steps: int
    most_patches: int = 0  # along the short side of an image; 0: the size of pre-training
    patch_sizes: tuple[int, ...] = tuple(range(1, 257))
    layers: int = 1


TASKS = {  # docs/recipes_downstream.md shows these numbers
    'segment': Task('segmentation/upernet_vit-s_own.py', 8, 100, 2_000, 40_000, 32, tuple(range(1, 17)), 4),
    'detect': Task('detection/mask-rcnn_vit-s_own_coco.py', 4, 36, 2_000, 90_000, 50, (4, 6, *range(8, 17)), 4),
    'classify': Task('finetune/finetune_vit-s_own.py', 64, 100, 1_000, 100_000),
}


_BUDGET = """
# Ends the run with its time, whatever a step takes: without it max_iters steps are run.
reserve = 0  # seconds of it for the end of the process
custom_hooks = [dict(type='TimeBudgetHook', seconds={seconds:g}, reserve=reserve, interval=interval)]
"""


class Found(NamedTuple):
    """What is in a user's data, and what follows for the config."""

    images: int  # to train on
    variables: dict[str, Any]
    data: str  # in words
    model: str


def choose_length(task: str, images: int) -> dict[str, int]:
    """Return batch size and number of steps for a number of training images."""
    rule = TASKS[task]
    batch_size = min(rule.batch_size, images)
    steps = round(rule.epochs * images / batch_size)
    return {'batch_size': batch_size, 'max_iters': min(max(steps, rule.fewest_steps), rule.most_steps)}


def choose_side(task: str, median: float, encoder: Encoder) -> int:
    """Return the short side of images in pixels, a multiple of the patch size.

    It is their median, but at most ``most_patches``, and at least the size of pre-training.
    """
    patch, least = encoder.backbone.patch_size, min(encoder.backbone.img_size)
    return patch * max(-(-least // patch), min(round(median / patch), TASKS[task].most_patches))


def read_pretraining(task: str, run: str | Path) -> Encoder:
    """Read the encoder of a run, see :func:`find_run`; raise ValueError if it does not suit the task."""
    config, checkpoint = find_run(run)
    encoder = read_encoder(checkpoint, config)
    layers, patch = encoder.backbone.num_layers, encoder.backbone.patch_size
    if layers < TASKS[task].layers or patch not in TASKS[task].patch_sizes:
        sizes = ', '.join(map(str, TASKS[task].patch_sizes))
        text = f'{run}: its encoder has {layers} layers and patches of {patch} px'
        raise ValueError(f'{text}; to {task}, it needs {TASKS[task].layers} layers or more and patches of {sizes} px')
    return encoder


def make_config(task: str, encoder: Encoder, found: Found, seconds: float | None = None) -> str:
    """Return the text of the config: the task's own, with other values of variables, and the encoder's."""
    about = encoder.architecture
    arch = {key: about[key] for key in ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')}
    options = {key: about[key] for key in ('img_size', 'patch_size', 'in_channels')}
    usual = {'qkv_bias': True, 'final_norm': True, 'positions': 'stretched'}
    options |= {key: about[key] for key, value in usual.items() if about[key] != value}
    variables = dict(
        checkpoint=str(encoder.path.resolve()),
        encoder={'arch': {'_delete_': True, **arch}, **options},
        embed_dims=about['embed_dims'],
        mean=list(encoder.mean),
        std=list(encoder.std),
        bfloat16=torch.cuda.is_available(),
        validations=10 if seconds is None else int(min(10, max(2, seconds // 60))),
        groups=next(number for number in (32, 16, 8, 4, 2, 1) if about['embed_dims'] % (4 * number) == 0),
    )
    title = f'Made by `randsac-mm {task}`, by the rules of docs/recipes_downstream.md; everything may be changed here.'
    variables |= choose_length(task, found.images) | found.variables
    return fill_config(TASKS[task].config, f'# {title}\n# Command: randsac-mm train config.py', variables) + (
        '' if seconds is None else _BUDGET.format(seconds=seconds)
    )


def fill_config(name: str, header: str, variables: Mapping[str, Any]) -> str:
    """Return the text of a config of ours, whose base is beside it, with other values of variables.

    Comments and all else stay; variables that it does not have are left out.
    """
    path = Path(config_path(name))
    lines = path.read_text().splitlines()
    for node in ast.parse(path.read_text()).body:
        key = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ''
        if key in variables:
            comment = re.search(r'  # .*$|$', lines[node.end_lineno - 1])[0]
            value = pformat(variables[key], width=116 - len(key), compact=True, sort_dicts=False)
            lines[node.lineno - 1] = f'{key} = {value}{comment}'
        elif key == '_base_':
            base = f'{path.parent.name}/{Path(ast.literal_eval(node.value)).name}'
            base = f"_base_ = __import__('randsac_mm').config_path({base!r})"
            lines[: node.lineno] = [f"{header}\n{base}\nwork_dir = '{{{{ fileDirname }}}}'", *[''] * (node.lineno - 1)]
    return re.sub(r'\n{3,}', '\n\n', '\n'.join(lines)) + '\n'


def make_recipe_parser(doc: str | None, data: str) -> argparse.ArgumentParser:
    """Make the parser of a recipe's tool, whose first argument is a folder of ``data``."""
    parser = make_parser(doc, config=False)
    parser.add_argument('data', type=Path, help=f'folder of {data}')
    text = 'pre-training, or a checkpoint in it'
    parser.add_argument('--from', dest='source', type=Path, required=True, metavar='RUN', help=text)
    parser.add_argument('--out', type=Path, metavar='RUN2', help='work directory (default: work_dirs/DATA_TASK)')
    parser.add_argument('--time', type=parse_duration, metavar='1h', help='time of the whole command: s, m, h or d')
    return parser


def run_downstream(task: str, args: argparse.Namespace, look: Callable[[Encoder], Found]) -> None:
    """Look at the data, write the config, and train; see :func:`~randsac_mm.recipes.run_recipe`."""
    out = args.out or Path('work_dirs', f'{args.data.resolve().name}_{task}')
    begin_run(out)
    encoder = read_pretraining(task, args.source)
    found, backbone = look(encoder), encoder.backbone
    lines = [
        f'Data       {args.data}: {found.data}',
        f'Model      {found.model}',
        f'Encoder    {backbone.num_layers} layers of {backbone.embed_dims}, patches of {backbone.patch_size} px, '
        f'pre-trained at {" x ".join(map(str, backbone.img_size))} px: {encoder.path}',
    ]

    def commands() -> list[str]:
        scalars = read_run(out).scalars
        best = {SCORES[f'val/{key}']: max(values.values()) for key, values in scalars.items() if f'val/{key}' in SCORES}
        texts = [f'{name} {score:.1f} %' if score > 1 else f'{name} {score:.3f}' for name, score in best.items()]
        print('Best in validation:', ', '.join(texts) or 'nothing found')
        files = f'{out / "config.py"} {next(out.glob("best_*.pth"), None) or find_checkpoint(out)}'
        predict = [] if task == 'classify' else [f'randsac-mm predict {files} IMAGES --out DIR']
        return [*predict, f'randsac-mm test {files}']

    run_recipe(make_config(task, encoder, found, args.time), out, args.time, lines, commands)
