"""The picture at the top of README.md, docs/effect.png, from what docs/results/cifar10-resnet8 measured.

python docs/draw_effect.py
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from aws_lottery.experiments.results import read_results

HERE = Path(__file__).parent
BARS = (  # transfer, label, color
    ("dense", "dense", "0.75"),
    ("solution", "the search's own\nweights", "tab:gray"),
    ("signs", "fresh weights,\nits signs", "tab:green"),
    ("mask", "fresh weights,\nits mask alone", "tab:purple"),
)


def main() -> None:
    rows = read_results(HERE / "results" / "cifar10-resnet8" / "results.jsonl")
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    accuracy, line = figure.subplots(1, 2, width_ratios=(1.15, 1))
    for place, (transfer, label, color) in enumerate(BARS):
        # of each initialization one training; second ones, with another data order, are for barriers
        of = [r for r in rows if r.kind == "accuracy" and r.transfer == transfer and r.data_seed == r.seed]
        values = np.array([row.after for row in of])
        accuracy.bar(place, values.mean(), 0.62, color=color, label=label, yerr=values.std(ddof=1), capsize=3)
        accuracy.text(place, values.mean() + 1.8, f"{values.mean():.1f}", ha="center")
    accuracy.set(title="test accuracy after training, %", ylim=(0, 75), xticks=range(len(BARS)))
    accuracy.set_xticklabels([label for _, label, _ in BARS], fontsize="small")
    for transfer, label, color in BARS[2:]:
        for row in [r for r in rows if r.kind == "lmc" and r.transfer == transfer]:
            line.plot(row.alphas, row.errors, color=color, label=label.replace("\n", " "))
            label = "_"  # one entry in the legend
    line.set(title="test error on the way from the search's solution, %", ylim=(0, 95), xticks=(0, 0.5, 1))
    line.set_xticklabels(["the search's\nsolution", "half way", "trained from\nfresh weights"], fontsize="small")
    line.legend(frameon=False, fontsize="small", loc="upper left", handlelength=1.2)
    for axes in (accuracy, line):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "effect.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
