// centred_importance on tensors: importance of query and key neurons under LayerNorms over the head.
//
// With x a head before its norm, m its mean and r its deviation, the norm's output less its bias is y = g (x - m) / r.
// Without dimension n the mean is m - x[n] / d and the deviation is r':
//
//     y' - y = growth y + share g - direct e_n,   growth = r / r' - 1,  share = x[n] / (d r'),  direct = g[n] x[n] / r'
//
// The last term is what qk_importance computes for a norm without a mean. The rotation is linear, so growth multiplies
// the attention scores of the rotated y, and share those of the rotated g.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "dispatch.h"
#include "qk_problem.h"

namespace pymultiling {
namespace {

// One site's tensors (1, heads, l, d), float32. `plain` is g x / r, so that direct is (1 + growth) plain.
struct Normed {
  at::Tensor plain, growth, share, normed, gain;
};

at::Tensor rotated(const at::Tensor& x, const std::optional<RotationTables>& tables) {
  if (!tables) return x;
  return x * tables->direct.unsqueeze(1) + (x * tables->cross.unsqueeze(1)).index_select(3, tables->partner);
}

// x: (l, heads d). weight: (d,) or (heads, d).
Normed normed(
    const at::Tensor& x, const at::Tensor& weight, double eps, int64_t size,
    const std::optional<RotationTables>& tables) {
  const at::Tensor wide = x.to(at::kDouble).unflatten(1, {x.size(1) / size, size}).transpose(0, 1).unsqueeze(0);
  const at::Tensor g = (weight.dim() == 1 ? weight : weight.unsqueeze(1)).to(at::kFloat);
  const at::Tensor mean = wide.mean(-1, true), centred = wide - mean, square = centred.square().mean(-1, true) + eps;
  // The mean of the other dimensions, and how far it is above x[n], give the change of the square.
  const double others = std::max<int64_t>(size - 1, 1), d = static_cast<double>(size);
  const at::Tensor other = size > 1 ? mean + (mean - wide) / others : wide * 0;
  const at::Tensor change = wide * (2 * other - wide) * ((d - 1) / (d * d));
  const at::Tensor r = square.sqrt(), without = (square + change).sqrt();
  const auto narrow = [](const at::Tensor& y) { return y.to(at::kFloat).contiguous(); };
  const at::Tensor gain = rotated(g.expand({1, wide.size(1), wide.size(2), size}), tables).contiguous();
  if (size == 1) {  // the norm's output is its bias, whatever x is
    const at::Tensor none = narrow(wide * 0);
    return {none, none, none, none, gain};
  }
  return {
      narrow(wide / r) * g, narrow(-change / (without * (r + without))), narrow(wide / (d * without)),
      rotated(narrow(centred / r) * g, tables).contiguous(), gain};
}

std::tuple<at::Tensor, at::Tensor> centred_importance(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& q, const at::Tensor& k,
    const at::Tensor& q_weight, const at::Tensor& k_weight, double q_eps, double k_eps, const OptionalTensor& cos,
    const OptionalTensor& sin, const at::Tensor& valid, double scale, std::optional<int64_t> window,
    std::optional<double> softcap, bool interleaved) {
  TORCH_CHECK(
      query.dim() == 4 && key.dim() == 4 && q.dim() == 3 && k.dim() == 3 && q.size(0) == query.size(0) &&
          k.size(0) == query.size(0) && q.size(1) == query.size(2) && k.size(1) == query.size(2) &&
          q.size(2) == query.size(1) * query.size(3) && k.size(2) == key.size(1) * query.size(3),
      "query, key, q and k must be (B, H, l, d), (B, K, l, d), (B, l, H d) and (B, l, K d)");
  const int64_t size = query.size(3);
  const OptionalTensor none;
  std::vector<at::Tensor> q_results = {at::empty({0, query.size(1) * size}, at::kFloat)},
                          k_results = {at::empty({0, key.size(1) * size}, at::kFloat)};
  for (int64_t b = 0; b < query.size(0); b++) {  // one document at a time, for the memory
    const auto table = [&](const OptionalTensor& x) -> OptionalTensor {
      return x ? OptionalTensor(x->narrow(0, x->size(0) > 1 ? b : 0, 1)) : none;
    };
    const OptionalTensor cosines = table(cos), sines = table(sin);
    std::optional<RotationTables> tables;
    if (cosines && sines) tables = rotation_tables(*cosines, *sines, size, interleaved);
    const Normed queries = normed(q[b], q_weight, q_eps, size, tables),
                 keys = normed(k[b], k_weight, k_eps, size, tables);
    const OptionalTensor q_plain = queries.plain, k_plain = keys.plain, q_growth = queries.growth,
                         k_growth = keys.growth;
    const at::Tensor document = query.narrow(0, b, 1), document_keys = key.narrow(0, b, 1),
                     is_valid = valid.narrow(0, b, 1);
    QkProblem problem(
        {document, document_keys, q_plain, k_plain, cosines, sines, is_valid, q_growth, k_growth, scale, window,
         softcap, interleaved, none, /*causal=*/true, none},
        QkProblem::Centred{queries.normed, keys.normed, queries.gain, keys.gain, queries.share, keys.share});
    const auto sums = problem.run(kernels().centred_tile, 1);
    q_results.push_back(sums.queries[0].to(at::kFloat));
    k_results.push_back(sums.keys[0].to(at::kFloat));
  }
  return {at::cat(q_results), at::cat(k_results)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) {
  m.def(
      "centred_importance(Tensor query, Tensor key, Tensor q, Tensor k, Tensor q_weight, Tensor k_weight, float q_eps, "
      "float k_eps, Tensor? cos, Tensor? sin, Tensor valid, float scale, int? window, float? softcap, bool "
      "interleaved) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) { m.impl("centred_importance", &centred_importance); }

}  // namespace pymultiling
