"""What a comparison is made of: rounds of searches, and final trainings from them; plain data, no work."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..mask import SignedMask
from ..mask_file.pretrained import MASK_FILE
from ..runs.checkpoint import CheckpointError

Row = dict[str, Any]
OTHER_NOISE = 1000  # added to the seed of the data order


@dataclass(frozen=True)
class Found:
    """What a search found in one round."""

    folder: Path
    round: int

    @cached_property
    def mask(self) -> SignedMask:
        return SignedMask.from_pretrained(self.folder)

    @property
    def method(self) -> str:
        assert self.mask.config is not None  # a search writes it
        return self.mask.config.method

    @property
    def architecture(self) -> str | None:
        return self.mask.config.architecture if self.mask.config else None

    @property
    def name(self) -> str:
        return f"{self.method}-round-{self.round:02}"

    @cached_property
    def facts(self) -> Row:
        assert self.mask.config is not None
        return {
            "method": self.method,
            "round": self.round,
            "remaining": self.mask.remaining,
            "remaining_total": self.mask.remaining_total,
            "protocol": self.mask.config.protocol,
            "signed_mask": hashlib.sha256((self.folder / MASK_FILE).read_bytes()).hexdigest()[:16],
        }


DENSE_FACTS: Row = {"method": None, "round": None, "remaining": 1.0, "remaining_total": 1.0, "protocol": "paper"}


@dataclass(frozen=True)
class Job:
    """One final training: A(theta, u), where `seed` makes theta_init and `data_seed` is u."""

    found: Found | None  # None: dense
    transfer: str
    seed: int
    data_seed: int

    @property
    def name(self) -> str:
        found = f"{self.found.name}-" if self.found else ""
        return f"{found}{self.transfer}-seed{self.seed}-u{self.data_seed}"

    @property
    def other(self) -> "Job":
        """The same start with other SGD noise, to measure stability."""
        return replace(self, data_seed=self.data_seed + OTHER_NOISE)

    def facts(self) -> Row:
        found = self.found.facts if self.found else DENSE_FACTS
        return {"kind": "accuracy", **found, "transfer": self.transfer, "seed": self.seed}


def kept(path: Path, found: Found | None) -> Row:
    """What was measured with `found`, or without any."""
    row = json.loads(path.read_text())
    if found is not None and row["signed_mask"] != found.facts["signed_mask"]:
        raise CheckpointError(f"{path} is of another search than {found.folder}; take another output folder")
    return row
