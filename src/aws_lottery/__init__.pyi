"""The public names: the one list of them, for type checkers and, through lazy_loader, at run time."""

from .config import METHODS as METHODS
from .config import PROTOCOLS as PROTOCOLS
from .config import SignedMaskConfig as SignedMaskConfig
from .connectivity import Barrier as Barrier
from .connectivity import barrier_between as barrier_between
from .connectivity import error_barrier as error_barrier
from .connectivity import sgd_stability as sgd_stability
from .criteria import CRITERIA as CRITERIA
from .criteria import Criterion as Criterion
from .data import load_data as load_data
from .evaluation import evaluate as evaluate
from .evaluation import recalibrate as recalibrate
from .experiments.comparison import Comparison as Comparison
from .experiments.verdict import Verdict as Verdict
from .experiments.verify import verify as verify
from .gem_miner import GemMiner as GemMiner
from .gem_miner import pruner_for as pruner_for
from .integrations.held_mask import HeldMask as HeldMask
from .integrations.winning_sign import WinningSignCallback as WinningSignCallback
from .mask import SignedMask as SignedMask
from .mask_file.hub import HubError as HubError
from .mask_file.provenance import Provenance as Provenance
from .mask_file.provenance import Result as Result
from .mask_file.provenance import provenance as provenance
from .models import create_model as create_model
from .parameters.hold import Hold as Hold
from .pruner import AWSPruner as AWSPruner
from .pruner import Stage as Stage
from .runs.search import find_signed_mask as find_signed_mask
from .searched_model import detach as detach
from .signs import interpolate as interpolate
from .signs import prune as prune
from .signs import remaining as remaining
from .signs import sign0 as sign0
from .signs import transfer as transfer
from .train_many import train_many as train_many
from .training import train as train
from .training_config import TrainingConfig as TrainingConfig
from .transfers import TRANSFERS as TRANSFERS
from .transfers import transfer_ as transfer_

__version__: str
