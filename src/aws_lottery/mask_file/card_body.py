"""What the card of a signed mask says, as Markdown: made from what was measured, and only from that.

A mask may come from a stranger's file, so text in it can't end its cell, its code span or the marks around our part.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from ..config import METHODS, PROTOCOLS, SignedMaskConfig
from ..paper import PAPER, SOURCE, Reported, reported
from ..summaries import markdown_table, mean_std_text
from .provenance import DENSE, MASK_ONLY, RANDOM_SIGNS, SIGNED, Provenance, Result

if TYPE_CHECKING:
    from ..mask import SignedMask

WHAT_IT_IS = """\
A signed mask says of every weight of a network whether it is pruned (0), and which sign it has otherwise (+1 or -1).
Multiplied with the magnitudes of a *fresh random initialization*, `theta = |theta_init| * s`, it makes a sparse network
to be trained from there. It holds no trained weights."""
BINARY = """\
This one is a mask without signs: 0 where a weight is pruned, 1 elsewhere. Weights keep the signs of their own
initialization, `theta = theta_init * m`."""
SNIPPET = """\
from aws_lottery import SignedMask

{model}

mask = SignedMask.from_pretrained("{source}")
mask.apply_(model)  # {formula}; normalization stays at its initialization
hold = mask.held(model)  # from here on pruned weights stay exactly 0 under any torch.optim optimizer
# train `model` as you like, then hold.remove()"""
LIMITS = """\
- What is not in the tables was not measured.
- The mask fits one architecture; other data sets, optimizers and schedules than those above are untested."""


def body(mask: "SignedMask", repo_id: str | None) -> str:
    """The part of the card between our marks; without a `repo_id` the example loads the folder of the card."""
    about = mask.provenance or Provenance()
    network = (mask.config and mask.config.architecture) or "a network that it does not name"
    sections = [
        f"# Signed mask for {_text(network)}",
        WHAT_IT_IS if mask.signed else f"{WHAT_IT_IS}\n\n{BINARY}",
        f"**{mask.remaining:.4g}** of the prunable weights remain, the ratio that papers report; that is "
        f"**{mask.remaining_total:.4g}** of all {mask.parameters:,} parameters.",
        "## Use",
        _fenced(_snippet(mask, repo_id or ".", network, about), "python"),
        "## Results",
        *_results(mask, about),
        "## Recipe",
        *_recipe(mask.config, about),
        "## Layers",
        _layers(mask),
        "## How it was made",
        _origin(about),
        "## Limits",
        "\n".join([LIMITS, *_not_interpolated(mask), *(f"- {_text(limit)}" for limit in about.limits)]),
        f"The method is that of *{PAPER}*; this is an independent implementation.",
    ]
    return "\n\n".join(sections)


def _snippet(mask: "SignedMask", source: str, network: str, about: Provenance) -> str:
    formula = "theta = |theta_init| * s" if mask.signed else "theta = theta_init * m"
    model = about.model_code or f"model = ...  # freshly initialized: {_line(network)}"
    return SNIPPET.format(model=model.strip(), source=source, formula=formula)


def _results(mask: "SignedMask", about: Provenance) -> list[str]:
    """A table for each data set and metric, the conditions without a result included."""
    kinds = list(dict.fromkeys((result.dataset, result.metric) for result in mask.results))
    sections = []
    for dataset, metric in kinds or [(about.dataset or "", "accuracy")]:
        by_condition = {r.condition: r for r in mask.results if (r.dataset, r.metric) == (dataset, metric)}
        where = f" on {_text(dataset)}" if dataset else ""
        unit = " in percent" if metric == "accuracy" else ""
        sections += [f"{_text(metric).capitalize()}{unit}{where}, mean ± standard deviation over the seeds:"]
        sections += [_comparison(by_condition, _reported(mask.config, dataset), _usual(mask.config))]
    return sections


def _usual(config: SignedMaskConfig | None) -> list[str]:
    solution = f"{config.method.upper()} solution" if config else "solution"
    return [DENSE, solution, SIGNED, MASK_ONLY, RANDOM_SIGNS]


def _reported(config: SignedMaskConfig | None, dataset: str) -> dict[str, Reported]:
    """Condition -> figure of the paper for the same search."""
    if config is None:
        return {}
    figures = reported(
        config.architecture or "", dataset, method=config.method, rounds=config.rounds, prune_rate=config.prune_rate
    )
    names = {"dense": DENSE, "solution": _usual(config)[1], "signs": SIGNED}
    return {names[what]: figure for what, figure in figures.items()}


def _comparison(results: dict[str, Result], paper: dict[str, Reported], usual: list[str]) -> str:
    rows = []
    for condition in dict.fromkeys([*usual, *results]):
        result = results.get(condition)
        cells = ["not measured", "not measured", "0"]
        if result is not None:
            before = mean_std_text(result.before, alone="") if result.before else "not measured"
            cells = [before, mean_std_text(result.values, alone=""), str(len(result.values))]
        figure = paper.get(condition)
        rows.append([_text(condition), *cells, f"{figure.mean:.2f} ± {figure.std:.2f}" if figure else "-"])
    header = ["start", "before training", "after training", "seeds", "paper, after training"]
    if paper:
        return f"{markdown_table(header, rows)}\n\nPaper: {SOURCE}."
    return f"{markdown_table(header[:-1], [row[:-1] for row in rows])}\n\nThe paper reports no figure for this search."


def _recipe(config: SignedMaskConfig | None, about: Provenance) -> list[str]:
    if config is None:
        search = "The search that found it is not recorded."
    else:
        switches = {"method": METHODS[config.method], "protocol": PROTOCOLS[config.protocol]}
        rows = [[_code(key), _code(value)] for key, value in asdict(config).items()]
        rows += [
            [_code(f"{kind}.{f.name}"), _code(getattr(row, f.name))]
            for kind, row in switches.items()
            for f in fields(row)
            if f.compare  # what changes a result; the look of its line in figures does not
        ]
        search = markdown_table(["search", "value"], rows)
    training = [[_code(key), _code(value)] for key, value in about.training.items()]
    return [
        search,
        markdown_table(["training", "value"], training) if training else "How it was trained is not recorded.",
    ]


def _layers(mask: "SignedMask") -> str:
    rows = [
        [
            _code(row.name),
            "x".join(map(str, row.shape)) or "-",
            f"{row.remaining:.4f}" if row.prunable else "not pruned",
            f"{row.positive:.2f}" if mask.signed and row.positive == row.positive else "-",
        ]
        for row in mask.table()
    ]
    return markdown_table(["tensor", "shape", "remaining", "share of + among them"], rows)


def _not_interpolated(mask: "SignedMask") -> list[str]:
    """A line where the method interpolates normalization and the network has none: all its parameters have signs."""
    signed = sum(row.weights for row in mask.table())
    if mask.config is None or not METHODS[mask.config.method].interpolate_norm or signed < mask.parameters:
        return []
    return [
        "- The network has no normalization with parameters, so nothing was interpolated: this search by "
        f"`{mask.config.method}` is one by `lrr`, and the paper promises nothing of its signs elsewhere."
    ]


def _origin(about: Provenance) -> str:
    origin = {
        "aws_lottery": about.library_version,
        "commit": about.commit,
        "software": about.software,
        "hardware": about.hardware,
        "date": about.date,
        "data": about.dataset,
        "command": about.command,
    }
    rows = [[what, _code(value) if value else "not recorded"] for what, value in origin.items()]
    return markdown_table(["", ""], rows + [["started at", _before(step)] for step in reversed(about.history)])


def _before(step: Mapping[str, object]) -> str:
    """A mask that a search started at, in a line."""
    config, remaining = step.get("config"), step.get("remaining")
    search = (
        f"{config.get('method')}, {config.get('rounds')} rounds"
        if isinstance(config, Mapping)
        else "no search recorded"
    )
    source = step.get("source") or f"signs {step.get('signs')}"
    return f"{_code(source)} ({_text(search)}, {_text(remaining)} of the prunable weights)"


def _line(value: object) -> str:
    """As one line, with spaces for characters that can't be printed."""
    return "".join(c if c.isprintable() else " " for c in str(value)).strip()


def _text(value: object) -> str:
    """As plain text: nothing in it is Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>#|!~$&])", r"\\\1", _line(value)).replace("\\<", "&lt;").replace("\\&", "&amp;")


def _code(value: object) -> str:
    """As a code span; a table ends its cell at | even there."""
    line = _line(list(value) if isinstance(value, tuple) else value).replace("|", "\\|")  # JSON has no tuples
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


def _fenced(code: str, language: str) -> str:
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{ticks}{language}\n{code}\n{ticks}"
