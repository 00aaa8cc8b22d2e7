"""A training is the same whatever was trained before it in the same process, to its end or to an error."""

import copy
import gc
import weakref
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch._dynamo.utils import counters

from aws_lottery import AWSPruner, SignedMaskConfig, TrainingConfig, train

CONFIG = TrainingConfig(epochs=2, batch_size=9, max_grad_norm=1.0)  # batches of 9, 9, 9, 5


@pytest.fixture
def accelerator_with():
    def make(**options):
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(cpu=True, **options)

    yield make
    make(gradient_accumulation_steps=1)


@pytest.fixture
def trained(make_convnet, data):
    """The weights and the loss of a training from one start; `model` to train that one instead of a fresh one."""
    start = make_convnet()

    def trained(accelerator, model=None, **options):
        model = copy.deepcopy(start) if model is None else model
        model.load_state_dict(start.state_dict())
        loss = train(model, data, CONFIG, accelerator=accelerator, seed=0, partial_batches=True, **options)
        return loss, copy.deepcopy(model.state_dict())

    return trained


def equal(one, other):
    return one[0] == other[0] and all(torch.equal(value, other[1][name]) for name, value in one[1].items())


def test_each_training_of_a_model_is_in_mixed_precision(convnet, accelerator_with, trained):
    accelerator, precise = accelerator_with(mixed_precision="bf16"), []
    convnet[0].register_forward_hook(lambda layer, images, output: precise.append(output.dtype))
    first = trained(accelerator, convnet)
    assert equal(first, trained(accelerator, convnet))
    assert precise == [torch.bfloat16] * 2 * (1 + 8)  # one for the look whether the model fits the data


def test_each_stage_of_a_search_is_in_mixed_precision(convnet, data, accelerator_with):
    accelerator, precise = accelerator_with(mixed_precision="bf16"), []
    convnet[0].register_forward_hook(lambda layer, images, output: precise.append(output.dtype))
    for stage in AWSPruner(convnet, SignedMaskConfig(rounds=2)).rounds():
        train(convnet, data, CONFIG, accelerator=accelerator, seed=stage.index)
    assert precise == [torch.bfloat16] * 3 * (1 + 6)


def test_a_training_in_mixed_precision_goes_on_to_the_same_weights(convnet, data, accelerator_with, trained):
    accelerator, points = accelerator_with(mixed_precision="bf16"), []

    def keep(training):
        points.append(copy.deepcopy((convnet.state_dict(), training.state_dict())))

    whole = trained(accelerator, convnet, on_step=keep)
    for weights, state in points:
        convnet.load_state_dict(weights)
        options = {"accelerator": accelerator, "seed": 0, "partial_batches": True, "resume": state}
        assert equal(whole, (train(convnet, data, CONFIG, **options), convnet.state_dict()))


def test_a_training_leaves_the_model_without_a_forward_of_accelerate(convnet, accelerator_with, trained):
    before = vars(convnet).keys() - {"training"}
    trained(accelerator_with(mixed_precision="bf16"), convnet)
    assert vars(convnet).keys() - {"training"} == before


@pytest.mark.parametrize("where", ["register_forward_hook", "register_full_backward_hook"])
@pytest.mark.parametrize(("accumulation", "calls"), [(1, 3), (3, 2), (3, 4), (3, 6)])
def test_a_training_after_one_that_an_error_cut_is_as_a_first_one(
    make_convnet, accelerator_with, trained, accumulation, calls, where
):
    expected = trained(accelerator_with(gradient_accumulation_steps=accumulation))
    accelerator, model, left = accelerator_with(gradient_accumulation_steps=accumulation), make_convnet(), [0] * calls

    def interrupt(*args):
        if not left:
            raise KeyboardInterrupt
        left.pop()

    handle = getattr(model[3], where)(interrupt)
    attributes, loaders = vars(model).keys(), list(accelerator.gradient_state.dataloader_references)
    with pytest.raises(KeyboardInterrupt) as kept:  # with its frames, as a notebook keeps them
        trained(accelerator, model)
    handle.remove()
    assert vars(model).keys() == attributes
    assert accelerator.gradient_state.dataloader_references == loaders
    assert equal(expected, trained(accelerator, model))
    assert kept.tb is not None


def test_a_training_does_not_start_amid_the_accumulation_of_a_loop_of_the_users_own(accelerator_with, trained):
    expected = trained(accelerator_with(gradient_accumulation_steps=3))
    accelerator = accelerator_with(gradient_accumulation_steps=3)
    with accelerator.accumulate():
        pass
    assert equal(expected, trained(accelerator))


def test_each_training_starts_with_the_same_loss_scale(accelerator_with, trained):
    accelerator, scales = accelerator_with(), []
    accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)

    def note(training):
        scales.append(training.state_dict()["scaler"]["scale"])

    assert equal(trained(accelerator, on_step=note), trained(accelerator, on_step=note))
    assert scales == [2048.0 * 2**step for step in range(8)] * 2
    assert accelerator.scaler is scaler


def graphs_of(training):
    counters["stats"].clear()
    training()
    return counters["stats"]["unique_graphs"]


@torch._dynamo.config.patch(recompile_limit=2)  # monkeypatch would leave it deleted
def test_trainings_in_mixed_precision_are_compiled_once_for_each_model(make_convnet, accelerator_with, trained):
    accelerator = accelerator_with(mixed_precision="bf16", dynamo_backend="eager")
    first, second = make_convnet(), make_convnet()
    graphs = [graphs_of(partial(trained, accelerator, model)) for model in (first, first, second, second)]
    assert graphs == [2, 0, 2, 0]  # of full and of partial batches


def test_a_search_in_mixed_precision_is_compiled_once_and_its_model_is_not_kept(make_convnet, data, accelerator_with):
    accelerator = accelerator_with(mixed_precision="bf16", dynamo_backend="eager")
    model = make_convnet()
    graphs = [
        graphs_of(partial(train, model, data, CONFIG, accelerator=accelerator, seed=stage.index))
        for stage in AWSPruner(model, SignedMaskConfig(rounds=3)).rounds()
    ]
    assert graphs == [1, 2, 0, 0]  # the network; the network with interpolation, and the draw of alpha
    there = weakref.ref(model)
    del model
    gc.collect()
    assert there() is None
