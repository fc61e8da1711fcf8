// Feeds mutated files to the parsers of what a bundle or a user brings: the first byte says which parser gets the rest.
// Refusing a file by an nerve::Error is right; a crash, an overrun, another exception or a hang is not.
// NERVE_FUZZ_TEXT_SHA256 and NERVE_FUZZ_WIDTH say what a vocabulary file has to fit, for seeds that fit.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "error.h"
#include "manifest.h"
#include "vocabulary.h"

namespace {

std::string expected_text_sha256() {
    const char* given = std::getenv("NERVE_FUZZ_TEXT_SHA256");
    return given != nullptr ? given : std::string(64, '0');
}

int expected_width() {
    const char* given = std::getenv("NERVE_FUZZ_WIDTH");
    return given != nullptr ? std::atoi(given) : 8;
}

void parse(uint8_t parser, const std::string& content) {
    static const std::string text_sha256 = expected_text_sha256();
    static const int width = expected_width();
    if (parser == 'm') nerve::parse_manifest("manifest.json", content);
    if (parser == 'v') nerve::parse_vocabulary("vocabulary.npz", content, text_sha256, width);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    if (size == 0 || (bytes[0] != 'm' && bytes[0] != 'v')) return -1;  // not worth keeping
    try {
        parse(bytes[0], std::string(reinterpret_cast<const char*>(bytes + 1), size - 1));
    } catch (const nerve::Error&) {
    }
    return 0;
}
