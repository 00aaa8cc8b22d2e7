"""Coding of one array of signs, in numpy: Golomb-Rice gaps (S. Golomb, 1966; R. Rice, 1979) and a bit a sign.

The positions p_0 < p_1 < ... of the nonzeros, or of the zeros where these are fewer, become gaps
g_i = p_i - p_(i-1) - 1, with p_(-1) = -1, and each gap a quotient g_i >> k and a remainder, its k low bits.
The quotient stream holds every quotient in unary: that many 0s, then a 1. The remainders follow as k bit
planes, the lowest bit first, one bit a position in each. With k = 0 there are no planes, and the quotient
stream is the bitmask of the positions, cut after its last 1. The sign stream has a bit for each nonzero,
1 for -1; it is empty where all nonzeros have one sign. Streams and planes fill whole bytes, the highest bit
first, and the last byte of each is padded with 0s.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MAX_K = 40  # keeps the arithmetic of decoding inside 64 bits
_CHUNK = 1 << 15  # bits or elements handled together: bounds the memory, fits the cache


class Code(NamedTuple):
    """The numbers that say how an array was coded."""

    size: int
    nonzeros: int
    negatives: int
    k: int
    quotient_bytes: int

    @property
    def dense(self) -> bool:
        """Whether the zeros are fewer than the nonzeros, so that it is they whose positions are coded."""
        return 2 * self.nonzeros > self.size

    @property
    def coded(self) -> int:
        """How many positions are coded."""
        return self.size - self.nonzeros if self.dense else self.nonzeros

    @property
    def plane_bytes(self) -> int:
        return _byte_length(self.coded)

    @property
    def position_bytes(self) -> int:
        return self.quotient_bytes + self.k * self.plane_bytes

    @property
    def sign_bytes(self) -> int:
        return _byte_length(self.nonzeros) if 0 < self.negatives < self.nonzeros else 0

    def is_possible(self) -> bool:
        """Whether `encode` could return these numbers, for all that they tell by themselves."""
        ordered = 0 <= self.negatives <= self.nonzeros <= self.size
        least, most = (1, _byte_length(self.size)) if self.coded else (0, 0)
        most_k = MAX_K if self.coded else 0
        return ordered and 0 <= self.k <= most_k and least <= self.quotient_bytes <= most


def encode(signs: np.ndarray) -> tuple[Code, np.ndarray, np.ndarray]:
    """Code a flat int8 array of -1, 0 and +1; returns also the position stream and the sign stream, of uint8.

    Memory: at most 2 bytes an entry (4 from 2^32 entries up) beside the streams.
    """
    nonzeros = int(np.count_nonzero(signs))
    sign_stream, negatives = _encode_signs(signs, nonzeros)
    k, quotients, planes = _encode_gaps(_gaps(signs, nonzeros))
    code = Code(len(signs), nonzeros, negatives, k, len(quotients))
    return code, np.concatenate([quotients, *planes]), sign_stream[: code.sign_bytes]


def decode(code: Code, positions: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The inverse of `encode`.

    Args:
        code: possible.
        positions: uint8, code.position_bytes long.
        signs: uint8, code.sign_bytes long.
    Raises: ValueError if the streams do not hold what `code` says, or have 1s for padding.
    """
    values = np.full(code.size, code.dense, np.int8)
    for chunk in _decode_positions(code, positions):
        values[chunk] = not code.dense
    if code.sign_bytes:
        _put_signs_(values, signs, code)
    elif code.negatives:
        np.negative(values, out=values)
    return values


def _encode_signs(signs: np.ndarray, nonzeros: int) -> tuple[np.ndarray, int]:
    """A bit for each nonzero, and how many of these are negative."""
    stream, done, negatives = np.zeros(_byte_length(nonzeros), np.uint8), 0, 0
    for start in range(0, len(signs), _CHUNK):
        part = signs[start : start + _CHUNK]
        negative = part[np.flatnonzero(part != 0)] < 0
        _put_bits_(stream, done, negative)
        done, negatives = done + len(negative), negatives + int(np.count_nonzero(negative))
    return stream, negatives


def _gaps(signs: np.ndarray, nonzeros: int) -> np.ndarray:
    """Between the positions that are coded; as their number is at most half of `signs`, less than that in memory."""
    dense, last, done = 2 * nonzeros > len(signs), -1, 0
    coded = len(signs) - nonzeros if dense else nonzeros
    gaps = np.empty(coded, np.uint32 if len(signs) <= 1 << 32 else np.int64)
    for start in range(0, len(signs), _CHUNK):
        part = signs[start : start + _CHUNK]
        positions = np.flatnonzero((part == 0) if dense else (part != 0)) + start
        if len(positions):
            gaps[done : done + len(positions)] = np.diff(positions, prepend=last) - 1
            done, last = done + len(positions), positions[-1]
    return gaps


def _encode_gaps(gaps: np.ndarray) -> tuple[int, np.ndarray, list[np.ndarray]]:
    """k, quotient stream, planes; with the k that takes the fewest bits."""
    parts = [gaps[start : start + _CHUNK] for start in range(0, len(gaps), _CHUNK)]
    k, unary = 0, _sum_of_quotients(parts, 0)
    # One more plane costs a bit a position and takes ceil(q / 2) off every unary q, ever less as k grows: so
    # the first k at which it does not pay is the best.
    while k < MAX_K and unary - (shorter := _sum_of_quotients(parts, k + 1)) > len(gaps):
        k, unary = k + 1, shorter
    stream, done = np.zeros(_byte_length(unary + len(gaps)), np.uint8), 0
    for part in parts:
        ends = np.cumsum((part >> k).astype(np.int64) + 1)
        bits = np.zeros(ends[-1], bool)
        bits[ends - 1] = True
        _put_bits_(stream, done, bits)
        done += len(bits)
    planes = [np.concatenate([np.packbits((part >> j & 1).astype(bool)) for part in parts]) for j in range(k)]
    return k, stream, planes


def _sum_of_quotients(parts: list[np.ndarray], k: int) -> int:
    return sum(int((part >> k).sum(dtype=np.int64)) for part in parts)


def _decode_positions(code: Code, stream: np.ndarray) -> Iterator[np.ndarray]:
    """The coded positions, increasing, in chunks of int64."""
    planes = stream[code.quotient_bytes :].reshape(code.k, code.plane_bytes)
    for plane in planes:
        _check_padding(plane, code.coded)
    done, base = 0, 0  # positions decoded, sum of their remainders
    for ones in _ones(stream[: code.quotient_bytes]):
        stop = done + len(ones)
        if stop > code.coded:
            raise ValueError(f"its quotient stream holds at least {stop} positions, expected {code.coded}")
        index = np.arange(done, stop)
        high = ones - index  # 0s before each 1: the sum of the quotients up to it
        if high[-1] > code.size >> code.k:  # before the shift, which could overflow
            raise ValueError(f"its gaps run past the end, {code.size}")
        remainders = base + np.cumsum(_remainders(planes, done, stop))
        positions = (high << code.k) + remainders + index
        if positions[-1] >= code.size:
            raise ValueError(f"its gaps run to position {positions[-1]}, expected less than {code.size}")
        yield positions
        done, base = stop, remainders[-1]
    if done != code.coded:
        raise ValueError(f"its quotient stream holds {done} positions, expected {code.coded}")


def _ones(stream: np.ndarray) -> Iterator[np.ndarray]:
    """Positions of the 1 bits of a quotient stream, in chunks that are not empty."""
    if len(stream) and not stream[-1]:
        raise ValueError("its quotient stream ends in a byte of 0s, expected one with a 1")
    for start in range(0, 8 * len(stream), _CHUNK):
        ones = np.flatnonzero(_bits(stream, start, min(start + _CHUNK, 8 * len(stream))))
        if len(ones):
            yield ones + start


def _remainders(planes: np.ndarray, start: int, stop: int) -> np.ndarray:
    total = np.zeros(stop - start, np.int64)
    for j, plane in enumerate(planes):
        total += _bits(plane, start, stop).astype(np.int64) << j
    return total


def _put_signs_(values: np.ndarray, stream: np.ndarray, code: Code) -> None:
    """Negate, of the nonzeros of `values`, which are +1, those whose bit is 1."""
    _check_padding(stream, code.nonzeros)
    done, negatives = 0, 0
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        survivors = np.flatnonzero(part.view(bool))  # indexing with bool itself takes eight times as long
        stop = done + len(survivors)
        negative = _bits(stream, done, stop)
        part[survivors] = 1 - 2 * negative.view(np.int8)
        done, negatives = stop, negatives + int(np.count_nonzero(negative))
    if negatives != code.negatives:
        raise ValueError(f"its sign stream holds {negatives} negatives, expected {code.negatives}")


def _byte_length(bits: int) -> int:
    return (bits + 7) // 8


def _bits(stream: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Bits [start, stop) of a packed stream, as bool."""
    first = start // 8
    return np.unpackbits(stream[first : _byte_length(stop)])[start - 8 * first : stop - 8 * first].view(bool)


def _put_bits_(stream: np.ndarray, start: int, bits: np.ndarray) -> None:
    """Put bits into a packed stream, from bit `start` on, where it has 0s."""
    packed = np.packbits(np.concatenate([np.zeros(start % 8, bool), bits]))
    stream[start // 8 :][: len(packed)] |= packed


def _check_padding(stream: np.ndarray, count: int) -> None:
    if count % 8 and stream[-1] & (0xFF >> count % 8):
        raise ValueError(f"a bit after the last of {count} in a stream is 1, expected 0s for padding")
