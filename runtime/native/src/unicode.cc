#include "unicode.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>

namespace nerve {
namespace {

#include "unicode_tables.inc"

constexpr char32_t CODE_POINTS = 0x110000;
constexpr char32_t CAPITAL_SIGMA = 0x3a3, FINAL_SIGMA = 0x3c2;

// In the order of `claims` in tools/unicode_tables.py.
enum Property : unsigned {
    CONTROL = 1 << 0,
    PYTHON_SPACE = 1 << 1,
    WHITE_SPACE = 1 << 2,
    WORD = 1 << 3,
    LETTER = 1 << 4,
    NUMBER = 1 << 5,
    ALPHANUMERIC = 1 << 6,
    DECIMAL = 1 << 7,
    PRINTABLE = 1 << 8,
    CASED = 1 << 9,
    CASE_IGNORABLE = 1 << 10,
};
constexpr unsigned SCRIPT_SHIFT = 11;

uint32_t read_number(const uint8_t*& next) {
    uint32_t number = 0;
    for (int shift = 0;; shift += 7) {
        const uint8_t byte = *next++;
        number |= uint32_t{byte & 0x7fu} << shift;
        if (byte < 0x80) return number;
    }
}

int32_t read_difference(const uint8_t*& next) {
    const uint32_t number = read_number(next);
    return static_cast<int32_t>(number >> 1) ^ -static_cast<int32_t>(number & 1);
}

// A value for every code point, as runs of equal ones.
class Runs {
   public:
    Runs(const uint8_t* bytes, size_t count, const uint16_t* values) {
        char32_t start = 0;
        for (const uint8_t* next = bytes; next < bytes + count;) {
            const uint32_t length = read_number(next);
            starts_.push_back(start);
            values_.push_back(values[read_number(next)]);
            start += length;
        }
    }

    unsigned operator[](char32_t c) const {
        if (c >= CODE_POINTS) return 0;
        return values_[static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), c) - starts_.begin()) - 1];
    }

   private:
    std::vector<char32_t> starts_;
    std::vector<uint16_t> values_;
};

// Characters that become others.
class Mapping {
   public:
    struct Entry {
        char32_t code;
        uint32_t first;
        uint16_t count;
        uint16_t flags;
    };

    Mapping(const uint8_t* bytes, size_t count) {
        char32_t code = 0;
        int32_t offset = 0;
        for (const uint8_t* next = bytes; next < bytes + count;) {
            code += read_number(next);
            const uint32_t count_and_flags = read_number(next);
            offset += read_difference(next);
            const auto first = static_cast<uint32_t>(targets_.size());
            int32_t target = static_cast<int32_t>(code) + offset;
            targets_ += static_cast<char32_t>(target);
            for (uint32_t i = 1; i < count_and_flags >> 2; ++i) {
                target += read_difference(next);
                targets_ += static_cast<char32_t>(target);
            }
            entries.push_back(
                {code, first, static_cast<uint16_t>(count_and_flags >> 2), static_cast<uint16_t>(count_and_flags & 3)});
        }
    }

    const Entry* find(char32_t c) const {
        const auto found = std::lower_bound(entries.begin(), entries.end(), c,
                                            [](const Entry& entry, char32_t code) { return entry.code < code; });
        return found != entries.end() && found->code == c ? &*found : nullptr;
    }

    TextView targets(const Entry& entry) const { return TextView(targets_).substr(entry.first, entry.count); }

    std::vector<Entry> entries;

   private:
    Text targets_;
};

bool has(char32_t c, Property property) {
    static const Runs runs(PROPERTY_RUNS, sizeof PROPERTY_RUNS, PROPERTY_VALUES);
    return runs[c] & property;
}

unsigned combining_class(char32_t c) {
    static const Runs runs(COMBINING_RUNS, sizeof COMBINING_RUNS, COMBINING_VALUES);
    return c < 0x300 ? 0 : runs[c];
}

// Normal forms. Hangul syllables are lead, vowel and, for all but each 28th, trail.
constexpr char32_t SYLLABLE = 0xac00, LEAD = 0x1100, VOWEL = 0x1161, TRAIL = 0x11a7;
constexpr char32_t LEADS = 19, VOWELS = 21, TRAILS = 28, SYLLABLES = LEADS * VOWELS * TRAILS;
enum Flag : unsigned { COMPATIBLE = 1, EXCLUDED = 2 };

const Mapping& decompositions() {
    static const Mapping mapping(DECOMPOSITIONS, sizeof DECOMPOSITIONS);
    return mapping;
}

void append_decomposed(Text& parts, char32_t c, bool compatible) {
    if (c - SYLLABLE < SYLLABLES) {
        const char32_t index = c - SYLLABLE, trail = index % TRAILS;
        parts += {LEAD + index / TRAILS / VOWELS, VOWEL + index / TRAILS % VOWELS};
        if (trail > 0) parts += TRAIL + trail;
        return;
    }
    const Mapping::Entry* entry = c < 0xa0 ? nullptr : decompositions().find(c);
    if (!entry || (entry->flags & COMPATIBLE && !compatible)) {
        parts += c;
        return;
    }
    for (const char32_t part : decompositions().targets(*entry)) append_decomposed(parts, part, compatible);
}

// Stable; what it sorts is short, or made once.
template <typename Iterator, typename Less>
void insertion_sort(Iterator start, Iterator end, Less less) {
    for (Iterator at = start; at != end; ++at)
        for (Iterator place = at; place != start && less(*place, *(place - 1)); --place) std::swap(*place, *(place - 1));
}

void sort_marks(Text& parts) {
    for (auto start = parts.begin(); start != parts.end();) {
        if (combining_class(*start) == 0) {
            ++start;
            continue;
        }
        const auto end = std::find_if(start, parts.end(), [](char32_t c) { return combining_class(c) == 0; });
        insertion_sort(start, end, [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
        start = end;
    }
}

struct Pair {
    char32_t first, second, composed;

    bool operator<(const Pair& other) const { return first != other.first ? first < other.first : second < other.second; }
};

std::vector<Pair> all_pairs() {
    std::vector<Pair> pairs;
    for (const Mapping::Entry& entry : decompositions().entries) {
        const TextView parts = decompositions().targets(entry);
        if (entry.flags == 0 && parts.size() == 2) pairs.push_back({parts[0], parts[1], entry.code});
    }
    insertion_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a < b; });
    return pairs;
}

// What two characters make together, 0 for nothing.
char32_t composed(char32_t first, char32_t second) {
    if (first - LEAD < LEADS && second - VOWEL < VOWELS) {
        return SYLLABLE + ((first - LEAD) * VOWELS + second - VOWEL) * TRAILS;
    }
    if (first - SYLLABLE < SYLLABLES && (first - SYLLABLE) % TRAILS == 0 && second - TRAIL - 1 < TRAILS - 1) {
        return first + second - TRAIL;
    }
    static const std::vector<Pair> pairs = all_pairs();
    const Pair sought{first, second, 0};
    const auto found = std::lower_bound(pairs.begin(), pairs.end(), sought);
    return found != pairs.end() && !(sought < *found) ? found->composed : 0;
}

Text compose(TextView parts) {
    constexpr size_t NONE = SIZE_MAX;
    Text whole;
    size_t starter = NONE;  // where in `whole` the last character is that marks may join
    unsigned class_before = 0;
    for (const char32_t c : parts) {
        const unsigned own_class = combining_class(c);
        const bool adjacent = starter != NONE && starter + 1 == whole.size();
        const bool blocked = !adjacent && (own_class == 0 || class_before >= own_class);
        const char32_t joined = starter != NONE && !blocked ? composed(whole[starter], c) : 0;
        if (joined != 0) {
            whole[starter] = joined;
            continue;
        }
        if (own_class == 0) starter = whole.size();
        class_before = own_class;
        whole += c;
    }
    return whole;
}

Text normalized(TextView text, bool compatible) {
    if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x80; })) return Text(text);
    Text parts;
    for (const char32_t c : text) append_decomposed(parts, c, compatible);
    sort_marks(parts);
    return compose(parts);
}

// Whether the sigma at `place` ends a word: a cased letter before it and none after it, but for what case ignores.
bool is_final(TextView text, size_t place) {
    size_t before = place;
    while (before > 0 && has(text[before - 1], CASE_IGNORABLE)) --before;
    if (before == 0 || !has(text[before - 1], CASED)) return false;
    size_t after = place + 1;
    while (after < text.size() && has(text[after], CASE_IGNORABLE)) ++after;
    return after == text.size() || !has(text[after], CASED);
}

// How many bytes follow a first byte of UTF-8, and its own bits; -1 for a byte that cannot be first.
int following_bytes(uint8_t byte, char32_t& bits) {
    const int count = byte < 0x80 ? 0 : byte < 0xc2 ? -1 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : byte < 0xf5 ? 3 : -1;
    bits = count <= 0 ? byte : byte & (0x3fu >> count);
    return count;
}

}  // namespace

const char* unicode_version() { return UNICODE_VERSION; }

std::optional<Text> decode_utf8(std::string_view bytes) {
    static const char32_t LEAST[] = {0, 0x80, 0x800, 0x10000};
    Text text;
    text.reserve(bytes.size());
    for (size_t at = 0; at < bytes.size();) {
        char32_t code = 0;
        const int following = following_bytes(static_cast<uint8_t>(bytes[at++]), code);
        if (following < 0 || bytes.size() - at < static_cast<size_t>(following)) return std::nullopt;
        for (int i = 0; i < following; ++i) {
            const auto byte = static_cast<uint8_t>(bytes[at++]);
            if ((byte & 0xc0) != 0x80) return std::nullopt;
            code = code << 6 | (byte & 0x3f);
        }
        const bool is_surrogate = code >= 0xd800 && code < 0xe000;
        if (code < LEAST[following] || code >= CODE_POINTS || is_surrogate) return std::nullopt;
        text += code;
    }
    return text;
}

std::string encode_utf8(TextView text) {
    std::string bytes;
    bytes.reserve(text.size());
    for (const char32_t c : text) {
        if (c < 0x80) {
            bytes += static_cast<char>(c);
            continue;
        }
        const int following = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
        bytes += static_cast<char>((0xff00u >> (following + 1) & 0xff) | c >> (6 * following));
        for (int i = following - 1; i >= 0; --i) bytes += static_cast<char>(0x80 | (c >> (6 * i) & 0x3f));
    }
    return bytes;
}

bool is_control(char32_t c) { return has(c, CONTROL); }
bool is_python_space(char32_t c) { return has(c, PYTHON_SPACE); }
bool is_white_space(char32_t c) { return has(c, WHITE_SPACE); }
bool is_word(char32_t c) { return has(c, WORD); }
bool is_letter(char32_t c) { return has(c, LETTER); }
bool is_number(char32_t c) { return has(c, NUMBER); }
bool is_alphanumeric(char32_t c) { return has(c, ALPHANUMERIC); }
bool is_decimal(char32_t c) { return has(c, DECIMAL); }
bool is_printable(char32_t c) { return has(c, PRINTABLE); }

Script script_of(char32_t c) {
    if (has(c, static_cast<Property>(1u << SCRIPT_SHIFT))) {
        return has(c, static_cast<Property>(2u << SCRIPT_SHIFT)) ? Script::CYRILLIC : Script::LATIN;
    }
    return has(c, static_cast<Property>(2u << SCRIPT_SHIFT)) ? Script::GREEK : Script::OTHER;
}

Text nfc(TextView text) { return normalized(text, false); }
Text nfkc(TextView text) { return normalized(text, true); }

Text lower_character(char32_t c) {
    static const Mapping mapping(LOWER_CASE, sizeof LOWER_CASE);
    const Mapping::Entry* entry = mapping.find(c);
    return entry ? Text(mapping.targets(*entry)) : Text(1, c);
}

Text lower(TextView text) {
    Text lowered;
    for (size_t i = 0; i < text.size(); ++i) {
        const bool final = text[i] == CAPITAL_SIGMA && is_final(text, i);
        lowered += final ? Text(1, FINAL_SIGMA) : lower_character(text[i]);
    }
    return lowered;
}

Text casefold(TextView text) {
    static const Mapping mapping(CASE_FOLDING, sizeof CASE_FOLDING);
    Text folded;
    for (const char32_t c : text) {
        const Mapping::Entry* entry = mapping.find(c);
        folded += entry ? Text(mapping.targets(*entry)) : lower_character(c);
    }
    return folded;
}

std::vector<Text> split_at_spaces(TextView text) {
    std::vector<Text> words;
    for (auto at = text.begin(); at != text.end();) {
        const auto start = std::find_if_not(at, text.end(), is_python_space);
        at = std::find_if(start, text.end(), is_python_space);
        if (at != start) words.emplace_back(start, at);
    }
    return words;
}

TextView stripped(TextView text) {
    while (!text.empty() && is_python_space(text.front())) text.remove_prefix(1);
    while (!text.empty() && is_python_space(text.back())) text.remove_suffix(1);
    return text;
}

std::string repr(TextView text) {
    const bool only_single = text.find(U'\'') != text.npos && text.find(U'"') == text.npos;
    const char32_t quote = only_single ? U'"' : U'\'';
    std::string shown = encode_utf8(TextView(&quote, 1));
    for (const char32_t c : text) {
        char escape[16] = "";
        if (c == quote || c == U'\\') {
            std::snprintf(escape, sizeof escape, "\\%c", static_cast<char>(c));
        } else if (c == U'\t' || c == U'\n' || c == U'\r') {
            std::snprintf(escape, sizeof escape, "\\%c", c == U'\t' ? 't' : c == U'\n' ? 'n' : 'r');
        } else if (!is_printable(c)) {
            const char* form = c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x";
            std::snprintf(escape, sizeof escape, form, static_cast<unsigned>(c));
        }
        shown += *escape ? escape : encode_utf8(TextView(&c, 1));
    }
    return shown + static_cast<char>(quote);
}

std::string repr(const std::vector<Text>& texts) {
    std::vector<std::string> encoded;
    for (const Text& text : texts) encoded.push_back(encode_utf8(text));
    return repr(encoded);
}

std::string repr(const std::vector<std::string>& texts) {
    std::string shown = "[";
    for (const std::string& text : texts) {
        if (shown.size() > 1) shown += ", ";
        shown += repr(std::string_view(text));
    }
    return shown + "]";
}

Text decode_leniently(std::string_view bytes) {
    Text text;
    for (size_t at = 0; at < bytes.size();) {
        size_t length = 1;
        std::optional<Text> part = decode_utf8(bytes.substr(at, length));
        while (!part && length < 4 && at + length < bytes.size()) part = decode_utf8(bytes.substr(at, ++length));
        text += part ? *part : Text(1, U'?');
        at += part ? length : 1;
    }
    return text;
}

std::string repr(std::string_view bytes) { return repr(TextView(decode_leniently(bytes))); }

}  // namespace nerve
