"""What a signed mask is worth beyond its own search: on other data, cut short, and together with other searches.

    python recipes/reuse.py --cifar10 CIFAR10_FOLDER --tiny_imagenet_32 TINY_IMAGENET_32_FOLDER --threads 1

ResNet-8 on 5,000 images of 16 x 16 of each of three data sets: CIFAR-10, and the first and the second 50 classes of
Tiny-ImageNet-32. SEARCHES below are the searches, QUESTIONS what is trained from their masks.
--questions takes some of them. The classifier is never
pruned here and its signs are never transferred, as it belongs to the classes. Killed and started again it goes on;
started several times at once, the processes share the work. Results: docs/results/reuse. --smoke: seconds, on made-up
images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from accelerate import Accelerator
from evidence import images_of
from torch import nn

from aws_lottery import SignedMask, SignedMaskConfig, TrainingConfig, find_signed_mask, load_data
from aws_lottery.atomic import replace_file
from aws_lottery.cli.options import accelerator_for, machine_options
from aws_lottery.data import ImageData
from aws_lottery.data.made_up import made_up_images
from aws_lottery.data.presets import CIFAR
from aws_lottery.mask_algebra import consensus, likeness
from aws_lottery.models import fresh_network
from aws_lottery.paper import SMALL_IMAGES
from aws_lottery.runs.final_training import final_training
from aws_lottery.runs.lock import do_all
from aws_lottery.runs.round_folder import round_folder
from aws_lottery.strict_json import to_json
from aws_lottery.summaries import markdown_table, mean_std, mean_std_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUNDS, EPOCHS_PER_ROUND, SEEDS = 10, 6, (1, 2, 3)
FINAL = replace(SMALL_IMAGES["resnet50"].final, epochs=24, batch_size=64)
HALVES = {"first half": range(50), "second half": range(50, 100)}  # classes of Tiny-ImageNet-32


@dataclass(frozen=True)
class Search:
    """A search by AWS: on which data, from which initialization, in which data order, and for which share of epochs."""

    data: str = "CIFAR-10"
    init: int = 0
    order: int = 0
    epochs: float = 1.0


SEARCHES = {
    "CIFAR-10": Search(),
    "first half": Search("first half"),
    "second half": Search("second half"),
    "half the epochs": Search(epochs=0.5),
    "order 1": Search(order=1),
    "order 2": Search(order=2),
    "init 1": Search(init=1, order=1),
    "init 2": Search(init=2, order=2),
}


@dataclass(frozen=True)
class Start:
    """Where final trainings on `data` start; `mask` makes the mask from those of the searches, None: dense."""

    data: str
    name: str
    mask: Callable[["Masks"], SignedMask] | None


class Masks:
    """The masks that the searches left, without the classifier, which is not prunable."""

    def __init__(self, folder: Path):
        self.folder = folder

    def of(self, search: str, round: int = ROUNDS) -> SignedMask:
        mask = SignedMask.from_pretrained(round_folder(search_folder(self.folder, search), round))
        return SignedMask({name: mask[name] for name in mask.prunable}, parameters=mask.parameters)

    def early_signs(self, round: int) -> SignedMask:
        """The places of the last round under the signs of an earlier one, which has all of these places."""
        last, early = self.of("CIFAR-10"), self.of("CIFAR-10", round)
        return SignedMask({name: early[name] * last[name].abs() for name in last}, parameters=last.parameters)


SOURCES = ("CIFAR-10", "first half", "second half")
SAME_INIT, OTHER_INITS = ("CIFAR-10", "order 1", "order 2"), ("CIFAR-10", "init 1", "init 2")


def across(target: str) -> list[Start]:
    """A mask of each data set on `target`: with its signs, and alone."""
    signed = [Start(target, f"signs of {source}", lambda masks, s=source: masks.of(s)) for source in SOURCES]
    bare = [Start(target, f"mask of {source}", lambda masks, s=source: masks.of(s).binary()) for source in SOURCES]
    return [Start(target, "dense", None), *signed, *bare]


SEARCHES_OF = {  # question -> the searches that it needs
    "across data sets, on CIFAR-10": SOURCES,
    "across data sets, on the second half": SOURCES,
    "how early": ("CIFAR-10", "half the epochs"),
    "consensus": (*SAME_INIT, *OTHER_INITS[1:]),
}
QUESTIONS = {
    "across data sets, on CIFAR-10": across("CIFAR-10"),
    "across data sets, on the second half": across("second half"),
    "how early": [
        Start("CIFAR-10", f"signs of round {t} at the last places", lambda masks, t=t: masks.early_signs(t))
        for t in (1, 4, 7)
    ]
    + [Start("CIFAR-10", "signs of a search of half the epochs", lambda masks: masks.of("half the epochs"))],
    "consensus": [
        *(Start("CIFAR-10", f"signs of {name}", lambda masks, n=name: masks.of(n)) for name in SAME_INIT[1:]),
        Start("CIFAR-10", "consensus of 3 data orders", lambda masks: consensus([masks.of(n) for n in SAME_INIT])),
        *(Start("CIFAR-10", f"signs of {name}", lambda masks, n=name: masks.of(n)) for name in OTHER_INITS[1:]),
        Start("CIFAR-10", "consensus of 3 inits", lambda masks: consensus([masks.of(n) for n in OTHER_INITS])),
    ],
}


@dataclass(frozen=True)
class Setting:
    """What searches and final trainings are done with; `data` by its name."""

    masks: Masks
    data: Callable[[str], ImageData]
    training: TrainingConfig
    accelerator: Accelerator
    smoke: bool
    channels_last: bool

    def fresh(self, name: str, seed: int) -> nn.Module:
        data = self.data(name)
        size, channels_last = data.image_size, self.channels_last
        return fresh_network("resnet8", data.num_classes, seed, image_size=size, channels_last=channels_last)


def main() -> None:
    args = parsed()
    folder, accelerator = Path(args.output_dir), accelerator_for(args)

    @cache
    def data(name: str) -> ImageData:
        if args.smoke:
            images = made_up_images(32)
        else:
            images = args.cifar10 if name == "CIFAR-10" else images_of(args.tiny_imagenet_32, HALVES[name])
        rules = replace(CIFAR, size=8 if args.smoke else 16, padding=2)
        loaded = load_data(images, max_train_samples=5000, augmentation=rules, decoded=True, workers=args.workers)
        return loaded.to(accelerator.device)

    training = replace(FINAL, epochs=1, batch_size=8) if args.smoke else FINAL
    setting = Setting(Masks(folder), data, training, accelerator, args.smoke, args.channels_last)
    seeds, rows = SEEDS[:1] if args.smoke else SEEDS, []
    for question in args.questions or QUESTIONS:
        starts = QUESTIONS[question]
        do_all([partial(search, setting, name) for name in SEARCHES_OF[question]], accelerator)
        rows += do_all(
            [partial(train_from, setting, question, start, seed) for seed in seeds for start in starts], accelerator
        )
    if accelerator.is_main_process:
        write_report(folder, rows, setting.masks)
        print((folder / "table.md").read_text())


def parsed() -> Any:
    parser = machine_options(__doc__)
    parser.add_argument("--cifar10", default="uoft-cs/cifar10", help="folder or id on the Hub")
    parser.add_argument("--tiny_imagenet_32", default=None, metavar="FOLDER", help="of 100 classes, or more")
    parser.add_argument("--questions", nargs="+", choices=list(QUESTIONS), default=None, help="default: all")
    args = parser.parse_args()
    if not (args.smoke or args.tiny_imagenet_32):
        parser.error("give --tiny_imagenet_32, a folder (or --smoke)")
    args.output_dir = args.output_dir or "runs/reuse"
    return args


def search_folder(folder: Path, name: str) -> Path:
    return folder / "searches" / name.replace(" ", "-")


def search(setting: Setting, name: str) -> None:
    """Do one of SEARCHES, unless it is done."""
    row, smoke = SEARCHES[name], setting.smoke
    config = SignedMaskConfig(
        rounds=ROUNDS,
        warmup_epochs=1 if smoke else round(10 * row.epochs),
        epochs_per_round=1 if smoke else round(EPOCHS_PER_ROUND * row.epochs),
        seed=row.order,  # of alpha
        architecture="resnet8",
    )
    find_signed_mask(
        setting.fresh(row.data, row.init),
        setting.data(row.data).train,
        config,
        replace(setting.training, schedule="constant"),
        output_dir=search_folder(setting.masks.folder, name),
        accelerator=setting.accelerator,
        test_data=setting.data(row.data).test,
        seed=row.order,
    )


def train_from(setting: Setting, question: str, start: Start, seed: int) -> dict[str, Any]:
    """The row of a final training, which is done once."""
    model, remaining = setting.fresh(start.data, seed), 1.0
    if start.mask is not None:
        mask = start.mask(setting.masks)
        remaining = mask.remaining
        mask.apply_(model, exclude=["classifier"])
        mask.held(model, exclude=["classifier"])
    name = f"{start.data}-{start.name}-seed{seed}".replace(" ", "-")
    setting.accelerator.print(name)
    return final_training(
        model,
        setting.data(start.data),
        setting.training,
        output_dir=setting.masks.folder / "trainings" / name,
        accelerator=setting.accelerator,
        identity={"question": question, "start": start.name, "remaining": remaining, "seed": seed},
        seed=seed,
    )


def write_report(folder: Path, rows: Sequence[dict[str, Any]], masks: Masks) -> None:
    """trainings.jsonl, table.md and reuse.png."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["question"], row["start"]), []).append(row)
    lines = []
    for (question, start), group in groups.items():
        before, after = ([row[when] for row in group if "after" in row] for when in ("before", "after"))
        remaining = f"{group[0]['remaining']:.3f}"
        lines.append([question, start, remaining, mean_std_text(before), mean_std_text(after), str(len(after))])
    header = ["question", "start", "remaining", "before training", "after training", "n"]
    parts = [markdown_table(header, lines), signs_table(masks)]
    replace_file(folder / "trainings.jsonl", "".join(to_json(row) + "\n" for row in rows).encode())
    replace_file(folder / "table.md", ("\n\n".join(parts) + "\n").encode())
    questions = {question: [start for asked, start in groups if asked == question] for question, _ in groups}
    heights = [len(starts) for starts in questions.values()]
    size = (7, 1 + 0.4 * sum(heights))
    figure, panels = plt.subplots(len(heights), figsize=size, height_ratios=heights, squeeze=False)
    for panel, (question, starts) in zip(panels.flat, questions.items(), strict=True):
        draw(panel, question, {start: groups[question, start] for start in starts})
    figure.tight_layout()
    figure.savefig(folder / "reuse.png", dpi=150)


def signs_table(masks: Masks) -> str:
    """How alike two masks are, beside masks that have nothing to do with one another."""
    last = masks.of("CIFAR-10")
    done = [name for name in SEARCHES if round_folder(search_folder(masks.folder, name), ROUNDS).is_dir()]
    pairs = {f"CIFAR-10 and {name}": (last, masks.of(name)) for name in done if name != "CIFAR-10"}
    if set(HALVES) <= set(done):
        pairs["first half and second half"] = masks.of("first half"), masks.of("second half")
    pairs |= {f"last round and round {t}": (last, masks.of("CIFAR-10", t)) for t in range(1, ROUNDS)}
    rows = []
    for name, pair in pairs.items():
        alike = likeness(*pair)[-1]
        shares = (alike.overlap, alike.overlap_by_chance, alike.agreement, alike.agreement_by_chance)
        rows.append([name, *(f"{100 * share:.1f}" for share in shares)])
    return markdown_table(
        ["masks", "places in both, % of those in either", "by chance", "same sign, % of places in both", "by chance"],
        rows,
    )


def draw(panel: "Axes", question: str, groups: dict[str, list[dict[str, Any]]]) -> None:
    """A line a start: a dot a seed, and the mean with its standard deviation."""
    for height, group in enumerate(groups.values()):
        after = [row["after"] for row in group if "after" in row]
        panel.plot(after, [height] * len(after), "o", color="tab:red", alpha=0.4, markersize=4)
        if len(after) > 1:
            mean, std = mean_std(after)
            panel.errorbar(mean, height, xerr=std, fmt="|", color="black", capsize=3)
    panel.set_yticks(range(len(groups)), list(groups))
    panel.invert_yaxis()
    panel.set_title(question, fontsize=9, loc="left")
    panel.set_xlabel("test accuracy after training, %", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(axis="x", alpha=0.3)


if __name__ == "__main__":
    main()
