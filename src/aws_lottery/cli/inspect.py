"""Show a mask: its layers, origin and size.

The mask is in a folder or on the Hub. `remaining` is the share of a layer's weights that are not pruned, `+` the share
of +1 among them. A layer in brackets has signs but is not pruned.

Examples:
    aws-lottery inspect runs/aws/round-09
    aws-lottery inspect org/resnet50-aws-0.14 --revision v1 --map
    aws-lottery inspect runs/aws/round-09 --png mask.png
    aws-lottery inspect runs/aws/round-09 --web
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..formats.semi_structured import misfits
from ..mask import SignedMask
from ..mask_file import hub
from ..mask_file.pretrained import CONFIG_FILE, MASK_FILE
from ..mask_file.provenance import LayerRow
from ..overview import overview
from ..strict_json import to_json
from ..summaries import shape_text, share_text
from .parser import CommandParser
from .picture import draw, require_plots
from .terminal import bar, hanging, shaded, table, width

MAP_ROWS = 8  # height of a layer's map, in lines


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_argument("mask", help="folder, or id on the Hub")
    parser.add_argument("--revision", metavar="NAME", help="commit, tag or branch on the Hub")
    parser.add_argument("--map", action="store_true", help="print a map of each layer; darker means more weights left")
    parser.add_argument("--png", metavar="FILE", help="write a picture: + is red, - is blue, pruned is white")
    parser.add_argument("--web", action="store_true", help="show it in the browser, beside other masks, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, for programs")
    return parser


def run(args: argparse.Namespace) -> None:
    if args.png:
        require_plots()
    if args.web:
        show_in_browser(args.mask, args.revision)
        return
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


def show_in_browser(source: str, revision: str | None) -> None:
    """Raises: ModuleNotFoundError that says what to install; as `opened` for a mask that can't be read."""
    try:
        from ..web.page import serve
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"--web needs {error.name}: pip install 'aws-lottery[web]'") from error
    from ..web.sources import local

    opened(source, revision)
    serve(local(), chosen=source, revision=revision, in_browser=True)


def opened(source: str, revision: str | None) -> tuple[Path, SignedMask]:
    """The folder of a mask, which for a mask on the Hub is in the cache, and the mask."""
    files = (CONFIG_FILE, MASK_FILE)
    folder = Path(source) if hub.is_folder(source) else hub.fetch(source, files, revision=revision)
    return folder, SignedMask.from_pretrained(folder)


def text(mask: SignedMask, name: str, folder: Path) -> str:
    rows, entries = mask.table(), overview(mask, folder)
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


def _cells(row: LayerRow) -> tuple[str, ...]:
    name = row.name.removesuffix(".weight") if row.prunable else f"({row.name})"
    return (
        name,
        shape_text(row.shape),
        f"{row.weights:,}",
        share_text(row.remaining),
        bar(row.remaining),
        share_text(row.positive),
    )


def _map(mask: SignedMask, row: LayerRow) -> str:
    lines = shaded(mask[row.name], MAP_ROWS, width() - 3)
    frame = "─" * len(lines[0])
    return "\n".join(
        [f"{row.name}  {share_text(row.remaining)}", f"┌{frame}┐", *(f"│{line}│" for line in lines), f"└{frame}┘"]
    )
