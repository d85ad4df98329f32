#include "daemon/backends/torchscript/exception_text.h"

#include <gtest/gtest.h>

namespace bucketd::torchscript {
namespace {

TEST(ExceptionText, an_interpreter_failure_is_its_exception_without_the_traceback) {
  EXPECT_EQ(readable_reason("The following operation failed in the TorchScript interpreter.\n"
                            "Traceback of TorchScript, serialized code (most recent call last):\n"
                            "  File \"code/__torch__/secret/place.py\", line 7, in forward\n"
                            "    y = ops.prim.RaiseException(\"no\", \"builtins.ValueError\")\n"
                            "        ~~~~~~~~~~~~~~~~~~~~~~~~ <--- HERE\n"
                            "    return y\n"
                            "\n"
                            "Traceback of TorchScript, original code (most recent call last):\n"
                            "  File \"/home/somebody/model.py\", line 3, in forward\n"
                            "    raise ValueError(\"no\")\n"
                            "    ~~~~~~~~~~~~~~~~~~~~~ <--- HERE\n"
                            "    return x\n"
                            "builtins.ValueError: negative numbers are\n"
                            "not for this model\n"),
            "ValueError: negative numbers are");
}

TEST(ExceptionText, a_c10_error_loses_its_stack_and_its_source_position) {
  EXPECT_EQ(readable_reason("The size of tensor a (3) must match the size of tensor b (4)\n"
                            "Exception raised from infer_size_impl at ./aten/src/x.cpp:35 (most"),
            "The size of tensor a (3) must match the size of tensor b (4)");
  EXPECT_EQ(readable_reason("x INTERNAL ASSERT FAILED at \"../torch/csrc/jit/x.cpp\":615, please "
                            "report a bug to PyTorch. why"),
            "x INTERNAL ASSERT FAILED, please report a bug to PyTorch. why");
}

TEST(ExceptionText, lack_of_memory_is_recognised_and_readable) {
  constexpr char kText[] =
      "[enforce fail at alloc_cpu.cpp:66] . DefaultCPUAllocator: can't allocate memory: you tried "
      "to allocate 80 bytes. Error code 12 (Cannot allocate memory)";
  EXPECT_TRUE(is_out_of_memory(kText));
  EXPECT_EQ(readable_reason(kText),
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes. Error "
            "code 12 (Cannot allocate memory)");
  EXPECT_FALSE(is_out_of_memory("The size of tensor a must match"));
}

TEST(ExceptionText, a_parser_error_keeps_its_first_line) {
  EXPECT_EQ(readable_reason("\nexpected a valid token but found ' ' here:\n  File \"code/x.py\"\n"
                            "   x ~~~ <--- HERE\n"),
            "expected a valid token but found ' ' here:");
}

TEST(ExceptionText, every_text_gives_one_printable_line) {
  EXPECT_EQ(readable_reason(""), "no reason given");
  EXPECT_EQ(readable_reason(" \n\n "), "no reason given");
  EXPECT_EQ(readable_reason("<--- HERE"), "<--- HERE");
  EXPECT_EQ(readable_reason("[enforce fail"), "[enforce fail");
  EXPECT_EQ(readable_reason("[enforce fail at x]"), "]");
  EXPECT_EQ(readable_reason("a\x1b[31mb"), "a [31mb");
  EXPECT_EQ(readable_reason(std::string(299, 'a') + "\u00e9"), std::string(299, 'a'));
  EXPECT_EQ(readable_reason(std::string(1000, 'a')).size(), 300u);
}

}  // namespace
}  // namespace bucketd::torchscript
