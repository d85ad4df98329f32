#include "tools/bench/plots.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tools/bench/client_load.h"
#include "tools/bench/payload_comparison.h"

namespace bucketd {
namespace {

constexpr std::uint64_t kPayloads[] = {64, 4096, 65536, 1U << 20, 1U << 24, 1U << 26};
constexpr std::size_t kClientCounts[] = {1, 2, 4, 8};
constexpr const char* kClientsArtifact = "guide_20us";

struct Plot {
  std::string name;
  std::string title;
  std::string x_label;
  std::vector<std::string> lines;              // legends
  std::vector<std::vector<double>> rows = {};  // x, then a y for each line; negative: none
};

Status write_file(const std::filesystem::path& file, const std::string& text) {
  if (!(std::ofstream(file) << text)) {
    return {StatusCode::kInvalidArgument, "cannot write '" + file.string() + "'"};
  }
  return {};
}

std::string data_text(const Plot& plot) {
  std::ostringstream text;
  text << "# " << plot.x_label;
  for (const std::string& line : plot.lines) text << "\t" << line;
  text << "\n";
  for (const std::vector<double>& row : plot.rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      text << (i == 0 ? "" : "\t");
      row[i] < 0 ? text << "?" : text << row[i];
    }
    text << "\n";
  }
  return text.str();
}

std::string script_text(const Plot& plot) {
  std::ostringstream text;
  text << "set terminal svg size 800,500\nset output '" << plot.name << ".svg'\n"
       << "set title '" << plot.title << "'\nset xlabel '" << plot.x_label
       << "'\nset ylabel 'microseconds'\nset logscale xy\nset grid\nset key left top\n"
       << "set datafile missing '?'\nplot";
  for (std::size_t i = 0; i < plot.lines.size(); ++i) {
    text << (i == 0 ? " " : ", ") << "'" << plot.name << ".dat' using 1:" << i + 2
         << " with linespoints title '" << plot.lines[i] << "'";
  }
  text << "\n";
  return text.str();
}

// Whether it drew something.
bool run_gnuplot(const std::filesystem::path& folder, const std::string& script) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (::chdir(folder.c_str()) != 0) ::_exit(127);
    ::execlp("gnuplot", "gnuplot", script.c_str(), nullptr);
    ::_exit(127);
  }
  int status = -1;
  return pid > 0 && ::waitpid(pid, &status, 0) == pid && status == 0;
}

Status draw(const Plot& plot, const std::filesystem::path& folder) {
  if (Status s = write_file(folder / (plot.name + ".dat"), data_text(plot)); !s.ok()) return s;
  const std::string script = plot.name + ".gnuplot";
  if (Status s = write_file(folder / script, script_text(plot)); !s.ok()) return s;
  if (!run_gnuplot(folder, script)) {
    std::fprintf(stderr,
                 "%s.svg was not drawn: package gnuplot-nox is missing, or gnuplot failed\n",
                 plot.name.c_str());
  }
  return {};
}

Result<Plot> latency_over_payload(BenchContext& context) {
  Plot plot{"latency_over_payload",
            "Probe model, writing of the input included (median)",
            "bytes of input",
            {}};
  for (const std::uint64_t bytes : kPayloads) {
    const Result<std::vector<PayloadSide>> sides = compare_payload(context, bytes);
    if (!sides) return error(sides.error());
    if (plot.lines.empty()) {
      for (const PayloadSide& side : *sides) plot.lines.push_back(side.what);
    }
    std::vector<double> row = {static_cast<double>(bytes)};
    for (const PayloadSide& side : *sides) {
      row.push_back(side.skipped.empty() ? side.measured.times().p50_us : -1);
    }
    plot.rows.push_back(row);
  }
  return plot;
}

Result<Plot> latency_over_clients(BenchContext& context) {
  Plot plot{"latency_over_clients",
            "A bucket of 20 us, one request in flight a client",
            "client processes",
            {"median", "99th percentile"}};
  for (const std::size_t clients : kClientCounts) {
    const Result<ClientLoad> load = measure_load(context, kClientsArtifact, clients);
    if (!load) return error(load.error());
    const Times times = times_of(load->latencies);
    plot.rows.push_back({static_cast<double>(clients), times.p50_us, times.p99_us});
  }
  return plot;
}

}  // namespace

Status write_plots(BenchContext& context, const std::filesystem::path& folder) {
  std::error_code problem;
  std::filesystem::create_directories(folder, problem);
  std::vector<std::string> artifacts = {kClientsArtifact};
  for (const std::uint64_t bytes : kPayloads) artifacts.push_back(probe_artifact(bytes));
  if (Status status = context.make_artifacts(artifacts); !status.ok()) return status;
  for (const auto measure : {latency_over_payload, latency_over_clients}) {
    const Result<Plot> plot = measure(context);
    if (!plot) return plot.error();
    if (Status status = draw(*plot, folder); !status.ok()) return status;
  }
  return {};
}

}  // namespace bucketd
