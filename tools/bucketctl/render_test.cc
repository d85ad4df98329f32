#include "tools/bucketctl/render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tools/bucketctl/text_table.h"

namespace bucketd {
namespace {

using ::testing::HasSubstr;

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

TEST(Render, json_carries_what_the_description_has) {
  const nlohmann::json json = description_json(bert());
  EXPECT_EQ(json["inputs"][0]["dtype"], "int64");
  EXPECT_EQ(json["inputs"][0]["accepted"][1]["max"], 512);
  EXPECT_EQ(json["buckets"][1]["inputs"][0], nlohmann::json::parse("[1, 512]"));
  EXPECT_EQ(json["states"][0]["sequence_dim"], 1);
  EXPECT_EQ(json["kernel"]["type"], "torchscript");
  EXPECT_EQ(json["crop"][0]["denominator"], 2);
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
