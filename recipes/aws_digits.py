"""AWS on handwritten digits, the whole job in under two minutes on one CPU core; nothing is downloaded.

    python recipes/aws_digits.py
    accelerate launch recipes/aws_digits.py                    # uses what `accelerate config` set up
    torchrun --nproc_per_node 2 recipes/aws_digits.py          # two processes, the same global batch

Finds a signed mask of an 8-layer perceptron by AWS (Algorithm 1), saves it, loads it back, applies it to fresh random
initializations and trains these, beside controls on the same initializations. Writes to --output_dir: the mask's
folder, metrics.jsonl, table.md and accuracy.png. Expected result: docs/results/digits. --smoke: seconds, no meaning.
"""

import argparse
import copy
import inspect
import math
import statistics
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch import nn
from tqdm import tqdm

from aws_lottery import (
    AWSPruner,
    Result,
    SignedMask,
    SignedMaskConfig,
    TrainingConfig,
    evaluate,
    provenance,
    recalibrate,
    train,
)
from aws_lottery.data import Images, batches, digit_images
from aws_lottery.strict_json import to_json

BATCH_SIZE = 64


def fresh_network(seed: int, depth: int = 8, width: int = 128) -> nn.Module:
    """A perceptron 64 -> depth x width -> 10 with BatchNorm, freshly initialized from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in in [64] + [width] * (depth - 1):
            layers += [nn.Linear(fan_in, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, 10))


class Job:
    """What all runs share: data, hyper-parameters, progress and the log of metrics."""

    def __init__(self, options: argparse.Namespace, accelerator: Accelerator):
        self.accelerator = accelerator
        self.train_data, self.test_data = digit_images("train"), digit_images("test")
        if options.smoke:
            self.train_data = Images(*self.train_data[: 4 * BATCH_SIZE])
        self.search = SignedMaskConfig(
            rounds=options.rounds,
            warmup_epochs=2 * options.round_epochs,
            epochs_per_round=options.round_epochs,
            architecture="perceptron 64-8x128-10 with BatchNorm (recipes/aws_digits.py)",
        )
        self.final_epochs, self.seeds = options.final_epochs, range(1, options.inits + 1)
        self.folder = Path(options.output_dir)
        if accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "metrics.jsonl").write_text("")
        search_epochs = self.search.epochs
        steps = len(self.train_data) // BATCH_SIZE
        total = steps * (search_epochs + len(CONDITIONS) * options.inits * options.final_epochs)
        self.progress = tqdm(total=total, unit=" steps", disable=not accelerator.is_main_process)

    def log(self, **metrics: object) -> None:
        if self.accelerator.is_main_process:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(to_json(metrics) + "\n")

    def train(self, model: nn.Module, epochs: int, schedule: str, seed: int) -> float:
        config = TrainingConfig(epochs=epochs, schedule=schedule, batch_size=BATCH_SIZE)
        return train(
            model,
            self.train_data,
            config,
            accelerator=self.accelerator,
            seed=seed,
            on_step=lambda training: self.progress.update(),
        )

    def accuracy(self, model: nn.Module) -> float:
        """Test accuracy in percent; BatchNorm statistics are re-estimated first, at the network as it is."""
        recalibrate(model, batches(self.train_data, BATCH_SIZE, seed=0))
        return evaluate(model, self.test_data, accelerator=self.accelerator)


def find(job: Job) -> nn.Module:
    """Warm-up and T rounds of AWS; the signed mask goes to the `mask` folder. Returns the sparse network."""
    model = fresh_network(seed=0).to(job.accelerator.device)
    pruner = AWSPruner(model, job.search)
    for stage in pruner.rounds():
        job.progress.set_description(f"round {stage.index}/{stage.rounds}, {stage.remaining:.3f} remaining")
        loss = job.train(model, stage.epochs, "constant", seed=stage.index)
        job.log(stage=stage.index, remaining=stage.remaining, loss=loss, accuracy=job.accuracy(model))
    if job.accelerator.is_main_process:
        pruner.signed_mask().save_pretrained(job.folder / "mask")
    job.accelerator.wait_for_everyone()
    pruner.detach()
    return model


# condition -> the start of training (seed, solution, mask) -> (network, what is applied to it and held)
CONDITIONS = {
    "dense": lambda seed, solution, mask: (fresh_network(seed), None),
    "AWS solution": lambda seed, solution, mask: (copy.deepcopy(solution), mask),
    "fresh + signed mask": lambda seed, solution, mask: (fresh_network(seed), mask),
    "fresh + mask only": lambda seed, solution, mask: (fresh_network(seed), mask.binary()),
    "fresh + random signs": lambda seed, solution, mask: (fresh_network(seed), mask.with_random_signs(seed)),
}


def run(job: Job, condition: str, seed: int, solution: nn.Module, mask: SignedMask) -> tuple[float, float]:
    """Test accuracy before and after training from one start: of init `seed`, with data order `seed`."""
    job.progress.set_description(f"{condition}, init {seed}")
    model, transferred = CONDITIONS[condition](seed, solution, mask)
    model.to(job.accelerator.device)
    if transferred is not None:
        transferred.apply_(model)
        transferred.held(model)
    before = job.accuracy(model)
    job.train(model, job.final_epochs, "multistep", seed=1000 + seed)
    after = job.accuracy(model)
    job.log(condition=condition, seed=seed, before=before, after=after)
    return before, after


Results = dict[str, list[tuple[float, float]]]


def summary(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


def report(results: Results, mask: SignedMask) -> str:
    """The table, what it shows in its own figures, and what it does not."""
    cells = {name: [summary(list(column)) for column in zip(*runs, strict=True)] for name, runs in results.items()}
    rows = [f"| {name} | {before} | {after} |" for name, (before, after) in cells.items()]
    signed, bare = cells["fresh + signed mask"], cells["fresh + mask only"]
    return "\n".join(
        [
            f"{mask.remaining:.4f} of the prunable weights remain ({mask.remaining_total:.4f} of all parameters). "
            f"Test accuracy in %, mean ± std over {len(results['dense'])} initializations:",
            "",
            "| start | before training | after training |",
            "|---|---|---|",
            *rows,
            "",
            f"Signs carry the network: before any training, fresh magnitudes under the signs score {signed[0]}, under "
            f"the bare mask {bare[0]} (chance is 10). After training: {signed[1]} with the signs, {bare[1]} with the "
            f"mask only, {cells['dense'][1]} dense.",
            "Not shown: anything beyond one small network and 360 test digits (one digit is 0.3 points); that AWS "
            "beats other ways to find signs; the paper's figures.",
            "",
        ]
    )


def tell(mask: SignedMask, results: Results, options: argparse.Namespace) -> None:
    """Save the mask again, with what was measured and how it was made: its card shows both."""
    data = "scikit-learn digits"
    mask.results = tuple(
        Result(name, data, [after for _, after in runs], [before for before, _ in runs])
        for name, runs in results.items()
    )
    given = {name: value for name, value in vars(options).items() if name not in ("output_dir", "smoke")}
    mask.provenance = provenance(
        command=" ".join(
            ["python recipes/aws_digits.py", *(f"--{k} {v}" for k, v in given.items()), "--smoke" * options.smoke]
        ).strip(),
        dataset=data,
        training={
            **vars(TrainingConfig(epochs=options.final_epochs, batch_size=BATCH_SIZE)),
            "schedule in the search": "constant",
        },
        model_code=f"import torch\nfrom torch import nn\n\n\n{inspect.getsource(fresh_network)}\n\n"
        "model = fresh_network(seed=1)",
        task="image-classification",
        license="apache-2.0",
        limits=["One small network and 360 test digits (one digit is 0.3 points); not that AWS beats other methods."],
    )
    mask.save_pretrained(Path(options.output_dir) / "mask")


def plot(results: Results, path: Path) -> None:
    """Accuracy before and after training: mean and standard deviation as diamonds, each initialization as a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axis, title, column in zip(axes, ("before training", "after training"), (0, 1), strict=True):
        values = [[run[column] for run in runs] for runs in results.values()]
        spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
        means = [statistics.mean(v) for v in values]
        axis.errorbar(means, list(results), xerr=spread, fmt="kD", markersize=6, markerfacecolor="white", capsize=4)
        for row, runs in enumerate(values):
            axis.plot(runs, [row + 0.25] * len(runs), "k.", markersize=4)
        axis.set(title=title, xlabel="test accuracy, %")
        axis.grid(axis="x", color="0.85")
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="runs/digits")
    parser.add_argument("--rounds", type=int, default=18, help="prunes of 20 %% of the survivors each")
    parser.add_argument("--round_epochs", type=int, default=4, help="twice as many in the warm-up")
    parser.add_argument("--final_epochs", type=int, default=20)
    parser.add_argument("--inits", type=int, default=5, help="fresh initializations")
    parser.add_argument("--smoke", action="store_true", help="2 rounds, 1 epoch, 2 inits, 256 digits")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.rounds, options.round_epochs, options.final_epochs, options.inits = 2, 1, 1, 2

    torch.set_num_threads(1)  # the layers are so small that a second thread costs more than it does
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else processes on CPUs that torchrun starts stay strangers
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    job = Job(options, accelerator)
    solution = find(job)
    mask = SignedMask.from_pretrained(job.folder / "mask")
    results = {name: [run(job, name, seed, solution, mask) for seed in job.seeds] for name in CONDITIONS}
    job.progress.close()
    if accelerator.is_main_process:
        tell(mask, results, options)
        text = report(results, mask)
        (job.folder / "table.md").write_text(text)
        plot(results, job.folder / "accuracy.png")
        print(f"\n{text}\nWritten to {job.folder}: mask/, metrics.jsonl, table.md, accuracy.png")
    accelerator.end_training()


if __name__ == "__main__":
    main()
