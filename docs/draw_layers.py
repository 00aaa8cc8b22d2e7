"""The picture of the layers in CONTRIBUTING.md, from the contract in pyproject.toml that lint-imports holds.

python docs/draw_layers.py
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def picture() -> str:
    """Mermaid: a box for each layer; imports go along the arrows, down by any number of boxes."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c.get("containers") == ["aws_lottery"])
    boxes = [f'    layer{i}["{layer.replace(" | ", " &nbsp; ")}"]' for i, layer in enumerate(layers)]
    arrows = "    " + " --> ".join(f"layer{i}" for i in range(len(layers)))
    return "\n".join(["```mermaid", "flowchart TD", *boxes, arrows, "```"])


if __name__ == "__main__":
    page = ROOT / "CONTRIBUTING.md"
    page.write_text(PICTURE.sub(lambda match: picture(), page.read_text()))
