"""`bucket_model_trace`: traces one model per bucket and packs them into one bucket model."""

import functools

import torch

from bucketd import __version__, dtypes, metadata as metadata_rules
from bucketd.errors import TraceError
from bucketd.torch_neuronx import bucket_model, crop, input_dims, kernel_check, states as state_rules, weights
from bucketd.torch_neuronx.config import BucketModelConfig
from bucketd.torch_neuronx.pad_kernel import PadKernel
from bucketd.torch_neuronx.traced_bucket import TracedBucket


def bucket_model_trace(func, example_inputs, bucket_config, compiler_workdir=None, compiler_args=None):
    """Traces a bucket model; torch-neuronx's function of that name, compiling for the CPU.

      func: a factory: called with `bucket_config.func_kwargs`, once for each bucket, returns
        `(model, input_output_aliases)`. The aliases map a state tensor to the output that updates it;
        these outputs come after the ordinary ones and are not returned to the caller. Ours: None instead
        of an output for a tensor of the model that it writes in place. The model is put into evaluation
        mode; weights that are equal in several buckets are stored once.
      example_inputs: for each bucket, a tensor or a tuple of tensors of exactly the bucket's shapes.
      bucket_config: a `BucketModelConfig`.
      compiler_workdir, compiler_args: of neuronx-cc, which has no part in compiling for a CPU: ignored.

    Returns a `BucketModel`: callable with raw inputs, saved with its `save` or with `torch.jit.save`.
    Raises `TraceError` (`KernelError`, `CropError`) when kernel, model, examples and states contradict
    each other: the kernel is run over its whole declared input range before anything is returned.
    """
    if not isinstance(bucket_config, BucketModelConfig):
        raise TraceError("bucket_config has to be a BucketModelConfig")
    examples = _read_examples(example_inputs)
    made = [_call_factory(func, kwargs) for kwargs in bucket_config.kwargs_per_bucket(len(examples))]
    per_bucket = [
        state_rules.read_aliases(model, aliases, bucket_config.shared_state_buffer, bucket_config.state_names or [])
        for model, aliases in made
    ]
    per_bucket = state_rules.pair_by_name(per_bucket, bucket_config.state_names or [])
    _require_same_aliases(per_bucket)
    buffers = state_rules.initial_buffers(bucket_config, per_bucket)
    shapes_collection = state_rules.expected_shapes(bucket_config, per_bucket, buffers)
    preprocessor = bucket_config.make_preprocessor() if buffers else None
    weights.share_equal_tensors([model for model, _ in made])

    def make_views(number):
        # Tracing runs the model: on a copy, so that the initial values stay what they are.
        copies = [buffer.clone() for buffer in buffers]
        return copies, state_rules.views_of(preprocessor, shapes_collection, copies, number, per_bucket[number].outputs)

    traced = [
        TracedBucket(model, example, functools.partial(make_views, number), per_bucket[number], number)
        for number, ((model, _), example) in enumerate(zip(made, examples))
    ]
    _require_same_outputs(traced)

    input_shapes = [[list(tensor.shape) for tensor in example] for example in examples]
    kernel, kernel_source, kernel_metadata, padded_dims = _resolve_kernel(bucket_config, examples, input_shapes)
    ordinary = traced[0].ordinary_count
    input_names = _names(bucket_config.input_names, len(examples[0]), "input")
    given_names = bucket_config.output_names
    output_names = _names(traced[0].output_names if given_names is None else given_names, ordinary, "output")
    state_names = _names(bucket_config.state_names, len(buffers), "state")
    dims = input_dims.InputDims(
        input_shapes, input_names, padded_dims, bucket_config.min_sizes, bucket_config.tied_dims
    )
    kernel_check.check(kernel, examples, dims, bucket_config.kernel_may_change_values)
    output_shapes = [[shape for shape, _ in bucket.outputs[:ordinary]] for bucket in traced]
    metadata = {
        "format": metadata_rules.FORMAT,
        "version": metadata_rules.VERSION,
        "sealed": True,
        "name": bucket_config.name,
        "producer": f"bucketd.torch_neuronx {__version__}",
        "inputs": [
            {"name": name, "dtype": dtypes.name_of(tensor.dtype)} for name, tensor in zip(input_names, examples[0])
        ],
        "outputs": [
            {"name": name, "dtype": dtypes.name_of(dtype)} for name, (_, dtype) in zip(output_names, traced[0].outputs)
        ],
        "states": _describe_states(
            state_names, buffers, bucket_config.sequence_dims, bucket_config.sequence_aligns
        ),
        "aliases": [{"state": s, "output": o} for s, o in sorted(per_bucket[0].outputs.items())],
        "buckets": [
            {"inputs": input_shapes[b], "outputs": output_shapes[b], "states": shapes_collection[b]}
            for b in range(len(examples))
        ],
        "kernel": kernel_metadata,
        "preprocessor": preprocessor is not None,
        "accepts": bucket_config.accepts,
        "dims": dims.metadata(),
        "crop": crop.infer(bucket_config.crop, dims, output_shapes, output_names, kernel, kernel_metadata, examples),
    }
    return bucket_model.assemble(
        metadata,
        [bucket.module for bucket in traced],
        kernel,
        kernel_source,
        preprocessor,
        buffers,
        traced[0].returns_tensor and ordinary == 1,
    )


def _read_examples(example_inputs):
    if isinstance(example_inputs, torch.Tensor) or not isinstance(example_inputs, (list, tuple)):
        raise TraceError("example_inputs has to be a list with the example inputs of each bucket")
    examples = [(entry,) if isinstance(entry, torch.Tensor) else tuple(entry) for entry in example_inputs]
    if not 1 <= len(examples) <= metadata_rules.MAX_BUCKETS:
        raise TraceError(f"example_inputs has {len(examples)} buckets, not 1 to {metadata_rules.MAX_BUCKETS}")
    for number, example in enumerate(examples):
        if not all(isinstance(tensor, torch.Tensor) for tensor in example):
            raise TraceError(f"the example inputs of bucket {number} are not all tensors")
        if not 1 <= len(example) <= metadata_rules.MAX_TENSORS or len(example) != len(examples[0]):
            raise TraceError(
                f"bucket {number} has {len(example)} example inputs, bucket 0 has {len(examples[0])}:"
                f" every bucket takes the same 1 to {metadata_rules.MAX_TENSORS}"
            )
        for index, (tensor, first) in enumerate(zip(example, examples[0])):
            if tensor.dtype != first.dtype or tensor.dim() != first.dim():
                raise TraceError(
                    f"input {index} is {tensor.dtype} of rank {tensor.dim()} in bucket {number},"
                    f" but {first.dtype} of rank {first.dim()} in bucket 0"
                )
            dtypes.name_of(tensor.dtype)
    return [tuple(tensor.detach().contiguous() for tensor in example) for example in examples]


def _call_factory(func, kwargs):
    if isinstance(func, torch.nn.Module) or not callable(func):
        raise TraceError("func has to be a function that returns (model, input_output_aliases), not the model")
    made = func(**kwargs)
    if not isinstance(made, tuple) or len(made) != 2 or not callable(made[0]):
        raise TraceError("func has to return a tuple (model, input_output_aliases)")
    return made


def _resolve_kernel(config, examples, input_shapes):
    """The kernel as TorchScript function and as method source, its metadata, and the dims it declares to pad."""
    if isinstance(config.bucket_kernel, PadKernel):
        resolved = config.bucket_kernel.resolve(input_shapes, [tensor.dtype for tensor in examples[0]])
        return resolved.function, resolved.method_source, resolved.metadata, resolved.dims
    return config.make_kernel(), bucket_model.CALLING_KERNEL, {"type": "torchscript"}, [[] for _ in examples[0]]


def _require_same_aliases(per_bucket):
    for number, states in enumerate(per_bucket):
        if states.outputs != per_bucket[0].outputs or len(states.shapes) != len(per_bucket[0].shapes):
            raise TraceError(f"the input_output_aliases of bucket {number} are not those of bucket 0")


def _require_same_outputs(traced):
    for number, bucket in enumerate(traced):
        ranks = [(len(shape), dtype) for shape, dtype in bucket.outputs]
        first = [(len(shape), dtype) for shape, dtype in traced[0].outputs]
        if ranks != first:
            raise TraceError(
                f"bucket {number} gives outputs of (rank, dtype) {ranks}, bucket 0 gives {first}:"
                " every bucket has to give the same outputs"
            )


def _describe_states(names, buffers, sequence_dims, sequence_aligns):
    def by_index(option):
        return {name if isinstance(name, int) else names.index(name): value for name, value in option.items()}

    sequence_dims = by_index(sequence_dims)
    sequence_aligns = by_index(sequence_aligns)
    described = []
    for index, (name, buffer) in enumerate(zip(names, buffers)):
        entry = {"name": name, "dtype": dtypes.name_of(buffer.dtype), "shape": list(buffer.shape)}
        if index in sequence_dims:
            entry["sequence_dim"] = sequence_dims[index]
        if index in sequence_aligns:
            entry["align"] = sequence_aligns[index]
        described.append(entry)
    return described


def _names(given, count, what):
    names = [f"{what}_{i}" for i in range(count)] if given is None else list(given)
    if len(names) != count:
        raise TraceError(f"{what}_names has {len(names)} names, but there are {count} {what}s")
    for name in names:
        if not metadata_rules.is_name(name):
            raise TraceError(f"the {what} name {name!r} is not 1 to 64 characters of [A-Za-z0-9_.-]")
    if len(set(names)) != len(names):
        raise TraceError(f"{what}_names has a name twice")
    return names
