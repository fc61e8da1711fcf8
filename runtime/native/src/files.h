// Reading files whole, and the hash that a file holds of itself.
#pragma once

#include <string>
#include <string_view>

namespace nerve {

// The first `limit` bytes of a file. Raises std::system_error with the errno of what failed.
std::string read_file(const std::string& path, size_t limit);

// The SHA-256 that a text holds of itself: of its bytes with these 64 digits as zeros.
struct OwnHash {
    size_t times;  // how often digits follow the key
    std::string written, computed;

    bool is_right() const { return written == computed; }
};

// `key` is what stands before the digits, such as "\"sha256\":\""; a quotation mark follows them.
OwnHash own_hash(std::string_view text, std::string_view key);

// Of a hash as messages show it.
inline std::string_view first_digits(std::string_view hash) { return hash.substr(0, 12); }

}  // namespace nerve
