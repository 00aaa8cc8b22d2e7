"""Fetch a mask from the Hub into a folder.

Nothing is written unless the mask is whole. The command prints the commit; `--revision COMMIT` fetches the same again.

Examples:
    aws-lottery pull org/resnet50-aws-0.14
    aws-lottery pull org/resnet50-aws-0.14 --revision v1 --output_dir masks/resnet50
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..atomic import make_folder, replace_file
from ..mask import SignedMask
from ..mask_file import hub
from ..mask_file.pretrained import CARD_FILE, CONFIG_FILE, MASK_FILE
from .parser import CommandParser

FILES = (CONFIG_FILE, MASK_FILE, CARD_FILE)


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_argument("repo", help="id on the Hub")
    parser.add_argument("--revision", metavar="NAME", help="commit, tag or branch (default: main)")
    parser.add_argument("--output_dir", metavar="FOLDER", help="(default: the repository's name)")
    return parser


def run(args: argparse.Namespace) -> None:
    if Path(args.repo).is_dir():
        raise ValueError(f"'{args.repo}' is a folder here; a mask is pulled from a repository on the Hub (owner/name)")
    cached = hub.fetch(args.repo, FILES, revision=args.revision)
    mask = SignedMask.from_pretrained(cached)  # raises for what is not whole, before anything is written
    folder = Path(args.output_dir or args.repo.rpartition("/")[2])
    make_folder(folder)
    for name in FILES:
        replace_file(folder / name, (cached / name).read_bytes())
    print(f"{folder}: {mask!r}\ncommit {cached.name}")
