/* reference/rows_body.h: rows.h for one instruction set, which the file that includes it has selected. Runs on a pool
 * thread; owns nothing.
 *
 * Rows lie in vector lanes, as in cpu/tile_body.h, but nothing is online here: all scores, then their maximum, then
 * exponentials by libm, then the sum over V. A key that a row does not see takes no part in it, whatever V holds. */
#include <math.h>
#include <string.h>

#include "cpu/convert.h"
#include "reference/rows.h"

typedef double rd_t __attribute__((vector_size(64), aligned(64)));
typedef int64_t ri_t __attribute__((vector_size(64), aligned(64)));
typedef float rf_t __attribute__((vector_size(64), aligned(64)));
typedef int32_t rn_t __attribute__((vector_size(64), aligned(64)));

enum { RD = ATTN_REFERENCE_ROWS / 8, RB = 4 };

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
        const rd_t *q = (const rd_t *)state->at.q;
        rd_t acc[RB][RD] = {{{0}}};
        for (uint32_t x = 0; x < state->d; x++)
#pragma GCC unroll 4
            for (int r = 0; r < RB; r++)
#pragma GCC unroll 2
                for (int v = 0; v < RD; v++)
                    acc[r][v] += q[x * RD + (uint32_t)v] * k[(size_t)r * d + x];
        memcpy(state->at.scores + (first + key) * ATTN_REFERENCE_ROWS, acc, sizeof acc);
        if (!state->block->naive)
            continue;
        const float *kf = state->at.naive_kv + (size_t)key * d;
        const rf_t *qf = (const rf_t *)state->at.naive_q;
        rf_t accf[RB] = {{0}};
        for (uint32_t x = 0; x < state->d; x++)
#pragma GCC unroll 4
            for (int r = 0; r < RB; r++)
                accf[r] += qf[x] * kf[(size_t)r * d + x];
        memcpy(state->at.naive_scores + (first + key) * ATTN_REFERENCE_ROWS, accf, sizeof accf);
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
        rd_t acc[RB][RD];
        double *o = state->at.acc + (size_t)x * ATTN_REFERENCE_ROWS;
        memcpy(acc, o, sizeof acc);
        const rd_t *p = (const rd_t *)(state->at.scores + first * ATTN_REFERENCE_ROWS);
        for (int key = 0; key < keys; key++)
#pragma GCC unroll 4
            for (int r = 0; r < RB; r++)
#pragma GCC unroll 2
                for (int v = 0; v < RD; v++)
                    acc[r][v] += p[key * RD + v] * state->at.kv[(size_t)key * d + x + (uint32_t)r];
        memcpy(o, acc, sizeof acc);
        if (!state->block->naive)
            continue;
        rf_t accf[RB];
        float *of = state->at.naive_acc + (size_t)x * ATTN_REFERENCE_ROWS;
        memcpy(accf, of, sizeof accf);
        const rf_t *pf = (const rf_t *)(state->at.naive_scores + first * ATTN_REFERENCE_ROWS);
        for (int key = 0; key < keys; key++)
#pragma GCC unroll 4
            for (int r = 0; r < RB; r++)
                accf[r] += pf[key] * state->at.naive_kv[(size_t)key * d + x + (uint32_t)r];
        memcpy(of, accf, sizeof accf);
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
    rn_t visiblef;
    memcpy(visible, seen, sizeof visible);
    memcpy(&visiblef, seenf, sizeof visiblef);
    for (uint32_t x = 0; x < state->d; x++) {
        rd_t acc[RD];
        memcpy(acc, state->at.acc + (size_t)x * ATTN_REFERENCE_ROWS, sizeof acc);
        const rd_t *p = (const rd_t *)(state->at.scores + first * ATTN_REFERENCE_ROWS);
        for (int key = 0; key < keys; key++)
            for (int v = 0; v < RD; v++) {
                const rd_t more = acc[v] + p[key * RD + v] * state->at.kv[(size_t)key * state->d_padded + x];
                const ri_t mask = (int64_t)key < visible[v];
                acc[v] = (rd_t)((mask & (ri_t)more) | (~mask & (ri_t)acc[v]));
            }
        memcpy(state->at.acc + (size_t)x * ATTN_REFERENCE_ROWS, acc, sizeof acc);
        if (!state->block->naive)
            continue;
        rf_t accf;
        memcpy(&accf, state->at.naive_acc + (size_t)x * ATTN_REFERENCE_ROWS, sizeof accf);
        const rf_t *pf = (const rf_t *)(state->at.naive_scores + first * ATTN_REFERENCE_ROWS);
        for (int key = 0; key < keys; key++) {
            const rf_t more = accf + pf[key] * state->at.naive_kv[(size_t)key * state->d_padded + x];
            const rn_t mask = key < visiblef;
            accf = (rf_t)((mask & (rn_t)more) | (~mask & (rn_t)accf));
        }
        memcpy(state->at.naive_acc + (size_t)x * ATTN_REFERENCE_ROWS, &accf, sizeof accf);
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
    if (block->naive)
        memset(state.at.naive_acc, 0, (size_t)state.d_padded * ATTN_REFERENCE_ROWS * sizeof(float));
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
            if (block->naive)
                state.at.naive[to] =
                    sum[lane] == 0 ? 0 : attn_float_round(block->config->dtype, state.at.naive_acc[from]);
        }
    }
    return true;
}
