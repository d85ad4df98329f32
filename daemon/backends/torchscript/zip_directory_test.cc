#include "daemon/backends/torchscript/zip_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/backends/torchscript/testing/temporary_file.h"

namespace bucketd::torchscript {
namespace {

using testing::file_with;
using ::testing::HasSubstr;

std::string little_endian(std::uint64_t value, int byte_count) {
  std::string bytes;
  for (int i = 0; i < byte_count; ++i) {
    bytes += static_cast<char>(value);
    value >>= 8;
  }
  return bytes;
}

struct Member {
  std::string name;
  std::string content;
  std::uint64_t size_bytes = 0;  // what the directory says; 0: the truth
  std::uint16_t method = 0;
  std::uint16_t flags = 0;
  bool is_zip64 = false;
};

// An archive as APPNOTE.TXT lays it out; `zip64_end` puts the directory's place in a ZIP64 record.
std::string archive_of(const std::vector<Member>& members, bool zip64_end = false) {
  std::string archive;
  std::string directory;
  for (const Member& member : members) {
    const std::uint64_t offset = archive.size();
    const std::uint64_t size = member.size_bytes != 0 ? member.size_bytes : member.content.size();
    archive += little_endian(0x04034b50, 4) + std::string(22, '\0') +
               little_endian(member.name.size(), 2) + little_endian(0, 2) + member.name +
               member.content;
    const std::uint64_t in_zip64 = 0xffffffff;
    const std::string extra =
        member.is_zip64 ? little_endian(1, 2) + little_endian(24, 2) + little_endian(size, 8) +
                              little_endian(member.content.size(), 8) + little_endian(offset, 8)
                        : "";
    directory +=
        little_endian(0x02014b50, 4) + little_endian(0, 4) + little_endian(member.flags, 2) +
        little_endian(member.method, 2) + std::string(8, '\0') +
        little_endian(member.is_zip64 ? in_zip64 : member.content.size(), 4) +
        little_endian(member.is_zip64 ? in_zip64 : size, 4) + little_endian(member.name.size(), 2) +
        little_endian(extra.size(), 2) + std::string(10, '\0') +
        little_endian(member.is_zip64 ? in_zip64 : offset, 4) + member.name + extra;
  }
  const std::uint64_t place = archive.size();
  archive += directory;
  const std::uint64_t end64 = archive.size();
  if (zip64_end) {
    archive += little_endian(0x06064b50, 4) + little_endian(44, 8) + little_endian(0, 12) +
               little_endian(members.size(), 8) + little_endian(members.size(), 8) +
               little_endian(directory.size(), 8) + little_endian(place, 8);
    archive += little_endian(0x07064b50, 4) + little_endian(0, 4) + little_endian(end64, 8) +
               little_endian(1, 4);
  }
  const auto count = zip64_end ? std::uint64_t{0xffff} : members.size();
  archive += little_endian(0x06054b50, 4) + little_endian(0, 4) + little_endian(count, 2) +
             little_endian(count, 2) + little_endian(zip64_end ? 0xffffffff : directory.size(), 4) +
             little_endian(zip64_end ? 0xffffffff : place, 4) + little_endian(7, 2) + "comment";
  return archive;
}

Result<std::vector<ZipEntry>> directory_of(const std::string& archive) {
  return read_zip_directory(file_with(archive).get(), archive.size());
}

TEST(ZipDirectory, entries_and_contents_are_found) {
  for (const bool zip64_end : {false, true}) {
    for (const bool is_zip64 : {false, true}) {
      const std::string archive = archive_of(
          {{"m/a", "first", 0, 0, 0, is_zip64}, {"m/b", "second one", 0, 0, 0, is_zip64}},
          zip64_end);
      const UniqueFd fd = file_with(archive);
      const auto entries = read_zip_directory(fd.get(), archive.size());
      ASSERT_TRUE(entries.has_value()) << entries.error().to_string();
      ASSERT_EQ(entries->size(), 2u);
      EXPECT_EQ((*entries)[1].name, "m/b");
      const auto content = read_stored_entry(fd.get(), archive.size(), (*entries)[1], 100);
      ASSERT_TRUE(content.has_value()) << content.error().to_string();
      EXPECT_EQ(*content, "second one");
    }
  }
}

TEST(ZipDirectory, every_truncation_is_refused) {
  const std::string archive = archive_of({{"m/a", "first"}, {"m/b", "second"}}, true);
  for (std::size_t size = 0; size < archive.size(); ++size) {
    EXPECT_FALSE(directory_of(archive.substr(0, size)).has_value()) << size << " bytes";
  }
}

TEST(ZipDirectory, a_stored_entry_cannot_claim_more_than_it_has) {
  const auto entries = directory_of(archive_of({{"m/a", "first", std::uint64_t{1} << 40}}));
  EXPECT_FALSE(entries.has_value());
  const auto wide =
      directory_of(archive_of({{"m/a", "first", std::uint64_t{1} << 40, 0, 0, true}}));
  ASSERT_FALSE(wide.has_value());
  EXPECT_THAT(wide.error().message(), HasSubstr("sizes contradict each other"));
}

TEST(ZipDirectory, a_deflated_entry_cannot_claim_more_than_deflate_can_give) {
  EXPECT_TRUE(directory_of(archive_of({{"m/a", "12345", 5000, 8}})).has_value());
  EXPECT_FALSE(directory_of(archive_of({{"m/a", "12345", 50000, 8}})).has_value());
}

TEST(ZipDirectory, deflated_entries_together_have_a_limit) {
  const std::string two_mebibytes(2 << 20, 'x');
  const auto entries = directory_of(archive_of({{"m/a", two_mebibytes, 700u << 20, 8, 0, true},
                                                {"m/b", two_mebibytes, 700u << 20, 8, 0, true}}));
  ASSERT_FALSE(entries.has_value());
  EXPECT_EQ(entries.error().code(), StatusCode::kResourceExhausted);
}

TEST(ZipDirectory, what_libtorch_could_not_read_is_refused) {
  EXPECT_FALSE(directory_of(archive_of({{"m/a", "first", 0, 12}})).has_value()) << "bzip2";
  EXPECT_FALSE(directory_of(archive_of({{"m/a", "first", 0, 0, 1}})).has_value()) << "encrypted";
  EXPECT_FALSE(directory_of(archive_of({{"m/a", "1"}, {"m/a", "2"}})).has_value()) << "two names";
  EXPECT_FALSE(directory_of("").has_value());
  EXPECT_FALSE(directory_of(std::string(1000, '\0')).has_value());
}

TEST(ZipDirectory, a_content_beyond_its_limit_or_compressed_is_not_read) {
  const std::string archive = archive_of({{"m/a", "first"}, {"m/b", "12345", 50, 8}});
  const UniqueFd fd = file_with(archive);
  const auto entries = read_zip_directory(fd.get(), archive.size());
  ASSERT_TRUE(entries.has_value()) << entries.error().to_string();
  const auto limited = read_stored_entry(fd.get(), archive.size(), (*entries)[0], 4);
  ASSERT_FALSE(limited.has_value());
  EXPECT_EQ(limited.error().code(), StatusCode::kResourceExhausted);
  const auto deflated = read_stored_entry(fd.get(), archive.size(), (*entries)[1], 100);
  ASSERT_FALSE(deflated.has_value());
  EXPECT_EQ(deflated.error().code(), StatusCode::kInvalidArgument);
}

TEST(ZipDirectory, any_changed_byte_gives_an_answer) {
  const std::string archive = archive_of({{"m/a", "first", 0, 0, 0, true}, {"m/b", "x"}}, true);
  for (std::size_t at = 0; at < archive.size(); ++at) {
    for (const char mask : {'\x01', '\x80', '\xff'}) {
      std::string changed = archive;
      changed[at] ^= mask;
      const UniqueFd fd = file_with(changed);
      const auto entries = read_zip_directory(fd.get(), changed.size());
      if (!entries) continue;
      for (const ZipEntry& entry : *entries) {
        const auto content = read_stored_entry(fd.get(), changed.size(), entry, 1000);
        if (content) {
          EXPECT_LE(content->size(), changed.size());
        }
      }
    }
  }
}

}  // namespace
}  // namespace bucketd::torchscript
