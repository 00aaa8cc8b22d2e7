"""Masks written under one version of transformers and applied under another, held against transformers' own loading.

    python benchmarks/names.py write FOLDER     # in one environment: a mask and a checkpoint for each network
    python benchmarks/names.py apply FOLDER     # in the other: the mask on a fresh network, beside the checkpoint

Small networks of random weights, a tenth of them zero. `apply` says of each how many signs of the applied mask differ
from those of the checkpoint as transformers loads it under the other version, which knows nothing of this package.
docs/notes/names.md has what came out.
"""

import json
import logging
import sys
import types
from pathlib import Path

import huggingface_hub.errors as hub_errors
import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

for missing in ("RemoteEntryNotFoundError", "HTTPError"):  # in the huggingface_hub that transformers 4 is bound to
    if not hasattr(hub_errors, missing):
        setattr(hub_errors, missing, type(missing, (OSError,), {}))

from aws_lottery.mask import SignedMask  # noqa: E402  needs those names

NETWORKS: dict[str, tuple[str, dict]] = {
    "ViTForImageClassification": (
        "vit",
        {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12, "image_size": 8}
        | {"patch_size": 4, "num_labels": 3},
    ),
    "DeiTForImageClassification": (
        "deit",
        {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12, "image_size": 8}
        | {"patch_size": 4, "num_labels": 3},
    ),
    "BertForSequenceClassification": (
        "bert",
        {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 20},
    ),
    "GPT2LMHeadModel": ("gpt2", {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 20, "n_positions": 16}),
    "LlamaForCausalLM": (
        "llama",
        {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 20},
    ),
    "ResNetForImageClassification": (
        "resnet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "num_labels": 3},
    ),
    "ConvNextForImageClassification": ("convnext", {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}),
    "SwinForImageClassification": (
        "swin",
        {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "image_size": 16, "patch_size": 2, "window_size": 2},
    ),
    "Data2VecVisionForImageClassification": (
        "data2vec-vision",
        {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "image_size": 8}
        | {"patch_size": 4},
    ),
    "CLIPModel": (
        "clip",
        {
            "text_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20},
            "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8}
            | {"patch_size": 4},
            "projection_dim": 8,
        },
    ),
}


def fresh(name: str, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    kind, sizes = NETWORKS[name]
    return getattr(transformers, name)(AutoConfig.for_model(kind, **sizes))


@torch.no_grad()
def write(folder: Path) -> None:
    for name in NETWORKS:
        model = fresh(name, 0)
        for parameter in model.parameters():
            parameter.normal_()  # also what starts at 0 or 1
            if parameter.dim() > 1:
                parameter[parameter.abs() < 0.125] = 0  # a tenth
        mask = SignedMask.from_model(model)
        model.save_pretrained(folder / name)
        mask.save_pretrained(folder / name / "mask")
        (folder / name / "names.json").write_text(json.dumps([n for n, _ in model.named_parameters()]))
        print(f"{name}: {len(mask)} tensors, {len(mask.checkpoint_names)} of other names in checkpoints")


def apply(folder: Path) -> int:
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = types.MethodType(lambda self, record: heard.append(record.getMessage()), handler)  # type: ignore
    logger = logging.getLogger("aws_lottery.parameters.matching")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    print("| network | tensors | names that differ | matched | signs that differ |\n|---|---|---|---|---|")
    failures = 0
    for name in NETWORKS:
        mask, model = SignedMask.from_pretrained(folder / name / "mask"), fresh(name, 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        heard.clear()
        names = [n for n, _ in model.named_parameters()]
        differ = len(set(json.loads((folder / name / "names.json").read_text())) - set(names))
        try:
            mask.apply_(model)
        except ValueError as error:
            print(f"| {name} | {len(mask)} | {differ} | refused: {str(error).splitlines()[0]} | - |")
            failures += 1
            continue
        loaded = dict(type(model).from_pretrained(folder / name).named_parameters())
        signed = [n for n, p in model.named_parameters() if n in SignedMask.from_model(model)]
        wrong = sum(int((dict(model.named_parameters())[n].sign() != loaded[n].sign()).sum()) for n in signed)
        failures += wrong > 0
        how = "by order" if any("in order" in text for text in heard) else "in checkpoints" if heard else "by name"
        print(f"| {name} | {len(mask)} | {differ} of {len(names)} | {how} | {wrong} |")
    return failures


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    sys.exit({"write": write, "apply": apply}[sys.argv[1]](Path(sys.argv[2])))
