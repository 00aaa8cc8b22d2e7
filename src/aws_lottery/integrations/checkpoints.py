"""Where the Trainer's checkpoints are, and all of their weights.

`save_pretrained` gives some weights the names that they have on the Hub (ViT's `vit.layers.*` become
`vit.encoder.layer.*`), and the Trainer, which resumes by `load_state_dict`, leaves those out with a warning
(huggingface/transformers issues 43701 and 48805, open with 5.23). A network of half its weights is no search to go on
with, so they are loaded here.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, TrainerState, TrainingArguments

from ..random_states import aside


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the Trainer writes the checkpoint of this step."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def resumed_folders(args: TrainingArguments, state: TrainerState) -> list[Path]:
    """Where the checkpoint may lie that a training resumes from: `train` does not tell callbacks."""
    named = args.resume_from_checkpoint
    return [*([Path(named)] if isinstance(named, str) else []), checkpoint_folder(args, state)]


def load_renamed_(model: nn.Module, folder: Path) -> None:
    """Load those weights of the checkpoint in `folder` that the Trainer could not; the others it has loaded.

    Raises: ValueError if the others are not the model's, as then it is another checkpoint.
    """
    own, renamed = model.state_dict(), False
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                renamed |= name not in own
                if name in own and not torch.equal(file.get_tensor(name).to(own[name]), own[name]):
                    raise ValueError(
                        f"{path} is not the checkpoint that was loaded: its '{name}' has other values. If that one "
                        "lies elsewhere, tell the callback, too: TrainingArguments(resume_from_checkpoint=its folder)"
                    )
    if renamed and isinstance(model, PreTrainedModel):
        with aside(seed=0):
            whole = type(model).from_pretrained(folder, dtype=model.dtype)
        model.load_state_dict(whole.state_dict())
