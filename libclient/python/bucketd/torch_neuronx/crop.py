"""Ties output dims to the input dims that they follow, so that padding can be cut off replies."""

import fractions

import torch

from bucketd import metadata as metadata_rules
from bucketd.errors import CropError
from bucketd.torch_neuronx import kernel_check

_PROBES = 8


def infer(annotations, dims, output_shapes, output_names, kernel, kernel_metadata, examples):
    """The `crop` entries of the metadata; raises `CropError` where the author has to say more.

    `output_shapes` is `[bucket][output]`, of the ordinary outputs.
    """
    declared_sides = kernel_metadata.get("side")
    annotated = {}
    for crop in annotations:
        output = _number(crop.output, output_names, "output")
        rank = len(output_shapes[0][output])
        if not 0 <= crop.dim < rank:
            raise CropError(f"a crop names dim {crop.dim} of output {output_names[output]!r}, which has rank {rank}")
        if (output, crop.dim) in annotated:
            raise CropError(f"two crops name dim {crop.dim} of output {output_names[output]!r}")
        annotated[(output, crop.dim)] = crop
    entries = []
    for output, shape in enumerate(output_shapes[0]):
        for dim in range(len(shape)):
            sizes = [bucket[output][dim] for bucket in output_shapes]
            what = f"dim {dim} of output {output_names[output]!r}"
            crop = annotated.get((output, dim))
            if crop is None:
                followed = _followed_by_comparing(sizes, dims, what)
                side = None
            else:
                followed = _followed_as_said(crop, sizes, dims, what)
                side = crop.side
            if followed is None:
                continue
            at, ratio = followed
            if side is None and declared_sides:
                side = declared_sides[at[0]]
            elif side is None:
                side = _padding_side(at, dims, kernel, examples, what)
            entries.append(
                {
                    "output": output,
                    "dim": dim,
                    "input": at[0],
                    "input_dim": at[1],
                    "side": side,
                    "numerator": ratio.numerator,
                    "denominator": ratio.denominator,
                }
            )
    return entries


def _number(name, names, what):
    if isinstance(name, str):
        if name not in names:
            raise CropError(f"a crop names {what} {name!r}; the {what}s are {list(names)}")
        return names.index(name)
    if not 0 <= name < len(names):
        raise CropError(f"a crop names {what} {name}; there are {len(names)}")
    return name


def _ratio(output_sizes, input_sizes):
    """The one ratio of output to input size in every bucket, or None if there is none that a crop can say."""
    if any(size == 0 for size in input_sizes) or any(size == 0 for size in output_sizes):
        return None
    ratios = {fractions.Fraction(out, size) for out, size in zip(output_sizes, input_sizes)}
    if len(ratios) != 1:
        return None
    (ratio,) = ratios
    return ratio if max(ratio.numerator, ratio.denominator) <= metadata_rules.MAX_RATIO else None


def _followed_by_comparing(sizes, dims, what):
    if len(set(sizes)) == 1:
        return None
    fitting = [(group, _ratio(sizes, dims.sizes(*group[0]))) for group in dims.groups]
    fitting = [(group, ratio) for group, ratio in fitting if ratio is not None]
    if len(fitting) > 1:
        candidates = " or ".join(dims.describe(group[0]) for group, _ in fitting)
        raise CropError(
            f"{what} has sizes {sizes} in the buckets and may follow {candidates}: say which with"
            " crop=[Crop(output, dim, input, input_dim)], or input=None if it follows neither"
        )
    return (fitting[0][0][0], fitting[0][1]) if fitting else None


def _followed_as_said(crop, sizes, dims, what):
    if crop.input is None:
        return None
    index = _number(crop.input, dims.names, "input")
    if not 0 <= crop.input_dim < len(dims.shapes[0][index]):
        raise CropError(
            f"the crop of {what} names dim {crop.input_dim} of input {dims.names[index]!r}, which is not there"
        )
    if crop.side not in (None, "left", "right"):
        raise CropError(f"the crop of {what} has side {crop.side!r}, not 'left' or 'right'")
    at = (index, crop.input_dim)
    ratio = _ratio(sizes, dims.sizes(*at))
    if ratio is None:
        raise CropError(
            f"{what} has sizes {sizes} in the buckets, {dims.describe(at)} has {dims.sizes(*at)}:"
            " no one ratio that a crop can say"
        )
    return at, ratio


def _padding_side(at, dims, kernel, examples, what):
    """Runs the kernel on inputs that are too short in `at` and looks where the padding is."""
    short = next((group for group in dims.groups if at in group), None)
    bucket = max(range(len(examples)), key=lambda b: dims.sizes(*at)[b])
    largest = dims.sizes(*at)[bucket]
    for size in range(largest - 1, dims.least_of(short) - 1 if short else largest, -1):
        sizes = [size if g is short else dims.shapes[bucket][g[0][0]][g[0][1]] for g in dims.groups]
        sides = {"left", "right"}
        for probe in range(_PROBES):
            before, after = _probe(at, dims, sizes, kernel, examples, what, probe)
            if after.dim() == before.dim() and after.size(at[1]) == size:
                break  # Another bucket has just this size: nothing is padded.
            sides &= _sides(before, after, at[1])
            if len(sides) == 1:
                return sides.pop()
        else:
            how = "may pad either side of" if sides else "keeps no side of"
            raise CropError(f"{what}: the kernel {how} {dims.describe(at)}: say the side in crop")
    return "right"  # Nothing is ever padded, so that both sides mean the same.


def _probe(at, dims, sizes, kernel, examples, what, seed):
    """Input `at[0]` before and after the kernel."""
    plain = kernel_check.probe_inputs(examples, dims, sizes)
    inputs = [_scrambled(tensor, seed) for tensor in plain]
    result = kernel_check.run(kernel, inputs)
    if isinstance(result, str):  # A kernel that reads values may not like these.
        inputs = plain
        result = kernel_check.run(kernel, inputs)
    if isinstance(result, str):
        raise CropError(f"{what}: {result}, so that the padding's side is unknown: say the side in crop")
    return inputs[at[0]], result[0][at[0]]


def _scrambled(tensor, seed):
    """Content whose shift shows; small enough for every dtype."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 2 if tensor.dtype == torch.bool else 100, tensor.shape, generator=generator)
    return values.to(tensor.dtype)


def _sides(before, after, dim):
    if after.dim() != before.dim() or after.size(dim) < before.size(dim):
        return set()
    n, sides = before.size(dim), set()
    # Other dims are exactly the bucket's here, so that only `dim` may differ.
    if kernel_check.same(after.narrow(dim, 0, n), before):
        sides.add("right")
    if kernel_check.same(after.narrow(dim, after.size(dim) - n, n), before):
        sides.add("left")
    return sides
