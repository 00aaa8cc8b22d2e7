"""A small vision transformer on handwritten digits by transformers.Trainer: search and final trainings; no downloads.

    python recipes/aws_trainer_vit.py
    accelerate launch --config_file recipes/launch/fsdp2.yaml --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP \\
        --fsdp_transformer_layer_cls_to_wrap ViTLayer recipes/aws_trainer_vit.py       # sharded over several GPUs

One `train` with WinningSignCallback is the search (Algorithm 1). Then fresh initializations are trained dense, from
its signs (HeldMask), from the mask alone and from random signs, on the same seeds, and the solution of the search is
trained on. Prints a table and writes trainings.jsonl; started again, it goes on. What came out is in
docs/results/trainer-vit. --smoke: seconds, no meaning.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from aws_lottery import HeldMask, SignedMask, SignedMaskConfig, WinningSignCallback
from aws_lottery.data import digit_images
from aws_lottery.integrations.checkpoints import last_checkpoint
from aws_lottery.mask_file.sparse_weights import load_weights
from aws_lottery.summaries import markdown_table, mean_std_text

CONDITIONS = ("dense", "AWS solution", "fresh + signed mask", "fresh + mask only", "fresh + random signs")


def fresh_vit(seed: int) -> ViTForImageClassification:
    """4 layers of width 48 on patches of 2x2 pixels of 8x8: 77 thousand weights."""
    torch.manual_seed(seed)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=96,
            image_size=8,
            patch_size=2,
            num_channels=1,
            num_labels=10,
        )
    )


def digits(split: str) -> list[dict[str, Any]]:
    images, labels = digit_images(split).tensors
    return [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]


def trainer(model: ViTForImageClassification, folder: Path, *callbacks: Any, **arguments: Any) -> Trainer:
    def accuracy(result: Any) -> dict[str, float]:
        return {"accuracy": 100 * float((result.predictions.argmax(-1) == result.label_ids).mean())}

    args = TrainingArguments(
        str(folder),
        learning_rate=1e-3,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=360,
        eval_strategy="epoch",
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),
        **arguments,
    )
    return Trainer(
        model,
        args,
        train_dataset=digits("train"),
        eval_dataset=digits("test"),
        compute_metrics=accuracy,
        callbacks=list(callbacks),
    )


def search(config: SignedMaskConfig, folder: Path) -> None:
    """Leaves the mask and the weights of each round in `folder`; goes on where it was, or returns if it is done."""
    if not (folder / f"round-{config.rounds:02}" / "weights.safetensors").exists():
        callback = WinningSignCallback(config, about={"dataset": "scikit-learn digits", "task": "image-classification"})
        arguments = {"lr_scheduler_type": "constant", "save_strategy": "epoch", "num_train_epochs": config.epochs}
        run = trainer(fresh_vit(0), folder, callback, **arguments)
        run.train(resume_from_checkpoint=last_checkpoint(folder))


def final_training(condition: str, last_round: Path, seed: int, epochs: int, output_dir: Path) -> dict[str, Any]:
    """Accuracy in percent before and after a training from `condition`; written once, then read again."""
    folder = output_dir / f"{condition.replace(' ', '-')}-{seed}"
    result = folder / "result.json"
    if result.exists():
        return json.loads(result.read_text())
    mask, model = SignedMask.from_pretrained(last_round), fresh_vit(seed)
    if condition == "AWS solution":
        model.load_state_dict(load_weights(last_round, mask))
    callbacks = {
        "dense": [],
        "AWS solution": [HeldMask(mask, apply=False)],
        "fresh + signed mask": [HeldMask(mask)],
        "fresh + mask only": [HeldMask(mask.binary())],
        "fresh + random signs": [HeldMask(mask.with_random_signs(seed))],
    }[condition]
    run = trainer(
        model,
        folder,
        *callbacks,
        num_train_epochs=epochs,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        seed=seed,
        eval_on_start=True,
        save_strategy="no",
    )
    run.train()
    measured = [log["eval_accuracy"] for log in run.state.log_history if "eval_accuracy" in log]
    remaining = 1.0 if condition == "dense" else mask.remaining
    row = {"condition": condition, "remaining": remaining, "seed": seed, "before": measured[0], "after": measured[-1]}
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(row) + "\n")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/trainer-vit"))
    parser.add_argument("--smoke", action="store_true", help="1 round of 1 epoch, 1 initialization")
    options = parser.parse_args()
    rounds, epochs, final_epochs, seeds = (1, 1, 1, 1) if options.smoke else (12, 4, 20, 3)

    search(SignedMaskConfig(rounds=rounds, warmup_epochs=2 * epochs, epochs_per_round=epochs), options.output_dir)
    last_round, results, lines = options.output_dir / f"round-{rounds:02}", [], []
    for condition in CONDITIONS:
        trainings = partial(final_training, condition, last_round, epochs=final_epochs, output_dir=options.output_dir)
        rows = [trainings(seed=seed) for seed in range(1, 1 + seeds)]
        lines.append([condition, *(mean_std_text([row[when] for row in rows]) for when in ("before", "after"))])
        results += rows
    if not PartialState().is_main_process:
        return
    (options.output_dir / "trainings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in results))
    print(
        f"\n{SignedMask.from_pretrained(last_round)}\nTest accuracy in %, mean ± standard deviation of {seeds} seeds:\n"
    )
    print(markdown_table(["start", "before training", "after training"], lines))


if __name__ == "__main__":
    main()
