"""What a masked and interpolated training step costs over the plain dense step of the same network.

    python benchmarks/step.py --model resnet50 --size 64 --batch 32
    python benchmarks/step.py --model resnet20 --size 32 --batch 128

Runs the ways of training in turn, round after round, and prints the median of each way's ratio to the dense step of
its own round. `ours` is AWSPruner at 0.13 remaining; `weight * mask` multiplies in forward, as the authors' code does,
without interpolation. --device cuda, --dtype bf16, --channels_last and --compile as they say.
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from aws_lottery import AWSPruner, SignedMaskConfig
from aws_lottery.models import create_model


class Multiplied(nn.Module):
    """weight * mask, at every use of the weight."""

    def __init__(self, mask: torch.Tensor):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


def ours(model: nn.Module) -> nn.Module:
    """In the last round of a search, held to its mask and interpolated; the model has all that this takes."""
    for stage in AWSPruner(model, SignedMaskConfig(rounds=9)).rounds():
        if stage.index == stage.rounds:
            break
    return model


def multiplied(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            mask = (torch.rand_like(module.weight) < 0.134).to(module.weight.dtype)
            parametrize.register_parametrization(module, "weight", Multiplied(mask))
    return model


WAYS = {"dense": lambda model: model, "ours": ours, "weight * mask": multiplied}


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


Batch = tuple[torch.Tensor, torch.Tensor]


class Stepper:
    """One network with its optimizer, trained on batches that never end."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterator[Batch],
        *,
        device: str,
        dtype: str = "fp32",
        channels_last: bool = False,
        compiled: bool = False,
        ahead: int = 0,
    ):
        """Args:
        ahead: batches that workers may have got ready while something else ran; they are not trained on.
        """
        self.device, self.dtype, self.batches, self.ahead = device, DTYPES[dtype], batches, ahead
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
        self.optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        self.forward = torch.compile(self.model) if compiled else self.model

    def time(self, steps: int) -> float:
        """Seconds a step, over so many."""
        for _ in range(self.ahead):
            next(self.batches)
        self._wait()
        start = time.perf_counter()
        for x, y in itertools.islice(self.batches, steps):
            x, y = x.to(self.device).to(memory_format=self.memory_format), y.to(self.device)
            with torch.autocast(self.device, self.dtype, enabled=self.dtype is not torch.float32):
                out = self.forward(x)
            F.cross_entropy((out if torch.is_tensor(out) else out.logits).float(), y).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self._wait()
        return (time.perf_counter() - start) / steps

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def random_batch(batch_size: int, size: int, device: str) -> Iterator[Batch]:
    """The same batch of noise again and again."""
    x = torch.randn(batch_size, 3, size, size, device=device)
    return itertools.repeat((x, torch.zeros(batch_size, dtype=torch.int64, device=device)))


def interleaved(steppers: Mapping[str, Stepper], *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step, a value a round; all of them in turn, round after round, once they have warmed up."""
    for stepper in steppers.values():
        stepper.time(3)
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(rounds):
        for name, stepper in steppers.items():
            times[name].append(stepper.time(steps))
    return times


def tell(times: Mapping[str, list[float]], batch_size: int) -> None:
    """A line each: medians, and ratios to the first in the same round."""
    first = next(iter(times))
    width = max(map(len, times))
    for name, values in times.items():
        ratios = sorted(value / base for value, base in zip(values, times[first], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
        median = statistics.median(values)
        print(
            f"{name:{width}} {1e3 * median:9.2f} ms/step {batch_size / median:8.0f} images/s   "
            f"{statistics.median(ratios):.3f} of {first} (quartiles {low:.3f}-{high:.3f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help="a network of aws_lottery.create_model")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="timed together")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    small = {} if options.model.startswith(("resnet20", "resnet32")) else {"small_image": False}
    base = create_model(options.model, 1000, image_size=options.size, **small).to(options.device)
    settings = {name: getattr(options, name) for name in ("device", "dtype", "channels_last")}
    settings |= {"compiled": options.compile}
    batches = random_batch(options.batch, options.size, options.device)
    steppers = {name: Stepper(way(copy.deepcopy(base)), batches, **settings) for name, way in WAYS.items()}
    where = f"{options.device}, {torch.get_num_threads()} threads"
    print(f"{options.model}, {options.size} px, batch {options.batch}, {where}")
    tell(interleaved(steppers, rounds=options.rounds, steps=options.steps), options.batch)


if __name__ == "__main__":
    main()
