"""The kind of layer of a parameter, found by classes, shapes and, where libraries agree on them, names."""

import re
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from .unwrap import class_name

NORM_CLASSES = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NORM_NAME = re.compile(r"(batch|layer|group|instance|rms|frozen)_?norm", re.IGNORECASE)
_ADAPTER = re.compile(r"(^|\.)(lora|ia3|hada|lokr|oft|boft|vera)_")  # what peft calls its own
_TOKEN = re.compile(
    r"(pos|position|cls|class|mask|dist|distillation|reg|register)(_\w+)?_(tokens?|emb\w*)$|position_bias"
)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalization layer, of torch or, by its class name, of any other library."""
    if isinstance(module, NORM_CLASSES):
        return True
    own = list(module.parameters(recurse=False))
    return bool(own) and bool(_NORM_NAME.search(type(module).__name__)) and all(p.dim() == 1 for p in own)


def kind_of(name: str, parameter: Tensor, modules: Mapping[str, nn.Module]) -> str:
    """The kind of a parameter under one of its names.

    `conv`: nn.Conv*, transposed too. `linear`: nn.Linear, nn.Bilinear, the projections of nn.MultiheadAttention,
    transformers' Conv1D, and the experts of a mixture that are one tensor (experts x out x in). `embedding`. `norm`: a
    normalization layer's. `adapter`: LoRA and its like. `router`: which expert takes what. `token`: class tokens, and
    positions that are no embedding layer. `vector`: whatever else has at most one dimension above 1, as biases and
    layer scales have. `unknown`: the rest.

    Args:
        modules: name -> module of the model.
    """
    owner_name, _, leaf = name.rpartition(".")
    owner = modules[owner_name]
    if is_norm(owner):
        return "norm"
    if _ADAPTER.search(name):
        return "adapter"
    if _is_router(owner_name, owner, modules):
        return "router"
    if kind := _of_weight(owner, leaf, parameter):
        return kind
    if sum(size > 1 for size in parameter.shape) <= 1:
        return "vector"
    return "token" if _TOKEN.search(leaf) else "unknown"


def _of_weight(owner: nn.Module, leaf: str, parameter: Tensor) -> str | None:
    if isinstance(owner, nn.MultiheadAttention):
        return "linear" if leaf.endswith("proj_weight") else None
    if "Experts" in type(owner).__name__ and parameter.dim() == 3:
        return "linear"
    return layer_kind(owner) if leaf == "weight" else None


def layer_kind(module: nn.Module) -> str | None:
    """The kind of a layer with a `weight`: conv, linear, embedding or None."""
    if isinstance(module, _ConvNd):
        return "conv"
    if isinstance(module, nn.Linear | nn.Bilinear) or class_name(module) == "Conv1D":
        return "linear"
    return "embedding" if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None


def _is_router(name: str, module: nn.Module, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a layer is a router: by its class, or as a linear layer called gate or router beside `experts`."""
    parent, _, own = name.rpartition(".")
    beside_experts = f"{parent}.experts".lstrip(".") in modules
    named = isinstance(module, nn.Linear) and beside_experts and bool(re.search(r"(^|_)(gate|router)$", own))
    return named or "Router" in type(module).__name__
