/* worker/engine_cuda_ranges.c: host memory that the GPU reaches, by address: the arenas and regions of clients. Under
 * the list's lock: the main thread looks while it queues copies, the regions' thread adds, pins and removes. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "worker/engine_cuda.h"

void attn_cuda_range_pin(attn_cuda_range_t *range)
{
    uint64_t step = range->pinned == 0 ? range->first : ATTN_CUDA_PIN_PIECE, left = range->bytes - range->pinned;
    uint64_t bytes = step < left ? step : left;
    unsigned flags = cudaHostRegisterMapped | (range->read_only ? cudaHostRegisterReadOnly : 0);
    if (range->closed || bytes == 0)
        return;
    if (cudaHostRegister(range->mapped + range->pinned, bytes, flags) == cudaSuccess) {
        range->pinned += bytes;
    } else {
        cudaGetLastError(); /* not sticky */
        range->closed = true;
    }
}

void attn_cuda_range_unpin(attn_cuda_range_t *range)
{
    for (uint64_t at = 0; at < range->pinned; at += at == 0 ? range->first : ATTN_CUDA_PIN_PIECE)
        cudaHostUnregister(range->mapped + at);
    if (range->mapped && range->mapped != range->host)
        munmap(range->mapped, range->bytes);
    *range = (attn_cuda_range_t){.closed = true};
}

attn_status_t attn_cuda_ranges_create(attn_cuda_ranges_t **ret, attn_error_t *err)
{
    attn_cuda_ranges_t *ranges = calloc(1, sizeof *ranges);
    if (!ranges)
        return attn_error_set(err, ATTN_ERR_NO_MEMORY, "no memory for the list of pinned memory");
    pthread_mutex_init(&ranges->turn, NULL);
    pthread_mutex_init(&ranges->lock, NULL);
    *ret = ranges;
    return ATTN_OK;
}

void attn_cuda_ranges_lock(attn_cuda_ranges_t *ranges)
{
    pthread_mutex_lock(&ranges->turn);
    pthread_mutex_lock(&ranges->lock);
    pthread_mutex_unlock(&ranges->turn);
}

void attn_cuda_ranges_unlock(attn_cuda_ranges_t *ranges)
{
    pthread_mutex_unlock(&ranges->lock);
}

void attn_cuda_ranges_destroy(attn_cuda_ranges_t *ranges)
{
    if (!ranges)
        return;
    pthread_mutex_destroy(&ranges->lock);
    pthread_mutex_destroy(&ranges->turn);
    free(ranges->range);
    free(ranges);
}

/* Where the last range lies that does not begin after `host`; -1 when there is none. */
static int64_t place_of(const attn_cuda_ranges_t *ranges, const char *host)
{
    int64_t low = 0, high = ranges->count;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (ranges->range[middle]->host <= host)
            low = middle + 1;
        else
            high = middle;
    }
    return low - 1;
}

/* Room for one more; false without memory. */
static bool make_room(attn_cuda_ranges_t *ranges)
{
    if (ranges->count < ranges->room)
        return true;
    uint32_t more = ranges->room ? 2 * ranges->room : 16;
    attn_cuda_range_t **grown = realloc(ranges->range, more * sizeof(attn_cuda_range_t *));
    if (!grown)
        return false;
    ranges->range = grown;
    ranges->room = more;
    return true;
}

bool attn_cuda_ranges_link(attn_cuda_ranges_t *ranges, attn_cuda_range_t *range)
{
    attn_cuda_ranges_lock(ranges);
    bool room = make_room(ranges);
    if (room) {
        attn_cuda_range_t **at = ranges->range + place_of(ranges, range->host) + 1;
        memmove(at + 1, at, (size_t)(ranges->range + ranges->count++ - at) * sizeof(attn_cuda_range_t *));
        *at = range;
    }
    attn_cuda_ranges_unlock(ranges);
    return room;
}

void attn_cuda_ranges_unlink(attn_cuda_ranges_t *ranges, const attn_cuda_range_t *range)
{
    attn_cuda_ranges_lock(ranges);
    int64_t i = place_of(ranges, range->host);
    if (i >= 0 && ranges->range[i] == range) {
        attn_cuda_range_t **at = ranges->range + i;
        memmove(at, at + 1, (size_t)(ranges->range + --ranges->count - at) * sizeof(attn_cuda_range_t *));
    }
    attn_cuda_ranges_unlock(ranges);
}

const attn_cuda_range_t *attn_cuda_ranges_find(const attn_cuda_ranges_t *ranges, const char *host, uint64_t bytes,
                                               uint64_t *ret_offset)
{
    int64_t i = place_of(ranges, host);
    const attn_cuda_range_t *range = i >= 0 ? ranges->range[i] : NULL;
    if (!range || bytes > range->bytes || (uint64_t)(host - range->host) > range->bytes - bytes)
        return NULL;
    *ret_offset = (uint64_t)(host - range->host);
    return range;
}
