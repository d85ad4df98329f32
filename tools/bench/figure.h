// Figure: one thing that bucketd-bench shows, with the bound that it has to keep; and FigureRow,
// what was measured of it.
//
// A figure gives one row under its own name, the gate, and may add rows without a gate, whose names
// begin with its own: "overhead_vs_inprocess/4ms".
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bucketd/status.h"

namespace bucketd {

class BenchContext;

enum class Bound { kMax, kMin };

// Percentiles of one side, in microseconds.
struct Times {
  double p50_us = 0;
  double p99_us = 0;
  double p999_us = 0;
};

// By nearest rank. Asserts that there is a sample.
Times times_of(const std::vector<std::chrono::nanoseconds>& samples);
Times operator+(const Times& a, const Times& b);
// Never below zero.
Times operator-(const Times& times, double us);

// CPU seconds of a thousand calls.
struct CpuSeconds {
  double client = 0;
  double server = 0;
};

struct FigureRow {
  std::string name;
  bool is_gate = true;
  Bound bound = Bound::kMax;
  double limit = 0;
  // ours / baseline, or what the figure defines; nothing when it was skipped.
  std::optional<double> ratio;
  std::string skipped = {};  // why there is no ratio
  std::optional<Times> ours = {};
  std::optional<Times> baseline = {};
  std::optional<CpuSeconds> ours_cpu = {};
  std::optional<CpuSeconds> baseline_cpu = {};
  std::size_t samples = 0;    // of the side that has fewer
  std::string compares = {};  // "daemon call - bucket / in-process call - bucket"
  std::string note = {};      // what else was seen, in words

  // Whether the ratio keeps the bound; nothing when it was skipped.
  std::optional<bool> is_met() const;
};

// The row's object in the JSON report.
nlohmann::json to_json(const FigureRow& row);

struct Figure {
  std::string name;
  Bound bound = Bound::kMax;
  double limit = 0;
  std::vector<std::string> artifacts;  // names that artifacts/make_bench_artifacts.py knows
  // CPUs without which it cannot be measured.
  std::size_t cpus = 2;
  // The gate first. An error fails the run; what is only missing on this machine is a skipped row.
  std::function<Result<std::vector<FigureRow>>(BenchContext&, const Figure&)> measure;
};

// The ratio of the row's medians; skipped if noise left none of the baseline.
void set_ratio(FigureRow& row);

// A row of this figure with its name, bound and limit; `variant` makes it one without a gate.
FigureRow row_of(const Figure& figure, const std::string& variant = {});
FigureRow skipped_row(const Figure& figure, std::string reason, const std::string& variant = {});

}  // namespace bucketd
