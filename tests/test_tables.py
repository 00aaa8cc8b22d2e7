"""Tables of a comparison's rows, compared whole, and the results that cards state."""

import math

from aws_lottery import Result
from aws_lottery.experiments.results import Row, first_trainings, row_from_dict
from aws_lottery.experiments.tables import label, results_for_card
from aws_lottery.experiments.tables import table as table_of_rows

NAMED = {"model": "ResNet-50", "dataset": "ILSVRC/imagenet-1k"}
DENSE = {"method": None, "round": None, "remaining": 1.0, "remaining_total": 1.0, "transfer": "dense"}
AWS = {"method": "aws", "round": 9, "remaining": 0.1342, "remaining_total": 0.2049, "transfer": "signs"}
LRR = {**AWS, "method": "lrr", "transfer": "mask"}


def accuracy(start, seed, before, after, data_seed=None, **more) -> dict:
    row = {"kind": "accuracy", **start, "seed": seed, "data_seed": data_seed or seed, "protocol": "paper", **more}
    return {**row, "before": before, **({"failed": after} if isinstance(after, str) else {"after": after})}


def barrier(kind, start, seed, first, last, height) -> dict:
    middle = (first + last) / 2 + height
    return {
        **start,
        "kind": kind,
        "seed": seed,
        "alphas": [0, 0.5, 1],
        "errors": [first, middle, last],
        "barrier": height,
    }


def typed(rows: list[dict]) -> list[Row]:
    return [row_from_dict(row) for row in rows]


def table(rows: list[dict]) -> str:
    return table_of_rows(typed(rows))


ROWS = [
    accuracy(LRR, 1, 7.0, 50.0),
    accuracy(AWS, 1, 10.0, 73.0),
    accuracy(AWS, 1, 10.0, 99.0, data_seed=1001),  # the second training for stability: in no mean
    accuracy(AWS, 2, 12.0, 74.0),
    accuracy(AWS, 3, 11.0, "the loss is nan"),
    accuracy(DENSE, 1, 0.1, 75.0),
    accuracy(DENSE, 2, 0.1, 76.0),
    barrier("lmc", AWS, 1, 25.0, 27.0, 1.5),
    barrier("stability", AWS, 1, 26.0, 27.0, 2.0),
    barrier("stability", AWS, 2, 28.0, 27.0, 1.0),
    {
        "kind": "analysis",
        "method": "aws",
        "round": 9,
        "remaining": 0.1342,
        "sign_flips": 0.0123,
        "negative_gammas": math.nan,
        "accuracy": 61.5,
        "accuracy_norms_reset": 60.25,
        "layers": {"conv1": 0.75, "layer4.0.conv2": 0.0625},
    },
]
ACCURACIES = """\
| start | round | remaining | before training | after training | n | failed | paper, after training |
| --- | --- | --- | --- | --- | --- | --- | --- |
| dense | - | 1.000 (1.000) | 0.10 ± 0.00 | 75.50 ± 0.71 | 2 |  | 75.26 ± 0.27 |
| AWS: fresh + signed mask | 9 | 0.134 (0.205) | 11.00 ± 1.41 | 73.50 ± 0.71 | 2 | 1 | 73.65 ± 0.12 |
| LRR: fresh + mask only | 9 | 0.134 (0.205) | 7.00 ± - | 50.00 ± - | 1 |  |  |
"""
_HEIGHTS = "barrier | over the straight line | over the higher end"
_ENDS = "27.00 ± 0.00 | 27.00 ± 1.41"
BARRIERS = f"""\
| between | start | round | remaining | {_HEIGHTS} | error at its end | error at the other end | n |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| stability | AWS: fresh + signed mask | 9 | 0.134 (0.205) | 1.50 ± 0.71 | 1.50 ± 0.71 | 1.00 ± 0.71 | {_ENDS} | 2 |
| LMC | AWS: fresh + signed mask | 9 | 0.134 (0.205) | 1.50 ± - | 1.50 ± - | 0.50 ± - | 27.00 ± - | 25.00 ± - | 1 |
"""
ANALYSES = """\
| search | round | remaining | sign flips, % | scales < 0, % | accuracy | norms reset | densest layer | sparsest layer |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| AWS | 9 | 0.134 | 1.23 | - | 61.50 | 60.25 | 0.750 | 0.062 |
"""
LEGEND = """\
*Remaining* is the share of the prunable weights that is left (in brackets: of all parameters). Accuracy and error are
top-1 on the test set, in %: the mean ± the sample standard deviation (n - 1) over n seeds of initialization and data
order, `-` where n is 1.
"""
OTHER_LEGENDS = """\
Paper: Table 2, ImageNet top-1 in %, mean and std of 3 trials, for the same network, method and round.

The *barrier* between two trained networks is the largest excess of the error on the line between them over the mean of
the errors at its two ends (Eq. 1). It is half the difference of the ends plus the excess over the higher end: where the
latter is 0 the line has no hump, and the barrier says only that the ends differ. *Over the straight line*: the largest
excess over the line between the errors of the ends. Stability: both are trained from one start, with different data
orders. LMC: the other one is the solution of the same search and round. Two networks that have learned nothing have a
barrier of about 0 too: look at the ends.

Of the network as the search left it, pruned and not trained further: weights that changed sign since the round before,
of those left in both; scales of normalization layers below 0; accuracy as it is, and with normalization layers reset to
their initialization; what is left in the densest and the sparsest layer.
"""


def test_the_tables_of_a_comparison():
    text = table([{**NAMED, **row} for row in ROWS])
    parts = ["ResNet-50 on ILSVRC/imagenet-1k\n", ACCURACIES, BARRIERS, ANALYSES, LEGEND, OTHER_LEGENDS]
    assert text == "\n".join(parts)


def test_empty_columns_and_tables_are_left_out():
    assert (
        table([accuracy(AWS, 1, 10.0, 73.0)])
        == f"""\
| start | round | remaining | before training | after training | n |
| --- | --- | --- | --- | --- | --- |
| AWS: fresh + signed mask | 9 | 0.134 (0.205) | 10.00 ± - | 73.00 ± - | 1 |

{LEGEND}"""
    )
    assert table([]) == LEGEND


def test_a_start_of_which_all_trainings_failed_has_its_line():
    lines = table([accuracy(AWS, seed, 10.0, "the loss is inf") for seed in (1, 2)]).splitlines()
    assert lines[2] == "| AWS: fresh + signed mask | 9 | 0.134 (0.205) | - | - | 0 | 2 |"


def test_the_paper_is_not_quoted_for_another_prune_rate_or_data_set():
    assert "paper" not in table([{**accuracy({**AWS, "remaining": 0.5**9}, 1, 1.0, 2.0), **NAMED}])
    assert "paper" not in table([{**accuracy(AWS, 1, 1.0, 2.0), **NAMED, "dataset": "cifar100"}])


def test_a_second_training_from_a_start_is_not_another_trial():
    groups = first_trainings(typed(ROWS))
    assert [(start.method, start.transfer) for start in groups] == [(None, "dense"), ("aws", "signs"), ("lrr", "mask")]
    assert [(row.seed, row.data_seed) for row in groups[9, "aws", "signs"]] == [(1, 1), (2, 2), (3, 3)]


def test_a_first_training_that_failed_is_not_made_good_by_the_second():
    rows = [accuracy(AWS, 1, 10.0, 70.0, data_seed=1001), accuracy(AWS, 1, 10.0, "the loss is nan")]
    assert "| - | - | 0 | 1 |" in table(rows)


def test_labels_name_the_search():
    assert label(None, "dense") == "dense"
    assert label("aws", "solution") == "AWS solution"
    assert label("lrr", "signs-norm") == "LRR: fresh + signed mask, norm kept"


def test_a_card_states_dense_and_what_was_measured_with_its_mask():
    rows = typed(
        [{**row, "dataset": "digits"} for row in [*ROWS, accuracy({**AWS, "transfer": "solution"}, 1, 60.0, 74.5)]]
    )
    assert results_for_card(rows, "aws", 9) == [
        Result("dense", "digits", values=[75.0, 76.0], before=[0.1, 0.1]),
        Result("AWS solution", "digits", values=[74.5], before=[60.0]),
        Result("fresh + signed mask", "digits", values=[73.0, 74.0], before=[10.0, 12.0]),
    ]
    assert [result.condition for result in results_for_card(rows, "lrr", 9)] == ["dense", "fresh + mask only"]
    assert [result.condition for result in results_for_card(rows, "lrr", 8)] == ["dense"]
