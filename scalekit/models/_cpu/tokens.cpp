// What is done token by token: look-up, root-mean-square norm, activation, cross-entropy.
//
// Legend: n tokens, D width of the stream, F width of the MLP, V vocabulary. Sums over tokens are
// taken in parts of PART tokens, so that their order does not depend on the number of threads.
// Comparisons are written so that what is not a number stays so.

#include "vector.h"

namespace {
constexpr int PART = 64;

// 1 / (1 + e^-x). Below x = -88 the exponent has no bits for e^-x, and 1e-38 stands for what is less.
vec logistic(vec x) { return 1 / (1 + exp2v(smaller(fill(127), x * -LOG2E))); }

// Call f(column, lanes) for whole vectors, then for what is left, whose lanes are fewer.
template <class F>
void by_vectors(long columns, F f) {
  long i = 0;
  for (; i + W <= columns; i += W) f(i, W);
  if (i < columns) f(i, int(columns - i));
}

vec load_some(const real* p, int lanes, real rest) {
  if (lanes == W) return load(p);
  vec v = fill(rest);
  for (int i = 0; i < lanes; i++) v[i] = p[i];
  return v;
}

void store_some(real* p, int lanes, vec v) {
  if (lanes == W) return store(p, v);
  for (int i = 0; i < lanes; i++) p[i] = v[i];
}

}  // namespace

extern "C" {

void embed(const int64_t* tokens, const real* table, real* x, long n, long D, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long t = 0; t < n; t++) std::memcpy(x + t * D, table + tokens[t] * D, D * sizeof(real));
}

// Adds to d_table (V, D), cleared first unless it keeps what it holds. Threads share the columns out,
// each goes through all tokens in order.
void embed_backward(const int64_t* tokens, const real* dx, real* d_table, long keeps, long n,
                    long D, long V, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long part = 0; part < threads; part++) {
    const long first = D * part / threads, end = D * (part + 1) / threads;
    for (long v = 0; v < V && !keeps; v++)
      for (long i = first; i < end; i++) d_table[v * D + i] = 0;
    for (long t = 0; t < n; t++)
      for (long i = first; i < end; i++) d_table[tokens[t] * D + i] += dx[t * D + i];
  }
}

// x + added (where there is one) into `stream`; normalised and times gain into y.
void norm_forward(const real* x, const real* added, const real* gain, real* stream, real* y,
                  real* inverse, long n, long D, double eps, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long t = 0; t < n; t++) {
    const real* row = x + t * D;
    real squares = 0;
    if (added) {
      real* to = stream + t * D;
#pragma omp simd reduction(+ : squares)
      for (long i = 0; i < D; i++) {
        to[i] = row[i] + added[t * D + i];
        squares += to[i] * to[i];
      }
      row = to;
    } else {
#pragma omp simd reduction(+ : squares)
      for (long i = 0; i < D; i++) squares += row[i] * row[i];
    }
    const real factor = 1 / std::sqrt(squares / D + real(eps));
    inverse[t] = factor;
#pragma omp simd
    for (long i = 0; i < D; i++) y[t * D + i] = row[i] * factor * gain[i];
  }
}

// The gradient through a norm goes into dx, or with `add` is added to what stands there, and that of
// the gain likewise with `more`. parts is (n / PART rounded up, D).
void norm_backward(const real* dy, const real* x, const real* inverse, const real* gain, real* dx,
                   long add, real* d_gain, long more, real* parts, long n, long D, long threads) {
  const long n_parts = (n + PART - 1) / PART;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long part = 0; part < n_parts; part++) {
    real* sums = parts + part * D;
    for (long i = 0; i < D; i++) sums[i] = 0;
    for (long t = part * PART; t < n && t < (part + 1) * PART; t++) {
      const real *g = dy + t * D, *row = x + t * D;
      real* to = dx + t * D;
      const real factor = inverse[t];
      real along = 0;
#pragma omp simd reduction(+ : along)
      for (long i = 0; i < D; i++) {
        sums[i] += g[i] * row[i] * factor;
        along += g[i] * gain[i] * row[i];
      }
      along *= factor * factor / D;
      if (add) {
#pragma omp simd
        for (long i = 0; i < D; i++) to[i] += factor * (g[i] * gain[i] - row[i] * along);
      } else {
#pragma omp simd
        for (long i = 0; i < D; i++) to[i] = factor * (g[i] * gain[i] - row[i] * along);
      }
    }
  }
  for (long i = 0; i < D && !more; i++) d_gain[i] = 0;
  for (long part = 0; part < n_parts; part++)
    for (long i = 0; i < D; i++) d_gain[i] += parts[part * D + i];
}

void relu2_forward(const real* u, real* h, long n, long F, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long t = 0; t < n; t++)
    for (long i = t * F; i < (t + 1) * F; i++) h[i] = u[i] <= 0 ? 0 : u[i] * u[i];
}

void relu2_backward(const real* dh, const real* u, real* du, long n, long F, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long t = 0; t < n; t++)
    for (long i = t * F; i < (t + 1) * F; i++) du[i] = u[i] <= 0 ? 0 : 2 * u[i] * dh[i];
}

// u is (n, 2, F): gates, then values.
void swiglu_forward(const real* u, real* h, long n, long F, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long t = 0; t < n; t++) {
    const real *gates = u + 2 * t * F, *values = gates + F;
    by_vectors(F, [&](long i, int lanes) {
      const vec g = load_some(gates + i, lanes, 0), v = load_some(values + i, lanes, 0);
      store_some(h + t * F + i, lanes, g * logistic(g) * v);
    });
  }
}

void swiglu_backward(const real* dh, const real* u, real* du, long n, long F, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long t = 0; t < n; t++) {
    const real *gates = u + 2 * t * F, *values = gates + F;
    real *d_gates = du + 2 * t * F, *d_values = d_gates + F;
    by_vectors(F, [&](long i, int lanes) {
      const vec g = load_some(gates + i, lanes, 0), v = load_some(values + i, lanes, 0);
      const vec d = load_some(dh + t * F + i, lanes, 0), open = logistic(g);
      store_some(d_values + i, lanes, d * g * open);
      store_some(d_gates + i, lanes, d * v * open * (1 + g * (1 - open)));
    });
  }
}

// Losses (n,) in nats of logits (n, V) times scale. With a factor other than zero the logits are
// replaced by the gradient of the sum of the losses times that factor.
void cross_entropy(real* logits, const int64_t* targets, real* losses, long n, long V, double scale,
                   double factor, long threads) {
  const real to_bits = real(scale) * LOG2E;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long t = 0; t < n; t++) {
    real* row = logits + t * V;
    vec tops = fill(-INFINITY), sums = {};
    by_vectors(V, [&](long i, int lanes) {
      tops = larger(load_some(row + i, lanes, -INFINITY), tops);
    });
    const real top = largest(tops), below = (top - row[targets[t]]) * real(scale);
    by_vectors(V, [&](long i, int lanes) {
      const vec e = exp2v((load_some(row + i, lanes, -INFINITY) - top) * to_bits);
      if (factor != 0) store_some(row + i, lanes, e);
      sums += first_lanes(e, lanes, 0);
    });
    const real total = sum(sums);
    losses[t] = std::log(total) + below;
    if (factor == 0) continue;
    const real each = real(factor * scale) / total;
#pragma omp simd
    for (long i = 0; i < V; i++) row[i] *= each;
    row[targets[t]] -= real(factor * scale);
  }
}
}
