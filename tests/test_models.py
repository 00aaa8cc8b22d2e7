import subprocess
import sys
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aws_lottery import AWSPruner, SignedMaskConfig
from aws_lottery.models import ARCHITECTURES, create_model, options_under
from aws_lottery.parameters.partition import is_norm, partition

# Parameters of the ImageNet form with 1000 classes and of the small-image form with 10 (None: no such form):
# torchvision's, imgclsmob's for ShuffleNet, pytorch-cifar's for small images; MLP-Mixer 7.79 M in the paper.
# ShuffleNet for small images has the authors' 925,618 less 12,240 biases that BatchNorm cancels, EfficientNet their
# 3,599,686 less 1,088 in layers that their forward never uses (`options_under` has them).
COUNTS = {
    "resnet18": (11_689_512, 11_173_962),
    "resnet8": (None, 75_290),  # counted by hand
    "resnet20": (None, 269_722),  # 0.27 M
    "resnet32": (None, 464_154),  # 0.46 M
    "resnet50": (25_557_032, 23_520_842),
    "mobilenetv2": (3_504_872, 2_296_922),
    "shufflenet": (1_865_728, 913_378),
    "efficientnet_b0": (5_288_548, 3_598_598),
    "vgg11_bn": (132_868_840, 9_231_114),
    "mlp_mixer": (7_786_968, None),  # 7.79 M
}
IMAGENET = [name for name, (count, _) in COUNTS.items() if count]
SMALL = [name for name, (_, count) in COUNTS.items() if count]
FORMS = [(name, 224) for name in IMAGENET] + [(name, 32) for name in SMALL]
VIT = {"patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@cache
def on_meta(name: str, num_classes: int, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes, **options)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", IMAGENET)
def test_the_imagenet_form_has_the_published_number_of_parameters(name):
    assert parameters(on_meta(name, 1000)) == COUNTS[name][0]


@pytest.mark.parametrize("name", SMALL)
def test_the_small_image_form_has_the_usual_number_of_parameters(name):
    assert parameters(on_meta(name, 10, image_size=32)) == COUNTS[name][1]


def test_the_networks_are_those_of_the_paper():
    assert list(ARCHITECTURES) == list(COUNTS)


@pytest.mark.parametrize("name", IMAGENET)
def test_the_imagenet_form_turns_images_into_logits_and_uses_every_parameter(name):
    model = on_meta(name, 7, image_size=224)
    logits = model(torch.empty(2, 3, 224, 224, device="meta"))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("name", "size"), FORMS)
def test_the_partition_knows_every_layer(name, size):
    model = on_meta(name, 7, image_size=size)
    parts = partition(model, SignedMaskConfig())
    modules = dict(model.named_modules())
    assert parts.classifier == "classifier"
    assert parts.unknown == ()
    assert {type(modules[norm]) for norm in parts.norms} == {nn.LayerNorm if name == "mlp_mixer" else nn.BatchNorm2d}
    assert set(parts.norms) == {name for name, module in modules.items() if is_norm(module)}
    weights = {n for n, p in model.named_parameters() if p.dim() > 1}
    assert set(parts.prunable) == weights - {"classifier.weight"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_small_images_become_logits_and_a_training_step_gives_finite_gradients(name):
    model = create_model(name, 4, image_size=32)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 4)
    F.cross_entropy(logits, torch.tensor([1, 3])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "shufflenet"])
def test_the_small_image_form_keeps_4x4_of_32x32_pixels(name):
    model = on_meta(name, 7, image_size=32)
    body = model.get_submodule("units" if name == "shufflenet" else "blocks")
    shapes = []
    with body.register_forward_hook(lambda module, args, output: shapes.append(output.shape[2:])):
        model(torch.empty(2, 3, 32, 32, device="meta"))
    assert shapes == [(4, 4)]


def test_images_up_to_64_pixels_get_the_small_form_unless_told_otherwise():
    small, large = 11_173_962, 11_181_642  # 3x3 and 7x7 stem
    assert parameters(on_meta("resnet18", 10, image_size=64)) == small
    assert parameters(on_meta("resnet18", 10, image_size=65)) == large
    assert parameters(on_meta("resnet18", 10, image_size=64, small_image=False)) == large
    assert parameters(on_meta("resnet18", 10, small_image=True)) == small


def test_an_unused_convolution_of_efficientnet_is_there_if_asked_for_and_no_forward_uses_it():
    model = create_model("efficientnet_b0", 10, image_size=32, unused_expansion=True)
    assert parameters(model) == 3_599_686  # the authors' count; 32 x 32 weights, 32 scales, 32 biases more
    unused = "blocks.0.unused.0.weight"
    assert unused in partition(model, SignedMaskConfig(protocol="released-code")).prunable
    F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([1, 3])).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == [unused, "blocks.0.unused.1.weight", "blocks.0.unused.1.bias"]


def test_released_code_prunes_and_signs_the_unused_convolution_and_trains_nothing_of_it():
    assert options_under("efficientnet_b0", "paper") == options_under("resnet50", "released-code") == {}
    config = SignedMaskConfig(protocol="released-code", rounds=1)
    model = create_model("efficientnet_b0", 4, image_size=32, **options_under("efficientnet_b0", config.protocol))
    unused = model.get_parameter("blocks.0.unused.0.weight")
    start = unused.clone()
    pruner = AWSPruner(model, config)
    for _ in pruner.rounds():
        F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([1, 3])).backward()
        torch.optim.SGD(model.parameters(), 0.1, weight_decay=5e-4).step()
    mask = pruner.signed_mask()["blocks.0.unused.0.weight"]
    assert 0 < mask.count_nonzero() < 1024
    assert torch.equal(unused, start * mask.abs())
    assert torch.equal(mask, unused.sign().to(torch.int8))


def test_a_narrow_mobilenetv2_has_a_sixteenth_of_the_weights():
    assert parameters(on_meta("mobilenetv2", 50, image_size=16, width=0.25)) == 177_590


def test_mobilenetv2_has_no_dropout_by_default():
    assert on_meta("mobilenetv2", 4).dropout.p == 0
    assert on_meta("mobilenetv2", 4, dropout=0.2).dropout.p == 0.2


def test_a_network_compiles_as_one_graph():
    model = create_model("mlp_mixer", 4, image_size=32, depth=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(compiled(x), model(x))


def test_classifiers_of_transformers_are_built_by_model_type():
    model = on_meta("hf:vit", 7, image_size=32, **VIT)
    assert type(model).__name__ == "ViTForImageClassification"
    assert model(torch.empty(2, 3, 32, 32, device="meta")).logits.shape == (2, 7)
    assert partition(model, SignedMaskConfig()).classifier == "classifier"


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(ValueError, match="unknown network 'resnet-50': did you mean 'resnet50'"):
        create_model("resnet-50", 10)


def test_impossible_sizes_and_forms_are_told():
    with pytest.raises(ValueError, match="num_classes must be 1 or more, got 0"):
        create_model("resnet20", 0)
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size = 16, got 40"):
        create_model("mlp_mixer", 10, image_size=40)
    with pytest.raises(ValueError, match="made for images of 224 x 224 pixels, got 32 x 48"):
        on_meta("mlp_mixer", 10)(torch.empty(1, 3, 32, 48, device="meta"))
    with pytest.raises(ValueError, match="resnet20 has one form only: leave out small_image=False"):
        create_model("resnet20", 10, small_image=False)
    with pytest.raises(ValueError, match="groups must be one of 1, 2, 3, 4, 8, got 5"):
        create_model("shufflenet", 10, groups=5)


def test_importing_the_networks_does_not_import_transformers():
    code = "import sys, aws_lottery.models; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
