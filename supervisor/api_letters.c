/* Calls of the trigger API about dead letters. See api_call.h.
 *
 * A listing goes through all of a workspace's letters, which may be hundreds of megabytes, and keeps a page
 * of short descriptions. */
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>

#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "supervisor/api_call.h"

#define NUMBER_MAX 64 /* with its NUL: a longer one is none of ours */
#define PAGE_MAX 1000
#define MEMBER_MAX 1024      /* bytes of a member that a listing shows */
#define REDRIVE_MAX 1000     /* letters in one request to the worker, */
#define REDRIVE_BYTES 49152u /* and bytes of their numbers */

/* ---- GET /workspace/X/dead-letter ---- */

struct letter {
    char number[NUMBER_MAX];
    char *shown; /* the JSON object */
    size_t shown_len;
};

/* The first letters of those that are wanted, in order. */
struct page {
    const char *after;  /* "" */
    const char *reason; /* NULL: any */
    struct letter *letters;
    size_t n, limit;
    bool more;
};

/* Whether it is this text; false for anything that is no letter. */
static bool has_reason(const char *document, size_t len, const char *reason)
{
    struct json_value root, value;
    return json_scan(document, len, &root, NULL) == 0 && root.type == JSON_OBJECT &&
           json_member(&root, "reason", &value) && value.type == JSON_STRING &&
           json_equals(&value, reason, strlen(reason));
}

static bool describe(struct letter *letter, const char *document, size_t len)
{
    static const char *const shown[] = {"reason", "detail", "time", "source", "trigger"};
    struct json_value root, value;
    BUFFER_AUTO out = BUFFER_INIT;
    buffer_append_text(&out, "{\"number\":");
    api_append_name(&out, letter->number, strlen(letter->number));
    if (json_scan(document, len, &root, NULL) == 0 && root.type == JSON_OBJECT) {
        for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) {
            if (!json_member(&root, shown[i], &value) || value.type != JSON_STRING || value.len > MEMBER_MAX)
                continue;
            buffer_printf(&out, ",\"%s\":", shown[i]);
            api_append_raw(&out, &value);
        }
    } else {
        buffer_append_text(&out, ",\"reason\":\"unreadable\"");
    }
    buffer_printf(&out, ",\"bytes\":%zu}", len);
    if (out.failed)
        return false;
    letter->shown = out.data;
    letter->shown_len = out.len;
    out = (struct buffer)BUFFER_INIT;
    return true;
}

/* Where a number belongs; *ret_there: one is there already. */
static size_t find_place(const struct page *page, const char *number, bool *ret_there)
{
    size_t low = 0, high = page->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(page->letters[middle].number, number) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_there = low < page->n && strcmp(page->letters[low].number, number) == 0;
    return low;
}

static bool copy_number(const char *key, size_t key_len, char number[NUMBER_MAX])
{
    if (key_len == 0 || key_len >= NUMBER_MAX || memchr(key, '\0', key_len))
        return false;
    memcpy(number, key, key_len);
    number[key_len] = '\0';
    return true;
}

static int take_letter(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct page *page = data;
    struct letter letter = {.shown = NULL};
    bool there;
    if (!copy_number(key, key_len, letter.number) || strcmp(letter.number, page->after) <= 0 ||
        (page->reason && !has_reason(value, value_len, page->reason)))
        return 0;
    size_t at = find_place(page, letter.number, &there);
    if (there)
        return 0;
    if (at == page->limit) {
        page->more = true;
        return 0;
    }
    if (!describe(&letter, value, value_len))
        return -1;
    if (page->n == page->limit) {
        free(page->letters[--page->n].shown);
        page->more = true;
    }
    memmove(&page->letters[at + 1], &page->letters[at], (page->n - at) * sizeof *page->letters);
    page->letters[at] = letter;
    page->n++;
    return 0;
}

void api_letter_list(struct api_call *call)
{
    struct buffer *out = &call->request->answer;
    const char *after = http_query(call->request, "after");
    struct page page = {.after = after ? after : "", .reason = http_query(call->request, "reason")};
    struct error err = {.code = ERROR_MEMORY, .message = "out of memory"};
    uint64_t limit = 100;
    if (!api_query_number(call, "limit", PAGE_MAX, &limit) || !api_workspace_stored(call))
        return;
    page.limit = (size_t)limit;
    page.letters = calloc(page.limit + 1, sizeof *page.letters);
    int result = page.letters ? call->storage->type->load(call->storage, call->request->segment,
                                                          STORAGE_DEAD_LETTERS, take_letter, &page, &err)
                              : -1;
    buffer_append_text(out, "{\"dead_letters\":[");
    for (size_t i = 0; i < page.n; i++) {
        if (i > 0)
            buffer_append_char(out, ',');
        buffer_append(out, page.letters[i].shown, page.letters[i].shown_len);
        free(page.letters[i].shown);
    }
    free(page.letters);
    buffer_printf(out, "],\"more\":%s}", page.more ? "true" : "false");
    if (result < 0)
        api_fail_error(call, &err);
    else
        api_answer(call, MHD_HTTP_OK);
}

/* ---- GET /workspace/X/dead-letter/N ---- */

void api_letter_get(struct api_call *call)
{
    static const char *const ours[] = {"number", NULL};
    const char *number = call->request->segment2;
    struct buffer *out = &call->request->answer;
    BUFFER_AUTO document = BUFFER_INIT;
    struct json_value root;
    if (!api_workspace_stored(call))
        return;
    int result = api_get(call, STORAGE_DEAD_LETTERS, number, &document);
    if (result == STORAGE_ABSENT)
        api_fail(call, MHD_HTTP_NOT_FOUND, "Dead letter %s not found", number);
    if (result != 0)
        return;
    buffer_append_text(out, "{\"number\":");
    api_append_name(out, number, strlen(number));
    if (json_scan(document.data, document.len, &root, NULL) == 0 && root.type == JSON_OBJECT) {
        api_append_others(out, &root, ours, false);
    } else {
        buffer_append_text(out, ",\"text\":");
        api_append_name(out, document.data ? document.data : "", document.len);
    }
    buffer_append_char(out, '}');
    api_answer(call, MHD_HTTP_OK);
}

/* ---- Which letters ---- */

/* Reads the numbers that the body names; *ret_all: it wants all. False: answered. */
static bool read_numbers(struct api_call *call, bool *ret_all)
{
    static const char *const some[] = {"numbers", NULL};
    static const char *const all[] = {"all", NULL};
    struct json_value root, list = {.type = JSON_ABSENT}, name, value;
    struct json_iter iter;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!api_body(call, &root))
        return false;
    *ret_all = api_has_exactly(&root, all) && json_member(&root, "all", &value) && value.type == JSON_TRUE;
    if (*ret_all)
        return true;
    bool fine =
        api_has_exactly(&root, some) && json_member(&root, "numbers", &list) && list.type == JSON_ARRAY;
    if (fine)
        json_iter_init(&iter, &list);
    while (fine && json_next(&iter, &name, &value)) {
        char number[NUMBER_MAX];
        buffer_reset(&text, NUMBER_MAX);
        fine = value.type == JSON_STRING;
        if (fine)
            json_unescape(&value, &text);
        fine = fine && copy_number(buffer_text(&text), text.len, number);
        if (fine)
            buffer_append(&call->numbers, number, strlen(number) + 1);
    }
    if (!fine)
        api_fail(call, MHD_HTTP_BAD_REQUEST, "body: neither {\"numbers\":[text...]} nor {\"all\":true}");
    return fine;
}

static int take_number(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct api_call *call = data;
    char number[NUMBER_MAX];
    (void)value;
    (void)value_len;
    if (copy_number(key, key_len, number))
        buffer_append(&call->numbers, number, key_len + 1);
    return 0;
}

/* What a worker can send on its way: an intent, or a CloudEvent. */
static int take_redrivable(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct json_value root, member;
    struct cloudevent event;
    BUFFER_AUTO scratch = BUFFER_INIT;
    size_t len;
    if (json_scan(value, value_len, &root, NULL) < 0 || root.type != JSON_OBJECT)
        return 0;
    if (!json_member(&root, "intent", &member) || member.type != JSON_OBJECT) {
        if (!json_member(&root, "event", &member) || member.type != JSON_OBJECT)
            return 0;
        const char *raw = json_raw(&member, &len);
        if (cloudevent_parse(&event, raw, len, &scratch, NULL) < 0 || cloudevent_check(&event, NULL) < 0)
            return 0;
    }
    return take_number(data, key, key_len, value, value_len);
}

static bool load_numbers(struct api_call *call, storage_field take)
{
    struct error err;
    if (call->storage->type->load(call->storage, call->request->segment, STORAGE_DEAD_LETTERS, take, call,
                                  &err) < 0) {
        api_fail_error(call, &err);
        return false;
    }
    return true;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorts the numbers and leaves out repetitions; so letters are redriven in the order in which they came. */
static bool sort_numbers(struct api_call *call)
{
    size_t n = 0;
    BUFFER_AUTO sorted = BUFFER_INIT;
    char *at = call->numbers.data, *end = at + call->numbers.len;
    for (const char *c = at; c < end; c += strlen(c) + 1)
        n++;
    const char **list = malloc((n + 1) * sizeof *list);
    for (size_t i = 0; list && i < n; i++, at += strlen(at) + 1)
        list[i] = at;
    if (list && n > 0)
        qsort(list, n, sizeof *list, by_text);
    for (size_t i = 0; list && i < n; i++) {
        if (i == 0 || strcmp(list[i], list[i - 1]) != 0) {
            buffer_append(&sorted, list[i], strlen(list[i]) + 1);
        }
    }
    bool fine = list && !sorted.failed && !call->numbers.failed;
    free(list);
    buffer_done(&call->numbers);
    call->numbers = sorted;
    sorted = (struct buffer)BUFFER_INIT;
    if (!fine)
        api_fail(call, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
    return fine;
}

/* ---- POST /workspace/X/dead-letter/redrive ---- */

static void redrive_some(struct api_call *call);

static void redrive_more(struct api_call *call)
{
    call->redriven += call->count;
    redrive_some(call);
}

static void ask_redrive(struct api_call *call)
{
    api_ask_worker(call, redrive_more);
}

/* The next numbers as members of a request; in the main thread. */
static void redrive_some(struct api_call *call)
{
    buffer_reset(&call->members, REDRIVE_BYTES);
    buffer_append_text(&call->members, "\"numbers\":[");
    size_t n = 0;
    while (call->numbers_at < call->numbers.len && n < REDRIVE_MAX && call->members.len < REDRIVE_BYTES) {
        const char *number = call->numbers.data + call->numbers_at;
        if (n++ > 0)
            buffer_append_char(&call->members, ',');
        api_append_name(&call->members, number, strlen(number));
        call->numbers_at += strlen(number) + 1;
    }
    buffer_append_char(&call->members, ']');
    if (n > 0) {
        api_with_workflow(call, ask_redrive);
        return;
    }
    buffer_printf(&call->request->answer, "{\"count\":%llu}", (unsigned long long)call->redriven);
    api_answer(call, MHD_HTTP_OK);
}

void api_letter_redrive(struct api_call *call)
{
    bool all;
    call->kind = "redrive";
    if (read_numbers(call, &all) && api_workspace_stored(call) &&
        (!all || load_numbers(call, take_redrivable)) && sort_numbers(call))
        api_to_main(call, redrive_some);
}

/* ---- POST /workspace/X/dead-letter/drop ---- */

/* Drops the next numbers; how many of them there were, or -1: answered. */
static int drop_some(struct api_call *call)
{
    struct storage_op ops[REDRIVE_MAX] = {{0}};
    int results[REDRIVE_MAX];
    size_t n = 0;
    int dropped = 0;
    while (call->numbers_at < call->numbers.len && n < REDRIVE_MAX) {
        const char *number = call->numbers.data + call->numbers_at;
        ops[n++] = (struct storage_op){
            .set = STORAGE_DEAD_LETTERS, .kind = STORAGE_DELETE, .key = number, .key_len = strlen(number)};
        call->numbers_at += strlen(number) + 1;
    }
    if (!api_edit(call, ops, n, results))
        return -1;
    for (size_t i = 0; i < n; i++)
        dropped += results[i] == 0;
    return dropped;
}

void api_letter_drop(struct api_call *call)
{
    bool all;
    uint64_t count = 0;
    if (!read_numbers(call, &all) || !api_workspace_stored(call) ||
        (all && !load_numbers(call, take_number)) || !sort_numbers(call))
        return;
    while (call->numbers_at < call->numbers.len) {
        int dropped = drop_some(call);
        if (dropped < 0)
            return;
        count += (uint64_t)dropped;
    }
    buffer_printf(&call->request->answer, "{\"count\":%llu}", (unsigned long long)count);
    api_answer(call, MHD_HTTP_OK);
}
