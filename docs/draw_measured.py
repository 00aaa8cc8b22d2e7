"""Pictures of what was measured, for docs/explanation/pictures.md: from docs/results and the masks that are shipped.

python docs/draw_measured.py
"""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from draw_method import BLUE, GREEN, HERE, MASK, PURPLE, save
from matplotlib.figure import Figure
from torch import nn

from aws_lottery import Barrier, SignedMask, evaluate, recalibrate
from aws_lottery.data import batches, digit_images
from aws_lottery.experiments.results import read_results

STARTS = {"dense": "0.6", "signs": GREEN, "mask": PURPLE, "random-signs": "tab:orange"}
NAMES = ("all weights", "signs", "mask\nalone", "random\nsigns")


def accuracies(results: str, transfer: str) -> tuple[np.ndarray, np.ndarray]:
    """Before and after training, of each initialization, in percent; its first training where there are two."""
    rows = read_results(HERE / "results" / results / "results.jsonl")
    chosen = [r for r in rows if r.kind == "accuracy" and r.transfer == transfer and r.data_seed == r.seed]
    return np.array([row.before for row in chosen]), np.array([row.after for row in chosen])


def before_and_after() -> Figure:
    """The digits: what a fresh network can do with the signs, before and after its training."""
    figure = Figure(figsize=(9, 3.1), layout="constrained")
    for index, axes in enumerate(figure.subplots(1, 2)):
        for place, (transfer, color) in enumerate(STARTS.items()):
            values = accuracies("digits", transfer)[index]
            axes.bar(place, values.mean(), color=color, alpha=0.45)
            axes.plot([place] * len(values), values, "o", color=color, markersize=4)
            axes.text(place, values.max() + 4, f"{values.mean():.1f}", ha="center")
        axes.set(title=("before any training, %", "after training, %")[index], ylim=(0, 112), xticks=range(len(STARTS)))
        axes.set_xticklabels(NAMES)
        axes.axhline(10, color="0.6", linewidth=1, linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def line_to_solution(transfer: str) -> Barrier:
    """The first recorded line of ResNet-8 between the solution of the search and a network trained from a start."""
    rows = read_results(HERE / "results" / "cifar10-resnet8" / "results.jsonl")
    return next(row.barrier for row in rows if row.kind == "lmc" and row.transfer == transfer)


def barrier() -> Figure:
    """Eq. 1 on a line that was measured: the largest error on it, above the mean of its two ends."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    names = {"mask": (PURPLE, "mask alone"), "signs": (GREEN, "signs")}
    for transfer, (color, name) in names.items():
        line = line_to_solution(transfer)
        label = f"trained from fresh weights with the {name}: barrier {line.barrier:.1f}"
        axes.plot(line.alphas, line.errors, "o-", color=color, label=label)
    line = line_to_solution("mask")
    peak, mean = int(np.argmax(line.errors)), sum(line.ends) / 2
    axes.hlines(mean, 0, 1, color="0.5", linestyle="--", label="mean of the two ends")
    top = (line.alphas[peak], line.errors[peak])
    axes.annotate("", xy=top, xytext=(top[0], mean), arrowprops={"arrowstyle": "<->", "color": "0.2"})
    axes.text(top[0] + 0.015, (mean + top[1]) / 2, "the barrier", va="center")
    axes.set(ylim=(20, 90), xticks=(0, 0.5, 1), ylabel="test error, %")
    axes.set_xticklabels(["the search's\nsolution", "half way", "the trained\nnetwork"])
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def layers() -> Figure:
    """What a shipped mask leaves of each layer, and under which sign."""
    mask = SignedMask.from_pretrained(MASK)
    rows = [row for row in mask.table() if row.prunable]
    places = range(len(rows))
    plus = [100 * row.remaining * row.positive for row in rows]
    minus = [100 * row.remaining * (1 - row.positive) for row in rows]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(places, plus, color="#d6604d", label="+")
    axes.bar(places, minus, bottom=plus, color="#4393c3", label="-")
    for place, row in enumerate(rows):
        above = max(row.remaining, mask.remaining)
        axes.text(place, 100 * above + 1, f"{row.weights:,}\nweights", ha="center", fontsize=8, color="0.3")
    axes.axhline(100 * mask.remaining, color="0.3", linestyle=":", label="all layers together")
    axes.set(xticks=places, ylim=(0, 72), ylabel="% of the layer's weights left")
    axes.set_xticklabels([row.name.removesuffix(".weight") for row in rows], fontsize=9)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def perceptron(seed: int) -> nn.Sequential:
    """The network that the mask in model_cards/digits is for."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in [64] + [128] * 7:
        layers += [nn.Linear(inputs, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def with_and_without_statistics(seed: int = 1) -> dict[str, tuple[float, torch.Tensor]]:
    """Of a fresh network with the signs: accuracy in %, and what the first BatchNorm takes in and gives out."""
    data, test, accelerator = digit_images("train"), digit_images("test"), Accelerator(cpu=True)
    fresh = perceptron(seed)
    SignedMask.from_pretrained(MASK.parent / "digits").apply_(fresh)
    measured = {}
    for name in ("as initialized", "re-estimated"):
        if name == "re-estimated":
            recalibrate(fresh, batches(data, 64, seed=0))
        with torch.no_grad():
            out = fresh.eval()[:3](test.tensors[0])
        measured[name] = (evaluate(fresh, test, accelerator=accelerator), out[:, out.std(0) > 0])
    return measured


def batch_norm() -> Figure:
    """What the first BatchNorm gives out under the statistics of the initialization, and under its own."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (name, (accuracy, out)) in zip(
        figure.subplots(1, 2, sharey=True), with_and_without_statistics().items(), strict=True
    ):
        axes.hist(out.flatten().numpy(), bins=np.linspace(-4, 4, 81).tolist(), density=True, color=BLUE, alpha=0.6)
        bell = np.linspace(-4, 4, 200)
        axes.plot(bell, np.exp(-(bell**2) / 2) / np.sqrt(2 * np.pi), color="0.3", label="mean 0, deviation 1")
        axes.set(title=f"statistics {name}:\n{accuracy:.1f} % of the test digits right", xlabel="output of BatchNorm")
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_yticks([])
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "before-and-after": before_and_after,
    "barrier": barrier,
    "layers-of-a-mask": layers,
    "batch-norm": batch_norm,
}

if __name__ == "__main__":
    save(PICTURES)
