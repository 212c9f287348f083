/* Log lines: fields, quoting, escaping, hidden credentials, limits. */
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

static int sink = -1; /* stands for standard error */
static int real_stderr = -1;

static int setup(void **state)
{
    (void)state;
    sink = memfd_create("log", MFD_CLOEXEC);
    real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    assert_true(sink >= 0 && real_stderr >= 0);
    log_setup(LOG_LEVEL_INFO, false, "test", NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close(sink);
    close(real_stderr);
    return 0;
}

static void begin(void)
{
    assert_int_equal(ftruncate(sink, 0), 0);
    assert_int_equal(lseek(sink, 0, SEEK_SET), 0);
    assert_int_equal(dup2(sink, STDERR_FILENO), STDERR_FILENO);
}

/* What has been logged since begin(); the caller frees it. */
static char *end(void)
{
    assert_int_equal(dup2(real_stderr, STDERR_FILENO), STDERR_FILENO);
    off_t len = lseek(sink, 0, SEEK_END);
    char *text = calloc(1, (size_t)len + 1);
    assert_non_null(text);
    assert_int_equal(pread(sink, text, (size_t)len, 0), len);
    return text;
}

#define CAPTURE(...) \
    ({               \
        begin();     \
        __VA_ARGS__; \
        end();       \
    })

/* The line must be `time=<RFC 3339> ` and then expected. */
static void assert_line(char *line, const char *expected)
{
    static const char shape[] = "time=dddd-dd-ddTdd:dd:dd.ddddddZ ";
    assert_true(strlen(line) > sizeof shape);
    for (size_t i = 0; shape[i]; i++)
        if (shape[i] == 'd')
            assert_in_range(line[i], '0', '9');
        else
            assert_int_equal(line[i], shape[i]);
    assert_string_equal(line + strlen(shape), expected);
    free(line);
}

static void test_logfmt(void **state)
{
    (void)state;
    assert_line(
        CAPTURE(log_error("worker_exit", LOG_STR("workspace", "orders"), LOG_INT("pid", -12),
                          LOG_UINT("bytes", UINT64_MAX), LOG_DOUBLE("ratio", 0.25), LOG_BOOL("again", true))),
        "level=error process=test event=worker_exit workspace=orders pid=-12 "
        "bytes=18446744073709551615 ratio=0.25 again=true\n");
    assert_line(CAPTURE(log_warn("bare")), "level=warn process=test event=bare\n");
}

static void test_levels(void **state)
{
    (void)state;
    char *text = CAPTURE(log_debug("hidden", LOG_STR("a", "b")));
    assert_string_equal(text, "");
    free(text);
    assert_false(log_enabled(LOG_LEVEL_DEBUG));
    assert_true(log_enabled(LOG_LEVEL_INFO));
    log_setup(LOG_LEVEL_ERROR, false, "test", NULL);
    text = CAPTURE(log_warn("hidden"));
    assert_string_equal(text, "");
    free(text);
    log_setup(LOG_LEVEL_DEBUG, false, NULL, NULL);
    assert_line(CAPTURE(log_debug("seen")), "level=debug event=seen\n");
    log_setup(LOG_LEVEL_INFO, false, "test", NULL);
}

static void test_workspace(void **state)
{
    (void)state;
    char name[] = "orders";
    log_setup(LOG_LEVEL_INFO, false, "worker", name);
    memset(name, 'x', sizeof name - 1); /* copied */
    assert_line(CAPTURE(log_info("e")), "level=info process=worker workspace=orders event=e\n");
    /* A field of that name replaces it. */
    assert_line(CAPTURE(log_info("e", LOG_STR("workspace", "other"))),
                "level=info process=worker event=e workspace=other\n");
    log_setup(LOG_LEVEL_INFO, false, "test", NULL);
}

static void test_quoting(void **state)
{
    static const struct {
        const char *value;
        const char *shown;
    } cases[] = {
        {"plain-1.2/3:4", "plain-1.2/3:4"},
        {"", "\"\""},
        {NULL, "\"\""},
        {"two words", "\"two words\""},
        {"a=b", "\"a=b\""},
        {"say \"hi\"", "\"say \\\"hi\\\"\""},
        {"back\\slash", "\"back\\\\slash\""},
        {"line\nfeed\r\t", "\"line\\nfeed\\r\\t\""},
        {"\x1b[31m\x7f", "\"\\u001b[31m\\u007f\""},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "\"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\""},
        {"\xc2\x9b", "\"\\u009b\""},             /* a control character of terminals */
        {"bad \xff!", "\"bad \\xff!\""},         /* not UTF-8 */
        {"cut \xe2\x82", "\"cut \\xe2\\x82\""},  /* ends inside a character */
        {"\xc0\xaf", "\"\\xc0\\xaf\""},          /* overlong */
        {"\xed\xa0\x80", "\"\\xed\\xa0\\x80\""}, /* a surrogate */
        {"\xe0\x80\x80", "\"\\xe0\\x80\\x80\""},
        {"\xf4\x90\x80\x80", "\"\\xf4\\x90\\x80\\x80\""}, /* above U+10FFFF */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char expected[256];
        snprintf(expected, sizeof expected, "level=info process=test event=e v=%s\n", cases[i].shown);
        assert_line(CAPTURE(log_info("e", LOG_STR("v", cases[i].value))), expected);
    }
}

static void test_urls(void **state)
{
    static const struct {
        const char *url;
        const char *shown;
    } cases[] = {
        {"amqp://guest:secret@rabbit:5672/vhost", "amqp://***@rabbit:5672/vhost"},
        {"http://host:80/path", "http://host:80/path"},
        {"https://sqs.eu-west-1.amazonaws.com/1/q?X-Amz-Signature=secret",
         "https://sqs.eu-west-1.amazonaws.com/1/q?***"},
        {"http://host/#secret", "http://host/?***"},
        {"http://user@host/", "http://***@host/"},
        {"user:secret@host:6379", "***@host:6379"},
        {"amqp://u:se@cret@host/v", "amqp://***@host/v"},
        {"amqp://u:se/cret@host/v", "amqp://***"},
        {"amqp://u:se?cret@host/v", "amqp://***"},
        {"amqp://u:p@se/cret@host/v", "amqp://***"},
        {"http://host/?mail=secret@example.org", "http://***"},
        {"u:secret@host/x://y", "***"},
        {"", "\"\""},
        {NULL, "\"\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char expected[256];
        char *line = CAPTURE(log_info("e", LOG_URL("url", cases[i].url)));
        assert_null(strstr(line, "secret"));
        assert_null(strstr(line, "cret"));
        snprintf(expected, sizeof expected, "level=info process=test event=e url=%s\n", cases[i].shown);
        assert_line(line, expected);
    }
    char huge[4096];
    memset(huge, 'h', sizeof huge - 1);
    huge[sizeof huge - 1] = '\0';
    char *line = CAPTURE(log_info("e", LOG_URL("url", huge)));
    assert_true(strlen(line) < 2048);
    free(line);
}

static void test_json(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_INFO, true, "worker", "w\"s");
    char *line = CAPTURE(log_info("e", LOG_STR("text", "a\"b\\c\n\xff\x01"), LOG_INT("n", -1),
                                  LOG_BOOL("no", false), LOG_DOUBLE("inf", (double)INFINITY),
                                  LOG_DOUBLE("pi", 3.25), LOG_URL("url", "amqp://a:b@c")));
    struct json_value root;
    struct error err;
    size_t len = strlen(line);
    assert_int_equal(line[len - 1], '\n');
    assert_int_equal(json_scan(line, len - 1, &root, &err), 0);
    const char *rest = strstr(line, ",\"level\"");
    assert_non_null(rest);
    assert_string_equal(rest,
                        ",\"level\":\"info\",\"process\":\"worker\",\"workspace\":\"w\\\"s\",\"event\":\"e\","
                        "\"text\":\"a\\\"b\\\\c\\n\\\\xff\\u0001\",\"n\":-1,\"no\":false,\"inf\":null,"
                        "\"pi\":3.25,\"url\":\"amqp://***@c\"}\n");
    free(line);
    log_setup(LOG_LEVEL_INFO, false, "test", NULL);
}

/* Any text of any length gives one line within the limit, in JSON a valid one. */
static void test_limits(void **state)
{
    (void)state;
    static const char *const units[] = {"x", "\"", "\x01", "\xff", "\xe2\x82\xac"};
    static const size_t lengths[] = {3000, 4090, 4100, 8191, 50000};
    for (int json = 0; json < 2; json++)
        for (size_t u = 0; u < 5; u++)
            for (size_t l = 0; l < 5; l++) {
                BUFFER_AUTO text = BUFFER_INIT;
                while (text.len < lengths[l])
                    buffer_append_text(&text, units[u]);
                const char *value = buffer_text(&text);
                log_setup(LOG_LEVEL_INFO, json, "test", NULL);
                char *line = CAPTURE(log_info("e", LOG_STR("a", value), LOG_STR("b", value),
                                              LOG_STR("c", value), LOG_INT("d", 1)));
                size_t len = strlen(line);
                assert_true(len <= 8192);
                assert_ptr_equal(strchr(line, '\n'), line + len - 1);
                assert_non_null(strstr(line, "truncated"));
                struct json_value root;
                struct error err;
                if (json)
                    assert_int_equal(json_scan(line, len - 1, &root, &err), 0);
                free(line);
            }
    log_setup(LOG_LEVEL_INFO, false, "test", NULL);
    char *line = CAPTURE(log_info("e", LOG_STR("a", "short")));
    assert_null(strstr(line, "truncated"));
    free(line);
}

static void test_errno_kept(void **state)
{
    (void)state;
    /* A line that cannot be written is lost, no more. */
    int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    close(STDERR_FILENO);
    errno = ENOENT;
    log_error("lost");
    int after = errno;
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_int_equal(after, ENOENT);
}

#define THREADS 4
#define LINES 500

static void *write_lines(void *data)
{
    for (int i = 0; i < LINES; i++)
        log_info("line", LOG_INT("thread", *(int *)data), LOG_STR("text", "some text that makes it longer"));
    return NULL;
}

/* Lines of several threads never mix (the file appends, as a pipe does for lines of this size). */
static void test_threads(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    int ids[THREADS];
    assert_int_equal(fcntl(sink, F_SETFL, O_APPEND), 0);
    begin();
    for (int i = 0; i < THREADS; i++) {
        ids[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &ids[i]), 0);
    }
    for (int i = 0; i < 100; i++)
        log_setup(LOG_LEVEL_INFO, false, "test", NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    char *text = end();
    int count = 0;
    char *save;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save), count++) {
        assert_memory_equal(line, "time=", 5);
        assert_string_equal(line + strlen(line) - 8, " longer\"");
    }
    assert_int_equal(count, THREADS * LINES);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logfmt),  cmocka_unit_test(test_levels),     cmocka_unit_test(test_workspace),
        cmocka_unit_test(test_quoting), cmocka_unit_test(test_urls),       cmocka_unit_test(test_json),
        cmocka_unit_test(test_limits),  cmocka_unit_test(test_errno_kept), cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
