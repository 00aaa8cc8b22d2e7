"""What `verify` found, for programs and for readers: verdict.json, a Markdown table, a figure, the mask's card."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from .. import __version__
from ..atomic import replace_file
from ..mask import SignedMask
from ..mask_file.pretrained import CARD_FILE
from ..mask_file.provenance import SIGNED
from ..strict_json import to_json
from ..summaries import markdown_table, mean_std_text
from .claim_figure import claim_figure
from .claims import Finding
from .figures import FIGURES, figures, save
from .results import Row, first_trainings, write_results
from .tables import results_for_card, table, title
from .winning_sign import Margins

ROWS_FILE, VERDICT_FILE, TABLE_FILE = "results.jsonl", "verdict.json", "verdict.md"
LEGEND = """\
Each value is of one initialization: the difference between two trainings that share it and their data order, in points
of test accuracy, or a barrier (Eq. 1), in points of test error; the mean ± the sample standard deviation over n of
them. The p value is of a two-sided t test of the mean against the bound, corrected for {claims} claims by Holm's
method; the verdict is "not enough seeds" unless it is below {level:g}. The intervals hold together with {sure:g} %. The
spread is that over initializations and data orders, on one test set, with one mask and one set of hyper-parameters."""


@dataclass(frozen=True, kw_only=True)
class Verdict(Mapping[str, Finding]):
    """Name of a claim -> what was found of it; `verdict["mask"].verdict` is "holds", "does not hold" or "not enough
    seeds". Names: `dense`, `mask`, `random-signs`, `shuffled-mask`, `stability`, `between-inits`, and `lmc` where the
    weights of the search were at hand (docs/verify.md).

    Args:
        findings: in the order of the paper.
        rows: what they are made of, as in results.jsonl.
        margins: that they were judged by.
        chance: the accuracy of guessing, in percent.

    Example:
        >>> verdict = verify("org/resnet50-aws-0.14", fresh, data, training, output_dir="out")  # doctest: +SKIP
        >>> [name for name, finding in verdict.items() if finding.verdict == "holds"]  # doctest: +SKIP
        ['mask', 'random-signs']
    """

    findings: Sequence[Finding]
    rows: Sequence[Row]
    margins: Margins
    chance: float

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.claim.name == name:
                return finding
        raise KeyError(f"no claim '{name}'; there are {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        return (finding.claim.name for finding in self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __str__(self) -> str:
        """The claims as a Markdown table, with its legend and the notes on seeds."""
        header = ["claim", "holds if the mean is", "mean ± std", "interval", "n", "p, corrected", "verdict"]
        notes = [f"- {finding.claim.name}: {note}." for finding in self.findings for note in finding.claim.notes]
        legend = LEGEND.format(claims=len(self), level=self.margins.level, sure=100 - 100 * self.margins.level)
        parts = [markdown_table(header, map(_cells, self.findings)), "\n".join(notes), legend]
        return "\n\n".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for verdict.json."""
        signed = next(row for row in self.rows if row.signed_mask is not None)
        about = ("model", "dataset", "signed_mask", "method", "remaining", "remaining_total", "protocol")
        return {
            "library_version": __version__,
            **{name: getattr(signed, name) for name in about},
            "margins": asdict(self.margins),
            "chance": self.chance,
            "claims": [_plain(finding) for finding in self.findings],
        }


def _cells(finding: Finding) -> list[str]:
    claim = finding.claim
    needed = f" (about {finding.seeds_needed} if they go on so)" if finding.seeds_needed else ""
    return [
        f"**{claim.name}**: {claim.statement}",
        f"{claim.side} {claim.bound:g}",
        mean_std_text(claim.values),
        "-" if finding.low is None else f"{finding.low:.2f} to {finding.high:.2f}",
        str(len(claim.values)),
        "-" if finding.p_corrected is None else f"{finding.p_corrected:.2g}",
        f"**{finding.verdict}**{needed}",
    ]


def _plain(finding: Finding) -> dict[str, Any]:
    values = asdict(finding)
    return {**values.pop("claim"), "n": len(finding.claim.values), **values}


def write_verdict(
    folder: Path, verdict: Verdict, mask: SignedMask, *, plots: bool, benchmark: tuple[str, str] | None
) -> None:
    """Write results.jsonl, verdict.json, verdict.md, plots/, and the mask with a card that states what was found. Runs
    that have shared the work, and are done together, do so one after the other.

    Args:
        folder: there already.
        verdict: what is written.
        mask: that it is of.
        plots: whether to draw figures.
        benchmark: id on the Hub of the data set and of a task that it is registered as a benchmark with; there is an
            `.eval_results/` file for it beside the card.
    """
    with FileLock(folder / "report.lock"):
        write_results(folder / ROWS_FILE, verdict.rows)
        replace_file(folder / VERDICT_FILE, (to_json(verdict.to_dict(), indent=2) + "\n").encode())
        replace_file(folder / TABLE_FILE, f"{title(verdict.rows)}\n\n{verdict}\n\n{table(verdict.rows)}".encode())
        _write_mask(folder / "mask", verdict, mask, benchmark)
        if plots:
            of_rows = {name: figure for name, figure in figures(verdict.rows).items() if name not in FIGURES}
            save({"claims": claim_figure(verdict.findings, title(verdict.rows)), **of_rows}, folder / "plots")


def _write_mask(folder: Path, verdict: Verdict, mask: SignedMask, benchmark: tuple[str, str] | None) -> None:
    dataset, method = verdict.rows[0].dataset, mask.config.method if mask.config else None
    others = [result for result in mask.results if result.dataset != dataset]
    described = SignedMask(
        mask,
        mask.config,
        prunable=mask.prunable,
        parameters=mask.parameters,
        results=(*others, *results_for_card(verdict.rows, method, None)),
        provenance=mask.provenance,
        checkpoint_names=mask.checkpoint_names,
    )
    described.save_pretrained(folder)
    card = described.generate_model_card()
    replace_file(folder / CARD_FILE, f"{card}\n\n## Is it a winning sign?\n\n{verdict}\n".encode())
    if benchmark is not None:
        (folder / ".eval_results").mkdir(exist_ok=True)
        path = folder / ".eval_results" / f"{benchmark[0].rpartition('/')[2]}.yaml"
        replace_file(path, eval_results(verdict, *benchmark).encode())


def eval_results(verdict: Verdict, dataset: str, task: str) -> str:
    """The YAML by which the Hub shows the accuracy of fresh initializations with the signs as that of a benchmark.

    Args:
        verdict: whose trainings with the signs are averaged.
        dataset: id on the Hub.
        task: id of the benchmark that is registered with it.

    Returns:
        The text of a file in `.eval_results/`.

    Raises:
        ValueError: If all trainings with the signs failed.
    """
    groups = [group for start, group in first_trainings(verdict.rows).items() if start.transfer == "signs"]
    accuracies = [row.after for group in groups for row in group if row.after is not None]
    if not accuracies:
        raise ValueError(f"no result for the benchmark {dataset}: all trainings with the signs failed")
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=task,
        value=round(fmean(accuracies), 4),
        date=datetime.now(UTC).date().isoformat(),
        notes=f"top-1 accuracy in %, {SIGNED}, trained; mean of {len(accuracies)} initializations",
    )
    return yaml_dump(eval_result_entries_to_yaml([entry]))
