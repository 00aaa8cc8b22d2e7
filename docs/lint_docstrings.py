"""pydoclint on the modules that public names come from: docstrings and signatures have the same arguments and results.

`make check` runs it in an environment of its own, as pydoclint brings another package under the name of
docstring_parser, which this project needs. The options are in pyproject.toml.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "aws_lottery"
BASES = ["mask_file/shareable.py"]  # modules of base classes whose methods are public


def public_modules() -> list[Path]:
    """The files and folders that `__init__.pyi` takes the public names from, and those of their base classes."""
    names = re.findall(r"^from \.([\w.]+) import", (PACKAGE / "__init__.pyi").read_text("utf-8"), re.MULTILINE)
    paths = {PACKAGE.joinpath(*name.split(".")) for name in names}
    modules = {path if path.is_dir() else path.with_suffix(".py") for path in paths}
    return sorted(modules | {PACKAGE / base for base in BASES})


if __name__ == "__main__":
    config = ["--quiet", "--config", str(ROOT / "pyproject.toml")]
    sys.exit(subprocess.run([sys.executable, "-m", "pydoclint.main", *config, *public_modules()]).returncode)
