"""Puts traced buckets, kernel and state into one TorchScript module, and saves it as an artifact."""

import json
import os
import pathlib
import shutil
import tempfile

import torch

from bucketd import artifact, metadata as metadata_rules
from bucketd.torch_neuronx.pad_kernel import nested_literal


class BucketModel:
    """A traced bucket model; behaves like the `ScriptModule` inside it, with a `save` that seals.

    Calling it runs the kernel, the bucket that the kernel chose, and the write-back of aliased outputs, on
    inputs as the caller has them; outputs are the bucket's ordinary ones, padded.

    `model.save(path)`, `torch.jit.save(model, path)` and `bucketd.torch_neuronx.save(model, path)` write
    the same sealed artifact. `torch.jit.save(model, buffer)` and `model.script_module.save(path)` write a
    plain TorchScript file; the former with metadata but no valid seal, the latter without both: the daemon
    refuses these.
    """

    def __init__(self, script_module, metadata, kernel):
        self.script_module = script_module
        self.metadata = metadata
        self._kernel = kernel

    def __call__(self, *inputs):
        return self.script_module(*inputs)

    def __getattr__(self, name):
        # Only what a module has and this class lacks gets here.
        if name == "script_module":
            raise AttributeError(name)
        return getattr(self.script_module, name)

    @property
    def bucket_kernel_graph(self):
        """The bucket kernel as TorchScript lowered it."""
        return self._kernel.graph

    def save(self, path, _extra_files=None):
        """Writes the sealed artifact to `path`, replacing the file there only when it is complete."""
        path = pathlib.Path(path).absolute()
        # LibTorch names the archive after the file: the same name in a folder of its own keeps the content
        # independent of where it is written.
        folder = tempfile.mkdtemp(prefix=".bucketd-save-", dir=path.parent)
        try:
            temporary = os.path.join(folder, path.name)
            self.script_module.save(temporary, _extra_files=self._files(_extra_files))
            artifact.seal(temporary)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def save_to_buffer(self, _extra_files=None):
        """The archive as bytes, with metadata and without seal."""
        return self.script_module.save_to_buffer(_extra_files=self._files(_extra_files))

    def _files(self, extra_files):
        text = json.dumps(self.metadata, separators=(",", ":"), allow_nan=False)
        return {**(extra_files or {}), artifact.METADATA_FILE: text.encode()}


def save(model, path):
    """Writes the sealed artifact of a traced `BucketModel` to `path`."""
    model.save(path)


# The method `bucket_kernel` of a kernel that is a TorchScript function of the author.
CALLING_KERNEL = """
def bucket_kernel(self, inputs: List[Tensor]) -> Tuple[List[Tensor], Tensor]:
    return kernel(inputs)
"""


class BucketModelModule(torch.nn.Module):
    """Holds the buckets and states of an artifact; its methods are TorchScript, defined by `assemble`."""


def assemble(metadata, buckets, kernel, kernel_source, preprocessor, states, returns_tensor):
    """The module of an artifact: `buckets` (traced), `states` (initial values), kernel and preprocessor.

    `kernel_source` is the source of the method `bucket_kernel`; it may call the function `kernel`. With
    `returns_tensor`, forward gives its only output as a tensor, not as a tuple of one.
    """
    metadata_rules.validate(metadata)
    holder = BucketModelModule()
    for number, bucket in enumerate(buckets):
        holder.add_module(f"bucket_{number}", bucket)
    for number, state in enumerate(states):
        holder.register_buffer(f"state_{number}", state)
    module = torch.jit.script(holder)
    module.eval()
    # `define` resolves `kernel` and `preprocessor` in this frame.
    module.define(kernel_source)
    if preprocessor is not None:
        module.define(
            "def state_preprocessor(self, shapes_collection: List[List[List[int]]], states: List[Tensor],"
            " bucket_idx: Tensor) -> List[Tensor]:\n"
            "    return preprocessor(shapes_collection, states, bucket_idx)\n"
        )
    module.define(_REFUSAL.format(model=metadata["name"]))
    module.define(_forward_source(metadata, returns_tensor))
    return BucketModel(module, metadata, kernel)


# What forward calls to refuse an input, so that the ordinary path builds no text.
_REFUSAL = """
def no_bucket(self, inputs: List[Tensor]) -> str:
    shapes = [x.size() for x in inputs]
    return "no bucket of model {model} takes inputs of shapes " + str(shapes)
"""


def _forward_source(metadata, returns_tensor):
    """TorchScript of `forward`: kernel, checks, dispatch, write-back."""
    inputs, outputs, states = (len(metadata[field]) for field in ("inputs", "outputs", "states"))
    model = metadata["name"]
    arguments = [f"input_{i}" for i in range(inputs)]
    given = f"[{', '.join(arguments)}]"
    refuse = f"raise ValueError(self.no_bucket({given}))"
    lines = [
        f"def forward(self, {', '.join(argument + ': Tensor' for argument in arguments)}):",
        f"    padded, bucket_idx = self.bucket_kernel({given})",
        f"    if len(padded) != {inputs}:",
        f"        {refuse}",
        "    bucket = int(bucket_idx)",
        f"    if bucket < 0 or bucket >= {len(metadata['buckets'])}:",
        f"        raise ValueError('the bucket kernel of model {model} chose bucket ' + str(bucket))",
    ]
    for i, entry in enumerate(metadata["inputs"]):
        lines += [
            f"    if padded[{i}].dtype != torch.{entry['dtype']}:",
            f"        raise ValueError('input {entry['name']} of model {model} has to be {entry['dtype']}')",
        ]
    lines += ["    results: List[Tensor] = []", "    with torch.no_grad():"]
    call = [f"padded[{i}]" for i in range(inputs)]
    if states:
        lines.append(f"        states = [{', '.join(f'self.state_{s}' for s in range(states))}]")
        call += [f"states[{s}]" for s in range(states)]
        if metadata["preprocessor"]:
            collection = nested_literal([bucket["states"] for bucket in metadata["buckets"]], "List[List[int]]")
            lines.append(f"        states = self.state_preprocessor({collection}, states, bucket_idx)")
    total = outputs + len(metadata["aliases"])
    # One `if` after the other: LibTorch loads a long chain of `elif` in quadratic time.
    for number, bucket in enumerate(metadata["buckets"]):
        lines.append(f"        if bucket == {number}:")
        for i, shape in enumerate(bucket["inputs"]):
            lines.append(f"            if padded[{i}].size() != {nested_literal(shape, 'int')}:")
            lines.append(f"                {refuse}")
        result = f"self.bucket_{number}({', '.join(call)})"
        if total == 1:
            lines.append(f"            results = [{result}]")
        else:
            lines.append(f"            out_{number} = {result}")
            lines.append(f"            results = [{', '.join(f'out_{number}[{o}]' for o in range(total))}]")
    if states:
        # An output may be a view of a state, which is about to change, or of another state.
        lines.append("        results = [result.clone() for result in results]")
    for alias in metadata["aliases"]:
        lines.append(f"        states[{alias['state']}].copy_(results[{alias['output']}])")
    if returns_tensor:
        lines.append("    return results[0]")
    else:
        lines.append(f"    return ({''.join(f'results[{o}], ' for o in range(outputs))})")
    return "\n".join(lines) + "\n"
