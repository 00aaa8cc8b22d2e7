"""Write a sparse network in the form of another tool.

The weights are those that the search left in the mask's folder, or those of --weights, times the mask. The forms:

    weights      the state_dict of theta * m, in safetensors
    torch-prune  the state_dict of a model under torch.nn.utils.prune, in safetensors
    bitmask      the sparse-bitmask form of compressed-tensors, in safetensors
    csr          a folder of SciPy's .npz: compressed sparse rows, layer by layer
    onnx         the network itself

Examples:
    aws-lottery export runs/aws/round-09 sparse.safetensors
    aws-lottery export runs/aws/round-09 matrices --form csr
    aws-lottery export org/resnet50-aws-0.14 model.onnx --form onnx \\
        --weights runs/final/model.safetensors --image_size 224
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..atomic import make_folder, replace_file
from ..formats.bitmask import to_bitmask
from ..formats.csr import to_csr
from ..formats.onnx import require_onnx, to_onnx
from ..formats.torch_prune import pruned_state_dict
from ..mask import SignedMask
from ..mask_file.sparse_weights import load_state_file, load_weights
from ..models import ARCHITECTURES, create_model, options_under
from .options import network_name
from .parser import CommandParser, choice

Weights = Mapping[str, Tensor]


def parser(argv: Sequence[str] | None) -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_argument("mask", help="folder, or id on the Hub")
    parser.add_argument("output", help="file to write; for csr a folder")
    parser.add_argument("--form", default="weights", **choice(FORMS, "of the output", "weights"))
    parser.add_argument("--revision", metavar="NAME", help="of the mask on the Hub")
    parser.add_argument("--weights", metavar="FILE", help="safetensors, such as model.safetensors of `train`")
    group = parser.add_argument_group("for onnx")
    group.add_argument("--model", **choice(ARCHITECTURES, "a network of create_model", "the mask's"))
    group.add_argument("--image_size", type=int, default=32, metavar="N", help="pixels a side (default: 32)")
    return parser


def run(args: argparse.Namespace) -> None:
    if args.form == "onnx":
        require_onnx()
    mask = SignedMask.from_pretrained(args.mask, revision=args.revision)
    FORMS[args.form](_weights(mask, args), mask, args)
    path = Path(args.output)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    print(f"{path}: {mask.remaining:.4f} remaining, {sum(file.stat().st_size for file in files):,} bytes")


def _weights(mask: SignedMask, args: argparse.Namespace) -> dict[str, Tensor]:
    """theta * m, with buffers. Raises: FileNotFoundError; ValueError if they are not of the mask's network."""
    if args.weights is None:
        return load_weights(args.mask, mask)
    weights = load_state_file(args.weights)
    for name, shape in mask.shapes.items():
        if name not in weights or weights[name].shape != shape:
            found = f"has shape {tuple(weights[name].shape)}" if name in weights else "is missing"
            raise ValueError(
                f"'{args.weights}' is not of the mask's network: {name} {found}, "
                f"the mask expects {shape}; give the weights of that network"
            )
    return weights | {name: weights[name] * (mask[name] != 0) for name in mask.prunable}


def _save(tensors: Weights, args: argparse.Namespace) -> None:
    path = Path(args.output)
    make_folder(path.parent)
    replace_file(path, safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()}))


def _csr(weights: Weights, mask: SignedMask, args: argparse.Namespace) -> None:
    from scipy.sparse import save_npz

    folder = Path(args.output)
    make_folder(folder)
    for name, matrix in to_csr(weights, mask.prunable).items():
        save_npz(folder / f"{name}.npz", matrix)


def _onnx(weights: Weights, mask: SignedMask, args: argparse.Namespace) -> None:
    name = network_name(args, mask.config.architecture if mask.config else None, args.mask)
    classes = [*mask.shapes.values()][-1][0]  # of the classifier's bias, or its weight
    options = options_under(name, mask.config.protocol) if mask.config else {}
    model = create_model(name, classes, image_size=args.image_size, **options)
    model.load_state_dict(dict(weights))
    make_folder(Path(args.output).parent)
    to_onnx(model, args.output, torch.zeros(2, 3, args.image_size, args.image_size))


FORMS: dict[str, Callable[[Weights, SignedMask, argparse.Namespace], None]] = {
    "weights": lambda weights, mask, args: _save(weights, args),
    "torch-prune": lambda weights, mask, args: _save(pruned_state_dict(weights, mask), args),
    "bitmask": lambda weights, mask, args: _save(to_bitmask(weights, mask.prunable), args),
    "csr": _csr,
    "onnx": _onnx,
}
