"""Which parameter each tensor of a mask is for: names and shapes in, names out; and the same through SignedMask."""

import copy
import logging

import pytest
import torch
from torch import nn

from aws_lottery import SignedMask, SignedMaskConfig
from aws_lottery.parameters.matching import match

MASK = {"a.conv.weight": (4, 3), "a.conv.bias": (4,), "fc.weight": (2, 4), "fc.bias": (2,)}
HEAD = ["fc.weight", "fc.bias"]


def renamed(shapes, old, new):
    return {name.replace(old, new, 1): shape for name, shape in shapes.items()}


def prefixed(prefix):
    return {prefix + name: shape for name, shape in MASK.items()}


def strict(mask, model, **options):
    return match(mask, model, required=list(model), head=HEAD, **options)


def test_equal_names_match(caplog):
    assert strict(MASK, MASK) == {name: name for name in MASK}
    assert not caplog.records


def test_what_the_model_has_beside_the_mask_is_missing_in_it():
    model = {**MASK, "aux.weight": (3, 3)}
    for head in ({}, {"fc.weight": (10, 4), "fc.bias": (10,)}):  # a classifier of another size does not excuse it
        with pytest.raises(ValueError, match=r"aux.weight: not in the mask"):
            strict(MASK, {**model, **head})


def test_a_classifier_that_the_model_lacks_is_not_left_out():
    with pytest.raises(ValueError, match=r"2 parameters differ:\n  fc.weight: not in the model\n  fc.bias: not in the"):
        strict(MASK, {name: MASK[name] for name in ("a.conv.weight", "a.conv.bias")})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.body.0."])
def test_another_prefix_is_found(prefix, caplog):
    caplog.set_level(logging.INFO)
    assert strict(MASK, prefixed(prefix)) == {name: prefix + name for name in MASK}
    assert f"what the mask calls '' is '{prefix}' in the model" in caplog.text
    assert strict(prefixed(prefix), MASK) == {prefix + name: name for name in MASK}


def test_one_prefix_is_exchanged_for_another():
    assert strict(prefixed("resnet."), prefixed("encoder.")) == {f"resnet.{n}": f"encoder.{n}" for n in MASK}


def test_a_part_of_a_bigger_model_is_found_and_the_rest_is_named(caplog):
    model = {**prefixed("backbone."), "decoder.weight": (9, 9)}
    assert strict(MASK, model) == {name: f"backbone.{name}" for name in MASK}
    assert "the mask is for 'backbone.' only; the rest of the model is left as it is" in caplog.text


def test_two_places_that_fit_are_ambiguous():
    with pytest.raises(ValueError, match=r"several prefixes of the model \('left.', 'right.'\); say which by names="):
        strict(MASK, {**prefixed("left."), **prefixed("right.")})


def test_shapes_tell_two_places_apart():
    other = {f"teacher.{name}": (7, *shape) for name, shape in MASK.items()}
    assert strict(MASK, {**other, **prefixed("student.")}) == {name: f"student.{name}" for name in MASK}


def test_the_body_tells_two_places_apart_where_classifiers_of_other_sizes_do_not():
    teacher = {f"teacher.{name}": (7, *shape) for name, shape in MASK.items()} | {"teacher.a.conv.bias": (4,)}
    student = {**prefixed("student."), "student.fc.weight": (10, 4), "student.fc.bias": (10,)}
    pairs = strict(MASK, {**teacher, **student})
    assert pairs == {name: f"student.{name}" for name in ("a.conv.weight", "a.conv.bias")}


def test_a_place_that_has_some_of_the_names_is_none():
    model = {"fc.weight": (9, 9), **prefixed("model."), "ema.a.conv.weight": (4, 3)}
    pairs = {name: f"model.{name}" for name in MASK}
    assert match(MASK, model, required=list(pairs.values())) == pairs


def test_names_that_fit_as_they_are_go_before_a_prefix():
    assert match(MASK, {**prefixed("ema."), **MASK}, required=list(MASK)) == {name: name for name in MASK}


def test_a_prefix_ends_at_a_dot(caplog):
    assert strict(MASK, prefixed("x")) == {name: f"x{name}" for name in MASK}
    assert "no names fit: the 4 tensors of the mask were paired" in caplog.text  # by their order


def test_a_single_layer_is_not_taken_for_another():
    for leaves in ({"weight": (2, 4)}, {"weight": (2, 4), "bias": (2,)}):
        fc, other = ({f"{layer}.{leaf}": shape for leaf, shape in leaves.items()} for layer in ("fc", "other"))
        with pytest.raises(ValueError, match=r"fc.weight: not in the model"):
            strict(fc, other)


def test_a_classifier_of_another_size_is_left_alone_with_a_warning(caplog):
    model = {**MASK, "fc.weight": (10, 4), "fc.bias": (10,)}
    assert strict(MASK, model) == {"a.conv.weight": "a.conv.weight", "a.conv.bias": "a.conv.bias"}
    assert "its shape differs: the classifier (fc.weight, fc.bias)" in caplog.text


def test_a_classifier_of_another_size_does_not_excuse_anything_else():
    model = {**MASK, "fc.weight": (10, 4), "a.conv.bias": (5,)}
    with pytest.raises(ValueError, match="2 parameters differ") as caught:
        strict(MASK, model)
    assert "a.conv.bias: shape (4,) in the mask, (5,) in the model" in str(caught.value)
    assert "fc.weight: shape (2, 4) in the mask, (10, 4) in the model" in str(caught.value)


@pytest.mark.parametrize("exclude", [["fc", "head"], ["fc.*", "head.*"]])
def test_a_head_of_another_name_is_excluded(exclude):
    model = renamed(MASK, "fc.", "head.")
    assert strict(MASK, model, exclude=exclude) == {"a.conv.weight": "a.conv.weight", "a.conv.bias": "a.conv.bias"}


def test_what_is_excluded_does_not_hide_a_prefix():
    mask = {**renamed(MASK, "a.", "resnet."), "classifier.weight": (3, 3)}
    model = {name.removeprefix("resnet."): shape for name, shape in mask.items() if name.startswith("resnet.")}
    pairs = strict(mask, model, exclude=["classifier", "fc"])
    assert pairs == {"resnet.conv.weight": "conv.weight", "resnet.conv.bias": "conv.bias"}


def test_an_exclusion_under_a_prefix_goes_by_either_name():
    for pattern in ("a.conv.bias", "model.a.conv.bias"):
        assert "a.conv.bias" not in strict(MASK, prefixed("model."), exclude=[pattern])


@pytest.mark.parametrize(
    ("exclude", "message"), [(["cf"], "'cf' matches nothing"), ("fc", "must be a list"), (["*"], "leaves out too much")]
)
def test_a_useless_exclusion_is_refused(exclude, message):
    with pytest.raises(ValueError, match=message):
        strict(MASK, MASK, exclude=exclude)


def test_names_are_mapped_by_a_mapping_or_a_function():
    model = renamed(renamed(MASK, "fc.", "head."), "a.", "b.")
    told = dict(zip(MASK, model, strict=True))
    assert strict(MASK, model, names=told) == told
    assert strict(MASK, model, names=lambda name: name.replace("fc.", "head.").replace("a.", "b.", 1)) == told
    assert strict(MASK, renamed(MASK, "fc.bias", "fc.b"), names={"fc.bias": "fc.b"})["fc.bias"] == "fc.b"


def test_a_wrong_map_is_refused():
    with pytest.raises(ValueError, match=r"maps \['fc.wieght'\], which the mask does not have"):
        strict(MASK, MASK, names={"fc.wieght": "fc.weight"})
    with pytest.raises(ValueError, match=r"maps both 'a.conv.weight' and 'a.conv.bias' to 'x'"):
        strict(MASK, MASK, names=lambda name: "x")
    with pytest.raises(ValueError, match=r"fc.bias \(in the model head.bias\): not in the model"):
        strict(MASK, MASK, names={"fc.bias": "head.bias"})


def test_structure_pairs_in_order_when_asked():
    model = dict(zip(["w1", "b1", "w2", "b2"], MASK.values(), strict=True))
    assert strict(MASK, model, by="structure") == dict(zip(MASK, model, strict=True))
    assert strict(MASK, {**model, "aux": (1,)}, by="structure", exclude=["aux"]) == dict(zip(MASK, model, strict=True))


def test_order_is_the_last_resort_and_is_said(caplog):
    model = dict(zip(["w1", "b1", "w2", "b2"], MASK.values(), strict=True))
    assert strict(MASK, model) == dict(zip(MASK, model, strict=True))
    assert "paired with parameters of the model in order, as all shapes agree (a.conv.weight is w1, and" in caplog.text


def test_order_may_go_past_a_name_that_both_have_in_one_place():
    model = {"w1": (4, 3), "b1": (4,), "fc.weight": (2, 4), "fc.bias": (2,)}
    assert strict(MASK, model) == dict(zip(MASK, model, strict=True))


@pytest.mark.parametrize(
    "model",
    [
        {"w1": (4, 3), "b1": (4,), "w2": (2, 4)},  # one fewer
        {"w1": (4, 3), "b1": (4,), "w2": (2, 4), "b2": (3,)},  # another shape
        {"b1": (4,), "w1": (4, 3), "w2": (2, 4), "b2": (2,)},  # another order
        {"w1": (4, 3), "a.conv.bias": (4,), "fc.bias": (2, 4), "b2": (2,)},  # a name that is somewhere else
    ],
)
def test_order_that_shapes_do_not_bear_out_is_refused(model):
    with pytest.raises(ValueError, match=r"parameters differ:\n  a\.conv\.weight: not in the model"):
        strict(MASK, model)


def test_order_of_few_shapes_is_no_resort():
    three = {"a.weight": (4, 3), "b.weight": (4, 4), "c.weight": (2, 4)}
    model = dict(zip("xyz", three.values(), strict=True))
    assert strict(three, model) == dict(zip(three, model, strict=True))
    with pytest.raises(ValueError, match=r"a\.weight: not in the model"):
        strict({"a.weight": (4, 4), "b.weight": (4, 4)}, {"x.weight": (4, 4), "y.weight": (4, 4)})


def test_names_in_checkpoints_match_whichever_side_has_others(caplog):
    caplog.set_level(logging.INFO)
    old = {"encoder.layer.0.attention.query.weight": (4, 3), "head.weight": (2, 4)}
    new = {"layers.0.q_proj.weight": (4, 3), "head.weight": (2, 4)}
    pairs, alias = dict(zip(old, new, strict=True)), dict(zip(new, old, strict=True))
    assert strict(old, new, aliases=({}, alias)) == pairs
    assert strict(new, old, aliases=(alias, {})) == alias
    assert "matched by those in checkpoints" in caplog.text
    under = {f"vit.{name}": shape for name, shape in new.items()}
    assert strict(old, under, aliases=({}, {f"vit.{name}": f"vit.{old}" for name, old in alias.items()})) == {
        name: f"vit.{place}" for name, place in pairs.items()
    }
    assert strict(old, new, exclude=["layers"], aliases=({}, alias)) == {"head.weight": "head.weight"}


def test_names_in_checkpoints_that_two_tensors_share_match_nothing():
    one = {"x.weight": (4, 3), "head.weight": (2, 4)}
    two = {"q.weight": (4, 3), "k.weight": (4, 3), "head.weight": (2, 4)}
    alias = {"q.weight": "x.weight", "k.weight": "x.weight"}
    with pytest.raises(ValueError, match=r"q.weight: not in the model\n  k.weight: not in the model"):
        strict(two, one, aliases=(alias, {}))
    with pytest.raises(ValueError, match=r"x.weight: not in the model\n  q.weight: not in the mask"):
        strict(one, two, aliases=({}, alias))


def test_structure_checks_number_and_shapes():
    with pytest.raises(ValueError, match="the mask has 4 tensors and the model 3"):
        strict(MASK, {"w1": (4, 3), "b1": (4,), "w2": (2, 4)}, by="structure")
    with pytest.raises(ValueError, match=r"a.conv.weight \(in the model w1\): shape \(4, 3\) in the mask, \(3, 4\)"):
        strict(MASK, {"w1": (3, 4), "b1": (4,), "w2": (2, 4), "b2": (2,)}, by="structure")
    with pytest.raises(ValueError, match="match must be one of names, structure"):
        strict(MASK, MASK, by="shape")


# Through SignedMask


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.decoder = model, nn.Linear(4, 4)


@pytest.fixture
def mask(convnet):
    with torch.no_grad():
        convnet[3].weight[convnet[3].weight.abs() < 0.05] = 0
    return SignedMask.from_model(convnet, SignedMaskConfig(exclude=("0",), classifier="7"))


def test_a_mask_is_applied_and_held_under_a_prefix(mask, make_convnet, images):
    model = Wrapper(make_convnet())
    before = copy.deepcopy(model.decoder)
    mask.apply_(model)
    assert torch.equal(model.model[3].weight.sign().to(torch.int8), mask["3.weight"])
    assert torch.equal(model.decoder.weight, before.weight)
    with mask.held(model):
        model.model(images[0][0]).square().sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        assert torch.equal(model.model[3].weight == 0, mask["3.weight"] == 0)
    binary = Wrapper(make_convnet())
    mask.binary().apply_(binary)
    assert torch.equal(binary.model[3].weight == 0, mask["3.weight"] == 0)


def test_what_is_excluded_is_neither_given_signs_nor_held(mask, make_convnet):
    model = make_convnet()
    before = model[3].weight.clone()
    mask.apply_(model, exclude=["3"])
    with mask.held(model, exclude=["3"]) as hold:
        assert hold.masks == {}
    assert torch.equal(model[3].weight, before)
    assert torch.equal(model[7].weight.sign().to(torch.int8), mask["7.weight"])


def test_signs_are_applied_by_names_that_are_given(mask, make_convnet):
    model = nn.Module()
    model.body = make_convnet()[:7]
    model.head = make_convnet()[7]
    mask.apply_(model, names=lambda name: name.replace("7.", "head.") if name[0] == "7" else f"body.{name}")
    assert torch.equal(model.head.weight.sign().to(torch.int8), mask["7.weight"])
    assert torch.equal(model.body[3].weight.sign().to(torch.int8), mask["3.weight"])


def test_another_number_of_classes_keeps_its_classifier(mask, make_convnet, caplog):
    model = make_convnet()
    model[7] = nn.Linear(8 * 36, 9)
    before = model[7].weight.clone()
    mask.apply_(model)
    assert torch.equal(model[7].weight, before)
    assert torch.equal(model[3].weight == 0, mask["3.weight"] == 0)
    assert "the classifier (7.weight, 7.bias)" in caplog.text


def test_a_classifier_that_was_pruned_is_not_left_alone(make_convnet):
    mask = SignedMask.from_model(make_convnet(), SignedMaskConfig(prune_classifier=True))
    model = make_convnet()
    model[7] = nn.Linear(8 * 36, 9)
    with pytest.raises(ValueError, match=r"7.weight: shape"):
        mask.apply_(model)


def test_structure_goes_by_order_past_normalization(mask, make_convnet):
    model = make_convnet()
    other = nn.Module()
    for place, index in zip("abcde", (0, 1, 3, 4, 7), strict=True):
        other.add_module(place, model[index])
    mask.apply_(other, match="structure")
    assert torch.equal(other.c.weight.sign().to(torch.int8), mask["3.weight"])
    assert other.b.weight.tolist() == [1.0] * 8
    with pytest.raises(ValueError, match="needs the signed mask"):
        mask.binary().held(other, match="structure")
    mask.binary().held(other, names={"3.weight": "c.weight"}).remove()


def test_a_model_on_meta_is_refused_until_it_is_initialized(mask, make_convnet):
    with torch.device("meta"):
        model = make_convnet()
    with pytest.raises(ValueError, match="meta device"):
        mask.held(model)
    model.to_empty(device="cpu")
    for module in model:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    mask.apply_(model)
    assert torch.equal(model[3].weight == 0, mask["3.weight"] == 0)
