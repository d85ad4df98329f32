"""The generator's buckets: two for prompts, two for single tokens, and one KV cache that all four share.

| bucket | new tokens | cache view | for                                        |
|--------|------------|------------|--------------------------------------------|
| 0      | 1          | 128        | decode, up to 128 tokens in all            |
| 1      | 64         | 128        | prefill, up to 128 tokens in all           |
| 2      | 1          | 512        | decode                                     |
| 3      | 256        | 512        | prefill                                    |

A caller sends its new tokens `input_ids` [1, tokens] and `attention_mask` [1, length], ones for all tokens so
far, so that both choices follow from sizes. A longer prompt is sent in parts.
"""

from typing import List

import torch

from bucketd import torch_neuronx
from generator import PADDING_ID, CachedGenerator

NEW_TOKENS = (1, 64, 1, 256)
CACHE_VIEWS = (128, 128, 512, 512)
KERNELS = ("script", "pad")


def left_aligned_kernel(tensor_list: List[torch.Tensor]):
    new_tokens = [1, 64, 1, 256]
    cache_views = [128, 128, 512, 512]
    input_ids, attention_mask = tensor_list[0], tensor_list[1]
    tokens, length = input_ids.shape[1], attention_mask.shape[1]
    padded: List[torch.Tensor] = []
    bucket_idx = 0
    for idx, view in enumerate(cache_views):
        if tokens <= new_tokens[idx] and length <= view:
            bucket_idx = idx
            no_tokens = torch.full([1, new_tokens[idx] - tokens], -1, dtype=torch.int64)
            zeros = torch.zeros([1, view - length], dtype=torch.int64)
            padded.append(torch.cat([input_ids, no_tokens], dim=1))
            padded.append(torch.cat([attention_mask, zeros], dim=1))
            break
    return padded, torch.tensor([bucket_idx])


def right_aligned_kernel(tensor_list: List[torch.Tensor]):
    new_tokens = [1, 64, 1, 256]
    cache_views = [128, 128, 512, 512]
    input_ids, attention_mask = tensor_list[0], tensor_list[1]
    tokens, length = input_ids.shape[1], attention_mask.shape[1]
    padded: List[torch.Tensor] = []
    bucket_idx = 0
    for idx, view in enumerate(cache_views):
        if tokens <= new_tokens[idx] and length <= view:
            bucket_idx = idx
            no_tokens = torch.full([1, new_tokens[idx] - tokens], -1, dtype=torch.int64)
            zeros = torch.zeros([1, view - length], dtype=torch.int64)
            padded.append(torch.cat([no_tokens, input_ids], dim=1))
            padded.append(torch.cat([zeros, attention_mask], dim=1))
            break
    return padded, torch.tensor([bucket_idx])


def leading_part(
    shapes_collection: List[List[List[int]]], states: List[torch.Tensor], bucket_idx_tensor: torch.Tensor
) -> List[torch.Tensor]:
    """A state preprocessor: the first elements in every dim."""
    shapes = shapes_collection[int(bucket_idx_tensor)]
    views: List[torch.Tensor] = []
    for i, view in enumerate(states):
        for j, size in enumerate(shapes[i]):
            view = torch.ops.aten.slice(view, dim=j, start=0, end=size)
        views.append(view)
    return views


# The guide's state preprocessor: the last elements in every dim.
# fmt: off
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
# fmt: on


def cache_shape(size, positions):
    """Shape of the state `keys`, and of `values`: [layers, heads, positions, head_width]."""
    return [size.layers, size.heads, positions, size.head_width]


def trace_generator(model, alignment="left", update="in_place", kernel="script"):
    """The bucket model of a `Generator`.

    alignment, update: see `CachedGenerator`. kernel: "script" is a TorchScript function as in the guide,
    "pad" the declarative kernel that does the same.
    """
    size = model.size
    kernel_function = left_aligned_kernel if alignment == "left" else right_aligned_kernel
    preprocessor = leading_part if alignment == "left" else state_preprocessor
    declared = torch_neuronx.PadKernel(
        dims=[[1], [1]], value=[PADDING_ID, 0], side="right" if alignment == "left" else "left"
    )
    shape = cache_shape(size, max(CACHE_VIEWS))
    config = torch_neuronx.BucketModelConfig(
        declared if kernel == "pad" else lambda: torch.jit.script(kernel_function),
        name="generator",
        func_kwargs=[{"new_tokens": tokens, "cache_view": view} for tokens, view in zip(NEW_TOKENS, CACHE_VIEWS)],
        input_names=["input_ids", "attention_mask"],
        output_names=["next_ids", "logits"],
        shared_state_buffer=[torch.zeros(shape), torch.zeros(shape)],
        shared_state_buffer_preprocessor=lambda: torch.jit.script(preprocessor),
        state_names=["keys", "values"],
        sequence_dims={"keys": 2, "values": 2},
        state_shapes=[[cache_shape(size, view)] * 2 for view in CACHE_VIEWS],
    )

    def make_bucket(new_tokens, cache_view):
        # Written in place, the states are no outputs.
        aliases = {} if update == "in_place" else {"keys": 2, "values": 3}
        return CachedGenerator(model, new_tokens, cache_view, alignment, update), aliases

    return torch_neuronx.bucket_model_trace(make_bucket, _examples(size), config)


def _examples(size):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [
            (torch.randint(size.vocabulary, (1, tokens)), torch.ones(1, view, dtype=torch.int64))
            for tokens, view in zip(NEW_TOKENS, CACHE_VIEWS)
        ]
