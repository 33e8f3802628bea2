/* reply.c: reads members of the server's JSON. Pure; any thread; owns nothing. */
#include <stdio.h>
#include <string.h>

#include "internal.h"

void attn_reply_text(const json_t *object, const char *name, char *ret, size_t capacity)
{
    const char *text = json_string_value(json_object_get(object, name));
    snprintf(ret, capacity, "%s", text != NULL ? text : "");
}

double attn_reply_number(const json_t *object, const char *name)
{
    return json_number_value(json_object_get(object, name));
}

bool attn_reply_true(const json_t *object, const char *name)
{
    return json_is_true(json_object_get(object, name));
}

void attn_reply_list(const json_t *object, const char *name, char *ret, size_t capacity)
{
    const json_t *list = json_object_get(object, name);
    size_t used = 0;
    ret[0] = '\0';
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text == NULL || used + strlen(text) + 2 > capacity) {
            continue;
        }
        used += (size_t)snprintf(ret + used, capacity - used, "%s%s", used > 0 ? "," : "", text);
    }
}

attn_status_t attn_reply_parse(const char *text, json_t **ret, attn_client_error_t *err)
{
    json_error_t why;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(root)) {
        json_decref(root);
        return attn_client_fail(err, ATTN_ERR_INTERNAL, "the server's answer is not a JSON object: %s",
                                root == NULL ? why.text : "it is of another type");
    }
    *ret = root;
    return ATTN_OK;
}
