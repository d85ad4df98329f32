"""Takes an artifact apart and puts it together again, sealed."""

import io
import pathlib
import tempfile
import zipfile

from bucketd import artifact


def seal(content):
    """The bytes of a ZIP archive with a good seal."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "archive.pt"
        path.write_bytes(content)
        artifact.seal(path)
        return path.read_bytes()


def members(path):
    """[(name, content)] of the archive at `path`, in its order."""
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def pack(entries, compression=zipfile.ZIP_STORED):
    """An archive of `entries`, [(name, content)], with a good seal.

    Contents are not aligned as LibTorch's own are, which its reader does not need.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return seal(buffer.getvalue())


def replaced(entries, end_of_name, content):
    """`entries` with the content of the one member whose name ends so; `content` None removes it."""
    found = [name for name, _ in entries if name.endswith(end_of_name)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} members end in {end_of_name}, not one")
    changed = [(name, content if name == found[0] else old) for name, old in entries]
    return [(name, new) for name, new in changed if new is not None]
