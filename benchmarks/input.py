"""Images a second from both ways to load data, beside the training step that they feed.

    python benchmarks/input.py FOLDER --device cpu

Interleaved: each round loads so many batches by each way, and makes as many steps of a ResNet-20 on random images
and on those of each way; medians over the rounds. "time of a step" is relative to random images: 1.00 is no delay.
Measured, CIFAR-10 (32 x 32 JPEGs), one thread and two workers on two shared cores of an AMD EPYC: decoded once 32,700
images/s, streamed 2,500, training 135; a step takes 0.94 and 1.02 of its time on random images (noise: 0.1).
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from aws_lottery.data import ImageData, batches, load_data
from aws_lottery.models.cifar_resnet import CifarResNet

FETCHED_AHEAD = 10  # batches at most, by workers while something else ran
Batch = tuple[Tensor, Tensor]


def forever(data: ImageData, batch_size: int) -> Iterator[Batch]:
    loader = batches(data.train, batch_size, seed=0)
    while True:
        yield from loader


def random_batches(data: ImageData, batch_size: int, device: str) -> Iterator[Batch]:
    """The same batch of noise again and again."""
    images = torch.randn(batch_size, 3, data.image_size, data.image_size, device=device)
    labels = torch.randint(data.num_classes, (batch_size,), device=device)
    while True:
        yield images, labels


class Trainer:
    """Plain steps of SGD."""

    def __init__(self, num_classes: int, device: str):
        self.model = CifarResNet(20, num_classes).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)

    def __call__(self, batch: Batch) -> None:
        images, labels = batch
        F.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def seconds(data: Iterable[Batch], use, device: str) -> float:
    """Time of giving all of `data` to `use`."""
    start = time.perf_counter()
    for batch in data:
        use(batch)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(options: argparse.Namespace, cache_dir: str) -> dict[str, list[float]]:
    """What is measured -> images a second, a value a round."""
    ways = {"decoded once": True, "streamed": False}
    data = {
        way: load_data(options.folder, decoded=decoded, workers=options.workers, cache_dir=cache_dir).to(options.device)
        for way, decoded in ways.items()
    }
    some = next(iter(data.values()))
    train = Trainer(some.num_classes, options.device)
    sources = {way: forever(each, options.batch_size) for way, each in data.items()}
    random = random_batches(some, options.batch_size, options.device)
    runs = {("load", way): (source, lambda batch: None) for way, source in sources.items()}
    runs |= {("train", way): (source, train) for way, source in {"random": random, **sources}.items()}
    rates = {" ".join(run): [] for run in runs}
    for turn in range(options.rounds + 1):
        for run, (source, use) in runs.items():
            if "load" in run:
                deque(itertools.islice(source, FETCHED_AHEAD), maxlen=0)
            taken = seconds(itertools.islice(source, options.batches), use, options.device)
            if turn:  # the first warms up
                rates[" ".join(run)].append(options.batches * options.batch_size / taken)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a data set of small images, or its id on the Hub")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=10, help="a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="that decode what is streamed")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as cache_dir:
        rates = {what: statistics.median(values) for what, values in measure(options, cache_dir).items()}
    print(f"{'':20} images/s  time of a step")
    for what, rate in rates.items():
        ratio = f"{rates['train random'] / rate:8.2f}" if what.startswith("train") else ""
        print(f"{what:20} {rate:8.0f}  {ratio}")


if __name__ == "__main__":
    main()
