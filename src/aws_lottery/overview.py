"""What there is to say of a mask in a few lines: its size, its origin, what was measured, its files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .formats.semi_structured import misfits
from .mask import SignedMask
from .mask_file.packed_signs import count, entries_of
from .mask_file.pretrained import MASK_FILE
from .summaries import mean_std_text, share_text


def overview(mask: SignedMask, folder: Path) -> dict[str, str]:
    """Label -> text, in the order to show them in.

    Args:
        folder: that the mask was read from.
    Raises: OSError if its files are gone.
    """
    return {**_figures(mask), **_origin(mask), **_files(mask, folder)}


class Counts(NamedTuple):
    """Of the prunable weights of a mask: all, those that are left, and the share of + among those; NaN: no signs."""

    weights: int
    survivors: int
    positive: float

    @classmethod
    def of(cls, mask: SignedMask) -> "Counts":
        counts = [count(mask.signs, name) for name in mask.prunable]
        survivors, negative = sum(c.nonzeros for c in counts), sum(c.negatives for c in counts)
        share = (survivors - negative) / survivors if survivors and mask.signed else math.nan
        return cls(sum(c.size for c in counts), survivors, share)


def _figures(mask: SignedMask) -> dict[str, str]:
    weights, survivors, positive = Counts.of(mask)
    fitting = len(mask.prunable) - len(misfits(mask))
    return {
        "remaining": f"{share_text(mask.remaining)} of {weights:,} prunable weights, {survivors:,} survivors",
        "in all": f"{share_text(mask.remaining_total)} of {mask.parameters:,} parameters",
        "signs": f"{share_text(positive)} of the survivors are +" if mask.signed else "none",
        "2:4": f"{fitting} of {len(mask.prunable)} prunable layers fit (inspect --json has the reasons for the others)",
    }


def _origin(mask: SignedMask) -> dict[str, str]:
    entries: dict[str, str] = {}
    if mask.config:
        search = mask.config
        entries["network"] = search.architecture or "not recorded"
        entries["search"] = f"{search.method}, protocol {search.protocol}, {search.rounds} rounds, seed {search.seed}"
    if mask.provenance:
        fields: Mapping[str, Any] = vars(mask.provenance)
        names = ("dataset", "date", "hardware", "software", "commit", "command", "license")
        entries |= {name: str(fields[name]) for name in names if fields[name]}
    for result in mask.results:
        entries[result.condition] = f"{mean_std_text(result.values)} {result.metric} on {result.dataset}"
    return entries


def _files(mask: SignedMask, folder: Path) -> dict[str, str]:
    size, places = (folder / MASK_FILE).stat().st_size, entries_of(mask.signs)
    others = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != MASK_FILE}
    sizes = "".join(f"; {name} {bytes_:,}" for name, bytes_ in others.items() if name.endswith(".safetensors"))
    return {"size": f"{size:,} bytes, {8 * size / places:.3f} bits a weight{sizes}"}
