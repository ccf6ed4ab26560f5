"""How tests see the scripts of tools/benchmarks: as the scripts see each other."""

import importlib
import sys

import pytest


@pytest.fixture
def bench(monkeypatch, root):
    """Give a function that imports a file of tools/benchmarks by its name."""
    folder = root / 'tools' / 'benchmarks'
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    monkeypatch.setattr(importlib.import_module('rates'), '_SECONDS', {'cpu': 0.0})  # every product once
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], '__file__', None)):
            del sys.modules[name]
