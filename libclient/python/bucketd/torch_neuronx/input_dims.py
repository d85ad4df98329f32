"""Which input dims vary between buckets, from where to where, and which of them vary together."""

from bucketd.errors import TraceError


class InputDims:
    """The varying dims of a model's inputs.

    A *group* is a list of (input, dim) that have the same size in every bucket, each of another input: one
    quantity, such as the sequence length, that several inputs share. Dims of one input are never together.

      shapes: `[bucket][input]` -> shape.
      listed: `[input]` -> dims that the author lists although they may be equal in all buckets.
      min_sizes: {(input, dim): least size}, which lists that dim, too.
    """

    def __init__(self, shapes, listed, min_sizes, names):
        self.shapes = shapes
        self.names = names
        ranks = [len(shape) for shape in shapes[0]]
        for (index, dim), size in min_sizes.items():
            if not (0 <= index < len(ranks) and 0 <= dim < ranks[index]):
                raise TraceError(f"min_sizes names dim {dim} of input {index}, which is not there")
            if not 0 <= size <= max(self.sizes(index, dim)):
                raise TraceError(f"min_sizes of dim {dim} of input {names[index]!r} is {size}, not 0 to its largest")
        self.least = {}
        self.groups = []
        for index, rank in enumerate(ranks):
            for dim in range(rank):
                at = (index, dim)
                if len(set(self.sizes(*at))) > 1 or dim in listed[index] or at in min_sizes:
                    self.least[at] = min_sizes.get(at, min(1, max(self.sizes(*at))))
                    self._join_group(at)

    def sizes(self, index, dim):
        """The size of an input dim in every bucket."""
        return [bucket[index][dim] for bucket in self.shapes]

    def least_of(self, group):
        """The least size that every dim of `group` accepts."""
        return max(self.least[at] for at in group)

    def largest_of(self, group):
        return max(self.sizes(*group[0]))

    def describe(self, at):
        return f"dim {at[1]} of input {self.names[at[0]]!r}"

    def metadata(self):
        return [{"input": index, "dim": dim, "min": least} for (index, dim), least in sorted(self.least.items())]

    def _join_group(self, at):
        fitting = [
            group
            for group in self.groups
            if self.sizes(*group[0]) == self.sizes(*at) and all(index != at[0] for index, _ in group)
        ]
        # Inputs with two equal dims each (square images and their masks) pair by position.
        fitting.sort(key=lambda group: all(dim != at[1] for _, dim in group))
        if fitting:
            fitting[0].append(at)
        else:
            self.groups.append([at])
