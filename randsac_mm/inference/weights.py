"""A trained model's weights, all of them or none."""

from pathlib import Path

from torch import nn

from randsac_mm.transfer.reading import find_state, read_checkpoint

_NAMED = 6  # keys of a kind that a message names


def load_all(model: nn.Module, path: str | Path) -> dict:
    """Load a checkpoint of training into a model; every tensor must fit.

    mmengine's own loading only warns about what is missing, left over or of another shape, and predicts noise.

    Args:
        model: The whole model.
        path: A checkpoint that was trained with the same config.

    Returns:
        What the checkpoint says about its run (``meta``), possibly empty.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read safely or does not fit the model.
    """
    checkpoint = read_checkpoint(path)
    state = find_state(checkpoint, path)
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    faults = []
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:  # ValueError: our backbone refuses positions of another architecture
        lines = [line.strip().rstrip('.') for line in str(error).splitlines()]
        faults = [line for line in lines if line.startswith('size mismatch')]
        if not (missing or unexpected or faults):
            faults = lines
    if missing or unexpected or faults:
        raise ValueError(
            f'{path} does not fit the config. Nothing is predicted with half-loaded weights.\n'
            f'  missing: {_some(missing)}\n  left over: {_some(unexpected)}\n  does not fit: {_some(faults)}\n'
            f'{_advice(own, state)}'
        )
    meta = checkpoint.get('meta')
    return meta if isinstance(meta, dict) else {}


def _some(lines: list[str]) -> str:
    if not lines:
        return 'nothing'
    more = f' and {len(lines) - _NAMED} more' if len(lines) > _NAMED else ''
    return f'{"; ".join(lines[:_NAMED])}{more}'


def _advice(own: dict, state: dict) -> str:
    head = {'decode_head', 'roi_head'} & {key.split('.')[0] for key in own}
    if not head & {key.split('.')[0] for key in state}:
        return (
            f'It holds no {"/".join(sorted(head)) or "head"}: it comes from pre-training, or is a bare backbone. Train '
            'with this config first (tools/train.py CONFIG) and give the checkpoint of that run'
        )
    return 'Use the config that it was trained with, with the same architecture, patch size and num_classes'
