/* librdkafka's mock cluster for tests: brokers in this process that answer what they are told to. They keep
 * topics in memory, 5 MB a partition; know no CreateTopics; take a producer's repetition for another message;
 * and answer a Fetch that finds nothing only after its whole waiting time. What goes wrong fails the test
 * (cmocka). Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include "tests/support/kafka_server.h"

#define KAFKA_MOCK_BROKERS 3 /* with the ids from 1 */

/* Kafka protocol, API keys. */
enum kafka_api {
    KAFKA_PRODUCE = 0,
    KAFKA_FETCH = 1,
    KAFKA_LIST_OFFSETS = 2,
    KAFKA_OFFSET_COMMIT = 8,
    KAFKA_OFFSET_FETCH = 9,
    KAFKA_FIND_COORDINATOR = 10,
    KAFKA_INIT_PRODUCER_ID = 22,
};

struct kafka_mock {
    rd_kafka_t *rk;
    rd_kafka_mock_cluster_t *cluster;
    struct kafka_server client; /* to publish, read and ask with (kafka_server.h); it is no server */
};

void kafka_mock_run(struct kafka_mock *mock);
void kafka_mock_done(struct kafka_mock *mock);
void kafka_mock_topic(struct kafka_mock *mock, const char *topic, int partitions);
/* Metadata say so of the topic; RD_KAFKA_RESP_ERR_NO_ERROR takes it back. */
void kafka_mock_topic_error(struct kafka_mock *mock, const char *topic, rd_kafka_resp_err_t code);

/* Every broker answers its next n requests of that kind with the error, rtt_ms late, after what was pushed
 * before. RD_KAFKA_RESP_ERR__TRANSPORT: cuts the connection instead; RD_KAFKA_RESP_ERR_NO_ERROR: does what is
 * asked. */
void kafka_mock_push(struct kafka_mock *mock, enum kafka_api api, rd_kafka_resp_err_t code, int rtt_ms,
                     unsigned n);
/* How many such answers are still to come, of the broker that has most of them. */
size_t kafka_mock_pushed(struct kafka_mock *mock, enum kafka_api api);
/* Every broker answers all requests of that kind with the error, until it is RD_KAFKA_RESP_ERR_NO_ERROR. Not
 * for a kind of which something was pushed. */
void kafka_mock_refuse(struct kafka_mock *mock, enum kafka_api api, rd_kafka_resp_err_t code);

void kafka_mock_up(struct kafka_mock *mock, int broker, bool up);
void kafka_mock_rtt(struct kafka_mock *mock, int rtt_ms);
/* broker -1: the partition has no leader. */
void kafka_mock_lead(struct kafka_mock *mock, const char *topic, int partition, int broker);
