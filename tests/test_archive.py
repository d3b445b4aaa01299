"""Members of an archive, against Python's `tarfile`, and of bytes that are none."""
import io
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motion_vq.archive import BLOCK, RECORD, members
from motion_vq.core import DataError

NAMES = st.one_of(
    st.sampled_from(["a.json", "deep/" * 40 + "a.json", "../x.json", "/etc/x.json", "n\u00e4me.json", "x" * 99, "x" * 100, "x" * 101, "y" * 300]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=150))
KINDS = st.sampled_from([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE])
ENTRIES = st.lists(st.tuples(NAMES, st.one_of(st.binary(max_size=1300), KINDS.map(lambda kind: (kind,)))), max_size=6)
FORMATS = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def pack(entries, format, **pax):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            if isinstance(data, tuple): info.type, info.linkname, data = data[0], "../" + "l" * 120, b""
            info.size, info.mtime, info.pax_headers = len(data), 1.5, pax
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def found(data): return [(name, data[start:start + size]) for name, start, size in members(data)]


def header(size, kind=b"0", name=b"a.json"):
    "A header by hand, with the size's field as given and a checksum that fits."
    block = bytearray(name.ljust(124, b"\0") + size.ljust(12, b"\0") + b"0" * 12 + b" " * 8 + kind + bytes(355))
    block[148:156] = b"%06o\0 " % sum(block)
    assert len(block) == BLOCK
    return bytes(block)


def binary(size): return b"\x80" + size.to_bytes(11, "big")


@settings(deadline=None, max_examples=150, derandomize=True)
@given(ENTRIES, FORMATS)
def test_members_are_those_that_tarfile_finds(entries, format):
    data = pack(entries, format, comment="a line that says nothing of name and size")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name.encode("utf-8", "surrogateescape"), tar.extractfile(m).read()) for m in tar if m.isreg()]
    assert found(data) == expected


@settings(deadline=None, max_examples=250, derandomize=True)
@given(st.one_of(st.binary(max_size=1600), st.tuples(ENTRIES, FORMATS).map(lambda e: pack(*e))), st.data())
def test_any_bytes_are_found_in_or_refused(data, draw):
    data = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 6))):
        if data: data[draw.draw(st.integers(0, min(len(data), 4096) - 1))] = draw.draw(st.integers(0, 255))
    if draw.draw(st.booleans()): data = data[:draw.draw(st.integers(0, len(data)))]
    try: where = [(start, size) for _, start, size in members(bytes(data))]
    except DataError: return
    assert all(0 < start and 0 <= size and start + size <= len(data) for start, size in where)
    assert all(a + n <= b - BLOCK for (a, n), (b, _) in zip(where, where[1:])), "members do not overlap"


@pytest.mark.parametrize("size", [binary(10 * 2**30), binary(2**80), b"77777777777", b"\xff" * 12, b"-0000001", b"x", b"8", b"1\0" + b"7" * 9])
def test_a_size_that_cannot_be_is_refused_before_anything_is_read(size):
    with pytest.raises(DataError, match="at byte 0"): found(header(size) + bytes(20 * BLOCK))


@pytest.mark.parametrize("kind", [b"L", b"x", b"K", b"g"])
def test_records_are_bounded(kind):
    with pytest.raises(DataError, match="a size of"): found(header(b"%o" % (RECORD + 1), kind) + bytes(RECORD + 3 * BLOCK))
    many = header(b"0", kind) * 20_000 + header(b"2") + b"{}".ljust(BLOCK, b"\0") + bytes(2 * BLOCK)    # tarfile would recurse
    assert [content for _, content in found(many)] == [b"{}"]


@pytest.mark.parametrize("lines", [b"10 a=b\n", b"x\n", b"6 ab\n\n", b"99999999999 a=b\n", b"-6 a=b\n", b"22 GNU.sparse.major=1\n", b"10 size=x\n"])
def test_damaged_attributes_are_refused(lines):
    data = header(b"%o" % len(lines), b"x") + lines.ljust(BLOCK, b"\0") + header(b"2") + b"{}".ljust(BLOCK, b"\0") + bytes(2 * BLOCK)
    with pytest.raises(DataError): found(data)


def test_attributes_say_name_and_size_of_the_next_member_only():
    lines = b"17 path=b/c.json\n" + b"10 size=3\n"
    data = header(b"%o" % len(lines), b"x") + lines.ljust(BLOCK, b"\0") + header(b"77777777777") + b"abc".ljust(BLOCK, b"\0")
    data += header(b"1") + b"d".ljust(BLOCK, b"\0") + bytes(2 * BLOCK)
    assert found(data) == [(b"b/c.json", b"abc"), (b"a.json", b"d")]


def test_files_with_holes_are_refused():
    with pytest.raises(DataError, match="holes"): found(header(b"0", b"S") + bytes(2 * BLOCK))


def test_every_cut_and_every_flipped_bit_of_a_header_is_noticed():
    data = pack([(f"{i}.json", random.Random(i).randbytes(700)) for i in range(3)], tarfile.USTAR_FORMAT)
    last = max(start + size for _, start, size in members(data))
    for cut in range(0, last + 1, 7):
        with pytest.raises(DataError): found(data[:cut])
    second = BLOCK + 2 * BLOCK    # where the second header begins
    for bit in [*range(148 * 8), *range(156 * 8, BLOCK * 8)]:
        flipped = bytearray(data)
        flipped[second + bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataError): found(bytes(flipped))
