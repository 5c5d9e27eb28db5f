#include "random_resized_crop.h"

#include <algorithm>
#include <cmath>

namespace di {
namespace {

constexpr uint32_t kTries = 10;

struct Box { int64_t top, left, height, width; };

double between(double low, double high, uint64_t bits) { return low + (high - low) * unit_interval(bits); }
int64_t below(int64_t range, uint64_t bits) { return int64_t(static_cast<unsigned __int128>(bits) * uint64_t(range) >> 64); }

Box central(int64_t height, int64_t width, const double* ratio) {
  const double aspect = double(width) / double(height);
  int64_t h = height, w = width;
  if (aspect < ratio[0]) h = std::max<int64_t>(1, int64_t(std::nearbyint(double(width) / ratio[0])));
  if (aspect > ratio[1]) w = std::max<int64_t>(1, int64_t(std::nearbyint(double(height) * ratio[1])));
  return {(height - h) / 2, (width - w) / 2, h, w};
}

}  // namespace

void random_resized_crop_cpu(const int64_t* index, const int64_t* repeat, const int64_t* height, const int64_t* width,
                             int32_t* box, const RandomResizedCropParams& params, const RandomKey& key) {
  const double log_ratio[2] = {std::log(params.ratio[0]), std::log(params.ratio[1])};
  for (int64_t i = 0; i < params.n; ++i, box += 4) {
    Box crop = central(height[i], width[i], params.ratio);
    for (uint32_t t = 0; t < kTries; ++t) {
      const PhiloxBlock shape = random_block(key, index[i], repeat[i], 2 * t);
      const double area = double(height[i]) * double(width[i]) * between(params.scale[0], params.scale[1], bits64(shape, 0));
      const double aspect = std::exp(between(log_ratio[0], log_ratio[1], bits64(shape, 1)));
      const double w = std::nearbyint(std::sqrt(area * aspect)), h = std::nearbyint(std::sqrt(area / aspect));
      if (w < 1 || w > double(width[i]) || h < 1 || h > double(height[i])) continue;
      const PhiloxBlock place = random_block(key, index[i], repeat[i], 2 * t + 1);
      crop.height = int64_t(h);
      crop.width = int64_t(w);
      crop.top = below(height[i] - crop.height + 1, bits64(place, 0));
      crop.left = below(width[i] - crop.width + 1, bits64(place, 1));
      break;
    }
    box[0] = int32_t(crop.top);
    box[1] = int32_t(crop.left);
    box[2] = int32_t(crop.height);
    box[3] = int32_t(crop.width);
  }
}

}  // namespace di
