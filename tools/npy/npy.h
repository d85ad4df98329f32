// Reads and writes NumPy's .npy files, for tools and demos.
//
//   Result<NpyArray> ids = read_npy("ids.npy");
//   if (!ids) return fail(ids.error());
//   Status written = write_npy("logits.npy", DType::kFloat32, shape, bytes);
//
// Formats 1.0 to 3.0, as in NumPy's numpy.lib.format. Little-endian only. Arrays in Fortran order
// are transposed into C order. NumPy has no bfloat16: it is written as '<u2' (the bits), and '<u2',
// '<V2' and '|V2' (what ml_dtypes writes) are read as bfloat16. Structured, object, string, complex
// and other types are refused.
//
// Every length, size and value of a file is checked before use: files may come from anywhere.
//
// Thread safety: free functions without shared state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bucketd/dtype.h"
#include "bucketd/shape.h"
#include "bucketd/status.h"

namespace bucketd {

// Largest file that read_npy reads unless told otherwise.
inline constexpr std::uint64_t kMaxNpyFileBytes = std::uint64_t{4} << 30;
// Longest header (the dictionary), as NumPy's own default limit.
inline constexpr std::size_t kMaxNpyHeaderBytes = 10000;

struct NpyArray {
  DType dtype = DType::kFloat32;
  Shape shape;
  std::vector<std::byte> data;  // contiguous, row-major, shape.byte_size(dtype) bytes
};

// Parses a whole file's bytes.
// Errors: INVALID_ARGUMENT when it is no .npy file or contradicts itself (the text says where),
// UNIMPLEMENTED for a type or byte order that bucketd has not, OUT_OF_RANGE for rank > kMaxRank.
Result<NpyArray> parse_npy(std::span<const std::byte> file);

// The same from a file. Errors also: those of opening and reading, and RESOURCE_EXHAUSTED above
// `max_bytes`. Every text names the file.
Result<NpyArray> read_npy(const std::string& path, std::uint64_t max_bytes = kMaxNpyFileBytes);

// Magic, version and header of a C-order array, padded so that the data starts at a multiple of 64.
std::string npy_header(DType dtype, const Shape& shape);

// Writes (or overwrites) `path`. Asserts that `data` has the shape's size.
Status write_npy(const std::string& path, DType dtype, const Shape& shape,
                 std::span<const std::byte> data);

}  // namespace bucketd
