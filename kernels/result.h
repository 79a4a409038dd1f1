#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <variant>

#include "kernels/check.h"

namespace trireme {

// Why a request was refused. `param` names the field at fault ("" when there is none).
struct Error {
  std::string message;
  std::string param;
};

// A value, or the reason there is none. For bad input, never for bugs (TRIREME_CHECK) and never for
// the environment at start (EnvironmentError).
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return std::holds_alternative<T>(state_); }
  bool ok() const { return std::holds_alternative<T>(state_); }

  const T& operator*() const& { return value(); }
  T& operator*() & { return value(); }
  T&& operator*() && { return std::move(value()); }
  const T* operator->() const { return &value(); }
  T* operator->() { return &value(); }

  const Error& error() const {
    TRIREME_CHECK(!ok());
    return std::get<Error>(state_);
  }

 private:
  const T& value() const {
    TRIREME_CHECK(ok());
    return std::get<T>(state_);
  }
  T& value() {
    TRIREME_CHECK(ok());
    return std::get<T>(state_);
  }

  std::variant<T, Error> state_;
};

// The machine, a file or a peer is not as it must be. Thrown at start only; the message is one line
// that names the cause and the mend. The command line prints it and exits non-zero.
class EnvironmentError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace trireme
