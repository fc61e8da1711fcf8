// SHA-256 (FIPS 180-4), with the instructions of the processor where it has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace nerve {

// Takes bytes in any number of parts.
class Sha256 {
   public:
    void update(const void* bytes, size_t count);

    // The hash of all bytes so far: 64 digits, lower case. Nothing may be added afterwards.
    std::string hex();

   private:
    uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint8_t block_[64];
    size_t filled_ = 0;
    uint64_t total_bytes_ = 0;
};

// The hash of a buffer: 64 digits, lower case.
std::string sha256_hex(const void* bytes, size_t count);

// The hash of a file's bytes. Raises std::system_error with the errno of what failed.
std::string sha256_of_file(const std::string& path);

}  // namespace nerve
