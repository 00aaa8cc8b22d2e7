"""Masks and sparse weights in the forms of other tools, each round trip through the other library itself."""

import copy

import numpy as np
import pytest
import safetensors.torch
import scipy.sparse
import torch
from torch import nn, tensor
from torch.nn.utils import prune as torch_prune
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from aws_lottery import SignedMask, sign0
from aws_lottery.formats.bitmask import from_bitmask, to_bitmask
from aws_lottery.formats.csr import from_csr, to_csr
from aws_lottery.formats.onnx import to_onnx
from aws_lottery.formats.semi_structured import misfits
from aws_lottery.formats.torch_prune import pruned_state_dict, to_torch_prune_


def half_pruned(model: nn.Module) -> SignedMask:
    """A mask for it, with every second survivor of convolutions gone; they are 0 in the model, too."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 4:
                parameter.flatten()[::2] = 0
                assert (parameter == 0).float().mean() == 0.5, name
    return SignedMask.from_model(model)


def test_a_mask_goes_to_torch_prune_and_back(convnet, make_convnet):
    mask, model = half_pruned(convnet), make_convnet()
    mask.apply_(model)
    expected = {name: parameter.clone() for name, parameter in model.named_parameters()}
    to_torch_prune_(model, mask)
    assert torch_prune.is_pruned(model)
    assert torch.equal(model[0].weight_mask, (mask["0.weight"] != 0).float())
    back = SignedMask.from_torch_prune(model)
    assert {name: value.tolist() for name, value in back.items()} == {n: v.tolist() for n, v in mask.items()}
    for module in (model[0], model[3]):
        torch_prune.remove(module, "weight")
    assert all(torch.equal(value, expected[name]) for name, value in model.named_parameters())


def test_a_pruned_model_is_not_pruned_again(convnet):
    mask = half_pruned(convnet)
    to_torch_prune_(convnet, mask)
    with pytest.raises(ValueError, match=r"torch\.nn\.utils\.prune has pruned this model already"):
        to_torch_prune_(convnet, mask)


def test_torch_prune_loads_the_state_dict_that_is_made_for_it(convnet, make_convnet):
    mask, pruned = half_pruned(convnet), make_convnet()
    for module in (pruned[0], pruned[3]):
        torch_prune.identity(module, "weight")
    pruned.load_state_dict(pruned_state_dict(convnet.state_dict(), mask))
    images = torch.randn(2, 3, 6, 6)
    assert torch.equal(pruned.eval()(images), convnet.eval()(images))


def test_a_weight_is_its_nonzeros_and_a_bit_for_each_place():
    weight = tensor([[0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0], [1.0, 0.0, -3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    tensors = to_bitmask({"a.weight": weight, "a.bias": tensor([1.0])}, ["a.weight"])
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "a.shape": [2, 9],
        "a.compressed": [2.0, 5.0, 1.0, -3.0],
        "a.bitmask": [[0b10, 0b1], [0b101, 0]],
        "a.row_offsets": [0, 2],
        "a.bias": [1.0],
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitmasks_come_back_as_they_were(convnet, dtype):
    mask = half_pruned(convnet.to(dtype))
    weights = convnet.state_dict()
    back = from_bitmask(to_bitmask(weights, mask.prunable))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], value) for name, value in weights.items())


def test_a_bitmask_that_does_not_fit_its_values_is_refused():
    tensors = to_bitmask({"a.weight": tensor([[0.0, 2.0]])}, ["a.weight"])
    with pytest.raises(ValueError, match=r"layer 'a': its bitmask has 1 ones in shape \(1, 2\), expected 2 in shape"):
        from_bitmask({**tensors, "a.compressed": tensor([1.0, 2.0])})


def test_compressed_tensors_unpacks_the_bits(convnet):
    helpers = pytest.importorskip("compressed_tensors.utils.helpers")
    mask = half_pruned(convnet)
    tensors = to_bitmask(convnet.state_dict(), mask.prunable)
    for layer in ("0", "3"):
        places = mask[f"{layer}.weight"] != 0
        assert torch.equal(helpers.unpack_bitmasks(tensors[f"{layer}.bitmask"], list(places.shape)), places)
        assert torch.equal(helpers.pack_bitmasks(places), tensors[f"{layer}.bitmask"])


def test_the_compressor_of_compressed_tensors_reads_and_writes_the_same_file(convnet, tmp_path):
    sparse = pytest.importorskip("compressed_tensors.compressors.sparse_compressors", reason="in 0.14 and before")
    mask, file = half_pruned(convnet), tmp_path / "model.safetensors"
    weights = convnet.state_dict()
    safetensors.torch.save_file(to_bitmask(weights, mask.prunable), file)
    back = dict(sparse.BitmaskCompressor(None).decompress(str(file)))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], value) for name, value in weights.items())
    for name in mask.prunable:
        layer = name.removesuffix(".weight")
        theirs = sparse.BitmaskCompressor(None).compress_weight(layer, weights[name])
        assert all(torch.equal(theirs[key], value) for key, value in to_bitmask({name: weights[name]}, [name]).items())


def test_csr_matrices_are_those_of_scipy(convnet, tmp_path):
    mask, weights = half_pruned(convnet), convnet.state_dict()
    matrices = to_csr(weights, mask.prunable)
    assert {name: matrix.shape for name, matrix in matrices.items()} == {"0.weight": (8, 27), "3.weight": (8, 72)}
    vector = np.ones(27, np.float32)
    assert matrices["0.weight"] @ vector == pytest.approx(weights["0.weight"].flatten(1).sum(1).numpy(), abs=1e-6)

    for name, matrix in matrices.items():
        scipy.sparse.save_npz(tmp_path / name, matrix)
    read = {name: scipy.sparse.load_npz(tmp_path / f"{name}.npz") for name in matrices}
    back = from_csr(read, {name: tuple(mask[name].shape) for name in mask.prunable})
    assert all(torch.equal(back[name], weights[name]) for name in mask.prunable)
    assert all(torch.equal(sign0(back)[name], mask[name]) for name in mask.prunable)


def test_a_matrix_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"matrix 'w' is 1 x 2, which does not fit a tensor of shape \(2, 1\)"):
        from_csr(to_csr({"w": tensor([[1.0, 0.0]])}, ["w"]), {"w": (2, 1)})


def two_of_four(rows: int, columns: int) -> torch.Tensor:
    """Signs, two in each group of four, at places that differ from group to group."""
    pairs = tensor([[1, -1, 0, 0], [0, 1, 1, 0], [-1, 0, 0, 1], [0, 0, -1, -1]], dtype=torch.int8)
    return pairs[torch.arange(rows * columns // 4) % 4].view(rows, columns)


def test_the_layers_that_are_not_two_of_four_say_why():
    crowded = two_of_four(32, 64)
    crowded[3, 4:8] = 1
    mask = SignedMask(
        {
            "fits": two_of_four(32, 64),
            "crowded": crowded,
            "small": two_of_four(32, 32),
            "conv": torch.ones(32, 64, 1, 1, dtype=torch.int8),
        }
    )
    assert misfits(mask) == {
        "crowded": "1 of 512 groups of four have more than two left",
        "small": "32 x 32, not multiples of 32 x 64",
        "conv": "4 dimensions, not a matrix",
    }


def test_torch_keeps_every_weight_of_a_layer_that_fits_and_loses_some_of_one_that_does_not():
    fits, crowded = two_of_four(32, 64).half(), two_of_four(32, 64).half()
    crowded[3, 4:8] = 1
    for weight, kept in ((fits, True), (crowded, False)):
        back = sparse_semi_structured_to_dense_cutlass(*sparse_semi_structured_from_dense_cutlass(weight))
        assert torch.equal(back, weight) is kept


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_a_held_model_runs_in_onnx_as_in_torch(convnet, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    mask = half_pruned(convnet)
    images = torch.randn(5, 3, 6, 6)
    convnet[1].eval()
    with mask.held(convnet):
        optimizer = torch.optim.SGD(convnet.parameters(), lr=0.1, momentum=0.9)
        convnet(images).square().mean().backward()
        optimizer.step()
        to_onnx(convnet, tmp_path / "held.onnx", images[:2])
        assert [layer.training for layer in convnet][:3] == [True, False, True]  # as it was
        expected = copy.deepcopy(convnet).eval()(images).detach().numpy()
    session = onnxruntime.InferenceSession(tmp_path / "held.onnx")
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert logits == pytest.approx(expected, abs=1e-5)
