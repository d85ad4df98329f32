// What can be told of a TorchScript function without running it.
//
// Thread safety: functions without state.
#pragma once

#include "daemon/backends/torchscript/libtorch.h"
// The precompiled header comes first.
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace bucketd::torchscript {

// The graph of `function` with everything that it calls in it; of its own.
std::shared_ptr<torch::jit::Graph> inlined_graph(const torch::jit::Function& function);

// Calls `visit(const torch::jit::Node*)` for every node of `block` and of the blocks in it.
template <typename Visit>
void visit_nodes(const torch::jit::Block* block, const Visit& visit) {
  for (const torch::jit::Node* node : block->nodes()) {
    visit(node);
    for (const torch::jit::Block* inner : node->blocks()) visit_nodes(inner, visit);
  }
}

// For every argument of `function` after `self`: whether it may be written in place. True when in
// doubt.
std::vector<bool> written_arguments(const torch::jit::Function& function);

// The tensors that `function`, a method of `self`, may write in place although they outlive its
// call: attributes of `self` and of what it holds, constants of its graph. Nothing when that cannot
// be told.
std::optional<std::vector<at::Tensor>> written_kept_tensors(const torch::jit::Function& function,
                                                            const c10::IValue& self);

struct PreprocessorAnalysis {
  // What it gives depends on the shapes of its arguments and the bucket index only, and is made of
  // views. False when in doubt.
  bool is_static = false;
  // Why not: "it reads values (aten::Int)".
  std::string reason;
  // The first operator that makes a tensor of another and is not known to give views: where copies
  // come from. May be empty.
  std::string copying_operator;
};
PreprocessorAnalysis analyse_preprocessor(const torch::jit::Function& function);

// Every tensor constant in the graphs of `module` and its submodules.
std::vector<at::Tensor> graph_constants(const torch::jit::Module& module);

}  // namespace bucketd::torchscript
