// Vectors of `real`, what is done with them lane by lane, and a small matrix product in registers.
//
// Compilers that know GCC's vector extensions (gcc, clang) turn this into the machine's own
// instructions. `real` is float; the tests build it as double to compare derivatives to many digits.

#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
static inline int thread_number() { return omp_get_thread_num(); }
#else
static inline int thread_number() { return 0; }
#endif

#ifndef REAL
#define REAL float
#endif

using real = REAL;
constexpr bool IS_FLOAT = sizeof(real) == 4;

#ifdef __AVX512F__
constexpr int BYTES = 64;
#else
constexpr int BYTES = 32;
#endif
constexpr int W = BYTES / sizeof(real);  // lanes
constexpr int LINE = 64 / sizeof(real);  // numbers that a cache takes at once

typedef real vec __attribute__((vector_size(BYTES)));
typedef real loose __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
typedef std::conditional_t<IS_FLOAT, int32_t, int64_t> lane_int;
typedef lane_int ints __attribute__((vector_size(BYTES)));

static inline vec load(const real* p) { return *(const loose*)p; }
static inline void store(real* p, vec v) { *(loose*)p = v; }
static inline vec fill(real x) { return x - vec{}; }
static inline int round_up(int n, int to) { return (n + to - 1) / to * to; }
// b where either is not a number.
static inline vec larger(vec a, vec b) { return a > b ? a : b; }
static inline vec smaller(vec a, vec b) { return a < b ? a : b; }

// Lane i of the result is lane pick(i) of a, or of b where pick(i) - W is.
template <class Pick, int... I>
static inline vec shuffle(vec a, vec b, Pick pick, std::integer_sequence<int, I...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, pick(I)...);
#else
  return __builtin_shuffle(a, b, ints{pick(I)...});
#endif
}
constexpr auto LANES = std::make_integer_sequence<int, W>();

template <int... I>
static inline ints count_lanes(std::integer_sequence<int, I...>) {
  return ints{I...};
}

// Keep the first lanes, put `rest` into the others.
static inline vec first_lanes(vec v, long lanes, real rest) {
  return count_lanes(LANES) < lane_int(lanes) ? v : fill(rest);
}

// Lane i of the result is lane i ^ K: neighbours, pairs of neighbours, ... change places.
template <int K>
static inline vec exchange(vec v) {
  return shuffle(v, v, [](int i) constexpr { return i ^ K; }, LANES);
}

static inline vec low_halves(vec a, vec b) {
  return shuffle(a, b, [](int i) constexpr { return i / 2 + i % 2 * W; }, LANES);
}
static inline vec high_halves(vec a, vec b) {
  return shuffle(a, b, [](int i) constexpr { return W / 2 + i / 2 + i % 2 * W; }, LANES);
}

template <int K = W / 2>
static inline real sum(vec v) {
  v += exchange<K>(v);
  if constexpr (K > 1) return sum<K / 2>(v);
  return v[0];
}

template <int K = W / 2>
static inline real largest(vec v) {
  v = larger(v, exchange<K>(v));
  if constexpr (K > 1) return largest<K / 2>(v);
  return v[0];
}

// Transpose a square of W by W numbers.
static inline void transpose_square(const real* from, long from_row, real* to, long to_row) {
  vec a[W], b[W];
  for (int i = 0; i < W; i++) a[i] = load(from + i * from_row);
  for (int stage = 1; stage < W; stage *= 2) {
    for (int i = 0; i < W / 2; i++) {
      b[2 * i] = low_halves(a[i], a[i + W / 2]);
      b[2 * i + 1] = high_halves(a[i], a[i + W / 2]);
    }
    for (int i = 0; i < W; i++) a[i] = b[i];
  }
  for (int i = 0; i < W; i++) store(to + i * to_row, a[i]);
}

// 2^x. In float: the nearest integer goes into the exponent's bits, and for what is left, at most a
// half, the Taylor series to seventh order is exact to less than the last bit. x is 127 at most.
static inline vec exp2v(vec x) {
  if constexpr (IS_FLOAT) {
    x = larger(fill(-126), x);
    const vec magic = fill(12582912);  // 1.5 * 2^23: adding it rounds to an integer
    vec shifted = x + magic;
    vec f = x - (shifted - magic);
    vec y = fill(real(1.5252733804e-5));
    y = y * f + real(1.5403530393e-4);
    y = y * f + real(1.3333558146e-3);
    y = y * f + real(9.6181291076e-3);
    y = y * f + real(5.5504108665e-2);
    y = y * f + real(2.4022650696e-1);
    y = y * f + real(6.9314718056e-1);
    y = y * f + real(1);
    return (vec)((ints)y + ((ints)shifted << 23));
  } else {
    for (int i = 0; i < W; i++) x[i] = std::exp2(x[i]);
    return x;
  }
}

constexpr real LOG2E = real(1.44269504088896340736);
constexpr real LN2 = real(0.69314718055994530942);

// C (R x N W) = or += A (R x depth) B (depth x N W), everything of C in registers.
// Element (r, p) of A is a[r * a_row + p * a_col]; B and C have rows of b_row and c_row numbers.
template <int R, int N, bool ADD>
static inline void product_tile(long depth, const real* a, long a_row, long a_col, const real* b,
                                long b_row, real* c, long c_row) {
  vec acc[R][N];
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) acc[r][n] = ADD ? load(c + r * c_row + n * W) : vec{};
  for (long p = 0; p < depth; p++) {
    vec row[N];
    for (int n = 0; n < N; n++) row[n] = load(b + p * b_row + n * W);
    for (int r = 0; r < R; r++) {
      const vec left = fill(a[r * a_row + p * a_col]);
      for (int n = 0; n < N; n++) acc[r][n] += left * row[n];
    }
  }
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) store(c + r * c_row + n * W, acc[r][n]);
}

template <int R, bool ADD>
static inline void product_rows(int columns, long depth, const real* a, long a_row, long a_col,
                                const real* b, long b_row, real* c, long c_row) {
  int j = 0;
  for (; j + 2 * W <= columns; j += 2 * W)
    product_tile<R, 2, ADD>(depth, a, a_row, a_col, b + j, b_row, c + j, c_row);
  if (j < columns) product_tile<R, 1, ADD>(depth, a, a_row, a_col, b + j, b_row, c + j, c_row);
}

constexpr int TILE = 6;  // rows: six by two vectors fill sixteen registers

// The same for up to TILE rows and `columns` columns, a multiple of W.
template <bool ADD>
static inline void product(int rows, int columns, long depth, const real* a, long a_row, long a_col,
                           const real* b, long b_row, real* c, long c_row) {
  switch (rows) {
    case 6: return product_rows<6, ADD>(columns, depth, a, a_row, a_col, b, b_row, c, c_row);
    case 5: return product_rows<5, ADD>(columns, depth, a, a_row, a_col, b, b_row, c, c_row);
    case 4: return product_rows<4, ADD>(columns, depth, a, a_row, a_col, b, b_row, c, c_row);
    case 3: return product_rows<3, ADD>(columns, depth, a, a_row, a_col, b, b_row, c, c_row);
    case 2: return product_rows<2, ADD>(columns, depth, a, a_row, a_col, b, b_row, c, c_row);
    case 1: return product_rows<1, ADD>(columns, depth, a, a_row, a_col, b, b_row, c, c_row);
  }
}
