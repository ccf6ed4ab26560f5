"""Tests see the scripts of tools/benchmarks as these see each other."""

import importlib
import sys

import pytest
import torch


@pytest.fixture
def bench(monkeypatch, root):
    """Return a function that imports a file of tools/benchmarks by its name; afterwards it is forgotten."""
    folder, before, threads = root / 'tools' / 'benchmarks', set(sys.modules), torch.get_num_threads()
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], '__file__', None)):
            del sys.modules[name]
