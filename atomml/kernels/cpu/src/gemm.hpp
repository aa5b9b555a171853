// Products of a few rows with a small matrix that stays in the cache.
#pragma once
#include "simd.hpp"

namespace atomml {

constexpr int kGemmRows = kRegisters == 32 ? 6 : 3;

// out[r][0..V) (+)= in[r] W for R rows; W is [inner][columns], the block of V vectors starts at column c.
template <class T, int R, int V>
INLINE void gemm_tile(const T* const* in, T* const* out, const T* w, int64_t inner, int64_t columns, int64_t c, bool add) {
  Vec<T> acc[R][V];
  UNROLL for (int r = 0; r < R; ++r) {
    UNROLL for (int v = 0; v < V; ++v) acc[r][v] = add ? load(out[r] + c + v * kLanes<T>) : Vec<T>{};
  }
  for (int64_t k = 0; k < inner; ++k) {
    Vec<T> row[V];
    UNROLL for (int v = 0; v < V; ++v) row[v] = load(w + k * columns + c + v * kLanes<T>);
    UNROLL for (int r = 0; r < R; ++r) {
      const Vec<T> x = broadcast(in[r][k]);
      UNROLL for (int v = 0; v < V; ++v) acc[r][v] += x * row[v];
    }
  }
  UNROLL for (int r = 0; r < R; ++r) {
    UNROLL for (int v = 0; v < V; ++v) store(out[r] + c + v * kLanes<T>, acc[r][v]);
  }
}

template <class T, int V>
void gemm_columns(const T* const* in, T* const* out, int64_t rows, const T* w, int64_t inner, int64_t columns, int64_t c, bool add) {
  int64_t r = 0;
  for (; r + kGemmRows <= rows; r += kGemmRows) gemm_tile<T, kGemmRows, V>(in + r, out + r, w, inner, columns, c, add);
  if constexpr (kGemmRows > 3)
    for (; r + 3 <= rows; r += 3) gemm_tile<T, 3, V>(in + r, out + r, w, inner, columns, c, add);
  for (; r < rows; ++r) gemm_tile<T, 1, V>(in + r, out + r, w, inner, columns, c, add);
}

// out[r] (+)= in[r] W for rows given by their addresses; `columns` is a multiple of the lanes.
template <class T>
void gemm(const T* const* in, T* const* out, int64_t rows, const T* w, int64_t inner, int64_t columns, bool add) {
  constexpr int lanes = kLanes<T>;
  int64_t c = 0;
  if constexpr (kRegisters == 32)
    for (; c + 4 * lanes <= columns; c += 4 * lanes) gemm_columns<T, 4>(in, out, rows, w, inner, columns, c, add);
  for (; c + 2 * lanes <= columns; c += 2 * lanes) gemm_columns<T, 2>(in, out, rows, w, inner, columns, c, add);
  for (; c < columns; c += lanes) gemm_columns<T, 1>(in, out, rows, w, inner, columns, c, add);
}

}  // namespace atomml
