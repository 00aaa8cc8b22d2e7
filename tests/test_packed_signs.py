"""A large mask stays packed in memory: all that it does is what a mask of plain tensors does."""

import copy
import pickle
import tracemalloc
from collections.abc import Mapping

import pytest
import torch
from accelerate import debug_launcher
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, tensor

from aws_lottery import AWSPruner, SignedMask, SignedMaskConfig
from aws_lottery.mask_algebra import consensus, difference, intersection, likeness, union
from aws_lottery.mask_file import golomb_rice, packed_signs, packing, pretrained
from aws_lottery.mask_file.packed_signs import PackedSigns
from aws_lottery.sharding import local, whole
from aws_lottery.transfers import TRANSFERS


def packed(signs: Mapping[str, Tensor], **options) -> SignedMask:
    return SignedMask(PackedSigns.of(signs.items()), **options)


def is_packed(mask: SignedMask) -> bool:
    return isinstance(mask.signs, PackedSigns)


def as_lists(mask: SignedMask) -> dict[str, list]:
    return {name: value.tolist() for name, value in mask.items()}


@pytest.fixture
def all_packed(monkeypatch):
    """As if every mask were large."""
    monkeypatch.setattr(packed_signs, "WHOLE_ENTRIES", 0)


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("decoded")

    monkeypatch.setattr(golomb_rice, "decode", refuse)


@st.composite
def masks(draw) -> dict[str, Tensor]:
    """Two to four tensors of 1 to 60 entries, of any share of zeros and of -1."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    signs = {}
    for index in range(draw(st.integers(2, 4))):
        shape = draw(st.lists(st.integers(1, 5), min_size=0, max_size=3).filter(lambda s: len(s) != 1))
        left, minus = draw(st.sampled_from([0, 0.1, 0.5, 0.9, 1])), draw(st.sampled_from([0, 0.5, 1]))
        survives, negative = (torch.rand(shape, generator=rng) < share for share in (left, minus))
        signs[f"layer{index}.weight"] = (survives * (1 - 2 * negative.to(torch.int8))).to(torch.int8)
    return signs


@settings(deadline=None, max_examples=20)
@given(masks(), st.integers(0, 9))
def test_a_packed_mask_tells_and_makes_what_a_plain_one_does(signs, seed):
    roles = {"prunable": tuple(signs)[:-1], "parameters": 1000, "config": SignedMaskConfig(architecture="small")}
    mask, plain = packed(signs, **roles), SignedMask(signs, **roles)
    assert is_packed(mask)
    assert not is_packed(plain)
    assert mask == plain
    assert (repr(mask), mask.remaining, mask.remaining_total) == (repr(plain), plain.remaining, plain.remaining_total)
    assert str(mask.table()) == str(plain.table())  # as text: NaN where nothing is left
    assert mask.shapes == plain.shapes
    assert packed_signs.sha256(mask.signs) == packed_signs.sha256(signs)
    assert pretrained.packed(mask) == pretrained.packed(plain)
    assert mask.binary() == plain.binary()
    assert mask.with_random_signs(seed) == plain.with_random_signs(seed)
    assert str(likeness(mask, mask.with_random_signs(seed))) == str(likeness(plain, plain.with_random_signs(seed)))


@pytest.mark.parametrize("join", [union, intersection, difference, lambda *both: consensus(both)])
def test_packed_masks_are_joined_as_plain_ones(join):
    first = {"w": tensor([[1, -1], [0, 1]], dtype=torch.int8), "b": tensor([0, 1], dtype=torch.int8)}
    second = {"w": tensor([[1, 1], [-1, 0]], dtype=torch.int8), "b": tensor([1, 1], dtype=torch.int8)}
    assert join(packed(first), packed(second)) == join(SignedMask(first), SignedMask(second))


def test_what_is_made_of_large_masks_is_packed_as_well(all_packed):
    mask = packed({"w": tensor([[1, -1], [0, 1]], dtype=torch.int8)})
    made = [mask.binary(), mask.with_random_signs(1), union(mask, mask), TRANSFERS["shuffled-mask"].mask(mask, 0)]
    assert all(map(is_packed, made))
    assert as_lists(made[0]) == {"w": [[1, 1], [0, 1]]}
    assert as_lists(made[2]) == {"w": [[1, -1], [0, 1]]}


def test_a_mask_is_packed_if_it_has_more_entries_than_may_be_whole(convnet, tmp_path, monkeypatch):
    mask = SignedMask.from_model(convnet)
    mask.save_pretrained(tmp_path)
    entries = sum(value.numel() for value in mask.values())
    for most, large in ((entries, False), (entries - 1, True)):
        monkeypatch.setattr(packed_signs, "WHOLE_ENTRIES", most)
        for same in (SignedMask.from_model(convnet), SignedMask.from_pretrained(tmp_path)):
            assert is_packed(same) is large
            assert same == mask


def test_a_packed_mask_is_applied_and_held_as_a_plain_one(convnet, make_convnet, all_packed):
    with torch.no_grad():
        convnet[3].weight[:, :4] = 0
    mask, fresh = SignedMask.from_model(convnet), make_convnet()
    assert is_packed(mask)
    plain, other = (
        SignedMask(dict(mask), mask.config, prunable=mask.prunable, parameters=mask.parameters),
        make_convnet(),
    )
    other.load_state_dict(fresh.state_dict())
    mask.apply_(fresh)
    plain.apply_(other)
    with mask.held(fresh) as hold, plain.held(other) as other_hold:
        assert all(torch.equal(m, other_hold.masks[name]) for name, m in hold.masks.items())
    assert all(torch.equal(p, other.get_parameter(name)) for name, p in fresh.named_parameters())


def test_what_is_known_of_a_packed_mask_is_told_and_written_without_decoding(
    convnet, tmp_path, all_packed, no_decoding
):
    mask = SignedMask.from_model(convnet)
    mask.save_pretrained(tmp_path)
    assert "0.weight" in mask
    assert "1.weight" not in mask
    assert mask.shapes["7.bias"] == (4,)
    assert (mask.remaining, len(mask.table()), len(repr(mask)) > 50) == (1.0, 5, True)


def test_a_copy_and_a_pickle_of_a_packed_mask_are_packed_and_equal(tmp_path, all_packed):
    mask = packed({"w": tensor([[1, -1], [0, 1]], dtype=torch.int8), "b": tensor([0, 0], dtype=torch.int8)})
    mask.save_pretrained(tmp_path)
    for original in (mask, SignedMask.from_pretrained(tmp_path)):
        for same in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
            assert is_packed(same)
            assert as_lists(same) == {"w": [[1, -1], [0, 1]], "b": [0, 0]}


def test_a_mask_made_of_a_packed_mask_is_packed(no_decoding):
    mask = packed({"w": tensor([1, -1, 0], dtype=torch.int8), "b": tensor([1], dtype=torch.int8)})
    same = SignedMask(mask, prunable=("w",))
    assert is_packed(same)
    assert (same.prunable, mask.prunable) == (("w",), ("w", "b"))


def test_each_access_decodes_a_tensor_of_its_own():
    mask = packed({"w": tensor([1, -1, 0], dtype=torch.int8)})
    mask["w"].zero_()
    assert mask["w"].tolist() == [1, -1, 0]
    with pytest.raises(KeyError):
        mask["v"]


def test_a_damaged_file_of_a_large_mask_is_refused_when_it_is_read(tmp_path, all_packed):
    packing.write(tmp_path / "s", {"w": tensor([1, 0, 0, -1, 0, 0], dtype=torch.int8)}, {})
    data = bytearray((tmp_path / "s").read_bytes())
    for at in range(1, 3):
        spoiled = data.copy()
        spoiled[-at] ^= 0x80
        with pytest.raises(packing.PackingError):
            packing.unpack(bytes(spoiled))


def test_other_values_are_refused_by_name_before_they_are_packed():
    with pytest.raises(ValueError, match="'w' must be int8"):
        packed({"w": tensor([2], dtype=torch.int8)})
    with pytest.raises(ValueError, match="without signs has 0 and 1, 'w' has -1"):
        packed({"w": tensor([-1], dtype=torch.int8)}, signed=False)


def test_a_large_mask_takes_the_memory_of_its_file_and_of_one_tensor(tmp_path, all_packed):
    size, rng = 1 << 22, torch.Generator().manual_seed(0)
    signs = {name: torch.randint(-1, 2, (size,), generator=rng, dtype=torch.int8) for name in "abc"}
    packing.write(tmp_path / "s", signs, {})
    file = (tmp_path / "s").stat().st_size
    tracemalloc.start()
    try:
        found, _ = packing.read(tmp_path / "s")
        kept, peak = tracemalloc.get_traced_memory()
        assert kept < file + 0.1 * size
        assert peak < file + 1.5 * size
        tracemalloc.reset_peak()
        packing.pack(found, {})
        assert tracemalloc.get_traced_memory()[1] < 2 * file + 0.1 * size  # the copy that is written
    finally:
        tracemalloc.stop()


def test_packing_a_tensor_takes_less_memory_than_twice_the_tensor():
    rng = torch.Generator().manual_seed(0)
    values = torch.randint(2, (1 << 22,), generator=rng, dtype=torch.int8)  # half of them: the worst case
    tracemalloc.start()
    try:
        PackedSigns.of([("w", values)])
        assert tracemalloc.get_traced_memory()[1] < 2.6 * values.numel()
    finally:
        tracemalloc.stop()


def test_the_state_of_a_solution_has_its_mask_packed_and_older_states_by_name(convnet, make_convnet):
    config = SignedMaskConfig(rounds=1)
    pruner = AWSPruner(convnet, config)
    list(pruner.rounds(solution_epochs=1))
    mask, state = pruner.signed_mask(), pruner.state_dict()
    assert state["found"].dtype == torch.uint8
    for found in (state["found"], dict(mask)):
        other = make_convnet()
        resumed = AWSPruner(other, config)
        resumed.load_state_dict({**state, "found": found})
        assert resumed.signed_mask() == mask


def network() -> nn.Module:
    """Shapes that two processes can't share evenly."""
    return nn.Sequential(nn.Linear(6, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 5), nn.Linear(5, 3))


def _on_each_rank(folder: str):
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    torch.manual_seed(0)
    packed_signs.WHOLE_ENTRIES = 0  # this process is the test's own
    model, fresh = network(), network()
    with torch.no_grad():
        model[0].weight[2:5] = 0
    expected, start = SignedMask.from_model(model), copy.deepcopy(fresh)
    expected.apply_(start)
    for module in (model, fresh):
        fully_shard(module[0])
        fully_shard(module)
    mask = SignedMask.from_model(model)
    assert is_packed(mask)
    assert mask == expected
    if torch.distributed.get_rank() == 0:
        mask.save_pretrained(folder)
    torch.distributed.barrier()
    read = SignedMask.from_pretrained(folder)
    assert is_packed(read)
    read.apply_(fresh)
    with read.held(fresh) as hold:
        assert {name: local(m).numel() for name, m in hold.masks.items()} == {
            name: local(fresh.get_parameter(name)).numel() for name in hold.masks
        }
        assert all(torch.equal(whole(m) != 0, expected[name] != 0) for name, m in hold.masks.items())
    assert all(torch.equal(whole(p.detach()), start.get_parameter(name)) for name, p in fresh.named_parameters())
    pruner = AWSPruner(fresh, SignedMaskConfig(rounds=1), mask=read)
    assert pruner.signed_mask()["0.weight"].tolist() == expected["0.weight"].tolist()


@pytest.mark.multiprocess
@pytest.mark.filterwarnings("ignore")  # torch.distributed's own warnings
def test_the_mask_of_a_sharded_model_is_packed_saved_read_applied_and_held_as_of_one_process(tmp_path):
    debug_launcher(_on_each_rank, args=(str(tmp_path),), num_processes=2)
