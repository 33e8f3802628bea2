/* sched/view.c: what others may see of the scheduler: a copy under a short lock, made anew whenever a device changes.
 */
#include <string.h>

#include "base/clock.h"
#include "sched/internal.h"

static void device_view(const attn_sched_device_t *device, attn_device_view_t *ret)
{
    const attn_worker_t *serve = &device->worker[ATTN_LANE_SERVE];
    memset(ret, 0, sizeof *ret);
    ret->device = device->about;
    ret->state = device->state;
    ret->serve_pid = serve->state == ATTN_WORKER_READY ? serve->process.pid : 0;
    ret->restarts = device->restarts;
    memcpy(ret->driver, device->driver, sizeof ret->driver);
    ret->sm_clock_mhz = device->sm_clock_mhz;
    ret->mem_clock_mhz = device->mem_clock_mhz;
    memcpy(ret->why, device->why, sizeof ret->why);
    if (!device->known)
        memcpy(ret->device.uuid, device->argument, sizeof ret->device.uuid - 1);
}

void attn_sched_publish(attn_sched_t *sched, int64_t now_ns)
{
    pthread_mutex_lock(&sched->lock);
    sched->published.device_count = sched->device_count;
    for (uint32_t i = 0; i < sched->device_count; i++)
        device_view(&sched->device[i], &sched->published.devices[i]);
    pthread_mutex_unlock(&sched->lock);
}

void attn_sched_view(attn_sched_t *sched, attn_sched_view_t *ret)
{
    pthread_mutex_lock(&sched->lock);
    *ret = sched->published;
    pthread_mutex_unlock(&sched->lock);
    ret->quarantine_count = attn_quarantine_view(&sched->quarantine, attn_clock_ns(), ret->quarantine);
    ret->running = atomic_load(&sched->running);
    for (uint32_t i = 0; i < ret->device_count; i++) {
        ret->groups[i] = atomic_load_explicit(&sched->device[i].groups_seen, memory_order_relaxed);
        ret->load_us[i] = atomic_load_explicit(&sched->device[i].load_seen_us, memory_order_relaxed);
    }
    uint32_t outstanding = atomic_load(&sched->outstanding);
    ret->queued = outstanding > ret->running ? outstanding - ret->running : 0;
}

attn_status_t attn_sched_quarantine_clear(attn_sched_t *sched, const attn_variant_info_t *variant)
{
    return attn_quarantine_clear(&sched->quarantine, variant, attn_clock_ns());
}
