"""A good archive with a good seal and wrong metadata."""

import copy
import json

from bucketd import artifact

import sealed_archive

_METADATA = "/extra/bucketd.json"


def make(source):
    """Yields (kind, content) made from the good artifact at `source`."""
    entries = sealed_archive.members(source)
    good = artifact.read_metadata(source)
    for kind, text in _texts(good):
        yield f"metadata_{kind}", sealed_archive.pack(sealed_archive.replaced(entries, _METADATA, text))


def _texts(good):
    text = json.dumps(good)
    yield "empty", b""
    yield "not_json", b"format: bucketd-artifact"
    yield "not_utf8", text.encode().replace(b"bucketd-artifact", b"bucketd-\xff\xfeartifact")
    yield "cut_short", text.encode()[: len(text) // 2]
    yield "trailing_text", text.encode() + b" {}"
    yield "not_an_object", b"[]"
    yield "null", b"null"
    yield "nested_deeply", b'{"format":' + b"[" * 200000 + b"]" * 200000 + b"}"
    yield "nested_objects", b'{"a":' * 200000 + b"1" + b"}" * 200000
    yield "long_number", text.encode().replace(b'"version": 1', b'"version": ' + b"9" * 100000)
    yield "huge_exponent", text.encode().replace(b'"version": 1', b'"version": 1e999999')
    yield "not_a_number", text.encode().replace(b'"version": 1', b'"version": NaN')
    for kind, change in _CHANGES:
        changed = copy.deepcopy(good)
        change(changed)
        yield kind, json.dumps(changed).encode()
    for field in (
        "format",
        "version",
        "sealed",
        "name",
        "inputs",
        "outputs",
        "states",
        "aliases",
        "buckets",
        "kernel",
        "preprocessor",
        "dims",
        "crop",
    ):
        changed = copy.deepcopy(good)
        del changed[field]
        yield f"without_{field}", json.dumps(changed).encode()


def _set(*path):
    """A change that sets the last of `path` at the place that the others lead to."""
    *way, last, value = path

    def change(metadata):
        place = metadata
        for step in way:
            place = place[step]
        place[last] = value

    return change


def _add(field, entry):
    return lambda metadata: metadata[field].append(entry)


def _repeat_buckets(count):
    def change(metadata):
        metadata["buckets"] = metadata["buckets"][:1] * count

    return change


def _drop(*path):
    *way, last = path

    def change(metadata):
        place = metadata
        for step in way:
            place = place[step]
        del place[last]

    return change


def _repeat_input(metadata):
    metadata["inputs"] *= 40


_CROP = {"output": 0, "dim": 0, "input": 0, "input_dim": 1, "side": "right", "numerator": 1, "denominator": 1}
_STATE = {"name": "s", "dtype": "float32", "shape": [1]}

_CHANGES = [
    ("other_format", _set("format", "bucketd-artefact")),
    ("format_is_number", _set("format", 1)),
    ("version_0", _set("version", 0)),
    ("version_2", _set("version", 2)),
    ("version_is_text", _set("version", "1")),
    ("sealed_is_text", _set("sealed", "yes")),
    ("name_empty", _set("name", "")),
    ("name_too_long", _set("name", "n" * 65)),
    ("name_with_path", _set("name", "../../etc/passwd")),
    ("name_with_space", _set("name", "a b")),
    ("name_with_newline", _set("name", "a\n")),
    ("name_with_zero", _set("name", "a\0b")),
    ("name_not_ascii", _set("name", "mod\u00e8le")),
    ("name_is_number", _set("name", 7)),
    ("input_name_with_slash", _set("inputs", 0, "name", "a/b")),
    ("input_names_equal", _set("inputs", 1, "name", "values")),
    ("output_name_empty", _set("outputs", 0, "name", "")),
    ("output_names_equal", _set("outputs", 1, "name", "weighted")),
    ("input_dtype_unknown", _set("inputs", 0, "dtype", "float31")),
    ("input_dtype_empty", _set("inputs", 0, "dtype", "")),
    ("input_dtype_is_number", _set("inputs", 0, "dtype", 9)),
    ("output_dtype_unknown", _set("outputs", 0, "dtype", "complex64")),
    ("input_dtype_of_another_size", _set("inputs", 1, "dtype", "int32")),
    ("output_dtype_of_another_size", _set("outputs", 0, "dtype", "float64")),
    ("output_dtype_of_the_same_size", _set("outputs", 0, "dtype", "int32")),
    ("no_inputs", _set("inputs", [])),
    ("too_many_inputs", _repeat_input),
    ("inputs_is_object", _set("inputs", {})),
    ("one_output_too_many", _add("outputs", {"name": "more", "dtype": "float32"})),
    ("no_outputs", _set("outputs", [])),
    ("no_buckets", _set("buckets", [])),
    ("too_many_buckets", _repeat_buckets(257)),
    ("one_bucket_too_many", _repeat_buckets(3)),
    ("very_many_buckets", _repeat_buckets(5000)),
    ("bucket_without_inputs", _drop("buckets", 1, "inputs")),
    ("bucket_without_states", _drop("buckets", 1, "states")),
    ("bucket_with_one_shape_less", _drop("buckets", 1, "inputs", 0)),
    ("bucket_with_one_output_less", _drop("buckets", 1, "outputs", 0)),
    ("dim_negative", _set("buckets", 0, "inputs", 0, 1, -4)),
    ("dim_huge", _set("buckets", 0, "inputs", 0, 1, 2**62)),
    ("dim_beyond_64_bits", _set("buckets", 0, "inputs", 0, 1, 2**70)),
    ("dim_is_fraction", _set("buckets", 0, "inputs", 0, 1, 4.5)),
    ("dim_is_text", _set("buckets", 0, "inputs", 0, 1, "4")),
    ("dim_is_true", _set("buckets", 0, "inputs", 0, 1, True)),
    ("dims_overflow", _set("buckets", 0, "inputs", 0, [2**31, 2**31])),
    ("output_dim_negative", _set("buckets", 1, "outputs", 0, 1, -1)),
    ("output_dims_overflow", _set("buckets", 1, "outputs", 2, [2**40, 2**40])),
    ("rank_differs", _set("buckets", 1, "inputs", 0, [8])),
    ("rank_9", _set("buckets", 0, "inputs", 0, [1] * 9)),
    ("shape_is_number", _set("buckets", 0, "inputs", 0, 4)),
    ("bucket_0_of_other_size", _set("buckets", 0, "inputs", 0, 1, 5)),
    ("output_shape_too_large", _set("buckets", 1, "outputs", 2, [1, 4])),
    ("output_shape_too_small", _set("buckets", 1, "outputs", 2, [1, 2])),
    ("output_rank_differs", _set("buckets", 1, "outputs", 2, [3])),
    ("state_that_is_not_there", _add("states", _STATE)),
    ("alias_without_state", _add("aliases", {"state": 0, "output": 3})),
    ("alias_of_ordinary_output", _add("aliases", {"state": 0, "output": 0})),
    ("alias_negative", _add("aliases", {"state": -1, "output": 3})),
    ("alias_is_text", _add("aliases", {"state": "s", "output": 3})),
    ("aliases_is_object", _set("aliases", {"0": 3})),
    ("kernel_is_text", _set("kernel", "pad")),
    ("kernel_type_unknown", _set("kernel", {"type": "native"})),
    ("kernel_without_type", _set("kernel", {})),
    ("kernel_pad_without_rest", _set("kernel", {"type": "pad"})),
    ("kernel_value_missing_one", _drop("kernel", "value", 0)),
    ("kernel_value_is_text", _set("kernel", "value", 0, "0")),
    ("kernel_value_is_null", _set("kernel", "value", 0, None)),
    ("kernel_value_fraction_for_int", _set("kernel", "value", 1, 0.5)),
    ("kernel_value_beyond_int64", _set("kernel", "value", 1, 2**64)),
    ("kernel_value_not_float32", _set("kernel", "value", 0, 0.1)),
    ("kernel_side_unknown", _set("kernel", "side", 0, "top")),
    ("kernel_side_missing_one", _drop("kernel", "side", 0)),
    ("kernel_dims_missing_one", _drop("kernel", "dims", 0)),
    ("kernel_dims_beyond_rank", _set("kernel", "dims", 0, [2])),
    ("kernel_dims_negative", _set("kernel", "dims", 0, [-1])),
    ("kernel_dims_twice", _set("kernel", "dims", 0, [1, 1])),
    ("preprocessor_that_is_not_there", _set("preprocessor", True)),
    ("preprocessor_is_text", _set("preprocessor", "no")),
    ("accepts_unknown", _set("accepts", "anything")),
    ("accepts_is_true", _set("accepts", True)),
    ("dims_missing", _set("dims", [])),
    ("dims_of_no_input", _add("dims", {"input": 2, "dim": 0, "min": 1})),
    ("dims_of_no_dim", _add("dims", {"input": 0, "dim": 2, "min": 1})),
    ("dims_twice", _add("dims", {"input": 0, "dim": 1, "min": 1})),
    ("dims_min_negative", _set("dims", 0, "min", -1)),
    ("dims_min_above_largest", _set("dims", 0, "min", 9)),
    ("dims_min_missing", _drop("dims", 0, "min")),
    ("crop_of_no_output", _add("crop", {**_CROP, "output": 3})),
    ("crop_of_no_dim", _add("crop", {**_CROP, "dim": 2})),
    ("crop_of_no_input", _add("crop", {**_CROP, "input": 2})),
    ("crop_of_no_input_dim", _add("crop", {**_CROP, "input_dim": 2})),
    ("crop_negative", _add("crop", {**_CROP, "output": -1})),
    ("crop_twice", lambda metadata: metadata["crop"].append(metadata["crop"][0])),
    ("crop_side_unknown", _set("crop", 0, "side", "middle")),
    ("crop_denominator_0", _set("crop", 0, "denominator", 0)),
    ("crop_numerator_0", _set("crop", 0, "numerator", 0)),
    ("crop_ratio_negative", _set("crop", 0, "numerator", -1)),
    ("crop_ratio_wrong", _set("crop", 0, "numerator", 2)),
    ("crop_of_fixed_dim", _add("crop", {**_CROP, "output": 2, "dim": 1})),
]
