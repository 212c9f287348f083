/* A message as anyone may publish it: key, value and headers, from pieces of the input, each behind its
 * length. What is read of it is an event, and what is kept of it in a dead letter is JSON. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/source/kafka_message.h"

#define MAX_FUZZED_HEADERS 40

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void insist(int holds)
{
    if (!holds)
        abort();
}

struct input {
    const uint8_t *at;
    size_t left;
};

/* The next piece, in memory of its own, so that reading past it is found; NULL: none. */
static char *take(struct input *in, size_t *ret_len)
{
    *ret_len = 0;
    if (!in->left || in->at[0] == 0xff)
        return NULL;
    size_t n = in->at[0] < in->left - 1 ? in->at[0] : in->left - 1;
    char *piece = malloc(n ? n : 1);
    if (piece)
        memcpy(piece, in->at + 1, n);
    in->at += 1 + n;
    in->left -= 1 + n;
    *ret_len = n;
    return piece;
}

static rd_kafka_headers_t *take_headers(struct input *in)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(4);
    for (unsigned i = in->left ? in->at[0] % MAX_FUZZED_HEADERS : 0; i > 0 && in->left; i--) {
        size_t name_len, len;
        char *name = take(in, &name_len);
        char *value = take(in, &len);
        if (name)
            rd_kafka_header_add(headers, name, (ssize_t)name_len, value, (ssize_t)len);
        free(name);
        free(value);
    }
    return headers;
}

static void read_event(const char *value, size_t len, const rd_kafka_headers_t *headers)
{
    struct cloudevent event, copy;
    struct error err;
    BUFFER_AUTO scratch = BUFFER_INIT;
    BUFFER_AUTO again = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    if (kafka_message_parse(value, len, headers, &scratch, &event, &err) < 0)
        return;
    insist(cloudevent_check(&event, NULL) == 0);
    cloudevent_write(&event, &out);
    insist(cloudevent_parse(&copy, buffer_text(&out), out.len, &again, NULL) == 0);
}

static void write_letter(const char *value, size_t len, const char *key, size_t key_len,
                         const rd_kafka_headers_t *headers)
{
    struct json_value root;
    BUFFER_AUTO out = BUFFER_INIT;
    buffer_append_char(&out, '{');
    kafka_message_keep(key, key_len, value, len, headers, &out);
    buffer_append_char(&out, '}');
    insist(json_scan(out.data, out.len, &root, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    size_t key_len;
    char *key = take(&in, &key_len);
    rd_kafka_headers_t *headers = take_headers(&in);
    char *value = malloc(in.left ? in.left : 1);
    if (value && in.left)
        memcpy(value, in.at, in.left);
    read_event(in.left ? value : NULL, in.left, headers);
    read_event(value, in.left, NULL);
    write_letter(in.left ? value : NULL, in.left, key, key_len, headers);
    rd_kafka_headers_destroy(headers);
    free(value);
    free(key);
    return 0;
}
