"""TFRecord files: records framed by their length, both checked by a masked CRC-32C.

A record is the length (8 bytes, little endian), the CRC of these 8 bytes (4), the data, and the CRC
of the data (4). The CRC is Castagnoli's, rotated right by 15 bits, plus a constant.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, BinaryIO

from scalekit.errors import InputError

if TYPE_CHECKING:
    import numpy as np

HEAD = 12
"""Bytes before the data."""

_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8
_BLOCK = 256
_SHORT = 4 * _BLOCK
"""Data that is shorter is checked byte by byte, which costs less than two calls of numpy."""


class Records:
    """The records of a file, read once.

    Attributes:
        torn: How many bytes at the end are no whole record, known once all were read.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file = file
        self.where = where
        self.torn = 0

    def __iter__(self) -> Iterator[bytes]:
        """Read the records; what a killed writer left at the end is counted in `torn`.

        Raises:
            InputError: A record before the last is damaged.
        """
        place = 0
        while head := self.file.read(HEAD):
            if len(head) < HEAD:
                self.torn = len(head)
                return
            size = length(head)
            if size is None:
                raise InputError(
                    f"{self.where}: damaged at byte {place}, the CRC of a record's length is "
                    "wrong; copy the file again"
                )
            data, end = self.file.read(size), self.file.read(4)
            if len(data) < size or len(end) < 4:
                self.torn = HEAD + len(data) + len(end)
                return
            if masked_crc(data) != struct.unpack("<I", end)[0]:
                raise InputError(
                    f"{self.where}: damaged at byte {place}, the CRC of a record's data is wrong; "
                    "copy the file again"
                )
            place += HEAD + size + 4
            yield data


def length(head: bytes) -> int | None:
    """Return the length that a record's head states; None where it is not one."""
    if len(head) < HEAD or masked_crc(head[:8]) != struct.unpack("<I", head[8:HEAD])[0]:
        return None
    return struct.unpack("<Q", head[:8])[0]


def masked_crc(data: bytes) -> int:
    """Return the CRC that a file holds for data.

    >>> hex(crc32c(b"123456789"))  # the check value of the catalogue of CRCs
    '0xe3069283'
    """
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Return Castagnoli's CRC of data."""
    crc, start = 0xFFFFFFFF, 0
    if len(data) >= _SHORT:
        crc, start = _by_blocks(data, crc)
    table = _table()
    for byte in data[start:]:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        found.append(crc)
    return tuple(found)


@cache
def _tables() -> np.ndarray:
    """Return what byte b at place k of a block does to the CRC after it, (256 places, 256 values).

    The CRC is linear: that of a block is the exclusive or of what each byte does by itself.
    """
    import numpy as np

    one = np.array(_table(), dtype=np.uint32)
    found = np.empty((_BLOCK, 256), dtype=np.uint32)
    found[-1] = one
    for place in range(_BLOCK - 2, -1, -1):
        after = found[place + 1]
        found[place] = one[after & 0xFF] ^ (after >> 8)
    return found


def _by_blocks(data: bytes, crc: int) -> tuple[int, int]:
    """Carry a CRC over the whole blocks of data; return it and where the rest begins."""
    import numpy as np

    tables, places = _tables(), np.arange(_BLOCK)
    blocks = np.frombuffer(data, dtype=np.uint8)
    blocks = blocks[: len(blocks) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    each = np.bitwise_xor.reduce(tables[places, blocks], axis=1).tolist()
    first = tables[:4].tolist()
    for block in each:
        # What came before is an exclusive or into the block's first four bytes.
        crc = block ^ (
            first[0][crc & 0xFF]
            ^ first[1][(crc >> 8) & 0xFF]
            ^ first[2][(crc >> 16) & 0xFF]
            ^ first[3][crc >> 24]
        )
    return crc, blocks.size
