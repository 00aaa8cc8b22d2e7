"""Do winning signs exist for a language model? Searches on text, final trainings from their signs, barriers in loss.

    python recipes/aws_language_model.py --train train.txt --test test.txt                  # Llama kind
    python recipes/aws_language_model.py --train train.txt --test test.txt --network gpt2 --tokens 0  # on bytes
    accelerate launch --config_file recipes/launch/fsdp2.yaml --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP \\
        recipes/aws_language_model.py --train train.txt --test test.txt    # trainings sharded over several GPUs

One search by each of --methods (`transformers.Trainer` with WinningSignCallback); then, from the masks of its rounds
--at, final trainings of fresh initializations: with the signs, with those of the pruned matrices alone, with the mask
alone, with random signs; the dense network; and the solution of the search, trained on. Barriers in loss (Eq. 1) tell
whether a training ends in the basin of the solution, and whether two trainings from one start do.

`llama` has RMSNorm, whose scales AWS interpolates, `gpt2` LayerNorm. Embeddings and head are never pruned; the start
`signs` takes their signs over as well, `matrix-signs` those of the pruned matrices alone and `embedding-signs` those of
embeddings and head. An epoch is --rows rows of --length tokens, spread evenly over the text. Each training is written
once, so a run that was killed goes on; results.jsonl, table.md and plots are written anew after each group of
trainings. The default takes 53 minutes on one thread of a busy CPU; what came out is in docs/results/language-model.
--smoke: seconds, on made-up text, no meaning.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from language_model import Text, name_of

from aws_lottery import HeldMask, SignedMask, SignedMaskConfig, WinningSignCallback, barrier_between, detach
from aws_lottery.atomic import replace_file
from aws_lottery.experiments.figures import save
from aws_lottery.experiments.jobs import Job, JobLine, Plan, SearchRound
from aws_lottery.experiments.losses import Ahead, Loss, LossAnalysis, LossLine, Row, loss_figures, loss_report, loss_row
from aws_lottery.experiments.results import Origin, Start
from aws_lottery.experiments.search_statistics import negative_gammas, sign_flips, with_norms_reset
from aws_lottery.integrations.checkpoints import last_checkpoint
from aws_lottery.mask_file.sparse_weights import solution_weights
from aws_lottery.parameters.unwrap import parameters_of
from aws_lottery.processes import by_first, together
from aws_lottery.runs.checkpoint import claim
from aws_lottery.runs.lock import written_once
from aws_lottery.strict_json import to_json
from aws_lottery.transfers import TRANSFERS, Transfer, transfer_


def randomized(mask: SignedMask, seed: int, *, prunable: bool) -> SignedMask:
    """Signs as random as an initialization's, of what is `prunable` or of the rest: embeddings and head."""
    coins = mask.with_random_signs(seed)
    return SignedMask(
        {name: (coins if (name in mask.prunable) == prunable else mask)[name] for name in mask},
        mask.config,
        prunable=mask.prunable,
        parameters=mask.parameters,
        checkpoint_names=mask.checkpoint_names,
    )


ONLY_MATRICES = Transfer(
    "fresh + mask, signs of matrices", partial(randomized, prunable=False), marker="v", color="tab:pink"
)
ONLY_EMBEDDINGS = Transfer(
    "fresh + mask, signs of embeddings", partial(randomized, prunable=True), marker="D", color="tab:cyan"
)
TRANSFERS.update({"matrix-signs": ONLY_MATRICES, "embedding-signs": ONLY_EMBEDDINGS})
MARGIN = 0.05  # nats a token: what counts as no worse than dense, 5 % of the perplexity
STARTS = ("dense", "signs", "mask", "matrix-signs", "embedding-signs", "solution")


def search(text: Text, method: str, folder: Path) -> None:
    """Leaves the mask and the weights of each round in `folder`; goes on where it was, or returns if it is done."""
    options = text.options
    if (folder / f"round-{options.rounds:02}" / "weights.safetensors").exists():
        return
    config = SignedMaskConfig(
        method=method,
        rounds=options.rounds,
        prune_rate=options.prune_rate,
        warmup_epochs=options.warmup_epochs,
        epochs_per_round=options.epochs_per_round,
        classifier="lm_head",
        architecture=name_of(options),
    )
    about = {"dataset": Path(options.train or "made up").name, "task": "text-generation"}
    callback = WinningSignCallback(config, about=about)
    schedule = {"num_train_epochs": callback.epochs, "lr_scheduler_type": "constant_with_warmup"}
    run = text.trainer(text.fresh(0), folder, callback, seed=0, save_strategy="epoch", **schedule)
    run.train(resume_from_checkpoint=last_checkpoint(folder))


def origin(job: Job) -> Origin:
    return job.source.origin if isinstance(job.source, SearchRound) else Origin(remaining_total=1.0)


def final_training(text: Text, job: Job, folder: Path) -> Loss:
    """Losses before and after; the trained network is left in `folder`."""
    model, callbacks = text.fresh(job.seed), []
    if isinstance(job.source, SearchRound):
        transfer, mask = TRANSFERS[job.transfer], job.source.mask
        weights = solution_weights(job.source.folder, mask) if transfer.needs_weights else None
        transfer_(model, transfer, mask, weights=weights, seed=job.seed)
        detach(model)  # and hold what accelerate makes of it, from the first backward on
        callbacks = [HeldMask(transfer.mask(mask, job.seed), apply=False)]
    before = text.loss(model)
    schedule = {"num_train_epochs": text.options.final_epochs, "lr_scheduler_type": "cosine", "save_strategy": "no"}
    run = text.trainer(model, folder, *callbacks, seed=job.data_seed, **schedule)
    run.train()
    gathered = run.accelerator.get_state_dict(run.model_wrapped)  # on the first process, where accelerate shards
    with together(run.accelerator):
        if run.is_world_process_zero():
            model.save_pretrained(folder, state_dict=gathered)
    trained = type(model).from_pretrained(folder)
    return Loss(
        **asdict(origin(job)),
        transfer=job.transfer,
        seed=job.seed,
        data_seed=job.data_seed,
        before=before,
        after=text.loss(trained),
        signs_kept=signs_kept(trained, job.source.mask) if isinstance(job.source, SearchRound) else None,
    )


def signs_kept(model: Any, mask: SignedMask) -> float:
    """Share of the survivors that have the sign of the mask."""
    theta = parameters_of(model)
    same = sum(int((theta[name].detach().cpu() * mask[name] > 0).sum()) for name in mask.prunable)
    return same / sum(int(mask[name].count_nonzero()) for name in mask.prunable)


def line(text: Text, between: JobLine, folder_of: Callable[[Job], Path]) -> LossLine:
    """Losses on the line from the network that `end` trained to that of `job`."""
    a, b = (type(text.fresh(0)).from_pretrained(folder_of(job)) for job in (between.job, between.end))
    barrier = barrier_between(a, b, text.loss, points=5)
    return LossLine(
        **asdict(origin(between.job)),
        kind=between.kind,
        transfer=between.job.transfer,
        seed=between.job.seed,
        alphas=barrier.alphas,
        losses=barrier.errors,
    )


def analysis(text: Text, at: SearchRound) -> LossAnalysis:
    """The network as the search left it after a round, pruned and not trained further."""
    model, psi_init = text.fresh(0), parameters_of(text.fresh(0))
    transfer_(model, TRANSFERS["solution"], at.mask, weights=solution_weights(at.folder, at.mask))
    return LossAnalysis(
        **asdict(at.origin),
        sign_flips=sign_flips(at.before.mask, at.mask) if at.before.folder.is_dir() else None,
        negative_scales=negative_gammas(model),
        loss=text.loss(model),
        loss_norms_reset=text.loss(with_norms_reset(model, psi_init)),
        layers={layer.name: layer.remaining for layer in at.mask.table() if layer.prunable},
    )


@dataclass(frozen=True)
class Stage:
    """Trainings that are done before those of the next stage."""

    methods: Sequence[str]
    rounds: Sequence[int]
    starts: Sequence[str]
    twice: bool = False  # with two data orders, for the barrier between the two


def stages(methods: Sequence[str], at: Sequence[int]) -> list[Stage]:
    """The most telling first, so that an experiment that is broken off has a result."""
    first, some = methods[:1], ("signs", "mask", "matrix-signs", "solution")
    return [
        Stage(first, at[:1], STARTS),
        Stage(methods, at[:1], some),
        Stage(first, at, some),
        Stage(first, at[:1], ("signs", "mask"), twice=True),
        Stage(methods, at, ("signs", "mask")),
        Stage(first, at[:1], ("random-signs",)),
        Stage(methods, at, (*STARTS, "random-signs")),
    ]


def run(text: Text) -> list[Row]:
    """All stages; what a file of --output_dir holds is not measured again."""
    options, rows = text.options, {}
    may_differ = ("seeds", "at", "starts", "output_dir")
    settings = {name: value for name, value in vars(options).items() if name not in may_differ}
    accelerator, measured = Accelerator(cpu=options.smoke), options.output_dir / "measurements"
    by_first(partial(claim, options.output_dir, settings, resume=True), accelerator)

    def folder_of(job: Job) -> Path:
        return options.output_dir / "trainings" / job.name

    def once(name: str, measure: Callable[..., Row], *arguments: Any) -> None:
        path = measured / f"{name}.json"
        rows[name] = loss_row(written_once(path, lambda: asdict(measure(text, *arguments)), accelerator), path)

    for stage in stages(options.methods, options.at):
        searches = {method: options.output_dir / f"search-{method}" for method in stage.methods}
        for method, folder in searches.items():
            search(text, method, folder)
        seeds = tuple(range(1, 1 + options.seeds))
        plan = Plan(
            rounds=[SearchRound(folder, index) for index in stage.rounds for folder in searches.values()],
            transfers=[start for start in stage.starts if start in options.starts],
            seeds=seeds,
            barrier_rounds=options.at[:1],
            barrier_seeds=seeds if stage.twice else (),
        )
        for job in plan.jobs():
            once(job.name, final_training, job, folder_of(job))
        for between in plan.lines():
            once(between.name, line, between, folder_of)
        for search_round in plan.rounds:
            once(f"analysis-{search_round.name}", analysis, search_round)
        by_first(partial(report, list(rows.values()), options), accelerator)
    return list(rows.values())


def report(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """results.jsonl, table.md and, where there is matplotlib, loss.png and barriers.png in --output_dir."""
    folder = options.output_dir
    replace_file(folder / "results.jsonl", "".join(to_json(asdict(row)) + "\n" for row in rows).encode())
    replace_file(folder / "table.md", loss_report(rows, claims(options.methods, options.at[0])).encode())
    try:
        save(loss_figures(rows, f"{name_of(options)}, mean ± std over seeds"), folder)
    except ModuleNotFoundError as error:  # an extra
        print(f"no plot: {error}")


def claims(methods: Sequence[str], at: int) -> list[Ahead]:
    """Those of the plan in docs/results/language-model."""
    first, last, dense = methods[0], methods[-1], Start(None, None, "dense")
    signs, matrices, mask = (Start(at, first, start) for start in ("signs", "matrix-signs", "mask"))
    name, others = first.upper(), Start(at, last, "signs")
    of_first = [
        Ahead("signs", f"{name}: the signs do better than the mask alone", signs, mask),
        Ahead("matrix-signs", f"{name}: so do those of the pruned matrices alone", matrices, mask),
        Ahead("dense", f"{name}: with the signs it is as good as dense", signs, dense, -MARGIN),
    ]
    of_both = Ahead("method", f"the signs of {name} do better than those of {last.upper()}", signs, others)
    return of_first if first == last else [*of_first, of_both]


OPTIONS = {  # of numbers: default, what it is
    "width": (64, "of the model, a multiple of 32; a head has 32"),
    "layers": (4, "of the model"),
    "init_std": (0.02, "standard deviation of the initialization"),
    "length": (64, "tokens in a row"),
    "rows": (6144, "rows of the training text in an epoch; 0: all"),
    "test_rows": (512, "rows of the test text; 0: all"),
    "batch_size": (16, "rows in a step"),
    "learning_rate": (3e-3, "of AdamW; constant in the search, cosine in final trainings, after a tenth of warm-up"),
    "rounds": (6, "of a search"),
    "prune_rate": (0.3, "share of the survivors that goes in a round"),
    "warmup_epochs": (2, "before the first round"),
    "epochs_per_round": (1, "in each round"),
    "final_epochs": (1.0, "of a final training"),
    "seeds": (3, "of initialization and data order: 1 to this"),
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, every = parser.add_argument, [*STARTS, "random-signs"]
    add("--train", help="a text file")
    add("--test", help="another")
    add("--network", choices=("llama", "gpt2"), default="llama", help="its kind; default: llama")
    add("--tokens", type=int, default=512, help="of a byte-level BPE, 257 or more; 0: bytes; default: 512")
    add("--methods", nargs="+", default=["aws", "lrr"], help="a search by each, the first first; default: aws lrr")
    add("--at", nargs="+", type=int, default=[6, 3], help="rounds to train from, barriers in the first; default: 6 3")
    add("--starts", nargs="+", choices=every, default=every, help="of final trainings; default: all")
    for name, (default, what) in OPTIONS.items():
        add(f"--{name}", type=type(default), default=default, help=f"{what}; default: %(default)s")
    add("--output_dir", type=Path, default=Path("runs/language-model"), help="default: %(default)s")
    add("--smoke", action="store_true", help="made-up text, a small layer, 2 rounds")
    options = parser.parse_args()
    if options.smoke:
        small = {"width": 32, "layers": 1, "length": 16, "batch_size": 8, "rounds": 2, "at": [2, 1]}
        parser.set_defaults(**small, warmup_epochs=1, seeds=1)
        options = parser.parse_args()  # what is given goes before it
    elif not (options.train and options.test):
        parser.error("give --train and --test, text files (or --smoke)")
    for name, wrong, expected in (
        ("at", not all(1 <= index <= options.rounds for index in options.at), f"1 to --rounds {options.rounds}"),
        ("width", options.width < 32 or options.width % 32, "a multiple of 32"),
        ("tokens", options.tokens and options.tokens < 257, "0, for bytes, or 257 and more"),
    ):
        if wrong:
            parser.error(f"--{name} is {getattr(options, name)}; it must be {expected}")
    return options


def main() -> None:
    options = parsed()
    run(Text(options))
    if PartialState().is_main_process:
        print((options.output_dir / "table.md").read_text())


if __name__ == "__main__":
    main()
