#include "tools/bench/artifact_comparison.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "bucketd/client.h"
#include "tools/bench/daemon_caller.h"
#include "tools/bench/in_process.h"
#include "tools/bench/local_daemon.h"
#include "tools/bench/percentiles.h"

namespace bucketd {
namespace {

using std::chrono::nanoseconds;

constexpr const char* kLocalModel = "bench";
// Answers further apart than this are an error: there is no use in timing two different things.
constexpr double kTolerance = 1e-3;

// One line of the table: inputs of these shapes.
struct Case {
  std::size_t bucket = 0;
  std::vector<Shape> shapes;
};

struct Row {
  Case what;
  std::vector<nanoseconds> daemon;
  std::vector<nanoseconds> in_process;
};

// Each bucket exactly filled, and three quarters full in the dimensions that it pads.
std::vector<Case> cases_of(const ModelDescription& model) {
  std::vector<Case> cases;
  for (std::size_t b = 0; b < model.buckets.size(); ++b) {
    const std::vector<Shape>& full = model.buckets[b].inputs;
    std::vector<Shape> part = full;
    for (std::size_t i = 0; model.checks_inputs && i < part.size(); ++i) {
      for (std::size_t d = 0; d < part[i].rank(); ++d) {
        const DimRange& range = model.accepted[i][d];
        if (range.min < range.max) part[i][d] = std::max(range.min, full[i][d] * 3 / 4);
      }
    }
    if (part != full) cases.push_back({b, part});
    cases.push_back({b, full});
  }
  return cases;
}

Result<Reply> call_daemon(Model& model, const std::vector<Shape>& shapes,
                          const OnesInputs& inputs) {
  Result<Request> request = model.new_request(shapes);
  if (!request) return error(request.error());
  for (std::size_t i = 0; i < inputs.memory().size(); ++i) {
    request->raw_input(i).copy_from(inputs.memory()[i]);
  }
  return std::move(*request).run();
}

// Largest difference of the whole outputs, where both are float32 or float64.
Result<double> compare_answers(Model& model, InProcessModel& local, const Case& what,
                               const OnesInputs& inputs) {
  const Result<Reply> reply = call_daemon(model, what.shapes, inputs);
  if (!reply) return error(reply.error());
  if (Status s = local.run(inputs.views()); !s.ok()) return error(s);
  double largest = 0;
  for (std::size_t o = 0; o < reply->output_count(); ++o) {
    if (reply->raw_full_output(o).dtype != DType::kFloat32) continue;
    const std::vector<float> answer = reply->full_output<float>(o).to_vector();
    const std::vector<double> expected = local.output(o);
    if (answer.size() != expected.size()) {
      return error(StatusCode::kInternal, "output " + std::to_string(o) +
                                              " has another size in the daemon than in-process");
    }
    for (std::size_t i = 0; i < answer.size(); ++i) {
      largest = std::max(largest, std::fabs(answer[i] - expected[i]));
    }
  }
  return largest;
}

Result<Row> measure(Model& model, InProcessModel& local, const Case& what,
                    const ComparisonOptions& options) {
  const OnesInputs inputs(model.description(), what.shapes);
  // LibTorch specialises a graph in its first calls, the client learns the plan in its first.
  for (int warm_up = 0; warm_up < 3; ++warm_up) {
    const Result<double> difference = compare_answers(model, local, what, inputs);
    if (!difference) return error(difference.error());
    if (!(*difference <= kTolerance)) {
      return error(StatusCode::kInternal,
                   "daemon and in-process answers differ by " + std::to_string(*difference));
    }
  }
  Row row{what, {}, {}};
  const auto started = std::chrono::steady_clock::now();
  const auto limit = std::chrono::duration<double>(options.seconds);
  for (std::size_t i = 0; i < options.calls; ++i) {
    const auto before = std::chrono::steady_clock::now();
    const Result<Reply> reply = call_daemon(model, what.shapes, inputs);
    const auto between = std::chrono::steady_clock::now();
    if (!reply) return error(reply.error());
    const auto before_local = std::chrono::steady_clock::now();
    if (Status s = local.run(inputs.views()); !s.ok()) return error(s);
    const auto after = std::chrono::steady_clock::now();
    row.daemon.push_back(between - before);
    row.in_process.push_back(after - before_local);
    if (i >= 20 && after - started > limit) break;
  }
  return row;
}

std::string shapes_text(const std::vector<Shape>& shapes) {
  std::string text;
  for (const Shape& shape : shapes) text += (text.empty() ? "" : " ") + shape.to_string();
  return text;
}

double microseconds(nanoseconds time) { return static_cast<double>(time.count()) / 1000; }

void print_row(const Row& row) {
  const double daemon = microseconds(percentile(row.daemon, 50));
  const double local = microseconds(percentile(row.in_process, 50));
  std::printf("%6zu  %5zu  %10.1f  %10.1f  %10.1f  %10.1f  %9.3f  %s\n", row.what.bucket,
              row.daemon.size(), daemon, microseconds(percentile(row.daemon, 99)), local,
              microseconds(percentile(row.in_process, 99)), daemon / local,
              shapes_text(row.what.shapes).c_str());
  std::fflush(stdout);
}

nlohmann::json row_json(const Row& row) {
  nlohmann::json shapes = nlohmann::json::array();
  for (const Shape& shape : row.what.shapes) {
    shapes.push_back(std::vector<std::int64_t>(shape.dims().begin(), shape.dims().end()));
  }
  const auto side = [](const std::vector<nanoseconds>& samples) {
    return nlohmann::json{{"p50_us", microseconds(percentile(samples, 50))},
                          {"p99_us", microseconds(percentile(samples, 99))}};
  };
  return {{"bucket", row.what.bucket},
          {"inputs", shapes},
          {"calls", row.daemon.size()},
          {"daemon", side(row.daemon)},
          {"in_process", side(row.in_process)},
          {"ratio_p50", microseconds(percentile(row.daemon, 50)) /
                            microseconds(percentile(row.in_process, 50))}};
}

nlohmann::json machine_json() {
  utsname system{};
  ::uname(&system);
  return {{"cpus", ::sysconf(_SC_NPROCESSORS_ONLN)}, {"kernel", system.release}};
}

}  // namespace

Status compare_artifact(const ComparisonOptions& options) {
  Result<std::unique_ptr<InProcessModel>> local = load_in_process(options.artifact, 1);
  if (!local) return local.error();

  std::optional<LocalDaemon> daemon;
  if (options.socket.empty()) {
    Result<LocalDaemon> started = LocalDaemon::serving(options.artifact, kLocalModel);
    if (!started) return started.error();
    daemon.emplace(std::move(*started));
  }
  Result<Client> client = Client::connect(
      {.socket_path = daemon ? daemon->socket_path() : options.socket,
       .transport = options.transport == "stream" ? Transport::kStream : Transport::kRing,
       .connect_timeout = std::chrono::seconds(60),
       .reconnect_timeout = std::chrono::minutes(5),
       .name = "bucketd-bench"});
  if (!client) return client.error().with_context(daemon ? daemon->log() : "");
  Result<Model> model = client->open(daemon ? kLocalModel : options.model);
  if (!model) return model.error();

  std::printf("%s, %s transport; times in us, one core and one thread on either side\n",
              options.artifact.c_str(), options.transport.c_str());
  std::printf("bucket  calls  daemon p50  daemon p99   local p50   local p99  p50 ratio  inputs\n");
  nlohmann::json rows = nlohmann::json::array();
  for (const Case& what : cases_of(model->description())) {
    const Result<Row> row = measure(*model, **local, what, options);
    if (!row) return row.error().with_context("inputs " + shapes_text(what.shapes));
    print_row(*row);
    rows.push_back(row_json(*row));
  }
  if (!options.json_file.empty()) {
    const nlohmann::json report = {{"artifact", options.artifact},
                                   {"transport", options.transport},
                                   {"machine", machine_json()},
                                   {"rows", rows}};
    if (!(std::ofstream(options.json_file) << report.dump(2) << "\n")) {
      return {StatusCode::kInvalidArgument, "cannot write '" + options.json_file + "'"};
    }
  }
  return {};
}

}  // namespace bucketd
