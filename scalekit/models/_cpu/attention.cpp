// Causal attention with the norm and rotation of queries and keys, forward and backward.
//
// Legend: B rows, T tokens, H query heads, G key-value heads, d head size, P d rounded up to whole
// vectors. In memory: qkv and its gradient (B, T, H + 2G, d); mixed, what attention gives, and its
// gradient (B, T, H, d); weights (B, H, T, 2), a query's largest score in base two and one over the
// sum of 2^(score - largest); parts (B, G, 2, P), what each key-value group adds to the gradients of
// the gains; table (T, 2, P), by which a head's numbers and their neighbours are multiplied to rotate
// it: cosines, then sines, the first of each pair negative. With `more` the gradients of the gains are
// added to what stands there. Gains may be null: then nothing is
// normalised. The BYTES behind an array of tokens may be read, to read a token in whole vectors. Sums
// over threads' work are in an order that does not depend on the threads.
//
// One (row, key-value head) after the other, whole in cache. Scores exist for a few queries at a
// time and only up to the diagonal, which saves half of the work. Queries carry the scale and
// log2(e), so that 2^x does for e^x.

#include "vector.h"

namespace {

constexpr int BLOCK = 8 * TILE;  // queries whose scores are alive together going backward

struct Sizes {
  int T, H, G, d, P;
  int line;        // numbers from one row of scores to the next, no power of two
  long token;      // numbers from one token to the next in qkv
  real eps, scale;
  Sizes(int T, int H, int G, int d, real eps)
      : T(T), H(H), G(G), d(d), P(round_up(d, W)), line(round_up(T, W) + W),
        token(long(H + 2 * G) * d), eps(eps), scale(1 / std::sqrt(real(d))) {}
};

// What one thread works on: flat is (T, P), across is (d, line).
struct Scratch {
  real *q, *k, *v, *out, *dk, *dv, *k_across, *v_across, *p, *ds, *delta, *tile, *spare;
  real *q_gain, *k_gain;
  Scratch(const Sizes& s, real* at) {
    for (real** flat : {&q, &k, &v, &out, &dk, &dv}) *flat = at, at += long(s.T) * s.P;
    for (real** across : {&k_across, &v_across}) *across = at, at += long(s.P) * s.line;
    for (real** scores : {&p, &ds}) *scores = at, at += long(BLOCK) * s.line;
    delta = at, tile = delta + s.line, spare = tile + TILE * s.P;
    q_gain = spare + s.P, k_gain = q_gain + s.P;
  }
  static long size(const Sizes& s) {
    return 6L * s.T * s.P + 2L * s.P * s.line + 2L * BLOCK * s.line + s.line + (TILE + 3L) * s.P;
  }
};

// Copy d numbers and put zeros up to P behind them.
void pad(const Sizes& s, const real* x, real* to) {
  const int whole = s.d / W * W;
  for (int i = 0; i < whole; i += W) store(to + i, load(x + i));
  if (whole < s.P) store(to + whole, first_lanes(load(x + whole), s.d - whole, 0));
}

// Point at the d numbers of x with zeros up to P behind them, copied only where P is larger.
const real* padded(const Sizes& s, const real* x, real* to) {
  if (s.d == s.P) return x;
  pad(s, x, to);
  return to;
}

const real* copy_gain(const Sizes& s, const real* gain, real* to) {
  if (!gain) return nullptr;
  for (int i = 0; i < s.P; i++) to[i] = i < s.d ? gain[i] : 0;
  return to;
}

// Ask for a head of a token some way ahead: tokens lie too far apart for the machine to guess them.
void fetch_ahead(const Sizes& s, const real* x, long token) {
  constexpr int AHEAD = 12;
  for (int i = 0; i < s.d; i += LINE) __builtin_prefetch(x + AHEAD * token + i);
}

void copy_flat(const Sizes& s, const real* x, long token, real* to) {
  for (int t = 0; t < s.T; t++, x += token, to += s.P) {
    fetch_ahead(s, x, token);
    pad(s, x, to);
  }
}

// Transpose (T, P) to (P, line), zeros behind.
void lay_across(const Sizes& s, const real* flat, real* across) {
  int t = 0;
  for (; t + W <= s.T; t += W)
    for (int i = 0; i < s.P; i += W)
      transpose_square(flat + long(t) * s.P + i, s.P, across + long(i) * s.line + t, s.line);
  for (int i = 0; i < s.P; i++)
    for (int u = t; u < s.line; u++)
      across[long(i) * s.line + u] = u < s.T ? flat[long(u) * s.P + i] : 0;
}

real inverse_norm(const Sizes& s, const real* x) {
  vec squares = {};
  for (int i = 0; i < s.P; i += W) squares += load(x + i) * load(x + i);
  return 1 / std::sqrt(sum(squares) / s.d + s.eps);
}

// Normalise one head of one token, rotate it, scale it.
void turn(const Sizes& s, const real* x, const real* gain, const real* table, real scale,
          real* spare, real* to) {
  x = padded(s, x, spare);
  if (gain) scale *= inverse_norm(s, x);
  for (int i = 0; i < s.P; i += W) {
    vec v = load(x + i) * scale;
    if (gain) v *= load(gain + i);
    store(to + i, v * load(table + i) + exchange<1>(v) * load(table + s.P + i));
  }
}

// From the gradient after `turn`, in grad, to the one before it; adds to that of the gain.
void turn_back(const Sizes& s, real* grad, const real* x, const real* gain, const real* table,
               real scale, real* spare, real* dx, real* dgain) {
  for (int i = 0; i < s.P; i += W) {
    const vec g = load(grad + i) * scale;
    store(grad + i, g * load(table + i) + exchange<1>(g * load(table + s.P + i)));
  }
  if (gain) {
    x = padded(s, x, spare);
    const real inverse = inverse_norm(s, x);
    vec along = {};
    for (int i = 0; i < s.P; i += W) {
      const vec g = load(grad + i), v = load(x + i);
      store(dgain + i, load(dgain + i) + g * v * inverse);
      along += g * load(gain + i) * v;
    }
    const real back = sum(along) * inverse * inverse / s.d;
    for (int i = 0; i < s.P; i += W)
      store(grad + i, inverse * (load(grad + i) * load(gain + i) - load(x + i) * back));
  }
  fetch_ahead(s, dx, s.token);
  for (int i = 0; i < s.d; i++) dx[i] = grad[i];
}

void turn_all(const Sizes& s, const Scratch& at, const real* x, const real* gain, const real* table,
              real scale, real* to) {
  for (int t = 0; t < s.T; t++, x += s.token, table += 2 * s.P, to += s.P) {
    fetch_ahead(s, x, s.token);
    turn(s, x, gain, table, scale, at.spare, to);
  }
}

// Set to zero what a query must not see: its line behind column `last`, up to `end`.
void hide(real* line, int last, int end) {
  int j = last / W * W;
  store(line + j, first_lanes(load(line + j), last + 1 - j, 0));
  for (j += W; j < end; j += W) store(line + j, vec{});
}

// Turn the scores of query `last` into probabilities but for their sum; weights as above.
void weigh(real* scores, int last, int columns, real* weights) {
  const int edge = last / W * W;  // the vector of scores that the diagonal cuts
  const vec cut = first_lanes(load(scores + edge), last + 1 - edge, -INFINITY);
  vec tops = cut;
  for (int j = 0; j < edge; j += W) tops = larger(tops, load(scores + j));
  const real top = largest(tops);
  vec sums = first_lanes(exp2v(cut - top), last + 1 - edge, 0);
  store(scores + edge, sums);
  for (int j = 0; j < edge; j += W) {
    const vec e = exp2v(load(scores + j) - top);
    store(scores + j, e);
    sums += e;
  }
  for (int j = edge + W; j < columns; j += W) store(scores + j, vec{});
  weights[0] = top;
  weights[1] = 1 / sum(sums);
}

void forward_head(const Sizes& s, const Scratch& at, real* mixed, real* weights) {
  const long token = long(s.H) * s.d;
  for (int i0 = 0; i0 < s.T; i0 += TILE) {
    const int rows = i0 + TILE <= s.T ? TILE : s.T - i0, seen = i0 + rows;
    const int columns = round_up(seen, W);
    product<false>(rows, columns, s.d, at.q + long(i0) * s.P, s.P, 1, at.k_across, s.line, at.p,
                   s.line);
    for (int r = 0; r < rows; r++)
      weigh(at.p + r * s.line, i0 + r, columns, weights + 2 * (i0 + r));
    product<false>(rows, s.P, seen, at.p, s.line, 1, at.v, s.P, at.tile, s.P);
    for (int r = 0; r < rows; r++)
      for (int i = 0; i < s.d; i++)
        mixed[(i0 + r) * token + i] = at.tile[r * s.P + i] * weights[2 * (i0 + r) + 1];
  }
}

// Probabilities, and gradients of the scores, of queries i0 to i0 + rows into lines of p and ds.
void backward_scores(const Sizes& s, const Scratch& at, const real* weights, int i0, int rows,
                     int block_end, real* p, real* ds) {
  const int columns = round_up(i0 + rows, W);
  product<false>(rows, columns, s.d, at.q + long(i0) * s.P, s.P, 1, at.k_across, s.line, p, s.line);
  product<false>(rows, columns, s.d, at.out + long(i0) * s.P, s.P, 1, at.v_across, s.line, ds,
                 s.line);
  for (int r = 0; r < rows; r++, p += s.line, ds += s.line) {
    const int last = i0 + r;
    const real top = weights[2 * last], inverse = weights[2 * last + 1], delta = at.delta[last];
    for (int j = 0; j <= last; j += W) {
      const vec e = exp2v(load(p + j) - top) * inverse;
      store(p + j, e);
      store(ds + j, e * (load(ds + j) - delta));
    }
    hide(p, last, block_end);
    hide(ds, last, block_end);
  }
}

// Adds to dk and dv, writes the gradient of this head's queries, adds to that of their gain.
void backward_head(const Sizes& s, const Scratch& at, const real* queries, const real* gain,
                   const real* table, const real* weights, real* d_queries, real* d_gain) {
  for (int i0 = 0; i0 < s.T; i0 += BLOCK) {
    const int i1 = i0 + BLOCK <= s.T ? i0 + BLOCK : s.T, end = round_up(i1, W) + W;
    for (int i = i0; i < i1; i += TILE) {
      const int rows = i + TILE <= i1 ? TILE : i1 - i;
      real *p = at.p + long(i - i0) * s.line, *ds = at.ds + long(i - i0) * s.line;
      backward_scores(s, at, weights, i, rows, end, p, ds);
      product<false>(rows, s.P, i + rows, ds, s.line, 1, at.k, s.P, at.tile, s.P);
      for (int r = 0; r < rows; r++)
        turn_back(s, at.tile + r * s.P, queries + (i + r) * s.token, gain,
                  table + 2L * (i + r) * s.P, s.scale, at.spare, d_queries + (i + r) * s.token,
                  d_gain);
    }
    for (int j = 0; j < i1; j += TILE) {
      const int rows = j + TILE <= i1 ? TILE : i1 - j, first = j > i0 ? j : i0;
      const long skip = long(first - i0) * s.line + j, from = long(first) * s.P;
      product<true>(rows, s.P, i1 - first, at.p + skip, 1, s.line, at.out + from, s.P,
                    at.dv + long(j) * s.P, s.P);
      product<true>(rows, s.P, i1 - first, at.ds + skip, 1, s.line, at.q + from, s.P,
                    at.dk + long(j) * s.P, s.P);
    }
  }
}

}  // namespace

extern "C" {

// How many numbers of scratch memory each thread needs.
long attention_scratch(long T, long d) { return Scratch::size(Sizes(T, 1, 1, d, 0)); }

// The head size rounded up to whole vectors.
long attention_width(long d) { return round_up(d, W); }

void attention_forward(const real* qkv, const real* q_gain, const real* k_gain, const real* table,
                       real* mixed, real* weights, real* scratch, long B, long T, long H, long G,
                       long d, double eps, long threads) {
  const Sizes s(T, H, G, d, eps);
  const long shared = H / G;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long task = 0; task < B * G; task++) {
    const long b = task / G, g = task % G;
    const Scratch at(s, scratch + thread_number() * Scratch::size(s));
    const real* row = qkv + b * T * s.token;
    const real* of_q = copy_gain(s, q_gain, at.q_gain);
    const real* of_k = copy_gain(s, k_gain, at.k_gain);
    turn_all(s, at, row + (H + g) * d, of_k, table, 1, at.k);
    lay_across(s, at.k, at.k_across);
    copy_flat(s, row + (H + G + g) * d, s.token, at.v);
    for (long h = g * shared; h < (g + 1) * shared; h++) {
      turn_all(s, at, row + h * d, of_q, table, s.scale * LOG2E, at.q);
      forward_head(s, at, mixed + (b * T * H + h) * d, weights + (b * H + h) * T * 2);
    }
  }
}

void attention_backward(const real* qkv, const real* q_gain, const real* k_gain, const real* table,
                        const real* mixed, const real* weights, const real* d_mixed, real* d_qkv,
                        real* d_q_gain, real* d_k_gain, long more, real* parts, real* scratch, long B, long T,
                        long H, long G, long d, double eps, long threads) {
  const Sizes s(T, H, G, d, eps);
  const long shared = H / G;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long task = 0; task < B * G; task++) {
    const long b = task / G, g = task % G;
    const Scratch at(s, scratch + thread_number() * Scratch::size(s));
    const real* row = qkv + b * T * s.token;
    real* d_row = d_qkv + b * T * s.token;
    real* d_gains = parts + task * 2 * s.P;
    const real* of_q = copy_gain(s, q_gain, at.q_gain);
    const real* of_k = copy_gain(s, k_gain, at.k_gain);
    const long key = (H + g) * d, value = (H + G + g) * d;
    std::memset(d_gains, 0, sizeof(real) * 2 * s.P);
    std::memset(at.dk, 0, sizeof(real) * T * s.P);
    std::memset(at.dv, 0, sizeof(real) * T * s.P);
    turn_all(s, at, row + key, of_k, table, 1, at.k);
    lay_across(s, at.k, at.k_across);
    copy_flat(s, row + value, s.token, at.v);
    lay_across(s, at.v, at.v_across);
    for (long h = g * shared; h < (g + 1) * shared; h++) {
      const long place = (b * T * H + h) * d, token = H * d;
      turn_all(s, at, row + h * d, of_q, table, s.scale * LOG2E, at.q);
      copy_flat(s, d_mixed + place, token, at.out);
      for (long t = 0; t < T; t++) {
        fetch_ahead(s, mixed + place + t * token, token);
        const real* x = padded(s, mixed + place + t * token, at.spare);
        vec products = {};
        for (int i = 0; i < s.P; i += W) products += load(x + i) * load(at.out + t * s.P + i);
        at.delta[t] = sum(products);
      }
      backward_head(s, at, row + h * d, of_q, table, weights + (b * H + h) * T * 2,
                    d_row + h * d, d_gains);
    }
    for (long t = 0; t < T; t++) {
      real* d_token = d_row + t * s.token;
      // q carries log2(e), which the gradient of k must not.
      turn_back(s, at.dk + t * s.P, row + t * s.token + key, of_k, table + 2 * t * s.P, LN2,
                at.spare, d_token + key, d_gains + s.P);
      for (long i = 0; i < d; i++) d_token[value + i] = at.dv[t * s.P + i];
    }
  }
  if (!q_gain) return;
  for (long i = 0; i < d; i++) {
    if (!more) d_q_gain[i] = d_k_gain[i] = 0;
    for (long task = 0; task < B * G; task++) {
      d_q_gain[i] += parts[2 * task * s.P + i];
      d_k_gain[i] += parts[(2 * task + 1) * s.P + i];
    }
  }
}
}
