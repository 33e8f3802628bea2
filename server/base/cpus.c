/* base/cpus.c: see cpus.h. Reads /proc/self/cgroup and the files it leads to. */
#include "base/cpus.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* First line of a file, without its newline. */
static bool file_line(const char *path, char *ret, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool got = fgets(ret, (int)size, file) != NULL;
    fclose(file);
    if (got)
        ret[strcspn(ret, "\n")] = '\0';
    return got;
}

/* The path of this process in one hierarchy: "" (v2) or a v1 controller's name. */
static bool cgroup_path(const char *controller, char *ret, size_t size)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return false;
    char line[4096];
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        controllers++;
        if (*controller == '\0' ? *controllers == '\0' : strstr(controllers, controller) != NULL)
            found = snprintf(ret, size, "%s", path) < (int)size;
    }
    fclose(file);
    return found;
}

/* Calls `each` with the text of `name` in the process's group and in every group above it. In a container the path may
 * not exist under the mount; its root then is the container's own group. */
static void cgroup_walk(const char *mount, const char *controller, const char *name,
                        void (*each)(const char *text, const char *folder, void *arg), void *arg)
{
    char path[4096], folder[4352], file[4480], text[256];
    if (!cgroup_path(controller, path, sizeof path))
        return;
    for (;;) {
        snprintf(folder, sizeof folder, "%s%s", mount, strcmp(path, "/") == 0 ? "" : path);
        snprintf(file, sizeof file, "%s/%s", folder, name);
        if (file_line(file, text, sizeof text))
            each(text, folder, arg);
        char *slash = strrchr(path, '/');
        if (!slash || path[1] == '\0')
            return;
        if (slash == path)
            path[1] = '\0';
        else
            *slash = '\0';
    }
}

static void least_cpus(double value, double *least)
{
    if (value > 0 && value < *least)
        *least = value;
}

static void each_cpu_max(const char *text, const char *folder, void *arg)
{
    (void)folder;
    double quota, period;
    if (sscanf(text, "%lf %lf", &quota, &period) == 2 && period > 0)
        least_cpus(quota / period, arg);
}

static void each_cpu_quota(const char *text, const char *folder, void *arg)
{
    char file[4480], period_text[64];
    snprintf(file, sizeof file, "%s/cpu.cfs_period_us", folder);
    double quota = atof(text);
    if (quota > 0 && file_line(file, period_text, sizeof period_text) && atof(period_text) > 0)
        least_cpus(quota / atof(period_text), arg);
}

static void each_memory_max(const char *text, const char *folder, void *arg)
{
    (void)folder;
    uint64_t *least = arg;
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (end != text && value > 0 && value < *least)
        *least = value;
}

double attn_cpus_usable(void)
{
    cpu_set_t set;
    double cpus = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cpus = CPU_COUNT(&set);
    else if (sysconf(_SC_NPROCESSORS_ONLN) > 0)
        cpus = (double)sysconf(_SC_NPROCESSORS_ONLN);
    cgroup_walk("/sys/fs/cgroup", "", "cpu.max", each_cpu_max, &cpus);
    cgroup_walk("/sys/fs/cgroup/cpu", "cpu", "cpu.cfs_quota_us", each_cpu_quota, &cpus);
    return cpus < 0.01 ? 0.01 : cpus;
}

uint64_t attn_memory_usable(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : UINT64_C(1) << 30;
    cgroup_walk("/sys/fs/cgroup", "", "memory.max", each_memory_max, &bytes);
    cgroup_walk("/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", each_memory_max, &bytes);
    return bytes;
}

uint32_t attn_cpus_spin_us(void)
{
    return attn_cpus_usable() > 2.0 ? 200 : 0;
}
