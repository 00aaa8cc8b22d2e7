"""Do winning signs exist for a language model? Searches on text, final trainings from their signs, barriers in loss.

    python recipes/aws_language_model.py --train train.txt --test test.txt                  # Llama kind
    python recipes/aws_language_model.py --train train.txt --test test.txt --network gpt2 --tokens 0  # on bytes

One search by each of --methods (`transformers.Trainer` with WinningSignCallback); then, from the masks of its rounds
--at, final trainings of fresh initializations: with the signs, with those of the pruned matrices alone, with the mask
alone, with random signs; the dense network; and the solution of the search, trained on. Barriers in loss (Eq. 1) tell
whether a training ends in the basin of the solution, and whether two trainings from one start do.

`llama` has RMSNorm, whose scales AWS interpolates, `gpt2` LayerNorm. Embeddings and head are never pruned; the start
`signs` takes their signs over as well, `matrix-signs` leaves them as initialized. An epoch is --rows rows of --length
tokens, spread evenly over the text. Each training is written once, so a run that was killed goes on; results.jsonl,
table.md and loss.png are written anew after each group of trainings. What came out: docs/results/language-model.
--smoke: seconds, on made-up text, no meaning.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from aws_lottery import SignedMask, SignedMaskConfig, WinningSignCallback
from aws_lottery.atomic import replace_file
from aws_lottery.connectivity import barrier_between
from aws_lottery.experiments.claims import Claim, judge
from aws_lottery.experiments.jobs import Job, JobLine, Plan, SearchRound
from aws_lottery.experiments.results import Origin
from aws_lottery.experiments.search_statistics import negative_gammas, sign_flips, with_norms_reset
from aws_lottery.experiments.tables import label
from aws_lottery.mask_file.sparse_weights import solution_weights
from aws_lottery.parameters.unwrap import parameters_of
from aws_lottery.runs.checkpoint import claim
from aws_lottery.runs.lock import written_once
from aws_lottery.summaries import markdown_table, mean_std_text
from aws_lottery.transfers import TRANSFERS, Transfer, transfer_

Row = dict[str, Any]


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


ONLY_MATRICES = Transfer("fresh + mask, signs of matrices", partial(randomized, prunable=False), marker="v", color="C4")
ONLY_EMBEDDINGS = Transfer(
    "fresh + mask, signs of embeddings", partial(randomized, prunable=True), marker="D", color="tab:cyan"
)
TRANSFERS.update({"matrix-signs": ONLY_MATRICES, "embedding-signs": ONLY_EMBEDDINGS})
MARGIN = 0.05  # nats a token: what counts as no worse than dense, 5 % of the perplexity
STARTS = ("dense", "signs", "mask", "matrix-signs", "embedding-signs", "solution")


class Text:
    """Rows of tokens of a training and a test text, and fresh models for them."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        made_up = "the quick brown fox jumps over the lazy dog\n" * 40
        train, test = (made_up if options.smoke else text_of(file) for file in (options.train, options.test))
        self.tokenizer, self.vocabulary = None, options.tokens or 256
        if options.tokens:
            self.tokenizer = ByteLevelBPETokenizer()
            self.tokenizer.train_from_iterator(train.splitlines(), vocab_size=options.tokens, show_progress=False)
        self.train, self.test = self.rows(train, options.rows), self.rows(test, options.test_rows)

    def rows(self, text: str, count: int) -> list[Row]:
        """`count` rows spread evenly over the text; 0, or more than there are: all."""
        ids = self.tokenizer.encode(text).ids if self.tokenizer else list(text.encode())
        there = len(ids) // self.options.length
        count = min(count or there, there)
        starts = [index * there // count * self.options.length for index in range(count)]
        rows = [ids[start : start + self.options.length] for start in starts]
        return [{"input_ids": row, "labels": row} for row in rows]

    def fresh(self, seed: int) -> Any:
        """A model initialized from `seed`, without dropout."""
        torch.manual_seed(seed)
        width, layers, std = self.options.width, self.options.layers, self.options.init_std
        if self.options.network == "gpt2":
            sizes = {"n_embd": width, "n_layer": layers, "n_head": width // 32, "n_positions": self.options.length}
            dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
            ids = {"vocab_size": self.vocabulary, "bos_token_id": 0, "eos_token_id": 0}
            return GPT2LMHeadModel(GPT2Config(**sizes, **dropout, **ids, initializer_range=std))
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 32}
        sizes |= {"intermediate_size": 8 * width // 3 // 8 * 8, "vocab_size": self.vocabulary}
        return LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=std))

    def trainer(self, model: Any, folder: Path, *callbacks: Any, **arguments: Any) -> Trainer:
        args = TrainingArguments(
            str(folder),
            learning_rate=self.options.learning_rate,
            weight_decay=0.1,
            warmup_steps=0.1,  # of each stage, and of each final training
            per_device_train_batch_size=self.options.batch_size,
            per_device_eval_batch_size=64,
            prediction_loss_only=True,
            logging_steps=100,
            save_total_limit=2,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.accelerator.is_available(),
            **arguments,
        )
        return Trainer(model, args, train_dataset=self.train, eval_dataset=self.test, callbacks=list(callbacks))

    def loss(self, model: Any) -> float:
        """Nats a token on the test text."""
        return self.trainer(model, self.options.output_dir).evaluate()["eval_loss"]


def text_of(file: str) -> str:
    return "\n".join(datasets.load_dataset("text", data_files={"text": file}, split="text")["text"])


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
        architecture=f"{options.network} {options.layers}x{options.width}",
    )
    about = {"dataset": options.train or "made up", "task": "text-generation"}
    callback = WinningSignCallback(config, about=about)
    schedule = {"num_train_epochs": callback.epochs, "lr_scheduler_type": "constant_with_warmup"}
    checkpoint = get_last_checkpoint(str(folder)) if folder.exists() else None
    run = text.trainer(text.fresh(0), folder, callback, seed=0, save_strategy="epoch", **schedule)
    run.train(resume_from_checkpoint=checkpoint)


def origin(job: Job) -> Origin:
    return job.source.origin if isinstance(job.source, SearchRound) else Origin(remaining_total=1.0)


def final_training(text: Text, job: Job, folder: Path) -> Row:
    """Losses before and after, and the share of survivors whose sign is that of the search's mask in the end."""
    model = text.fresh(job.seed)
    if isinstance(job.source, SearchRound):
        transfer, mask = TRANSFERS[job.transfer], job.source.mask
        weights = solution_weights(job.source.folder, mask) if transfer.needs_weights else None
        transfer_(model, transfer, mask, weights=weights, seed=job.seed)
    schedule = {"num_train_epochs": text.options.final_epochs, "lr_scheduler_type": "cosine", "save_strategy": "no"}
    run = text.trainer(model, folder, seed=job.data_seed, **schedule)
    before = run.evaluate()["eval_loss"]
    run.train()
    model.save_pretrained(folder)
    row = {
        "kind": "loss",
        **asdict(origin(job)),
        "transfer": job.transfer,
        "seed": job.seed,
        "data_seed": job.data_seed,
    }
    return row | {"before": before, "after": run.evaluate()["eval_loss"], "signs_kept": signs_kept(model, job)}


def signs_kept(model: Any, job: Job) -> float | None:
    if not isinstance(job.source, SearchRound):
        return None
    mask, theta = job.source.mask, parameters_of(model)
    same = sum(int((theta[name].detach().sign() * mask[name] > 0).sum()) for name in mask.prunable)
    return same / sum(int(mask[name].count_nonzero()) for name in mask.prunable)


def line(text: Text, between: JobLine, folder_of: Callable[[Job], Path]) -> Row:
    """Losses on the line from the network that `end` trained to that of `job`, and its barrier (Eq. 1)."""
    a, b = (type(text.fresh(0)).from_pretrained(folder_of(job)) for job in (between.job, between.end))
    barrier = barrier_between(a, b, text.loss, points=5)
    row = {"kind": between.kind, **asdict(origin(between.job)), "transfer": between.job.transfer}
    row |= {"seed": between.job.seed, "alphas": barrier.alphas, "losses": barrier.errors}
    return row | barrier.figures()


def analysis(text: Text, at: SearchRound) -> Row:
    """The network as the search left it after a round, pruned and not trained further."""
    model, psi_init = text.fresh(0), parameters_of(text.fresh(0))
    transfer_(model, TRANSFERS["solution"], at.mask, weights=solution_weights(at.folder, at.mask))
    flips = sign_flips(at.before.mask, at.mask) if at.before.folder.is_dir() else None
    row = {"kind": "analysis", **asdict(at.origin), "sign_flips": flips, "negative_scales": negative_gammas(model)}
    layers = {layer.name: layer.remaining for layer in at.mask.table() if layer.prunable}
    losses = {"loss": text.loss(model), "loss_norms_reset": text.loss(with_norms_reset(model, psi_init))}
    return row | losses | {"layers": layers}


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
    settings = {name: value for name, value in vars(options).items() if name not in ("seeds", "at", "output_dir")}
    claim(options.output_dir, settings, resume=True)
    accelerator, measured = Accelerator(cpu=options.smoke), options.output_dir / "measurements"

    def folder_of(job: Job) -> Path:
        return options.output_dir / "trainings" / job.name

    def once(name: str, measure: Callable[..., Row], *arguments: Any) -> None:
        rows[name] = written_once(measured / f"{name}.json", partial(measure, text, *arguments), accelerator)

    for stage in stages(options.methods, options.at):
        searches = {method: options.output_dir / f"search-{method}" for method in stage.methods}
        for method, folder in searches.items():
            search(text, method, folder)
        seeds = tuple(range(1, 1 + options.seeds))
        plan = Plan(
            rounds=[SearchRound(folder, index) for index in stage.rounds for folder in searches.values()],
            transfers=stage.starts,
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
        report(list(rows.values()), options)
    return list(rows.values())


def report(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """results.jsonl and table.md in --output_dir."""
    replace_file(options.output_dir / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    parts = (losses_table(rows), verdicts(rows, options.methods, options.at[0]))
    replace_file(options.output_dir / "table.md", "\n\n".join(parts).encode())


def verdicts(rows: Sequence[Row], methods: Sequence[str], at: int) -> str:
    """The claims of docs/results/language-model, judged on differences between trainings of one seed."""
    after = {(row["method"], row["round"], row["transfer"], row["seed"]): row["after"] for row in losses(rows)}

    def ahead(one: tuple, other: tuple) -> tuple[float, ...]:
        """By how many nats a token the loss of `one` is below that of `other`, for each seed that both have."""
        seeds = sorted({seed for *_, seed in after})
        return tuple(after[*other, s] - after[*one, s] for s in seeds if (*one, s) in after and (*other, s) in after)

    first, last, dense = methods[0], methods[-1], (None, None, "dense")
    signs, matrices, mask = ((first, at, start) for start in ("signs", "matrix-signs", "mask"))
    pairs = {
        "signs": (f"{first}: the signs do better than the mask alone", signs, mask, 0.0),
        "matrix-signs": (f"{first}: so do those of the pruned matrices alone", matrices, mask, 0.0),
        "dense": (f"{first}: with the signs it is as good as dense", signs, dense, -MARGIN),
        "method": (f"the signs of {first} do better than those of {last}", signs, (last, at, "signs"), 0.0),
    }
    claims = [
        Claim(name=name, statement=statement, values=ahead(one, other), side="above", bound=bound)
        for name, (statement, one, other, bound) in pairs.items()
    ]
    lines = []
    for found in judge(claims):
        interval = "-" if found.low is None else f"{found.low:.3f} to {found.high:.3f}"
        p = "-" if found.p_corrected is None else f"{found.p_corrected:.2g}"
        values = ", ".join(f"{value:.3f}" for value in found.claim.values)
        lines.append([found.claim.statement, f"above {found.claim.bound:g}", values, interval, p, found.verdict])
    header = ["claim", "holds if the mean is", "nats ahead, by seed", "interval", "p, corrected", "verdict"]
    return markdown_table(header, lines)


def losses(rows: Sequence[Row]) -> list[Row]:
    """Of the trainings, those with the first data order of their seed."""
    return [row for row in rows if row["kind"] == "loss" and row["seed"] == row["data_seed"]]


def losses_table(rows: Sequence[Row]) -> str:
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in losses(rows):
        groups[row["round"] or 0, row["method"] or "", row["transfer"]].append(row)
    lines = []
    for (_, method, transfer), group in sorted(groups.items(), key=lambda item: item[0][:2]):
        perplexities = [mean_std_text([math.exp(row[when]) for row in group]) for when in ("before", "after")]
        same = [100 * row["signs_kept"] for row in group if row["signs_kept"] is not None]
        cells = [label(method or None, transfer), f"{group[0]['remaining']:.3f}", *perplexities]
        lines.append([*cells, mean_std_text([row["after"] for row in group]), mean_std_text(same), str(len(group))])
    header = ["start", "remaining", "perplexity before training", "after training", "loss after"]
    return markdown_table([*header, "signs of the search in the end, %", "n"], lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", help="a text file")
    add("--test", help="another")
    add("--network", choices=("llama", "gpt2"), default="llama")
    add("--tokens", type=int, default=512, help="size of a byte-level BPE vocabulary, 257 or more; 0: bytes")
    add(
        "--methods",
        nargs="+",
        default=["aws", "lrr"],
        help="a search by each; the most telling trainings use the first",
    )
    add("--at", nargs="+", type=int, default=[6, 3], help="rounds to train from; barriers are measured in the first")
    for name, default in {"width": 64, "layers": 4, "length": 64, "rows": 6144, "test_rows": 512}.items():
        add(f"--{name}", type=int, default=default)
    for name, default in {
        "batch_size": 16,
        "rounds": 6,
        "warmup_epochs": 2,
        "epochs_per_round": 1,
        "seeds": 3,
    }.items():
        add(f"--{name}", type=int, default=default)
    for name, default in {"final_epochs": 1.0, "learning_rate": 3e-3, "prune_rate": 0.3, "init_std": 0.02}.items():
        add(f"--{name}", type=float, default=default)
    add("--output_dir", type=Path, default=Path("runs/language-model"))
    add("--smoke", action="store_true", help="made-up text, a small layer, 2 rounds")
    options = parser.parse_args()
    if options.smoke:
        small = {"width": 32, "layers": 1, "length": 16, "batch_size": 8, "rounds": 2, "at": [2, 1]}
        once = {"warmup_epochs": 1, "seeds": 1}
        for name, value in {**small, **once}.items():
            setattr(options, name, value)
    elif not (options.train and options.test):
        parser.error("give --train and --test, text files (or --smoke)")
    return options


def main() -> None:
    options = parsed()
    run(Text(options))
    print((options.output_dir / "table.md").read_text())


if __name__ == "__main__":
    main()
