"""Command lines that users give to `accelerate launch`, on CPUs: tests/fsdp_on_cpu says what makes accelerate shard."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState
from torch.multiprocessing import ProcessRaisedException

from aws_lottery import SignedMask
from aws_lottery.runs.lock import require_shared

ROOT = Path(__file__).parent.parent
FIND = ["find", "--smoke", "--model", "resnet8", "--rounds", "2", "--threads", "1"]  # 4 steps an epoch
TO_CUT = [*FIND, "--warmup_epochs", "20"]  # processes agree to stop at each tenth step: 8 chances before a round ends
FSDP2 = ["fsdp2.yaml", "--fsdp_min_num_params", 1000, "-m", "aws_lottery"]

pytestmark = [pytest.mark.multiprocess, pytest.mark.filterwarnings("ignore")]  # torch.distributed's own warnings


@contextmanager
def launched(configuration: str, *words: object, cwd: Path, precision: str = "no") -> Iterator[subprocess.Popen]:
    """`accelerate launch` by a file of recipes/launch, as a user would start it, but two processes on CPUs."""
    paths = os.pathsep.join([str(ROOT / "tests" / "fsdp_on_cpu"), str(ROOT / "src")])
    own = {"PYTHONPATH": paths, "HF_HOME": str(cwd / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    options = ["--config_file", ROOT / "recipes/launch" / configuration, "--mixed_precision", precision]
    command = [*launch, *options, "--num_processes", 2, *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*map(str, command)], env={**os.environ, **own}, cwd=cwd, **streams) as process:
        try:
            yield process
        finally:
            process.terminate()  # and not kill, which would leave the processes that it started


def ended(process: subprocess.Popen) -> str:
    """What it printed, if it ended well."""
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 0, printed
    return printed


def wait_for(pattern: str, folder: Path, process: subprocess.Popen) -> None:
    while not [*folder.glob(pattern)]:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def signs_in(folder: Path) -> dict[str, list]:
    return {name: value.tolist() for name, value in SignedMask.from_pretrained(folder).items()}


def same_as_whole(folder: Path, words: list[str]) -> bool:
    """Whether a search left the signs that two processes with whole copies find."""
    whole = folder.with_name("whole")
    with launched("8gpu.yaml", "-m", "aws_lottery", *words, "--output_dir", whole, cwd=folder.parent) as process:
        ended(process)
    return signs_in(folder / "round-02") == signs_in(whole / "round-02")


@pytest.mark.timeout(900)  # fifteen seconds of two free cores
def test_find_sharded_by_the_recipe_ends_with_the_signs_of_whole_copies(tmp_path):
    folder = tmp_path / "sharded"
    with launched(*FSDP2, *FIND, "--output_dir", folder, cwd=tmp_path) as process:
        assert "resnet8, aws: 0.6400 of 74,160 prunable weights" in ended(process)
    assert [*folder.glob("shards-*")]
    assert same_as_whole(folder, FIND)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_signal_to_the_launcher_ends_find_after_a_checkpoint_from_which_it_goes_on_to_the_same_signs(tmp_path):
    folder = tmp_path / "sharded"
    with launched(*FSDP2, *TO_CUT, "--output_dir", folder, cwd=tmp_path) as process:
        wait_for("checkpoint.pt", folder, process)
        process.send_signal(signal.SIGTERM)
        assert "stopped by signal 15 after a checkpoint" in process.communicate(timeout=600)[0]
    assert [*folder.glob("shards-*")]
    assert not [*folder.glob("round-*")]
    with launched(*FSDP2, *TO_CUT, "--output_dir", folder, cwd=tmp_path) as process:
        ended(process)
    assert same_as_whole(folder, TO_CUT)


def _from_a_folder_of_its_own(top: str) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # what this process was forked from may have had its own
    processes = PartialState(cpu=True)
    os.chdir(Path(top) / str(processes.process_index))
    require_shared(Path(top), processes)
    require_shared(Path("runs"), processes)


def test_processes_that_see_different_output_folders_are_told_so_on_all(tmp_path):
    for index in "01":
        (tmp_path / index / "runs").mkdir(parents=True)
    expected = r"process 1 does not see what the first process writes to .*0/runs on .*: its own folder is .*1/runs"
    with pytest.raises(ProcessRaisedException, match=expected):
        debug_launcher(_from_a_folder_of_its_own, args=(str(tmp_path),), num_processes=2)
    assert not [*tmp_path.glob("*/runs/.*")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def two_nodes(configuration: str, *words: object, cwd: Path) -> Iterator[tuple[subprocess.Popen, subprocess.Popen]]:
    """Two launchers, each with a working directory and a cache of its own, as on two machines; a process each."""
    meet = ["--num_machines", 2, "--main_process_ip", "127.0.0.1", "--main_process_port", free_port()]
    for rank in "01":
        (cwd / rank).mkdir(exist_ok=True)
    with (
        launched(configuration, *meet, "--machine_rank", 0, *words, cwd=cwd / "0") as first,
        launched(configuration, *meet, "--machine_rank", 1, *words, cwd=cwd / "1") as second,
    ):
        yield first, second


NODES = {"2nodes.yaml": [], "fsdp2-2nodes.yaml": ["--fsdp_min_num_params", 1000]}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("configuration", NODES)
def test_two_nodes_search_in_a_folder_that_they_share_and_refuse_one_that_they_do_not(configuration, tmp_path):
    recipe = [*NODES[configuration], "-m", "aws_lottery", *TO_CUT, "--output_dir"]
    with two_nodes(configuration, *recipe, "runs", cwd=tmp_path) as nodes:
        for node in nodes:
            assert "process 1 does not see what the first process writes to" in node.communicate(timeout=600)[0]
    folder = tmp_path / "shared"
    with two_nodes(configuration, *recipe, folder, cwd=tmp_path) as (first, second):
        wait_for("checkpoint.pt", folder, first)
        second.send_signal(signal.SIGTERM)
        assert "stopped by signal 15 after a checkpoint" in first.communicate(timeout=600)[0]
    assert bool([*folder.glob("shards-*")]) == configuration.startswith("fsdp2")
    with two_nodes(configuration, *recipe, folder, cwd=tmp_path) as nodes:
        for node in nodes:
            ended(node)
    assert same_as_whole(folder, TO_CUT)


BY_LAYER = ["--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]


def cut_and_resumed(checkpoint: str, sharding: list[str], recipe: list[object], folder: Path) -> str:
    """What a sharded recipe on the Trainer prints when it goes on after a signal at `checkpoint`."""
    command = ["fsdp2.yaml", *BY_LAYER, *sharding, *recipe, "--output_dir", folder]
    with launched(*command, cwd=folder.parent) as process:
        wait_for(f"{checkpoint}/winning_sign.pt", folder, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=600)
    assert [*folder.glob(f"{checkpoint}/shards-*")]
    with launched(*command, cwd=folder.parent) as process:
        return ended(process)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_trainer_recipe_sharded_goes_on_after_a_kill_to_nearly_the_signs_of_whole_copies(tmp_path):
    recipe, layers = (
        [ROOT / "recipes/aws_trainer_vit.py", "--smoke"],
        ["--fsdp_transformer_layer_cls_to_wrap", "ViTLayer"],
    )
    printed = cut_and_resumed("checkpoint-12", layers, recipe, tmp_path / "sharded")
    assert printed.count("| fresh + signed mask |") == 1  # one process speaks
    with launched("8gpu.yaml", *recipe, "--output_dir", tmp_path / "whole", cwd=tmp_path) as process:
        ended(process)
    sharded, whole = (SignedMask.from_pretrained(tmp_path / name / "round-01") for name in ("sharded", "whole"))
    # the gradients of key biases are rounding errors, as attention does not depend on them, which Adam makes large
    names = [name for name in whole if not name.endswith("k_proj.bias")]
    different = sum(int((sharded[name] != whole[name]).sum()) for name in names)
    assert different < 0.001 * sum(whole[name].numel() for name in names)


def losses_in(folder: Path) -> dict[str, list[float]]:
    """Before and after each final training of the recipe for language models."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {f"{row['transfer']} {row['data_seed']}": [row["before"], row["after"]] for row in rows if "before" in row}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("network", ["llama", "gpt2"])  # a head of its own, or one that is tied to the embeddings
def test_the_language_model_recipe_sharded_ends_after_a_kill_as_whole_copies_do(network, tmp_path):
    small = ["--smoke", "--tokens", 0, "--rows", 48, "--batch_size", 4, "--methods", "aws", "--at", 2]
    recipe = [ROOT / "recipes/aws_language_model.py", *small, "--starts", "dense", "signs", "solution"]
    recipe += ["--network", network]
    printed = cut_and_resumed("search-aws/checkpoint-12", [], recipe, tmp_path / "sharded")
    assert printed.count("| AWS solution |") == 1
    with launched("8gpu.yaml", *recipe, "--output_dir", tmp_path / "whole", cwd=tmp_path) as process:
        ended(process)
    sharded, whole = (signs_in(tmp_path / name / "search-aws" / "round-02") for name in ("sharded", "whole"))
    by_rounding = {"transformer.h.0.attn.c_attn.bias"}  # GPT-2's keys have biases, as those of ViT
    assert {name for name in whole if sharded[name] != whole[name]} <= by_rounding
    losses = losses_in(tmp_path / "whole")
    assert losses_in(tmp_path / "sharded") == {name: pytest.approx(loss, abs=1e-4) for name, loss in losses.items()}
    assert losses.keys() == {"dense 1", "signs 1", "signs 1001", "solution 1"}
    assert all(after < before - 0.2 for before, after in losses.values())
