"""Writes and reads `.npy` files (NumPy's format, version 1.0) without NumPy.

Supports what `.npy` can express of the artifact dtypes: all but bfloat16. Arrays are C-contiguous,
little-endian. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import ast
import ctypes
import struct

import torch

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER_ALIGNMENT = 64
_DESCRIPTIONS = {
    torch.bool: "|b1",
    torch.uint8: "|u1",
    torch.int8: "|i1",
    torch.int16: "<i2",
    torch.int32: "<i4",
    torch.int64: "<i8",
    torch.float16: "<f2",
    torch.float32: "<f4",
    torch.float64: "<f8",
}
_DTYPES = {description: dtype for dtype, description in _DESCRIPTIONS.items()}


def save(path, tensor):
    """Writes `tensor` (CPU, any shape) to `path`; `TypeError` for a dtype that `.npy` lacks."""
    if tensor.dtype not in _DESCRIPTIONS:
        raise TypeError(f"a .npy file cannot hold {tensor.dtype}")
    tensor = tensor.detach().contiguous()
    header = repr({"descr": _DESCRIPTIONS[tensor.dtype], "fortran_order": False, "shape": tuple(tensor.shape)}).encode()
    padding = -(len(_MAGIC) + 2 + len(header) + 1) % _HEADER_ALIGNMENT
    header += b" " * padding + b"\n"
    with open(path, "wb") as file:
        file.write(_MAGIC + struct.pack("<H", len(header)) + header)
        size = tensor.numel() * tensor.element_size()
        if size:
            file.write(ctypes.string_at(tensor.data_ptr(), size))


def load(path):
    """The tensor in `path`, a copy of its own; `ValueError` when the file is not as `save` writes it."""
    with open(path, "rb") as file:
        content = file.read()
    if not content.startswith(_MAGIC):
        raise ValueError("not a .npy file of version 1.0")
    (header_size,) = struct.unpack_from("<H", content, len(_MAGIC))
    start = len(_MAGIC) + 2
    header = ast.literal_eval(content[start : start + header_size].decode("latin-1"))
    if header["fortran_order"] or header["descr"] not in _DTYPES:
        raise ValueError(f"a .npy file with header {header} is not supported")
    dtype, shape = _DTYPES[header["descr"]], header["shape"]
    payload = bytearray(content[start + header_size :])
    if not payload:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(payload, dtype=dtype).reshape(shape)
