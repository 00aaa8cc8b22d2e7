"""A search beside the same search by the authors' released code: masks, signs and weights, entry by entry.

    git clone https://github.com/JungHunOh/AWS_ICLR2025 CHECKOUT; pip install torchvision einops
    python benchmarks/released_code.py CHECKOUT --network mobilenetv2
    python benchmarks/released_code.py CHECKOUT --network resnet50 --size 8 --their_rounding
    python benchmarks/released_code.py CHECKOUT --network mlp_mixer --size 224 --images 20 --batch_size 8 \\
        --optimizer adam --learning_rate 0.001 --weight_decay 5e-5

Their training and pruning functions run step by step beside ours, in float64 on a CPU, from the same initial weights,
on the same random images and with the same alphas. A line each stage: what differs, and how far weights are apart.
docs/notes/protocols.md has the figures. --their_rounding computes the interpolation of our side in the order of
theirs, so that it is rounded alike; --without_biases takes out the biases of their ShuffleNet that BatchNorm cancels.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from aws_lottery import AWSPruner, SignedMask, SignedMaskConfig, TrainingConfig
from aws_lottery.data import Images, batches
from aws_lottery.models import create_model, options_under
from aws_lottery.parameters import norm_interpolation
from aws_lottery.training import Training

THEIR_NAMES = {"efficientnet_b0": "efficientnet", "mlp_mixer": "mlpmixer"}  # of networks called otherwise there
NETWORKS = ("efficientnet_b0", "mlp_mixer", "mobilenetv2", "resnet50", "shufflenet")


class ReleasedCode:
    """Their network and their functions, on a CPU."""

    def __init__(self, options: argparse.Namespace):
        sys.path.insert(0, str(options.checkout))
        arguments, sys.argv = sys.argv, ["train.py"]  # train.py reads them when it is imported
        import train  # pyright: ignore[reportMissingImports]

        sys.argv = arguments
        nn.Module.cuda = Tensor.cuda = lambda self, *args, **kwargs: self  # pyright: ignore[reportAttributeAccessIssue]
        train.tqdm = _Silent
        self.code, self.alpha = train, 0.0
        train.random = SimpleNamespace(random=lambda: self.alpha)
        self.options = SimpleNamespace(
            dataset="imagenet" if options.network == "mlp_mixer" else "cifar100",
            arch=THEIR_NAMES.get(options.network, options.network),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            momentum=0.9,
            epochs=100,
            aws=options.method == "aws",
        )
        self.model = train.get_model(self.options).double()
        if options.network == "efficientnet_b0":
            self.model.cfg["dropout_rate"] = 0
        if options.without_biases:
            _without_biases(self.model)

    def begin(self, stage: int) -> None:
        """Prune, but for the warm-up, and make a new optimizer."""
        if stage:
            with contextlib.redirect_stdout(io.StringIO()):
                self.code.prune(self.model, stage, stage)
        self.optimizer, _ = self.code.get_optim(self.options, self.model)

    def learn(self, images: Tensor, labels: Tensor, alpha: float | None) -> None:
        self.alpha = 1 - (alpha or 0.0)  # theirs is 1 minus the paper's
        self.code.train([(images, labels)], self.model, nn.CrossEntropyLoss(), self.optimizer, self.options)

    def parameters(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Each parameter that ours has, too, and its mask."""
        for module in self.model.modules():
            for leaf, parameter in module.named_parameters(recurse=False):
                cancelled = self.options.arch == "shufflenet" and leaf == "bias" and isinstance(module, nn.Conv2d)
                if leaf != "fixed_m" and not cancelled:
                    yield parameter, getattr(module, "fixed_m", None) if leaf == "weight" else None


class _Silent(list):
    """A progress bar that shows nothing."""

    def set_postfix(self, **values: object) -> None:
        pass


def _without_biases(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias, module.use_bias = None, False  # pyright: ignore[reportAttributeAccessIssue]


def in_their_order(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Our parameters; the Mixer's normalization layers are registered after its linear layers there."""

    def place(pair: tuple[str, Tensor]) -> tuple[int, int, bool, bool]:
        part, index, *_ = pair[0].split(".")
        first = ("patches", "blocks", "norm", "classifier").index(part)
        return first, int(index) if part == "blocks" else 0, "channel" in pair[0], "_norm" in pair[0]

    pairs = list(model.named_parameters())
    return sorted(pairs, key=place) if hasattr(model, "patches") else pairs


def laid_out_as(ours: Tensor, theirs: Tensor) -> Tensor:
    """In the Mixer a convolution is a linear layer there, and linear layers are convolutions."""
    if ours.dim() == 4 and theirs.dim() == 2:
        ours = ours.permute(0, 2, 3, 1)
    return ours.reshape(theirs.shape)


def their_interpolation(psi: dict[str, Tensor], psi_init: dict[str, Tensor], alpha: Tensor) -> dict[str, Tensor]:
    share = 1 - float(alpha)
    return {name: share * psi_init[name] + (1 - share) * value for name, value in psi.items()}


@torch.no_grad()
def compared(ours: nn.Module, mask: SignedMask, theirs: ReleasedCode) -> str:
    entries = masks = signs = 0
    distance = norm = 0.0
    for (name, a), (b, m) in zip(in_their_order(ours), theirs.parameters(), strict=True):
        live = b if m is None else b * m
        signs += int((laid_out_as(mask[name], b) != live.sign()).sum()) if name in mask else 0
        if m is not None:
            entries += m.numel()
            masks += int(((laid_out_as(mask[name], b) != 0) != (m != 0)).sum())
        distance += float((laid_out_as(a, b) - live).square().sum())
        norm += float(live.square().sum())
    counts = f"{masks} of {entries:,} mask entries differ, {signs} signs"
    return f"{counts}; distance of the weights left, relative to their norm: {(distance / norm) ** 0.5:.1e}"


@torch.no_grad()
def start_alike(ours: nn.Module, theirs: ReleasedCode) -> None:
    for (_, a), (b, _) in zip(in_their_order(ours), theirs.parameters(), strict=True):
        b.copy_(laid_out_as(a, b))


def search(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    theirs, classes = ReleasedCode(options), 1000 if options.network == "mlp_mixer" else 100
    settings: dict[str, Any] = options_under(options.network, "released-code")
    settings |= {"dropout": 0.0} if options.network == "efficientnet_b0" else {}
    model = create_model(options.network, classes, image_size=options.size, **settings).double()
    start_alike(model, theirs)
    images = torch.randn(options.images, 3, options.size, options.size)
    data = Images(images, torch.randint(classes, (options.images,)))
    training = TrainingConfig(
        schedule="constant",
        **{name: getattr(options, name) for name in ("optimizer", "learning_rate", "weight_decay", "batch_size")},
    )
    config = SignedMaskConfig(method=options.method, protocol="released-code", rounds=options.rounds)
    pruner = AWSPruner(model, config)
    for stage in pruner.rounds():
        theirs.begin(stage.index)
        ours = Training(model, training, Accelerator(cpu=True))
        for epoch in range(options.epochs):
            order = {"seed": 100 * stage.index + epoch, "partial_batch": True}
            for pixels, labels in batches(data, options.batch_size, **order):
                model.train()
                ours.learn(pixels, labels)
                alpha = pruner._alpha.value
                theirs.learn(pixels, labels, None if alpha is None else float(alpha))
        print(f"stage {stage.index}: {compared(model, pruner.signed_mask(), theirs)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of the released code")
    parser.add_argument("--network", choices=NETWORKS, default="mobilenetv2")
    parser.add_argument("--method", choices=("aws", "lrr"), default="aws")
    parser.add_argument("--size", type=int, default=16, help="pixels; the Mixer's is 224")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1, help="of each stage")
    parser.add_argument("--images", type=int, default=44)
    parser.add_argument("--batch_size", type=int, default=18)
    parser.add_argument("--optimizer", choices=("sgd", "adam"), default="sgd", help="adam is theirs for the Mixer")
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--weight_decay", type=float, default=5e-4)
    parser.add_argument("--their_rounding", action="store_true")
    parser.add_argument("--without_biases", action="store_true")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    if options.their_rounding:
        norm_interpolation.interpolate = their_interpolation  # pyright: ignore[reportAttributeAccessIssue]
    search(options)


if __name__ == "__main__":
    main()
