"""Finding the classifier of a model: by what the model says of itself, by its number of labels, or by a guess."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .kinds import layer_kind
from .unwrap import class_name


def find_classifier(model: nn.Module, modules: Mapping[str, nn.Module]) -> tuple[str | None, str | None]:
    """Name of the classifier, and why that may be wrong.

    In this order: `get_classifier()`, as timm's models have it; `get_output_embeddings()` of transformers; the last
    linear layer or convolution with as many outputs as `num_labels` or `num_classes` of the model or its configuration;
    the last linear layer; the last convolution. A guess is in doubt if it lies deep inside the model, if the model is
    a transformers model without a head, or if other layers beside it have the same input.

    Args:
        modules: name -> module of `model`.
    Returns: None for the name if there is no layer to choose, or the model is a layer itself; None for the doubt if
        there is none.
    """
    kinds = ("linear", "conv")
    layers = {name: module for name, module in modules.items() if name and layer_kind(module) in kinds}  # not the model
    if known := _by_itself(model, modules) or _by_labels(model, layers):
        return known, None
    for kind in kinds:
        if candidates := [name for name, module in layers.items() if layer_kind(module) == kind]:
            return candidates[-1], _doubt(model, candidates[-1], layers)
    return None, None


def _by_itself(model: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    for method in ("get_classifier", "get_output_embeddings"):
        try:
            head = getattr(model, method)()
        except (AttributeError, NotImplementedError, TypeError):  # not there, not for this model, or something else
            continue
        if isinstance(head, nn.Module) and any(True for _ in head.parameters()):
            return next((name for name, module in modules.items() if module is head), None)
    return None


def _by_labels(model: nn.Module, layers: Mapping[str, nn.Module]) -> str | None:
    if _is_headless(model):
        return None
    owners = (model, getattr(model, "config", None))
    labels = {getattr(owner, name, None) for owner in owners for name in ("num_labels", "num_classes")} - {None}
    candidates = [name for name, layer in layers.items() if _size(layer, "out") in labels]
    return candidates[-1] if candidates else None


def _is_headless(model: nn.Module) -> bool:
    """A transformers model that only encodes; it still has num_labels in its configuration."""
    return getattr(model, "base_model", None) is model


def _doubt(model: nn.Module, name: str, layers: Mapping[str, nn.Module]) -> str | None:
    if _is_headless(model):
        return f"{class_name(model)} has no head of its own"
    parent = name.rpartition(".")[0]
    beside = [] if isinstance(model.get_submodule(parent), nn.Sequential) else _beside(name, parent, layers)
    if beside:
        return f"{', '.join(map(repr, beside))} may be one as well"
    root, rest = model, name
    while len(children := [n for n, child in root.named_children() if any(True for _ in child.parameters())]) == 1:
        root, rest = root.get_submodule(children[0]), rest.partition(".")[2]  # a wrapper around the model
    if children and (rest.count(".") > 1 or rest.partition(".")[0] != children[-1]):  # without any, it is all there is
        return "it lies inside the network, not at its end"
    return None


def _beside(name: str, parent: str, layers: Mapping[str, nn.Module]) -> list[str]:
    """Layers of the same parent and with the same input, whose output is not that input."""
    size = _size(layers[name], "in")
    return [
        other
        for other, layer in layers.items()
        if other != name and other.rpartition(".")[0] == parent and _size(layer, "in") == size != _size(layer, "out")
    ]


def _size(layer: nn.Module, way: str) -> Any:
    names = {"out": ("out_features", "out_channels", "nf"), "in": ("in_features", "in_channels", "nx")}[way]
    return next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
