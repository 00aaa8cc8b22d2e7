"""`aws-lottery`: an overview of the commands, and the command that is asked for."""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from .. import __version__
from .commands import COMMANDS, PROGRAM, overview

DEBUG = "AWS_LOTTERY_DEBUG"  # environment variable: if set, errors show their traceback
BROKEN_PIPE = 128 + 13  # the status that a shell gives for SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run `aws-lottery ARGV`. Returns: the exit status: 0, 1 after an error of the user, 2 for wrong usage."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        return run(argv[0], argv[1:])
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
    elif argv[0] == "--version":
        print(f"{PROGRAM} {__version__}")
    else:
        near = get_close_matches(argv[0], COMMANDS, n=1) or [", ".join(COMMANDS)]
        print(f"{PROGRAM}: no command '{argv[0]}'; did you mean {near[0]}?", file=sys.stderr)
        return 2
    return 0


def run(name: str, argv: Sequence[str]) -> int:
    """Run one command in this process. It ends in silence when the reader of its output, as `head`, is gone.

    Returns: as `main`; 141 if the reader is gone.
    """
    try:
        try:
            return _run(name, argv)
        finally:
            sys.stdout.flush()  # while an error can still be caught
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end of the interpreter
        return BROKEN_PIPE


def _run(name: str, argv: Sequence[str]) -> int:
    command = import_module(f"{__package__}.{name}")
    parser = command.parser(argv)
    parser.prog = f"{PROGRAM} {name}"
    args = parser.parse_args(argv)
    try:
        command.run(args)
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get(DEBUG) or not isinstance(error, _errors_to_tell()):
            raise
        print(f"{parser.prog}: {error}\n(set {DEBUG}=1 to see the traceback)", file=sys.stderr)
        return 1
    return 0


def _errors_to_tell() -> tuple[type[Exception], ...]:
    """Errors whose message says what to do: wrong input, a folder in use or of another run, a loss that is NaN."""
    from ..runs.checkpoint import CheckpointError
    from ..runs.lock import Busy

    return (ValueError, OSError, ModuleNotFoundError, FloatingPointError, CheckpointError, Busy)
