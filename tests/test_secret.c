/* Secrets by reference: which files and variables may be read, and that nothing else can be. */
#include "worker/document/secret.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"

struct bed {
    char dir[64];
    struct config config;
    struct json_value global;
    struct secret_scope scope;
};

static void write_file(const struct bed *b, const char *name, const char *text, size_t len)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", b->dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    close(fd);
}

static void make_folder(const struct bed *b, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", b->dir, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static int setup(void **state)
{
    static char big[SECRET_MAX + 1];
    struct bed *b = calloc(1, sizeof *b);
    char link[128];
    assert_non_null(b);
    snprintf(b->dir, sizeof b->dir, "/tmp/triggerflow-secret-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    make_folder(b, "secrets");
    make_folder(b, "secrets/ws");
    make_folder(b, "secrets/other");
    write_file(b, "outside", "outside", 7);
    write_file(b, "secrets/shared", "of all\n", 7);
    write_file(b, "secrets/both", "of all", 6);
    write_file(b, "secrets/ws/both", "of ws", 5);
    write_file(b, "secrets/ws/own", "own\r\n\n", 6);
    write_file(b, "secrets/other/theirs", "theirs", 6);
    write_file(b, "secrets/.hidden", "hidden", 6);
    memset(big, 'x', sizeof big);
    write_file(b, "secrets/most", big, SECRET_MAX);
    write_file(b, "secrets/big", big, SECRET_MAX + 1);
    snprintf(link, sizeof link, "%s/secrets/pipe", b->dir);
    assert_int_equal(mkfifo(link, 0600), 0);
    assert_int_equal(config_parse_yaml("test", "", 0, &b->config, NULL), 0);
    free(b->config.secret_directory);
    assert_true(asprintf(&b->config.secret_directory, "%s/secrets/", b->dir) > 0);
    static const char global[] = "{\"aws\":{\"secret\":\"s\\u0065t\",\"n\":7}}";
    assert_int_equal(json_scan(global, sizeof global - 1, &b->global, NULL), 0);
    b->scope = (struct secret_scope){.config = &b->config, .workspace = "ws", .global = &b->global};
    setenv("TRIGGERFLOW_SECRET_X", "from env", 1);
    setenv("OTHER_X", "not for you", 1);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bed *b = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", b->dir);
    if (system(command) != 0)
        perror(command);
    config_done(&b->config);
    free(b);
    return 0;
}

static int read_secret(const struct bed *b, const char *reference, struct buffer *out, struct error *err)
{
    struct json_value value;
    if (json_scan(reference, strlen(reference), &value, err) < 0)
        fail_msg("%s", reference);
    return secret_read(&b->scope, &value, out, err);
}

static void test_read(void **state)
{
    struct bed *b = *state;
    char absolute[128];
    snprintf(absolute, sizeof absolute, "{\"file\":\"%s/secrets/shared\"}", b->dir);
    const struct {
        const char *reference, *secret;
    } rows[] = {
        {"{\"file\":\"shared\"}", "of all"},
        {"{\"file\":\"both\"}", "of ws"},
        {"{\"file\":\"own\"}", "own"},
        {absolute, "of all"},
        {"{\"env\":\"TRIGGERFLOW_SECRET_X\"}", "from env"},
        {"{\"global\":\"aws.secret\"}", "set"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct error err;
        BUFFER_AUTO out = BUFFER_INIT;
        if (read_secret(b, rows[i].reference, &out, &err) < 0)
            fail_msg("%s: %s", rows[i].reference, err.message);
        assert_string_equal(buffer_text(&out), rows[i].secret);
    }
    BUFFER_AUTO most = BUFFER_INIT;
    assert_int_equal(read_secret(b, "{\"file\":\"most\"}", &most, NULL), 0);
    assert_int_equal(most.len, SECRET_MAX);
}

static void test_refused(void **state)
{
    struct bed *b = *state;
    char outside[128];
    snprintf(outside, sizeof outside, "{\"file\":\"%s/outside\"}", b->dir);
    const struct {
        const char *reference;
        int code;
    } rows[] = {
        {"{\"file\":\"../outside\"}", ERROR_INVALID},
        {"{\"file\":\"ws/../../outside\"}", ERROR_INVALID},
        {outside, ERROR_INVALID},
        {"{\"file\":\"/etc/passwd\"}", ERROR_INVALID},
        {"{\"file\":\"other/theirs\"}", ERROR_INVALID},
        {"{\"file\":\".hidden\"}", ERROR_INVALID},
        {"{\"file\":\"..\"}", ERROR_INVALID},
        {"{\"file\":\"own\\u0000x\"}", ERROR_INVALID},
        {"{\"file\":\"\"}", ERROR_INVALID},
        {"{\"file\":\"other\"}", ERROR_UNAVAILABLE},
        {"{\"file\":\"pipe\"}", ERROR_UNAVAILABLE},
        {"{\"file\":\"nothing\"}", ERROR_UNAVAILABLE},
        {"{\"file\":\"big\"}", ERROR_LIMIT},
        {"{\"env\":\"OTHER_X\"}", ERROR_INVALID},
        {"{\"env\":\"TRIGGERFLOW_SECRET_NONE\"}", ERROR_UNAVAILABLE},
        {"{\"global\":\"aws\"}", ERROR_UNAVAILABLE},
        {"{\"global\":\"aws.n\"}", ERROR_UNAVAILABLE},
        {"{\"global\":\"aws.secret.x\"}", ERROR_UNAVAILABLE},
        {"{\"global\":\"none\"}", ERROR_UNAVAILABLE},
        {"{\"file\":7}", ERROR_INVALID},
        {"{\"vault\":\"x\"}", ERROR_INVALID},
        {"{\"file\":\"own\",\"env\":\"X\"}", ERROR_INVALID},
        {"{}", ERROR_INVALID},
        {"\"plain\"", ERROR_INVALID},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct error err;
        BUFFER_AUTO out = BUFFER_INIT;
        if (read_secret(b, rows[i].reference, &out, &err) == 0)
            fail_msg("%s was read", rows[i].reference);
        assert_int_equal(err.code, rows[i].code);
        assert_int_equal(out.len, 0);
        assert_null(strstr(err.message, "plain"));
    }
}

static void test_nothing_configured(void **state)
{
    struct bed *b = *state;
    struct error err;
    BUFFER_AUTO out = BUFFER_INIT;
    b->config.secret_directory[0] = '\0';
    b->config.secret_variable_prefix[0] = '\0';
    b->scope.global = NULL;
    assert_int_equal(read_secret(b, "{\"file\":\"shared\"}", &out, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_int_equal(read_secret(b, "{\"env\":\"TRIGGERFLOW_SECRET_X\"}", &out, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_int_equal(read_secret(b, "{\"global\":\"aws.secret\"}", &out, &err), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
}

static void test_form(void **state)
{
    (void)state;
    static const char *const good[] = {"{\"file\":\"a\"}", "{\"env\":\"b\"}", "{\"global\":\"c\"}",
                                       "{\"file\":\"/run/secrets/a\"}"};
    static const char *const bad[] = {"\"a\"",
                                      "{}",
                                      "{\"x\":\"y\"}",
                                      "null",
                                      "[]",
                                      "{\"file\":\"\"}",
                                      "{\"file\":{}}",
                                      "{\"file\":\"../a\"}",
                                      "{\"file\":\"a/b\"}",
                                      "{\"file\":\"..\"}",
                                      "{\"file\":\".a\"}",
                                      "{\"file\":\"/run/../etc/a\"}",
                                      "{\"file\":\"/run/secrets/\"}",
                                      "{\"file\":\"/run/secrets/..\"}",
                                      "{\"file\":\"a\\u0000\"}"};
    struct json_value value;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(json_scan(good[i], strlen(good[i]), &value, NULL), 0);
        assert_int_equal(secret_check(&value, NULL), 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(json_scan(bad[i], strlen(bad[i]), &value, NULL), 0);
        assert_int_equal(secret_check(&value, NULL), -1);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_read),
        TEST(test_refused),
        TEST(test_nothing_configured),
        cmocka_unit_test(test_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
