#include "worker/states/item.h"

#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/buffer.h"
#include "common/cloudevent.h"

#define HEX 16

/* Events come from elsewhere, too. */
static bool is_path(const struct cloudevent_span *value)
{
    if (!value->text || value->len > ITEM_MAX_LENGTH)
        return false;
    for (uint32_t i = 0; i < value->len; i++)
        if (!value->text[i] || !strchr("0123456789abcdef-.", value->text[i]))
            return false;
    return true;
}

void item_of(const struct cloudevent *event, struct cloudevent_span *ret_path)
{
    *ret_path = (struct cloudevent_span){.text = "", .len = 0};
    for (unsigned i = 0; i < event->n_extensions; i++) {
        const struct cloudevent_extension *e = &event->extension[i];
        if (e->name.len == strlen(ITEM_ATTRIBUTE) && !memcmp(e->name.text, ITEM_ATTRIBUTE, e->name.len) &&
            is_path(&e->value))
            *ret_path = e->value;
    }
}

static bool read_hex(const char *text, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (int i = 0; i < HEX; i++) {
        char c = text[i];
        if (c >= '0' && c <= '9')
            value = value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    *ret_value = value;
    return true;
}

bool item_innermost(const char *path, size_t len, struct item *ret_item)
{
    size_t start = len;
    uint64_t run, join;
    int64_t index = 0;
    while (start > 0 && path[start - 1] != '.')
        start--;
    const char *at = path + start;
    size_t left = len - start;
    if (left < ITEM_RUN + 1 + HEX + 2 || left > ITEM_RUN + 1 + HEX + 1 + 10 || at[ITEM_RUN] != '-' ||
        at[ITEM_RUN + 1 + HEX] != '-' || !read_hex(at, &run) || !read_hex(at + ITEM_RUN + 1, &join))
        return false;
    for (size_t i = ITEM_RUN + 1 + HEX + 1; i < left; i++) {
        if (at[i] < '0' || at[i] > '9')
            return false;
        index = index * 10 + (at[i] - '0');
    }
    *ret_item = (struct item){.run = at,
                              .join = join,
                              .index = index,
                              .outer_len = start ? start - 1 : 0,
                              .run_len = start + ITEM_RUN};
    return true;
}

bool item_write(const char *outer, size_t outer_len, const char *run, uint64_t join, uint32_t index,
                struct buffer *out)
{
    size_t depth = outer_len > 0;
    for (size_t i = 0; i < outer_len; i++)
        depth += outer[i] == '.';
    if (depth >= ITEM_MAX_DEPTH)
        return false;
    buffer_append(out, outer, outer_len);
    buffer_printf(out, "%s%.*s-%016llx-%u", outer_len ? "." : "", ITEM_RUN, run, (unsigned long long)join,
                  index);
    return true;
}

uint64_t item_join(const char *id, size_t len)
{
    return XXH3_64bits(id, len);
}
