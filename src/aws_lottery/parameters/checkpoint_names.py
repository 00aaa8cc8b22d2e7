"""The names that parameters have in checkpoints on the Hub, which outlive those in memory.

transformers 5 renames modules while it loads: a ViT's `vit.encoder.layer.0.attention.attention.query` is in memory
`vit.layers.0.attention.q_proj`, and was `vit.encoder...` there too under transformers 4. What is in checkpoints stays.
"""

import sys
from collections.abc import Iterable
from typing import Any

from torch import nn

from .unwrap import modules_of, parameters_of


def checkpoint_names(model: nn.Module) -> dict[str, str]:
    """Name in memory -> name in the checkpoints of its architecture, of those parameters for which they differ.

    By the conversion mapping of transformers 5, for models of its classes and those inside other modules; a parameter
    that checkpoints have in pieces, or as a piece of another, has no such name. Empty for all other models.
    """
    if "transformers" not in sys.modules:  # then the model is none of its classes
        return {}
    from transformers import PreTrainedModel

    renamed: dict[str, str] = {}
    roots: list[str] = []
    for place, module in modules_of(model).items():
        if isinstance(module, PreTrainedModel) and not any(place.startswith(root) for root in roots):
            prefix = f"{place}." if place else ""
            roots.append(prefix)
            renamed |= {prefix + name: prefix + other for name, other in _renamed(module)}
    return renamed


def _renamed(model: Any) -> Iterable[tuple[str, str]]:
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import PrefixChange, WeightConverter
    except ImportError:  # transformers 4, where names in memory are those of checkpoints
        return
    # a prefix that some checkpoints have and others do not is a prefix to `match`, too
    conversions = [c for c in get_model_conversion_mapping(model, add_legacy=False) if not isinstance(c, PrefixChange)]
    backwards = [conversion.reverse_transform() for conversion in reversed(conversions)]
    for name in parameters_of(model):
        old, whole = name, True
        for conversion in backwards:
            old, pattern = conversion.rename_source_key(old)
            whole = whole and (pattern is None or not isinstance(conversion, WeightConverter))
        if whole and old != name:
            yield name, old
