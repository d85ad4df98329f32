"""The declarative bucket kernel: pad each input up to the first bucket that it fits."""

import math
from typing import List, Optional, Sequence, Union

import torch

from bucketd import dtypes
from bucketd.errors import TraceError

Number = Union[bool, int, float]

# {shapes}: [bucket][input] -> shape. {dims}: [input] -> dims that are padded. {left}: [input] -> pad on the left.
_SOURCE = """
def bucket_kernel({self_argument}inputs: List[Tensor]) -> Tuple[List[Tensor], Tensor]:
    shapes: List[List[List[int]]] = {shapes}
    dims: List[List[int]] = {dims}
    left: List[bool] = {left}
    bucket_idx = -1
    if len(inputs) == {input_count}:
        for b, bucket in enumerate(shapes):
            fits = bucket_idx == -1
            for i, x in enumerate(inputs):
                size = x.size()
                if len(size) != len(bucket[i]):
                    fits = False
                else:
                    for d in range(len(size)):
                        if d in dims[i]:
                            if size[d] > bucket[i][d]:
                                fits = False
                        elif size[d] != bucket[i][d]:
                            fits = False
            if fits:
                bucket_idx = b
    padded: List[Tensor] = []
    if bucket_idx >= 0:
        for i, x in enumerate(inputs):
            size = x.size()
            # constant_pad_nd counts dims from the last one, with (before, after) for each.
            amounts: List[int] = []
            for k in range(len(size)):
                d = len(size) - 1 - k
                delta = shapes[bucket_idx][i][d] - size[d]
                if left[i]:
                    amounts.append(delta)
                    amounts.append(0)
                else:
                    amounts.append(0)
                    amounts.append(delta)
{pads}
    return padded, torch.tensor([max(bucket_idx, 0)])
"""


class PadKernel:
    """Takes the first bucket that every input fits, and pads each input to it.

    An input fits when it is at most the bucket's size in `dims` and exactly that size in all other dims.
    An input that no bucket takes gives an empty list, as the guide's kernel does.

      dims: the dims that are padded: one list for all inputs, or a list of lists, one for each input.
        By default every dim that differs between the buckets.
      value: what is padded with, which the input's dtype has to hold exactly: one for all, or one for each.
      side: "right" or "left", where the padding goes: one for all, or one for each.
    """

    def __init__(
        self,
        *,
        dims: Optional[Union[Sequence[int], Sequence[Sequence[int]]]] = None,
        value: Union[Number, Sequence[Number]] = 0,
        side: Union[str, Sequence[str]] = "right",
    ):
        self.dims = dims
        self.value = value
        self.side = side

    def resolve(self, shapes: List[List[List[int]]], input_dtypes: List[torch.dtype]) -> "ResolvedPadKernel":
        """The kernel for inputs of these shapes (`[bucket][input]`); `TraceError` when the two do not fit."""
        count = len(input_dtypes)
        names = [dtypes.name_of(dtype) for dtype in input_dtypes]
        values = _one_each(self.value, count, "value")
        sides = _one_each(self.side, count, "side")
        dims = self._dims_of_each(shapes, count)
        for index, value in enumerate(values):
            if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
                raise TraceError(f"PadKernel value {value!r} of input {index} is not a finite number")
            if not dtypes.holds_exactly(names[index], value):
                raise TraceError(f"PadKernel value {value!r} does not fit dtype {names[index]} of input {index}")
            if sides[index] not in ("left", "right"):
                raise TraceError(f"PadKernel side {sides[index]!r} of input {index} is not 'left' or 'right'")
        return ResolvedPadKernel(shapes, dims, [_typed(n, v) for n, v in zip(names, values)], sides)

    def _dims_of_each(self, shapes, count):
        if self.dims is None:
            return [
                [d for d in range(len(shapes[0][i])) if len({bucket[i][d] for bucket in shapes}) > 1]
                for i in range(count)
            ]
        if any(isinstance(entry, (list, tuple)) for entry in self.dims):
            dims = [list(entry) for entry in self.dims]
        else:
            dims = [list(self.dims) for _ in range(count)]
        if len(dims) != count:
            raise TraceError(f"PadKernel dims has {len(dims)} entries, but there are {count} inputs")
        for index, entry in enumerate(dims):
            rank = len(shapes[0][index])
            if any(not 0 <= d < rank for d in entry) or len(set(entry)) != len(entry):
                raise TraceError(
                    f"PadKernel dims {entry} of input {index} are not distinct dims of a rank {rank} tensor"
                )
        return dims


class ResolvedPadKernel:
    """A `PadKernel` for known inputs.

    `function` is its TorchScript, `method_source` the same as source of a method `bucket_kernel` (a function
    made from source cannot be saved with a module), `metadata` its declaration.
    """

    def __init__(self, shapes, dims, values, sides):
        pads = []
        for index, value in enumerate(values):
            pads.append(f"            {'if' if index == 0 else 'elif'} i == {index}:")
            pads.append(f"                padded.append(torch.constant_pad_nd(x, amounts, {_number_literal(value)}))")
        text = dict(
            shapes=nested_literal(shapes, "List[List[int]]"),
            dims=nested_literal(dims, "List[int]"),
            left=[side == "left" for side in sides],
            input_count=len(values),
            pads="\n".join(pads),
        )
        self.dims = dims
        self.method_source = _SOURCE.format(self_argument="self, ", **text)
        self.function = torch.jit.CompilationUnit(_SOURCE.format(self_argument="", **text)).bucket_kernel
        self.metadata = {"type": "pad", "value": values, "side": list(sides), "dims": dims}


def _one_each(value, count, what):
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise TraceError(f"PadKernel {what} has {len(value)} entries, but there are {count} inputs")
    return list(value)


def _typed(dtype_name, value):
    """`value` as JSON shows it best: a boolean for bool inputs, a whole number for integer inputs."""
    if dtype_name == "bool":
        return bool(value)
    return int(value) if dtype_name in dtypes.INTEGER_RANGES else value


def _number_literal(value):
    """`value` as TorchScript source: it takes no boolean as a number, and no -2^63 in one piece."""
    if isinstance(value, bool):
        return repr(int(value))
    return "(-9223372036854775807 - 1)" if value == -(2**63) and isinstance(value, int) else repr(value)


def nested_literal(value, element_type):
    """`value`, nested lists of int, as TorchScript source; an empty list there needs its type said."""
    if not isinstance(value, list):
        return repr(value)
    if not value:
        return f"torch.jit.annotate(List[{element_type}], [])"
    inner = element_type.removeprefix("List[").removesuffix("]")
    return "[" + ", ".join(nested_literal(entry, inner) for entry in value) + "]"
