"""Publish a mask on the Hub, with its card.

The token is that of `hf auth login` or HF_TOKEN. Text that was added to the card on the Hub stays.

Examples:
    aws-lottery push runs/aws/round-09 org/resnet50-aws-0.14
    aws-lottery push runs/aws/round-09 org/resnet50-aws-0.14 --private
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..mask import SignedMask
from .parser import CommandParser, given_options

OF_PUSH = ("private", "branch", "create_pr", "commit_message")


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_argument("folder", help="of the mask")
    parser.add_argument("repo", help="id on the Hub, made if it is not there")
    parser.add_parameters("on the Hub", SignedMask.push_to_hub, OF_PUSH)
    return parser


def run(args: argparse.Namespace) -> None:
    mask = SignedMask.from_pretrained(Path(args.folder))
    print(mask.push_to_hub(args.repo, **given_options(args, OF_PUSH)))
