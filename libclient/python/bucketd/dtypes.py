"""The dtypes of artifacts, by the names that `common/include/bucketd/dtype.h` uses."""

DTYPE_NAMES = (
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
)

# Range of the integer dtypes, inclusive.
INTEGER_RANGES = {
    "uint8": (0, 2**8 - 1),
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}

# Bits of the significand (the implicit one included) and exponent range of the floating-point dtypes.
_FLOAT_FORMATS = {
    "float16": (11, -14, 15),
    "bfloat16": (8, -126, 127),
    "float32": (24, -126, 127),
    "float64": (53, -1022, 1023),
}


def holds_exactly(dtype, value):
    """Whether a tensor of `dtype` (a name), and a double on the way there, hold `value` unchanged.

    `value` is a bool, an int or a finite float.
    """
    if isinstance(value, bool):
        return dtype == "bool"
    if not _float_holds("float64", value):
        return False
    if dtype == "bool":
        return value in (0, 1)
    if dtype in INTEGER_RANGES:
        low, high = INTEGER_RANGES[dtype]
        return value == int(value) and low <= int(value) <= high
    return _float_holds(dtype, value)


def _float_holds(dtype, value):
    bits, least_exponent, greatest_exponent = _FLOAT_FORMATS[dtype]
    try:
        if float(value) != value:  # An int that not even float64 holds.
            return False
        numerator, denominator = float(value).as_integer_ratio()
    except OverflowError:
        return False
    if numerator == 0:
        return True
    trailing = (abs(numerator) & -abs(numerator)).bit_length() - 1
    significand = abs(numerator) >> trailing
    lowest_bit = trailing - (denominator.bit_length() - 1)
    exponent = lowest_bit + significand.bit_length() - 1
    # Below the least exponent, subnormal numbers lose one bit per step.
    return (
        significand.bit_length() <= bits and exponent <= greatest_exponent and lowest_bit >= least_exponent - (bits - 1)
    )


def name_of(torch_dtype):
    """Name of a torch dtype; `TypeError` when artifacts cannot carry it."""
    name = str(torch_dtype).removeprefix("torch.")
    if name not in DTYPE_NAMES:
        raise TypeError(f"dtype {name} is not supported; supported are {', '.join(DTYPE_NAMES)}")
    return name
