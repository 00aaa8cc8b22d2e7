"""What a user may well do by mistake ends in the right answer or in an error that says what to do."""

import copy
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from aws_lottery import (
    AWSPruner,
    SignedMask,
    SignedMaskConfig,
    TrainingConfig,
    evaluate,
    find_signed_mask,
    recalibrate,
    verify,
)
from aws_lottery.data import ImageData, Images
from aws_lottery.preflight import check_fit
from aws_lottery.runs.final_training import final_training
from aws_lottery.training import _warn_of_whole_batches

ONE_ROUND = SignedMaskConfig(rounds=1, warmup_epochs=1, epochs_per_round=1)


class Wrapped(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def step(called, model, batch):
    F.cross_entropy(called(batch[0]), batch[1]).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def test_measuring_leaves_a_layer_in_evaluation_mode_inside_of_a_training_model_as_it_is(convnet, data, accelerator):
    convnet[1].eval()
    check_fit(convnet, data, accelerator, what="data")
    evaluate(convnet, data, accelerator=accelerator)
    recalibrate(convnet, [data.tensors])
    assert [module.training for module in convnet] == [True, False] + [True] * 6


def test_a_loader_that_fails_while_batch_norm_is_re_estimated_leaves_mode_and_momentum_as_they_were(convnet, images):
    def loader():
        yield images[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        recalibrate(convnet, loader())
    assert convnet.training
    assert convnet[1].training
    assert convnet[1].momentum == 0.1


def test_re_estimating_on_no_batches_is_an_error_and_keeps_the_statistics(convnet, images):
    convnet(images[0][0])
    before = convnet[1].running_mean.clone()
    with pytest.raises(ValueError, match="the data has no batches"):
        recalibrate(convnet, iter([]))
    assert torch.equal(convnet[1].running_mean, before)


def test_batches_that_are_tensors_are_the_input_itself(convnet, images):
    other = copy.deepcopy(convnet)
    recalibrate(convnet, [images[0][0]])
    recalibrate(other, [images[0]])
    assert torch.equal(convnet[1].running_mean, other[1].running_mean)


def test_calling_a_part_of_the_model_is_an_error_as_nothing_is_interpolated_then(convnet, images):
    model = Wrapped(convnet)
    stages = AWSPruner(model, ONE_ROUND).rounds()
    for _ in range(2):  # the warm-up, which does not interpolate, and the first round
        next(stages)
        step(model.net, model, images[0])
    with pytest.raises(RuntimeError, match=r"stage 1 was trained without interpolation .* the Wrapped that the pruner"):
        next(stages)


def test_training_in_evaluation_mode_is_an_error_as_nothing_is_interpolated_then(convnet, images):
    stages = AWSPruner(convnet.eval(), ONE_ROUND).rounds()
    next(stages), next(stages)
    step(convnet, convnet, images[0])
    with pytest.raises(RuntimeError, match=r"after model\.train\(\)"):
        next(stages)


def test_lrr_has_nothing_to_interpolate_and_may_call_a_part_of_the_model(convnet, images):
    model = Wrapped(convnet)
    pruner = AWSPruner(model, SignedMaskConfig(method="lrr", rounds=1, prune_rate=0.5))
    for _ in pruner.rounds():
        step(model.net, model, images[0])
    assert pruner.remaining == 0.5


def test_a_normalization_layer_that_takes_the_place_of_another_is_an_error_as_it_does_not_interpolate(convnet, images):
    stages = AWSPruner(convnet, ONE_ROUND).rounds()
    next(stages), next(stages)
    convnet[1] = nn.BatchNorm2d(8)
    step(convnet, convnet, images[0])
    with pytest.raises(RuntimeError, match="'1' is another layer than when the pruner was made"):
        next(stages)


@pytest.mark.parametrize("wrong", [{"more": -1}, {"solution_epochs": -3}, {"solution_epochs": 1.5}, {"more": True}])
def test_rounds_takes_whole_numbers_from_0_on(convnet, wrong):
    pruner = AWSPruner(convnet, ONE_ROUND)
    list(pruner.rounds())
    with pytest.raises(ValueError, match=f"rounds: {next(iter(wrong))} must be a whole number, 0 or more, got"):
        next(pruner.rounds(**wrong))


def test_a_pruner_that_refuses_psi_init_leaves_the_model_free_for_the_next(convnet):
    with pytest.raises(ValueError, match=re.escape("psi_init: '1.weight' is missing")):
        AWSPruner(convnet, ONE_ROUND, psi_init={})
    assert AWSPruner(convnet, ONE_ROUND).remaining == 1


def test_the_state_of_a_pruner_stays_as_it_was_when_training_goes_on(convnet, images):
    pruner = AWSPruner(convnet, ONE_ROUND)
    before = pruner.state_dict()["interpolation"]
    values = {name: value.clone() for name, value in before.items()}
    for _ in pruner.rounds():
        step(convnet, convnet, images[0])
    assert pruner.state_dict()["interpolation"]["_aws_alpha_state"] != values["_aws_alpha_state"]
    assert all(torch.equal(before[name], value) for name, value in values.items())


def test_a_weight_is_not_held_through_two_models_at_once(convnet):
    whole = Wrapped(convnet)
    pruner = AWSPruner(convnet, ONE_ROUND)
    with pytest.raises(ValueError, match=re.escape("'net.0.weight' is held to a mask already, as '0.weight' of a Seq")):
        AWSPruner(whole, ONE_ROUND)
    pruner.detach()
    whole_pruner = AWSPruner(whole, ONE_ROUND)
    with pytest.raises(ValueError, match=re.escape("'0.weight' is held to a mask already, as 'net.0.weight' of a Wra")):
        AWSPruner(convnet, ONE_ROUND)
    assert whole_pruner.remaining == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.complex64, torch.float8_e4m3fn])
def test_what_is_quantized_or_complex_has_no_signs_and_is_refused_by_its_name(convnet, dtype):
    convnet[3].weight = nn.Parameter(torch.ones(8, 8, 3, 3).to(dtype), requires_grad=False)
    for refuse in (
        lambda: AWSPruner(convnet, SignedMaskConfig(prune_frozen=True)),
        lambda: SignedMask.from_model(convnet),
    ):
        with pytest.raises(ValueError, match=rf"'3\.weight' has entries of {dtype}; .*exclude=\('3\.weight',\)"):
            refuse()
    assert AWSPruner(convnet, SignedMaskConfig(exclude=("3.weight",))).partition.prunable == ("0.weight",)


def test_arguments_of_another_type_are_named(convnet):
    with pytest.raises(TypeError, match="config must be a SignedMaskConfig, got dict"):
        AWSPruner(convnet, {"rounds": 2})
    with pytest.raises(TypeError, match="expected a SignedMask, its folder or its id on the Hub, got dict"):
        AWSPruner(convnet, ONE_ROUND, mask={"0.weight": torch.ones(8, 3, 3, 3)})
    with pytest.raises(ValueError, match="a mask without signs has 0 and 1, 'weight' has -1"):
        SignedMask({"weight": torch.tensor([-1, 0, 1], dtype=torch.int8)}, signed=False)


@pytest.mark.parametrize("wrap", [lambda data: TensorDataset(*data.tensors), lambda data: DataLoader(data)])
def test_data_of_another_type_is_answered_with_what_to_make_of_it(convnet, data, accelerator, tmp_path, wrap):
    options = {"output_dir": tmp_path / "run", "accelerator": accelerator}
    with pytest.raises(TypeError, match=r"data must be Images or an ImageSplit, got .*Images\(images, labels\) takes"):
        find_signed_mask(convnet, wrap(data), ONE_ROUND, TrainingConfig(batch_size=8), **options)


def test_measuring_takes_images_and_re_estimating_batches_of_them(convnet, data, accelerator):
    for wrong in (data.tensors, DataLoader(data)):
        with pytest.raises(TypeError, match=r"data must be Images or an ImageSplit, got (tuple|DataLoader)"):
            evaluate(convnet, wrong, accelerator=accelerator)
    for wrong in (data, data.tensors[0]):
        with pytest.raises(TypeError, match=r"takes batches, got (Images|Tensor): .*batches\(data, 64, seed=0\)"):
            recalibrate(convnet, wrong)


def test_a_search_that_fails_leaves_an_ordinary_model_which_another_search_takes(convnet, data, accelerator, tmp_path):
    spoilt = Images(torch.full_like(data.tensors[0], torch.nan), data.tensors[1])
    training, state = TrainingConfig(batch_size=8), copy.deepcopy(convnet.state_dict())
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        find_signed_mask(convnet, spoilt, ONE_ROUND, training, output_dir=tmp_path / "first", accelerator=accelerator)
    convnet.load_state_dict(state)
    mask = find_signed_mask(convnet, data, ONE_ROUND, training, output_dir=tmp_path / "second", accelerator=accelerator)
    assert mask.remaining == pytest.approx(0.8, abs=0.01)


def test_a_search_that_fails_before_a_checkpoint_of_its_training_leaves_its_folder_to_other_settings(
    convnet, data, accelerator, tmp_path
):
    options = {"output_dir": tmp_path / "run", "accelerator": accelerator}
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        find_signed_mask(convnet, data, ONE_ROUND, TrainingConfig(batch_size=8, learning_rate=1e30), **options)
    convnet.apply(lambda layer: layer.reset_parameters() if hasattr(layer, "reset_parameters") else None)
    mask = find_signed_mask(convnet, data, ONE_ROUND, TrainingConfig(batch_size=4), **options)
    assert mask.remaining == pytest.approx(0.8, abs=0.01)


def find(model, data, accelerator, folder):
    find_signed_mask(model, data, ONE_ROUND, TrainingConfig(batch_size=8), output_dir=folder, accelerator=accelerator)


def save(model, data, accelerator, folder):
    SignedMask.from_model(model).save_pretrained(folder)


def train_from(model, data, accelerator, folder):
    images, config = ImageData(data, data, 4, "made up"), TrainingConfig(batch_size=8)
    final_training(model, images, config, output_dir=folder, accelerator=accelerator, identity={}, seed=0)


def check(model, data, accelerator, folder):
    """`verify`, and with it `Comparison`, which makes its folder in the same place."""
    images, config = ImageData(data, data, 4, "made up"), TrainingConfig(batch_size=8)
    mask = SignedMask.from_model(model)
    verify(
        mask, lambda seed: copy.deepcopy(model), images, config, output_dir=folder, accelerator=accelerator, plots=False
    )


@pytest.mark.parametrize("use", [find, save, train_from, check])
@pytest.mark.parametrize("folder", ["notes", "notes/run/1"])
def test_an_output_folder_that_is_a_file_or_in_one_is_named_with_what_to_do(
    convnet, data, accelerator, tmp_path, folder, use
):
    (tmp_path / "notes").write_text("mine")
    message = f"can't write to the folder '{tmp_path / folder}': '{tmp_path / 'notes'}' is a file; take another folder"
    with pytest.raises(NotADirectoryError, match=f"^{re.escape(message)}$"):
        use(convnet, data, accelerator, tmp_path / folder)
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("use", [find, save, train_from, check])
def test_an_output_folder_that_may_not_be_written_to_is_named_with_what_to_do(
    convnet, data, accelerator, tmp_path, monkeypatch, use
):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    message = f"can't write to the folder '{tmp_path}': this user may not write to '{tmp_path}'; take another folder"
    with pytest.raises(PermissionError, match=f"^{re.escape(message)}, or change its permissions$"):
        use(convnet, data, accelerator, tmp_path)
    assert not any(tmp_path.iterdir())


def test_an_output_folder_in_one_that_may_not_be_written_to_names_that_one(convnet, tmp_path, monkeypatch):
    def refuse(self, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=f"this user may not write to '{tmp_path}'"):
        SignedMask.from_model(convnet).save_pretrained(tmp_path / "a" / "b")


def test_a_batch_larger_than_the_data_is_refused_before_a_folder_is_made(convnet, data, accelerator, tmp_path):
    message = f"batch_size=99 is more than there is, {len(data)} images: .* take a batch_size of {len(data)} or less"
    with pytest.raises(ValueError, match=message):
        find_signed_mask(
            convnet,
            data,
            ONE_ROUND,
            TrainingConfig(batch_size=99),
            output_dir=tmp_path / "run",
            accelerator=accelerator,
        )
    assert not (tmp_path / "run").exists()


def test_a_lazy_layer_that_has_no_shape_yet_is_an_error_that_says_what_to_do():
    lazy = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    mask = SignedMask({"0.weight": torch.ones(4, 3, dtype=torch.int8)})
    for refuse in (lambda: AWSPruner(lazy, ONE_ROUND), lambda: mask.apply_(lazy)):
        with pytest.raises(
            ValueError, match=r"0\.weight: a lazy layer that has no shape yet; call the model on a batch"
        ):
            refuse()
    lazy(torch.ones(1, 3))
    assert AWSPruner(lazy, ONE_ROUND).partition.prunable == ("0.weight",)


@pytest.mark.parametrize(("processes", "split", "warnings"), [(2, False, 1), (2, True, 0), (1, False, 0)])
def test_several_processes_that_take_whole_batches_each_are_told_so(processes, split, warnings, caplog):
    settings = {"num_processes": processes, "split_batches": split, "parallelism_config": None}
    accelerator = SimpleNamespace(**settings, is_main_process=True)
    _warn_of_whole_batches(TrainingConfig(batch_size=64), accelerator)
    assert caplog.text.count("each of 2 processes takes batches of 64 images, 128 in a step") == warnings
