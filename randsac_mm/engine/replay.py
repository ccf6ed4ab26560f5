"""Repeat a step that was not finite, and find where it went wrong."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models.selfsup import BaseSelfSupervisor
from torch import Tensor, nn

from randsac_mm.transfer.model_loading import load_model
from randsac_mm.transfer.reading import read_checkpoint


def replay(cfg: Config, path: str | Path, device: str = 'cpu') -> list[str]:
    """Repeat a step of pre-training that :class:`~randsac_mm.engine.non_finite.SkipNonFiniteHook` has written.

    Args:
        cfg: The config of the run; its optimiser wrapper decides the precision.
        path: The file in the ``nan`` folder of its work dir.
        device: Where to compute.

    Returns:
        Lines of text: for each batch of the step its files, the range of its pixels, the loss, and the first modules
        and parameters, in the order of computation, whose output or gradient is not finite.

    Raises:
        ValueError: If the file is no such record, its weights do not fit the config, or the model needs labels.
    """
    record = read_checkpoint(path)
    if not {'iter', 'batches', 'state_dict'} <= record.keys():
        raise ValueError(f'{path} is no record of a step; use a file of the folder "nan" of a work dir')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model = MODELS.build(cfg.model)
    if not isinstance(model, BaseSelfSupervisor):
        files = ', '.join(file for batch in record['batches'] for file in batch['files'])
        raise ValueError(
            f'{type(model).__name__}: only steps of pre-training can be repeated; files of this one: {files}'
        )
    load_model(model, path)
    model.to(device).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    lines = [f'step {record["iter"]}']
    for number, batch in enumerate(record['batches']):
        files = batch.pop('files')
        lines.append(f'batch {number}: {len(files)} files: {", ".join(files)}' if files else f'batch {number}')
        lines += _run(model, wrapper, {key: _move(value, device) for key, value in batch.items()})
    return lines


def _run(model: nn.Module, wrapper: Any, batch: dict[str, Any]) -> list[str]:
    """Compute loss and gradients of one batch."""
    odd: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            parts = output if isinstance(output, (list, tuple)) else [output]
            if any(isinstance(part, Tensor) and not part.isfinite().all() for part in parts):
                odd.append(name or type(module).__name__)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    model.zero_grad()
    with wrapper.optim_context(model):
        loss = model(**batch, mode='loss')['loss']
    loss.backward()
    for handle in handles:
        handle.remove()
    images = batch['inputs']
    bad_images = [i for i, image in enumerate(images) if not image.isfinite().all()]
    gradients = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    weights = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    return [
        f'  images {tuple(images.shape)}, {images.min().item():.4g} to {images.max().item():.4g}, '
        f'not finite: {_some(bad_images)}',
        f'  weights not finite: {_some(weights)}',
        f'  loss {loss.item():g}; outputs not finite: {_some(odd)}',
        f'  gradients not finite: {_some(gradients)}',
    ]


def _move(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _some(names: list) -> str:
    shown = ', '.join(map(str, names[:5]))
    return f'{shown}, ... ({len(names)})' if len(names) > 5 else shown or 'none'
