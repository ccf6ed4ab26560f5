"""What the scripts of tools/ share: options of the command line, and mistakes of users that end them with one line."""

import argparse
import logging
import os
import re
import shlex
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger

from randsac_mm.datasets.data_report import DataError
from randsac_mm.engine.safe_loading import use_safe_reader
from randsac_mm.locations import command_name

# Do nothing but build what a config describes.
_BUILDERS = re.compile(r'(mmengine|mmpretrain|mmseg|mmdet)\..*\.(_?build_\w+|from_cfg|before_run)')
_running: list[tuple[str, bool]] = []  # name of the tool that is running, and whether it has --resume


def make_parser(doc: str | None, *, config: bool = True, launcher: bool = False) -> argparse.ArgumentParser:
    """Make a parser with ``--traceback`` and, for tools of a config or of several processes, what these need.

    If ``randsac-mm`` runs the script, help and errors name that command, and so do the examples of ``doc``.
    """
    name = command_name()
    if name and doc:
        doc = re.sub(rf'python tools/(\w+/)?{Path(sys.argv[0]).name}', name, doc)
    parser = argparse.ArgumentParser(prog=name, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--traceback', action='store_true', help='after an error, also show where it was raised')
    if config:
        text = 'change the config: a.b.c=1 d=1,2; where it has a string, the value is that text'
        parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE', help=text)
    if launcher:
        parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
        # torch.distributed.launch passes it, in one spelling or the other; torchrun sets the variable itself.
        parser.add_argument('--local_rank', '--local-rank', default='0', help=argparse.SUPPRESS)
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """Make a reader of whole numbers on a command line."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f'{text} must be at least {least}')
        return int(text)

    return number


def run_tool(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], str | None]) -> None:
    """Read the command line, work, and print the result, if any.

    An error in data, config or command line ends the process with exit status 1 and a line ``TOOL: error: ...``; so
    does any that is raised while mmengine builds something from a config. The traceback goes to the log file, if the
    run has one, and with ``--traceback`` to the terminal. Other exceptions are faults of the program and keep theirs.
    The last line, or for those the first one, is the command that continues a training (``error.resume``).
    """
    args = parser.parse_args()
    _running[:] = [(parser.prog, 'resume' in args)]
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # set while libraries were imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    use_safe_reader()
    if 'local_rank' in args:
        os.environ.setdefault('LOCAL_RANK', args.local_rank)
    try:
        result = work(args)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        logger = MMLogger.get_current_instance()
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                text = ('the run ended with an error', (), sys.exc_info())
                handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, *text))
        if not (
            isinstance(error, (ValueError, OSError, ImportError, FloatingPointError))
            or re.search(r'Target -?\d+ is out of bounds', str(error))  # torch's, where labels do not fit the model
            or _builders(error)
        ):
            if hasattr(error, 'resume'):
                print(error.resume, file=sys.stderr)
            raise
        if args.traceback:
            traceback.print_exc()
        rank = int(os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or 0)
        if rank:  # the first process ends with the same error, and all others with it, unless it is this one's own
            time.sleep(10)
        text = f'{parser.prog}: error: {"" if not rank else f"process {rank}: "}{describe(error)}'
        sys.exit('\n'.join([text, *([error.resume] if hasattr(error, 'resume') else [])]))
    finally:
        _running.clear()
    if result is not None:
        print(result)


def resume_command(cfg: Config) -> str:
    """Return what to do to continue the run of a config: the command, if it is known.

    That is the command line of this process, or what ``dist_train.sh`` and ``slurm_train.sh`` name as theirs, with
    ``--resume``; for a tool without that option, ``train`` with a config that is in its own work directory.
    """
    name, takes_it = _running[0] if _running else ('', False)
    start = name.split() if ' ' in name else ['python', sys.argv[0]]
    if takes_it:
        words = shlex.split(os.environ.get('RANDSAC_MM_COMMAND', '')) or [*start, *sys.argv[1:]]
    elif name and cfg.filename and Path(cfg.filename).resolve().parent == Path(cfg.work_dir).resolve():
        words = [start[0], 'train' if ' ' in name else str(Path(sys.argv[0]).with_name('train.py')), str(cfg.filename)]
    else:
        return 'To continue, run the same command with --resume'
    kept = [word for word in words if not word.startswith('--resume=')]
    while '--resume' in kept:  # with a value, unless an option follows
        place = kept.index('--resume')
        del kept[place : place + (1 if ''.join(kept[place + 1 : place + 2]).startswith('-') else 2)]
    return f'To continue: {shlex.join(kept)} --resume'


def describe(error: Exception) -> str:
    """Return the message of an error in at most two lines, also of one that a worker of a data loader passed on.

    Errors in data sets, of which there may be several, have all their lines.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if text.startswith('Caught '):
        text = re.split(r'^[\w.]*Error: ', text, flags=re.MULTILINE)[-1]
    if isinstance(error, DataError):
        return text
    text = re.sub(r'class `\w+` in \S+: ', '', text)  # by older versions of mmengine
    built = [frame.f_locals for frame in _builders(error) if 'obj_type' in frame.f_locals]
    text = text.partition('. Please check whether')[0]
    if built and not isinstance(error, (ValueError, OSError, ImportError)) and not text.endswith(' registry'):
        text = text or traceback.extract_tb(error.__traceback__)[-1].line or type(error).__name__
        text = f'{getattr(built[-1]["obj_type"], "__name__", built[-1]["obj_type"])}: {text}'
    first, _, rest = text.strip().partition('\n')
    return '\n'.join(filter(None, [first, ' '.join(rest.split())])) or type(error).__name__


def _builders(error: BaseException) -> list[types.FrameType]:
    """Return the calls of OpenMMLab's builders, outermost first, in which an error was raised."""
    causes = (error, error.__context__ or error)  # mmengine raises what a hook raises anew
    frames = [frame for cause in causes for frame, _ in traceback.walk_tb(cause.__traceback__)]
    return [f for f in frames if _BUILDERS.fullmatch(f'{f.f_globals.get("__name__")}.{f.f_code.co_name}')]
