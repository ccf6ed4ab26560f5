"""Shared by the tests of randsac_mm.visualization."""

# Helpers that tests import; collected for doctests they would be imported twice.
collect_ignore = ['checks.py', 'work_dirs.py']
