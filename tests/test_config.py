import hypothesis.strategies as st
import pytest
from hypothesis import given

from aws_lottery import SignedMaskConfig


def test_the_default_is_the_papers_resnet50_search():
    config = SignedMaskConfig()
    assert (config.method, config.rounds, config.prune_rate) == ("aws", 9, 0.2)


# the labels of Table 2 and the rounds that they stand for
@pytest.mark.parametrize(
    ("target", "rounds"),
    [(0.8, 1), (0.41, 4), (0.33, 5), (0.27, 6), (0.21, 7), (0.17, 8), (0.14, 9), (0.11, 10)],
)
def test_target_remaining_sets_the_rounds(target, rounds):
    assert SignedMaskConfig(target_remaining=target).rounds == rounds


def test_the_rounds_to_a_target_are_counted_from_what_the_mask_at_the_start_leaves():
    config = SignedMaskConfig(target_remaining=0.5)
    assert config.rounds == 4
    assert config.starting_at(1.0) is config
    assert config.starting_at(0.64).rounds == 2  # 0.64 * 0.8 is above 0.5
    with pytest.raises(ValueError, match=r"target_remaining=0.5 is reached: the mask to start at leaves 0.5"):
        config.starting_at(0.5)


def test_rounds_and_target_may_agree_but_not_differ():
    assert SignedMaskConfig(rounds=9, target_remaining=0.14).rounds == 9
    with pytest.raises(ValueError, match="takes 9 rounds; give one of the two"):
        SignedMaskConfig(rounds=3, target_remaining=0.14)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "asw"}, "unknown method 'asw'; did you mean 'aws'"),
        ({"protocol": "released"}, "did you mean 'released-code'"),
        ({"prunable": ("convs",)}, "did you mean 'conv'"),
        ({"prunable": "conv"}, "a list of strings, got 'conv'"),
        ({"prunable": ()}, "at least one of"),
        ({"exclude": (1,)}, "exclude must be strings"),
        ({"prune_rate": 1.0}, r"prune_rate must be in \(0, 1\), got 1.0"),
        ({"prune_rate": float("nan")}, "prune_rate must be"),
        ({"prune_rate": "0.2"}, "prune_rate must be"),
        ({"rounds": 0}, "rounds must be a whole number, 1 or more"),
        ({"rounds": True}, "rounds must be a whole number"),
        ({"target_remaining": 1.5}, "target_remaining must be"),
        ({"target_remaining": 1.0}, r"target_remaining must be in \(0, 1\), got 1.0"),
        ({"target_remaining": 0.0}, r"target_remaining must be in \(0, 1\), got 0.0"),
        ({"target_remaining": "0.5"}, r"target_remaining must be in \(0, 1\), got '0.5'"),
        ({"warmup_epochs": -1}, "warmup_epochs must be a whole number"),
        ({"epochs_per_round": 1.5}, "epochs_per_round must be a whole number"),
        ({"seed": None}, "seed must be"),
        ({"prune_classifier": 1}, "prune_classifier must be true or false"),
        ({"classifier": 3}, "classifier must be a string or None"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(wrong, message):
    with pytest.raises(ValueError, match=message):
        SignedMaskConfig(**wrong)


def test_an_unknown_key_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown key 'prune_ratio'; did you mean 'prune_rate'"):
        SignedMaskConfig.from_dict({"prune_ratio": 0.2})


@pytest.mark.parametrize("text", ["[]", "3", "{"])
def test_json_that_is_no_object_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  the decoder's own message for the last
        SignedMaskConfig.from_json(text)


@given(
    method=st.sampled_from(["aws", "lrr", "imp", "wr"]),
    rounds=st.integers(1, 30),
    rate=st.floats(0.01, 0.99),
    exclude=st.lists(st.text(), max_size=3),
    seed=st.integers(0, 2**40),
)
def test_json_round_trip(method, rounds, rate, exclude, seed):
    config = SignedMaskConfig(
        method=method, rounds=rounds, prune_rate=rate, exclude=tuple(exclude), seed=seed, protocol="released-code"
    )
    assert SignedMaskConfig.from_json(config.to_json()) == config


def test_a_configuration_from_a_target_round_trips():
    config = SignedMaskConfig(target_remaining=0.05, prune_rate=0.3)
    assert SignedMaskConfig.from_json(config.to_json()) == config


def test_a_configuration_prints_a_field_a_line_as_it_would_be_typed():
    config = SignedMaskConfig(rounds=3, exclude=("stem",))
    text = str(config)
    assert text.splitlines()[:3] == ["SignedMaskConfig(", "    method='aws',", "    rounds=3,"]
    assert eval(text, {"SignedMaskConfig": SignedMaskConfig}) == config
    assert repr(config) == "".join(line.strip() + " " for line in text.splitlines()).replace("( ", "(")[:-4] + ")"


def test_a_configuration_written_before_there_were_include_and_prune_frozen_still_loads():
    values = SignedMaskConfig(rounds=3).to_dict()
    assert not {"include", "prune_frozen"} & values.keys()  # at their defaults, new files are as those of before
    config = SignedMaskConfig.from_dict(values)
    assert config == SignedMaskConfig(rounds=3)
    assert (config.include, config.prune_frozen) == ((), False)
