// Builders of the requests about sessions, and a test that has a model which counts.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "daemon/supervisor/testing/test_supervisor.h"

namespace bucketd::testing {

using flatbuffers::FlatBufferBuilder;

inline const auto kGetStatus = [](FlatBufferBuilder& builder) {
  return wire::CreateGetStatus(builder);
};

inline auto open_session(const std::string& model, const std::string& id = "") {
  return [=](FlatBufferBuilder& builder) {
    return wire::CreateOpenSession(builder, builder.CreateString(model), builder.CreateString(id));
  };
}

inline auto close_session(const std::string& id, bool keep_state = false) {
  return [=](FlatBufferBuilder& builder) {
    return wire::CreateCloseSession(builder, builder.CreateString(id), keep_state);
  };
}

inline auto operate(const std::string& id, wire::SessionOperation operation,
                    std::int64_t length = 0, std::int64_t current_length = -1,
                    bool stays_idle = false) {
  return [=](FlatBufferBuilder& builder) {
    return wire::CreateOperateSession(builder, builder.CreateString(id), operation, length,
                                      current_length, stays_idle);
  };
}

// Of a session that nobody has, which is not opened by it.
inline auto operate_idle(const std::string& id, wire::SessionOperation operation) {
  return operate(id, operation, 0, -1, true);
}

inline auto fork_session(const std::string& id) {
  return [=](FlatBufferBuilder& builder) {
    return wire::CreateForkSession(builder, builder.CreateString(id));
  };
}

inline auto read_state(const std::string& id, std::uint32_t state, std::uint64_t offset,
                       std::uint64_t byte_count) {
  return [=](FlatBufferBuilder& builder) {
    return wire::CreateReadState(builder, builder.CreateString(id), state, offset, byte_count);
  };
}

inline auto list_sessions(bool all_users = false) {
  return [=](FlatBufferBuilder& builder) { return wire::CreateListSessions(builder, all_users); };
}

struct Session {
  std::string id;
  std::uint64_t handle = 0;
};

class SessionTest : public ::testing::Test {
 protected:
  static constexpr std::uint8_t kEcho = 0;
  static constexpr std::uint8_t kCrash = 1;

  // The first element of model m's only state counts its requests, from 100 on.
  void serve_counter(const std::string& more = "", const std::string& artifact = "",
                     const std::string& model = "") {
    daemon_.write_artifact("m.pt", "name: m\nstates: 1\n" + artifact);
    daemon_.start("models: [{path: m.pt, name: m" + model + "}]\ncrash: {restart_delay_ms: 1}\n" +
                  more);
    daemon_.wait_ready();
  }
  static Session session_of(const Received& answer) {
    const wire::SessionOpened* opened = answer.message().body_as_SessionOpened();
    if (opened == nullptr) throw std::runtime_error(answer.status().to_string());
    return {opened->session_id()->str(), opened->session_handle()};
  }
  static float step(TestLane& lane, const Session& session) {
    lane.submit(kEcho, 1, 0, session.handle);
    const std::optional<CompletionEntry> completion = lane.completion();
    if (!completion || completion->status != 0) return -1;
    return lane.output(*completion);
  }
  // Element `index` of the session's state.
  static float element(ControlClient& client, const Session& session, std::uint64_t index = 0) {
    const Received answer =
        client.ask(read_state(session.id, 0, index * sizeof(float), sizeof(float)));
    const wire::StateBytes* read = answer.message().body_as_StateBytes();
    if (read == nullptr) throw std::runtime_error(answer.status().to_string());
    float value = 0;
    EXPECT_EQ(read->bytes()->size(), sizeof(value));
    std::memcpy(&value, read->bytes()->data(), sizeof(value));
    return value;
  }
  static const wire::SessionSummary* summary_of(const Received& list, const std::string& id) {
    for (const wire::SessionSummary* summary : *list.message().body_as_SessionList()->sessions()) {
      if (summary->session_id()->str() == id) return summary;
    }
    throw std::runtime_error("the session is not listed");
  }
  static std::uint32_t session_count(ControlClient& client) {
    return client.ask(kGetStatus).message().body_as_StatusReport()->sessions();
  }
  // A request of it kills its worker.
  static void tear(ControlClient& client, TestLane& lane, const Session& session) {
    lane.submit(kCrash, 1, 0, session.handle);
    lane.wait_closed();
    EXPECT_EQ(client.event().type(), wire::Body::ChannelClosed);
  }
  TestSupervisor daemon_;
};

}  // namespace bucketd::testing
