#include "channels_last.h"
#include "ops/depth_to_space_cbn_relu/depth_to_space_cbn_relu.h"
#include "registry.h"

namespace di {
namespace {

void depth_to_space_cbn_relu(const TensorRef& z, const TensorRef& scale, const TensorRef& shift, const TensorRef& out, int threads,
                             uintptr_t stream) {
  check_sizes("z", z);
  if (z.size(1) < 1 || z.size(2) < 1) fail("z", "have at least one row and column", text(z.shape));
  if (z.size(3) % 4) fail("z", "have 4 times as many channels as out", text(z.shape));
  DepthToSpaceCbnReluParams params{z.size(0), z.size(1) - 1, z.size(2) - 1, z.size(3) / 4, 0, 0, 0, 0};
  params.z_pixel = pixel_stride("z", z);
  params.scale_row = check_rows("scale", scale, params.n, params.c, z);
  params.shift_row = check_rows("shift", shift, params.n, params.c, z);
  params.out_pixel = check_activation("out", out, {params.n, 2 * params.h, 2 * params.w, params.c}, z);

  pybind11::gil_scoped_release without_gil;
  dispatch_activation(
      "z", z,
      [&](auto element) {
        using T = decltype(element);
        depth_to_space_cbn_relu_cpu<T>(z.data<T>(), scale.data<Wide<T>>(), shift.data<Wide<T>>(), out.data<T>(), params, threads);
      },
      [&](auto element) {
        using T = decltype(element);
        depth_to_space_cbn_relu_cuda<T>(z.data<T>(), scale.data<float>(), shift.data<float>(), out.data<T>(), params,
                                        reinterpret_cast<Stream>(stream));
      });
}

const Register registered{[](pybind11::module_& module) { module.def("depth_to_space_cbn_relu", &depth_to_space_cbn_relu); }};

}  // namespace
}  // namespace di
