"""What a checkpoint or a config says about its model. The text in a checkpoint is read, never executed."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmpretrain.models.backbones import VisionTransformer

_PARTS = ('model', 'data_preprocessor')  # of a config; mmpretrain's classifiers keep the latter outside the model


class Facts(NamedTuple):
    """Hold what a config says about the backbone and its inputs; None where it says nothing.

    Attributes:
        arch: ``embed_dims``, ``num_layers``, ``num_heads`` and ``feedforward_channels``, or some of them.
        img_size: Usual height and width in pixels.
        patch_size: Side P of a patch, in pixels.
        window_size: Side of attention windows in tokens; 0: none.
        mean: Mean of each channel, in pixel values 0 .. 255.
        std: Standard deviation of each channel, same units.
    """

    arch: dict[str, int]
    img_size: tuple[int, int] | None = None
    patch_size: int | None = None
    window_size: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def stored_config(checkpoint: Mapping[str, Any], header: Mapping[str, str]) -> dict[str, Any]:
    """Read the config that a checkpoint carries.

    Args:
        checkpoint: All that the file holds. mmengine's runners store the config as text in ``meta['cfg']``.
        header: Metadata of a safetensors file, where our exports keep the same text; else empty.

    Returns:
        ``model`` and ``data_preprocessor``, as far as they are there. What is no plain value is None.

    Example:
        >>> stored_config({'meta': {'cfg': 'model = dict(backbone=dict(img_size=(8, 12), x=print()))'}}, {})
        {'model': {'backbone': {'img_size': (8, 12), 'x': None}}}
    """
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else header.get('cfg')
    try:
        statements = ast.parse(text).body if isinstance(text, str) else []
    except (SyntaxError, ValueError):
        return {}
    return {
        statement.targets[0].id: _value(statement.value)
        for statement in statements
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id in _PARTS
    }


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a config file of the user's own.

    Args:
        path: The file.

    Returns:
        As :func:`stored_config`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it defines no model with a backbone.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no config {path}')
    cfg = Config.fromfile(path).to_dict()
    if not isinstance((cfg.get('model') or {}).get('backbone'), dict):
        raise ValueError(f'{path} defines no model with a backbone; give the config that the checkpoint was trained by')
    return {part: cfg[part] for part in _PARTS if part in cfg}


def facts_of(config: Mapping[str, Any]) -> Facts:
    """Pick out of a config what an export needs.

    Args:
        config: From :func:`stored_config` or :func:`read_config`.

    Returns:
        The facts.

    Example:
        >>> facts_of({'model': {'backbone': {'arch': 'deit-tiny', 'patch_size': 4}}}).arch['num_heads']
        3
    """
    model = config.get('model')
    model = model if isinstance(model, Mapping) else {}
    backbone = model.get('backbone')
    backbone = backbone if isinstance(backbone, Mapping) else {}
    arch = backbone.get('arch')
    if isinstance(arch, str):
        arch = VisionTransformer.arch_zoo.get(arch.lower())
    preprocessor = model.get('data_preprocessor') or config.get('data_preprocessor')
    mean, std = None, None
    if isinstance(preprocessor, Mapping):
        # A preprocessor that names no mean passes pixels on as they are.
        mean, std = (_floats(preprocessor.get(key)) or (plain,) for key, plain in (('mean', 0.0), ('std', 1.0)))
    patch_size = _pair(backbone.get('patch_size'))
    return Facts(
        arch={key: value for key, value in (arch or {}).items() if isinstance(value, int)},
        img_size=_pair(backbone.get('img_size')),
        patch_size=patch_size[0] if patch_size else None,
        window_size=backbone.get('window_size') or 0,
        mean=mean,
        std=std,
    )


def _value(node: ast.expr) -> Any:
    """Evaluate literals and ``dict(...)`` of them; None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List | ast.Tuple):
        values = [_value(element) for element in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    good = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(number, int) for number in value)
    return tuple(value) if good else None


def _floats(value: Any) -> tuple[float, ...] | None:
    good = isinstance(value, list | tuple) and all(isinstance(number, int | float) for number in value)
    return tuple(map(float, value)) if good and value else None
