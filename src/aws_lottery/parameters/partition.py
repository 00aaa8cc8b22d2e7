"""Which parameters of a model are pruned, which only have their signs taken, and which are normalization."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ..config import SignedMaskConfig
from .unwrap import modules_of, parameters_of

NORM_CLASSES = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NORM_NAME = re.compile(r"(batch|layer|group|instance|rms|frozen)_?norm", re.IGNORECASE)


@dataclass(frozen=True)
class Partition:
    """Every parameter of a model by its part in the search; names as `parameters_of` has them.

    theta = [phi, psi]: `psi` are the parameters of normalization layers, which get neither mask nor sign;
    phi is all the rest: `prunable` get a mask and a sign, `signed_only` (biases, the classifier, excluded or
    unknown layers) a sign (Section 3.1; Appendix A for psi).
    """

    prunable: tuple[str, ...]
    signed_only: tuple[str, ...]
    psi: tuple[str, ...]
    norms: tuple[str, ...]  # modules that own psi
    classifier: str | None  # module left out of pruning as the classifier
    unknown: tuple[str, ...]  # weights of two or more dimensions in layers of no known kind: not pruned

    @property
    def signed(self) -> tuple[str, ...]:
        return self.prunable + self.signed_only


def partition(model: nn.Module, config: SignedMaskConfig) -> Partition:
    """Sort the parameters of `model` as `config` says.

    Convolutions (`conv`: nn.Conv*, transposed too), linear maps (`linear`: nn.Linear, nn.Bilinear, the projections of
    nn.MultiheadAttention, transformers' Conv1D) and embeddings (`embedding`) may be pruned; tied weights count once,
    by their first name. A norm layer is one of NORM_CLASSES or has a class name that says so and only vectors as
    parameters. Matrices in layers of any other kind are `unknown` and not pruned; AWSPruner warns of them.
    Raises: ValueError if nothing is left to prune, or a name or glob of the configuration matches nothing.
    """
    modules = modules_of(model)
    classifier = None if config.prune_classifier else _classifier(modules, config.classifier)
    roles: dict[str, list[str]] = {"prunable": [], "signed_only": [], "psi": [], "unknown": []}
    norms = []
    for name, parameter in parameters_of(model).items():
        owner_name, _, leaf = name.rpartition(".")
        owner = modules[owner_name]
        if is_norm(owner):
            roles["psi"].append(name)
            norms.append(owner_name)
            continue
        kind = _kind(owner, leaf)
        if kind is None and parameter.dim() > 1:
            roles["unknown"].append(name)
        free = owner_name != classifier and not matches(name, config.exclude)
        roles["prunable" if kind in config.prunable and free else "signed_only"].append(name)
    _check(roles, config, model, classifier)
    return Partition(
        **{role: tuple(names) for role, names in roles.items()},
        norms=tuple(dict.fromkeys(norms)),
        classifier=classifier,
    )


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalization layer, of torch or, by its class name, of any other library."""
    if isinstance(module, NORM_CLASSES):
        return True
    own = list(module.parameters(recurse=False))
    return bool(own) and bool(_NORM_NAME.search(type(module).__name__)) and all(p.dim() == 1 for p in own)


def norm_parameters(model: nn.Module) -> set[str]:
    """Names of psi, which gets neither mask nor sign."""
    norms = [(name, module) for name, module in modules_of(model).items() if is_norm(module)]
    return {f"{name}.{leaf}".lstrip(".") for name, norm in norms for leaf, _ in norm.named_parameters(recurse=False)}


def _kind(module: nn.Module, leaf: str) -> str | None:
    if isinstance(module, nn.MultiheadAttention):
        return "linear" if leaf.endswith("proj_weight") else None
    if leaf != "weight":
        return None
    if isinstance(module, _ConvNd):
        return "conv"
    if isinstance(module, nn.Linear | nn.Bilinear) or type(module).__name__ == "Conv1D":
        return "linear"
    return "embedding" if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None


def _classifier(modules: dict[str, nn.Module], named: str | None) -> str | None:
    if named is not None:
        if named not in modules:
            raise ValueError(f"classifier '{named}' is not a module of the model; its modules: {_some(modules)}")
        return named
    for kind in ("linear", "conv"):
        found = [name for name, module in modules.items() if _kind(module, "weight") == kind]
        if found:
            return found[-1]
    return None


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern matches the parameter or any module that it lies in."""
    parts = name.split(".")
    prefixes = [".".join(parts[: n + 1]) for n in range(len(parts))]
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in patterns)


def _check(roles: dict[str, list[str]], config: SignedMaskConfig, model: nn.Module, classifier: str | None) -> None:
    names = list(parameters_of(model))
    for pattern in config.exclude:
        if not any(matches(name, (pattern,)) for name in names):
            raise ValueError(f"exclude pattern '{pattern}' matches no parameter of the model; it has: {_some(names)}")
    if not roles["prunable"]:
        raise ValueError(
            f"nothing to prune in this {type(model).__name__}: kinds {', '.join(config.prunable)}, less the classifier "
            f"({classifier}) and {list(config.exclude)}, leave none of its parameters: {_some(names)}"
        )


def _some(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if listed[10:] else "")
