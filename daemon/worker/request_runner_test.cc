// What a request gives, seen from the client's side of the ring.
#include "daemon/worker/request_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "common/monotonic_clock.h"
#include "daemon/worker/testing/serving.h"

namespace bucketd {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::pad_model;
using testing::Serving;
using testing::tensor;
using testing::TestAnswer;

using Ids = std::vector<std::int64_t>;

TEST(RequestRunner, answers_a_raw_request_padded_run_and_cropped) {
  Ids seen;
  Serving serving;
  const auto model = serving.add_model(
      pad_model("m", {4, 8}, 9), [&](const testing::FakeModel::Execution& execution) {
        seen.resize(static_cast<std::size_t>(execution.inputs[0].shape[1]));
        std::memcpy(seen.data(), execution.inputs[0].data, seen.size() * sizeof(std::int64_t));
        return Status();
      });
  const auto client = serving.connect(model);
  client->lane->submit(2, 77, tensor<std::int64_t>({1, 5}, {1, 2, 3, 4, 5}));
  const std::optional<TestAnswer> answer = client->lane->wait();
  ASSERT_TRUE(answer.has_value());
  ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_THAT(seen, ElementsAre(1, 2, 3, 4, 5, 9, 9, 9));
  EXPECT_EQ(answer->entry.user_data, 77u);
  EXPECT_EQ(answer->entry.slot, 2u);
  EXPECT_EQ(answer->entry.bucket, 1u);
  EXPECT_THAT(answer->cropped<std::int64_t>(0), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(answer->outputs[0].offset % kTensorAlignment, 0u);
  EXPECT_EQ(answer->outputs[0].dims[1], 8);
  EXPECT_EQ(answer->outputs[0].crop_dims[1], 5);
  EXPECT_GT(answer->entry.execute_ns, 0u);
}

TEST(RequestRunner, crops_from_the_end_when_the_padding_is_on_the_left) {
  Serving serving;
  const auto client = serving.connect(serving.add_model(pad_model("m", {8}, -1, PadSide::kLeft)));
  client->lane->submit(0, 1, tensor<std::int64_t>({1, 3}, {7, 8, 9}));
  const std::optional<TestAnswer> answer = client->lane->wait();
  ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
  EXPECT_EQ(answer->outputs[0].crop_start[1], 5);
  EXPECT_THAT(answer->cropped<std::int64_t>(0), ElementsAre(7, 8, 9));
  EXPECT_EQ(answer->plan_inputs[0].pad_before[1], 5);
  EXPECT_EQ(answer->plan_inputs[0].fill_bits, ~std::uint64_t{0});
}

TEST(RequestRunner, gives_the_plan_of_a_raw_request_by_which_the_next_one_can_be_padded) {
  Serving serving;
  const auto client = serving.connect(serving.add_model(pad_model("m", {4, 8}, 9)));
  client->lane->submit(0, 1, tensor<std::int64_t>({1, 5}, {1, 2, 3, 4, 5}));
  const std::optional<TestAnswer> raw = client->lane->wait();
  ASSERT_TRUE(raw->plan.has_value());
  EXPECT_NE(raw->plan->plan_id, 0u);
  EXPECT_EQ(raw->plan->plan_id, raw->entry.plan_id);
  EXPECT_EQ(raw->plan->bucket, 1u);
  ASSERT_EQ(raw->plan_inputs.size(), 1u);
  EXPECT_EQ(raw->plan_inputs[0].padded_dims[1], 8);
  EXPECT_EQ(raw->plan_inputs[0].fill_bits, 9u);
  EXPECT_EQ(raw->plan_inputs[0].source, 0u);

  // Laid out padded; the descriptor still says [1, 5].
  testing::TestTensor padded = tensor<std::int64_t>({1, 5}, {6, 5, 4, 3, 2, 9, 9, 9});
  SubmissionEntry entry{};
  entry.kind = static_cast<std::uint8_t>(SubmissionKind::kPadded);
  entry.plan_id = raw->plan->plan_id;
  client->lane->submit(1, 2, padded, entry);
  const std::optional<TestAnswer> answer = client->lane->wait();
  ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
  EXPECT_THAT(answer->cropped<std::int64_t>(0), ElementsAre(6, 5, 4, 3, 2));
  EXPECT_FALSE(answer->plan.has_value()) << "the client has it already";
  EXPECT_EQ(answer->entry.plan_id, entry.plan_id);
}

// Two outputs whose ends are not aligned.
ModelDescription two_byte_tensors() {
  ModelDescription model = pad_model("m", {5}, 0, PadSide::kRight, DType::kUint8, 3);
  model.inputs.push_back({"z", DType::kUint8});
  model.outputs.push_back({"w", DType::kUint8});
  model.buckets[0].inputs.push_back(model.buckets[0].inputs[0]);
  model.buckets[0].outputs.push_back(model.buckets[0].outputs[0]);
  model.pad.dims.push_back(model.pad.dims[0]);
  model.pad.value.push_back(0);
  model.pad.side.push_back(PadSide::kRight);
  model.accepted.push_back(model.accepted[0]);
  return model;
}

TEST(RequestRunner, leaves_nothing_in_an_answer_that_was_in_its_memory_before) {
  Serving serving;
  const auto client = serving.connect(serving.add_model(two_byte_tensors()));
  const std::span<std::byte> area = serving.scheduler().find_lane(client->channel_id, 1)->output(0);
  const std::vector<std::uint8_t> values(15, 7);
  const std::vector<testing::TestTensor> inputs = {tensor({3, 5}, values), tensor({3, 5}, values)};
  SubmissionEntry entry{};
  for (const bool has_plan : {true, false}) {
    std::memset(area.data(), 0x5A, area.size());
    client->lane->submit(0, 1, inputs, entry);
    const std::optional<TestAnswer> answer = client->lane->wait();
    ASSERT_TRUE(answer.has_value());
    ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
    ASSERT_EQ(answer->plan.has_value(), has_plan);
    EXPECT_THAT(answer->full[1], Each(std::byte{7}));
    const std::uint64_t first = answer->outputs[0].offset;
    ASSERT_EQ(first, output_payload_offset(2, 2));
    ASSERT_EQ(answer->outputs[1].offset, first + kTensorAlignment);
    const std::uint64_t records = has_plan ? sizeof(PlanRecord) + 2 * sizeof(PlanInputRecord) : 0;
    const std::vector<std::byte> sent(area.begin(), area.end());
    const auto bytes = [&](std::uint64_t from, std::uint64_t to) {
      return std::vector<std::byte>(sent.begin() + static_cast<std::ptrdiff_t>(from),
                                    sent.begin() + static_cast<std::ptrdiff_t>(to));
    };
    EXPECT_THAT(bytes(2 * sizeof(OutputDescriptor) + records, first), Each(std::byte{0}));
    EXPECT_THAT(bytes(first + 15, first + 64), Each(std::byte{0}));
    EXPECT_THAT(bytes(first + 64 + 15, first + 128), Each(std::byte{0}));
    EXPECT_EQ(sent[first + 128], std::byte{0x5A}) << "more was written than is sent";
    entry.kind = static_cast<std::uint8_t>(SubmissionKind::kPadded);
    entry.plan_id = answer->entry.plan_id;
  }
}

// Whether the bucket got the memory that the client wrote to.
bool is_read_in_place(bool allowed, std::int64_t size) {
  ModelDescription model = pad_model("m", {4}, 0, PadSide::kRight, DType::kFloat32);
  model.input_uses = {{allowed, "a test says so"}};
  const std::byte* seen = nullptr;
  Serving serving;
  const auto client = serving.connect(
      serving.add_model(std::move(model), [&](const testing::FakeModel::Execution& execution) {
        seen = execution.inputs[0].data;
        return Status();
      }));
  const std::vector<float> values(static_cast<std::size_t>(size), 2.5F);
  client->lane->submit(1, 7, tensor<float>({1, size}, values));
  const std::optional<TestAnswer> answer = client->lane->wait();
  EXPECT_TRUE(answer && answer->status() == StatusCode::kOk);
  EXPECT_EQ(answer->cropped<float>(0), values);
  EXPECT_TRUE(serving.wait_until_idle());
  const auto slot = serving.scheduler().find_lane(client->channel_id, 1)->input(1);
  return seen >= slot.data() && seen < slot.data() + slot.size();
}

TEST(RequestRunner, reads_in_place_what_the_backend_allows_and_fits_the_bucket_as_it_is) {
  EXPECT_TRUE(is_read_in_place(true, 4));
  EXPECT_FALSE(is_read_in_place(true, 3)) << "it has to be padded";
  EXPECT_FALSE(is_read_in_place(false, 4));
}

TEST(RequestRunner, refuses_a_padded_request_of_an_unknown_plan_or_another_signature) {
  Serving serving;
  const auto client = serving.connect(serving.add_model(pad_model("m", {4, 8})));
  SubmissionEntry entry{};
  entry.kind = static_cast<std::uint8_t>(SubmissionKind::kPadded);
  entry.plan_id = 1;
  client->lane->submit(0, 1, tensor<std::int64_t>({1, 5}, Ids(8)), entry);
  EXPECT_THAT(client->lane->wait()->message, HasSubstr("no plan 1"));
  client->lane->submit(0, 2, tensor<std::int64_t>({1, 5}, Ids(5)));
  ASSERT_EQ(client->lane->wait()->status(), StatusCode::kOk);
  client->lane->submit(0, 3, tensor<std::int64_t>({1, 6}, Ids(8)), entry);
  EXPECT_THAT(client->lane->wait()->message, HasSubstr("[1, 6] where plan 1 is for int64 [1, 5]"));
  client->lane->submit(0, 4, tensor<std::int64_t>({1, 5}, Ids(5)), entry);
  EXPECT_THAT(client->lane->wait()->message, HasSubstr("40 bytes where plan 1"));
}

TEST(RequestRunner, goes_on_without_plans_when_the_lanes_cache_is_full) {
  Serving serving({.max_plans = 1});
  const auto client = serving.connect(serving.add_model(pad_model("m", {8})));
  for (const std::int64_t size : {3, 4, 3}) {
    client->lane->submit(
        0, 1, tensor<std::int64_t>({1, size}, Ids(static_cast<std::size_t>(size), size)));
    const std::optional<TestAnswer> answer = client->lane->wait();
    ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
    EXPECT_EQ(answer->cropped<std::int64_t>(0), Ids(static_cast<std::size_t>(size), size));
    EXPECT_EQ(answer->plan.has_value(), size == 3);
    EXPECT_EQ(answer->entry.plan_id, size == 3 ? 1u : 0u);
  }
}

TEST(RequestRunner, runs_the_backends_kernel_when_it_is_not_declarative) {
  Serving serving;
  ModelDescription description = pad_model("m", {4, 8}, 9);
  description.kernel = KernelKind::kTorchScript;
  const auto client = serving.connect(serving.add_model(description));
  client->lane->submit(0, 1, tensor<std::int64_t>({1, 5}, {1, 2, 3, 4, 5}));
  const std::optional<TestAnswer> answer = client->lane->wait();
  ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
  EXPECT_EQ(answer->entry.bucket, 1u);
  EXPECT_THAT(answer->cropped<std::int64_t>(0), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_FALSE(answer->plan.has_value());
  client->lane->submit(0, 1, tensor<std::int64_t>({1, 9}, Ids(9)));
  EXPECT_EQ(client->lane->wait()->message,
            "model 'm', input 0 'x', dimension 1: size 9 is above the largest bucket's 8");
}

const testing::FakeModel& fake(const std::shared_ptr<LoadedModel>& model) {
  return dynamic_cast<const testing::FakeModel&>(*model->model);
}

TEST(RequestRunner, plans_an_authors_kernel_once_for_each_signature) {
  Serving serving;
  ModelDescription description = pad_model("m", {4, 8}, 9);
  description.kernel = KernelKind::kTorchScript;
  description.planning = {KernelPlanning::kPlanned, ""};
  const auto model = serving.add_model(description);
  const auto client = serving.connect(model);
  for (int round = 0; round < 3; ++round) {
    client->lane->submit(0, 1, tensor<std::int64_t>({1, 5}, {1, 2, 3, 4, 5}));
    const std::optional<TestAnswer> answer = client->lane->wait();
    ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
    EXPECT_EQ(answer->entry.bucket, 1u);
    EXPECT_THAT(answer->cropped<std::int64_t>(0), ElementsAre(1, 2, 3, 4, 5));
    ASSERT_TRUE(answer->plan.has_value());
    EXPECT_EQ(answer->entry.plan_id, 1u);
  }
  EXPECT_EQ(fake(model).plans_asked(), 1);
  EXPECT_EQ(fake(model).kernels_run(), 0);
  SubmissionEntry entry{};
  entry.kind = static_cast<std::uint8_t>(SubmissionKind::kPadded);
  entry.plan_id = 1;
  testing::TestTensor padded = tensor<std::int64_t>({1, 8}, Ids(8, 3));
  padded.shape = Shape{1, 5};
  client->lane->submit(0, 1, padded, entry);
  EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
}

TEST(RequestRunner, does_not_look_again_for_a_plan_that_an_authors_kernel_has_not) {
  Serving serving;
  ModelDescription description = pad_model("m", {4, 8}, 9);
  description.kernel = KernelKind::kTorchScript;
  description.checks_inputs = false;
  description.planning = {KernelPlanning::kPartly, "some"};
  const auto model = serving.add_model(description);
  const auto client = serving.connect(model);
  for (int round = 0; round < 3; ++round) {
    client->lane->submit(0, 1, tensor<std::int64_t>({1, 9}, Ids(9)));
    EXPECT_THAT(client->lane->wait()->message, HasSubstr("size 9 is above"));
  }
  EXPECT_EQ(fake(model).plans_asked(), 1);
  EXPECT_EQ(fake(model).kernels_run(), 3);
}

TEST(RequestRunner, makes_no_plan_that_nobody_would_keep) {
  Serving serving({.max_plans = 1});
  ModelDescription description = pad_model("m", {8});
  description.kernel = KernelKind::kTorchScript;
  description.planning = {KernelPlanning::kPlanned, ""};
  const auto model = serving.add_model(description);
  const auto client = serving.connect(model);
  for (const std::int64_t size : {3, 4, 4, 3}) {
    client->lane->submit(0, 1,
                         tensor<std::int64_t>({1, size}, Ids(static_cast<std::size_t>(size))));
    const std::optional<TestAnswer> answer = client->lane->wait();
    ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
    EXPECT_EQ(answer->plan.has_value(), size == 3);
  }
  EXPECT_EQ(fake(model).plans_asked(), 1);
  EXPECT_EQ(fake(model).kernels_run(), 2);
}

// A plan that swaps the two rows of its input: nothing that a client can lay out.
void swap_rows(Plan& plan) {
  plan.is_padding = false;
  MoveList& list = plan.moves;
  list.buffers = {{BufferKind::kInput, DType::kInt64, 0, {2, 4}, 0},
                  {BufferKind::kOutput, DType::kInt64, 0, {2, 4}, plan.inputs[0].offset}};
  for (const std::int64_t row : {0, 1}) {
    Move move;
    move.to = 1;
    move.from = 0;
    move.to_offset = 4 * row;
    move.from_offset = 4 * (1 - row);
    move.rank = 1;
    move.dims[0] = {4, 1, 1};
    list.moves.push_back(move);
  }
}

TEST(RequestRunner, does_itself_what_a_client_cannot_lay_out) {
  Serving serving;
  ModelDescription description = pad_model("m", {4}, 0, PadSide::kRight, DType::kInt64, 2);
  description.kernel = KernelKind::kTorchScript;
  description.planning = {KernelPlanning::kPlanned, ""};
  const auto model = serving.add_model(description);
  dynamic_cast<testing::FakeModel&>(*model->model).change_plans(swap_rows);
  const auto client = serving.connect(model);
  SubmissionEntry entry{};
  for (int round = 0; round < 2; ++round) {
    client->lane->submit(0, 1, tensor<std::int64_t>({2, 4}, {1, 2, 3, 4, 5, 6, 7, 8}));
    const std::optional<TestAnswer> answer = client->lane->wait();
    ASSERT_EQ(answer->status(), StatusCode::kOk) << answer->message;
    EXPECT_THAT(answer->cropped<std::int64_t>(0), ElementsAre(5, 6, 7, 8, 1, 2, 3, 4));
    EXPECT_FALSE(answer->plan.has_value());
    EXPECT_EQ(answer->entry.plan_id, 0u);
  }
  EXPECT_EQ(fake(model).kernels_run(), 0);
  entry.kind = static_cast<std::uint8_t>(SubmissionKind::kPadded);
  entry.plan_id = 1;  // guessed
  client->lane->submit(0, 1, tensor<std::int64_t>({2, 4}, Ids(8)), entry);
  EXPECT_THAT(client->lane->wait()->message, HasSubstr("no plan 1"));
}

TEST(RequestRunner, answers_wrong_requests_with_a_reason_and_no_bucket_and_goes_on) {
  Serving serving;
  const auto client = serving.connect(serving.add_model(pad_model("bert", {8})));
  struct Case {
    testing::TestTensor input;
    StatusCode code;
    std::string text;
  };
  const std::vector<Case> cases = {
      {tensor<std::int64_t>({1, 9}, Ids(9)), StatusCode::kOutOfRange,
       "model 'bert', input 0 'x', dimension 1: size 9 is above the largest bucket's 8"},
      {tensor<std::int64_t>({1, 0}, {}), StatusCode::kInvalidArgument, "the input is empty"},
      {tensor<std::int32_t>({1, 4}, {1, 2, 3, 4}), StatusCode::kInvalidArgument,
       "dtype int32 where int64 is expected"},
      {tensor<std::int64_t>({4}, Ids(4)), StatusCode::kInvalidArgument,
       "rank 1 where rank 2 is expected"},
      {tensor<std::int64_t>({1, 4}, Ids(3)), StatusCode::kInvalidArgument,
       "24 bytes where shape [1, 4] of int64 has 32"},
  };
  for (const Case& wrong : cases) {
    client->lane->submit(0, 5, wrong.input);
    const std::optional<TestAnswer> answer = client->lane->wait();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->status(), wrong.code);
    EXPECT_THAT(answer->message, HasSubstr(wrong.text));
    EXPECT_EQ(answer->entry.bucket, kNoBucket);
    EXPECT_EQ(answer->entry.output_count, 0u);
  }
  client->lane->submit(0, 6, tensor<std::int64_t>({1, 2}, {1, 2}));
  EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
  EXPECT_EQ(serving.status().executors[0].failed.load(), cases.size());
  EXPECT_EQ(serving.status().executors[0].completed.load(), 1u);
  EXPECT_TRUE(serving.violations().empty());
}

TEST(RequestRunner, cuts_long_error_texts_at_a_whole_character) {
  std::string text(kMaxMessageBytes - 1, 'x');
  text += "\xC3\xA9 and more";
  Serving serving;
  const auto client = serving.connect(serving.add_model(
      pad_model("m", {8}), [&](const auto&) { return Status(StatusCode::kInternal, text); }));
  client->lane->submit(0, 1, tensor<std::int64_t>({1, 1}, {1}));
  EXPECT_EQ(client->lane->wait()->message, std::string(kMaxMessageBytes - 1, 'x'));
}

TEST(RequestRunner, makes_bools_0_or_1_before_an_operator_sees_them) {
  std::vector<std::uint8_t> seen(4);
  Serving serving;
  const auto client =
      serving.connect(serving.add_model(pad_model("m", {4}, 1, PadSide::kRight, DType::kBool),
                                        [&](const testing::FakeModel::Execution& execution) {
                                          std::memcpy(seen.data(), execution.inputs[0].data, 4);
                                          return Status();
                                        }));
  testing::TestTensor wild{DType::kBool, Shape{1, 3}, {std::byte{255}, std::byte{0}, std::byte{2}}};
  client->lane->submit(0, 1, wild);
  ASSERT_EQ(client->lane->wait()->status(), StatusCode::kOk);
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_THAT(seen, ElementsAre(1, 0, 1, 1));
}

TEST(RequestRunner, drops_a_request_whose_deadline_has_passed) {
  std::atomic<bool> ran = false;
  Serving serving;
  const auto client = serving.connect(serving.add_model(pad_model("m", {8}), [&](const auto&) {
    ran = true;
    return Status();
  }));
  SubmissionEntry entry{};
  entry.deadline_ns = 1;
  client->lane->submit(0, 1, tensor<std::int64_t>({1, 1}, {1}), entry);
  const std::optional<TestAnswer> answer = client->lane->wait();
  EXPECT_EQ(answer->status(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(answer->message, HasSubstr("model 'm': the deadline passed"));
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_FALSE(ran);
  entry.deadline_ns = monotonic_ns() + 60'000'000'000;
  client->lane->submit(0, 2, tensor<std::int64_t>({1, 1}, {1}), entry);
  EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
}

TEST(RequestRunner, says_on_the_status_page_what_it_runs_and_for_whom) {
  testing::Gate gate;
  Serving serving;
  const auto model = serving.add_model(pad_model("m", {4, 8}), [&](const auto&) {
    gate.pass();
    return Status();
  });
  const auto client = serving.connect(model);
  const std::uint64_t before_ns = monotonic_ns();
  client->lane->submit(3, 4242, tensor<std::int64_t>({1, 5}, Ids(5)));
  ASSERT_TRUE(gate.wait_for_visitors(1));
  const ExecutorStatus& status = serving.status().executors[0];
  EXPECT_EQ(status.state.load(), static_cast<std::uint32_t>(ExecutorState::kExecuting));
  EXPECT_EQ(status.model_id.load(), model->id);
  EXPECT_EQ(status.channel_id.load(), client->channel_id);
  EXPECT_EQ(status.lane_id.load(), 1u);
  EXPECT_EQ(status.user_data.load(), 4242u);
  EXPECT_EQ(status.bucket.load(), 1u);
  EXPECT_EQ(status.session_handle.load(), 0u);
  EXPECT_GE(status.started_ns.load(), before_ns);
  EXPECT_LE(status.started_ns.load(), monotonic_ns());
  gate.open();
  ASSERT_EQ(client->lane->wait()->status(), StatusCode::kOk);
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_EQ(status.state.load(), static_cast<std::uint32_t>(ExecutorState::kIdle));
  EXPECT_EQ(status.completed.load(), 1u);
}

// --- sessions ---

ModelDescription model_with_state() {
  ModelDescription model = pad_model("kv", {8});
  model.states = {{"cache", DType::kUint8, Shape{16}, std::nullopt}};
  model.buckets[0].states = {Shape{16}};
  return model;
}

TEST(RequestRunner, gives_a_session_its_state_and_refuses_requests_without_one) {
  Serving serving;
  const auto model = serving.add_model(model_with_state());
  const auto client = serving.connect(model);
  auto memory = std::make_shared<std::vector<std::byte>>(16);
  serving.add_session(model, client->channel_id, 5, {{DType::kUint8, Shape{16}, memory->data()}});
  const auto input = tensor<std::int64_t>({1, 1}, {1});

  client->lane->submit(0, 1, input);
  TestAnswer answer = *client->lane->wait();
  EXPECT_EQ(answer.status(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(answer.message, HasSubstr("model 'kv' holds state"));

  SubmissionEntry entry{};
  entry.session_handle = 6;
  client->lane->submit(0, 2, input, entry);
  answer = *client->lane->wait();
  EXPECT_EQ(answer.status(), StatusCode::kNotFound);
  EXPECT_THAT(answer.message, HasSubstr("no session 6"));

  entry.session_handle = 5;
  for (int i = 0; i < 3; ++i) {
    client->lane->submit(0, 3, input, entry);
    EXPECT_EQ(client->lane->wait()->status(), StatusCode::kOk);
  }
  ASSERT_TRUE(serving.wait_until_idle());
  EXPECT_EQ(memory->at(0), std::byte{3});
  EXPECT_EQ(serving.status().executors[0].state_bytes_written_back.load(), 3u);
  EXPECT_EQ(serving.status().executors[0].state_bytes_copied.load(), 0u);

  // Another connection does not get at it.
  const auto other = serving.connect(model);
  other->lane->submit(0, 4, input, entry);
  EXPECT_EQ(other->lane->wait()->status(), StatusCode::kNotFound);
  EXPECT_EQ(memory->at(0), std::byte{3});
}

TEST(RequestRunner, refuses_a_session_of_another_model) {
  Serving serving;
  const auto stateful = serving.add_model(model_with_state());
  const auto other = serving.add_model(model_with_state());
  const auto plain = serving.add_model(pad_model("plain", {8}));
  SubmissionEntry entry{};
  entry.session_handle = 5;
  const auto input = tensor<std::int64_t>({1, 1}, {1});
  for (const auto& [model, text] :
       {std::pair(other, "session 5 is one of model 'kv'"), {plain, "holds no state"}}) {
    const auto client = serving.connect(model);
    std::vector<std::byte> memory(16);
    serving.add_session(stateful, client->channel_id, 5,
                        {{DType::kUint8, Shape{16}, memory.data()}});
    client->lane->submit(0, 1, input, entry);
    const TestAnswer answer = *client->lane->wait();
    EXPECT_EQ(answer.status(), StatusCode::kInvalidArgument);
    EXPECT_THAT(answer.message, HasSubstr(text));
    ASSERT_TRUE(serving.wait_until_idle());
    EXPECT_EQ(memory[0], std::byte{0});
  }
}

}  // namespace
}  // namespace bucketd
