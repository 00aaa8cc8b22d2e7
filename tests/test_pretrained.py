"""The folder of a mask: no mixture of two masks, no flipped bit, and whole whenever it is read or its writer killed."""

import json
import os
import random
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from aws_lottery import Provenance, Result, SignedMask, SignedMaskConfig
from aws_lottery.mask_file import packing, pretrained

NAMES = ["README.md", "config.json", "signed_mask.safetensors"]


def small_mask(seed: int) -> SignedMask:
    """With as many survivors for every seed, and a configuration that tells the seed."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].weight[seed % 5] = 0
    mask = SignedMask.from_model(model, SignedMaskConfig(seed=seed))
    mask.results = (Result("dense", "digits", [90 + seed / 100]),)
    return mask


def same(one: SignedMask, other: SignedMask) -> bool:
    return one == other and one.results == other.results


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_configuration_of_another_mask_with_as_many_survivors_is_refused(tmp_path):
    one, two = small_mask(1), small_mask(2)
    assert one.remaining == two.remaining
    one.save_pretrained(tmp_path / "one")
    two.save_pretrained(tmp_path / "two")
    (tmp_path / "one" / "config.json").write_bytes((tmp_path / "two" / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"cannot read .*config.json': it is of another mask than signed_mask.safet"):
        SignedMask.from_pretrained(tmp_path / "one")


def test_a_configuration_of_before_there_were_checksums_is_read(tmp_path):
    small_mask(1).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    old = {name: value for name, value in config.items() if name not in ("checked_by", "sha256", "signed_mask_sha256")}
    path.write_text(json.dumps(old))
    assert same(SignedMask.from_pretrained(tmp_path), small_mask(1))
    for name in ("sha256", "signed_mask_sha256"):
        path.write_text(json.dumps({**old, name: config[name]}))
        with pytest.raises(ValueError, match=r"config.json': it is damaged, or was edited"):
            SignedMask.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "signed_mask.safetensors"])
def test_no_flipped_bit_gives_another_mask(tmp_path, name):
    mask = small_mask(1)
    mask.save_pretrained(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(data)), 200):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = SignedMask.from_pretrained(tmp_path)
        except ValueError:
            continue
        assert same(found, mask)  # white space


class Killed(BaseException):
    pass


def kill_at_(patch: pytest.MonkeyPatch, left: int) -> None:
    """Raise at the next call but `left` that flushes, renames or removes a file, and at each after it."""

    def counted(call):
        def wrapped(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return call(*arguments, **options)

        return wrapped

    for name in ("fsync", "replace", "rename", "unlink"):
        patch.setattr(os, name, counted(getattr(os, name)))
    for name in ("replace", "unlink"):
        patch.setattr(Path, name, counted(getattr(Path, name)))


@pytest.mark.parametrize("there", [True, False])
def test_killed_at_any_moment_of_a_save_the_old_mask_is_there_or_the_new_one(tmp_path, there):
    old, new = small_mask(1), small_mask(2)
    outcomes = []
    for moment in range(30):
        folder = tmp_path / str(moment)
        if there:
            old.save_pretrained(folder)
        try:
            with pytest.MonkeyPatch.context() as patch:
                kill_at_(patch, moment)
                new.save_pretrained(folder)
        except Killed:
            pass
        else:
            break
        if not there and not (folder / "config.json").exists():
            with pytest.raises(FileNotFoundError, match=r"no config\.json"):
                SignedMask.from_pretrained(folder)
            outcomes.append("none")
        else:
            found = SignedMask.from_pretrained(folder)
            assert same(found, old) or same(found, new)
            outcomes.append("new" if same(found, new) else "old")
        small_mask(3).save_pretrained(folder)
        assert same(SignedMask.from_pretrained(folder), small_mask(3))
        assert names(folder) == NAMES  # nothing half is left
    first = "old" if there else "none"
    assert set(outcomes) == {first, "new"}
    assert outcomes == sorted(outcomes, key=("none", "old", "new").index)
    assert moment < 29


def test_who_reads_while_masks_are_replaced_gets_one_of_them_whole(tmp_path):
    masks, stop = [small_mask(seed) for seed in (1, 2)], threading.Event()
    masks[0].save_pretrained(tmp_path)

    def write() -> None:
        while not stop.is_set():
            for mask in masks:
                mask.save_pretrained(tmp_path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seeds = set()
        for _ in range(100):
            found = SignedMask.from_pretrained(tmp_path)
            assert same(found, small_mask(found.config.seed))
            seeds.add(found.config.seed)
    finally:
        stop.set()
        writer.join()
    assert seeds == {1, 2}


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j])
def test_what_can_not_be_written_leaves_the_mask_that_was_there(tmp_path, value):
    small_mask(1).save_pretrained(tmp_path)
    new = small_mask(2)
    new.provenance = Provenance(training={"learning_rate": value})
    with pytest.raises(ValueError, match="only plain data can be written as JSON"):
        new.save_pretrained(tmp_path)
    assert same(SignedMask.from_pretrained(tmp_path), small_mask(1))
    assert names(tmp_path) == NAMES


def test_a_configuration_that_finds_no_room_leaves_the_mask_that_was_there(tmp_path, monkeypatch):
    small_mask(1).save_pretrained(tmp_path)
    write = pretrained.replace_file

    def full(path: Path, data: bytes) -> None:
        if path.name == "config.json":
            raise OSError(28, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "replace_file", full)
        with pytest.raises(OSError, match="No space left"):
            small_mask(2).save_pretrained(tmp_path)
    assert same(SignedMask.from_pretrained(tmp_path), small_mask(1))
    assert names(tmp_path) == NAMES


def test_a_card_that_can_not_be_read_leaves_the_mask_that_was_there(tmp_path):
    small_mask(1).save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(ValueError, match=r"front matter of the README.md there can't be read"):
        small_mask(2).save_pretrained(tmp_path)
    assert same(SignedMask.from_pretrained(tmp_path), small_mask(1))


def test_a_number_that_is_not_finite_is_null_in_the_configuration(tmp_path):
    mask = small_mask(1)
    mask.provenance = Provenance(training={"clip": float("inf")})
    mask.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(), parse_constant=pytest.fail)
    assert config["provenance"]["training"] == {"clip": None}
    assert SignedMask.from_pretrained(tmp_path).provenance == Provenance(training={"clip": None})


def test_a_mask_with_more_entries_than_max_parameters_is_refused(tmp_path):
    mask = small_mask(1)
    mask.save_pretrained(tmp_path)
    assert mask.parameters == 47
    assert SignedMask.from_pretrained(tmp_path, max_parameters=47) == mask
    with pytest.raises(packing.PackingError, match=r"more than 46 elements.* \(max_parameters"):
        SignedMask.from_pretrained(tmp_path, max_parameters=46)
