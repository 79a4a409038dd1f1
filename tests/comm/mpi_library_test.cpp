#include "comm/mpi_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/result.h"

namespace trireme::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(MpiLibrary, AMissingLibraryIsAnErrorWithCauseAndMend) {
  try {
    MpiLibrary::load("libmpi-that-is-not-there.so.40");
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("libmpi-that-is-not-there.so.40 cannot be loaded"),
                                    HasSubstr("apt install openmpi-bin")));
  }
}

TEST(MpiLibrary, ALibraryThatIsNotOpenMpiIsAnError) {
  try {
    MpiLibrary::load("libc.so.6");
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_THAT(error.what(), HasSubstr("libc.so.6 has no MPI_Init_thread"));
  }
}

}  // namespace
}  // namespace trireme::test
