"""Texts as rows of tokens, fresh language models for them, and their Trainer: what aws_language_model.py trains."""

import argparse
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


class Text:
    """Rows of tokens of a training and a test text, and fresh models for them."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        made_up = "the quick brown fox jumps over the lazy dog\n" * 20
        train, test = (made_up if options.smoke else text_of(file) for file in (options.train, options.test))
        self.tokenizer, self.vocabulary = None, options.tokens or 256
        if options.tokens:
            self.tokenizer = ByteLevelBPETokenizer()
            self.tokenizer.train_from_iterator(train.splitlines(), vocab_size=options.tokens, show_progress=False)
        self.train, self.test = self.rows(train, options.rows), self.rows(test, options.test_rows)

    def rows(self, text: str, count: int) -> list[dict[str, list[int]]]:
        """`count` rows spread evenly over the text; 0, or more than there are: all."""
        ids = self.tokenizer.encode(text).ids if self.tokenizer else list(text.encode())
        there = len(ids) // self.options.length
        if not there:
            raise ValueError(
                f"a text of {len(ids)} tokens has no row of {self.options.length}: give a smaller --length"
            )
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
            logging_steps=100,
            save_total_limit=2,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.accelerator.is_available(),
            **arguments,
        )
        return Trainer(model, args, train_dataset=self.train, callbacks=list(callbacks))

    @torch.no_grad()
    def loss(self, model: Any) -> float:
        """Nats a predicted token on the test text, of a model that each process has whole.

        Not by the Trainer: it can't measure a model that it would have to shard first, and of GPT-2 it divides by all
        tokens of a row (transformers 5.23), though nothing predicts the first.
        """
        device = PartialState().device
        model.to(device).eval()
        rows = torch.tensor([row["input_ids"] for row in self.test], device=device)
        losses = [model(input_ids=batch, labels=batch).loss * len(batch) for batch in rows.split(64)]
        return float(sum(losses)) / len(rows)


def name_of(options: argparse.Namespace) -> str:
    """`llama 4x64`: of 4 layers of width 64."""
    return f"{options.network} {options.layers}x{options.width}"


def text_of(file: str) -> str:
    return "\n".join(datasets.load_dataset("text", data_files={"text": file}, split="text")["text"])
