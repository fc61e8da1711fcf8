#include "error.h"

namespace nerve {

std::string concat(Parts parts) {
    std::string whole;
    for (const std::string_view part : parts) whole += part;
    return whole;
}

void fail(nerve_code code, Parts parts) { throw Error(code, concat(parts)); }

std::string decimal(int64_t value) { return std::to_string(value); }

bool is_out_of_memory(std::string_view message) {
    for (const std::string_view phrase : {"allocate memory", "bad allocation", "bad_alloc", "could not be allocated",
                                          "FAILED_ALLOCATION", "not enough memory", "out of memory", "OutOfMemory"})
        if (message.find(phrase) != std::string_view::npos) return true;
    return false;
}

}  // namespace nerve
