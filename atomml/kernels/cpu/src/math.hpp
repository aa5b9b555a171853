// Elementary functions on vectors, accurate to a few units in the last place.
#pragma once
#include <cstdint>

#include "simd.hpp"

namespace atomml {

template <class T> struct IntOf;
template <> struct IntOf<float> {
  typedef int32_t type __attribute__((vector_size(kBytes)));
};
template <> struct IntOf<double> {
  typedef int64_t type __attribute__((vector_size(kBytes)));
};

// e^x = 2^n e^f with f = x - n ln 2, |f| <= ln 2 / 2, and the Taylor polynomial of e^f, whose first neglected term
// is below the rounding. Arguments are clamped to where the result is a normal number.
template <class T> INLINE Vec<T> exp(Vec<T> x) {
  using Int = typename IntOf<T>::type;
  constexpr bool single = sizeof(T) == 4;
  constexpr T limit = single ? T(87) : T(708);
  constexpr T ln2_high = single ? T(0.693359375) : T(6.93145751953125e-1);
  constexpr T ln2_low = single ? T(-2.12194440e-4) : T(1.42860682030941723212e-6);
  constexpr T magic = single ? T(12582912.0) : T(6755399441055744.0);  // 1.5 * 2^mantissa: rounds to an integer
  x = x > broadcast(limit) ? broadcast(limit) : x;
  x = x < broadcast(-limit) ? broadcast(-limit) : x;
  const Vec<T> shifted = x * broadcast(T(1.44269504088896340736)) + broadcast(magic);
  const Vec<T> n = shifted - broadcast(magic);
  const Vec<T> f = (x - n * broadcast(ln2_high)) - n * broadcast(ln2_low);
  constexpr int degree = single ? 7 : 13;
  Vec<T> series = broadcast(T(1));
  UNROLL for (int k = degree; k >= 1; --k) series = series * f * broadcast(T(1) / T(k)) + broadcast(T(1));
  const Int exponent = __builtin_convertvector(n, Int);
  const Int power = (exponent + (single ? 127 : 1023)) << (single ? 23 : 52);
  return series * (Vec<T>)power;
}

template <class T> INLINE Vec<T> sigmoid(Vec<T> x) { return broadcast(T(1)) / (broadcast(T(1)) + exp<T>(-x)); }

}  // namespace atomml
