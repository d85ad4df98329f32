#include "tools/bucketctl/render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tools/bucketctl/text_table.h"

namespace bucketd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ModelDescription bert() {
  ModelDescription model;
  model.name = "bert";
  model.backend = "torchscript";
  model.inputs = {{"ids", DType::kInt64}};
  model.outputs = {{"hidden", DType::kFloat32}};
  model.states = {{"cache", DType::kBfloat16, {1, 512}, 1}};
  model.buckets = {{{{1, 128}}, {{1, 128, 4}}, {{1, 128}}},
                   {{{1, 512}}, {{1, 512, 4}}, {{1, 512}}}};
  model.crop = {{0, 1, 0, 1, PadSide::kLeft, 1, 2}};
  model.accepted = {{{1, 1}, {1, 512}}};
  return model;
}

TEST(Render, a_description_tells_sizes_buckets_and_crop_rules) {
  const std::string text = description_text(bert());
  EXPECT_THAT(text, HasSubstr("input 0   ids     int64     [1, 1..512]"));
  EXPECT_THAT(text, HasSubstr("state 0   cache   bfloat16  [1, 512]"));
  EXPECT_THAT(text, HasSubstr("     1  [1, 512]  [1, 512, 4]  [1, 512]"));
  EXPECT_THAT(text, HasSubstr("output 0 dimension 1 follows input 0 dimension 1 times 1/2, kept"));
}

TEST(Render, a_declarative_kernel_is_spelled_out) {
  ModelDescription model = bert();
  model.kernel = KernelKind::kPad;
  model.pad = {{{1}}, {3}, {PadSide::kLeft}};
  EXPECT_THAT(description_text(model),
              HasSubstr("declarative: input 0 padded with 3 at the left of dimension 1\n"));
  EXPECT_EQ(description_json(model)["kernel"]["side"][0], "left");
}

TEST(Render, an_authors_kernel_is_said_to_be_planned_or_what_prevents_it) {
  ModelDescription model = bert();
  EXPECT_THAT(description_text(model), HasSubstr("TorchScript, written by the author\n"));
  model.planning = {KernelPlanning::kPlanned, ""};
  EXPECT_THAT(description_text(model), HasSubstr("written by the author, planned\n"));
  EXPECT_EQ(description_json(model)["kernel"]["planning"], "planned");
  model.planning = {KernelPlanning::kUnplanned, "aten::sum: it reads numbers of an input"};
  EXPECT_THAT(description_text(model),
              HasSubstr("run as it is for every request: aten::sum: it reads numbers"));
  EXPECT_THAT(description_json(model)["kernel"]["planning_reason"].get<std::string>(),
              HasSubstr("aten::sum"));
}

TEST(Render, json_carries_what_the_description_has) {
  const nlohmann::json json = description_json(bert());
  EXPECT_EQ(json["inputs"][0]["dtype"], "int64");
  EXPECT_EQ(json["inputs"][0]["accepted"][1]["max"], 512);
  EXPECT_EQ(json["buckets"][1]["inputs"][0], nlohmann::json::parse("[1, 512]"));
  EXPECT_EQ(json["states"][0]["sequence_dim"], 1);
  EXPECT_EQ(json["kernel"]["type"], "torchscript");
  EXPECT_EQ(json["crop"][0]["denominator"], 2);
}

TEST(Render, a_description_tells_how_each_bucket_gets_its_states_and_why) {
  ModelDescription model = bert();
  EXPECT_THAT(description_text(model), Not(HasSubstr("GOT AS")));  // no backend has told
  model.buckets[0].state_views = {{StateViewKind::kStrided, "a slice of dimension 1"}};
  model.buckets[1].state_views = {{StateViewKind::kCopy, "aten::index gathers\x1b[31m"}};
  model.states[0].align = PadSide::kLeft;
  const std::string text = description_text(model);
  EXPECT_THAT(text, HasSubstr("[1, 512], sequence along dimension 1, right-aligned\n"));
  EXPECT_THAT(text, HasSubstr("     0  cache  view, strided  a slice of dimension 1\n"
                              "     1  cache  copy           aten::index gathers\\x1b[31m\n"));
  const nlohmann::json json = description_json(model);
  EXPECT_EQ(json["buckets"][0]["state_views"][0]["kind"], "strided");
  EXPECT_EQ(json["buckets"][0]["state_views"][0]["reason"], "a slice of dimension 1");
  EXPECT_EQ(json["buckets"][1]["state_views"][0]["kind"], "copy");
  EXPECT_EQ(json["states"][0]["align"], "right");
}

TEST(Render, a_description_tells_which_inputs_are_copied_and_why) {
  ModelDescription model = bert();
  EXPECT_THAT(description_text(model), Not(HasSubstr("WHY")));  // no backend has told
  model.inputs.push_back({"pixels", DType::kFloat32});
  model.input_uses = {{false, "its dtype is int64\x1b[31m"}, {true, "only arithmetic reads it"}};
  const std::string text = description_text(model);
  EXPECT_THAT(text, HasSubstr("from a copy  its dtype is int64\\x1b[31m\n"));
  EXPECT_THAT(text, HasSubstr("pixels  in place     only arithmetic reads it\n"));
  const nlohmann::json json = description_json(model);
  EXPECT_EQ(json["inputs"][0]["in_place"], false);
  EXPECT_EQ(json["inputs"][1]["in_place_reason"], "only arithmetic reads it");
}

TEST(Render, states_that_a_bucket_gets_alike_share_a_row) {
  ModelDescription model = bert();
  model.states = {{"keys", DType::kFloat32, {512}, {}}, {"values", DType::kFloat32, {512}, {}}};
  for (BucketSpec& bucket : model.buckets) {
    bucket.states = {{512}, {512}};
    bucket.state_views = {{StateViewKind::kContiguous, "no preprocessor"},
                          {StateViewKind::kContiguous, "no preprocessor"}};
  }
  model.buckets[1].state_views[1] = {StateViewKind::kUnknown, ""};
  EXPECT_THAT(description_text(model),
              HasSubstr("     0  all 2   view, contiguous  no preprocessor\n"
                        "     1  keys    view, contiguous  no preprocessor\n"
                        "     1  values  unknown           -\n"));
  const nlohmann::json json = description_json(model);
  EXPECT_EQ(json["buckets"][1]["state_views"].size(), 2u);
  EXPECT_FALSE(json["states"][0].contains("align"));
}

TEST(Render, sessions_are_listed_with_what_is_known_of_them) {
  SessionSummary own;
  own.id = "00112233445566778899aabbccddeeff";
  own.uid = 4000000000;  // nobody's
  own.model = "bert";
  own.status = SessionStatus::kTorn;
  own.state_bytes = 1536;
  own.age = std::chrono::seconds(65);
  own.idle = std::chrono::seconds(5);
  own.requests = 1234567;
  own.has_checkpoint = true;
  own.reason = "its worker\nwas killed";
  SessionSummary shared;
  shared.uid = 0;
  shared.model = "gpt";
  shared.scope = SessionScope::kModel;
  shared.state_bytes = std::uint64_t{3} << 30;
  const std::string text = sessions_text({{own, shared}, true});
  EXPECT_THAT(text,
              HasSubstr("00112233445566778899aabbccddeeff  4000000000  bert   session  torn   "
                        "1.5 KiB  1m 5s   5 s   1234567  yes         its "
                        "worker\\x0awas killed\n"));
  EXPECT_THAT(text,
              HasSubstr("-                                 root        gpt    model    open   "
                        "3.0 GiB    0 s   0 s         0  no          -\n"));
  const nlohmann::json json = sessions_json({{own, shared}, false});
  EXPECT_EQ(json["sessions"][0]["id"], own.id);
  EXPECT_EQ(json["sessions"][0]["state"], "torn");
  EXPECT_EQ(json["sessions"][0]["bytes"], 1536);
  EXPECT_EQ(json["sessions"][0]["age_ms"], 65000);
  EXPECT_EQ(json["sessions"][0]["idle_ms"], 5000);
  EXPECT_EQ(json["sessions"][0]["requests"], 1234567);
  EXPECT_EQ(json["sessions"][0]["has_checkpoint"], true);
  EXPECT_EQ(json["sessions"][1]["scope"], "model");
  EXPECT_EQ(json["is_complete"], false);
  EXPECT_THAT(text, Not(HasSubstr("and more")));
  EXPECT_THAT(sessions_text({{own}, false}), HasSubstr("and more"));
  EXPECT_EQ(sessions_text({}), "no sessions\n");
}

TEST(Render, copied_state_is_told_where_there_is_any) {
  DaemonStatus status;
  status.workers.resize(2);
  status.workers[1].worker_id = 1;
  status.workers[1].state_bytes_copied = 5 << 20;
  status.workers[1].state_bytes_written_back = 12;
  const std::string text = status_text(status);
  EXPECT_THAT(text, HasSubstr("worker 1 copied 5.0 MiB of state"));
  EXPECT_THAT(text, Not(HasSubstr("worker 0 copied")));
  const nlohmann::json json = status_json(status);
  EXPECT_EQ(json["workers"][0]["state_bytes_copied"], 0);
  EXPECT_EQ(json["workers"][1]["state_bytes_copied"], 5 << 20);
  EXPECT_EQ(json["workers"][1]["state_bytes_written_back"], 12);
}

TEST(Render, status_lists_workers_and_models_with_reasons) {
  DaemonStatus status;
  status.version = "0.1";
  status.uptime = std::chrono::seconds(3725);
  WorkerReport worker;
  worker.first_core = 2;
  worker.core_count = 2;
  worker.last_death = "killed by SIGSEGV while executing model 'x'";
  status.workers = {worker};
  ModelSummary model;
  model.name = "x";
  model.state = ModelState::kQuarantined;
  model.reason = "died\n\x1b[31m";
  status.models = {model};
  const std::string text = status_text(status);
  EXPECT_THAT(text, HasSubstr("up 1h 2m"));
  EXPECT_THAT(text, HasSubstr("2-3"));
  EXPECT_THAT(text, HasSubstr("killed by SIGSEGV"));
  EXPECT_THAT(text, HasSubstr("died\\x0a\\x1b[31m"));
  EXPECT_EQ(status_json(status)["models"][0]["state"], "quarantined");
  EXPECT_EQ(status_json(status)["workers"][0]["cores"], 2);
}

TEST(Render, no_models_is_said_in_words) { EXPECT_EQ(models_text({}), "no models\n"); }

TEST(Render, columns_are_aligned) {
  TextTable table({"A", ">B", "C"});
  table.add_row({"long", "1", "x"});
  table.add_row({"s", "222", "yy"});
  EXPECT_EQ(table.to_string(), "A       B  C\nlong    1  x\ns     222  yy\n");
}

}  // namespace
}  // namespace bucketd
