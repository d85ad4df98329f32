#include "tools/npy/npy.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>

#include "common/fd.h"
#include "common/system_error.h"
#include "tools/npy/npy_header.h"

namespace bucketd {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kDataAlignment = 64;

// Elements from Fortran (first dimension fastest) to C order. Sizes were checked.
std::vector<std::byte> to_row_major(std::span<const std::byte> source, const Shape& shape,
                                    std::size_t element_bytes) {
  std::vector<std::byte> result(source.size());
  const std::size_t rank = shape.rank();
  std::array<std::size_t, kMaxRank> stride{};
  std::size_t step = element_bytes;
  for (std::size_t d = 0; d < rank; ++d) {
    stride[d] = step;
    step *= static_cast<std::size_t>(shape[d]);
  }
  std::array<std::int64_t, kMaxRank> at{};
  std::size_t offset = 0;
  for (std::size_t out = 0; out < result.size(); out += element_bytes) {
    std::memcpy(result.data() + out, source.data() + offset, element_bytes);
    for (std::size_t d = rank; d-- > 0;) {
      offset += stride[d];
      if (++at[d] < shape[d]) break;
      offset -= stride[d] * static_cast<std::size_t>(shape[d]);
      at[d] = 0;
    }
  }
  return result;
}

// A bool byte other than 0 and 1 is undefined behaviour to whoever reads it as a bool.
Status check_bools(std::span<const std::byte> data) {
  for (std::size_t i = 0; i < data.size(); ++i) {
    if (std::to_integer<unsigned>(data[i]) > 1) {
      return {StatusCode::kInvalidArgument, "npy: boolean element " + std::to_string(i) + " is " +
                                                std::to_string(std::to_integer<unsigned>(data[i])) +
                                                ", neither 0 nor 1"};
    }
  }
  return {};
}

struct HeaderPlace {
  std::size_t offset = 0;
  std::size_t size = 0;
};

// Where the dictionary lies: after magic, two version bytes and a little-endian length of 2 bytes
// (format 1) or 4 bytes (formats 2 and 3).
Result<HeaderPlace> find_header(std::span<const std::byte> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (!text.starts_with(kMagic) || file.size() < kMagic.size() + 4) {
    return error(StatusCode::kInvalidArgument, "npy: no NumPy array file (its magic is missing)");
  }
  const auto byte_at = [&](std::size_t i) { return std::to_integer<std::size_t>(file[i]); };
  const std::size_t major = byte_at(kMagic.size());
  if (major < 1 || major > 3) {
    return error(StatusCode::kUnimplemented,
                 "npy: format version " + std::to_string(major) + "; 1, 2 and 3 are known");
  }
  const std::size_t length_offset = kMagic.size() + 2;
  const std::size_t length_bytes = major == 1 ? 2 : 4;
  const std::size_t offset = length_offset + length_bytes;
  if (file.size() < offset) {
    return error(StatusCode::kInvalidArgument, "npy: the file ends in the header's length");
  }
  std::size_t size = 0;
  for (std::size_t i = length_bytes; i-- > 0;) size = size << 8 | byte_at(length_offset + i);
  if (size > kMaxNpyHeaderBytes) {
    return error(StatusCode::kInvalidArgument,
                 "npy: a header of " + std::to_string(size) + " bytes; at most " +
                     std::to_string(kMaxNpyHeaderBytes) + " are accepted");
  }
  if (size > file.size() - offset) {
    return error(StatusCode::kInvalidArgument, "npy: the file ends in the header");
  }
  return HeaderPlace{offset, size};
}

Result<std::vector<std::byte>> read_file(const std::string& path, std::uint64_t max_bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd) return error(status_from_errno("open '" + path + "'", errno));
  std::vector<std::byte> bytes;
  std::size_t used = 0;
  while (true) {
    if (used == bytes.size()) bytes.resize(std::max<std::size_t>(bytes.size() * 2, 1 << 16));
    const ssize_t got = ::read(fd.get(), bytes.data() + used, bytes.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return error(status_from_errno("read '" + path + "'", errno));
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
    if (used > max_bytes) {
      return error(StatusCode::kResourceExhausted, "'" + path + "' is larger than the limit of " +
                                                       std::to_string(max_bytes) + " bytes");
    }
  }
  bytes.resize(used);
  return bytes;
}

Status write_all(int fd, const std::string& path, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return status_from_errno("write '" + path + "'", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

}  // namespace

Result<NpyArray> parse_npy(std::span<const std::byte> file) {
  const Result<HeaderPlace> place = find_header(file);
  if (!place) return error(place.error());
  const Result<NpyHeader> header = parse_npy_dictionary(
      {reinterpret_cast<const char*>(file.data()) + place->offset, place->size});
  if (!header) return error(header.error());

  const std::span<const std::byte> data = file.subspan(place->offset + place->size);
  const std::optional<std::uint64_t> expected = header->shape.byte_size(header->dtype);
  if (!expected || *expected != data.size()) {
    return error(StatusCode::kInvalidArgument,
                 "npy: " + std::string(dtype_name(header->dtype)) + header->shape.to_string() +
                     " needs " + (expected ? std::to_string(*expected) : "more than 2^63") +
                     " bytes of data, the file has " + std::to_string(data.size()));
  }
  if (header->dtype == DType::kBool) {
    if (Status bools = check_bools(data); !bools.ok()) return error(bools);
  }
  if (header->fortran_order && header->shape.rank() > 1) {
    return NpyArray{header->dtype, header->shape,
                    to_row_major(data, header->shape, dtype_size_bytes(header->dtype))};
  }
  return NpyArray{header->dtype, header->shape, {data.begin(), data.end()}};
}

Result<NpyArray> read_npy(const std::string& path, std::uint64_t max_bytes) {
  const Result<std::vector<std::byte>> bytes = read_file(path, max_bytes);
  if (!bytes) return error(bytes.error());
  Result<NpyArray> array = parse_npy(*bytes);
  if (!array) return error(array.error().with_context("'" + path + "'"));
  return array;
}

std::string npy_header(DType dtype, const Shape& shape) {
  std::string dictionary =
      "{'descr': '" + std::string(npy_type_name(dtype)) + "', 'fortran_order': False, 'shape': (";
  for (std::size_t d = 0; d < shape.rank(); ++d) {
    dictionary += (d > 0 ? " " : "") + std::to_string(shape[d]) + ",";
  }
  // NumPy writes (2, 3) and (2,); the comma after the last of several does no harm but is not its
  // form.
  if (shape.rank() > 1) dictionary.pop_back();
  dictionary += "), }";

  const std::size_t before = kMagic.size() + 4;
  const std::size_t total =
      (before + dictionary.size() + 1 + kDataAlignment - 1) / kDataAlignment * kDataAlignment;
  const std::size_t length = total - before;
  dictionary.resize(length - 1, ' ');
  dictionary += '\n';

  std::string header(kMagic);
  header += '\x01';
  header += '\x00';
  header += static_cast<char>(length & 0xFF);
  header += static_cast<char>(length >> 8);
  return header + dictionary;
}

Status write_npy(const std::string& path, DType dtype, const Shape& shape,
                 std::span<const std::byte> data) {
  assert(shape.byte_size(dtype) == data.size());
  const UniqueFd fd(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666));
  if (!fd) return status_from_errno("create '" + path + "'", errno);
  const std::string header = npy_header(dtype, shape);
  if (Status s = write_all(fd.get(), path, std::as_bytes(std::span(header))); !s.ok()) return s;
  return write_all(fd.get(), path, data);
}

}  // namespace bucketd
