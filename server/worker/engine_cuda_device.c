/* worker/engine_cuda_device.c: which GPU, what it is, and how fast it ticks. Main thread.
 *
 * The process sees one GPU: its UUID goes into CUDA_VISIBLE_DEVICES before CUDA starts, which also works for MIG
 * slices and never touches the others. Modules are loaded eagerly: a first launch must not load code while a job's
 * budget runs. */
#include "worker/engine_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda.h"

static void device_uuid(const struct cudaDeviceProp *about, char *ret, size_t size)
{
    const unsigned char *b = (const unsigned char *)about->uuid.bytes;
    snprintf(ret, size, "%s-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             strstr(about->name, "MIG") ? "MIG" : "GPU", b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9],
             b[10], b[11], b[12], b[13], b[14], b[15]);
}

void attn_engine_cuda_list(void (*each)(const char *uuid, int index, const char *name, void *arg), void *arg)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess)
        return;
    for (int i = 0; i < count; i++) {
        struct cudaDeviceProp about;
        if (cudaGetDeviceProperties(&about, i) != cudaSuccess)
            continue;
        char uuid[48];
        device_uuid(&about, uuid, sizeof uuid);
        each(uuid, i, about.name, arg);
    }
}

attn_status_t attn_cuda_device_open(const char *uuid, attn_device_t *ret, attn_error_t *err)
{
    if (strncmp(uuid, "GPU-", 4) != 0 && strncmp(uuid, "MIG-", 4) != 0)
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT,
                              "the CUDA engine needs a GPU's UUID (GPU-… or MIG-…), not \"%s\"", uuid);
    setenv("CUDA_VISIBLE_DEVICES", uuid, 1);
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    cudaError_t rc = cudaSetDeviceFlags(cudaDeviceScheduleBlockingSync);
    if (rc == cudaSuccess)
        rc = cudaSetDevice(0);
    struct cudaDeviceProp about;
    if (rc == cudaSuccess)
        rc = cudaGetDeviceProperties(&about, 0);
    if (rc == cudaSuccess)
        rc = cudaFree(NULL); /* makes the context */
    if (rc != cudaSuccess) {
        char what[96];
        snprintf(what, sizeof what, "GPU %s cannot be opened", uuid);
        return attn_cuda_error(err, (int)rc, what);
    }
    *ret = (attn_device_t){.kind = ATTN_DEVICE_CUDA,
                           .arch = 10 * about.major + about.minor,
                           .units = about.multiProcessorCount,
                           .memory_bytes = about.totalGlobalMem,
                           .l2_bytes = (uint64_t)about.l2CacheSize};
    snprintf(ret->name, sizeof ret->name, "%.95s", about.name);
    snprintf(ret->uuid, sizeof ret->uuid, "%s", uuid);
    return ATTN_OK;
}

/* The few entry points of nvml.h that are used, with its numbers: NVML_CLOCK_SM 1, NVML_CLOCK_MEM 2. */
enum { NVML_CLOCK_OF_SM = 1, NVML_CLOCK_OF_MEM = 2 };
struct attn_cuda_nvml {
    void *library;
    void *device;
    int (*clock_info)(void *device, int type, unsigned *ret_mhz);
    int (*shutdown)(void);
};

attn_cuda_nvml_t *attn_cuda_nvml_open(const char *uuid, char *ret_driver, size_t driver_size)
{
    attn_cuda_nvml_t *nvml = calloc(1, sizeof *nvml);
    char driver[64] = "";
    if (nvml)
        nvml->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (nvml && nvml->library) {
        int (*init)(void) = (int (*)(void))dlsym(nvml->library, "nvmlInit_v2");
        int (*by_uuid)(const char *, void **) =
            (int (*)(const char *, void **))dlsym(nvml->library, "nvmlDeviceGetHandleByUUID");
        int (*version)(char *, unsigned) =
            (int (*)(char *, unsigned))dlsym(nvml->library, "nvmlSystemGetDriverVersion");
        nvml->clock_info = (int (*)(void *, int, unsigned *))dlsym(nvml->library, "nvmlDeviceGetClockInfo");
        nvml->shutdown = (int (*)(void))dlsym(nvml->library, "nvmlShutdown");
        if (init && by_uuid && version && nvml->clock_info && nvml->shutdown && init() == 0) {
            if (version(driver, sizeof driver) != 0)
                driver[0] = '\0';
            if (by_uuid(uuid, &nvml->device) != 0)
                nvml->device = NULL;
        }
    }
    int cuda = 0;
    if (cudaDriverGetVersion(&cuda) != cudaSuccess)
        cuda = 0;
    snprintf(ret_driver, driver_size, "%.16s%sCUDA %d.%d", driver, driver[0] ? " " : "", cuda / 1000, cuda % 1000 / 10);
    if (nvml && !nvml->device) {
        attn_cuda_nvml_close(nvml);
        nvml = NULL;
    }
    return nvml;
}

void attn_cuda_nvml_close(attn_cuda_nvml_t *nvml)
{
    if (!nvml)
        return;
    if (nvml->shutdown && nvml->device)
        nvml->shutdown();
    if (nvml->library)
        dlclose(nvml->library);
    free(nvml);
}

void attn_cuda_nvml_clocks(const attn_cuda_nvml_t *nvml, uint32_t *ret_sm_mhz, uint32_t *ret_mem_mhz)
{
    unsigned sm = 0, mem = 0;
    if (!nvml)
        return;
    if (nvml->clock_info(nvml->device, NVML_CLOCK_OF_SM, &sm) == 0)
        *ret_sm_mhz = sm;
    if (nvml->clock_info(nvml->device, NVML_CLOCK_OF_MEM, &mem) == 0)
        *ret_mem_mhz = mem;
}
