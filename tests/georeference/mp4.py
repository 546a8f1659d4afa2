"""A small MP4 with one track of samples of any kind, byte by byte after ISO 14496-12: no muxer at hand writes CAMM."""

from __future__ import annotations

import struct


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, *parts: bytes) -> bytes:
    return box(kind, b"\0\0\0\0", *parts)


def mp4_of(samples: list[bytes], *, tag: bytes, handler: bytes, step_ms: int = 500, free: bytes = b"") -> bytes:
    """A file whose one track has a sample each step_ms; free: a box `free` of that content behind it."""
    head = box(b"ftyp", b"isom\0\0\2\0isomiso2mp41")
    count, length = len(samples), step_ms * len(samples)
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    zeros = b"\0" * 8

    def moov(at: int) -> bytes:
        offsets, place = [], at
        for sample in samples:
            offsets.append(place)
            place += len(sample)
        table = box(
            b"stbl",
            full(b"stsd", struct.pack(">I", 1), box(tag, b"\0" * 6 + b"\0\1")),
            full(b"stts", struct.pack(">III", 1, count, step_ms)),
            full(b"stsc", struct.pack(">IIII", 1, 1, 1, 1)),
            full(b"stsz", struct.pack(">II", 0, count), *(struct.pack(">I", len(s)) for s in samples)),
            full(b"stco", struct.pack(">I", count), *(struct.pack(">I", o) for o in offsets)),
        )
        data = box(b"dinf", full(b"dref", struct.pack(">I", 1), box(b"url ", b"\0\0\0\1")))
        media = box(
            b"mdia",
            full(b"mdhd", zeros, struct.pack(">IIHH", 1000, length, 0x55C4, 0)),
            full(b"hdlr", b"\0\0\0\0meta", b"\0" * 12, handler + b"\0"),
            box(b"minf", full(b"nmhd"), data, table),
        )
        track = box(
            b"trak",
            box(b"tkhd", b"\0\0\0\7", zeros, struct.pack(">IIIQ", 1, 0, length, 0), zeros, identity, zeros),
            media,
        )
        movie = full(
            b"mvhd", zeros, struct.pack(">IIIHHQ", 1000, length, 65536, 256, 0, 0), identity, b"\0" * 24, b"\0\0\0\2"
        )
        return box(b"moov", movie, track)

    middle = moov(0)
    at = len(head) + len(middle) + 8
    tail = box(b"free", free) if free else b""
    return head + moov(at) + box(b"mdat", *samples) + tail
