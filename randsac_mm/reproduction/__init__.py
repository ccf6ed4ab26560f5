"""The paper's tables as runs: which row is which config, at which scale, and how ours compare."""

from .all_runs import run_all
from .protocols import PROTOCOLS, parse_protocol
from .stages import Job, run_stages
from .tables import load_tables, measure, write_table

__all__ = ['PROTOCOLS', 'Job', 'load_tables', 'measure', 'parse_protocol', 'run_all', 'run_stages', 'write_table']
