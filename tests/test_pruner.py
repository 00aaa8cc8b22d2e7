"""AWSPruner against the naive Algorithm 1, and its promises to anybody's loop."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from naive import NaiveAlgorithm1
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

from aws_lottery import AWSPruner, SignedMask, SignedMaskConfig, detach, remaining
from aws_lottery.parameters.partition import partition

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-4),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9),
}


class Checkpointed(nn.Module):
    def __init__(self, body, use):
        super().__init__()
        self.body, self.use = body, use

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False) if self.use else self.body(x)


def search_config(**values):
    return SignedMaskConfig(**{"rounds": 3, "prune_rate": 0.3, "warmup_epochs": 1, "epochs_per_round": 1, **values})


def steps(network, model, images, optimizer, *, accumulate=1, clip=None):
    """One epoch of somebody's own loop; `network` is called, `model` owns the parameters."""
    model.train()
    for index, (x, y) in enumerate(images):
        (F.cross_entropy(network(x), y) / accumulate).backward()
        if (index + 1) % accumulate == 0:
            if clip:
                clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()


def run_search(model, config, images, optimizer="momentum", **options):
    pruner = AWSPruner(model, config)
    for _ in pruner.rounds():
        steps(model, model, images, OPTIMIZERS[optimizer](model.parameters()), **options)
    return pruner


def run_naive(model, config, images, optimizer="momentum", **options):
    parts = partition(model, config)
    naive = NaiveAlgorithm1(model, config, list(parts.prunable), list(parts.psi))
    return naive.search(
        lambda network, t: steps(network, model, images, OPTIMIZERS[optimizer](model.parameters()), **options)
    )


def assert_same_search(model, config, images, **options):
    twin = copy.deepcopy(model)
    run_search(model, config, images, **options)
    expected = run_naive(twin, config, images, **options)
    for name, value in model.named_parameters():
        assert torch.equal(value, expected[name]), name
    for name, value in model.named_buffers():
        assert torch.equal(value, twin.get_buffer(name)), name


@pytest.mark.parametrize("protocol", ["paper", "released-code"])
@pytest.mark.parametrize("method", ["aws", "lrr", "imp", "wr"])
def test_every_method_equals_the_naive_algorithm_bit_for_bit(convnet, images, method, protocol):
    assert_same_search(convnet, search_config(method=method, protocol=protocol), images)


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_every_optimizer_with_clipping_and_accumulation(convnet, images, optimizer, accumulate, clip):
    assert_same_search(convnet, search_config(), images, optimizer=optimizer, accumulate=accumulate, clip=clip)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_an_optimizer_that_outlives_the_prunes_equals_the_naive_algorithm(convnet, images, optimizer):
    """The reference lets hidden weights move on; what is trained is theta * m in both."""
    twin = copy.deepcopy(convnet)
    config = search_config(method="lrr", warmup_epochs=1)
    pruner, opt = AWSPruner(convnet, config), OPTIMIZERS[optimizer](convnet.parameters())
    for _ in pruner.rounds():
        steps(convnet, convnet, images, opt, clip=0.5)
    opt_twin, parts = OPTIMIZERS[optimizer](twin.parameters()), partition(twin, config)
    naive = NaiveAlgorithm1(twin, config, list(parts.prunable), list(parts.psi))
    expected = naive.search(lambda network, t: steps(network, twin, images, opt_twin, clip=0.5))
    for name, value in convnet.named_parameters():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_pruned_weights_are_zero_after_every_step_of_an_optimizer_that_outlives_a_prune(convnet, images, optimizer):
    pruner, opt = AWSPruner(convnet, search_config()), OPTIMIZERS[optimizer](convnet.parameters())
    checked = 0
    for stage in pruner.rounds():
        for batch in images:
            steps(convnet, convnet, [batch], opt)
            for name, mask in pruner.masks.items():
                assert not convnet.get_parameter(name)[mask == 0].any()
                checked += stage.index
                for value in opt.state[convnet.get_parameter(name)].values():
                    if torch.is_tensor(value) and value.shape == mask.shape:
                        assert not value[mask == 0].any()
    assert checked


def test_rounds_yields_the_warm_up_and_then_the_rounds(convnet):
    stages = list(AWSPruner(convnet, search_config(warmup_epochs=5, epochs_per_round=2)).rounds())
    assert [(s.index, s.epochs) for s in stages] == [(0, 5), (1, 2), (2, 2), (3, 2)]
    kept = [round(s.remaining * 792) for s in stages]  # 216 + 576 prunable weights
    assert kept == [792, 792, 555, 389]


def test_released_code_trains_the_last_round_under_its_final_mask(convnet):
    pruner = AWSPruner(convnet, search_config(protocol="released-code"))
    assert [round(s.remaining * 792) for s in pruner.rounds()] == [792, 554, 387, 270]  # int(0.7 * 792) and so on
    assert round(pruner.remaining * 792) == 270


def test_the_model_keeps_its_trained_sparse_weights_and_the_mask_their_signs(convnet, images):
    pruner = run_search(convnet, search_config(method="imp"), images)
    mask = pruner.signed_mask()
    for name in mask:
        assert torch.equal(mask[name], convnet.get_parameter(name).sign().to(torch.int8))
    assert mask.remaining == remaining(pruner.masks) == pytest.approx(273 / 792)
    assert mask.config.architecture == "Sequential"
    assert "1.weight" not in mask


def test_the_weights_that_a_search_rewinds_to_have_the_names_of_a_model_that_is_not_compiled(convnet):
    names, weight = [*convnet.state_dict()], convnet[3].weight.detach().clone()
    convnet[3] = torch.compile(convnet[3], backend="eager")
    pruner = AWSPruner(convnet, search_config(method="imp", rounds=1))
    assert pruner.rewound_state() is None  # before there are any
    for _ in pruner.rounds():
        torch.nn.init.ones_(convnet[3].weight)
    state = pruner.rewound_state()
    assert sorted(state) == sorted(names)
    assert torch.equal(state["3.weight"], weight * pruner.masks["3.weight"])


def test_the_name_that_a_configuration_gives_the_architecture_stays(convnet):
    assert AWSPruner(convnet, search_config(architecture="mine")).signed_mask().config.architecture == "mine"


def test_rounds_runs_once(convnet):
    pruner = AWSPruner(convnet, search_config())
    list(pruner.rounds())
    with pytest.raises(RuntimeError, match="runs once"):
        next(pruner.rounds())
    with pytest.raises(RuntimeError, match=r"call load_state_dict before rounds\(\), which runs already"):
        pruner.load_state_dict(pruner.state_dict())


def test_a_model_is_pruned_by_one_pruner_at_a_time(convnet):
    AWSPruner(convnet)
    with pytest.raises(ValueError, match="held to a mask already"):
        AWSPruner(convnet)


@pytest.mark.parametrize("protocol", ["paper", "released-code"])
def test_norms_that_start_elsewhere_than_at_one_and_zero_equal_the_naive_algorithm(convnet, images, protocol):
    nn.init.constant_(convnet[1].weight, 0.25)
    nn.init.constant_(convnet[1].bias, -3.0)
    assert_same_search(convnet, search_config(protocol=protocol), images)


@pytest.mark.parametrize(("protocol", "scale", "bias"), [("paper", 0.25, -3.0), ("released-code", 1.0, 0.0)])
def test_psi_init_is_what_the_model_has_or_in_the_released_code_one_and_zero(convnet, protocol, scale, bias):
    nn.init.constant_(convnet[1].weight, 0.25)
    nn.init.constant_(convnet[1].bias, -3.0)
    pruner = AWSPruner(convnet, search_config(protocol=protocol))
    norm, x = convnet[1], torch.randn(16, 8, 6, 6)
    normalized = F.batch_norm(x, None, None, training=True)
    pruner._alpha.value = torch.tensor(0.0)  # psi_init alone
    torch.testing.assert_close(norm(x), normalized * scale + bias)
    pruner._alpha.value = torch.tensor(1.0)
    torch.testing.assert_close(norm(x), normalized * 0.25 - 3.0)


def test_detach_leaves_an_ordinary_model(make_convnet, images):
    model = make_convnet()
    plain = make_convnet()
    run_search(model, search_config(), images).detach()
    assert {k: v for k, v in vars(model).items() if k.startswith("_aws")} == {}
    for ours, theirs in zip(model.modules(), plain.modules(), strict=True):
        assert vars(ours).keys() == vars(theirs).keys()
        assert ours._buffers.keys() == theirs._buffers.keys()
        assert ours._non_persistent_buffers_set == theirs._non_persistent_buffers_set
        assert not ours._forward_pre_hooks
    steps(model, model, images, OPTIMIZERS["momentum"](model.parameters()))
    assert all(bool((p != 0).all()) for name, p in model.named_parameters() if name == "3.weight")


def test_state_dict_keys_never_change(convnet, make_convnet, images):
    before = list(convnet.state_dict())
    pruner = AWSPruner(convnet, search_config())
    for _ in pruner.rounds():
        assert list(convnet.state_dict()) == before
        steps(convnet, convnet, images, OPTIMIZERS["sgd"](convnet.parameters()))
    make_convnet().load_state_dict(convnet.state_dict())


def _by_torch_save(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), _by_torch_save],
    ids=["deepcopy", "pickle", "save"],
)
def test_a_copy_in_mid_search_trains_just_as_the_original(convnet, images, copied):
    pruner = AWSPruner(convnet, search_config())
    for stage in pruner.rounds():
        if stage.index == 2:
            twin = copied(convnet)
            for model in (convnet, twin):
                steps(model, model, images, OPTIMIZERS["momentum"](model.parameters()))
            break
    for name, value in twin.named_parameters():
        assert value is not convnet.get_parameter(name)
        assert torch.equal(value, convnet.get_parameter(name)), name
    assert not twin[0].weight[pruner.masks["0.weight"] == 0].any()


def test_every_forward_of_an_accumulated_step_has_its_own_alpha(convnet, images):
    pruner = AWSPruner(convnet, search_config())
    stages = pruner.rounds()
    next(stages), next(stages)
    drawn = []
    for x, _ in images:
        convnet(x)
        drawn.append(float(pruner._alpha.value))
    assert len(set(drawn)) == len(images)
    assert all(0 <= a <= 1 for a in drawn)


def test_the_stream_of_alpha_is_uniform_and_follows_the_seed(convnet, images):
    def stream(seed, n):
        pruner = AWSPruner(copy.deepcopy(convnet), search_config(seed=seed))
        pruner._alpha.enabled = True
        for _ in range(n):
            pruner._alpha(pruner.model, ())
            yield float(pruner._alpha.value)

    many = torch.tensor(list(stream(0, 4000)))
    assert abs(many.mean() - 0.5) < 0.02
    assert abs(many.std() - 12**-0.5) < 0.01
    assert torch.histc(many, 10, 0, 1).min() > 330
    lagged = torch.corrcoef(torch.stack([many[1:], many[:-1]]))[0, 1]
    assert abs(lagged) < 0.05
    assert list(stream(0, 3)) == many[:3].tolist() != list(stream(1, 3))


def test_evaluation_uses_psi_itself(convnet, images):
    pruner = AWSPruner(convnet, search_config())
    for stage in pruner.rounds():
        steps(convnet, convnet, images, OPTIMIZERS["momentum"](convnet.parameters()))
        if stage.index == 1:
            break
    plain = copy.deepcopy(convnet)
    detach(plain)
    x = images[0][0]
    assert torch.equal(convnet.eval()(x), plain.eval()(x))
    assert not torch.equal(convnet.train()(x), plain.train()(x))


def test_an_average_of_the_weights_is_masked_on_request(convnet, images):
    pruner = AWSPruner(convnet, search_config())
    ema = torch.optim.swa_utils.AveragedModel(convnet, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for _ in pruner.rounds():
        pruner.zero_pruned_(ema.module)
        for batch in images:
            steps(convnet, convnet, [batch], OPTIMIZERS["momentum"](convnet.parameters()))
            ema.update_parameters(convnet)
            for name, mask in pruner.masks.items():
                assert not ema.module.get_parameter(name)[mask == 0].any()
    for name, mask in pruner.masks.items():  # of the last prune, which no stage follows
        assert bool(ema.module.get_parameter(name)[mask == 0].any())
    pruner.zero_pruned_(ema.module)
    assert SignedMask.from_model(ema.module).remaining == pruner.remaining == ema.module.__dict__["_aws_hold"].remaining


def test_a_copy_of_before_the_prunes_and_another_network_are_masked_on_request(convnet, make_convnet):
    pruner = AWSPruner(convnet, search_config())
    twin, other = copy.deepcopy(convnet), make_convnet()
    list(pruner.rounds())
    for model in (twin, other):
        pruner.zero_pruned_(torch.compile(model, backend="eager"))
        assert SignedMask.from_model(model).remaining == pruner.remaining == pytest.approx(273 / 792)
    assert twin.__dict__["_aws_hold"].remaining == pruner.remaining


def test_moving_to_another_dtype_and_memory_format_in_mid_search(convnet, images):
    pruner = AWSPruner(convnet, search_config())
    for stage in pruner.rounds():
        if stage.index == 2:
            convnet.to(torch.float64).to(memory_format=torch.channels_last)
        dtype = convnet[0].weight.dtype
        batches = [(x.to(dtype), y) for x, y in images]
        steps(convnet, convnet, batches, OPTIMIZERS["momentum"](convnet.parameters()))
    assert round(pruner.signed_mask().remaining * 792) == 273


def test_autocast_trains_and_prunes(convnet, images):
    def network(x):
        with torch.autocast("cpu", torch.bfloat16):
            return convnet(x).float()

    pruner = AWSPruner(convnet, search_config())
    for _ in pruner.rounds():
        steps(network, convnet, images, OPTIMIZERS["momentum"](convnet.parameters()))
    assert round(pruner.signed_mask().remaining * 792) == 273


def test_activation_checkpointing_recomputes_with_the_same_alpha(make_convnet, images):
    body = make_convnet()
    del body[1]  # BatchNorm would count the recomputed batch twice
    model, twin = Checkpointed(body, True), Checkpointed(copy.deepcopy(body), False)
    for network in (model, twin):
        run_search(network, search_config(), images)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_two_forwards_before_one_backward_are_recomputed_each_with_its_own_alpha(convnet, images, reentrant):
    del convnet[1]  # BatchNorm would count the recomputed batch twice
    with torch.no_grad():
        convnet[3].weight.uniform_(2, 3)  # far from psi_init, so that alpha matters
    twin = copy.deepcopy(convnet)
    for model, use in ((convnet, True), (twin, False)):
        pruner = AWSPruner(model, search_config())
        next(stages := pruner.rounds()), next(stages)
        first, *middle, last = model
        with torch.no_grad():
            model[2].weight.uniform_(2, 3, generator=torch.Generator().manual_seed(0))
        body = nn.Sequential(*middle)
        model.forward = lambda x, f=first, b=body, e=last, use=use: e(
            checkpoint(b, f(x), use_reentrant=reentrant) if use else b(f(x))
        )
        (model(images[0][0]).square().mean() + model(images[1][0]).square().mean()).backward()
    for ours, theirs in zip(convnet.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_an_evaluation_between_forward_and_backward_changes_no_recomputation(make_convnet, images):
    grads = []
    for between in (False, True):
        torch.manual_seed(0)
        model = Checkpointed(make_convnet(), True)
        pruner = AWSPruner(model, search_config())
        next(stages := pruner.rounds()), next(stages)
        with torch.no_grad():
            model.body[4].weight.fill_(3)
        loss = model(images[0][0]).square().mean()
        if between:
            model.eval()(images[1][0])
            model.train()
        loss.backward()
        grads.append(model.body[3].weight.grad)
    torch.testing.assert_close(*grads)


def test_a_checkpoint_around_the_whole_model_draws_no_second_alpha(make_convnet, images):
    model = make_convnet()
    pruner = AWSPruner(model, search_config())
    next(stages := pruner.rounds()), next(stages)
    loss = checkpoint(model, images[0][0], use_reentrant=False).square().mean()
    drawn = float(pruner._alpha.value)
    loss.backward()
    assert float(pruner._alpha.value) == drawn


def in_mid_search(model):
    pruner = AWSPruner(model, search_config())
    next(stages := pruner.rounds()), next(stages)
    return pruner, stages


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_an_exported_model_carries_nothing_of_the_search(convnet, images):
    in_mid_search(convnet)
    x = images[0][0]
    exported = torch.export.export(convnet.eval(), (x,))
    names = [*exported.state_dict, *exported.constants, *dict(exported.named_buffers())]
    assert not [name for name in names if "_aws_" in name]
    torch.testing.assert_close(exported.module()(x), convnet(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_of_a_model_under_search_is_refused_and_of_its_sparse_copy_is_not(convnet, images):
    pruner, _ = in_mid_search(convnet)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.script can't compile .* script pruner\.sparse_copy\(\)"):
        torch.jit.script(convnet)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.script can't compile"):
        torch.jit.script(convnet[1])
    assert torch.jit.script(pruner.sparse_copy())(images[0][0]).shape == (8, 4)


def test_interpolation_follows_a_model_to_another_dtype(make_convnet):
    model = make_convnet()
    in_mid_search(model)
    model.to(torch.float64)
    model(torch.randn(2, 3, 6, 6, dtype=torch.float64)).sum().backward()
    assert model[1].weight.grad.dtype is torch.float64


def test_a_diverged_model_is_not_pruned(convnet):
    stages = AWSPruner(convnet, search_config()).rounds()
    next(stages), next(stages)
    with torch.no_grad():
        convnet[3].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinite values in '3\.weight'"):
        next(stages)


def test_the_mask_of_each_round_is_handed_over_when_the_round_is_done(convnet):
    done = []
    list(AWSPruner(convnet, search_config()).rounds(lambda t, mask: done.append((t, round(mask.remaining * 792)))))
    assert done == [(1, 555), (2, 389), (3, 273)]


def test_nothing_is_interpolated_once_the_search_is_done(convnet, images):
    pruner = run_search(convnet, search_config(), images)
    plain, x = pruner.sparse_copy(), images[0][0]
    assert torch.equal(convnet.train()(x), plain.train()(x))


@pytest.mark.parametrize(("protocol", "left"), [("paper", 389), ("released-code", 387)])
def test_a_layer_replaced_in_the_last_round_is_held_by_its_end(convnet, protocol, left):
    pruner, done = AWSPruner(convnet, search_config(rounds=2, protocol=protocol)), []
    for stage in pruner.rounds(lambda t, mask: done.append(mask)):
        if stage.index == 2:
            convnet[3] = nn.Conv2d(8, 8, 3, padding=1)
    assert round(done[-1].remaining * 792) == round(pruner.remaining * 792) == left
    assert not convnet[3].weight[pruner.masks["3.weight"] == 0].any()


def test_a_layer_replaced_in_the_training_of_the_solution_is_held_by_its_end(convnet):
    pruner = AWSPruner(convnet, search_config(rounds=2))
    for stage in pruner.rounds(solution_epochs=1):
        if stage.index == 3:
            convnet[3] = nn.Conv2d(8, 8, 3, padding=1)
    assert not convnet[3].weight[pruner.masks["3.weight"] == 0].any()


def test_a_layer_of_another_shape_stops_the_search_at_the_next_prune(convnet):
    stages = AWSPruner(convnet, search_config()).rounds()
    next(stages), next(stages)
    convnet[3] = nn.Conv2d(8, 8, 1)
    with pytest.raises(RuntimeError, match=r"'3\.weight' has shape \(8, 8, 1, 1\)"):
        next(stages)


def test_a_search_does_not_go_on_once_detached(make_convnet):
    before, during = (AWSPruner(make_convnet(), search_config()) for _ in range(2))
    before.detach()
    with pytest.raises(RuntimeError, match="this pruner was detached"):
        next(before.rounds())
    stages = during.rounds()
    next(stages)
    during.detach()
    with pytest.raises(RuntimeError, match="this pruner was detached"):
        next(stages)


@pytest.mark.parametrize(("method", "warnings"), [("aws", 1), ("lrr", 0)])
def test_aws_without_normalization_warns_that_it_is_lrr(caplog, method, warnings):
    AWSPruner(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), search_config(method=method))
    assert caplog.text.count("method 'aws' does what 'lrr' does") == warnings


def test_frozen_weights_are_left_alone_unless_asked_for(make_convnet, images):
    for prune_frozen in (False, True):
        model = make_convnet()
        model[0].weight.requires_grad_(False)
        pruner = run_search(model, search_config(prune_frozen=prune_frozen), images)
        assert ("0.weight" in pruner.masks) == prune_frozen
        assert bool((model[0].weight == 0).any()) == prune_frozen
        assert pruner.signed_mask().prunable == (("0.weight",) if prune_frozen else ()) + ("3.weight",)


def test_weights_that_are_unfrozen_during_a_search_are_told_once(convnet, caplog):
    told, message = [], "trained and not pruned, as they were frozen when the pruner took the model"
    convnet[0].weight.requires_grad_(False)
    for stage in AWSPruner(convnet, search_config()).rounds():
        told.append(caplog.text.count(message))
        convnet[0].weight.requires_grad_(stage.index > 0)
    assert told == [0, 0, 1, 1]
    assert f"{message}: 0.weight; unfreeze them before" in caplog.text


def test_a_mask_off_a_model_that_is_frozen_for_inference_has_its_zeros(convnet):
    convnet.requires_grad_(False)
    convnet[3].weight[:4] = 0
    assert SignedMask.from_model(convnet).remaining == pytest.approx(1 - 288 / 792)


def test_a_pruner_tells_what_it_prunes(convnet, capsys):
    pruner = AWSPruner(convnet, search_config())
    pruner.print_prunable_parameters()
    assert capsys.readouterr().out == f"{pruner}\n"
    assert str(pruner).splitlines() == [
        "AWSPruner of Sequential (aws, paper): "
        "1.0000 of 792 prunable weights remaining, 1.0000 of all 1,988 parameters",
        "prunable               792 in 2 tensors: conv 792",
        "signed only          1,164 in 3 tensors: vector 8, classifier 7 1,156",
        "psi                     32 in 4 tensors: normalization 32",
    ]
    list(pruner.rounds())
    assert (
        str(pruner)
        .splitlines()[0]
        .endswith(  # 273 of 792, and 1,988 less the 519 that are pruned
            ": 0.3447 of 792 prunable weights remaining, 0.7389 of all 1,988 parameters"
        )
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_names_are_plain_when_a_part_of_the_model_is_compiled(make_convnet):
    plain, regional = make_convnet(), make_convnet()
    for index in (1, 3, 7):
        regional[index] = torch.compile(regional[index], backend="eager")
    mask, expected = (AWSPruner(model, search_config()).signed_mask() for model in (regional, plain))
    assert list(mask) == list(expected)
    assert mask.prunable == expected.prunable
    mask.apply_(make_convnet())
    expected.binary().apply_(regional)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_training_is_one_graph_for_any_alpha(convnet, images):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    twin = copy.deepcopy(convnet)
    compiled = torch.compile(convnet, fullgraph=True, backend="aot_eager")
    pruner, plain = AWSPruner(compiled, search_config()), AWSPruner(twin, search_config())
    for stage, _ in zip(pruner.rounds(), plain.rounds(), strict=True):
        steps(compiled, convnet, images, OPTIMIZERS["sgd"](convnet.parameters()))
        steps(twin, twin, images, OPTIMIZERS["sgd"](twin.parameters()))
        if stage.index == 1:
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 2  # the warm-up's and the rounds'
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert not torch._dynamo.utils.counters["graph_break"]
    for ours, theirs in zip(convnet.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert set(pruner.signed_mask()) == set(plain.signed_mask())
    torch._dynamo.reset()


def test_a_model_on_meta_is_refused(make_convnet):
    with torch.device("meta"):
        empty = make_convnet()
    with pytest.raises(ValueError, match=r"0.weight: on the meta device; initialize the model first"):
        AWSPruner(empty)
