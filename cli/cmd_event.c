/* triggerflow event publish and tail. */
#include <inttypes.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/event.h"
#include "cli/lines.h"
#include "cli/output.h"
#include "cli/publish.h"
#include "cli/table.h"

/* ---- publish ---- */

/* One event from the options, --count times; with more than one, or without --id, each gets an id of its own.
 */
static int open_options(struct cli *cli, struct lines *lines)
{
    long long count = 1;
    struct json_object *event;
    int code = cli_number(cli, "count", 1, 1000000000, &count);
    if (code != CLI_OK)
        return code;
    if (count > 1 && cli_value(cli, "id"))
        return cli_usage(cli, "--count and --id do not go together: events of one id count once");
    code = event_from_options(cli, &event);
    if (code != CLI_OK)
        return code;
    if (!cli_value(cli, "id"))
        json_object_object_del(event, "id");
    const char *text =
        json_object_to_json_string_ext(event, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    lines_repeat(lines, text ? text : "", (uint64_t)count);
    json_object_put(event);
    return CLI_OK;
}

static int open_lines(struct cli *cli, struct lines *lines)
{
    struct error err;
    static const char *const single[] = {"id", "data", "count"};
    const char *path = cli_value(cli, "file");
    if (!path && cli_value(cli, "type"))
        return open_options(cli, lines);
    for (size_t i = 0; i < 3; i++)
        if (cli_value(cli, single[i]))
            return cli_usage(cli, "--%s is for one event given by --type, not for lines of events",
                             single[i]);
    if (!path && isatty(STDIN_FILENO))
        return cli_usage(cli, "which event? Give --type, or -f FILE, or pipe lines of JSON into it");
    if (lines_open(lines, path ? path : "-", &err) < 0)
        return cli_fail_error(CLI_FAILED, &err);
    return CLI_OK;
}

static int report(struct cli *cli, const struct publish_result *result)
{
    char count[32], rate[32];
    if (cli->json) {
        struct json_object *root = json_object_new_object();
        json_object_object_add(root, "published", json_object_new_uint64(result->published));
        json_object_object_add(root, "duplicates", json_object_new_uint64(result->duplicates));
        json_object_object_add(root, "invalid", json_object_new_uint64(result->invalid));
        json_object_object_add(root, "unknown", json_object_new_uint64(result->unknown));
        json_object_object_add(root, "retries", json_object_new_uint64(result->retries));
        json_object_object_add(root, "seconds", json_object_new_double(result->seconds));
        int code = output_document(cli, root);
        json_object_put(root);
        return code;
    }
    printf("published %s event%s", output_count(result->published, count), result->published == 1 ? "" : "s");
    if (result->duplicates > 0)
        printf(", %" PRIu64 " of them known before", result->duplicates);
    if (result->invalid > 0)
        printf(", left out %" PRIu64 " invalid line%s", result->invalid, result->invalid == 1 ? "" : "s");
    if (result->unknown > 0)
        printf(", %" PRIu64 " more were sent and not acknowledged", result->unknown);
    if (result->published >= 1000 && result->seconds > 0)
        printf(" in %.2f s, %s/s", result->seconds,
               output_count((uint64_t)((double)result->published / result->seconds), rate));
    putchar('\n');
    return CLI_OK;
}

static int run_publish(struct cli *cli)
{
    long long batch = 500, in_flight = 4, seconds = 300;
    struct lines lines;
    struct event_filler filler;
    struct publish_result result;
    if (cli_number(cli, "batch", 1, PUBLISH_BATCH_MAX, &batch) != CLI_OK ||
        cli_number(cli, "in-flight", 1, 64, &in_flight) != CLI_OK ||
        cli_number(cli, "retry-for", 0, 86400, &seconds) != CLI_OK)
        return CLI_USAGE;
    struct publish_options options = {.workspace = cli_argument(cli, 0),
                                      .batch = (unsigned)batch,
                                      .in_flight = (unsigned)in_flight,
                                      .retry_ns = (uint64_t)seconds * CLOCK_S,
                                      .retry_connecting = cli_flag(cli, "retry-for"),
                                      .skip_invalid = cli_flag(cli, "skip-invalid")};
    int code = open_lines(cli, &lines);
    if (code != CLI_OK)
        return code;
    code = event_filler_init(&filler, cli);
    if (code == CLI_OK) {
        code = publish(cli, &options, &lines, &filler, &result);
        if (code == CLI_OK || result.published > 0 || result.unknown > 0 || cli->json) {
            int reported = report(cli, &result);
            code = code == CLI_OK ? reported : code;
        }
        if (code != CLI_OK && result.published > 0 && code != CLI_USAGE)
            fprintf(stderr,
                    "To go on without counting any event twice, publish the same lines with "
                    "--id-prefix %s\n",
                    filler.prefix);
    }
    event_filler_done(&filler);
    lines_done(&lines);
    return code;
}

/* ---- tail ---- */

#define POLL_NS (500 * CLOCK_MS)
#define PAGE 1000

static int fetch(struct cli *cli, uint64_t after, struct json_object **ret)
{
    BUFFER_AUTO path = BUFFER_INIT;
    char number[32];
    const char *trigger = cli_value(cli, "trigger");
    if (trigger)
        client_path(&path, "workspace", cli_argument(cli, 0), "trigger", trigger, "decision", NULL);
    else
        client_path(&path, "workspace", cli_argument(cli, 0), "decision", NULL);
    snprintf(number, sizeof number, "%" PRIu64, after);
    client_query(&path, "after", number);
    client_query(&path, "limit", "1000");
    struct json_object *answer;
    int code = client_call(cli, "GET", buffer_text(&path), NULL, &answer);
    if (code != CLI_OK)
        return code;
    struct json_object *decisions = output_member(answer, "decisions");
    *ret = json_object_is_type(decisions, json_type_array) ? json_object_get(decisions)
                                                           : json_object_new_array();
    json_object_put(answer);
    return *ret ? CLI_OK : cli_fail_memory();
}

/* The time of day of an ISO time, or what there is. */
static const char *time_of_day(const char *iso, char to[16])
{
    const char *t = strchr(iso, 'T');
    snprintf(to, 16, "%.12s", t ? t + 1 : iso);
    return to;
}

/* One line, aligned as far as texts of usual length go. */
static void print_decision(const struct cli *cli, struct json_object *decision)
{
    struct json_object *event = output_member(decision, "event");
    bool fired = json_object_get_boolean(output_member(decision, "fired"));
    bool holds = json_object_get_boolean(output_member(decision, "holds"));
    char clock[16];
    BUFFER_AUTO line = BUFFER_INIT, safe = BUFFER_INIT;
    if (cli->json) {
        output_document(cli, decision);
        return;
    }
    const char *subject = output_text(event, "subject"), *detail = output_text(decision, "detail");
    buffer_printf(&line, "%s  %-20s  %-6s  %s%s%s (%s)%s%s",
                  time_of_day(output_text(decision, "time"), clock), output_text(decision, "trigger"),
                  fired   ? "FIRED"
                  : holds ? "holds"
                          : "no",
                  output_text(event, "type"), *subject ? "/" : "", subject, output_text(event, "id"),
                  *detail ? "  " : "", detail);
    output_append_safe(&safe, buffer_text(&line));
    puts(buffer_text(&safe));
}

static uint64_t sequence_of(struct json_object *decision)
{
    return json_object_get_uint64(output_member(decision, "sequence"));
}

static uint64_t last_sequence(struct json_object *decisions, uint64_t otherwise)
{
    size_t n = output_length(decisions);
    return n > 0 ? sequence_of(json_object_array_get_idx(decisions, n - 1)) : otherwise;
}

/* Prints all after *after but, the first time, only the last `last` of them. */
static int print_new(struct cli *cli, uint64_t *after, long long last)
{
    struct json_object *page = NULL;
    int code = fetch(cli, *after, &page);
    while (code == CLI_OK && output_length(page) > 0) {
        *after = last_sequence(page, *after);
        bool more = output_length(page) >= PAGE;
        struct json_object *next = NULL;
        if (more)
            code = fetch(cli, *after, &next);
        size_t n = output_length(page), ahead = output_length(next), skip = 0;
        if (last >= 0) /* first time: only what the end of it all still wants */
            skip = ahead >= (size_t)last ? n : n > (size_t)last - ahead ? n - ((size_t)last - ahead) : 0;
        for (size_t i = skip; i < n; i++)
            print_decision(cli, json_object_array_get_idx(page, i));
        json_object_put(page);
        page = next;
    }
    json_object_put(page);
    return code == CLI_OK && fflush(stdout) != 0 ? CLI_FAILED : code;
}

static int run_tail(struct cli *cli)
{
    long long last = 10;
    uint64_t after = 0;
    sigset_t set;
    if (cli_number(cli, "last", 0, 1000000, &last) != CLI_OK)
        return CLI_USAGE;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int code = print_new(cli, &after, last);
    while (code == CLI_OK && !cli_flag(cli, "once")) {
        struct timespec pause = {.tv_nsec = (long)POLL_NS};
        if (sigtimedwait(&set, NULL, &pause) > 0)
            return CLI_OK;
        code = print_new(cli, &after, -1);
    }
    return code;
}

static const struct cli_option publish_options[] = {
    {"type", "TYPE", "the type; with -f: of lines that have none"},
    {"subject", "SUBJECT", "the subject, likewise"},
    {"source", "URI", "the source, likewise (default urn:triggerflow:cli)"},
    {"data", "JSON|TEXT", "the event's data"},
    {"id", "ID", "the event's id (default: a new one)"},
    {"count", "N", "publishes the event N times, with different ids"},
    {"file", "FILE", "one event a line, as JSON; - reads standard input"},
    {"batch", "N", "events of one request, at most (500)"},
    {"in-flight", "N", "requests at a time (4); 1 keeps the order of the events"},
    {"id-prefix", "TEXT", "ids of lines that have none are TEXT-LINE (default: random)"},
    {"retry-for", "SECONDS", "how long to try again without any success (300)"},
    {"skip-invalid", NULL, "leaves out lines that are no events, instead of ending there"},
    {NULL, NULL, NULL}};
static const struct cli_option tail_options[] = {{"trigger", "TRIGGER", "only those of one trigger"},
                                                 {"last", "N", "begins with the last N (10)"},
                                                 {"once", NULL, "ends there instead of following"},
                                                 {NULL, NULL, NULL}};

const struct cli_command commands_event[] = {
    {.noun = "event",
     .verb = "publish",
     .arguments = "WORKSPACE",
     .summary = "Publishes CloudEvents to a workspace's HTTPEventSource",
     .details =
         "With --type one event, with -f or a pipe one a line. What a line lacks is filled in: specversion, "
         "id,\n"
         "and source, type and subject as given. Requests that were not answered are repeated with the same\n"
         "ids, so that each event counts once.",
     .options = publish_options,
     .examples =
         "triggerflow event publish orders --type task.done --subject orders --data '{\"n\":1}'\n"
         "triggerflow event publish orders -f events.ndjson\n"
         "seq 1000 | sed 's/.*/{\"data\":&}/' | triggerflow event publish orders -f - --type task.done",
     .run = run_publish},
    {.noun = "event",
     .verb = "tail",
     .arguments = "WORKSPACE",
     .summary = "Follows what triggers decide about events: which fire, and why others do not",
     .options = tail_options,
     .examples = "triggerflow event tail orders\n"
                 "triggerflow event tail orders --trigger joined --last 100 --once --json",
     .run = run_tail},
    {0},
};
