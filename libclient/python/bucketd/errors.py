"""What the package raises. Every message names the model's part, the limit and what would be right."""


class BucketdError(Exception):
    """Base of the package's own errors."""


class ArtifactError(BucketdError):
    """A file that is not a valid artifact, or metadata that breaks a rule of the format."""


class TraceError(BucketdError, ValueError):
    """A bucket model that cannot be traced as described: what the author gave contradicts itself."""


class KernelError(TraceError):
    """A bucket kernel or state preprocessor that gave a result that no bucket can run."""


class CropError(TraceError):
    """An output dim whose size cannot be tied to one input dim: the author has to say which."""
