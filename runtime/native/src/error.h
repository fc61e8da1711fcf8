// Everything that can go wrong on purpose; the codes and texts are those of nerve_runtime/errors.py.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

#include "nerve/nerve.h"

namespace nerve {

// Says what is wrong, what was got, what was expected, what to do.
class Error : public std::runtime_error {
   public:
    Error(nerve_code code, const std::string& message) : std::runtime_error(message), code(code) {}

    const nerve_code code;
};

using Parts = std::initializer_list<std::string_view>;

// The parts of a message as one string: half as much code as by `+`.
std::string concat(Parts parts);

// Raise an Error.
[[noreturn]] void fail(nerve_code code, Parts parts);

std::string decimal(int64_t value);

// Whether a library's message says that memory ran out; none of them has an error type for it.
bool is_out_of_memory(std::string_view message);

}  // namespace nerve
