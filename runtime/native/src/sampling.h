// Values between pixels, equal to the last bit to OpenCV's remap with INTER_LINEAR and a replicated border.
#pragma once

#include <cstdint>
#include <vector>

namespace nerve {

// A place in a picture, in pixels; the first pixel is at 0.
struct Place {
    float x, y;
};

constexpr float FARTHEST_PX = 30000;  // a place farther from the first pixel cannot be sampled; OpenCV's reach ends at 32767

// Whether a place can be sampled; NaN cannot.
inline bool can_be_sampled(const Place& place) {
    return place.x >= -FARTHEST_PX && place.x <= FARTHEST_PX && place.y >= -FARTHEST_PX && place.y <= FARTHEST_PX;
}

// The levels of a picture uint8 (height, width) at places that can be sampled, one after the other.
std::vector<uint8_t> sampled_levels(const std::vector<uint8_t>& picture, int height, int width, const std::vector<Place>& at);

// The same of a picture whose pixels are places themselves; places are taken to the nearest 32nd of a pixel.
std::vector<Place> sampled_places(const std::vector<Place>& picture, int height, int width, const std::vector<Place>& at);

}  // namespace nerve
