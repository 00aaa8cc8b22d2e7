"""Where the parameters of a model are, and whether the same tensors are still there."""

from collections.abc import Mapping

from torch import nn

from .unwrap import clean_name


class Places:
    """The modules and leaf names under which parameters are found, looked up once so that a check of all is cheap."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, nn.Parameter]):
        """Args:
        tensors: name -> parameter of `model`, by clean names; a tied one under each of its names.
        """
        self._modules: dict[tuple[int, str], tuple[nn.Module, str, nn.Module]] = {}  # parent, its name for the child
        self._leaves: list[tuple[nn.Module, str, str]] = []  # owner, its name for the parameter, clean name
        for raw, _ in model.named_parameters(remove_duplicate=False):
            if (name := clean_name(raw)) in tensors:
                *path, leaf = raw.split(".")
                owner = model
                for part in path:
                    parent, owner = owner, owner.get_submodule(part)
                    self._modules[id(parent), part] = (parent, part, owner)
                self._leaves.append((owner, leaf, name))

    def have(self, tensors: Mapping[str, nn.Parameter]) -> bool:
        """Whether each place has the tensor of its name; 0.1 microseconds a module and weight."""
        for parent, part, child in self._modules.values():
            if parent._modules.get(part) is not child:
                return False
        for owner, leaf, name in self._leaves:  # noqa: SIM110 - a generator takes twice as long
            if owner._parameters.get(leaf) is not tensors[name]:
                return False
        return True

    def owners(self) -> dict[nn.Module, dict[str, str]]:
        """Module -> its own name for a parameter -> clean name."""
        owners: dict[nn.Module, dict[str, str]] = {}
        for owner, leaf, name in self._leaves:
            owners.setdefault(owner, {})[leaf] = name
        return owners


def why_lost(name: str, before: nn.Parameter, now: Mapping[str, nn.Parameter]) -> str | None:
    """Why no tensor can be held under this name in the place of `before`; None if one can.

    Args:
        now: name -> parameter of the model as it is, a tied one under each of its names.
    """
    if name in now:
        shape, dtype = tuple(now[name].shape), now[name].dtype
        if shape == tuple(before.shape) and dtype.is_floating_point:
            return None
        return f"has shape {shape}, {dtype} instead of {tuple(before.shape)}, {before.dtype} (quantized? resized?)"
    if elsewhere := [other for other, tensor in now.items() if tensor is before]:
        return f"is '{elsewhere[0]}' now (an adapter or a parametrization?), and what is made of it is not masked"
    layer = name.rpartition(".")[0]
    own = [other for other in now if other.startswith(f"{layer}.")]
    return f"is gone; '{layer}' has {own[:4]}" if own else f"is gone, and so is '{layer}'"


def explain(lost: Mapping[str, str], model: str) -> str:
    """The error for names that are lost, each with its reason."""
    name, reason = next(iter(lost.items()))
    more = f" ({len(lost)} weights in all)" if lost.keys() - {name} else ""
    return (
        f"this {model} can't be held to its mask any more: '{name}' {reason}{more}. Change layers (adapters, "
        "parametrizations, quantization) before the pruner or the mask takes the model, or end the hold first "
        "(Hold.remove, AWSPruner.detach)"
    )
