#include "class_list.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "error.h"

namespace nerve {
namespace {

constexpr size_t PROMPT_CHARACTERS_LIMIT = 1000;
constexpr char EMPTY_LIST[] = "the class list is empty; name at least two classes, such as 'dog; grass'";

struct Group {
    std::string place;  // named in messages
    std::vector<Text> words;
};

std::vector<TextView> split(TextView text, TextView separators) {
    std::vector<TextView> parts;
    for (;;) {
        const size_t end = text.find_first_of(separators);
        parts.push_back(text.substr(0, end));
        if (end == text.npos) return parts;
        text.remove_prefix(end + 1);
    }
}

Text decoded(const std::string& what, const std::string& bytes) {
    std::optional<Text> text = decode_utf8(bytes);
    if (!text) fail(NERVE_USAGE, {what, " is no UTF-8, expected plain text; save or type it as UTF-8"});
    return *std::move(text);
}

// Split "a; b, c; d" at the semicolons; one at the very end is allowed.
std::vector<TextView> split_classes(TextView text) {
    if (stripped(text).empty()) fail(NERVE_USAGE, {EMPTY_LIST});
    std::vector<TextView> parts = split(text, U";");
    if (parts.size() > 1 && stripped(parts.back()).empty()) parts.pop_back();
    return parts;
}

// The scripts of the first word that mixes Latin, Greek and Cyrillic, whose letters look alike: in the order of names.
std::vector<std::string> mixed_scripts(TextView text) {
    const auto is_part = [](char32_t c) { return is_alphanumeric(c) && !is_decimal(c); };
    for (auto at = text.begin(); at != text.end();) {
        const auto start = std::find_if(at, text.end(), is_part);
        at = std::find_if_not(start, text.end(), is_part);
        const auto holds = [&](Script script) {
            return std::any_of(start, at, [&](char32_t c) { return script_of(c) == script; });
        };
        std::vector<std::string> alike;
        if (holds(Script::CYRILLIC)) alike.push_back("Cyrillic");
        if (holds(Script::GREEK)) alike.push_back("Greek");
        if (holds(Script::LATIN)) alike.push_back("Latin");
        if (alike.size() > 1) return alike;
    }
    return {};
}

Text joined(const std::vector<Text>& words) {
    Text text;
    for (const Text& word : words) text += (text.empty() ? U"" : U" ") + word;
    return text;
}

Text checked_word(const std::string& where, TextView text, bool strict, const Warn& warn) {
    refuse_odd_characters(where, text);
    if (text.size() > PROMPT_CHARACTERS_LIMIT) {
        const std::string limit = decimal(PROMPT_CHARACTERS_LIMIT);
        const std::string length = decimal(text.size());
        warn_or_refuse(concat({where, " is ", length, " characters long and is cut at ", limit, "; shorten it"}), strict, warn);
    }
    const Text word = joined(split_at_spaces(nfc(text.substr(0, PROMPT_CHARACTERS_LIMIT))));
    if (word.empty()) {
        fail(NERVE_USAGE, {where, " has an empty word; expected a name, check the separators ';' and ','"});
    }
    const std::vector<std::string> mixed = mixed_scripts(word);
    if (!mixed.empty()) {
        std::string scripts = mixed[0];
        for (size_t i = 1; i < mixed.size(); ++i) scripts += " and " + mixed[i];
        warn_or_refuse(concat({where, " ", repr(TextView(word)), " mixes ", scripts,
                               " letters in one word, which may only look right; retype it"}),
                       strict, warn);
    }
    return word;
}

void refuse_duplicates(const std::vector<Group>& groups) {
    std::map<Text, std::string> seen;
    for (const Group& group : groups) {
        for (const Text& word : group.words) {
            const auto [known, is_new] = seen.emplace(casefold(nfkc(word)), group.place);
            if (!is_new) {
                fail(NERVE_USAGE, {group.place, " repeats ", repr(TextView(word)), " of ", known->second,
                                   "; expected each word once, remove one of them"});
            }
        }
        if (group.place == BACKGROUND_NAME) seen.emplace(U"background", BACKGROUND_NAME);
    }
}

std::vector<Text> checked_words(const std::string& where, const std::vector<TextView>& texts, bool strict, const Warn& warn) {
    std::vector<Text> words;
    for (const TextView text : texts) words.push_back(checked_word(where, text, strict, warn));
    return words;
}

}  // namespace

std::vector<std::string> ClassList::names() const {
    std::vector<std::string> shown;
    for (const std::vector<std::string>& words : synonyms) shown.push_back(words[0]);
    if (has_background) shown[0] = BACKGROUND_NAME;
    return shown;
}

void ClassList::refuse_without_rival() const {
    if (synonyms.size() != 1) return;
    std::string listed;
    for (const std::string& word : synonyms[0]) listed += (listed.empty() ? "" : "; ") + word;
    std::string meant;
    if (listed.find(';') != listed.npos) {
        meant = concat({" (classes are separated by ';' and synonyms by ',': '", listed, "')"});
    }
    fail(NERVE_USAGE, {"the only class ", repr(names()[0]), " has no rival, so every pixel would get it; add classes", meant,
                       ", or background words"});
}

ClassList class_list_of(const std::string& classes, const std::optional<std::string>& background, int max_classes, bool strict,
                        const Warn& warn) {
    const Text class_text = decoded("the class list", classes);
    const Text background_text = decoded("the background", background.value_or(""));
    const std::vector<TextView> named = split_classes(class_text);
    refuse_too_many(static_cast<int64_t>(named.size()) + background.has_value(), max_classes);
    std::vector<Group> groups;
    for (const TextView text : named) {
        const std::string where = concat({"class ", decimal(groups.size() + 1)});
        groups.push_back({where, checked_words(where, split(text, U","), strict, warn)});
    }
    if (background) {
        groups.insert(groups.begin(),
                      {BACKGROUND_NAME, checked_words(BACKGROUND_NAME, split(background_text, U",;"), strict, warn)});
    }
    refuse_duplicates(groups);
    ClassList list;
    list.has_background = background.has_value();
    for (const Group& group : groups) {
        std::vector<std::string>& words = list.synonyms.emplace_back();
        for (const Text& word : group.words) words.push_back(encode_utf8(word));
    }
    return list;
}

void refuse_too_many(int64_t count, int max_classes) {
    if (count <= max_classes) return;
    const std::string way_out = count > CLASSES_LIMIT
                                    ? "split the list into several runs"
                                    : "name fewer, or build one for more with nerve-build --max-classes " + decimal(count);
    fail(NERVE_USAGE, {decimal(count), " classes are active, background included, this bundle takes at most ",
                       decimal(max_classes), "; ", way_out});
}

void refuse_odd_characters(const std::string& where, TextView text) {
    for (const char32_t c : text) {
        if (!is_control(c) || c == U'\t') continue;
        char code[16];
        std::snprintf(code, sizeof code, "U+%04X", static_cast<unsigned>(c));
        fail(NERVE_USAGE, {where, " holds the character ", code, ", expected plain text; remove it"});
    }
}

void warn_or_refuse(const std::string& message, bool strict, const Warn& warn) {
    if (strict) fail(NERVE_USAGE, {message});
    if (warn) warn(message);
}

}  // namespace nerve
