"""Two gloo processes: one search, the same on every rank."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration, debug_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from aws_lottery import (
    CRITERIA,
    AWSPruner,
    Criterion,
    SignedMask,
    SignedMaskConfig,
    TrainingConfig,
    evaluate,
    find_signed_mask,
    train,
)
from aws_lottery.data import ImageData, Images, batches
from aws_lottery.parameters import norm_interpolation
from aws_lottery.processes import together, warn_if_alone, warn_if_whole
from aws_lottery.runs import checkpoint
from aws_lottery.runs.checkpoint import CheckpointError
from aws_lottery.runs.final_training import final_training
from aws_lottery.runs.lock import written_once
from aws_lottery.runs.output_folder import Run
from aws_lottery.runs.signals import Interrupted
from aws_lottery.training import steps_an_epoch

pytestmark = pytest.mark.multiprocess


def _network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 16), torch.nn.LayerNorm(16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
    )


def _data(n=70):
    x = torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return Images(x, x.mean(dim=(2, 3)).argmax(1))


def _saliency(name, weight, gradient):
    return (weight * gradient).abs()


def _search(accelerator, criterion="magnitude"):
    model = _network()
    pruner = AWSPruner(model, SignedMaskConfig(rounds=3, criterion=criterion))
    config = TrainingConfig(epochs=2, batch_size=16, schedule="constant", momentum=0.9, max_grad_norm=1.0)
    alphas = []
    for stage in pruner.rounds():
        train(model, _data(), config, accelerator=accelerator, seed=stage.index)
        alphas.append(int(norm_interpolation.state(model)["_aws_alpha_state"]))
    return pruner.signed_mask(), alphas, evaluate(model, _data(), accelerator=accelerator, batch_size=16)


def _accelerator(split_batches=True):
    AcceleratorState._reset_state(reset_partial_state=True)  # what this process was forked from may have had its own
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=split_batches))


def _on_each_rank():
    torch.set_num_threads(1)
    accelerator = _accelerator()
    assert accelerator.num_processes == 2
    mask, alphas, accuracy = _search(accelerator)
    found = gather_object([({name: mask[name].tolist() for name in mask}, alphas, accuracy)])
    assert found[0] == found[1]

    CRITERIA["saliency"] = Criterion(_saliency, needs_gradient=True)  # each rank's own gradients would differ
    mask, _, _ = _search(accelerator, "saliency")
    found = gather_object([{name: mask[name].tolist() for name in mask}])
    assert found[0] == found[1]
    accelerator.end_training()


@pytest.mark.filterwarnings("ignore")  # torch.distributed's own
def test_two_ranks_find_the_same_mask_with_the_same_alpha():
    debug_launcher(_on_each_rank, num_processes=2)


def _on_each_rank_like_one(expected):
    torch.set_num_threads(1)
    accelerator = _accelerator()
    mask, _, _ = _search(accelerator)
    signs = torch.cat([mask[name].flatten() for name in mask])
    assert (signs == torch.tensor(expected)).float().mean() > 0.99
    accelerator.end_training()


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_find_the_mask_of_one_on_the_same_global_batch():
    mask, _, _ = _search(Accelerator(cpu=True))
    expected = torch.cat([mask[name].flatten() for name in mask]).tolist()
    debug_launcher(_on_each_rank_like_one, args=(expected,), num_processes=2)


def _sizes_on_each_rank():
    """70 images in batches of 16: the last 6 are shared by filling them up to a full batch."""
    torch.set_num_threads(1)
    loader = _accelerator().prepare(batches(_data(), 16, seed=0, partial_batch=True))
    shares = gather_object([[x[:, 0, 0, 0].tolist() for x, _ in loader]])
    assert [[len(x) for x in share] for share in shares] == [[8] * 5, [8] * 5]
    (first, last), (other_first, other_last) = [(share[0], share[-1]) for share in shares]
    assert last[6:] + other_last == (first + other_first)[:10]


@pytest.mark.filterwarnings("ignore")
def test_a_partial_batch_is_filled_up_from_the_epochs_first_images_for_two_ranks():
    debug_launcher(_sizes_on_each_rank, num_processes=2)


def _filled_up(data, batch_size, **options):
    """All batches of one process, the last filled up from the first, as two processes share it."""
    whole = list(batches(data, batch_size, **options))
    missing = batch_size - len(whole[-1][0])
    whole[-1] = tuple(torch.cat([last, first[:missing]]) for last, first in zip(whole[-1], whole[0], strict=True))
    return DataLoader(whole, batch_size=None)


def _trained_with_partial_batches(accelerator):
    model, config = _network(), TrainingConfig(epochs=2, batch_size=16, schedule="constant")
    train(model, _data(), config, accelerator=accelerator, seed=0, partial_batches=True)
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def _trained_on_each_rank(expected):
    torch.set_num_threads(1)
    assert torch.allclose(_trained_with_partial_batches(_accelerator()), torch.tensor(expected), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_train_on_a_partial_batch_as_one_does_on_it_filled_up(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("aws_lottery.training.batches", _filled_up)
        expected = _trained_with_partial_batches(Accelerator(cpu=True))
    assert not torch.allclose(_trained_with_partial_batches(Accelerator(cpu=True)), expected, atol=1e-3)
    debug_launcher(_trained_on_each_rank, args=(expected.tolist(),), num_processes=2)


def _trained_on_a_last_batch_of_one_image():
    """65 images in batches of 16: each process sees 8 in each of 5 steps."""
    torch.set_num_threads(1)
    model, config, sizes = _network(), TrainingConfig(epochs=1, batch_size=16), []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    train(model, _data(65), config, accelerator=_accelerator(), seed=0, partial_batches=True)
    assert sizes == [1, *[8] * 5]  # the first is a look at whether the model takes the images


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_fill_up_a_last_batch_of_one_image():
    debug_launcher(_trained_on_a_last_batch_of_one_image, num_processes=2)


def _steps_on_each_rank():
    """70 images in batches of 16: 4 steps, 5 with the partial batch; of whole batches for each rank 2, or 3."""
    torch.set_num_threads(1)
    counted = []
    for split in (True, False):
        accelerator = _accelerator(split)
        for partial in (False, True):
            config, made = TrainingConfig(epochs=1, batch_size=16), []
            options = {"seed": 0, "on_step": made.append, "partial_batches": partial}
            train(_network(), _data(), config, accelerator=accelerator, **options)
            counted.append((len(made), steps_an_epoch(_data(), config, accelerator, partial_batches=partial)))
    assert counted == [(4, 4), (5, 5), (2, 2), (3, 3)]


@pytest.mark.filterwarnings("ignore")
def test_steps_are_counted_as_two_ranks_make_them():
    debug_launcher(_steps_on_each_rank, num_processes=2)


class _Killed(Exception):
    pass


def _find_on_each_rank(folder, protocol, images, stop_after):
    """A search with a checkpoint every tenth step; where it is to stop, all ranks do, without saving."""
    torch.set_num_threads(1)
    accelerator, after_step = _accelerator(), Run.after_step

    def counted(run, training):
        after_step(run, training)
        if run.steps == stop_after:
            raise _Killed

    Run.after_step = counted
    config = SignedMaskConfig(protocol=protocol, rounds=2, warmup_epochs=2, epochs_per_round=2)
    options = {"output_dir": folder, "accelerator": accelerator, "checkpoint_seconds": 0.0}
    with suppress(_Killed):
        find_signed_mask(_network(), _data(images), config, TrainingConfig(batch_size=16), **options)


@pytest.mark.parametrize(
    ("protocol", "images", "cuts"),
    [
        ("paper", 70, (13, 21)),
        ("released-code", 86, (13, 32)),  # 6 steps an epoch, 12 a stage: its 30th step is on a partial batch
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_search_on_two_ranks_goes_on_to_the_same_mask(protocol, images, cuts, tmp_path):
    for folder, stops in (("whole", (0,)), ("cut", (*cuts, 0))):
        for stop_after in stops:
            arguments = (str(tmp_path / folder), protocol, images, stop_after)
            debug_launcher(_find_on_each_rank, args=arguments, num_processes=2)
    for name in ("round-01", "round-02"):
        assert SignedMask.from_pretrained(tmp_path / "cut" / name) == SignedMask.from_pretrained(
            tmp_path / "whole" / name
        )
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["stage"], line["remaining"], line["loss"]) for line in lines]


def _raised_on_one(accelerator):
    with together(accelerator):
        if not accelerator.is_main_process:
            raise KeyError("only here")


def _error_on_each_rank():
    torch.set_num_threads(1)
    with pytest.raises(KeyError, match="only here"):
        _raised_on_one(_accelerator())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
def test_an_error_on_one_rank_is_raised_on_all():
    debug_launcher(_error_on_each_rank, num_processes=2)


def _written_before_all_have_looked(folder):
    accelerator, path, look = _accelerator(), Path(folder) / "a.json", Path.exists
    if not accelerator.is_main_process:  # a process of its own, so nothing is undone
        pytest.MonkeyPatch().setattr(Path, "exists", lambda self: time.sleep(0.3 * (self == path)) or look(self))
    assert written_once(path, lambda: {"x": 1}, accelerator) == {"x": 1}
    assert gather_object([accelerator.process_index]) == [0, 1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
def test_a_rank_that_is_late_makes_what_the_first_has_written_by_then(tmp_path):
    debug_launcher(_written_before_all_have_looked, args=(str(tmp_path),), num_processes=2)


def _reads_a_file_that_another_does_not_see(folder):
    accelerator, path, read = _accelerator(), Path(folder) / "a.json", Path.read_bytes
    if not accelerator.is_main_process:  # as where a network file system shows it late
        pytest.MonkeyPatch().setattr(Path, "read_bytes", lambda self: read(self.parent if self == path else self))
    assert written_once(path, lambda: {"x": 1}, accelerator) == {"x": 1}
    if accelerator.is_main_process:
        path.write_text("[]")
    with pytest.raises(ValueError, match=r"cannot read .*a\.json'"):  # on both
        written_once(path, lambda: {"x": 1}, accelerator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
def test_what_was_written_once_is_read_by_the_first_process_for_all(tmp_path):
    debug_launcher(_reads_a_file_that_another_does_not_see, args=(str(tmp_path),), num_processes=2)


def _does_not_see_the_checkpoint(folder):
    torch.set_num_threads(1)
    accelerator, look = _accelerator(), Path.exists
    checkpoint.save(Path(folder), {"steps": 3}, accelerator)
    if not accelerator.is_main_process:  # as where a network file system shows it late
        pytest.MonkeyPatch().setattr(Path, "exists", lambda self: self.suffix != ".pt" and look(self))
    state = checkpoint.load(Path(folder), accelerator)
    assert gather_object([state]) == [{"steps": 3}, {"steps": 3}]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
def test_all_ranks_go_on_from_the_checkpoint_that_the_first_one_sees(tmp_path):
    debug_launcher(_does_not_see_the_checkpoint, args=(str(tmp_path),), num_processes=2)


def _nan_on_one_rank(folder):
    """One batch of 16, half of it on each rank, with a NaN in one image."""
    torch.set_num_threads(1)
    accelerator, images = _accelerator(), _data(16)
    images.tensors[0][3] = torch.nan
    data, config = ImageData(images, _data(16), 3, "made up"), TrainingConfig(epochs=1, batch_size=16)
    options = {"accelerator": accelerator, "identity": {"seed": 0}, "seed": 0}
    result = final_training(_network(), data, config, output_dir=folder, **options)
    assert result["failed"].startswith("the loss is nan in epoch 1 of 1")
    assert "after" not in result
    accelerator.wait_for_everyone()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
def test_a_loss_that_is_nan_on_one_rank_at_the_last_step_ends_the_training_on_all(tmp_path):
    debug_launcher(_nan_on_one_rank, args=(str(tmp_path),), num_processes=2)


def _full_disk_on_main(folder):
    def full(path, data):
        raise OSError(28, "No space left on device")

    torch.set_num_threads(1)
    accelerator = _accelerator()
    if accelerator.is_main_process:
        checkpoint.replace_file = full  # in this process alone, which ends with the test
        checkpoint.claim = lambda *arguments, **options: None
    options = {"output_dir": folder, "accelerator": accelerator}
    with pytest.raises(CheckpointError, match="No space left on device"):
        find_signed_mask(_network(), _data(), SignedMaskConfig(rounds=1), TrainingConfig(batch_size=16), **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
def test_a_checkpoint_that_main_can_not_write_ends_the_search_on_all(tmp_path):
    debug_launcher(_full_disk_on_main, args=(str(tmp_path),), num_processes=2)


def _signal_on_one_rank(folder):
    torch.set_num_threads(1)
    accelerator, after_step = _accelerator(), Run.after_step

    def counted(run, training):
        if run.steps == 3 and not accelerator.is_main_process:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(run, training)

    Run.after_step = counted
    config, options = SignedMaskConfig(rounds=1, epochs_per_round=4), {"output_dir": folder, "accelerator": accelerator}
    with pytest.raises(Interrupted) as error:
        find_signed_mask(_network(), _data(), config, TrainingConfig(batch_size=16), **options)
    assert error.value.code == 128 + signal.SIGTERM


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(120)
def test_a_signal_to_one_rank_ends_the_search_on_all_after_a_checkpoint(tmp_path):
    debug_launcher(_signal_on_one_rank, args=(str(tmp_path),), num_processes=2)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["steps"] == 10


def test_a_model_that_accelerate_does_not_shard_though_asked_to_is_said(monkeypatch, caplog):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    warn_if_whole(accelerator)
    assert caplog.messages == []
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # accelerate launch --config_file recipes/launch/fsdp2.yaml
    warn_if_whole(accelerator)
    assert "FSDP was asked for, and the model is not sharded (DistributedType.NO)" in caplog.text


def test_one_process_where_several_were_asked_for_is_said(monkeypatch, caplog):
    for name in ("WORLD_SIZE", "MASTER_PORT", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    warn_if_alone(accelerator)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # accelerate launch --cpu --num_processes 1
    warn_if_alone(accelerator)
    assert caplog.messages == []
    monkeypatch.setenv("MASTER_PORT", "29500")  # accelerate launch --cpu --num_processes 2
    warn_if_alone(accelerator)
    assert "asked for several processes and has started one" in caplog.text
