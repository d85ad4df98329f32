"""Which tensors of a model are shared state, and how a bucket is given its views of it."""

import dataclasses
from typing import Dict, List, Optional, Tuple

import torch

from bucketd.errors import KernelError, TraceError


@dataclasses.dataclass
class BucketStates:
    """How one bucket's model takes the states.

    `locations[s]` is the (module, kind, attribute) of the model's own tensor that stands for state s, or
    None when the model takes the states as trailing arguments. `shapes[s]` is what it expects, None when
    only the preprocessor knows. `outputs` maps a state to the output that updates it; one that is not in it
    is only read, or written in place. `names` is what the model calls its own tensors (`layers.0.cache`).
    """

    locations: List[Optional[Tuple[torch.nn.Module, str, str]]]
    shapes: List[Optional[List[int]]]
    outputs: Dict[int, int]
    initial: List[torch.Tensor]
    names: List[str] = dataclasses.field(default_factory=list)

    def reordered(self, names):
        """The same with the model's own tensors in the order of `names`."""
        old = [self.names.index(name) for name in names]
        return BucketStates(
            locations=[self.locations[number] for number in old],
            shapes=[self.shapes[number] for number in old],
            outputs={new: self.outputs[number] for new, number in enumerate(old) if number in self.outputs},
            initial=[self.initial[number] for number in old],
            names=list(names),
        )


def read_aliases(model, aliases, buffers, state_names) -> BucketStates:
    """Interprets the `input_output_aliases` that a model factory returned.

    Keys are tensors of the model (parameters or buffers; in order, they are states 0, 1, ...), or the
    shared state tensors themselves, their numbers or their names (then the model takes all states as
    trailing arguments). An output of None says that the bucket writes that state in place, or only reads it.
    """
    if not isinstance(aliases, dict):
        raise TraceError(
            f"input_output_aliases is a {type(aliases).__name__}, not a dict of state tensor to output index"
        )
    for key, output in aliases.items():
        if output is not None and (not isinstance(output, int) or isinstance(output, bool) or output < 0):
            raise TraceError(f"input_output_aliases maps a state to {output!r}, not to an output index")
    places = [_find(model, key) if isinstance(key, torch.Tensor) else None for key in aliases]
    if aliases and all(places):
        return _states_in_model(list(aliases.items()), places, buffers)
    if any(places):
        raise TraceError(
            "some keys of input_output_aliases are parameters or buffers of the model and some are not:"
            " make all of them the model's, or let the model take all states as trailing arguments"
        )
    return _states_as_arguments(aliases, buffers, state_names)


def pair_by_name(per_bucket, state_names):
    """Puts the states that are the models' own tensors into one order for all buckets.

    That is the order of `state_names` where these are the tensors' names, else of bucket 0. A model whose
    names have nothing in common with the others' keeps its own order.
    """
    wanted = per_bucket[0].names
    if set(state_names) & set(wanted):
        wanted = list(state_names)
    paired = []
    for number, states in enumerate(per_bucket):
        if states.names and set(states.names) & set(wanted):
            if sorted(states.names) != sorted(wanted):
                raise TraceError(
                    f"input_output_aliases of bucket {number} names the states {states.names}, the others are"
                    f" {wanted}: states are paired by name"
                )
            states = states.reordered(wanted)
        paired.append(states)
    return paired


def _find(model, tensor):
    """(module, kind, attribute, name from the model) of a tensor of the model, or None."""
    if not isinstance(model, torch.nn.Module):
        return None
    for prefix, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for kind in ("_parameters", "_buffers"):
            for name, own in getattr(module, kind).items():
                if own is tensor:
                    return module, kind, name, f"{prefix}.{name}" if prefix else name
    return None


def _states_in_model(items, places, buffers):
    if buffers and len(items) != len(buffers):
        raise TraceError(
            f"the model's input_output_aliases names {len(items)} of its own tensors, but shared_state_buffer"
            f" has {len(buffers)}: alias every state, or let the model take the states as trailing arguments"
        )
    return BucketStates(
        locations=[place[:3] for place in places],
        shapes=[list(tensor.shape) for tensor, _ in items],
        outputs={number: output for number, (_, output) in enumerate(items) if output is not None},
        initial=[tensor.detach() for tensor, _ in items],
        names=[place[3] for place in places],
    )


def _states_as_arguments(aliases, buffers, state_names):
    outputs, shapes, named = {}, [None] * len(buffers), set()
    for position, (key, output) in enumerate(aliases.items()):
        if isinstance(key, torch.Tensor):
            number = next((n for n, buffer in enumerate(buffers) if buffer is key), None)
            if number is None:
                if len(aliases) != len(buffers):
                    raise TraceError(
                        "a key of input_output_aliases is neither a tensor of the model nor one of shared_state_buffer"
                    )
                number, shapes[position] = position, list(key.shape)
        elif isinstance(key, str):
            if key not in state_names:
                raise TraceError(f"input_output_aliases names state {key!r}; the states are {state_names}")
            number = state_names.index(key)
        else:
            number = key
        if not isinstance(number, int) or not 0 <= number < len(buffers):
            raise TraceError(f"input_output_aliases names state {number!r}, but there are {len(buffers)} states")
        if number in named:
            raise TraceError(f"input_output_aliases names state {number} twice")
        named.add(number)
        if output is not None:
            outputs[number] = output
    return BucketStates([None] * len(buffers), shapes, outputs, [])


def initial_buffers(config, per_bucket):
    """The shared state at its largest shapes: as the author gave it, else the largest of the models' own."""
    if config.shared_state_buffer:
        for number, buffer in enumerate(config.shared_state_buffer):
            for states in per_bucket:
                if states.initial and states.initial[number].dtype != buffer.dtype:
                    raise TraceError(
                        f"state {number} is {states.initial[number].dtype} in the model,"
                        f" but {buffer.dtype} in shared_state_buffer"
                    )
        return [buffer.detach().clone().contiguous() for buffer in config.shared_state_buffer]
    buffers = []
    for number in range(len(per_bucket[0].initial)):
        candidates = [states.initial[number] for states in per_bucket if number < len(states.initial)]
        largest = max(candidates, key=lambda tensor: tensor.numel())
        for other in candidates:
            if other.dim() != largest.dim() or any(a > b for a, b in zip(other.shape, largest.shape)):
                raise TraceError(
                    f"no bucket has state {number} at a shape that holds all others: give shared_state_buffer"
                )
        buffers.append(largest.clone().contiguous())
    return buffers


def expected_shapes(config, per_bucket, buffers):
    """`[bucket][state]` -> shape: torch-neuronx's `shapes_collection`."""
    given = config.state_shapes
    if given is not None:
        if len(given) != len(per_bucket) or any(len(shapes) != len(buffers) for shapes in given):
            raise TraceError(f"state_shapes needs {len(per_bucket)} lists (buckets) of {len(buffers)} shapes (states)")
        return [[list(shape) for shape in shapes] for shapes in given]
    return [
        [list(buffers[n].shape) if shape is None else shape for n, shape in enumerate(states.shapes)]
        for states in per_bucket
    ]


def views_of(preprocessor, shapes_collection, buffers, bucket, written):
    """What bucket `bucket` gets of `buffers`; checks shapes, dtypes, and that `written` states are views."""
    if preprocessor is None:
        views = list(buffers)
    else:
        try:
            views = preprocessor(shapes_collection, list(buffers), torch.tensor([bucket]))
        except (RuntimeError, torch.jit.Error) as error:
            raise KernelError(
                f"the state preprocessor fails for bucket {bucket}: {str(error).strip().splitlines()[-1]}"
            ) from error
    if len(views) != len(buffers):
        raise KernelError(f"the state preprocessor gives {len(views)} states for bucket {bucket}, not {len(buffers)}")
    for number, (view, buffer, shape) in enumerate(zip(views, buffers, shapes_collection[bucket])):
        if list(view.shape) != shape or view.dtype != buffer.dtype:
            how = "the state preprocessor gives" if preprocessor else "without a preprocessor, the model gets"
            raise KernelError(
                f"{how} bucket {bucket} state {number} as {view.dtype} {list(view.shape)};"
                f" the bucket's model takes {buffer.dtype} {shape}"
            )
        if number in written and not is_view_of(view, buffer):
            raise KernelError(
                f"the state preprocessor gives bucket {bucket} a copy of state {number}, so that what the bucket"
                " writes would be lost: slice the state (aten::slice, aten::narrow, aten::select) instead"
            )
    return views


def is_view_of(view, buffer):
    """Whether `view` lies in the storage of `buffer`."""
    return view.numel() == 0 or _storage_address(view) == _storage_address(buffer)


def _storage_address(tensor):
    # `storage` is deprecated since torch 2.0, which brought `untyped_storage`.
    return getattr(tensor, "untyped_storage", tensor.storage)().data_ptr()
