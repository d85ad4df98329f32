"""What the author of a bucket model says about it, apart from the model itself."""

import dataclasses
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch

from bucketd import metadata
from bucketd.errors import TraceError
from bucketd.torch_neuronx.pad_kernel import PadKernel

TensorName = Union[int, str]


@dataclasses.dataclass(frozen=True)
class Crop:
    """Output dim `dim` of `output` follows dim `input_dim` of `input` (tensors by index or name).

    The ratio of the sizes, the same in every bucket, is found by comparing them. With `input=None` the output
    dim follows nothing and is returned whole. `side` is where the padding is ("right" or "left"), found by a
    probe when not given.
    """

    output: TensorName
    dim: int
    input: Optional[TensorName]
    input_dim: int = 0
    side: Optional[str] = None


class BucketModelConfig:
    """How inputs select a bucket, and which state the buckets share.

    Arguments as in torch-neuronx:
      bucket_kernel: a factory: called without arguments, returns a `torch.jit.script` function
        `List[Tensor] -> Tuple[List[Tensor], Tensor]`, the inputs as the chosen bucket takes them and the
        bucket's index. Or a `PadKernel`.
      shared_state_buffer: initial values of the shared state, each at its largest shape.
      shared_state_buffer_preprocessor: a factory of a `torch.jit.script` function
        `(shapes_collection: List[List[List[int]]], states: List[Tensor], bucket_idx: Tensor) -> List[Tensor]`
        that gives a bucket its part of the state. Without it, buckets get the full buffers.
      func_kwargs: keyword arguments of the model factory: one dict, or a list with one dict per bucket.

    Ours, all optional:
      name: the model's name, 1 to 64 characters of [A-Za-z0-9_.-].
      input_names, output_names, state_names: names in call order; `output_names` of the ordinary outputs.
      sequence_dims: {state: dim} the dim of a state along which it grows.
      sequence_aligns: {state: "left" or "right"} where along that dim the positions in use lie: from its start
        ("left", when not given) or up to its end.
      state_shapes: for each bucket, the shape it takes of each state; needed only where a preprocessor
        slices a state that the model takes as a trailing argument.
      min_sizes: {(input, dim): size} the least size accepted, 1 when not given.
      tied_dims: lists of (input, dim) of one input that always have the same size, such as both sides of an
        attention mask; the kernel is then tried, and outputs are tied, with these as one.
      accepts: "declared": inputs are checked against the declared ranges before the kernel runs;
        "kernel": the kernel is given whatever the caller sends.
      crop: `Crop` annotations.
      kernel_may_change_values: the kernel is meant to drop or change elements of its inputs, so that a
        result that does not hold every input element is no error.
    """

    def __init__(
        self,
        bucket_kernel: Union[Callable[[], torch.jit.ScriptFunction], PadKernel],
        *,
        shared_state_buffer: Optional[Sequence[torch.Tensor]] = None,
        shared_state_buffer_preprocessor: Optional[Callable[[], torch.jit.ScriptFunction]] = None,
        func_kwargs: Optional[Union[Dict[str, Any], List[Dict[str, Any]]]] = None,
        name: str = "model",
        input_names: Optional[Sequence[str]] = None,
        output_names: Optional[Sequence[str]] = None,
        state_names: Optional[Sequence[str]] = None,
        sequence_dims: Optional[Mapping[TensorName, int]] = None,
        sequence_aligns: Optional[Mapping[TensorName, str]] = None,
        state_shapes: Optional[Sequence[Sequence[Sequence[int]]]] = None,
        min_sizes: Optional[Mapping[Tuple[TensorName, int], int]] = None,
        tied_dims: Sequence[Sequence[Tuple[TensorName, int]]] = (),
        accepts: str = "declared",
        crop: Sequence[Crop] = (),
        kernel_may_change_values: bool = False,
    ):
        if not isinstance(bucket_kernel, PadKernel):
            _require_factory(bucket_kernel, "bucket_kernel")
        if shared_state_buffer_preprocessor is not None:
            _require_factory(shared_state_buffer_preprocessor, "shared_state_buffer_preprocessor")
        if shared_state_buffer is not None and not all(isinstance(t, torch.Tensor) for t in shared_state_buffer):
            raise TraceError("shared_state_buffer has to be a list of tensors")
        if accepts not in metadata.ACCEPTS:
            raise TraceError(f"accepts is {accepts!r}, not one of {metadata.ACCEPTS}")
        if not metadata.is_name(name):
            raise TraceError(f"the model name {name!r} is not 1 to 64 characters of [A-Za-z0-9_.-]")
        self.bucket_kernel = bucket_kernel
        self.shared_state_buffer = list(shared_state_buffer or [])
        self.shared_state_buffer_preprocessor = shared_state_buffer_preprocessor
        self.func_kwargs = func_kwargs
        self.name = name
        self.input_names = input_names
        self.output_names = output_names
        self.state_names = state_names
        self.sequence_dims = dict(sequence_dims or {})
        self.sequence_aligns = dict(sequence_aligns or {})
        self.state_shapes = state_shapes
        self.min_sizes = dict(min_sizes or {})
        self.tied_dims = [list(tied) for tied in tied_dims]
        self.accepts = accepts
        self.crop = list(crop)
        self.kernel_may_change_values = kernel_may_change_values

    @property
    def bucket_kernel_graph(self) -> "torch._C.Graph":
        """The kernel as TorchScript lowered it: read it when the kernel does not do what its source says.

        A `PadKernel` is lowered when the model is traced: see `BucketModel.bucket_kernel_graph`.
        """
        if isinstance(self.bucket_kernel, PadKernel):
            raise TraceError("a PadKernel has a graph only in the traced model: its bucket_kernel_graph")
        return self.make_kernel().graph

    def make_kernel(self) -> torch.jit.ScriptFunction:
        """Calls the author's kernel factory; not for a `PadKernel`."""
        return call_factory(self.bucket_kernel, "bucket_kernel", ["List[Tensor]"], "Tuple[List[Tensor], Tensor]")

    def make_preprocessor(self) -> Optional[torch.jit.ScriptFunction]:
        """Calls the author's preprocessor factory, if there is one."""
        if self.shared_state_buffer_preprocessor is None:
            return None
        return call_factory(
            self.shared_state_buffer_preprocessor,
            "shared_state_buffer_preprocessor",
            ["List[List[List[int]]]", "List[Tensor]", "Tensor"],
            "List[Tensor]",
        )

    def kwargs_per_bucket(self, bucket_count: int) -> List[Dict[str, Any]]:
        """Keyword arguments of the model factory, for each bucket."""
        given = self.func_kwargs
        if given is None:
            return [{}] * bucket_count
        if isinstance(given, Mapping):
            return [dict(given)] * bucket_count
        if len(given) != bucket_count:
            raise TraceError(
                f"func_kwargs has {len(given)} entries, but there are {bucket_count} buckets:"
                " give one dict for all, or one for each bucket"
            )
        return [dict(entry or {}) for entry in given]


def _require_factory(factory, what):
    if isinstance(factory, (torch.jit.ScriptFunction, torch.jit.ScriptModule)):
        raise TraceError(f"{what} has to be a function that returns the torch.jit.script function, not that function")
    if not callable(factory):
        raise TraceError(f"{what} has to be a function that returns a torch.jit.script function")


def call_factory(factory, what, argument_types, return_type):
    """What `factory` returns, checked to be a TorchScript function of these types."""
    function = factory()
    if not isinstance(function, torch.jit.ScriptFunction):
        raise TraceError(f"{what} returned a {type(function).__name__}, not a torch.jit.script function")
    schema = function.schema
    found = [argument.type.annotation_str for argument in schema.arguments]
    returned = [result.type.annotation_str for result in schema.returns]
    if found != argument_types or returned != [return_type]:
        raise TraceError(
            f"the function that {what} returned is ({', '.join(found)}) -> {', '.join(returned)},"
            f" it has to be ({', '.join(argument_types)}) -> {return_type}"
        )
    return function
