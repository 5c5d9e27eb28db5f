// The crop of RandomResizedCrop (Szegedy et al. 2015, section 6), one box per row, by torchvision's law:
//
//   ten tries    area = height * width * U(scale), aspect = exp(U(log ratio));
//                w = round(sqrt(area * aspect)), h = round(sqrt(area / aspect)), ties to even;
//                the first that fits, at a uniform position
//   else         the largest central crop whose aspect is within ratio
//
// Try t reads blocks 2 t (area, aspect) and 2 t + 1 (top, left) of the row's stream. A position is the high word of bits * range:
// its bias is below range / 2^64. Host only: boxes are decided once and uploaded.
#pragma once

#include <cstdint>

#include "core/philox.h"

namespace di {

struct RandomResizedCropParams {
  int64_t n;
  double scale[2];   // of the image's area, 0 < low <= high
  double ratio[2];   // width / height, 0 < low <= high
};

void random_resized_crop_cpu(const int64_t* index,    // [n]
                             const int64_t* repeat,   // [n]
                             const int64_t* height,   // [n], 1 to 2^31 - 1
                             const int64_t* width,    // [n], likewise
                             int32_t* box,            // [n, 4]: top, left, height, width
                             const RandomResizedCropParams& params, const RandomKey& key);

}  // namespace di
