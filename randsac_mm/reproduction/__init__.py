"""The paper's tables as runs: which row is which config, at which scale, and how ours compare."""

from .paper import TABLES, Order, Row, Table
from .protocols import PROTOCOLS, Protocol, parse_protocol
from .recipes import RECIPES, Recipe, load_recipe
from .report import Measured, Verdict, judge_orders, measure, write_table
from .stages import STAGES, Job, run_stages

__all__ = [
    'PROTOCOLS',
    'RECIPES',
    'STAGES',
    'TABLES',
    'Job',
    'Measured',
    'Order',
    'Protocol',
    'Recipe',
    'Row',
    'Table',
    'Verdict',
    'judge_orders',
    'load_recipe',
    'measure',
    'parse_protocol',
    'run_stages',
    'write_table',
]
