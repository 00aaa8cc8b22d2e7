"""The names and descriptions of the commands of `aws-lottery`, without importing any of them."""

import ast
from pathlib import Path

PROGRAM = "aws-lottery"
COMMANDS = ("find", "train", "compare", "verify", "inspect", "diff", "export", "push", "pull", "completion")


def overview() -> str:
    """What `aws-lottery --help` prints."""
    longest = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{longest}}  {first_line(name)}" for name in COMMANDS)
    return f"""usage: {PROGRAM} COMMAND [options] | --help | --version

Find, ship and apply winning signs: sparse signed masks for fresh initializations.

commands:
{commands}

`{PROGRAM} COMMAND --help` has the options of a command, and examples."""


def first_line(name: str) -> str:
    """The first line of the docstring of a command's file, read without importing the file."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].rstrip(".")
