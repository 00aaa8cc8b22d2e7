import copy
import json
import math
import re

import pytest
import torch
import torch.nn.utils.prune as torch_prune
from torch import nn, tensor

import aws_lottery
from aws_lottery import Result, SignedMask, SignedMaskConfig, provenance, transfer
from aws_lottery.mask_file import packing
from aws_lottery.strict_json import with_checksum


def sparse_(model, share=0.5):
    """Zero the smallest weights of each prunable layer, leave the rest as it is."""
    with torch.no_grad():
        for name in ("0.weight", "3.weight"):
            weight = model.get_parameter(name)
            weight[weight.abs() < weight.abs().quantile(share)] = 0
    return model


@pytest.fixture
def mask(convnet):
    return SignedMask.from_model(sparse_(convnet), SignedMaskConfig(architecture="small convnet"))


def test_a_mask_is_a_mapping_of_int8_tensors(mask, convnet):
    assert list(mask) == ["0.weight", "3.weight", "3.bias", "7.weight", "7.bias"]
    assert len(mask) == 5
    assert mask["0.weight"].dtype == torch.int8
    assert torch.equal(mask["0.weight"], convnet[0].weight.sign().to(torch.int8))
    assert "1.weight" not in mask
    assert mask._ipython_key_completions_() == list(mask)  # what Tab offers


def test_both_remaining_ratios(mask):
    assert mask.remaining == 0.5
    total = 216 + 576 + 8 + 1152 + 4 + 4 * 8  # convolutions, bias, classifier, two norms
    assert mask.parameters == total
    assert mask.remaining_total == (total - (216 + 576) / 2) / total


def test_apply_gives_magnitudes_of_the_init_under_the_signs(mask, make_convnet):
    torch.manual_seed(1)
    fresh = make_convnet()
    init = copy.deepcopy(fresh)
    mask.apply_(fresh)
    expected = transfer(dict(init.named_parameters()), mask)  # the same as a pure function
    for name, value in fresh.named_parameters():
        assert torch.equal(value, expected[name]), name
    assert fresh[1].weight.tolist() == [1.0] * 8


def test_apply_to_the_network_it_came_from_changes_nothing(mask, convnet):
    before = copy.deepcopy(convnet.state_dict())
    mask.apply_(convnet)
    assert all(torch.equal(value, before[name]) for name, value in convnet.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_apply_in_other_dtypes(mask, make_convnet, dtype):
    fresh = make_convnet().to(dtype)
    mask.apply_(fresh)
    assert torch.equal(fresh[3].weight.sign().to(torch.int8), mask["3.weight"])


def test_the_binary_mask_keeps_the_signs_of_the_init(mask, make_convnet):
    fresh = make_convnet()
    init = copy.deepcopy(fresh)
    mask.binary().apply_(fresh)
    assert torch.equal(fresh[3].weight, init[3].weight * (mask["3.weight"] != 0))
    assert torch.equal(fresh[3].bias, init[3].bias)
    assert torch.equal(fresh[7].weight, init[7].weight)
    assert mask.binary().remaining == mask.remaining
    assert mask.binary().remaining_total == mask.remaining_total


def test_random_signs_keep_the_zeros_and_follow_the_seed(mask):
    one = mask.with_random_signs(1)
    assert one.binary() == mask.binary()
    assert one == mask.with_random_signs(1) != mask.with_random_signs(2)
    agree = (one["7.weight"] == mask["7.weight"]).float().mean()
    assert 0.4 < agree < 0.6


def test_what_does_not_fit_is_listed_and_nothing_changes(mask, make_convnet):
    other = make_convnet()
    other[3] = nn.Conv2d(8, 8, 1)
    other[7] = nn.Linear(288, 4, bias=False)
    other.append(nn.Linear(4, 4, bias=False))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="nothing was changed") as caught:
        mask.apply_(other)
    message = str(caught.value)
    assert "3.weight: shape (8, 8, 3, 3) in the mask, (8, 8, 1, 1) in the model" in message
    assert "7.bias: not in the model" in message
    assert "8.weight: not in the mask" in message
    assert "made for small convnet. 3 parameters differ" in message
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_at_most_ten_misfits_are_listed():
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    with pytest.raises(ValueError, match=r"24 parameters differ(.*\n){11}  and 14 more"):
        SignedMask.from_model(deep).apply_(nn.Sequential(*(nn.Linear(3, 3) for _ in range(12))))


def test_a_model_on_meta_is_refused_with_the_way_out(mask, make_convnet):
    with torch.device("meta"):
        empty = make_convnet()
    with pytest.raises(ValueError, match="on the meta device; initialize the model first"):
        mask.apply_(empty)


def expanded(model):
    model[7].weight = nn.Parameter(torch.zeros(1, 1).expand(4, 288))


def not_a_number(model):
    with torch.no_grad():
        model[7].weight[0, 0] = math.nan


def infinite(model):
    with torch.no_grad():
        model[7].weight[0, 0] = math.inf


def of_inference_mode(model):
    with torch.inference_mode():
        model[7].weight = nn.Parameter(torch.zeros(4, 288), requires_grad=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (expanded, r"7.weight: its elements share memory \(expand\); give the model a clone"),
        (not_a_number, r"NaN or infinite values in '7.weight'"),  # 0 * NaN is no 0
        (infinite, r"NaN or infinite values in '7.weight'"),
        (of_inference_mode, r"7.weight: made under torch.inference_mode"),
    ],
)
def test_a_parameter_that_can_not_take_its_signs_is_named_and_nothing_changes(mask, make_convnet, spoil, message):
    model = make_convnet()
    spoil(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for attempt in (mask.apply_, mask.held):
        with pytest.raises(ValueError, match=rf"nothing was changed(.|\n)*{message}"):
            attempt(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_signs_are_not_taken_of_a_model_on_meta(make_convnet):
    with torch.device("meta"):
        empty = make_convnet()
    with pytest.raises(ValueError, match=r"0.weight: on the meta device; initialize the model first"):
        SignedMask.from_model(empty)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_wrapped_models_are_seen_through(mask, make_convnet):
    fresh = make_convnet()
    mask.apply_(torch.compile(fresh))
    assert torch.equal(fresh[0].weight.sign().to(torch.int8), mask["0.weight"])


def test_held_keeps_pruned_weights_at_zero_until_the_end_of_the_block(mask, make_convnet, images):
    model = make_convnet()
    mask.apply_(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    pruned = mask["3.weight"] == 0

    def step():
        model(images[0][0]).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    with mask.held(model):
        for _ in range(3):
            step()
            assert not model[3].weight[pruned].any()
    step()
    assert model[3].weight[pruned].any()


def test_held_is_a_handle_too(mask, make_convnet):
    model = make_convnet()
    hold = mask.held(model)
    assert not model[3].weight[mask["3.weight"] == 0].any()
    with pytest.raises(ValueError, match="held to a mask already"):
        mask.held(model)
    hold.remove()
    hold.remove()
    mask.held(model).remove()


def test_only_prunable_weights_are_held(convnet, make_convnet, images):
    with torch.no_grad():
        convnet[3].bias[0] = 0  # a bias that happens to be 0 has sign 0, but is not pruned
    mask = SignedMask.from_model(sparse_(convnet))
    model = make_convnet()
    mask.apply_(model)
    with mask.held(model):
        model(images[0][0]).square().sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    assert model[3].bias[0] != 0


def test_saved_and_loaded_masks_are_equal(mask, tmp_path):
    for one in (mask, mask.binary(), SignedMask.from_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))):
        one.save_pretrained(tmp_path / "mask")
        again = SignedMask.from_pretrained(tmp_path / "mask")
        assert again == one
        assert again.config == one.config
        assert list(again) == list(one)


def test_what_is_told_of_a_mask_is_kept_with_it(mask, tmp_path):
    mask.results = (Result("dense", "digits", [98, 97.5], before=[10, 11]),)
    mask.provenance = provenance(dataset="digits", training={"lr": 0.1}, limits=["small"])
    mask.save_pretrained(tmp_path)
    again = SignedMask.from_pretrained(str(tmp_path))
    assert again.results == mask.results
    assert again.provenance == mask.provenance
    assert again.provenance.library_version == aws_lottery.__version__
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["remaining"], config["remaining_total"]) == (mask.remaining, mask.remaining_total)
    assert SignedMaskConfig.from_dict(config["config"]) == mask.config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": []}, "values must be one or more numbers, got ()"),
        ({"values": [1, float("nan")]}, "values must be a list of finite numbers"),
        ({"values": "12"}, "values must be a list of finite numbers, got '12'"),
        ({"values": [1, 2], "before": [1]}, "before must be 2 numbers or none"),
        ({"values": [1], "metric": 3}, "metric must be a string, got 3"),
    ],
)
def test_a_result_is_numbers_for_each_seed(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Result("dense", "digits", **fields)


def test_a_folder_without_a_mask_is_refused(mask, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        SignedMask.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no folder './nowhere'"):
        SignedMask.from_pretrained("./nowhere")
    with pytest.raises(FileNotFoundError, match=r"no config.json in .* save_pretrained wrote"):
        SignedMask.from_pretrained(tmp_path)
    mask.save_pretrained(tmp_path)
    (tmp_path / "signed_mask.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no signed_mask.safetensors"):
        SignedMask.from_pretrained(tmp_path)


def without(config: dict, *keys: str) -> dict:
    return {name: value for name, value in config.items() if name not in keys}


HUGE = json.dumps({"library_name": "aws_lottery", "format_version": 1, "more": "x" * (1 << 20)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "cannot read .*config.json"),
        (b"[1]", "expected a JSON object, found list"),
        (b"[" * 100_000, "cannot read .*config.json"),
        (HUGE.encode(), "more than 1048576 bytes"),
        (b'{"model_type": "bert"}', "not the configuration of a signed mask"),
        ({"format_version": 2}, "format version 2, this aws_lottery reads 1; install a newer one"),
        ({"format_version": "1"}, "not the configuration of a signed mask"),
        ({"library_name": "another"}, "not the configuration of a signed mask"),
        ({"config": 5}, "cannot read"),
        ({"config": {"methud": "aws"}}, "did you mean 'method'"),
        ({"config": {"method": []}}, "cannot read"),
        ({"config": {"prunable": 5}}, "cannot read"),
        ({"config": {"prune_rate": 1e-320, "target_remaining": 0.1}}, "cannot read"),
        ({"remaining": 0.25}, "they are of two masks"),
        ({"remaining": "all"}, "they are of two masks"),
        ({"results": {"dense": 1}}, "cannot read"),
        ({"results": [{"condition": "dense"}]}, "cannot read"),
        ({"results": [{"condition": "dense", "dataset": "x", "values": [None]}]}, "values must be"),
        ({"provenance": {"license": ["mit"]}}, "license must be a string or None"),
        ({"provenance": {"limits": "none"}}, "limits must be strings"),
        ({"provenance": {"tool": "x"}}, "unexpected keyword argument 'tool'"),
        ({"provenance": [1]}, "cannot read"),
    ],
)
def test_a_hostile_configuration_is_refused(mask, tmp_path, change, message):
    mask.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = {**json.loads(path.read_text()), **(change if isinstance(change, dict) else {})}
    for text in (
        with_checksum(without(config, "sha256")),
        without(config, "checked_by", "sha256", "signed_mask_sha256"),
    ):
        path.write_bytes(change if isinstance(change, bytes) else json.dumps(text).encode())
        with pytest.raises(ValueError, match=message):
            SignedMask.from_pretrained(tmp_path)


def test_keys_that_nobody_knows_are_passed_over(mask, tmp_path):
    mask.save_pretrained(tmp_path)
    config = without(json.loads((tmp_path / "config.json").read_text()), "checked_by", "sha256")
    (tmp_path / "config.json").write_text(json.dumps(with_checksum({**config, "values": {}, "later": 1})))
    assert SignedMask.from_pretrained(tmp_path) == mask


@pytest.mark.parametrize(
    "roles",
    [
        {"parameters": 3, "signed": True, "signed_only": []},
        {"parameters": 2000.5, "signed": True, "signed_only": []},
        {"parameters": 2000, "signed": 1, "signed_only": []},
        {"parameters": 2000, "signed": False, "signed_only": []},
        {"parameters": 2000, "signed": True, "signed_only": ["8.weight"]},
        {"parameters": 2000, "signed": True, "signed_only": [[]]},
        {"parameters": 2000, "signed": True, "signed_only": {"7.bias": 1}},
        {"parameters": 2000, "signed": True, "signed_only": [], "checkpoint_names": ["7.bias"]},
        {"parameters": 2000, "signed": True, "signed_only": [], "checkpoint_names": {"8.bias": "x"}},
        {"parameters": 2000, "signed": True, "signed_only": [], "checkpoint_names": {"7.bias": 1}},
        {"parameters": 2000},
        [],
    ],
)
def test_roles_that_do_not_fit_are_refused(mask, tmp_path, roles):
    mask.save_pretrained(tmp_path)
    packing.write(tmp_path / "signed_mask.safetensors", mask, {"signed_mask": json.dumps(roles)})
    path = tmp_path / "config.json"
    path.write_text(json.dumps(without(json.loads(path.read_text()), "checked_by", "sha256", "signed_mask_sha256")))
    with pytest.raises(ValueError, match=r"cannot read '\S*signed_mask.safetensors'"):
        SignedMask.from_pretrained(tmp_path)


def test_the_signs_of_torch_prune(convnet, make_convnet):
    expected = SignedMask.from_model(copy.deepcopy(convnet))
    with pytest.raises(ValueError, match="has pruned nothing in this Sequential; use from_model"):
        SignedMask.from_torch_prune(convnet)
    for index in (0, 3):
        torch_prune.random_unstructured(convnet[index], "weight", amount=0.5)
    mask = SignedMask.from_torch_prune(convnet)
    assert SignedMask.from_torch_prune(torch.compile(convnet, backend="eager")) == mask
    assert list(mask) == list(expected)
    assert mask.prunable == ("0.weight", "3.weight")
    assert mask.remaining == 0.5
    assert mask.parameters == expected.parameters
    fresh = make_convnet()
    mask.apply_(fresh)
    assert torch.equal(fresh[3].weight == 0, convnet[3].weight_mask == 0)
    assert torch.equal(mask["7.weight"], expected["7.weight"])
    for index in (0, 3):
        torch_prune.remove(convnet[index], "weight")
    assert SignedMask.from_model(convnet)["3.weight"].equal(mask["3.weight"])


def test_equality_sees_signs_roles_and_configuration(mask, convnet):
    assert mask == SignedMask.from_model(convnet, mask.config)
    assert mask != SignedMask.from_model(convnet)

    def same(values, prunable=mask.prunable):
        return SignedMask(values, mask.config, prunable=prunable, parameters=mask.parameters)

    assert mask != same({**mask, "3.bias": -mask["3.bias"]})
    assert mask != same(mask, prunable=("0.weight",))
    assert mask == same(dict(reversed([*mask.items()])), prunable=("3.weight", "0.weight"))  # in any order
    assert mask != "mask"


def test_repr_tells_what_and_how_much(mask):
    assert repr(mask) == (
        "SignedMask(small convnet, aws: 0.5000 of 792 prunable weights, 0.8008 of all 1,988 parameters, 5 tensors)"
    )
    assert repr(mask.binary()).startswith("SignedMask.binary(small convnet, aws: 0.5000 of 792")


def test_the_table_has_a_row_for_each_tensor():
    mask = SignedMask(
        {name: tensor(v, dtype=torch.int8) for name, v in (("a", [1, 1, -1, 0]), ("b", [-1]), ("c", [0, 0]))},
        prunable=("a",),
    )
    first, second, third = mask.table()
    assert first == ("a", (4,), True, 4, 0.75, 2 / 3)
    assert second == ("b", (1,), False, 1, 1.0, 0.0)
    assert third[:5] == ("c", (2,), False, 2, 0.0)
    assert math.isnan(third[5])


def test_masks_made_of_a_mask_are_matched_by_the_same_names_in_checkpoints():
    values = {"a": tensor([1, 0], dtype=torch.int8), "b": tensor([-1], dtype=torch.int8)}
    mask = SignedMask(values, prunable=("a",), checkpoint_names={"a": "x.a", "b": "x.b"})
    assert mask.binary().checkpoint_names == {"a": "x.a"}
    assert mask.with_random_signs(0).checkpoint_names == {"a": "x.a", "b": "x.b"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prunable": ("v",)}, r"prunable names \['v'\] are not in the mask"),
        ({"checkpoint_names": {"v": "x"}}, r"checkpoint_names \['v'\] are not in the mask"),
        ({"parameters": 1}, "a mask of 2 entries is not for a model of 1 parameters"),
        ({"signed": False}, "a mask without signs has 0 and 1, 'w' has -1"),
        ({"values": {}}, "a signed mask needs at least one entry, this one has none"),
    ],
)
def test_a_mask_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SignedMask(**{"values": {"w": tensor([1, -1], dtype=torch.int8)}, **fields})


@pytest.mark.parametrize("value", [tensor([0.5]), tensor([-128], dtype=torch.int8), tensor([True])])
def test_values_other_than_signs_are_refused(value):
    with pytest.raises(ValueError, match="'w' must be int8"):
        SignedMask({"w": value})
