"""Traces one bucket of a bucket model, in the artifact's calling convention."""

import inspect
from collections.abc import Mapping

import torch

from bucketd import dtypes
from bucketd.errors import TraceError
from bucketd.torch_neuronx import states as state_rules


class TracedBucket:
    """One bucket, traced.

    `module` is the traced model, `outputs` what it gives as (shape, dtype), the first `ordinary_count` of
    them for the caller. `returns_tensor` says that the model gives a bare tensor rather than a tuple,
    `output_names` are the keys if it gives a mapping.

      make_views: () -> (fresh copies of the state buffers, the bucket's views of them). Every run gets its
        own, so that none sees what another wrote, laid out in memory as in service.
      states: the `BucketStates` of the model.
      number: the bucket's, for messages.
    """

    def __init__(self, model, example, make_views, states, number):
        self.returns_tensor = False
        self.output_names = None
        modes = _training_modes(model)
        saved = _take_out(states.locations)
        try:
            wrapper = _make_wrapper(model, len(example), states, number)
            with torch.no_grad():
                self._run_model(wrapper, example, make_views(), states, number)
                self.module = _trace(wrapper, example, make_views()[1], number)
                again = _as_list(self.module(*_copies(example), *make_views()[1]))
        finally:
            _put_back(states.locations, saved)
            for module, mode in modes:
                module.training = mode
        _require_same_values(self._expected, again, number)

    def _run_model(self, wrapper, example, buffers_and_views, states, number):
        """Runs the model as it is, not traced, and notes what it gives."""
        buffers, views = buffers_and_views
        before = _copies(views)
        wrapper.observe = self._observe
        results = _as_list(wrapper(*_copies(example), *views))
        wrapper.observe = None
        self._expected = _copies(results)
        self._check_lost_writes(before, views, buffers, number)
        self._check_outputs(results, states, before, number)

    def _observe(self, raw):
        self.returns_tensor = isinstance(raw, torch.Tensor)
        if isinstance(raw, Mapping):
            self.output_names = [str(name) for name in raw]

    @staticmethod
    def _check_lost_writes(before, views, buffers, number):
        for s, (old, view, buffer) in enumerate(zip(before, views, buffers)):
            if not state_rules.is_view_of(view, buffer) and not torch.equal(old, view):
                raise TraceError(
                    f"bucket {number} writes into state {s}, but the state preprocessor gave it a copy:"
                    " slice the state instead, so that the write is kept"
                )

    def _check_outputs(self, results, states, before, number):
        self.outputs = [(list(result.shape), result.dtype) for result in results]
        self.ordinary_count = len(self.outputs) - len(states.outputs)
        wanted = set(range(self.ordinary_count, len(self.outputs)))
        if set(states.outputs.values()) != wanted:
            raise TraceError(
                f"bucket {number} gives {len(self.outputs)} outputs; the {len(states.outputs)} aliased ones have"
                f" to be the last, each once, but input_output_aliases names {sorted(states.outputs.values())}"
            )
        for state, output in states.outputs.items():
            shape, dtype = self.outputs[output]
            if shape != list(before[state].shape) or dtype != before[state].dtype:
                raise TraceError(
                    f"output {output} of bucket {number} is {dtype} {shape}; it is to update state {state},"
                    f" which is {before[state].dtype} {list(before[state].shape)}"
                )
        for index, (_, dtype) in enumerate(self.outputs):
            if str(dtype).removeprefix("torch.") not in dtypes.DTYPE_NAMES:
                raise TraceError(f"output {index} of bucket {number} has dtype {dtype}, which artifacts do not carry")


def _make_wrapper(model, input_count, states, number):
    """A module of the artifact's calling convention around `model`, in evaluation mode."""
    locations = states.locations
    arguments = [f"input_{i}" for i in range(input_count)] + [f"state_{s}" for s in range(len(locations))]

    class Bucket(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.observe = None
            if isinstance(model, torch.nn.Module):
                self.model = model
            else:
                object.__setattr__(self, "model", model)

        def forward(self, *tensors):
            inputs, views = tensors[:input_count], tensors[input_count:]
            trailing = []
            for location, state in zip(locations, views):
                if location is None:
                    trailing.append(state)
                else:
                    module, kind, name = location
                    getattr(module, kind)[name] = state
            try:
                raw = self.model(*inputs, *trailing)
            finally:
                left = _take_out(locations)
            if locations and locations[0] is not None:
                _require_not_replaced(views, left, states.outputs, number)
            if self.observe is not None:
                self.observe(raw)
            results = tuple(_flatten(raw))
            return results[0] if len(results) == 1 else results

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ["self", *arguments]]
    Bucket.forward.__signature__ = inspect.Signature(parameters)
    wrapper = Bucket()
    wrapper.eval()
    return wrapper


def _require_not_replaced(views, left, outputs, number):
    """A model that puts another tensor in a state's place would lose it, unless that is an aliased output."""
    for s, (view, tensor) in enumerate(zip(views, left)):
        if tensor is not view and s not in outputs:
            raise TraceError(
                f"bucket {number} puts another tensor in the place of state {s}, which would be lost: write into"
                " the state in place (copy_, index_copy_), or make the new one an aliased output"
            )


def _training_modes(model):
    return [(module, module.training) for module in model.modules()] if isinstance(model, torch.nn.Module) else []


def _take_out(locations):
    """Removes state tensors from the model: traced, they are arguments and not part of the bucket."""
    saved = []
    for location in locations:
        if location is not None:
            module, kind, name = location
            saved.append(getattr(module, kind).pop(name))
    return saved


def _put_back(locations, saved):
    for location, tensor in zip([place for place in locations if place is not None], saved):
        module, kind, name = location
        getattr(module, kind)[name] = tensor


def _trace(wrapper, example, views, number):
    try:
        return torch.jit.trace(wrapper, (*_copies(example), *views), check_trace=False)
    except (RuntimeError, ValueError, torch.jit.Error) as error:
        raise TraceError(f"bucket {number} cannot be traced: {error}") from error


def _flatten(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for entry in value for tensor in _flatten(entry)]
    if value is None:
        return []
    raise TraceError(f"the model gives a {type(value).__name__} among its outputs; only tensors can be served")


def _copies(tensors):
    return [tensor.clone() for tensor in tensors]


def _as_list(results):
    return [results] if isinstance(results, torch.Tensor) else list(results)


def _require_same_values(expected, found, number):
    for index, (left, right) in enumerate(zip(expected, found)):
        close = torch.equal(left, right) or (
            left.is_floating_point() and torch.allclose(left, right, rtol=1e-4, atol=1e-5, equal_nan=True)
        )
        if not close:
            raise TraceError(
                f"output {index} of bucket {number} is not the same when the traced bucket runs again on the"
                " example inputs: the model is random, or keeps state that is not in input_output_aliases"
            )
