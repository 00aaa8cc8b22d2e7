"""A search and a final training by transformers.Trainer: what they compute, resume, push and refuse."""

import copy
import logging
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from hub_fixtures import LFS_UPLOAD_WARNING, use_hub
from loopback_hub import LoopbackHub
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from aws_lottery import AWSPruner, HeldMask, SignedMask, SignedMaskConfig, WinningSignCallback, recalibrate
from aws_lottery.integrations.checkpoints import STATE_FILE, last_checkpoint
from aws_lottery.mask_file.sparse_weights import load_weights
from aws_lottery.parameters import norm_interpolation

CONFIG = SignedMaskConfig(rounds=2, prune_rate=0.5, warmup_epochs=1, epochs_per_round=2)  # 5 epochs


class Vectors(torch.utils.data.Dataset):
    """16 rows whose label is their largest entry."""

    def __init__(self, n=16):
        self.x = torch.randn(n, 6, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "labels": self.x[i, :3].argmax()}


class Net(nn.Module):
    """A plain module, whose forward gives the loss first, as the Trainer takes it."""

    def __init__(self, norm=nn.LayerNorm, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), norm(16), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(16, 3)

    def forward(self, x, labels=None):
        logits = self.head(self.body(x))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def net(seed=0, **options):
    torch.manual_seed(seed)
    return Net(**options)


def trainer(model, folder, *callbacks, data=None, optimizer=None, **arguments):
    """4 steps an epoch, unless told otherwise; quiet, on a CPU."""
    defaults = {
        "num_train_epochs": CONFIG.epochs,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
    }
    args = TrainingArguments(str(folder), **{**defaults, **arguments})
    data = data or Vectors()
    return Trainer(
        model,
        args,
        train_dataset=data,
        eval_dataset=data,
        callbacks=list(callbacks),
        optimizers=(optimizer, None),
    )


def search(model, folder, *callbacks, config=CONFIG, resume=None, **arguments):
    callback = WinningSignCallback(config)
    trainer(model, folder, callback, *callbacks, **arguments).train(resume_from_checkpoint=resume)
    return callback.mask


def stream_of_alpha(model):
    """Where it is, or None without one."""
    values = [int(v) for name, v in norm_interpolation.state(model).items() if name == "_aws_alpha_state"]
    return next(iter(values), None)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# what a search computes


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


@pytest.mark.parametrize("method", ["aws", "lrr", "wr", "imp"])
def test_a_search_by_the_trainer_is_algorithm_1_in_a_loop_of_ones_own_bit_for_bit(tmp_path, method):
    config = SignedMaskConfig(method=method, rounds=2, prune_rate=0.5, warmup_epochs=1, epochs_per_round=2)
    model, batches = net(), []
    hook = model.register_forward_pre_hook(lambda m, args, kwargs: batches.append(kwargs), with_kwargs=True)
    mask = search(model, tmp_path, config=config, optimizer=sgd(model))
    hook.remove()

    own, batch = net(), iter(batches)
    pruner = AWSPruner(own, config)
    for stage in pruner.rounds():
        optimizer = sgd(own)  # a new one each round
        for _ in range(stage.epochs * 4):
            own(**next(batch))["loss"].backward()
            nn.utils.clip_grad_norm_(own.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert len(batches) == 5 * 4
    assert mask == pruner.signed_mask()
    assert mask.remaining == pytest.approx(0.25, abs=0.01)
    assert same(weights(model), weights(pruner.sparse_copy()))


@pytest.mark.parametrize("method", ["aws", "wr"])
def test_the_solution_is_trained_in_the_same_run_from_where_the_method_starts_it(tmp_path, method):
    """... under the last mask, with psi as it is; and it resumes."""
    config = SignedMaskConfig(method=method, rounds=2, prune_rate=0.5, warmup_epochs=1, epochs_per_round=1)
    solution, starts, alphas = WinningSignCallback(config, solution_epochs=2), {}, []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, *, model, **of_trainer):
            starts[state.global_step] = weights(model)
            alphas.append(stream_of_alpha(model))

    model, options = net(), {"num_train_epochs": 5, "save_strategy": "steps", "save_steps": 14}
    assert solution.epochs == 5
    trainer(model, tmp_path, solution, Watch(), **options).train()
    mask = SignedMask.from_pretrained(tmp_path / "round-02")
    assert solution.mask == mask
    if method == "wr":  # 4 steps of warm-up
        expected = {
            name: value * (mask[name] != 0 if name in mask.prunable else 1) for name, value in starts[4].items()
        }
    else:
        expected = load_weights(tmp_path / "round-02", mask)
    assert same(starts[12], expected)
    assert same(load_weights(tmp_path / "solution", mask), weights(model))
    assert torch.equal(model.body[0].weight == 0, mask["body.0.weight"] == 0)
    assert len(set(alphas[12:])) == 1  # nothing is interpolated
    assert len(set(alphas[4:12])) == (8 if method == "aws" else 1)

    resumed, again = net(seed=7), WinningSignCallback(config, solution_epochs=2)
    run = trainer(resumed, tmp_path, again, **options)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-14"))
    assert again.mask == mask
    assert same(weights(resumed), weights(model))


@pytest.mark.parametrize("protocol", ["paper", "released-code"])
def test_each_round_leaves_its_mask_and_its_weights_in_the_output_folder(tmp_path, protocol):
    config = SignedMaskConfig(rounds=2, prune_rate=0.5, warmup_epochs=0, epochs_per_round=1, protocol=protocol)
    mask = search(net(), tmp_path, config=config, num_train_epochs=2)
    assert sorted(path.name for path in tmp_path.glob("round-*/*")) == sorted(
        2 * ["README.md", "config.json", "signed_mask.safetensors", "weights.safetensors"]
    )
    assert SignedMask.from_pretrained(tmp_path / "round-01").remaining == pytest.approx(0.5, abs=0.01)
    assert SignedMask.from_pretrained(tmp_path / "round-02") == mask
    card = (tmp_path / "round-02" / "README.md").read_text()
    assert "constant, anew in each stage" in card


def test_the_schedule_starts_anew_in_every_stage(tmp_path):
    model = net()
    run = trainer(
        model,
        tmp_path,
        WinningSignCallback(CONFIG),
        lr_scheduler_type="linear",
        learning_rate=0.8,
        logging_strategy="steps",
        logging_steps=1,
    )
    rates = []

    class Rates(TrainerCallback):
        def on_step_begin(self, args, state, control, *, optimizer, **of_trainer):
            rates.append(round(optimizer.param_groups[0]["lr"], 3))

    run.add_callback(Rates())
    run.train()
    stage = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert rates == [0.8, 0.6, 0.4, 0.2, *stage, *stage]


def test_an_evaluation_changes_nothing_and_sees_batchnorm_re_estimated(tmp_path):
    seen = []

    class Seen(TrainerCallback):
        def on_evaluate(self, args, state, control, *, model, **of_trainer):
            copied = copy.deepcopy(model)
            recalibrate(copied, [{"x": Vectors().x, "labels": torch.zeros(16, dtype=torch.long)}])
            norms = [m.body[1].running_mean for m in (model, copied)]
            seen.append(torch.allclose(norms[0], norms[1], atol=1e-6))

    found, measured = net(norm=nn.BatchNorm1d), net(norm=nn.BatchNorm1d)
    options = {"per_device_train_batch_size": 16, "learning_rate": 0.01}
    mask = search(found, tmp_path / "a", **options)
    assert mask == search(measured, tmp_path / "b", Seen(), eval_strategy="epoch", **options)
    assert seen == [True] * 5
    assert same(weights(found), weights(measured))  # the statistics at the end, too


def test_logs_say_how_much_remains(tmp_path):
    run = trainer(net(), tmp_path, WinningSignCallback(CONFIG), eval_strategy="epoch", logging_strategy="epoch")
    run.train()
    logs = run.state.log_history
    assert [round(log["eval_remaining"], 1) for log in logs if "eval_loss" in log] == [1, 1, 1, 0.5, 0.5]
    assert [round(log["remaining"], 1) for log in logs if "loss" in log] == [1, 1, 1, 0.5, 0.5]


@pytest.mark.parametrize("options", [{"bf16": True}, {"gradient_accumulation_steps": 2}, {}])
def test_every_step_trains_under_the_mask(tmp_path, options):
    alive, alphas = [], []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, *, model, **of_trainer):
            weight = model.body[0].weight
            alive.append((int(weight.count_nonzero()), int(weight.grad.count_nonzero())))

        def on_substep_end(self, args, state, control, *, model, **of_trainer):
            alphas.append(stream_of_alpha(model))

    mask = search(net(), tmp_path, Watch(), **options)
    steps = CONFIG.epochs * 4 // options.get("gradient_accumulation_steps", 1)
    assert len(alive) == steps
    assert all(weights == 48 and gradients <= 48 for weights, gradients in alive[-2 * steps // 5 :])  # round 2, of 96
    assert int(mask["body.0.weight"].count_nonzero()) == 24
    assert len(set(alphas[2:])) == len(alphas[2:])  # a draw for each part of a step


class Pictures(torch.utils.data.Dataset):
    def __init__(self, channels=3, size=8):
        self.images = torch.randn(16, channels, size, size, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return 16

    def __getitem__(self, i):
        return {"pixel_values": self.images[i], "labels": self.images[i].mean(dim=(1, 2)).argmax()}


def tiny_convnext():
    return transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(hidden_sizes=[4, 8, 8, 8], depths=[1, 1, 1, 1], image_size=32, num_labels=3)
    )


def tiny_resnet():
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=4, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3)
    )


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}


def tiny_bert():
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, num_labels=3))


def tiny_gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, bos_token_id=0, eos_token_id=0)
    )


def tiny_llama(tied):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, tie_word_embeddings=tied))


class Tokens(torch.utils.data.Dataset):
    """16 rows of 8 tokens; their labels are the tokens, or the first one for a classifier."""

    def __init__(self, classes=None):
        self.ids, self.classes = torch.randint(20, (16, 8), generator=torch.Generator().manual_seed(1)), classes

    def __len__(self):
        return 16

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "labels": self.ids[i, 0] % self.classes if self.classes else self.ids[i]}


@pytest.mark.parametrize(
    ("make", "data", "classifier"),
    [
        (tiny_convnext, partial(Pictures, size=32), "classifier"),
        (tiny_resnet, Pictures, "classifier.1"),
        (tiny_bert, partial(Tokens, classes=3), "classifier"),
        (tiny_gpt2, Tokens, "lm_head"),
        (partial(tiny_llama, tied=True), Tokens, "lm_head"),
        (partial(tiny_llama, tied=False), Tokens, "lm_head"),
    ],
)
def test_networks_of_transformers_are_searched_and_held(tmp_path, make, data, classifier):
    """... their heads and embeddings whole, and the mask fits a fresh one, which learns under it."""
    model, fresh = make(), make()
    config = SignedMaskConfig(rounds=1, prune_rate=0.5, warmup_epochs=1, epochs_per_round=1)
    options = {"data": data(), "learning_rate": 1e-3, "num_train_epochs": 2}
    mask = search(model, tmp_path, config=config, **options)
    assert AWSPruner(model, config).partition.classifier == classifier
    assert mask.remaining == pytest.approx(0.5, abs=0.001)
    whole = (classifier, "embed_tokens", "word_embeddings", "position_embeddings", "wte", "wpe")
    assert not any(part in name for part in whole for name in zeros(mask))
    trainer(fresh, tmp_path, HeldMask(mask), **options).train()
    assert zeros(SignedMask.from_model(fresh)) == zeros(mask)


def zeros(mask):
    counts = {name: int((mask[name] == 0).sum()) for name in mask.prunable}
    return {name: count for name, count in counts.items() if count}


# resuming


def stopped(model, folder, step, **options):
    """A search that is lost right after its checkpoint at `step`."""

    class Lost(TrainerCallback):
        def on_save(self, args, state, control, **of_trainer):
            if state.global_step == step:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(model, folder, Lost(), **options)


@pytest.mark.parametrize(
    ("method", "step"),  # in the warm-up, at its end, in a round, between two, at the end
    [("aws", 2), ("aws", 4), ("wr", 6), ("aws", 12), ("wr", 12), ("aws", 20)],
)
def test_a_search_resumes_from_the_trainers_checkpoints_bit_for_bit(tmp_path, method, step):
    config = SignedMaskConfig(method=method, rounds=2, prune_rate=0.5, warmup_epochs=1, epochs_per_round=2)
    options = {"config": config, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    kinds = {"norm": nn.BatchNorm1d, "dropout": 0.2}
    whole, resumed = net(**kinds), net(seed=7, **kinds)
    expected = search(whole, tmp_path / "whole", **options)
    stopped(net(**kinds), tmp_path / "cut", step, **options)
    assert search(resumed, tmp_path / "cut", resume=True, **options) == expected
    assert same(weights(resumed), weights(whole))
    for name in ("round-01", "round-02"):
        one, other = (SignedMask.from_pretrained(tmp_path / run / name) for run in ("whole", "cut"))
        assert one == other


def test_the_same_trainer_goes_on_after_an_interruption(tmp_path):
    class Stop(TrainerCallback):
        armed = True

        def on_step_begin(self, args, state, control, **of_trainer):
            if self.armed and state.global_step == 9:
                self.armed = False
                raise KeyboardInterrupt

    options = {"save_strategy": "steps", "save_steps": 3}
    expected = search(net(), tmp_path / "whole", **options)
    callback = WinningSignCallback(CONFIG)
    run = trainer(net(), tmp_path / "cut", callback, Stop(), **options)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.train(resume_from_checkpoint=True)
    assert callback.mask == expected


def tiny_vit(seed=0):
    torch.manual_seed(seed)
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
            num_labels=3,
        )
    )


def test_weights_that_checkpoints_have_under_other_names_are_resumed_too(tmp_path):
    """ViT's: `vit.layers` in memory, `vit.encoder.layer` on disk; the Trainer alone leaves them out."""
    options = {"data": Pictures(), "save_strategy": "steps", "save_steps": 6, "learning_rate": 1e-3}
    whole, resumed = tiny_vit(), tiny_vit(seed=7)
    expected = search(whole, tmp_path / "whole", **options)
    stopped(tiny_vit(), tmp_path / "cut", 6, **options)
    assert search(resumed, tmp_path / "cut", resume=True, **options) == expected
    assert same(weights(resumed), weights(whole))


def test_a_checkpoint_that_was_moved_is_found_where_the_arguments_say(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 6}
    expected = search(net(), tmp_path / "whole", **options)
    moved = (tmp_path / "whole" / "checkpoint-6").rename(tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError, match=r"checkpoint-6, or those there are of another search.*tell the callback"
    ):
        search(net(), tmp_path / "new", resume=str(moved), **options)
    told = {"resume_from_checkpoint": str(moved), **options}
    assert search(net(seed=7), tmp_path / "new", resume=str(moved), **told) == expected


def test_a_checkpoint_that_was_being_written_is_not_the_last_one(tmp_path):
    assert last_checkpoint(tmp_path / "missing") is None
    whole = ["trainer_state.json", STATE_FILE]
    for step, files in {9: whole, 10: whole, 11: [STATE_FILE], 12: ["trainer_state.json"], 13: []}.items():
        (folder := tmp_path / f"checkpoint-{step}").mkdir()
        for file in files:
            (folder / file).touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_the_masks_of_another_search_are_not_taken_for_this_ones(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 6}
    for name in ("one", "two"):
        search(net(), tmp_path / name, **options)
    (tmp_path / "two" / "checkpoint-6" / STATE_FILE).replace(tmp_path / "one" / "checkpoint-6" / STATE_FILE)
    with pytest.raises(FileNotFoundError, match="of another search"):
        search(net(), tmp_path / "one", resume=str(tmp_path / "one" / "checkpoint-6"), **options)


def test_a_search_refuses_a_checkpoint_of_another_configuration_or_of_none(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 6}
    search(net(), tmp_path / "search", **options)
    other = SignedMaskConfig(rounds=2, prune_rate=0.2, warmup_epochs=1, epochs_per_round=2)
    with pytest.raises(ValueError, match="of another search"):
        search(net(), tmp_path / "search", config=other, resume=str(tmp_path / "search" / "checkpoint-6"), **options)
    trainer(net(), tmp_path / "plain", **options).train()
    with pytest.raises(ValueError, match="step 6 was not written by a search"):
        search(net(), tmp_path / "plain", resume=str(tmp_path / "plain" / "checkpoint-6"), **options)


def test_a_search_refuses_a_checkpoint_of_other_steps(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 6}
    search(net(), tmp_path, **options)  # 4 rows in a step
    match = "step 6 is of a search of 20 optimizer steps, this one has 40.*per_device_train_batch_size=2 x 1 processes"
    with pytest.raises(ValueError, match=match):
        search(net(), tmp_path, resume=str(tmp_path / "checkpoint-6"), per_device_train_batch_size=2, **options)


def test_a_search_that_is_stopped_early_says_so_and_claims_no_more_rounds(tmp_path, caplog):
    class Stop(TrainerCallback):
        def on_epoch_end(self, args, state, control, **of_trainer):
            control.should_training_stop = state.epoch == 4

    model = net()
    with caplog.at_level(logging.WARNING):
        mask = search(model, tmp_path, Stop())
    assert "ended after 4 of 5 epochs, so the search is not done" in caplog.text
    assert mask == SignedMask.from_pretrained(tmp_path / "round-01")
    assert not (tmp_path / "round-02").exists()


# two processes


def _search_on_each_rank(folder, lost_at, resume):
    """Both ranks see pruned gradients as 0 before the step, and end with one mask."""

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, *, model, **of_trainer):
            weight = model.body[0].weight
            assert not weight.grad[weight == 0].any()

        def on_save(self, args, state, control, **of_trainer):
            if state.global_step == lost_at:
                raise KeyboardInterrupt

    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    options = {"per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 6, "eval_strategy": "epoch"}
    with suppress(KeyboardInterrupt):
        model = net(norm=nn.BatchNorm1d)
        mask = search(model, folder, Watch(), resume=resume, **options)
        assert PartialState().num_processes == 2
        ranks = gather_object(
            [({n: mask[n].tolist() for n in mask}, {n: v.tolist() for n, v in weights(model).items()})]
        )
        assert ranks[0] == ranks[1]
    PartialState().destroy_process_group()


@pytest.mark.multiprocess
@pytest.mark.filterwarnings("ignore")  # torch.distributed's own
def test_two_ranks_search_as_one_and_resume_bit_for_bit(tmp_path):
    for folder, lost_at, resume in (("whole", None, None), ("cut", 12, None), ("cut", None, True)):
        debug_launcher(_search_on_each_rank, args=(str(tmp_path / folder), lost_at, resume), num_processes=2)
    masks = [SignedMask.from_pretrained(tmp_path / folder / "round-02") for folder in ("whole", "cut")]
    assert masks[0] == masks[1]
    assert masks[0].remaining == pytest.approx(0.25, abs=0.01)


# what can't be


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train_epochs": 3}, r"takes 5 epochs \(warm-up 1, then 2 rounds of 2\).*num_train_epochs=3: give"),
        ({"max_steps": 20}, "have max_steps=20: give num_train_epochs=5, which is the callback's `epochs`"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"},
            "may lie before a prune.*Set it to False",
        ),
        ({"auto_find_batch_size": True}, "start from weights that are trained already"),
    ],
)
def test_arguments_that_a_search_can_not_run_under_are_refused_at_once(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer(net(), tmp_path, WinningSignCallback(CONFIG), **arguments)


def test_a_schedule_that_can_not_start_anew_is_refused(tmp_path):
    plateau = {"eval_strategy": "epoch", "metric_for_best_model": "loss"}
    run = trainer(net(), tmp_path, WinningSignCallback(CONFIG), lr_scheduler_type="reduce_lr_on_plateau", **plateau)
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau.*lr_scheduler_type='constant'"):
        run.train()
    run = trainer(net(), tmp_path, WinningSignCallback(CONFIG), optimizer=sgd(net()))
    run.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 0.5**step)
    with pytest.raises(ValueError, match="not the one that the TrainingArguments describe"):
        run.train()


def test_gem_miner_is_referred_to_find_signed_mask():
    with pytest.raises(ValueError, match="'gm' trains scores and not weights: use find_signed_mask"):
        WinningSignCallback(SignedMaskConfig(method="gm"))


# the Hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        use_hub(hub, monkeypatch, tmp_path / "home")
        yield hub


@pytest.mark.filterwarnings(LFS_UPLOAD_WARNING)
def test_the_last_mask_is_pushed_beside_the_model(tmp_path, hub):
    callback = WinningSignCallback(CONFIG)
    run = trainer(
        tiny_vit(),
        tmp_path / "out",
        callback,
        data=Pictures(),
        push_to_hub=True,
        hub_model_id="owner/vit",
        save_strategy="epoch",
        eval_strategy="epoch",
    )
    run.train()
    run.push_to_hub()
    assert SignedMask.from_pretrained("owner/vit-signed-mask") == callback.mask
    files = hub.repos["owner/vit"].at("main").files
    assert {"model.safetensors", "round-02/signed_mask.safetensors"} <= files.keys()
    assert b"Training results" in files["README.md"].data


# final training


@pytest.fixture
def mask():
    torch.manual_seed(3)
    model = Net()
    with torch.no_grad():
        model.body[0].weight.mul_(model.body[0].weight.abs() > 0.2)
    return SignedMask.from_model(model)


def test_held_mask_takes_the_folder_of_a_mask_and_refuses_what_is_none(tmp_path, mask):
    mask.save_pretrained(tmp_path)
    assert HeldMask(tmp_path).mask == mask
    with pytest.raises(TypeError, match="expected a SignedMask, its folder or its id on the Hub, got dict"):
        HeldMask(dict(mask))


def test_held_mask_starts_from_the_signs_and_keeps_the_zeros(tmp_path, mask):
    init, model = net(), net()
    trainer(model, tmp_path, HeldMask(mask), learning_rate=0.0).train()
    assert torch.equal(model.body[0].weight, init.body[0].weight.abs() * mask["body.0.weight"])
    assert torch.equal(model.body[1].weight, init.body[1].weight)
    trained = net()
    trainer(trained, tmp_path, HeldMask(mask)).train()
    assert torch.equal(trained.body[0].weight == 0, mask["body.0.weight"] == 0)
    assert not torch.equal(trained.body[1].weight, init.body[1].weight)


def test_held_mask_can_start_from_the_weights_as_they_are(tmp_path, mask):
    init, model = net(), net()
    trainer(model, tmp_path, HeldMask(mask, apply=False), learning_rate=0.0).train()
    assert torch.equal(model.body[0].weight, init.body[0].weight * (mask["body.0.weight"] != 0))


def test_a_final_training_resumes_without_taking_the_signs_again(tmp_path, mask):
    options = {"save_strategy": "steps", "save_steps": 6, "data": Pictures(), "learning_rate": 1e-3}
    found = search(tiny_vit(), tmp_path / "search", data=Pictures())
    whole, resumed = tiny_vit(1), tiny_vit(7)
    trainer(whole, tmp_path / "final", HeldMask(found), **options).train()
    run = trainer(resumed, tmp_path / "final", HeldMask(found), **options)
    run.train(resume_from_checkpoint=str(tmp_path / "final" / "checkpoint-6"))
    assert same(weights(resumed), weights(whole))


def test_a_final_training_does_not_resume_under_another_mask(tmp_path, mask):
    options = {"save_strategy": "steps", "save_steps": 6}
    trainer(net(), tmp_path, HeldMask(mask), **options).train()
    other = SignedMask({name: value.flip(0) for name, value in mask.items()}, prunable=mask.prunable)
    run = trainer(net(), tmp_path, HeldMask(other), **options)
    with pytest.raises(ValueError, match=r"step 6 is not of this mask: \d+ weights .* in 'body.0.weight' first"):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_the_best_checkpoint_of_a_final_training_is_loaded_whole(tmp_path):
    """With a ViT, whose names on disk are others, and the best weights those of the first epoch."""
    found, model, firsts = search(tiny_vit(), tmp_path / "search", data=Pictures()), tiny_vit(), []

    class First(TrainerCallback):
        def on_epoch_end(self, args, state, control, *, model, **of_trainer):
            firsts.append(weights(model))

        def on_evaluate(self, args, state, control, *, metrics, **of_trainer):
            metrics["eval_first"] = -state.epoch

    run = trainer(
        model,
        tmp_path / "final",
        HeldMask(found),
        First(),
        data=Pictures(),
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="first",
        greater_is_better=True,
        save_total_limit=2,
    )
    run.train()
    assert Path(run.state.best_model_checkpoint).name == "checkpoint-4"
    assert same(weights(model), firsts[0])
    assert not same(weights(model), firsts[-1])


def test_the_signs_are_measured_before_training_with_batchnorm_of_their_own(tmp_path):
    model = net(norm=nn.BatchNorm1d)
    found = SignedMask.from_model(model)
    run = trainer(
        model,
        tmp_path,
        HeldMask(found),
        learning_rate=0.0,
        eval_on_start=True,
        per_device_train_batch_size=16,
        num_train_epochs=1,
    )
    means = []
    model.register_forward_pre_hook(lambda *_: means.append((model.training, model.body[1].running_mean.clone())))
    run.train()
    with torch.no_grad():
        expected = model.body[0](Vectors().x).mean(0)
    measured = [mean for training, mean in means if not training]
    torch.testing.assert_close(measured[-1], expected)
