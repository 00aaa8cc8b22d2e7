"""The file of docs/format.md: exact, small, the same everywhere, safe against broken and hostile bytes."""

import itertools
import json
import math
import os
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, tensor

from aws_lottery.mask_file import packing
from aws_lottery.mask_file.packing import PackingError

GOLDEN = Path(__file__).parent / "golden" / "v1"
FORMAT_MD = Path(__file__).parents[1] / "docs" / "format.md"


def signs(*values: int, shape: tuple[int, ...] = (-1,)) -> Tensor:
    return tensor(values, dtype=torch.int8).reshape(shape)


# the worked example of docs/format.md
EXAMPLE = {"w": signs(0, 0, 0, 0, 0, 1, 0, 0, 0, -1, 0, 0, shape=(3, 4))}

# one tensor of each kind; about as small a file as can be
HONEST = {
    **EXAMPLE,
    "dense": signs(1, -1, 1, 0, -1, -1, shape=(2, 3)),  # the zero is coded
    "plus": signs(1, 1, 1),  # nothing is coded
    "minus": signs(-1, 0, 0, -1),  # no sign stream
    "none": signs(0, 0),
    "empty": signs(shape=(0, 3)),
    "scalar": signs(-1, shape=()),
}
METADATA = {"note": "für Œdipe"}
DATA = packing.pack(HONEST, METADATA)


def random_mask(densities: dict[tuple[int, ...], float], seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    mask = {}
    for number, (shape, density) in enumerate(densities.items()):
        uniform = torch.rand(shape, generator=rng)
        survives, minus = ((uniform < p).to(torch.int8) for p in (density, density / 2))
        mask[f"layer{number}.weight"] = survives - 2 * minus
    return mask


def shannon_bytes(mask: dict[str, Tensor]) -> float:
    bits = 0.0
    for s in mask.values():
        p = torch.count_nonzero(s).item() / s.numel()
        bits += s.numel() * (p - sum(q * math.log2(q) for q in (p, 1 - p) if q))
    return bits / 8


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, s in expected.items():
        assert found[name].dtype == torch.int8
        assert found[name].shape == s.shape
        assert found[name].tolist() == s.tolist()


def test_read_returns_what_write_was_given_in_its_order(tmp_path):
    packing.write(tmp_path / "s.safetensors", HONEST, METADATA)
    found, metadata = packing.read(tmp_path / "s.safetensors")
    assert_same(found, HONEST)
    assert metadata == METADATA


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.tuples(
            st.lists(st.integers(0, 12), max_size=3),
            st.sampled_from([0, 0.01, 0.1, 0.3, 0.5, 0.9, 1]),  # density
            st.sampled_from([0, 0.5, 1]),  # share of -1
        ),
        max_size=4,
    ),
    st.integers(0, 2**32),
)
def test_any_mask_survives_the_round_trip(tensors, seed):
    rng = torch.Generator().manual_seed(seed)
    mask = {}
    for name, (shape, density, negative) in tensors.items():
        survives, minus = (torch.rand(shape, generator=rng) < p for p in (density, negative))
        mask[name] = (survives * (1 - 2 * minus.to(torch.int8))).to(torch.int8)
    found, _ = packing.unpack(packing.pack(mask, {}))
    assert_same(found, mask)


@pytest.mark.parametrize("density", [0.0005, 0.02, 0.14, 0.5, 0.8])
def test_tensors_of_more_than_one_chunk_survive_the_round_trip(density):
    mask = random_mask({(300, 1001): density})
    found, _ = packing.unpack(packing.pack(mask, {}))
    assert torch.equal(found["layer0.weight"], mask["layer0.weight"])


def test_a_decoder_that_follows_the_specification_word_by_word_agrees():
    mask = {**HONEST, **random_mask({(40, 50): 0.02, (30, 3, 5): 0.7, (200,): 0.4})}
    expected = {name: s.flatten().tolist() for name, s in mask.items()}
    assert naive_unpack(packing.pack(mask, METADATA)) == expected


def naive_unpack(data: bytes) -> dict[str, list[int]]:
    """Name -> signs in row-major order, by docs/format.md, a bit at a time, for honest files."""
    (length,) = struct.unpack_from("<Q", data)
    _, *rows = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tensors"])
    body = iter(data[8 + length :])

    def bits(count: int) -> Iterator[int]:
        stream = list(itertools.islice(body, (count + 7) // 8))
        return (byte >> shift & 1 for byte in stream for shift in range(7, -1, -1))

    mask = {}
    for name, shape, nonzeros, _, k, quotient_bytes in rows:
        dense = 2 * nonzeros > math.prod(shape)
        coded = math.prod(shape) - nonzeros if dense else nonzeros
        unary, planes = bits(8 * quotient_bytes), [bits(coded) for _ in range(k)]
        mask[name], at = [int(dense)] * math.prod(shape), -1
        for _ in range(coded):
            quotient = next(count for count in itertools.count() if next(unary))
            at += 1 + (quotient << k) + sum(next(plane) << j for j, plane in enumerate(planes))
            mask[name][at] = int(not dense)
    for name, _, nonzeros, negatives, _, _ in rows:
        mixed = 0 < negatives < nonzeros
        minus = bits(nonzeros) if mixed else itertools.repeat(int(negatives > 0))
        mask[name] = [s - 2 * next(minus) if s else 0 for s in mask[name]]
    return mask


def test_a_view_is_stored_in_row_major_order():
    view = signs(1, 0, -1, 0, 0, 1, shape=(2, 3)).T
    found, _ = packing.unpack(packing.pack({"w": view}, {}))
    assert found["w"].tolist() == [[1, 0], [0, 0], [-1, 1]]
    every_second, _ = packing.unpack(packing.pack({"w": signs(1, 0, -1, 0, 0, 1, shape=(6,))[::2]}, {}))
    assert every_second["w"].tolist() == [1, -1, 0]


def test_the_streams_are_those_that_the_specification_works_out():
    # gaps 5 and 3, k = 1: quotients 2 and 1 in unary are 001 01, remainders 1 and 1, signs 0 and 1
    assert packing.pack(EXAMPLE, {}).endswith(bytes([0b00101_000, 0b11_000000, 0b01_000000]))


def test_the_specification_shows_the_bytes_that_are_written():
    data = packing.pack(EXAMPLE, {})
    page = FORMAT_MD.read_text("utf-8")
    for piece in data[:8].hex(" "), data[8:-3].decode().rstrip(), data[-3:].hex(" "):
        assert piece in page


def test_the_safetensors_package_opens_the_file(tmp_path):
    packing.write(tmp_path / "s.safetensors", HONEST, METADATA)
    with safe_open(tmp_path / "s.safetensors", "pt") as file:
        assert set(file.keys()) == {"positions", "signs"}
        assert file.metadata()["note"] == "für Œdipe"


def test_a_mask_without_tensors_is_a_file_too():
    assert packing.unpack(packing.pack({}, {})) == ({}, {})


def test_golden_files_load_for_ever_and_are_written_alike():
    expected = json.loads((GOLDEN / "expected.json").read_text("utf-8"))
    mask = {name: signs(*s["signs"], shape=s["shape"]) for name, s in expected["signs"].items()}
    found, metadata = packing.read(GOLDEN / "signed_mask.safetensors")
    assert_same(found, mask)
    assert metadata == expected["metadata"]
    assert packing.pack(mask, metadata) == (GOLDEN / "signed_mask.safetensors").read_bytes()


def test_another_process_writes_the_same_bytes_whatever_the_order_of_metadata():
    code = (
        "import sys, torch; from aws_lottery.mask_file import packing; "
        "mask = {'b': torch.ones(3).char(), 'a': torch.zeros(9).char()}; "
        "sys.stdout.buffer.write(packing.pack(mask, {key: key for key in 'zyxwvu'}))"
    )
    theirs = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    ours = packing.pack({"b": signs(1, 1, 1), "a": signs(*[0] * 9)}, {key: key for key in "uvwxyz"})
    assert theirs == ours


def test_the_file_is_within_3_percent_of_the_shannon_limit():
    layers = {
        (256, 128, 3, 3): 0.07,
        (512, 256, 3, 3): 0.05,
        (64, 64, 3, 3): 0.6,
        (512, 512): 0.2,
        (10, 512): 1.0,
    }
    mask = random_mask({**layers, (128, 64): 0.4, (1, 512): 0.5})
    assert sum(s.numel() for s in mask.values()) > 1_000_000
    assert len(packing.pack(mask, {})) < 1.03 * shannon_bytes(mask)


def test_a_mask_of_one_sign_takes_no_sign_bits():
    mask = {"w": random_mask({(1000, 100): 0.3})["layer0.weight"].abs()}
    positions_only = shannon_bytes(mask) - mask["w"].count_nonzero().item() / 8
    assert len(packing.pack(mask, {})) < 1.02 * positions_only + 500  # 500: the header


def test_decoding_takes_little_more_memory_than_its_result():
    mask = random_mask({(1 << 11, 1 << 11): 0.14})
    data = packing.pack(mask, {})
    tracemalloc.start()
    try:
        packing.unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * (1 << 22)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bad", [signs(1, 2), signs(-128), torch.ones(2)])
def test_other_values_and_dtypes_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"'conv1\.weight' must be int8 in \{-1, 0, 1\}"):
        packing.pack({"fine": signs(1), "conv1.weight": bad}, {})


@pytest.mark.parametrize("metadata", [{"sha256": "0"}, {"rounds": 9}, {9: "rounds"}])
def test_metadata_that_would_not_come_back_are_refused(metadata):
    with pytest.raises(ValueError, match="must be strings, and the key none of"):
        packing.pack({}, metadata)


def test_write_replaces_a_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "s.safetensors"
    path.write_bytes(b"old")
    packing.write(path, HONEST, METADATA)
    assert path.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    def fail(*args):
        raise OSError("disk full")

    path = tmp_path / "s.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        packing.write(path, HONEST, METADATA)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_that_the_umask_gives(tmp_path):
    umask = os.umask(0o027)
    try:
        packing.write(tmp_path / "s.safetensors", {}, {})
    finally:
        os.umask(umask)
    assert (tmp_path / "s.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_missing_file_is_an_ordinary_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        packing.read(tmp_path / "none.safetensors")


def test_a_file_that_would_decode_to_more_than_max_elements_is_refused(tmp_path):
    packing.write(tmp_path / "s.safetensors", {"w": signs(1, 1, 1)}, {})
    assert packing.read(tmp_path / "s.safetensors", max_elements=3)[0]["w"].tolist() == [1, 1, 1]
    with pytest.raises(PackingError, match=r"s\.safetensors.* more than 2 elements.* give its number of parameters"):
        packing.read(tmp_path / "s.safetensors", max_elements=2)


def test_a_mask_that_takes_nearly_no_bits_is_padded_to_a_byte_for_1024_elements():
    data = packing.pack({"w": torch.zeros(3 << 20, dtype=torch.int8)}, {})
    assert 3 << 10 <= len(data) <= (3 << 10) + 8
    assert not packing.unpack(data)[0]["w"].any()


def test_a_file_may_have_64_elements_for_each_byte_or_64_mi_of_them():
    assert packing._limit(1) == 1024
    assert packing._limit(1 << 16) == 1 << 26
    assert packing._limit(1 << 20) == 1 << 26
    assert packing._limit(1 << 22) == 1 << 28


def test_a_mask_of_more_than_64_mi_elements_is_padded_to_a_byte_for_64(monkeypatch):
    monkeypatch.setattr(packing, "FREE_ELEMENTS", 1 << 20)  # for speed
    data = packing.pack({"w": torch.zeros(3 << 20, dtype=torch.int8)}, {})
    assert 3 << 14 <= len(data) <= (3 << 14) + 8
    assert not packing.unpack(data)[0]["w"].any()


def test_a_file_of_4_mib_that_declares_4_gi_elements_is_refused_before_anything_is_decoded():
    text = with_row("plus", shape=[1 << 32], nonzeros=1 << 32)[8:-7]
    data = join(text.ljust(1 << 22))
    tracemalloc.start()
    try:
        with pytest.raises(PackingError, match=r"it declares more than 2684\d+ elements"):
            packing.unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


# Broken and hostile files: the honest one with something changed.

TEXT, BODY = DATA[8:-7], DATA[-7:]
W, DENSE, MINUS, W_SIGNS = 0, 2, 4, 5  # where in BODY the streams of these tensors begin
HUGE = 10**12


def join(text: bytes, body: bytes = BODY) -> bytes:
    return struct.pack("<Q", len(text)) + text + body


def in_text(old: str, new: str) -> bytes:
    assert old.encode() in TEXT
    return join(TEXT.replace(old.encode(), new.encode(), 1))


def with_entries(**entries) -> bytes:
    return join(json.dumps({**json.loads(TEXT), **entries}).encode())


def with_streams(positions: list, signs: list, **more) -> bytes:
    positions, signs = (
        {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop], **more}
        for start, stop in (positions, signs)
    )
    return with_entries(positions=positions, signs=signs)


def with_metadata(**entries) -> bytes:
    return with_entries(__metadata__={**json.loads(TEXT)["__metadata__"], **entries})


def with_table(change: Callable[[list], object]) -> bytes:
    table = json.loads(json.loads(TEXT)["__metadata__"]["tensors"])
    change(table)
    return with_metadata(tensors=json.dumps(table))


def with_row(name: str, /, **columns) -> bytes:
    def change(table):
        row = next(row for row in table if row[0] == name)
        for column, value in columns.items():
            row[table[0].index(column)] = value

    return with_table(change)


def with_byte(at: int, byte: int) -> bytes:
    return join(TEXT, BODY[:at] + bytes([byte]) + BODY[at + 1 :])


HOSTILE = {
    "no bytes": (b"", "0 bytes, expected 8"),
    "header past the end": (struct.pack("<Q", len(DATA) - 7) + DATA[8:], "announce a header of"),
    "header of 2^64 bytes": (b"\xff" * 8 + DATA[8:], "announce a header of"),
    "bytes at the end": (DATA + b"\0", "8 bytes follow its header, expected 7"),
    "not UTF-8": (join(TEXT.replace("ü".encode(), b"\xff")), "not proper JSON"),
    "UTF-16": (join(TEXT.decode().encode("utf-16")), "not proper JSON"),
    "half a surrogate pair": (in_text("für", "\\ud800"), "not proper JSON"),
    "NaN": (in_text('"für Œdipe"', "NaN"), "not proper JSON"),
    "infinity": (in_text('"für Œdipe"', "-Infinity"), "not proper JSON"),
    "float overflow": (in_text('"für Œdipe"', "1e999"), "not proper JSON"),
    "5000 digits": (in_text('"für Œdipe"', "9" * 5000), "not proper JSON"),
    "abyss of brackets": (join(b"[" * 1_000_000), "not proper JSON"),
    "abyss in the table": (with_metadata(tensors="[" * 100_000), "not proper JSON"),
    "a key twice": (in_text('"note":', '"sha256":"0","note":'), "not proper JSON"),
    "a stream twice": (in_text('"signs":', '"positions":{},"signs":'), "not proper JSON"),
    "header not an object": (join(b"[1]"), "expected a JSON object"),
    "no metadata": (join(b"{}"), "does it hold weights"),
    "another format": (with_metadata(format="pt"), "does it hold weights"),
    "metadata not strings": (with_metadata(note=1), "expected strings only"),
    "version zero": (with_metadata(format_version="0"), "format version is '0', expected '1'"),
    "version not a number": (with_metadata(format_version="٢"), "format version is"),
    "no checksum": (in_text('"sha256"', '"sha512"'), r"lack \['sha256'\]"),
    "another checksum": (with_metadata(sha256="0" * 64), "SHA-256 .* expected '000"),
    "streams overlap": (with_streams([0, 5], [4, 6]), "expected"),
    "stream of negative size": (with_streams([0, 5], [7, 5]), "expected"),
    "stream past the end": (with_streams([0, 5], [5, HUGE]), "expected"),
    "streams exchanged": (with_streams([2, 7], [0, 2]), "expected"),
    "stream of bool size": (in_text('"shape":[2]', '"shape":[true]'), "expected"),
    "stream of float size": (in_text('"shape":[2]', '"shape":[2.0]'), "expected"),
    "stream of another dtype": (with_streams([0, 5], [5, 7], dtype="I8"), "expected"),
    "one stream more": (with_entries(more={}), "expected"),
    "table not a list": (with_metadata(tensors="1"), "expected the columns"),
    "other columns": (with_table(lambda table: table[0].reverse()), "expected the columns"),
    "a column more": (with_table(lambda table: table[1].append(0)), "impossible for the columns"),
    "a row not a list": (with_table(lambda table: table.append({})), "impossible for the columns"),
    "two tensors of a name": (with_row("plus", name="none"), "two of its tensors are called 'none'"),
    "name not a string": (with_row("plus", name=1), "impossible"),
    "another name": (with_row("plus", name="Plus"), "SHA-256"),
    "another shape": (with_row("w", shape=[4, 3]), "SHA-256"),
    "a tensor less": (with_table(lambda table: table.pop(3)), "SHA-256"),
    "shape not a list": (with_row("plus", shape=3), "impossible"),
    "negative size": (with_row("plus", shape=[-1, -3]), "impossible"),
    "bool size": (with_row("scalar", shape=[True]), "impossible"),
    "float size": (with_row("plus", shape=[3.0]), "impossible"),
    "65 dimensions": (with_row("scalar", shape=[1] * 65), "impossible"),
    "huge and all plus": (with_row("plus", shape=[HUGE], nonzeros=HUGE), "more than .* elements"),
    "huge and empty": (with_row("empty", shape=[0, HUGE, HUGE]), "more than .* elements"),
    "huge by 64 factors": (with_row("none", shape=[10**4000] * 64), "more than .* elements"),
    "smaller than its nonzeros": (with_row("plus", shape=[2]), "impossible"),
    "negative nonzeros": (with_row("none", nonzeros=-1), "impossible"),
    "nonzeros one too many": (with_row("w", nonzeros=3), "quotient stream holds 2 positions, expected 3"),
    "nonzeros one too few": (
        with_row("minus", nonzeros=1, negatives=1),
        "holds at least 2 positions, expected 1",
    ),
    "more negatives than nonzeros": (with_row("w", negatives=3), "impossible"),
    "another sign for all": (with_row("plus", negatives=3), "SHA-256"),
    "negative k": (with_row("w", k=-1), "impossible"),
    "k of 41": (with_row("w", k=41), "impossible"),
    "k without positions": (with_row("plus", k=1), "impossible"),
    "k of another stream length": (with_row("w", k=2), "expected"),
    "no quotient stream": (with_row("w", quotient_bytes=0), "impossible"),
    "huge quotient stream": (with_row("w", quotient_bytes=HUGE), "impossible"),
    "quotients all zeros": (with_byte(W, 0x00), "tensor 'w': its quotient stream ends in a byte of 0s"),
    "quotients all ones": (with_byte(W, 0xFF), "holds at least 8 positions, expected 2"),
    "a quotient missing": (with_byte(W, 0b00100_000), "holds 1 positions, expected 2"),
    "gaps past the end": (with_byte(W, 0b000001_01), "run to position 15, expected less than 12"),
    "a gap to the end": (with_byte(MINUS, 0b10001_000), "run to position 4, expected less than 4"),
    "quotients past the end": (with_byte(DENSE, 0b0000_0001), "run past the end, 6"),
    "another gap": (with_byte(MINUS, 0b101_00000), "SHA-256"),
    "padding of a plane": (with_byte(W + 1, 0b11_000001), "a bit after the last of 2 in a stream is 1"),
    "padding of the signs": (with_byte(W_SIGNS, 0b01_100000), "a bit after the last of 2 in a stream is 1"),
    "signs exchanged": (with_byte(W_SIGNS, 0b10_000000), "SHA-256"),
    "a negative missing": (with_byte(W_SIGNS, 0), "holds 0 negatives, expected 1"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_broken_and_hostile_files_are_refused(tmp_path, data, message):
    path = tmp_path / "s.safetensors"
    path.write_bytes(data)
    with pytest.raises(PackingError, match=rf"s\.safetensors': .*{message}"):
        packing.read(path)


def test_a_file_cut_short_anywhere_is_refused():
    for length in range(len(DATA)):
        with pytest.raises(PackingError, match="download it again"):
            packing.unpack(DATA[:length])


def test_a_file_of_a_newer_version_says_to_upgrade():
    newer = {"__metadata__": {"format": packing.FORMAT, "format_version": "2"}}
    with pytest.raises(PackingError, match=r"format version is 2, .*pip install --upgrade aws_lottery"):
        packing.unpack(join(json.dumps(newer).encode()))


def spoiled(piece: bytes, rng: random.Random) -> bytes:
    """`piece` with one to three changes: a bit flipped, or some of its bytes inserted or put over others."""
    data = bytearray(piece)
    for _ in range(rng.randint(1, 3)):
        start, to, length = rng.randrange(len(data)), rng.randrange(len(data)), rng.randint(0, 9)
        match rng.randrange(3):
            case 0:
                data[start] ^= 1 << rng.randrange(8)
            case 1:
                data[to:to] = data[start : start + length]
            case 2:
                data[to : to + length] = data[start : start + length]
    return bytes(data)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_spoiled_files_are_refused_or_still_verified(count):
    rng = random.Random(0)
    for _ in range(count):
        whole, text, body = spoiled(DATA, rng), join(spoiled(TEXT, rng)), join(TEXT, spoiled(BODY, rng))
        for data in (whole, text, body):
            try:
                found, _ = packing.unpack(data)
            except PackingError:
                continue
            assert_same(found, HONEST)
