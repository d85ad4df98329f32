"""Files that are no artifact, or an archive that LibTorch cannot load, sealed or not."""

import io
import random
import struct
import zipfile

from bucketd import artifact

import sealed_archive

# Unpacked, more than any loader should allocate for metadata; packed, about 256 KiB.
_BOMB_BYTES = 256 << 20


def make(source):
    """Yields (kind, content) made from the good artifact at `source`."""
    good = source.read_bytes()
    entries = sealed_archive.members(source)
    yield "file_empty", b""
    yield "file_of_one_byte", b"P"
    yield "file_of_zeros", bytes(4096)
    yield "file_of_noise", random.Random(1).randbytes(4096)
    yield "file_of_text", b"This is not a ZIP archive.\n" * 40
    yield "file_script", b"#!/bin/sh\nexit 0\n"
    yield "file_of_seal_only", artifact.SEAL_PREFIX + b"0" * 64
    yield from _seals(good)
    yield from _archives(entries)


def _seals(good):
    unsealed = good[: -artifact.SEAL_BYTES - 2] + b"\0\0"
    yield "seal_missing", unsealed
    yield "seal_of_zeros", good[:-64] + b"0" * 64
    yield "seal_in_capitals", good[:-64] + _other_case(good[-64:])
    yield "seal_not_hexadecimal", good[:-64] + b"g" * 64
    yield "seal_one_digit_changed", good[:-1] + (b"0" if good[-1:] != b"0" else b"1")
    yield "seal_of_other_algorithm", unsealed[:-2] + _comment(b"bucketd-seal sha512:" + good[-64:])
    yield "seal_cut_short", unsealed[:-2] + _comment(good[-artifact.SEAL_BYTES : -1])
    yield "byte_appended", good + b"\0"
    yield "file_appended_twice", good + good
    yield "byte_inserted_at_start", b"\0" + good
    yield "comment_length_wrong", good[: -artifact.SEAL_BYTES - 2] + b"\x53\0" + good[-artifact.SEAL_BYTES :]


def _other_case(digits):
    # A seal without a letter has no capitals; then a digit changes.
    return digits.upper() if digits.upper() != digits else digits[:-1] + b"A"


def _comment(text):
    return struct.pack("<H", len(text)) + text


def _archives(entries):
    pack, replaced = sealed_archive.pack, sealed_archive.replaced
    yield "archive_of_nothing", pack([])
    yield "archive_without_metadata", pack(replaced(entries, "/extra/bucketd.json", None))
    yield "archive_without_data", pack(replaced(entries, "/data.pkl", None))
    yield "archive_without_version", pack(replaced(entries, "/version", None))
    yield "archive_without_code", pack([(name, content) for name, content in entries if "/code/" not in name])
    yield "archive_version_999", pack(replaced(entries, "/version", b"999\n"))
    yield "archive_version_is_text", pack(replaced(entries, "/version", b"three\n"))
    yield "archive_data_empty", pack(replaced(entries, "/data.pkl", b""))
    yield "archive_data_is_noise", pack(replaced(entries, "/data.pkl", random.Random(2).randbytes(400)))
    data = next(content for name, content in entries if name.endswith("/data.pkl"))
    yield "archive_data_cut_short", pack(replaced(entries, "/data.pkl", data[: len(data) // 2]))
    yield "archive_code_is_noise", pack(_with_code(entries, b"\x01\x02\x03"))
    yield "archive_code_is_python", pack(_with_code(entries, b"import os\nos.system('true')\n"))
    metadata = next(name for name, _ in entries if name.endswith("/extra/bucketd.json"))
    bomb = [(metadata, b" " * _BOMB_BYTES)]
    yield "archive_bomb_as_metadata", pack(replaced(entries, metadata, None) + bomb, zipfile.ZIP_DEFLATED)
    yield "archive_size_wrong", _with_wrong_size(replaced(entries, metadata, None) + [(metadata, b"{}")])


def _with_code(entries, code):
    return [(name, code if "/code/" in name and name.endswith(".py") else content) for name, content in entries]


def _with_wrong_size(entries):
    """The directory says that the last member has 4 GiB - 16 bytes."""
    content = bytearray(sealed_archive.pack(entries))
    header = content.rfind(b"PK\x01\x02")
    struct.pack_into("<II", content, header + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    buffer = io.BytesIO(content)
    return sealed_archive.seal(buffer.getvalue())
