#pragma once

// OpenMPI's own names of the types behind its handles; <mpi.h> stays in the .cpp files.
struct ompi_communicator_t;
struct ompi_datatype_t;
struct ompi_errhandler_t;
struct ompi_request_t;
struct ompi_status_public_t;

namespace trireme {

// The functions and predefined handles of libmpi that are used, found at run time: the binary runs
// on machines without MPI, and ranks that were not started by mpirun or srun never load it.
struct MpiLibrary {
  using Comm = ompi_communicator_t*;
  using Datatype = ompi_datatype_t*;
  using Errhandler = ompi_errhandler_t*;
  using Request = ompi_request_t*;
  using Status = ompi_status_public_t;

  int (*init_thread)(int* argc, char*** argv, int required, int* provided) = nullptr;
  int (*finalize)() = nullptr;
  int (*comm_rank)(Comm, int* rank) = nullptr;
  int (*comm_size)(Comm, int* size) = nullptr;
  int (*comm_split)(Comm, int color, int key, Comm* out) = nullptr;
  int (*comm_set_errhandler)(Comm, Errhandler) = nullptr;
  int (*get_processor_name)(char* name, int* length) = nullptr;
  int (*error_string)(int code, char* text, int* length) = nullptr;
  int (*isend)(const void*, int count, Datatype, int peer, int tag, Comm, Request*) = nullptr;
  int (*irecv)(void*, int count, Datatype, int peer, int tag, Comm, Request*) = nullptr;
  int (*ibarrier)(Comm, Request*) = nullptr;
  int (*test)(Request*, int* done, Status*) = nullptr;
  int (*get_count)(const Status*, Datatype, int* count) = nullptr;
  int (*cancel)(Request*) = nullptr;

  Comm comm_world = nullptr;
  Datatype byte = nullptr;
  Errhandler errors_return = nullptr;

  // The library stays loaded until the process ends. Throws EnvironmentError.
  static MpiLibrary load(const char* file_name = "libmpi.so.40");
};

}  // namespace trireme
