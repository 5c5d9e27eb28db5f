#include "core/device_guard.h"
#include "ops/truncated_normal/truncated_normal.h"
#include "registry.h"
#include "tensor_ref.h"

namespace py = pybind11;

namespace di {
namespace {

template <class F> void dispatch(DType dtype, F f) {
  if (dtype == DType::float64) return f(double{});
  dispatch_float("out", dtype, f);
}

void truncated_normal(uint64_t seed, uint32_t epoch, const TensorRef& index, const TensorRef& repeat, uint8_t view,
                      uint8_t random_stream, const TensorRef& out, double bound, double factor, [[maybe_unused]] uintptr_t stream) {
  check_rank("out", out, 2);
  const TruncatedNormalParams params{out.size(0), out.size(1), random_key(seed, epoch, random_stream, view),
                                     mass_within(bound), bound, factor};
  for (const auto& [name, tensor] : {std::pair{"index", &index}, {"repeat", &repeat}}) {
    check_shape(name, *tensor, {params.n});
    check_dtype(name, *tensor, DType::int64);
    check_same_device(name, *tensor, out);
    check_contiguous(name, *tensor);
  }
  if (params.count > 0) check_contiguous("out", out);   // the strides of an empty tensor mean nothing
  if (params.count >= int64_t{1} << 33) fail("out", "have fewer than 2^33 columns", std::to_string(params.count));

  py::gil_scoped_release without_gil;
  dispatch(out.dtype, [&](auto element) {
    using T = decltype(element);
    if (out.device < 0) return truncated_normal_cpu<T>(index.data<int64_t>(), repeat.data<int64_t>(), out.data<T>(), params);
#ifdef DI_WITH_CUDA
    const DeviceGuard on_device(out.device);
    const auto on_stream = reinterpret_cast<Stream>(stream);
    truncated_normal_cuda<T>(index.data<int64_t>(), repeat.data<int64_t>(), out.data<T>(), params, on_stream);
#else
    no_cuda_code("out");
#endif
  });
}

void normal_quantile(const TensorRef& probability, const TensorRef& out) {   // for the accuracy test
  check_rank("probability", probability, 1);
  check_shape("out", out, probability.shape);
  for (const auto& [name, tensor] : {std::pair{"probability", &probability}, {"out", &out}}) {
    check_dtype(name, *tensor, DType::float64);
    check_contiguous(name, *tensor);
  }
  normal_quantile_cpu(probability.data<double>(), out.data<double>(), probability.size(0));
}

const Register registered{[](py::module_& module) {
  module.def("truncated_normal", &truncated_normal);
  module.def("normal_quantile", &normal_quantile);
  module.def("mass_within", &mass_within);
}};

}  // namespace
}  // namespace di
