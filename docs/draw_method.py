"""Pictures of the method for docs/explanation/pictures.md: drawings, but signs, magnitudes and shares in them are real.

python docs/draw_method.py
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from aws_lottery import SignedMask, SignedMaskConfig
from aws_lottery.models import fresh_network

HERE = Path(__file__).parent
MASK = HERE.parent / "model_cards" / "cifar10-resnet8-aws-0.11"
LAYER = "blocks.0.conv1.weight"
SIDE = 12  # rows and columns of the layer that are shown
GREEN, PURPLE, BLUE = "tab:green", "tab:purple", "tab:blue"


def signed_mask() -> Figure:
    """theta = |theta_init| * s for two fresh networks: other magnitudes, the same signs and zeros."""
    mask = SignedMask.from_pretrained(MASK)
    signs = _window(mask[LAYER])
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    panels = figure.subplots(2, 5, width_ratios=(1, 0.12, 1, 0.12, 1))
    for row, seed in zip(panels, (1, 2), strict=True):
        fresh = _window(fresh_network("resnet8", 10, seed, image_size=16).get_parameter(LAYER).detach())
        _matrix(row[0], fresh, f"fresh network {seed}: its own\nmagnitudes and signs")
        _matrix(row[2], signs * float(fresh.abs().max()), "the signed mask s\n(the same for all)")
        _matrix(row[4], fresh.abs() * signs, f"where training {seed} starts:\n|fresh| \u00d7 s")
        for panel, text in ((row[1], "sizes\n\u00d7"), (row[3], "=")):
            panel.text(0.5, 0.5, text, fontsize=13, ha="center", va="center")
            panel.set_axis_off()
    figure.suptitle("red: above 0, blue: below 0, white: 0; the darker, the larger", fontsize=10)
    return figure


def _window(weight: torch.Tensor) -> torch.Tensor:
    """(SIDE, SIDE): the middle of each 3x3 kernel, for some outputs and inputs."""
    return weight[:SIDE, :SIDE, 1, 1].float()


def _matrix(axes: Axes, values: torch.Tensor, title: str) -> None:
    limit = float(values.abs().max())
    axes.imshow(values.numpy(), cmap="RdBu_r", norm=Normalize(-limit, limit))
    axes.set(xticks=np.arange(-0.5, SIDE), yticks=np.arange(-0.5, SIDE), xticklabels=[], yticklabels=[])
    axes.grid(color="0.9", linewidth=0.5)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10)


def algorithm() -> Figure:
    """Algorithm 1 as a flow, with the share of weights that remains under the default search."""
    config = SignedMaskConfig()
    shares = [f"{(1 - config.prune_rate) ** t:.3g}" for t in (0, 1, 2)]
    last = f"{(1 - config.prune_rate) ** (config.rounds or 0):.3f}"
    figure = Figure(figsize=(9, 4.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 90), ylim=(0, 46))
    axes.set_axis_off()
    axes.add_patch(FancyBboxPatch((19, 15.5), 43, 28, boxstyle="round,pad=0.4", fc="0.96", ec="0.8"))
    axes.text(40.5, 42, f"a round; {config.rounds} of them", ha="center", va="center", fontsize=10, color="0.3")
    _box(axes, 1, 25, 15, 10, "a fresh network\nis trained for\na short warm-up", "0.9")
    _box(axes, 21, 25, 18, 12, "train; each forward\nuses normalization\nbetween start and now\n(Eq. 2)", "#cfe8cf")
    _box(axes, 43, 25, 17, 12, "drop the smallest\n20 % of the weights\nthat are left\n(line 8)", "#dfd3ec")
    _box(axes, 65, 25, 23, 12, "take the signs of what\nis left: the signed mask\n(line 11)", "#f6dfb8")
    _box(axes, 65, 3, 23, 12, "give them to any\nfresh network: |fresh| \u00d7 s", "#f6dfb8")
    _box(axes, 27, 3, 29, 8, "train it as usual;\npruned weights stay 0", "0.9")
    for start, end in (((16.5, 30), (20.5, 30)), ((39.5, 31), (42.5, 31)), ((60.5, 31), (64.5, 31))):
        _arrow(axes, start, end)
    _arrow(axes, (76.5, 24.5), (76.5, 15.5))
    _arrow(axes, (64.5, 7), (56.5, 7))
    _arrow(axes, (51, 24.5), (31, 24.5), bend=-0.35)
    back = "weights stay, the learning rate\nstarts anew (line 9)"
    axes.text(41, 19.2, back, ha="center", va="center", fontsize=8.5, color="0.3")
    axes.text(40.5, 39.2, f"left: {', '.join(shares)}, ... {last}", ha="center", va="center", fontsize=9, color=PURPLE)
    return figure


def _box(axes: Axes, left: float, bottom: float, width: float, height: float, text: str, color: str) -> None:
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0.3", fc=color, ec="0.4"))
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=9.5)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    style = {"arrowstyle": "-|>", "color": "0.3", "connectionstyle": f"arc3,rad={bend}", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def interpolation() -> Figure:
    """Eq. 2 on made-up scales: each forward runs with all scales the same share of the way."""
    init, trained = np.ones(6), np.array([0.35, 0.8, 0.55, 1.5, 0.2, 1.15])
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(init))
    axes.vlines(places, np.minimum(init, trained), np.maximum(init, trained), color="0.8", linewidth=6, zorder=0)
    axes.plot(places, init, "s", color="0.4", markersize=9, label="at the start (psi_init)")
    axes.plot(places, trained, "o", color=GREEN, markersize=9, label="trained so far (psi)")
    for alpha, marker in ((0.3, "v"), (0.8, "^")):
        label = f"what a forward with alpha = {alpha} uses"
        axes.plot(places, alpha * trained + (1 - alpha) * init, marker, color=BLUE, markersize=7, label=label)
    axes.set(xticks=places, ylim=(0, 1.7), ylabel="scale")
    axes.set_xticklabels([f"channel {place + 1}" for place in places])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "signed-mask": signed_mask,
    "algorithm-1": algorithm,
    "interpolation": interpolation,
}


def save(pictures: dict[str, Callable[[], Figure]]) -> None:
    """Draw all of them into docs/pictures."""
    for name, draw in pictures.items():
        draw().savefig(HERE / "pictures" / f"{name}.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    save(PICTURES)
