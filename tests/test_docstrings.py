"""Public docstrings are whole, and their examples run; `make check` holds their arguments to the signatures."""

import dataclasses
import doctest
import inspect
import sys
from collections.abc import Callable
from types import FunctionType

import docstring_parser
import pytest

import aws_lottery

ROWS = {"METHODS", "PROTOCOLS", "CRITERIA", "TRANSFERS"}  # dictionaries, which have no docstring
NAMES = sorted(set(aws_lottery.__all__) - ROWS - {"__version__"})
MODULES = sorted({getattr(aws_lottery, name).__module__ for name in NAMES} | {"aws_lottery.data.batches"})


def methods(cls: type) -> dict[str, Callable[..., object]]:
    """The public methods and properties that a class of this package has, from its bases within the package too."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("aws_lottery")]
    members = {name: member for base in reversed(own) for name, member in vars(base).items() if name[0] != "_"}
    functions = {name: getattr(m, "fget", None) or getattr(m, "__func__", m) for name, m in members.items()}
    return {name: function for name, function in functions.items() if isinstance(function, FunctionType)}


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example(name):
    parsed = docstring_parser.parse(inspect.getdoc(getattr(aws_lottery, name)))
    assert any(">>>" in example.description for example in parsed.examples)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_function_with_arguments_lists_them(name):
    public = getattr(aws_lottery, name)
    if inspect.isclass(public):
        return
    parsed = docstring_parser.parse(public.__doc__)
    assert [p.arg_name.lstrip("*") for p in parsed.params] == list(inspect.signature(public).parameters)
    assert (parsed.returns is None) == (inspect.signature(public).return_annotation is None)


@pytest.mark.parametrize("name", [name for name in NAMES if dataclasses.is_dataclass(getattr(aws_lottery, name))])
def test_a_public_dataclass_lists_its_fields(name):
    public = getattr(aws_lottery, name)
    listed = [p.arg_name for p in docstring_parser.parse(public.__doc__).params]
    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(public))


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isclass(getattr(aws_lottery, name))])
def test_every_method_of_a_public_class_has_a_docstring(name):
    without = [method for method, function in methods(getattr(aws_lottery, name)).items() if not function.__doc__]
    assert without == []


@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_give_what_they_say(module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(sys.modules[module], optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
