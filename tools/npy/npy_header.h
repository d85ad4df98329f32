// The header of a .npy file: a Python dictionary literal, of which exactly the keys 'descr',
// 'fortran_order' and 'shape' are allowed.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "bucketd/dtype.h"
#include "bucketd/shape.h"
#include "bucketd/status.h"

namespace bucketd {

struct NpyHeader {
  DType dtype = DType::kFloat32;
  bool fortran_order = false;
  Shape shape;
};

// Parses the dictionary, spaces and newline after it included. Errors as parse_npy().
Result<NpyHeader> parse_npy_dictionary(std::string_view text);

// NumPy's name of a type: "<f4". bfloat16 is "<u2".
std::string_view npy_type_name(DType dtype);

}  // namespace bucketd
