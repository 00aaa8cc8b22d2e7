"""Causal language models by transformers.Trainer: a search on text, then final trainings from its signs.

    python recipes/aws_language_model.py --train train.txt --test test.txt --network llama
    python recipes/aws_language_model.py --train train.txt --test test.txt --network gpt2 --tokens 2048

`llama` has RMSNorm, whose scales AWS interpolates, `gpt2` LayerNorm. The text is taken as bytes, or with --tokens as
tokens of a byte-level BPE trained on it. Embeddings and head are never pruned; their signs are transferred, or with
--embeddings init they keep those of the initialization. Prints perplexities (a token) on the test text, before and
after training, and writes trainings.jsonl; started again, it goes on. Not measured yet. --smoke: seconds, no meaning.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import datasets
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from aws_lottery import HeldMask, SignedMask, SignedMaskConfig, WinningSignCallback
from aws_lottery.mask_file.sparse_weights import load_weights
from aws_lottery.summaries import markdown_table, mean_std_text

EMBEDDINGS = {"llama": ("model.embed_tokens", "lm_head"), "gpt2": ("transformer.wte", "transformer.wpe")}  # and heads
STARTS = ("dense", "AWS solution", "fresh + signed mask", "fresh + mask only", "fresh + random signs")


def fresh_model(network: str, vocabulary: int, seed: int, options: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(seed)
    width, layers, heads = options.width, options.layers, options.width // 32
    if network == "gpt2":
        sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": options.length}
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, **sizes))
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, intermediate_size=8 * width // 3 // 8 * 8, **sizes))


def text_of(file: str) -> str:
    lines = datasets.load_dataset("text", data_files={"text": file}, split="text")
    return "\n".join(lines["text"])


def tokens_of(train: str, test: str, options: argparse.Namespace) -> tuple[list[dict], list[dict], int]:
    """Rows of `length` tokens of both texts, and the size of the vocabulary."""
    tokenizer = None
    if options.tokens:
        tokenizer = ByteLevelBPETokenizer()
        tokenizer.train_from_iterator(train.splitlines(), vocab_size=options.tokens, show_progress=False)

    def rows(text: str) -> list[dict]:
        ids = tokenizer.encode(text).ids if tokenizer else list(text.encode())
        starts = range(0, len(ids) - options.length + 1, options.length)
        return [{"input_ids": ids[i : i + options.length], "labels": ids[i : i + options.length]} for i in starts]

    return rows(train), rows(test), options.tokens or 256


def trainer(model: Any, rows: tuple, folder: Path, batch_size: int, *callbacks: Any, **arguments: Any) -> Trainer:
    args = TrainingArguments(
        str(folder),
        learning_rate=1e-3,
        warmup_steps=0.1,  # of each stage, and of each final training
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        prediction_loss_only=True,
        eval_strategy="epoch",
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),
        **arguments,
    )
    return Trainer(model, args, train_dataset=rows[0], eval_dataset=rows[1], callbacks=list(callbacks))


def final_training(
    start: str, found: Path, seed: int, model: Any, rows: tuple, options: argparse.Namespace
) -> dict[str, Any]:
    """Perplexity before and after; written once, then read again."""
    folder = options.output_dir / f"{start.replace(' ', '-')}-{seed}"
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    mask = SignedMask.from_pretrained(found)
    if start == "AWS solution":
        model.load_state_dict(load_weights(found, mask), strict=False)  # a tied head is there as the embedding
    exclude = EMBEDDINGS[options.network] if options.embeddings == "init" else ()
    callbacks = {
        "dense": [],
        "AWS solution": [HeldMask(mask, apply=False)],
        "fresh + signed mask": [HeldMask(mask, exclude=exclude)],
        "fresh + mask only": [HeldMask(mask.binary())],
        "fresh + random signs": [HeldMask(mask.with_random_signs(seed), exclude=exclude)],
    }[start]
    arguments = {"num_train_epochs": options.final_epochs, "lr_scheduler_type": "cosine", "save_strategy": "no"}
    run = trainer(model, rows[:2], folder, options.batch_size, *callbacks, seed=seed, eval_on_start=True, **arguments)
    run.train()
    losses = [log["eval_loss"] for log in run.state.log_history if "eval_loss" in log]
    remaining = 1.0 if start == "dense" else mask.remaining
    row = {"start": start, "remaining": remaining, "seed": seed}
    row |= {"before": math.exp(losses[0]), "after": math.exp(losses[-1])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(row) + "\n")
    return row


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", help="a text file")
    add("--test", help="another")
    add("--network", choices=("llama", "gpt2"), default="llama")
    add("--tokens", type=int, default=0, help="size of a BPE vocabulary, 257 or more; 0: bytes")
    add("--embeddings", choices=("signs", "init"), default="signs", help="what embeddings and head start with")
    for name, default in {"width": 128, "layers": 4, "length": 128, "batch_size": 64, "rounds": 9}.items():
        add(f"--{name}", type=int, default=default)
    for name, default in {"warmup_epochs": 2, "epochs_per_round": 1, "final_epochs": 4, "seeds": 3}.items():
        add(f"--{name}", type=int, default=default)
    add("--output_dir", type=Path, default=Path("runs/language-model"))
    add("--smoke", action="store_true", help="made-up text, two small layers, 1 round")
    options = parser.parse_args()
    if options.smoke:
        small = {"width": 32, "layers": 1, "length": 16, "batch_size": 8, "rounds": 1}
        once = {"warmup_epochs": 1, "epochs_per_round": 1, "final_epochs": 1, "seeds": 1}
        for name, value in {**small, **once}.items():
            setattr(options, name, value)
    elif not (options.train and options.test):
        parser.error("give --train and --test, text files (or --smoke)")
    return options


def main() -> None:
    options = parsed()
    made_up = "the quick brown fox jumps over the lazy dog\n" * 20
    train, test = (made_up, made_up) if options.smoke else (text_of(options.train), text_of(options.test))
    *rows, vocabulary = tokens_of(train, test, options)
    stages = {"warmup_epochs": options.warmup_epochs, "epochs_per_round": options.epochs_per_round}
    config = SignedMaskConfig(rounds=options.rounds, classifier="lm_head", **stages)
    found = options.output_dir / f"round-{options.rounds:02}"
    if not (found / "weights.safetensors").exists():
        search = WinningSignCallback(config, about={"dataset": options.train or "made up", "task": "text-generation"})
        model = fresh_model(options.network, vocabulary, 0, options)
        arguments = {"num_train_epochs": search.epochs, "lr_scheduler_type": "constant_with_warmup"}
        checkpoint = get_last_checkpoint(str(options.output_dir)) if options.output_dir.exists() else None
        run = trainer(
            model, tuple(rows), options.output_dir, options.batch_size, search, save_strategy="epoch", **arguments
        )
        run.train(resume_from_checkpoint=checkpoint)

    results, lines = [], []
    for start in STARTS:
        done = [
            final_training(start, found, seed, fresh_model(options.network, vocabulary, seed, options), rows, options)
            for seed in range(1, 1 + options.seeds)
        ]
        lines.append([start, *(mean_std_text([row[when] for row in done]) for when in ("before", "after"))])
        results += done
    (options.output_dir / "trainings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in results))
    print(f"\n{SignedMask.from_pretrained(found)}\nembeddings and head of fresh starts: {options.embeddings}")
    print(f"Perplexity a token on the test text, mean ± standard deviation of {options.seeds} seeds:\n")
    print(markdown_table(["start", "before training", "after training"], lines))


if __name__ == "__main__":
    main()
