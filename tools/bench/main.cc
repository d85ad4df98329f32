// bucketd-bench: every figure by which bucketd is judged, each beside its baseline, in one run; or,
// with an artifact, round trips through a daemon beside forward() of that file.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include "tools/bench/artifact_comparison.h"
#include "tools/bench/bench_context.h"
#include "tools/bench/cpu.h"
#include "tools/bench/figures/figures.h"
#include "tools/bench/plots.h"
#include "tools/bench/report.h"
#include "tools/bench/turn_process.h"

namespace bucketd {
namespace {

struct Arguments {
  ComparisonOptions comparison;
  bool quick = false;
  bool list = false;
  std::vector<std::string> only;
  std::string artifact_folder;
  std::string plot_folder;
};

std::vector<Figure> chosen_figures(const std::vector<std::string>& only) {
  std::vector<Figure> figures = all_figures();
  if (only.empty()) return figures;
  std::erase_if(figures, [&](const Figure& figure) {
    return std::find(only.begin(), only.end(), figure.name) == only.end();
  });
  return figures;
}

Status run_figures(const Arguments& arguments) {
  BenchContext context(
      {.quick = arguments.quick,
       .artifact_folder = std::filesystem::absolute(
           arguments.artifact_folder.empty() ? program_folder().parent_path() / "bench-artifacts"
                                             : std::filesystem::path(arguments.artifact_folder))});
  const std::vector<Figure> figures = chosen_figures(arguments.only);
  std::vector<std::string> artifacts;
  for (const Figure& figure : figures) {
    artifacts.insert(artifacts.end(), figure.artifacts.begin(), figure.artifacts.end());
  }
  if (Status status = context.make_artifacts(artifacts); !status.ok()) return status;
  std::vector<FigureRow> all;
  print_table_head();
  for (const Figure& figure : figures) {
    Result<std::vector<FigureRow>> rows =
        usable_cpus().size() < figure.cpus
            ? std::vector<FigureRow>{skipped_row(figure,
                                                 "needs " + std::to_string(figure.cpus) + " CPUs")}
            : figure.measure(context, figure);
    if (!rows) return rows.error().with_context(figure.name);
    for (const FigureRow& row : *rows) {
      print_row(row);
      all.push_back(row);
    }
  }
  print_summary(all);
  if (!arguments.plot_folder.empty()) {
    if (Status status = write_plots(context, arguments.plot_folder); !status.ok()) return status;
  }
  if (arguments.comparison.json_file.empty()) return {};
  return write_report(arguments.comparison.json_file, all, arguments.quick);
}

std::vector<std::string> figure_names() {
  std::vector<std::string> names;
  for (const Figure& figure : all_figures()) names.push_back(figure.name);
  return names;
}

int bench_main(int argc, char** argv) {
  Arguments arguments;
  ComparisonOptions& comparison = arguments.comparison;
  CLI::App app(
      "Measures every figure of bucketd beside its baseline; with an artifact, calls through a "
      "daemon beside forward() of that file in this process.",
      "bucketd-bench");
  app.add_flag("--quick", arguments.quick, "everything in less than a minute, roughly");
  app.add_option("--json", comparison.json_file, "also write the figures to this file");
  app.add_option("--only", arguments.only, "these figures, separated by commas")
      ->delimiter(',')
      ->check(CLI::IsMember(figure_names()));
  app.add_flag("--list", arguments.list, "name the figures and end");
  app.add_option("--artifacts", arguments.artifact_folder,
                 "where the figures' artifacts are, or are made [default: bench-artifacts in the "
                 "build folder]");
  app.add_option("--plot", arguments.plot_folder,
                 "also measure and draw latency over payload and over clients, into this folder");
  CLI::Option* artifact = app.add_option("ARTIFACT,--artifact", comparison.artifact,
                                         "a bucket model's TorchScript file")
                              ->check(CLI::ExistingFile);
  CLI::Option* socket = app.add_option("--socket", comparison.socket,
                                       "a daemon that runs already [default: starts its own]")
                            ->needs(artifact);
  app.add_option("--model", comparison.model, "the artifact's name in that daemon")->needs(socket);
  app.add_option("--transport", comparison.transport, "ring or stream")
      ->capture_default_str()
      ->check(CLI::IsMember({"ring", "stream"}))
      ->needs(artifact);
  app.add_option("--calls", comparison.calls, "most calls of a row")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->needs(artifact);
  app.add_option("--seconds", comparison.seconds, "about how long a row may take")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->needs(artifact);
  try {
    app.parse(argc, argv);
    if (!comparison.socket.empty() && comparison.model.empty()) {
      throw CLI::ValidationError("--socket", "needs --model");
    }
  } catch (const CLI::ParseError& problem) {
    return app.exit(problem) == 0 ? 0 : 2;
  }
  if (arguments.list) {
    for (const std::string& name : figure_names()) std::cout << name << "\n";
    return 0;
  }
  // At most 30 calls a row.
  if (arguments.quick) comparison.calls = std::min<std::size_t>(comparison.calls, 30);
  const Status status =
      comparison.artifact.empty() ? run_figures(arguments) : compare_artifact(comparison);
  if (status.ok()) return 0;
  std::cerr << "bucketd-bench: " << status.to_string() << "\n";
  return 1;
}

}  // namespace
}  // namespace bucketd

int main(int argc, char** argv) { return bucketd::bench_main(argc, argv); }
