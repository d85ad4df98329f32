"""Runs a bucket kernel over its declared input range and refuses one that does not do its work.

TorchScript can lower a kernel to something else than its source says (the guide's best practices list how);
here that shows before the model is served.
"""

import itertools
import math
import random
import warnings

import torch

from bucketd.errors import KernelError

# Most lengths that are tried; beyond it, some that are far from every bucket's are left out.
MAX_LENGTHS = 65536
# Most combinations that are tried where several sizes vary independently.
MAX_COMBINATIONS = 4096
# What a TorchScript function raises; `raise` in it is no RuntimeError here.
SCRIPT_ERRORS = (RuntimeError, torch.jit.Error)
# Most bytes of inputs that all probes together may have.
MAX_PROBE_BYTES = 4 << 30


def check(kernel, examples, dims, may_change_values):
    """Raises `KernelError` unless `kernel` maps every accepted input onto a bucket's exact inputs.

    Checked at each bucket's own example inputs; then, for every length from the least to one above the
    largest bucket (a grid around the bucket sizes where several dims vary): the index, and shape and dtype
    of every input against that bucket. Where the kernel gives its inputs back unchanged at a bucket's own
    size, it is a padding kernel, and each result has to hold every element of its input.
    """
    pads = _check_examples(kernel, examples, dims)
    must_keep = pads and not may_change_values
    wasteful = None
    for sizes in _probes(examples, dims):
        inputs = probe_inputs(examples, dims, sizes)
        fitting = _fitting_buckets(inputs, dims)
        result = run(kernel, inputs)
        if isinstance(result, str):
            if fitting:
                raise KernelError(f"{_say(dims, sizes)}: bucket {fitting[0]} would fit, but {result}")
            continue
        padded, bucket = result
        problem = _mismatch(padded, bucket, examples, dims)
        if problem:
            if fitting:
                raise KernelError(f"{_say(dims, sizes)}: bucket {fitting[0]} would fit, but {problem}")
            continue
        if must_keep:
            for index, (before, after) in enumerate(zip(inputs, padded)):
                if not _holds(after, before):
                    raise KernelError(
                        f"{_say(dims, sizes)}: the kernel chose bucket {bucket}, whose input {dims.names[index]!r}"
                        f" of shape {list(after.shape)} does not hold every element of the {list(before.shape)} given;"
                        " if it is meant to, say kernel_may_change_values=True"
                    )
        if fitting and _elements(dims, bucket) > _elements(dims, fitting[0]) and wasteful is None:
            wasteful = f"{_say(dims, sizes)}: the kernel chose bucket {bucket}, although bucket {fitting[0]} is smaller"
    if wasteful:
        warnings.warn(wasteful, stacklevel=3)


def run(kernel, inputs):
    """(padded inputs, bucket index), or a sentence that says why there is none."""
    try:
        padded, index = kernel(list(inputs))
    except SCRIPT_ERRORS as error:
        return "the kernel fails: " + str(error).strip().splitlines()[-1]
    if index.numel() != 1 or index.is_floating_point() or index.is_complex():
        return f"the kernel's index is {index.dtype} of shape {list(index.shape)}, not one integer"
    if not padded:
        return "the kernel gives an empty list"
    return padded, int(index)


def probe_inputs(examples, dims, sizes):
    """Inputs whose groups of dims have `sizes`: content from the largest example that has them."""
    inputs = []
    for index in range(len(examples[0])):
        tensor = max((example[index] for example in examples), key=lambda t: t.numel())
        for group, size in zip(dims.groups, sizes):
            for at in group:
                if at[0] == index:
                    tensor = _resize(tensor, at[1], size)
        inputs.append(tensor.contiguous())
    return inputs


def _resize(tensor, dim, size):
    if size <= tensor.size(dim):
        return tensor.narrow(dim, 0, size)
    if tensor.size(dim) == 0:
        shape = list(tensor.shape)
        shape[dim] = size
        return torch.zeros(shape, dtype=tensor.dtype)
    last = tensor.narrow(dim, tensor.size(dim) - 1, 1)
    return torch.cat([tensor] + [last] * (size - tensor.size(dim)), dim=dim)


def _check_examples(kernel, examples, dims):
    """Checks the buckets' own inputs; gives whether the kernel returns all of them unchanged."""
    unchanged = True
    for number, example in enumerate(examples):
        result = run(kernel, example)
        if isinstance(result, str):
            raise KernelError(f"at the example inputs of bucket {number}, {result}")
        padded, bucket = result
        problem = _mismatch(padded, bucket, examples, dims)
        if problem:
            raise KernelError(f"at the example inputs of bucket {number}, {problem}")
        if dims.shapes[bucket] != dims.shapes[number]:
            raise KernelError(
                f"at the example inputs of bucket {number}, of exactly its shapes {dims.shapes[number]},"
                f" the kernel chose bucket {bucket}, of shapes {dims.shapes[bucket]}"
            )
        unchanged = unchanged and all(same(before, after) for before, after in zip(example, padded))
    return unchanged


def _mismatch(padded, bucket, examples, dims):
    """Why what the kernel gave is not what a bucket takes, or None."""
    if not 0 <= bucket < len(examples):
        return f"the kernel chose bucket {bucket}; there are {len(examples)}"
    if len(padded) != len(examples[0]):
        return f"the kernel gave {len(padded)} tensors; the buckets take {len(examples[0])}"
    for index, (tensor, wanted) in enumerate(zip(padded, examples[bucket])):
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            return (
                f"the kernel chose bucket {bucket} and gave input {dims.names[index]!r} as {tensor.dtype}"
                f" {list(tensor.shape)}; that bucket takes {wanted.dtype} {list(wanted.shape)}"
            )
    return None


def _fitting_buckets(inputs, dims):
    """The buckets that hold `inputs`, smallest first."""
    fitting = [
        number
        for number, shapes in enumerate(dims.shapes)
        if all(n <= size for tensor, shape in zip(inputs, shapes) for n, size in zip(tensor.shape, shape))
    ]
    return sorted(fitting, key=lambda number: _elements(dims, number))


def _elements(dims, bucket):
    total = 0
    for shape in dims.shapes[bucket]:
        elements = 1
        for size in shape:
            elements *= size
        total += elements
    return total


def _probes(examples, dims):
    """The sizes of every group that are tried."""
    if not dims.groups:
        return []
    bytes_each = max(sum(t.numel() * t.element_size() for t in example) for example in examples)
    most = MAX_LENGTHS if len(dims.groups) == 1 else MAX_COMBINATIONS
    budget = max(64, min(most, MAX_PROBE_BYTES // max(bytes_each, 1)))
    per_group = max(2, int(budget ** (1 / len(dims.groups))))
    ranges = []
    for group in dims.groups:
        least, above = dims.least_of(group), dims.largest_of(group) + 1
        sizes = range(least, above + 1)
        if len(sizes) > per_group:
            sizes = sorted(_around_buckets(dims.sizes(*group[0]), least, above, per_group))
        ranges.append(sizes)
    if math.prod(map(len, ranges)) <= budget * 4:
        return itertools.product(*ranges)
    # Too many buckets for the whole grid: a seeded sample of it.
    generator = random.Random(0)
    return [tuple(generator.choice(sizes) for sizes in ranges) for _ in range(budget)]


def _around_buckets(bucket_sizes, least, above, count):
    near = {size + step for size in bucket_sizes for step in (-1, 0, 1)} | {least, above}
    step = max(1, (above - least) // max(1, count - len(near)))
    return {size for size in near if least <= size <= above} | set(range(least, above, step))


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and _equal_or_both_nan(left, right)


def _equal_or_both_nan(left, right):
    equal = left == right
    if left.is_floating_point():
        equal = equal | (left.isnan() & right.isnan())
    return bool(equal.all())


def _holds(after, before):
    """Whether `after` holds `before` whole, at the start or the end of each dim."""
    if after.dim() != before.dim() or any(n > size for n, size in zip(before.shape, after.shape)):
        return False
    starts = [{0, size - n} for n, size in zip(before.shape, after.shape)]
    for corner in itertools.product(*starts):
        part = after
        for dim, start in enumerate(corner):
            part = part.narrow(dim, start, before.size(dim))
        if _equal_or_both_nan(part, before):
            return True
    return False


def _say(dims, sizes):
    parts = [f"{dims.describe(group[0])} = {size}" for group, size in zip(dims.groups, sizes)]
    return "for " + ", ".join(parts)
