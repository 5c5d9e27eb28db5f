// Checks of channels-last activations [n, h, w, c] and of what belongs to their channels, and the way to the back ends.
#pragma once

#include <optional>

#include "core/device_guard.h"
#include "core/stream.h"
#include "tensor_ref.h"

namespace di {

constexpr int64_t kMostImages = 65535;              // a CUDA grid's third axis
constexpr int64_t kMostPixels = (1ll << 31) - 1;    // of an image: counted in 32 bits
constexpr int64_t kMostChannels = (1ll << 24) - 1;  // groups of them are a grid's second axis

inline void check_sizes(const std::string& name, const TensorRef& t) {
  check_rank(name, t, 4);
  if (t.size(0) > kMostImages) fail(name, "hold at most " + std::to_string(kMostImages) + " images", std::to_string(t.size(0)));
  if (t.size(1) > kMostPixels || t.size(2) > kMostPixels || t.size(1) * t.size(2) > kMostPixels || t.size(3) > kMostChannels)
    fail(name, "have fewer than 2^31 pixels an image and 2^24 channels", text(t.shape));
}

// How far a pixel is from the next, in elements. All of the tensor's are equally far apart: it is contiguous, or the first c
// channels of a wider tensor that is.
inline int64_t pixel_stride(const std::string& name, const TensorRef& t) {
  const int64_t c = t.size(3);
  int64_t stride = 0, between = 1;   // pixels between neighbours along the axis
  bool even = c <= 1 || t.strides[3] == 1;
  for (int axis = 2; axis >= 0; between *= t.shape[axis--]) {
    if (t.shape[axis] == 0) return c;   // strides of nothing mean nothing
    if (t.shape[axis] == 1) continue;
    if (stride == 0) stride = t.strides[axis] / between;
    even = even && stride >= c && t.strides[axis] == stride * between;
  }
  if (!even) fail(name, "have channels side by side and pixels equally far apart", "strides " + text(t.strides) + " of " + text(t.shape));
  return stride ? stride : c;
}

// An activation like another in dtype and device; its pixel stride.
inline int64_t check_activation(const std::string& name, const TensorRef& t, const std::vector<int64_t>& shape, const TensorRef& like) {
  check_shape(name, t, shape);
  check_dtype(name, t, like.dtype);
  check_same_device(name, t, like);
  return pixel_stride(name, t);
}

// What steers an activation is in the type of its arithmetic.
inline void check_steering(const std::string& name, const TensorRef& t, const std::vector<int64_t>& shape, const TensorRef& like) {
  check_shape(name, t, shape);
  check_dtype(name, t, like.dtype == DType::float64 ? DType::float64 : DType::float32);
  check_same_device(name, t, like);
}

// One value a channel.
inline void check_channels(const std::string& name, const TensorRef& t, int64_t c, const TensorRef& like) {
  check_steering(name, t, {c}, like);
  check_contiguous(name, t);
}

// One value an image and channel; how far an image's are from the next one's. They may be columns of a wider table, and every image
// may have the same.
inline int64_t check_rows(const std::string& name, const TensorRef& t, int64_t n, int64_t c, const TensorRef& like) {
  check_steering(name, t, {n, c}, like);
  if (n == 0 || c == 0) return 0;
  if ((c > 1 && t.strides[1] != 1) || (n > 1 && t.strides[0] < 0)) fail(name, "have each row contiguous", "strides " + text(t.strides));
  return n > 1 ? t.strides[0] : 0;
}

// Null where there is no tensor.
template <class T> T* address(const std::optional<TensorRef>& t) { return t ? t->data<T>() : nullptr; }

// Calls cpu or cuda with a value of x's element type; float64 is the CPU's alone.
template <class Cpu, class Cuda> void dispatch_activation(const std::string& name, const TensorRef& x, Cpu cpu, [[maybe_unused]] Cuda cuda) {
  if (x.device < 0) {
    switch (x.dtype) {
      case DType::float32: return cpu(float{});
      case DType::float64: return cpu(double{});
      case DType::float16: return cpu(Half{});
      case DType::bfloat16: return cpu(BFloat16{});
      default: fail(name, "be float32, float64, float16 or bfloat16", name_of(x.dtype));
    }
  }
#ifdef DI_WITH_CUDA
  const DeviceGuard on_device(x.device);
  dispatch_float(name, x.dtype, cuda);
#else
  no_cuda_code(name);
#endif
}

}  // namespace di
