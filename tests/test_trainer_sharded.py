"""The Trainer's callbacks on a model that FSDP2 shards over gloo processes, against the Trainer on one process."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from sharding_on_cpus import ShardingTrainer
from test_trainer_callback import CONFIG, Net, Vectors, net
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from aws_lottery import HeldMask, SignedMask, SignedMaskConfig, WinningSignCallback
from aws_lottery.integrations.checkpoints import STATE_FILE, load_search, save_search
from aws_lottery.mask_file.sparse_weights import load_weights
from aws_lottery.sharding import is_sharded, whole

pytestmark = [pytest.mark.multiprocess, pytest.mark.filterwarnings("ignore")]  # torch.distributed's own warnings


class Watch(TrainerCallback):
    """Before each step, each process finds its part of what is pruned without gradients; one step loses the process."""

    def __init__(self, lost_at=None):
        self.lost_at, self.pruned = lost_at, 0

    def on_pre_optimizer_step(self, args, state, control, *, model, **of_trainer):
        for layer in (model.body[0], model.body[3]):
            assert is_sharded(layer.weight)
            pruned = layer.weight.to_local() == 0
            assert not layer.weight.grad.to_local()[pruned].any()
            self.pruned += int(pruned.sum())

    def on_save(self, args, state, control, **of_trainer):
        if state.global_step == self.lost_at:
            raise KeyboardInterrupt


def gathered(state):
    """With all sharded tensors whole."""
    if isinstance(state, Mapping):
        return {name: gathered(value) for name, value in state.items()}
    return whole(state.detach()).clone() if isinstance(state, torch.Tensor) else state


class Snapshot(TrainerCallback):
    """What a search has at a checkpoint, and has again when it is resumed from it; the checkpoint ends the process."""

    def __init__(self, search, step):
        self.search, self.step = search, step

    def _keep(self, file, folder, model, optimizer):
        state = {"pruner": self.search.pruner.state_dict(), "optimizer": optimizer.state_dict()["state"]}
        state = gathered({**state, "model": model.state_dict()})
        if PartialState().is_main_process:
            torch.save(state, f"{folder}/{file}")

    def on_train_begin(self, args, state, control, *, model, optimizer, **of_trainer):
        if state.global_step:
            self._keep("resumed.pt", args.output_dir, model, optimizer)

    def on_save(self, args, state, control, *, model, optimizer, **of_trainer):
        if state.global_step == self.step:
            self._keep("saved.pt", args.output_dir, model, optimizer)
            raise KeyboardInterrupt


def deep(**options) -> Net:
    model = net(**options)
    model.body[3] = nn.Linear(16, 16)
    return model


def start(kind, callback, folder, *callbacks, model=None, **options):
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # what this process was forked from may have had its own
    arguments = {
        "num_train_epochs": CONFIG.epochs,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "eval_strategy": "epoch",
        **options,
    }
    args = TrainingArguments(folder, **arguments)
    data = {"train_dataset": Vectors(), "eval_dataset": Vectors()}
    return kind(model or deep(), args, callbacks=[callback, *callbacks], **data)


def search(folder, method, lost_at=None, resume=None):
    callback, watch = WinningSignCallback(SignedMaskConfig(**{**CONFIG.to_dict(), "method": method})), Watch(lost_at)
    save = {"save_strategy": "steps", "save_steps": 6, "per_device_train_batch_size": 2}
    with suppress(KeyboardInterrupt):
        start(ShardingTrainer, callback, folder, watch, **save).train(resume_from_checkpoint=resume)
        assert watch.pruned > 0
        assert callback.mask.remaining == pytest.approx(0.25, abs=0.01)  # on every process
    PartialState().destroy_process_group()


def left_by(folder):
    mask = SignedMask.from_pretrained(folder / "round-02")
    return {name: value.tolist() for name, value in mask.items()}, load_weights(folder / "round-02", mask)


@pytest.mark.parametrize("method", ["aws", pytest.param("wr", marks=pytest.mark.slow)])
def test_a_sharded_search_finds_what_one_process_finds_and_resumes(tmp_path, method):
    config = SignedMaskConfig(**{**CONFIG.to_dict(), "method": method})
    start(Trainer, WinningSignCallback(config), str(tmp_path / "one"), per_device_train_batch_size=4).train()
    for folder, lost_at, resume in (("whole", None, None), ("cut", 12, None), ("cut", None, True)):
        debug_launcher(search, args=(str(tmp_path / folder), method, lost_at, resume), num_processes=2)
    (one, weights), (whole_run, sharded), (cut, resumed) = (
        left_by(tmp_path / name) for name in ("one", "whole", "cut")
    )
    assert one == whole_run == cut
    for name, weight in weights.items():
        torch.testing.assert_close(sharded[name], weight)
        assert torch.equal(resumed[name], sharded[name])


def search_on(folder, processes, lost_at, resume):
    """4 rows in a step, whatever the number of processes."""
    callback = WinningSignCallback(CONFIG)
    save = {"save_strategy": "steps", "save_steps": 7, "per_device_train_batch_size": 4 // processes}
    with suppress(KeyboardInterrupt):
        start(ShardingTrainer, callback, folder, Snapshot(callback, lost_at), **save).train(
            resume_from_checkpoint=resume
        )
    PartialState().destroy_process_group()


def assert_same(state, other):
    assert type(state) is type(other)
    if isinstance(state, dict):
        assert state.keys() == other.keys()
        for name, value in state.items():
            assert_same(value, other[name])
    else:
        assert torch.equal(state, other) if isinstance(state, torch.Tensor) else state == other


@pytest.mark.parametrize(("before", "after"), [(2, 4), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_a_checkpoint_is_resumed_by_another_number_of_processes(tmp_path, before, after):
    start(Trainer, WinningSignCallback(CONFIG), str(tmp_path / "one"), per_device_train_batch_size=4).train()
    cut = str(tmp_path / "cut")
    debug_launcher(search_on, args=(cut, before, 7, None), num_processes=before)  # within the first round
    debug_launcher(search_on, args=(cut, after, None, True), num_processes=after)
    assert_same(*(torch.load(tmp_path / "cut" / file) for file in ("saved.pt", "resumed.pt")))
    (one, weights), (resumed, others) = left_by(tmp_path / "one"), left_by(tmp_path / "cut")
    assert one == resumed
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight)


class SameBuffers(TrainerCallback):
    """At each evaluation and checkpoint all processes have the same buffers, and so has the checkpoint."""

    def on_evaluate(self, args, state, control, *, model, **of_trainer):
        own = dict(model.named_buffers())
        for other in gather_object([own]):
            assert all(torch.equal(other[name], value) for name, value in own.items())
        self.seen = len(own)

    def on_save(self, args, state, control, *, model, **of_trainer):
        from torch.distributed.checkpoint.state_dict_loader import load

        own = {f"model.{name}": buffer for name, buffer in model.named_buffers()}
        there = {name: torch.zeros_like(buffer) for name, buffer in own.items()}
        load(there, checkpoint_id=f"{args.output_dir}/checkpoint-{state.global_step}/pytorch_model_fsdp_0")
        assert all(torch.equal(there[name], value) for name, value in own.items())
        self.saved = len(own)


def with_batch_norm(folder, sharded):
    """A search without re-estimation, then a final training; keeps their losses on the evaluation data."""
    kind, config = Trainer, SignedMaskConfig(**{**CONFIG.to_dict(), "protocol": "released-code"})
    options = {"per_device_train_batch_size": 4, "num_train_epochs": config.epochs}
    if sharded:
        kind, options = ShardingTrainer, {**options, "save_strategy": "steps", "save_steps": 3}
    search, losses = WinningSignCallback(config), []
    for callback in (search, None):
        buffers = SameBuffers()
        run = start(
            kind, callback or HeldMask(search.mask), folder, buffers, model=deep(norm=nn.BatchNorm1d), **options
        )
        run.train()
        assert buffers.seen == 3
        assert not sharded or buffers.saved == 3
        losses.append([line["eval_loss"] for line in run.state.log_history if "eval_loss" in line])
    if PartialState().is_main_process:
        torch.save(torch.tensor(losses), f"{folder}/losses.pt")
    PartialState().destroy_process_group()


def test_batch_norms_statistics_are_those_of_ddp_on_all_processes(tmp_path):
    for name in ("ddp", "sharded"):
        debug_launcher(with_batch_norm, args=(str(tmp_path / name), name == "sharded"), num_processes=2)
    ddp, sharded = (torch.load(tmp_path / name / "losses.pt") for name in ("ddp", "sharded"))
    assert sharded.shape == (2, CONFIG.epochs)
    torch.testing.assert_close(sharded, ddp)


def final(folder, processes, resume):
    mask = SignedMask.from_pretrained(folder + "/round-02")
    save = {"save_strategy": "steps", "save_steps": 10, "per_device_train_batch_size": 4 // processes}
    run = start(ShardingTrainer, HeldMask(mask), folder + "/final", Watch(), **save)
    run.train(resume_from_checkpoint=resume)
    for name in mask.prunable:
        weight = whole(run.model.get_parameter(name).detach())
        assert weight.count_nonzero() == mask[name].count_nonzero()
        assert not weight[mask[name] == 0].any()
    weights = gathered(dict(run.model.named_parameters()))
    if not resume:
        torch.save(weights, folder + f"/final/left-{PartialState().process_index}.pt")
    else:
        for name, weight in torch.load(folder + "/final/left-0.pt").items():
            torch.testing.assert_close(weights[name], weight)
        other = SignedMask({name: value.flip(0) for name, value in mask.items()}, prunable=mask.prunable)
        run = start(ShardingTrainer, HeldMask(other), folder + "/final", **save)
        with pytest.raises(ValueError, match="the checkpoint of step 10 is not of this mask"):  # on every process
            run.train(resume_from_checkpoint=resume)
    PartialState().destroy_process_group()


@pytest.mark.parametrize("after", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sharded_final_training_holds_its_mask_and_is_resumed_by_any_number_of_processes(tmp_path, after):
    start(Trainer, WinningSignCallback(CONFIG), str(tmp_path), per_device_train_batch_size=4).train()
    for processes, resume in ((2, None), (after, str(tmp_path / "final" / "checkpoint-10"))):
        debug_launcher(final, args=(str(tmp_path), processes, resume), num_processes=processes)


def resume_where_one_process_sees_no_masks(folder):
    PartialState._reset_state()
    processes, look = PartialState(cpu=True), Path.is_file
    if not processes.is_main_process:  # a process of its own, so nothing is undone
        pytest.MonkeyPatch().setattr(Path, "is_file", lambda self: self.name != STATE_FILE and look(self))
    args = TrainingArguments(folder, use_cpu=True)
    state = TrainerState(global_step=3, stateful_callbacks={"Search": {"attributes": {"_search": "a"}}})
    with pytest.raises(FileNotFoundError, match="the masks of the search at step 3 are not in"):  # on every process
        load_search(args, state, net(), "Search")
    processes.destroy_process_group()


@pytest.mark.timeout(120)
def test_what_one_process_can_not_resume_is_resumed_by_none(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    save_search(tmp_path / "checkpoint-3", {"search": "a", "step": 3})
    debug_launcher(resume_where_one_process_sees_no_masks, args=(str(tmp_path),), num_processes=2)
