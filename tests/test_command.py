"""`aws-lottery`: the overview, options made from signatures, --config, errors."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import Accelerator

from aws_lottery import SignedMask, __version__
from aws_lottery.cli.commands import COMMANDS
from aws_lottery.cli.logs import LOG_FILE
from aws_lottery.cli.main import main
from aws_lottery.cli.options import data_for, options, written_options
from aws_lottery.cli.parser import OPTIONS_FILE, CommandParser, chosen, given_options, options_text
from aws_lottery.data.made_up import made_up_images
from aws_lottery.runs.checkpoint import BEGINNING, CheckpointError
from aws_lottery.runs.lock import locked


@dataclass(frozen=True, kw_only=True)
class Oven:
    """Bakes.

    Args:
        degrees: of Celsius, 100 % of them.
        fan: whether it blows.
        trays: numbers of trays.
        mode: how it heats.
        name: for the display; None: none.
    """

    degrees: float = 180.0
    fan: bool = False
    trays: tuple[int, ...] = (1, 2)
    mode: str = "top"
    name: str | None = None


FIELDS = ("degrees", "fan", "trays", "mode", "name")


def oven() -> CommandParser:
    parser = CommandParser("Bake a loaf.\n\nExamples:\n    bake loaf\n", config=True)
    parser.add_argument("loaf", nargs="+")
    parser.add_parameters("oven", Oven, shown={"degrees": 220.0}, choices={"mode": ("top", "bottom")})
    return parser


def test_options_are_the_parameters_of_a_class_and_their_help_is_its_docstring():
    text = " ".join(oven().format_help().split())
    for part in (
        "[options] LOAF Bake a loaf.",
        "--degrees X of Celsius, 100 % of them (default: 220.0)",
        "--fan, --no-fan whether it blows (default: no)",
        "--trays [N ...] numbers of trays (default: 1 2)",
        "--mode NAME how it heats: top, bottom (default: top)",
        "--name TEXT for the display; None: none examples: bake loaf",
    ):
        assert part in text


def test_what_was_not_given_is_told_from_what_was():
    options = oven().parse_args(["rye", "--trays", "3", "--fan"])
    assert given_options(options, FIELDS) == {"fan": True, "trays": [3]}
    assert Oven(**given_options(options, FIELDS)).degrees == 180.0


@pytest.mark.parametrize("option", ["--no-fan", "--no_fan", "--fan"])
def test_a_switch_can_be_turned_on_and_off(option):
    assert oven().parse_args(["rye", option]).fan is (option == "--fan")


def test_hyphens_do_for_underscores():
    parser = CommandParser("")
    parser.add_argument("--batch_size", type=int)
    assert parser.parse_args(["--batch-size", "3"]).batch_size == 3
    assert parser.parse_args(["--batch-size=-3"]).batch_size == -3


@pytest.mark.parametrize(("suffix", "dump"), [("json", json.dumps), ("yaml", yaml.safe_dump)])
def test_options_come_from_a_file_and_the_command_line_goes_before_it(tmp_path, suffix, dump):
    file = tmp_path / f"options.{suffix}"
    file.write_text(dump({"loaf": ["rye", "oat"], "degrees": 90, "fan": False, "trays": [4], "name": None}))
    options = oven().parse_args(["--config", str(file), "--degrees", "70"])
    assert (options.loaf, options.degrees, options.fan, options.trays) == (["rye", "oat"], 70.0, False, [4])
    assert options.name is None
    for arguments in (["barley", "--config", str(file)], ["--config", str(file), "barley"]):
        assert oven().parse_args(arguments).loaf == ["barley"]
    assert chosen(["--config", str(file)], "degrees") == 90
    assert chosen(["--config", str(file), "--degrees", "70"], "degrees") == "70"


def test_the_options_that_were_used_can_be_given_again(tmp_path):
    options = oven().parse_args(["rye", "--mode", "bottom"])
    (tmp_path / "options.json").write_text(options_text(options, {"degrees": 220.0, "other": 1}))
    again = oven().parse_args(["--config", str(tmp_path / "options.json")])
    assert (again.loaf, again.mode, again.degrees) == (["rye"], "bottom", 220.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"degres": 3}', "--config: no option 'degres'; did you mean 'degrees'?"),
        ('{"mode": "side"}', "argument --mode: invalid choice: 'side'"),
        ("[1]", "must hold names of options and values, not a list"),
        ("{", "cannot read"),
    ],
)
def test_a_file_of_options_that_is_wrong_is_refused(tmp_path, capsys, text, message):
    (tmp_path / "options.json").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        oven().parse_args(["rye", "--config", str(tmp_path / "options.json")])
    assert message in capsys.readouterr().err


def test_the_overview_names_every_command_and_imports_nothing_heavy():
    code = "import sys; from aws_lottery.cli.main import main; main([]); print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert all(f"\n  {command} " in printed for command in COMMANDS)
    loaded = printed.splitlines()[-1].split()
    assert not {"torch", "numpy", "datasets", "transformers", "accelerate", "huggingface_hub"} & set(loaded)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: aws-lottery {command} [options]")
    assert f"aws-lottery {command}" in printed.partition("\nexamples:\n")[2]


def test_a_misspelt_command_is_answered_with_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "aws-lottery: no command 'trian'; did you mean train?\n"


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"aws-lottery {__version__}\n"


def test_an_error_of_the_user_is_a_message_and_not_a_traceback(capsys, tmp_path, monkeypatch):
    arguments = ["train", str(tmp_path / "nothing"), "--dataset", "x"]
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith(f"aws-lottery train: no folder '{tmp_path / 'nothing'}'")
    monkeypatch.setenv("AWS_LOTTERY_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(arguments)


@pytest.fixture
def find(tmp_path, monkeypatch):
    """Runs `aws-lottery find --smoke` with more options, in a folder whose name has a space; gives the status."""
    monkeypatch.setattr("aws_lottery.data.load._folder", lambda cache_dir: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    options = ["find", "--smoke", "--model", "resnet8", "--workers", "0", "--output_dir", "a run"]
    return lambda *more: main([*options, *more])


def test_the_command_that_is_named_next_can_be_pasted(find, capsys):
    assert find("--rounds", "1") == 0
    assert capsys.readouterr().out.endswith("\n  aws-lottery train 'a run/round-01' --smoke\n")


def test_a_run_that_its_folder_refuses_is_a_message_and_leaves_the_options_that_are_there(find, tmp_path, capsys):
    assert find("--rounds", "1") == 0
    options = (tmp_path / "a run/options.json").read_text()
    assert find("--rounds", "1", "--batch_size", "4") == 1
    assert "aws-lottery find: a run holds a run with other settings:\n  training.batch_size" in capsys.readouterr().err
    assert (tmp_path / "a run/options.json").read_text() == options
    with locked(tmp_path / "a run/.lock", Accelerator(cpu=True)):
        assert find("--rounds", "1") == 1
    assert "aws-lottery find: another run is under way in a run" in capsys.readouterr().err
    assert find("--rounds", "2") == 0
    assert json.loads((tmp_path / "a run/options.json").read_text())["rounds"] == 2


def test_the_options_are_those_of_the_run_that_has_the_folder(tmp_path, accelerator):
    ours, theirs = (SimpleNamespace(output_dir=str(tmp_path), rounds=rounds) for rounds in (1, 2))
    with (
        written_options(ours, {}, accelerator),
        pytest.raises(CheckpointError),
        written_options(theirs, {}, accelerator),
    ):
        raise CheckpointError  # they came at once, and the folder refuses them
    assert json.loads((tmp_path / "options.json").read_text())["rounds"] == 1


def test_what_a_command_writes_before_its_run_is_nothing_that_was_done():
    assert {LOG_FILE, OPTIONS_FILE} < BEGINNING


def test_an_output_folder_that_is_a_file_is_a_message(find, tmp_path, capsys):
    (tmp_path / "a run").write_text("mine")
    assert find() == 1
    message = "aws-lottery find: can't write to the folder 'a run': 'a run' is a file; take another folder"
    assert message in capsys.readouterr().err


def test_a_training_that_diverges_is_a_message_and_the_folder_is_free_for_a_lower_rate(find, tmp_path, capsys):
    assert find("--rounds", "1", "--learning_rate", "1e30") == 1
    assert "aws-lottery find: the loss is nan in epoch 1" in capsys.readouterr().err
    assert find("--rounds", "1", "--learning_rate", "0.1") == 0
    assert json.loads((tmp_path / "a run/options.json").read_text())["learning_rate"] == 0.1


def test_a_final_training_that_diverges_is_an_error_and_its_result_says_so(find, tmp_path, capsys):
    assert find("--rounds", "1") == 0
    options = ["--smoke", "--workers", "0", "--learning_rate", "1e30", "--output_dir", "final"]
    assert main(["train", "a run/round-01", *options]) == 1
    assert "aws-lottery train: the loss is nan in epoch 1" in capsys.readouterr().err
    assert json.loads((tmp_path / "final/result.json").read_text())["failed"].startswith("the loss is nan in epoch 1")


def test_a_file_of_options_that_is_not_there_is_a_wrong_option(find, capsys):
    with pytest.raises(SystemExit, match="2"):
        find("--config", "nowhere.json")
    assert "aws-lottery find: error: --config: cannot read 'nowhere.json'" in capsys.readouterr().err


@pytest.mark.parametrize(("protocol", "deviation"), [("paper", 0.2673), ("released-code", 0.2023)])
def test_images_are_normalized_as_the_protocol_of_a_search_or_mask_has_it(protocol, deviation, monkeypatch, tmp_path):
    monkeypatch.setattr("aws_lottery.data.load._folder", lambda cache_dir: tmp_path)
    monkeypatch.setattr("aws_lottery.data.load.open_parts", lambda source, options: ("cifar100", made_up_images(32)))
    args = options(None, "uoft-cs/cifar100", model="resnet8").parse_args(["--workers", "0"])
    data = data_for(args, SimpleNamespace(device="cpu"), protocol)
    assert data.std[0] == deviation


def test_the_hyper_parameters_shown_are_those_of_the_chosen_network(capsys):
    for arguments, rate in ((["--model", "mobilenetv2"], "0.05"), (["--recipe", "imagenet"], "0.001")):
        with pytest.raises(SystemExit, match="0"):
            main(["find", *arguments, "--help"])
        assert f"--learning_rate X at the start (default: {rate})" in " ".join(capsys.readouterr().out.split())


def test_a_comparison_asks_for_matplotlib_at_its_start_not_at_its_end(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    options = ["compare", str(tmp_path / "search"), "--rounds", "1", "--output_dir", str(tmp_path / "out")]
    assert main(options) == 1
    said = (
        "aws-lottery compare: plots need matplotlib: pip install 'aws-lottery[plots]', or go without them: --no-plots"
    )
    assert capsys.readouterr().err.startswith(said)
    assert main([*options, "--no_plots"]) == 1
    assert "search/round-01'; give a folder that save_pretrained wrote" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_command_whose_reader_has_gone_ends_without_a_word(tmp_path):
    SignedMask({"weight": torch.tensor([1, 0, -1], dtype=torch.int8)}).save_pretrained(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does once it has its lines
    command = [sys.executable, "-m", "aws_lottery", "inspect", str(tmp_path)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=240)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
