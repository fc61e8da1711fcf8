#include "error.h"

namespace nerve {

std::string concat(Parts parts) {
    std::string whole;
    for (const std::string_view part : parts) whole += part;
    return whole;
}

void fail(nerve_code code, Parts parts) { throw Error(code, concat(parts)); }

std::string decimal(int64_t value) { return std::to_string(value); }

}  // namespace nerve
