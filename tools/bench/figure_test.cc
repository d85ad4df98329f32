#include "tools/bench/figure.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tools/bench/report.h"

namespace bucketd {
namespace {

Figure some_figure(Bound bound, double limit) {
  Figure figure;
  figure.name = "some";
  figure.bound = bound;
  figure.limit = limit;
  return figure;
}

FigureRow measured_row(const Figure& figure, double ours_us, double baseline_us) {
  FigureRow row = row_of(figure);
  row.ours = Times{ours_us, ours_us * 2, ours_us * 3};
  row.baseline = Times{baseline_us, baseline_us * 2, baseline_us * 3};
  set_ratio(row);
  row.samples = 7;
  return row;
}

TEST(FigureRow, ratio_is_that_of_the_medians) {
  EXPECT_DOUBLE_EQ(*measured_row(some_figure(Bound::kMax, 1), 10, 40).ratio, 0.25);
}

TEST(FigureRow, a_maximum_is_met_up_to_the_limit) {
  const Figure figure = some_figure(Bound::kMax, 0.5);
  EXPECT_EQ(measured_row(figure, 5, 10).is_met(), true);
  EXPECT_EQ(measured_row(figure, 6, 10).is_met(), false);
}

TEST(FigureRow, a_minimum_is_met_from_the_limit_on) {
  const Figure figure = some_figure(Bound::kMin, 0.5);
  EXPECT_EQ(measured_row(figure, 5, 10).is_met(), true);
  EXPECT_EQ(measured_row(figure, 4, 10).is_met(), false);
}

TEST(FigureRow, without_a_baseline_is_skipped_and_not_met) {
  const FigureRow row = measured_row(some_figure(Bound::kMax, 0.5), 5, 0);
  EXPECT_EQ(row.ratio, std::nullopt);
  EXPECT_EQ(row.is_met(), std::nullopt);
  EXPECT_FALSE(row.skipped.empty());
}

TEST(FigureRow, a_variant_is_no_gate_and_has_the_figure_s_name_in_front) {
  const FigureRow row = row_of(some_figure(Bound::kMax, 0.5), "4ms");
  EXPECT_EQ(row.name, "some/4ms");
  EXPECT_FALSE(row.is_gate);
  EXPECT_TRUE(row_of(some_figure(Bound::kMax, 0.5)).is_gate);
}

TEST(Times, an_overhead_is_never_below_zero) {
  const Times times = Times{10, 20, 30} - 15;
  EXPECT_DOUBLE_EQ(times.p50_us, 0);
  EXPECT_DOUBLE_EQ(times.p99_us, 5);
  EXPECT_DOUBLE_EQ(times.p999_us, 15);
}

TEST(Report, has_what_readers_rely_on_in_each_figure) {
  const nlohmann::json report =
      report_json({measured_row(some_figure(Bound::kMax, 0.5), 5, 20)}, true);
  ASSERT_EQ(report.at("figures").size(), 1U);
  const nlohmann::json& figure = report.at("figures")[0];
  EXPECT_EQ(figure.at("name"), "some");
  EXPECT_EQ(figure.at("bound"), "max");
  EXPECT_DOUBLE_EQ(figure.at("limit"), 0.5);
  EXPECT_DOUBLE_EQ(figure.at("ratio"), 0.25);
  EXPECT_EQ(figure.at("met"), true);
  EXPECT_EQ(figure.at("samples"), 7);
  EXPECT_DOUBLE_EQ(figure.at("ours").at("p50_us"), 5);
  EXPECT_DOUBLE_EQ(figure.at("baseline").at("p99_us"), 40);
}

TEST(Report, says_why_a_figure_was_skipped) {
  const nlohmann::json report =
      report_json({skipped_row(some_figure(Bound::kMax, 0.5), "package x is missing")}, true);
  const nlohmann::json& figure = report.at("figures")[0];
  EXPECT_EQ(figure.at("skipped"), "package x is missing");
  EXPECT_TRUE(figure.at("ratio").is_null());
}

TEST(Report, keeps_rows_without_a_gate_apart) {
  const Figure figure = some_figure(Bound::kMax, 0.5);
  const nlohmann::json report = report_json({row_of(figure), row_of(figure, "more")}, false);
  EXPECT_EQ(report.at("figures").size(), 1U);
  ASSERT_EQ(report.at("details").size(), 1U);
  EXPECT_EQ(report.at("details")[0].at("name"), "some/more");
}

}  // namespace
}  // namespace bucketd
