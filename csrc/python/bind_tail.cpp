#include <type_traits>

#include "channels_last.h"
#include "ops/tail/tail.h"
#include "registry.h"

namespace di {
namespace {

using Optional = std::optional<TensorRef>;

void tail(const TensorRef& conv, const Optional& shortcut, const Optional& bias, const TensorRef& scale, const TensorRef& shift,
          const TensorRef& weight, const TensorRef& out_bias, const TensorRef& out, int threads, uintptr_t stream) {
  check_sizes("conv", conv);
  TailParams params{conv.size(0), conv.size(1), conv.size(2), conv.size(3), 0, 0};
  params.conv_pixel = pixel_stride("conv", conv);
  if (shortcut) {
    if (params.h % 2 || params.w % 2) fail("conv", "have an even height and width where there is a shortcut", text(conv.shape));
    params.shortcut_pixel = check_activation("shortcut", *shortcut, {params.n, params.h / 2, params.w / 2, params.c}, conv);
  }
  if (bias) check_channels("bias", *bias, params.c, conv);
  check_channels("scale", scale, params.c, conv);
  check_channels("shift", shift, params.c, conv);
  check_steering("weight", weight, {3, params.c, 3, 3}, conv);
  check_contiguous("weight", weight);
  check_channels("out_bias", out_bias, 3, conv);
  check_shape("out", out, {params.n, params.h, params.w, 3});
  if (conv.dtype == DType::float64) check_dtype("out", out, DType::float64);
  check_same_device("out", out, conv);
  check_contiguous("out", out);

  const auto tensors = [&](auto element, auto result) {
    using T = decltype(element);
    using O = decltype(result);
    return TailTensors<T, O>{conv.data<T>(),         address<T>(shortcut),      address<Wide<T>>(bias),     scale.data<Wide<T>>(),
                             shift.data<Wide<T>>(), weight.data<Wide<T>>(), out_bias.data<Wide<T>>(), out.data<O>()};
  };
  pybind11::gil_scoped_release without_gil;
  dispatch_activation(
      "conv", conv,
      [&](auto element) {
        if constexpr (std::is_same_v<decltype(element), double>) tail_cpu(tensors(element, element), params, threads);
        else dispatch_float("out", out.dtype, [&](auto result) { tail_cpu(tensors(element, result), params, threads); });
      },
      [&](auto element) {
        dispatch_float("out", out.dtype, [&](auto result) {
          tail_cuda(tensors(element, result), params, reinterpret_cast<Stream>(stream));
        });
      });
}

const Register registered{[](pybind11::module_& module) { module.def("tail", &tail); }};

}  // namespace
}  // namespace di
