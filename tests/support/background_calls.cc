#include "tests/support/background_calls.h"

#include "tests/support/child_process.h"

namespace bucketd::test {

Status call_multi(Model& model) {
  const Result<Answer> answer = call(
      model, {filled<float>({1, 3}, 2), filled<std::int64_t>({1, 3}, 5)}, {.deadline = patience()});
  if (!answer) return answer.error();
  if (answer->outputs[0] == filled<float>({1, 3}, 10)) return {};
  return {StatusCode::kDataLoss, "a wrong answer"};
}

BackgroundCalls::BackgroundCalls(Model model)
    : thread_([this, model]() mutable {
        while (!stopping_) {
          error_ = call_multi(model);
          if (!error_.ok()) return;
          ++answers_;
        }
      }) {}

Status BackgroundCalls::stop() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
  return error_;
}

}  // namespace bucketd::test
