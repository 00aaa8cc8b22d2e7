"""GemMiner: scores choose among weights that stay at their initialization."""

import copy
import io
import pickle
import signal
from dataclasses import replace
from functools import partial

import pytest
import test_search
import torch
import torch.nn.functional as F
from test_pruner import OPTIMIZERS, Checkpointed, search_config, steps
from test_search import dict_of, killed_at, metrics, search
from torch import nn

from aws_lottery import AWSPruner, GemMiner, SignedMaskConfig, TrainingConfig, detach, pruner_for
from aws_lottery.data import batches, digit_images
from aws_lottery.gem_miner import effective
from aws_lottery.mask_file.sparse_weights import load_weights
from aws_lottery.runs.checkpoint import CheckpointError
from aws_lottery.runs.output_folder import Run

# scores of small networks move by Adam; see docs/notes/gem-miner.md
OPTIMIZERS_OF_SCORES = {**OPTIMIZERS, "adam": lambda p: torch.optim.Adam(p, 0.05)}


def gem_config(**values):
    return search_config(method="gm", **values)


def mined(model, images, optimizer="adam", **values):
    miner = GemMiner(model, gem_config(**values))
    for _ in miner.rounds():
        steps(model, model, images, OPTIMIZERS_OF_SCORES[optimizer](model.parameters()))
    return miner


def scores(miner):
    return {name: miner.model.get_parameter(name) for name in miner.masks}


def single_layer(weights, given):
    """A linear layer under a GemMiner, with these weights and scores."""
    layer = nn.Linear(len(weights), 1, bias=False)
    layer.weight.data.copy_(torch.tensor([weights]))
    miner = GemMiner(layer, gem_config(prune_classifier=True, prune_rate=0.5, rounds=1))
    layer.weight.data.copy_(torch.tensor([given]))
    return layer, miner


def test_the_network_runs_with_the_weights_whose_score_rounds_to_one():
    layer, _ = single_layer([1.0, -2.0, 4.0], [0.9, 0.6, 0.4])
    assert layer(torch.ones(1, 3)).item() == 1.0 - 2.0


def test_a_forward_that_a_layer_had_of_its_own_runs_with_the_chosen_weights_and_is_put_back():
    layer = nn.Linear(3, 1, bias=False)
    layer.forward = doubled = lambda x: 2 * F.linear(x, layer.weight)
    layer.weight.data.copy_(torch.tensor([[1.0, -2.0, 4.0]]))
    miner = GemMiner(layer, gem_config(prune_classifier=True))
    layer.weight.data.copy_(torch.tensor([[0.9, 0.6, 0.4]]))
    assert layer(torch.ones(1, 3)).item() == 2 * (1.0 - 2.0)
    miner.detach()
    assert layer.forward is doubled


def test_the_gradient_passes_the_rounding():
    layer, _ = single_layer([1.0, -2.0, 4.0], [0.9, 0.6, 0.4])
    layer(torch.tensor([[1.0, 1.0, 10.0]])).backward()
    assert layer.weight.grad.tolist() == [[1.0, -2.0, 40.0]]


def test_the_effective_weight_is_exact():
    weight, score = torch.randn(1000), torch.rand(1000)
    assert torch.equal(effective(weight, score), torch.where(score > 0.5, weight, 0.0))


def test_a_step_projects_scores_to_the_unit_interval():
    layer, _ = single_layer([1.0, -2.0, 4.0], [0.9, 0.6, 0.4])
    layer(torch.ones(1, 3)).backward()
    torch.optim.SGD(layer.parameters(), 0.5).step()
    assert layer.weight.tolist() == [[pytest.approx(0.4), 1.0, 0.0]]


def test_a_round_freezes_the_lowest_scores_for_ever():
    layer, miner = single_layer([1.0, -2.0, 4.0, 8.0], [0.9, 0.6, 0.4, 0.1])
    list(miner.rounds())
    assert miner.masks["weight"].tolist() == [[1, 1, 0, 0]]
    optimizer = torch.optim.SGD(layer.parameters(), 1.0, momentum=0.9)
    for _ in range(3):
        (-layer(torch.ones(1, 4))).sum().backward()
        optimizer.step()
    assert layer.weight.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_the_signed_mask_has_the_signs_of_the_init_and_zeros_where_scores_round_to_zero():
    _, miner = single_layer([1.0, -2.0, 4.0, -8.0], [0.9, 0.6, 0.4, 0.7])
    assert miner.signed_mask()["weight"].tolist() == [[1, -1, 0, -1]]


def test_freezing_follows_the_rounds(convnet):
    miner = GemMiner(convnet, gem_config())
    assert [round(stage.remaining * 792) for stage in miner.rounds()] == [792, 792, 555, 389]
    assert round(miner.remaining * 792) == 273
    assert miner.signed_mask().remaining <= miner.remaining


def test_all_scores_at_the_threshold_freeze_in_whatever_layer_they_are(convnet):
    miner = GemMiner(convnet, gem_config(prune_rate=0.1, rounds=1, warmup_epochs=0))
    for stage in miner.rounds():
        assert stage.index in (0, 1)
        for score in scores(miner).values():
            score.data[:4] = 0  # half of each layer: by name, the first layers alone would make up the tenth
    assert [mask[:4].sum().item() for mask in miner.masks.values()] == [0, 0]
    assert all(mask[4:].all() for mask in miner.masks.values())


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS_OF_SCORES))
def test_any_optimizer_trains_scores_and_no_weight_moves(convnet, images, optimizer):
    before = {name: p.detach().clone() for name, p in convnet.named_parameters()}
    miner = GemMiner(convnet, gem_config())
    start = {name: score.detach().clone() for name, score in scores(miner).items()}
    for _ in miner.rounds():
        steps(convnet, convnet, images, OPTIMIZERS_OF_SCORES[optimizer](convnet.parameters()))
        for name, score in scores(miner).items():
            assert 0 <= score.min() <= score.max() <= 1
            assert not score[miner.masks[name] == 0].any()
    assert all(not torch.equal(score, start[name]) for name, score in scores(miner).items())
    mask = miner.signed_mask()
    miner.detach()
    for name, value in convnet.named_parameters():
        assert torch.equal(value, before[name] * mask[name].abs() if name in miner.masks else before[name]), name


def test_the_mask_gives_the_network_back_on_its_own_init(convnet, images):
    init = copy.deepcopy(convnet)
    miner = mined(convnet, images)
    miner.signed_mask().apply_(init)
    miner.detach()
    for ours, theirs in zip(convnet.parameters(), init.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_accuracy_rises_though_no_weight_moves():
    data, test = digit_images("train"), digit_images("test").tensors
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))

    def accuracy():
        with torch.no_grad():
            return float((model.eval()(test[0]).argmax(1) == test[1]).float().mean())

    before = accuracy()
    miner = GemMiner(model, gem_config(prune_rate=0.2, epochs_per_round=4))
    for stage in miner.rounds():
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for epoch in range(stage.epochs):
            steps(model, model, batches(data, 64, seed=10 * stage.index + epoch), optimizer)
    miner.detach()
    assert before < 0.3
    assert accuracy() > 0.8
    assert float((model[1].weight != 0).float().mean()) <= 0.512


def test_detach_leaves_an_ordinary_model(make_convnet, images):
    model, plain = make_convnet(), make_convnet()
    mined(model, images).detach()
    assert {k: v for k, v in vars(model).items() if k.startswith("_aws")} == {}
    for ours, theirs in zip(model.modules(), plain.modules(), strict=True):
        assert vars(ours).keys() == vars(theirs).keys()
        assert ours._buffers.keys() == theirs._buffers.keys()
        assert ours._non_persistent_buffers_set == theirs._non_persistent_buffers_set
    assert all(p.requires_grad for p in model.parameters())


def test_what_was_not_trainable_stays_so(convnet, images):
    convnet[7].bias.requires_grad_(False)
    mined(convnet, images).detach()
    assert [name for name, p in convnet.named_parameters() if not p.requires_grad] == ["7.bias"]


def test_state_dict_keys_never_change(convnet):
    before = list(convnet.state_dict())
    GemMiner(convnet, gem_config())
    assert list(convnet.state_dict()) == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_in_mid_search_trains_just_as_the_original(convnet, images, copied):
    miner = GemMiner(convnet, gem_config())
    for stage in miner.rounds():
        if stage.index == 2:
            twin = copied(convnet)
            for model in (convnet, twin):
                steps(model, model, images, OPTIMIZERS_OF_SCORES["adam"](model.parameters()))
            break
    for name, value in twin.named_parameters():
        assert value is not convnet.get_parameter(name)
        assert torch.equal(value, convnet.get_parameter(name)), name
    detach(twin)
    x = images[0][0]
    assert torch.equal(twin.eval()(x), convnet.eval()(x))


def test_scores_follow_the_seed(make_convnet):
    def start(seed):
        return GemMiner(make_convnet(), gem_config(seed=seed)).model.get_parameter("3.weight").detach()

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert abs(float(start(1).mean()) - 0.5) < 0.05


def test_tied_weights_have_one_score(images):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(108, 108), nn.Linear(108, 108), nn.Linear(108, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.head(F.relu(self.second(F.relu(self.first(x.flatten(1))))))

    model = Tied()
    weight = model.first.weight.detach().clone()
    miner = mined(model, images)
    mask = miner.signed_mask()
    miner.detach()
    assert torch.equal(model.first.weight, weight * mask["first.weight"].abs())
    assert model.second.weight is model.first.weight


def test_going_on_from_a_saved_state_ends_alike(make_convnet, images):
    whole, cut, fresh = make_convnet(), make_convnet(), make_convnet()
    cut.load_state_dict(whole.state_dict())
    mined(whole, images)
    miner = GemMiner(cut, gem_config())
    for stage in miner.rounds():
        if stage.index == 2:
            buffer = io.BytesIO()
            torch.save({"model": cut.state_dict(), "miner": miner.state_dict()}, buffer)
            break
        steps(cut, cut, images, OPTIMIZERS_OF_SCORES["adam"](cut.parameters()))
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    other = GemMiner(fresh, gem_config())
    fresh.load_state_dict(state["model"])
    other.load_state_dict(state["miner"])
    for _ in other.rounds():
        steps(fresh, fresh, images, OPTIMIZERS_OF_SCORES["adam"](fresh.parameters()))
    detach(whole)
    other.detach()
    for ours, theirs in zip(fresh.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_killed_search_goes_on_to_the_same_mask_bit_for_bit(tmp_path, monkeypatch):
    config = SignedMaskConfig(method="gm", rounds=3, warmup_epochs=2, epochs_per_round=2)
    mine = partial(search, config=config)
    monkeypatch.setattr(test_search, "search", mine)  # for killed_at
    mask = mine(tmp_path / "whole")
    assert killed_at(19, tmp_path / "cut") == -signal.SIGKILL
    assert [line["stage"] for line in metrics(tmp_path / "cut")] == [0, 1]
    assert dict_of(mine(tmp_path / "cut")) == dict_of(mask)
    for ours, theirs in zip(metrics(tmp_path / "cut"), metrics(tmp_path / "whole"), strict=True):
        assert (ours["loss"], ours["accuracy"]) == (theirs["loss"], theirs["accuracy"])


def test_one_schedule_runs_over_the_whole_search(tmp_path, monkeypatch):
    rates, steps_of_optimizer = [], []

    def watched(run, training):
        rates.append(training.optimizer.param_groups[0]["lr"])
        steps_of_optimizer.append(next(iter(training.optimizer.state.values()))["step"].item())

    monkeypatch.setattr(Run, "after_training", watched)
    config = SignedMaskConfig(method="gm", rounds=3, warmup_epochs=1, epochs_per_round=1)
    training = TrainingConfig(batch_size=8, optimizer="adam", learning_rate=0.08, schedule="cosine")
    search(tmp_path, config=config, training=training)
    assert rates == pytest.approx([0.08 * share for share in (0.853553, 0.5, 0.146447, 0.0)], rel=1e-4, abs=1e-9)
    assert steps_of_optimizer == [4, 8, 12, 16]


def test_a_search_under_a_schedule_has_its_length_from_the_start(tmp_path):
    config = SignedMaskConfig(method="gm", rounds=1, warmup_epochs=1, epochs_per_round=1)
    training = TrainingConfig(batch_size=8, schedule="cosine")
    search(tmp_path, config=config, training=training)
    with pytest.raises(CheckpointError, match="other settings"):
        search(tmp_path, config=replace(config, rounds=2), training=training)


def test_a_search_keeps_the_weights_of_the_init_beside_each_mask(tmp_path):
    config = SignedMaskConfig(method="gm", rounds=2, warmup_epochs=1, epochs_per_round=1)
    mask = search(tmp_path, config=config)
    weights = load_weights(tmp_path / "round-02", mask)
    assert torch.equal(weights["1.weight"], test_search.network()[1].weight * mask["1.weight"].abs())


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_training_is_one_graph(convnet, images):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    twin = copy.deepcopy(convnet)
    compiled = torch.compile(convnet, fullgraph=True, backend="aot_eager")
    miner, plain = GemMiner(compiled, gem_config()), GemMiner(twin, gem_config())
    for _ in zip(miner.rounds(), plain.rounds(), strict=True):
        steps(compiled, convnet, images, OPTIMIZERS["sgd"](convnet.parameters()))
        steps(twin, twin, images, OPTIMIZERS["sgd"](twin.parameters()))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for ours, theirs in zip(convnet.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch._dynamo.reset()


def test_activation_checkpointing_recomputes_with_the_effective_weights(make_convnet, images):
    body = make_convnet()
    del body[1]  # BatchNorm would count the recomputed batch twice
    model, twin = Checkpointed(body, True), Checkpointed(copy.deepcopy(body), False)
    for network in (model, twin):
        mined(network, images)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_each_method_has_its_pruner(make_convnet):
    assert type(pruner_for(make_convnet(), gem_config())) is GemMiner
    assert GemMiner(make_convnet()).config.method == "gm"
    assert type(pruner_for(make_convnet(), search_config(method="lrr"))) is AWSPruner
    with pytest.raises(ValueError, match="'gm' is not for AWSPruner; pruner_for"):
        AWSPruner(make_convnet(), gem_config())
    with pytest.raises(ValueError, match="'aws' is not for GemMiner; pruner_for"):
        GemMiner(make_convnet(), search_config())


def test_weights_that_are_used_past_their_layer_are_refused():
    model = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"'1' \(MultiheadAttention\) uses weights .* exclude=\('1',\)"):
        GemMiner(model, gem_config())
    assert not any(key.startswith("_aws") for key in vars(model))
    GemMiner(model, gem_config(exclude=("1",)))


def test_a_model_is_taken_once(convnet):
    GemMiner(convnet, gem_config())
    before = {name: value.clone() for name, value in convnet.state_dict().items()}
    with pytest.raises(ValueError, match="held to a mask already"):
        GemMiner(convnet, gem_config())
    for name, value in convnet.state_dict().items():
        assert torch.equal(value, before[name])
