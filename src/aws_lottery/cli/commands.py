"""The commands of `aws-lottery` and what they are, without importing any of them."""

import argparse
import ast
from pathlib import Path

from .. import __version__

PROGRAM = "aws-lottery"
COMMANDS = ("find", "train", "compare", "inspect", "diff", "export", "push", "pull", "completion")


def overview() -> argparse.ArgumentParser:
    """The parser that knows the names of commands, not their options."""
    parser = argparse.ArgumentParser(
        PROGRAM,
        usage=f"{PROGRAM} COMMAND [options]",
        description="Find, ship and apply winning signs: sparse signed masks for any fresh initialization.",
        epilog=f"`{PROGRAM} COMMAND --help` has the options of a command, and examples.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in COMMANDS:
        commands.add_parser(name, help=first_line(name).replace("%", "%%"))
    return parser


def first_line(name: str) -> str:
    """Of the docstring of a command's file, which is not imported for that."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].rstrip(".")
