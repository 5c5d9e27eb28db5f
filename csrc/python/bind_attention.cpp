#include "ops/attention/attention.h"

#include "instructions.h"
#include "registry.h"

namespace py = pybind11;

namespace di {
namespace {

int64_t workspace_of(DType dtype, const AttentionParams& params, Instructions instructions) {
  return dispatch_float_or_double("dtype", dtype,
                                  [&](auto element) { return attention_workspace<decltype(element)>(params, instructions); });
}

AttentionParams params_of(int64_t n, int64_t queries, int64_t keys, int64_t d, int64_t e) {
  for (const auto& [name, size] : {std::pair("keys", keys), std::pair("d", d), std::pair("e", e)})
    if (size < 1) fail(name, "be at least 1", std::to_string(size));
  AttentionParams params{};
  params.n = n, params.queries = queries, params.keys = keys, params.d = d, params.e = e;
  return params;
}

// A call whose tensors have been checked, to be made again and again.
class Bound {
 public:
  Bound(const TensorRef& q, const TensorRef& k, const TensorRef& v, const TensorRef& out, const TensorRef& workspace,
        const std::string& instructions)
      : instructions_(instructions_of(instructions, q.dtype)), dtype_(q.dtype) {
    check_rank("q", q, 3), check_rank("k", k, 3), check_rank("v", v, 3);
    const int64_t n = q.size(0), queries = q.size(1), d = q.size(2), keys = k.size(1), e = v.size(2);
    params_ = params_of(n, queries, keys, d, e);
    check_shape("k", k, {n, keys, d}), check_shape("v", v, {n, keys, e}), check_shape("out", out, {n, queries, e});
    dispatch_float_or_double("q", dtype_, [](auto) {});
    check("q", q), check_contiguous("q", q);
    check("k", k), check_contiguous("k", k);
    check("v", v), check_contiguous("v", v);
    check("out", out);
    params_.out_stride = rows(out);
    TensorRef span = out;   // from the first row to the last
    span.shape = {n * queries > 0 ? (n * queries - 1) * params_.out_stride + e : 0};
    threads_ = check_workspace(workspace, workspace_of(dtype_, params_, instructions_));
    for (const auto& [name, t] : {std::pair("q", &q), std::pair("k", &k), std::pair("v", &v)}) {
      check_apart("out", span, name, *t);
      check_apart("workspace", workspace, name, *t);
    }
    check_apart("workspace", workspace, "out", span);
    q_ = q.address, k_ = k.address, v_ = v.address, out_ = out.address, workspace_ = workspace.address;
  }

  void run(int threads) const {
    const int used = int(threads < threads_ ? threads : threads_);
    if (used < 1) fail("threads", "be at least 1", std::to_string(threads));
    py::gil_scoped_release without_gil;
    dispatch_float_or_double("q", dtype_, [&](auto element) {
      using T = decltype(element);
      const auto at = [](uintptr_t address) { return reinterpret_cast<T*>(address); };
      attention_cpu<T>({at(q_), at(k_), at(v_), at(out_)}, params_, instructions_, reinterpret_cast<void*>(workspace_), used);
    });
  }

 private:
  void check(const std::string& name, const TensorRef& t) const {
    check_dtype(name, t, dtype_);
    check_on_cpu(name, t);
    check_aligned(name, t, dtype_ == DType::float32 ? 4 : 8);
  }
  // How far a row of out is from the next, in elements: all are equally far apart.
  static int64_t rows(const TensorRef& out) {
    const int64_t n = out.size(0), queries = out.size(1), e = out.size(2);
    if (n * queries == 0) return e;   // strides of nothing mean nothing
    const int64_t stride = queries > 1 ? out.strides[1] : n > 1 ? out.strides[0] : e;
    if ((e > 1 && out.strides[2] != 1) || stride < e || (n > 1 && out.strides[0] != queries * stride))
      fail("out", "have contiguous rows equally far apart", "strides " + text(out.strides));
    return stride;
  }

  AttentionParams params_{};
  Instructions instructions_;
  DType dtype_;
  int64_t threads_ = 0;   // for which there is workspace
  uintptr_t q_ = 0, k_ = 0, v_ = 0, out_ = 0, workspace_ = 0;
};

const Register registered{[](py::module_& module) {
  module.def("attention_workspace", [](DType dtype, int64_t keys, int64_t d, int64_t e, const std::string& instructions) {
    return workspace_of(dtype, params_of(0, 0, keys, d, e), instructions_of(instructions, dtype));
  });
  py::class_<Bound>(module, "AttentionBound", py::module_local())
      .def(py::init<const TensorRef&, const TensorRef&, const TensorRef&, const TensorRef&, const TensorRef&, const std::string&>())
      .def("run", &Bound::run);
}};

}  // namespace
}  // namespace di
