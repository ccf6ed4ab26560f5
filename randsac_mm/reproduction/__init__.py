"""The paper's tables as runs: which row is which config, at which scale, and how ours compare."""

from .protocols import PROTOCOLS, parse_protocol
from .recipes import RECIPES, load_recipe
from .stages import STAGES, Job, run_stages
from .tables import Measured, Row, Table, compare_rows, load_tables, measure, write_table

__all__ = [
    'PROTOCOLS',
    'RECIPES',
    'STAGES',
    'Job',
    'Measured',
    'Row',
    'Table',
    'compare_rows',
    'load_recipe',
    'load_tables',
    'measure',
    'parse_protocol',
    'run_stages',
    'write_table',
]
