/* cloudevent.h on any bytes: an event that is read survives writing, reading, packing and unpacking. The
 * first byte chooses the way in: JSON, or separate fields (name NUL value NUL ...). */
#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static bool same_span(const struct cloudevent_span *a, const struct cloudevent_span *b)
{
    return !a->text == !b->text && a->len == b->len && (a->len == 0 || memcmp(a->text, b->text, a->len) == 0);
}

static void require_same(const struct cloudevent *a, const struct cloudevent *b)
{
    for (unsigned i = 0; i < CE_ATTRIBUTES; i++)
        require(same_span(&a->attribute[i], &b->attribute[i]));
    require(a->data == b->data && a->n_extensions == b->n_extensions);
    for (unsigned i = 0; i < a->n_extensions; i++)
        require(same_span(&a->extension[i].name, &b->extension[i].name) &&
                same_span(&a->extension[i].value, &b->extension[i].value));
}

static void check_written(const struct cloudevent *event)
{
    BUFFER_AUTO json = BUFFER_INIT;
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct cloudevent again;
    cloudevent_write(event, &json);
    require(!json.failed);
    require(cloudevent_parse(&again, json.data, json.len, &scratch, NULL) == 0);
    require_same(event, &again);
}

static bool empty_extension(const struct cloudevent *event)
{
    for (unsigned i = 0; i < event->n_extensions; i++)
        if (!event->extension[i].name.len)
            return true;
    return false;
}

static void check_packed(const struct cloudevent *event)
{
    struct cloudevent again;
    size_t size = cloudevent_packed_size(event);
    void *packed = malloc(size);
    require(packed && size % 8 == 0);
    cloudevent_pack(event, packed);
    cloudevent_unpack(packed, &again);
    require_same(event, &again);
    size_t seen = 0;
    struct error err;
    require(cloudevent_unpack_bounded(packed, size, &again, &seen, &err) == 0 && seen == size);
    require_same(event, &again);
    int rc = cloudevent_unpack_checked(packed, size, &again, &seen, &err);
    require((rc == 0) == (cloudevent_check(event, &err) == 0) || empty_extension(event));
    free(packed);
}

/* Bytes that claim to be a packed event: what is accepted can be written and read like any other. */
static void check_claimed(const uint8_t *data, size_t size)
{
    struct cloudevent event;
    struct error err;
    size_t seen;
    void *copy = malloc(size + 1); /* aligned, and its end watched */
    require(copy);
    memcpy(copy, data, size);
    if (cloudevent_unpack_checked(copy, size, &event, &seen, &err) == 0) {
        BUFFER_AUTO json = BUFFER_INIT;
        struct json_value value;
        require(seen <= size && seen % 8 == 0);
        cloudevent_write(&event, &json);
        require(json_scan(json.data, json.len, &value, NULL) == 0);
        require(cloudevent_packed_size(&event) == seen);
    }
    free(copy);
}

static void check_data(const struct cloudevent *event)
{
    BUFFER_AUTO json = BUFFER_INIT;
    struct json_value value;
    cloudevent_data_json(event, &json);
    require(!json.failed);
    require(json_scan(json.data, json.len, &value, NULL) == 0);
}

static int add_fields(struct cloudevent *event, const char *p, const char *end, struct error *err)
{
    cloudevent_clear(event);
    while (p < end) {
        const char *name_end = memchr(p, 0, (size_t)(end - p));
        if (!name_end)
            name_end = end;
        const char *value = name_end < end ? name_end + 1 : end;
        const char *value_end = memchr(value, 0, (size_t)(end - value));
        if (!value_end)
            value_end = end;
        if (cloudevent_add(event, p, (size_t)(name_end - p), value, (size_t)(value_end - value), err) < 0)
            return -1;
        p = value_end + 1;
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct cloudevent event;
    struct error err = {0};
    if (size == 0)
        return 0;
    check_claimed(data + 1, size - 1);
    const char *text = (const char *)data + 1;
    int rc = data[0] & 1 ? cloudevent_parse(&event, text, size - 1, &scratch, &err)
                         : add_fields(&event, text, text + size - 1, &err);
    if (rc < 0) {
        require(err.code == ERROR_INVALID);
        return 0;
    }
    check_written(&event);
    check_packed(&event);
    check_data(&event);
    if (cloudevent_conforms(&event, &err) == 0)
        require(cloudevent_check(&event, &err) == 0);
    return 0;
}
