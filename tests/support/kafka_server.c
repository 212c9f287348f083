#include "tests/support/kafka_server.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/support/free_port.h"

#define START_NS (90 * CLOCK_S)
#define STOP_NS (20 * CLOCK_S)
#define CALL_MS 20000
#define JARS "build/kafka"
#define CLUSTER "MkU3OEVBNTcwNTJENDM2Qg"

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "kafka_server: %s: %s\n", what, why);
    return -1;
}

/* --- the broker --- */

bool kafka_server_available(const char **ret_why)
{
    if (access(JARS "/complete", R_OK) != 0)
        *ret_why = "no Kafka in " JARS;
    else if (system("java -version >/dev/null 2>&1") != 0)
        *ret_why = "no java";
    else if (system("openssl version >/dev/null 2>&1") != 0)
        *ret_why = "no openssl";
    else
        return true;
    return false;
}

static int free_ports(int ports[KAFKA_LISTENERS])
{
    for (int i = 0; i < KAFKA_LISTENERS; i++)
        if ((ports[i] = free_port()) < 0)
            return complain("ports", "none is free");
    return 0;
}

static const char settings[] =
    "process.roles=broker,controller\n"
    "node.id=1\n"
    "controller.listener.names=CONTROLLER\n"
    "inter.broker.listener.name=PLAINTEXT\n"
    "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,TLS:SSL,SASLTLS:SASL_SSL,SASL:SASL_PLAINTEXT,"
    "PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
    "ssl.keystore.type=PEM\n"
    "ssl.keystore.location=%1$s/server.pem\n"
    "ssl.endpoint.identification.algorithm=\n"
    "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n"
    "listener.name.sasltls.plain.sasl.jaas.config=%2$s.plain.PlainLoginModule required user_alice=secret;\n"
    "listener.name.sasltls.scram-sha-256.sasl.jaas.config=%2$s.scram.ScramLoginModule required;\n"
    "listener.name.sasltls.scram-sha-512.sasl.jaas.config=%2$s.scram.ScramLoginModule required;\n"
    "listener.name.sasl.plain.sasl.jaas.config=%2$s.plain.PlainLoginModule required user_alice=secret;\n"
    "listener.name.sasl.scram-sha-256.sasl.jaas.config=%2$s.scram.ScramLoginModule required;\n"
    "listener.name.sasl.scram-sha-512.sasl.jaas.config=%2$s.scram.ScramLoginModule required;\n"
    "log.dirs=%1$s/data\n"
    "auto.create.topics.enable=false\n"
    "offsets.topic.replication.factor=1\n"
    "offsets.topic.num.partitions=1\n"
    "transaction.state.log.replication.factor=1\n"
    "transaction.state.log.min.isr=1\n"
    "transaction.state.log.num.partitions=1\n"
    "group.initial.rebalance.delay.ms=0\n"
    "broker.session.timeout.ms=1500\n" /* a killed one is let in again after it */
    "broker.heartbeat.interval.ms=250\n"
    "log.cleaner.backoff.ms=100\n"
    "log.cleaner.dedupe.buffer.size=4194304\n"
    "num.network.threads=2\n"
    "num.io.threads=2\n"
    "background.threads=2\n"
    "message.max.bytes=1048588\n";

static int write_settings(const struct kafka_server *s)
{
    char path[128];
    snprintf(path, sizeof path, "%s/server.properties", s->dir);
    FILE *file = fopen(path, "w");
    if (!file)
        return complain(path, strerror(errno));
    fprintf(file, settings, s->dir, "org.apache.kafka.common.security");
    fprintf(file, "controller.quorum.voters=1@127.0.0.1:%d\n", s->port[KAFKA_CONTROLLER]);
    static const char *const names[] = {"PLAINTEXT", "TLS", "SASLTLS", "SASL", "PROXIED", "CONTROLLER"};
    for (int advertised = 0; advertised < 2; advertised++) {
        fputs(advertised ? "advertised.listeners=" : "listeners=", file);
        for (int i = 0; i < KAFKA_LISTENERS - advertised; i++)
            fprintf(file, "%s%s://127.0.0.1:%d", i ? "," : "", names[i],
                    advertised && i == KAFKA_PROXIED && s->proxy_port ? s->proxy_port : s->port[i]);
        fputs("\n", file);
    }
    return fclose(file) ? complain(path, strerror(errno)) : 0;
}

static int prepare(const struct kafka_server *s)
{
    char command[1024];
    snprintf(command, sizeof command,
             "cd %s && openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out ca.pem -days 2 -subj "
             "/CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 >openssl.log 2>&1 && cat key.pem ca.pem "
             ">server.pem",
             s->dir);
    if (system(command) != 0)
        return complain("openssl", s->dir);
    snprintf(command, sizeof command,
             "java -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Xshare:auto -Xmx128m -cp '" JARS
             "/*' kafka.tools.StorageTool format -t " CLUSTER " -c %1$s/server.properties --add-scram "
             "'SCRAM-SHA-256=[name=alice,password=secret]' --add-scram "
             "'SCRAM-SHA-512=[name=alice,password=secret]' >%1$s/format.log 2>&1",
             s->dir);
    return system(command) == 0 ? 0 : complain("format", s->dir);
}

static void exec_broker(const struct kafka_server *s, pid_t parent)
{
    char path[128];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(path, sizeof path, "%s/log", s->dir);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int null = open("/dev/null", O_RDONLY);
    if (getppid() != parent || log < 0 || null < 0)
        _exit(126);
    dup2(null, 0);
    dup2(log, 1);
    dup2(log, 2);
    unsetenv("LD_PRELOAD");
    snprintf(path, sizeof path, "%s/server.properties", s->dir);
    execlp("java", "java", "-Xms64m", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
           "-XX:+UseSerialGC", "-Xshare:auto", "-cp", JARS "/*", "kafka.Kafka", path, (char *)NULL);
    _exit(127);
}

static bool exited(struct kafka_server *s)
{
    if (s->pid > 0 && waitpid(s->pid, NULL, WNOHANG) == s->pid)
        s->pid = 0;
    return s->pid == 0;
}

static void silent_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk, (void)level, (void)facility, (void)text;
}

/* Counts what was not published, where the message's opaque is a counter. */
static void see_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk, (void)opaque;
    if ((!message->err && message->offset >= 0) || !message->_private)
        return;
    if (!(*(unsigned *)message->_private)++)
        complain(rd_kafka_topic_name(message->rkt),
                 message->err ? rd_kafka_err2str(message->err) : "taken for a duplicate");
}

static rd_kafka_t *client(struct kafka_server *s, rd_kafka_type_t type, const char *const options[][2])
{
    char why[200] = "";
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(conf, silent_log);
    if (type == RD_KAFKA_PRODUCER)
        rd_kafka_conf_set_dr_msg_cb(conf, see_delivery);
    rd_kafka_conf_set(conf, "bootstrap.servers", s->brokers, NULL, 0);
    rd_kafka_conf_set(conf, "reconnect.backoff.max.ms", "200", NULL, 0);
    for (int i = 0; options && options[i][0]; i++)
        if (rd_kafka_conf_set(conf, options[i][0], options[i][1], why, sizeof why))
            complain(options[i][0], why);
    rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof why);
    if (!rk)
        complain("client", why);
    return rk;
}

static rd_kafka_t *admin(struct kafka_server *s)
{
    static const char *const options[][2] = {{"linger.ms", "0"},
                                             {"acks", "all"},
                                             {"message.max.bytes", "20000000"},
                                             {"enable.idempotence", "true"},
                                             {"queue.buffering.max.messages", "1000000"},
                                             {NULL, NULL}};
    if (!s->admin)
        s->admin = client(s, RD_KAFKA_PRODUCER, options);
    return s->admin;
}

static bool answers(struct kafka_server *s)
{
    const struct rd_kafka_metadata *m;
    rd_kafka_t *rk = admin(s);
    if (!rk || rd_kafka_metadata(rk, 0, NULL, &m, 200))
        return false;
    bool up = m->broker_cnt == 1;
    rd_kafka_metadata_destroy(m);
    return up;
}

static int spawn(struct kafka_server *s)
{
    pid_t parent = getpid();
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        return complain("fork", strerror(errno));
    if (pid == 0)
        exec_broker(s, parent);
    s->pid = pid;
    for (uint64_t end = clock_now_ns() + START_NS; clock_now_ns() < end && !exited(s); nap())
        if (answers(s))
            return 0;
    kafka_server_kill(s);
    return complain("it does not start; see the log", s->dir);
}

int kafka_server_run(struct kafka_server *s, int proxy_port)
{
    memset(s, 0, sizeof *s);
    s->proxy_port = proxy_port;
    snprintf(s->dir, sizeof s->dir, "/tmp/triggerflow-kafka-XXXXXX");
    if (!mkdtemp(s->dir)) {
        s->dir[0] = '\0';
        return complain("mkdtemp", strerror(errno));
    }
    if (free_ports(s->port) < 0 || write_settings(s) < 0 || prepare(s) < 0)
        return -1;
    snprintf(s->brokers, sizeof s->brokers, "127.0.0.1:%d", s->port[KAFKA_PLAIN]);
    return spawn(s);
}

void kafka_server_kill(struct kafka_server *s)
{
    if (exited(s))
        return;
    kill(s->pid, SIGKILL);
    while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    s->pid = 0;
}

void kafka_server_stop(struct kafka_server *s)
{
    if (exited(s))
        return;
    kill(s->pid, SIGTERM);
    for (uint64_t end = clock_now_ns() + STOP_NS; clock_now_ns() < end && !exited(s);)
        nap();
    kafka_server_kill(s);
}

int kafka_server_restart(struct kafka_server *s)
{
    kafka_server_stop(s);
    return spawn(s);
}

void kafka_server_freeze(struct kafka_server *s, bool frozen)
{
    if (!exited(s))
        kill(s->pid, frozen ? SIGSTOP : SIGCONT);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    return remove(path);
}

void kafka_server_done(struct kafka_server *s)
{
    if (s->admin)
        rd_kafka_destroy(s->admin);
    if (s->member)
        rd_kafka_destroy(s->member);
    kafka_server_kill(s);
    if (s->dir[0])
        (void)nftw(s->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    memset(s, 0, sizeof *s);
}

/* --- topics --- */

/* Waits for the answer to an administrative question. */
static int finish_admin(rd_kafka_queue_t *queue, const char *what)
{
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, CALL_MS);
    rd_kafka_resp_err_t code = event ? rd_kafka_event_error(event) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    const rd_kafka_topic_result_t **results = NULL;
    size_t n = 0;
    if (!code && rd_kafka_event_CreateTopics_result(event))
        results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
    else if (!code && rd_kafka_event_DeleteTopics_result(event))
        results = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &n);
    else if (!code && rd_kafka_event_CreatePartitions_result(event))
        results = rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(event), &n);
    if (n == 1)
        code = rd_kafka_topic_result_error(results[0]);
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    return code ? complain(what, rd_kafka_err2str(code)) : 0;
}

/* Whether every partition has a leader that answers. One that does not yet may take an idempotent producer's
 * second batch before its first. */
static bool is_led(struct kafka_server *s, const char *topic, int partitions)
{
    int64_t low, high;
    if (kafka_server_partitions(s, topic) != partitions)
        return false;
    for (int i = 0; i < partitions; i++)
        if (rd_kafka_query_watermark_offsets(admin(s), topic, i, &low, &high, 1000))
            return false;
    return true;
}

int kafka_server_create(struct kafka_server *s, const char *topic, int partitions, const char *const *with)
{
    char why[200], name[64];
    rd_kafka_queue_t *queue = rd_kafka_queue_new(admin(s));
    rd_kafka_NewTopic_t *t = rd_kafka_NewTopic_new(topic, partitions, 1, why, sizeof why);
    for (; t && with && *with; with++) {
        size_t n = strcspn(*with, "=");
        snprintf(name, sizeof name, "%.*s", (int)n, *with);
        rd_kafka_NewTopic_set_config(t, name, *with + n + 1);
    }
    rd_kafka_CreateTopics(admin(s), &t, 1, NULL, queue);
    rd_kafka_NewTopic_destroy(t);
    if (finish_admin(queue, topic) < 0)
        return -1;
    for (uint64_t end = clock_now_ns() + STOP_NS; clock_now_ns() < end; nap())
        if (is_led(s, topic, partitions))
            return 0;
    return complain(topic, "does not appear");
}

int kafka_server_delete(struct kafka_server *s, const char *topic)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(admin(s));
    rd_kafka_DeleteTopic_t *t = rd_kafka_DeleteTopic_new(topic);
    rd_kafka_DeleteTopics(admin(s), &t, 1, NULL, queue);
    rd_kafka_DeleteTopic_destroy(t);
    if (finish_admin(queue, topic) < 0)
        return -1;
    for (uint64_t end = clock_now_ns() + STOP_NS; clock_now_ns() < end; nap())
        if (kafka_server_partitions(s, topic) == 0)
            return 0;
    return complain(topic, "does not go away");
}

int kafka_server_set_partitions(struct kafka_server *s, const char *topic, int partitions)
{
    char why[200];
    rd_kafka_queue_t *queue = rd_kafka_queue_new(admin(s));
    rd_kafka_NewPartitions_t *p = rd_kafka_NewPartitions_new(topic, (size_t)partitions, why, sizeof why);
    rd_kafka_CreatePartitions(admin(s), &p, 1, NULL, queue);
    rd_kafka_NewPartitions_destroy(p);
    return finish_admin(queue, topic);
}

int kafka_server_trim(struct kafka_server *s, const char *topic, int partition, int64_t offset)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(admin(s));
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
    rd_kafka_DeleteRecords_t *d = rd_kafka_DeleteRecords_new(list);
    rd_kafka_DeleteRecords(admin(s), &d, 1, NULL, queue);
    rd_kafka_DeleteRecords_destroy(d);
    rd_kafka_topic_partition_list_destroy(list);
    return finish_admin(queue, topic);
}

int kafka_server_partitions(struct kafka_server *s, const char *topic)
{
    const struct rd_kafka_metadata *m;
    int n = 0;
    if (rd_kafka_metadata(admin(s), 1, NULL, &m, CALL_MS))
        return complain(topic, "no metadata");
    for (int i = 0; i < m->topic_cnt; i++)
        if (!strcmp(m->topics[i].topic, topic) && !m->topics[i].err)
            n = m->topics[i].partition_cnt;
    rd_kafka_metadata_destroy(m);
    return n;
}

int kafka_server_bounds(struct kafka_server *s, const char *topic, int partition, int64_t *ret_low,
                        int64_t *ret_high)
{
    rd_kafka_resp_err_t code =
        rd_kafka_query_watermark_offsets(admin(s), topic, partition, ret_low, ret_high, CALL_MS);
    return code ? complain(topic, rd_kafka_err2str(code)) : 0;
}

static rd_kafka_t *member(struct kafka_server *s, const char *group)
{
    const char *const options[][2] = {{"group.id", group}, {NULL, NULL}};
    if (s->member && strcmp(s->group, group) != 0) {
        rd_kafka_destroy(s->member);
        s->member = NULL;
    }
    if (!s->member)
        s->member = client(s, RD_KAFKA_CONSUMER, options);
    snprintf(s->group, sizeof s->group, "%s", group);
    return s->member;
}

int64_t kafka_server_committed(struct kafka_server *s, const char *group, const char *topic, int partition)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition);
    rd_kafka_resp_err_t code = rd_kafka_committed(member(s, group), list, CALL_MS);
    int64_t offset = list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    if (code)
        complain(group, rd_kafka_err2str(code));
    return code || offset < 0 ? -1 : offset;
}

int kafka_server_commit(struct kafka_server *s, const char *group, const char *topic, int partition,
                        int64_t offset)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
    rd_kafka_resp_err_t code = rd_kafka_commit(member(s, group), list, false);
    rd_kafka_topic_partition_list_destroy(list);
    return code ? complain(group, rd_kafka_err2str(code)) : 0;
}

rd_kafka_t *kafka_server_producer(struct kafka_server *s, const char *transactional_id)
{
    const char *const options[][2] = {{"acks", "all"},
                                      {"linger.ms", "5"},
                                      {"queue.buffering.max.messages", "1000000"},
                                      {transactional_id ? "transactional.id" : NULL, transactional_id},
                                      {NULL, NULL}};
    return client(s, RD_KAFKA_PRODUCER, options);
}

static int send_record(rd_kafka_t *rk, const char *topic, const struct kafka_record *r, unsigned *failed)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(8);
    for (int i = 0; r->headers[i]; i += 2)
        rd_kafka_header_add(headers, r->headers[i], -1, r->headers[i + 1], -1);
    size_t len = r->len ? r->len : r->value ? strlen(r->value) : 0;
    rd_kafka_resp_err_t code;
    while ((code = rd_kafka_producev(
                rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(r->partition),
                RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_VALUE((void *)(uintptr_t)r->value, len),
                RD_KAFKA_V_KEY(r->key, r->key ? strlen(r->key) : 0), RD_KAFKA_V_HEADERS(headers),
                RD_KAFKA_V_OPAQUE(failed), RD_KAFKA_V_END)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
        rd_kafka_poll(rk, 10);
    if (code)
        rd_kafka_headers_destroy(headers);
    return code ? complain(topic, rd_kafka_err2str(code)) : 0;
}

int kafka_server_publish(struct kafka_server *s, const char *topic, const struct kafka_record *records,
                         size_t n)
{
    rd_kafka_t *rk = admin(s);
    unsigned failed = 0;
    for (size_t i = 0; i < n && !failed; i++)
        failed += send_record(rk, topic, &records[i], &failed) < 0;
    rd_kafka_resp_err_t code = rd_kafka_flush(rk, CALL_MS);
    if (code) { /* none of them may come back to the counter */
        rd_kafka_destroy(rk);
        s->admin = NULL;
        return complain(topic, rd_kafka_err2str(code));
    }
    return failed ? -1 : 0;
}

int kafka_server_read(struct kafka_server *s, const char *topic,
                      void (*see)(void *data, const rd_kafka_message_t *message), void *data)
{
    static const char *const options[][2] = {{"group.id", "reader"},
                                             {"enable.partition.eof", "true"},
                                             {"enable.auto.commit", "false"},
                                             {NULL, NULL}};
    int n = kafka_server_partitions(s, topic);
    if (n <= 0)
        return n;
    rd_kafka_t *rk = client(s, RD_KAFKA_CONSUMER, options);
    for (int i = 0; i < n; i++) {
        rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
        rd_kafka_topic_partition_list_add(list, topic, i)->offset = RD_KAFKA_OFFSET_BEGINNING;
        rd_kafka_assign(rk, list);
        rd_kafka_topic_partition_list_destroy(list);
        bool end = false;
        while (!end) {
            rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, CALL_MS);
            end = !m || m->err;
            if (m && !m->err)
                see(data, m);
            if (m)
                rd_kafka_message_destroy(m);
        }
    }
    rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    return 0;
}
