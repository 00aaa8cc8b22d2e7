"""aws_lottery: find, ship and apply winning signs ("Find A Winning Sign", ICLR 2025).

Each name is imported from its module when it is first used, so that `import aws_lottery` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compare import Comparison as Comparison
    from .config import METHODS as METHODS
    from .config import PROTOCOLS as PROTOCOLS
    from .config import SignedMaskConfig as SignedMaskConfig
    from .connectivity import Barrier as Barrier
    from .connectivity import error_barrier as error_barrier
    from .connectivity import sgd_stability as sgd_stability
    from .data import load_data as load_data
    from .facts import Provenance as Provenance
    from .facts import Result as Result
    from .facts import provenance as provenance
    from .gem import GemMiner as GemMiner
    from .gem import pruner_for as pruner_for
    from .holding import Hold as Hold
    from .hub import HubError as HubError
    from .mask import SignedMask as SignedMask
    from .measuring import evaluate as evaluate
    from .measuring import recalibrate as recalibrate
    from .models import create_model as create_model
    from .pruner import AWSPruner as AWSPruner
    from .pruner import Stage as Stage
    from .pruner import detach as detach
    from .search import find_signed_mask as find_signed_mask
    from .signs import interpolate as interpolate
    from .signs import prune as prune
    from .signs import remaining as remaining
    from .signs import sign0 as sign0
    from .signs import transfer as transfer
    from .training import TrainingConfig as TrainingConfig
    from .training import train as train
    from .transfers import TRANSFERS as TRANSFERS
    from .transfers import transfer_ as transfer_

__version__ = "0.1.0"

_HOMES = {
    "compare": ("Comparison",),
    "config": ("METHODS", "PROTOCOLS", "SignedMaskConfig"),
    "connectivity": ("Barrier", "error_barrier", "sgd_stability"),
    "facts": ("Provenance", "Result", "provenance"),
    "data": ("load_data",),
    "gem": ("GemMiner", "pruner_for"),
    "holding": ("Hold",),
    "hub": ("HubError",),
    "mask": ("SignedMask",),
    "measuring": ("evaluate", "recalibrate"),
    "models": ("create_model",),
    "pruner": ("AWSPruner", "Stage", "detach"),
    "search": ("find_signed_mask",),
    "signs": ("interpolate", "prune", "remaining", "sign0", "transfer"),
    "training": ("TrainingConfig", "train"),
    "transfers": ("TRANSFERS", "transfer_"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'aws_lottery' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
