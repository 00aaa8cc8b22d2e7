"""The site: `make docs`. Sphinx reads the pages where they lie, README included, so that links also work on GitHub."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for command_parsers

project = "aws_lottery"
copyright = "the authors of aws_lottery, Apache-2.0"
extensions = [
    "myst_nb",  # MyST, and the notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_argparse_cli",
    "sphinx_copybutton",
]

# The source folder is the checkout (see the Makefile); these are its pages.
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**.md",
    "notebooks/*.ipynb",
    "model_cards/*/*.md",
]
root_doc = "docs/start"
myst_heading_anchors = 3
nb_execution_mode = "off"  # their outputs are in their files; tests/test_notebooks.py runs them

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80  # then a parameter a line
napoleon_use_rtype = False

html_theme = "furo"
html_title = "aws_lottery"
html_static_path, html_css_files = ["static"], ["site.css"]
html_extra_path = ["index.html"]  # from / to the first page

linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]  # made by scripts in the browser


def as_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings as Sphinx reads them: ours have Markdown's `code`, and short ones `Raises:` with its text on the line.

    Runs before napoleon, which makes fields of `Args:`. Examples stay as they are.
    """
    in_example = False
    for index, line in enumerate(lines):
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        if in_example:
            continue
        line = re.sub(r"^(Returns|Raises|Yields): (?=\S)", lambda field: f":{field[1].lower()}: ", line)
        pieces = line.split("`")
        pieces[::2] = [re.sub(r"([\\|*]|_(?=\W|$))", r"\\\1", piece) for piece in pieces[::2]]
        lines[index] = "``".join(pieces)


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_rst, priority=400)
