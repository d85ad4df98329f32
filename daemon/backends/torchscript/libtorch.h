// Every LibTorch header that this folder uses, and the precompiled header of its target: one of
// them takes a compiler 15 seconds. Included first, and by files of this folder only.
//
// LibTorch 1.13 to 2.x: only what both have. No c10::optional is named: 2.x has std::optional.
#pragma once

#include <ATen/Parallel.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <caffe2/serialize/versions.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/script.h>
#include <torch/version.h>
