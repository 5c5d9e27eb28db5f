#include "channels_last.h"
#include "ops/add_upsampled_cbn_relu/add_upsampled_cbn_relu.h"
#include "registry.h"

namespace di {
namespace {

using Optional = std::optional<TensorRef>;

void add_upsampled_cbn_relu(const TensorRef& conv, const Optional& shortcut, const Optional& bias, const Optional& scale,
                            const Optional& shift, const Optional& y, const Optional& a, int threads, uintptr_t stream) {
  check_sizes("conv", conv);
  AddUpsampledCbnReluParams params{};
  params.n = conv.size(0), params.h = conv.size(1), params.w = conv.size(2), params.c = conv.size(3);
  if (params.h % 2 || params.w % 2) fail("conv", "have an even height and width", text(conv.shape));
  if (!y && !a) fail("y", "be given where a is not", "None");
  if (a.has_value() != scale.has_value()) fail("scale", a ? "be given where a is" : "be None where a is", scale ? "a tensor" : "None");
  if (a.has_value() != shift.has_value()) fail("shift", a ? "be given where a is" : "be None where a is", shift ? "a tensor" : "None");
  params.conv_pixel = pixel_stride("conv", conv);
  if (shortcut) {
    params.kind = shortcut->shape == conv.shape ? Shortcut::full : Shortcut::half;
    const int64_t each = params.kind == Shortcut::full ? 1 : 2;
    params.shortcut_pixel = check_activation("shortcut", *shortcut, {params.n, params.h / each, params.w / each, params.c}, conv);
  }
  if (bias) check_channels("bias", *bias, params.c, conv);
  if (a) {
    params.scale_row = check_rows("scale", *scale, params.n, params.c, conv);
    params.shift_row = check_rows("shift", *shift, params.n, params.c, conv);
    params.a_pixel = check_activation("a", *a, conv.shape, conv);
  }
  if (y) params.y_pixel = check_activation("y", *y, conv.shape, conv);

  const auto tensors = [&](auto element) {
    using T = decltype(element);
    return AddUpsampledCbnReluTensors<T>{conv.data<T>(), address<T>(shortcut), address<Wide<T>>(bias), address<Wide<T>>(scale),
                                         address<Wide<T>>(shift), address<T>(y), address<T>(a)};
  };
  pybind11::gil_scoped_release without_gil;
  dispatch_activation(
      "conv", conv, [&](auto element) { add_upsampled_cbn_relu_cpu(tensors(element), params, threads); },
      [&](auto element) { add_upsampled_cbn_relu_cuda(tensors(element), params, reinterpret_cast<Stream>(stream)); });
}

const Register registered{[](pybind11::module_& module) { module.def("add_upsampled_cbn_relu", &add_upsampled_cbn_relu); }};

}  // namespace
}  // namespace di
