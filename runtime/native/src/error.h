// Everything that can go wrong on purpose; the codes and texts are those of nerve_runtime/errors.py.
#pragma once

#include <stdexcept>
#include <string>

#include "nerve/nerve.h"

namespace nerve {

// Says what is wrong, what was got, what was expected, what to do.
class Error : public std::runtime_error {
   public:
    Error(nerve_code code, const std::string& message) : std::runtime_error(message), code(code) {}

    const nerve_code code;
};

struct UsageError : Error {
    explicit UsageError(const std::string& message) : Error(NERVE_USAGE, message) {}
};

struct BundleError : Error {
    explicit BundleError(const std::string& message) : Error(NERVE_BUNDLE, message) {}
};

struct CompatibilityError : Error {
    explicit CompatibilityError(const std::string& message) : Error(NERVE_COMPATIBILITY, message) {}
};

struct ResourceError : Error {
    explicit ResourceError(const std::string& message) : Error(NERVE_RESOURCE, message) {}
};

struct NumericError : Error {
    explicit NumericError(const std::string& message) : Error(NERVE_NUMERIC, message) {}
};

// Whether a library's message says that memory ran out; none of them has an error type for it.
inline bool is_out_of_memory(const std::string& message) {
    for (const char* phrase : {"allocate memory", "bad allocation", "bad_alloc", "could not be allocated", "FAILED_ALLOCATION",
                               "not enough memory", "out of memory", "OutOfMemory"})
        if (message.find(phrase) != std::string::npos) return true;
    return false;
}

}  // namespace nerve
