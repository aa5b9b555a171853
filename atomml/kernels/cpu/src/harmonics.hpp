// Real spherical harmonics of a unit vector (x, y, z) and their derivatives, component normalised, in the order
// and with the polar axis y of e3nn:
//
//   Y_lm = K_lm P_l^|m|(y) t_m,   t_m = Re (z + i x)^m for m >= 0, Im (z + i x)^|m| for m < 0,
//   K_lm = sqrt((2l+1) (l-|m|)! / (l+|m|)! (2 - [m = 0])),
//
// with associated Legendre functions without their factor (1 - y^2)^(|m|/2) and without the sign (-1)^m. All are
// polynomials; the component of their gradient along the vector is meaningless and projected out by the caller.
#pragma once
#include <cmath>

#include "simd.hpp"

namespace atomml {

constexpr int kMaxDegree = 4;
constexpr int kMaxDim = (kMaxDegree + 1) * (kMaxDegree + 1);

// Normalisation factors K_lm by l and |m|.
struct HarmonicNorms {
  double k[kMaxDegree + 1][kMaxDegree + 1];
  HarmonicNorms() {
    for (int l = 0; l <= kMaxDegree; ++l)
      for (int m = 0; m <= l; ++m) {
        double ratio = 1;  // (l-m)! / (l+m)!
        for (int n = l - m + 1; n <= l + m; ++n) ratio /= n;
        k[l][m] = std::sqrt((2 * l + 1) * ratio * (m ? 2 : 1));
      }
  }
};

// T is a number or a vector of numbers. Gradients only where G is true.
template <class T, class Number, bool G>
INLINE void harmonics(int lmax, const HarmonicNorms& norms, T x, T y, T z, T* values, T* dx, T* dy, T* dz) {
  auto constant = [](double v) { return T{} + Number(v); };
  T re[kMaxDegree + 1], im[kMaxDegree + 1];
  re[0] = constant(1), im[0] = constant(0);
  for (int m = 1; m <= lmax; ++m) {
    re[m] = re[m - 1] * z - im[m - 1] * x;
    im[m] = re[m - 1] * x + im[m - 1] * z;
  }
  for (int m = 0; m <= lmax; ++m) {
    T p = constant(1), dp = constant(0), before = constant(0), dbefore = constant(0);
    for (int k = 1; k <= m; ++k) p *= Number(2 * k - 1);
    for (int l = m; l <= lmax; ++l) {
      if (l > m) {  // (l-m) P_l = (2l-1) y P_{l-1} - (l+m-1) P_{l-2}
        const Number a = Number(2 * l - 1) / Number(l - m), b = Number(l + m - 1) / Number(l - m);
        const T next = a * y * p - b * before, dnext = a * (p + y * dp) - b * dbefore;
        before = p, dbefore = dp, p = next, dp = dnext;
      }
      const T kp = Number(norms.k[l][m]) * p, kdp = Number(norms.k[l][m]) * dp;
      const int plus = l * l + l + m, minus = l * l + l - m;
      values[plus] = kp * re[m];
      if (m) values[minus] = kp * im[m];
      if constexpr (G) {
        const T r = m ? Number(m) * re[m - 1] : constant(0), i = m ? Number(m) * im[m - 1] : constant(0);
        dy[plus] = kdp * re[m], dz[plus] = kp * r, dx[plus] = -kp * i;
        if (m) dy[minus] = kdp * im[m], dz[minus] = kp * i, dx[minus] = kp * r;
      }
    }
  }
}

}  // namespace atomml
