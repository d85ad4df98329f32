#!/usr/bin/python3
"""Makes what the demo needs: the bucketed BERT, requests of chosen lengths, and the unbucketed answers.

Writes to the folder -o:
  bert.pt                           the artifact, model `bert`, buckets of 128 and 512 tokens, the guide's kernel
  requests/N_input_ids.npy          int64 [1, N], real tokens of a pair of texts, no padding
  requests/N_attention_mask.npy     int64 [1, N], ones
  requests/expected.npy             float32 [requests, 2]: logits of the model without buckets, in index order
  requests/index.json               [{"length", "input_ids", "attention_mask" (file names), "bucket",
                                      "logits": [2], "argmax", "text" (the first letters)}]

With --break-boundary or --break-padding the artifact is wrong on purpose, so that a test can show that the
demo notices.
"""

import argparse
import json
import pathlib
import time
from typing import List

import torch

import bert
from bucketd import npy, torch_neuronx
from bucketd.tokenizer import Tokenizer
from guide_bert import get_bucket_kernel
from sentence_pairs import PairCutter

BUCKETS = (128, 512)
_TEXT_SHOWN = 48
# Of the two logits: ten times the difference that the demo tolerates. A text below it is passed over.
_LEAST_MARGIN = 1e-3
_MOST_TEXTS_TRIED = 50


def kernel_with_shifted_boundary(tensor_list: List[torch.Tensor]):
    """Wrong on purpose: up to 29 tokens too many go into the first bucket, and are cut off.

    One too many does not: a length next to a bucket's is what the daemon tries at load, and it would refuse
    the artifact before anything can be compared.
    """
    length = tensor_list[0].shape[1]
    limits = [158, 513]
    buckets = [128, 512]
    padded: List[torch.Tensor] = []
    bucket_idx = 0
    for idx, limit in enumerate(limits):
        if length < limit and (length != 129 or idx == 1):
            bucket_idx = idx
            bucket = buckets[idx]
            for tensor in tensor_list:
                kept = torch.narrow(tensor, 1, 0, min(length, bucket))
                missing = torch.zeros([kept.size(0), bucket - kept.size(1)], dtype=tensor.dtype)
                padded.append(torch.cat([kept, missing], dim=1))
            break
    return padded, torch.tensor([bucket_idx])


def kernel_with_wrong_padding(tensor_list: List[torch.Tensor]):
    """Wrong on purpose: the attention mask is padded with ones, so that padding is attended to."""
    length = tensor_list[0].shape[1]
    padded: List[torch.Tensor] = []
    bucket_idx = 0
    for idx, bucket in enumerate([128, 512]):
        if length <= bucket:
            bucket_idx = idx
            for i, tensor in enumerate(tensor_list):
                missing = torch.full([tensor.size(0), bucket - length], i, dtype=tensor.dtype)
                padded.append(torch.cat([tensor, missing], dim=1))
            break
    return padded, torch.tensor([bucket_idx])


def parse_lengths(text):
    """ "1-512" or "17,122,400-444": the lengths, each once, ascending."""
    lengths = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        lengths.update(range(int(first), int(last or first) + 1))
    if not lengths or min(lengths) < 1 or max(lengths) > BUCKETS[-1]:
        raise argparse.ArgumentTypeError(f"lengths have to be 1 to {BUCKETS[-1]}")
    return sorted(lengths)


def trace_bert(model, cutter, kernel_factory, may_change_values):
    config = torch_neuronx.BucketModelConfig(
        kernel_factory,
        name="bert",
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        kernel_may_change_values=may_change_values,
    )
    examples = [cutter.cut(bucket)[2:] for bucket in BUCKETS]
    return torch_neuronx.bucket_model_trace(lambda: (model, {}), examples, config)


def _clear_case(model, cutter, length):
    """A text of `length` tokens whose class rounding cannot turn: (text, ids, mask, logits [2])."""
    for start in range(37 * length, 37 * length + _MOST_TEXTS_TRIED):
        text, _, ids, mask = cutter.cut(length, start)
        with torch.no_grad():
            logits = model(ids, mask)[0][0]
        # Below three tokens every text gives the same ids.
        if float((logits[0] - logits[1]).abs()) >= _LEAST_MARGIN or length < 3:
            break
    return text, ids, mask, logits


def write_requests(folder, model, cutter, lengths):
    """Writes requests and the answers of `model`, run without buckets on the unpadded tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    index, shown = [], time.monotonic()
    for number, length in enumerate(lengths):
        text, ids, mask, logits = _clear_case(model, cutter, length)
        entry = {
            "length": length,
            "input_ids": f"{length}_input_ids.npy",
            "attention_mask": f"{length}_attention_mask.npy",
            "bucket": next(b for b, tokens in enumerate(BUCKETS) if length <= tokens),
            "logits": logits.tolist(),
            "argmax": int(logits.argmax()),
            "text": text[:_TEXT_SHOWN],
        }
        npy.save(folder / entry["input_ids"], ids)
        npy.save(folder / entry["attention_mask"], mask)
        index.append(entry)
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"  {number + 1} of {len(lengths)} unbucketed answers", flush=True)
    npy.save(folder / "expected.npy", torch.tensor([entry["logits"] for entry in index]))
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=bert.SIZES, default="small")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder")
    parser.add_argument(
        "--lengths", type=parse_lengths, default="1-512", help="such as 1-512 or 17,122 (default 1-512)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    broken = parser.add_mutually_exclusive_group()
    broken.add_argument("--break-boundary", action="store_true", help="shift the boundary of the first bucket")
    broken.add_argument("--break-padding", action="store_true", help="pad the attention mask with ones")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.monotonic()

    model = bert.bert_model(options.size)
    cutter = PairCutter(Tokenizer.from_licenses())
    kernel_factory = get_bucket_kernel
    if options.break_boundary:
        kernel_factory = lambda: torch.jit.script(kernel_with_shifted_boundary)  # noqa: E731
    elif options.break_padding:
        kernel_factory = lambda: torch.jit.script(kernel_with_wrong_padding)  # noqa: E731
    options.output.mkdir(parents=True, exist_ok=True)
    traced = trace_bert(model, cutter, kernel_factory, may_change_values=options.break_boundary)
    traced.save(options.output / "bert.pt")
    print(f"{options.output / 'bert.pt'}: BERT {options.size}, {time.monotonic() - started:.1f} s", flush=True)
    write_requests(options.output / "requests", model, cutter, options.lengths)
    print(f"{len(options.lengths)} requests with unbucketed answers, {time.monotonic() - started:.1f} s in all")


if __name__ == "__main__":
    main()
