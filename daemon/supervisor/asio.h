// Boost.Asio, as the supervisor uses it: one io_context, run by one thread. Other files include
// this header and never Boost.Asio itself.
#pragma once

// Boost 1.74 uses std::exchange without including its header.
#include <utility>
// Keeps that order.
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

namespace bucketd::supervisor {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;

}  // namespace bucketd::supervisor
