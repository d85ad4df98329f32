# bucketd_libtorch: LibTorch's headers and libraries, found as files.
#
# Not find_package(Torch): its targets bring flags and include folders that differ from release to
# release (CXX_STANDARD 14, CUDA and MKL look-ups, warnings). What is needed are two include folders
# and two libraries. LibTorch of Debian lies in the system's folders; that of pip is given by
#   -DBUCKETD_LIBTORCH=$(python3 -c 'import torch; print(torch.__path__[0])')
set(BUCKETD_LIBTORCH "" CACHE PATH "Folder with LibTorch's include/ and lib/; empty: the system's")

set(hints)
if(BUCKETD_LIBTORCH)
  set(hints HINTS ${BUCKETD_LIBTORCH} NO_DEFAULT_PATH)
endif()
find_path(BUCKETD_LIBTORCH_INCLUDE torch/csrc/jit/api/module.h ${hints} PATH_SUFFIXES include)
find_library(BUCKETD_LIBTORCH_CPU torch_cpu ${hints} PATH_SUFFIXES lib)
find_library(BUCKETD_LIBTORCH_C10 c10 ${hints} PATH_SUFFIXES lib)
foreach(found BUCKETD_LIBTORCH_INCLUDE BUCKETD_LIBTORCH_CPU BUCKETD_LIBTORCH_C10)
  if(NOT ${found})
    message(FATAL_ERROR "LibTorch not found: install libtorch-dev (tools/install-packages.sh), or "
                        "give -DBUCKETD_LIBTORCH=FOLDER, or -DBUCKETD_WITH_TORCH=OFF")
  endif()
endforeach()

# Our std::string has to be LibTorch's: its own exported names tell which one that is.
file(STRINGS ${BUCKETD_LIBTORCH_C10} cxx11_names REGEX "cxx1112basic_string" LIMIT_COUNT 1)
if(NOT cxx11_names)
  message(FATAL_ERROR "${BUCKETD_LIBTORCH_C10} was built with the old C++ ABI "
                      "(_GLIBCXX_USE_CXX11_ABI=0); LibTorch 2.6 or later, or Debian's, is needed")
endif()

# LibTorch 1.13's headers use std::vector of a class that is not complete yet. That is no C++20 to
# clang 14, which instantiates constexpr members early; GCC takes it.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  include(CheckCXXSourceCompiles)
  set(CMAKE_REQUIRED_INCLUDES ${BUCKETD_LIBTORCH_INCLUDE}
      ${BUCKETD_LIBTORCH_INCLUDE}/torch/csrc/api/include)
  set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
  check_cxx_source_compiles("#include <torch/script.h>" BUCKETD_LIBTORCH_COMPILES)
  unset(CMAKE_TRY_COMPILE_TARGET_TYPE)
  unset(CMAKE_REQUIRED_INCLUDES)
  if(NOT BUCKETD_LIBTORCH_COMPILES)
    message(STATUS "This compiler does not take LibTorch's headers: no TorchScript backend, no "
                   "bucketd-worker")
    return()
  endif()
endif()

add_library(bucketd_libtorch INTERFACE)
target_include_directories(bucketd_libtorch SYSTEM INTERFACE
                           ${BUCKETD_LIBTORCH_INCLUDE}
                           ${BUCKETD_LIBTORCH_INCLUDE}/torch/csrc/api/include)
target_link_libraries(bucketd_libtorch INTERFACE ${BUCKETD_LIBTORCH_CPU} ${BUCKETD_LIBTORCH_C10})
