#!/usr/bin/python3
"""The BERT script of the torch-neuronx autobucketing guide, with another import.

From `import torch` to the last `assert` this is the guide's script; what differs is marked. Without
`--checkpoint DIR` (a local folder of "bert-base-cased-finetuned-mrpc", which needs `transformers`), model
and tokeniser are those of `checkpoint.py`.

    PYTHONPATH=libclient/python /usr/bin/python3 libclient/python/examples/guide_bert.py --size small -o bert.pt
"""

import argparse  # Not in the guide.

import torch

import bert  # Not in the guide.
import checkpoint  # Not in the guide.
from bucketd import torch_neuronx  # In the guide: import torch_neuronx

from checkpoint import AutoTokenizer, AutoModelForSequenceClassification  # In the guide: from transformers

from typing import List


def encode(tokenizer, *inputs, max_length=128, batch_size=1):
    tokens = tokenizer.encode_plus(
        *inputs,
        max_length=max_length,
        padding='max_length',
        truncation=True,
        return_tensors="pt"
    )
    return (
        torch.repeat_interleave(tokens['input_ids'], batch_size, 0),
        torch.repeat_interleave(tokens['attention_mask'], batch_size, 0),
    )


def get_bert_model(*args):
    name = "bert-base-cased-finetuned-mrpc"
    model = AutoModelForSequenceClassification.from_pretrained(name, torchscript=True)

    return model,{}


def sequence_length_bucket_kernel(tensor_list: List[torch.Tensor]):
    x = tensor_list[0]
    bucket_dim = 1
    x_shape = x.shape
    tensor_sequence_length = x_shape[bucket_dim]
    batch_size = x_shape[bucket_dim - 1]
    buckets = [128, 512]
    idx = 0
    num_inputs = 3
    bucket = buckets[0]
    reshaped_tensors: List[torch.Tensor] = []
    bucket_idx = 0
    for idx, bucket in enumerate(buckets):
        if tensor_sequence_length <= bucket:
            bucket_idx = idx
            for tensor in tensor_list:
                if num_inputs == 0:
                    break
                delta = bucket - tensor_sequence_length
                padding_shape: List[int] = [batch_size, delta]
                zeros = torch.zeros(padding_shape, dtype=x.dtype)
                reshaped_tensors.append(torch.cat([tensor, zeros], dim=bucket_dim))
                num_inputs -= 1
            break
    return reshaped_tensors, torch.tensor([bucket_idx])


def get_bucket_kernel(*_):
    bk = torch.jit.script(sequence_length_bucket_kernel)
    return bk


if __name__ == '__main__':
    # Not in the guide: the options.
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=bert.SIZES, default="base", help="of the seeded BERT")
    parser.add_argument("--checkpoint", metavar="DIR", help="a local checkpoint, loaded with transformers")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to save the artifact")
    options = parser.parse_args()
    checkpoint.use_size(options.size)
    if options.checkpoint:
        checkpoint.use_checkpoint(options.checkpoint)

    name = "bert-base-cased-finetuned-mrpc"

    # Build tokenizer and model
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name, torchscript=True)

    # Setup some example inputs
    sequence_0 = "The company HuggingFace is based in New York City"
    sequence_1 = "HuggingFace is named after the huggingface emoji"
    sequence_2 = "HuggingFace's headquarters are situated in Manhattan"

    paraphrase_s128 = encode(tokenizer, sequence_0, sequence_2)
    paraphrase_s122 = encode(tokenizer, sequence_0, sequence_2, max_length=122)

    paraphrase_s512 = encode(tokenizer, sequence_0, sequence_1, max_length=512)
    paraphrase_s444 = encode(tokenizer, sequence_0, sequence_1, max_length=444)

    # Note: Run on CPU before trace. Avoids running with XLA allocated params
    paraphrase_expected_s128 = torch.argmax(model(*paraphrase_s128)[0])
    paraphrase_expected_s512 = torch.argmax(model(*paraphrase_s512)[0])

    # Trace model
    bucket_config = torch_neuronx.BucketModelConfig(get_bucket_kernel)
    bucket_trace_neuron = torch_neuronx.bucket_model_trace(get_bert_model, [paraphrase_s128,paraphrase_s512], bucket_config)

    # Run traced model with shorter inputs to test bucket rounding
    paraphrase_actual_s128 = torch.argmax(bucket_trace_neuron(*paraphrase_s122)[0])
    paraphrase_actual_s512 = torch.argmax(bucket_trace_neuron(*paraphrase_s444)[0])

    # Compare outputs
    assert paraphrase_expected_s128 == paraphrase_actual_s128
    assert paraphrase_expected_s512 == paraphrase_actual_s512

    # Not in the guide: the report and the file.
    print(f"122 tokens: class {int(paraphrase_actual_s128)}, 444 tokens: class {int(paraphrase_actual_s512)}, as expected")
    if options.output:
        torch.jit.save(bucket_trace_neuron, options.output)
        print(f"saved {options.output}")
