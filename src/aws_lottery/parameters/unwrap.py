"""The author's model inside the wrappers of torch.compile and DistributedDataParallel, and the names in it."""

from torch import Tensor, nn

from ..sharding import reshard_

# What torch.compile, and torch's activation checkpointing, put into the names of a submodule that they wrap
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside torch.compile and DistributedDataParallel. Raises: TypeError if it is no module."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"{type(model).__name__} {model!r:.80}"
        raise TypeError(
            f"expected a model (an instance of torch.nn.Module), got {what}; make or load it first, "
            "for example by transformers.AutoModelForImageClassification.from_pretrained"
        )
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(model, keep_torch_compile=False)


def class_name(model: nn.Module) -> str:
    """The name of the class of a model or layer, as its author gave it: `fully_shard` makes a class whose name starts
    with FSDP."""
    name = type(model).__name__
    original = name.removeprefix("FSDP")
    return original if original in (base.__name__ for base in type(model).__mro__) else name


def clean_name(name: str) -> str:
    """The name of a parameter, buffer or module when no part of its model is compiled or checkpointed."""
    name = f"{name}."
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name[:-1]


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of an unwrapped model, by clean names; tied ones once. Sharded ones as their shards."""
    reshard_(model)
    return {clean_name(name): parameter for name, parameter in model.named_parameters()}


def every_name_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter likewise, a tied parameter under each of its names."""
    reshard_(model)
    return {clean_name(name): parameter for name, parameter in model.named_parameters(remove_duplicate=False)}


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of an unwrapped model, likewise; modules that wrap others are not among them."""
    return {clean_name(name): module for name, module in model.named_modules()}


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Clean name -> buffer, of those that the state_dict has, such as the statistics of BatchNorm."""
    saved = {clean_name(name) for name in model.state_dict()}
    return {clean: buffer for name, buffer in model.named_buffers() if (clean := clean_name(name)) in saved}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Clean name -> buffer or parameter of a model, seen through its wrappers: what its state_dict has."""
    model = unwrap(model)
    return {**buffers_of(model), **parameters_of(model)}
