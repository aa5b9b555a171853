/* C interface of the fused evaluation of a tensor decomposition network: positions to energy, forces and virial.
 *
 * Numbers are float or double (suffix _f32 or _f64) in row-major arrays; channels are padded with zeros to `c`, a
 * multiple of atomml_tdn_lanes. The arrays of the model must outlive the handle. Equations: atomml/kernels/cpu/tdn.py.
 */
#pragma once
#include <stdint.h>

#include "api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Matrices [in][out] of one layer for degrees 0..lout (l: 0..lmax); `_t` is transposed. The first layer has features of
 * degree 0 that depend on the species only: h_first and res_first stand for w_in and w_res, which are then NULL. */
typedef struct {
  int64_t lout;      /* highest degree of the layer's output: 0 in the last layer, else lmax */
  int64_t intervals; /* of the radial table */
  double spacing;    /* in Angstrom */
  const void* table;           /* [intervals][4][groups][c], a + u (b + u (c + u d)) */
  const void *w_in, *w_in_t;   /* [lmax+1][c][c] */
  const void* h_first;         /* [species][c] */
  const void *w_msg, *w_msg_t; /* [lmax+1][c][c] */
  const void* scales;          /* [products+1][species][lmax+1][c] */
  const void *w_out, *w_out_t; /* [lout+1][c][c] */
  const void *w_res, *w_res_t; /* [species][lout+1][c][c] */
  const void* res_first;       /* [species][c] */
  const void *gate, *gate_t;   /* [c][lout c] and its transpose [lout c][c]: nonlinearity 1, lout > 0 */
  const void* gate_bias;       /* [lout c] */
  const void *slope, *shift;   /* [lout+1][c]: nonlinearity 2 */
  const void* linear_readout;  /* [c]; NULL in the last layer */
  const void *hidden, *hidden_t; /* [c][h] and its transpose [h][c]: last layer */
  const void* last_readout;    /* [h] */
} AtommlTdnLayer;

typedef struct {
  int64_t lmax, c, h, species, products, layers;
  int64_t nonlinearity; /* 0 none, 1 gate, 2 norm */
  double cutoff, scale;
  const double* offsets; /* [species] eV */
  /* convolution: ranks by group; q = b y, p = a h, m = d s. The first layer has its own, whose p is h itself. */
  int64_t n_groups, first_groups;
  const int64_t *groups, *groups_first;
  const void *a, *a_t; /* [ranks][dim], [dim][ranks] */
  const void *b, *b_first;
  const void *d, *d_t; /* [dim][ranks], [ranks][dim] */
  const void *d_first, *d_first_t;
  const int64_t* table_group_first; /* [first_groups]: which weights of the table each of its groups takes */
  /* self-product: out[k] += value x[a] z[b]; index[3n..3n+2] = a, b, k sorted by k */
  int64_t terms;
  const int32_t* term_index;
  const void* term_value;
  /* nuclear repulsion: NULL, or for each species Z, Z^0.23 and the covalent radius in Angstrom, [3][species] */
  const double* repulsion;
  double repulsion_reach;
  const AtommlTdnLayer* layer; /* [layers] */
} AtommlTdnModel;

typedef struct {
  int64_t atoms, graphs, pairs;
  const int64_t *species, *graph; /* [atoms] */
  const double *positions, *cells; /* [atoms][3], [graphs][3][3] */
  const int64_t *neighbor, *center; /* [pairs], sorted by centre; pairs beyond the cutoff are skipped */
  const double* shift;              /* [pairs][3] */
  int64_t threads;
} AtommlTdnInput;

typedef struct {
  double* energies; /* [atoms] */
  double* forces;   /* [atoms][3] */
  double* virial;   /* [graphs][3][3], or NULL */
  void* features;   /* [atoms][c], or NULL */
  double phases[16]; /* seconds spent in each phase by the first thread */
} AtommlTdnOutput;

ATOMML_EXPORT int64_t atomml_tdn_lanes_f32(void);
ATOMML_EXPORT int64_t atomml_tdn_lanes_f64(void);
/* NULL when memory is exhausted. */
ATOMML_EXPORT void* atomml_tdn_create_f32(const AtommlTdnModel* model);
ATOMML_EXPORT void* atomml_tdn_create_f64(const AtommlTdnModel* model);
/* 0, 1 when memory is exhausted, 2 when an index is out of range. One evaluation at a time for each handle. */
ATOMML_EXPORT int atomml_tdn_evaluate_f32(void* handle, const AtommlTdnInput* input, AtommlTdnOutput* output);
ATOMML_EXPORT int atomml_tdn_evaluate_f64(void* handle, const AtommlTdnInput* input, AtommlTdnOutput* output);
ATOMML_EXPORT void atomml_tdn_destroy_f32(void* handle);
ATOMML_EXPORT void atomml_tdn_destroy_f64(void* handle);

#ifdef __cplusplus
}
#endif
