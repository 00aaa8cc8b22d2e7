"""`SignedMask`: the signs and zeros of a sparse network, to be kept, shipped and applied to a fresh init."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import packing, signs
from .config import SignedMaskConfig
from .holding import Hold
from .partition import bare_model, partition

CONFIG_FILE, MASK_FILE = "config.json", "signed_mask.safetensors"


class LayerRow(NamedTuple):
    """A line of `SignedMask.table`."""

    name: str
    shape: tuple[int, ...]
    prunable: bool
    weights: int
    remaining: float  # share of the entries that are not 0
    positive: float  # share of +1 among those; NaN where none is left


class SignedMask(Mapping[str, Tensor]):
    """A mapping of parameter name -> int8 tensor in {-1, 0, 1} (Section 3.2).

    Its names are those of `model.named_parameters()`, free of `module.` and `_orig_mod.`. `prunable` names the
    weights whose zeros are a mask; of the others (biases, classifier) only the signs count. Equal if signs, roles
    and configuration are.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        config: SignedMaskConfig | None = None,
        *,
        prunable: tuple[str, ...] | None = None,
        parameters: int | None = None,
        signed: bool = True,
    ):
        """
        Args:
            values: name -> int8 in {-1, 0, 1}, shaped like the parameter.
            config: of the search that found it, if one did.
            prunable: the names that are masked; None: all.
            parameters: number of all parameters of the model, normalization included; None: those in `values`.
            signed: False for a mask without signs (see `binary`); its values are 0 and 1.
        Raises: ValueError that names the tensor which has another dtype or other values.
        """
        for name, value in values.items():
            if value.dtype != torch.int8 or (value.numel() and not -1 <= value.min() <= value.max() <= 1):
                raise ValueError(f"signed mask '{name}' must be int8 in {{-1, 0, 1}}; use aws_lottery.sign0")
        self._values = dict(values)
        self.config = config
        self.prunable = tuple(values) if prunable is None else tuple(prunable)
        if unknown := set(self.prunable) - set(values):
            raise ValueError(f"prunable names {sorted(unknown)} are not in the mask")
        self.parameters = sum(v.numel() for v in values.values()) if parameters is None else parameters
        self.signed = signed

    @classmethod
    def from_model(
        cls, model: nn.Module, config: SignedMaskConfig | None = None, masks: Mapping[str, Tensor] | None = None
    ) -> "SignedMask":
        """The signs of a trained sparse model: sign0(theta * m) of all but its normalization parameters.

        Args:
            config: says what is prunable; kept in the mask. None: the default rules, and none is kept.
            masks: name -> mask to multiply with; None: zero weights are the pruned ones.
        """
        model = bare_model(model)
        parts = partition(model, config or SignedMaskConfig())
        parameters = dict(model.named_parameters())
        values = signs.sign0({name: parameters[name] for name in parts.signed}, masks)
        total = sum(p.numel() for p in parameters.values())
        return cls(
            {name: value.cpu() for name, value in values.items()},
            config,
            prunable=parts.prunable,
            parameters=total,
        )

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SignedMask):
            return NotImplemented
        return self._traits() == other._traits() and all(torch.equal(self[name], other[name]) for name in self)

    __hash__ = None  # type: ignore[assignment]

    def _traits(self) -> tuple:
        return self.config, self.signed, self.parameters, set(self.prunable), set(self)

    def __repr__(self) -> str:
        weights = sum(self[name].numel() for name in self.prunable)
        what = "SignedMask" if self.signed else "SignedMask.binary"
        found = f"{self.config.architecture}, {self.config.method}: " if self.config else ""
        return (
            f"{what}({found}{self.remaining:.4g} of {weights:,} prunable weights, "
            f"{self.remaining_total:.4g} of all {self.parameters:,} parameters, {len(self)} tensors)"
        )

    @property
    def remaining(self) -> float:
        """Share of the prunable weights that are left, the ratio that the paper reports."""
        return signs.remaining({name: self[name] for name in self.prunable})

    @property
    def remaining_total(self) -> float:
        """Share of all parameters of the model that are left, normalization and classifier included."""
        pruned = sum(int((self[name] == 0).sum()) for name in self.prunable)
        return (self.parameters - pruned) / self.parameters

    def table(self) -> list[LayerRow]:
        """One row a tensor, in the order of the model."""
        rows = []
        for name, value in self.items():
            kept, positive = int(torch.count_nonzero(value)), int((value > 0).sum())
            share, up = kept / max(value.numel(), 1), positive / kept if kept else float("nan")
            rows.append(LayerRow(name, tuple(value.shape), name in self.prunable, value.numel(), share, up))
        return rows

    def binary(self) -> "SignedMask":
        """The mask alone, |s| of the prunable weights: `apply_` then leaves the signs of the init as they are."""
        values = {name: self[name].abs() for name in self.prunable}
        return SignedMask(values, self.config, parameters=self.parameters, signed=False)

    def with_random_signs(self, seed: int) -> "SignedMask":
        """The same zeros under signs drawn by a fair coin: the control that tells signs from sparsity."""
        generator = torch.Generator().manual_seed(seed)
        values = {
            name: value * (torch.randint(2, value.shape, generator=generator, dtype=torch.int8) * 2 - 1)
            for name, value in self.items()
        }
        return SignedMask(values, self.config, prunable=self.prunable, parameters=self.parameters)

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """theta = |theta_init| * s in place (or theta_init * m, for a binary mask); norm parameters stay.

        Raises: ValueError that lists what does not fit, and changes nothing, unless everything does.
        """
        for name, parameter in self._fitting(model).items():
            magnitude = parameter.abs_() if self.signed else parameter
            magnitude.mul_(self[name].to(parameter.device, non_blocking=True))

    def held(self, model: nn.Module) -> Hold:
        """Zero the pruned weights of `model` and keep them exactly 0 under any optimizer, until the end of the
        `with` block or `remove()`. Raises: ValueError as `apply_`, and if the model is held already."""
        self._fitting(model)
        return Hold(bare_model(model), {name: self[name] != 0 for name in self.prunable})

    def _fitting(self, model: nn.Module) -> dict[str, nn.Parameter]:
        model = bare_model(model)
        parameters = dict(model.named_parameters())
        parts = partition(model, self.config or SignedMaskConfig())
        wrong = [f"{name}: not in the model" for name in self if name not in parameters]
        wrong += [
            f"{name}: not in the mask" for name in (parts.signed if self.signed else parts.prunable) if name not in self
        ]
        for name in self:
            parameter = parameters.get(name)
            if parameter is not None and parameter.shape != self[name].shape:
                wrong.append(
                    f"{name}: shape {tuple(self[name].shape)} in the mask, {tuple(parameter.shape)} in the model"
                )
            elif parameter is not None and parameter.is_meta:
                wrong.append(f"{name}: on the meta device; initialize the model first")
        if wrong:
            made_for = self.config.architecture if self.config else None
            raise ValueError(
                f"the signed mask does not fit this {type(model).__name__}, nothing was changed; it was made for "
                f"{made_for or 'a network that it does not name'}. {len(wrong)} parameters differ:\n  "
                + "\n  ".join(wrong[:10] + ([f"and {len(wrong) - 10} more"] if wrong[10:] else []))
            )
        return {name: parameters[name] for name in self}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `signed_mask.safetensors` into `folder`, made if need be; each replaced whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        roles = {
            "parameters": self.parameters,
            "signed": self.signed,
            "signed_only": [name for name in self if name not in set(self.prunable)],
        }
        packing.write(folder / MASK_FILE, self, {"signed_mask": json.dumps(roles)})
        config = {
            "config": self.config.to_dict() if self.config else None,
            "remaining": self.remaining,
            "remaining_total": self.remaining_total,
        }
        packing.replace_file(folder / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SignedMask":
        """The inverse of `save_pretrained`. Raises: FileNotFoundError; ValueError for files that are not whole."""
        folder = Path(folder)
        values, metadata = packing.read(folder / MASK_FILE)
        config = json.loads((folder / CONFIG_FILE).read_text())["config"]
        roles = json.loads(metadata["signed_mask"])
        return cls(
            values,
            SignedMaskConfig.from_dict(config) if config else None,
            prunable=tuple(name for name in values if name not in set(roles["signed_only"])),
            parameters=roles["parameters"],
            signed=roles["signed"],
        )
