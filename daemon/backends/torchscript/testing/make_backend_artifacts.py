#!/ usr / bin / python3
"""Writes the artifacts that only the TorchScript backend's tests load.

    /usr/bin/python3 daemon/backends/torchscript/testing/make_backend_artifacts.py -o FOLDER
"""

import argparse
import inspect
import pathlib
import sys
from typing import List

_ROOT = pathlib.Path(__file__).resolve().parents[4]
sys.path[:0] = [str(_ROOT / "libclient" / "python"), str(_ROOT / "tests" / "artifacts")]

import torch  # noqa: E402

import module_mutations  # noqa: E402
import sealed_archive  # noqa: E402
from bucketd import torch_neuronx  # noqa: E402
from bucketd.torch_neuronx import BucketModelConfig, PadKernel  # noqa: E402

#The state preprocessor of the autobucketing guide, word for word.
def state_preprocessor(shapes_collection: List[List[List[int]]], states: List[torch.Tensor], bucket_idx_tensor: torch.Tensor)->List[torch.Tensor]:
    bucket_idx = torch.ops.aten.Int(bucket_idx_tensor)
    shapes = shapes_collection[bucket_idx]
    sliced_state_tensors = []

    for i in range(len(shapes)):
        expected_shape = shapes[i]
        state_tensor = states[i]
        state_tensor_shape = state_tensor.shape
        for j,npos in enumerate(expected_shape):
            state_tensor_dim_length = state_tensor_shape[j]
            state_tensor = torch.ops.aten.slice(state_tensor,dim=j,start=state_tensor_dim_length-npos,end=state_tensor_dim_length)
        sliced_state_tensors.append(state_tensor)

    return sliced_state_tensors


def get_state_preprocessor():
    return torch.jit.script(state_preprocessor)


@torch.jit.script
def slice_where_state_says(
    shapes_collection: List[List[List[int]]], states: List[torch.Tensor], bucket_idx: torch.Tensor
) -> List[torch.Tensor]:
    """State 1 is cut where the first element of state 0 says."""
    shapes = shapes_collection[int(bucket_idx)]
    start = int(states[0][0])
    return [states[0], states[1].narrow(0, start, shapes[1][0])]


@torch.jit.script
def head_by_element(
    shapes_collection: List[List[List[int]]], states: List[torch.Tensor], bucket_idx: torch.Tensor
) -> List[torch.Tensor]:
    """Reads the index as an element of its tensor."""
    return [states[0].narrow(0, 0, shapes_collection[int(bucket_idx[0])][0][0])]


@torch.jit.script
def every_fourth(
    shapes_collection: List[List[List[int]]], states: List[torch.Tensor], bucket_idx: torch.Tensor
) -> List[torch.Tensor]:
    return [states[0].index_select(0, torch.arange(0, 16, 4)), states[1]]


@torch.jit.script
def add_transposed(x: torch.Tensor, state: torch.Tensor):
    state.t_()
    state.add_(x)
    return state.clone()


@torch.jit.script
def copy_of_state(
    shapes_collection: List[List[List[int]]], states: List[torch.Tensor], bucket_idx: torch.Tensor
) -> List[torch.Tensor]:
    return [state.clone() for state in states]


@torch.jit.script
def refuse_negative(x: torch.Tensor) -> torch.Tensor:
    if bool((x < 0).any()):
        raise ValueError("negative numbers are\nnot for this model")
    return x


@torch.jit.script
def to_int64_kernel(inputs: List[torch.Tensor]):
    """Takes any integer type and rank 1 or 2; what is longer than 8 has no bucket."""
    x = inputs[0].to(torch.int64)
    if x.dim() == 1:
        x = x.unsqueeze(0)
    given: List[torch.Tensor] = []
    if x.size(1) <= 8:
        given.append(torch.constant_pad_nd(x, [0, 8 - x.size(1)], 0))
    return given, torch.tensor([0])


@torch.jit.script
def by_mask_kernel(inputs: List[torch.Tensor]):
    """Cuts what the mask says is padding, then pads to 4 or 8: sizes come out of numbers."""
    length = int(inputs[1].sum())
    size = 4 if length <= 4 else 8
    padded: List[torch.Tensor] = []
    if length <= 8:
        for x in inputs:
            x = x[:, :length]
            padded.append(torch.constant_pad_nd(x, [0, size - x.size(1)], 0))
    return padded, torch.tensor([0 if length <= 4 else 1])


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self._function = function

    def forward(self, *tensors):
        return self._function(*tensors)


class Product(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x):
        return torch.matmul(x, self.weight)


class Adds(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("eight", torch.zeros(8))

    def forward(self, x):
        return x + self.eight


class AddsLast(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(4096.0))

    def forward(self, x):
        return x + self.table[-1]


def grow(x, cache):
    cache.add_(x)
    return cache * 2


def with_states(x, first, second):
    """Gives both states as they were; state 0 is replaced by output 2, state 1 changed in place."""
    before = first.clone(), second.clone()
    second.add_(2 * x)
    return before[0], before[1], first + x


def trace(folder, name, model, examples, aliases=None, kernel=None, **options):
    config = BucketModelConfig(kernel or PadKernel(), name=name, input_names=["x"], **options)
    model = model if isinstance(model, torch.nn.Module) else Function(model)
    torch_neuronx.bucket_model_trace(lambda: (model, aliases or {}), examples, config).save(folder / f"{name}.pt")


def make_stateful(folder):
    two = [torch.arange(512.0).unsqueeze(0), torch.ones(1, 512)]
    trace(folder, "guide_states", with_states, [torch.ones(1, n) for n in (128, 512)], {
  0 : 2},
          shared_state_buffer=two, shared_state_buffer_preprocessor=get_state_preprocessor,
          state_shapes=[[[1, 128]] * 2, [[1, 512]] * 2])
#Written in place, four rows of which each bucket takes the tail.
    trace(folder, "grows_in_place", grow, [torch.ones(4, n) for n in (128, 512)],
          shared_state_buffer=[torch.zeros(4, 512)], shared_state_buffer_preprocessor=get_state_preprocessor,
          state_shapes=[[[4, 128]], [[4, 512]]])
#A read - only state of which every request gets a copy, and one that is replaced.
    trace(folder, "copies_one", lambda x, a, b: (x + a, b + x), [torch.ones(4)], {
  1 : 1}, kernel=PadKernel(dims=[]),
          shared_state_buffer=[torch.arange(16.0), torch.zeros(4)],
          shared_state_buffer_preprocessor=lambda: every_fourth, state_shapes=[[[4], [4]]])
    trace(folder, "index_by_element", lambda x, a: x + a, [torch.ones(4), torch.ones(8)],
          shared_state_buffer=[torch.arange(8.0)], shared_state_buffer_preprocessor=lambda: head_by_element,
          state_shapes=[[[4]], [[8]]])
#A bucket that changes the sizes of the view which it was given.
    trace(folder, "reshapes_its_state", Function(add_transposed), [torch.ones(2, 4)], kernel=PadKernel(dims=[]),
          output_names=["y"], shared_state_buffer=[torch.zeros(4, 2)])
#Each state becomes the other : what is written back must not be read after the first is written.
    trace(folder, "swap_states", lambda x, a, b: (x + 1, b, a), [torch.ones(1, 4)], {
  0 : 1, 1 : 2},
          shared_state_buffer=[torch.full((1, 4), 1.0), torch.full((1, 4), 2.0)])
#An ordinary output that is the very state which an alias changes.
    trace(folder, "output_is_state", lambda x, a: (a, a + x), [torch.ones(1, 4)], {
  0 : 1},
          shared_state_buffer=[torch.zeros(1, 4)])
    trace(folder, "state_tells_where", lambda x, a, b: (x + 1, b + x), [torch.ones(4)], {
  1 : 1}, kernel=PadKernel(dims=[]),
          shared_state_buffer=[torch.zeros(2), torch.zeros(16)],
          shared_state_buffer_preprocessor=lambda: slice_where_state_says, state_shapes=[[[2], [4]]])
    trace(folder, "copied_state_read", lambda x, a: x + a, [torch.ones(1, 4)],
          shared_state_buffer=[torch.full((1, 4), 5.0)], shared_state_buffer_preprocessor=lambda: copy_of_state,
          state_shapes=[[[1, 4]]])


def make_sliced(folder):
    """States of 1 KiB to 1 GiB that the guide's preprocessor slices; their initial values are one zero in the file."""
    header = (
        "def state_preprocessor(self, shapes_collection: List[List[List[int]]], states: List[Tensor],"
        " bucket_idx_tensor: Tensor) -> List[Tensor]:"
    )
    guide = "\n".join([header] + inspect.getsource(state_preprocessor).splitlines()[1:] + [""])
    (folder / "sliced").mkdir(exist_ok=True)
    for kib in (1, 32, 1024, 32768, 1048576):
        elements = kib * 256
        metadata = {
            **module_mutations._WITH_STATE,
            "states": [{"name": "s", "dtype": "float32", "shape": [1, elements]}],
            "buckets": [{
  **bucket, "states" : [[ 1, bucket["inputs"][0][0] ]]} for bucket in module_mutations._WITH_STATE["buckets"]],
        }
        (folder / "sliced" / f"{kib}.pt").write_bytes(
            module_mutations.build_with_state(metadata=metadata, states=(torch.zeros(1).expand(1, elements),), preprocessor_source=guide))


def make_refused_states(folder):
    """What the authoring package refuses, too."""
    lost = "    if bool(states[0].numel() > 0):\n        return [states[0].narrow(0, 0, shapes_collection[int(bucket_idx)][0][0]).clone()]"
    (folder / "copied_state_aliased.pt").write_bytes(module_mutations.build_with_state(preprocessor=lost))
    metadata = {**module_mutations._WITH_STATE, "aliases": []}
    in_place = Function(lambda x, state: state.add_(x) + 1)
    (folder / "copied_state_in_place.pt").write_bytes(
        module_mutations.build_with_state(metadata=metadata, buckets=(in_place, in_place), preprocessor=lost))


def make_tensor_beyond_its_storage(folder):
    """The weight's sizes say 9 elements where its storage has 8; the seal is right."""
    trace(folder, "whole", Adds(), [torch.ones(8)], kernel=PadKernel(dims=[]))
    entries = sealed_archive.members(folder / "whole.pt")
    (pickle,) = [content for name, content in entries if name.endswith("/data.pkl")]
    geometry = b"(K\x08t(K\x01t"  # (8,), (1,): sizes and strides
    if pickle.count(geometry) != 1:
        raise ValueError("LibTorch pickles tensors in another way than this test knows")
    changed = sealed_archive.replaced(entries, "/data.pkl", pickle.replace(geometry, b"(K\x09t(K\x01t"))
    (folder / "beyond_storage.pt").write_bytes(sealed_archive.pack(changed))
    (folder / "whole.pt").unlink()


def make_kernels(folder):
    trace(folder, "converting_kernel", lambda x: x + 1, [torch.ones(1, 8, dtype=torch.int64)], accepts="kernel",
          kernel=lambda: to_int64_kernel, output_names=["y"], kernel_may_change_values=True)
    ones = [(torch.ones(1, n, dtype=torch.int64),) * 2 for n in (4, 8)]
    config = BucketModelConfig(lambda: by_mask_kernel, name="pads_by_mask", input_names=["x", "mask"], output_names=["y"],
                               accepts="kernel", kernel_may_change_values=True)
    model = Function(lambda x, mask: x + mask)
    torch_neuronx.bucket_model_trace(lambda: (model, {}), ones, config).save(folder / "pads_by_mask.pt")


def make_buckets(folder):
    trace(folder, "writes_input", lambda x: x.add_(1), [torch.ones(1, 4)])
    trace(folder, "raises_on_negative", Function(refuse_negative), [torch.ones(1, 4), torch.ones(1, 8)], output_names=["y"])
    trace(folder, "transposed", lambda x: x.t(), [torch.ones(2, 4), torch.ones(2, 8)])
    # Weights that the file holds once for each bucket; the authoring package would hold them once.
    (folder / "equal_weights.pt").write_bytes(module_mutations.build(buckets=(AddsLast(), AddsLast())))
    generator = torch.Generator().manual_seed(1)
    trace(folder, "product", Product(torch.randn(512, 512, generator=generator) / 512**0.5),
          [torch.ones(n, 512) for n in (128, 512)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder for the artifacts")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for make in (make_stateful, make_sliced, make_refused_states, make_tensor_beyond_its_storage, make_kernels, make_buckets):
        make(folder)
    print(f"{len(list(folder.glob('*.pt')))} artifacts in {folder}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
