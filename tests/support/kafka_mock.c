#include "tests/support/kafka_mock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define FOR_EVER 20000 /* answers */

static void quiet(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk, (void)level, (void)facility, (void)text;
}

void kafka_mock_run(struct kafka_mock *m)
{
    char why[200];
    memset(m, 0, sizeof *m);
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(conf, quiet);
    m->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    assert_non_null(m->rk);
    m->cluster = rd_kafka_mock_cluster_new(m->rk, KAFKA_MOCK_BROKERS);
    assert_non_null(m->cluster);
    snprintf(m->client.brokers, sizeof m->client.brokers, "%s", rd_kafka_mock_cluster_bootstraps(m->cluster));
}

void kafka_mock_done(struct kafka_mock *m)
{
    kafka_server_done(&m->client);
    if (m->cluster)
        rd_kafka_mock_cluster_destroy(m->cluster);
    if (m->rk)
        rd_kafka_destroy(m->rk);
    memset(m, 0, sizeof *m);
}

void kafka_mock_topic(struct kafka_mock *m, const char *topic, int partitions)
{
    assert_int_equal(rd_kafka_mock_topic_create(m->cluster, topic, partitions, KAFKA_MOCK_BROKERS), 0);
}

void kafka_mock_topic_error(struct kafka_mock *m, const char *topic, rd_kafka_resp_err_t code)
{
    rd_kafka_mock_topic_set_error(m->cluster, topic, code);
}

/* --- answers --- */

void kafka_mock_push(struct kafka_mock *m, enum kafka_api api, rd_kafka_resp_err_t code, int rtt_ms,
                     unsigned n)
{
    while (n--)
        for (int i = 1; i <= KAFKA_MOCK_BROKERS; i++)
            assert_int_equal(rd_kafka_mock_broker_push_request_error_rtts(m->cluster, i, (int16_t)api, 1,
                                                                          (int)code, rtt_ms),
                             0);
}

size_t kafka_mock_pushed(struct kafka_mock *m, enum kafka_api api)
{
    size_t most = 0;
    for (int i = 1; i <= KAFKA_MOCK_BROKERS; i++) {
        size_t n = 0;
        assert_int_equal(rd_kafka_mock_broker_error_stack_cnt(m->cluster, i, (int16_t)api, &n), 0);
        most = n > most ? n : most;
    }
    return most;
}

void kafka_mock_refuse(struct kafka_mock *m, enum kafka_api api, rd_kafka_resp_err_t code)
{
    rd_kafka_resp_err_t codes[FOR_EVER];
    for (size_t i = 0; i < FOR_EVER; i++)
        codes[i] = code;
    rd_kafka_mock_clear_request_errors(m->cluster, (int16_t)api);
    if (code)
        rd_kafka_mock_push_request_errors_array(m->cluster, (int16_t)api, FOR_EVER, codes);
}

/* --- brokers --- */

void kafka_mock_up(struct kafka_mock *m, int broker, bool up)
{
    assert_int_equal(up ? rd_kafka_mock_broker_set_up(m->cluster, broker)
                        : rd_kafka_mock_broker_set_down(m->cluster, broker),
                     0);
}

void kafka_mock_rtt(struct kafka_mock *m, int rtt_ms)
{
    for (int i = 1; i <= KAFKA_MOCK_BROKERS; i++)
        assert_int_equal(rd_kafka_mock_broker_set_rtt(m->cluster, i, rtt_ms), 0);
}

void kafka_mock_lead(struct kafka_mock *m, const char *topic, int partition, int broker)
{
    assert_int_equal(rd_kafka_mock_partition_set_leader(m->cluster, topic, partition, broker), 0);
}
