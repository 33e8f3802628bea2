/* worker/engine_cuda_moves.c: copies between host and device memory: what lies together is one copy, what lies at even
 * distances is the rows of one, the rest is handed over in one call. Main thread; owns nothing.
 *
 * A copy engine rests for about a microsecond between two copies, and queueing one takes the main thread 2.5 us even
 * when many come in one call: of 64 tiny requests, 3.8 us of the link each, that is more than the link itself takes
 * (H100: 189,000 requests/s where the link alone carries 263,000). */
#include "worker/engine_cuda.h"

/* Copies that are smaller on average are queued by one call: between these the engine hardly rests. In and out at once,
 * of the former (H100): 42.4 GB/s in copies of 768 KiB, 48.9 of 2 MiB, 50.5 of 4 MiB; 50.7 in calls for 4 MiB, whatever
 * their copies. Larger ones it makes slower: 48 MiB in and 32 MiB out in 1.12 ms instead of 1.08. */
#define BATCH_COPIES_BYTES ((UINT64_C(2) << 20) + 1)
enum { BATCH_COPIES_MIN = 2, ROWS_MIN = 3, RESOLVED = 2 * ATTN_CUDA_MOVES };

/* The largest pitch that every device of this kind takes. */
#define PITCH_MAX (UINT64_C(1) << 31)

/* A copy within one registration, which ends at `limit` on the host's side. */
typedef struct resolved {
    char *device, *host;
    uint64_t bytes;
    const char *limit;
} resolved_t;

/* The end, as an offset, of the registration that holds a byte; of what is not pinned, the range's. */
static uint64_t registration_end(const attn_cuda_range_t *range, uint64_t offset)
{
    if (offset >= range->pinned)
        return range->bytes;
    uint64_t end = offset < range->first
                       ? range->first
                       : range->first + ((offset - range->first) / ATTN_CUDA_PIN_PIECE + 1) * ATTN_CUDA_PIN_PIECE;
    return end < range->pinned ? end : range->pinned;
}

void attn_cuda_moves_add_of(attn_cuda_moves_t *moves, const void *space, void *device, const void *host, uint64_t bytes,
                            bool in)
{
    if (bytes == 0)
        return;
    moves->bytes += bytes;
    attn_cuda_pair_t *last = moves->count > 0 ? &moves->pair[moves->count - 1] : NULL;
    /* Inputs lie page by page: what is between two of them is the first one's and may be copied along. An answer's
     * place is written to its last byte and no further. */
    uint64_t reach = !last ? 0 : in ? ATTN_WIRE_ROUND(last->bytes) : last->bytes;
    if (last && last->space == space && last->device + reach == (char *)device &&
        last->host + reach == (const char *)host)
        last->bytes = reach + bytes;
    else
        moves->pair[moves->count++] = (attn_cuda_pair_t){device, (char *)(uintptr_t)host, bytes, space};
}

void attn_cuda_moves_add(attn_cuda_moves_t *moves, void *device, const void *host, uint64_t bytes, bool in)
{
    attn_cuda_moves_add_of(moves, NULL, device, host, bytes, in);
}

/* Adds a pair as copies that lie in one registration each; false when it is not all pinned, or there is no room. */
static bool pair_resolve(const attn_engine_t *engine, const attn_cuda_pair_t *pair, resolved_t ret[RESOLVED],
                         uint32_t *count)
{
    uint64_t offset;
    const attn_cuda_range_t *range = attn_cuda_ranges_find(engine->ranges, pair->host, pair->bytes, &offset);
    if (!range || offset + pair->bytes > range->pinned)
        return false;
    uint32_t used = *count;
    for (uint64_t done = 0; done < pair->bytes; used++) {
        uint64_t end = registration_end(range, offset + done), step = end - (offset + done);
        step = step < pair->bytes - done ? step : pair->bytes - done;
        if (used == RESOLVED)
            return false;
        ret[used] =
            (resolved_t){pair->device + done, range->mapped + offset + done, step, (const char *)range->mapped + end};
        done += step;
    }
    *count = used;
    return true;
}

static cudaError_t copy(char *device, char *host, uint64_t bytes, bool in, cudaStream_t stream)
{
    return in ? cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream)
              : cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream);
}

/* A pair of which not all is pinned. A copy may not cross from one registration into another. */
static cudaError_t pair_copy(const attn_engine_t *engine, const attn_cuda_pair_t *pair, bool in, cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;
    uint64_t offset = 0;
    const attn_cuda_range_t *range = attn_cuda_ranges_find(engine->ranges, pair->host, pair->bytes, &offset);
    for (uint64_t done = 0; done < pair->bytes && rc == cudaSuccess;) {
        uint64_t left = pair->bytes - done, at = offset + done;
        uint64_t step = range ? registration_end(range, at) - at : left;
        step = step < left ? step : left;
        char *there = range && at < range->pinned ? range->mapped + at : pair->host + done;
        rc = copy(pair->device + done, there, step, in, stream);
        done += step;
    }
    return rc;
}

/* Counts what of a pair is not pinned. What lies in an arena is to be, soon. */
static void pair_look(attn_engine_t *engine, const attn_cuda_pair_t *pair, bool in, attn_engine_result_t *result)
{
    attn_cuda_range_t *arena = in ? &engine->input : &engine->output;
    uint64_t offset = 0;
    const attn_cuda_range_t *range = attn_cuda_ranges_find(engine->ranges, pair->host, pair->bytes, &offset);
    const uint64_t end = offset + pair->bytes, pinned = range ? range->pinned : 0;
    result->unpinned_bytes += end <= pinned ? 0 : offset < pinned ? end - pinned : pair->bytes;
    if (range == arena && end > pinned) {
        arena->reach = end > arena->reach ? end : arena->reach;
        result->idle_wanted = true;
    }
}

/* ---- many at once ---- */

/* How many copies from the first on are the rows of one: alike, at even distances on both sides, in one registration.
 */
static uint32_t rows_from(const resolved_t *first, uint32_t count)
{
    uint32_t rows = 1;
    if (count < ROWS_MIN || first[1].host <= first->host || first[1].device <= first->device)
        return 1;
    uint64_t host = (uint64_t)(first[1].host - first->host), device = (uint64_t)(first[1].device - first->device);
    if (host < first->bytes || device < first->bytes || host >= PITCH_MAX || device >= PITCH_MAX)
        return 1;
    while (rows < count && first[rows].bytes == first->bytes && first[rows].limit == first->limit &&
           first[rows].host == first->host + rows * host && first[rows].device == first->device + rows * device)
        rows++;
    return rows < ROWS_MIN ? 1 : rows;
}

static cudaError_t rows_copy(const resolved_t *first, uint32_t rows, bool in, cudaStream_t stream)
{
    size_t host = (size_t)(first[1].host - first->host), device = (size_t)(first[1].device - first->device);
    return in ? cudaMemcpy2DAsync(first->device, device, first->host, host, first->bytes, rows, cudaMemcpyHostToDevice,
                                  stream)
              : cudaMemcpy2DAsync(first->host, host, first->device, device, first->bytes, rows, cudaMemcpyDeviceToHost,
                                  stream);
}

static cudaError_t batch_copy(const resolved_t *moves, uint32_t count, bool in, cudaStream_t stream)
{
    void *to[RESOLVED];
    const void *from[RESOLVED];
    size_t bytes[RESOLVED], first = 0;
    struct cudaMemcpyAttributes attributes = {.srcAccessOrder = cudaMemcpySrcAccessOrderStream};
    for (uint32_t i = 0; i < count; i++) {
        to[i] = in ? moves[i].device : moves[i].host;
        from[i] = in ? moves[i].host : moves[i].device;
        bytes[i] = moves[i].bytes;
    }
    return cudaMemcpyBatchAsync(to, from, bytes, count, &attributes, &first, 1, stream);
}

static cudaError_t singles_copy(attn_engine_t *engine, const resolved_t *moves, uint32_t count, bool in,
                                cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += moves[i].bytes;
    if (engine->batch_copies && count >= BATCH_COPIES_MIN && bytes < count * BATCH_COPIES_BYTES) {
        if (batch_copy(moves, count, in, stream) == cudaSuccess)
            return cudaSuccess;
        /* A driver that cannot, or an error that the copies below meet again. */
        cudaGetLastError();
        engine->batch_copies = false;
    }
    for (uint32_t i = 0; i < count && rc == cudaSuccess; i++)
        rc = copy(moves[i].device, moves[i].host, moves[i].bytes, in, stream);
    return rc;
}

/* Moves what is no row to the front and copies it last. */
static cudaError_t resolved_copy(attn_engine_t *engine, resolved_t *moves, uint32_t count, bool in, cudaStream_t stream)
{
    cudaError_t rc = cudaSuccess;
    uint32_t singles = 0;
    for (uint32_t i = 0; i < count && rc == cudaSuccess;) {
        uint32_t rows = engine->row_copies ? rows_from(&moves[i], count - i) : 1;
        if (rows > 1)
            rc = rows_copy(&moves[i], rows, in, stream);
        else
            moves[singles++] = moves[i];
        i += rows;
    }
    return rc == cudaSuccess ? singles_copy(engine, moves, singles, in, stream) : rc;
}

static cudaError_t gather(const resolved_t *moves, uint32_t count, bool in, attn_cuda_fetch_t *fetch,
                          cudaStream_t stream)
{
    attn_cuda_move_t list[RESOLVED];
    for (uint32_t i = 0; i < count; i++)
        list[i] = in ? (attn_cuda_move_t){moves[i].device, moves[i].host, moves[i].bytes}
                     : (attn_cuda_move_t){moves[i].host, moves[i].device, moves[i].bytes};
    return (cudaError_t)attn_cuda_gather(list, count, fetch->times, &fetch->blocks, stream);
}

static bool multiples_of_16(const attn_cuda_moves_t *moves)
{
    for (uint32_t i = 0; i < moves->count; i++)
        if (moves->pair[i].bytes % 16 != 0)
            return false;
    return true;
}

cudaError_t attn_cuda_moves_queue(attn_engine_t *engine, attn_cuda_moves_t *moves, bool in, attn_cuda_fetch_t *fetch,
                                  cudaStream_t stream, attn_engine_result_t *result)
{
    resolved_t resolved[RESOLVED];
    uint32_t count = 0;
    cudaError_t rc = cudaSuccess;
    /* What is pinned stays as it is while copies are queued. */
    attn_cuda_ranges_lock(engine->ranges);
    for (uint32_t i = 0; i < moves->count && rc == cudaSuccess; i++) {
        if (pair_resolve(engine, &moves->pair[i], resolved, &count))
            continue;
        pair_look(engine, &moves->pair[i], in, result);
        rc = pair_copy(engine, &moves->pair[i], in, stream);
    }
    if (rc == cudaSuccess && fetch && count > 0 && multiples_of_16(moves)) {
        result->helpers++;
        rc = gather(resolved, count, in, fetch, stream);
    } else if (rc == cudaSuccess) {
        rc = resolved_copy(engine, resolved, count, in, stream);
    }
    attn_cuda_ranges_unlock(engine->ranges);
    moves->count = 0;
    moves->bytes = 0;
    return rc;
}
