/* Consuming an SQS queue: 200 joins over a queue that is full already, from the first long poll until the
 * last join has fired in a committed checkpoint, against the floor: a bare libcurl loop with the same number
 * of receives in flight that deletes what it gets, signs as it must, and looks at nothing but receipt
 * handles. Both against a server in this process (fake_sqs.h), which is fast: the real ones that can be had
 * here are slower than either. Once it answers at once: then the processors are the limit, and the server
 * needs one of them; and once as late as a server that is not on this machine: then what counts is that as
 * many receives as allowed are always under way. Every run has messages of its own, as they are gone
 * afterwards. Also what an idle source costs, and the worker's peak memory (with BENCH_FULL over 2,000,000
 * messages). */
#include "bench/ingest.h"

#include <curl/curl.h>

#include "common/sigv4.h"
#include "tests/support/fake_sqs.h"

#define EVENTS 100000
#define MANY_EVENTS 2000000
#define FAR_EVENTS 20000
#define FAR_LATENCY (10 * CLOCK_MS)
#define RECEIVES 8
#define TARGET_RATIO 0.90

/* ---- messages of about 300 bytes ---- */

static struct fake_sqs *fill(size_t events)
{
    char time[CLOCK_ISO_MAX], text[512];
    struct fake_sqs *queue = fake_sqs_start(false, 30);
    if (!queue)
        bench_fail("no server");
    clock_iso(clock_unix_ns(), time);
    for (size_t i = 0; i < events; i++) {
        int len = snprintf(
            text, sizeof text,
            "{\"specversion\":\"1.0\",\"id\":\"%08zx-7d3c-4a1b-9c5e-%012zx\",\"source\":\"urn:bench:"
            "publisher\","
            "\"type\":\"" BENCH_EVENT_TYPE "\",\"subject\":\"join%zu\",\"time\":\"%s\",\"datacontenttype\":"
            "\"application/json\",\"data\":{\"result\":%zu,\"text\":\"some words of a function that has "
            "ended\"}}",
            i, i * 2654435761u, i % JOINS, time, i);
        fake_sqs_put(queue, text, (size_t)len, "");
    }
    return queue;
}

/* ---- the floor ---- */

struct bare {
    CURLM *multi;
    char url[64], host[32];
    struct sigv4_key key;
    size_t left; /* messages to be deleted yet */
};

struct transfer {
    struct bare *bare;
    CURL *easy;
    bool deletes;
    struct curl_slist *headers;
    size_t n;
    struct buffer answer, body;
};

static size_t on_body(char *data, size_t size, size_t n, void *to)
{
    buffer_append(to, data, size * n);
    return size * n;
}

/* The same library as the worker's. */
static void sign(struct transfer *t)
{
    static const struct sigv4_credentials credentials = {.access_key_id = "a", .secret_access_key = "s"};
    char line[512];
    struct sigv4_signature s;
    struct sigv4_header headers[] = {
        {"X-Amz-Target", t->deletes ? "AmazonSQS.DeleteMessageBatch" : "AmazonSQS.ReceiveMessage"},
        {"Content-Type", "application/x-amz-json-1.0"}};
    struct sigv4_request r = {.method = "POST",
                              .host = t->bare->host,
                              .path = "/",
                              .headers = headers,
                              .n_headers = 2,
                              .body = t->body.data,
                              .body_len = t->body.len,
                              .key = &t->bare->key};
    if (sigv4_sign(&credentials, "eu-west-1", "sqs", &r, clock_unix_ns() / CLOCK_S, &s, NULL) < 0)
        bench_fail("the floor: no signature");
    curl_slist_free_all(t->headers);
    t->headers = curl_slist_append(NULL, "Expect:");
    for (size_t i = 0; i < 2; i++) {
        snprintf(line, sizeof line, "%s: %s", headers[i].name, headers[i].value);
        t->headers = curl_slist_append(t->headers, line);
    }
    snprintf(line, sizeof line, "X-Amz-Date: %s", s.date);
    t->headers = curl_slist_append(t->headers, line);
    snprintf(line, sizeof line, "Authorization: %s", buffer_text(&s.authorization));
    t->headers = curl_slist_append(t->headers, line);
    sigv4_done(&s);
}

static void begin(struct transfer *t)
{
    sign(t);
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE, (long)t->body.len);
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, buffer_text(&t->body));
    buffer_reset(&t->answer, 1 << 20);
    curl_multi_add_handle(t->bare->multi, t->easy);
}

static void ask(struct transfer *t)
{
    t->deletes = false;
    buffer_reset(&t->body, 1 << 20);
    buffer_append_text(&t->body, "{\"QueueUrl\":\"http://fake/1/queue\",\"MaxNumberOfMessages\":10,"
                                 "\"WaitTimeSeconds\":20,\"VisibilityTimeout\":30}");
    begin(t);
}

/* Deletes what `from` has got. */
static void delete_all(struct transfer *t, struct transfer *from)
{
    static const char mark[] = "\"ReceiptHandle\":\"";
    t->deletes = true;
    t->n = 0;
    buffer_reset(&t->body, 1 << 20);
    buffer_append_text(&t->body, "{\"QueueUrl\":\"http://fake/1/queue\",\"Entries\":[");
    for (const char *at = buffer_text(&from->answer); (at = strstr(at, mark)); at++) {
        const char *receipt = at + sizeof mark - 1;
        buffer_printf(&t->body, "%s{\"Id\":\"%zu\",\"ReceiptHandle\":\"%.*s\"}", t->n ? "," : "", t->n,
                      (int)strcspn(receipt, "\""), receipt);
        t->n++;
    }
    buffer_append_text(&t->body, "]}");
    begin(t);
}

static struct transfer *transfer_new(struct bare *bare)
{
    struct transfer *t = calloc(1, sizeof *t);
    if (!t || !(t->easy = curl_easy_init()))
        bench_fail("the floor: out of memory");
    t->bare = bare;
    curl_easy_setopt(t->easy, CURLOPT_URL, bare->url);
    curl_easy_setopt(t->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, &t->answer);
    curl_easy_setopt(t->easy, CURLOPT_PRIVATE, t);
    return t;
}

static void transfer_free(struct transfer *t)
{
    curl_multi_remove_handle(t->bare->multi, t->easy);
    curl_easy_cleanup(t->easy);
    curl_slist_free_all(t->headers);
    buffer_done(&t->answer);
    buffer_done(&t->body);
    free(t);
}

/* A receive's answer: its transfer deletes, and another one asks in its place. */
static void take_answer(struct transfer *t, struct transfer **spare, size_t *n_spare)
{
    struct bare *bare = t->bare;
    curl_multi_remove_handle(bare->multi, t->easy);
    if (t->deletes) {
        bare->left -= t->n;
        spare[(*n_spare)++] = t;
        return;
    }
    if (*n_spare == 0)
        bench_fail("the floor: deletions do not end");
    delete_all(spare[--*n_spare], t);
    ask(t);
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * CLOCK_S + (uint64_t)time.tv_nsec;
}

static double drain_bare(struct fake_sqs *queue, size_t events, double *ret_cpu_ns)
{
    struct transfer *all[RECEIVES * 4], *spare[RECEIVES * 4];
    struct bare bare = {.multi = curl_multi_init(), .left = events};
    size_t n_spare = 0;
    int running;
    snprintf(bare.url, sizeof bare.url, "http://127.0.0.1:%d/", fake_sqs_port(queue));
    snprintf(bare.host, sizeof bare.host, "127.0.0.1:%d", fake_sqs_port(queue));
    curl_multi_setopt(bare.multi, CURLMOPT_MAXCONNECTS, 64L);
    for (size_t i = 0; i < RECEIVES * 4; i++)
        all[i] = transfer_new(&bare);
    uint64_t start = clock_now_ns();
    uint64_t cpu_start = thread_cpu_ns();
    for (size_t i = 0; i < RECEIVES * 4; i++)
        if (i < RECEIVES)
            ask(all[i]);
        else
            spare[n_spare++] = all[i];
    while (bare.left) {
        CURLMsg *message;
        int queued;
        curl_multi_perform(bare.multi, &running);
        while ((message = curl_multi_info_read(bare.multi, &queued))) {
            struct transfer *t;
            if (message->data.result != CURLE_OK)
                bench_fail("the floor: %s", curl_easy_strerror(message->data.result));
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&t);
            take_answer(t, spare, &n_spare);
        }
        if (bare.left)
            curl_multi_poll(bare.multi, NULL, 0, 1000, NULL);
    }
    double seconds = bench_seconds(start, clock_now_ns());
    *ret_cpu_ns = (double)(thread_cpu_ns() - cpu_start) / (double)events;
    for (size_t i = 0; i < RECEIVES * 4; i++)
        transfer_free(all[i]);
    curl_multi_cleanup(bare.multi);
    sigv4_key_done(&bare.key);
    return seconds;
}

/* ---- the worker ---- */

static void store(struct bench *b, const struct fake_sqs *queue, size_t events)
{
    char json[512];
    ingest_store(b, events);
    snprintf(json, sizeof json,
             "{\"name\":\"queue\",\"class\":\"SQSEventSource\",\"parameters\":{\"access_key_id\":\"a\","
             "\"secret_access_key\":\"s\",\"region\":\"eu-west-1\",\"queue\":\"queue\",\"endpoint\":"
             "\"http://127.0.0.1:%d\",\"receives\":%d}}",
             fake_sqs_port(queue), RECEIVES);
    bench_do(b, "HSET ingest-event_sources queue %s", json);
}

static long long messages(void *queue)
{
    return (long long)fake_sqs_left(queue);
}

static struct fake_sqs *start_queue(size_t events, uint64_t latency_ns)
{
    struct fake_sqs *queue = fill(events);
    fake_sqs_set_latency(queue, latency_ns);
    return queue;
}

static void report(struct bench *b, const char *what, size_t events, uint64_t latency_ns, size_t runs,
                   bool with_floor)
{
    struct ingest_figures f = {0};
    double floor_cpu_ns[BENCH_MAX_RUNS] = {0};
    while (f.n < runs) {
        double floor_seconds = 0;
        struct fake_sqs *queue;
        if (with_floor) {
            queue = start_queue(events, latency_ns);
            floor_seconds = drain_bare(queue, events, &floor_cpu_ns[f.n]);
            fake_sqs_stop(queue);
        }
        queue = start_queue(events, latency_ns);
        store(b, queue, events);
        struct ingest_result r = ingest_run(b, events, messages, queue);
        fake_sqs_stop(queue);
        ingest_add(&f, &r, events, r.seconds, floor_seconds);
    }
    printf("bench sqs_ingest what=%s events=%zu joins=%d receives=%d latency_ms=%llu", what, events, JOINS,
           RECEIVES, (unsigned long long)(latency_ns / CLOCK_MS));
    ingest_print(&f, with_floor ? TARGET_RATIO : 0, true);
    printf(" floor_cpu_ns_per_event=%.0f\n", bench_median(floor_cpu_ns, f.n));
}

int main(int argc, char **argv)
{
    static struct bench b;
    bench_worker_main(argc, argv);
    bench_open(&b, "sqs_ingest", NULL);
    report(&b, "from_first_read", EVENTS, 0, bench_runs(), true);
    report(&b, "far", FAR_EVENTS, FAR_LATENCY, bench_runs(), true);
    if (getenv("BENCH_FULL"))
        report(&b, "many", MANY_EVENTS, 0, 1, false);
    return 0;
}
