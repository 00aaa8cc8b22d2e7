"""`verify`: is this mask a winning sign? Final trainings from it and from its controls, and a verdict on each claim.

    verdict = verify("org/resnet50-aws-0.14", fresh, data, TrainingConfig(), output_dir="verified", seeds=range(1, 6))
    verdict["mask"].verdict     # "holds", "does not hold" or "not enough seeds"
    print(verdict)              # all claims, a Markdown table

docs/verify.md says what is claimed, how it is tested and what a verdict means.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..data import ImageData
from ..mask import SignedMask
from ..mask_file.hub import is_folder
from ..mask_file.sparse_weights import solution_weights
from ..processes import by_first
from ..training_config import TrainingConfig
from .claims import judge
from .jobs import Job, JobLine, LoneMask, several
from .panels import require_matplotlib
from .results import Row
from .trainings import Trainings
from .verdict import Verdict, write_verdict
from .winning_sign import CONTROLS, Margins, claims_of

if TYPE_CHECKING:
    from accelerate import Accelerator


def verify(
    mask: SignedMask | str | Path,
    fresh: Callable[[int], nn.Module],
    data: ImageData,
    training: TrainingConfig,
    *,
    output_dir: str | Path,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    margin: float = 1.0,
    barrier_margin: float = 2.0,
    level: float = 0.05,
    revision: str | None = None,
    weights: str | Path | None = None,
    accelerator: "Accelerator | None" = None,
    plots: bool = True,
    benchmark: tuple[str, str] | None = None,
    own_training: Mapping[str, TrainingConfig] = MappingProxyType({}),
    at_once: int = 1,
) -> Verdict:
    """Train dense, with the signs and with each control from every seed's initialization, and judge the claims.

    Trainings that are done in `output_dir` are not repeated: other margins cost nothing, more seeds only what is
    missing. Several processes may share the work. Writes results.jsonl, verdict.json, verdict.md, plots/ and mask/, the
    mask with a card that states the verdicts.

    Args:
        mask: itself, its folder, or its id on the Hub.
        fresh: seed -> a freshly initialized network; not the initialization that the search started from.
        data: to train and to measure on.
        training: of every final training but those of `own_training`. With the signs there are two a seed, for
            stability against SGD noise.
        output_dir: where trainings and the verdict are kept.
        seeds: of initialization and data order; a verdict takes two or more, usually five.
        margin: the difference in accuracy that counts, in points: a network that is less accurate than the
            dense one by less than this is as good, and a control is beaten by more than this. Choose it before you see
            any figures.
        barrier_margin: points of error that are no barrier if the mean is below; 2 as Frankle et al. (2020a) have it.
        level: the probability that any verdict is wrong, under the assumptions of a t test.
        revision: of a mask on the Hub.
        weights: folder of the weights that the search left; None: that of the mask, if they are there. With them the
            solution is trained, too, and the line to it measured.
        accelerator: None: one on the GPU if there is one, else on the CPU.
        plots: whether to draw; takes matplotlib.
        benchmark: `(data set, task)`, ids of a benchmark on the Hub; writes `.eval_results/` beside the mask's card.
        own_training: method -> training from the masks that it finds, controls included, where that is not `training`;
            methods that did not find this mask may be in it.
        at_once: how many trainings share their steps (`train_many`), where they can, as those of perceptrons can; 1:
            none. Results then differ within what rounding becomes over a training.

    Returns:
        What was found of each claim, and the rows that it is made of.

    Raises:
        TypeError: For one seed that is in no list, or a network instead of `fresh`.
        ValueError: For a mask without signs or that does not fit, a number out of range, or seeds twice.
        ModuleNotFoundError: Without matplotlib.
        OSError: If output_dir is a file, or can't be written to.
        CheckpointError: If output_dir is of another mask, data or training; as `SignedMask.from_pretrained`.

    Example:
        >>> from aws_lottery import verify
        >>> verdict = verify("org/resnet50-aws-0.14", fresh, data, training, output_dir="verified")  # doctest: +SKIP
        >>> verdict["mask"].verdict  # doctest: +SKIP
        'holds'
    """
    if plots:
        require_matplotlib()
    margins = Margins(accuracy=margin, barrier=barrier_margin, level=level)
    source = _source(mask, revision, weights)
    seeds = several("seeds", seeds)
    accelerator = accelerator or _usual_accelerator()
    trainings = Trainings(
        folder=Path(output_dir),
        fresh=fresh,
        data=data,
        training=training,
        protocol=source.protocol,
        accelerator=accelerator,
        model=source.architecture,
        own_training={method: one for method, one in own_training.items() if method == source.origin.method},
        at_once=at_once,
    )
    _check(source.mask, fresh, seeds)
    trainings.claim(signed_mask=source.origin.signed_mask)
    rows = trainings.rows(
        [lambda: trainings.of(_jobs(source, seeds)), lambda: trainings.between(_lines(source, seeds))]
    )
    verdict = _judged(rows, data, margins)
    write = partial(write_verdict, trainings.folder, verdict, source.mask, plots=plots, benchmark=benchmark)
    by_first(write, accelerator)
    return verdict


def _judged(rows: Sequence[Row], data: ImageData, margins: Margins) -> Verdict:
    """No spread is taken to be less than one test image."""
    chance = 100 / data.num_classes
    claims = claims_of(rows, chance=chance, margins=margins)
    findings = judge(claims, level=margins.level, resolution=100 / len(data.test))
    return Verdict(findings=findings, rows=rows, margins=margins, chance=chance)


def _source(mask: SignedMask | str | Path, revision: str | None, weights: str | Path | None) -> LoneMask:
    """Raises: FileNotFoundError if there are no weights in a folder that was named for them."""
    signs = mask if isinstance(mask, SignedMask) else SignedMask.from_pretrained(mask, revision=revision)
    if weights is not None:
        solution_weights(weights, signs)
        return LoneMask(signs, Path(weights))
    if isinstance(mask, SignedMask) or not is_folder(mask):
        return LoneMask(signs)
    try:
        solution_weights(mask, signs)
    except FileNotFoundError:
        return LoneMask(signs)
    return LoneMask(signs, Path(mask))


def _check(mask: SignedMask, fresh: Callable[[int], nn.Module], seeds: Sequence[int]) -> None:
    """Raises: ValueError for what would fail only after the dense trainings."""
    if not mask.signed:
        raise ValueError("the mask has no signs (SignedMask.binary), so there is nothing to verify about them")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be one or more, each once, got {list(seeds)}")
    mask.apply_(fresh(seeds[0]))


def _usual_accelerator() -> "Accelerator":
    from accelerate import Accelerator, DataLoaderConfiguration

    return Accelerator(
        cpu=not torch.accelerator.is_available(), dataloader_config=DataLoaderConfiguration(split_batches=True)
    )


def _jobs(source: LoneMask, seeds: Sequence[int]) -> list[Job]:
    """The trainings seed by seed, so that a run has complete pairs early on."""
    transfers = ["signs", *CONTROLS, *(["solution"] if source.weights else [])]
    jobs = []
    for seed in seeds:
        first = [Job(source, transfer, seed, seed) for transfer in transfers]
        jobs += [Job(None, "dense", seed, seed), *first, first[0].other]
    return jobs


def _lines(source: LoneMask, seeds: Sequence[int]) -> list[JobLine]:
    """Between the inits, each seed's first training is at one end of a line and its second one at the end of another,
    so that no training is in two of them."""
    signs = [Job(source, "signs", seed, seed) for seed in seeds]
    following = [*signs[1:], signs[0]] if len(signs) > 1 else []
    return [
        *(JobLine("stability", job, job.other) for job in signs),
        *(JobLine("between-inits", job, other.other) for job, other in zip(signs, following, strict=False)),
        *(JobLine("lmc", job, replace(job, transfer="solution")) for job in signs if source.weights),
    ]
