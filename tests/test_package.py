"""The package as a whole: what it exports, what it costs to import, what it says of itself."""

import re
import runpy
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import aws_lottery

ROOT = Path(__file__).parent.parent


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout


def test_every_exported_name_is_there():
    assert aws_lottery.__all__ == sorted(aws_lottery.__all__)
    for name in aws_lottery.__all__:
        assert getattr(aws_lottery, name).__doc__ or name in ("METHODS", "PROTOCOLS"), name
        assert name in dir(aws_lottery)


def test_type_checkers_see_the_same_names():
    source = Path(aws_lottery.__file__).with_suffix(".pyi").read_text()
    assert sorted(re.findall(r"import (\w+) as \1", source)) == aws_lottery.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="AWSPrunr"):
        aws_lottery.AWSPrunr  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    loaded = run("import sys, aws_lottery; print(*sys.modules)").split()
    assert not {"torch", "datasets", "evaluate", "transformers", "accelerate", "sklearn"} & set(loaded)


def test_the_core_does_without_the_data_libraries():
    code = "import sys; from aws_lottery import AWSPruner, SignedMask, prune; print(*sys.modules)"
    assert not {"datasets", "evaluate", "transformers", "sklearn"} & set(run(code).split())


def test_every_source_file_has_its_line_in_the_architecture():
    text = (ROOT / "docs/architecture.md").read_text()
    package = ROOT / "src/aws_lottery"
    missing = [str(f.relative_to(package)) for f in package.rglob("*.py") if f"`{f.relative_to(package)}`" not in text]
    assert missing == []


def test_the_picture_of_the_layers_is_that_of_the_contract():
    picture = runpy.run_path(str(ROOT / "docs/draw_layers.py"))["picture"]()
    assert ">pruner · transfers</text>" in picture
    drawn = (ROOT / "docs/pictures/layers.svg").read_text(encoding="utf-8")
    assert picture == drawn, "draw it anew: python docs/draw_layers.py"


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "CONTRIBUTING.md", ROOT / "README.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_index():
    pages = {
        page.relative_to(ROOT / "docs") for folder in ("docs", "docs/notes") for page in (ROOT / folder).glob("*.md")
    }
    listed = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs/index.md").read_text())
    assert {str(page) for page in pages} - {"index.md"} <= set(listed)


def test_constraints_pin_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[\[><=]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split("\n")
    }
    assert names - pinned == {"aws-lottery"}
