#include "channels_last.h"
#include "ops/bias_add_relu/bias_add_relu.h"
#include "registry.h"

namespace di {
namespace {

void bias_add_relu(const TensorRef& x, const TensorRef& bias, const std::optional<TensorRef>& residual, const TensorRef& out, bool relu,
                   int threads, uintptr_t stream) {
  check_sizes("x", x);
  BiasAddReluParams params{x.size(0) * x.size(1) * x.size(2), x.size(3), pixel_stride("x", x), 0, 0, relu};
  check_channels("bias", bias, params.c, x);
  if (residual) params.residual_pixel = check_activation("residual", *residual, x.shape, x);
  params.out_pixel = check_activation("out", out, x.shape, x);

  pybind11::gil_scoped_release without_gil;
  dispatch_activation(
      "x", x,
      [&](auto element) {
        using T = decltype(element);
        bias_add_relu_cpu<T>(x.data<T>(), bias.data<Wide<T>>(), address<T>(residual), out.data<T>(), params, threads);
      },
      [&](auto element) {
        using T = decltype(element);
        bias_add_relu_cuda<T>(x.data<T>(), bias.data<float>(), address<T>(residual), out.data<T>(), params,
                              reinterpret_cast<Stream>(stream));
      });
}

const Register registered{[](pybind11::module_& module) { module.def("bias_add_relu", &bias_add_relu); }};

}  // namespace
}  // namespace di
