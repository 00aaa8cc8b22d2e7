"""Show a mask: its layers, origin and size.

The mask is in a folder or on the Hub. `remaining` is the share of a layer's weights that are left, `+` the share of +1
among those; layers in brackets are signed but not pruned.

Examples:
    aws-lottery inspect runs/aws/round-09
    aws-lottery inspect org/resnet50-aws-0.14 --revision v1 --map
    aws-lottery inspect runs/aws/round-09 --png mask.png
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..formats.semi_structured import misfits
from ..mask import SignedMask
from ..mask_file import hub
from ..mask_file.pretrained import CONFIG_FILE, MASK_FILE
from ..mask_file.provenance import LayerRow
from ..strict_json import to_json
from ..summaries import mean_std_text
from .parser import CommandParser
from .picture import draw, require_plots
from .terminal import bar, hanging, shaded, shape_text, share, table, width

MAP_ROWS = 8  # lines of a layer's map


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_argument("mask", help="folder, or id on the Hub")
    parser.add_argument("--revision", metavar="NAME", help="commit, tag or branch on the Hub")
    parser.add_argument("--map", action="store_true", help="a map of each layer: the darker, the more is left")
    parser.add_argument("--png", metavar="FILE", help="write a picture: + red, - blue, pruned white")
    parser.add_argument("--json", action="store_true", help="all of it as JSON, for programs")
    return parser


def run(given: argparse.Namespace) -> None:
    if given.png:
        require_plots()
    folder, mask = opened(given.mask, given.revision)
    if given.json:
        print(json_text(mask, folder))
    else:
        print(text(mask, given.mask, folder))
        if given.map:
            print("\n" + "\n\n".join(_map(mask, row) for row in mask.table() if row.prunable))
    if given.png:
        draw(mask, given.png, f"{given.mask}\n{mask.remaining:.4f} remaining")
        if not given.json:
            print(f"\n{given.png}: a map of each layer, + red, - blue, pruned white")


def opened(source: str, revision: str | None) -> tuple[Path, SignedMask]:
    """The folder of a mask, in the cache of the Hub if it is from there, and the mask."""
    files = (CONFIG_FILE, MASK_FILE)
    folder = Path(source) if hub.is_folder(source) else hub.fetch(source, files, revision=revision)
    return folder, SignedMask.from_pretrained(folder)


def text(mask: SignedMask, name: str, folder: Path) -> str:
    rows = mask.table()
    facts = {**_figures(mask, rows), **_origin(mask), **_files(mask, folder)}
    longest = max(map(len, facts))
    lines = [hanging(f"{what:<{longest}}  ", value) for what, value in facts.items()]
    header = ("layer", "shape", "weights", "remaining", "", "+")
    return "\n".join([name, *lines, "", table(header, [_cells(row) for row in rows])])


def json_text(mask: SignedMask, folder: Path) -> str:
    """Everything that is shown, under the names of the classes that hold it."""
    values = {
        "remaining": mask.remaining,
        "remaining_total": mask.remaining_total,
        "parameters": mask.parameters,
        "signed": mask.signed,
        "config": mask.config.to_dict() if mask.config else None,
        "provenance": vars(mask.provenance) if mask.provenance else None,
        "results": [vars(result) for result in mask.results],
        "bytes": (folder / MASK_FILE).stat().st_size,
        "layers": [row._asdict() for row in mask.table()],
        "not_semi_structured": misfits(mask),
    }
    return to_json(values, indent=2)


def _figures(mask: SignedMask, rows: Sequence[LayerRow]) -> dict[str, str]:
    weights = sum(row.weights for row in rows if row.prunable)
    left = sum(round(row.remaining * row.weights) for row in rows if row.prunable)
    up = sum(int((mask[row.name] > 0).sum()) for row in rows if row.prunable)
    fitting = len(mask.prunable) - len(misfits(mask))
    return {
        "remaining": f"{share(mask.remaining)} of {weights:,} prunable weights, {left:,} survivors",
        "in all": f"{share(mask.remaining_total)} of {mask.parameters:,} parameters",
        "signs": f"{share(up / left if left else float('nan'))} of the survivors are +" if mask.signed else "none",
        "2:4": f"{fitting} of {len(mask.prunable)} prunable layers fit (--json says why not)",
    }


def _origin(mask: SignedMask) -> dict[str, str]:
    facts: dict[str, str] = {}
    if mask.config:
        search = mask.config
        facts["network"] = search.architecture or "not told"
        facts["search"] = f"{search.method}, protocol {search.protocol}, {search.rounds} rounds, seed {search.seed}"
    if mask.provenance:
        told: Mapping[str, Any] = vars(mask.provenance)
        names = ("dataset", "date", "hardware", "software", "commit", "command", "license")
        facts |= {name: str(told[name]) for name in names if told[name]}
    for result in mask.results:
        facts[result.condition] = f"{mean_std_text(result.values)} {result.metric} on {result.dataset}"
    return facts


def _files(mask: SignedMask, folder: Path) -> dict[str, str]:
    size, places = (folder / MASK_FILE).stat().st_size, sum(value.numel() for value in mask.values())
    others = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != MASK_FILE}
    sizes = "".join(f"; {name} {bytes_:,}" for name, bytes_ in others.items() if name.endswith(".safetensors"))
    return {"size": f"{size:,} bytes, {8 * size / places:.3f} bits a weight{sizes}"}


def _cells(row: LayerRow) -> tuple[str, ...]:
    name = row.name.removesuffix(".weight") if row.prunable else f"({row.name})"
    return (
        name,
        shape_text(row.shape),
        f"{row.weights:,}",
        share(row.remaining),
        bar(row.remaining),
        share(row.positive),
    )


def _map(mask: SignedMask, row: LayerRow) -> str:
    lines = shaded(mask[row.name], MAP_ROWS, width() - 3)
    frame = "─" * len(lines[0])
    return "\n".join(
        [f"{row.name}  {share(row.remaining)}", f"┌{frame}┐", *(f"│{line}│" for line in lines), f"└{frame}┘"]
    )
