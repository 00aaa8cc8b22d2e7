import logging

import pytest
import torch
from torch import nn

from aws_lottery import AWSPruner, SignedMask, SignedMaskConfig
from aws_lottery.parameters.classifier import find_classifier
from aws_lottery.parameters.partition import partition


def sort(model, **config):
    return partition(model, SignedMaskConfig(**config))


def test_convolutions_are_pruned_and_the_last_linear_layer_is_not(convnet):
    parts = sort(convnet)
    assert parts.prunable == ("0.weight", "3.weight")
    assert parts.signed_only == ("3.bias", "7.weight", "7.bias")
    assert parts.psi == ("1.weight", "1.bias", "4.weight", "4.bias")
    assert parts.norms == ("1", "4")
    assert parts.classifier == "7"


def test_every_parameter_has_exactly_one_part(convnet):
    parts = sort(convnet)
    assert sorted(parts.signed + parts.psi) == sorted(name for name, _ in convnet.named_parameters())


def test_the_classifier_can_be_pruned_or_named(convnet):
    assert "7.weight" in sort(convnet, prune_classifier=True).prunable
    assert sort(convnet, classifier="3").prunable == ("0.weight", "7.weight")
    with pytest.raises(ValueError, match="classifier 'head' is not a module"):
        sort(convnet, classifier="head")


def test_without_a_linear_layer_the_last_convolution_is_the_classifier():
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Conv1d(2, 2, 1))
    assert sort(model).classifier == "1"


def test_a_model_that_is_a_layer_itself_has_no_classifier():
    assert sort(nn.Linear(4, 2)).classifier is None
    assert sort(nn.Linear(4, 2)).prunable == ("weight",)


def test_a_model_with_nothing_to_prune_is_told_what_it_has_and_what_would_be_pruned():
    with pytest.raises(
        ValueError, match=r"this GRU, whose parameters are 'weight_ih_l0', .*: pruned is what is of kind conv"
    ):
        sort(nn.GRU(2, 2))
    with pytest.raises(ValueError, match=r"this ReLU, whose parameters are none: .* conv or linear; include= names"):
        sort(nn.ReLU())
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    with pytest.raises(
        ValueError, match=r", without the classifier '2', without exclude=\['0'\], without 1 that are frozen"
    ):
        sort(model, exclude=("0",))


@pytest.mark.parametrize("pattern", ["3", "3.weight", "[3]*", "?.weight"])
def test_exclude_takes_names_and_globs_of_modules_and_parameters(convnet, pattern):
    if pattern == "?.weight":
        with pytest.raises(ValueError, match="nothing to prune"):
            sort(convnet, exclude=(pattern,))
    else:
        assert sort(convnet, exclude=(pattern,)).prunable == ("0.weight",)


def test_a_pattern_that_matches_nothing_is_refused(convnet):
    with pytest.raises(ValueError, match=r"exclude pattern 'layer9\.\*' matches no parameter"):
        sort(convnet, exclude=("layer9.*",))


def test_embeddings_are_pruned_by_choice():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert sort(model).prunable == ("1.weight",)
    assert sort(model, prunable=("linear", "embedding")).prunable == ("0.weight", "1.weight")


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    assert sort(model).prunable == ("0.weight",)


class LlamaRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4),
        nn.SyncBatchNorm(4),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.RMSNorm(4),
        LlamaRMSNorm(),
    ],
)
def test_normalization_layers_of_all_kinds_are_recognised(norm):
    model = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 2))
    assert sort(model).norms == ("1",)


def test_a_norm_without_parameters_has_no_psi():
    assert sort(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2))).psi == ()


def test_attention_projections_are_linear():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "head": nn.Linear(4, 2)})
    assert sort(model).prunable == ("attention.in_proj_weight", "attention.out_proj.weight")


def test_layers_of_unknown_kind_are_left_with_a_warning(caplog):
    model = nn.ModuleDict({"rnn": nn.GRU(4, 4), "mid": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    with caplog.at_level(logging.WARNING, logger="aws_lottery"):
        parts = AWSPruner(model).partition
    assert parts.unknown == ("rnn.weight_ih_l0", "rnn.weight_hh_l0")
    assert parts.prunable == ("mid.weight",)
    assert "rnn.weight_ih_l0" in caplog.text


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.mid, self.lm_head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
        self.lm_head.weight = self.wte.weight


KINDS = ("linear", "embedding")


def test_a_tied_weight_is_the_classifiers_under_all_its_names():
    parts = sort(Tied(), prunable=KINDS)
    assert parts.prunable == ("mid.weight",)
    assert parts.names_of(parts.classifier) == "lm_head (tied: wte.weight)"
    assert "classifier lm_head (tied: wte.weight) 20" in str(parts)
    assert sort(Tied(), prunable=KINDS, prune_classifier=True).prunable == ("wte.weight", "mid.weight")


def test_a_tied_weight_is_excluded_by_any_of_its_names():
    parts = sort(Tied(), prunable=KINDS, prune_classifier=True, exclude=("lm_head",))
    assert parts.prunable == ("mid.weight",)


def test_a_tied_weight_is_pruned_only_where_all_its_kinds_are():
    assert sort(Tied(), prunable=("linear",), prune_classifier=True).prunable == ("mid.weight",)


def test_frozen_weights_are_spared_and_named(convnet):
    convnet[0].requires_grad_(False)
    assert sort(convnet).frozen == ("0.weight",)
    assert "frozen 216" in str(sort(convnet))
    assert sort(convnet, prune_frozen=True).prunable == ("0.weight", "3.weight")
    with pytest.raises(ValueError, match=r"without 2 that are frozen \(prune_frozen=True prunes them\)"):
        sort(convnet.requires_grad_(False))


def test_include_adds_what_is_of_another_kind_and_exclude_goes_before_it():
    model = nn.ModuleDict({"rnn": nn.GRU(4, 4), "mid": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    assert sort(model, include=("rnn",)).prunable == ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "mid.weight")
    assert sort(model, include=("rnn",), exclude=("*_hh_*",)).prunable == ("rnn.weight_ih_l0", "mid.weight")
    with pytest.raises(ValueError, match="include pattern 'gru' matches no parameter"):
        sort(model, include=("gru",))


def test_include_takes_no_classifier_no_norm_and_no_bias(convnet):
    assert sort(convnet, include=("*",)).prunable == ("0.weight", "3.weight")


def heads(**layers):
    return nn.ModuleDict({"body": nn.Linear(8, 8), **layers})


class Wrapped(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net


class Timm(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.last = nn.Linear(8, 3), nn.Linear(8, 8)

    def get_classifier(self):
        return self.head


def test_the_models_own_knowledge_of_its_classifier_comes_first():
    assert sort(Timm()).classifier == "head"
    model = heads(first=nn.Linear(8, 3), last=nn.Linear(8, 8))
    model.num_classes = 3
    assert sort(model).classifier == "first"


@pytest.mark.parametrize(
    ("model", "classifier", "doubt"),
    [
        (heads(head=nn.Linear(8, 2)), "head", None),
        (Wrapped(heads(head=nn.Linear(8, 2))), "net.head", None),
        (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 9), nn.Linear(9, 2)), "2", None),
        (nn.Sequential(nn.Linear(4, 2)), "0", None),
        (heads(a=nn.Linear(8, 2), b=nn.Linear(8, 3)), "b", "'a' may be one as well"),
        (nn.ModuleDict({"linear": nn.Linear(8, 8), "last": nn.Conv2d(1, 1, 3)}), "linear", "it lies inside"),
        (nn.Sequential(Wrapped(Wrapped(Wrapped(nn.Linear(8, 8)))), nn.LayerNorm(8)), "0.net.net.net", "it lies inside"),
    ],
)
def test_a_guessed_classifier_is_in_doubt_if_others_could_be_it_or_it_lies_deep(model, classifier, doubt):
    name, why = find_classifier(model, dict(model.named_modules()))
    assert name == classifier
    assert (why is None) == (doubt is None)
    assert doubt is None or doubt in why


def test_what_a_user_might_expect_to_be_pruned_is_told_and_nothing_else(convnet, caplog):
    caplog.set_level(logging.INFO, logger="aws_lottery")
    AWSPruner(nn.Linear(4, 2), SignedMaskConfig(method="lrr"))  # a layer alone, without a classifier
    assert caplog.messages == []
    convnet[0].weight.requires_grad_(False)
    AWSPruner(convnet)
    assert caplog.messages == [
        "'7' is the classifier: it gets signs and is not pruned",
        "frozen weights get signs and are not pruned (prune_frozen=False): 0.weight",
    ]


def test_a_doubtful_classifier_is_a_visible_warning(caplog):
    AWSPruner(heads(a=nn.Linear(8, 2), b=nn.Linear(8, 3)))
    assert "'b' is taken for the classifier and not pruned, but 'a' may be one as well" in caplog.text


def renamed_as_by_fsdp(module):
    """`fully_shard` gives a module a class made from its own (tests/test_shards.py has the real thing)."""
    cls = type(module)
    module.__class__ = type(f"FSDP{cls.__name__}", (cls,), {})
    return module


def test_kinds_and_messages_go_by_the_names_of_before_fsdp():
    class Conv1D(nn.Module):  # known by its name: transformers has one, and it is no Linear
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

    class Net(nn.Sequential):
        pass

    model = renamed_as_by_fsdp(Net(renamed_as_by_fsdp(Conv1D()), nn.LayerNorm(4), nn.Linear(4, 2)))
    assert sort(model).prunable == ("0.weight",)
    mask = SignedMask.from_model(model)
    assert repr(mask.held(model)).startswith("Hold on Net")
    with pytest.raises(ValueError, match="this Net is held to a mask already"):
        mask.held(model)
    other = SignedMask({"w": torch.ones(1, dtype=torch.int8)}, prunable=("w",))
    with pytest.raises(ValueError, match="does not fit this Net, nothing was changed"):
        other.apply_(model)
