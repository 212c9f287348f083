/* See event.h. */
#include "cli/event.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "cli/json_c.h"
#include "cli/cli.h"
#include "cli/definition.h"
#include "cli/output.h"

#define DEFAULT_SOURCE "urn:triggerflow:cli"
#define SCRATCH_KEPT (1u << 20)

const struct cli_option event_options[] = {
    {"type", "TYPE", "the event's type"},
    {"subject", "SUBJECT", "its subject"},
    {"source", "URI", "its source (default " DEFAULT_SOURCE ")"},
    {"id", "ID", "its id (default: a new one)"},
    {"data", "JSON|TEXT", "its data"},
    {"file", "FILE", "the event as JSON or YAML; - reads standard input"},
    {NULL, NULL, NULL}};

static int random_prefix(char prefix[129])
{
    unsigned long long bits[2];
    if (getrandom(bits, sizeof bits, 0) != sizeof bits)
        return cli_fail(CLI_FAILED, "no random numbers for ids");
    snprintf(prefix, 129, "%016llx%016llx", bits[0], bits[1]);
    return CLI_OK;
}

static void add_text(struct json_object *event, const char *name, const char *given, const char *otherwise)
{
    if (!given && (!otherwise || output_member(event, name)))
        return;
    json_object_object_add(event, name, json_object_new_string(given ? given : otherwise));
}

int event_from_options(const struct cli *cli, struct json_object **ret_event)
{
    char id[129], time[CLOCK_ISO_MAX];
    const char *data = cli_value(cli, "data");
    struct json_object *event = NULL;
    int code = definition_file(cli, "file", &event);
    if (code == CLI_OK)
        code = random_prefix(id);
    if (code == CLI_OK && event && !json_object_is_type(event, json_type_object))
        code = cli_usage(cli, "the file holds no event, which is an object");
    if (code == CLI_OK && !event)
        event = json_object_new_object();
    if (code != CLI_OK) {
        json_object_put(event);
        return code;
    }
    add_text(event, "specversion", NULL, "1.0");
    add_text(event, "id", cli_value(cli, "id"), id);
    add_text(event, "source", cli_value(cli, "source"), DEFAULT_SOURCE);
    add_text(event, "type", cli_value(cli, "type"), NULL);
    add_text(event, "subject", cli_value(cli, "subject"), NULL);
    add_text(event, "time", NULL, clock_iso(clock_unix_ns(), time));
    if (data)
        json_object_object_add(event, "data", definition_value(data));
    if (*output_text(event, "type") == '\0') {
        json_object_put(event);
        return cli_usage(cli, "an event needs a type: --type TYPE");
    }
    *ret_event = event;
    return CLI_OK;
}

/* ---- Lines ---- */

static void take_string(const char *text, struct buffer *out)
{
    if (text)
        buffer_append_json(out, text, strlen(text));
}

int event_filler_init(struct event_filler *filler, const struct cli *cli)
{
    const char *prefix = cli_value(cli, "id-prefix"), *source = cli_value(cli, "source");
    *filler = (struct event_filler){
        .type = BUFFER_INIT, .subject = BUFFER_INIT, .source = BUFFER_INIT, .scratch = BUFFER_INIT};
    take_string(cli_value(cli, "type"), &filler->type);
    take_string(cli_value(cli, "subject"), &filler->subject);
    take_string(source ? source : DEFAULT_SOURCE, &filler->source);
    if (prefix && strlen(prefix) >= sizeof filler->prefix)
        return cli_usage(cli, "--id-prefix is longer than %zu bytes", sizeof filler->prefix - 1);
    if (prefix)
        for (const unsigned char *c = (const unsigned char *)prefix; *c; c++)
            if (*c < 0x21 || *c > 0x7E || *c == '"' || *c == '\\')
                return cli_usage(cli, "--id-prefix is not made of visible ASCII characters");
    if (!prefix)
        return random_prefix(filler->prefix);
    snprintf(filler->prefix, sizeof filler->prefix, "%s", prefix);
    return CLI_OK;
}

void event_filler_done(struct event_filler *filler)
{
    buffer_done(&filler->type);
    buffer_done(&filler->subject);
    buffer_done(&filler->source);
    buffer_done(&filler->scratch);
}

static bool lacks(const struct json_value *event, const char *name)
{
    struct json_value value;
    return !json_member(event, name, &value) || value.type == JSON_NULL;
}

/* Appends `"name":value,` when the event lacks it. A member given as null would then stand there twice: it is
 * refused by event_complete, which checks the result. */
static void fill_in(const struct json_value *event, const char *name, const char *value, size_t len,
                    struct buffer *out)
{
    if (len == 0 || !lacks(event, name))
        return;
    buffer_printf(out, "\"%s\":", name);
    buffer_append(out, value, len);
    buffer_append_char(out, ',');
}

int event_complete(struct event_filler *filler, const char *line, size_t len, struct buffer *out,
                   struct error *err)
{
    struct json_value root;
    struct cloudevent event;
    size_t start = out->len;
    filler->line++;
    if (json_scan(line, len, &root, err) < 0)
        return -1;
    if (root.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is %s, not an object", json_type_name(root.type));
    char id[200];
    int id_len = snprintf(id, sizeof id, "\"%s-%llu\"", filler->prefix, (unsigned long long)filler->line);
    buffer_append_char(out, '{');
    fill_in(&root, "specversion", "\"1.0\"", 5, out);
    fill_in(&root, "id", id, (size_t)id_len, out);
    fill_in(&root, "source", filler->source.data, filler->source.len, out);
    fill_in(&root, "type", filler->type.data, filler->type.len, out);
    fill_in(&root, "subject", filler->subject.data, filler->subject.len, out);
    size_t body;
    const char *raw = json_raw(&root, &body);
    const char *first = raw + 1;
    while (*first == ' ' || *first == '\t' || *first == '\n' || *first == '\r')
        first++;
    if (*first == '}' && out->len > start + 1)
        out->len--; /* the comma */
    buffer_append(out, first, body - (size_t)(first - raw));
    buffer_reset(&filler->scratch, SCRATCH_KEPT);
    if (out->failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (cloudevent_parse(&event, out->data + start, out->len - start, &filler->scratch, err) == 0 &&
        cloudevent_conforms(&event, err) == 0)
        return 0;
    out->len = start;
    return -1;
}
