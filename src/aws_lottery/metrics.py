"""Accuracy as a `Metric` of Hugging Face evaluate that needs no download."""

import datasets
import evaluate
import numpy as np


class Accuracy(evaluate.Metric):
    """Top-1 accuracy in percent, of integer predictions and references: `{"accuracy": 97.5}`."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self) -> str:
        return self._data_dir_root  # nothing is written there, so it need not be there

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference, in percent.",
            citation="",
            inputs_description="predictions, references: integers of equal length.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:  # type: ignore[override]
        return {"accuracy": 100.0 * float(np.mean(np.equal(predictions, references)))}
