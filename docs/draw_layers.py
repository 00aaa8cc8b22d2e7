"""The picture of the layers in CONTRIBUTING.md, from the contract in pyproject.toml that lint-imports holds.

python docs/draw_layers.py
"""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "pictures" / "layers.svg"
WIDTH, HEIGHT, GAP = 660, 30, 16  # of a box, and between two
LETTER = 6.6  # width of a letter of 11 points, at most
START = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" \
font-family="monospace" font-size="11" role="img" aria-label="The layers of the package">
<rect width="100%" height="100%" fill="white"/>
<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">\
<path d="M0,0 L6,3 L0,6 z" fill="#555"/></marker></defs>
"""


def layers() -> list[list[str]]:
    """The names in each layer of the package, the top layer first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (found,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["aws_lottery"])
    return [layer.split(" | ") for layer in found]


def lines_of(names: list[str]) -> list[str]:
    """The names on as many lines as they take."""
    lines = [""]
    for name in names:
        longer = f"{lines[-1]} · {name}".removeprefix(" · ")
        if len(longer) * LETTER < WIDTH - 20:
            lines[-1] = longer
        else:
            lines.append(name)
    return lines


def picture() -> str:
    """SVG: a box for each layer; imports go along the arrows, down by any number of boxes."""
    parts, top = [], 10
    for index, names in enumerate(layers()):
        lines = lines_of(names)
        height = HEIGHT + 14 * (len(lines) - 1)
        if index:
            parts.append(f'<path d="M{10 + WIDTH / 2:g},{top - GAP} v{GAP - 2}" stroke="#555" marker-end="url(#tip)"/>')
        parts.append(
            f'<rect x="10" y="{top}" width="{WIDTH}" height="{height}" rx="5" fill="#eef2f8" stroke="#8899bb"/>'
        )
        for number, line in enumerate(lines):
            y = top + 19 + 14 * number
            parts.append(f'<text x="{10 + WIDTH / 2:g}" y="{y}" text-anchor="middle" fill="black">{line}</text>')
        top += height + GAP
    return START.format(width=WIDTH + 20, height=top - GAP + 10) + "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
