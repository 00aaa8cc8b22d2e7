"""Does it matter that a sharded Trainer's checkpoint is resumed by another number of processes?

    python benchmarks/resume_on_others.py

A perceptron with LayerNorm on the digits, sharded by FSDP2 over gloo processes on this machine, 64 images in a step
whatever their number, AdamW. A search (AWS, a warm-up and 3 rounds), plain training of as many epochs, and plain
training whose optimizer is emptied as often as the search's; each cut within the second round and resumed, against the
same run that nothing cut. `equal` is the share of all entries of the signed mask that are the same; `apart` the largest
difference between trained weights, over the largest weight.
"""

import argparse
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState
from torch import nn
from transformers import TrainerCallback, TrainingArguments

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from sharding_on_cpus import ShardingTrainer

from aws_lottery import SignedMask, SignedMaskConfig, WinningSignCallback
from aws_lottery.data import digit_images
from aws_lottery.sharding import whole

CONFIG = SignedMaskConfig(rounds=3, warmup_epochs=2, epochs_per_round=2)
CHANGES, BATCH, CUT_AT = ((2, 2), (2, 4), (4, 2)), 64, 100


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = [nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 128), nn.LayerNorm(128), nn.ReLU()]
        self.body = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))

    def forward(self, images, labels):
        return {"loss": F.cross_entropy(self.body(images), labels)}


class ByLayers(ShardingTrainer):
    min_num_params = 1000  # the large linear layers


class Cut(TrainerCallback):
    def on_save(self, args, state, control, **of_trainer):
        raise KeyboardInterrupt


class Renew(TrainerCallback):
    """Empties the optimizer at the start of each round, as a search does: its next step divides by gradients that may
    be as small as rounding errors are."""

    def on_epoch_begin(self, args, state, control, *, optimizer, **of_trainer):
        if state.epoch in (2, 4, 6):
            optimizer.state.clear()


def train(folder: str, kind: str, processes: int, cut: bool, resume: bool) -> None:
    """On each process."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.manual_seed(0)
    args = TrainingArguments(
        folder,
        num_train_epochs=CONFIG.epochs,
        per_device_train_batch_size=BATCH // processes,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        save_strategy="steps",
        save_steps=CUT_AT,
        report_to=[],
        logging_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [{"images": image, "labels": label} for image, label in digit_images("train")]
    own = {"search": [WinningSignCallback(CONFIG)], "plain": [], "emptied": [Renew()]}[kind]
    callbacks = [*own, *([Cut()] if cut else [])]
    trainer = ByLayers(Net(), args, train_dataset=data, callbacks=callbacks)
    with suppress(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=resume)
        weights = {name: whole(weight.detach()).clone() for name, weight in trainer.model.named_parameters()}
        if PartialState().is_main_process:
            torch.save(weights, f"{folder}/weights.pt")
    PartialState().destroy_process_group()


def compare(top: Path, kind: str, before: int, after: int) -> tuple[float, float | None]:
    """How far weights are apart, and the share of equal entries of the signed masks."""
    whole_run, cut = top / f"{kind}-{before}", top / f"{kind}-{before}-{after}"
    runs = [(cut, before, True, False), (cut, after, False, True)]
    for folder, processes, ends, resumes in [(whole_run, before, False, False)] * (not whole_run.exists()) + runs:
        debug_launcher(train, args=(str(folder), kind, processes, ends, resumes), num_processes=processes)
    a, b = (torch.load(folder / "weights.pt") for folder in (whole_run, cut))
    apart = max(float((a[name] - b[name]).abs().max() / a[name].abs().max()) for name in a)
    if kind != "search":
        return apart, None
    one, other = (SignedMask.from_pretrained(folder / f"round-{CONFIG.rounds:02}") for folder in (whole_run, cut))
    return apart, sum(int((one[n] == other[n]).sum()) for n in one) / sum(value.numel() for value in one.values())


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| processes | then | signed mask: equal | search: apart | plain training: apart | ... emptied: apart |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as top:
        for before, after in CHANGES:
            apart, equal = compare(Path(top), "search", before, after)
            plain, emptied = (compare(Path(top), kind, before, after)[0] for kind in ("plain", "emptied"))
            print(f"| {before} | {after} | {equal:.5f} | {apart:.1e} | {plain:.1e} | {emptied:.1e} |", flush=True)


if __name__ == "__main__":
    main()
