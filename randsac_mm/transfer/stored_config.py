"""The config that a checkpoint carries as text; it is parsed, never executed."""

import ast
from collections.abc import Collection, Mapping
from typing import Any

_PARTS = ('model', 'data_preprocessor')  # mmpretrain's classifiers have the latter beside the model


def stored_config(checkpoint: Mapping[str, Any], parts: Collection[str] | None = _PARTS) -> dict[str, Any]:
    """Parse the config in a checkpoint, whose text mmengine's runners store in ``meta['cfg']``.

    Returns:
        ``parts`` (None: everything), each if present. What is no plain value is None.

    Example:
        >>> stored_config({'meta': {'cfg': 'model = dict(backbone=dict(img_size=(8, 12), x=print()))'}})
        {'model': {'backbone': {'img_size': (8, 12), 'x': None}}}
    """
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    try:
        statements = ast.parse(text).body if isinstance(text, str) else []
    except (SyntaxError, ValueError):
        return {}
    return {
        statement.targets[0].id: _value(statement.value)
        for statement in statements
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and (parts is None or statement.targets[0].id in parts)
    }


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
