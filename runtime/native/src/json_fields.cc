#include "json_fields.h"

#include <algorithm>
#include <cmath>

namespace nerve {

namespace {

std::string plain_number(double value) {
    return decimal(static_cast<int64_t>(value));  // every bound of ours is a whole number
}

bool is_lower_hex(char letter) { return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f'); }

}  // namespace

std::string Field::where() const {
    if (!whole_) return "";
    const std::string outer = whole_->where(), name = key_ ? key_ : decimal(static_cast<int64_t>(place_));
    return outer.empty() ? name : concat({outer, ".", name});
}

void Field::refuse(Parts parts) const { throw InvalidField{where(), concat(parts)}; }

std::vector<std::string> split(std::string_view text, std::string_view separator) {
    std::vector<std::string> parts;
    for (size_t start = 0; start <= text.size();) {
        const size_t end = std::min(text.find(separator, start), text.size());
        parts.emplace_back(text.substr(start, end - start));
        start = end + separator.size();
    }
    return parts;
}

std::string listed_choices(const std::vector<std::string>& choices) {
    std::string text;
    for (size_t place = 0; place < choices.size(); ++place) {
        if (place > 0) text += place + 1 == choices.size() ? " or " : ", ";
        text += "'" + choices[place] + "'";
    }
    return text;
}

Field Field::at(const char* key) const {
    static const Json missing;
    const Json* found = json_.find(key);
    const Field field(found ? *found : missing, this, key);
    if (!found) field.refuse({"Field required"});
    return field;
}

void Field::expect_object() const {
    if (!json_.is_object()) refuse({"Input should be an object"});
}

void Field::refuse_others(std::string_view known) const {
    const std::vector<std::string> names = split(known, " ");
    for (const std::string& key : json_.keys())
        if (std::find(names.begin(), names.end(), key) == names.end())
            Field(json_, this, key.c_str()).refuse({"Extra inputs are not permitted"});
}

std::vector<Field> Field::elements() const {
    if (!json_.is_array()) refuse({"Input should be a valid array"});
    std::vector<Field> fields;
    for (const Json& element : json_.elements()) fields.push_back(Field(element, this, nullptr, fields.size()));
    return fields;
}

std::vector<Field> Field::values() const {
    expect_object();
    std::vector<Field> fields;
    for (const Json& value : json_.elements()) fields.push_back(Field(value, this, key(fields.size()).c_str(), fields.size()));
    return fields;
}

std::string Field::string() const {
    if (!json_.is_string()) refuse({"Input should be a valid string"});
    return json_.string();
}

std::string Field::choice(std::string_view choices) const {
    const std::vector<std::string> known = split(choices, ", ");
    if (!json_.is_string() || std::find(known.begin(), known.end(), json_.string()) == known.end())
        refuse({"Input should be ", listed_choices(known)});
    return json_.string();
}

std::string Field::sha256() const {
    const std::string digits = string();
    bool fits = digits.size() == 64;
    for (const char letter : digits) fits = fits && is_lower_hex(letter);
    if (!fits) refuse({"String should match pattern '^[0-9a-f]{64}$'"});
    return digits;
}

bool Field::boolean() const {
    if (!json_.is_boolean()) refuse({"Input should be a valid boolean"});
    return json_.boolean();
}

int64_t Field::integer() const {
    if (!json_.is_integer()) refuse({"Input should be a valid integer"});
    return json_.integer();
}

int64_t Field::integer(int64_t least, int64_t most) const {
    const int64_t value = integer();
    if (value < least) refuse({"Input should be greater than or equal to ", decimal(least)});
    if (value > most) refuse({"Input should be less than or equal to ", decimal(most)});
    return value;
}

double Field::number() const {
    if (!json_.is_number()) refuse({"Input should be a valid number"});
    const double value = json_.number();
    if (!std::isfinite(value)) refuse({"Input should be a finite number"});
    return value;
}

double Field::above(double least) const {
    const double value = number();
    if (!(value > least)) refuse({"Input should be greater than ", plain_number(least)});
    return value;
}

double Field::at_least(double least) const {
    const double value = number();
    if (!(value >= least)) refuse({"Input should be greater than or equal to ", plain_number(least)});
    return value;
}

}  // namespace nerve
