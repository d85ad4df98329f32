"""Keeps weights that buckets share in one storage, so that the artifact holds them once."""

import itertools

import torch


def share_equal_tensors(models):
    """Re-points parameters and buffers of later models at equal ones of earlier models.

    Equal means the same dtype, shape and bits. Tensors of the first model, and of every model object that
    occurs before, are left alone; those of a fresh later model are changed in place (they keep their
    identity, their values, and get another's storage).
    """
    by_signature = {}
    seen = set()
    for model in models:
        if not isinstance(model, torch.nn.Module) or id(model) in seen:
            continue
        seen.add(id(model))
        kept = []
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            equal = _find_equal(by_signature.get(_signature(tensor), ()), name, tensor)
            if equal is None:
                kept.append((name, tensor))
            elif equal.data_ptr() != tensor.data_ptr():
                tensor.data = equal.data
        for name, tensor in kept:
            by_signature.setdefault(_signature(tensor), []).append((name, tensor))


def _find_equal(candidates, name, tensor):
    # The tensor of the same name is by far the likeliest.
    for candidate_name, candidate in sorted(candidates, key=lambda entry: entry[0] != name):
        if _same_bits(candidate, tensor):
            return candidate
    return None


def _signature(tensor):
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.layout, tensor.device


def _same_bits(left, right):
    if left.numel() == 0:
        return True
    as_integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(left.element_size())
    if as_integers is None or left.layout != torch.strided:
        return False
    return torch.equal(left.detach().view(as_integers), right.detach().view(as_integers))
