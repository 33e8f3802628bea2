/* reference/rows_body.h: rows.h for one instruction set, which the file that includes it has selected. Runs on a pool
 * thread; owns nothing.
 *
 * Rows lie in vector lanes, as in cpu/tile_body.h, but nothing is online here: all scores, then their maximum, then
 * exponentials by libm, then the sum over V. A key that a row does not see takes no part in it, whatever V holds. */
#include <math.h>
#include <string.h>

#include "cpu/convert.h"
#include "reference/rows.h"

typedef double rd_t __attribute__((vector_size(VECTOR_LANES * 4)));
typedef int64_t ri_t __attribute__((vector_size(VECTOR_LANES * 4)));
typedef float rf_t __attribute__((vector_size(VECTOR_LANES * 4)));
typedef int32_t rn_t __attribute__((vector_size(VECTOR_LANES * 4)));

/* Vectors that hold a value of every row, and RB keys or elements at a time: RB x 2 accumulators. */
enum { RD = ATTN_REFERENCE_ROWS / (VECTOR_LANES / 2), RF = ATTN_REFERENCE_ROWS / VECTOR_LANES, RB = 4 };

typedef struct rows_state {
    const attn_reference_block_t *block;
    attn_reference_scratch_t at;
    uint32_t d, d_padded; /* to a multiple of RB */
    int64_t visible[ATTN_REFERENCE_ROWS], visible_min, visible_max;
} rows_state_t;

static int64_t rows_element(const rows_state_t *state, const attn_view_t *view, int64_t s, int64_t h)
{
    return (int64_t)state->block->batch * view->stride_b + s * view->stride_s + h * view->stride_h;
}

static void rows_load(attn_dtype_t dtype, const void *data, int64_t from, double *restrict ret, uint32_t n)
{
    if (dtype == ATTN_DTYPE_F32)
        for (uint32_t x = 0; x < n; x++)
            ret[x] = (double)((const float *)data)[from + x];
    else if (dtype == ATTN_DTYPE_BF16)
        for (uint32_t x = 0; x < n; x++)
            ret[x] = (double)attn_bf16_to_float(((const uint16_t *)data)[from + x]);
    else
        for (uint32_t x = 0; x < n; x++)
            ret[x] = (double)attn_f16_to_float(((const uint16_t *)data)[from + x]);
}

static void rows_open(const attn_reference_block_t *block, const attn_reference_scratch_t *scratch, rows_state_t *state)
{
    const attn_problem_t *p = block->problem;
    const int64_t heads = p->h_q / p->h_kv;
    *state = (rows_state_t){.block = block, .at = *scratch, .d = p->d, .d_padded = (p->d + RB - 1) / RB * RB};
    for (int64_t lane = 0; lane < ATTN_REFERENCE_ROWS; lane++) {
        /* Lanes without a row repeat the last row; nobody reads them. */
        const int64_t row = block->row + (lane < block->rows ? lane : block->rows - 1);
        const int64_t query = row / heads;
        int64_t visible = block->config->causal ? query + p->s_kv - p->s_q + 1 : p->s_kv;
        visible = visible < 0 ? 0 : visible > p->s_kv ? p->s_kv : visible;
        state->visible[lane] = visible;
        double values[ATTN_HEAD_DIM_MAX];
        rows_load(block->config->dtype, p->q.data, rows_element(state, &p->q, query, block->h_kv * heads + row % heads),
                  values, p->d);
        for (uint32_t x = 0; x < p->d; x++)
            state->at.q[x * ATTN_REFERENCE_ROWS + lane] = values[x];
        for (uint32_t x = 0; block->naive && x < p->d; x++)
            state->at.naive_q[x * ATTN_REFERENCE_ROWS + lane] = (float)values[x];
    }
    state->visible_min = state->visible[0];
    state->visible_max = state->visible[ATTN_REFERENCE_ROWS - 1];
}

/* K or V of up to ATTN_REFERENCE_KEYS keys as doubles (and floats); padding is zero. */
static int rows_load_keys(rows_state_t *state, const attn_view_t *view, int64_t first)
{
    const int64_t left = state->visible_max - first;
    const int keys = (int)(left < ATTN_REFERENCE_KEYS ? left : ATTN_REFERENCE_KEYS);
    const size_t values = (size_t)ATTN_REFERENCE_KEYS * state->d_padded;
    memset(state->at.kv, 0, values * sizeof(double));
    for (int key = 0; key < keys; key++)
        rows_load(state->block->config->dtype, view->data, rows_element(state, view, first + key, state->block->h_kv),
                  state->at.kv + (size_t)key * state->d_padded, state->d);
    if (state->block->naive)
        for (size_t i = 0; i < values; i++)
            state->at.naive_kv[i] = (float)state->at.kv[i];
    return keys;
}

static void rows_dot(const rows_state_t *state, int64_t first, int keys)
{
    const uint32_t d = state->d_padded;
    for (int key = 0; key < keys; key += RB) { /* scores and keys are padded to whole RBs */
        const double *k = state->at.kv + (size_t)key * d;
        rd_t *s = (rd_t *)(state->at.scores + (first + key) * ATTN_REFERENCE_ROWS);
        for (int pair = 0; pair < RD; pair += 2) {
            const rd_t *q = (const rd_t *)state->at.q + pair;
            rd_t acc[RB][2] = {{{0}}};
            for (uint32_t x = 0; x < state->d; x++)
#pragma GCC unroll 4
                for (int r = 0; r < RB; r++)
#pragma GCC unroll 2
                    for (int v = 0; v < 2; v++)
                        acc[r][v] += q[x * RD + (uint32_t)v] * k[(size_t)r * d + x];
            for (int r = 0; r < RB; r++)
                for (int v = 0; v < 2; v++)
                    s[r * RD + pair + v] = acc[r][v];
        }
        if (!state->block->naive)
            continue;
        const float *kf = state->at.naive_kv + (size_t)key * d;
        rf_t *sf = (rf_t *)(state->at.naive_scores + (first + key) * ATTN_REFERENCE_ROWS);
        for (int v = 0; v < RF; v++) {
            const rf_t *q = (const rf_t *)state->at.naive_q + v;
            rf_t acc[RB] = {{0}};
            for (uint32_t x = 0; x < state->d; x++)
#pragma GCC unroll 4
                for (int r = 0; r < RB; r++)
                    acc[r] += q[x * RF] * kf[(size_t)r * d + x];
            for (int r = 0; r < RB; r++)
                sf[r * RF + v] = acc[r];
        }
    }
}

/* Scores of one lane to probabilities: exponentials relative to the maximum in fp64; rounded and normalised in the
 * naive copy. Keys from visible[lane] on are left out by everyone who reads them. */
static void rows_softmax_lane(rows_state_t *state, int lane, double *ret_sum, double *ret_max)
{
    const attn_problem_t *p = state->block->problem;
    const int64_t visible = state->visible[lane];
    const double scale = (double)p->sm_scale;
    const double cap = state->block->config->softcap ? (double)p->softcap : 0;
    double *s = state->at.scores + lane;
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < visible; j++) {
        double score = s[j * ATTN_REFERENCE_ROWS] * scale;
        if (cap > 0)
            score = cap * tanh(score / cap);
        s[j * ATTN_REFERENCE_ROWS] = score;
        max = score > max ? score : max;
    }
    const double shift = max == -INFINITY ? 0 : max;
    for (int64_t j = 0; j < visible; j++) {
        const double e = exp(s[j * ATTN_REFERENCE_ROWS] - shift);
        s[j * ATTN_REFERENCE_ROWS] = e;
        sum += e;
    }
    *ret_sum = sum;
    *ret_max = shift;
}

static void rows_softmax_lane_naive(rows_state_t *state, int lane)
{
    const attn_problem_t *p = state->block->problem;
    const attn_dtype_t dtype = state->block->config->dtype;
    const int64_t visible = state->visible[lane];
    const float cap = state->block->config->softcap ? p->softcap : 0;
    float *s = state->at.naive_scores + lane;
    float max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < visible; j++) {
        float score = attn_float_round(dtype, s[j * ATTN_REFERENCE_ROWS] * p->sm_scale);
        if (cap > 0)
            score = attn_float_round(dtype, cap * tanhf(score / cap));
        s[j * ATTN_REFERENCE_ROWS] = score;
        max = score > max ? score : max;
    }
    const float shift = max == -INFINITY ? 0 : max;
    for (int64_t j = 0; j < visible; j++) {
        const float e = expf(s[j * ATTN_REFERENCE_ROWS] - shift);
        s[j * ATTN_REFERENCE_ROWS] = e;
        sum += e;
    }
    for (int64_t j = 0; j < visible; j++)
        s[j * ATTN_REFERENCE_ROWS] = attn_float_round(dtype, s[j * ATTN_REFERENCE_ROWS] / sum);
}

/* acc[d][lane] += P V over one step of keys, all of which every row sees. */
static void rows_weigh(const rows_state_t *state, int64_t first, int keys)
{
    const uint32_t d = state->d_padded;
    for (uint32_t x = 0; x < d; x += RB) {
        for (int pair = 0; pair < RD; pair += 2) {
            rd_t *o = (rd_t *)(state->at.acc + (size_t)x * ATTN_REFERENCE_ROWS) + pair;
            const rd_t *p = (const rd_t *)(state->at.scores + first * ATTN_REFERENCE_ROWS) + pair;
            rd_t acc[RB][2];
            for (int r = 0; r < RB; r++)
                for (int v = 0; v < 2; v++)
                    acc[r][v] = o[r * RD + v];
            for (int key = 0; key < keys; key++)
#pragma GCC unroll 4
                for (int r = 0; r < RB; r++)
#pragma GCC unroll 2
                    for (int v = 0; v < 2; v++)
                        acc[r][v] += p[key * RD + v] * state->at.kv[(size_t)key * d + x + (uint32_t)r];
            for (int r = 0; r < RB; r++)
                for (int v = 0; v < 2; v++)
                    o[r * RD + v] = acc[r][v];
        }
        for (int v = 0; state->block->naive && v < RF; v++) {
            rf_t *o = (rf_t *)(state->at.naive_acc + (size_t)x * ATTN_REFERENCE_ROWS) + v;
            const rf_t *p = (const rf_t *)(state->at.naive_scores + first * ATTN_REFERENCE_ROWS) + v;
            rf_t *sizes = (rf_t *)(state->at.naive_size + (size_t)x * ATTN_REFERENCE_ROWS) + v;
            rf_t acc[RB], size[RB];
            for (int r = 0; r < RB; r++) {
                acc[r] = o[r * RF];
                size[r] = sizes[r * RF];
            }
            for (int key = 0; key < keys; key++)
#pragma GCC unroll 4
                for (int r = 0; r < RB; r++) {
                    const float value = state->at.naive_kv[(size_t)key * d + x + (uint32_t)r];
                    acc[r] += p[key * RF] * value;
                    size[r] += p[key * RF] * fabsf(value);
                }
            for (int r = 0; r < RB; r++) {
                o[r * RF] = acc[r];
                sizes[r * RF] = size[r];
            }
        }
    }
}

/* The same where some rows do not see some of the keys. */
static void rows_weigh_masked(const rows_state_t *state, int64_t first, int keys)
{
    int64_t seen[ATTN_REFERENCE_ROWS];
    int32_t seenf[ATTN_REFERENCE_ROWS];
    for (int lane = 0; lane < ATTN_REFERENCE_ROWS; lane++) {
        const int64_t left = state->visible[lane] - first;
        seen[lane] = left < 0 ? 0 : left > keys ? keys : left;
        seenf[lane] = (int32_t)seen[lane];
    }
    ri_t visible[RD];
    rn_t visiblef[RF];
    memcpy(visible, seen, sizeof visible);
    memcpy(visiblef, seenf, sizeof visiblef);
    for (uint32_t x = 0; x < state->d; x++) {
        const double *value = state->at.kv + x;
        for (int v = 0; v < RD; v++) {
            rd_t *o = (rd_t *)(state->at.acc + (size_t)x * ATTN_REFERENCE_ROWS) + v;
            const rd_t *p = (const rd_t *)(state->at.scores + first * ATTN_REFERENCE_ROWS) + v;
            rd_t acc = *o;
            for (int key = 0; key < keys; key++) {
                const rd_t more = acc + p[key * RD] * value[(size_t)key * state->d_padded];
                const ri_t mask = (int64_t)key < visible[v];
                acc = (rd_t)((mask & (ri_t)more) | (~mask & (ri_t)acc));
            }
            *o = acc;
        }
        const float *valuef = state->at.naive_kv + x;
        for (int v = 0; state->block->naive && v < RF; v++) {
            rf_t *o = (rf_t *)(state->at.naive_acc + (size_t)x * ATTN_REFERENCE_ROWS) + v;
            const rf_t *p = (const rf_t *)(state->at.naive_scores + first * ATTN_REFERENCE_ROWS) + v;
            rf_t *sizes = (rf_t *)(state->at.naive_size + (size_t)x * ATTN_REFERENCE_ROWS) + v;
            rf_t acc = *o, size = *sizes;
            for (int key = 0; key < keys; key++) {
                const float one = valuef[(size_t)key * state->d_padded];
                const rf_t more = acc + p[key * RF] * one, larger = size + p[key * RF] * fabsf(one);
                const rn_t mask = key < visiblef[v];
                acc = (rf_t)((mask & (rn_t)more) | (~mask & (rn_t)acc));
                size = (rf_t)((mask & (rn_t)larger) | (~mask & (rn_t)size));
            }
            *o = acc;
            *sizes = size;
        }
    }
}

static bool rows_run(const attn_reference_block_t *block, const attn_reference_scratch_t *scratch,
                     attn_pool_thread_t *thread)
{
    rows_state_t state;
    rows_open(block, scratch, &state);
    const attn_problem_t *p = block->problem;
    for (int64_t first = 0; first < state.visible_max; first += ATTN_REFERENCE_KEYS) {
        if (!attn_pool_continue(thread))
            return false;
        rows_dot(&state, first, rows_load_keys(&state, &p->k, first));
    }
    double sum[ATTN_REFERENCE_ROWS], shift[ATTN_REFERENCE_ROWS];
    for (int lane = 0; lane < ATTN_REFERENCE_ROWS; lane++) {
        if (!attn_pool_continue(thread))
            return false;
        rows_softmax_lane(&state, lane, &sum[lane], &shift[lane]);
        if (block->naive)
            rows_softmax_lane_naive(&state, lane);
    }
    memset(state.at.acc, 0, (size_t)state.d_padded * ATTN_REFERENCE_ROWS * sizeof(double));
    if (block->naive) {
        memset(state.at.naive_acc, 0, (size_t)state.d_padded * ATTN_REFERENCE_ROWS * sizeof(float));
        memset(state.at.naive_size, 0, (size_t)state.d_padded * ATTN_REFERENCE_ROWS * sizeof(float));
    }
    for (int64_t first = 0; first < state.visible_max; first += ATTN_REFERENCE_KEYS) {
        if (!attn_pool_continue(thread))
            return false;
        const int keys = rows_load_keys(&state, &p->v, first);
        if (first + keys <= state.visible_min)
            rows_weigh(&state, first, keys);
        else
            rows_weigh_masked(&state, first, keys);
    }
    for (int64_t lane = 0; lane < block->rows; lane++) {
        state.at.lse[lane] = sum[lane] == 0 ? -INFINITY : shift[lane] + log(sum[lane]);
        for (uint32_t x = 0; x < state.d; x++) {
            const size_t from = (size_t)x * ATTN_REFERENCE_ROWS + (size_t)lane;
            const size_t to = (size_t)lane * state.d + x;
            state.at.o[to] = sum[lane] == 0 ? 0 : state.at.acc[from] / sum[lane];
            if (!block->naive)
                continue;
            state.at.naive[to] = sum[lane] == 0 ? 0 : attn_float_round(block->config->dtype, state.at.naive_acc[from]);
            state.at.size[to] = state.at.naive_size[from];
        }
    }
    return true;
}
