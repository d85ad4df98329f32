"""Which input dims vary between buckets, from where to where, and which of them vary together."""

from bucketd.errors import TraceError


class InputDims:
    """The varying dims of a model's inputs.

    A *group* is a list of (input, dim) that have the same size in every bucket and vary together: one
    quantity, such as the sequence length, that several inputs share. Dims of different inputs are taken to
    belong together when their sizes agree; dims of one input only when the author ties them.

      shapes: `[bucket][input]` -> shape.
      names: of the inputs.
      listed: `[input]` -> dims that the author lists although they may be equal in all buckets.
      min_sizes: {(input, dim): least size}, which lists that dim, too; input by index or name.
      tied_dims: lists of (input, dim) that always have the same size.
    """

    def __init__(self, shapes, names, listed, min_sizes=(), tied_dims=()):
        self.shapes = shapes
        self.names = names
        min_sizes = {self._place(at, "min_sizes"): size for at, size in dict(min_sizes).items()}
        self._tied = [[self._place(at, "tied_dims") for at in tied] for tied in tied_dims]
        for (index, dim), size in min_sizes.items():
            if not 0 <= size <= max(self.sizes(index, dim)):
                raise TraceError(f"min_sizes of dim {dim} of input {names[index]!r} is {size}, not 0 to its largest")
        for tied in self._tied:
            if any(self.sizes(*at) != self.sizes(*tied[0]) for at in tied):
                raise TraceError(f"tied_dims ties dims whose sizes differ: {', '.join(map(self.describe, tied))}")
        self.least = {}
        self.groups = []
        for index, shape in enumerate(shapes[0]):
            for dim in range(len(shape)):
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

    def _place(self, at, what):
        """(input, dim) by numbers, checked."""
        name, dim = at
        if isinstance(name, str):
            if name not in self.names:
                raise TraceError(f"{what} names input {name!r}; the inputs are {list(self.names)}")
            name = self.names.index(name)
        if not (0 <= name < len(self.names) and 0 <= dim < len(self.shapes[0][name])):
            raise TraceError(f"{what} names dim {dim} of input {name}, which is not there")
        return name, dim

    def _are_tied(self, left, right):
        return any(left in tied and right in tied for tied in self._tied)

    def _join_group(self, at):
        def joins(group):
            agree = self.sizes(*group[0]) == self.sizes(*at)
            return agree and all(other[0] != at[0] or self._are_tied(other, at) for other in group)

        fitting = [group for group in self.groups if joins(group)]
        # Inputs with two equal dims each (square images and their masks) pair by position.
        fitting.sort(key=lambda group: all(dim != at[1] for _, dim in group))
        if fitting:
            fitting[0].append(at)
        else:
            self.groups.append([at])
