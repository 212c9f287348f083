#include "worker/source/kafka_flow.h"

#include <stdint.h>
#include <time.h>

#define QUEUE_BYTES (3u << 20) /* at which an answer waits */
#define OVERHEAD 512           /* bytes of a message in the queue, besides its own */
#define HOLD_MS 400            /* for so long at most: other answers are behind it */
#define API_FETCH 1            /* Kafka protocol, API keys */

void kafka_flow_init(struct kafka_flow *flow)
{
    pthread_condattr_t attributes;
    pthread_mutex_init(&flow->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&flow->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    flow->queue = NULL;
    flow->released = false;
    atomic_init(&flow->waiting, 0);
    atomic_init(&flow->average, OVERHEAD * 2);
}

void kafka_flow_done(struct kafka_flow *flow)
{
    pthread_cond_destroy(&flow->changed);
    pthread_mutex_destroy(&flow->lock);
}

/* Requires: lock */
static bool must_wait(struct kafka_flow *flow)
{
    return flow->queue && !flow->released &&
           rd_kafka_queue_length(flow->queue) * atomic_load_explicit(&flow->average, memory_order_relaxed) >
               QUEUE_BYTES;
}

/* Thread: librdkafka's, one for each broker. */
static rd_kafka_resp_err_t on_response(rd_kafka_t *rk, int socket, const char *name, int32_t id,
                                       int16_t api_key, int16_t version, int32_t correlation, size_t size,
                                       int64_t rtt, rd_kafka_resp_err_t err, void *opaque)
{
    struct kafka_flow *flow = opaque;
    struct timespec until;
    (void)rk, (void)socket, (void)name, (void)id, (void)version, (void)correlation, (void)size, (void)rtt;
    if (api_key != API_FETCH || err)
        return RD_KAFKA_RESP_ERR_NO_ERROR;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += HOLD_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&flow->lock);
    atomic_fetch_add(&flow->waiting,
                     1); /* seq_cst: before the look at the queue, as taken() looks after it */
    while (must_wait(flow) && pthread_cond_timedwait(&flow->changed, &flow->lock, &until) == 0)
        continue;
    atomic_fetch_sub(&flow->waiting, 1);
    pthread_mutex_unlock(&flow->lock);
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

static rd_kafka_resp_err_t on_new(rd_kafka_t *rk, const rd_kafka_conf_t *conf, void *opaque, char *why,
                                  size_t why_size)
{
    (void)conf, (void)why, (void)why_size;
    return rd_kafka_interceptor_add_on_response_received(rk, "triggerflow", on_response, opaque);
}

int kafka_flow_install(struct kafka_flow *flow, rd_kafka_conf_t *conf)
{
    return rd_kafka_conf_interceptor_add_on_new(conf, "triggerflow", on_new, flow) ? -1 : 0;
}

void kafka_flow_set_queue(struct kafka_flow *flow, rd_kafka_queue_t *queue)
{
    pthread_mutex_lock(&flow->lock);
    flow->queue = queue;
    pthread_cond_broadcast(&flow->changed);
    pthread_mutex_unlock(&flow->lock);
}

void kafka_flow_taken(struct kafka_flow *flow, size_t n, size_t bytes)
{
    size_t average = atomic_load_explicit(&flow->average, memory_order_relaxed);
    if (n)
        average = (average * 7 + bytes / n + OVERHEAD) / 8;
    atomic_store_explicit(&flow->average, average ? average : 1, memory_order_relaxed);
    if (!atomic_load(&flow->waiting))
        return;
    pthread_mutex_lock(&flow->lock);
    if (!must_wait(flow))
        pthread_cond_broadcast(&flow->changed);
    pthread_mutex_unlock(&flow->lock);
}

void kafka_flow_release(struct kafka_flow *flow, bool released)
{
    pthread_mutex_lock(&flow->lock);
    flow->released = released;
    pthread_cond_broadcast(&flow->changed);
    pthread_mutex_unlock(&flow->lock);
}
