"""The README's quickstart is what a newcomer types: it is short, needs nothing but the package, and runs."""

import ast
import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
FULL = "rounds=12, warmup_epochs=8, epochs_per_round=4"


@pytest.fixture
def quickstart() -> str:
    return re.split(r"```python\n|```\n", README.partition("## Quickstart")[2])[1]


def printed(code: str, capsys) -> dict[str, float]:
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_the_quickstart_has_15_lines_and_imports_what_the_package_brings(quickstart):
    assert len([line for line in quickstart.splitlines() if line.strip()]) <= 15
    imported = {
        node.module.split(".")[0] for node in ast.walk(ast.parse(quickstart)) if isinstance(node, ast.ImportFrom)
    }
    assert imported == {"accelerate", "aws_lottery", "torch"}


def test_the_quickstart_runs(quickstart, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert FULL in quickstart
    accuracies = printed(quickstart.replace(FULL, "rounds=1, warmup_epochs=1, epochs_per_round=1"), capsys)
    assert list(accuracies) == ["with signs", "mask alone"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_quickstart_shows_what_the_readme_says(quickstart, capsys):
    accuracies = printed(quickstart, capsys)
    assert accuracies["with signs"] > 70
    assert accuracies["mask alone"] < 30
