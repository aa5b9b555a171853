// Vectors of the width this translation unit is compiled for: GCC and Clang vector extensions, no intrinsics
// but for masked loads and stores of tails.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

namespace atomml {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
constexpr int kRegisters = 16;
#else
constexpr int kBytes = 16;
constexpr int kRegisters = 16;
#endif

template <class T> struct VectorOf;
template <> struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kBytes)));
  typedef float loose __attribute__((vector_size(kBytes), aligned(4), may_alias));
};
template <> struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kBytes)));
  typedef double loose __attribute__((vector_size(kBytes), aligned(8), may_alias));
};
template <class T> using Vec = typename VectorOf<T>::type;
template <class T> constexpr int kLanes = kBytes / int(sizeof(T));

// Not `Vec<T>{} + x`: 0 + x costs an addition, because of the sign of zero.
template <class T> INLINE Vec<T> broadcast(T x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_set1_ps(x);
  else return (Vec<T>)_mm512_set1_pd(x);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_set1_ps(x);
  else return (Vec<T>)_mm256_set1_pd(x);
#else
  Vec<T> all;
  UNROLL for (int k = 0; k < kLanes<T>; ++k) all[k] = x;
  return all;
#endif
}

// The first n lanes from memory, zero in the others; n == kLanes is an ordinary unaligned load.
template <class T> INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::loose*>(p);
}
template <class T> INLINE void store(T* p, Vec<T> x) {
  *reinterpret_cast<typename VectorOf<T>::loose*>(p) = x;
}
template <class T> INLINE Vec<T> load_tail(const T* p, int n);
template <class T> INLINE void store_tail(T* p, Vec<T> x, int n);

#if defined(__AVX512F__)
template <> INLINE Vec<float> load_tail(const float* p, int n) {
  return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
template <> INLINE Vec<double> load_tail(const double* p, int n) {
  return (Vec<double>)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
}
template <> INLINE void store_tail(float* p, Vec<float> x, int n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)x);
}
template <> INLINE void store_tail(double* p, Vec<double> x, int n) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)x);
}
#else
template <class T> INLINE Vec<T> load_tail(const T* p, int n) {
  T lanes[kLanes<T>] = {};
  for (int k = 0; k < n; ++k) lanes[k] = p[k];
  return load(lanes);
}
template <class T> INLINE void store_tail(T* p, Vec<T> x, int n) {
  for (int k = 0; k < n; ++k) p[k] = x[k];
}
#endif

// Stores past the cache to an address that is a multiple of kBytes, for results that do not fit it: memory is then
// not read before it is written. A thread ends its stores with stream_end.
template <class T> INLINE void stream(T* p, Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) _mm512_stream_ps(p, (__m512)x);
  else _mm512_stream_pd(p, (__m512d)x);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) _mm256_stream_ps(p, (__m256)x);
  else _mm256_stream_pd(p, (__m256d)x);
#else
  store(p, x);
#endif
}
INLINE void stream_end() {
#if defined(__AVX512F__) || defined(__AVX2__)
  _mm_sfence();
#endif
}

// n lanes of which the compiler knows (Full) or does not know that there are kLanes of them.
template <bool Full, class T> INLINE Vec<T> load_n(const T* p, int n) {
  if constexpr (Full) return load(p);
  else return load_tail(p, n);
}
template <bool Full, class T> INLINE void store_n(T* p, Vec<T> x, int n) {
  if constexpr (Full) store(p, x);
  else store_tail(p, x, n);
}

template <class T> INLINE T sum(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_reduce_add_ps((__m512)x);
  else return _mm512_reduce_add_pd((__m512d)x);
#else
  T total = 0;
  for (int k = 0; k < kLanes<T>; ++k) total += x[k];
  return total;
#endif
}

// out[k] (+)= sum of the lanes of x[k].
template <class T, int N> INLINE void sums(const Vec<T> (&x)[N], T* out, bool add) {
  UNROLL for (int k = 0; k < N; ++k) {
    const T total = sum<T>(x[k]);
    out[k] = add ? out[k] + total : total;
  }
}

}  // namespace atomml
