#include "json_fields.h"

#include <cmath>

namespace nerve {

namespace {

std::string plain_number(double value) {
    return decimal(static_cast<int64_t>(value));  // every bound of ours is a whole number
}

bool is_lower_hex(char letter) { return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f'); }

}  // namespace

void Field::refuse(Parts parts) const { throw InvalidField{where_, concat(parts)}; }

std::string listed_choices(const std::vector<std::string>& choices) {
    std::string text;
    for (size_t place = 0; place < choices.size(); ++place) {
        if (place > 0) text += place + 1 == choices.size() ? " or " : ", ";
        text += "'" + choices[place] + "'";
    }
    return text;
}

Field Field::at(const std::string& key) const {
    const std::string inner = where_.empty() ? key : where_ + "." + key;
    const auto found = json_->find(key);
    if (found == json_->end()) throw InvalidField{inner, "Field required"};
    return Field(*found, inner);
}

void Field::expect_object() const {
    if (!json_->is_object()) refuse({"Input should be an object"});
}

void Field::refuse_others(std::initializer_list<const char*> known) const {
    for (const auto& [key, value] : json_->items()) {
        bool is_known = false;
        for (const char* name : known) is_known = is_known || key == name;
        if (!is_known) throw InvalidField{where_.empty() ? key : where_ + "." + key, "Extra inputs are not permitted"};
    }
}

std::vector<Field> Field::elements() const {
    if (!json_->is_array()) refuse({"Input should be a valid array"});
    std::vector<Field> fields;
    fields.reserve(json_->size());
    for (const Json& element : *json_) fields.emplace_back(element, where_ + "." + decimal(fields.size()));
    return fields;
}

std::string Field::string() const {
    if (!json_->is_string()) refuse({"Input should be a valid string"});
    return json_->get<std::string>();
}

std::string Field::choice(std::initializer_list<const char*> choices) const {
    if (json_->is_string())
        for (const char* choice : choices)
            if (*json_ == choice) return choice;
    refuse({"Input should be ", listed_choices({choices.begin(), choices.end()})});
}

std::string Field::sha256() const {
    const std::string digits = string();
    bool fits = digits.size() == 64;
    for (const char letter : digits) fits = fits && is_lower_hex(letter);
    if (!fits) refuse({"String should match pattern '^[0-9a-f]{64}$'"});
    return digits;
}

bool Field::boolean() const {
    if (!json_->is_boolean()) refuse({"Input should be a valid boolean"});
    return json_->get<bool>();
}

int64_t Field::integer() const {
    if (!json_->is_number_integer()) refuse({"Input should be a valid integer"});
    if (json_->is_number_unsigned() && json_->get<uint64_t>() > INT64_MAX) return INT64_MAX;
    return json_->get<int64_t>();
}

int64_t Field::integer(int64_t least, int64_t most) const {
    const int64_t value = integer();
    if (value < least) refuse({"Input should be greater than or equal to ", decimal(least)});
    if (value > most) refuse({"Input should be less than or equal to ", decimal(most)});
    return value;
}

double Field::number() const {
    if (!json_->is_number()) refuse({"Input should be a valid number"});
    const double value = json_->get<double>();
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
