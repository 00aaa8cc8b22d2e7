"""The Trainer's callbacks on a model that FSDP2 shards over two gloo processes, against the Trainer on one process."""

from contextlib import suppress

import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from test_trainer_callback import CONFIG, Net, Vectors, net
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from aws_lottery import HeldMask, SignedMask, SignedMaskConfig, WinningSignCallback
from aws_lottery.mask_file.sparse_weights import load_weights
from aws_lottery.sharding import is_sharded, whole

pytestmark = [pytest.mark.multiprocess, pytest.mark.filterwarnings("ignore")]  # torch.distributed's own warnings


class ShardingTrainer(Trainer):
    """What `accelerate launch` with recipes/launch/fsdp2.yaml makes of a Trainer on GPUs, and on no CPU."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        options = {"auto_wrap_policy": "size_based_wrap", "min_num_params": 10, "cpu_ram_efficient_loading": False}
        self.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **options)
        self.accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        self.is_fsdp_enabled = True


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


def deep() -> Net:
    model = net()
    model.body[3] = nn.Linear(16, 16)
    return model


def start(kind, callback, folder, *callbacks, **options):
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
    return kind(deep(), args, callbacks=[callback, *callbacks], **data)


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


def final(folder, resume):
    mask = SignedMask.from_pretrained(folder + "/round-02")
    save = {"save_strategy": "steps", "save_steps": 10, "per_device_train_batch_size": 2}
    run = start(ShardingTrainer, HeldMask(mask), folder + "/final", Watch(), **save)
    run.train(resume_from_checkpoint=resume)
    for name in mask.prunable:
        weight = whole(run.model.get_parameter(name).detach())
        assert weight.count_nonzero() == mask[name].count_nonzero()
        assert not weight[mask[name] == 0].any()
    if resume:
        other = SignedMask({name: value.flip(0) for name, value in mask.items()}, prunable=mask.prunable)
        run = start(ShardingTrainer, HeldMask(other), folder + "/final", **save)
        with pytest.raises(ValueError, match="the checkpoint of step 10 is not of this mask"):  # on every process
            run.train(resume_from_checkpoint=resume)
    PartialState().destroy_process_group()


def test_a_sharded_final_training_holds_its_mask_and_resumes(tmp_path):
    start(Trainer, WinningSignCallback(CONFIG), str(tmp_path), per_device_train_batch_size=4).train()
    for resume in (None, str(tmp_path / "final" / "checkpoint-10")):
        debug_launcher(final, args=(str(tmp_path), resume), num_processes=2)
