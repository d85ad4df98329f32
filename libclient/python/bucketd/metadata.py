"""The rules that an artifact's metadata obeys (`daemon/backends/torchscript/README.md`), without torch."""

import json
import re

from bucketd import dtypes
from bucketd.errors import ArtifactError

FORMAT = "bucketd-artifact"
VERSION = 1
MAX_BUCKETS = 256
MAX_TENSORS = 64
MAX_RANK = 8
# No dim, and no tensor, may be larger: keeps every product of sizes and element size below 2^63.
MAX_ELEMENTS = 2**48
# Of numerator and denominator of a crop.
MAX_RATIO = 65536
SIDES = ("left", "right")
ACCEPTS = ("declared", "kernel")

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


def is_name(text):
    """Whether `text` may name a model, an input, an output or a state."""
    return isinstance(text, str) and _NAME.match(text) is not None


def parse(text):
    """The metadata in `text` (bytes, JSON), validated; `ArtifactError` names the first broken rule."""
    try:
        metadata = json.loads(text, object_pairs_hook=_object_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the metadata is not JSON: {error}") from error
    validate(metadata)
    return metadata


def validate(metadata):
    """Raises `ArtifactError` unless `metadata` (parsed JSON) obeys every rule of the format."""
    _require(isinstance(metadata, dict), "the metadata is not a JSON object")
    _require(metadata.get("format") == FORMAT, f"format is not {FORMAT!r}")
    version = metadata.get("version")
    _require(_is_integer(version) and version == VERSION, f"version is {version!r}, supported is {VERSION}")
    _require(metadata.get("sealed") is True, "sealed is not true")
    _require(is_name(metadata.get("name")), "name is not 1 to 64 characters of [A-Za-z0-9_.-]")
    _require(isinstance(metadata.get("preprocessor"), bool), "preprocessor is not true or false")
    _require(metadata.get("accepts") in ACCEPTS, f"accepts is not one of {ACCEPTS}")
    _validate_tensors(metadata, "inputs", 1)
    _validate_tensors(metadata, "outputs", 0)
    _validate_tensors(metadata, "states", 0)
    _validate_buckets(metadata)
    _validate_states(metadata)
    _validate_aliases(metadata)
    _validate_kernel(metadata)
    _validate_dims(metadata)
    _validate_crop(metadata)


def _require(condition, message):
    if not condition:
        raise ArtifactError(message)


def _object_without_duplicates(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _no_constant(text):
    raise ValueError(f"{text} is not JSON")


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_index(value, count):
    return _is_integer(value) and 0 <= value < count


def _entries(metadata, field):
    """The list of objects in `field`."""
    entries = metadata.get(field)
    _require(
        isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries),
        f"{field} is not a list of objects",
    )
    return entries


def _validate_tensors(metadata, field, least):
    entries = _entries(metadata, field)
    _require(least <= len(entries) <= MAX_TENSORS, f"{field} has {len(entries)} entries, not {least} to {MAX_TENSORS}")
    names = [entry.get("name") for entry in entries]
    for name in names:
        _require(is_name(name), f"a name in {field} is not 1 to 64 characters of [A-Za-z0-9_.-]")
    _require(len(set(names)) == len(names), f"two {field} have the same name")
    for entry in entries:
        _require(entry.get("dtype") in dtypes.DTYPE_NAMES, f"{field} {entry['name']!r} has no known dtype")


def _validate_shape(shape, what):
    _require(isinstance(shape, list), f"the shape of {what} is not a list")
    _require(len(shape) <= MAX_RANK, f"{what} has rank {len(shape)}, at most {MAX_RANK} is supported")
    elements = 1
    for size in shape:
        _require(_is_integer(size) and 0 <= size <= MAX_ELEMENTS, f"{what} has a dim that is not 0 to {MAX_ELEMENTS}")
        elements *= max(size, 1)
    _require(elements <= MAX_ELEMENTS, f"{what} has more than {MAX_ELEMENTS} elements")


def _validate_buckets(metadata):
    buckets = _entries(metadata, "buckets")
    _require(1 <= len(buckets) <= MAX_BUCKETS, f"there are {len(buckets)} buckets, not 1 to {MAX_BUCKETS}")
    for number, bucket in enumerate(buckets):
        for field in ("inputs", "outputs", "states"):
            shapes = bucket.get(field)
            count = len(metadata[field])
            _require(
                isinstance(shapes, list) and len(shapes) == count,
                f"bucket {number} does not have one shape for each of the {count} {field}",
            )
            for entry, shape in zip(metadata[field], shapes):
                _validate_shape(shape, f"{field} {entry['name']!r} of bucket {number}")
        for field in ("inputs", "outputs"):
            for index, shape in enumerate(bucket[field]):
                _require(
                    len(shape) == len(buckets[0][field][index]),
                    f"{field} {metadata[field][index]['name']!r} does not have the same rank in every bucket",
                )


def _validate_states(metadata):
    for index, state in enumerate(metadata["states"]):
        what = f"state {state['name']!r}"
        _validate_shape(state.get("shape"), what)
        if "sequence_dim" in state:
            _require(
                _is_index(state["sequence_dim"], len(state["shape"])), f"sequence_dim of {what} is not one of its dims"
            )
        if "align" in state:
            _require("sequence_dim" in state, f"{what} has an align but no sequence_dim")
            _require(state["align"] in SIDES, f"align of {what} is not one of {SIDES}")
        for number, bucket in enumerate(metadata["buckets"]):
            if not metadata["preprocessor"]:
                _require(
                    bucket["states"][index] == state["shape"],
                    f"bucket {number} takes a part of {what}, but there is no preprocessor",
                )


def _validate_aliases(metadata):
    aliases = _entries(metadata, "aliases")
    ordinary = len(metadata["outputs"])
    for alias in aliases:
        _require(_is_index(alias.get("state"), len(metadata["states"])), "an alias names a state that is not there")
        _require(
            _is_integer(alias.get("output")) and ordinary <= alias["output"] < ordinary + len(aliases),
            f"an alias names an output that is not {ordinary} to {ordinary + len(aliases) - 1}",
        )
    for field in ("state", "output"):
        _require(len({alias[field] for alias in aliases}) == len(aliases), f"two aliases name the same {field}")


def _validate_kernel(metadata):
    kernel = metadata.get("kernel")
    _require(isinstance(kernel, dict), "kernel is not an object")
    _require(kernel.get("type") in ("torchscript", "pad"), "the kernel's type is not torchscript or pad")
    if kernel["type"] == "torchscript":
        return
    shapes = metadata["buckets"][0]["inputs"]
    for field in ("value", "side", "dims"):
        _require(
            isinstance(kernel.get(field), list) and len(kernel[field]) == len(shapes),
            f"the kernel's {field} does not have one entry for each of the {len(shapes)} inputs",
        )
    for entry, shape, value, side, dims in zip(
        metadata["inputs"], shapes, kernel["value"], kernel["side"], kernel["dims"]
    ):
        what = f"input {entry['name']!r}"
        _require(isinstance(value, (bool, int, float)), f"the pad value of {what} is not a number or boolean")
        _require(
            dtypes.holds_exactly(entry["dtype"], value), f"dtype {entry['dtype']} of {what} cannot hold its pad value"
        )
        _require(side in SIDES, f"the pad side of {what} is not left or right")
        _require(
            isinstance(dims, list) and all(_is_index(dim, len(shape)) for dim in dims) and len(set(dims)) == len(dims),
            f"the kernel's dims of {what} are not distinct dims of it",
        )


def _validate_dims(metadata):
    shapes_of = [bucket["inputs"] for bucket in metadata["buckets"]]
    listed = set()
    for entry in _entries(metadata, "dims"):
        _require(
            _is_index(entry.get("input"), len(metadata["inputs"]))
            and _is_index(entry.get("dim"), len(shapes_of[0][entry["input"]])),
            "an entry of dims names an input dim that is not there",
        )
        at = (entry["input"], entry["dim"])
        _require(at not in listed, "two entries of dims name the same input dim")
        listed.add(at)
        largest = max(shapes[at[0]][at[1]] for shapes in shapes_of)
        _require(
            _is_integer(entry.get("min")) and 0 <= entry["min"] <= largest,
            f"min of dim {at[1]} of input {metadata['inputs'][at[0]]['name']!r} is not 0 to {largest}",
        )
    for index, entry in enumerate(metadata["inputs"]):
        for dim in range(len(shapes_of[0][index])):
            if len({shapes[index][dim] for shapes in shapes_of}) > 1:
                _require(
                    (index, dim) in listed,
                    f"dim {dim} of input {entry['name']!r} differs between buckets, but is not in dims",
                )


def _validate_crop(metadata):
    buckets = metadata["buckets"]
    cropped = set()
    for crop in _entries(metadata, "crop"):
        for tensor, dim in (("output", "dim"), ("input", "input_dim")):
            shapes = buckets[0][tensor + "s"]
            _require(
                _is_index(crop.get(tensor), len(shapes)) and _is_index(crop.get(dim), len(shapes[crop[tensor]])),
                f"a crop names an {tensor} dim that is not there",
            )
        at = (crop["output"], crop["dim"])
        _require(at not in cropped, "two crops name the same output dim")
        cropped.add(at)
        _require(crop.get("side") in SIDES, "a crop's side is not left or right")
        numerator, denominator = crop.get("numerator"), crop.get("denominator")
        for number in (numerator, denominator):
            _require(
                _is_integer(number) and 1 <= number <= MAX_RATIO, f"a crop's ratio is not made of 1 to {MAX_RATIO}"
            )
        for number, bucket in enumerate(buckets):
            size = bucket["inputs"][crop["input"]][crop["input_dim"]]
            _require(
                size * numerator == bucket["outputs"][crop["output"]][crop["dim"]] * denominator,
                f"a crop of output {metadata['outputs'][crop['output']]['name']!r} does not hold in bucket {number}",
            )
