"""bucketd: authoring of bucket models for the bucketd daemon.

`bucketd.torch_neuronx` traces bucket models (the names and meaning of torch-neuronx's autobucketing API),
`bucketd.artifact` reads, verifies and seals the files, `bucketd.tokenizer` is a small real tokeniser.
Only `bucketd.torch_neuronx` needs torch.
"""

__version__ = "0.1"
