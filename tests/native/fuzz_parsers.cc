// Feeds mutated files to the parsers of what a bundle or a user brings. The first byte says which parser gets the rest:
// m: a manifest; v: a vocabulary file; h: a vocabulary file whose own hash is put right first, to get behind that check;
// t: a tokenizer.
// Refusing a file by a nerve::Error is right; a crash, an overrun, another exception or a hang is not.
// NERVE_FUZZ_TEXT_SHA256 and NERVE_FUZZ_WIDTH say what a vocabulary file has to fit, so that the seed does.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "error.h"
#include "manifest.h"
#include "sha256.h"
#include "tokenizer_model.h"
#include "vocabulary.h"

namespace {

const std::string PARSERS = "mvht";

std::string expected_text_sha256() {
    const char* given = std::getenv("NERVE_FUZZ_TEXT_SHA256");
    return given != nullptr ? given : std::string(64, '0');
}

int expected_width() {
    const char* given = std::getenv("NERVE_FUZZ_WIDTH");
    return given != nullptr ? std::atoi(given) : 8;
}

constexpr size_t DIGITS = 64;
const std::string BEFORE_SHA256 = "\"sha256\":\"";

std::string with_own_hash(std::string content) {
    const size_t found = content.find(BEFORE_SHA256);
    if (found == content.npos || content.size() < found + BEFORE_SHA256.size() + DIGITS) return content;
    const size_t digits = found + BEFORE_SHA256.size();
    content.replace(digits, DIGITS, DIGITS, '0');
    return content.replace(digits, DIGITS, nerve::sha256_hex(content.data(), content.size()));
}

// The path of a file in memory with this content, for parsers that read files only.
std::string file_with(const std::string& content) {
    static const int file = memfd_create("fuzzed", 0);
    const bool written =
        ftruncate(file, 0) == 0 && pwrite(file, content.data(), content.size(), 0) == static_cast<ssize_t>(content.size());
    if (!written) std::abort();
    return "/proc/self/fd/" + std::to_string(file);
}

void load_vocabulary(const std::string& content) {
    static const std::string text_sha256 = expected_text_sha256();
    static const int width = expected_width();
    nerve::load_vocabulary(file_with(content), text_sha256, width);
}

void parse(uint8_t parser, const std::string& content) {
    if (parser == 'm') nerve::parse_manifest("manifest.json", content);
    if (parser == 'v') load_vocabulary(content);
    if (parser == 'h') load_vocabulary(with_own_hash(content));
    if (parser == 't') nerve::load_tokenizer(file_with(content));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    if (size == 0 || PARSERS.find(static_cast<char>(bytes[0])) == PARSERS.npos) return -1;  // not worth keeping
    try {
        parse(bytes[0], std::string(reinterpret_cast<const char*>(bytes + 1), size - 1));
    } catch (const nerve::Error&) {
    }
    return 0;
}
