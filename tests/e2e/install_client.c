/* tests/e2e/install_client.c: what a stranger writes against an installed libattn: one request, O to standard output.
 * Built by test_install.py with what pkg-config says. */
#include <attn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    static unsigned char q[2 * 4 * 8 * 4], k[2 * 4 * 8 * 4], v[2 * 4 * 8 * 4], o[2 * 4 * 8 * 4];
    if (argc != 2 || fread(q, 1, sizeof q, stdin) != sizeof q || fread(k, 1, sizeof k, stdin) != sizeof k ||
        fread(v, 1, sizeof v, stdin) != sizeof v)
        return 2;
    attn_client_t *client = NULL;
    attn_client_error_t error;
    memset(&error, 0, sizeof error);
    attn_client_request_t request = {.variant = "cpu",
                                     .spec = {.dtype = ATTN_DTYPE_F32,
                                              .layout = ATTN_LAYOUT_BSHD,
                                              .batch = 2,
                                              .s_q = 4,
                                              .s_kv = 4,
                                              .h_q = 1,
                                              .h_kv = 1,
                                              .d = 8,
                                              .causal = 1},
                                     .q = q,
                                     .k = k,
                                     .v = v,
                                     .o = o};
    attn_client_answer_t answer;
    attn_status_t status = attn_client_open(argv[1], NULL, &client, &error);
    if (status == ATTN_OK)
        status = attn_client_run(client, &request, NULL, &answer, &error);
    attn_client_close(client);
    if (status != ATTN_OK) {
        fprintf(stderr, "%s: %s\n", attn_status_name(status), error.error.message);
        return 1;
    }
    fprintf(stderr, "%s\n", answer.variant);
    return fwrite(o, 1, sizeof o, stdout) != sizeof o;
}
