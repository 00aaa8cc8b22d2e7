"""`aws-lottery`: an overview of the commands, and the command that is asked for."""

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from .. import __version__

COMMANDS = ("find", "train", "compare")
PROGRAM = "aws-lottery"
DEBUG = "AWS_LOTTERY_DEBUG"  # in the environment: errors come with their traceback


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of `aws-lottery ARGV`; 1 for an error that the message tells all of, 2 for one of usage."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        return run(argv[0], argv[1:])
    parser = overview()
    if argv and (near := get_close_matches(argv[0], COMMANDS, n=1)):
        parser.error(f"no command '{argv[0]}'; did you mean '{near[0]}'?")
    parser.parse_args(argv)
    parser.print_help()
    return 0


def run(name: str, argv: Sequence[str]) -> int:
    """One command, in this process."""
    command = import_module(f"{__package__}.{name}")
    parser = command.parser(argv)
    parser.prog = f"{PROGRAM} {name}"
    try:
        command.run(parser.parse_args(argv))
    except (ValueError, OSError) as error:
        if os.environ.get(DEBUG):
            raise
        print(f"{parser.prog}: {error}\n({DEBUG}=1 shows where)", file=sys.stderr)
        return 1
    return 0


def overview() -> argparse.ArgumentParser:
    """The parser that knows the names of commands, not their options: quick, it imports none of them."""
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="Find, ship and apply winning signs: sparse signed masks for any fresh initialization.",
        epilog=f"`{PROGRAM} COMMAND --help` has the options of a command, and examples.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in COMMANDS:
        commands.add_parser(name, help=_first_line(name))
    return parser


def _first_line(name: str) -> str:
    """Of the docstring of a command's file, which is not imported for that."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    line = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return line.rstrip(".").replace("%", "%%")
