"""The folder that a search leaves for each round: the signed mask, its card, and the weights that go with it."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..mask import SignedMask
from ..mask_file.provenance import provenance
from ..mask_file.sparse_weights import REWOUND_FILE, WEIGHTS_FILE, each_weight, save_weights
from ..parameters.unwrap import clean_name, state_of, unwrap
from ..processes import together
from ..pruner import AWSPruner
from ..sharding import as_laid_out, whole

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState


def round_folder(output_dir: str | Path, index: int) -> Path:
    """Where a search leaves the signed mask of round `index`."""
    return Path(output_dir) / f"round-{index:02}"


def save_round(
    folder: Path,
    mask: SignedMask,
    pruner: AWSPruner,
    processes: "Accelerator | PartialState",
    *,
    about: Mapping[str, Any],
) -> None:
    """Write the mask of a round, the weights that survived it, and those that the method rewinds to.

    Every process has to call it: all gather what is sharded, one writes.
    """
    with together(processes):
        if processes.is_main_process:
            history = mask.provenance.history if mask.provenance else ()
            mask.provenance = provenance(**{"history": history, **about})
            mask.save_pretrained(folder)
    for file, weights in ((WEIGHTS_FILE, pruner.sparse_state()), (REWOUND_FILE, pruner.rewound_state())):
        if weights is not None:
            gathered = ((name, whole(tensor.detach())) for name, tensor in weights.items())  # one after the other
            with together(processes):
                try:
                    if processes.is_main_process:
                        save_weights(folder, gathered, mask, file=file)
                finally:
                    deque(gathered, maxlen=0)  # the rest, for which the other processes wait


def read_round_(folder: Path, model: nn.Module) -> SignedMask:
    """The mask that a search left in `folder`; its weights and buffers are loaded into the model."""
    mask = SignedMask.from_pretrained(folder)
    model = unwrap(model)
    layout, keys = state_of(model), {clean_name(key): key for key in model.state_dict()}
    weights = {keys[n]: as_laid_out(value, layout[n]) for n, value in each_weight(folder, mask) if n in keys}
    model.load_state_dict(weights, strict=False)
    return mask
