# Rules that every folder's CMakeLists.txt uses.

# Options of every target of ours.
add_library(bucketd_options INTERFACE)
target_compile_options(bucketd_options INTERFACE -Wall -Wextra -Werror)
target_include_directories(bucketd_options INTERFACE ${CMAKE_SOURCE_DIR})
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # -fpch-preprocess lets ccache see through a precompiled header.
  target_compile_options(bucketd_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
endif()
if(BUCKETD_SANITIZE)
  target_compile_options(bucketd_options INTERFACE -fsanitize=${BUCKETD_SANITIZE}
                         -fno-sanitize-recover=all)
  target_link_options(bucketd_options INTERFACE -fsanitize=${BUCKETD_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12 reports false maybe-uninitialized and array-bounds findings in instrumented code.
    target_compile_options(bucketd_options INTERFACE -Wno-error=maybe-uninitialized
                           -Wno-error=array-bounds -Wno-error=stringop-overflow
                           -Wno-error=restrict)
    if(BUCKETD_SANITIZE MATCHES thread)
      # Fences are invisible to it. Ours only order the sleep protocol (common/README.md); data is
      # published by release and acquire.
      target_compile_options(bucketd_options INTERFACE -Wno-tsan)
    endif()
  endif()
endif()
if(BUCKETD_FUZZ)
  target_compile_options(bucketd_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# What sanitized programs run with, in tests as by hand (tools/sanitizers/README.md says why).
set(BUCKETD_SANITIZER_ENVIRONMENT)
if(BUCKETD_SANITIZE)
  file(STRINGS ${CMAKE_SOURCE_DIR}/tools/sanitizers/environment BUCKETD_SANITIZER_ENVIRONMENT
       REGEX "^[A-Z]+_OPTIONS=")
  string(REPLACE "@folder@" "${CMAKE_SOURCE_DIR}/tools/sanitizers" BUCKETD_SANITIZER_ENVIRONMENT
         "${BUCKETD_SANITIZER_ENVIRONMENT}")
endif()

# bucketd_library(NAME SOURCES... [LIBRARIES...]): a static library of ours.
function(bucketd_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC bucketd_options ${arg_LIBRARIES})
endfunction()

# bucketd_executable(NAME SOURCES... [LIBRARIES...]): an executable in build/<preset>/bin.
function(bucketd_executable name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE bucketd_options ${arg_LIBRARIES})
endfunction()

# The precompiled header of all tests. It belongs to an executable, since what is compiled for one
# (-fPIE) differs from what is compiled for a library.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/test_headers.cc CONTENT "int main() {}\n")
add_executable(bucketd_test_headers ${CMAKE_BINARY_DIR}/test_headers.cc)
target_link_libraries(bucketd_test_headers PRIVATE bucketd_options GTest::gmock GTest::gtest_main)
target_precompile_headers(bucketd_test_headers PRIVATE
  <gmock/gmock.h> <gtest/gtest.h> <flatbuffers/flatbuffers.h> <algorithm> <array> <atomic> <chrono>
  <condition_variable> <filesystem> <functional> <map> <memory> <mutex> <optional> <span> <string>
  <thread> <vector>)

# bucketd_test(NAME SOURCES... [LIBRARIES...] [LABELS...] [TIMEOUT seconds] [ENVIRONMENT...] [SERIAL]):
# one GoogleTest program, one ctest entry. Labels default to `unit`.
function(bucketd_test name)
  cmake_parse_arguments(arg "SERIAL" "TIMEOUT" "SOURCES;LIBRARIES;LABELS;ENVIRONMENT" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE bucketd_options ${arg_LIBRARIES} GTest::gmock
                        GTest::gtest_main)
  target_precompile_headers(${name} REUSE_FROM bucketd_test_headers)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # A precompiled header hides from GCC 12 that std::string is the system's: it reports what it
    # wrongly believes of concatenations.
    target_compile_options(${name} PRIVATE -Wno-error=array-bounds -Wno-error=restrict)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT})
  list(APPEND arg_ENVIRONMENT ${BUCKETD_SANITIZER_ENVIRONMENT})
  if(arg_ENVIRONMENT)
    set_tests_properties(${name} PROPERTIES ENVIRONMENT "${arg_ENVIRONMENT}")
  endif()
  if(arg_SERIAL)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL ON)
  endif()
  foreach(source IN LISTS arg_SOURCES)
    cmake_path(ABSOLUTE_PATH source OUTPUT_VARIABLE absolute)
    set_property(GLOBAL APPEND PROPERTY BUCKETD_TEST_SOURCES ${absolute})
  endforeach()
endfunction()

# A file named x_test.cc that no bucketd_test() names would silently not run.
function(bucketd_check_every_test_is_registered)
  file(GLOB_RECURSE found CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/common/*_test.cc
       ${CMAKE_SOURCE_DIR}/libclient/*_test.cc ${CMAKE_SOURCE_DIR}/daemon/*_test.cc
       ${CMAKE_SOURCE_DIR}/tools/*_test.cc ${CMAKE_SOURCE_DIR}/tests/*_test.cc)
  get_property(registered GLOBAL PROPERTY BUCKETD_TEST_SOURCES)
  foreach(source IN LISTS found)
    if(NOT source IN_LIST registered)
      set(message "${source} is not registered with bucketd_test()")
      if(BUCKETD_WITH_TORCH)
        message(SEND_ERROR ${message})
      else()
        message(STATUS "${message} (LibTorch is switched off)")
      endif()
    endif()
  endforeach()
endfunction()
