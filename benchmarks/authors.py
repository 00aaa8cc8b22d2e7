"""Training as the paper's released code does it, beside ours: images a second, data included.

    python benchmarks/authors.py --device cuda
    python benchmarks/authors.py --model resnet20 --batch_size 32 --steps 2      # a CPU

The released code is not used here; its way is written anew from its description: float32; weight * mask inside every
forward of a convolution or linear layer but the classifier; normalization layers whose forward, in Python, takes
alpha * (scale, bias) + (1 - alpha) * (1, 0); images cropped and flipped one by one, by workers of a DataLoader. Ours
has the images on the device and augments whole batches there. All ways run in turn, round after round, with the same
optimizer, on the same random images with CIFAR's augmentation; ratios are to `plain`, the dense float32 step with the
data on the device, in the same round. What workers got ready while another way ran is thrown away first. A GPU
multiplies float32 convolutions in TF32, as torch does unless told otherwise. --smoke: a minute or two of
compiling, no meaning.
"""

import argparse
import copy
import random
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from step import DTYPES, Batch, Stepper, interleaved, ours, tell
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from aws_lottery.data import batches
from aws_lottery.data.augment import Augmentation
from aws_lottery.data.splits import DecodedSplit
from aws_lottery.models import create_model

IMAGES, CLASSES, PADDING, REMAINING = 10_000, 100, 4, 0.134
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


class MaskedConv2d(nn.Conv2d):
    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class MaskedLinear(nn.Linear):
    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MixedBatchNorm2d(nn.BatchNorm2d):
    alpha = 1.0

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * self.alpha + (1 - self.alpha)
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            scale,
            self.bias * self.alpha,
            self.training,
            self.momentum,
            self.eps,
        )


MASKED = {nn.Conv2d: MaskedConv2d, nn.Linear: MaskedLinear}


def theirs(model: nn.Module) -> nn.Module:
    """Make a network of ours one of theirs, in place, with random masks."""
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    for module in model.modules():
        if type(module) in MASKED and module is not classifier:
            module.__class__ = MASKED[type(module)]
            module.register_buffer("mask", (torch.rand_like(module.weight) < REMAINING).float())
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = MixedBatchNorm2d
    model.register_forward_pre_hook(draw_alpha)
    return model


def draw_alpha(model: nn.Module, args: tuple) -> None:
    alpha = random.random()
    for module in model.modules():
        if isinstance(module, MixedBatchNorm2d):
            module.alpha = alpha


class OneByOne(Dataset):
    """An image at a time through PIL: RandomCrop with padding, a flip, to a normalized tensor."""

    def __init__(self, images: np.ndarray, labels: Tensor):
        self.images, self.labels = images, labels
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.images[index])
        left, top = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
        image = ImageOps.expand(image, PADDING).crop((left, top, left + image.width, top + image.height))
        image = ImageOps.mirror(image) if random.random() < 0.5 else image
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return (pixels - self.mean) / self.std, self.labels[index]


def from_workers(images: np.ndarray, labels: Tensor, options: argparse.Namespace) -> Iterator[Batch]:
    """Without the pause that an epoch's end is to workers."""
    data = OneByOne(images, labels)
    order = RandomSampler(data, replacement=True, num_samples=2**40)
    pinned = options.device == "cuda"
    return iter(DataLoader(data, options.batch_size, sampler=order, num_workers=options.workers, pin_memory=pinned))


def on_device(images: np.ndarray, labels: Tensor, options: argparse.Namespace) -> Iterator[Batch]:
    split = DecodedSplit(
        split="train",
        labels=labels,
        augmentation=Augmentation(size=options.image_size, padding=PADDING),
        mean=MEAN,
        std=STD,
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
    ).to(options.device)
    loader = batches(split, options.batch_size, seed=0)
    while True:
        yield from loader


def steppers_for(options: argparse.Namespace) -> dict[str, Stepper]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, options.image_size, options.image_size, 3), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(0, CLASSES, IMAGES))
    base = create_model(options.model, CLASSES, image_size=options.image_size).to(options.device)
    workers = {"batches": from_workers(images, labels, options), "ahead": 2 * options.workers}
    device = {"batches": on_device(images, labels, options)}
    quick = {**device, "dtype": options.dtype, "channels_last": True, "compiled": True}
    how = f"compiled, {options.dtype}, channels_last"
    ways = {
        "plain": (copy.deepcopy, device),
        "authors' way": (lambda model: theirs(copy.deepcopy(model)), workers),
        "authors' step, data on the device": (lambda model: theirs(copy.deepcopy(model)), device),
        "AWS": (lambda model: ours(copy.deepcopy(model)), device),
        f"AWS, {how}": (lambda model: ours(copy.deepcopy(model)), quick),
        f"plain, {how}": (copy.deepcopy, quick),
    }
    return {name: Stepper(make(base), device=options.device, **given) for name, (make, given) in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="resnet50", help="a network of aws_lottery.create_model with BatchNorm")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="timed together")
    parser.add_argument("--workers", type=int, default=4, help="of the authors' DataLoader")
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="of the compiled ways; bf16 on a GPU, else fp32")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    options.dtype = options.dtype or ("bf16" if options.device == "cuda" else "fp32")
    if options.smoke:
        options.model, options.batch_size, options.rounds, options.steps, options.workers = "resnet8", 8, 1, 1, 1
    torch.manual_seed(0)
    random.seed(0)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    what = f"{options.model}, {options.image_size} px, batch {options.batch_size}"
    print(f"{what}, {options.device}, {where}, {options.workers} workers, torch {torch.__version__}")
    tell(interleaved(steppers_for(options), rounds=options.rounds, steps=options.steps), options.batch_size)


if __name__ == "__main__":
    main()
