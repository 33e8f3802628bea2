/* jobs_client.c: jobs of libattn against a real daemon, over whichever door its address names: started many at a time,
 * collected by waiting, by attn_client_next() and by polling a descriptor; every O must be what attn_client_run()
 * gives. Prints how many were right; exits with 1 and a sentence when something is wrong. */
#include <attn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOBS 24

static attn_client_t *client;
static attn_client_error_t error;
static attn_client_request_t requests[JOBS];
static attn_sizes_t sizes[JOBS];
static void *expected[JOBS];
static int right;

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, error.error.message);
    exit(1);
}

/* Different lengths and dtypes, in one region. */
static void requests_make(void)
{
    attn_region_t *region;
    uint64_t total = 0, at[JOBS];
    for (int i = 0; i < JOBS; i++) {
        requests[i].spec = (attn_spec_t){.dtype = i % 2 ? ATTN_DTYPE_F32 : ATTN_DTYPE_BF16,
                                         .layout = ATTN_LAYOUT_BSHD,
                                         .batch = 1,
                                         .s_q = 1 + i * 5,
                                         .s_kv = 1 + i * 7,
                                         .h_q = 4,
                                         .h_kv = 2,
                                         .d = 32,
                                         .causal = i % 3 == 0};
        if (attn_spec_measure(&requests[i].spec, &sizes[i], &error.error) != ATTN_OK) {
            fail("measure");
        }
        at[i] = total;
        total += (sizes[i].q + sizes[i].k + sizes[i].v + sizes[i].o + 255) / 256 * 256;
    }
    if (attn_region_allocate(client, total, false, &region, &error) != ATTN_OK) {
        fail("region");
    }
    for (int i = 0; i < JOBS; i++) {
        unsigned char *base = (unsigned char *)attn_region_data(region) + at[i];
        for (uint64_t n = 0; n < sizes[i].q + sizes[i].k + sizes[i].v; n++) {
            base[n] = n % 4 == 3 ? 0x3e : (unsigned char)(n * 31 + (unsigned)i); /* moderate numbers in either dtype */
        }
        requests[i].q = base;
        requests[i].k = base + sizes[i].q;
        requests[i].v = base + sizes[i].q + sizes[i].k;
        requests[i].o = base + sizes[i].q + sizes[i].k + sizes[i].v;
        if (attn_client_run(client, &requests[i], NULL, NULL, &error) != ATTN_OK) {
            fail("run");
        }
        expected[i] = malloc(sizes[i].o);
        memcpy(expected[i], requests[i].o, sizes[i].o);
        memset(requests[i].o, 0, sizes[i].o);
    }
}

static void submit(int i, attn_job_t **ret)
{
    attn_job_t *job;
    if (attn_client_submit(client, &requests[i], (void *)(size_t)(i + 1), &job, &error) != ATTN_OK) {
        fail("submit");
    }
    if (ret != NULL) {
        *ret = job;
    }
}

static void collect(attn_job_t *job, int timeout_ms)
{
    attn_client_answer_t answer;
    int i = (int)(size_t)attn_job_user(job) - 1;
    if (attn_job_wait(job, timeout_ms, &answer, &error) != ATTN_OK) {
        fail("wait");
    }
    if (memcmp(expected[i], requests[i].o, sizes[i].o) != 0 || strcmp(answer.variant, "cpu") != 0) {
        fprintf(stderr, "job %d gives something else than run()\n", i);
        exit(1);
    }
    memset(requests[i].o, 0, sizes[i].o);
    right++;
    attn_job_free(job);
}

int main(int argc, char **argv)
{
    attn_job_t *jobs[JOBS], *job;
    if (argc != 2 || attn_client_open(argv[1], NULL, &client, &error) != ATTN_OK ||
        attn_client_ping(client, &error) != ATTN_OK) {
        fail("open");
    }
    requests_make();
    for (int i = 0; i < JOBS; i++) {
        submit(i, &jobs[i]);
    }
    for (int i = JOBS - 1; i >= 0; i--) {
        collect(jobs[i], 20000);
    }
    for (int i = 0; i < JOBS; i++) {
        submit(i, NULL);
    }
    while ((job = attn_client_next(client, 20000000)) != NULL) {
        collect(job, 0);
    }
    struct pollfd ready = {.fd = attn_client_poll_fd(client, &error), .events = POLLIN};
    for (int round = 0; round < 5; round++) {
        int before = right;
        for (int i = 0; i < JOBS; i++) {
            submit(i, NULL);
        }
        while (right < before + JOBS) {
            if (poll(&ready, 1, 20000) != 1) {
                fail("poll");
            }
            while ((job = attn_client_poll(client)) != NULL) {
                collect(job, 0);
            }
        }
    }
    submit(0, &job); /* one that is freed before it has ended, one that is refused, and one that is left to close() */
    attn_job_free(job);
    requests[1].variant = "flash9";
    submit(1, &job);
    if (attn_job_wait(job, -1, NULL, &error) != ATTN_ERR_NOT_FOUND || strstr(error.error.message, "flash9") == NULL) {
        fail("a refusal");
    }
    attn_job_free(job);
    submit(2, NULL);
    attn_client_close(client);
    for (int i = 0; i < JOBS; i++) {
        free(expected[i]);
    }
    printf("%d\n", right);
    return 0;
}
