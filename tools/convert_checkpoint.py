#!/usr/bin/env python
"""Convert a checkpoint that only torch's unpickler reads to tensors and plain values. Reading runs the code in it!

Example:
    python tools/convert_checkpoint.py old.pth --out old.safetensors      # or .pth: with what is beside the weights
"""

import argparse
import sys
from pathlib import Path

from randsac_mm.engine.tool import make_parser, run_tool

import torch

from randsac_mm.engine.plain import to_plain
from randsac_mm.export.target import save_safetensors
from randsac_mm.files import atomic_write
from randsac_mm.transfer.reading import find_state


def work(args: argparse.Namespace) -> str:
    if args.out.suffix not in ('.pth', '.safetensors'):
        raise ValueError(f'--out {args.out}: its name must end in .pth or .safetensors')
    if not args.trust:
        print(f'Reading {args.file} runs the code in it, with all your rights. Do you trust its source? (yes/no)')
        if not sys.stdin.isatty() or input() != 'yes':
            raise ValueError(f'{args.file} was not read: answer yes in a terminal, or use --trust')
    content = torch.load(args.file, map_location='cpu', weights_only=False)
    if isinstance(content, torch.nn.Module):
        content = {'state_dict': content.state_dict()}
    plain = to_plain(content, 'checkpoint', dropped := [])
    with atomic_write(args.out) as temporary:
        if args.out.suffix == '.pth':
            torch.save(plain, temporary)
        else:
            weights = find_state(plain, args.file).items()
            save_safetensors({key: value.detach().clone().contiguous() for key, value in weights}, temporary, {})
    return '\n'.join([*(f'left out, having no plain form: {name}' for name in dropped), str(args.out)])


if __name__ == '__main__':
    parser = make_parser(__doc__, config=False)
    parser.add_argument('file', type=Path)
    parser.add_argument('--out', type=Path, required=True, help='NAME.safetensors (weights) or NAME.pth (everything)')
    parser.add_argument('--trust', action='store_true', help='do not ask')
    run_tool(parser, work)
