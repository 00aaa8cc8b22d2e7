"""What users do to a held model, and what the hold does then."""

import copy
import logging
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from aws_lottery import AWSPruner, SignedMask, SignedMaskConfig
from aws_lottery.parameters.hold import Hold
from aws_lottery.parameters.unwrap import parameters_of, state_of


class Net(nn.Module):
    """4 -> 8 -> 8 -> 2; the mask is on `body.weight` and `mid.weight`."""

    def __init__(self):
        super().__init__()
        self.body, self.mid, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.mid(self.body(x).relu()).relu())


MASKS = {name: torch.arange(n * 8).reshape(8, n) % 2 for name, n in (("body.weight", 4), ("mid.weight", 8))}


def held_net():
    model = Net()
    return model, Hold(model, MASKS)


def sgd_step(model, clip=None, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, **options)
    dtype = next(model.parameters()).dtype
    F.cross_entropy(model(torch.randn(16, 4, dtype=dtype)), torch.arange(16) % 2).backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def revived(model):
    """Pruned weights that are not 0."""
    return sum(int(model.get_parameter(name)[mask == 0].count_nonzero()) for name, mask in MASKS.items())


def load_assigned(model):
    model.load_state_dict(Net().state_dict(), assign=True)


def new_parameter(model):
    model.mid.weight = nn.Parameter(torch.randn(8, 8))


def new_layer(model):
    model.mid = nn.Linear(8, 8)


def double_into_new_tensors(model):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


REPLACEMENTS = [load_assigned, new_parameter, new_layer, double_into_new_tensors]


@pytest.mark.parametrize("replace", REPLACEMENTS, ids=lambda f: f.__name__)
def test_weights_that_are_replaced_are_held_again_from_the_next_step_on(replace):
    model, hold = held_net()
    replace(model)
    for _ in range(2):
        sgd_step(model)
        assert revived(model) == 0
    assert hold.weights["mid.weight"] is model.mid.weight
    model.mid.load_state_dict(nn.Linear(8, 8).state_dict())  # what is loaded is masked as before
    assert revived(model) == 0


def test_after_a_replacement_clipping_sees_the_sparse_gradient():
    model, _ = held_net()
    load_assigned(model)
    for _ in range(2):  # at once, and after a step with an optimizer of the new tensors
        model.zero_grad()
        F.cross_entropy(model(torch.randn(16, 4)), torch.arange(16) % 2).backward()
        assert not any(model.get_parameter(name).grad[mask == 0].any() for name, mask in MASKS.items())
        sgd_step(model)


def test_a_replacement_is_told(caplog):
    model, _ = held_net()
    new_layer(model)
    sgd_step(model)
    assert "1 held weights are new tensors now, 'mid.weight' first, and held again: 32 of its pruned" in caplog.text


class Adapted(nn.Module):
    """As peft's LoRA does it."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer, self.lora_A, self.lora_B = layer, nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
        layer.weight.requires_grad_(False)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def by_adapter(model):
    model.mid = Adapted(model.mid)


def by_new_weight_norm(model):
    parametrizations.weight_norm(model.mid)


def by_old_weight_norm(model):
    nn.utils.weight_norm(model.mid)


def by_a_parametrization(model):
    parametrize.register_parametrization(model.mid, "weight", nn.Identity())


def by_another_width(model):
    model.mid, model.head = nn.Linear(8, 6), nn.Linear(6, 2)


def by_removal(model):
    model.mid = nn.Identity()


def by_packed_bytes(model):
    model.mid.weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.uint8), requires_grad=False)
    model.mid.forward = lambda x: x


LOSSES = {
    by_adapter: "'mid.weight' is 'mid.base_layer.weight' now",
    by_new_weight_norm: "'mid.weight' is gone; 'mid' has",
    by_old_weight_norm: "'mid.weight' is gone; 'mid' has",
    by_a_parametrization: "'mid.weight' is 'mid.parametrizations.weight.original' now",
    by_another_width: r"'mid.weight' has shape \(6, 8\), torch.float32 instead of \(8, 8\), torch.float32",
    by_removal: "'mid.weight' is gone, and so is 'mid'",
    by_packed_bytes: r"'mid.weight' has shape \(8, 8\), torch.uint8 instead of",
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("change", "message"), LOSSES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_weight_that_can_not_be_held_any_more_stops_the_next_step(change, message):
    model, _ = held_net()
    change(model)
    with pytest.raises(RuntimeError, match=message):
        sgd_step(model)


def test_a_lost_weight_stops_no_optimizer_of_another_model():
    model, _ = held_net()
    by_removal(model)
    sgd_step(Net())


def test_a_dense_state_that_is_loaded_is_masked_at_once_and_told(caplog):
    model, _ = held_net()
    for times in (1, 2):
        model.load_state_dict(Net().state_dict())
        assert revived(model) == 0
        assert caplog.text.count("a state was loaded into a held model: 48 of its pruned weights were not 0") == times


def test_a_sparse_state_is_loaded_without_a_warning(caplog):
    model, _ = held_net()
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    assert not caplog.records


def test_a_state_loaded_into_a_part_of_the_model_is_masked_at_once():
    model, _ = held_net()
    model.mid.load_state_dict(nn.Linear(8, 8).state_dict())
    assert revived(model) == 0


def test_nan_under_a_zero_of_the_mask_is_zero_after_a_load():
    model, _ = held_net()
    state = model.state_dict()
    state["mid.weight"] = torch.full((8, 8), float("nan"))
    model.load_state_dict(state)
    assert revived(model) == 0


def test_copies_are_masked_after_a_load_too():
    model, hold = held_net()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.load_state_dict(Net().state_dict(), assign=True)
        assert revived(twin) == 0
        sgd_step(twin)
        assert revived(twin) == 0
    hold.remove()
    model.load_state_dict(Net().state_dict())
    assert revived(model) == 48


def test_a_copy_of_one_layer_is_an_ordinary_layer_without_the_model():
    model, _ = held_net()
    layer = copy.deepcopy(model.mid)
    assert len(pickle.dumps(layer)) < 2_500  # 2,201 bytes with its mask; the whole model takes more


def test_nothing_is_left_once_the_hold_is_removed():
    model, hold = held_net()
    before = model.mid.weight
    new_layer(model)
    sgd_step(model)
    assert not before._post_accumulate_grad_hooks  # it is the model's no more
    hold.remove()
    assert all(not module._load_state_dict_post_hooks for module in model.modules())
    assert all(not parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    assert "_aws_hold" not in vars(model)


def test_a_weight_that_is_unfrozen_later_has_its_gradient_masked():
    model = Net()
    for layer in (model.body, model.mid):
        layer.weight.requires_grad_(False)
    Hold(model, MASKS)
    model.mid.weight.requires_grad_(True)
    sgd_step(model)
    model.zero_grad()
    F.cross_entropy(model(torch.randn(16, 4)), torch.arange(16) % 2).backward()
    assert not model.mid.weight.grad[MASKS["mid.weight"] == 0].any()


def test_a_compiled_layer_is_held_as_before():
    model, hold = held_net()
    model.mid = torch.compile(model.mid, backend="eager")
    hold.follow()
    assert hold.weights["mid.weight"] is model.mid._orig_mod.weight


def test_a_layer_inside_torchs_activation_checkpointing_keeps_its_names(convnet):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    names, state = [*parameters_of(convnet)], [*state_of(convnet)]
    for index in (0, 1, 3):
        convnet[index] = checkpoint_wrapper(convnet[index])
    assert [*parameters_of(convnet)] == names
    assert sorted(state_of(convnet)) == sorted(state)
    hold = Hold(convnet, {"0.weight": torch.zeros(8, 3, 3, 3)})
    assert hold.weights["0.weight"] is convnet[0]._checkpoint_wrapped_module.weight
    assert SignedMask.from_model(convnet)["0.weight"].count_nonzero() == 0


def test_functional_calls_with_other_tensors_are_left_alone():
    model, _ = held_net()
    other = Net()
    before = copy.deepcopy(other.state_dict())
    torch.func.functional_call(model, dict(other.named_parameters()), torch.randn(2, 4)).sum().backward()
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name])


def test_tied_weights_that_an_assigned_state_unties_are_held_each():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    model[1].weight = model[0].weight
    Hold(model, {"0.weight": MASKS["mid.weight"]})
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert model[0].weight is not model[1].weight
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    for layer in model[:2]:
        assert not layer.weight[MASKS["mid.weight"] == 0].any()


def test_lbfgs_stays_in_the_mask_during_the_steps_after_a_prune():
    model = Net()
    hold = Hold(model, {name: torch.ones_like(mask) for name, mask in MASKS.items()})
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)
    x, y = torch.randn(32, 4), torch.arange(32) % 2
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        seen.append(revived(model))
        return loss

    optimizer.step(closure)
    assert min(seen) == 48  # dense so far: 16 and 32 of what goes
    hold.update(MASKS)
    seen.clear()
    for _ in range(3):
        optimizer.step(closure)
    assert len(seen) >= 10
    assert max(seen) == 0
    assert optimizer.state_dict()["state"][0]["n_iter"] > 5  # of more than one step: it forgets at a prune alone


class Noisy(torch.optim.SGD):
    """Moves weights without a gradient, as Langevin dynamics does."""

    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(torch.randn_like(parameter))


def test_an_optimizer_that_moves_weights_without_gradients_brings_none_back():
    model, _ = held_net()
    Noisy(model.parameters(), 0.1).step()
    assert revived(model) == 0


def test_a_hold_is_trained_by_an_optimizer_of_its_own_weights_alone():
    model, hold = held_net()
    sgd_step(Net())
    torch.optim.SGD(model.head.parameters(), 0.1).step()
    assert not hold.trained
    sgd_step(model)
    assert hold.trained


def test_masks_of_another_shape_or_name_are_refused_at_an_update():
    _, hold = held_net()
    with pytest.raises(ValueError, match=r"mask for 'body.weight' has shape \(1,\), the parameter has \(8, 4\)"):
        hold.update({"body.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"mask names 'head.weight', which is not among the parameters"):
        hold.update({"head.weight": torch.ones(2, 8)})


def test_the_best_model_of_before_a_prune_is_masked_when_it_is_loaded_after_it(caplog, images, convnet):
    """What `load_best_model_at_end` of transformers.Trainer does."""
    pruner = AWSPruner(convnet, SignedMaskConfig(rounds=2, prune_rate=0.5))
    for stage in pruner.rounds():
        if stage.index == 0:
            best = copy.deepcopy(convnet.state_dict())
    convnet.load_state_dict(best, strict=False)
    assert SignedMask.from_model(convnet).remaining == pruner.remaining == 0.25
    assert "594 of its pruned weights were not 0" in caplog.text


@pytest.mark.parametrize("compiled", [False, True])
def test_rewinding_does_not_warn(caplog, convnet, compiled):
    if compiled:
        convnet[3] = torch.compile(convnet[3], backend="eager")
    with caplog.at_level(logging.WARNING):
        for _ in AWSPruner(convnet, SignedMaskConfig(method="imp", rounds=2)).rounds():
            pass
    assert not caplog.records


def test_a_hold_tells_what_it_holds():
    _, hold = held_net()
    assert str(hold).splitlines() == [
        "Hold on Net: 0.5 of 96 weights in 2 tensors",
        "  body.weight (8, 4): 16 of 32",
        "  mid.weight (8, 8): 32 of 64",
    ]


@pytest.mark.parametrize(("layers", "listed", "more"), [(12, 12, []), (13, 10, ["  and 3 more"])])
def test_a_hold_lists_at_most_twelve_tensors(layers, listed, more):
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
    hold = Hold(model, {f"{index}.weight": torch.ones(2, 2) for index in range(layers)})
    assert str(hold).splitlines()[1:] == [f"  {index}.weight (2, 2): 4 of 4" for index in range(listed)] + more


def test_two_holds_on_one_layer_mask_what_is_loaded_each_and_end_each():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer)
    of_weight = Hold(layer, {"weight": torch.tensor([[1, 0], [0, 1]])})
    of_bias = Hold(model, {"0.bias": torch.tensor([1, 0])})
    dense = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    layer.load_state_dict(dense)
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([[1, 0], [0, 1]], [1, 0])
    of_weight.remove()
    layer.load_state_dict(dense)
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([[1, 1], [1, 1]], [1, 0])
    of_bias.remove()


@pytest.mark.parametrize("model", ["bert", Net], ids=["name", "class"])
def test_what_is_no_model_is_told_apart(model):
    with pytest.raises(TypeError, match=r"expected a model .* got (str 'bert'|the class Net); make or load it first"):
        AWSPruner(model)
