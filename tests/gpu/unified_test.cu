// unified_test.cu: the GPU test program of `unified`. Usage: unified_test [section ...]; all sections without names.
// Needs only the CUDA toolkit. Exit code 0 when everything passed, 77 (and "skipped: no GPU") without a Hopper GPU.
#include <ctime>

#include "unified_exact.cuh"
#include "unified_maps.cuh"
#include "unified_nan.cuh"
#include "unified_stress.cuh"
#include "unified_sweep.cuh"

struct Section {
    const char *name;
    void (*run)();
};

static const Section kSections[] = {
    {"smoke", test_smoke},       {"sweep", test_sweep},     {"dims", test_dims},       {"values", test_values},
    {"needles", test_needles},   {"nan", test_nan},         {"groups", test_groups},   {"layouts", test_layouts},
    {"repeats", test_repeats},   {"packed", test_packed},   {"phases", test_phases},   {"streams", test_streams},
    {"graphs", test_graphs},     {"refusals", test_refusals}, {"outliers", test_outliers}, {"huge", test_huge},
    {"maps", test_maps},         {"peaked", test_peaked},
};

static double now_s()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

int main(int argc, char **argv)
{
    alarm(300); // a kernel that hangs must not hold the device
    if (!support_init()) {
        printf("skipped: no GPU\n");
        return 77;
    }
    for (const Section &s : kSections) {
        bool wanted = argc == 1;
        for (int i = 1; i < argc; ++i) {
            wanted |= strcmp(argv[i], s.name) == 0;
        }
        if (!wanted) {
            continue;
        }
        const int failed = tally.failed, passed = tally.passed;
        const double start = now_s();
        s.run();
        CUDA_OK(cudaDeviceSynchronize());
        printf("%-9s %5d passed %3d failed %6.1f s\n", s.name, tally.passed - passed, tally.failed - failed,
               now_s() - start);
        fflush(stdout);
    }
    printf("%d passed, %d failed\n", tally.passed, tally.failed);
    return tally.failed == 0 ? 0 : 1;
}
