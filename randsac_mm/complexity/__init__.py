"""Parameters and multiply-adds of a model, counted by formula and by running it, beside the paper's."""

from .count import Cost, complexity, measure
from .published import PAPER, compare_with_paper, find_published, two_stream_depths
from .report import report

__all__ = [
    'PAPER',
    'Cost',
    'compare_with_paper',
    'complexity',
    'find_published',
    'measure',
    'report',
    'two_stream_depths',
]
