#include "files.h"

#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>

#include "sha256.h"

namespace nerve {

namespace {

constexpr size_t DIGITS = 64;
constexpr size_t CHUNK_BYTES = 1 << 16;

}  // namespace

std::string read_file(const std::string& path, size_t limit) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    std::string content;
    size_t count = 1;
    while (file && count > 0 && content.size() < limit) {
        const size_t room = std::min(CHUNK_BYTES, limit - content.size());
        content.resize(content.size() + room);
        count = std::fread(content.data() + content.size() - room, 1, room, file.get());
        content.resize(content.size() - room + count);
    }
    if (!file || std::ferror(file.get())) throw std::system_error(errno, std::generic_category());
    return content;
}

OwnHash own_hash(std::string_view text, std::string_view key) {
    OwnHash own{0, "", ""};
    size_t place = 0;
    for (size_t at = text.find(key); at != text.npos; at = text.find(key, at)) {
        const size_t digits = at + key.size(), end = digits + DIGITS;
        const bool is_whole = text.find_first_not_of("0123456789abcdef", digits) == end && text[end] == '"';
        if (is_whole && own.times++ == 0) place = digits;
        at = is_whole ? end + 1 : at + 1;
    }
    if (own.times == 0) return own;
    own.written = text.substr(place, DIGITS);
    Sha256 hash;
    hash.update(text.data(), place);
    hash.update(std::string(DIGITS, '0').data(), DIGITS);
    hash.update(text.data() + place + DIGITS, text.size() - place - DIGITS);
    own.computed = hash.hex();
    return own;
}

}  // namespace nerve
