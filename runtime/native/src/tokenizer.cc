#include "tokenizer.h"

#include <algorithm>
#include <set>

#include "close_matches.h"
#include "error.h"
#include "tokenizer_model.h"

namespace nerve {
namespace {

constexpr size_t WORDS_SHOWN = 100, PROMPT_SHOWN = 60;

// An id, and which characters of the prompt it stands for; (0, 0) for what was put around the prompt.
struct Token {
    int64_t id;
    size_t start, end;
};

std::string shortened(TextView prompt) {
    if (prompt.size() <= PROMPT_SHOWN) return repr(prompt);
    return repr(TextView(Text(prompt.substr(0, PROMPT_SHOWN - 3)) + U"..."));
}

// The longest added token that stands at a place of the text, nullptr for none.
const AddedToken* added_token_at(const std::vector<AddedToken>& added, bool normalized, TextView text, size_t place) {
    const AddedToken* longest = nullptr;
    for (const AddedToken& token : added) {
        const bool is_longer = !longest || token.content.size() > longest->content.size();
        if (token.normalized == normalized && is_longer && text.substr(place, token.content.size()) == token.content) {
            longest = &token;
        }
    }
    return longest;
}

void append_pieces(const TokenizerModel& model, const NormalizedText& text, size_t start, size_t end,
                   std::vector<Token>& tokens) {
    const TextView part = TextView(text.text).substr(start, end - start);
    for (const auto& [first, last] : pieces_of(part, model.splitting)) {
        const TextView piece = part.substr(first, last - first);
        const size_t prompt_start = text.starts[start + first], prompt_end = text.ends[start + last - 1];
        if (!model.has_byte_pairs) {
            const int64_t id = model.id_of(encode_utf8(piece));
            tokens.push_back({id == NO_TOKEN ? model.unknown_id : id, prompt_start, prompt_end});
            continue;
        }
        for (const int64_t id : byte_pair_ids(model, piece)) tokens.push_back({id, prompt_start, prompt_end});
    }
}

// A part of the prompt without added tokens that are looked for as typed.
void append_part(const TokenizerModel& model, TextView part, size_t start, std::vector<Token>& tokens) {
    const NormalizedText text = normalized_text(model.normalizers, part, start);
    size_t done = 0;
    for (size_t at = 0; at < text.text.size();) {
        const AddedToken* added = added_token_at(model.added_tokens, true, text.text, at);
        if (!added) {
            ++at;
            continue;
        }
        append_pieces(model, text, done, at, tokens);
        done = at + added->content.size();
        tokens.push_back({added->id, text.starts[at], text.ends[done - 1]});
        at = done;
    }
    append_pieces(model, text, done, text.text.size(), tokens);
}

std::vector<Token> tokens_of(const TokenizerModel& model, TextView prompt) {
    std::vector<Token> tokens;
    size_t done = 0;
    for (size_t at = 0; at < prompt.size();) {
        const AddedToken* added = added_token_at(model.added_tokens, false, prompt, at);
        if (!added) {
            ++at;
            continue;
        }
        append_part(model, prompt.substr(done, at - done), done, tokens);
        done = at + added->content.size();
        tokens.push_back({added->id, at, done});
        at = done;
    }
    append_part(model, prompt.substr(done), done, tokens);
    return tokens;
}

std::string known_words(const TokenizerModel& model) {
    std::vector<std::string> words;  // in the order of their code points, which is that of their bytes
    for (const auto& [token, id] : model.vocabulary) {
        const std::optional<Text> text = decode_utf8(token);
        if (text && !text->empty() && is_alphanumeric(text->front())) words.push_back(token);
    }
    std::string listed;
    for (size_t i = 0; i < std::min(words.size(), WORDS_SHOWN); ++i) listed += (i > 0 ? ", " : "") + words[i];
    if (words.size() > WORDS_SHOWN) listed += " and " + decimal(words.size() - WORDS_SHOWN) + " more";
    return listed;
}

// What was put in place of {}, by the template that has most in common with the prompt; the prompt where none fits.
std::string typed_in(const std::string& prompt, const std::vector<std::string>& templates) {
    size_t start = 0, size = prompt.size();
    for (const std::string& templ : templates) {
        const size_t place = templ.find("{}"), between = prompt.size() + 2 - templ.size();
        if (place == templ.npos || between >= size || prompt.compare(0, place, templ, 0, place) != 0) continue;
        if (prompt.compare(place + between, prompt.npos, templ, place + 2, templ.npos) != 0) continue;
        start = place;
        size = between;
    }
    return prompt.substr(start, size);
}

[[noreturn]] void refuse_unknown_word(const TokenizerModel& model, TextView word, const std::string& typed) {
    std::vector<Text> known;
    for (const auto& [token, id] : model.vocabulary) known.push_back(decode_leniently(token));
    const std::optional<Text> close = close_match(lower(word), known);
    const std::string hint = close ? "did you mean " + repr(TextView(*close)) + "? " : "";
    fail(NERVE_USAGE,
         {"word ", repr(word), " of ", shortened(decode_leniently(typed)), " is not known to this bundle's tokenizer; ", hint,
          "other words need a bundle of real weights (nerve-build --preset edge); known words: ", known_words(model)});
}

void refuse_special_tokens(const TokenizerModel& model, TextView prompt, const std::vector<Token>& typed, int64_t end_id,
                           int64_t unknown_id) {
    std::set<int64_t> special{end_id};
    for (const AddedToken& token : model.added_tokens) {
        if (token.special) special.insert(token.id);
    }
    special.erase(unknown_id);
    int64_t found = NO_TOKEN;
    for (const Token& token : typed) {
        if (special.count(token.id) > 0 && (found == NO_TOKEN || token.id < found)) found = token.id;
    }
    if (found == NO_TOKEN) return;
    fail(NERVE_USAGE, {"prompt ", shortened(prompt), " holds the special token ", repr(model.token_of(found)),
                       ", expected plain words; remove it"});
}

int64_t named_id(const TokenizerModel& model, const std::string& path, const std::string& token) {
    const int64_t id = model.id_of(token);
    if (id != NO_TOKEN) return id;
    fail(NERVE_BUNDLE, {path, " has no token ", repr(token), ", which the manifest names; rebuild the bundle"});
}

}  // namespace

PromptTokenizer::PromptTokenizer(const std::string& path, const VocabularyRecord& vocabulary)
    : model_(std::make_unique<const TokenizerModel>(load_tokenizer(path))),
      context_length_(static_cast<size_t>(vocabulary.context_length)),
      end_id_(named_id(*model_, path, vocabulary.end_token)),
      unknown_id_(vocabulary.unknown_token ? named_id(*model_, path, *vocabulary.unknown_token) : NO_TOKEN) {
    if (model_->before.size() + model_->after.size() < context_length_) return;
    fail(NERVE_BUNDLE, {path, " leaves no room for a prompt in the ", decimal(context_length_),
                        " tokens that the manifest names; rebuild the bundle"});
}

PromptTokenizer::~PromptTokenizer() = default;

std::vector<int64_t> PromptTokenizer::encode_one(const std::string& prompt, bool strict, const Warn& warn,
                                                 const std::vector<std::string>& templates) const {
    const Text text = decode_leniently(prompt);
    std::vector<Token> typed = tokens_of(*model_, text);
    const size_t room = context_length_ - model_->before.size() - model_->after.size();
    const bool is_cut = typed.size() > room;
    if (is_cut) typed.erase(typed.begin() + static_cast<std::ptrdiff_t>(room), typed.end());
    std::vector<int64_t> ids = model_->before;
    for (const Token& token : typed) ids.push_back(token.id);
    ids.insert(ids.end(), model_->after.begin(), model_->after.end());
    ids.resize(context_length_, end_id_);
    const auto unknown = std::find(ids.begin(), ids.end(), unknown_id_);
    if (unknown_id_ != NO_TOKEN && unknown != ids.end()) {
        const size_t place = static_cast<size_t>(unknown - ids.begin()) - model_->before.size();
        const Token token = place < typed.size() ? typed[place] : Token{unknown_id_, 0, 0};
        refuse_unknown_word(*model_, TextView(text).substr(token.start, token.end - token.start), typed_in(prompt, templates));
    }
    refuse_special_tokens(*model_, text, typed, end_id_, unknown_id_);
    if (is_cut) {
        warn_or_refuse(
            concat({"prompt ", shortened(text), " is longer than ", decimal(context_length_), " tokens and is cut; shorten it"}),
            strict, warn);
    }
    return ids;
}

std::vector<int64_t> PromptTokenizer::encode(const std::vector<std::string>& prompts, bool strict, const Warn& warn,
                                             const std::vector<std::string>& templates) const {
    std::vector<int64_t> all;
    bool ends = true;
    for (const std::string& prompt : prompts) {
        const std::vector<int64_t> ids = encode_one(prompt, strict, warn, templates);
        ends = ends && std::find(ids.begin(), ids.end(), end_id_) != ids.end();
        all.insert(all.end(), ids.begin(), ids.end());
    }
    if (!ends) fail(NERVE_BUNDLE, {"the bundle's tokenizer does not end a prompt with its end token; rebuild the bundle"});
    return all;
}

}  // namespace nerve
