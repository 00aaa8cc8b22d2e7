import copy
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import SGD

from aws_lottery import AWSPruner, SignedMaskConfig, TrainingConfig, evaluate, recalibrate, train
from aws_lottery.data import batches, digit_images, digits
from aws_lottery.evaluation import accuracy_of, recalibrate_on_images
from aws_lottery.metrics import Accuracy
from aws_lottery.parameters import norm_interpolation
from aws_lottery.training import epoch_seed, fills_up, steps_an_epoch
from aws_lottery.training_config import OPTIMIZERS, SCHEDULES


def test_digits_come_without_a_download_and_always_split_alike():
    parts = digits()
    assert {name: len(part) for name, part in parts.items()} == {"train": 1437, "test": 360}
    assert parts["train"]["label"][:8] == digits()["train"]["label"][:8]
    assert parts["test"].features["label"].num_classes == 10


def test_digits_to_choose_by_are_held_out_of_the_train_split():
    parts = digits(validation=360)
    assert {name: len(part) for name, part in parts.items()} == {"train": 1077, "test": 360, "validation": 360}
    assert parts["test"]["image"] == digits()["test"]["image"]
    assert digit_images("train", validation=360).tensors[0].std().item() == pytest.approx(1, abs=1e-4)
    both = [str(image) for name in ("train", "validation") for image in parts[name]["image"]]
    assert sorted(both) == sorted(str(image) for image in digits()["train"]["image"])


def test_digit_images_are_standardized_by_the_train_split():
    pixels, labels = digit_images("train").tensors
    assert pixels.shape == (1437, 1, 8, 8)
    assert pixels.mean().item() == pytest.approx(0, abs=1e-5)
    assert pixels.std().item() == pytest.approx(1, abs=1e-4)
    assert labels.bincount(minlength=10).min() > 100


def test_batches_shuffle_by_seed_and_leave_out_a_short_one(data):
    def order(seed):
        return [x[0, 0, 0, 0].item() for x, _ in batches(data, 5, seed=seed)]

    assert order(1) == order(1) != order(2)
    assert [len(x) for x, _ in batches(data, 5, seed=1)] == [5] * 6
    assert [len(x) for x, _ in batches(data, 5)] == [5] * 6 + [2]


def test_a_partial_batch_comes_last_where_it_is_wanted(data):
    sizes = [len(x) for x, _ in batches(data, 5, seed=1, partial_batch=True)]
    assert sizes == [5] * 6 + [2]
    seen = torch.cat([x[:, 0, 0, 0] for x, _ in batches(data, 5, seed=1, partial_batch=True)])
    assert len(seen.unique()) == 32
    assert [len(x) for x, _ in batches(data, 40, seed=1, partial_batch=True)] == [32]


def test_a_last_batch_of_one_image_is_refused(data):
    with pytest.raises(ValueError, match="32 images in batches of 31 leave 1 for the last batch"):
        batches(data, 31, seed=1, partial_batch=True)


def test_a_last_batch_of_one_image_is_no_error_where_processes_will_fill_it_up(data):
    loader = batches(data, 31, seed=1, partial_batch=True, filled_up=True)
    assert [len(images) for images, _ in loader] == [31, 1]


@pytest.mark.parametrize(("tensor_parallel", "even", "filled"), [(1, True, True), (1, False, False), (2, True, False)])
def test_two_processes_fill_a_batch_up_unless_they_share_it(tensor_parallel, even, filled):
    config = SimpleNamespace(non_data_parallel_size=tensor_parallel)
    assert fills_up(SimpleNamespace(num_processes=2, even_batches=even, parallelism_config=config)) is filled


@pytest.mark.parametrize("schedule", ["constant", "multistep", "cosine"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_learns(convnet, data, accelerator, optimizer, schedule):
    rate = 0.05 if optimizer == "sgd" else 5e-3
    config = TrainingConfig(epochs=12, optimizer=optimizer, schedule=schedule, learning_rate=rate, batch_size=8)
    loss = train(convnet, data, config, accelerator=accelerator, seed=0)
    assert loss < 0.5
    assert evaluate(convnet, data, accelerator=accelerator) > 80


def perceptron_of_zeros() -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def test_the_loss_is_the_mean_over_the_steps_of_the_last_epoch(data, accelerator):
    still = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.0)
    model = perceptron_of_zeros()
    assert train(model, data, still, accelerator=accelerator, seed=0) == pytest.approx(math.log(4))
    assert math.isnan(train(model, data, TrainingConfig(epochs=0, batch_size=8), accelerator=accelerator, seed=0))


def test_the_same_noise_gives_the_same_network_and_another_another(make_convnet, data, accelerator):
    start, config = make_convnet(), TrainingConfig(epochs=2, batch_size=8)

    def trained(seed):
        model = copy.deepcopy(start)
        train(model, data, config, accelerator=accelerator, seed=seed)
        return model[0].weight

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


@pytest.mark.parametrize(("schedule", "ema_decay"), [("multistep", None), ("cosine", 0.9)])
def test_a_training_goes_on_from_after_any_step_to_the_same_network(
    make_convnet, data, accelerator, schedule, ema_decay
):
    """From after the last step of an epoch and of the training, too."""
    start, points = make_convnet(), []
    config = TrainingConfig(epochs=3, batch_size=8, schedule=schedule, ema_decay=ema_decay)

    def remember(training):
        points.append(copy.deepcopy((training.state_dict(), model.state_dict())))

    model = copy.deepcopy(start)
    loss = train(model, data, config, accelerator=accelerator, seed=0, on_step=remember)
    assert [state["epoch"] for state, _ in points] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    whole = model.state_dict()
    for state, weights in points:
        model = copy.deepcopy(start)
        model.load_state_dict(weights)
        assert train(model, data, config, accelerator=accelerator, seed=0, resume=copy.deepcopy(state)) == loss
        assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())


def test_a_training_with_ema_decay_ends_at_the_moving_average(make_convnet, data, accelerator):
    start, seen = make_convnet(), []

    def trained(**options):
        model = copy.deepcopy(start)
        train(model, data, TrainingConfig(epochs=2, batch_size=8, **options), accelerator=accelerator, seed=0, **watch)
        return dict(model.named_parameters())

    watch = {"on_step": lambda training: seen.append(copy.deepcopy(dict(training.network.named_parameters())))}
    last = trained()
    assert torch.equal(seen[-1]["0.weight"], last["0.weight"])
    watch = {}
    averaged = trained(ema_decay=0.75)
    expected = seen[0]
    for weights in seen[1:]:
        expected = {name: 0.75 * value + 0.25 * weights[name] for name, value in expected.items()}
    torch.testing.assert_close(averaged, expected)
    assert not torch.equal(averaged["0.weight"], last["0.weight"])
    assert torch.equal(trained(ema_decay=0.0)["0.weight"], last["0.weight"])


def test_a_search_with_ema_decay_keeps_what_is_pruned_at_0_and_psi_init_as_it_is(convnet, data, accelerator):
    pruner = AWSPruner(convnet, SignedMaskConfig(rounds=2))
    config = TrainingConfig(epochs=2, batch_size=8, schedule="constant", ema_decay=0.9)
    for stage in pruner.rounds():
        train(convnet, data, config, accelerator=accelerator, seed=stage.index)
        for name, mask in pruner.masks.items():
            weight = convnet.get_parameter(name)
            assert not weight[mask == 0].count_nonzero()
            assert weight[mask == 1].count_nonzero() == mask.sum()
    assert pruner.remaining == pytest.approx(0.64, abs=2e-3)
    state = pruner.state_dict()["interpolation"]
    assert state["1._aws_init_weight"].tolist() == [1.0] * 8
    assert pruner.signed_mask()["3.weight"].count_nonzero() == pruner.masks["3.weight"].sum()


@pytest.fixture
def accumulating():
    yield lambda steps: Accelerator(cpu=True, gradient_accumulation_steps=steps)
    Accelerator(cpu=True, gradient_accumulation_steps=1)  # accelerators share this


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 4), (3, 2)])
def test_steps_are_counted_as_they_are_made(convnet, data, accumulating, accumulation, steps):
    accelerator = accumulating(accumulation)
    made, ended, config = [], [], TrainingConfig(epochs=2, batch_size=8)
    train(convnet, data, config, accelerator=accelerator, seed=0, on_step=made.append, on_end=ended.append)
    assert len(made) == 2 * steps == 2 * steps_an_epoch(data, config, accelerator)
    (training,) = ended
    assert training.images == 2 * 32
    assert training.cost()["images_per_second"] == pytest.approx(64 / training.seconds, rel=0.01)


def test_accumulated_gradients_are_clipped_and_averaged_over_as_those_of_one_batch(data, accumulating):
    trained = []
    for batch_size, accumulation in ((32, 1), (8, 4)):
        model = perceptron_of_zeros()
        config = TrainingConfig(epochs=3, batch_size=batch_size, max_grad_norm=0.01, ema_decay=0.5)
        train(model, data, config, accelerator=accumulating(accumulation), seed=0)
        trained.append(dict(model.named_parameters()))
    torch.testing.assert_close(*trained)
    assert trained[0]["1.weight"].any()


def test_a_training_that_goes_on_counts_its_own_cost(convnet, data, accelerator):
    ended = []
    config = TrainingConfig(epochs=1, batch_size=8, ema_decay=0.5)
    train(convnet, data, config, accelerator=accelerator, seed=0, on_end=ended.append)
    state, going_on = ended[0].state_dict(), ended[0].state_to_go_on()
    assert (state["images"], state["seconds"] > 0, len(state["average"])) == (32, True, 9)
    assert (going_on["images"], going_on["seconds"], going_on["average"]) == (0, 0.0, None)
    assert (going_on["epoch"], going_on["loss"]) == (1, ended[0].loss)


@pytest.mark.parametrize(
    ("processes", "split", "partial", "steps"),
    [
        (1, False, False, 3),  # 9, 9, 9 of 32 images
        (1, False, True, 4),  # and 5
        (2, False, False, 1),  # a batch for each; the third has no other
        (2, False, True, 2),
        (2, True, False, 3),  # a part of each batch for each
        (2, True, True, 4),
    ],
)
def test_steps_of_an_epoch_are_those_that_all_processes_have_batches_for(data, processes, split, partial, steps):
    accelerator = SimpleNamespace(
        num_processes=processes, split_batches=split, parallelism_config=None, gradient_accumulation_steps=1
    )
    config = TrainingConfig(batch_size=9)
    assert steps_an_epoch(data, config, accelerator, partial_batches=partial) == steps
    assert steps_an_epoch(data, config, accelerator) == (steps if not partial else steps - 1)


def test_data_smaller_than_a_batch_make_one_step_where_partial_batches_count_and_an_error_else(data, accelerator):
    config = TrainingConfig(batch_size=40)
    assert steps_an_epoch(data, config, accelerator, partial_batches=True) == 1
    with pytest.raises(ValueError, match="batch_size=40 is more than there is, 32 images"):
        steps_an_epoch(data, config, accelerator)


def test_each_epoch_has_a_seed_of_its_own_that_stays_the_same_in_all_versions():
    assert epoch_seed(0, 0) == 41_432_922_330_742_005  # of sha256(b"0 0"), the first 7 bytes
    assert len({epoch_seed(seed, epoch) for seed in range(12) for epoch in range(12)}) == 144


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 4), (3, 2)])
def test_a_partial_batch_makes_its_own_step(convnet, data, accumulating, accumulation, steps):
    accelerator = accumulating(accumulation)
    made, ended, config = [], [], TrainingConfig(epochs=2, batch_size=9)  # 9, 9, 9, 5
    options = {"on_step": made.append, "on_end": ended.append, "partial_batches": True}
    train(convnet, data, config, accelerator=accelerator, seed=0, **options)
    assert len(made) == 2 * steps == 2 * steps_an_epoch(data, config, accelerator, partial_batches=True)
    assert ended[0].images == 2 * 32


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_training_cut_anywhere_goes_on_to_the_same_weights_with_partial_batches(
    convnet, data, accumulating, accumulation
):
    accelerator, config, states = accumulating(accumulation), TrainingConfig(epochs=2, batch_size=9), []

    def keep(training):
        states.append(copy.deepcopy((convnet.state_dict(), training.state_dict())))

    options = {"accelerator": accelerator, "seed": 0, "partial_batches": True}
    loss = train(convnet, data, config, on_step=keep, **options)
    expected = copy.deepcopy(convnet.state_dict())
    for weights, training in states:
        convnet.load_state_dict(weights)
        assert train(convnet, data, config, resume=training, **options) == loss
        assert all(torch.equal(value, expected[name]) for name, value in convnet.state_dict().items())


def test_training_leaves_an_unwrapped_model_that_can_train_again(convnet, data, accelerator):
    for seed in (1, 2):
        train(convnet, data, TrainingConfig(epochs=1, batch_size=8), accelerator=accelerator, seed=seed)
        assert "forward" not in vars(convnet)


def test_gradients_are_clipped(convnet, data, accelerator):
    before = copy.deepcopy(convnet)
    config = TrainingConfig(
        epochs=1, batch_size=32, learning_rate=1.0, momentum=0.0, weight_decay=0.0, max_grad_norm=1e-3
    )
    train(convnet, data, config, accelerator=accelerator, seed=0)
    moved = [a - b for a, b in zip(convnet.parameters(), before.parameters(), strict=True)]
    assert nn.utils.get_total_norm(moved).item() == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_diverges_stops_the_training(convnet, data, accelerator):
    config = TrainingConfig(epochs=3, batch_size=8, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train(convnet, data, config, accelerator=accelerator, seed=0)


def test_milestones_are_shares_of_the_epochs_as_they_are_written():
    """0.55 * 100 is more than 55 in floating point."""
    config = TrainingConfig(epochs=100, milestones=(0.55, 0.29), learning_rate=1.0)
    schedule = SCHEDULES["multistep"](SGD([torch.zeros(1)], 1.0), config)
    assert sorted(schedule.milestones) == [29, 55]


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"schedule": "constant"}, [0.1, 0.1, 0.1, 0.1]),
        ({"schedule": "multistep", "milestones": (0.5, 0.75)}, [0.1, 0.1, 0.01, 0.001]),
        ({"schedule": "cosine", "epochs": 2}, [0.1, 0.05]),
        ({"schedule": "cosine", "epochs": 2, "min_learning_rate": 0.2}, [0.1, 0.06]),  # from 0.1 to 0.02
    ],
)
def test_each_epoch_has_the_learning_rate_of_the_schedule(data, accelerator, options, rates):
    seen = []

    def look(training):
        if training.step == 1:  # of two
            seen.append(training.optimizer.param_groups[0]["lr"])

    config = TrainingConfig(**{"epochs": 4, "batch_size": 16, "learning_rate": 0.1, **options})
    train(perceptron_of_zeros(), data, config, accelerator=accelerator, seed=0, on_step=look)
    assert seen == pytest.approx(rates)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_have_the_hyper_parameters_of_the_configuration(name):
    config = TrainingConfig(learning_rate=0.3, momentum=0.7, weight_decay=0.01)
    (group,) = OPTIMIZERS[name]([torch.zeros(1)], config).param_groups
    assert (group["lr"], group["weight_decay"], group.get("momentum", 0.7)) == (0.3, 0.01, 0.7)


def test_unknown_optimizers_and_schedules_are_refused():
    with pytest.raises(ValueError, match="optimizer must be one of sgd, adam, adamw, got 'lion'"):
        TrainingConfig(optimizer="lion")
    with pytest.raises(ValueError, match="schedule must be one of constant, multistep, cosine"):
        TrainingConfig(schedule="linear")


@pytest.mark.parametrize(
    ("field", "value", "least"), [("batch_size", 0, 1), ("batch_size", 2.5, 1), ("epochs", -1, 0), ("epochs", "3", 0)]
)
def test_epochs_and_batch_sizes_out_of_range_are_refused(field, value, least):
    with pytest.raises(ValueError, match=f"{field} must be a whole number, {least} or more, got {value!r}"):
        TrainingConfig(**{field: value})


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_an_ema_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"ema_decay must be in \[0, 1\) or None, got"):
        TrainingConfig(ema_decay=decay)


def test_accuracy_is_a_percentage():
    assert Accuracy().compute(predictions=[1, 2, 3, 4], references=[1, 2, 0, 0]) == {"accuracy": 50.0}


def test_recalibration_is_the_plain_mean_over_batches(convnet, data):
    loader = batches(data, 8)
    activations = torch.stack([convnet[0](x) for x, _ in loader])
    recalibrate(convnet, loader)
    expected = activations.mean(dim=(0, 1, 3, 4))
    torch.testing.assert_close(convnet[1].running_mean, expected)
    torch.testing.assert_close(convnet[1].running_var, torch.stack([a.var(dim=(0, 2, 3)) for a in activations]).mean(0))
    assert convnet.training
    assert convnet[1].momentum == 0.1


def test_statistics_are_as_they_were_if_a_batch_can_not_be_taken(convnet):
    before = {name: buffer.clone() for name, buffer in convnet.named_buffers()}
    with pytest.raises(RuntimeError, match="expected input"):
        recalibrate(convnet, [torch.randn(4, 3, 6, 6), torch.randn(4, 2, 6, 6)])
    assert all(torch.equal(buffer, before[name]) for name, buffer in convnet.named_buffers())
    assert convnet[1].momentum == 0.1


def test_recalibration_does_not_interpolate(convnet, data):
    convnet[4] = nn.BatchNorm2d(8)  # its statistics depend on psi of the first
    pruner = AWSPruner(convnet, SignedMaskConfig(rounds=1))
    stages = pruner.rounds()
    next(stages), next(stages)
    with torch.no_grad():
        convnet[1].weight.fill_(3.0)
    convnet(data.tensors[0])
    state, plain = copy.deepcopy(convnet.state_dict()), pruner.sparse_copy()
    alpha = norm_interpolation.state(convnet)["_aws_alpha_state"].clone()
    for model in (convnet, plain):
        recalibrate(model, batches(data, 8))
    assert torch.equal(alpha, norm_interpolation.state(convnet)["_aws_alpha_state"])
    assert torch.equal(convnet[1].weight, state["1.weight"])
    assert torch.equal(convnet[4].running_mean, plain[4].running_mean)


@pytest.mark.parametrize(
    "form",
    [lambda x: x, lambda x: (x, None), lambda x: {"input": x, "unused": None}],
    ids=["tensor", "pair", "mapping"],
)
def test_recalibration_takes_batches_of_any_form(form):
    class Model(nn.BatchNorm1d):
        def forward(self, input, unused=None):
            assert unused is None
            return super().forward(input)

    model = Model(2)
    recalibrate(model, [form(torch.tensor([[0.0, 4.0], [2.0, 8.0]])), form(torch.tensor([[3.0, 6.0], [3.0, 6.0]]))])
    assert model.running_mean.tolist() == [2.0, 6.0]


def test_recalibration_on_images_is_that_of_their_first_batches_in_the_order_of_seed_0(convnet, data):
    twin = copy.deepcopy(convnet)
    recalibrate_on_images(convnet, data, 8, max_batches=2)
    recalibrate(twin, [x for x, _ in batches(data, 8, seed=0)][:2])
    assert torch.equal(convnet[1].running_mean, twin[1].running_mean)


def test_an_accuracy_is_taken_after_recalibration_unless_that_is_left_out(convnet, data, accelerator):
    convnet[1].running_mean.fill_(100.0)
    means = []
    for options in ({"recalibrated": False}, {}):
        accuracy = accuracy_of(convnet, data, train_data=data, batch_size=8, accelerator=accelerator, **options)
        assert accuracy == evaluate(convnet, data, accelerator=accelerator)
        means.append(convnet[1].running_mean.max() < 10)
    assert means == [False, True]


def test_a_measured_network_has_each_layer_in_its_own_mode_again(convnet, data, accelerator):
    modes = []

    class Watched(nn.ReLU):
        def train(self, mode=True):
            modes.append(mode)
            return super().train(mode)

    convnet[2] = Watched()
    convnet[1].eval()
    evaluate(convnet, data, accelerator=accelerator)
    assert modes == [False, True]
    assert [module.training for module in convnet] == [True, False, True, True, True, True, True, True]
    assert convnet.training


def test_recalibration_leaves_a_network_without_batch_norm_alone(data):
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(108), nn.Linear(108, 4))
    recalibrate(model, batches(data, 8))


def deep_perceptron():
    layers = [nn.Flatten()]
    for fan_in in (64, 32, 32, 32, 32):
        layers += [nn.Linear(fan_in, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 10))


def test_an_aws_network_is_only_measured_right_after_recalibration(accelerator):
    """Statistics gathered under random alpha belong to no network once gamma is far from 1."""
    train_data, test_data = digit_images("train"), digit_images("test")
    model = deep_perceptron()
    pruner = AWSPruner(model, SignedMaskConfig(rounds=2, protocol="released-code"))
    config = TrainingConfig(epochs=6, batch_size=64, learning_rate=0.1, weight_decay=2e-2, schedule="constant")
    for stage in pruner.rounds():
        train(model, train_data, config, accelerator=accelerator, seed=stage.index)
    as_it_stands = evaluate(model, test_data, accelerator=accelerator)
    recalibrate(model, batches(train_data, 64, seed=0))
    recalibrated = evaluate(model, test_data, accelerator=accelerator)
    print(as_it_stands, recalibrated)
    assert recalibrated > 80
    assert recalibrated > as_it_stands + 20


def test_an_accelerator_that_shards_parameters_is_refused(convnet, data):
    class Sharding:
        distributed_type = "FSDP"

    with pytest.raises(
        ValueError, match="training by FSDP keeps parameters where masks can't follow; use DistributedDataParallel"
    ):
        train(convnet, data, TrainingConfig(epochs=1), accelerator=Sharding(), seed=0)
