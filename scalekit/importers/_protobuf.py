"""The wire format of protocol buffers, as far as reading fields by number needs it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Walk a message: each field's number, and its whole number or its bytes.

    Raises:
        ValueError: The data is no message.
    """
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, place = _varint(data, place)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if place + size > len(data):
            raise ValueError("a field longer than its message")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("a number longer than its message")
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise ValueError("a number of more than 64 bits")


def signed(value: int) -> int:
    """Read a 64-bit whole number as signed."""
    return value - (1 << 64) if value >= 1 << 63 else value


def real(value: int | bytes) -> float:
    """Read a field of four or eight bytes as a float.

    Raises:
        ValueError: Another field.
    """
    if not isinstance(value, bytes) or len(value) not in (4, 8):
        raise ValueError("not a float")
    return struct.unpack("<f" if len(value) == 4 else "<d", value)[0]
