#include "daemon/worker/submission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>

#include "daemon/worker/testing/fake_backend.h"

namespace bucketd {
namespace {

using ::testing::HasSubstr;
using testing::pad_model;

constexpr std::uint64_t kSlotBytes = 4096;

class Submission : public ::testing::Test {
 protected:
  Submission() {
    entry.tensor_count = 1;
    descriptor.dtype = static_cast<std::uint8_t>(DType::kInt64);
    descriptor.rank = 2;
    descriptor.dims[0] = 1;
    descriptor.dims[1] = 5;
    descriptor.byte_size = 40;
    descriptor.offset = input_payload_offset(1);
  }
  Status check() {
    if (Status status = check_entry(model, entry); !status.ok()) return status;
    return check_descriptors(model, entry, std::span(&descriptor, 1), kSlotBytes, inputs);
  }
  void expect_refused(const std::string& text) {
    const Status status = check();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr(text));
  }

  const ModelDescription model = pad_model("bert", {8});
  SubmissionEntry entry{};
  InputDescriptor descriptor{};
  SubmittedInputs inputs;
};

TEST_F(Submission, is_read_when_it_is_right) {
  ASSERT_TRUE(check().ok()) << check().to_string();
  EXPECT_EQ(inputs.signatures[0], (TensorSignature{DType::kInt64, Shape{1, 5}}));
  EXPECT_EQ(inputs.offsets[0], input_payload_offset(1));
  EXPECT_EQ(inputs.byte_sizes[0], 40u);
}

TEST_F(Submission, is_refused_with_an_unknown_kind) {
  entry.kind = 2;
  expect_refused("kind 2");
}

TEST_F(Submission, is_refused_with_reserved_fields_set) {
  entry.reserved0 = 1;
  expect_refused("reserved");
  entry.reserved0 = 0;
  entry.reserved1[2] = 1;
  expect_refused("reserved");
  entry.reserved1[2] = 0;
  descriptor.reserved1 = 1;
  expect_refused("reserved");
}

TEST_F(Submission, is_refused_with_a_plan_that_contradicts_its_kind) {
  entry.plan_id = 3;
  expect_refused("raw submission names plan 3");
  entry.kind = 1;
  entry.plan_id = 0;
  expect_refused("names no plan");
}

TEST_F(Submission, is_refused_with_a_wrong_number_of_inputs) {
  entry.tensor_count = 65535;
  expect_refused("model 'bert' takes 1 inputs, the request has 65535");
}

TEST_F(Submission, is_refused_with_an_unknown_dtype) {
  for (const int dtype : {0, 11, 255}) {
    descriptor.dtype = static_cast<std::uint8_t>(dtype);
    expect_refused("input 0 'x': dtype number");
  }
}

TEST_F(Submission, is_refused_with_a_rank_or_size_that_no_tensor_has) {
  descriptor.rank = 9;
  expect_refused("rank 9 is above 8");
  descriptor.rank = 2;
  descriptor.dims[1] = -1;
  expect_refused("negative");
  descriptor.dims[0] = std::numeric_limits<std::int64_t>::max();
  descriptor.dims[1] = 3;
  expect_refused("overflow");
}

TEST_F(Submission, is_refused_when_bytes_and_shape_differ) {
  descriptor.byte_size = 41;
  expect_refused("41 bytes where shape [1, 5] of int64 has 40");
}

TEST_F(Submission, is_refused_with_tensors_that_are_not_within_the_slot) {
  for (const std::uint64_t offset :
       {std::uint64_t{0}, std::uint64_t{64}, kSlotBytes, kSlotBytes - 0, kSlotBytes * 2,
        ~std::uint64_t{63}, std::uint64_t{1} << 63}) {
    descriptor.offset = offset;
    expect_refused("are not within the slot's 128 to 4096");
  }
  descriptor.offset = 129;
  expect_refused("no multiple of 64");
  descriptor.offset = 4096 - 64;
  EXPECT_TRUE(check().ok());
}

TEST_F(Submission, is_refused_when_its_inputs_overlap_to_more_than_the_slot) {
  ModelDescription wide = model;
  for (std::size_t i = 1; i < 64; ++i) {
    wide.inputs.push_back({"x" + std::to_string(i), DType::kInt64});
  }
  entry.tensor_count = 64;
  const std::uint64_t slot_bytes = input_payload_offset(64) + 4096;
  descriptor.offset = input_payload_offset(64);
  descriptor.dims[1] = 512;
  descriptor.byte_size = 4096;
  const std::vector<InputDescriptor> descriptors(64, descriptor);
  const Status status = check_descriptors(wide, entry, descriptors, slot_bytes, inputs);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("inputs of 262144 bytes together in a slot that has room "
                                          "for 4096"));
}

TEST_F(Submission, is_refused_in_a_frame_that_ends_within_its_descriptors) {
  const Status status =
      check_descriptors(model, entry, std::span(&descriptor, 1), sizeof(InputDescriptor), inputs);
  EXPECT_THAT(status.message(), HasSubstr("ends within its 1 input descriptors"));
}

TEST_F(Submission, may_be_empty_at_the_slots_very_end) {
  descriptor.dims[1] = 0;
  descriptor.byte_size = 0;
  descriptor.offset = kSlotBytes;
  EXPECT_TRUE(check().ok());
}

TEST_F(Submission, never_passes_with_a_tensor_outside_the_slot_whatever_its_bits) {
  std::mt19937_64 random(11);
  int passed = 0;
  for (int round = 0; round < 200'000; ++round) {
    // Valid but for a few words with bits of interest.
    const SubmissionEntry good_entry = entry;
    const InputDescriptor good = descriptor;
    for (int change = 0; change < 3; ++change) {
      std::uint64_t word = 0;
      switch (random() % 4) {
        case 0:
          word = random();
          break;
        case 1:
          word = std::uint64_t{1} << (random() % 64);
          break;
        case 2:
          word = ~std::uint64_t{0} << (random() % 64);
          break;
        default:
          word = 64 * (random() % 128);
      }
      auto* bytes = reinterpret_cast<unsigned char*>(&descriptor);
      std::memcpy(bytes + 8 * (random() % (sizeof(descriptor) / 8)), &word, sizeof(word));
    }
    entry.kind = static_cast<std::uint8_t>(random() % 2);
    entry.plan_id = entry.kind;
    if (check().ok()) {
      ++passed;
      ASSERT_EQ(inputs.offsets[0] % kTensorAlignment, 0u);
      ASSERT_LE(inputs.offsets[0], kSlotBytes);
      ASSERT_LE(inputs.byte_sizes[0], kSlotBytes - inputs.offsets[0]);
      ASSERT_LE(inputs.signatures[0].shape.rank(), kMaxRank);
      ASSERT_TRUE(inputs.signatures[0].shape.byte_size(inputs.signatures[0].dtype).has_value());
    }
    entry = good_entry;
    descriptor = good;
  }
  EXPECT_GT(passed, 100) << "the changes are too wild to test anything";
}

TEST_F(Submission, that_is_padded_has_to_match_its_plan) {
  entry.kind = static_cast<std::uint8_t>(SubmissionKind::kPadded);
  entry.plan_id = 4;
  descriptor.byte_size = 64;
  ASSERT_TRUE(check().ok());
  Plan plan;
  ASSERT_TRUE(make_plan(model, inputs.signatures, plan).ok());
  plan.id = 4;
  EXPECT_TRUE(check_padded(model, entry, &plan, inputs).ok());
  EXPECT_THAT(check_padded(model, entry, nullptr, inputs).message(), HasSubstr("no plan 4"));

  inputs.byte_sizes[0] = 40;
  EXPECT_THAT(check_padded(model, entry, &plan, inputs).message(),
              HasSubstr("40 bytes where plan 4 lays it out in 64"));
  inputs.byte_sizes[0] = 64;
  inputs.signatures[0].shape = Shape{1, 6};
  EXPECT_THAT(check_padded(model, entry, &plan, inputs).message(),
              HasSubstr("int64 [1, 6] where plan 4 is for int64 [1, 5]"));
}

}  // namespace
}  // namespace bucketd
