import contextlib
import gzip
import io
import os
import tarfile

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dali_icgan.data.tar import BLOCK, TarReader

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def read(path):
    """(name, offset, size) of every member."""
    with TarReader(str(path)) as tar:
        return [member[:3] for member in tar.members()]


def written(path, members, form=tarfile.GNU_FORMAT, **options):
    """A tar of (name, bytes) or TarInfos, by Python's own writer."""
    with tarfile.open(path, "w", format=form, **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def by_tarfile(path):
    with tarfile.open(path, "r:") as tar:
        return [(member.name, member.offset_data, member.size) for member in tar if member.isreg()]


def of_kind(name, kind, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


part = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=130)
names = st.lists(part, min_size=1, max_size=4).map("/".join).filter(lambda name: name.strip(". /"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=6), form=st.sampled_from(sorted(FORMATS)))
def test_members_lie_where_pythons_tarfile_finds_them(tmp_path, members, form):
    try:
        path = written(tmp_path / "a.tar", members, FORMATS[form])
    except ValueError:  # ustar has no place for some long names
        assume(False)
    found = read(path)
    assert found == by_tarfile(path)
    content = path.read_bytes()
    assert [content[offset : offset + size] for _, offset, size in found] == [data for _, data in members]


@pytest.mark.parametrize("form", FORMATS)
def test_links_folders_and_devices_are_passed_over(tmp_path, form):
    others = [
        of_kind("folder", tarfile.DIRTYPE),
        of_kind("soft", tarfile.SYMTYPE, "../../etc/passwd" + "x" * 70),
        of_kind("hard", tarfile.LNKTYPE, "a.jpg"),
        of_kind("pipe", tarfile.FIFOTYPE),
        of_kind("device", tarfile.CHRTYPE),
    ]
    path = written(tmp_path / "a.tar", [*others, ("a.jpg", b"1"), *others, ("b.jpg", b"22")], FORMATS[form])
    assert [name for name, _, _ in read(path)] == ["a.jpg", "b.jpg"]


def test_long_links_do_not_name_the_next_member(tmp_path):
    path = written(tmp_path / "a.tar", [of_kind("soft", tarfile.SYMTYPE, "x" * 300), ("a.jpg", b"1")])
    assert read(path) == by_tarfile(path)


def test_records_for_all_members(tmp_path):
    path = written(
        tmp_path / "a.tar", [("a.jpg", b"1"), ("ä.jpg", b"2")], tarfile.PAX_FORMAT, pax_headers={"comment": "x"}
    )
    assert read(path) == by_tarfile(path)


def test_a_members_own_record_counts_more_than_that_for_all(tmp_path):
    infos = [tarfile.TarInfo("a.jpg"), tarfile.TarInfo("b.jpg")]
    infos[0].pax_headers = {"path": "own.jpg"}
    path = written(tmp_path / "a.tar", infos, tarfile.PAX_FORMAT, pax_headers={"path": "all.jpg"})
    assert read(path) == by_tarfile(path)
    assert [name for name, _, _ in read(path)] == ["own.jpg", "all.jpg"]


def test_a_volumes_label_is_passed_over(tmp_path):
    path = written(tmp_path / "a.tar", [of_kind("label", b"V"), ("a.jpg", b"1")])
    assert [name for name, _, _ in read(path)] == ["a.jpg"]


def test_names_that_are_no_text_come_back_as_file_names_do(tmp_path):
    name = os.fsdecode(b"\xff\xfe.jpg")
    path = written(tmp_path / "a.tar", [(name, b"1")], encoding="utf-8", errors="surrogateescape")
    assert read(path)[0][0] == name


def test_more_than_8_gib(tmp_path):
    info = tarfile.TarInfo("large.jpg")
    info.size = 2**33 + 1
    behind = tarfile.TarInfo("behind.jpg")
    with (tmp_path / "a.tar").open("wb") as file:  # a hole, no gigabytes
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(2**33 + BLOCK, os.SEEK_CUR)
        file.write(behind.tobuf(tarfile.GNU_FORMAT) + bytes(2 * BLOCK))
    assert read(tmp_path / "a.tar") == [("large.jpg", 512, 2**33 + 1), ("behind.jpg", 2**33 + 3 * BLOCK, 0)]


@pytest.fixture(params=FORMATS)
def small(tmp_path, request):
    """A tar with a long name and four members, cut just behind its two blocks of zeros."""
    members = [("a.jpg", b"x" * 700), ("a.cls", b"1"), ("l" * 60 + "/" + "ü" * 40 + ".jpg", b"y" * 512), ("e.cls", b"")]
    path = written(tmp_path / "small.tar", members, FORMATS[request.param])
    _, offset, _ = by_tarfile(path)[-1]
    os.truncate(path, offset + 2 * BLOCK)
    return path


def test_cut_anywhere_is_an_error_that_names_tar_and_place(small):
    whole, content = read(small), small.read_bytes()
    # Every beginning of a block, and a byte to both sides; one of the two blocks of zeros is enough.
    for end in sorted({at + by for at in range(0, len(content), BLOCK) for by in (-1, 0, 1) if at + by >= 0}):
        small.write_bytes(content[:end])
        if end >= len(content) - BLOCK:
            assert read(small) == whole
        else:
            with pytest.raises(
                ValueError, match=rf"small\.tar must be a tar that is whole, got one that is cut off at {end}"
            ):
                read(small)


def test_no_changed_byte_of_a_header_goes_unseen(small):
    content = bytearray(small.read_bytes())
    whole = read(small)
    headers = {0, *(offset - BLOCK for _, offset, _ in whole)}
    for place in (header + byte for header in headers for byte in range(0, BLOCK, 7)):
        if 148 <= place % BLOCK < 156 and content[place] in b" \0":
            continue  # between the digits of the checksum
        content[place] ^= 0x15
        small.write_bytes(content)
        with pytest.raises(ValueError, match=r"small\.tar must be a tar"):
            read(small)
        content[place] ^= 0x15


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_an_error_or_leaves_members_within_the_tar(small, data):
    content = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        what = data.draw(st.binary(max_size=20))
        content[place : place + data.draw(st.sampled_from([len(what), 0, 512]))] = what
    damaged = small.with_name("damaged.tar")
    damaged.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert all(offset >= BLOCK and offset + size <= len(content) for _, offset, size in read(damaged))


def test_a_checksum_of_signed_bytes_is_taken(tmp_path):
    path = written(tmp_path / "a.tar", [("größe.jpg", b"1")])
    header = bytearray(path.read_bytes())
    whole = read(path)
    header[148:156] = b"        "
    signed = sum(byte - 256 * (byte > 127) for byte in header[:BLOCK])
    header[148:156] = b"%06o\0 " % signed
    path.write_bytes(header)
    assert read(path) == whole == by_tarfile(path)


def with_header(**fields):
    """A tar of one member whose header has other fields."""
    info = tarfile.TarInfo("a.jpg")
    info.size = 10
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for place, value in fields.values():
        header[place : place + len(value)] = value
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(3 * BLOCK)


def pax(records, size=None):
    info = tarfile.TarInfo("records")
    info.type, info.size = tarfile.XHDTYPE, len(records) if size is None else size
    member = tarfile.TarInfo("a.jpg")
    return info.tobuf() + records + bytes(-len(records) % BLOCK) + member.tobuf() + bytes(2 * BLOCK)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off at 0: it is empty"),
        (b"not a tar" * 100, "must be a tar, got something else"),
        (gzip.compress(with_header()), "must be an uncompressed tar, got one packed by gzip"),
        (with_header(kind=(156, b"S")), "at 0: a.jpg is stored with holes"),
        (with_header(kind=(156, b"Z")), "at 0: a.jpg is of the unknown kind b'Z'"),
        (with_header(size=(124, b"12x")), "at 0: the header's size is no number"),
        (with_header(size=(124, b"\xff" * 12)), "at 0: the header's size is no number"),
        (with_header(size=(124, b"\x80" + b"\xff" * 11)), "cut off at 2048: a.jpg at 0 needs"),
        (with_header(kind=(156, b"V"), size=(124, b"\x80" + b"\xff" * 11)), "cut off at 2048: a.jpg at 0 needs"),
        (with_header() + with_header(), "at 1024: there is something behind the end mark"),
        (pax(b"12 size=abc\n"), "a.jpg has the size 'abc'"),
        (pax(b"99 path=a\n"), "at 0: a pax record is damaged"),
        (pax(b"path=a\n"), "at 0: a pax record is damaged"),
        (pax(b"22 GNU.sparse.major=1\n"), "a.jpg is stored with holes"),
        (pax(b"", 2**30), "at 0: a name or its records have 1073741824 bytes, more than 1048576"),
        (pax(b"", 2**19), "cut off at .*: the name at 0 needs 524288 bytes"),
    ],
    ids=map(str, range(16)),
)
def test_what_is_wrong_is_said(tmp_path, content, message):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / "a.tar")
    assert "a.tar" in str(error.value)


def test_a_size_among_the_records_counts(tmp_path):
    (tmp_path / "a.tar").write_bytes(pax(b"9 size=0\n"))
    assert read(tmp_path / "a.tar") == [("a.jpg", 3 * BLOCK, 0)]
