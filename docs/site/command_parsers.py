"""A function without arguments for each command of `aws-lottery`, which is what sphinx_argparse_cli asks for."""

from functools import partial
from importlib import import_module

from aws_lottery.cli.commands import COMMANDS, PROGRAM


def _parser(name):
    parser = import_module(f"aws_lottery.cli.{name}").parser([])
    parser.prog = f"{PROGRAM} {name}"
    return parser


globals().update({name: partial(_parser, name) for name in COMMANDS})
