/* C interface of the CPU kernels: raw pointers to contiguous, row-major arrays; int64 indices.
 *
 * The caller (atomml.kernels.cpu) has checked shapes. Functions return 0, 1 when memory is exhausted, 2 when an
 * index is out of range (found before any array of numbers is touched); they never throw and keep no state.
 * Names end in the type of the numbers, _f32 or _f64.
 */
#pragma once
#include <stdint.h>

#if defined(__GNUC__)
#define ATOMML_EXPORT __attribute__((visibility("default")))
#else
#define ATOMML_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Edges grouped by the atom that a sum belongs to: the edges of row i are pointer[i] .. pointer[i+1], as
 * positions in `edge` (NULL: the numbers themselves); `other` is indexed by edge and names the atom at the
 * far end, one of `others`. */
typedef struct {
  int64_t rows;
  int64_t others;
  int64_t edges;
  const int64_t* pointer;
  const int64_t* edge;
  const int64_t* other;
} AtommlEdges;

/* A coupling tensor with one weight per path. Path t couples degrees l1, l2 to l3 (degrees[3t..3t+2], at most 4)
 * and has the entries first[t] .. first[t+1]: out[k] += value * w[t] * x[a] * y[b], index[4n..4n+3] = a, b, k, t. */
typedef struct {
  int64_t dim_x, dim_y, dim_out, paths;
  const int64_t* degrees;
  const int64_t* first;
  const int32_t* index;
  const double* value;
} AtommlCoupling;

/* 0 portable, 1 AVX2 and FMA, 2 AVX-512 (F, DQ, BW, VL): the best that this processor runs. */
ATOMML_EXPORT int atomml_processor_level(void);

/* Two families of convolutions S(x, y, w), x at atoms, y and w on edges; p and q in the place of x and y in the first.
 *
 * conv       S(x, y, w)
 * backward   gradients of F = sum_i s_i S(x, y, w)_i in x, y, w
 * backward2  gradients of F(s, alpha, y, w) + F(s, x, beta, w) + F(s, x, y, gamma) in s, x, y, w
 *
 * A cotangent alpha, beta, gamma that is NULL is zero, a result that is NULL is not wanted, and edges that no
 * wanted result is summed over may be NULL: gradients in x are summed by neighbour, all others by centre. */
#define ATOMML_DECLARE(T, S)                                                                                     \
  /* out[n,r,c] = sum_a matrix[r,a] x[n,a,c] */                                                                  \
  ATOMML_EXPORT int atomml_mix_##S(const T* matrix, const T* x, T* out, int64_t n, int64_t r, int64_t a,         \
                                   int64_t c, int threads);                                                      \
  /* out[i,r,c] = sum_{e in row i} q[e,r] w[e,g(r),c] p[other(e),r,c] */                                            \
  ATOMML_EXPORT int atomml_cp_conv_##S(const T* p, const T* q, const T* w, const AtommlEdges* by_center, T* out,    \
                                       const int64_t* groups, int64_t n_groups, int64_t c, int threads);            \
  ATOMML_EXPORT int atomml_cp_backward_##S(const T* s, const T* p, const T* q, const T* w,                          \
                                           const AtommlEdges* by_center, const AtommlEdges* by_neighbor, T* dp,     \
                                           T* dq, T* dw, const int64_t* groups, int64_t n_groups, int64_t c,        \
                                           int threads);                                                            \
  ATOMML_EXPORT int atomml_cp_backward2_##S(                                                                        \
      const T* s, const T* p, const T* q, const T* w, const T* alpha, const T* beta, const T* gamma,                \
      const AtommlEdges* by_center, const AtommlEdges* by_neighbor, T* ds, T* dp, T* dq, T* dw,                     \
      const int64_t* groups, int64_t n_groups, int64_t c, int threads);                                             \
  /* out[i,k,c] = sum_{e in row i} sum_{entries} value w[e,t,c] y[e,b] x[other(e),a,c] */                           \
  ATOMML_EXPORT int atomml_cg_conv_##S(const T* x, const T* y, const T* w, const AtommlEdges* by_center, T* out,    \
                                       const AtommlCoupling* coupling, int64_t c, int threads);                     \
  ATOMML_EXPORT int atomml_cg_backward_##S(const T* s, const T* x, const T* y, const T* w,                          \
                                           const AtommlEdges* by_center, const AtommlEdges* by_neighbor, T* dx,     \
                                           T* dy, T* dw, const AtommlCoupling* coupling, int64_t c, int threads);   \
  ATOMML_EXPORT int atomml_cg_backward2_##S(                                                                        \
      const T* s, const T* x, const T* y, const T* w, const T* alpha, const T* beta, const T* gamma,                \
      const AtommlEdges* by_center, const AtommlEdges* by_neighbor, T* ds, T* dx, T* dy, T* dw,                     \
      const AtommlCoupling* coupling, int64_t c, int threads);

ATOMML_DECLARE(float, f32)
ATOMML_DECLARE(double, f64)

#ifdef __cplusplus
}
#endif
