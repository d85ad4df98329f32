#include "daemon/backends/torchscript/zip_directory.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string_view>
#include <unordered_set>

#include "daemon/backends/torchscript/file_reading.h"

namespace bucketd::torchscript {
namespace {

// Signatures, sizes and offsets of the records: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7
// to 4.3.16.
constexpr std::uint32_t kLocalHeader = 0x04034b50;
constexpr std::uint32_t kCentralHeader = 0x02014b50;
constexpr std::uint32_t kEndRecord = 0x06054b50;
constexpr std::uint32_t kZip64EndRecord = 0x06064b50;
constexpr std::uint32_t kZip64Locator = 0x07064b50;
constexpr std::size_t kLocalHeaderBytes = 30;
constexpr std::size_t kCentralHeaderBytes = 46;
constexpr std::size_t kEndRecordBytes = 22;
constexpr std::size_t kZip64EndRecordBytes = 56;
constexpr std::size_t kZip64LocatorBytes = 20;
constexpr std::size_t kMaxCommentBytes = 0xffff;
constexpr std::uint64_t kMaxDirectoryBytes = std::uint64_t{256} << 20;
constexpr std::uint16_t kZip64Extra = 0x0001;
constexpr std::uint16_t kMethodStored = 0;
constexpr std::uint16_t kMethodDeflated = 8;
constexpr std::uint16_t kFlagEncrypted = 1;
constexpr std::uint32_t kIn64 = 0xffffffff;  // "the value stands in the ZIP64 record"

// Deflate cannot expand more than 1032 to 1.
constexpr std::uint64_t kMaxInflateRatio = 1032;

// Little-endian field of `bytes` at `offset`; the caller has checked that it lies inside.
template <typename T>
T field(std::span<const std::byte> bytes, std::size_t offset) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value |=
        static_cast<T>(static_cast<T>(std::to_integer<std::uint8_t>(bytes[offset + i])) << (8 * i));
  }
  return value;
}

tl::unexpected<Status> damaged(const std::string& what) {
  return error(StatusCode::kDataLoss, "not a readable ZIP archive: " + what);
}

Result<std::vector<std::byte>> read_bytes(int fd, std::uint64_t offset, std::size_t size) {
  std::vector<std::byte> bytes(size);
  if (Status status = read_range(fd, offset, bytes); !status.ok()) return error(std::move(status));
  return bytes;
}

struct DirectoryPlace {
  std::uint64_t offset = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t entry_count = 0;
};

// Follows the ZIP64 locator that stands before the end record at `end_offset`, if there is one.
Result<std::optional<DirectoryPlace>> find_zip64_directory(int fd, std::uint64_t end_offset) {
  if (end_offset < kZip64LocatorBytes + kZip64EndRecordBytes) return std::nullopt;
  const auto locator = read_bytes(fd, end_offset - kZip64LocatorBytes, kZip64LocatorBytes);
  if (!locator) return error(locator.error());
  if (field<std::uint32_t>(*locator, 0) != kZip64Locator) return std::nullopt;
  const auto record_offset = field<std::uint64_t>(*locator, 8);
  if (record_offset > end_offset - kZip64LocatorBytes - kZip64EndRecordBytes) {
    return damaged("its ZIP64 locator points behind itself");
  }
  const auto record = read_bytes(fd, record_offset, kZip64EndRecordBytes);
  if (!record) return error(record.error());
  if (field<std::uint32_t>(*record, 0) != kZip64EndRecord) {
    return damaged("its ZIP64 locator does not point at an end record");
  }
  if (field<std::uint32_t>(*record, 16) != 0 || field<std::uint32_t>(*record, 20) != 0 ||
      field<std::uint64_t>(*record, 24) != field<std::uint64_t>(*record, 32)) {
    return damaged("it is split into several files");
  }
  return DirectoryPlace{field<std::uint64_t>(*record, 48), field<std::uint64_t>(*record, 40),
                        field<std::uint64_t>(*record, 32)};
}

Result<DirectoryPlace> find_directory(int fd, std::uint64_t file_bytes) {
  if (file_bytes < kEndRecordBytes) return damaged("it is too short");
  const std::size_t tail_bytes = static_cast<std::size_t>(
      std::min<std::uint64_t>(file_bytes, kEndRecordBytes + kMaxCommentBytes));
  const auto tail = read_bytes(fd, file_bytes - tail_bytes, tail_bytes);
  if (!tail) return error(tail.error());
  for (std::size_t at = tail_bytes - kEndRecordBytes + 1; at-- > 0;) {
    if (field<std::uint32_t>(*tail, at) != kEndRecord) continue;
    const std::size_t comment_bytes = field<std::uint16_t>(*tail, at + 20);
    if (at + kEndRecordBytes + comment_bytes != tail_bytes) continue;
    const std::uint64_t end_offset = file_bytes - tail_bytes + at;
    auto zip64 = find_zip64_directory(fd, end_offset);
    if (!zip64) return error(zip64.error());
    if (*zip64) return **zip64;
    if (field<std::uint16_t>(*tail, at + 4) != 0 || field<std::uint16_t>(*tail, at + 6) != 0 ||
        field<std::uint16_t>(*tail, at + 8) != field<std::uint16_t>(*tail, at + 10)) {
      return damaged("it is split into several files");
    }
    return DirectoryPlace{field<std::uint32_t>(*tail, at + 16),
                          field<std::uint32_t>(*tail, at + 12),
                          field<std::uint16_t>(*tail, at + 10)};
  }
  return damaged("it has no end record");
}

// Replaces the values of `entry` that stand in its ZIP64 extra field.
bool apply_zip64(std::span<const std::byte> extra, bool has_size, bool has_compressed,
                 bool has_offset, ZipEntry& entry) {
  if (!has_size && !has_compressed && !has_offset) return true;
  while (extra.size() >= 4) {
    const auto tag = field<std::uint16_t>(extra, 0);
    const std::size_t size = field<std::uint16_t>(extra, 2);
    if (extra.size() - 4 < size) return false;
    std::span<const std::byte> body = extra.subspan(4, size);
    extra = extra.subspan(4 + size);
    if (tag != kZip64Extra) continue;
    const auto take = [&body](bool wanted, std::uint64_t& value) {
      if (!wanted) return true;
      if (body.size() < 8) return false;
      value = field<std::uint64_t>(body, 0);
      body = body.subspan(8);
      return true;
    };
    return take(has_size, entry.size_bytes) && take(has_compressed, entry.compressed_bytes) &&
           take(has_offset, entry.header_offset);
  }
  return false;
}

// The entry whose central header starts `directory`; `directory` is moved behind it.
Result<ZipEntry> take_entry(std::span<const std::byte>& directory) {
  if (directory.size() < kCentralHeaderBytes ||
      field<std::uint32_t>(directory, 0) != kCentralHeader) {
    return damaged("its directory ends before its last entry");
  }
  const std::size_t name_bytes = field<std::uint16_t>(directory, 28);
  const std::size_t extra_bytes = field<std::uint16_t>(directory, 30);
  const std::size_t comment_bytes = field<std::uint16_t>(directory, 32);
  const std::size_t total = kCentralHeaderBytes + name_bytes + extra_bytes + comment_bytes;
  if (directory.size() < total) return damaged("its directory ends inside an entry");
  if ((field<std::uint16_t>(directory, 8) & kFlagEncrypted) != 0) {
    return damaged("it is encrypted");
  }
  const auto method = field<std::uint16_t>(directory, 10);
  if (method != kMethodStored && method != kMethodDeflated) {
    return damaged("an entry has the unknown compression method " + std::to_string(method));
  }
  const auto compressed = field<std::uint32_t>(directory, 20);
  const auto size = field<std::uint32_t>(directory, 24);
  const auto offset = field<std::uint32_t>(directory, 42);
  ZipEntry entry{
      .name = std::string(reinterpret_cast<const char*>(directory.data()) + kCentralHeaderBytes,
                          name_bytes),
      .is_stored = method == kMethodStored,
      .compressed_bytes = compressed,
      .size_bytes = size,
      .header_offset = offset};
  if (!apply_zip64(directory.subspan(kCentralHeaderBytes + name_bytes, extra_bytes), size == kIn64,
                   compressed == kIn64, offset == kIn64, entry)) {
    return damaged("an entry's ZIP64 record is incomplete");
  }
  directory = directory.subspan(total);
  return entry;
}

Status check_sizes(const ZipEntry& entry, std::uint64_t directory_offset) {
  if (entry.header_offset > directory_offset ||
      directory_offset - entry.header_offset < kLocalHeaderBytes ||
      directory_offset - entry.header_offset - kLocalHeaderBytes < entry.compressed_bytes) {
    return damaged("an entry reaches beyond the file").value();
  }
  const bool fits = entry.is_stored ? entry.size_bytes == entry.compressed_bytes
                                    : entry.size_bytes / kMaxInflateRatio <= entry.compressed_bytes;
  if (!fits) return damaged("an entry's sizes contradict each other").value();
  return Status();
}

// For texts: the folder's name is the author's and may be anything.
std::string name_in_folder(const ZipEntry& entry) {
  const std::size_t slash = entry.name.find('/');
  return slash == std::string::npos ? "" : entry.name.substr(slash + 1);
}

}  // namespace

Result<std::vector<ZipEntry>> read_zip_directory(int fd, std::uint64_t file_bytes) {
  const Result<DirectoryPlace> place = find_directory(fd, file_bytes);
  if (!place) return error(place.error());
  if (place->size_bytes > kMaxDirectoryBytes || place->offset > file_bytes ||
      file_bytes - place->offset < place->size_bytes) {
    return damaged("its directory reaches beyond the file, or is larger than 256 MiB");
  }
  if (place->entry_count > kMaxZipEntries ||
      place->entry_count * kCentralHeaderBytes > place->size_bytes) {
    return damaged("its directory is too small for " + std::to_string(place->entry_count) +
                   " entries, or these are more than " + std::to_string(kMaxZipEntries));
  }
  const auto bytes = read_bytes(fd, place->offset, static_cast<std::size_t>(place->size_bytes));
  if (!bytes) return error(bytes.error());

  std::span<const std::byte> directory = *bytes;
  std::vector<ZipEntry> entries;
  entries.reserve(static_cast<std::size_t>(place->entry_count));
  std::unordered_set<std::string> names;
  std::uint64_t inflated_bytes = 0;
  for (std::uint64_t i = 0; i < place->entry_count; ++i) {
    Result<ZipEntry> entry = take_entry(directory);
    if (!entry) return error(entry.error());
    if (Status status = check_sizes(*entry, place->offset); !status.ok()) {
      return error(std::move(status));
    }
    if (!names.insert(entry->name).second) return damaged("two entries have the same name");
    if (!entry->is_stored) {
      // Each is at most 1032 times the file, so the sum cannot overflow before it is caught.
      inflated_bytes += entry->size_bytes;
      if (inflated_bytes > kMaxInflatedBytes) {
        return error(StatusCode::kResourceExhausted,
                     "the archive's compressed entries expand to more than " +
                         std::to_string(kMaxInflatedBytes) + " bytes");
      }
    }
    entries.push_back(std::move(*entry));
  }
  return entries;
}

Result<std::string> read_stored_entry(int fd, std::uint64_t file_bytes, const ZipEntry& entry,
                                      std::uint64_t limit_bytes) {
  if (!entry.is_stored) {
    return error(StatusCode::kInvalidArgument,
                 "the archive's entry '" + name_in_folder(entry) + "' is compressed");
  }
  if (entry.size_bytes > limit_bytes) {
    return error(StatusCode::kResourceExhausted, "the archive's entry '" + name_in_folder(entry) +
                                                     "' has " + std::to_string(entry.size_bytes) +
                                                     " bytes; at most " +
                                                     std::to_string(limit_bytes) + " are read");
  }
  const auto header = read_bytes(fd, entry.header_offset, kLocalHeaderBytes);
  if (!header) return error(header.error());
  if (field<std::uint32_t>(*header, 0) != kLocalHeader) {
    return damaged("an entry has no header");
  }
  const std::uint64_t content = entry.header_offset + kLocalHeaderBytes +
                                field<std::uint16_t>(*header, 26) +
                                field<std::uint16_t>(*header, 28);
  if (content > file_bytes || file_bytes - content < entry.size_bytes) {
    return damaged("an entry reaches beyond the file");
  }
  std::string text(static_cast<std::size_t>(entry.size_bytes), '\0');
  if (Status status = read_range(fd, content,
                                 std::as_writable_bytes(std::span<char>(text.data(), text.size())));
      !status.ok()) {
    return error(std::move(status));
  }
  return text;
}

}  // namespace bucketd::torchscript
