"""`CommandParser`: argparse whose options are made from the package's own classes and functions.

Names, types and defaults come from the signature, help texts from the docstring, and choices from the rows of a table.
The parser is argparse's and not tyro's or jsonargparse's, for three reasons: defaults depend on the chosen network, an
option that was not given has to differ from one that was given, and programs may add rows to the tables.
"""

import argparse
import inspect
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import docstring_parser

from ..strict_json import to_json

OPTIONS_FILE = "options.json"  # beside the results: what was used, for --config
METAVARS = {int: "N", float: "X", str: "TEXT"}
NOTHING: Mapping[str, Any] = MappingProxyType({})


class CommandParser(argparse.ArgumentParser):
    """Takes `--batch-size` for `--batch_size`; an option made by `add_parameters` is None unless it is given.

    Args:
        text: what the help begins with, and, from a line `Examples:` on, what it ends with.
        config: whether there is a --config with a file of options.
    """

    def __init__(self, text: str | None, *, config: bool = False):
        description, _, examples = (text or "").partition("Examples:\n")
        super().__init__(
            usage="%(prog)s [options]",
            description="\n\n".join(_wrapped(paragraph) for paragraph in description.strip().split("\n\n")),
            epilog=f"examples:\n{examples.rstrip()}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if config:
            text = f"JSON or YAML file of options, such as an {OPTIONS_FILE}; the command line overrides it"
            self.add_argument("--config", metavar="FILE", help=text)

    def add_argument(self, *flags: str, **options: Any) -> argparse.Action:
        if not flags[0].startswith("-"):
            self.usage = f"{self.usage} {options.setdefault('metavar', flags[0].upper())}"
        return super().add_argument(*flags, **options)

    def add_parameters(
        self,
        title: str,
        of: Callable[..., Any],
        names: Iterable[str] | None = None,
        *,
        shown: Mapping[str, Any] = NOTHING,
        choices: Mapping[str, Iterable[str]] = NOTHING,
    ) -> None:
        """Add a group of options for parameters of a class or a function. Each is None unless given (`given_options`).

        Args:
            names: which, in this order; None: all.
            shown: name -> default that the help shows, where it is not that of the signature.
            choices: name -> its possible values.
        """
        group = self.add_argument_group(title)
        parameters = inspect.signature(of).parameters
        texts = {entry.arg_name: entry.description for entry in docstring_parser.parse(of.__doc__ or "").params}
        for name in parameters if names is None else names:
            text = " ".join((texts.get(name) or "").split()).rstrip(".")
            argument = _as_argument(parameters[name].annotation, choices.get(name))
            default = _as_written(shown.get(name, parameters[name].default))
            if "choices" in argument:
                argument |= choice(argument["choices"], text, default)
            else:
                argument |= {"help": _help(text, default)}
            group.add_argument(f"--{name}", default=None, **argument)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        argv = [_with_underscores(token) for token in (sys.argv[1:] if args is None else args)]
        try:
            values = config_of(argv)
        except ValueError as error:
            self.error(str(error))
        return self.parse_intermixed_args(
            [*self._as_tokens(values), *argv], namespace
        )  # --config may hold the positional arguments

    def _as_tokens(self, values: Mapping[str, Any]) -> list[str]:
        """The options of a file as a command line. Positional arguments become defaults, so they need not be given."""
        actions = {action.dest: action for action in self._actions}
        tokens: list[str] = []
        for name, value in values.items():
            if name not in actions:
                near = get_close_matches(name, actions, n=1)
                self.error(f"--config: no option '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
            if not actions[name].option_strings:
                actions[name].nargs, actions[name].default = "*" if isinstance(value, list) else "?", value
            elif isinstance(value, bool):
                token = f"--{name}" if value else f"--no-{name}"
                tokens += [token] if token in actions[name].option_strings else []
            elif value is not None:
                tokens += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        return (
            [*tokens, "--config", ""] if tokens else []
        )  # an option of one value ends the list of the option before it


def choice(choices: Iterable[str], text: str, default: str) -> dict[str, Any]:
    """Keyword arguments of add_argument for one of many names, which are listed in the help."""
    choices = list(choices)
    return {"choices": choices, "metavar": "NAME", "help": _help(f"{text}: {', '.join(choices)}", default)}


def given_options(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of `names` that the command line or --config sets, with their values."""
    return {name: value for name in names if (value := getattr(options, name, None)) is not None}


def chosen(argv: Sequence[str] | None, name: str) -> str | None:
    """The value of one option on the command line or in its --config, before there is a parser for all options.

    A --config that can't be read has none: `parse_args` tells its error.
    """
    argv = [_with_underscores(token) for token in (sys.argv[1:] if argv is None else argv)]
    value = _scan(argv, f"--{name}")
    if value is not None:
        return value
    with suppress(ValueError):
        return config_of(argv).get(name)
    return None


def config_of(argv: Sequence[str]) -> dict[str, Any]:
    """The options in the file of --config; empty without one. Raises: ValueError that names the file."""
    path = _scan(argv, "--config")
    if path is None:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8")
        if Path(path).suffix in (".yaml", ".yml"):
            import yaml

            values = yaml.safe_load(text) or {}
        else:
            values = json.loads(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"--config: cannot read '{path}': {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config: '{path}' must hold names of options and values, not a {type(values).__name__}")
    return values


def options_text(options: argparse.Namespace, used: Mapping[str, Any] = NOTHING) -> str:
    """The text of OPTIONS_FILE: the options that were given and, from `used`, the values of those that were not."""
    values = {name: used.get(name, value) for name, value in vars(options).items() if name != "config"}
    return to_json({name: value for name, value in values.items() if value is not None}, indent=2) + "\n"


def _scan(argv: Sequence[str], option: str) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, dest="value")
    return parser.parse_known_args(argv)[0].value


def _with_underscores(token: str) -> str:
    """`--batch_size` of `--batch-size`; `--no-plots`, as argparse has a switch, also of `--no_plots`."""
    option, equals, value = token.partition("=")
    if not option.startswith("--"):
        return token
    name = option.removeprefix("--").replace("-", "_")
    return f"--no-{name.removeprefix('no_')}{equals}{value}" if name.startswith("no_") else f"--{name}{equals}{value}"


def _as_argument(annotation: Any, choices: Iterable[str] | None) -> dict[str, Any]:
    """Keyword arguments of add_argument for a type: bool, int, float, str, Literal, tuples of them, or None."""
    inner = [kind for kind in get_args(annotation) if kind is not NoneType]
    if get_origin(annotation) in (Union, UnionType):
        return _as_argument(inner[0], choices)
    if get_origin(annotation) is tuple:
        count = "*" if Ellipsis in inner else len(inner)
        return {"nargs": count, **_as_argument(inner[0], choices)}
    if get_origin(annotation) is Literal:
        return {"choices": inner}
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if choices is not None:
        return {"choices": list(choices)}
    return {"type": annotation, "metavar": METAVARS[annotation]}


def _help(text: str, default: str) -> str:
    return (text + (f" (default: {default})" if default else "")).replace("%", "%%")


def _as_written(value: Any) -> str:
    """A value as a user would type it; "" for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _wrapped(paragraph: str) -> str:
    """A paragraph, wrapped to the width of the terminal; one that begins with a space stays as it is."""
    if paragraph.startswith(" "):
        return paragraph
    return textwrap.fill(" ".join(paragraph.split()), shutil.get_terminal_size().columns - 2)
