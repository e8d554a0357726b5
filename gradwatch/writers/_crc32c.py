"""The checksum of TensorBoard's event files: CRC-32C, a block of bytes at a time with numpy.

A CRC is linear: each byte contributes what a table says for its value and for the number of bytes after it. The
state from the blocks before is added onto the first four bytes. TensorBoard's own goes byte by byte in Python.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1024
_POLYNOMIAL = np.uint32(0x82F63B78)
_ONES = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of ``data``, rotated and shifted as the record format wants it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ONES


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of ``data``."""
    table = _table()
    state = _ONES
    for start in range(0, len(data), _BLOCK):
        block = np.frombuffer(data, dtype=np.uint8, count=min(_BLOCK, len(data) - start), offset=start).copy()
        carried = np.frombuffer(state.to_bytes(4, "little"), dtype=np.uint8)[: len(block)]
        block[: len(carried)] ^= carried
        state >>= 8 * len(carried)
        contributions = table[_BLOCK - len(block) :].ravel()[_offsets(len(block)) + block]
        state ^= int(np.bitwise_xor.reduce(contributions))
    return state ^ _ONES


@functools.cache
def _table() -> NDArray[np.uint32]:
    """Contribution of each byte value, first byte of a block first ``[_BLOCK, 256]``."""
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = np.where(row & 1, (row >> 1) ^ _POLYNOMIAL, row >> 1).astype(np.uint32)
    rows = [row]
    while len(rows) < _BLOCK:
        rows.append((rows[-1] >> np.uint32(8)) ^ row[rows[-1] & np.uint32(0xFF)])
    return np.ascontiguousarray(np.stack(rows[::-1]))


@functools.lru_cache(maxsize=64)
def _offsets(size: int) -> NDArray[np.intp]:
    return np.arange(size, dtype=np.intp) * 256
