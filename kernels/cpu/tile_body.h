/* cpu/tile_body.h: the tile of cpu/tile.h for one instruction set. The file that includes it sets VECTOR_LANES,
 * TILE_ROWS and TILE_VECTORS and selects the instruction set. Runs on a pool thread; owns nothing.
 *
 * Query rows lie in vector lanes: S^T = K Q^T and O^T = V^T P^T, so that maxima and sums over keys are plain vector
 * operations, P needs no transposition, and K and V are read as scalars that are broadcast, in the order in which they
 * lie in memory. The micro-kernels keep TILE_ROWS x TILE_VECTORS accumulators in registers. Each row's sums run over
 * keys in ascending order in steps of ATTN_CPU_KEYS from key 0, whatever tile or thread does it: same bits always. */
#include <float.h>
#include <math.h>
#include <stddef.h>

#include "cpu/convert.h"
#include "cpu/tile.h"
#include "cpu/vector.h"

/* TILE_TERMS: products that are summed one after the other. Sums of sums have a fraction of the rounding error, which
 * at d = 256 and a scale of 1 was what put LSE at its tolerance. */
enum { TILE_LANES = TILE_VECTORS * VECTOR_LANES, TILE_TERMS = 64 };
_Static_assert((int)TILE_LANES <= (int)ATTN_CPU_LANES_MAX && TILE_LANES % 4 == 0,
               "scratch is sized for ATTN_CPU_LANES_MAX");
_Static_assert(ATTN_CPU_KEYS % TILE_ROWS == 0, "a step is a whole number of micro-kernels");

/* Some rows that are worked on together; `vectors` is TILE_VECTORS, or 1 when one vector holds them all. */
typedef struct tile_panel {
    float *qt; /* [d][lanes] */
    float *ot; /* [d padded][lanes] */
    int vectors;
    int64_t row, rows;
    int64_t visible_min, visible_max; /* keys seen by its first and its last row */
    vf_t max[TILE_VECTORS];           /* of scores so far */
    vf_t shift[TILE_VECTORS];         /* max * log2_scale as rounded, 0 while max is -inf */
    vf_t sum[TILE_VECTORS];
} tile_panel_t;

typedef struct tile_state {
    const attn_cpu_tile_t *tile;
    const attn_problem_t *problem;
    attn_dtype_t dtype;
    uint32_t d, d_padded; /* to a multiple of TILE_ROWS */
    size_t k_stride;
    int64_t heads;                /* query heads per key head */
    float log2_scale;             /* scores to exponents of 2 */
    float softcap, softcap_scale; /* 0, or score -> softcap * tanh(score * softcap_scale) */
    float *k;                     /* [ATTN_CPU_KEYS][k_stride] */
    float *v;                     /* [d_padded / TILE_ROWS][ATTN_CPU_KEYS][TILE_ROWS] */
    float *s;                     /* [ATTN_CPU_KEYS][lanes] */
    float *rows;                  /* four rows of floats */
    bool v_special;               /* this step's V has an inf or NaN */
    int panel_count;
    tile_panel_t panels[ATTN_CPU_PANELS_MAX];
} tile_state_t;

static int64_t tile_visible(const tile_state_t *state, int64_t row)
{
    const attn_problem_t *p = state->problem;
    if (!state->tile->config->causal)
        return p->s_kv;
    const int64_t visible = row / state->heads + p->s_kv - p->s_q + 1;
    return visible < 0 ? 0 : visible > p->s_kv ? p->s_kv : visible;
}

static const char *tile_row_address(const tile_state_t *state, const attn_view_t *view, int64_t row)
{
    const int64_t head = (int64_t)state->tile->h_kv * state->heads + row % state->heads;
    const int64_t at =
        (int64_t)state->tile->batch * view->stride_b + row / state->heads * view->stride_s + head * view->stride_h;
    return (const char *)view->data + at * (int64_t)attn_dtype_size(state->dtype);
}

static const char *tile_key_address(const tile_state_t *state, const attn_view_t *view, int64_t key)
{
    const int64_t at = (int64_t)state->tile->batch * view->stride_b + key * view->stride_s +
                       (int64_t)state->tile->h_kv * view->stride_h;
    return (const char *)view->data + at * (int64_t)attn_dtype_size(state->dtype);
}

static void tile_load_q(tile_state_t *state, tile_panel_t *panel)
{
    const int lanes = panel->vectors * VECTOR_LANES;
    const size_t stride = state->d_padded + 4; /* a multiple of 4 at least d */
    for (int lane = 0; lane < lanes; lane += 4) {
        memset(state->rows, 0, 4 * stride * sizeof(float));
        for (int i = 0; i < 4 && lane + i < panel->rows; i++)
            vector_load_row(state->dtype, tile_row_address(state, &state->problem->q, panel->row + lane + i),
                            state->rows + (size_t)i * stride, state->d);
        for (uint32_t x = 0; x < state->d; x += 4) {
            v4_t block[4];
            for (int i = 0; i < 4; i++)
                memcpy(&block[i], state->rows + (size_t)i * stride + x, sizeof block[i]);
            vector_transpose4(&block[0], &block[1], &block[2], &block[3]);
            for (int i = 0; i < 4; i++)
                memcpy(panel->qt + (size_t)(x + (uint32_t)i) * (size_t)lanes + lane, &block[i], sizeof block[i]);
        }
    }
}

/* K and V of keys [first, first + keys) as floats; K padded with zero keys to a whole micro-kernel. */
static void tile_load_kv(tile_state_t *state, int64_t first, int keys)
{
    int32_t special = 0;
    memset(state->rows, 0, state->d_padded * sizeof(float));
    for (int key = 0; key < keys; key++) {
        const char *k_row = tile_key_address(state, &state->problem->k, first + key);
        const char *v_row = tile_key_address(state, &state->problem->v, first + key);
        vector_load_row(state->dtype, k_row, state->k + (size_t)key * state->k_stride, state->d);
        vector_load_row(state->dtype, v_row, state->rows, state->d);
        for (uint32_t x = 0; x < state->d; x++)
            special |= (attn_float_bits(state->rows[x]) & 0x7f800000u) == 0x7f800000u;
        for (uint32_t x = 0; x < state->d_padded; x += TILE_ROWS)
            memcpy(state->v + (size_t)x * ATTN_CPU_KEYS + (size_t)key * TILE_ROWS, state->rows + x,
                   TILE_ROWS * sizeof(float));
    }
    for (int key = keys; key % TILE_ROWS != 0; key++)
        memset(state->k + (size_t)key * state->k_stride, 0, state->d * sizeof(float));
    state->v_special = special != 0;
}

/* Scores of TILE_ROWS keys from `key` on; the running maximum goes to max. */
VECTOR_INLINE void tile_score_keys(const tile_state_t *state, const tile_panel_t *panel, int vectors, bool masked,
                                   bool capped, int key, const vi_t *visible, vf_t *max)
{
    vf_t acc[TILE_ROWS][TILE_VECTORS];
    const size_t stride = state->k_stride;
    const float *k = state->k + (size_t)key * stride;
    const vf_t *q = (const vf_t *)panel->qt;
    vf_t *s = (vf_t *)state->s + key * vectors;
    uint32_t from = 0, to;
    do {
        to = state->d - from < TILE_TERMS ? state->d : from + TILE_TERMS;
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                acc[r][v] = vector_set(0);
        for (uint32_t x = from; x < to; x++, q += vectors, k++)
#pragma GCC unroll 8
            for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    acc[r][v] += q[v] * k[(size_t)r * stride];
        if (from > 0)
#pragma GCC unroll 8
            for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    acc[r][v] += s[r * vectors + v];
        if (to < state->d)
#pragma GCC unroll 8
            for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    s[r * vectors + v] = acc[r][v];
        from = to;
    } while (from < state->d);
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            vf_t score = acc[r][v];
            if (capped)
                score = vector_tanh(score * state->softcap_scale) * state->softcap;
            if (masked)
                score = vector_select((key + r) < visible[v], score, vector_set(-INFINITY));
            max[v] = vector_max(score, max[v]);
            s[r * vectors + v] = score;
        }
}

VECTOR_INLINE void tile_scores(const tile_state_t *state, const tile_panel_t *panel, int vectors, bool masked,
                               bool capped, int keys, const vi_t *visible, vf_t *max)
{
    for (int key = 0; key < keys; key += TILE_ROWS)
        tile_score_keys(state, panel, vectors, masked, capped, key, visible, max);
}

/* Scores become probabilities relative to the running maximum; alpha rescales what was summed before. */
VECTOR_INLINE void tile_softmax(const tile_state_t *state, tile_panel_t *panel, int vectors, int keys, const vf_t *max,
                                vf_t *alpha)
{
    vf_t sum[TILE_VECTORS], shift[TILE_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        const vf_t old = panel->max[v];
        const vf_t now = vector_max(max[v], old);
        shift[v] = vector_select(now == -INFINITY, vector_set(0), now * state->log2_scale);
        alpha[v] = vector_select(old == -INFINITY, vector_set(0), vector_exp2(panel->shift[v] - shift[v]));
        sum[v] = vector_set(0);
        panel->max[v] = now;
        panel->shift[v] = shift[v];
    }
    vf_t *s = (vf_t *)state->s;
    for (int key = 0; key < keys; key++, s += vectors)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            s[v] = vector_exp2(s[v] * state->log2_scale - shift[v]);
            sum[v] += s[v];
        }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
        panel->sum[v] = panel->sum[v] * alpha[v] + sum[v];
}

/* O^T = O^T * alpha + V^T P^T over the step. */
VECTOR_INLINE void tile_weigh(const tile_state_t *state, tile_panel_t *panel, int vectors, int keys, const vf_t *alpha)
{
    for (uint32_t x = 0; x < state->d_padded; x += TILE_ROWS) {
        vf_t acc[TILE_ROWS][TILE_VECTORS];
        vf_t *o = (vf_t *)panel->ot + (size_t)x * (size_t)vectors;
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                acc[r][v] = vector_set(0);
        const vf_t *p = (const vf_t *)state->s;
        const float *value = state->v + (size_t)x * ATTN_CPU_KEYS;
        for (int key = 0; key < keys; key++, p += vectors, value += TILE_ROWS)
#pragma GCC unroll 8
            for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    acc[r][v] += p[v] * value[r];
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                o[r * vectors + v] = o[r * vectors + v] * alpha[v] + acc[r][v];
    }
}

/* The same where a masked key's V is inf or NaN: 0 * NaN must not reach rows that do not see it. */
static void tile_weigh_special(const tile_state_t *state, tile_panel_t *panel, int keys, const vi_t *visible,
                               const vf_t *alpha)
{
    const int vectors = panel->vectors;
    for (uint32_t x = 0; x < state->d; x++)
        for (int v = 0; v < vectors; v++) {
            vf_t *o = (vf_t *)panel->ot + (size_t)x * (size_t)vectors + v;
            const float *value = state->v + (size_t)(x / TILE_ROWS * TILE_ROWS) * ATTN_CPU_KEYS + x % TILE_ROWS;
            vf_t acc = vector_set(0);
            for (int key = 0; key < keys; key++) {
                const vf_t p = ((const vf_t *)state->s)[key * vectors + v];
                acc = vector_select(key < visible[v], acc + p * value[(size_t)key * TILE_ROWS], acc);
            }
            *o = *o * alpha[v] + acc;
        }
}

VECTOR_INLINE void tile_step(const tile_state_t *state, tile_panel_t *panel, int vectors, bool masked, int keys,
                             const vi_t *visible)
{
    vf_t max[TILE_VECTORS], alpha[TILE_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
        max[v] = vector_set(-INFINITY);
    if (state->softcap > 0)
        tile_scores(state, panel, vectors, masked, true, keys, visible, max);
    else
        tile_scores(state, panel, vectors, masked, false, keys, visible, max);
    tile_softmax(state, panel, vectors, keys, max, alpha);
    if (masked && state->v_special)
        tile_weigh_special(state, panel, keys, visible, alpha);
    else
        tile_weigh(state, panel, vectors, keys, alpha);
}

static void tile_panel_step(const tile_state_t *state, tile_panel_t *panel, int64_t first, int keys_loaded)
{
    if (panel->visible_max <= first)
        return;
    int keys = keys_loaded;
    if (panel->visible_max - first < keys)
        keys = (int)(panel->visible_max - first);
    const int whole = (keys + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    if (panel->visible_min - first >= whole) {
        if (panel->vectors == 1)
            tile_step(state, panel, 1, false, keys, NULL);
        else
            tile_step(state, panel, TILE_VECTORS, false, keys, NULL);
        return;
    }
    vi_t visible[TILE_VECTORS];
    for (int lane = 0; lane < panel->vectors * VECTOR_LANES; lane++) {
        /* Lanes without a row see what the last row sees: their Q is zero and nobody reads them. */
        const int64_t row = panel->row + (lane < panel->rows ? lane : panel->rows - 1);
        const int64_t seen = tile_visible(state, row) - first;
        visible[lane / VECTOR_LANES][lane % VECTOR_LANES] = (int32_t)(seen < 0 ? 0 : seen > keys ? keys : seen);
    }
    if (panel->vectors == 1)
        tile_step(state, panel, 1, true, keys, visible);
    else
        tile_step(state, panel, TILE_VECTORS, true, keys, visible);
}

static void tile_store(const tile_state_t *state, tile_panel_t *panel)
{
    const attn_problem_t *p = state->problem;
    const int lanes = panel->vectors * VECTOR_LANES;
    const size_t stride = state->d_padded + 4;
    for (int v = 0; v < panel->vectors; v++) {
        /* A row that saw nothing (or only scores of -inf) is zero; one that saw NaN has a sum of NaN. */
        const vi_t nothing = (panel->max[v] == -INFINITY) & (panel->sum[v] == 0.0f);
        const vf_t inverse = 1.0f / panel->sum[v];
        for (uint32_t x = 0; x < state->d; x++) {
            vf_t *o = (vf_t *)panel->ot + (size_t)x * (size_t)panel->vectors + v;
            *o = vector_select(nothing, vector_set(0), *o * inverse);
        }
    }
    for (int lane = 0; lane < lanes && lane < panel->rows; lane += 4) {
        for (uint32_t x = 0; x < state->d; x += 4) {
            v4_t block[4];
            for (int i = 0; i < 4; i++)
                memcpy(&block[i], panel->ot + (size_t)(x + (uint32_t)i) * (size_t)lanes + lane, sizeof block[i]);
            vector_transpose4(&block[0], &block[1], &block[2], &block[3]);
            for (int i = 0; i < 4; i++)
                memcpy(state->rows + (size_t)i * stride + x, &block[i], sizeof block[i]);
        }
        for (int i = 0; i < 4 && lane + i < panel->rows; i++)
            vector_store_row(state->dtype, state->rows + (size_t)i * stride,
                             (char *)(uintptr_t)tile_row_address(state, &p->o, panel->row + lane + i), state->d);
    }
    if (!p->lse)
        return;
    for (int lane = 0; lane < panel->rows; lane++) {
        const int v = lane / VECTOR_LANES, at = lane % VECTOR_LANES;
        const int64_t row = panel->row + lane;
        const int64_t head = (int64_t)state->tile->h_kv * state->heads + row % state->heads;
        const double lse = panel->sum[v][at] == 0.0f && panel->max[v][at] == -INFINITY
                               ? -INFINITY
                               : (double)panel->shift[v][at] * 0.69314718055994531 + log((double)panel->sum[v][at]);
        p->lse[(int64_t)state->tile->batch * p->lse_stride_b + head * p->lse_stride_h + row / state->heads] =
            (float)lse;
    }
}

static float tile_clamp(double value)
{
    return value > (double)FLT_MAX ? FLT_MAX : (float)value;
}

static float *tile_take(char **scratch, size_t floats)
{
    float *at = (float *)*scratch;
    *scratch += (floats * sizeof(float) + 63) / 64 * 64;
    return at;
}

static void tile_open(const attn_cpu_tile_t *tile, char *scratch, tile_state_t *state)
{
    const attn_problem_t *p = tile->problem;
    state->tile = tile;
    state->problem = p;
    state->dtype = tile->config->dtype;
    state->d = p->d;
    state->d_padded = (p->d + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    state->k_stride = (p->d + 15) / 16 * 16;
    state->heads = p->h_q / p->h_kv;
    state->softcap = tile->config->softcap ? p->softcap : 0;
    const double log2_e = 1.4426950408889634;
    state->log2_scale = tile_clamp(state->softcap > 0 ? log2_e : (double)p->sm_scale * log2_e);
    state->softcap_scale = state->softcap > 0 ? tile_clamp((double)p->sm_scale / (double)p->softcap) : 0;
    state->v_special = false;
    state->k = tile_take(&scratch, ATTN_CPU_KEYS * state->k_stride);
    state->v = tile_take(&scratch, (size_t)ATTN_CPU_KEYS * state->d_padded);
    state->s = tile_take(&scratch, (size_t)ATTN_CPU_KEYS * TILE_LANES);
    state->rows = tile_take(&scratch, 4 * ((size_t)state->d_padded + 4));
    state->panel_count = 0;
    for (int64_t row = tile->row_begin; row < tile->row_end; row += TILE_LANES) {
        tile_panel_t *panel = &state->panels[state->panel_count++];
        const int64_t rows = tile->row_end - row < TILE_LANES ? tile->row_end - row : TILE_LANES;
        panel->vectors = rows <= VECTOR_LANES ? 1 : TILE_VECTORS;
        panel->row = row;
        panel->rows = rows;
        panel->visible_min = tile_visible(state, row);
        panel->visible_max = tile_visible(state, row + rows - 1);
        panel->qt = tile_take(&scratch, ((size_t)state->d_padded + 4) * TILE_LANES);
        panel->ot = tile_take(&scratch, ((size_t)state->d_padded + 4) * TILE_LANES);
        memset(panel->ot, 0, ((size_t)state->d_padded + 4) * TILE_LANES * sizeof(float));
        for (int v = 0; v < TILE_VECTORS; v++) {
            panel->max[v] = vector_set(-INFINITY);
            panel->shift[v] = vector_set(0);
            panel->sum[v] = vector_set(0);
        }
        tile_load_q(state, panel);
    }
}

static void tile_run(const attn_cpu_tile_t *tile, void *scratch, attn_pool_thread_t *thread)
{
    tile_state_t state;
    tile_open(tile, scratch, &state);
    const int64_t end = state.panels[state.panel_count - 1].visible_max;
    for (int64_t first = 0; first < end; first += ATTN_CPU_KEYS) {
        if (!attn_pool_continue(thread))
            return;
        const int keys = (int)(end - first < ATTN_CPU_KEYS ? end - first : ATTN_CPU_KEYS);
        tile_load_kv(&state, first, keys);
        for (int i = 0; i < state.panel_count; i++)
            tile_panel_step(&state, &state.panels[i], first, keys);
    }
    for (int i = 0; i < state.panel_count; i++)
        tile_store(&state, &state.panels[i]);
}
