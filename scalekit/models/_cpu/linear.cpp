// Products of tokens with weight matrices, forward and backward.
//
// Legend: n tokens, I numbers into a layer, O out of it; x (n, I), weight (O, I), y (n, O), whose
// gradient dy may be columns of a wider array, dy_row numbers from one token to the next. The right
// factor is first copied into panels two vectors wide, which then lie in the cache line after line;
// six rows of the left factor meet one panel at a time (Goto and van de Geijn 2008, "Anatomy of
// high-performance matrix multiplication"). No sum depends on the number of threads.

#include "vector.h"

namespace {

constexpr int PANEL = 2 * W;
constexpr long DEPTH = 256;         // terms of a sum that are taken at once: a panel fits the L1 cache
constexpr long TOKEN_DEPTH = 128;   // the same for the gradient of a weight, which sums over tokens
constexpr long AHEAD = 16;          // rows asked for before they are copied
constexpr long ROWS = 16 * TILE;    // rows of the left factor that stay in the L2 cache meanwhile

long at_most(long a, long b) { return a < b ? a : b; }
long panels_in(long columns) { return (columns + PANEL - 1) / PANEL; }

// Copy `depth` rows of up to PANEL columns; zeros stand in for columns that are not there.
void pack_panel(const real* b, long row, long column, long depth, long columns, real* to) {
  long p = 0;
  if (columns == PANEL && column == 1) {
    for (; p < depth; p++) {
      // Rows lie too far apart for the machine to guess them.
      for (int j = 0; j < PANEL; j += LINE) __builtin_prefetch(b + (p + AHEAD) * row + j);
      for (int j = 0; j < PANEL; j += W) store(to + p * PANEL + j, load(b + p * row + j));
    }
  } else if (columns == PANEL && row == 1) {
    for (; p + W <= depth; p += W)
      for (int j = 0; j < PANEL; j += W)
        transpose_square(b + j * column + p, column, to + p * PANEL + j, PANEL);
  }
  for (; p < depth; p++)
    for (int j = 0; j < PANEL; j++)
      to[p * PANEL + j] = j < columns ? b[p * row + j * column] : 0;
}

// A tile of C (rows x columns) = or += rows of A times a panel.
void panel_tile(int rows, long columns, long depth, const real* a, long a_row, long a_column,
                const real* panel, real* c, long c_row, bool add) {
  if (columns >= PANEL) {
    // Asked for before the product: what it writes to is in no cache yet.
    for (int r = 0; r < rows; r++)
      for (int j = 0; j < PANEL; j += LINE) __builtin_prefetch(c + r * c_row + j, 1);
    if (add) product<true>(rows, PANEL, depth, a, a_row, a_column, panel, PANEL, c, c_row);
    else product<false>(rows, PANEL, depth, a, a_row, a_column, panel, PANEL, c, c_row);
    return;
  }
  real whole[TILE * PANEL];
  product<false>(rows, PANEL, depth, a, a_row, a_column, panel, PANEL, whole, PANEL);
  for (int r = 0; r < rows; r++)
    for (long j = 0; j < columns; j++) {
      real& to = c[r * c_row + j];
      to = add ? to + whole[r * PANEL + j] : whole[r * PANEL + j];
    }
}

// C (n x columns) = A (n x depth) B (depth x columns), A with any rows, B with any strides.
void multiply(const real* a, long a_row, const real* b, long b_row, long b_column, real* c, long n,
              long depth, long columns, real* packed, long threads) {
  const long panels = panels_in(columns);
  // Every thread's rows begin on a tile, so that tiles are the same for any number of threads.
  const long share = (n + threads * TILE - 1) / (threads * TILE) * TILE;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (long j = 0; j < panels; j++)
      for (long k = 0; k < depth; k += DEPTH)
        pack_panel(b + k * b_row + j * PANEL * b_column, b_row, b_column, at_most(DEPTH, depth - k),
                   at_most(PANEL, columns - j * PANEL),
                   packed + (k * panels + j * at_most(DEPTH, depth - k)) * PANEL);
#pragma omp for schedule(static)
    for (long part = 0; part < threads; part++) {
      const long end = at_most(n, (part + 1) * share);
      for (long first = part * share; first < end; first += ROWS)
        for (long k = 0; k < depth; k += DEPTH) {
          const long deep = at_most(DEPTH, depth - k), last = at_most(end, first + ROWS);
          for (long j = 0; j < panels; j++)
            for (long i = first; i < last; i += TILE)
              panel_tile(int(at_most(TILE, last - i)), columns - j * PANEL, deep, a + i * a_row + k,
                         a_row, 1, packed + (k * panels + j * deep) * PANEL,
                         c + i * columns + j * PANEL, columns, k > 0);
        }
    }
  }
}

}  // namespace

extern "C" {

// How many numbers of scratch memory the products of one weight need.
long linear_scratch(long I, long O, long threads) {
  const long forward = I * panels_in(O) * PANEL, backward = O * panels_in(I) * PANEL;
  const long weight = threads * (panels_in(I) * PANEL + TILE) * TOKEN_DEPTH;
  const long products = forward > backward ? forward : backward;
  return products > weight ? products : weight;
}

void linear_forward(const real* x, const real* weight, real* y, real* scratch, long n, long I,
                    long O, long threads) {
  multiply(x, I, weight, 1, I, y, n, I, O, scratch, threads);
}

void linear_backward(const real* dy, long dy_row, const real* weight, real* dx, real* scratch,
                     long n, long I, long O, long threads) {
  multiply(dy, dy_row, weight, I, 1, dx, n, O, I, scratch, threads);
}

// The gradient of the weight, or what a further part of the tokens adds to it.
void linear_weight(const real* dy, long dy_row, const real* x, real* d_weight, long add,
                   real* scratch, long n, long I, long O, long threads) {
  const long panels = panels_in(I), share = (O + threads * TILE - 1) / (threads * TILE) * TILE;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long part = 0; part < threads; part++) {
    real* packed = scratch + thread_number() * (panels * PANEL + TILE) * TOKEN_DEPTH;
    real* left = packed + panels * PANEL * TOKEN_DEPTH;
    const long end = at_most(O, (part + 1) * share);
    if (part * share >= end) continue;
    for (long t = 0; t < n; t += TOKEN_DEPTH) {
      const long deep = at_most(TOKEN_DEPTH, n - t);
      for (long j = 0; j < panels; j++)
        pack_panel(x + t * I + j * PANEL, I, 1, deep, at_most(PANEL, I - j * PANEL),
                   packed + j * deep * PANEL);
      for (long o = part * share; o < end; o += TILE) {
        const int rows = int(at_most(TILE, end - o));
        const real* from = dy + t * dy_row + o;
        for (long p = 0; p < deep; p++, from += dy_row) {
          if (rows == TILE) std::memcpy(left + p * TILE, from, TILE * sizeof(real));
          else for (int r = 0; r < rows; r++) left[p * TILE + r] = from[r];
          __builtin_prefetch(from + LINE);
        }
        for (long j = 0; j < panels; j++)
          panel_tile(rows, I - j * PANEL, deep, left, 1, TILE, packed + j * deep * PANEL,
                     d_weight + o * I + j * PANEL, I, add || t > 0);
      }
    }
  }
}
}
