"""Sharding by accelerate, as its configuration says (FSDP2), and what of a configuration is refused before."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from .no_trace import release
from .parameters.unwrap import buffers_of, class_name, modules_of, parameters_of, unwrap
from .processes import refuse_sharding, together, warn_if_whole
from .sharding import is_sharded_model
from .signs import check_initialized

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState


def shard_(model: nn.Module, accelerator: "Accelerator") -> None:
    """Let accelerate shard the model in place, if it is set to FSDP2: before masks are made for it, so that no process
    ever has them whole.

    With `cpu_ram_efficient_loading` the weights are those of the first process; others may have the model on the meta
    device. Raises: ValueError, on all processes, as `train` and `check_shardable`, and for weights without values.
    """
    refuse_sharding(accelerator, but_fsdp2=True)
    warn_if_whole(accelerator)
    shards, plugin = _shards(accelerator), _plugin(accelerator.state)
    with together(accelerator):
        if accelerator.is_main_process or not (shards and plugin.cpu_ram_efficient_loading):
            check_initialized(parameters_of(unwrap(model)))
        check_shardable(model, accelerator.state)
    if shards:
        accelerator.prepare(model, SGD(model.parameters(), 0.0))  # it takes a model with an optimizer only
        release(accelerator)


def prepared(model: nn.Module, optimizer: Optimizer, accelerator: "Accelerator") -> tuple[nn.Module, Any]:
    """What accelerate makes of both for a training; a sharded model keeps its shards."""
    if not is_sharded_model(model):
        return accelerator.prepare(model, optimizer)
    if not _shards(accelerator):  # it was the caller, so that it needs autocast and torch.compile alone
        network = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        return network, accelerator.prepare_optimizer(optimizer)
    plugin = _plugin(accelerator.state)
    checkpointing, plugin.activation_checkpointing = plugin.activation_checkpointing, False  # it is around the layers
    try:
        return accelerator.prepare(model, optimizer)
    finally:
        plugin.activation_checkpointing = checkpointing


def _shards(accelerator: "Accelerator") -> bool:
    return getattr(accelerator, "is_fsdp2", False)


def _plugin(state: "AcceleratorState") -> Any:
    return state.fsdp_plugin if state.is_fsdp2 else None


def check_shardable(model: nn.Module, state: "AcceleratorState") -> None:
    """Whether accelerate, if it is set to FSDP2, can shard `model` as it is set.

    Raises: ValueError that names the setting with which it, or torch, would fail, and what to set.
    """
    if not state.is_fsdp2 or is_sharded_model(model):
        return
    plugin, model = _plugin(state), unwrap(model)
    if plugin.cpu_ram_efficient_loading and (buffers := list(buffers_of(model))):
        raise ValueError(
            f"fsdp_cpu_ram_efficient_loading: accelerate hands parameters over and no buffers, and this "
            f"{class_name(model)} has '{buffers[0]}'; set it to false"
        )
    if getattr(plugin.cpu_offload, "pin_memory", False) and _numbers_of(torch.__version__) < (2, 13):
        raise ValueError(
            f"fsdp_offload_params: torch {torch.__version__} may show gradients to hooks before they are there "
            "(pytorch/pytorch#180666), so pruned weights would have some; use torch 2.13, or give the accelerator "
            "FullyShardedDataParallelPlugin(fsdp_version=2, cpu_offload=CPUOffloadPolicy(pin_memory=False))"
        )
    policy = getattr(plugin.auto_wrap_policy, "func", plugin.auto_wrap_policy)  # with its arguments, or without
    check = _CHECKS.get(getattr(policy, "__name__", ""))
    if check is not None:
        check(model, plugin)


def _check_sizes(model: nn.Module, plugin: Any) -> None:
    if plugin.min_num_params is None:
        raise ValueError(
            "size_based_auto_wrap_policy: accelerate takes the size from FullyShardedDataParallelPlugin("
            "min_num_params=) alone, not from the arguments of the policy, and it is None; give it there"
        )
    for name, module in modules_of(model).items():
        size = sum(parameter.numel() for parameter in module.parameters())
        if name and isinstance(module, nn.ModuleList | nn.ModuleDict) and size > plugin.min_num_params:
            raise ValueError(
                f"FSDP2 can't wrap '{name}', a {type(module).__name__} of {size:,} parameters, more than "
                f"fsdp_min_num_params = {plugin.min_num_params:,}; wrap layers by their class: "
                f"--fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP{_layer_classes(model)}"
            )


def _check_classes(model: nn.Module, plugin: Any) -> None:
    embedding = _input_embedding(model)
    wrapped = plugin.transformer_cls_names_to_wrap or getattr(model, "_no_split_modules", None) or ()
    for name, module in modules_of(model).items():
        if type(module).__name__ in wrapped and embedding in set(module.modules()) - {module}:
            raise ValueError(
                f"accelerate would wrap '{name}' and the input embedding in it once more, which torch can't; "
                f"name the classes of the other layers:{_layer_classes(model)}"
            )


_CHECKS = {"size_based_auto_wrap_policy": _check_sizes, "transformer_auto_wrap_policy": _check_classes}


def _layer_classes(model: nn.Module) -> str:
    """The option that names the model's layers, but for those around its input embedding."""
    embedding, names = _input_embedding(model), set(getattr(model, "_no_split_modules", None) or ())
    names -= {type(module).__name__ for module in model.modules() if embedding in set(module.modules())}
    return f" --fsdp_transformer_layer_cls_to_wrap {','.join(sorted(names)) or 'CLASS'}"


def _input_embedding(model: nn.Module) -> nn.Module | None:
    try:
        return getattr(model, "get_input_embeddings", lambda: None)()
    except NotImplementedError:  # how a model of transformers without tokens says so (ResNet)
        return None


def _numbers_of(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))
