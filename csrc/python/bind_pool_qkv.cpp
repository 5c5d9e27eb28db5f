#include "channels_last.h"
#include "ops/pool_qkv/pool_qkv.h"
#include "registry.h"

namespace di {
namespace {

// Rows [n, count, width] with width at least `least`; their width.
int64_t check_sequence(const std::string& name, const TensorRef& t, int64_t n, int64_t count, int64_t least, const TensorRef& qkv) {
  check_rank(name, t, 3);
  if (t.size(0) != n || t.size(1) != count || t.size(2) < least || t.size(2) > kMostChannels)
    fail(name, "have shape " + text({n, count, least}) + " or wider rows, below 2^24", text(t.shape));
  check_dtype(name, t, qkv.dtype);
  check_same_device(name, t, qkv);
  check_contiguous(name, t);
  return t.size(2);
}

void pool_qkv(const TensorRef& qkv, int64_t d, const TensorRef& q, const TensorRef& k, const TensorRef& v, int threads, uintptr_t stream) {
  check_sizes("qkv", qkv);
  if (d < 0 || 2 * d > qkv.size(3))
    fail("d", "be in [0, " + std::to_string(qkv.size(3) / 2) + "] for " + std::to_string(qkv.size(3)) + " channels", std::to_string(d));
  PoolQkvParams params{qkv.size(0), qkv.size(1), qkv.size(2), d, qkv.size(3) - 2 * d, 0, 0, 0};
  if (params.h % 2 || params.w % 2) fail("qkv", "have an even height and width", text(qkv.shape));
  params.qkv_pixel = pixel_stride("qkv", qkv);
  const int64_t pixels = params.h * params.w;
  params.key_width = check_sequence("q", q, params.n, pixels, d, qkv);
  if (check_sequence("k", k, params.n, pixels / 4, d, qkv) != params.key_width)
    fail("k", "have rows as wide as q's, " + std::to_string(params.key_width), text(k.shape));
  params.value_width = check_sequence("v", v, params.n, pixels / 4, params.e, qkv);

  pybind11::gil_scoped_release without_gil;
  dispatch_activation(
      "qkv", qkv,
      [&](auto element) {
        using T = decltype(element);
        pool_qkv_cpu<T>(qkv.data<T>(), q.data<T>(), k.data<T>(), v.data<T>(), params, threads);
      },
      [&](auto element) {
        using T = decltype(element);
        pool_qkv_cuda<T>(qkv.data<T>(), q.data<T>(), k.data<T>(), v.data<T>(), params, reinterpret_cast<Stream>(stream));
      });
}

const Register registered{[](pybind11::module_& module) { module.def("pool_qkv", &pool_qkv); }};

}  // namespace
}  // namespace di
