#include "bucketd/model_description.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "common/wire/model_wire.h"

namespace bucketd {
namespace {

// The guide's BERT with one state more, two buckets, one cropped output.
ModelDescription bert() {
  ModelDescription model;
  model.name = "bert";
  model.backend = "torchscript";
  model.inputs = {{"input_ids", DType::kInt64}, {"attention_mask", DType::kInt64}};
  model.outputs = {{"logits", DType::kFloat32}, {"hidden", DType::kFloat32}};
  model.states = {{"cache", DType::kFloat16, Shape({1, 512}), 1, PadSide::kLeft}};
  model.aliases = {{0, 2}};
  for (const std::int64_t size : {128, 512}) {
    model.buckets.push_back({{Shape({1, size}), Shape({1, size})},
                             {Shape({1, 2}), Shape({1, size, 8})},
                             {Shape({1, size})},
                             {{StateViewKind::kStrided, "a slice of the last dimension"}}});
  }
  model.crop = {{1, 1, 0, 1, PadSide::kRight, 1, 1}};
  model.kernel = KernelKind::kPad;
  model.pad = {{{1}, {1}}, {0, 0}, {PadSide::kRight, PadSide::kLeft}};
  model.accepted = {{{1, 1}, {1, 512}}, {{1, 1}, {1, 512}}};
  model.planning = {KernelPlanning::kPartly, "aten::sum: it reads numbers of an input"};
  return model;
}

std::vector<TensorSignature> request_of(std::int64_t size) {
  return {{DType::kInt64, Shape({1, size})}, {DType::kInt64, Shape({1, size})}};
}

TEST(ModelDescriptionTest, a_good_one_is_valid) { EXPECT_EQ(validate(bert()), Status()); }

TEST(ModelDescriptionTest, every_contradiction_is_found) {
  const std::vector<std::function<void(ModelDescription&)>> mistakes = {
      [](ModelDescription& m) { m.name = ""; },
      [](ModelDescription& m) { m.name = "../bert"; },
      [](ModelDescription& m) { m.name = "be\nrt"; },
      [](ModelDescription& m) { m.name = std::string(65, 'a'); },
      [](ModelDescription& m) { m.inputs[1].name = "input_ids"; },
      [](ModelDescription& m) { m.inputs[1].name = "a b"; },
      [](ModelDescription& m) { m.inputs[0].dtype = static_cast<DType>(0); },
      [](ModelDescription& m) { m.states[0].dtype = static_cast<DType>(11); },
      [](ModelDescription& m) { m.inputs.resize(kMaxTensors + 1); },
      [](ModelDescription& m) { m.buckets.clear(); },
      [](ModelDescription& m) { m.buckets.resize(kMaxBuckets + 1, m.buckets[0]); },
      [](ModelDescription& m) { m.buckets[1].inputs.pop_back(); },
      [](ModelDescription& m) { m.buckets[1].outputs.pop_back(); },
      [](ModelDescription& m) { m.buckets[1].states.clear(); },
      [](ModelDescription& m) { m.buckets[1].inputs[0] = Shape({512}); },
      [](ModelDescription& m) { m.buckets[1].outputs[0] = Shape({2}); },
      [](ModelDescription& m) {
        m.buckets[1].inputs[0] = Shape({1, INT64_MAX});
      },
      [](ModelDescription& m) {
        m.buckets[0].outputs[0] = Shape({-1, 2});
      },
      [](ModelDescription& m) {
        m.buckets[0].states[0] = Shape({INT64_MAX, 2});
      },
      [](ModelDescription& m) {
        m.states[0].shape = Shape({INT64_MAX, 2});
      },
      [](ModelDescription& m) { m.buckets[0].state_views.resize(2); },
      [](ModelDescription& m) { m.input_uses.resize(1); },
      [](ModelDescription& m) { m.states[0].sequence_dim = 2; },
      [](ModelDescription& m) { m.aliases[0].state = 1; },
      [](ModelDescription& m) { m.aliases[0].output = 1; },
      [](ModelDescription& m) { m.aliases[0].output = 3; },
      [](ModelDescription& m) { m.aliases.push_back(m.aliases[0]); },
      [](ModelDescription& m) { m.crop[0].output = 2; },
      [](ModelDescription& m) { m.crop[0].dim = 3; },
      [](ModelDescription& m) { m.crop[0].input = 2; },
      [](ModelDescription& m) { m.crop[0].input_dim = 2; },
      [](ModelDescription& m) { m.crop[0].denominator = 0; },
      [](ModelDescription& m) { m.crop[0].numerator = 2; },
      [](ModelDescription& m) { m.crop.push_back(m.crop[0]); },
      [](ModelDescription& m) { m.pad.dims.pop_back(); },
      [](ModelDescription& m) { m.pad.value.pop_back(); },
      [](ModelDescription& m) { m.pad.side.pop_back(); },
      [](ModelDescription& m) { m.pad.dims[0] = {2}; },
      [](ModelDescription& m) { m.accepted.pop_back(); },
      [](ModelDescription& m) { m.accepted[0].pop_back(); },
      [](ModelDescription& m) {
        m.accepted[0][1] = {2, 1};
      },
      [](ModelDescription& m) {
        m.accepted[0][1] = {-1, 1};
      },
  };
  for (std::size_t i = 0; i < mistakes.size(); ++i) {
    ModelDescription model = bert();
    mistakes[i](model);
    const Status status = validate(model);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << "mistake " << i;
    EXPECT_NE(status.message(), "") << "mistake " << i;
  }
}

TEST(ModelDescriptionTest, survives_the_wire) {
  flatbuffers::FlatBufferBuilder builder;
  builder.Finish(wire::to_wire(builder, bert()));
  flatbuffers::Verifier verifier(builder.GetBufferPointer(), builder.GetSize());
  ASSERT_TRUE(verifier.VerifyBuffer<wire::ModelDescription>());
  const Result<ModelDescription> read =
      wire::from_wire(*flatbuffers::GetRoot<wire::ModelDescription>(builder.GetBufferPointer()));
  ASSERT_TRUE(read) << read.error().to_string();
  EXPECT_EQ(*read, bert());
}

TEST(ModelDescriptionTest, an_empty_message_is_refused_not_read) {
  flatbuffers::FlatBufferBuilder builder;
  builder.Finish(wire::CreateModelDescription(builder));
  EXPECT_FALSE(
      wire::from_wire(*flatbuffers::GetRoot<wire::ModelDescription>(builder.GetBufferPointer())));
  EXPECT_EQ(wire::from_wire(static_cast<const wire::Status*>(nullptr)).code(),
            StatusCode::kInternal);
  EXPECT_FALSE(wire::from_wire(static_cast<const wire::LaneLayout*>(nullptr)));
}

TEST(CheckInputsTest, every_refusal_names_model_input_dimension_and_limit) {
  const ModelDescription model = bert();
  EXPECT_EQ(check_inputs(model, request_of(122)), Status());
  EXPECT_EQ(check_inputs(model, request_of(513)).to_string(),
            "OUT_OF_RANGE: model 'bert', input 0 'input_ids', dimension 1: size 513 is above the "
            "largest bucket's 512");
  EXPECT_EQ(check_inputs(model, request_of(0)).to_string(),
            "INVALID_ARGUMENT: model 'bert', input 0 'input_ids', dimension 1: size 0 is below the "
            "least accepted, 1 (the input is empty)");
  std::vector<TensorSignature> inputs = request_of(122);
  inputs[1].dtype = DType::kFloat32;
  EXPECT_EQ(
      check_inputs(model, inputs).to_string(),
      "INVALID_ARGUMENT: model 'bert', input 1 'attention_mask': dtype float32 where int64 is "
      "expected");
  inputs = request_of(122);
  inputs[0].shape = Shape({122});
  EXPECT_EQ(check_inputs(model, inputs).to_string(),
            "INVALID_ARGUMENT: model 'bert', input 0 'input_ids': rank 1 where rank 2 is expected");
  inputs = request_of(122);
  inputs[0].shape = Shape({2, 122});
  EXPECT_EQ(check_inputs(model, inputs).to_string(),
            "INVALID_ARGUMENT: model 'bert', input 0 'input_ids', dimension 0: size 2 where 1 is "
            "expected");
  inputs.pop_back();
  EXPECT_EQ(check_inputs(model, inputs).to_string(),
            "INVALID_ARGUMENT: model 'bert' takes 2 inputs, the request has 1");
}

TEST(CheckInputsTest, a_model_that_accepts_anything_only_counts_its_inputs) {
  ModelDescription model = bert();
  model.checks_inputs = false;
  EXPECT_EQ(check_inputs(model, request_of(513)), Status());
  EXPECT_FALSE(check_inputs(model, {}).ok());
}

TEST(CropOutputTest, follows_the_callers_size_from_the_side_that_is_not_padding) {
  ModelDescription model = bert();
  const std::vector<TensorSignature> inputs = request_of(122);
  EXPECT_EQ(crop_output(model, 0, 0, inputs).shape, Shape({1, 2}));
  CroppedShape cropped = crop_output(model, 0, 1, inputs);
  EXPECT_EQ(cropped.shape, Shape({1, 122, 8}));
  EXPECT_EQ(cropped.start[1], 0);
  model.crop[0].side = PadSide::kLeft;
  cropped = crop_output(model, 0, 1, inputs);
  EXPECT_EQ(cropped.shape, Shape({1, 122, 8}));
  EXPECT_EQ(cropped.start[1], 6);
}

TEST(CropOutputTest, a_ratio_rounds_up_and_never_exceeds_the_bucket) {
  ModelDescription model = bert();
  model.crop[0].numerator = 1;
  model.crop[0].denominator = 4;
  for (BucketSpec& bucket : model.buckets) {
    bucket.outputs[1] = Shape({1, bucket.inputs[0][1] / 4, 8});
  }
  ASSERT_EQ(validate(model), Status());
  EXPECT_EQ(crop_output(model, 0, 1, request_of(121)).shape, Shape({1, 31, 8}));
  EXPECT_EQ(crop_output(model, 0, 1, request_of(4000)).shape, Shape({1, 32, 8}));
}

TEST(LargestBytesTest, round_every_tensor_up_and_take_the_largest_bucket) {
  const ModelDescription model = bert();
  EXPECT_EQ(largest_input_bytes(model), 2u * 512 * 8);
  EXPECT_EQ(largest_output_bytes(model), 64u + 512 * 8 * 4);
}

}  // namespace
}  // namespace bucketd
