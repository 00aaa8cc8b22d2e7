"""The command line of a comparison."""

from functools import partial
from pathlib import Path

from ..experiments.comparison import Comparison
from ..experiments.jobs import SearchRound
from ..experiments.report import TABLE_FILE
from ..models import ARCHITECTURES, fresh_network
from ..paper import RECIPES
from .options import accelerator_for, data_for, final_config, options, settings_for


def compare_main(description: str | None) -> None:
    """The command line of a comparison: final trainings from the masks of one or more searches."""
    networks = {name: row for rows in RECIPES.values() for name, row in rows.items()}
    parser = options(description, None, networks)
    parser.add_argument("searches", nargs="+", help="folders that search recipes wrote")
    parser.add_argument("--rounds", type=int, nargs="+", required=True)
    parser.add_argument(
        "--transfers", nargs="+", default=["dense", "solution", "signs", "mask"], metavar="[METHOD:]NAME"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--barrier_rounds", type=int, nargs="*", default=[], help="of --rounds; each start trains twice"
    )
    parser.add_argument("--recipe", choices=list(RECIPES), default="small", help="whose hyper-parameters")
    parser.add_argument("--epochs", type=int, default=None, help="default: the paper's")
    given = parser.parse_args()
    given.output_dir = given.output_dir or f"{given.searches[0]}-compared"
    name = given.model or SearchRound(Path(given.searches[0]), given.rounds[0]).architecture
    if name is None or name not in ARCHITECTURES:
        parser.error(f"--model is needed: the search is of '{name}', not one of {', '.join(ARCHITECTURES)}")
    accelerator = accelerator_for(given)
    data = data_for(given, accelerator)
    comparison = Comparison(
        given.searches,
        partial(fresh_network, name, data.num_classes, image_size=data.image_size, channels_last=given.channels_last),
        data,
        final_config(settings_for(name, RECIPES[given.recipe]), given),
        output_dir=given.output_dir,
        accelerator=accelerator,
        rounds=given.rounds,
        transfers=given.transfers,
        seeds=given.seeds,
        barrier_rounds=given.barrier_rounds,
    )
    comparison.run()
    accelerator.print((comparison.folder / TABLE_FILE).read_text())
    accelerator.end_training()
