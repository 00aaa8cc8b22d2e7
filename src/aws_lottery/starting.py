"""The start of a search from an existing mask instead of a dense network."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .mask import SignedMask
from .mask_file.packed_signs import count, sha256
from .parameters.fitting import fit, masks_for
from .parameters.partition import norm_parameters
from .parameters.unwrap import parameters_of
from .sharding import whole

logger = logging.getLogger(__name__)

MaskSource = SignedMask | str | Path  # a mask, its folder, or its id on the Hub


def as_mask(source: MaskSource) -> SignedMask:
    """The mask itself. Raises: as `SignedMask.from_pretrained`; TypeError for what is none of the three."""
    if not isinstance(source, MaskSource):
        raise TypeError(f"expected a SignedMask, its folder or its id on the Hub, got {type(source).__name__}")
    return source if isinstance(source, SignedMask) else SignedMask.from_pretrained(source)


def starting_masks(mask: SignedMask, model: nn.Module, prunable: Collection[str]) -> dict[str, Tensor]:
    """Name in the model -> bool, True where the weight is left, of the prunable weights that the mask knows.

    Raises: ValueError if the mask does not fit the model, or prunes a weight that this search does not prune: it would
        grow again.
    """
    places = fit(mask, model)
    counts = {places[name]: count(mask.signs, name) for name in mask.prunable if name in places}
    not_prunable = [name for name, (size, left, _) in counts.items() if name not in prunable and left < size]
    if not_prunable:
        raise ValueError(
            f"the mask prunes {len(not_prunable)} tensors that this search does not prune, '{not_prunable[0]}' first: "
            "pruned weights there would grow again. Give the search the settings of the mask's own search: prunable, "
            "exclude, classifier, prune_classifier"
        )
    if empty := [name for name, (size, left, _) in counts.items() if size and not left]:
        logger.warning("the mask prunes all weights of %s; they stay 0 in this search", ", ".join(empty))
    return masks_for(mask, model, {name: place for name, place in places.items() if place in prunable})


def warn_of_trained_norm(model: nn.Module) -> None:
    """Warn if psi_init would be trained: a normalization parameter whose values differ within its layer is trained."""
    parameters = parameters_of(model)
    norms = {name: whole(parameters[name]) for name in norm_parameters(model)}
    trained = [name for name, psi in norms.items() if psi.numel() and torch.unique(psi).numel() > 1]
    if trained:
        logger.warning(
            "the normalization parameters of the model look trained ('%s'), and are taken for psi_init. The signs are "
            "meant for fresh networks, so give psi_init=fresh_model.state_dict()",
            sorted(trained)[0],
        )


def history_of(mask: SignedMask) -> tuple[Mapping[str, Any], ...]:
    """The searches that led to `mask`, the oldest first, as `Provenance.history` keeps them."""
    about = mask.provenance
    now: dict[str, Any] = {"source": mask.source, "signs": sha256(mask.signs), "remaining": mask.remaining}
    if mask.config is not None:
        now["config"] = mask.config.to_dict()
    if about is not None:
        names = ("library_version", "commit", "date", "command", "dataset")
        now |= {name: value for name in names if (value := getattr(about, name)) is not None}
    return (*(about.history if about else ()), now)
