"""torch-neuronx's autobucketing API, compiling for the CPU into a bucketd artifact.

    from bucketd import torch_neuronx

    config = torch_neuronx.BucketModelConfig(get_bucket_kernel)
    model = torch_neuronx.bucket_model_trace(get_model, [inputs_128, inputs_512], config)
    model(*inputs)                 # runs the bucket that the kernel chooses
    torch.jit.save(model, path)    # or model.save(path): one sealed file
    torch.jit.load(path)           # plain TorchScript, without bucketd

`BucketModelConfig` and `bucket_model_trace` have torch-neuronx's names, parameters and meaning; what is ours
is keyword-only and optional. `PadKernel` is a declarative bucket kernel, `Crop` says which output dim
follows which input dim where tracing cannot tell.
"""

from bucketd.torch_neuronx.bucket_model import BucketModel, save
from bucketd.torch_neuronx.config import BucketModelConfig, Crop
from bucketd.torch_neuronx.pad_kernel import PadKernel
from bucketd.torch_neuronx.trace import bucket_model_trace

__all__ = ["BucketModel", "BucketModelConfig", "Crop", "PadKernel", "bucket_model_trace", "save"]
