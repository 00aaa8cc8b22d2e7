"""Print a script for completion by the Tab key.

Examples:
    eval "$(aws-lottery completion bash)"
    aws-lottery completion bash > /etc/bash_completion.d/aws-lottery
    aws-lottery completion zsh > ~/.zfunc/_aws-lottery    # a folder of $fpath
"""

import argparse
from collections.abc import Sequence
from importlib import import_module

import shtab

from .commands import COMMANDS, PROGRAM, first_line
from .parser import CommandParser

PLACES = {"FILE": shtab.FILE, "FOLDER": shtab.DIRECTORY, "MASK": shtab.DIRECTORY, "ID": shtab.DIRECTORY}


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help=", ".join(shtab.SUPPORTED_SHELLS))
    return parser


def run(args: argparse.Namespace) -> None:
    print(shtab.complete(whole_parser(), shell=args.shell))


def whole_parser() -> argparse.ArgumentParser:
    """All commands with all their options, for which their files are imported."""
    parser = argparse.ArgumentParser(PROGRAM)
    commands = parser.add_subparsers()
    for name in COMMANDS:
        command = import_module(f"{__package__}.{name}").parser([])
        for action in command._actions:
            if action.metavar in PLACES:
                action.complete = PLACES[action.metavar]
        commands.add_parser(name, parents=[command], add_help=False, help=first_line(name))
    return parser
