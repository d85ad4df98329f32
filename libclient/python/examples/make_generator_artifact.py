#!/usr/bin/python3
"""Makes what a demo of generation needs: the bucketed generator, prompts, and the unbucketed continuations.

Writes to the folder -o:
  generator.pt                 the artifact, model `generator` (its buckets: generator_buckets.py)
  prompts/N_prompt.npy         int64 [1, tokens], ids of a text's beginning
  prompts/N_expected.npy       int64 [new tokens], what the model without buckets and cache goes on with, greedily
  prompts/index.json           {"model", "vocabulary": [piece of each id; text is their concatenation],
                                "padding": the side where a bucket's inputs are padded,
                                "prompts": [{"prompt", "expected" (file names), "tokens", "new_tokens", "text",
                                             "continuation", "least_margin"}]}

Generation needs two inputs in each request: `input_ids` [1, new tokens] and `attention_mask` [1, all tokens so
far], ones; the last of the output `next_ids` is the next token. All of it has to be in one session.

The saved file is loaded with plain `torch.jit.load` and has to generate the same, token for token.
"""

import argparse
import json
import pathlib
import sys
import time

import torch

import train_generator
from bucketd import npy
from generator import ALIGNMENTS, UPDATES, generate, generate_with_cache
from generator_buckets import CACHE_VIEWS, KERNELS, NEW_TOKENS, trace_generator
from text_pieces import training_text

# One that fits the small prefill bucket, one that fills it, and one that needs the large.
PROMPT_TOKENS = (12, 64, 100)
DEFAULT_NEW_TOKENS = 160
# Of the two best logits: far more than rounding moves them. A prompt that comes below it is passed over.
_LEAST_MARGIN = 1e-3
_MOST_PROMPTS_TRIED = 20
_BETWEEN_PROMPTS = 251


def clear_prompt(model, pieces, ids, tokens, count, start):
    """(prompt [1, tokens], continuation [count], least margin): one that rounding cannot turn.

    It is the beginning of the sentence that lies `start` pieces into the text, or of a later one.
    """
    full_stop = pieces.encode(".")[0]
    for attempt in range(_MOST_PROMPTS_TRIED):
        at = (start + attempt * _BETWEEN_PROMPTS) % (len(ids) - tokens)
        while at > 0 and not (ids[at - 1] == full_stop and pieces.vocabulary[ids[at]].startswith(" ")):
            at -= 1
        prompt = torch.tensor([ids[at : at + tokens]])
        expected, margin = generate(model, prompt, count)
        if margin >= _LEAST_MARGIN:
            return prompt, expected, margin
    raise SystemExit(f"none of {_MOST_PROMPTS_TRIED} prompts of {tokens} tokens is clear of rounding")


def write_prompts(folder, model, pieces, count, alignment):
    """Writes prompts and continuations; gives them as [(prompt, expected)]."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = pieces.encode(training_text())
    index, made = [], []
    for number, tokens in enumerate(PROMPT_TOKENS):
        start = len(ids) * (2 * number + 1) // (2 * len(PROMPT_TOKENS))
        prompt, expected, margin = clear_prompt(model, pieces, ids, tokens, count, start)
        entry = {
            "prompt": f"{number}_prompt.npy",
            "expected": f"{number}_expected.npy",
            "tokens": tokens,
            "new_tokens": count,
            "text": pieces.decode(prompt[0]),
            "continuation": pieces.decode(expected),
            "least_margin": margin,
        }
        npy.save(folder / entry["prompt"], prompt)
        npy.save(folder / entry["expected"], expected)
        index.append(entry)
        made.append((prompt, expected))
        print(f"  {entry['text']!r} goes on with {entry['continuation']!r}", flush=True)
    content = {
        "model": "generator",
        "vocabulary": pieces.vocabulary,
        "padding": "right" if alignment == "left" else "left",
        "prompts": index,
    }
    (folder / "index.json").write_text(json.dumps(content, indent=1) + "\n")
    return made


def check(path, made, alignment):
    """Ends the script unless the saved file, without bucketd, generates what is expected."""
    loaded = torch.jit.load(str(path))
    for prompt, expected in made:
        found = generate_with_cache(loaded, prompt, len(expected), alignment)
        if not torch.equal(found, expected):
            at = int((found != expected).nonzero()[0])
            sys.exit(
                f"{path}: token {at} after a prompt of {prompt.shape[1]} tokens is not that of the unbucketed model"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder")
    parser.add_argument("--weights", type=pathlib.Path, help="file of train_generator.py; written if it is not there")
    parser.add_argument("--steps", type=int, default=train_generator.STEPS, help="of training")
    parser.add_argument("--new-tokens", type=int, default=DEFAULT_NEW_TOKENS, help="per prompt")
    parser.add_argument("--alignment", choices=ALIGNMENTS, default="left", help="of the cache")
    parser.add_argument("--update", choices=UPDATES, default="in_place", help="of the cache")
    parser.add_argument("--kernel", choices=KERNELS, default="script")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    options = parser.parse_args()
    most = max(CACHE_VIEWS) - max(PROMPT_TOKENS) + 1
    if not 1 <= options.new_tokens <= most:
        parser.error(f"--new-tokens has to be 1 to {most}: the cache holds {max(CACHE_VIEWS)} tokens")
    assert max(PROMPT_TOKENS) <= max(NEW_TOKENS)
    torch.set_num_threads(options.threads)
    started = time.monotonic()

    def say(what):
        print(f"[{time.monotonic() - started:5.1f} s] {what}", flush=True)

    if options.weights and options.weights.exists():
        model, pieces = train_generator.load(options.weights)
        say(f"{options.weights}: loaded")
    else:
        say("training")
        model, pieces = train_generator.train(steps=options.steps, report=lambda line: print(line, flush=True))
        if options.weights:
            train_generator.save(options.weights, model, pieces)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "generator.pt"
    trace_generator(model, options.alignment, options.update, options.kernel).save(path)
    say(f"{path}: {options.alignment}-aligned cache, {options.update} update, {options.kernel} kernel")
    made = write_prompts(options.output / "prompts", model, pieces, options.new_tokens, options.alignment)
    say(f"{len(made)} prompts with {options.new_tokens} tokens each from the unbucketed model")
    check(path, made, options.alignment)
    say("the saved file generates the same, token for token")


if __name__ == "__main__":
    main()
