#include "common/memfd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace bucketd {
namespace {

constexpr std::uint64_t kBytes = 8192;

TEST(MemfdTest, is_zeroed_and_shared_between_its_maps) {
  const Result<UniqueFd> fd = create_memfd("test", kBytes);
  ASSERT_TRUE(fd) << fd.error().to_string();
  const Result<MappedRegion> writer = map_memfd(fd->get(), kBytes, MapAccess::kReadWrite);
  const Result<MappedRegion> reader = map_memfd(fd->get(), kBytes, MapAccess::kReadOnly);
  ASSERT_TRUE(writer && reader);
  auto* bytes = static_cast<unsigned char*>(writer->get_address());
  EXPECT_EQ(bytes[kBytes - 1], 0);
  bytes[kBytes - 1] = 7;
  EXPECT_EQ(static_cast<unsigned char*>(reader->get_address())[kBytes - 1], 7);
}

TEST(MemfdTest, can_neither_shrink_nor_grow) {
  const Result<UniqueFd> fd = create_memfd("test", kBytes);
  ASSERT_TRUE(fd);
  EXPECT_NE(::ftruncate(fd->get(), 1), 0);
  EXPECT_EQ(errno, EPERM);
  EXPECT_NE(::ftruncate(fd->get(), 2 * kBytes), 0);
  EXPECT_TRUE(check_sealed(fd->get(), kBytes).ok());
  EXPECT_FALSE(check_sealed(fd->get(), kBytes + 1).ok());
}

TEST(MemfdTest, memory_that_can_still_shrink_is_refused) {
  const UniqueFd fd(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(fd.get(), kBytes), 0);
  EXPECT_FALSE(check_sealed(fd.get(), kBytes).ok());
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(check_sealed(file.get(), 0).ok());
}

TEST(MemfdTest, after_sealing_against_writes_old_maps_write_and_new_ones_cannot) {
  const Result<UniqueFd> fd = create_memfd("test", kBytes);
  ASSERT_TRUE(fd);
  const Result<MappedRegion> writer = map_memfd(fd->get(), kBytes, MapAccess::kReadWrite);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(seal_future_writes(fd->get()).ok());
  static_cast<unsigned char*>(writer->get_address())[0] = 9;
  const Result<MappedRegion> refused = map_memfd(fd->get(), kBytes, MapAccess::kReadWrite);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), StatusCode::kPermissionDenied);
  const Result<MappedRegion> reader = map_memfd(fd->get(), kBytes, MapAccess::kReadOnly);
  ASSERT_TRUE(reader);
  EXPECT_EQ(static_cast<unsigned char*>(reader->get_address())[0], 9);
  EXPECT_NE(::mprotect(reader->get_address(), kBytes, PROT_READ | PROT_WRITE), 0);
  EXPECT_NE(::fcntl(fd->get(), F_ADD_SEALS, F_SEAL_WRITE), 0) << "the seals are sealed";
}

}  // namespace
}  // namespace bucketd
