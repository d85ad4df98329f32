#include "tools/bench/report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tools/bench/cpu.h"

namespace bucketd {
namespace {

std::string times_text(const std::optional<Times>& times) {
  if (!times) return "-";
  char text[64];
  std::snprintf(text, sizeof(text), "%.1f/%.1f/%.1f", times->p50_us, times->p99_us, times->p999_us);
  return text;
}

std::string cpu_text(const std::optional<CpuSeconds>& cpu) {
  if (!cpu) return "-";
  char text[64];
  std::snprintf(text, sizeof(text), "%.4f+%.4f", cpu->client, cpu->server);
  return text;
}

nlohmann::json machine_json() {
  utsname system{};
  ::uname(&system);
  double load[1] = {0};
  ::getloadavg(load, 1);
  return {{"cpus", usable_cpus().size()}, {"kernel", system.release}, {"load", load[0]}};
}

}  // namespace

void print_table_head() {
  std::printf("times in us: p50/p99/p99.9; CPU: seconds of 1000 calls, client+daemon\n");
  std::printf("%-36s %26s %26s %9s %9s %-8s %17s %7s  %s\n", "figure", "ours", "baseline", "ratio",
              "limit", "", "CPU", "samples", "what");
}

void print_row(const FigureRow& row) {
  if (!row.ratio) {
    std::printf("%-36s skipped: %s\n", row.name.c_str(), row.skipped.c_str());
    std::fflush(stdout);
    return;
  }
  char limit[32];
  std::snprintf(limit, sizeof(limit), "%s%.4g", row.bound == Bound::kMax ? "<=" : ">=", row.limit);
  std::printf("%-36s %26s %26s %9.4f %9s %-8s %17s %7zu  %s%s%s\n", row.name.c_str(),
              times_text(row.ours).c_str(), times_text(row.baseline).c_str(), *row.ratio,
              row.is_gate ? limit : "", row.is_gate ? (*row.is_met() ? "met" : "NOT MET") : "",
              cpu_text(row.ours_cpu).c_str(), row.samples, row.compares.c_str(),
              row.note.empty() ? "" : "; ", row.note.c_str());
  std::fflush(stdout);
}

void print_summary(const std::vector<FigureRow>& rows) {
  int met = 0;
  int missed = 0;
  int skipped = 0;
  for (const FigureRow& row : rows) {
    if (!row.is_gate) continue;
    const std::optional<bool> is_met = row.is_met();
    ++(!is_met ? skipped : *is_met ? met : missed);
  }
  std::printf("%d met, %d not met, %d skipped\n", met, missed, skipped);
}

nlohmann::json report_json(const std::vector<FigureRow>& rows, bool is_quick) {
  nlohmann::json figures = nlohmann::json::array();
  nlohmann::json details = nlohmann::json::array();
  for (const FigureRow& row : rows) (row.is_gate ? figures : details).push_back(to_json(row));
  return {
      {"machine", machine_json()}, {"quick", is_quick}, {"figures", figures}, {"details", details}};
}

Status write_report(const std::filesystem::path& file, const std::vector<FigureRow>& rows,
                    bool is_quick) {
  if (!(std::ofstream(file) << report_json(rows, is_quick).dump(2) << "\n")) {
    return {StatusCode::kInvalidArgument, "cannot write '" + file.string() + "'"};
  }
  return {};
}

}  // namespace bucketd
