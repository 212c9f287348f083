#include "worker/source/kafka_topic.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

bool kafka_topic_refused(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
           code == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
           code == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED ||
           code == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED ||
           code == RD_KAFKA_RESP_ERR__AUTHENTICATION || code == RD_KAFKA_RESP_ERR_POLICY_VIOLATION;
}

static int failed(rd_kafka_resp_err_t code, const char *what, const char *topic, struct error *err)
{
    enum error_code kind = kafka_topic_refused(code)              ? ERROR_REFUSED
                           : code == RD_KAFKA_RESP_ERR__TIMED_OUT ? ERROR_LIMIT
                                                                  : ERROR_UNAVAILABLE;
    return error_set(err, kind, "topic %s: %s: %s", topic, what, rd_kafka_err2str(code));
}

static bool is_silence(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__TIMED_OUT ||
           code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
}

static int read_partitions(const struct rd_kafka_metadata *metadata, const char *name, size_t *ret_n,
                           bool **ret_led, struct error *err)
{
    if (metadata->topic_cnt != 1)
        return failed(RD_KAFKA_RESP_ERR__BAD_MSG, "metadata", name, err);
    const rd_kafka_metadata_topic_t *t = &metadata->topics[0];
    if (t->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        return KAFKA_TOPIC_MISSING;
    if (t->err || t->partition_cnt < 1)
        return failed(t->err ? t->err : RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, "metadata", name, err);
    size_t n = (size_t)t->partition_cnt;
    bool *led = calloc(n, sizeof *led);
    if (!led)
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const rd_kafka_metadata_partition_t *p = &t->partitions[i];
        if (p->id >= 0 && (size_t)p->id < n)
            led[p->id] = p->leader >= 0 && p->err != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
    }
    *ret_n = n;
    *ret_led = led;
    return 0;
}

int kafka_topic_partitions(rd_kafka_t *rk, rd_kafka_topic_t *topic, int timeout_ms, size_t *ret_n,
                           bool **ret_led, struct error *err)
{
    const struct rd_kafka_metadata *metadata;
    const char *name = rd_kafka_topic_name(topic);
    rd_kafka_resp_err_t code = rd_kafka_metadata(rk, 0, topic, &metadata, timeout_ms);
    if (code)
        return failed(code,
                      is_silence(code) ? "no broker answers, or not as tls and auth_mode say" : "metadata",
                      name, err);
    int r = read_partitions(metadata, name, ret_n, ret_led, err);
    rd_kafka_metadata_destroy(metadata);
    return r;
}

/* --- creating --- */

int kafka_topic_created(rd_kafka_event_t *event, const char *name, struct error *err)
{
    size_t n = 0;
    if (!event)
        return failed(RD_KAFKA_RESP_ERR__TIMED_OUT, "it does not exist, and creating it", name, err);
    const rd_kafka_topic_result_t **results = NULL;
    rd_kafka_resp_err_t code = rd_kafka_event_error(event);
    const rd_kafka_CreateTopics_result_t *result = rd_kafka_event_CreateTopics_result(event);
    if (!code && result)
        results = rd_kafka_CreateTopics_result_topics(result, &n);
    if (!code)
        code = n == 1 ? rd_kafka_topic_result_error(results[0]) : RD_KAFKA_RESP_ERR__BAD_MSG;
    if (code == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
        return KAFKA_TOPIC_EXISTS;
    return code ? failed(code, "it does not exist, and creating it", name, err) : 0;
}

int kafka_topic_create(rd_kafka_t *rk, const char *name, int timeout_ms, struct error *err)
{
    char why[160] = "";
    rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(name, 1, -1, why, sizeof why);
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    rd_kafka_queue_t *answers = rd_kafka_queue_new(rk);
    int r;
    if (!topic || !options || !answers) {
        r = error_set(err, ERROR_UNAVAILABLE, "topic %s cannot be created: %s", name, why);
    } else {
        rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, NULL, 0);
        rd_kafka_CreateTopics(rk, &topic, 1, options, answers);
        rd_kafka_event_t *event = rd_kafka_queue_poll(answers, timeout_ms + 500);
        r = kafka_topic_created(event, name, err);
        if (event)
            rd_kafka_event_destroy(event);
    }
    if (answers)
        rd_kafka_queue_destroy(answers);
    if (options)
        rd_kafka_AdminOptions_destroy(options);
    if (topic)
        rd_kafka_NewTopic_destroy(topic);
    return r;
}

/* --- bounds --- */

enum question { ASK_LOW, ASK_HIGH, ASK_COMMITTED };

static void note(struct kafka_bounds *bounds, enum question question, int64_t offset)
{
    if (question == ASK_COMMITTED)
        bounds->committed = offset;
    else if (question == ASK_LOW)
        bounds->low = offset;
    else
        bounds->high = offset;
}

/* The times -2 and -1 stand for the first and the end offset (Kafka protocol, ListOffsets); librdkafka gives
 * the same numbers these names. */
static int ask(rd_kafka_t *rk, const char *name, struct kafka_bounds *bounds, size_t n,
               enum question question, int timeout_ms, struct error *err)
{
    static const char *const what[] = {"its first offset", "its end", "the group's offset"};
    int r = 0;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    if (!list)
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++)
        rd_kafka_topic_partition_list_add(list, name, (int32_t)bounds[i].partition)->offset =
            question == ASK_LOW ? RD_KAFKA_OFFSET_BEGINNING : RD_KAFKA_OFFSET_END;
    rd_kafka_resp_err_t code = question == ASK_COMMITTED ? rd_kafka_committed(rk, list, timeout_ms)
                                                         : rd_kafka_offsets_for_times(rk, list, timeout_ms);
    for (size_t i = 0; i < n && !r; i++) {
        rd_kafka_topic_partition_t *one =
            rd_kafka_topic_partition_list_find(list, name, (int32_t)bounds[i].partition);
        if (!code)
            code = one ? one->err : RD_KAFKA_RESP_ERR__BAD_MSG;
        if (!code && one->offset < 0 && question != ASK_COMMITTED)
            code = RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE;
        r = code ? failed(code, what[question], name, err) : 0;
        if (!r)
            note(&bounds[i], question, one->offset < 0 ? -1 : one->offset);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return r;
}

int kafka_topic_bounds(rd_kafka_t *rk, const char *name, struct kafka_bounds *bounds, size_t n,
                       bool committed, int timeout_ms, struct error *err)
{
    for (size_t i = 0; i < n; i++)
        bounds[i].committed = -1;
    if (ask(rk, name, bounds, n, ASK_LOW, timeout_ms, err) < 0 ||
        ask(rk, name, bounds, n, ASK_HIGH, timeout_ms, err) < 0)
        return -1;
    return committed ? ask(rk, name, bounds, n, ASK_COMMITTED, timeout_ms, err) : 0;
}
