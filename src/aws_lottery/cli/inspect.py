"""Show a mask: its layers, origin and size.

The mask is in a folder or on the Hub. `remaining` is the share of a layer's weights that are not pruned, `+` the share
of +1 among them. A layer in brackets has signs but is not pruned.

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

MAP_ROWS = 8  # height of a layer's map, in lines


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_argument("mask", help="folder, or id on the Hub")
    parser.add_argument("--revision", metavar="NAME", help="commit, tag or branch on the Hub")
    parser.add_argument("--map", action="store_true", help="print a map of each layer; darker means more weights left")
    parser.add_argument("--png", metavar="FILE", help="write a picture: + is red, - is blue, pruned is white")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, for programs")
    return parser


def run(args: argparse.Namespace) -> None:
    if args.png:
        require_plots()
    folder, mask = opened(args.mask, args.revision)
    if args.json:
        print(json_text(mask, folder))
    else:
        print(text(mask, args.mask, folder))
        if args.map:
            print("\n" + "\n\n".join(_map(mask, row) for row in mask.table() if row.prunable))
    if args.png:
        draw(mask, args.png, f"{args.mask}\n{mask.remaining:.4f} remaining")
        if not args.json:
            print(f"\n{args.png}: a map of each layer; + is red, - is blue, pruned is white")


def opened(source: str, revision: str | None) -> tuple[Path, SignedMask]:
    """The folder of a mask, which for a mask on the Hub is in the cache, and the mask."""
    files = (CONFIG_FILE, MASK_FILE)
    folder = Path(source) if hub.is_folder(source) else hub.fetch(source, files, revision=revision)
    return folder, SignedMask.from_pretrained(folder)


def text(mask: SignedMask, name: str, folder: Path) -> str:
    rows = mask.table()
    entries = {**_figures(mask, rows), **_origin(mask), **_files(mask, folder)}
    longest = max(map(len, entries))
    lines = [hanging(f"{label:<{longest}}  ", value) for label, value in entries.items()]
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
        "2:4": f"{fitting} of {len(mask.prunable)} prunable layers fit (--json lists the reasons for the others)",
    }


def _origin(mask: SignedMask) -> dict[str, str]:
    entries: dict[str, str] = {}
    if mask.config:
        search = mask.config
        entries["network"] = search.architecture or "not recorded"
        entries["search"] = f"{search.method}, protocol {search.protocol}, {search.rounds} rounds, seed {search.seed}"
    if mask.provenance:
        fields: Mapping[str, Any] = vars(mask.provenance)
        names = ("dataset", "date", "hardware", "software", "commit", "command", "license")
        entries |= {name: str(fields[name]) for name in names if fields[name]}
    for result in mask.results:
        entries[result.condition] = f"{mean_std_text(result.values)} {result.metric} on {result.dataset}"
    return entries


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
