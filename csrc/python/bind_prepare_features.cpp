#include <algorithm>
#include <array>

#include "core/device_guard.h"
#include "ops/prepare_features/prepare_features.h"
#include "ops/prepare_features/prepare_features_math.h"
#include "registry.h"
#include "tensor_ref.h"

namespace di {
namespace {

int64_t filter_words(int64_t edge, int64_t resolution) {
  return resolution * (2 + prepare_features_math::triangle_taps(int(edge), int(resolution)));
}

// pixels: any of the images, for the element type and the device that all share. views: int64 [n, 6], a SquareView each; the Python
// function fills it and vouches for it, as it may lie where the host cannot read. words and resized: as FeatureWorkspace says, on CUDA.
void prepare_features(const TensorRef& pixels, const TensorRef& views, const TensorRef& words, const TensorRef& resized,
                      const TensorRef& out, int resolution, bool align_corners, const std::array<float, 3>& mean,
                      const std::array<float, 3>& std, int threads, [[maybe_unused]] uintptr_t stream) {
  check_rank("out", out, 4);
  PrepareFeaturesParams params{out.size(0), resolution, int(out.size(1)), align_corners, {}, {}};
  std::copy(mean.begin(), mean.end(), params.mean);
  std::copy(std.begin(), std.end(), params.std);
  check_shape("out", out, {params.n, params.size, params.size, 3});
  check_shape("views", views, {params.n, sizeof(SquareView) / sizeof(int64_t)});
  check_dtype("views", views, DType::int64);
  check_dtype("words", words, DType::int32);
  check_dtype("resized", resized, DType::float32);
  if (pixels.device >= 0) check_shape("resized", resized, {params.n, resolution, resolution, 3});
  for (const auto& [name, tensor] : {std::pair{"out", &out}, {"views", &views}, {"words", &words}, {"resized", &resized}}) {
    check_same_device(name, *tensor, pixels);
    check_contiguous(name, *tensor);
  }
  if (params.n > 65535) fail("images", "be at most 65535", std::to_string(params.n));

  pybind11::gil_scoped_release without_gil;
  const auto run = [&](auto pixel) {
    using S = decltype(pixel);
    dispatch_float("out", out.dtype, [&](auto element) {
      using T = decltype(element);
      const SquareView* images = views.data<SquareView>();
      if (pixels.device < 0) return prepare_features_cpu<S>(images, out.data<T>(), params, threads);
#ifdef DI_WITH_CUDA
      const DeviceGuard on_device(pixels.device);
      const FeatureWorkspace workspace{words.data<int32_t>(), resized.data<float>()};
      prepare_features_cuda<S>(images, workspace, out.data<T>(), params, reinterpret_cast<Stream>(stream));
#else
      no_cuda_code("images");
#endif
    });
  };
  if (pixels.dtype == DType::uint8) run(uint8_t{});
  else dispatch_float("images", pixels.dtype, run);
}

const Register registered{[](pybind11::module_& module) {
  module.def("prepare_features", &prepare_features);
  module.def("prepare_features_words", &filter_words);
}};

}  // namespace
}  // namespace di
