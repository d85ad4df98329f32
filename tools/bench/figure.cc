#include "tools/bench/figure.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/bench/percentiles.h"

namespace bucketd {
namespace {

double microseconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

nlohmann::json to_json(const Times& times) {
  return {{"p50_us", times.p50_us}, {"p99_us", times.p99_us}, {"p999_us", times.p999_us}};
}

nlohmann::json to_json(const CpuSeconds& cpu) {
  return {{"client", cpu.client}, {"server", cpu.server}};
}

}  // namespace

Times times_of(const std::vector<std::chrono::nanoseconds>& samples) {
  return {microseconds(percentile_per_mille(samples, 500)),
          microseconds(percentile_per_mille(samples, 990)),
          microseconds(percentile_per_mille(samples, 999))};
}

Times operator+(const Times& a, const Times& b) {
  return {a.p50_us + b.p50_us, a.p99_us + b.p99_us, a.p999_us + b.p999_us};
}

Times operator-(const Times& times, double us) {
  return {std::max(0.0, times.p50_us - us), std::max(0.0, times.p99_us - us),
          std::max(0.0, times.p999_us - us)};
}

std::optional<bool> FigureRow::is_met() const {
  if (!ratio) return std::nullopt;
  return bound == Bound::kMax ? *ratio <= limit : *ratio >= limit;
}

nlohmann::json to_json(const FigureRow& row) {
  nlohmann::json json = {{"name", row.name},   {"gate", row.is_gate},
                         {"ratio", nullptr},   {"bound", row.bound == Bound::kMax ? "max" : "min"},
                         {"limit", row.limit}, {"samples", row.samples}};
  if (row.ratio) json["ratio"] = *row.ratio;
  if (const std::optional<bool> met = row.is_met()) json["met"] = *met;
  if (!row.skipped.empty()) json["skipped"] = row.skipped;
  if (row.ours) json["ours"] = to_json(*row.ours);
  if (row.baseline) json["baseline"] = to_json(*row.baseline);
  if (row.ours_cpu) json["ours"]["cpu_s_per_1000_calls"] = to_json(*row.ours_cpu);
  if (row.baseline_cpu) json["baseline"]["cpu_s_per_1000_calls"] = to_json(*row.baseline_cpu);
  if (!row.compares.empty()) json["compares"] = row.compares;
  if (!row.note.empty()) json["note"] = row.note;
  return json;
}

void set_ratio(FigureRow& row) {
  if (row.baseline->p50_us > 0) {
    row.ratio = row.ours->p50_us / row.baseline->p50_us;
  } else {
    row.skipped = "the noise is larger than the baseline";
  }
}

FigureRow row_of(const Figure& figure, const std::string& variant) {
  FigureRow row;
  row.name = variant.empty() ? figure.name : figure.name + "/" + variant;
  row.is_gate = variant.empty();
  row.bound = figure.bound;
  row.limit = figure.limit;
  return row;
}

FigureRow skipped_row(const Figure& figure, std::string reason, const std::string& variant) {
  FigureRow row = row_of(figure, variant);
  row.skipped = std::move(reason);
  return row;
}

}  // namespace bucketd
