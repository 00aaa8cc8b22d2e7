"""What is gained by training k networks of one architecture as one, over training them one after the other.

    python benchmarks/together.py --threads 1 --package
    python benchmarks/together.py --networks perceptron --counts 8 32 --rounds 15
    python benchmarks/together.py --device cuda

Every network has its own initialization, mask and data order: batches of 64, SGD with momentum and weight decay,
gradients times masks, BatchNorm in training mode. First, in float64, k networks that are trained together are compared
with the same networks trained one by one. Then all ways train in turn, round after round; the figures are the seconds
of a step of one network over the seconds of a step together for each network in it: median and quartiles of the
rounds. Where a way compiles, the seconds of its first step follow, by the clock on the wall, with nothing from a cache.
Else, on one CPU thread, the clock is that of the process, so that other work on the machine counts less.

`fused SGD` and `compiled` (with fused SGD, as all ways but the plain one have) are one network by itself; `vmap` is
torch.func; `grouped` makes one network of k, with batched matrix products, grouped convolutions and BatchNorm over the
channels of all. `bound` is for a step that does its multiplications alone, at the rate of a large matrix product.

--package: `train_many` of the package beside its `train`, for perceptrons that are held to masks.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch._inductor import config as inductor
from torch.utils.flop_counter import FlopCounterMode
from ways_together import BATCH, NETWORKS, PLAIN, WAYS, Data, OneByOne, Trainer, largest_difference, masks_of

from aws_lottery import Hold, TrainingConfig, train, train_many
from aws_lottery.data import Images
from aws_lottery.models.perceptron import fresh_perceptron

SECONDS = 0.1  # of a way in a round, about


class Clock:
    """Seconds on the device; on one CPU thread, of the process alone."""

    def __init__(self, device: str):
        self.device = device
        alone = device == "cpu" and torch.get_num_threads() == 1
        self.now = time.process_time if alone else time.perf_counter

    def time(self, work: Callable[[], Any]) -> float:
        self._wait()
        start = self.now()
        work()
        self._wait()
        return self.now() - start

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def product_rate(clock: Clock) -> float:
    """FLOP a second of a large matrix product."""
    a = torch.randn(1024, 1024, device=clock.device)
    return 5 * 2 * 1024**3 / clock.time(lambda: [a @ a for _ in range(5)])


def flops_of_step(trainer: Trainer) -> int:
    with FlopCounterMode(display=False) as counter:
        trainer.train(1)
    return counter.get_total_flops()


@dataclass(frozen=True)
class Measured:
    """Of a network and a k; lists have a value a round.

    Args:
        seconds: way -> of a step, for each network in it.
        first: way -> seconds of its first step by the clock on the wall, as other processes compile.
        bound: what the ratio would be if there were multiplications alone.
    """

    seconds: dict[str, list[float]]
    first: dict[str, float]
    bound: list[float]

    def ratios(self, name: str) -> list[float]:
        return [plain / value for plain, value in zip(self.seconds[PLAIN], self.seconds[name], strict=True)]


def _wall_seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(
    network: str, k: int, ways: Sequence[str], *, rounds: int, device: str = "cpu", mode: str = "default"
) -> Measured:
    """Args:
    ways: PLAIN among them.
    """
    torch.compiler.reset()  # it compiles a function for eight networks, and no more
    fresh, image = NETWORKS[network]
    clock, data = Clock(device), Data(image, k, device, torch.float32)
    trainers = {
        name: Trainer(WAYS[name], [fresh(seed).to(device) for seed in range(k)], data, mode=mode) for name in ways
    }
    first = {name: _wall_seconds(partial(trainer.train, 1)) for name, trainer in trainers.items()}
    for trainer in trainers.values():
        trainer.train(2)
    steps = {name: max(1, round(SECONDS / clock.time(partial(trainer.train, 1)))) for name, trainer in trainers.items()}
    flops, bound = flops_of_step(trainers[PLAIN]), []
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            seconds[name].append(clock.time(partial(trainer.train, steps[name])) / steps[name] / trainer.k)
        bound.append(seconds[PLAIN][-1] * product_rate(clock) / flops)
    return Measured(seconds, first, bound)


def with_quartiles(values: Sequence[float]) -> str:
    low, high = sorted(values)[len(values) // 4], sorted(values)[-1 - len(values) // 4]
    return f"{statistics.median(values):.2f} ({low:.2f}-{high:.2f})"


def row(network: str, k: int, measured: Measured) -> str:
    cells = [network, str(k), f"{1e3 * statistics.median(measured.seconds[PLAIN]):.2f}"]
    for name in measured.seconds:
        if name != PLAIN:
            compiling = f", {measured.first[name]:.0f} s" if WAYS[name].compiled else ""
            cells.append(with_quartiles(measured.ratios(name)) + compiling)
    return table_line([*cells, f"{statistics.median(measured.bound):.1f}"])


def table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def check(network: str, ways: Sequence[str]) -> None:
    """Raises: SystemExit if networks that are trained together are not what they are if trained alone."""
    for name in ways:
        difference = largest_difference(WAYS[name], *NETWORKS[network], k=3, steps=5)
        if difference > 1e-9:
            raise SystemExit(f"{network}, {name}: differs by {difference:.1e} from trainings one by one")


def package_row(k: int, *, rounds: int, device: str) -> str:
    """`train` of one perceptron that is held to a mask, and `train_many` of k of them, an epoch each."""
    data, accelerator = Data((1, 8, 8), 1, device, torch.float32), Accelerator(cpu=device == "cpu")
    images, config, clock = Images(data.images, data.labels), TrainingConfig(epochs=1, batch_size=BATCH), Clock(device)
    networks = [fresh_perceptron(seed).to(device) for seed in range(k)]
    for seed, network in enumerate(networks):
        Hold(network, {name: mask.bool() for name, mask in masks_of(network, seed).items()})
    alone = partial(train, networks[0], images, config, accelerator=accelerator, seed=0)
    at_once = partial(train_many, networks, images, config, accelerator=accelerator, seeds=range(k))
    times = [(clock.time(alone), clock.time(at_once) / k) for _ in range(rounds + 1)][1:]
    step = statistics.median(one for one, _ in times) / len(data.orders)
    return table_line([str(k), f"{1e3 * step:.2f}", with_quartiles([one / many for one, many in times])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32], help="k")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mode", default="default", help="of torch.compile")
    parser.add_argument("--package", action="store_true", help="`train` and `train_many` of the package as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    inductor.force_disable_caches = True  # so that the seconds of compiling are all of them
    ways = [PLAIN, *(name for name in options.ways if name != PLAIN)]
    print(f"{options.device}, {options.threads} threads, torch {torch.__version__}, {options.rounds} rounds\n")
    print(table_line(["network", "k", "ms a step", *ways[1:], "bound"]))
    print(table_line(["---"] * (len(ways) + 3)))
    for network in options.networks:
        check(network, [name for name in ways if WAYS[name].build is not OneByOne])
        for k in options.counts:
            measured = measure(network, k, ways, rounds=options.rounds, device=options.device, mode=options.mode)
            print(row(network, k, measured), flush=True)
    if options.package:
        print("\n" + table_line(["k", "`train`, ms a step", "`train_many`"]) + "\n" + table_line(["---"] * 3))
        for k in options.counts:
            print(package_row(k, rounds=options.rounds, device=options.device), flush=True)


if __name__ == "__main__":
    main()
