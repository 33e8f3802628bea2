/* codec/json.c: see json.h. */
#include "codec/json.h"

#include <string.h>

#include "attn/kernel.h"
#include "base/text.h"

/* Counts values and depth without building anything. Not a parser: what is not JSON is left to jansson. */
static attn_status_t check_limits(const char *what, const char *text, size_t bytes, attn_error_t *err)
{
    unsigned depth = 0, values = 1;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
            values++;
        } else if (c == '}' || c == ']') {
            depth -= depth > 0;
        } else if (c == ',') {
            values++;
        }
        if (depth > ATTN_JSON_DEPTH_MAX) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s: the JSON is nested deeper than %d levels", what,
                                  ATTN_JSON_DEPTH_MAX);
        }
        if (values > ATTN_JSON_VALUES_MAX) {
            return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s: the JSON has more than %d values", what,
                                  ATTN_JSON_VALUES_MAX);
        }
    }
    return ATTN_OK;
}

attn_status_t attn_json_parse(const char *what, const char *text, size_t bytes, json_t **ret, attn_error_t *err)
{
    attn_status_t status = check_limits(what, text, bytes, err);
    if (status != ATTN_OK) {
        return status;
    }
    json_error_t problem;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &problem);
    if (root == NULL) {
        /* jansson's text quotes the input near the error; its own part ends at " near ". */
        const char *near = strstr(problem.text, " near ");
        int length = near != NULL ? (int)(near - problem.text) : (int)strlen(problem.text);
        return attn_error_set(err, ATTN_ERR_INVALID_ARGUMENT, "%s: not valid JSON at byte %d: %.*s", what,
                              problem.position, length, problem.text);
    }
    *ret = root;
    return ATTN_OK;
}

bool attn_json_u64(const json_t *value, uint64_t *ret)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return false;
    }
    *ret = (uint64_t)json_integer_value(value);
    return true;
}

char *attn_json_error(const attn_error_t *error, const char *request_id, const attn_missing_t *missing)
{
    json_t *list = json_array();
    for (uint32_t i = 0; missing != NULL && i < missing->count; i++) {
        json_array_append_new(list, json_string(missing->item[i]));
    }
    /* A sentence that was cut within a character is no UTF-8, which jansson does not take. */
    char sentence[ATTN_ERROR_MESSAGE_MAX];
    json_t *message = json_string(error->message);
    if (message == NULL) {
        attn_text_quote(sentence, sizeof sentence, error->message, strlen(error->message));
        message = json_string(sentence);
    }
    json_t *root =
        json_pack("{s:o, s:s, s:s, s:b, s:o}", "error", message, "code", attn_status_name(error->status), "request_id",
                  request_id, "retryable", attn_status_retryable(error->status), "missing", list);
    if (root == NULL) {
        return NULL;
    }
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}
