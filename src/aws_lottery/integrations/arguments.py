"""The Trainer's arguments: which of them a search refuses, and which of them the card of a mask records."""

from typing import Any

from transformers import TrainingArguments

from ..config import SignedMaskConfig


def refuse(args: TrainingArguments, config: SignedMaskConfig, solution_epochs: int) -> None:
    """Raises: ValueError for arguments that a search can't run under; it says what to write instead."""
    epochs = config.epochs + solution_epochs
    if args.max_steps > 0 or args.num_train_epochs != epochs:
        found = f"max_steps={args.max_steps}" if args.max_steps > 0 else f"num_train_epochs={args.num_train_epochs:g}"
        raise ValueError(
            f"this search takes {epochs} epochs (warm-up {config.warmup_epochs}, then {config.rounds} rounds of "
            f"{config.epochs_per_round}{f', then {solution_epochs} of the solution' if solution_epochs else ''}), the "
            f"TrainingArguments have {found}: give num_train_epochs={epochs}, which is the callback's `epochs`"
        )
    for argument, reason in {
        "load_best_model_at_end": "the best checkpoint may lie before a prune, and would bring pruned weights back; "
        "each round's mask and weights are kept in output_dir/round-01 and so on",
        "auto_find_batch_size": "a second attempt would start from weights that are trained already",
    }.items():
        if getattr(args, argument, False):
            raise ValueError(f"{argument}=True does not go with a search: {reason}. Set it to False")
    if args.n_gpu > 1:
        raise ValueError(
            f"the Trainer would copy the model to {args.n_gpu} GPUs for each forward (DataParallel), and alpha would "
            f"not move on: start the program with torchrun --nproc_per_node {args.n_gpu}, or let it use one GPU only "
            "(CUDA_VISIBLE_DEVICES)"
        )


def hyper_parameters(args: TrainingArguments) -> dict[str, Any]:
    """The TrainingArguments that decide how a stage is trained, for the card."""
    return {
        "optimizer": getattr(args.optim, "value", args.optim),
        "learning_rate": args.learning_rate,
        "schedule": f"{getattr(args.lr_scheduler_type, 'value', args.lr_scheduler_type)}, anew in each stage",
        "weight_decay": args.weight_decay,
        "batch_size": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "max_grad_norm": args.max_grad_norm,
        "seed": args.seed,
        "mixed_precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "no",
    }
