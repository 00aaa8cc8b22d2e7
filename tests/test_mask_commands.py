"""Looking at masks, exporting them and moving them between folders and the Hub: `inspect`, `diff`, `export`, `push`,
`pull`, and the completion of the shell."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import scipy.sparse
import torch
from hub_fixtures import LFS_UPLOAD_WARNING, use_hub
from loopback_hub import LoopbackHub
from torch import nn, tensor
from torch.nn.utils import prune as torch_prune

from aws_lottery import SignedMask, SignedMaskConfig, create_model, provenance
from aws_lottery.cli.main import main
from aws_lottery.cli.terminal import bar, shaded, table
from aws_lottery.formats.bitmask import from_bitmask
from aws_lottery.mask_file.sparse_weights import save_weights

NETWORK = "resnet8"


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def sparse(tmp_path) -> nn.Module:
    """A network at about a half, whose mask and weights lie in tmp_path / "mask"."""
    model = create_model(NETWORK, 10, image_size=32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.flatten()[::2] = 0
    mask = SignedMask.from_model(model, SignedMaskConfig(architecture=NETWORK, rounds=3))
    mask.provenance = provenance(dataset="some-images", command="aws-lottery find " + "--long " * 20)
    mask.save_pretrained(tmp_path / "mask")
    save_weights(tmp_path / "mask", model, mask)
    return model.eval()


def test_inspect_shows_layers_signs_origin_and_size(sparse, tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "mask"), "--map"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for part in (
        "remaining  0.5000 of 74,160 prunable weights, 37,080 survivors",
        "of 75,290 parameters",
        "of the survivors are +",
        "network    resnet8",
        "search     aws, protocol paper, 3 rounds, seed 0",
        "dataset    some-images",
        "bits a weight; weights.safetensors",
        "0.5000  █████ ",
        "(classifier.weight)",
        "┌──────",
    ):
        assert part in printed


def test_inspect_gives_programs_json(sparse, tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "mask"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["remaining"], values["parameters"]) == (0.5, 75_290)
    assert values["layers"][0]["shape"] == [16, 3, 3, 3]
    assert values["layers"][0]["remaining"] == 0.5
    assert "4 dimensions, not a matrix" in values["not_semi_structured"].values()


def test_inspect_in_the_browser_says_what_to_install(sparse, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "aws_lottery.web.page", raising=False)
    assert main(["inspect", str(tmp_path / "mask"), "--web"]) == 1
    assert "--web needs gradio: pip install 'aws-lottery[web]'" in capsys.readouterr().err


def test_inspect_in_the_browser_shows_no_page_for_a_mask_that_is_not_there(tmp_path, capsys, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setattr("aws_lottery.web.page.serve", lambda *args, **options: pytest.fail("it was shown"))
    assert main(["inspect", str(tmp_path / "missing"), "--web"]) == 1
    assert f"no folder '{tmp_path / 'missing'}'" in capsys.readouterr().err


def test_inspect_draws_a_png(sparse, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["inspect", str(tmp_path / "mask"), "--png", str(tmp_path / "new/mask.png")]) == 0
    assert (tmp_path / "new/mask.png").read_bytes().startswith(b"\x89PNG")


def test_the_folder_of_a_search_is_answered_with_those_of_its_rounds(sparse, tmp_path, capsys):
    (tmp_path / "search").mkdir()
    (tmp_path / "mask").rename(tmp_path / "search/round-01")
    assert main(["inspect", str(tmp_path / "search")]) == 1
    assert "; take one of the folders in it: 'round-01'\n" in capsys.readouterr().err


def test_a_picture_without_matplotlib_is_refused_before_the_mask_is_looked_for(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["inspect", "owner/nothing", "--png", "mask.png"]) == 1
    assert "--png needs matplotlib: pip install 'aws-lottery[plots]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, "    "), (0.001, "▏   "), (0.5, "██  "), (0.6, "██▍ "), (1.0, "████")]
)
def test_a_bar_is_as_long_as_its_share(share, expected):
    assert bar(share, 4) == expected


def test_a_map_is_darkest_where_most_is_left():
    signs = tensor([[1, -1, 0, 0], [1, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 0]], dtype=torch.int8)
    assert shaded(signs, 2, 2) == ["█ ", " ░"]
    assert shaded(torch.zeros(1, 3), 2, 3) == ["   "]


def test_a_long_name_is_shortened_in_its_middle():
    lines = table(("layer", "x"), [("encoder.layer.11.attention.output.dense" * 3, "1")]).splitlines()
    assert max(map(len, lines)) <= 79
    assert "…" in lines[1]
    assert lines[1].endswith("dense  1")


def test_diff_sets_two_masks_beside_each_other(sparse, tmp_path, capsys):
    other = SignedMask.from_pretrained(tmp_path / "mask").with_random_signs(0)
    other.save_pretrained(tmp_path / "other")
    arguments = ["diff", str(tmp_path / "mask"), str(tmp_path / "other")]
    assert main(arguments) == 0
    header, *_, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["layer", "remaining", "overlap", "chance", "same", "sign", "chance"]
    name, figures = last[:10], [float(cell) for cell in last[10:].split()]
    assert name == "all layers"
    assert figures == pytest.approx([0.5, 0.5, 1.0, 0.3333, 0.5, 0.5], abs=0.02)

    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[-1]["overlap"] == 1.0


def export(tmp_path, form: str, name: str, *more: str) -> None:
    assert main(["export", str(tmp_path / "mask"), str(tmp_path / name), "--form", form, *more]) == 0


def test_exported_weights_are_those_of_the_network(sparse, tmp_path, capsys):
    export(tmp_path, "weights", "sparse.safetensors")
    assert "0.5000 remaining, " in capsys.readouterr().out
    state = safetensors.torch.load_file(tmp_path / "sparse.safetensors")
    assert state.keys() == sparse.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in sparse.state_dict().items())

    export(tmp_path, "bitmask", "packed.safetensors")
    back = from_bitmask(safetensors.torch.load_file(tmp_path / "packed.safetensors"))
    assert all(torch.equal(value, state[name]) for name, value in back.items())

    export(tmp_path, "csr", "matrices")
    mask = SignedMask.from_pretrained(tmp_path / "mask")
    assert {path.stem for path in (tmp_path / "matrices").iterdir()} == set(mask.prunable)
    for name in mask.prunable:
        matrix = scipy.sparse.load_npz(tmp_path / "matrices" / f"{name}.npz")
        assert np.array_equal(matrix.toarray(), state[name].flatten(1).numpy())


def test_exported_weights_load_into_a_model_under_torch_prune(sparse, tmp_path):
    export(tmp_path, "torch-prune", "pruned.safetensors")
    model = create_model(NETWORK, 10, image_size=32).eval()
    for name in SignedMask.from_pretrained(tmp_path / "mask").prunable:
        torch_prune.identity(model.get_submodule(name.removesuffix(".weight")), "weight")
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "pruned.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), sparse(images))


def test_weights_of_another_training_are_masked(sparse, tmp_path, capsys):
    dense = create_model(NETWORK, 10, image_size=32).state_dict()
    safetensors.torch.save_file(dense, tmp_path / "dense.safetensors")
    export(tmp_path, "weights", "sparse.safetensors", "--weights", str(tmp_path / "dense.safetensors"))
    state = safetensors.torch.load_file(tmp_path / "sparse.safetensors")
    mask = SignedMask.from_pretrained(tmp_path / "mask")
    for name in mask.prunable:
        assert torch.equal(state[name], dense[name] * (mask[name] != 0))

    (tmp_path / "broken.safetensors").write_text("no weights")
    arguments = ["export", str(tmp_path / "mask"), str(tmp_path / "out"), "--weights"]
    assert main([*arguments, str(tmp_path / "broken.safetensors")]) == 1
    assert f"cannot read '{tmp_path / 'broken.safetensors'}', it is damaged" in capsys.readouterr().err
    safetensors.torch.save_file({"conv.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    arguments = ["export", str(tmp_path / "mask"), "x", "--weights", str(tmp_path / "other.safetensors")]
    assert main(arguments) == 1
    assert "is not of the mask's network" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_an_exported_network_runs_in_onnx(sparse, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(tmp_path, "onnx", "model.onnx")
    images = torch.randn(3, 3, 32, 32)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert logits == pytest.approx(sparse(images).detach().numpy(), abs=1e-4)


def test_onnx_that_is_not_installed_is_asked_for_at_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", "owner/nothing", "model.onnx", "--form", "onnx"]) == 1
    assert "pip install 'aws-lottery[onnx]'" in capsys.readouterr().err


@pytest.mark.filterwarnings(LFS_UPLOAD_WARNING)
def test_a_mask_is_pushed_and_pulled_and_looked_at_on_the_hub(sparse, tmp_path, monkeypatch, capsys):
    with LoopbackHub() as hub:
        use_hub(hub, monkeypatch, tmp_path / "home")
        assert main(["push", str(tmp_path / "mask"), "owner/tiny", "--private"]) == 0
        assert "owner/tiny" in capsys.readouterr().out

        assert main(["pull", "owner/tiny", "--output_dir", str(tmp_path / "back")]) == 0
        assert "\ncommit " in capsys.readouterr().out
        assert SignedMask.from_pretrained(tmp_path / "back") == SignedMask.from_pretrained(tmp_path / "mask")
        assert (tmp_path / "back/README.md").is_file()

        assert main(["inspect", "owner/tiny"]) == 0
        assert "0.5000 of 74,160 prunable weights" in capsys.readouterr().out

        assert main(["pull", "owner/nothing"]) == 1
        assert "no repository 'owner/nothing' on the Hub" in capsys.readouterr().err


def test_a_folder_is_not_pulled(tmp_path, capsys):
    assert main(["pull", str(tmp_path)]) == 1
    assert "is a folder here" in capsys.readouterr().err


def test_the_shell_completes_commands_and_options(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = """
_complete() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_aws_lottery; echo "${COMPREPLY[@]}"; }
_complete aws-lottery fi
_complete aws-lottery find --target
_complete aws-lottery find --method l
"""
    done = subprocess.run(["bash", "-c", script + ask], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split("\n")[:3] == ["find", "--target_remaining", "lrr"]
