"""Sealed artifacts with good metadata whose module does not do what it says."""

import copy
import json

import torch

import sealed_archive

_METADATA = {
    "format": "bucketd-artifact",
    "version": 1,
    "sealed": True,
    "name": "mutated",
    "producer": "tests/artifacts",
    "inputs": [{"name": "x", "dtype": "float32"}],
    "outputs": [{"name": "y", "dtype": "float32"}],
    "states": [],
    "aliases": [],
    "buckets": [
        {"inputs": [[4]], "outputs": [[4]], "states": []},
        {"inputs": [[8]], "outputs": [[8]], "states": []},
    ],
    "kernel": {"type": "torchscript"},
    "preprocessor": False,
    "accepts": "declared",
    "dims": [{"input": 0, "dim": 0, "min": 1}],
    "crop": [{"output": 0, "dim": 0, "input": 0, "input_dim": 0, "side": "right", "numerator": 1, "denominator": 1}],
}
_WITH_STATE = {
    **_METADATA,
    "states": [{"name": "s", "dtype": "float32", "shape": [8]}],
    "aliases": [{"state": 0, "output": 1}],
    "buckets": [{**bucket, "states": bucket["inputs"]} for bucket in _METADATA["buckets"]],
    "preprocessor": True,
}

_KERNEL = """
def bucket_kernel(self, inputs: List[Tensor]) -> Tuple[List[Tensor], Tensor]:
    x = inputs[0]
    size = 4
    bucket = 0
    if x.size(0) > 4:
        size = 8
        bucket = 1
    if x.size(0) > 8:
        return torch.jit.annotate(List[Tensor], []), torch.tensor([0])
{body}
    return [torch.constant_pad_nd(x, [0, size - x.size(0)], 0)], torch.tensor([bucket])
"""
_PREPROCESSOR = """
def state_preprocessor(self, shapes_collection: List[List[List[int]]], states: List[Tensor], bucket_idx: Tensor) -> List[Tensor]:
{body}
    return [states[0].narrow(0, 0, shapes_collection[int(bucket_idx)][0][0])]
"""
_FORWARD = """
def forward(self, input_0: Tensor):
    padded, bucket = self.bucket_kernel([input_0])
    return padded[0] + 1
"""


class AddOne(torch.nn.Module):
    def forward(self, x):
        return x + 1


class AddState(torch.nn.Module):
    def forward(self, x, state):
        return x + 1, state + x


@torch.jit.script
def _refuse(x: torch.Tensor) -> torch.Tensor:
    if x.dim() >= 0:
        raise ValueError("this bucket always fails")
    return x


class Fails(torch.nn.Module):
    def forward(self, x):
        return _refuse(x)


class Gives(torch.nn.Module):
    """Gives `result(x)`, whatever that is."""

    def __init__(self, result):
        super().__init__()
        self._result = result

    def forward(self, *tensors):
        return self._result(*tensors)


def build(
    metadata=None, buckets=(AddOne(), AddOne()), kernel="", preprocessor=None, states=(), preprocessor_source=_PREPROCESSOR
):
    """The bytes of a sealed artifact; without arguments, of a good one.

    `kernel` and `preprocessor` are lines of TorchScript that go before the method's last one, or None to
    leave the method out. `preprocessor_source`: the whole method, where it should be another.
    """
    metadata = metadata or _METADATA
    holder = torch.nn.Module()
    for number, bucket in enumerate(buckets):
        if bucket is None:
            continue
        size = metadata["buckets"][number]["inputs"][0]
        arguments = [torch.zeros(size)] + [torch.zeros(size) for _ in states]
        holder.add_module(f"bucket_{number}", _compiled(bucket, arguments))
    for number, state in enumerate(states):
        holder.register_buffer(f"state_{number}", state)
    module = torch.jit.script(holder)
    if preprocessor is not None:
        module.define(preprocessor_source.format(body=preprocessor))
    if kernel is not None:
        module.define(_KERNEL.format(body=kernel))
        module.define(_FORWARD)
    text = json.dumps(metadata).encode()
    return sealed_archive.seal(module.save_to_buffer(_extra_files={"bucketd.json": text}))


def build_with_state(**changes):
    """A good artifact with a state, unless `changes` of `build` say otherwise."""
    arguments = {
        "metadata": _WITH_STATE,
        "buckets": (AddState(), AddState()),
        "preprocessor": "",
        "states": (torch.zeros(8),),
    }
    return build(**{**arguments, **changes})


def _compiled(bucket, arguments):
    if isinstance(bucket, Fails):
        return torch.jit.script(bucket)
    return torch.jit.trace(bucket, tuple(arguments), check_trace=False)


def _changed(metadata, **fields):
    return {**copy.deepcopy(metadata), **fields}


_KERNELS = [
    ("index_negative", "    bucket = -1"),
    ("index_too_large", "    bucket = 2"),
    ("index_huge", "    bucket = 9223372036854775807"),
    ("index_always_0", "    bucket = 0"),
    ("index_swapped", "    bucket = 1 - bucket"),
    ("index_is_float", "    return [x], torch.tensor([0.5])"),
    ("index_empty", "    return [x], torch.empty([0], dtype=torch.int64)"),
    ("index_of_two", "    return [x], torch.tensor([0, 1])"),
    ("shape_short", "    x = x.narrow(0, 0, 3)\n    size = 3"),
    ("shape_long", "    size = 9"),
    ("rank_2", "    return [torch.zeros([1, size])], torch.tensor([bucket])"),
    ("dtype_float64", "    x = x.to(torch.float64)"),
    ("dtype_int64", "    x = x.to(torch.int64)"),
    ("list_empty", "    return torch.jit.annotate(List[Tensor], []), torch.tensor([bucket])"),
    ("list_of_two", "    return [x, x], torch.tensor([bucket])"),
    ("raises", "    if size > 0:\n        raise ValueError('no')"),
    ("raises_in_one_bucket", "    if size == 8:\n        raise ValueError('no')"),
    ("index_into_nothing", "    x = inputs[5]"),
]

_PREPROCESSORS = [
    ("raises", "    if len(states) > 0:\n        raise ValueError('no')"),
    ("gives_nothing", "    return torch.jit.annotate(List[Tensor], [])"),
    ("gives_two", "    return [states[0], states[0]]"),
    ("gives_all", "    return states"),
    ("gives_other_dtype", "    states = [states[0].to(torch.int64)]"),
]


def make(_):
    """Yields (kind, content)."""
    for kind, body in _KERNELS:
        yield f"kernel_{kind}", build(kernel=body)
    for kind, body in _PREPROCESSORS:
        yield f"preprocessor_{kind}", build_with_state(preprocessor=body)
    yield "module_without_kernel", build(kernel=None)
    yield "module_without_bucket_0", build(buckets=(None, AddOne()))
    yield "module_without_bucket_1", build(buckets=(AddOne(), None))
    yield "module_without_buckets", build(buckets=(None, None))
    yield "module_without_preprocessor", build_with_state(preprocessor=None)
    yield "module_with_state_of_other_shape", build_with_state(states=(torch.zeros(7),))
    yield "module_with_state_of_other_dtype", build_with_state(states=(torch.zeros(8, dtype=torch.int64),))
    without = _changed(_WITH_STATE)
    without["states"].append({"name": "t", "dtype": "float32", "shape": [8]})
    for bucket in without["buckets"]:
        bucket["states"] = bucket["states"] * 2
    yield "module_without_state_1", build_with_state(metadata=without)
    yield "bucket_fails", build(buckets=(AddOne(), Fails()))
    yield "bucket_gives_other_shape", build(buckets=(AddOne(), Gives(lambda x: x[:7])))
    yield "bucket_gives_other_rank", build(buckets=(AddOne(), Gives(lambda x: x.unsqueeze(0))))
    yield "bucket_gives_other_dtype", build(buckets=(AddOne(), Gives(lambda x: x.double())))
    yield "bucket_gives_two_outputs", build(buckets=(AddOne(), Gives(lambda x: (x, x))))
    yield "bucket_lacks_aliased_output", build_with_state(buckets=(AddState(), Gives(lambda x, s: x + s)))
    yield "bucket_gives_aliased_output_of_other_shape", build_with_state(
        buckets=(AddState(), Gives(lambda x, s: (x + s, (x + s)[:4])))
    )
    yield "bucket_takes_no_state", build(metadata=_WITH_STATE, preprocessor="", states=(), kernel="")
