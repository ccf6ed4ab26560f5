"""The paper's tables as runs: which row is which config, at which scale, and how ours compare."""

from .paper import TABLES, Row
from .protocols import PROTOCOLS, Protocol, parse_protocol
from .recipes import RECIPES, load_recipe
from .stages import STAGES, Job, run_stages
from .tables import Measured, compare_rows, measure, write_table

__all__ = [
    'PROTOCOLS',
    'RECIPES',
    'STAGES',
    'TABLES',
    'Job',
    'Measured',
    'Protocol',
    'Row',
    'compare_rows',
    'load_recipe',
    'measure',
    'parse_protocol',
    'run_stages',
    'write_table',
]
