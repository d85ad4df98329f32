#include "daemon/backends/torchscript/artifact_metadata.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace bucketd::torchscript {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kLimit = std::uint64_t{1} << 30;

// The example of README.md, plus a declarative kernel.
constexpr char kGood[] = R"({
  "format": "bucketd-artifact", "version": 1, "sealed": true,
  "name": "bert-small",
  "producer": "bucketd.torch_neuronx 0.1",
  "inputs":  [{"name": "input_ids", "dtype": "int64"}, {"name": "attention_mask", "dtype": "int64"}],
  "outputs": [{"name": "logits", "dtype": "float32"}, {"name": "hidden", "dtype": "float32"}],
  "states":  [{"name": "cache", "dtype": "float32", "shape": [1, 512], "sequence_dim": 1}],
  "aliases": [{"state": 0, "output": 2}],
  "buckets": [
    {"inputs": [[1,128],[1,128]], "outputs": [[1,2],[1,128]], "states": [[1,128]]},
    {"inputs": [[1,512],[1,512]], "outputs": [[1,2],[1,512]], "states": [[1,512]]}
  ],
  "kernel": {"type": "pad", "value": [0, -1], "side": ["right", "left"], "dims": [[1], [1]]},
  "preprocessor": true,
  "accepts": "declared",
  "dims": [{"input": 0, "dim": 1, "min": 1}, {"input": 1, "dim": 1, "min": 0}],
  "crop": [{"output": 1, "dim": 1, "input": 0, "input_dim": 1, "side": "left", "numerator": 1, "denominator": 1}]
})";

std::string good_with(const std::string& old_text, const std::string& new_text) {
  std::string text = kGood;
  const std::size_t at = text.find(old_text);
  if (at == text.npos) ADD_FAILURE() << "no " << old_text << " in the example";
  return text.replace(at, old_text.size(), new_text);
}

TEST(ArtifactMetadata, the_example_is_read_field_by_field) {
  const auto model = parse_metadata(kGood, kLimit);
  ASSERT_TRUE(model.has_value()) << model.error().to_string();
  EXPECT_EQ(model->name, "bert-small");
  EXPECT_EQ(model->backend, "torchscript");
  EXPECT_EQ(model->producer, "bucketd.torch_neuronx 0.1");
  EXPECT_EQ(model->inputs, (std::vector<TensorSpec>{{"input_ids", DType::kInt64},
                                                    {"attention_mask", DType::kInt64}}));
  EXPECT_EQ(model->outputs,
            (std::vector<TensorSpec>{{"logits", DType::kFloat32}, {"hidden", DType::kFloat32}}));
  EXPECT_EQ(model->states, (std::vector<StateSpec>{{"cache", DType::kFloat32, {1, 512}, 1}}));
  EXPECT_EQ(model->aliases, (std::vector<AliasSpec>{{0, 2}}));
  ASSERT_EQ(model->buckets.size(), 2u);
  EXPECT_EQ(model->buckets[1], (BucketSpec{{{1, 512}, {1, 512}}, {{1, 2}, {1, 512}}, {{1, 512}}}));
  EXPECT_EQ(model->kernel, KernelKind::kPad);
  EXPECT_EQ(model->pad, (PadKernelSpec{{{1}, {1}}, {0, -1}, {PadSide::kRight, PadSide::kLeft}}));
  EXPECT_TRUE(model->has_preprocessor);
  EXPECT_TRUE(model->checks_inputs);
  EXPECT_EQ(model->crop, (std::vector<CropRule>{{1, 1, 0, 1, PadSide::kLeft, 1, 1}}));
}

TEST(ArtifactMetadata, accepted_sizes_follow_buckets_and_dims) {
  const auto model = parse_metadata(kGood, kLimit);
  ASSERT_TRUE(model.has_value()) << model.error().to_string();
  using Ranges = std::vector<std::vector<DimRange>>;
  EXPECT_EQ(model->accepted, (Ranges{{{1, 1}, {1, 512}}, {{1, 1}, {0, 512}}}));
}

TEST(ArtifactMetadata, a_listed_dim_that_is_equal_in_all_buckets_may_be_smaller) {
  const auto model = parse_metadata(good_with("\"dims\": [{\"input\": 0, \"dim\": 1, \"min\": 1}",
                                              "\"dims\": [{\"input\": 0, \"dim\": 0, \"min\": 0}, "
                                              "{\"input\": 0, \"dim\": 1, \"min\": 7}"),
                                    kLimit);
  ASSERT_TRUE(model.has_value()) << model.error().to_string();
  EXPECT_EQ(model->accepted[0], (std::vector<DimRange>{{0, 1}, {7, 512}}));
}

TEST(ArtifactMetadata, a_states_positions_lie_at_the_start_unless_it_says_otherwise) {
  const auto align_with = [](const char* text) {
    const auto model = parse_metadata(good_with("\"sequence_dim\": 1", text), kLimit);
    EXPECT_TRUE(model.has_value()) << model.error().to_string();
    return model ? model->states[0].align : PadSide::kRight;
  };
  EXPECT_EQ(align_with("\"sequence_dim\": 1"), PadSide::kRight);
  EXPECT_EQ(align_with("\"sequence_dim\": 1, \"align\": \"left\""), PadSide::kRight);
  EXPECT_EQ(align_with("\"sequence_dim\": 1, \"align\": \"right\""), PadSide::kLeft);
}

TEST(ArtifactMetadata, accepts_and_producer_may_be_left_out) {
  std::string text = good_with("\"accepts\": \"declared\",", "");
  text.erase(text.find("\"producer\""),
             std::string("\"producer\": \"bucketd.torch_neuronx 0.1\",").size());
  const auto model = parse_metadata(text, kLimit);
  ASSERT_TRUE(model.has_value()) << model.error().to_string();
  EXPECT_TRUE(model->checks_inputs);
  const auto loose = parse_metadata(good_with("\"declared\"", "\"kernel\""), kLimit);
  ASSERT_TRUE(loose.has_value()) << loose.error().to_string();
  EXPECT_FALSE(loose->checks_inputs);
}

struct Refusal {
  const char* old_text;
  const char* new_text;
  const char* reason;
};

void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.new_text; }

class RefusedMetadata : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedMetadata, is_refused_with_the_place_and_the_reason) {
  const auto model = parse_metadata(good_with(GetParam().old_text, GetParam().new_text), kLimit);
  ASSERT_FALSE(model.has_value());
  EXPECT_THAT(model.error().message(), HasSubstr(GetParam().reason));
  EXPECT_EQ(model.error().message().find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    , RefusedMetadata,
    ::testing::Values(
        Refusal{"\"version\": 1", "\"version\": 2", "version: is not supported"},
        Refusal{"\"version\": 1", "\"version\": 1.0", "version: is not supported"},
        Refusal{"\"sealed\": true", "\"sealed\": false", "only sealed artifacts"},
        Refusal{"\"sealed\": true,", "", "no member 'sealed'"},
        Refusal{"bucketd-artifact", "zip", "format is not 'bucketd-artifact'"},
        Refusal{"bert-small", "bert small", "is not 1 to 64 characters"},
        Refusal{"bert-small", "bert\\nsmall", "name: has control characters"},
        Refusal{"\"name\": \"logits\"", "\"name\": \"hidden\"", "two outputs are named 'hidden'"},
        Refusal{"\"int64\"", "\"int65\"", "inputs[0]: dtype 'int65' is not known"},
        Refusal{"[1,128],[1,128]", "[1,128]", "buckets[0].inputs: has 1 elements where 2"},
        Refusal{"[1,128],[1,128]", "[1,128],[1,128,1]", "has rank 2 where bucket 0 has rank 3"},
        Refusal{"[1,128],[1,128]", "[1,-1],[1,128]", "buckets[0].inputs[0][1]: is not an integer"},
        Refusal{"[1,128],[1,128]", "[1,1e3],[1,128]", "buckets[0].inputs[0][1]: is not an integer"},
        Refusal{"[1,2],[1,128]", "[9223372036854775807,9223372036854775807],[1,128]",
                "size overflows"},
        Refusal{"[1,128],[1,128]", "[1,18446744073709551615],[1,128]", "is not an integer"},
        Refusal{"\"sequence_dim\": 1", "\"sequence_dim\": 2", "sequence_dim 2"},
        Refusal{"\"sequence_dim\": 1", "\"align\": \"left\"", "states[0]: has an align but no"},
        Refusal{"\"sequence_dim\": 1", "\"sequence_dim\": 1, \"align\": \"Right\"",
                "states[0]: align is neither 'left' nor 'right'"},
        Refusal{"\"sequence_dim\": 1", "\"sequence_dim\": 1, \"align\": 1", "align: is not"},
        Refusal{"\"output\": 2", "\"output\": 0", "aliased outputs are 2 to 2"},
        Refusal{"\"preprocessor\": true", "\"preprocessor\": false",
                "buckets[0]: the view of state 'cache', [1, 128], is not the whole state"},
        Refusal{"\"type\": \"pad\"", "\"type\": \"crop\"", "neither 'torchscript' nor 'pad'"},
        Refusal{"\"value\": [0, -1]", "\"value\": [0.5, -1]",
                "kernel.value[0]: input 'input_ids' of dtype int64 cannot hold it exactly"},
        Refusal{"\"value\": [0, -1]", "\"value\": [9007199254740993, -1]", "cannot hold it"},
        Refusal{"\"value\": [0, -1]", "\"value\": [true, -1]", "cannot hold it"},
        Refusal{"[[1], [1]]", "[[1, 1], [1]]", "names a dimension twice"},
        Refusal{"[[1], [1]]", "[[2], [1]]", "the pad kernel names dimension 2 of input 0"},
        Refusal{"\"side\": [\"right\"", "\"side\": [\"middle\"", "kernel.side[0]"},
        Refusal{"{\"input\": 0, \"dim\": 1, \"min\": 1}, ", "",
                "no entry for dimension 1 of input 'input_ids'"},
        Refusal{"\"min\": 1", "\"min\": 513", "dims[0].min: is not an integer from 0 to 512"},
        Refusal{"\"min\": 1", "\"max\": 1", "dims[0]: has no member 'min'"},
        Refusal{"\"numerator\": 1", "\"numerator\": 2", "crop rule of output 1 does not hold"},
        Refusal{"\"numerator\": 1", "\"numerator\": 0", "ratio"},
        Refusal{"\"crop\": [{\"output\": 1", "\"crop\": [{\"output\": 9", "does not exist"},
        Refusal{"\"aliases\"", "\"name\": \"x\", \"aliases\"", "key 'name' twice"},
        Refusal{"\"aliases\"", "\"deep\": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]], \"aliases\"",
                "brackets nest deeper"},
        Refusal{"\"format\"", "format", "not JSON"},
        Refusal{"1, \"sealed\"", "NaN, \"sealed\"", "not JSON"},
        Refusal{"1, \"sealed\"", "1e999, \"sealed\"", "not JSON"}));

TEST(ArtifactMetadata, what_is_no_object_is_refused) {
  for (const char* text : {"", "null", "[]", "3", "\"text\"", "{}", "\xff\xfe", "{\"a\":"}) {
    const auto model = parse_metadata(text, kLimit);
    ASSERT_FALSE(model.has_value()) << text;
    EXPECT_EQ(model.error().code(), StatusCode::kInvalidArgument) << text;
  }
}

TEST(ArtifactMetadata, every_truncation_is_refused) {
  const std::string text = kGood;
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(parse_metadata(text.substr(0, size), kLimit).has_value()) << size << " bytes";
  }
}

TEST(ArtifactMetadata, states_and_tensors_beyond_the_limit_are_refused) {
  // One state of 2 KiB; inputs of 2 x 4 KiB; outputs of 64 (rounded up) and 2048 bytes.
  constexpr std::uint64_t kNeeded = 2048 + 2 * 4096 + 64 + 2048;
  EXPECT_TRUE(parse_metadata(kGood, kNeeded).has_value());
  const auto model = parse_metadata(kGood, kNeeded - 1);
  ASSERT_FALSE(model.has_value());
  EXPECT_EQ(model.error().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(model.error().message(), HasSubstr("at most 12351 are allowed"));
}

TEST(ArtifactMetadata, metadata_beyond_sixteen_mebibytes_is_not_parsed) {
  const auto model = parse_metadata(std::string(kMaxMetadataBytes + 1, ' '), kLimit);
  ASSERT_FALSE(model.has_value());
  EXPECT_EQ(model.error().code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace bucketd::torchscript
