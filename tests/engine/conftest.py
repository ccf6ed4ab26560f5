"""Shared by the tests of randsac_mm.engine."""

import pytest

# A helper that tests import; collected for doctests it would be imported, and registered, twice.
collect_ignore = ['toy_engine.py']


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # mmengine waits 2 s between passes through the data
