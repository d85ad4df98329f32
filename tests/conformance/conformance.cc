#include "tests/conformance/conformance.h"

#include <cstdint>

namespace bucketd::test {

std::unique_ptr<TestDaemon> Conformance::daemon_;

void Conformance::SetUpTestSuite() {
  nlohmann::json models = TestDaemon::model_list(
      {"two_dims", "left_pad", "script_kernel", "multi", "static_one", "slow", "counter"});
  for (std::uint8_t dtype = 1; is_known_dtype(dtype); ++dtype) {
    const std::string name = "identity_" + std::string(dtype_name(static_cast<DType>(dtype)));
    models.push_back({{"name", name}, {"path", name + ".pt"}});
  }
  for (std::size_t rank = 0; rank <= kMaxRank; ++rank) {
    const std::string name = "rank_" + std::to_string(rank);
    models.push_back({{"name", name}, {"path", name + ".pt"}});
  }
  models.push_back({{"name", kSlowAlone}, {"path", "slow.pt"}, {"worker", 1}});
  const nlohmann::json workers = {{{"first_core", 0}, {"cores", 2}},
                                  {{"first_core", 2}, {"cores", 1}}};
  daemon_ = std::make_unique<TestDaemon>(nlohmann::json{{"models", models}, {"workers", workers}});
  ASSERT_TRUE(daemon_->start());
}

void Conformance::TearDownTestSuite() {
  if (daemon_) daemon_->expect_clean_stop();
  daemon_.reset();
}

INSTANTIATE_TEST_SUITE_P(Transports, Conformance,
                         ::testing::Values(Transport::kRing, Transport::kStream),
                         [](const auto& info) {
                           return info.param == Transport::kRing ? "ring" : "stream";
                         });

}  // namespace bucketd::test
