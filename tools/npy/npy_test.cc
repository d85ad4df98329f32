#include "tools/npy/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>

namespace bucketd {
namespace {

using ::testing::HasSubstr;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// A file of format `major` with this dictionary, unpadded, and this data.
std::string file_of(std::string_view dictionary, std::string_view data, int major = 1) {
  std::string file = "\x93NUMPY";
  file += static_cast<char>(major);
  file += '\0';
  std::size_t length = dictionary.size();
  for (int i = 0; i < (major == 1 ? 2 : 4); ++i, length >>= 8) {
    file += static_cast<char>(length & 0xFF);
  }
  return file.append(dictionary).append(data);
}

void expect_refused(const std::string& file, StatusCode code, const std::string& text) {
  const Result<NpyArray> array = parse_npy(bytes_of(file));
  ASSERT_FALSE(array) << "accepted, expected: " << text;
  EXPECT_EQ(array.error().code(), code) << array.error().to_string();
  EXPECT_THAT(array.error().message(), HasSubstr(text));
}

class NpyDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "npy-test-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::filesystem::path directory_;
};

TEST_F(NpyDirectory, every_dtype_and_rank_comes_back_as_it_was_written) {
  const std::vector<Shape> shapes = {
      Shape{},        Shape{3},          Shape{1},
      Shape{2, 3},    Shape{2, 0, 4},    Shape{0},
      Shape{2, 1, 3}, Shape{1, 2, 1, 2}, Shape{1, 1, 1, 1, 2, 1, 2, 2}};
  const std::string path = directory_ / "a.npy";
  for (std::uint8_t type = 1; is_known_dtype(type); ++type) {
    const auto dtype = static_cast<DType>(type);
    for (const Shape& shape : shapes) {
      std::vector<std::byte> data(*shape.byte_size(dtype));
      for (std::size_t i = 0; i < data.size(); ++i) {
        data[i] = static_cast<std::byte>(dtype == DType::kBool ? i % 2 : i * 37);
      }
      ASSERT_TRUE(write_npy(path, dtype, shape, data).ok());
      const Result<NpyArray> back = read_npy(path);
      ASSERT_TRUE(back) << back.error().to_string();
      EXPECT_EQ(back->dtype, dtype);
      EXPECT_EQ(back->shape, shape);
      EXPECT_EQ(back->data, data) << dtype_name(dtype) << shape.to_string();
    }
  }
}

TEST(Npy, header_is_the_one_numpy_writes) {
  const std::string header = npy_header(DType::kFloat32, {2, 3});
  EXPECT_EQ(header.size() % 64, 0u);
  EXPECT_EQ(header.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  EXPECT_THAT(header, HasSubstr("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"));
  EXPECT_EQ(header.back(), '\n');
  EXPECT_THAT(npy_header(DType::kBool, {7}), HasSubstr("'shape': (7,), }"));
  EXPECT_THAT(npy_header(DType::kInt8, {}), HasSubstr("'shape': (), }"));
}

TEST(Npy, all_format_versions_and_any_key_order_are_read) {
  for (int major : {1, 2, 3}) {
    const Result<NpyArray> array = parse_npy(bytes_of(
        file_of("{\"shape\":(2,1),\"descr\":\"|u1\",\"fortran_order\":False}  \n", "ab", major)));
    ASSERT_TRUE(array) << array.error().to_string();
    EXPECT_EQ(array->shape, (Shape{2, 1}));
    EXPECT_EQ(array->data.size(), 2u);
  }
}

TEST(Npy, fortran_order_becomes_c_order) {
  const Result<NpyArray> array = parse_npy(
      bytes_of(file_of("{'descr': '|i1', 'fortran_order': True, 'shape': (2, 3)}", "adbecf")));
  ASSERT_TRUE(array) << array.error().to_string();
  EXPECT_EQ(std::memcmp(array->data.data(), "abcdef", 6), 0);

  const Result<NpyArray> cube = parse_npy(
      bytes_of(file_of("{'descr': '|i1', 'fortran_order': True, 'shape': (2, 2, 2)}", "aecgbfdh")));
  ASSERT_TRUE(cube) << cube.error().to_string();
  EXPECT_EQ(std::memcmp(cube->data.data(), "abcdefgh", 8), 0);

  const Result<NpyArray> empty =
      parse_npy(bytes_of(file_of("{'descr': '|i1', 'fortran_order': True, 'shape': (2, 0)}", "")));
  ASSERT_TRUE(empty) << empty.error().to_string();
}

TEST(Npy, bfloat16_is_read_from_bits_and_from_void) {
  for (std::string_view type : {"<u2", "<V2", "|V2"}) {
    const std::string file =
        file_of("{'descr': '" + std::string(type) + "', 'fortran_order': False, 'shape': (1,)}",
                "\x80\x3f");
    const Result<NpyArray> array = parse_npy(bytes_of(file));
    ASSERT_TRUE(array) << array.error().to_string();
    EXPECT_EQ(array->dtype, DType::kBfloat16);
  }
}

TEST(Npy, types_that_bucketd_has_not_are_refused_by_name) {
  const auto with_type = [](std::string_view type) {
    return file_of("{'descr': " + std::string(type) + ", 'fortran_order': False, 'shape': (1,)}",
                   "12345678");
  };
  expect_refused(with_type("'>i8'"), StatusCode::kUnimplemented, "big-endian");
  expect_refused(with_type("'<c8'"), StatusCode::kUnimplemented, "'<c8'");
  expect_refused(with_type("'|O'"), StatusCode::kUnimplemented, "'|O'");
  expect_refused(with_type("[('a', '<i8')]"), StatusCode::kUnimplemented, "structured");
  expect_refused(with_type("''"), StatusCode::kUnimplemented, "''");
  expect_refused(with_type("'" + std::string(300, 'x') + "'"), StatusCode::kUnimplemented, "...");
}

TEST(Npy, damaged_headers_are_refused_with_the_place) {
  const auto refused = [](std::string_view dictionary, const std::string& text) {
    expect_refused(file_of(dictionary, "1"), StatusCode::kInvalidArgument, text);
  };
  refused("", "expected a dictionary");
  refused("{", "expected a key");
  refused("{'descr'", "expected ':'");
  refused("{'descr': '|u1", "expected a type in quotes");
  refused("{'descr': '|u1'}", "lacks");
  refused("{'descr': '|u1', 'descr': '|u1'}", "given twice");
  refused("{'other': 1}", "'other'");
  refused("{'fortran_order': 1}", "True or False");
  refused("{'shape': 1}", "expected a shape");
  refused("{'shape': (1 1)}", "expected ',' or ')'");
  refused("{'shape': (-1,)}", "expected a size");
  refused("{'shape': (99999999999999999999,)}", "expected a size");
  refused("{'shape': (1,", "expected a size");
  refused("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)} x", "nothing after");
  refused(std::string_view("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}\0", 56),
          "nothing after");
}

TEST(Npy, sizes_that_do_not_fit_the_data_are_refused) {
  const auto with_shape = [](std::string_view shape, std::string_view data) {
    return file_of("{'descr': '<i8', 'fortran_order': True, 'shape': " + std::string(shape) + "}",
                   data);
  };
  expect_refused(with_shape("(1,)", "1234567"), StatusCode::kInvalidArgument,
                 "needs 8 bytes of data, the file has 7");
  expect_refused(with_shape("(1,)", "123456789"), StatusCode::kInvalidArgument, "has 9");
  expect_refused(with_shape("(4611686018427387904, 4)", ""), StatusCode::kInvalidArgument,
                 "more than 2^63");
  expect_refused(with_shape("(1,1,1,1,1,1,1,1,1)", "12345678"), StatusCode::kOutOfRange,
                 "8 dimensions");
}

TEST(Npy, booleans_other_than_0_and_1_are_refused) {
  expect_refused(file_of("{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}",
                         std::string_view("\x01\x02", 2)),
                 StatusCode::kInvalidArgument, "boolean element 1 is 2");
}

TEST(Npy, every_truncation_and_every_flipped_bit_is_survived) {
  const std::string file = npy_header(DType::kInt32, {2, 3}) + std::string(24, 'x');
  for (std::size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(parse_npy(bytes_of(file.substr(0, size)))) << size << " bytes were accepted";
  }
  for (std::size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    const Result<NpyArray> array = parse_npy(bytes_of(flipped));
    if (array) {
      EXPECT_EQ(array->shape.byte_size(array->dtype), array->data.size());
    }
  }
}

TEST(Npy, header_length_is_bounded) {
  std::string file = "\x93NUMPY";
  file += std::string("\x02\x00\xff\xff\xff\xff", 6);
  expect_refused(file, StatusCode::kInvalidArgument, "at most 10000");
  expect_refused(std::string("\x93NUMPY\x04\x00\x10\x00", 10), StatusCode::kUnimplemented,
                 "format version 4");
  expect_refused("PK", StatusCode::kInvalidArgument, "magic");
}

TEST_F(NpyDirectory, files_that_cannot_be_read_are_named) {
  const std::string missing = directory_ / "missing.npy";
  const Result<NpyArray> none = read_npy(missing);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(none.error().message(), HasSubstr("missing.npy"));

  const std::string path = directory_ / "large.npy";
  ASSERT_TRUE(write_npy(path, DType::kUint8, {100}, std::vector<std::byte>(100)).ok());
  const Result<NpyArray> large = read_npy(path, 99);
  ASSERT_FALSE(large);
  EXPECT_EQ(large.error().code(), StatusCode::kResourceExhausted);

  EXPECT_FALSE(read_npy(directory_)) << "a directory is no array";
  EXPECT_FALSE(write_npy(directory_ / "no" / "x.npy", DType::kUint8, {0}, {}).ok());
}

}  // namespace
}  // namespace bucketd
