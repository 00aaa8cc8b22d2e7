"""`SignedMask`: the signs and zeros of a sparse network, to be kept, shipped and applied to a fresh init."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from . import signs
from .config import SignedMaskConfig
from .mask_file.packed_signs import (
    PackedSigns,
    check_signs,
    count,
    entries_of,
    pack_if_large,
    remaining_of,
    shapes_of,
)
from .mask_file.provenance import LayerRow, Provenance, Result
from .mask_file.shareable import Shareable
from .parameters.checkpoint_names import checkpoint_names
from .parameters.fitting import fit, masks_for
from .parameters.hold import Hold
from .parameters.matching import Names
from .parameters.partition import norm_parameters, partition
from .parameters.unwrap import class_name, modules_of, parameters_of, unwrap
from .sharding import as_laid_out, local, whole
from .summaries import share_text


class SignedMask(Shareable, Mapping[str, Tensor]):
    """A mapping of parameter name -> int8 tensor in {-1, 0, 1} (Section 3.2).

    Its names are those of `model.named_parameters()`, free of `module.` and `_orig_mod.`. `prunable` names the
    weights whose zeros are a mask; of the others (biases, classifier) only the signs count. Equal if signs, roles
    and configuration are. `results` and `provenance` tell what was measured and how it was made; set them at will,
    they are kept in config.json and shown on the card.

    A mask of more than 64 Mi entries that was read, or made of a model, stays packed in memory: 1 to 1.5 bits an entry
    at usual shares of survivors. `mask[name]` then decodes the tensor, anew at each access; `dict(mask)` decodes all.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from aws_lottery import SignedMask
        >>> mask = SignedMask({"weight": torch.tensor([[1, 0], [-1, 0]], dtype=torch.int8)})
        >>> mask.remaining
        0.5
        >>> fresh = nn.Linear(2, 2, bias=False)
        >>> mask.apply_(fresh)
        >>> fresh.weight.sign().tolist()
        [[1.0, 0.0], [-1.0, 0.0]]
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        config: SignedMaskConfig | None = None,
        *,
        prunable: tuple[str, ...] | None = None,
        parameters: int | None = None,
        signed: bool = True,
        results: Sequence[Result] = (),
        provenance: Provenance | None = None,
        checkpoint_names: Mapping[str, str] = MappingProxyType({}),
    ):
        """From tensors; see `from_model` and `from_pretrained` for other sources.

        Args:
            values: name -> int8 in {-1, 0, 1}, shaped like the parameter; of another mask, the signs as it keeps them.
            config: of the search that found it, if one did.
            prunable: the names that are masked; None: all.
            parameters: number of all parameters of the model, normalization included; None: those in `values`.
            signed: False for a mask without signs (see `binary`); its values are 0 and 1.
            results: what was measured with it.
            provenance: how it was made.
            checkpoint_names: name -> name in checkpoints on the Hub, for those that differ: what the mask is matched by
                under another version of the model's library, whose names in memory may be others.

        Raises:
            ValueError: With the name of the tensor, if one has another dtype or other values.
        """
        values = values.signs if isinstance(values, SignedMask) else values
        packed = isinstance(values, PackedSigns)
        if not packed:  # packed signs can be nothing else
            for name, value in values.items():
                check_signs(name, value)
        if not signed and (negative := [name for name in values if count(values, name).negatives]):
            raise ValueError(f"a mask without signs has 0 and 1, '{negative[0]}' has -1; leave out signed=False")
        self.signs = values if packed else dict(values)  # decoded at each access, or as they are
        self.config = config
        self.prunable = tuple(values) if prunable is None else tuple(prunable)
        if unknown := set(self.prunable) - set(values):
            raise ValueError(f"prunable names {sorted(unknown)} are not in the mask")
        entries = entries_of(values)
        if not entries:
            raise ValueError("a signed mask needs at least one entry, this one has none")
        self.parameters = entries if parameters is None else parameters
        if self.parameters < entries:
            raise ValueError(f"a mask of {entries:,} entries is not for a model of {parameters:,} parameters")
        self.signed = signed
        self.results, self.provenance = tuple(results), provenance
        self.checkpoint_names = dict(checkpoint_names)
        if unknown := set(self.checkpoint_names) - set(values):
            raise ValueError(f"checkpoint_names {sorted(unknown)} are not in the mask")
        self.source: str | None = None  # the folder or the commit on the Hub that it was read from

    @classmethod
    def from_model(
        cls, model: nn.Module, config: SignedMaskConfig | None = None, masks: Mapping[str, Tensor] | None = None
    ) -> "SignedMask":
        """The signs of a trained sparse model: sign0(theta * m) of all but its normalization parameters.

        Args:
            model: trained, with zeros or `masks`; its parameters of any floating dtype, on any device, also sharded.
            config: says what is prunable; kept in the mask. None: the default rules, and none is kept.
            masks: name -> mask to multiply with, of all that is prunable; None: zero weights are the pruned ones, and
                frozen weights may be pruned like others.

        Returns:
            The mask, in CPU memory.

        Raises:
            ValueError: If nothing is prunable, or if a weight is not floating, or is NaN or infinite.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> from aws_lottery import SignedMask
            >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
            >>> model[0].weight.data = torch.tensor([[0.7, 0.0], [0.0, -0.3]])
            >>> SignedMask.from_model(model)["0.weight"].tolist()
            [[1, 0], [0, -1]]
        """
        model = unwrap(model)
        parts = partition(model, replace(config or SignedMaskConfig(), prune_frozen=True))
        parameters = parameters_of(model)
        signs.check_floating({name: parameters[name] for name in parts.prunable})
        theta = {name: parameters[name] for name in parameters if name in set(parts.signed)}
        values = ((name, whole(value).cpu()) for name, value in signs.each_sign0(theta, masks))  # one after the other
        return cls(
            pack_if_large(values, sum(p.numel() for p in theta.values())),
            config,
            prunable=parts.prunable if masks is None else tuple(name for name in theta if name in masks),
            parameters=sum(p.numel() for p in parameters.values()),
            checkpoint_names={name: old for name, old in checkpoint_names(model).items() if name in theta},
        )

    @classmethod
    def from_torch_prune(cls, model: nn.Module) -> "SignedMask":
        """The signs of a model that torch.nn.utils.prune pruned; what it put a mask on is prunable here.

        Args:
            model: not changed.

        Returns:
            The mask, in CPU memory.

        Raises:
            ValueError: If it put no mask on any weight.

        Example:
            >>> from torch import nn
            >>> from torch.nn.utils import prune
            >>> from aws_lottery import SignedMask
            >>> model = nn.Sequential(nn.Linear(4, 4))
            >>> _ = prune.l1_unstructured(model[0], "weight", amount=0.75)
            >>> SignedMask.from_torch_prune(model).remaining
            0.25
        """
        model = unwrap(model)
        masks = {name.removesuffix("_mask"): m for name, m in model.named_buffers() if name.endswith("_mask")}
        norms = norm_parameters(model)
        theta = {
            name.removesuffix("_orig") if name.removesuffix("_orig") in masks else name: parameter
            for name, parameter in parameters_of(model).items()
            if name not in norms
        }
        owners = {name: index for index, (name, _) in enumerate(modules_of(model).items())}
        order = sorted(theta, key=lambda name: (owners[name.rpartition(".")[0]], name not in masks))  # it moved them
        prunable = tuple(name for name in order if name in masks)
        if not prunable:
            raise ValueError(f"torch.nn.utils.prune has pruned nothing in this {class_name(model)}; use from_model")
        theta, masks = {name: theta[name] for name in order}, {n: masks[n].to(torch.uint8) for n in prunable}
        values = ((name, value.cpu()) for name, value in signs.each_sign0(theta, masks))
        total = sum(p.numel() for p in model.parameters())
        return cls(pack_if_large(values, entries_of(theta)), prunable=prunable, parameters=total)

    def __getitem__(self, name: str) -> Tensor:
        return self.signs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.signs)

    def __len__(self) -> int:
        return len(self.signs)

    def __contains__(self, name: object) -> bool:  # that of Mapping would decode a tensor that is packed
        return name in self.signs

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the tensor."""
        return shapes_of(self.signs)

    def _ipython_key_completions_(self) -> list[str]:
        """What the Tab key offers after `mask["`."""
        return list(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SignedMask):
            return NotImplemented
        return self._traits() == other._traits() and all(torch.equal(self[name], other[name]) for name in self)

    __hash__ = None  # type: ignore[assignment]

    def _traits(self) -> tuple:
        return self.config, self.signed, self.parameters, set(self.prunable), set(self)

    def __repr__(self) -> str:
        weights = sum(math.prod(self.shapes[name]) for name in self.prunable)
        kind = "SignedMask" if self.signed else "SignedMask.binary"
        search = f"{self.config.architecture}, {self.config.method}: " if self.config else ""
        return (
            f"{kind}({search}{share_text(self.remaining)} of {weights:,} prunable weights, "
            f"{share_text(self.remaining_total)} of all {self.parameters:,} parameters, {len(self)} tensors)"
        )

    @property
    def remaining(self) -> float:
        """Share of the prunable weights that are left, the ratio that the paper reports."""
        return remaining_of(self.signs, self.prunable)

    @property
    def remaining_total(self) -> float:
        """Share of all parameters of the model that are left, normalization and classifier included."""
        counts = [count(self.signs, name) for name in self.prunable]
        return (self.parameters - sum(c.size - c.nonzeros for c in counts)) / self.parameters

    def table(self) -> list[LayerRow]:
        """One row a tensor, in the order of the model."""
        rows = []
        for name, shape in self.shapes.items():
            size, nonzeros, negatives = count(self.signs, name)
            share, up = nonzeros / max(size, 1), (nonzeros - negatives) / nonzeros if nonzeros else float("nan")
            rows.append(LayerRow(name, shape, name in self.prunable, size, share, up))
        return rows

    def binary(self) -> "SignedMask":
        """The mask alone, |s| of the prunable weights: `apply_` then leaves the signs of the init as they are."""
        values = pack_if_large(((name, self[name].abs()) for name in self.prunable), entries_of(self.signs))
        names = {name: old for name, old in self.checkpoint_names.items() if name in values}
        return SignedMask(values, self.config, parameters=self.parameters, signed=False, checkpoint_names=names)

    def with_random_signs(self, seed: int) -> "SignedMask":
        """The same zeros under signs drawn by a fair coin: the control that tells signs from sparsity."""
        generator = torch.Generator().manual_seed(seed)
        values = (
            (name, value * (torch.randint(2, value.shape, generator=generator, dtype=torch.int8) * 2 - 1))
            for name, value in self.items()
        )
        return SignedMask(
            pack_if_large(values, entries_of(self.signs)),
            self.config,
            prunable=self.prunable,
            parameters=self.parameters,
            checkpoint_names=self.checkpoint_names,
        )

    @torch.no_grad()
    def apply_(
        self, model: nn.Module, *, exclude: Collection[str] = (), names: Names | None = None, match: str = "names"
    ) -> None:
        """theta = |theta_init| * s in place (or theta_init * m, for a binary mask); norm parameters stay.

        What starts at 0 stays 0, whatever its sign in the mask: the biases of some networks, as
        docs/notes/initialization.md tells.
        The model may have the same network under another prefix, or another number of classes; both are logged.

        Args:
            model: freshly initialized; changed in place.
            exclude: names or globs of modules or parameters, in the mask or in the model, to be left alone.
            names: name in the mask -> name in the model, for those that differ: a mapping or a function.
            match: "names", or "structure": pair mask and model in order, whatever the names.

        Raises:
            ValueError: With a list of what does not fit; nothing is changed then.
        """
        parameters = parameters_of(unwrap(model))
        for name, place in fit(self, model, exclude=exclude, names=names, by=match).items():
            parameter = parameters[place]
            magnitude = local(parameter.abs_() if self.signed else parameter)
            magnitude.mul_(local(as_laid_out(self[name], parameter)).to(magnitude.device, non_blocking=True))

    def held(
        self, model: nn.Module, *, exclude: Collection[str] = (), names: Names | None = None, match: str = "names"
    ) -> Hold:
        """Zero the pruned weights of `model` and keep them exactly 0 under any optimizer, until the end of the
        `with` block or `remove()`. Arguments and errors as `apply_`; ValueError also if the model is held already."""
        return Hold(unwrap(model), masks_for(self, model, fit(self, model, exclude=exclude, names=names, by=match)))
