// Text as Python and the `tokenizers` library see it, by the Unicode version of unicode_tables.inc. Texts are code points.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nerve {

using Text = std::u32string;
using TextView = std::u32string_view;

enum class Script { OTHER, LATIN, GREEK, CYRILLIC };

// The Unicode version that all of this knows, such as "14.0.0".
const char* unicode_version();

// The code points of UTF-8; none for bytes that are no UTF-8, which encoded halves of surrogate pairs are not.
std::optional<Text> decode_utf8(std::string_view bytes);

// The same with question marks for bytes that are none.
Text decode_leniently(std::string_view bytes);

std::string encode_utf8(TextView text);

bool is_control(char32_t c);       // category Cc
bool is_python_space(char32_t c);  // str.isspace
bool is_white_space(char32_t c);   // \s of regular expressions
bool is_word(char32_t c);          // \w of Rust's regular expressions
bool is_letter(char32_t c);        // \p{L}
bool is_number(char32_t c);        // \p{N}
bool is_alphanumeric(char32_t c);  // str.isalnum
bool is_decimal(char32_t c);       // str.isdecimal
bool is_printable(char32_t c);     // str.isprintable

// The script that the first word of the character's Unicode name says.
Script script_of(char32_t c);

// Composed as far as possible: canonically (NFC), or after replacing what only looks different (NFKC).
Text nfc(TextView text);
Text nfkc(TextView text);

// One character in lower case, whatever stands around it: 1 or 2 code points.
Text lower_character(char32_t c);

// str.lower: a capital sigma at the end of a word becomes a final one.
Text lower(TextView text);

Text casefold(TextView text);

// str.split(): the words between white space.
std::vector<Text> split_at_spaces(TextView text);

// str.strip()
TextView stripped(TextView text);

// How Python shows a string, or a list of strings, in messages: quoted, with escapes. As UTF-8.
std::string repr(TextView text);
std::string repr(const std::vector<Text>& texts);

// The same of UTF-8; bytes that are none are shown as question marks.
std::string repr(std::string_view bytes);
std::string repr(const std::vector<std::string>& texts);

}  // namespace nerve
