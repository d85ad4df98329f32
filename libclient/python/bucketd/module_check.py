"""Loads the module of an artifact and checks that it does what the metadata says, as the daemon does.

Needs torch. A file from a stranger is code: this runs it in this process.
"""

import itertools

import torch

from bucketd.errors import ArtifactError


def check_module(path, metadata):
    """Raises `ArtifactError` unless buckets, kernel, preprocessor and states fit `metadata` (validated)."""
    module = _load(path)
    buckets = _members(module, metadata)
    states = _states(module, metadata)
    for number, bucket in enumerate(buckets):
        inputs = [torch.zeros(shape, dtype=dtype) for shape, dtype in _specs(metadata, "inputs", number)]
        _check_kernel(module, metadata, number, inputs)
        views = _views(module, metadata, number, [state.clone() for state in states])
        with torch.no_grad():
            results = _call(f"bucket {number}", bucket, *inputs, *views)
        _check_outputs(metadata, number, results)


def _load(path):
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # LibTorch reports damage by many types of exception.
        raise ArtifactError(f"LibTorch cannot load it: {_first_line(error)}") from error


def _members(module, metadata):
    count = len(metadata["buckets"])
    if hasattr(module, f"bucket_{count}"):
        raise ArtifactError(f"the module has more buckets than the {count} of the metadata")
    buckets = [getattr(module, f"bucket_{number}", None) for number in range(count)]
    if None in buckets:
        raise ArtifactError(f"the module has no bucket_{buckets.index(None)}")
    if not hasattr(module, "bucket_kernel"):
        raise ArtifactError("the module has no bucket_kernel")
    if metadata["preprocessor"] and not hasattr(module, "state_preprocessor"):
        raise ArtifactError("the module has no state_preprocessor")
    return buckets


def _states(module, metadata):
    states = []
    for number, entry in enumerate(metadata["states"]):
        state = getattr(module, f"state_{number}", None)
        if not isinstance(state, torch.Tensor) or not _fits(state, entry["shape"], entry["dtype"]):
            raise ArtifactError(f"the module has no state_{number} of {entry['dtype']} {entry['shape']}")
        states.append(state)
    return states


def _specs(metadata, field, bucket):
    shapes = metadata["buckets"][bucket][field]
    return [(shape, getattr(torch, entry["dtype"])) for shape, entry in zip(shapes, metadata[field])]


def _check_kernel(module, metadata, number, inputs):
    what = f"bucket_kernel, at the shapes of bucket {number},"
    padded, index = _call(what, module.bucket_kernel, list(inputs))
    if index.numel() != 1 or index.is_floating_point():
        raise ArtifactError(f"{what} gives an index that is not one integer")
    chosen = int(index)
    if not 0 <= chosen < len(metadata["buckets"]):
        raise ArtifactError(f"{what} chooses bucket {chosen}; there are {len(metadata['buckets'])}")
    wanted = metadata["buckets"][chosen]["inputs"]
    if metadata["buckets"][number]["inputs"] != wanted:
        raise ArtifactError(f"{what} chooses bucket {chosen}")
    if len(padded) != len(wanted):
        raise ArtifactError(f"{what} gives {len(padded)} tensors, not {len(wanted)}")
    for tensor, shape, entry in zip(padded, wanted, metadata["inputs"]):
        if not _fits(tensor, shape, entry["dtype"]):
            raise ArtifactError(f"{what} gives input {entry['name']!r} as {tensor.dtype} {list(tensor.shape)}")


def _views(module, metadata, number, states):
    if not metadata["preprocessor"]:
        return states
    what = f"state_preprocessor, for bucket {number},"
    collection = [bucket["states"] for bucket in metadata["buckets"]]
    views = _call(what, module.state_preprocessor, collection, states, torch.tensor([number]))
    if len(views) != len(states):
        raise ArtifactError(f"{what} gives {len(views)} states, not {len(states)}")
    for view, shape, entry in zip(views, collection[number], metadata["states"]):
        if not _fits(view, shape, entry["dtype"]):
            raise ArtifactError(f"{what} gives state {entry['name']!r} as {view.dtype} {list(view.shape)}")
    return views


def _check_outputs(metadata, number, results):
    results = [results] if isinstance(results, torch.Tensor) else results
    shapes = metadata["buckets"][number]["outputs"]
    specs = [(shape, entry["dtype"]) for shape, entry in zip(shapes, metadata["outputs"])]
    for alias in sorted(metadata["aliases"], key=lambda alias: alias["output"]):
        specs.append(
            (metadata["buckets"][number]["states"][alias["state"]], metadata["states"][alias["state"]]["dtype"])
        )
    if not isinstance(results, (tuple, list)) or len(results) != len(specs):
        raise ArtifactError(f"bucket {number} does not give {len(specs)} outputs")
    for index, (result, (shape, dtype)) in enumerate(itertools.zip_longest(results, specs)):
        if not isinstance(result, torch.Tensor) or not _fits(result, shape, dtype):
            raise ArtifactError(f"output {index} of bucket {number} is not {dtype} {shape}")


def _fits(tensor, shape, dtype_name):
    return list(tensor.shape) == shape and tensor.dtype == getattr(torch, dtype_name)


def _call(what, function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        raise ArtifactError(f"{what} fails: {_first_line(error)}") from error


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
