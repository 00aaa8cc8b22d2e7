"""The card of a signed mask, README.md: its front matter, which the Hub reads, and our part of its text between marks.

What was written by hand around the marks stays when the card is made again.
"""

import re
import statistics
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .card_body import body
from .provenance import SIGNED, Provenance, Result

if TYPE_CHECKING:
    from ..mask import SignedMask

BEGIN = "<!-- aws_lottery:begin; what stands between these two marks is replaced when the mask is saved again -->"
END = "<!-- aws_lottery:end; what you write below or above them, and keys you add on top, is kept -->"
_EMPTY = "---\n{}\n---\n"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def render(mask: "SignedMask", *, repo_id: str | None = None, existing: str | None = None) -> ModelCard:
    """The card of `mask`.

    Args:
        repo_id: on the Hub; None: the example loads the folder that it stands in.
        existing: the card that this one replaces. Kept of it: what stands outside our marks, entries of `tags` and
            `datasets`, and keys of the front matter that we have no value for; the model-index is always ours.
    Raises: ValueError if the front matter of `existing` can't be read.
    """
    before, text = _parsed(existing or "")
    data = {**before, **_front_matter(mask).to_dict()}
    for key in ("tags", "datasets"):
        data[key] = list(dict.fromkeys([*_listed(data.get(key)), *_listed(before.get(key))])) or None
    card = ModelCard(_EMPTY)
    card.data = ModelCardData(**data)
    card.text = _inserted(body(mask, repo_id), text)
    return card


def _parsed(text: str) -> tuple[dict[str, Any], str]:
    """Front matter, less the model-index, and what follows it."""
    try:
        card = ModelCard(text if text.lstrip().startswith("---") else _EMPTY + text, ignore_metadata_errors=True)
        return {key: value for key, value in card.data.to_dict().items() if key != "model-index"}, card.text
    except Exception as error:  # of the YAML parser, and of the library's idea of metadata
        raise ValueError(
            f"the front matter of the README.md there can't be read, mend or remove it: {error}"
        ) from error


def _inserted(ours: str, text: str) -> str:
    """`text` with `ours` between our marks, in the place of what stands from the first begin to the last end: what is
    between them may hold either mark."""
    marked = f"{BEGIN}\n\n{ours}\n\n{END}"
    start, stop = text.find(BEGIN), text.rfind(END)
    if 0 <= start < stop:
        return text[:start] + marked + text[stop + len(END) :]
    return f"\n{marked}\n" + (f"\n{text.lstrip()}" if text.strip() else "")


def _front_matter(mask: "SignedMask") -> ModelCardData:
    about = mask.provenance or Provenance()
    names = [about.dataset, *(result.dataset for result in mask.results)]
    signed = [result for result in mask.results if result.condition == SIGNED]
    return ModelCardData(
        library_name="aws_lottery",
        pipeline_tag=about.task,
        license=about.license,
        base_model=about.base_model,
        datasets=list(dict.fromkeys(name for name in names if name and _HUB_ID.fullmatch(name))) or None,
        tags=["signed-mask", "sparsity", "pruning", "lottery-ticket", *([mask.config.method] if mask.config else [])],
        model_name="signed mask",
        eval_results=[_eval_result(result, about) for result in signed] or None,
    )


def _eval_result(result: Result, about: Provenance) -> EvalResult:
    return EvalResult(
        task_type=about.task or "other",
        dataset_type=result.dataset,
        dataset_name=result.dataset,
        metric_type=result.metric,
        metric_name=f"{result.metric}, mean of {len(result.values)}, fresh initializations + signed mask, trained",
        metric_value=round(statistics.mean(result.values), 4),
    )


def _listed(value: object) -> list[str]:
    return [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, str)]
