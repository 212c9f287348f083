/* See publish.h.
 *
 * Events are gathered in `pending`, which goes to a free slot when it is full, or when there is nothing more
 * to read just now: so a slow pipe is not held up, and a fast one gets full batches. A slot keeps its body
 * until the answer is final. */
#include "cli/publish.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/document.h"
#include "cli/event.h"
#include "cli/lines.h"
#include "cli/output.h"

#define BODY_MAX (2000u << 10) /* the API takes 2 MiB */
#define BODY_FULL (1u << 20)
#define DELAY_MIN_NS (100 * CLOCK_MS)
#define DELAY_MAX_NS (5 * CLOCK_S)
#define RETRY_AFTER_MAX_S 60
#define TICK_NS (100 * CLOCK_MS)
#define COMPLAINTS_MAX 10
#define BAR 30

enum slot_state { IDLE, SENDING, WAITING };

struct batch {
    struct buffer body; /* "[{...},{...}" */
    uint64_t *lines;    /* the line of each event */
    unsigned n;
};

struct slot {
    CURL *curl;
    struct batch batch;
    struct buffer answer;
    enum slot_state state;
    uint64_t again_at_ns;
    unsigned attempts;
};

struct publisher {
    struct cli *cli;
    const struct publish_options *options;
    struct lines *lines;
    struct event_filler *filler;
    struct publish_result *result;
    struct client *client;
    struct buffer path;
    CURLM *multi;
    struct curl_slist *headers;
    struct slot *slots;
    struct batch pending;
    bool end;  /* of the lines */
    bool stop; /* nothing new is sent */
    bool answered;
    int code;
    uint64_t started_ns, success_ns, shown_ns;
    bool progress;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

static void fail(struct publisher *p, int code)
{
    if (p->code == CLI_OK)
        p->code = code;
    p->stop = true;
}

/* Clears the line of the progress, so that a message can stand there. */
static void clear_progress(struct publisher *p)
{
    if (p->progress && p->shown_ns > 0)
        fputs("\r\033[K", stderr);
}

/* ---- Reading ---- */

static void batch_reset(struct batch *batch)
{
    buffer_reset(&batch->body, 4u << 20);
    batch->n = 0;
}

static bool full(const struct publisher *p)
{
    return p->pending.n >= p->options->batch || p->pending.body.len >= BODY_FULL;
}

static void invalid_line(struct publisher *p, const struct error *err)
{
    p->result->invalid++;
    if (!p->options->skip_invalid || p->result->invalid <= COMPLAINTS_MAX) {
        clear_progress(p);
        cli_fail(CLI_FAILED, "line %" PRIu64 " is no event: %s", p->lines->number, err->message);
    }
    if (!p->options->skip_invalid) {
        p->end = true;
        if (p->code == CLI_OK)
            p->code = CLI_FAILED;
    }
}

/* Takes one line. False: there is none now. */
static bool take_line(struct publisher *p)
{
    struct error err;
    const char *line;
    size_t len, before = p->pending.body.len;
    int r = lines_next(p->lines, &line, &len, &err);
    if (r == LINES_LATER)
        return false;
    if (r == LINES_END || r < 0) {
        p->end = true;
        if (r < 0)
            fail(p, cli_fail_error(CLI_FAILED, &err));
        return false;
    }
    buffer_append_char(&p->pending.body, p->pending.n == 0 ? '[' : ',');
    p->filler->line = p->lines->number - 1;
    if (event_complete(p->filler, line, len, &p->pending.body, &err) < 0) {
        p->pending.body.len = before;
        invalid_line(p, &err);
    } else
        p->pending.lines[p->pending.n++] = p->lines->number;
    return !p->end;
}

/* Fills the pending batch. True: it is to be sent. */
static bool gather(struct publisher *p)
{
    while (!p->end && !full(p))
        if (!take_line(p))
            break;
    return p->pending.n > 0;
}

/* ---- Sending ---- */

static size_t take_answer(char *data, size_t size, size_t n, void *user)
{
    struct buffer *answer = user;
    if (answer->len + size * n > (1u << 20))
        return 0;
    buffer_append(answer, data, size * n);
    return answer->failed ? 0 : size * n;
}

static void send_slot(struct publisher *p, struct slot *slot)
{
    buffer_reset(&slot->answer, 65536);
    curl_easy_reset(slot->curl);
    if (client_prepare(p->client, slot->curl, "POST", buffer_text(&p->path)) != CLI_OK) {
        fail(p, CLI_FAILED);
        return;
    }
    curl_easy_setopt(slot->curl, CURLOPT_HTTPHEADER, p->headers);
    curl_easy_setopt(slot->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)slot->batch.body.len);
    curl_easy_setopt(slot->curl, CURLOPT_POSTFIELDS, slot->batch.body.data);
    curl_easy_setopt(slot->curl, CURLOPT_WRITEFUNCTION, take_answer);
    curl_easy_setopt(slot->curl, CURLOPT_WRITEDATA, &slot->answer);
    curl_easy_setopt(slot->curl, CURLOPT_PRIVATE, slot);
    if (curl_multi_add_handle(p->multi, slot->curl) != CURLM_OK) {
        fail(p, cli_fail_memory());
        return;
    }
    slot->state = SENDING;
}

/* Gives the pending batch to a free slot. */
static void dispatch(struct publisher *p, struct slot *slot)
{
    struct batch empty = slot->batch;
    buffer_append_char(&p->pending.body, ']');
    if (p->pending.body.failed) {
        fail(p, cli_fail_memory());
        return;
    }
    slot->batch = p->pending;
    p->pending = empty;
    batch_reset(&p->pending);
    slot->attempts = 0;
    send_slot(p, slot);
}

static void send_what_may(struct publisher *p)
{
    uint64_t now = clock_now_ns();
    for (unsigned i = 0; i < p->options->in_flight && !p->stop; i++) {
        struct slot *slot = &p->slots[i];
        if (slot->state == WAITING && slot->again_at_ns <= now) {
            p->result->retries++;
            send_slot(p, slot);
        } else if (slot->state == IDLE && gather(p))
            dispatch(p, slot);
    }
}

/* ---- Answers ---- */

/* Once more, later; gives up when nothing has succeeded for too long. */
static void again(struct publisher *p, struct slot *slot, uint64_t delay_ns)
{
    uint64_t now = clock_now_ns();
    slot->state = WAITING;
    slot->again_at_ns = now + delay_ns;
    slot->attempts++;
    if (p->stop || now - p->success_ns < p->options->retry_ns)
        return;
    clear_progress(p);
    fail(p, cli_fail(CLI_UNREACHABLE, "gave up after %llu s in which nothing was taken",
                     (now - p->success_ns) / CLOCK_S));
}

static uint64_t back_off(const struct slot *slot)
{
    uint64_t delay = DELAY_MIN_NS << (slot->attempts < 6 ? slot->attempts : 6);
    return delay < DELAY_MAX_NS ? delay : DELAY_MAX_NS;
}

static void taken(struct publisher *p, struct slot *slot, struct json_object *answer)
{
    p->result->published += slot->batch.n;
    p->result->duplicates += json_object_get_uint64(output_member(answer, "duplicates"));
    p->answered = true;
    p->success_ns = clock_now_ns();
    slot->state = IDLE;
    slot->batch.n = 0;
}

static void refused(struct publisher *p, struct slot *slot, long status, struct json_object *answer)
{
    struct json_object *index = output_member(answer, "index");
    uint64_t i = json_object_get_uint64(index);
    slot->state = IDLE;
    if (p->stop) /* one complaint is enough */
        return;
    clear_progress(p);
    if (status == 400 && index && i < slot->batch.n)
        fail(p, cli_fail(CLI_FAILED, "line %" PRIu64 " is refused: %s", slot->batch.lines[i],
                         output_text(answer, "error")));
    else
        fail(p, client_refused(p->cli, status, answer));
}

static void answer(struct publisher *p, struct slot *slot, CURLcode result)
{
    long status = 0;
    curl_off_t retry_after = 0;
    struct json_object *body = NULL;
    curl_easy_getinfo(slot->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(slot->curl, CURLINFO_RETRY_AFTER, &retry_after);
    curl_multi_remove_handle(p->multi, slot->curl);
    if (result != CURLE_OK) {
        if (p->answered || p->options->retry_connecting || result != CURLE_COULDNT_CONNECT) {
            again(p, slot, back_off(slot));
        } else {
            slot->state = IDLE; /* it was never sent */
            if (!p->stop)
                fail(p, client_unreachable(p->client, result));
        }
        return;
    }
    if (slot->answer.len > 0)
        document_parse("answer.json", slot->answer.data, slot->answer.len, &body, NULL);
    if (status == 429 || status == 503) {
        uint64_t seconds = (uint64_t)(retry_after < RETRY_AFTER_MAX_S ? retry_after : RETRY_AFTER_MAX_S);
        again(p, slot, seconds > 0 ? seconds * CLOCK_S : back_off(slot));
    } else if (status == 502 || status == 504)
        again(p, slot, back_off(slot));
    else if (status >= 200 && status < 300)
        taken(p, slot, body);
    else
        refused(p, slot, status, body);
    json_object_put(body);
}

/* ---- The loop ---- */

static void show_progress(struct publisher *p)
{
    char count[32], rate[32];
    uint64_t now = clock_now_ns();
    if (!p->progress || now - p->started_ns < 3 * TICK_NS || now - p->shown_ns < TICK_NS)
        return;
    p->shown_ns = now;
    double seconds = (double)(now - p->started_ns) / (double)CLOCK_S;
    output_count(p->result->published, count);
    output_count((uint64_t)((double)p->result->published / seconds), rate);
    if (p->lines->size > 0) {
        int percent = (int)(100 * p->lines->taken / p->lines->size), filled = percent * BAR / 100;
        fprintf(stderr, "\r[%.*s%*s] %3d%%  ", filled, "##############################", BAR - filled, "",
                percent);
    } else
        fputs("\r", stderr);
    fprintf(stderr, "%s events, %s/s\033[K", count, rate);
}

static unsigned count_slots(const struct publisher *p, enum slot_state state)
{
    unsigned n = 0;
    for (unsigned i = 0; i < p->options->in_flight; i++)
        n += p->slots[i].state == state;
    return n;
}

static void wait_for_something(struct publisher *p)
{
    struct curl_waitfd input = {.fd = p->lines->fd, .events = CURL_WAIT_POLLIN};
    bool wants_input = !p->end && !p->stop && count_slots(p, IDLE) > 0;
    curl_multi_poll(p->multi, &input, wants_input && p->lines->fd >= 0 ? 1 : 0, (int)(TICK_NS / CLOCK_MS),
                    NULL);
}

static bool finished(const struct publisher *p)
{
    unsigned sending = count_slots(p, SENDING);
    if (p->stop)
        return sending == 0;
    return p->end && p->pending.n == 0 && sending == 0 && count_slots(p, WAITING) == 0;
}

static void run(struct publisher *p)
{
    int running, left;
    CURLMsg *message;
    while (!finished(p)) {
        send_what_may(p);
        if (curl_multi_perform(p->multi, &running) != CURLM_OK)
            fail(p, cli_fail(CLI_FAILED, "libcurl fails"));
        bool moved = false;
        while ((message = curl_multi_info_read(p->multi, &left)) != NULL) {
            struct slot *slot = NULL;
            if (message->msg != CURLMSG_DONE)
                continue;
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&slot);
            answer(p, slot, message->data.result);
            moved = true;
        }
        if (interrupted && !p->stop) {
            clear_progress(p);
            fail(p, cli_fail(CLI_FAILED, "interrupted"));
        }
        show_progress(p);
        if (!moved && !finished(p))
            wait_for_something(p);
    }
}

static int prepare(struct publisher *p)
{
    unsigned n = p->options->in_flight;
    int code = client_open(p->cli, &p->client);
    if (code != CLI_OK)
        return code;
    client_path(&p->path, "workspace", p->options->workspace, "event", NULL);
    p->multi = curl_multi_init();
    p->headers = curl_slist_append(NULL, "Content-Type: application/cloudevents-batch+json");
    p->slots = calloc(n, sizeof *p->slots);
    p->pending.lines = calloc(p->options->batch, sizeof *p->pending.lines);
    bool failed = !p->multi || !p->headers || !p->slots || !p->pending.lines || p->path.failed;
    for (unsigned i = 0; i < n && !failed; i++) {
        p->slots[i].curl = curl_easy_init();
        p->slots[i].batch.lines = calloc(p->options->batch, sizeof *p->slots[i].batch.lines);
        failed = !p->slots[i].curl || !p->slots[i].batch.lines;
    }
    return failed ? cli_fail_memory() : CLI_OK;
}

static void clean_up(struct publisher *p)
{
    for (unsigned i = 0; p->slots && i < p->options->in_flight; i++) {
        struct slot *slot = &p->slots[i];
        if (slot->state == SENDING)
            curl_multi_remove_handle(p->multi, slot->curl);
        curl_easy_cleanup(slot->curl);
        buffer_done(&slot->batch.body);
        buffer_done(&slot->answer);
        free(slot->batch.lines);
    }
    free(p->slots);
    free(p->pending.lines);
    buffer_done(&p->pending.body);
    buffer_done(&p->path);
    curl_slist_free_all(p->headers);
    curl_multi_cleanup(p->multi);
}

int publish(struct cli *cli, const struct publish_options *options, struct lines *lines,
            struct event_filler *filler, struct publish_result *ret_result)
{
    struct publisher p = {.cli = cli,
                          .options = options,
                          .lines = lines,
                          .filler = filler,
                          .result = ret_result,
                          .path = BUFFER_INIT,
                          .started_ns = clock_now_ns(),
                          .progress = isatty(STDERR_FILENO) && !cli->json};
    struct sigaction action = {.sa_handler = on_interrupt};
    *ret_result = (struct publish_result){0};
    p.success_ns = p.started_ns;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    int code = prepare(&p);
    if (code == CLI_OK) {
        run(&p);
        clear_progress(&p);
        code = p.code;
        for (unsigned i = 0; i < options->in_flight; i++)
            if (p.slots[i].state == WAITING)
                ret_result->unknown += p.slots[i].batch.n;
    }
    clean_up(&p);
    ret_result->seconds = (double)(clock_now_ns() - p.started_ns) / (double)CLOCK_S;
    return code;
}
