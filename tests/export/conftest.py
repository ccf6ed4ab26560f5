"""Shared by the tests of randsac_mm.export."""

# A helper that tests import; collected for doctests it would be imported twice.
collect_ignore = ['tiny.py']
