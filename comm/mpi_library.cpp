#include "comm/mpi_library.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <mpi.h>

#include <type_traits>

#include "kernels/result.h"

namespace trireme {
namespace {

// The header's declarations against the real ones, since dlsym checks nothing.
#define TRIREME_SAME_TYPE(member, function) \
  static_assert(std::is_same_v<decltype(MpiLibrary::member), decltype(&function)>)
TRIREME_SAME_TYPE(init_thread, MPI_Init_thread);
TRIREME_SAME_TYPE(finalize, MPI_Finalize);
TRIREME_SAME_TYPE(comm_rank, MPI_Comm_rank);
TRIREME_SAME_TYPE(comm_size, MPI_Comm_size);
TRIREME_SAME_TYPE(comm_split, MPI_Comm_split);
TRIREME_SAME_TYPE(comm_set_errhandler, MPI_Comm_set_errhandler);
TRIREME_SAME_TYPE(get_processor_name, MPI_Get_processor_name);
TRIREME_SAME_TYPE(error_string, MPI_Error_string);
TRIREME_SAME_TYPE(isend, MPI_Isend);
TRIREME_SAME_TYPE(irecv, MPI_Irecv);
TRIREME_SAME_TYPE(ibarrier, MPI_Ibarrier);
TRIREME_SAME_TYPE(test, MPI_Test);
TRIREME_SAME_TYPE(get_count, MPI_Get_count);
TRIREME_SAME_TYPE(cancel, MPI_Cancel);
#undef TRIREME_SAME_TYPE

constexpr const char* kMend =
    "install OpenMPI 4.1 (Debian: apt install openmpi-bin libopenmpi3), or use --launcher local";

class Symbols {
 public:
  Symbols(void* library, const char* file_name) : library_(library), file_name_(file_name) {}

  template <typename Pointer>
  void find(Pointer& out, const char* name) const {
    out = reinterpret_cast<Pointer>(dlsym(library_, name));
    if (out == nullptr) {
      throw EnvironmentError(
          fmt::format("{} has no {}, so it is not OpenMPI; {}", file_name_, name, kMend));
    }
  }

 private:
  void* library_;
  const char* file_name_;
};

}  // namespace

MpiLibrary MpiLibrary::load(const char* file_name) {
  // Global: OpenMPI's plug-ins find the library's symbols through the process.
  void* library = dlopen(file_name, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    throw EnvironmentError(fmt::format("{} cannot be loaded ({}); {}", file_name,
                                       reason == nullptr ? "no reason given" : reason, kMend));
  }
  const Symbols symbols(library, file_name);
  MpiLibrary mpi;
  symbols.find(mpi.init_thread, "MPI_Init_thread");
  symbols.find(mpi.finalize, "MPI_Finalize");
  symbols.find(mpi.comm_rank, "MPI_Comm_rank");
  symbols.find(mpi.comm_size, "MPI_Comm_size");
  symbols.find(mpi.comm_split, "MPI_Comm_split");
  symbols.find(mpi.comm_set_errhandler, "MPI_Comm_set_errhandler");
  symbols.find(mpi.get_processor_name, "MPI_Get_processor_name");
  symbols.find(mpi.error_string, "MPI_Error_string");
  symbols.find(mpi.isend, "MPI_Isend");
  symbols.find(mpi.irecv, "MPI_Irecv");
  symbols.find(mpi.ibarrier, "MPI_Ibarrier");
  symbols.find(mpi.test, "MPI_Test");
  symbols.find(mpi.get_count, "MPI_Get_count");
  symbols.find(mpi.cancel, "MPI_Cancel");
  // What MPI_COMM_WORLD, MPI_BYTE and MPI_ERRORS_RETURN are the addresses of.
  symbols.find(mpi.comm_world, "ompi_mpi_comm_world");
  symbols.find(mpi.byte, "ompi_mpi_byte");
  symbols.find(mpi.errors_return, "ompi_mpi_errors_return");
  return mpi;
}

}  // namespace trireme
