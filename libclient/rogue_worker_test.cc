// Answers that no sound worker gives. Each must fail its request with INTERNAL, must not make the
// client read elsewhere (the sanitizer build watches), and must leave the client able to go on.
#include <gmock/gmock.h>

#include <cstring>
#include <limits>
#include <random>

#include "libclient/testing/echo_client.h"

namespace bucketd::testing {
namespace {

using ::testing::HasSubstr;

template <typename Record>
Record read_record(const Answer& answer, std::size_t offset) {
  Record record;
  std::memcpy(&record, answer.slot.data() + offset, sizeof(record));
  return record;
}

template <typename Record>
void write_record(Answer& answer, std::size_t offset, const Record& record) {
  std::memcpy(answer.slot.data() + offset, &record, sizeof(record));
}

void change_output(Answer& answer, const std::function<void(OutputDescriptor&)>& change) {
  auto descriptor = read_record<OutputDescriptor>(answer, sizeof(OutputDescriptor));
  change(descriptor);
  write_record(answer, sizeof(OutputDescriptor), descriptor);
}

constexpr std::size_t kPlanOffset = 2 * sizeof(OutputDescriptor);

void change_plan(Answer& answer, const std::function<void(PlanRecord&)>& change) {
  auto plan = read_record<PlanRecord>(answer, kPlanOffset);
  change(plan);
  write_record(answer, kPlanOffset, plan);
}

void change_plan_input(Answer& answer, const std::function<void(PlanInputRecord&)>& change) {
  constexpr std::size_t kOffset = kPlanOffset + sizeof(PlanRecord) + sizeof(PlanInputRecord);
  auto input = read_record<PlanInputRecord>(answer, kOffset);
  change(input);
  write_record(answer, kOffset, input);
}

struct Nonsense {
  const char* name;
  std::function<void(Answer&)> spoil;
};

// How GoogleTest names it.
void PrintTo(const Nonsense& nonsense, std::ostream* out) { *out << nonsense.name; }

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

const std::vector<Nonsense>& all_nonsense() {
  static const std::vector<Nonsense> all{
      {"user_data_of_no_slot", [](Answer& a) { a.entry.user_data |= 0xFFFFu; }},
      {"user_data_of_a_free_slot", [](Answer& a) { a.entry.user_data ^= 1; }},
      {"user_data_of_an_earlier_use", [](Answer& a) { a.entry.user_data -= 1ull << 32; }},
      {"no_bucket", [](Answer& a) { a.entry.bucket = kNoBucket; }},
      {"bucket_of_another_model", [](Answer& a) { a.entry.bucket = 2; }},
      {"too_few_outputs", [](Answer& a) { a.entry.output_count = 1; }},
      {"too_many_outputs", [](Answer& a) { a.entry.output_count = 65535; }},
      {"unknown_flag", [](Answer& a) { a.entry.flags |= 0x8000; }},
      {"error_text_longer_than_allowed",
       [](Answer& a) {
         a.entry.status = 13;
         a.entry.message_bytes = kMaxMessageBytes + 1;
       }},
      {"error_text_of_4_GiB",
       [](Answer& a) {
         a.entry.status = 13;
         a.entry.message_bytes = 0xFFFFFFFF;
       }},
      {"output_dtype", [](Answer& a) { change_output(a, [](auto& d) { d.dtype = 6; }); }},
      {"output_dtype_unknown", [](Answer& a) { change_output(a, [](auto& d) { d.dtype = 99; }); }},
      {"output_rank", [](Answer& a) { change_output(a, [](auto& d) { d.rank = 9; }); }},
      {"output_rank_255", [](Answer& a) { change_output(a, [](auto& d) { d.rank = 255; }); }},
      {"output_negative_size",
       [](Answer& a) { change_output(a, [](auto& d) { d.dims[1] = -1; }); }},
      {"output_huge_size", [](Answer& a) { change_output(a, [](auto& d) { d.dims[1] = kHuge; }); }},
      {"output_sizes_that_overflow",
       [](Answer& a) {
         change_output(a, [](auto& d) { d.dims[0] = d.dims[1] = std::int64_t{1} << 62; });
       }},
      {"output_larger_than_the_slot",
       [](Answer& a) {
         change_output(a, [](auto& d) {
           d.dims[1] = 1 << 20;
           d.byte_size = 4 << 20;
         });
       }},
      {"output_byte_size", [](Answer& a) { change_output(a, [](auto& d) { d.byte_size -= 4; }); }},
      {"output_offset_unaligned",
       [](Answer& a) { change_output(a, [](auto& d) { d.offset += 4; }); }},
      {"output_offset_in_the_descriptors",
       [](Answer& a) { change_output(a, [](auto& d) { d.offset = 0; }); }},
      {"output_offset_at_the_end",
       [](Answer& a) { change_output(a, [](auto& d) { d.offset = kPageBytes; }); }},
      {"output_offset_that_wraps",
       [](Answer& a) { change_output(a, [](auto& d) { d.offset = ~std::uint64_t{63}; }); }},
      {"crop_start_negative",
       [](Answer& a) { change_output(a, [](auto& d) { d.crop_start[1] = -1; }); }},
      {"crop_start_beyond",
       [](Answer& a) { change_output(a, [](auto& d) { d.crop_start[1] = 9; }); }},
      {"crop_size_negative",
       [](Answer& a) { change_output(a, [](auto& d) { d.crop_dims[1] = -1; }); }},
      {"crop_beyond", [](Answer& a) { change_output(a, [](auto& d) { d.crop_dims[1] = 6; }); }},
      {"crop_that_wraps",
       [](Answer& a) { change_output(a, [](auto& d) { d.crop_dims[1] = kHuge; }); }},
      {"plan_without_id", [](Answer& a) { change_plan(a, [](auto& p) { p.plan_id = 0; }); }},
      {"plan_bucket", [](Answer& a) { change_plan(a, [](auto& p) { p.bucket = 7; }); }},
      {"plan_of_no_inputs", [](Answer& a) { change_plan(a, [](auto& p) { p.input_count = 0; }); }},
      {"plan_of_4G_inputs",
       [](Answer& a) { change_plan(a, [](auto& p) { p.input_count = 0xFFFFFFFF; }); }},
      {"plan_dtype", [](Answer& a) { change_plan_input(a, [](auto& i) { i.dtype = 0; }); }},
      {"plan_source", [](Answer& a) { change_plan_input(a, [](auto& i) { i.source = 2; }); }},
      {"plan_rank", [](Answer& a) { change_plan_input(a, [](auto& i) { i.rank = 200; }); }},
      {"plan_shape_of_another_bucket",
       [](Answer& a) { change_plan_input(a, [](auto& i) { i.padded_dims[1] = 16; }); }},
      {"plan_huge_shape",
       [](Answer& a) { change_plan_input(a, [](auto& i) { i.padded_dims[1] = kHuge; }); }},
      {"plan_padding_negative",
       [](Answer& a) { change_plan_input(a, [](auto& i) { i.pad_before[1] = -1; }); }},
      {"plan_padding_beyond",
       [](Answer& a) { change_plan_input(a, [](auto& i) { i.pad_before[1] = 4; }); }},
      {"plan_padding_that_wraps",
       [](Answer& a) { change_plan_input(a, [](auto& i) { i.pad_before[1] = kHuge; }); }},
  };
  return all;
}

class RogueWorkerTest : public ::testing::TestWithParam<std::tuple<Nonsense, bucketd::Transport>> {
};

INSTANTIATE_TEST_SUITE_P(Nonsense, RogueWorkerTest,
                         ::testing::Combine(::testing::ValuesIn(all_nonsense()),
                                            ::testing::Values(Transport::kRing,
                                                              Transport::kStream)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) +
                                  (std::get<1>(info.param) == Transport::kRing ? "_ring"
                                                                               : "_stream");
                         });

TEST_P(RogueWorkerTest, fails_the_request_and_nothing_else) {
  const auto& [nonsense, transport] = GetParam();
  FakeDaemon daemon;
  daemon.start();
  Client client = get(Client::connect(options_for(daemon, transport)));
  Model model = get(client.open("echo"));
  ASSERT_TRUE(echoes(model, 1, 3));
  const Reply earlier = get(get(echo_request(model, 7, 4)).run());
  daemon.spoil_answers(nonsense.spoil);
  RequestOptions raw;  // so that the answer has a plan
  raw.force_raw = true;
  const Status status = status_of(get(echo_request(model, 2, 5, raw)).run());
  EXPECT_EQ(status.code(), StatusCode::kInternal) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr("model 'echo': the worker's answer is damaged: "));
  // In shared memory a worker can overwrite a reply; what comes over a stream must not.
  if (transport == Transport::kStream) {
    EXPECT_TRUE(is_echo_of(earlier, 7, 4));
  }
  daemon.spoil_answers({});
  EXPECT_TRUE(echoes(model, 3, 5));
  EXPECT_TRUE(echoes(model, 4, 5));
}

class RogueTransportTest : public BothTransports {};
INSTANTIATE_TEST_SUITE_P(Transports, RogueTransportTest,
                         ::testing::Values(Transport::kRing, Transport::kStream), transport_name);

TEST_P(RogueTransportTest, impossible_ring_or_frame_fails_what_is_in_flight) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.hold_answers();
  Future future = get(get(echo_request(model, 1, 3)).submit());
  daemon.wait_for_submissions(1);
  daemon.publish_nonsense();
  EXPECT_EQ(status_of(future.wait(patience())).code(), StatusCode::kInternal);
  daemon.release_answers();
  EXPECT_TRUE(echoes(model, 2, 3));
}

TEST_P(RogueTransportTest, second_answer_to_one_request_is_nonsense) {
  Client client = connect();
  Model model = get(client.open("echo"));
  std::uint64_t first = 0;
  daemon.spoil_answers([&](Answer& answer) {
    if (first == 0) first = answer.entry.user_data;
    answer.entry.user_data = first;
    answer.entry.slot = static_cast<std::uint32_t>(first);
  });
  const Reply reply = get(get(echo_request(model, 1, 3)).run());
  EXPECT_EQ(status_of(get(echo_request(model, 2, 3)).run()).code(), StatusCode::kInternal);
  if (GetParam() == Transport::kStream) {
    EXPECT_TRUE(is_echo_of(reply, 1, 3));
  }
  daemon.spoil_answers({});  // what it refers to goes
}

TEST_P(RogueTransportTest, plan_that_converts_or_permutes_is_not_used) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.spoil_answers([](Answer& answer) {
    if ((answer.entry.flags & kCompletionHasPlan) == 0) return;
    change_plan_input(answer, [](PlanInputRecord& input) {
      input.dtype = static_cast<std::uint8_t>(DType::kFloat64);
    });
  });
  EXPECT_TRUE(echoes(model, 1, 3));
  EXPECT_FALSE(get(echo_request(model, 1, 3)).is_padded());
  EXPECT_TRUE(echoes(model, 1, 3));
}

TEST_P(RogueTransportTest, error_text_is_made_printable_and_its_code_known) {
  Client client = connect();
  Model model = get(client.open("echo"));
  daemon.spoil_answers([](Answer& answer) {
    const std::string text = "red \x1b[31m alert\n";
    answer.entry.status = 77;
    answer.entry.message_bytes = static_cast<std::uint32_t>(text.size());
    std::memcpy(answer.slot.data(), text.data(), text.size());
  });
  const Status status = status_of(get(echo_request(model, 1, 3)).run());
  EXPECT_EQ(status, Status(StatusCode::kUnknown, "red  [31m alert "));
}

TEST_P(RogueTransportTest, random_damage_never_reaches_the_caller_as_more_than_wrong_values) {
  Client client = connect();
  Model model = get(client.open("echo"));
  std::mt19937 random(20260);
  daemon.spoil_answers([&](Answer& answer) {
    // In entry and records alike, most often where the structure is.
    for (int i = 0; i < 3; ++i) {
      const std::size_t where = random() % (sizeof(CompletionEntry) + 800);
      const auto value = static_cast<std::byte>(random());
      if (where < sizeof(CompletionEntry)) {
        std::memcpy(reinterpret_cast<std::byte*>(&answer.entry) + where, &value, 1);
      } else if (where - sizeof(CompletionEntry) < answer.slot.size()) {
        answer.slot[where - sizeof(CompletionEntry)] = value;
      }
    }
  });
  RequestOptions raw;
  raw.force_raw = true;
  int damaged = 0;
  for (int i = 0; i < 1000; ++i) {
    const Result<Reply> reply = get(echo_request(model, i, 5, raw)).run();
    if (!reply) {
      ++damaged;
      continue;
    }
    for (std::size_t o = 0; o < reply->output_count(); ++o) {
      const RawTensorSpan view = reply->raw_full_output(o);
      std::vector<std::byte> bytes(view.shape.byte_size(view.dtype).value());
      view.copy_to(bytes);
      const RawTensorSpan cropped = reply->raw_output(o);
      bytes.resize(cropped.shape.byte_size(cropped.dtype).value());
      cropped.copy_to(bytes);
    }
  }
  EXPECT_GT(damaged, 150);
  daemon.spoil_answers({});  // what it refers to goes
}

}  // namespace
}  // namespace bucketd::testing
