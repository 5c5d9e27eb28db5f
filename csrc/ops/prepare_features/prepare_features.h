// Images to the input of IC-GAN's feature extractor: centre square, antialiased bilinear to resolution^2, normalise, bicubic to size^2
//
// The features of IC-GAN are of the image at the model's resolution, so the first resize is part of their definition. 8-bit images go
// through it in Pillow's integer arithmetic (the reference pipeline's), float images without rounding. No antialias and no clamp
// in the second. CPU and CUDA agree bit for bit (prepare_features_math.h).
// Callers guarantee shapes and addresses (the binding and the Python function check). On CUDA nothing here allocates or
// synchronises; the CPU side keeps a few rows of scratch a thread.
#pragma once

#include <cstdint>

#include "core/scalar.h"
#include "core/stream.h"

namespace di {

// The centre square of one image. Strides count elements.
struct SquareView {
  int64_t address, edge, row, column, channel;
  int64_t words;   // where its filter lies in FeatureWorkspace::words
};

struct PrepareFeaturesParams {
  int64_t n;                 // at most 65535
  int resolution, size;      // at most 16384
  bool align_corners;        // of the bicubic step, as torch has it
  float mean[3], std[3];
};

// Device memory between the kernels.
struct FeatureWorkspace {
  int32_t* words;    // for each image filter_words(edge, resolution) words
  float* resized;    // [n, resolution, resolution, 3], normalised
};

// S: uint8_t in [0, 255]; float, Half or BFloat16 in [0, 1].
template <class S, class T>
void prepare_features_cpu(const SquareView* images,   // [n]
                          T* out,                     // [n, size, size, 3]
                          const PrepareFeaturesParams& params, int threads);

template <class S, class T>
void prepare_features_cuda(const SquareView* images, const FeatureWorkspace& workspace, T* out, const PrepareFeaturesParams& params,
                           Stream stream);

}  // namespace di
