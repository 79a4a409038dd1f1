# Compiler options that every target of the project shares, and the one way to declare a library or a test.

add_library(trireme_options INTERFACE)
target_include_directories(trireme_options INTERFACE ${CMAKE_SOURCE_DIR})
# The numerics contract: the compiler never fuses a multiply and an add by itself (ARCHITECTURE.md, Numerics).
target_compile_options(trireme_options INTERFACE -ffp-contract=off -Wall -Wextra -Wshadow -Wno-psabi
                       # Designated initialisers leave members at their defaults on purpose.
                       -Wno-missing-field-initializers)
if(TRIREME_SANITIZE)
  target_compile_options(trireme_options INTERFACE -fsanitize=${TRIREME_SANITIZE}
                         -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(trireme_options INTERFACE -fsanitize=${TRIREME_SANITIZE})
  if(TRIREME_SANITIZE MATCHES "thread")
    target_compile_options(trireme_options INTERFACE -Wno-tsan)  # Boost's atomic_thread_fence
  endif()
endif()

if(TRIREME_FUZZ)
  target_compile_options(trireme_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# trireme_library(NAME [DEPS lib...]): a static library of every .cpp in this folder tree.
function(trireme_library name)
  cmake_parse_arguments(ARG "" "" "DEPS;EXCLUDE;SOURCES" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  foreach(pattern IN LISTS ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  add_library(${name} STATIC ${sources} ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC trireme_options Threads::Threads fmt::fmt ${ARG_DEPS})
endfunction()

# trireme_test(NAME [DEPS lib...]): a GoogleTest program of every *_test.cpp in this folder.
function(trireme_test name)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(${name} ${sources})
  target_link_libraries(${name} PRIVATE trireme_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE TRIREME_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  include(GoogleTest)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT 600)
endfunction()
