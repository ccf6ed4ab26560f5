"""Peak memory of one variant's training step, in a process of its own: nobody else's weights or leftovers count."""

import argparse
import gc
import json
import subprocess
import sys
import warnings

import torch
from measure import peak_bytes, reset_peak
from step_models import KNOWN, SEGMENTS, build_model
from step_variants import make_variant

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}


def measure_apart(variant: str, model: str, segments: str, batch: int, dtype: str, fused: bool) -> dict[str, int]:
    """Measure the memory of a variant's step on the CPU, in bytes.

    Args:
        variant: Its name.
        model: Name of the model.
        segments: ``'square'`` or ``'blob'``.
        batch: Images in a step.
        dtype: ``'fp32'`` or ``'bf16'``.
        fused: Whether a baseline gets the fused AdamW.

    Returns:
        ``memory_bytes``, what the process grew by at most since before it held a model; ``memory_peak_bytes``, its
        whole peak, libraries included.

    Raises:
        RuntimeError: If the process fails.
    """
    options = [
        '--segments',
        segments,
        '--batch',
        str(batch),
        '--dtype',
        dtype,
        *(['--fused-baseline'] if fused else []),
    ]
    command = [sys.executable, __file__, variant, model, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}')
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Train one variant for three steps and print how much memory that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('variant')
    parser.add_argument('model', choices=list(KNOWN))
    parser.add_argument('--segments', choices=SEGMENTS, default='square')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--dtype', choices=list(DTYPES), default='fp32')
    parser.add_argument('--fused-baseline', action='store_true')
    args = parser.parse_args()
    warnings.filterwarnings('ignore')  # what libraries say of themselves
    device = torch.device('cpu')
    before, _ = peak_bytes(device)
    ours = build_model(args.model, args.segments)
    variant = make_variant(args.variant, ours, args.model, args.batch, args.fused_baseline)
    del ours
    gc.collect()
    variant.step(DTYPES[args.dtype])  # whatever is compiled is compiled now
    reset_peak(device)
    for _ in range(2):
        variant.step(DTYPES[args.dtype])
    _, peak = peak_bytes(device)
    print(json.dumps({'memory_bytes': peak - before, 'memory_peak_bytes': peak}))


if __name__ == '__main__':
    main()
