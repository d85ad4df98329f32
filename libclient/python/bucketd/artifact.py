"""The artifact file: its seal and its metadata.

The format is described in `daemon/backends/torchscript/README.md`. This module needs no torch, except
for `verify --run`, which loads the file and runs every bucket.

    python3 -m bucketd.artifact show FILE      # metadata as JSON
    python3 -m bucketd.artifact verify FILE    # seal and metadata; exit code 1 says that it is refused
    python3 -m bucketd.artifact seal FILE      # writes or renews the seal, in place
"""

import argparse
import hashlib
import json
import os
import struct
import sys
import zipfile

from bucketd import metadata as metadata_rules
from bucketd.errors import ArtifactError

METADATA_FILE = "bucketd.json"
SEAL_PREFIX = b"bucketd-seal sha256:"
SEAL_BYTES = len(SEAL_PREFIX) + 64

_END_RECORD = b"PK\x05\x06"
_END_RECORD_BYTES = 22
_MAX_METADATA_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


def seal(path):
    """Writes the seal of the archive at `path`, in place of an older one if there is one.

    The file is changed in place; write to a temporary name and rename when others may be reading.
    Raises `ArtifactError` when the file is not a ZIP archive that ends in its end record.
    """
    with open(path, "r+b") as file:
        end_record = _end_record_offset(file)
        file.truncate(end_record + _END_RECORD_BYTES - 2)
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<H", SEAL_BYTES) + SEAL_PREFIX)
        length = file.tell()
        file.write(_digest(file, length).encode())


def verify_seal(path):
    """Raises `ArtifactError` unless the file at `path` ends in the seal of its content."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < SEAL_BYTES + _END_RECORD_BYTES:
            raise ArtifactError(f"the file has {size} bytes, too few for a sealed artifact")
        file.seek(size - SEAL_BYTES - 2)
        tail = file.read()
        if tail[:2] != struct.pack("<H", SEAL_BYTES) or not tail[2:].startswith(SEAL_PREFIX):
            raise ArtifactError("the file does not end in a seal: it is truncated or was never sealed")
        if _digest(file, size - 64).encode() != tail[-64:]:
            raise ArtifactError("the seal does not fit the content: the file is damaged")


def read_metadata_text(path):
    """The bytes of the metadata member of the archive at `path`, unchecked; `ArtifactError` if it has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.split("/")[1:] == ["extra", METADATA_FILE]]
            if len(members) != 1:
                raise ArtifactError(f"the archive has {len(members)} members extra/{METADATA_FILE}, not one")
            if members[0].file_size > _MAX_METADATA_BYTES:
                raise ArtifactError(f"the metadata has more than {_MAX_METADATA_BYTES} bytes")
            return archive.read(members[0])
    except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError, EOFError) as error:
        raise ArtifactError(f"not a readable archive: {error}") from error


def read_metadata(path):
    """The validated metadata of the artifact at `path`, as a dict. The seal is not looked at."""
    return metadata_rules.parse(read_metadata_text(path))


def verify(path):
    """Checks seal and metadata of the file at `path`; gives the metadata or raises `ArtifactError`."""
    if not os.path.isfile(path):
        raise ArtifactError("no such file")
    verify_seal(path)
    return read_metadata(path)


def _end_record_offset(file):
    size = file.seek(0, os.SEEK_END)
    window = min(size, _END_RECORD_BYTES + 0xFFFF)
    file.seek(size - window)
    tail = file.read()
    at = tail.rfind(_END_RECORD)
    while at >= 0:
        if at + _END_RECORD_BYTES <= len(tail):
            (comment_bytes,) = struct.unpack_from("<H", tail, at + _END_RECORD_BYTES - 2)
            if at + _END_RECORD_BYTES + comment_bytes == len(tail):
                return size - window + at
        at = tail.rfind(_END_RECORD, 0, at)
    raise ArtifactError("not a ZIP archive: no end record at its end")


def _digest(file, length):
    digest = hashlib.sha256()
    file.seek(0)
    while length:
        chunk = file.read(min(length, _CHUNK_BYTES))
        if not chunk:
            raise ArtifactError("the file shrank while it was read")
        digest.update(chunk)
        length -= len(chunk)
    return digest.hexdigest()


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python3 -m bucketd.artifact", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["show", "verify", "seal"])
    parser.add_argument("file")
    parser.add_argument("--run", action="store_true", help="verify: also load the module and run every bucket")
    options = parser.parse_args(arguments)
    try:
        if options.command == "seal":
            seal(options.file)
        elif options.command == "show":
            print(json.dumps(read_metadata(options.file), indent=2))
        else:
            metadata = verify(options.file)
            if options.run:
                from bucketd import module_check

                module_check.check_module(options.file, metadata)
            print(
                f"{options.file}: valid, model {metadata['name']!r}, {len(metadata['buckets'])} buckets,"
                f" {len(metadata['inputs'])} inputs, {len(metadata['outputs'])} outputs,"
                f" {len(metadata['states'])} states"
            )
    except (ArtifactError, OSError) as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
